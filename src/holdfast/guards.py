"""The guards of both machines, by name: pure functions of a record and the facts of an event.

Each returns None if it lets the event pass, else why not, as a sentence for the user.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from holdfast.errors import Refusal
from holdfast.records import ExperimentState, ProcessProgress, summarise
from holdfast.status import Entity, ProcessStatus

__all__ = ["EXPERIMENT_GUARDS", "FROM_RECORD", "PROCESS_GUARDS", "Facts", "refusals"]

Facts = Mapping[str, Any]


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


def all_processes_completed(state: ExperimentState, facts: Facts) -> str | None:
    """Every process of the experiment is completed."""
    return _every_process_completed(state)


def can_aggregate(state: ExperimentState, facts: Facts) -> str | None:
    """There is a completed process for every index: no average over half a result."""
    return _every_process_completed(state)


def exited_cleanly(process: ProcessProgress, facts: Facts) -> str | None:
    """The attempt ended with exit code 0 and nobody had asked it to stop."""
    if facts.get("stop_requested"):
        return "the attempt had been asked to stop, so that its exit proves nothing"
    code = facts.get("exit_code")
    if type(code) is int and code == 0:
        return None
    if code is None:
        return "no exit code was given, and only exit code 0 completes a process"
    return f"exit code {code}, and only 0 completes a process"


def attempts_left(process: ProcessProgress, facts: Facts) -> str | None:
    """The retry budget (`max_attempts`, 1 unless given) is not used up."""
    budget = facts.get("max_attempts")
    budget = 1 if budget is None else budget
    if process.failures < budget:
        return None
    return f"no attempts left: {process.failures} of {budget} failed"


def requested_by_user(process: ProcessProgress, facts: Facts) -> str | None:
    """A person asked for it, which gives a fresh budget."""
    return None if facts.get("requested_by_user") else "nobody asked for it"


def is_orphaned(process: ProcessProgress, facts: Facts) -> str | None:
    """The attempt is proven dead, with evidence."""
    if facts.get("proven_dead"):
        return None
    return "the attempt is not proven dead"


def result_lost(process: ProcessProgress, facts: Facts) -> str | None:
    """The recorded result is proven missing or altered."""
    if facts.get("result_lost"):
        return None
    return "its result is not proven lost, and a completed process stays completed"


EXPERIMENT_GUARDS: Final[dict[str, Callable[[ExperimentState, Facts], str | None]]] = {
    guard.__name__: guard for guard in (all_processes_completed, can_aggregate)
}
PROCESS_GUARDS: Final[dict[str, Callable[[ProcessProgress, Facts], str | None]]] = {
    guard.__name__: guard
    for guard in (exited_cleanly, attempts_left, requested_by_user, is_orphaned, result_lost)
}

#: Guards that the record alone decides: an event that they refuse is not allowed now, whatever
#: facts come with it.
FROM_RECORD: Final = frozenset(EXPERIMENT_GUARDS)


def refusals(
    entity: Entity,
    record: ExperimentState | ProcessProgress,
    guards: Iterable[str],
    facts: Facts,
) -> tuple[Refusal, ...]:
    """Those of *guards* that refuse, with their reasons; empty if the event may pass."""
    known = cast(
        Mapping[str, Callable[[Any, Facts], str | None]],
        EXPERIMENT_GUARDS if entity == "experiment" else PROCESS_GUARDS,
    )
    return tuple(
        Refusal(guard, why) for guard in guards if (why := known[guard](record, facts)) is not None
    )
