"""The guards of both machines, by name: pure functions of a record and the facts of an event.

Each returns None if it lets the event pass, else why not, as a sentence for the user. Which
transition asks which of them is declared in `machines`; `decisions` asks.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from holdfast.lifecycle.processes import PHASES, RUNS
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, summarise
from holdfast.lifecycle.reuse import Proof
from holdfast.status import SETTLED, Entity, ProcessStatus, Reason

__all__ = ["FROM_RECORD", "GUARDS", "Facts", "Guard"]

Facts = Mapping[str, Any]
#: None if the event may pass, else why not.
Guard = Callable[[Any, Facts], str | None]

#: All of them, by the entity that they guard and their name.
GUARDS: Final[dict[Entity, dict[str, Guard]]] = {"experiment": {}, "process": {}}

_Defined = TypeVar("_Defined", bound=Guard)


def _of(entity: Entity) -> Callable[[_Defined], _Defined]:
    def define(guard: _Defined) -> _Defined:
        GUARDS[entity][guard.__name__] = guard
        return guard

    return define


def _every_process_completed(state: ExperimentState) -> str | None:
    if state.can_aggregate():
        return None
    missing = [
        index
        for index, process in state.process_progress.items()
        if process.status is not ProcessStatus.COMPLETED
    ]
    return (
        f"{len(missing):,} of {state.num_processes:,} processes not completed: {summarise(missing)}"
    )


@_of("experiment")
def all_processes_completed(state: ExperimentState, facts: Facts) -> str | None:
    """Every process of the experiment is completed."""
    return _every_process_completed(state)


@_of("experiment")
def can_aggregate(state: ExperimentState, facts: Facts) -> str | None:
    """There is a completed process for every index: no average over half a result."""
    return _every_process_completed(state)


@_of("process")
def experiment_is_open(process: ProcessProgress, facts: Facts) -> str | None:
    """Its experiment is neither completed nor aggregated, which settles its processes."""
    status = facts.get("experiment_status")
    if status not in SETTLED:
        return None
    return f"the experiment is {status}, and its processes stay as they are"


@_of("process")
def gang_moves_together(process: ProcessProgress, facts: Facts) -> str | None:
    """Every other rank of its gang, if it is one's, has the same event in the same step."""
    left = facts.get("ranks_left")
    if not left:
        return None
    return f"its gang stands and falls together, and would leave behind {summarise(list(left))}"


@_of("process")
def phase_goes_on(process: ProcessProgress, facts: Facts) -> str | None:
    """A phase never goes back: what runs does not wait in a queue again."""
    phase = facts.get("phase")
    if phase not in PHASES:
        return f"a phase is one of {', '.join(PHASES)}, not {phase!s:.40}"
    if phase == RUNS or (process.phase != RUNS and process.identity is None):
        return None
    return f"its command has begun, and is not {phase} any more"


@_of("process")
def exited_cleanly(process: ProcessProgress, facts: Facts) -> str | None:
    """The attempt ended by itself with exit code 0, and what it wrote is a result."""
    if facts.get("timed_out"):
        return "it was stopped at its timeout, so that its exit proves nothing"
    if facts.get("stop_requested"):
        return "the attempt had been asked to stop, so that its exit proves nothing"
    code, signal = facts.get("exit_code"), facts.get("signal")
    stranger = facts.get("interrupted_by")
    if stranger is not None:
        how = f"exit code {code}" if signal is None else f"death by signal {signal}"
        return (
            f"signal {stranger} from outside reached it around its end, "
            f"so that its {how} proves nothing"
        )
    if facts.get("launch_error"):
        return f"it could not be started: {facts['launch_error']}"
    if facts.get("engine_end"):
        return f"its engine ended it ({facts['engine_end']}), so that its exit proves nothing"
    if signal is not None:
        return f"signal {signal} ended it, and only exit code 0 completes a process"
    if code is None:
        return "no exit code was given, and only exit code 0 completes a process"
    if type(code) is not int or code != 0:
        return f"exit code {code}, and only 0 completes a process"
    if facts.get("reported_error"):
        return f"it reported an error: {facts['reported_error']}"
    if facts.get("result_error"):
        return f"its result is not valid: {facts['result_error']}"
    return None


@_of("process")
def attempts_left(process: ProcessProgress, facts: Facts) -> str | None:
    """The retry budget (`max_attempts`, 1 unless given) is not used up."""
    budget = facts.get("max_attempts")
    budget = 1 if budget is None else budget
    if process.failures < budget:
        return None
    return f"no attempts left: {process.failures} of {budget} failed"


@_of("process")
def requested_by_user(process: ProcessProgress, facts: Facts) -> str | None:
    """A person asked for it, which gives a fresh budget."""
    return None if facts.get("requested_by_user") else "nobody asked for it"


@_of("process")
def is_orphaned(process: ProcessProgress, facts: Facts) -> str | None:
    """The attempt is proven dead, with evidence."""
    if facts.get("proven_dead"):
        return None
    return "the attempt is not proven dead"


@_of("process")
def was_interrupted(process: ProcessProgress, facts: Facts) -> str | None:
    """It was asked to stop, or its engine or a signal from outside ended it; no timeout."""
    if facts.get("timed_out"):
        return "it was stopped at its timeout, which is a failure"
    if facts.get("stop_requested") == Reason.STALL:
        return "it was stopped because it had stalled"
    if facts.get("stop_requested") or facts.get("interrupted_by") is not None:
        return None
    if facts.get("engine_end"):
        return None
    return "nothing interrupted the attempt"


@_of("process")
def has_stalled(process: ProcessProgress, facts: Facts) -> str | None:
    """It was asked to stop because it had reported nothing for longer than its limit."""
    if facts.get("timed_out"):
        return "it was stopped at its timeout, which is a failure"
    if facts.get("stop_requested") == Reason.STALL:
        return None
    return "it was not stopped for a stall"


@_of("process")
def result_lost(process: ProcessProgress, facts: Facts) -> str | None:
    """The recorded result is proven missing or altered."""
    if facts.get("result_lost"):
        return None
    return "its result is not proven lost, and a completed process stays completed"


@_of("process")
def same_work_proven(process: ProcessProgress, facts: Facts) -> str | None:
    """Another experiment's process completed the same work, whose result was verified just now."""
    proof: Proof | None = facts.get("proof")
    if proof is None:
        return "nothing proves that another experiment's process did the same work"
    who = f"{proof.origin.ancestor}, from which it would be taken,"
    if proof.origin.ancestor == facts.get("experiment_id"):
        return f"{who} is this very experiment"
    if proof.work is None or proof.work != facts.get("work"):
        return f"{who} did other work"
    if proof.status is not ProcessStatus.COMPLETED:
        return f"{who} has it {proof.status}, not completed"
    if proof.problem is not None:
        return f"{who} has lost it: {proof.problem}"
    return None


#: Guards that the records alone decide, a process's experiment included: an event that they refuse
#: is not allowed now, whatever else is known of it.
FROM_RECORD: Final = frozenset((*GUARDS["experiment"], "experiment_is_open"))
