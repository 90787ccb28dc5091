"""Deleting an experiment so that a crash at any moment leaves it whole, or to be finished."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Final, Literal

from holdfast.attempts.files import revoke
from holdfast.attempts.looking import Unbegun, look
from holdfast.attempts.names import next_aggregation
from holdfast.errors import ExperimentExistsError, StateWriteError
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import SETTLED, ProcessStatus
from holdfast.store import annotations, journal, locking, view
from holdfast.store.attempted import attempt_of
from holdfast.store.claim import Claim
from holdfast.store.loading import read
from holdfast.store.place import Opened, Place

__all__ = ["TRASH", "finish_interrupted", "outlast", "remove", "revoke_unbegun", "sweep"]

#: What a delete moves a folder to; nothing else is trash, whatever it is called.
TRASH: Final = re.compile(r"\.trash-[0-9a-f]{16}")
_PATIENCE_S: Final = 10.0


def revoke_unbegun(claim: Claim) -> None:
    """What was submitted and has no files yet could begin while they are removed."""
    state, folder = claim.state, claim.folder
    submitted = [
        attempt_of(state, index) for index in state.processes.indices(ProcessStatus.RUNNING)
    ]
    if state.status in SETTLED:
        submitted.append(next_aggregation(folder, state.experiment_id))
    for name in dict.fromkeys(submitted):  # ranks share their launcher's
        if isinstance(look(folder, name), Unbegun):
            revoke(folder, name)


def remove(place: Place, claim: Claim) -> None:
    """Delete the claimed experiment there. From the recorded `deleted` on it counts as not found.

    Raises:
        StateWriteError: The file system refused; a later delete or create finishes it.
    """
    claim.record_deleted()
    _unlink_and_trash(place)


def _unlink_and_trash(place: Place) -> None:
    # While the lock is held: what is said about the next experiment of this name comes later.
    annotations.remove(place)
    try:
        with contextlib.suppress(FileNotFoundError):
            place.files.unlink(place.view_name, place.dir_fd)
        # Durable first: with the folder gone and the view back after a power cut, a view that lay
        # behind its journal would pass for the truth. Also if it is gone already: who unlinked it
        # may have been killed before this.
        place.files.fsync(place.dir_fd)
    except OSError as err:
        raise StateWriteError.of(place.folder, "deleting", err, stored="new") from err
    _trash(place)


def _trash(place: Place) -> None:
    trash = f".trash-{os.urandom(8).hex()}"
    try:
        # Renamed while the lock in it is held: who waits for that lock finds the folder gone.
        place.files.rename(place.stem, trash, place.dir_fd)
        place.files.fsync(place.dir_fd)
    except OSError as err:
        raise StateWriteError.of(place.folder, "deleting", err, stored="new") from err
    with contextlib.suppress(OSError):
        _remove_tree(place.top, trash)


def _remove_tree(above: Opened, name: str) -> None:
    files = above.files
    with above.open_dir(name) as directory:
        # The oldest journal first: a reader that is still in here meets the one that says `deleted`
        # for as long as it meets any.
        for each in sorted(directory.names()):
            try:
                files.unlink(each, directory.fd)
            except (IsADirectoryError, PermissionError):
                _remove_tree(directory, each)
    files.rmdir(name, above.fd)


def finish_interrupted(place: Place) -> bool:
    """Remove what an interrupted delete at *place* left; whether there was any.

    Raises:
        ExperimentExistsError: There is an experiment, with or without a view, or one that is being
            deleted at this moment.
        StateWriteError: The file system refused.
    """
    stem, state_dir = place.stem, place.state_dir
    with _deleted_folder(place) as found:
        if found == "other":
            raise ExperimentExistsError(stem, state_dir)
        if found == "locked":
            raise ExperimentExistsError(stem, state_dir, "it is being deleted at this moment")
        if found == "ours":
            # A second one that finishes it may have been faster.
            with contextlib.suppress(FileNotFoundError):
                _unlink_and_trash(place)
    return found != "none"


def outlast(place: Place, made: os.stat_result, state: ExperimentState) -> None:
    """Let a delete that was under way while the view *made* of *state* came to be end beside it.

    An experiment that was never claimed has no folder: the claim of its delete makes one, after
    whoever creates it anew looked for what a delete left.

    Raises:
        ExperimentExistsError: Somebody else, who took the view for a leftover, was faster.
        StateWriteError: The file system refused, or the delete does not end.
    """
    deadline = time.monotonic() + _PATIENCE_S
    found: _Found = "locked"
    while found not in ("none", "other"):
        try:
            with _deleted_folder(place) as found:
                if found == "ours":
                    _trash(place)
        except FileNotFoundError:
            found = "gone"  # moved away by somebody else at this moment: look again
        except OSError as err:
            raise StateWriteError.of(place.folder, "creating", err, stored="unknown") from err
        if time.monotonic() > deadline:
            problem = "the delete of the one before does not end"
            raise StateWriteError(place.folder, "creating", problem, stored="unknown")
        if found == "locked":
            locking.pause()
    try:
        if view.is_file(place, made):
            return
        # Its first owner may have refreshed the view by now.
        there = read(place)
    except OSError as err:
        raise StateWriteError.of(place.folder, "creating", err, stored="unknown") from err
    if there is None or there.state.created_at != state.created_at:
        faster = "somebody else was faster"
        raise ExperimentExistsError(state.experiment_id, place.state_dir, faster)


_Found = Literal["none", "other", "locked", "ours", "gone"]


@contextlib.contextmanager
def _deleted_folder(place: Place) -> Iterator[_Found]:
    """Whether there is a folder that a delete left, and its lock is *ours* as long as we look.

    `other` is an experiment's that is none, `gone` one that somebody else removed meanwhile.
    """
    with contextlib.ExitStack() as opened:
        folder = place.open_folder()
        if folder is None:
            yield "none"
            return
        opened.enter_context(folder)
        truth = journal.read_truth(folder)
        if truth is None:
            yield "none"
            return
        if not truth.deleted:
            yield "other"
            return
        lock = opened.enter_context(locking.open_lock(folder))
        if locking.try_lock(lock) is False:
            yield "locked"
            return
        yield "ours" if place.is_at(folder) else "gone"


def sweep(top: Opened) -> None:
    """Remove the trash that interrupted deletes left. Never fails: it is trash."""
    with contextlib.suppress(OSError):
        for name in top.names():
            if TRASH.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_tree(top, name)
