"""What is written to a terminal, a pipe or a file: lines, tables, times. No rich, no click.

Off a terminal nothing is coloured, shortened or animated.
"""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

from holdfast.errors import printable

__all__ = [
    "STDOUT",
    "Style",
    "age",
    "clock",
    "coloured",
    "count",
    "delivering",
    "duration",
    "emit",
    "flush",
    "is_terminal",
    "one_line",
    "paint",
    "ranges",
    "say",
    "table",
    "terminal_width",
    "when",
]

Style = Literal["red", "green", "yellow", "blue", "cyan", "bold", "dim"]

_CODES: Final[Mapping[str, str]] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}
#: What an error of writing to it names.
STDOUT: Final = "standard output"

_LABELS: Final[Mapping[str, Style]] = {"error": "red", "warning": "yellow"}


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at *stream*, in a terminal that understands more than text."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


def coloured(stream: TextIO) -> bool:
    """Whether colours are welcome (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal behind *stream*; None if there is none: then nothing is cut."""
    if not is_terminal(stream):
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def paint(words: str, style: Style | None, on: bool) -> str:
    """*words* in *style*, if colours are *on*."""
    return f"\x1b[{_CODES[style]}m{words}\x1b[0m" if on and style and words else words


def emit(lines: Iterable[str]) -> None:
    """Write data to stdout, all at once.

    Raises:
        BrokenPipeError: Nobody reads it any more.
    """
    whole = "\n".join(lines)
    if whole:
        with delivering():
            sys.stdout.write(whole + "\n")


def flush() -> None:
    """Deliver what was written to stdout; raises as `emit`."""
    with delivering():
        sys.stdout.flush()


@contextlib.contextmanager
def delivering() -> Iterator[None]:
    """Name standard output in an error of writing to it: its disk may be another than ours."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as err:
        err.filename = err.filename or STDOUT
        raise


def say(
    message: str, label: Literal["error", "warning"] | None = None, *, painted: bool = False
) -> None:
    """Write a message to stderr. A stderr that is gone ends nothing: there is work to do.

    Args:
        painted: It has colours of ours, and is harmless already.
    """
    if not painted:
        message = printable(message)
    if label is not None:
        message = f"{paint(label + ':', _LABELS[label], coloured(sys.stderr))} {message}"
    try:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def one_line(words: object) -> str:
    """*words* harmless and in one line: a table's cell, an item of a list."""
    found = str(words)
    if found.isprintable():
        return found  # as good as always, and there may be 100,000 of them
    return " ".join(printable(found).split())


def width(words: str) -> int:
    """Columns that *words* take."""
    if words.isascii():
        return len(words)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in words
    )


def cut(words: str, columns: int) -> str:
    """*words*, or as much of it as fits, with `…`."""
    if width(words) <= columns:
        return words
    while words and width(words) > columns - 1:
        words = words[:-1]
    return words + "…"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Iterable[int] = (),
    styles: Mapping[str, Style] | None = None,
    stream: TextIO | None = None,
    indent: str = "",
) -> list[str]:
    """*rows* aligned under *header*, in lines.

    On a terminal the last column is cut where it would wrap.

    Args:
        right: Columns of numbers, aligned right.
        styles: How a cell whose first word is a key is painted.
        stream: Where it will be written; default stdout.
    """
    stream = sys.stdout if stream is None else stream
    cells = list(zip(header, *rows, strict=True))
    plain = all(cell.isascii() for column in cells for cell in column)
    widths = [max(map(len if plain else width, column)) for column in cells]
    columns = terminal_width(stream)
    last = len(header) - 1
    if columns is not None:
        room = max(columns - len(indent) - sum(widths[:-1]) - 2 * last, 12)
        if widths[last] > room:
            widths[last] = room
            rows = [(*row[:-1], cut(row[-1], room)) for row in rows]
            plain = False
    colour = coloured(stream)
    numbers = frozenset(right)
    if plain:
        # One format for all rows: a listing of 100,000 is made in a fraction of a second.
        signs = ("" if i in numbers else "-" for i in range(len(header)))
        pattern = indent + "  ".join(
            f"%{sign}{wide}s" for sign, wide in zip(signs, widths, strict=True)
        )
        lines = [(pattern % tuple(row)).rstrip() for row in (header, *rows)]
    else:
        lines = [_row(row, widths, numbers, indent) for row in (header, *rows)]
    lines[0] = paint(lines[0], "bold", colour)
    if colour and styles:
        for at, row in enumerate(rows, 1):
            lines[at] = _painted(lines[at], row, styles)
    return lines


def _row(cells: Sequence[str], widths: Sequence[int], right: frozenset[int], indent: str) -> str:
    parts = []
    for i, (cell, columns) in enumerate(zip(cells, widths, strict=True)):
        gap = " " * (columns - width(cell))
        parts.append(gap + cell if i in right else cell + gap)
    return indent + "  ".join(parts).rstrip()


def _painted(line: str, cells: Sequence[str], styles: Mapping[str, Style]) -> str:
    for cell in cells:
        word = cell.split(" ", 1)[0]
        if word in styles:
            return line.replace(word, paint(word, styles[word], True), 1)
    return line


def count(number: int, noun: str) -> str:
    """`1 process`, `1,200 processes`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def ranges(indices: Iterable[int]) -> str:
    """Ascending *indices* as `0-3, 7`."""
    found: list[list[int]] = []
    for index in indices:
        if found and found[-1][1] == index - 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def duration(seconds: float) -> str:
    """`0.8 s`, `12 s`, `3m 05s`, `2h 05m`, `3d 02h`."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02}h"


def age(at: datetime | None, now: datetime | None = None) -> str:
    """How long ago: `12 s ago`; empty for never."""
    if at is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    return "in the future" if seconds < -60 else f"{duration(max(seconds, 0))} ago"


def when(at: datetime | None) -> str:
    """`2024-01-15 12:34:56Z`; empty for never."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def clock(at: datetime) -> str:
    """`2024-01-15 12:34:56.789Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}Z"
