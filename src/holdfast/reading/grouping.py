"""What ended badly, the same together: failures by why, and interruptions apart from them.

Every view that shows failures shows these groups, in this order.
"""

from collections.abc import Iterable, Mapping

import attrs

from holdfast.lifecycle.records import ExperimentState
from holdfast.reading.reasons import Failure
from holdfast.status import ProcessStatus, Reason
from holdfast.store.history import Transition

__all__ = ["Group", "Interruption", "groups", "interruptions"]


@attrs.frozen
class Group:
    """Processes that failed for the same reason.

    Attributes:
        kind: Equal for failures that are shown together, see `reasons.Failure`.
        words: Why the first of them failed, in one harmless line.
        reason: How its last attempt ended; None if that was not recorded.
        indices: The processes, ascending.
        sample_index: The one whose log stands for all.
    """

    kind: tuple[object, ...]
    words: str
    reason: Reason | None
    indices: tuple[int, ...]
    sample_index: int


@attrs.frozen
class Interruption:
    """Attempts that something from outside ended; no process is charged for them.

    Attributes:
        reason: None where it is not known any more.
        count: How many attempts.
        indices: The processes, ascending.
    """

    reason: Reason | None
    count: int
    indices: tuple[int, ...]


def groups(failures: Mapping[int, Failure]) -> list[Group]:
    """*failures* by their kind: the most frequent first, then the one with the first process."""
    found: dict[tuple[object, ...], list[int]] = {}
    for index in sorted(failures):
        found.setdefault(failures[index].kind, []).append(index)
    made = []
    for kind, indices in found.items():
        first = failures[indices[0]]
        sample = indices[0] if first.told_by is None else first.told_by
        made.append(Group(kind, str(first), first.reason, tuple(indices), sample))
    return sorted(made, key=lambda group: -len(group.indices))


def interruptions(
    state: ExperimentState, history: Iterable[Transition] | None = None
) -> list[Interruption]:
    """The interrupted attempts of *state* by their reason, the most frequent first.

    Args:
        history: What happened. Without it, a reason is known only where the process has not been
            started again.
    """
    found: dict[Reason | None, list[int]] = {}
    if history is None:
        for index, process in enumerate(state.processes.values()):
            if process.interruptions:
                waits = process.status is ProcessStatus.PENDING and process.completed_at is None
                found.setdefault(process.reason if waits else None, []).append(index)
                found.setdefault(None, []).extend([index] * (process.interruptions - 1))
    else:
        for each in history:
            if (
                each.index is not None
                and each.source == ProcessStatus.RUNNING
                and each.target == ProcessStatus.PENDING
            ):
                found.setdefault(each.reason, []).append(each.index)
    made = [
        Interruption(reason, len(indices), tuple(sorted(set(indices))))
        for reason, indices in found.items()
        if indices
    ]
    return sorted(made, key=lambda each: -each.count)
