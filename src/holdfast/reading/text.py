"""What is written to a terminal, a pipe or a file: lines, tables, times. No rich, no click.

Off a terminal nothing is coloured or animated, and only what is very long is shortened; `--json`
has everything.
"""

import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, TextIO

from holdfast.errors import printable
from holdfast.reading.signs import has_signs

__all__ = [
    "STDOUT",
    "Style",
    "age",
    "aligned",
    "bold",
    "clock",
    "coloured",
    "count",
    "delivering",
    "duration",
    "emit",
    "flush",
    "is_terminal",
    "is_told",
    "one_line",
    "paint",
    "ranges",
    "say",
    "short",
    "size",
    "table",
    "tell_by",
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
#: Columns of a value: on a terminal that lacks them, and at the most anywhere.
_NARROW: Final = 24
_LONG: Final = 200
#: Columns of a row where there is no terminal to say how many it has.
_UNWATCHED: Final = 1000
#: Characters of a line of a message.
_LONGEST_LINE: Final = 2000

_PAINT: Final = re.compile(r"\x1b\[[0-9;]*m")

#: What stands for signs of ours where the locale has none.
_IN_ASCII: Final = str.maketrans({"…": "...", "–": "-", "→": "->", "×": "x"})

#: What an error of writing to it names.
STDOUT: Final = "standard output"

_LABELS: Final[Mapping[str, Style]] = {"error": "red", "warning": "yellow"}


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at *stream*, in a terminal that understands more than text."""
    if stream is sys.stderr and _teller is not None:
        return False
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


def bold(words: str) -> str:
    """*words* as a heading on stdout."""
    return paint(words, "bold", coloured(sys.stdout))


def emit(lines: Iterable[str]) -> None:
    """Write data to stdout, all at once. Raises BrokenPipeError if nobody reads it any more."""
    whole = "\n".join(lines)
    if not whole.isascii() and not has_signs():
        whole = whole.translate(_IN_ASCII)
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


#: What makes of a message what is written instead, and whom `tell_by` named.
Teller = Callable[[str, str, Mapping[str, Any]], str]
_teller: Teller | None = None


def tell_by(teller: Teller | None) -> None:
    """Have every message written as *teller* makes it, called with its level, its words and the
    facts in it; None: as text.
    """
    global _teller
    _teller = teller


def is_told() -> bool:
    """Whether a teller makes what is written of messages."""
    return _teller is not None


def say(
    message: str,
    label: Literal["error", "warning"] | None = None,
    *,
    painted: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a message to stderr. A stderr that is gone ends nothing: there is work to do.

    Args:
        painted: Whether it has colours of ours, and is harmless already.
        facts: What it is about, for programs; see `tell_by`.
    """
    if _teller is not None:
        message = _teller(label or "info", _PAINT.sub("", message), facts or {})
    elif not painted:
        message = printable("\n".join(map(_bearable, message.split("\n"))))
    if label is not None and _teller is None:
        message = f"{paint(label + ':', _LABELS[label], coloured(sys.stderr))} {message}"
    try:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def _bearable(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    # What a message is about stands at its beginning, what to do often at its end.
    half = _LONGEST_LINE // 2
    return f"{line[:half]} … {len(line) - 2 * half:,} characters … {line[-half:]}"


def short(words: object, columns: int = _LONG) -> str:
    """*words* harmless, in one line, and no longer than *columns*: a value of any size."""
    found = str(words)
    # Several characters may be shown as one, but not many: `isprintable` of megabytes takes time.
    return cut(one_line(found if len(found) <= 8 * columns else found[: 8 * columns]), columns)


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
    """*words*, or as much of it as fits, with `…`, or `~` in ASCII."""
    if width(words) <= columns:
        return words
    words = words[: 4 * columns]  # of combining characters, many make one column
    if words.isascii():
        words = words[: columns - 1]
    while words and width(words) > columns - 1:
        words = words[:-1]
    return words + ("…" if has_signs() else "~")


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[int] = (),
    styles: Mapping[str, Style] | None = None,
    stream: TextIO | None = None,
    indent: str = "",
    give_way: Sequence[int] = (),
    more: str | None = None,
) -> list[str]:
    """*rows* aligned under *header*; as `aligned`."""
    return aligned(
        list(zip(header, *rows, strict=True)),
        right=right,
        styles=styles,
        stream=stream,
        indent=indent,
        give_way=give_way,
        more=more,
    )


def aligned(
    table: Sequence[Sequence[str]],
    *,
    right: Iterable[int] = (),
    styles: Mapping[str, Style] | None = None,
    stream: TextIO | None = None,
    indent: str = "",
    give_way: Sequence[int] = (),
    more: str | None = None,
) -> list[str]:
    """The columns of a table, each with its header, in lines that never wrap.

    Where they are too long, cells of text are cut, then the last column, and then columns are left
    out, which a last line says.

    Args:
        right: Columns of numbers, aligned right.
        styles: How a cell whose first word is a key is painted.
        stream: Where it will be written; default stdout.
        give_way: Columns that may be left out, the first to go first.
        more: The command that shows what is left out.
    """
    stream = sys.stdout if stream is None else stream
    numbers = frozenset(right)
    found = terminal_width(stream)
    room = (found or _UNWATCHED) - len(indent)
    columns = [_column(each, _LONG) for each in table]
    if _total(columns) > room:
        if found is not None:
            narrow = enumerate(columns)
            columns = [c if i in numbers else _column(c.cells, _NARROW) for i, c in narrow]
        last = columns[-1]
        if len(columns) - 1 not in numbers:
            columns[-1] = _column(last.cells, max(room - _total(columns) + last.width, 12))
    left_out: set[int] = set()
    total = _total(columns)
    for index in give_way:
        if total <= room:
            break
        left_out.add(index)
        total -= columns[index].width + 2
    kept = [i for i in range(len(columns)) if i not in left_out]
    lines = _lines([columns[i] for i in kept], [i in numbers for i in kept], indent)
    if found is not None:
        lines = [cut(line, found) for line in lines]
    colour = coloured(stream)
    lines[0] = paint(lines[0], "bold", colour)
    if colour and styles:
        for at in range(1, len(lines)):
            lines[at] = _painted(lines[at], [columns[i].cells[at] for i in kept], styles)
    if left_out:
        names = ", ".join(short(table[i][0], _NARROW) for i in sorted(left_out)[:_MOST_NAMED])
        names += ", …" if len(left_out) > _MOST_NAMED else ""
        which = f"{indent}… {count(len(left_out), 'more column')}"
        tail = "" if more is None else f": {more}"
        forms = f"{which} ({names}){tail}", which + tail, f"{which} ({names})"
        lines.append(next((f for f in forms if found is None or width(f) <= found), which))
    return lines


#: Columns that were left out and are named.
_MOST_NAMED: Final = 6


class _Column(NamedTuple):
    cells: Sequence[str]
    width: int
    plain: bool


def _column(cells: Sequence[str], most: int) -> _Column:
    plain = all(map(str.isascii, cells))
    widest = max(map(len if plain else width, cells))
    if widest > most:
        cells = [cut(each, most) for each in cells]
        return _Column(cells, most, False)
    return _Column(cells, widest, plain)


def _total(columns: Sequence[_Column]) -> int:
    return sum(column.width + 2 for column in columns) - 2


def _lines(columns: Sequence[_Column], right: Sequence[bool], indent: str) -> list[str]:
    rows = zip(*(column.cells for column in columns), strict=True)
    if all(column.plain for column in columns):
        # One format for all rows: a listing of 100,000 is made in a fraction of a second.
        pattern = indent + "  ".join(
            f"%{'' if number else '-'}{column.width}s"
            for number, column in zip(right, columns, strict=True)
        )
        return [(pattern % row).rstrip() for row in rows]
    widths = [column.width for column in columns]
    numbers = frozenset(i for i, number in enumerate(right) if number)
    return [_row(row, widths, numbers, indent) for row in rows]


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


def size(number: float) -> str:
    """*number* bytes: `952 bytes`, `8.6 KB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


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
