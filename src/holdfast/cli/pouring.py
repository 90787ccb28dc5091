"""How logs reach stdout: whole, or line by line with bars folded, lines chosen, nothing that drives
a terminal.
"""

import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, Protocol

import click

from holdfast.errors import printable
from holdfast.reading import text
from holdfast.reading.folding import Folded

__all__ = ["Pattern", "Poured"]

#: A line that is not yet done, and a bar, are shown when so much time has passed.
_QUIET_S: Final = 1.0
#: How long one look for a pattern may take.
_SEARCH_S: Final = 2.0

#: Colours and other sequences of a terminal, which only `--raw` hands on.
_SEQUENCES: Final = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?)")


class _Log(Protocol):
    path: Path
    title: str

    def news(self) -> Iterator[bytes]:
        """What was written to it since the last look."""


class Pattern:
    """A regular expression that lines are searched for, for so long and no longer."""

    def __init__(self, words: str) -> None:
        """Raise click.UsageError if *words* is none."""
        import warnings

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a later Python may read otherwise
                self._found = re.compile(words).search
        except (re.error, OverflowError, RecursionError) as err:
            why = str(err) or "nested too deep"
            raise click.UsageError(f"--grep: not a regular expression: {why}") from None
        self._words = words

    def holds(self, line: str) -> bool:
        """Whether *line* has it. Raises click.UsageError if that takes too long to tell."""
        if threading.current_thread() is not threading.main_thread():
            return self._found(line) is not None  # no signal interrupts it
        before = signal.signal(signal.SIGALRM, self._late)
        # `re` looks for signals as it goes on, so that this ends even a search of hours.
        signal.setitimer(signal.ITIMER_REAL, _SEARCH_S)
        try:
            return self._found(line) is not None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _late(self, _: int, __: FrameType | None) -> NoReturn:
        raise click.UsageError(
            f"--grep: {text.short(self._words, 60)} takes more than {_SEARCH_S:.0f} s for one "
            "line; nested repetitions, as in (a+)+, are often why"
        )


class Poured:
    """Writes logs to stdout; a title where the next line is another file's than the last."""

    def __init__(
        self, *, titled: bool, raw: bool = False, pattern: Pattern | None = None, live: bool = False
    ) -> None:
        """Write nothing yet.

        Args:
            raw: Byte for byte.
            live: While they are followed, so that bars may be shown as they are drawn.
        """
        self.anything = False
        self._read = False
        self._titled = titled
        self._raw = raw
        self._pattern = pattern
        self._terminal = sys.stdout.isatty()  # one that is dumb may still obey what it is sent
        self._live = live and text.is_terminal(sys.stdout) and pattern is None
        self._last: Path | None = None
        self._line_open = False
        self._folded: dict[Path, Folded] = {}
        self._changed: dict[Path, float] = {}
        #: Bars whose lines had ended at the last look.
        self._ended: dict[Path, bytes] = {}
        self._bar = ""
        self._bar_at = 0.0

    @property
    def read_anything(self) -> bool:
        """Whether there was something to read, chosen or not."""
        return self._read

    def write(self, log: _Log) -> None:
        """Write what is new in *log*."""
        for data in log.news():
            self._read = True
            if self._raw:
                self._title(log)
                self._put(data)
                continue
            folded = self._folded.setdefault(log.path, Folded())
            self._changed[log.path] = time.monotonic()
            self._lines(log, folded.feed(data))

    def settle(self, logs: Sequence[_Log], *, over: bool) -> None:
        """Write what stands in lines that are not done: of quiet logs; of all that are *over*."""
        now = time.monotonic()
        for log in logs:
            folded = self._folded.get(log.path)
            if folded is None:
                continue
            self._release(log, folded)
            if not over and (folded.bar is not None or self._pattern is not None):
                continue  # it will be drawn over, or go on to what is looked for
            if over or now - self._changed[log.path] >= _QUIET_S:
                self._take(log, folded)
        if over:
            self._draw("")
            if self._terminal and self._line_open and not self._raw:
                self._put(b"\n")
        elif self._live and now - self._bar_at >= _QUIET_S:
            self._show_bar(logs, now)

    def end(self, logs: Sequence[_Log]) -> None:
        """Write what is left of *logs*, whose attempts are over, and end their last line."""
        for log in logs:
            if (folded := self._folded.get(log.path)) is not None:
                self._take(log, folded)
        # What follows is of another attempt, and may have no title in between.
        if self._line_open and not self._raw and self._last in {log.path for log in logs}:
            self._put(b"\n")

    def _release(self, log: _Log, folded: Folded) -> None:
        """Write a bar whose line had ended at the last look already."""
        # Not at the first look: one within it, which draws over it from below, ends its line, too,
        # and is drawn at once.
        if (bar := folded.ended) is None:
            self._ended.pop(log.path, None)
        elif self._ended.get(log.path) != bar:
            self._ended[log.path] = bar
        else:
            del self._ended[log.path]
            self._lines(log, folded.release())

    def _take(self, log: _Log, folded: Folded) -> None:
        lines, rest = folded.take()
        self._lines(log, lines)
        if rest and self._chosen(rest):
            self._title(log)
            self._put(self._tame(rest))

    def clear(self) -> None:
        """Take the bar away: something else is about to write."""
        with text.delivering():
            self._draw("")
            sys.stdout.flush()

    def _show_bar(self, logs: Sequence[_Log], now: float) -> None:
        """The bar that was drawn last, below everything else."""
        drawn = [log for log in logs if (f := self._folded.get(log.path)) and f.bar is not None]
        if not drawn:
            self._draw("")
            return
        log = max(drawn, key=lambda each: self._changed[each.path])
        bar = self._tame(self._folded[log.path].bar or b"").decode()
        words = f"{log.title}: {bar}" if self._titled else bar
        room = text.terminal_width(sys.stdout) or 80
        self._bar_at = now
        self._draw(text.cut(words, room - 1))

    def _draw(self, words: str) -> None:
        if words != self._bar and not (self._line_open and words):
            sys.stdout.write(("\r\x1b[K" if self._bar else "") + words)
            self._bar = words

    def _lines(self, log: _Log, lines: Sequence[bytes]) -> None:
        chosen = lines if self._pattern is None else [each for each in lines if self._chosen(each)]
        if not chosen:
            return
        self._title(log)
        tame = map(self._tame, chosen) if self._terminal else chosen
        self._put(b"\n".join(tame) + b"\n")

    def _chosen(self, line: bytes) -> bool:
        if self._pattern is None:
            return True
        return self._pattern.holds(_SEQUENCES.sub("", line.decode(errors="replace")))

    def _tame(self, line: bytes) -> bytes:
        """*line* as a terminal may have it; everything else gets every byte."""
        if not self._terminal:
            return line
        words = line.decode(errors="backslashreplace")
        if not words.isprintable():
            words = "\t".join(map(printable, _SEQUENCES.sub("", words).split("\t")))
        return words.encode(errors="backslashreplace")

    def _title(self, log: _Log) -> None:
        self._draw("")
        if self._titled and self._last != log.path:
            gap = "\n" if self._line_open else ""
            gap += "\n" if self.anything else ""
            self._put(f"{gap}==> {log.title} <==\n".encode())
        self.anything = True
        self._last = log.path

    def _put(self, data: bytes) -> None:
        stream: Any = sys.stdout
        stream.flush()
        stream.buffer.write(data)
        self._line_open = not data.endswith(b"\n")
