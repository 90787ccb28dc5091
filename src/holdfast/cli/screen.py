"""Lines at the end of a terminal that are drawn again and again in the same place.

Nothing but cursor movements that every terminal has: no other screen that a kill would leave, no
hidden cursor. A terminal that is gone, or held, ends nothing.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Final, TextIO

from holdfast.reading import glyphs, text

__all__ = ["Lines", "Painter", "Screen"]

#: What there is to be shown, given columns and rows.
Lines = Callable[[int, int], Sequence[tuple[str, text.Style | None]]]

_DEFAULT: Final = os.terminal_size((80, 24))
#: Beyond that nobody reads along.
_MOST_ROWS: Final = 60
#: Where there are no other signs than ASCII; each takes one column as well.
_ASCII: Final = str.maketrans("█░…–●○◌✓✗‖·Σ", "#-~->o~+x=.*")


class Screen:
    """Draws on *stream*."""

    def __init__(self, stream: TextIO) -> None:
        """Draw nothing yet."""
        self._stream = stream
        self._coloured = text.coloured(stream)
        self._signs = glyphs.has_signs(stream)
        self._drawn: list[int] = []
        self._size = _DEFAULT

    def draw(self, lines: Lines) -> None:
        """Show *lines* where the ones before stand."""
        size = self._look()
        columns = max(size.columns - 1, 1)  # the last one makes some terminals wrap
        shown = list(lines(columns, max(min(size.lines - 1, _MOST_ROWS), 1)))
        shown = shown[: max(size.lines - 1, 1)]
        words = [self._words(line, style, columns) for line, style in shown]
        self._write(self._home(size) + "".join(f"{each}\x1b[K\n" for each in words) + "\x1b[J")
        self._drawn = [text.width(line) for line, _ in shown]
        self._size = size

    def clear(self) -> None:
        """Leave nothing of what was drawn."""
        if self._drawn:
            self._write(self._home(self._look()) + "\x1b[J")
            self._drawn = []

    def _look(self) -> os.terminal_size:
        with contextlib.suppress(OSError, ValueError):
            found = os.get_terminal_size(self._stream.fileno())
            if found.columns > 0 and found.lines > 0:
                return found
        return _DEFAULT

    def _home(self, size: os.terminal_size) -> str:
        """To the first of the lines that were drawn."""
        # Terminals that became narrower have wrapped them.
        narrower = size.columns < self._size.columns
        rows = sum(-(-max(each, 1) // size.columns) if narrower else 1 for each in self._drawn)
        if rows >= size.lines:
            return "\x1b[H"
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _words(self, line: str, style: text.Style | None, columns: int) -> str:
        line = text.cut(line, columns)
        if not self._signs:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            line = line.translate(_ASCII).encode("ascii", "replace").decode("ascii")
            line = line.encode(encoding, "replace").decode(encoding, "replace")
        return text.paint(line, style, self._coloured)

    def _write(self, words: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(words)
            self._stream.flush()


class Painter:
    """Draws in a thread of its own, so that whoever works never waits for a terminal."""

    def __init__(self, screen: Screen, lines: Lines, every_s: float) -> None:
        """Draw *lines* on *screen* every *every_s* seconds, from now on."""
        self._screen, self._lines, self._every_s = screen, lines, every_s
        self._over = False
        self._due = Event()
        self._thread = Thread(target=self._paint, name="holdfast-live", daemon=True)
        self._thread.start()

    def _paint(self) -> None:
        while True:
            self._due.clear()
            over = self._over
            self._screen.draw(self._lines)
            if over:
                return
            self._due.wait(self._every_s)

    def wake(self) -> None:
        """Draw at once: there is news that nobody should wait for."""
        self._due.set()

    def close(self) -> None:
        """Draw once more, since all news is shown, and take away what is drawn."""
        self._over = True
        self._due.set()
        self._thread.join()
        self._screen.clear()
