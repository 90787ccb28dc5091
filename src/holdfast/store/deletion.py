"""Deleting an experiment so that a crash at any moment leaves it whole, or to be finished."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from holdfast.errors import ExperimentExistsError, StateWriteError
from holdfast.records import ExperimentState
from holdfast.store import journal, ownership, view
from holdfast.store.claim import Claim
from holdfast.store.files import Files
from holdfast.store.journal import cause
from holdfast.store.stored import open_folder, read, same_folder

__all__ = ["TRASH", "finish_interrupted", "outlast", "remove", "sweep"]

#: What a delete moves a folder to; nothing else is trash, whatever it is called.
TRASH: Final = re.compile(r"\.trash-[0-9a-f]{16}")
_RETRY_S: Final = 0.005
_PATIENCE_S: Final = 10.0


def remove(files: Files, claim: Claim, stem: str, dir_fd: int, state_dir: Path) -> None:
    """Delete the claimed experiment. From the recorded `deleted` on it counts as not found.

    Raises:
        StateWriteError: The file system refused; a later delete or create finishes it.
    """
    claim.record_deleted()
    _unlink_and_trash(files, stem, dir_fd, state_dir)


def _unlink_and_trash(files: Files, stem: str, dir_fd: int, state_dir: Path) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            files.unlink(view.file_name(stem), dir_fd)
        # Durable first: with the folder gone and the view back after a power cut, a view that lay
        # behind its journal would pass for the truth. Also if it is gone already: who unlinked it
        # may have been killed before this.
        files.fsync(dir_fd)
    except OSError as err:
        raise StateWriteError(state_dir / stem, "deleting", cause(err), "new") from err
    _trash(files, stem, dir_fd, state_dir)


def _trash(files: Files, stem: str, dir_fd: int, state_dir: Path) -> None:
    trash = f".trash-{os.urandom(8).hex()}"
    try:
        # Renamed while the lock in it is held: who waits for that lock finds the folder gone.
        files.rename(stem, trash, dir_fd)
        files.fsync(dir_fd)
    except OSError as err:
        raise StateWriteError(state_dir / stem, "deleting", cause(err), "new") from err
    with contextlib.suppress(OSError):
        _remove_tree(files, trash, dir_fd)


def _remove_tree(files: Files, name: str, dir_fd: int) -> None:
    with files.directory(name, dir_fd) as fd:
        # The oldest journal first: a reader that is still in here meets the one that says `deleted`
        # for as long as it meets any.
        for each in sorted(files.names(fd)):
            try:
                files.unlink(each, fd)
            except (IsADirectoryError, PermissionError):
                _remove_tree(files, each, fd)
    files.rmdir(name, dir_fd)


def finish_interrupted(files: Files, stem: str, dir_fd: int, state_dir: Path) -> bool:
    """Remove what an interrupted delete of *stem* left; whether there was any.

    Raises:
        ExperimentExistsError: There is an experiment, with or without a view, or one that is being
            deleted at this moment.
        StateWriteError: The file system refused.
    """
    with _deleted_folder(files, stem, dir_fd, state_dir) as found:
        if found == "other":
            raise ExperimentExistsError(stem, state_dir)
        if found == "locked":
            raise ExperimentExistsError(stem, state_dir, "it is being deleted at this moment")
        if found == "ours":
            # A second one that finishes it may have been faster.
            with contextlib.suppress(FileNotFoundError):
                _unlink_and_trash(files, stem, dir_fd, state_dir)
    return found != "none"


def outlast(
    files: Files,
    stem: str,
    dir_fd: int,
    state_dir: Path,
    made: os.stat_result,
    state: ExperimentState,
) -> None:
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
            with _deleted_folder(files, stem, dir_fd, state_dir) as found:
                if found == "ours":
                    _trash(files, stem, dir_fd, state_dir)
        except FileNotFoundError:
            found = "gone"  # moved away by somebody else at this moment: look again
        except OSError as err:
            raise StateWriteError(state_dir / stem, "creating", cause(err), "unknown") from err
        if time.monotonic() > deadline:
            problem = "the delete of the one before does not end"
            raise StateWriteError(state_dir / stem, "creating", problem, "unknown")
        if found == "locked":
            time.sleep(_RETRY_S)
    try:
        if view.is_file(files, view.file_name(stem), dir_fd, made):
            return
        # Its first owner may have refreshed the view by now.
        there = read(files, stem, dir_fd, state_dir)
    except OSError as err:
        raise StateWriteError(state_dir / stem, "creating", cause(err), "unknown") from err
    if there is None or there.state.created_at != state.created_at:
        raise ExperimentExistsError(state.experiment_id, state_dir, "somebody else was faster")


_Found = Literal["none", "other", "locked", "ours", "gone"]


@contextlib.contextmanager
def _deleted_folder(files: Files, stem: str, dir_fd: int, state_dir: Path) -> Iterator[_Found]:
    """Whether there is a folder that a delete left, and its lock is *ours* as long as we look.

    `other` is an experiment's that is none, `gone` one that somebody else removed meanwhile.
    """
    with contextlib.ExitStack() as opened:
        folder_fd = open_folder(files, stem, dir_fd)
        if folder_fd is None:
            yield "none"
            return
        opened.callback(files.close, folder_fd)
        truth = journal.read_truth(files, folder_fd, state_dir / stem)
        if truth is None:
            yield "none"
            return
        if not truth.deleted:
            yield "other"
            return
        lock_fd = files.open_append("lock", folder_fd)
        opened.callback(files.close, lock_fd)
        if ownership.try_lock(files, lock_fd) is False:
            yield "locked"
            return
        yield "ours" if same_folder(files, stem, dir_fd, folder_fd) else "gone"


def sweep(files: Files, dir_fd: int) -> None:
    """Remove the trash that interrupted deletes left. Never fails: it is trash."""
    with contextlib.suppress(OSError):
        for name in files.names(dir_fd):
            if TRASH.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_tree(files, name, dir_fd)
