"""Resuming a part of an experiment: whether there is anything to do, and what is said before."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from holdfast.lifecycle.records import ExperimentState, summarise
from holdfast.orchestration.configured import configuration
from holdfast.orchestration.selecting import Selection
from holdfast.orchestration.takeover import Takeover, foresee
from holdfast.orchestration.taking import Taking
from holdfast.provenance.digests import Digests
from holdfast.status import ProcessStatus
from holdfast.store.manager import StateManager

__all__ = ["is_idle", "notes"]


def is_idle(
    manager: StateManager,
    state: ExperimentState,
    selection: Selection,
    digests: Digests,
    at: datetime,
) -> bool:
    """Whether nothing of *selection* is left to do, so that *state* need not be touched.

    Not of one that somebody runs: only its owner knows.
    """
    if selection.is_everything or manager.liveness(state.experiment_id).kind == "alive":
        return False
    if selection.chosen(state):
        return False
    # Results may be lost, and attempts may have failed while nobody watched.
    experiment = configuration(state, manager.state_dir)
    found = foresee(
        *(state, manager.folder(state.experiment_id), at),
        *(experiment.limits, experiment.retry),
        take=Taking(experiment=experiment, digests=digests),
        selection=selection,
        verify=not selection.failed_only,
    )
    return all(
        index in found.held or each.action == "skip" for index, each in enumerate(found.decisions)
    )


def notes(selection: Selection, state: ExperimentState, taken: Takeover) -> Iterator[str]:
    """What people want to know before anything of *selection* starts.

    Args:
        state: As it was found.
        taken: What is done with each of its processes.
    """
    named = selection.only or frozenset()
    made = list(enumerate(taken.decisions))
    if done := [i for i, each in made if i in named and each.completed]:
        yield f"{_processes(done, 'is', 'are')} completed, not run again"
    held = [i for i, each in made if each.action == "hold"]
    if selection.failed_only and (other := [i for i in held if i in named]):
        yield f"{_processes(other, 'has', 'have')} not failed"
    along = [i for i, each in made if each.action == "run" and _unasked(selection, state, i)]
    if along:
        yield f"{_processes(along, 'goes', 'go')} along: a launcher starts all its ranks"
    if running := [i for i, each in made if i in taken.held and each.action == "adopt"]:
        yield f"{_processes(running, 'runs', 'run')}, and {_it(running)} not stopped"
    if held:
        yield f"held back until the next resume: {_processes(held)}"


def _unasked(selection: Selection, state: ExperimentState, index: int) -> bool:
    if selection.only is not None and index not in selection.only:
        return True
    return selection.failed_only and state.processes[index].status is ProcessStatus.PENDING


def _processes(indices: Sequence[int], one: str = "", several: str = "") -> str:
    noun, verb = ("process", one) if len(indices) == 1 else ("processes", several)
    return f"{noun} {summarise(list(indices))} {verb}".rstrip()


def _it(indices: Sequence[int]) -> str:
    return "is" if len(indices) == 1 else "are"
