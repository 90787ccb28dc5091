"""What may reach the core and what comes out of it: requests, facts, changes and actions.

Records only; `holdfast.lifecycle` says what they do.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import attrs

from holdfast.identity import ProcessIdentity
from holdfast.records import ExperimentState, ResultRef
from holdfast.status import Entity, Reason
from holdfast.validators import aware, number, optional, optional_number, optional_text, text

__all__ = [
    "Action",
    "Change",
    "Event",
    "Fact",
    "Ignored",
    "Launch",
    "ProcessExited",
    "ProcessLaunched",
    "ProcessLost",
    "Requested",
    "Step",
    "Stop",
    "check_facts",
]


#: The facts that a request may bring, and what each must be. A misspelt one would otherwise be
#: no fact at all, and `complete` be refused for want of an exit code that was given.
_FACTS: Final[dict[str, type]] = {
    "exit_code": int,
    "signal": int,
    "stop_requested": object,
    "interrupted_by": int,
    "timed_out": bool,
    "launch_error": str,
    "result_error": str,
    "max_attempts": int,
    "requested_by_user": bool,
    "proven_dead": bool,
    "result_lost": bool,
    "result": ResultRef,
    "identity": ProcessIdentity,
    "host": str,
    "experiment_status": str,
}


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse what is no fact.

    Raises:
        TypeError: One that nobody knows, or of the wrong type.
    """
    for name, value in facts.items():
        if name not in _FACTS:
            raise TypeError(f"unknown fact {name!r}; known: {', '.join(_FACTS)}")
        kind = _FACTS[name]
        wrong = value is not None and not isinstance(value, kind)
        if wrong or (kind is int and isinstance(value, bool)):
            raise TypeError(f"fact {name} must be {kind.__name__} or None, got {value!r}")


def _known_facts(_: object, attribute: "attrs.Attribute[Any]", facts: Mapping[str, Any]) -> None:
    check_facts(facts)


@attrs.frozen(kw_only=True)
class Requested:
    """An event that somebody asks for; the machine may refuse it.

    Attributes:
        process: Which process, for events of one.
        facts: What the guards look at and the record keeps: `exit_code`, `signal`,
            `stop_requested`, `interrupted_by`, `timed_out`, `launch_error`, `result_error`,
            `max_attempts`, `requested_by_user`, `proven_dead`, `result_lost`, `result`, `identity`,
            `host`. `experiment_status` is always taken from the state that the event is applied to.
    """

    entity: Entity
    event: str
    at: datetime = attrs.field(validator=aware)
    process: int | None = None
    reason: Reason | None = attrs.field(default=None, converter=attrs.converters.optional(Reason))
    error_message: str | None = attrs.field(default=None, validator=optional_text)
    evidence: str | None = attrs.field(default=None, validator=optional_text)
    facts: Mapping[str, Any] = attrs.field(factory=dict, validator=_known_facts)

    def __attrs_post_init__(self) -> None:
        if (self.entity == "process") != (self.process is not None):
            raise ValueError("an event of a process names its index, one of an experiment none")


@attrs.frozen(kw_only=True)
class ProcessLaunched:
    """The attempt's shim is running: who it is."""

    process: int = attrs.field(validator=number)
    attempt: int = attrs.field(validator=number)
    at: datetime = attrs.field(validator=aware)
    identity: ProcessIdentity | None = attrs.field(validator=optional(ProcessIdentity))


@attrs.frozen(kw_only=True)
class ProcessExited:
    """The attempt ended, and its exit record says how.

    What it means for the process (completed, requeued, failed) the guards of the machine decide.

    Attributes:
        stop_reason: Why holdfast had asked it to stop; None if it had not. An attempt that was
            asked to stop is never completed, even with exit code 0: it may have cut its work short.
        interrupted_by: The signal from outside that reached it around its end, whose exit code
            proves nothing then.
        timed_out: Whether it was stopped at its timeout.
        launch_error: Why it could not be started.
        reason: `exit`, `signal`, `timeout`, `out_of_memory` or `launch_error`; what the other
            facts say, unless given.
        evidence: What else is known of the end, such as what had to be stopped after it.
        result: The proven result file; None if the process wrote none.
        result_error: Why the file that it wrote is not a result; fails the attempt.
        started_at: When the command began and (*ended_at*) ended, by the attempt's own clock; *at*
            is when that was learnt, which may be much later.
    """

    process: int = attrs.field(validator=number)
    attempt: int = attrs.field(validator=number)
    at: datetime = attrs.field(validator=aware)
    exit_code: int | None = attrs.field(default=None, validator=optional_number)
    signal: int | None = attrs.field(default=None, validator=optional_number)
    stop_reason: Reason | None = None
    interrupted_by: int | None = attrs.field(default=None, validator=optional_number)
    timed_out: bool = False
    launch_error: str | None = attrs.field(default=None, validator=optional_text)
    reason: Reason = attrs.field()
    error_message: str | None = attrs.field(default=None, validator=optional_text)
    evidence: str | None = attrs.field(default=None, validator=optional_text)
    result: ResultRef | None = attrs.field(default=None, validator=optional(ResultRef))
    host: str | None = attrs.field(default=None, validator=optional_text)
    started_at: datetime | None = attrs.field(default=None, validator=aware)
    ended_at: datetime | None = attrs.field(default=None, validator=aware)
    result_error: str | None = attrs.field(default=None, validator=optional_text)

    @reason.default
    def _what_ended_it(self) -> Reason:
        if self.launch_error is not None:
            return Reason.LAUNCH_ERROR
        if self.timed_out:
            return Reason.TIMEOUT
        return Reason.EXIT if self.signal is None else Reason.SIGNAL

    @reason.validator
    def _agrees(self, _: object, reason: Reason) -> None:
        # The guards read `timed_out`: without it, a timeout with exit code 0 would complete.
        if reason is Reason.TIMEOUT and not self.timed_out:
            raise ValueError("reason is timeout, but timed_out is not set")


@attrs.frozen(kw_only=True)
class ProcessLost:
    """The attempt is proven dead and left no exit record: nobody will ever know its exit code."""

    process: int = attrs.field(validator=number)
    attempt: int = attrs.field(validator=number)
    at: datetime = attrs.field(validator=aware)
    evidence: str = attrs.field(validator=text)
    reason: Reason = Reason.LOST


Fact = ProcessLaunched | ProcessExited | ProcessLost
Event = Requested | Fact


@attrs.frozen
class Launch:
    """Start this attempt: its intent is recorded (save first, then act)."""

    process: int
    attempt: int


@attrs.frozen
class Stop:
    """Stop this attempt: the experiment does not go on."""

    process: int
    attempt: int
    reason: Reason | None


@attrs.frozen
class Ignored:
    """A fact that came too late to change anything."""

    why: str


Action = Launch | Stop | Ignored


@attrs.frozen(kw_only=True)
class Change:
    """What one event did to one record: what a journal keeps.

    Attributes:
        event: The machine's event, or `launched`, which moves nothing (*source* is *target*).
        at: When; becomes the experiment's `last_updated`.
        fields: The fields of the record that were set, typed, `status` among them if it moved.
    """

    entity: Entity
    process: int | None
    event: str
    source: str
    target: str
    at: datetime
    reason: Reason | None = None
    evidence: str | None = None
    fields: Mapping[str, Any]


class Step(NamedTuple):
    """What an event led to."""

    state: ExperimentState
    changes: tuple[Change, ...]
    actions: tuple[Action, ...]
