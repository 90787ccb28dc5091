"""What an accepted event changes in its record, the status included.

`holdfast.lifecycle.decisions` says whether it may happen; machines and lifecycle put both together.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from holdfast.lifecycle.processes import RUNS
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import ENGINE_ENDS, Entity, ExperimentStatus, ProcessStatus, Reason

if TYPE_CHECKING:
    from holdfast.lifecycle.edges import Edge

__all__ = ["Occasion", "Told", "fields"]


class Occasion(Protocol):
    """What the effects read of an event; a `Requested` is one."""

    @property
    def at(self) -> datetime | None:
        """When; None if nobody said, and then no time is known of what it sets."""

    @property
    def reason(self) -> Reason | None:
        """Why, where the event alone does not say it."""

    @property
    def error_message(self) -> str | None:
        """What went wrong, for people."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the guards were told."""


class Told(NamedTuple):
    """An `Occasion` that is no request."""

    at: datetime | None
    reason: Reason | None
    error_message: str | None
    facts: Mapping[str, Any]


def fields(
    entity: Entity, record: ExperimentState | ProcessProgress, edge: "Edge", occasion: Occasion
) -> dict[str, Any]:
    """The fields of *record* that *edge* sets, `status` first."""
    return _EFFECTS[entity, edge.event](record, edge, occasion)


# -- experiments ----------------------------------------------------------------------------------


def _opened(state: ExperimentState, edge: "Edge", occasion: Occasion) -> dict[str, Any]:
    found: dict[str, Any] = {
        "status": ExperimentStatus(edge.target),
        **dict.fromkeys(("finished_at", "reason", "error_message")),
    }
    if state.started_at is None:
        found["started_at"] = occasion.at
    config = dict(state.config)
    for table in ("limits", "engine"):
        if given := occasion.facts.get(table):
            before = config.get(table)
            config[table] = {**(before if isinstance(before, Mapping) else {}), **given}
            found["config"] = config
    return found


def _closed(state: ExperimentState, edge: "Edge", occasion: Occasion) -> dict[str, Any]:
    return {
        "status": ExperimentStatus(edge.target),
        "finished_at": occasion.at,
        "reason": occasion.reason,
        "error_message": occasion.error_message,
    }


# -- processes ------------------------------------------------------------------------------------

#: What a new attempt knows nothing of yet.
_OF_AN_ATTEMPT: Final = (
    *("completed_at", "exit_code", "signal", "reason", "error_message"),
    *("host", "identity", "result"),
)


def _started(process: ProcessProgress, edge: "Edge", occasion: Occasion) -> dict[str, Any]:
    return {
        "status": ProcessStatus.RUNNING,
        # That of its launcher, which may have run without it: it was completed then.
        "attempt": max(process.attempt + 1, occasion.facts.get("attempt") or 0),
        "started_at": occasion.at,
        **dict.fromkeys(_OF_AN_ATTEMPT),
        **_other(process, **{name: occasion.facts.get(name) for name in ("work", "code")}),
        **_other(process, outputs=(), origin=None, not_before=None),
        **_other(process, phase=None, submitted_at=None, handle=None, usage=None),
    }


def _phased(process: ProcessProgress, edge: "Edge", occasion: Occasion) -> dict[str, Any]:
    facts = occasion.facts
    phase = facts["phase"]
    identity = facts.get("identity") or process.identity
    handle = facts.get("handle") or process.handle
    host = facts.get("host") if identity is None else identity.host
    found = {"identity": identity, "host": host or process.host}
    if phase != RUNS:
        taken = process.submitted_at or process.started_at or occasion.at
        return found | _other(
            process, phase=phase, handle=handle, submitted_at=taken, started_at=None
        )
    # Where nothing ever waits, there are no phases.
    queues = handle is not None or process.phase is not None
    began = facts.get("since") or process.started_at or occasion.at
    return found | _other(process, phase=RUNS if queues else None, handle=handle, started_at=began)


def _over(process: ProcessProgress, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of an attempt that has ended, and what it has no more."""
    return _other(process, phase=None, handle=None, usage=facts.get("usage"))


def _other(process: ProcessProgress, **fields: Any) -> dict[str, Any]:
    """Those of *fields* that *process* has otherwise: most lines of a journal need none of them."""
    return {name: value for name, value in fields.items() if value != getattr(process, name)}


def _completed(process: ProcessProgress, edge: "Edge", occasion: Occasion) -> dict[str, Any]:
    facts = occasion.facts
    return {
        "status": ProcessStatus.COMPLETED,
        "completed_at": occasion.at,
        "exit_code": facts.get("exit_code"),
        "reason": Reason.EXIT,
        "error_message": None,
        "host": facts.get("host") or process.host,
        "result": facts.get("result"),
        "identity": None,
        **_other(
            process,
            outputs=facts.get("outputs") or (),
            **{name: facts.get(name) or getattr(process, name) for name in ("code", "work")},
        ),
        **_over(process, facts),
    }


def _reused(process: ProcessProgress, edge: "Edge", occasion: Occasion) -> dict[str, Any]:
    facts = occasion.facts
    return {
        "status": ProcessStatus.COMPLETED,
        "started_at": None,
        "completed_at": occasion.at,
        "exit_code": 0,
        "signal": None,
        "reason": Reason.REUSED,
        "error_message": None,
        "identity": None,
        **{name: facts.get(name) for name in ("host", "result", "work", "code")},
        "outputs": facts.get("outputs") or (),
        "origin": facts["proof"].origin,
        **_other(process, not_before=None),
    }


def _failed(process: ProcessProgress, edge: "Edge", occasion: Occasion) -> dict[str, Any]:
    facts = occasion.facts
    return {
        "status": ProcessStatus.FAILED,
        "failures": process.failures + 1,
        "completed_at": occasion.at,
        "exit_code": facts.get("exit_code"),
        "signal": facts.get("signal"),
        "reason": occasion.reason,
        "error_message": occasion.error_message,
        "host": facts.get("host") or process.host,
        "identity": None,
        **_over(process, facts),
    }


def _requeued(process: ProcessProgress, edge: "Edge", occasion: Occasion) -> dict[str, Any]:
    facts = occasion.facts
    found: dict[str, Any] = {"status": ProcessStatus.PENDING, "started_at": None}
    asked = facts.get("requested_by_user")
    found |= _other(
        process,
        not_before=None if asked else facts.get("not_before"),
        limits=facts.get("process_limits") or process.limits,
    )
    if process.status is ProcessStatus.FAILED:
        # Why it failed stays until the next attempt starts, and when: backoff counts from there.
        if asked:
            found["failures"] = 0
        return found
    found.update(completed_at=None, identity=None, error_message=occasion.error_message)
    if process.status is ProcessStatus.COMPLETED:
        found.update(reason=Reason.RESULT_LOST, result=None, exit_code=None)
        return found | _other(process, outputs=(), origin=None)
    reason = occasion.reason
    if reason is None and facts.get("engine_end") is not None:
        reason = ENGINE_ENDS.get(facts["engine_end"], Reason.PREEMPTED)
    if reason is None and facts.get("interrupted_by") is not None:
        reason = Reason.PREEMPTED
    found.update(reason=reason, interruptions=process.interruptions + 1)
    return found | _over(process, facts) | _other(process, submitted_at=None)


_EFFECTS: Final[Mapping[tuple[Entity, str], Callable[[Any, "Edge", Occasion], dict[str, Any]]]] = {
    **{("experiment", event): _opened for event in ("start", "retry", "resume")},
    **{("experiment", event): _closed for event in ("complete", "aggregate", "fail", "interrupt")},
    ("process", "start"): _started,
    ("process", "phase"): _phased,
    ("process", "complete"): _completed,
    ("process", "reuse"): _reused,
    ("process", "fail"): _failed,
    ("process", "requeue"): _requeued,
}
