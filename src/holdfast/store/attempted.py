"""Which attempt a process had last: what an engine, and its files, call it."""

import re
from collections.abc import Mapping
from typing import Final

from holdfast.attempts.names import AttemptName
from holdfast.lifecycle.records import ExperimentState

__all__ = ["attempt_of", "blamed", "by_rank", "usages"]

#: As `by_rank` writes it.
_RANK: Final = re.compile(r"rank (\d+): ")


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


def by_rank(rank: int, why: str) -> str:
    """What a gang failed of, as `blamed` understands it: *why* its *rank* did."""
    return f"rank {rank}: {why}"


def blamed(state: ExperimentState, index: int) -> int:
    """The process whose logs tell why *index* failed: of a gang, the rank that its error names."""
    gang = state.gang(index)
    named = _RANK.match(state.processes[index].error_message or "") if state.has_gangs else None
    if named is None or int(named[1]) >= len(gang):
        return index
    return gang[int(named[1])]
