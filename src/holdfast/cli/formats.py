"""`-o FORMAT`: rows of a listing as a table for people, or whole for other programs."""

import functools
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import click

from holdfast.errors import printable
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import text
from holdfast.store.strictjson import spelt, strict

if TYPE_CHECKING:
    from holdfast.store.annotations import Annotations

__all__ = [
    "Format",
    "field",
    "format_option",
    "plain",
    "print_processes",
    "write_lines",
    "write_rows",
]

Format = Literal["table", "json", "jsonl", "tsv", "csv"]

_FORMATS: Final = ("table", "json", "jsonl", "tsv", "csv")
#: As PostgreSQL's `COPY` and MySQL's batch mode escape them: a record is a line, a field a word.
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})

_encode: Final = json.JSONEncoder(allow_nan=False).encode


def format_option(command: Callable[..., int]) -> Callable[..., int]:
    """A command with `-o FORMAT` and `--json`, which it gets as `output`."""

    @click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(_FORMATS),
        metavar="FORMAT",
        help=f"Print as {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}; all but table are whole.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout, as -o json.")
    @functools.wraps(command)
    def formatted(*args: object, output: str | None, as_json: bool, **others: object) -> int:
        if as_json and output not in (None, "json"):
            raise click.UsageError(f"--json or -o {output}, not both")
        found = cast("Format", "json" if as_json else output or "table")
        return command(*args, output=found, **others)

    return formatted


def write_lines(objects: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, each written as it comes."""
    with text.delivering():
        for each in objects:
            sys.stdout.write(_encode(strict(each)) + "\n")


def write_rows(
    output: Literal["tsv", "csv"], header: Sequence[str], rows: Iterable[Iterable[Any]]
) -> None:
    r"""A line of *header*, and one for each row, with every value whole.

    Times are in ISO 8601, lists and objects JSON. In TSV, tab, newline, carriage return, NUL and
    backslash are escaped as `\t`, `\n`, `\r`, `\0`, `\\`. A terminal gets no character that could
    drive it.
    """
    import csv  # only this needs it

    tame = sys.stdout.isatty()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    with text.delivering():
        for row in itertools.chain([header], rows):
            fields = [field(each) for each in row]
            if tame:
                fields = list(map(printable, fields))
            if output == "csv":
                writer.writerow(fields)
            else:
                sys.stdout.write("\t".join(each.translate(_ESCAPES) for each in fields) + "\n")


def print_processes(
    state: ExperimentState,
    folder: Path,
    said: "Annotations",
    index: int | None,
    output: Literal["jsonl", "tsv", "csv"],
) -> None:
    """A row for each process, or only for *index*, with the columns of `holdfast export`."""
    from holdfast.reading.records import table

    made = table(state, folder, said, only=index)
    names = [column.name for column in made.columns]
    rows = ([part(value) for value in record.values()] for record, part in made.parted())
    if output == "jsonl":
        write_lines(dict(zip(names, map(plain, row), strict=True)) for row in rows)
    else:
        write_rows(output, names, rows)


def plain(value: Any) -> Any:
    """*value* for JSON: a time in ISO 8601."""
    return value.isoformat() if isinstance(value, datetime) else value


def field(value: Any) -> str:
    """*value* in a row of CSV or TSV, whole; nothing for None, lists and objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _encode(strict(value))
    return spelt(value) if isinstance(value, float) and not math.isfinite(value) else repr(value)
