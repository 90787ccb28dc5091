"""What is stored of one experiment: the truth of its journals, else its view (DESIGN §4)."""

import contextlib
import errno
import json
import os
from pathlib import Path

from holdfast.records import ExperimentState
from holdfast.store import journal, view
from holdfast.store.files import Files
from holdfast.store.journal import Truth

__all__ = ["exists", "open_folder", "read", "same_folder", "view_problem"]


def open_folder(files: Files, stem: str, dir_fd: int) -> int | None:
    """A descriptor of the experiment's folder; None if there is none."""
    try:
        return files.open_dir(stem, dir_fd)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def same_folder(files: Files, stem: str, dir_fd: int, folder_fd: int) -> bool:
    """Whether *folder_fd* is still the experiment's folder: a delete moves it away."""
    try:
        return os.path.samestat(files.stat(stem, dir_fd), files.fstat(folder_fd))
    except FileNotFoundError:
        return False


def read(
    files: Files, stem: str, dir_fd: int, state_dir: Path, *, below: int | None = None
) -> Truth | None:
    """The stored state: of the journals, else of the view; None if there is no experiment.

    Args:
        below: Look only at journals of epochs below this one.

    Raises:
        StateCorruptError, SchemaTooNewError: It cannot be read; it is left as it is.
    """
    folder_fd = open_folder(files, stem, dir_fd)
    if folder_fd is not None:
        try:
            truth = journal.read_truth(files, folder_fd, state_dir / stem, below=below)
        finally:
            files.close(folder_fd)
        if truth is not None:
            return None if truth.deleted else truth
    name = view.file_name(stem)
    state = view.read(files, name, dir_fd, state_dir / name)
    return None if state is None else Truth(state, 0, 0, deleted=False)


def exists(files: Files, stem: str, dir_fd: int) -> bool:
    """Whether there is a view or a journal. One of an experiment being deleted counts."""
    for name in (view.file_name(stem), f"{stem}/journal"):
        try:
            files.stat(name, dir_fd)
        except OSError as err:
            # Anything else (EIO, EACCES) does not mean that it is not there.
            if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        else:
            return True
    return False


def view_problem(
    files: Files, stem: str, dir_fd: int, state_dir: Path, truth: ExperimentState
) -> str | None:
    """In what the view disagrees with the *truth* of the journals; None if it does not.

    A view that an owner is about to refresh disagrees, too: ask only where there is no owner. One
    of an owner that was killed lies up to a second behind and is no cause for alarm.
    """
    path = state_dir / view.file_name(stem)
    try:
        fd = files.open_read(path.name, dir_fd)
    except FileNotFoundError:
        return "is missing"
    except OSError as err:
        return f"cannot be opened: {journal.cause(err)}"
    try:
        plain = json.loads(files.read_all(fd, view.SIZE_LIMIT))
        seen = plain["epoch"], plain["revision"], plain["status"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "cannot be read"
    finally:
        files.close(fd)
    if seen == (truth.epoch, truth.revision, str(truth.status)):
        return None
    killed = truth.owner is not None and not truth.owner.released
    with contextlib.suppress(TypeError):
        if killed and seen[:2] < (truth.epoch, truth.revision):
            return None
    return (
        f"tells of epoch {seen[0]!r:.20}, revision {seen[1]!r:.20}, {seen[2]!r:.20}; the journal "
        f"of epoch {truth.epoch}, revision {truth.revision}, {str(truth.status)!r}"
    )
