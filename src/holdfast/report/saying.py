"""How an experiment went, in words: the verdict, what caused it, and the numbers people ask for."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from holdfast.errors import printable
from holdfast.identity import Verdict
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import text
from holdfast.reading.cells import cell
from holdfast.reading.engines import HandedOver, is_left
from holdfast.reading.grouping import Group, Interruption
from holdfast.reading.outliving import Outlived
from holdfast.report import columns
from holdfast.status import ExperimentStatus, Reason
from holdfast.store.attempted import attempt_of, usages

__all__ = ["Facts", "numbers", "owner", "spelt", "verdict", "why"]

_MOST_LINES: Final = 8
_LONGEST: Final = 400
#: Of one reason among others: each stands whole where the page shows its log.
_LONGEST_OF_MANY: Final = 200


@attrs.frozen(kw_only=True)
class Facts:
    """What is said.

    Attributes:
        on: Whether something of it goes on, or may.
        left: What outlived its owner; None while somebody drives it, or may.
        elapsed_s: Seconds since its first process began; None if none has.
        left_s: Seconds until it is done; None if that cannot be told.
        table: Parameters and results by column.
    """

    state: ExperimentState
    living: Verdict
    having: HandedOver | None
    groups: Sequence[Group]
    interruptions: Sequence[Interruption]
    on: bool
    left: Outlived | None
    elapsed_s: float | None
    left_s: float | None
    table: Mapping[str, Mapping[str, list[Any]]]


def spelt(*words: str) -> str:
    """A command of ours, harmless where it is shown."""
    return printable(shlex.join(["holdfast", *words]))


def verdict(facts: Facts) -> str:
    """One sentence."""
    state = facts.state
    done, failed, size = state.processes_completed, state.processes_failed, state.num_processes
    number = text.count(size, "process")
    counts = f"{done:,} of {number} completed"
    if failed:
        counts += f", {failed:,} failed"
    every = f"all {number} completed" if size != 1 else "its one process completed"
    match state.status:
        case ExperimentStatus.AGGREGATED:
            return f"Done: {every}, and the results are aggregated."
        case ExperimentStatus.COMPLETED:
            return f"Completed: {every}; the results are not aggregated yet."
        case ExperimentStatus.FAILED if state.can_aggregate() and size:
            return f"The aggregation failed: {every}."
        case ExperimentStatus.FAILED:
            return f"Failed: {counts}{_rest(facts)}."
        case ExperimentStatus.INTERRUPTED:
            by = _BY.get(state.reason, "") if state.reason is not None else ""
            return f"Interrupted{by}: {counts}{_rest(facts)}."
        case ExperimentStatus.INITIALISED:
            return f"Not started: {number}."
    if is_left(state, facts.living):
        if facts.having is not None:
            return f"Submitted: {counts}; {facts.having.title} has {facts.having}."
        if facts.left is not None and facts.left.seen:
            on = text.count(facts.left.attempts, "attempt")
            on += " of it runs on" if facts.left.attempts == 1 else " of it run on"
            return f"Not finished, and nobody drives it any more; {on}: {counts}{_rest(facts)}."
        return f"Not finished, and nobody runs it any more: {counts}{_rest(facts)}."
    if facts.living.kind != "alive":
        return f"Not finished, and whether somebody runs it cannot be told: {counts}{_rest(facts)}."
    left = "" if not facts.left_s else f", about {text.duration(facts.left_s)} left"
    return f"Running: {counts}{_rest(facts)}{left}."


_BY: Final = {
    Reason.USER: " by the user",
    Reason.STALE: " because its owner died",
    Reason.DEADLINE: " by its deadline",
    Reason.PREEMPTED: " by what runs it",
}


def _rest(facts: Facts) -> str:
    state, parts = facts.state, []
    if state.processes_running:
        word = "running" if facts.living.kind == "alive" else "recorded as running"
        parts.append(f"{state.processes_running:,} {word}")
    if state.processes_pending:
        parts.append(f"{state.processes_pending:,} not begun or to be tried again")
    return "".join(f", {each}" for each in parts)


def why(facts: Facts) -> list[str]:
    """What killed what: the reasons, the most frequent first."""
    state = facts.state
    lines = []
    # With failed processes, it would only count them again.
    if state.error_message and not (facts.groups and state.status is ExperimentStatus.FAILED):
        lines.append(columns.cut(state.error_message, _LONGEST))
    for group in facts.groups[:_MOST_LINES]:
        which = columns.cut(text.ranges(group.indices), 100)
        many = f"process {which}"
        if len(group.indices) > 1:
            many = f"{len(group.indices):,} processes ({which})"
        lines.append(columns.cut(f"{many}: {group.words}", _LONGEST_OF_MANY))
    if len(facts.groups) > _MOST_LINES:
        more = len(facts.groups) - _MOST_LINES
        lines.append(f"{more:,} more {'kind' if more == 1 else 'kinds'} of failure")
    for each in facts.interruptions[:_MOST_LINES]:
        reason = "reason not recorded" if each.reason is None else each.reason.replace("_", " ")
        number, whom = f"{each.count:,} attempts were", "them"
        if each.count == 1:
            number, whom = "1 attempt was", "it"
        lines.append(f"{number} interrupted ({reason}); no retry is charged for {whom}")
    if state.status is ExperimentStatus.RUNNING and facts.living.kind != "alive":
        lines.append(columns.cut(f"its owner: {facts.living}", _LONGEST))
    return lines


def owner(facts: Facts) -> str:
    """Who runs it; empty where nobody does: why not is said by `why`, if that matters."""
    if facts.state.status is not ExperimentStatus.RUNNING or facts.living.kind != "alive":
        return ""
    return columns.cut(f"run by {facts.state.owner}: {facts.living}", _LONGEST)


def numbers(facts: Facts) -> list[dict[str, Any]]:
    """What stands in large type."""
    state = facts.state
    size = state.num_processes
    share = f" ({100 * state.processes_completed // size}%)" if size else ""
    found = [
        _number("completed", f"{state.processes_completed:,} of {size:,}", f"processes{share}"),
        _number("failed", f"{state.processes_failed:,}", _kinds(len(facts.groups))),
    ]
    if state.processes_running:
        recorded = "" if facts.living.kind == "alive" else "as recorded; nobody watches them"
        found.append(_number("running", f"{state.processes_running:,}", recorded))
    if reused := state.processes_reused:
        found.append(_number("reused", f"{reused:,}", "done by other experiments"))
    if count := sum(each.count for each in facts.interruptions):
        found.append(_number("interrupted", f"{count:,}", "attempts; not charged"))
    found += _times(facts)
    found += _usage(state)
    found += _best(facts)
    return found


def _kinds(number: int) -> str:
    return "" if number < 2 else f"for {number:,} different reasons"


def _number(label: str, value: str, hint: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "hint": hint}


def _times(facts: Facts) -> list[dict[str, str]]:
    state, found = facts.state, []
    running = state.status is ExperimentStatus.RUNNING
    if facts.elapsed_s is not None:
        goes_on = facts.on or (facts.left is not None and facts.left.seen)
        hint = ("so far" if goes_on else "until the last sign of it") if running else ""
        found.append(_number("elapsed", text.duration(facts.elapsed_s), hint))
    elif state.reason is Reason.STALE:
        found.append(_number("elapsed", "–", "nobody saw when its owner died"))
    if running:
        left = "–" if facts.left_s is None else text.duration(facts.left_s)
        found.append(_number("time left", left, "estimated" if facts.left_s is not None else ""))
    return found


def _usage(state: ExperimentState) -> list[dict[str, str]]:
    used, found = usages(state), []
    if cpu := [each["cpu_s"] for each in used.values() if "cpu_s" in each]:
        found.append(_number("CPU time", text.duration(sum(cpu)), "of the last attempts"))
    peaks = {i: each["max_rss_bytes"] for i, each in used.items() if "max_rss_bytes" in each}
    if peaks:
        index = max(peaks, key=lambda each: peaks[each])
        whose = attempt_of(state, index)
        unit = whose.unit.replace("-", " ") if whose.is_launcher else f"process {index}"
        hint = f"the largest program, of {unit}"
        found.append(_number("peak memory", text.size(peaks[index]), hint))
    return found


def _best(facts: Facts) -> list[dict[str, str]]:
    """Both ends of the first result that is a number: which one is better, its maker knows."""
    for name, values in facts.table["results"].items():
        finite = {
            index: value
            for index, value in enumerate(values)
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if len(set(finite.values())) < 2 or columns.kind(values) not in ("number", "mixed"):
            continue
        low = min(finite, key=lambda each: finite[each])
        high = max(finite, key=lambda each: finite[each])
        short = columns.cut(name, 60)
        return [
            _number(f"{word} {short}", cell(finite[index]), _which(facts, index))
            for word, index in (("highest", high), ("lowest", low))
        ]
    return []


def _which(facts: Facts, index: int) -> str:
    swept = {
        name: values[index]
        for name, values in facts.table["params"].items()
        if len(set(values)) > 1
    }
    words = " ".join(f"{columns.cut(name, 40)}={cell(each)}" for name, each in swept.items())
    return columns.cut(f"process {index}" + (f": {words}" if words else ""), 120)
