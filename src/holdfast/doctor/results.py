"""Whether the outcomes and results of an experiment, and its aggregate, are what they should be."""

from collections.abc import Container, Iterator
from pathlib import Path

from holdfast.attempts.files import read_exit
from holdfast.attempts.names import ATTEMPTS, RESULTS, AttemptName, file_path
from holdfast.doctor.findings import Finding, problem, readable, to_read
from holdfast.errors import DiskError, StateCorruptError, cause
from holdfast.lifecycle.records import ExperimentState
from holdfast.results import acceptance, aggregation
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.place import Place

__all__ = ["examine"]


def examine(place: Place, state: ExperimentState, closed: Container[str]) -> Iterator[Finding]:
    """Outcomes that nobody can adopt, results that are missing or altered, then the aggregate.

    *closed* are the directories that may not be looked into.
    """
    if ATTEMPTS not in closed:
        yield from _exits(place.folder, state)
    if RESULTS not in closed:
        yield from _results(place, state)
    if state.status is ExperimentStatus.AGGREGATED:
        yield from _aggregate(place.folder, state)


def _exits(folder: Path, state: ExperimentState) -> Iterator[Finding]:
    """Exit records of running attempts, which are about to be adopted and say nothing."""
    seen: set[AttemptName] = set()
    for index in state.processes.indices(ProcessStatus.RUNNING):
        attempt = state.processes[index].attempt
        name = AttemptName.of_process(state.experiment_id, index, attempt, ranks=state.rank_count)
        if name in seen:
            continue  # that of its launcher, told once
        seen.add(name)
        path = file_path(folder, name, "exit")
        try:
            read_exit(folder, name)
        except StateCorruptError as err:
            repair = "bring it back from a backup before anybody goes on: as it is, resume takes it"
            repair = f"{repair} for a failure of attempt {attempt}"
            yield problem("unreadable", path, f"process {index}: {readable(err)}", repair)
        except DiskError as err:
            what = f"process {index}: {readable(err)}"
            yield problem("unreadable", path, what, to_read(err.__cause__))


def _results(place: Place, state: ExperimentState) -> Iterator[Finding]:
    folder = place.folder
    for index, process in state.process_progress.items():
        if process.result is None:
            continue
        path = folder / process.result.path
        try:
            lost = acceptance.verify(folder, process.result, files=place.files)
        except OSError as err:
            what = f"process {index}: cannot be read: {cause(err)}"
            yield problem("unreadable", path, what, to_read(err))
            continue
        if lost is not None and lost.startswith("cannot be opened"):
            repair = "ask its owner for permission before anybody goes on: resume takes it for lost"
            yield problem("unreadable", path, f"process {index}: {lost}", repair)
        elif lost is not None:
            yield problem("result", path, f"process {index}: {lost}", *_made_again(state))


def _made_again(state: ExperimentState) -> tuple[str, ...]:
    """How a lost result comes back, in words and in those of the command that does it."""
    if state.status is ExperimentStatus.AGGREGATED:
        # Nothing leads out of aggregated: its processes never run again.
        repair = "bring it back from a backup; nothing makes it again but to start over"
        if state.config_path is None or not state.config.get("command"):
            return (f"{repair}, with `run --fresh`",)
        return repair, "run", "--fresh", state.config_path
    if not state.config.get("command"):
        return ("bring it back from a backup, or requeue its process as `result_lost`",)
    return "run its process again", "resume", state.experiment_id


def _aggregate(folder: Path, state: ExperimentState) -> Iterator[Finding]:
    path = folder / aggregation.FILE_NAME
    again = ("aggregate", state.experiment_id)
    try:
        # Who aggregates with the library alone need not have one.
        if aggregation.read(folder) is None and state.config.get("command"):
            yield problem("result", path, "is missing", "make it again from the results", *again)
    except StateCorruptError as err:
        what = readable(err)
        if isinstance(err.__cause__, PermissionError):
            yield problem("unreadable", path, what, to_read(err.__cause__))
        else:
            # Nothing that is in the way is written over.
            yield problem("result", path, what, "move it away, then make it again", *again)
