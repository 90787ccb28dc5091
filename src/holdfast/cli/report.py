"""What a run ends with: the aggregated table on stdout, and how it went on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from holdfast.cli import text
from holdfast.cli.app import Where
from holdfast.cli.evidence import failures, parameters
from holdfast.errors import printable
from holdfast.records import ExperimentState
from holdfast.store.manager import StateManager

__all__ = ["aggregate_lines", "failure_lines"]

#: Rows that are shown on a terminal, where a table of 10,000 would push everything away.
_MOST_ROWS: Final = 100

Row = Mapping[str, Any]


def aggregate_lines(aggregate: Mapping[str, Any], more: str, *, indent: str = "") -> list[str]:
    """The aggregate as tables: one row per process, the statistics, the user's own value.

    Args:
        aggregate: As `aggregate.json` holds it; what somebody put there that is no row is left out.
        more: The command that prints all of it, for what a terminal leaves out.
    """
    lines: list[str] = []
    found = aggregate.get("rows")
    rows = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
    if rows:
        shown = rows
        if text.is_terminal(sys.stdout) and len(rows) > _MOST_ROWS:
            shown = rows[:_MOST_ROWS]
        lines += _rows(shown)
        if len(shown) < len(rows):
            lines.append(f"… {len(rows) - len(shown):,} more: {more}")
    numbers = aggregate.get("statistics")
    fields = numbers.items() if isinstance(numbers, Mapping) else ()
    statistics = {field: row for field, row in fields if isinstance(row, Mapping)}
    if statistics and len(rows) > 1:
        lines += ["", *_statistics(statistics)]
    value = aggregate.get("value")
    if value is not None:
        lines += ["", *_value(value)]
    return [f"{indent}{line}" if line else "" for line in lines]


def _rows(rows: Sequence[Row]) -> list[str]:
    parameters = _keys(row.get("params") for row in rows)
    fields = _keys(row.get("result") for row in rows)
    plain = any(
        row.get("result") is not None and not isinstance(row["result"], Mapping) for row in rows
    )
    hosts = len({_cell(row.get("host")) for row in rows}) > 1
    retried = any(row.get("attempts") not in (None, 1) for row in rows)
    header = ["#", *map(text.one_line, parameters), *map(text.one_line, fields)]
    header += ["result"] * plain + ["attempts"] * retried + ["host"] * hosts
    header += ["time"] + ["all attempts"] * retried
    cells = []
    for row in rows:
        params, result = row.get("params") or {}, row.get("result")
        named = result if isinstance(result, Mapping) else {}
        cell = [_cell(row.get("index"))]
        cell += [_cell(params.get(key)) for key in parameters]
        cell += [_cell(named.get(key)) for key in fields]
        cell += ["" if isinstance(result, Mapping) else _cell(result)] * plain
        cell += [_cell(row.get("attempts"))] * retried + [_cell(row.get("host"))] * hosts
        cell.append(_duration(row.get("duration_s")))
        cell += [_duration(row.get("attempts_duration_s"))] * retried
        cells.append(cell)
    numbers = [
        column
        for column in range(len(header))
        if all(_numeric(cell[column]) for cell in cells) or column >= len(header) - 1 - retried
    ]
    return text.table(header, cells, right=numbers)


def _duration(seconds: Any) -> str:
    return text.duration(seconds) if isinstance(seconds, int | float) else _cell(seconds)


def _keys(mappings: Any) -> list[str]:
    found: dict[str, None] = {}
    for each in mappings:
        if isinstance(each, Mapping):
            found.update(dict.fromkeys(each))
    return list(found)


def _statistics(statistics: Mapping[str, Row]) -> list[str]:
    columns = _keys(statistics.values())
    cells = [
        [text.one_line(field), *(_cell(row.get(column)) for column in columns)]
        for field, row in statistics.items()
    ]
    header = ["result", *map(text.one_line, columns)]
    return text.table(header, cells, right=range(1, len(header)))


def _value(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value and all(map(_scalar, value.values())):
        wide = max(text.width(text.one_line(key)) for key in value)
        return [f"{text.one_line(key):<{wide}}  {_cell(each)}" for key, each in value.items()]
    whole = json.dumps(value, indent=2, ensure_ascii=False)
    return [printable(line) for line in whole.split("\n")]


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # Six digits; an exponent only where there is no other way to say it.
        return f"{value:.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, str | int):
        return text.one_line(value)
    return text.one_line(json.dumps(value, ensure_ascii=False))


def _numeric(cell: str) -> bool:
    if not cell:
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def failure_lines(where: Where, manager: StateManager, state: ExperimentState) -> list[str]:
    """What failed and why, where something did."""
    folder = manager.folder(state.experiment_id)
    return failures(where, state, folder, parameters(state), sys.stderr)
