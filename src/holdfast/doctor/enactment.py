"""What the lifecycle makes of a recorded step, against what the journal says it made of it.

No list of the fields that an event may set is kept here, which could grow old: the event is asked
for again, with the facts that were kept of it, and whatever the lifecycle sets is what it may have
set. Only reads.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from holdfast.errors import HoldfastError
from holdfast.lifecycle import apply
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.events import Requested
from holdfast.lifecycle.processes import RUNS
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.lifecycle.reuse import Proof
from holdfast.status import ExperimentStatus, ProcessStatus

__all__ = ["NOTES", "problems", "who"]

#: Recorded beside the machines' events, of what; they move nothing. `launched` was 0.1's word for
#: the phase of what runs; a `hook` is told of an end.
NOTES: Final[Mapping[tuple[str, str], str]] = {
    ("process", "launched"): "a process that is not running",
    ("experiment", "released"): "an experiment that nobody owns",
    ("experiment", "hook"): "an experiment that has not ended",
}
#: What the events of an attempt's end keep of them, from where nobody else looked.
_FACTS: Final = (
    *("exit_code", "signal", "host", "result", "outputs", "work", "code"),
    *("not_before", "usage"),
)
#: An attempt's own clock knows better than the lifecycle when it began and ended.
_BY_ITS_OWN_CLOCK: Final[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
    ("complete", "fail"), ("started_at", "completed_at")
)


def problems(state: ExperimentState, change: Change) -> Iterator[str]:
    """In what *change*, which its machine allows in *state*, is not what the lifecycle makes of it.

    A field that is left out of it is a difference only if the record would have become another.
    """
    what = f"{change.event} of {who(change)}"
    try:
        made = _enacted(state, change)
    except (HoldfastError, TypeError, ValueError) as err:
        yield f"{what} cannot be: {str(err).partition(chr(10))[0]}"
        return
    if made is None:
        yield f"{what}: it is {NOTES[change.entity, change.event]}"
        return
    fields = dict(made.fields)
    for name in _BY_ITS_OWN_CLOCK.get(change.event, ()):
        if change.entity == "process" and change.fields.get(name) is not None:
            fields[name] = change.fields[name]
    stray = change.fields.keys() - fields.keys()
    if stray:
        yield f"{what} sets {', '.join(sorted(stray))}, which it never does"
    record = _record(state, change)
    for name, due in fields.items():
        found = change.fields.get(name, getattr(record, name))
        if found != due:
            yield f"{what} makes {name} {found!s:.60}, not {due!s:.60}"
    if change.reason != made.reason:
        yield f"{what} was recorded with the reason {change.reason}, not {made.reason}"


def who(change: Change) -> str:
    """What *change* moves."""
    return "the experiment" if change.process is None else f"process {change.process}"


def _record(state: ExperimentState, change: Change) -> ExperimentState | ProcessProgress:
    return state if change.process is None else state.process_progress[change.process]


def _enacted(state: ExperimentState, change: Change) -> Change | None:
    """What the event would have been recorded as; None if a note of it would not have been."""
    index, record = change.process, _record(state, change)

    def kept(name: str) -> Any:
        return change.fields.get(name, getattr(record, name))

    if (change.entity, change.event) == ("experiment", "released"):
        if state.owner is None:
            return None
        owner = attrs.evolve(state.owner, locked=False, released=True)
        return attrs.evolve(change, fields={"owner": owner})
    if (change.entity, change.event) == ("experiment", "hook"):
        ended = state.status not in (ExperimentStatus.INITIALISED, ExperimentStatus.RUNNING)
        return attrs.evolve(change, fields={}, reason=None) if ended else None
    facts: dict[str, Any] = {}
    if index is None and isinstance(config := change.fields.get("config"), Mapping):
        # They are merged into the former ones, and none of those is ever taken away.
        facts |= {table: config.get(table) for table in ("limits", "engine")}
    if index is not None:
        assert isinstance(record, ProcessProgress)
        if change.event in ("launched", "phase"):
            if change.event == "launched" and record.status is not ProcessStatus.RUNNING:
                return None
            return _phase(state, change, record)
        facts = {name: kept(name) for name in _FACTS}
        facts["process_limits"] = kept("limits")
        if state.ranks is not None:
            # Its launcher's. Whether its gang moved with it is judged for a whole line.
            facts["attempt"] = change.fields.get("attempt")
            state = attrs.evolve(state, ranks=None)
        if change.event == "complete":
            # It sets none: what is in the record is left from before.
            facts["signal"] = None
        if change.event == "reuse" and (origin := kept("origin")) is not None:
            status = ProcessStatus.COMPLETED
            facts["proof"] = Proof(origin=origin, work=facts["work"], status=status)
        # What the guards of these events were told was not kept; that they passed is believed.
        facts |= {"proven_dead": True, "result_lost": True}
        facts["max_attempts"] = record.failures + 1
        facts["requested_by_user"] = "failures" in change.fields
    asked = Requested(
        entity=change.entity,
        event=change.event,
        at=change.at,
        process=index,
        reason=change.reason,
        error_message=kept("error_message"),
        facts=facts,
    )
    return apply.apply(state, asked).changes[0]


def _phase(state: ExperimentState, change: Change, record: ProcessProgress) -> Change:
    def kept(name: str) -> Any:
        return change.fields.get(name, getattr(record, name))

    facts = {name: kept(name) for name in ("identity", "host", "handle")}
    facts["phase"] = kept("phase") or RUNS
    facts["since"] = change.fields.get("started_at")
    # A launcher's word is of all its ranks, noted one by one.
    state = attrs.evolve(state, ranks=None)
    asked = Requested(
        entity="process", event="phase", at=change.at, process=change.process, facts=facts
    )
    made = apply.apply(state, asked).changes[0]
    return attrs.evolve(made, event=change.event, reason=change.reason)
