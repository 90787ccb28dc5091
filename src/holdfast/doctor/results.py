"""Whether outcomes, results, outputs and aggregate of an experiment are what they should be."""

import contextlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

from holdfast.attempts.files import read_exit
from holdfast.attempts.names import ATTEMPTS, RESULTS, AttemptName, file_path
from holdfast.config.experiment_file import Experiment
from holdfast.doctor.findings import Finding, Maker, Site, hint, problem, readable, to_read
from holdfast.encoding import local
from holdfast.errors import ConfigError, DiskError, StateCorruptError, cause
from holdfast.lifecycle.records import ExperimentState
from holdfast.results import acceptance, aggregation, outputs
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.attempted import attempt_of
from holdfast.store.catalog.scanning import entries
from holdfast.store.place import Place

__all__ = ["examine"]

_OVER: Final = "left as it is: a resume would run its process again, and write over that"


def examine(
    site: Site, place: Place, state: ExperimentState, closed: Container[str]
) -> Iterator[Finding]:
    """Outcomes that nobody can adopt, results and outputs missing or altered, then the aggregate.

    *closed* are the directories that may not be looked into.
    """
    if ATTEMPTS not in closed:
        yield from _exits(place.folder, state)
    if RESULTS not in closed:
        yield from _results(place, state)
    yield from _outputs(site, state)
    if state.status is ExperimentStatus.AGGREGATED:
        yield from _aggregate(place.folder, state)


def _exits(folder: Path, state: ExperimentState) -> Iterator[Finding]:
    """Exit records of running attempts, which are about to be adopted and say nothing."""
    seen: set[AttemptName] = set()
    for index in state.processes.indices(ProcessStatus.RUNNING):
        name = attempt_of(state, index)
        if name in seen:
            continue  # that of its launcher, told once
        seen.add(name)
        path = file_path(folder, name, "exit")
        try:
            read_exit(folder, name)
        except StateCorruptError as err:
            repair = "bring it back from a backup before anybody goes on: as it is, resume takes it"
            repair = f"{repair} for a failure of attempt {name.attempt}"
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


def _outputs(site: Site, state: ExperimentState) -> Iterator[Finding]:
    """Declared files of completed processes. What ranks share is read once, and told once."""
    cwd: Path | None = None
    for index in state.processes.indices(ProcessStatus.COMPLETED):
        for ref in state.processes[index].outputs:
            cwd = cwd or _cwd(site, state)
            path = cwd / local(ref.path)
            try:
                lost = outputs.lost(cwd, (ref,), site.digests)
            except OSError as err:
                if not cwd.is_dir():
                    yield _unmounted(cwd, state, err)
                    return
                what = f"process {index}: output {ref.path} cannot be read: {cause(err)}"
                yield problem("unreadable", path, what, to_read(err))
                continue
            if lost is None:
                continue
            what = f"process {index}: output {ref.path} {lost[1]}"
            aggregated = state.status is ExperimentStatus.AGGREGATED
            if (by := _replaced(site, state, index, path)) is not None:
                if not aggregated:  # else nobody asks for it any more
                    what = f"process {index}: output {ref.path} was made anew by {by}"
                    yield hint("result", path, what, _OVER)
            elif aggregated and lost[1] == "is missing":
                words = "moved away, it may be: aggregated, nothing asks for it. To make it anew"
                yield hint("result", path, what, *_anew(state, words))
            else:
                yield problem("result", path, what, *_made_again(state))


def _replaced(site: Site, state: ExperimentState, index: int, path: Path) -> str | None:
    """The process that has made *path* what it is since, in another experiment; None if none."""
    ended = state.processes[index].completed_at
    if not site.makers:
        for entry in entries(site.top):
            if (other := entry.state) is None:
                continue
            cwd = _cwd(site, other)
            for number in other.processes.indices(ProcessStatus.COMPLETED):
                done = other.processes[number]
                for ref in done.outputs:
                    maker = Maker(other.experiment_id, number, done.completed_at, cwd, ref)
                    site.makers.setdefault(cwd / local(ref.path), []).append(maker)
    for each in site.makers.get(path, ()):
        if each.experiment_id == state.experiment_id or each.at is None or ended is None:
            continue
        with contextlib.suppress(OSError):  # nothing is known
            if each.at > ended and outputs.lost(each.cwd, (each.ref,), site.digests) is None:
                return f"{each.experiment_id}/{each.process}"
    return None


def _unmounted(cwd: Path, state: ExperimentState, err: OSError) -> Finding:
    what = f"the outputs of {state.experiment_id} are below it, and cannot be looked at"
    repair = "mount or bring back the directory before anybody goes on; nothing is taken for lost"
    return problem("unreadable", cwd, f"{what}: {cause(err)}", f"{repair} until then")


def _cwd(site: Site, state: ExperimentState) -> Path:
    """Where its processes run, in a project that may have been moved since."""
    try:
        return Experiment.from_stored(
            state.config, state.cwd, state_dir=site.top.path, config_hash=state.config_hash
        ).cwd
    except ConfigError:
        return Path(local(state.cwd or ".")).absolute()


def _made_again(state: ExperimentState) -> tuple[str, ...]:
    """How a lost result comes back, in words and in those of the command that does it."""
    if state.status is ExperimentStatus.AGGREGATED:
        # Nothing leads out of aggregated: its processes never run again.
        return _anew(state, "bring it back from a backup; nothing makes it again but to start over")
    if not state.config.get("command"):
        return ("bring it back from a backup, or requeue its process as `result_lost`",)
    return "run its process again", "resume", state.experiment_id


def _anew(state: ExperimentState, repair: str) -> tuple[str, ...]:
    if state.config_path is None or not state.config.get("command"):
        return (f"{repair}, with `run --fresh`",)
    return repair, "run", "--fresh", state.config_path


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
