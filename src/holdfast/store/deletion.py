"""Deleting an experiment so that a crash at any moment leaves it whole, or to be finished."""

import contextlib
import os
from pathlib import Path

from holdfast.errors import ExperimentExistsError, StateWriteError
from holdfast.store import journal, ownership, view
from holdfast.store.claim import Claim
from holdfast.store.files import Files
from holdfast.store.journal import cause
from holdfast.store.stored import open_folder, same_folder

__all__ = ["finish_interrupted", "remove", "sweep"]

_TRASH = ".trash-"


def remove(files: Files, claim: Claim, stem: str, dir_fd: int, state_dir: Path) -> None:
    """Delete the claimed experiment. From the recorded `deleted` on it counts as not found.

    Raises:
        StateWriteError: The file system refused; a later delete or create finishes it.
    """
    claim.record_deleted()
    _unlink_and_trash(files, stem, dir_fd, state_dir)


def _unlink_and_trash(files: Files, stem: str, dir_fd: int, state_dir: Path) -> None:
    trash = f"{_TRASH}{os.urandom(8).hex()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            files.unlink(view.file_name(stem), dir_fd)
            # Durable first: with the folder gone and the view back after a power cut, a view that
            # lay behind its journal would pass for the truth.
            files.fsync(dir_fd)
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
    with contextlib.ExitStack() as opened:
        folder_fd = open_folder(files, stem, dir_fd)
        if folder_fd is None:
            return False
        opened.callback(files.close, folder_fd)
        truth = journal.read_truth(files, folder_fd, state_dir / stem)
        if truth is None:
            return False
        if not truth.deleted:
            raise ExperimentExistsError(stem, state_dir)
        lock_fd = files.open_append("lock", folder_fd)
        opened.callback(files.close, lock_fd)
        if ownership.try_lock(files, lock_fd) is False:
            raise ExperimentExistsError(stem, state_dir, "it is being deleted at this moment")
        if same_folder(files, stem, dir_fd, folder_fd):
            # A second one that finishes it may have been faster.
            with contextlib.suppress(FileNotFoundError):
                _unlink_and_trash(files, stem, dir_fd, state_dir)
    return True


def sweep(files: Files, dir_fd: int) -> None:
    """Remove the trash that interrupted deletes left. Never fails: it is trash."""
    with contextlib.suppress(OSError):
        for name in files.names(dir_fd):
            if name.startswith(_TRASH):
                with contextlib.suppress(OSError):
                    _remove_tree(files, name, dir_fd)
