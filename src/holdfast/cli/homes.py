"""Where experiments live when nobody says so, and whom to trust with that.

`-C` and `HOLDFAST_STATE_DIR` say so. Else what is found beside a file or above a folder is used, as
git finds its repository. Whoever can write there decides which commands `resume` runs, so that it
must be ours alone.
"""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.errors import AmbiguousExperimentError, HoldfastError, UntrustedPlaceError
from holdfast.store.place import STATE_DIR

if TYPE_CHECKING:
    from holdfast.config.experiment_file import Experiment
    from holdfast.lifecycle.records import ExperimentState
    from holdfast.store.manager import StateManager

__all__ = ["above", "for_work", "twins"]


#: Experiments with as many processes that are compared at most to find the same work elsewhere.
_MOST_COMPARED: Final = 50


def above(folder: Path = Path()) -> Path:
    """The state directory in or above *folder*; one to be made here if there is none.

    Raises:
        UntrustedPlaceError: Others can write into what is found.
    """
    if _is_here():
        return STATE_DIR
    return next(_trusted(folder), STATE_DIR)


def for_work(experiment: "Experiment") -> tuple[Path, bool]:
    """The state directory for a run of *experiment*, and whether its work is there.

    One that has its work comes first: the one here, then those beside and above its file; without
    any, the nearest of the latter, which may be the one here.

    Raises:
        UntrustedPlaceError: Others can write into what is found.
    """
    if _is_here() and holds(STATE_DIR, experiment):
        return STATE_DIR, True
    found = list(_trusted(experiment.cwd))
    for place in found:
        if holds(place, experiment):
            return place, True
    return (found[0] if found else STATE_DIR), False


def holds(state_dir: Path, experiment: "Experiment") -> bool:
    """Whether an experiment of this work is in *state_dir*."""
    return _same_work(state_dir, experiment) is not None


def twins(state_dir: Path, experiment: "Experiment") -> Iterator[tuple[Path, "ExperimentState"]]:
    """Where else the work of *experiment*, which is not in *state_dir*, was done or begun.

    In other directories that could have been meant, and in this one for a folder that was moved.
    """
    tried = {os.path.realpath(state_dir)}
    for folder in (Path(), experiment.cwd):
        for place in _places(folder):
            if os.path.realpath(place) in tried or _distrust(place) is not None:
                continue
            tried.add(os.path.realpath(place))
            if (state := _same_work(place, experiment)) is not None:
                yield place, state
    if (state := _moved(state_dir, experiment)) is not None:
        yield state_dir, state


def _same_work(state_dir: Path, experiment: "Experiment") -> "ExperimentState | None":
    from holdfast.store.manager import StateManager

    manager = StateManager(state_dir)
    with _in_silence():
        try:
            hashes = experiment.config_hashes(state_dir)
            return manager.find_by_config_hash(hashes, include_finished=True)
        except AmbiguousExperimentError as err:
            return manager.load(max(err.matches))
    return None


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """What is wrong with a directory that is only looked into is told once it is used."""
    with warnings.catch_warnings(), contextlib.suppress(HoldfastError):
        warnings.simplefilter("ignore")
        yield


def _moved(state_dir: Path, experiment: "Experiment") -> "ExperimentState | None":
    from holdfast.store.manager import StateManager

    manager = StateManager(state_dir)
    with _in_silence():
        alike = [
            summary
            for summary in manager.listing().experiments
            if summary.num_processes == experiment.num_processes
        ]
        alike.sort(key=lambda summary: str(summary.created_at), reverse=True)
        wanted = _placeless(experiment, state_dir)
        found = (_of_work(manager, each.experiment_id, wanted) for each in alike[:_MOST_COMPARED])
        return next((state for state in found if state is not None), None)
    return None


def _of_work(
    manager: "StateManager", experiment_id: str, wanted: object
) -> "ExperimentState | None":
    from holdfast.config.experiment_file import Experiment

    try:
        state = manager.load(experiment_id)
        stored = Experiment.from_stored(state.config)
    except (HoldfastError, TypeError, ValueError):
        return None
    return state if _placeless(stored, manager.state_dir) == wanted else None


def _placeless(experiment: "Experiment", state_dir: Path) -> bytes:
    from holdfast.config.hashing import canonical_json

    return canonical_json(experiment.work(state_dir), ["cwd"])


# -- looking upwards ------------------------------------------------------------------------------


def _places(folder: Path) -> Iterator[Path]:
    """The state directories in *folder* and above, up to home, a mount point, another's folder."""
    # Not `Path.home`, which raises where nobody knows it: then nothing is above it.
    home = Path(os.path.realpath(os.path.expanduser("~")))  # noqa: PTH111
    here = Path(os.path.realpath(folder))
    while True:
        if (here / STATE_DIR).is_dir():
            yield Path(os.path.relpath(here / STATE_DIR))
        if here in (home, here.parent) or os.path.ismount(here) or not _is_ours(here):
            return
        here = here.parent


def _trusted(folder: Path) -> Iterator[Path]:
    for place in _places(folder):
        # What is here was chosen by coming here.
        if place != STATE_DIR and (why := _distrust(place)) is not None:
            raise UntrustedPlaceError(place, why)
        yield place


def _is_ours(folder: Path) -> bool:
    try:
        info = folder.stat()
    except OSError:
        return False
    return info.st_uid == os.geteuid() and not info.st_mode & stat.S_IWOTH


def _distrust(place: Path) -> str | None:
    """Why commands from *place* must not be run just because it was found."""
    try:
        for info in (place.lstat(), place.stat()):
            if info.st_uid != os.geteuid():
                return f"it is owned by {_user(info.st_uid)}"
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            who = "everybody" if info.st_mode & stat.S_IWOTH else "its group"
            return f"{who} can write there"
    except OSError as err:
        return f"it cannot be looked at: {err.strerror}"
    return None


def _is_here() -> bool:
    """Whether there is a state directory in the current folder.

    Raises:
        UntrustedPlaceError: Another user put it into a folder where everybody may, as in /tmp.
    """
    try:
        info, folder = STATE_DIR.lstat(), Path().stat()
    except OSError:
        return False
    if folder.st_mode & stat.S_IWOTH and info.st_uid not in (os.geteuid(), 0, folder.st_uid):
        raise UntrustedPlaceError(STATE_DIR, f"{_user(info.st_uid)} put it where everybody may")
    return True


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
