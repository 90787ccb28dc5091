"""What may reach the core and what comes out of it: requests, facts, changes and actions.

Records only; `holdfast.lifecycle` says what they do.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import attrs

from holdfast.errors import InvalidRequestError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.processes import PHASES, RUNS
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, ResultRef
from holdfast.lifecycle.reuse import Proof
from holdfast.status import Entity, Reason
from holdfast.validators import (
    all_of,
    aware,
    number,
    optional,
    optional_number,
    optional_text,
    quantities,
    replaced_limits,
    text,
)

__all__ = [
    "Action",
    "Again",
    "Event",
    "Fact",
    "Ignored",
    "Launch",
    "PhaseReported",
    "ProcessExited",
    "ProcessLost",
    "Requested",
    "Step",
    "Stop",
    "Wanted",
    "as_event",
    "check_facts",
    "requested",
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
    "reported_error": str,
    "result_error": str,
    "attempt": int,
    "max_attempts": int,
    "not_before": datetime,
    "process_limits": Mapping,
    "requested_by_user": bool,
    "proven_dead": bool,
    "result_lost": bool,
    "result": ResultRef,
    "identity": ProcessIdentity,
    "host": str,
    "experiment_status": str,
    "ranks_left": tuple,
    "experiment_id": str,
    "work": str,
    "code": str,
    "outputs": tuple,
    "proof": Proof,
    "limits": Mapping,
    "engine": Mapping,
    "phase": str,
    "handle": Mapping,
    "since": datetime,
    "usage": Mapping,
    "engine_end": str,
}


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse what is no fact.

    Raises:
        InvalidRequestError: One that nobody knows, or of the wrong type.
    """
    for name, value in facts.items():
        kind = _FACTS.get(name)
        if kind is None:
            raise _unknown(name)
        wrong = value is not None and not isinstance(value, kind)
        # bool is an int to Python, and nobody's exit code.
        wrong = wrong or (kind is int and isinstance(value, bool))
        if name == "outputs" and value is not None and not wrong:
            wrong = not all(isinstance(each, ResultRef) for each in value)
        if wrong:
            raise InvalidRequestError(
                f"fact {name}",
                f"must be {_KINDS.get(kind, kind.__name__)} or None, got {value!r:.80}",
            )
        if name in _OF_A_RECORD and value is not None:
            _check_field(name, value)


_KINDS: Final = {
    **{int: "an integer", str: "text", bool: "True, False", tuple: "a tuple of ResultRef"},
    **{datetime: "a time", Mapping: "a mapping"},
}
#: Facts of which the record takes not everything of their type, and its field.
_OF_A_RECORD: Final = {
    "not_before": "not_before",
    "process_limits": "limits",
    "since": "started_at",
    "usage": "usage",
}


def _check_field(name: str, value: Any) -> None:
    field = attrs.fields_dict(ProcessProgress)[_OF_A_RECORD[name]]
    assert field.validator is not None
    try:
        field.validator(None, field, value)
    except (TypeError, ValueError) as err:
        raise InvalidRequestError(f"fact {name}:", str(err)) from err


def _unknown(name: object) -> InvalidRequestError:
    import difflib  # only for who misspelt something

    close = difflib.get_close_matches(str(name), _FACTS, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(_FACTS)}"
    return InvalidRequestError("request", f"has an unknown fact {name!r:.80}{hint}")


def _known_facts(_: object, attribute: "attrs.Attribute[Any]", facts: Mapping[str, Any]) -> None:
    check_facts(facts)


@attrs.frozen(kw_only=True)
class Requested:
    """An event that somebody asks for; the machine may refuse it.

    Attributes:
        process: Which process, for events of one.
        facts: What the guards look at and the record keeps: `exit_code`, `signal`,
            `stop_requested`, `interrupted_by`, `timed_out`, `launch_error`, `reported_error`,
            `result_error`, `max_attempts`, `not_before` and `process_limits` (of a requeue),
            `requested_by_user`, `proven_dead`, `result_lost`, `result`, `identity`, `host`,
            `attempt` (the launcher's), `work`, `code`, `outputs`, `proof`, `limits` and `engine`
            (what of these changes as an experiment is opened, in the shape of the file), `phase`,
            `handle` and `since` (of a phase), `usage`, `engine_end`. `experiment_id`,
            `experiment_status` and `ranks_left` are always taken from the state that the event is
            applied to.
    """

    entity: Entity
    event: str = attrs.field(validator=text)
    at: datetime = attrs.field(validator=aware)
    process: int | None = attrs.field(default=None, validator=optional_number)
    reason: Reason | None = attrs.field(default=None, converter=attrs.converters.optional(Reason))
    error_message: str | None = attrs.field(default=None, validator=optional_text)
    evidence: str | None = attrs.field(default=None, validator=optional_text)
    facts: Mapping[str, Any] = attrs.field(factory=dict, validator=_known_facts)

    def __attrs_post_init__(self) -> None:
        if (self.entity == "process") != (self.process is not None):
            raise ValueError("an event of a process names its index, one of an experiment none")


@attrs.frozen(kw_only=True)
class PhaseReported:
    """How far the attempt is: it waits in a queue, is held there, or runs.

    Attributes:
        identity: Of one that runs: its shim, where it is known.
        handle: How its engine finds it again, `Handle.record`; None if that is as before.
        host: Where it runs, if *identity* does not say it.
        since: Of one that runs: when it really began; None for no other time than is recorded, or,
            of one that waited, *at*.
    """

    process: int = attrs.field(validator=number)
    attempt: int = attrs.field(validator=number)
    at: datetime = attrs.field(validator=aware)
    phase: str = attrs.field(default=RUNS, validator=attrs.validators.in_(PHASES))
    identity: ProcessIdentity | None = attrs.field(
        default=None, validator=optional(ProcessIdentity)
    )
    handle: Mapping[str, Any] | None = attrs.field(default=None, validator=optional(Mapping))
    host: str | None = attrs.field(default=None, validator=optional_text)
    since: datetime | None = attrs.field(default=None, validator=aware)
    evidence: str | None = attrs.field(default=None, validator=optional_text)


@attrs.frozen(kw_only=True)
class Again:
    """How a process whose attempt was interrupted is tried again.

    Attributes:
        not_before: When its next attempt may start; None for at once.
        limits: What rules have set for it, as in its record; None if nothing new.
    """

    not_before: datetime | None = attrs.field(default=None, validator=aware)
    limits: Mapping[str, Any] | None = attrs.field(
        default=None, validator=attrs.validators.optional(replaced_limits)
    )


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
        reported_error: What it said itself that went wrong, where its exit code does not say so.
        reason: `exit`, `signal`, `timeout`, `out_of_memory` or `launch_error`; what the other
            facts say, unless given.
        evidence: What else is known of the end, such as what had to be stopped after it.
        result: The proven result file; None if the process wrote none.
        outputs: The proven files that it declared.
        code: Name of the record of the code that it ran with, if it is another than was recorded as
            it started: it had written some of these files itself.
        work: What is recorded as its work, if that is another than as it started: a declared file
            is not as it was then.
        result_error: Why the file that it wrote is not a result; fails the attempt.
        again: If it is tried again at once: from when on, and how.
        engine_end: How its engine ended it (`timeout`, `cancelled`, `preempted`), where that leaves
            its exit unproven.
        usage: What it asked for and used; as in the record of a process.
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
    reported_error: str | None = attrs.field(default=None, validator=optional_text)
    reason: Reason = attrs.field()
    error_message: str | None = attrs.field(default=None, validator=optional_text)
    evidence: str | None = attrs.field(default=None, validator=optional_text)
    result: ResultRef | None = attrs.field(default=None, validator=optional(ResultRef))
    outputs: tuple[ResultRef, ...] = attrs.field(default=(), validator=all_of(ResultRef))
    code: str | None = attrs.field(default=None, validator=optional_text)
    work: str | None = attrs.field(default=None, validator=optional_text)
    host: str | None = attrs.field(default=None, validator=optional_text)
    started_at: datetime | None = attrs.field(default=None, validator=aware)
    ended_at: datetime | None = attrs.field(default=None, validator=aware)
    result_error: str | None = attrs.field(default=None, validator=optional_text)
    again: Again | None = None
    engine_end: str | None = attrs.field(default=None, validator=optional_text)
    usage: Mapping[str, float] | None = attrs.field(
        default=None, validator=attrs.validators.optional(quantities)
    )

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
    again: Again | None = None
    usage: Mapping[str, float] | None = attrs.field(
        default=None, validator=attrs.validators.optional(quantities)
    )


Fact = PhaseReported | ProcessExited | ProcessLost
Event = Requested | Fact

#: What stands for an event where the time is known: `"start"`, `("start", 3)`, and
#: `("complete", 3, {"exit_code": 0})`, whose mapping holds what `Claim.record` takes by name.
Wanted = (
    Event | str | tuple[str] | tuple[str, int | None] | tuple[str, int | None, Mapping[str, Any]]
)


def requested(
    event: str,
    process: int | None = None,
    *,
    at: datetime,
    reason: Reason | str | None = None,
    error_message: str | None = None,
    evidence: str | None = None,
    facts: Mapping[str, Any],
) -> Requested:
    """The request for *event* of the experiment or, unless None, of *process*.

    Raises:
        InvalidRequestError: Something of it is of the wrong kind, or unknown.
    """
    try:
        return Requested(
            entity="experiment" if process is None else "process",
            event=event,
            at=at,
            process=process,
            reason=reason if type(reason) is Reason else _reason(reason),
            error_message=error_message,
            evidence=evidence,
            facts=facts,
        )
    except InvalidRequestError:
        raise
    except (TypeError, ValueError) as err:
        raise InvalidRequestError("request:", str(err)) from err


def _reason(reason: Any) -> Reason | None:
    if reason is None:
        return None
    try:
        return Reason(reason)
    except ValueError:
        known = ", ".join(Reason)
        raise InvalidRequestError("reason", f"must be one of {known}, got {reason!r:.80}") from None


def as_event(wanted: Wanted, at: datetime) -> Event:
    """The event that *wanted* stands for, at *at* unless it says itself when.

    Raises:
        InvalidRequestError: It can be none.
    """
    if isinstance(wanted, Event):
        return wanted
    words: Any = (wanted,) if isinstance(wanted, str) else wanted
    if not isinstance(words, tuple) or not 1 <= len(words) <= 3:
        raise InvalidRequestError(
            "request", f"is an event, or a tuple (event, process, facts), got {wanted!r:.80}"
        )
    event, process, facts = (*words, None, None)[:3] if len(words) < 3 else words
    facts = {} if facts is None else facts
    if not isinstance(facts, Mapping) or not all(isinstance(name, str) for name in facts):
        raise InvalidRequestError("facts", f"are a mapping by their names, got {facts!r:.80}")
    named = {name: facts[name] for name in _OF_A_REQUEST if name in facts}
    rest = {name: value for name, value in facts.items() if name not in _OF_A_REQUEST}
    return requested(event, process, at=at, **named, facts=rest)


_OF_A_REQUEST: Final = ("reason", "error_message", "evidence")


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


class Step(NamedTuple):
    """What an event led to."""

    state: ExperimentState
    changes: tuple[Change, ...]
    actions: tuple[Action, ...]
