"""Which processes of an experiment a resume is about: all, some, or those that failed.

The others are held back, which belongs to the run and is recorded nowhere: the next resume goes on
with everything.
"""

from collections.abc import Container, Iterable
from typing import Final

import attrs

from holdfast.errors import InvalidRequestError
from holdfast.lifecycle.records import ExperimentState, summarise
from holdfast.status import ProcessStatus

__all__ = ["EVERYTHING", "Selection", "commands_of", "select"]


_UNFINISHED: Final = frozenset(ProcessStatus) - {ProcessStatus.COMPLETED}


@attrs.frozen(kw_only=True)
class Selection:
    """What was asked for.

    Attributes:
        only: These processes alone, with the other ranks of their launchers; None for all.
        failed_only: Of them, those whose commands have failed.
    """

    only: frozenset[int] | None = None
    failed_only: bool = False

    @property
    def is_everything(self) -> bool:
        """Whether nothing is held back."""
        return self.only is None and not self.failed_only

    def chosen(self, state: ExperimentState, lost: Container[int] = ()) -> frozenset[int]:
        """The processes of *state* that are meant and are to be run, by whole commands.

        Args:
            lost: Those that are completed, and yet to be run.
        """
        asked = (ProcessStatus.FAILED,) if self.failed_only else _UNFINISHED
        found = [
            index
            for index in (range(state.num_processes) if self.only is None else self.only)
            if state.processes[index].status in asked or (index in lost and not self.failed_only)
        ]
        return commands_of(state, found)

    def named(self, state: ExperimentState) -> frozenset[int]:
        """Those that somebody means by their numbers, by whole commands: now, without a pause."""
        return commands_of(state, self.only or ())

    def held(self, state: ExperimentState, lost: Container[int] = ()) -> frozenset[int]:
        """The processes of *state* that are not to be started."""
        if self.is_everything:
            return frozenset()
        return frozenset(range(state.num_processes)) - self.chosen(state, lost)


EVERYTHING: Final = Selection()


def commands_of(state: ExperimentState, indices: Iterable[int]) -> frozenset[int]:
    """*indices*, with the other ranks of their launchers: these start and stop together."""
    return frozenset(rank for index in indices for rank in state.gang(index))


def select(
    state: ExperimentState, only: Iterable[int] | None, *, failed_only: bool = False
) -> Selection:
    """The selection that names *only* these processes of *state*, unless None.

    Raises:
        InvalidRequestError: They are none, no whole numbers, or not there.
    """
    if only is None:
        return Selection(failed_only=failed_only)
    if isinstance(only, str | bytes) or not isinstance(only, Iterable):
        raise InvalidRequestError("only", f"must be indices of processes, got {only!r:.80}")
    given = list(only)
    for index in given:
        if type(index) is not int:
            raise InvalidRequestError("only", f"must be indices of processes, got {index!r:.80}")
    found = frozenset(given)
    if not found:
        raise InvalidRequestError("only", "names no process at all")
    if absent := sorted(i for i in found if not 0 <= i < state.num_processes):
        there = "process 0" if state.num_processes == 1 else f"0 to {state.num_processes - 1}"
        what = f"names processes that are not there: {summarise(absent)}"
        raise InvalidRequestError("only", f"{what}; {state.experiment_id} has {there}")
    return Selection(only=found, failed_only=failed_only)
