"""What the results of an experiment rest on: records of code, and the attempts that were reused."""

import contextlib
import re
import stat
from collections.abc import Container, Iterator
from typing import Final

from holdfast.doctor.findings import Finding, Site, hint, problem, to_read
from holdfast.errors import InvalidIdError, cause
from holdfast.lifecycle.records import ExperimentState, Origin, ProcessProgress, summarise
from holdfast.provenance import code
from holdfast.results import acceptance
from holdfast.status import ProcessStatus
from holdfast.store.catalog import scanning
from holdfast.store.place import Opened, Place

__all__ = ["examine"]

_RECORD: Final = re.compile(r"[0-9a-f]{32}\.json")
_BACKUP: Final = "bring it back from a backup: without it, a change of code since goes unnoticed"


def examine(
    site: Site, place: Place, state: ExperimentState, closed: Container[str]
) -> Iterator[Finding]:
    """Records of code that cannot be read, reuses that could not be, and ancestors edited since.

    *closed* are the directories that may not be looked into.
    """
    if code.FOLDER not in closed:
        yield from _records(place, state)
    reused = {
        index: process.origin
        for index, process in state.process_progress.items()
        if process.origin is not None
    }
    yield from _names(place, state, reused)
    yield from _origins(site, place, state, reused)


# -- records of code ------------------------------------------------------------------------------


def _records(place: Place, state: ExperimentState) -> Iterator[Finding]:
    named: dict[str, list[int]] = {}
    for index, process in state.process_progress.items():
        if process.code is not None:
            named.setdefault(process.code, []).append(index)
    there = _there(place)
    # Those that nobody names any more are of earlier attempts, and in the history.
    for name in sorted({*named, *there}):
        if code.read(place.folder, name) is not None:
            continue
        whose = f"process {summarise(named[name])}" if name in named else "an earlier attempt"
        path = place.folder / code.FOLDER
        if _RECORD.fullmatch(file := f"{name}.json"):
            path /= file  # any other name leads who knows where
        if name not in there:
            yield problem("missing", path, f"is missing, the code of {whose}", _BACKUP)
        elif (err := there[name]) is None:
            what = f"is no record of the code of {whose}: damaged, or of a newer holdfast"
            yield problem("unreadable", path, what, _BACKUP)
        elif not isinstance(err, IsADirectoryError):  # any other kind of file is named as that
            what = f"cannot be read, the code of {whose}: {cause(err)}"
            yield problem("unreadable", path, what, to_read(err))


def _there(place: Place) -> dict[str, OSError | None]:
    """The names of the records of code, and what keeps each from being read."""
    found: dict[str, OSError | None] = {}
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        place.top.open_dir(place.stem) as folder,
        folder.open_dir(code.FOLDER) as records,
    ):
        for name in filter(_RECORD.fullmatch, records.names()):
            found[name.removesuffix(".json")] = _obstacle(records, name)
    return found


def _obstacle(records: Opened, name: str) -> OSError | None:
    try:
        if not stat.S_ISREG(records.files.stat(name, records.fd).st_mode):
            return IsADirectoryError()
        records.open_read(name).close()
    except OSError as err:
        return err
    return None


# -- what was reused ------------------------------------------------------------------------------


def _names(place: Place, state: ExperimentState, reused: dict[int, Origin]) -> Iterator[Finding]:
    for index in reused:
        result = state.processes[index].result
        due = acceptance.path_of(place.folder, f"{index}.0")
        if result is not None and place.folder / result.path != due:
            due = due.relative_to(place.folder)
            what = f"process {index} was reused, and its result is recorded as {result.path:.60}"
            what = f"{what}, not {due}"
            repair = "bring it back from a backup, or start over; to see how it came about"
            command = ("show", "--history", state.experiment_id)
            yield problem("illegal", place.folder, what, repair, *command)


def _origins(
    site: Site, place: Place, state: ExperimentState, reused: dict[int, Origin]
) -> Iterator[Finding]:
    known: dict[str, ExperimentState | None] = {}
    for index, origin in reused.items():
        process, name = state.processes[index], origin.experiment_id
        if name not in known:
            known[name] = _ancestor(site, name)
        ancestor = known[name]
        if ancestor is None or _is_another(ancestor, process):
            continue
        became = _became(site, ancestor, origin, process)
        if became is None:
            continue
        path = acceptance.path_of(place.folder, f"{index}.0")
        what = f"process {index} was taken from {origin}, {became}"
        repair = "leave it: its own copy is untouched, and counts; to run it anew after all"
        if state.config_path is None:
            yield hint("origin", path, what, f"{repair}, `run --fresh`")
        else:
            yield hint("origin", path, what, repair, "run", "--fresh", state.config_path)


def _ancestor(site: Site, experiment_id: str) -> ExperimentState | None:
    """The state of an experiment; None if it is gone, or was named as unreadable itself."""
    try:
        entry = scanning.read_entry(Place.of(site.top, experiment_id))
    except InvalidIdError:
        return None
    return None if entry is None else entry.state


def _is_another(ancestor: ExperimentState, process: ProcessProgress) -> bool:
    """Whether the one that was reused is deleted, and another has its name since."""
    times = ancestor.created_at, process.completed_at
    return times[0] is not None and times[1] is not None and times[0] > times[1]


def _became(
    site: Site, ancestor: ExperimentState, origin: Origin, ours: ProcessProgress
) -> str | None:
    """What became of the result in *ancestor*; None if it is still what was taken."""
    theirs = ancestor.process_progress.get(origin.process)
    if theirs is None:
        return "which is not there any more"
    if theirs.status is not ProcessStatus.COMPLETED:
        return f"which is {theirs.status} again"
    if theirs.work != ours.work:
        return "which has done other work since"
    place = Place.of(site.top, origin.experiment_id)
    if theirs.result is None or ours.result is None:
        return None if theirs.result is ours.result else "which has another result now"
    if (theirs.result.size, theirs.result.sha256) != (ours.result.size, ours.result.sha256):
        return f"which has another result now, of attempt {theirs.attempt}"
    try:
        lost = acceptance.verify(place.folder, theirs.result, files=place.files)
    except OSError:
        return None  # named as unreadable
    return None if lost is None else f"whose result {lost}"
