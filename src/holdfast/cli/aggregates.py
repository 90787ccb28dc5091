"""What a run ends with: the aggregated table on stdout, and how it went on stderr."""

import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from holdfast.cli.where import Where
from holdfast.errors import printable
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import codes, text
from holdfast.reading.cells import cell, flat, numeric
from holdfast.results import rows as rows_of
from holdfast.results.outline import Elided
from holdfast.status import ProcessStatus

__all__ = ["aggregate_lines", "notes"]

#: Rows that are shown on a terminal, where a table of 10,000 would push everything away.
_MOST_ROWS: Final = 100
#: Fields whose statistics are shown, and lines of the value that the user's own command made.
_MOST_FIELDS: Final = 50
_MOST_LINES: Final = 50

Row = Mapping[str, Any]


def aggregate_lines(aggregate: Mapping[str, Any], where: Where, *, indent: str = "") -> list[str]:
    """The aggregate as tables: one row per process, the statistics, the user's own value.

    What there is no room for is left out, with the command that shows all of it; so is what
    somebody put among the rows that is none.
    """
    experiment_id = str(aggregate.get("experiment_id"))
    table = where.command("export", "--csv", experiment_id)
    partial = ["--partial"] if aggregate.get("partial") else []
    whole = where.command("aggregate", *partial, "--json", experiment_id)
    lines: list[str] = []
    found = aggregate.get("rows")
    rows = found if isinstance(found, Sequence) and not isinstance(found, str) else []
    if rows:
        most = len(rows)
        if text.is_terminal(sys.stdout):
            most = min(most, _MOST_ROWS)
        shown = list(itertools.islice(rows_of.outlines(rows), most))
        lines += _rows(shown, codes.marks(aggregate), table, indent)
        if most < len(rows):
            lines.append(f"{indent}… {len(rows) - most:,} more: {table}")
    numbers = aggregate.get("statistics")
    fields = numbers.items() if isinstance(numbers, Mapping) else ()
    statistics = {field: row for field, row in fields if isinstance(row, Mapping)}
    if statistics and len(rows) > 1:
        lines += ["", *_statistics(statistics, whole, indent)]
    value = rows_of.shown_member(aggregate, "value")
    if value is not None:
        lines += ["", *(f"{indent}{line}" for line in _value(value, whole))]
    return lines


def _rows(rows: Sequence[Row], marks: codes.Marks, more: str, indent: str) -> list[str]:
    results = [flat(row) for row in rows]
    parameters = _keys(row.get("params") for row in rows)
    fields = _keys(results)
    params = [row.get("params") or {} for row in rows]
    left: list[tuple[str, list[str]]] = [("#", [cell(row.get("index")) for row in rows])]
    left += [(key, [cell(each.get(key)) for each in params]) for key in parameters]
    middle = [(key, [cell(each.get(key)) for each in results]) for key in fields]
    if fields == ["value"]:
        middle[0] = ("result", middle[0][1])
    last: list[tuple[str, list[str]]] = []
    if marks.labels:
        last.append(("CODE", [marks.of(row) for row in rows]))
    retried = any(row.get("attempts") not in (None, 0, 1) for row in rows)
    if retried:
        last.append(("attempts", [cell(row.get("attempts")) for row in rows]))
    if len({cell(row.get("host")) for row in rows}) > 1:
        last.append(("host", [cell(row.get("host")) for row in rows]))
    last.append(("time", [_duration(row.get("duration_s")) for row in rows]))
    if retried:
        last.append(("all attempts", [_duration(row.get("attempts_duration_s")) for row in rows]))
    reused = [codes.reused_from(row) for row in rows]
    if any(reused):
        last.append(("reused from", reused))
    columns = [*left, *middle, *last]
    numbers = [
        index
        for index, (name, cells) in enumerate(columns)
        if name in ("time", "all attempts") or numeric(cells)
    ]
    return text.table(
        [text.one_line(name) for name, _ in columns],
        list(zip(*(cells for _, cells in columns), strict=True)),
        right=numbers,
        indent=indent,
        give_way=_give_way(columns, len(left), len(middle), frozenset(numbers)),
        more=more,
    )


def _give_way(
    columns: Sequence[tuple[str, list[str]]], left: int, middle: int, numbers: frozenset[int]
) -> list[int]:
    """Which columns go first: texts and lists, then what is alike in all rows, then the last.

    The number of a process, and the first field of its result, stay.
    """
    params = range(left - 1, 0, -1)
    fields = range(left + middle - 1, left, -1)
    about = range(len(columns) - 1, left + middle - 1, -1)
    alike = [i for i in params if len(set(columns[i][1])) == 1 and len(columns[i][1]) > 1]
    order = [i for i in fields if i not in numbers]
    order += [*alike, *about, *fields, *params]
    return list(dict.fromkeys(order))


def _duration(seconds: Any) -> str:
    return text.duration(seconds) if isinstance(seconds, int | float) else cell(seconds)


def _keys(mappings: Iterable[Any]) -> list[str]:
    found: dict[str, None] = {}
    for each in mappings:
        if isinstance(each, Mapping):
            found.update(dict.fromkeys(each))
    return list(found)


def _statistics(statistics: Mapping[str, Row], more: str, indent: str) -> list[str]:
    shown = dict(itertools.islice(statistics.items(), _MOST_FIELDS))
    columns = _keys(shown.values())
    cells = [
        [text.one_line(field), *(cell(row.get(column)) for column in columns)]
        for field, row in shown.items()
    ]
    header = ["result", *map(text.one_line, columns)]
    numbers = range(1, len(header))
    lines = text.table(
        header, cells, right=numbers, indent=indent, give_way=numbers[:0:-1], more=more
    )
    if len(shown) < len(statistics):
        lines.append(f"{indent}… {len(statistics) - len(shown):,} more fields: {more}")
    return lines


def _value(value: Any, more: str) -> list[str]:
    scalar = str | int | float | None
    if isinstance(value, Mapping) and value and all(isinstance(v, scalar) for v in value.values()):
        wide = min(max(text.width(text.short(key, 40)) for key in value), 40)
        pairs = itertools.islice(value.items(), _MOST_LINES + 1)
        lines = [f"{text.short(key, 40):<{wide}}  {cell(each)}" for key, each in pairs]
    elif isinstance(value, Elided):
        lines = [cell(value)]
    else:
        parts = json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value)
        lines = [text.cut(printable(line), 200) for line in _begun(parts)]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"… more: {more}"]
    return lines


def _begun(parts: Iterable[str]) -> list[str]:
    """The first lines of a text that comes in parts, and one more than are shown."""
    held: list[str] = []
    count = 0
    for part in parts:
        held.append(part[:2000] if "\n" not in part else part)
        count += part.count("\n")
        if count > _MOST_LINES:
            break
    return "".join(held).split("\n")[: _MOST_LINES + 1]


#: Fields that are named for what is not finite in them.
_MOST_NAMED: Final = 5


def notes(state: ExperimentState, aggregate: Mapping[str, Any] | None) -> list[str]:
    """What is odd about the results: none were written, other code, numbers that are not finite."""
    lines = list(codes.marks(aggregate).sentences)
    completed = state.processes.indices(ProcessStatus.COMPLETED)
    without = [index for index in completed if state.processes[index].result is None]
    if completed and len(without) == len(completed):
        lines.append("no process wrote a result (to the file that HOLDFAST_RESULT names)")
    elif without:
        lines.append(f"completed without a result: {text.short(text.ranges(without))}")
    found: dict[str, dict[int, str]] = {}
    for row in rows_of.outlines((aggregate or {}).get("rows") or ()):
        named = row.get("nonfinite")
        if isinstance(named, Mapping) and isinstance(row.get("index"), int):
            for name, word in named.items():
                found.setdefault(str(name), {})[row["index"]] = str(word)
    for name, words in itertools.islice(found.items(), _MOST_NAMED):
        which = text.short(text.ranges(sorted(words)), 100)
        kinds = ", ".join(sorted(set(words.values())))
        noun = "process" if len(words) == 1 else "processes"
        lines.append(f"not finite: {text.short(name, 60)} of {noun} {which} ({kinds})")
    if len(found) > _MOST_NAMED:
        lines.append(f"… and {len(found) - _MOST_NAMED:,} more fields that are not finite")
    return lines
