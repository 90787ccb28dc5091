"""Which attempt a process had last: what an engine, and its files, call it."""

from collections.abc import Mapping

from holdfast.attempts.names import AttemptName
from holdfast.lifecycle.records import ExperimentState

__all__ = ["attempt_of", "usages"]


def attempt_of(state: ExperimentState, index: int) -> AttemptName:
    """The last attempt of process *index*: its own, or that of its launcher."""
    attempt = state.processes[index].attempt
    return AttemptName.of_process(state.experiment_id, index, attempt, ranks=state.rank_count)


def usages(state: ExperimentState) -> dict[int, Mapping[str, float]]:
    """What attempts that ended used, each once: by the first of the ranks that share it."""
    found: dict[int, Mapping[str, float]] = {}
    seen = set[tuple[str, frozenset[tuple[str, float]]]]()
    for index, process in state.processes.items():
        if process.usage:
            which = attempt_of(state, index).unit, frozenset(process.usage.items())
            if which not in seen:
                seen.add(which)
                found[index] = process.usage
    return found
