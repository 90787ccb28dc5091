"""Journals that a view tells of and that are not there: nothing but a backup brings them back."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from holdfast.doctor.findings import Finding, problem
from holdfast.errors import HoldfastError
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import journal, loading
from holdfast.store.place import JOURNALS, Place

__all__ = ["behind_view", "examine", "moment"]

_BACKUP: Final = "bring it back from a backup before anybody goes on: without it, the view counts"


def examine(place: Place) -> Iterator[Finding]:
    """Whether the view of an experiment that has had owners is all that there is of it."""
    # Twice: between the look for a journal and the one at the view, the first owner may have come.
    if _told_by_view(place) is None or (state := _told_by_view(place)) is None:
        return
    path, why = _obstacle(place)
    what = f"{why}, but the view tells of epoch {state.epoch}: the history is lost without it"
    yield problem("missing", path, f"{what}, and every step since that view", _BACKUP)


def behind_view(place: Place, seen: ExperimentState, state: ExperimentState) -> Finding:
    """The view tells what was *seen*, and the journals only of an older *state*."""
    name = f"{place.stem}/{JOURNALS}/{journal.file_name(seen.epoch)}"
    path = place.state_dir / name
    rest = "back from a backup before anybody goes on, or move away a view that is wrong"
    try:
        place.files.stat(name, place.dir_fd)
    except FileNotFoundError:
        what = "is missing, but the view tells of it; the newest journal"
        return problem("missing", path, f"{what} is of epoch {state.epoch}", f"bring it {rest}")
    what = "is ahead of its journal: recorded steps are missing from the journal; keep both"
    what = f"{what} (it tells of {moment(seen)}, the journal of {moment(state)})"
    return problem("missing", place.view_path, what, f"bring {name} {rest}")


def moment(state: ExperimentState) -> str:
    """Which of its states *state* is, like `epoch 2, revision 7`."""
    return f"epoch {state.epoch}, revision {state.revision}"


def _told_by_view(place: Place) -> ExperimentState | None:
    """The state of an experiment that has had owners and has no journal; None for any other."""
    try:
        truth = loading.read(place)
    except (HoldfastError, OSError):
        return None  # named as unreadable
    if truth is None or truth.epoch or not truth.state.epoch:
        return None
    return truth.state


def _obstacle(place: Place) -> tuple[Path, str]:
    """What is not there. What is no directory, the store has refused to read through."""
    path = place.folder
    for name in (place.stem, f"{place.stem}/{JOURNALS}"):
        path = place.state_dir / name
        try:
            place.files.stat(name, place.dir_fd)
        except OSError as err:
            return path, "is missing" if err.errno == errno.ENOENT else "cannot be looked at"
    return path, "holds no journal with a state"
