"""Which attempt a process had last: what an engine, and its files, call it."""

from holdfast.attempts.names import AttemptName
from holdfast.lifecycle.records import ExperimentState

__all__ = ["attempt_of"]


def attempt_of(state: ExperimentState, index: int) -> AttemptName:
    """The last attempt of process *index*: its own, or that of its launcher."""
    attempt = state.processes[index].attempt
    return AttemptName.of_process(state.experiment_id, index, attempt, ranks=state.rank_count)
