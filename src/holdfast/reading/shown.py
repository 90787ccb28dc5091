"""HTML for notebooks: how an experiment stands, what happened to it, and what came of it.

Every text of others is escaped, every list bounded. Styles are inline and take the page's colours:
a notebook has a theme of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from holdfast.errors import printable
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import glyphs, grouping, reasons, text
from holdfast.reading.cells import cell, flat
from holdfast.reading.grouping import Group
from holdfast.results import rows as rows_of
from holdfast.status import ProcessStatus
from holdfast.store.history import History, Transition

__all__ = ["bar", "counts", "details", "experiment", "failures", "table"]

_COLOURS: Final = {
    ProcessStatus.COMPLETED: "#009E73",
    ProcessStatus.FAILED: "#D55E00",
    ProcessStatus.RUNNING: "#0072B2",
    ProcessStatus.PENDING: "#99999955",
}
_MOST_GROUPS: Final = 5
_MOST_ROWS: Final = 20
_MOST_COLUMNS: Final = 12
_MOST_STEPS: Final = 100
_LONGEST: Final = 200
#: Failures of which a state by itself is asked for the reason.
_MOST_FAILURES: Final = 2_000
_MOST_LOGS: Final = 200


def details(
    entity: object, aggregate: Mapping[str, Any] | None = None, folder: Path | None = None
) -> str:
    """What stands below the words about *entity*: a state, a history, a step; else nothing.

    Args:
        aggregate: What an experiment came to; its rows are shown, the first of them.
        folder: The experiment's, where what failed processes said is looked up.
    """
    if isinstance(entity, ExperimentState):
        return experiment(entity, folder) + ("" if aggregate is None else _rows(aggregate))
    if isinstance(entity, Transition):
        return _steps([entity])
    if isinstance(entity, History):
        return _steps(entity)
    return ""


def experiment(state: ExperimentState, folder: Path | None = None) -> str:
    """A bar of the processes, and why those that failed did, as far as the state tells.

    Args:
        folder: Where the first of them are looked up, which say more.
    """
    found = state.processes.indices(ProcessStatus.FAILED)[:_MOST_FAILURES]
    most = 0 if folder is None else _MOST_LOGS
    why = {
        index: reasons.failure(folder or Path(), state, index, look=number < most)
        for number, index in enumerate(found)
    }
    return bar(state) + failures(grouping.groups(why))


def counts(state: ExperimentState) -> str:
    """`12 completed, 1 failed, 3 running`; `no processes`."""
    found = ((status, state.processes.count(status)) for status in _COLOURS)
    return ", ".join(f"{number:,} {status}" for status, number in found if number) or "no processes"


def bar(state: ExperimentState) -> str:
    """How many processes are in each status, as a bar that says it in words, too."""
    parts = "".join(
        f'<span style="flex:{number};background:{colour}"></span>'
        for status, colour in _COLOURS.items()
        if (number := state.processes.count(status))
    )
    return (
        f'<div role="img" aria-label="{escape(counts(state))}" style="display:flex;height:0.7em;'
        f'max-width:40em;gap:1px;border-radius:3px;overflow:hidden;margin:0.3em 0">{parts}</div>'
    )


def failures(groups: Sequence[Group]) -> str:
    """Why processes failed, the same together; the most frequent first."""
    lines = [
        f"{glyphs.glyph('failed', signs=True)} {text.count(len(group.indices), 'process')} "
        f"({text.cut(text.ranges(group.indices), 60)}): {group.words}"
        for group in groups[:_MOST_GROUPS]
    ]
    if rest := groups[_MOST_GROUPS:]:
        number = text.count(sum(len(group.indices) for group in rest), "process")
        lines.append(f"… and {number} for {len(rest):,} more reasons")
    colour = _COLOURS[ProcessStatus.FAILED]
    return "".join(
        f'<div style="border-left:3px solid {colour};padding-left:0.5em">{_words(line)}</div>'
        for line in lines
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of words and numbers; the numbers are aligned to the right."""
    sides = [
        "right" if all(map(_is_number, column)) else "left" for column in zip(*rows, strict=True)
    ] or ["left"] * len(header)
    head = "".join(_cell("th", name, side) for name, side in zip(header, sides, strict=True))
    body = "".join(
        f"<tr>{''.join(_cell('td', *each) for each in zip(row, sides, strict=True))}</tr>"
        for row in rows
    )
    return (
        f'<div style="overflow-x:auto"><table style="margin:0.3em 0"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(tag: str, value: object, side: str) -> str:
    words = value if isinstance(value, str) else cell(value)
    return f'<{tag} style="text-align:{side};padding:0.1em 0.5em">{_words(words)}</{tag}>'


def _words(words: object) -> str:
    return escape(printable(text.cut(text.one_line(words), _LONGEST)))


def _steps(steps: Sequence[Transition]) -> str:
    """The last steps, the newest below."""
    shown = steps[-_MOST_STEPS:]
    rows = [
        (
            f"{each.at:%Y-%m-%d %H:%M:%S}",
            each.entity if each.index is None else f"process {each.index}",
            each.event,
            each.target if each.source == each.target else f"{each.source} → {each.target}",
            each.reason or "",
            each.evidence or "",
            each.actor,
        )
        for each in shown
    ]
    left = len(steps) - len(shown)
    before = f"<p>{left:,} steps before these</p>" if left else ""
    return before + table(("UTC", "of", "event", "status", "reason", "evidence", "by"), rows)


def _rows(aggregate: Mapping[str, Any]) -> str:
    """The parameters and results of the first rows of an aggregate."""
    found = list(rows_of.outlines(aggregate.get("rows")))
    shown = found[:_MOST_ROWS]
    names: dict[tuple[str, str], None] = {}
    values = []
    for row in shown:
        params = row.get("params")
        own = {("params", str(name)): value for name, value in _items(params)}
        own.update({("result", name): value for name, value in flat(row).items()})
        names.update(dict.fromkeys(own))
        values.append((row.get("index"), own))
    if not names:
        return ""
    # Parameters first, whichever row has them.
    columns = sorted(names, key=lambda name: name[0])[:_MOST_COLUMNS]
    made = table(
        ("index", *(name for _, name in columns)),
        [(index, *(own.get(name) for name in columns)) for index, own in values],
    )
    left = [
        f"{number:,} more {what}"
        for number, what in (
            (len(found) - len(shown), "rows"),
            (len(names) - len(columns), "columns"),
        )
        if number
    ]
    return made + (f"<p>… {' and '.join(left)}</p>" if left else "")


def _items(value: object) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, Mapping) else ()
