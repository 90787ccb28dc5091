"""The data of a report, as JSON in the schema `holdfast.report/1`.

Everything by column, and everything bounded: what would not fit is counted in `left_out`. Nothing
in it is a guess; what is not known is null.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import holdfast
from holdfast.errors import HoldfastError, Spell
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import (
    curves,
    forms,
    grouping,
    limits,
    progress,
    reasons,
    records,
    spans,
    text,
    times,
)
from holdfast.reading.engines import HandedOver, handed_over
from holdfast.reading.outliving import outlived
from holdfast.report import about, columns, events, saying
from holdfast.report.columns import packed, rounded, seconds
from holdfast.results import spending
from holdfast.status import ProcessStatus
from holdfast.store.annotations import NONE
from holdfast.store.attempted import usages
from holdfast.store.history import Transition
from holdfast.store.manager import StateManager

__all__ = ["SCHEMA", "document"]

SCHEMA: Final = "holdfast.report/1"

Json = dict[str, Any]

_CHARS: Final[Mapping[ProcessStatus, str]] = {
    ProcessStatus.PENDING: "p",
    ProcessStatus.RUNNING: "r",
    ProcessStatus.COMPLETED: "c",
    ProcessStatus.FAILED: "f",
}
#: Characters of a parameter or of a value of a result.
_LONGEST: Final = 200
#: Bytes that parameters and results take in all, about, and how many of each there are.
_MOST_BYTES: Final = 1 << 20
_MOST_COLUMNS: Final = 60
#: Points of all curves together.
_MOST_POINTS: Final = 30_000
_MOST_CURVES, _MOST_OF_ONE, _MOST_LINES = 100, 200, 4


def document(
    manager: StateManager,
    experiment_ids: Sequence[str],
    now: datetime,
    *,
    command: Spell = saying.spelt,
) -> Json:
    """Everything that a page shows of these experiments; of several, it compares them.

    Args:
        command: Spells the commands that it names.

    Raises:
        HoldfastError: One of them cannot be read.
    """
    experiments = [
        _experiment(manager, each, now, command, len(experiment_ids)) for each in experiment_ids
    ]
    names = Counter(each["name"] for each in experiments)
    for each in experiments:
        # Runs of one file have one name.
        each["label"] = each["name"] if each["name"] and names[each["name"]] == 1 else each["id"]
    return {
        "schema": SCHEMA,
        "made_at": now.isoformat(timespec="seconds"),
        "holdfast": holdfast.__version__,
        "experiments": experiments,
    }


def _experiment(
    manager: StateManager, experiment_id: str, now: datetime, command: Spell, among: int
) -> Json:
    state = manager.load(experiment_id)
    folder = manager.folder(experiment_id)
    living = manager.liveness(experiment_id)
    left_out: list[str] = []
    alarms: list[str] = []
    history: list[Transition] = []
    said = NONE
    try:
        history = manager.history(experiment_id)
        said = manager.annotations(experiment_id)
    except HoldfastError as err:
        alarms.append(f"part of what is recorded cannot be read: {columns.cut(err, 300)}")
    failures = reasons.failures(folder, state)
    groups = grouping.groups(failures)
    having = handed_over(state, folder)
    table = _table(state, folder, alarms, left_out, among)
    attempts = spans.spans(state, folder)
    begins = [at for each in attempts if (at := each.submitted_at or each.started_at) is not None]
    t0 = min([*begins, *filter(None, [state.started_at or state.created_at])], default=None)
    on = times.goes_on(state, living, having)
    left = outlived(state, folder, living, having, now)
    # What nobody drives was last heard of then: until when its processes ran, nobody knows.
    until = times.known_until(state, now, on=on, left=left)
    facts = saying.Facts(
        state=state,
        living=living,
        having=having,
        groups=groups,
        interruptions=grouping.interruptions(state, history or None),
        on=on,
        left=left,
        elapsed_s=times.elapsed_s(times.began(state), state, now, on=on, left=left),
        left_s=_left_s(state, folder, now, having) if on else None,
        table=table,
    )
    if len(groups) > about.MOST_GROUPS:
        rest = sum(len(each.indices) for each in groups[about.MOST_GROUPS :])
        left_out.append(
            f"{len(groups) - about.MOST_GROUPS:,} more kinds of failure "
            f"({text.count(rest, 'process')}) have no log here"
        )
    words = forms.next_step(manager, state, living)
    found = (each.host for each in state.processes.values())
    hosts = list(dict.fromkeys(host for host in found if host is not None))
    return {
        "id": columns.cut(experiment_id, _LONGEST),
        "name": None if state.name is None else columns.cut(state.name, _LONGEST),
        "status": str(state.status),
        "reason": None if state.reason is None else str(state.reason),
        "words": saying.verdict(facts),
        "why": [*saying.why(facts), *alarms],
        "next": None if words is None else command(*words),
        "liveness": {"kind": living.kind, "words": saying.owner(facts)},
        # As in a listing: one that nobody drives is not simply running.
        "stands": forms.status_words(state, living, having),
        "tags": [columns.cut(each, 60) for each in said.tags[:20]],
        "note": None if said.note is None else columns.cut(said.note, 1000),
        "numbers": saying.numbers(facts),
        "machines": {
            "experiment": {"current": str(state.status)},
            "process": {
                "counts": {str(each): state.processes.count(each) for each in ProcessStatus}
            },
        },
        "n": state.num_processes,
        "ranks": state.rank_count,
        "t0": None if t0 is None else t0.isoformat(timespec="milliseconds"),
        "now": seconds(until, t0),
        "params": list(table["params"]),
        "results": list(table["results"]),
        "kinds": {
            f"{part}.{name}": columns.kind(values)
            for part in ("params", "results")
            for name, values in table[part].items()
        },
        "swept": [name for name, values in table["params"].items() if len(set(values)) > 1],
        "reasons": [str(each) for each in _reasons(state)],
        "hosts": [columns.cut(each, 80) for each in hosts],
        "processes": _processes(state, groups, hosts, t0, table, now),
        "groups": about.groups(state, folder, groups, command),
        "interruptions": [
            {"reason": None if each.reason is None else str(each.reason), "count": each.count}
            for each in facts.interruptions
        ],
        "spans": events.spans(attempts, state.num_processes, t0, left_out),
        **_curves(state, folder),
        "events": events.events(history, t0, state.num_processes, left_out),
        "config": about.config(state),
        "code": about.code(state, folder),
        "environment": about.environment(state, folder, having),
        "left_out": left_out,
    }


def _reasons(state: ExperimentState) -> list[Any]:
    return list(dict.fromkeys(each.reason for each in state.processes.values() if each.reason))


def _table(
    state: ExperimentState, folder: Path, alarms: list[str], left_out: list[str], among: int
) -> Json:
    """Parameters and results by column."""
    found = records.table(state, folder)
    lost = [each["index"] for each in found.missing if each["lost"]]
    if lost:
        which = columns.cut(text.ranges(lost), 200)
        alarms.append(f"the results of these processes are lost or altered: {which}")
    rows = list(found.outlined())
    made: Json = {}
    for part, prefix in (("params", "params."), ("results", "result.")):
        names = {
            each.name: each.name.removeprefix(prefix)
            for each in found.columns
            if each.name.startswith(prefix)
        }
        values = [{short: row[name] for name, short in names.items()} for row in rows]
        made[part], more = columns.table(values, _LONGEST, _MOST_BYTES // among, _MOST_COLUMNS)
        if more:
            listed = columns.cut(", ".join(more[:50]), _LONGEST)
            left_out.append(
                f"{len(more):,} {part} have no column here ({listed}): "
                f"`holdfast export` has all of them"
            )
    return made


def _processes(
    state: ExperimentState,
    groups: Sequence[grouping.Group],
    hosts: Sequence[str],
    t0: datetime | None,
    table: Json,
    now: datetime,
) -> Json:
    every = list(state.processes.values())
    reason_ids = {each: number for number, each in enumerate(_reasons(state))}
    host_ids = {each: number for number, each in enumerate(hosts)}
    of_group = {index: at for at, group in enumerate(groups) for index in group.indices}
    used = usages(state)
    usage = [used.get(index, {}) for index in range(len(every))]
    count = state.rank_count
    bounds = limits.of_state(state)
    made: dict[str, list[columns.Cell]] = {
        "attempts": [each.attempt for each in every],
        # That of a signal, as a shell has it negative.
        "exit": [each.exit_code if each.signal is None else -each.signal for each in every],
        "reason": [None if each.reason is None else reason_ids[each.reason] for each in every],
        "host": [None if each.host is None else host_ids[each.host] for each in every],
        "started": [seconds(each.started_at, t0) for each in every],
        "duration": [rounded(spending.duration_s(each)) for each in every],
        "rss": [rounded(each.get("max_rss_bytes"), 0) for each in usage],
        "cpu": [rounded(each.get("cpu_s")) for each in usage],
        "limit_memory": [rounded(limits.memory_bytes(bounds, each), 0) for each in every],
        "group": [of_group.get(index) for index in range(len(every))],
        "rank": [None if count is None else index % count for index in range(len(every))],
        "reused": [
            None
            if each.origin is None
            else columns.cut(f"{each.origin.experiment_id}/{each.origin.process}", 80)
            for each in every
        ],
    }
    return {
        "status": "".join(_CHARS[each.status] for each in every),
        "params": {name: packed(values) for name, values in table["params"].items()},
        "results": {name: packed(values) for name, values in table["results"].items()},
        **{name: packed(values) for name, values in made.items()},
    }


def _left_s(
    state: ExperimentState, folder: Path, now: datetime, having: HandedOver | None
) -> float | None:
    """Seconds until it is done; None if that cannot be told."""
    waits = None if having is None else having.waits
    return progress.remaining_s(state, now, progress.standings(state, folder, now, waits=waits))


def _curves(state: ExperimentState, folder: Path) -> Json:
    found = curves.curves(state, folder, _MOST_CURVES, _MOST_OF_ONE)
    lines = sum(min(len(each.lines), _MOST_LINES) for each in found.values())
    points = max(min(_MOST_OF_ONE, _MOST_POINTS // max(lines, 1)), 20)
    made = {
        str(index): {
            columns.cut(name, 60): [
                [columns.digits(x), columns.digits(y)] for x, y in curves.thinned(line, points)
            ]
            for name, line in list(curve.lines.items())[:_MOST_LINES]
        }
        for index, curve in found.items()
    }
    return {
        "curves": made,
        "curves_x": {str(index): curve.x for index, curve in found.items()},
        "curves_trimmed": [index for index, curve in found.items() if curve.trimmed],
    }
