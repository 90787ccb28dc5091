"""Progress bars in a log: what was drawn over again and again is one line, its last state.

A carriage return draws over the line, and `ESC [ A` over the one above, as nested bars of tqdm do.
"""

from typing import Final

__all__ = ["Folded"]

_UP: Final = b"\x1b[A"
#: Bytes of a line without an end that are kept until it has one.
_LONGEST: Final = 1 << 20


class Folded:
    """A log that is read in pieces, as lines without the ends of them."""

    def __init__(self) -> None:
        self._open = b""
        #: Bytes at the beginning of the open line that were taken already.
        self._taken = 0
        #: Rows that may be drawn over by what follows: an outer bar, and one within it.
        self._outer: bytes | None = None
        self._inner: bytes | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are done with *data*; what continues a taken one is without that."""
        whole = self._open + data
        *lines, rest = whole.split(b"\n")
        plain = b"\r" not in whole and b"\x1b" not in whole
        if plain and not self._taken and self._outer is self._inner is None:
            found = lines  # as nearly every log is
        else:
            found = [each for line in lines for each in self._done(line)]
        self._open = _short(rest) if b"\r" in rest else rest
        if len(self._open) > _LONGEST:
            found += [*self._released(), self._open[self._taken :]]
            self._open, self._taken = b"", 0
        return found

    @property
    def bar(self) -> bytes | None:
        """The last state of a bar that is still drawn; None where there is none."""
        if b"\r" in self._open.rstrip(b"\r") or _UP in self._open:
            return _last(self._open.rpartition(_UP)[2]) or self._outer
        return self._outer

    @property
    def ended(self) -> bytes | None:
        """A bar whose line has ended, unless one within it is drawn; None where there is none."""
        return None if self._inner is not None or _UP in self._open else self._outer

    def release(self) -> list[bytes]:
        """The lines that have ended and were held back, since they might be drawn over."""
        return self._released()

    def take(self) -> tuple[list[bytes], bytes]:
        """What is held back: lines that are done, and the beginning of one that is not."""
        lines = self._released()
        rest = self._open[self._taken :]
        if not self._taken and (b"\r" in rest or _UP in rest):
            rest = _last(rest.replace(_UP, b"\r"))
        self._taken = len(self._open)
        return lines, rest

    def _done(self, line: bytes) -> list[bytes]:
        taken, self._taken = self._taken, 0
        if taken:
            line = line[taken:].removesuffix(b"\r")
            return [_last(line) if b"\r" in line else line]
        if b"\r" not in line and b"\x1b" not in line:
            return [*self._released(), line]
        line = line.removesuffix(b"\r")
        if _UP in line:
            below, _, above = line.rpartition(_UP)
            self._inner = _last(below.replace(_UP, b"\r")) or self._inner
            self._outer = _last(above) or self._outer
            return []
        found = self._released()
        if b"\r" in line:  # it may be drawn over from below
            self._outer = _last(line)
            return found
        return [*found, line]

    def _released(self) -> list[bytes]:
        found = [each for each in (self._outer, self._inner) if each is not None]
        self._outer = self._inner = None
        return found


def _last(line: bytes) -> bytes:
    """What was drawn last: blanks only take a bar away."""
    return next((each for each in reversed(line.split(b"\r")) if each.strip()), b"")


def _short(line: bytes) -> bytes:
    """A line that is drawn over and over, without what nobody sees any more."""
    head, up, tail = line.rpartition(_UP)
    if up:
        head = b"\r" + _last(head.replace(_UP, b"\r"))
    drawn, again, rest = tail.rpartition(b"\r")
    if not again or (not rest and b"\r" not in drawn):
        return head + up + tail  # nothing is drawn over: it may be how the line ends
    if _UP.startswith(rest.strip()):  # blanks take nothing away, nor does half a sequence
        drawn = b"\r" + _last(drawn)
        return head + up + drawn + b"\r" + rest
    return head + up + b"\r" + rest
