"""What is stored of one experiment: the truth of its journals, else its view (DESIGN §4)."""

import contextlib
import errno
import json
import os
import stat
from pathlib import Path

from holdfast.errors import HoldfastError, StateCorruptError
from holdfast.ids import sanitize_experiment_id
from holdfast.records import ExperimentState
from holdfast.store import codec, former, journal, view
from holdfast.store.files import Files
from holdfast.store.journal import NO_DIRECTORY, Truth

__all__ = ["differs", "exists", "misnamed", "open_folder", "read", "same_folder", "view_problem"]


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
    name = view.file_name(stem)
    truth = _journals(files, stem, dir_fd, state_dir, below)
    if truth is None:
        state = view.read(files, name, dir_fd, state_dir / name)
        if state is not None and state.epoch:
            # The first claim may have come between our two looks.
            truth = _journals(files, stem, dir_fd, state_dir, below)
        if truth is None and _hidden(files, stem, dir_fd, state):
            # What the view says may be older than the journal that lies behind it.
            raise StateCorruptError(state_dir / stem, NO_DIRECTORY)
        if truth is None:
            return None if state is None else Truth(state, 0, 0, deleted=False)
    return None if truth.deleted else truth


def _journals(
    files: Files, stem: str, dir_fd: int, state_dir: Path, below: int | None
) -> Truth | None:
    folder_fd = open_folder(files, stem, dir_fd)
    if folder_fd is None:
        return None
    try:
        return journal.read_truth(files, folder_fd, state_dir / stem, below=below)
    finally:
        files.close(folder_fd)


def _hidden(files: Files, stem: str, dir_fd: int, state: ExperimentState | None) -> bool:
    """Whether what stands in the place of the folder may hide a journal."""
    if state is None:
        return False
    try:
        mode = files.stat(stem, dir_fd).st_mode
    except FileNotFoundError:
        return False
    # A file of that name may be anybody's, as long as there was no claim.
    return stat.S_ISLNK(mode) or (state.epoch > 0 and not stat.S_ISDIR(mode))


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


def misnamed(state: ExperimentState, stem: str) -> str | None:
    """What is wrong with a file *stem* of that name; None if nothing is.

    A copied file must not answer to two names: the one inside counts.
    """
    try:
        expected = sanitize_experiment_id(state.experiment_id)
    except HoldfastError as err:
        return str(err)
    if expected == stem:
        return None
    return f"is of experiment {state.experiment_id!r}, whose file is {expected}.json"


def differs(plain: codec.Json, truth: ExperimentState) -> str | None:
    """In what a view, as parsed, differs from the *truth* of the same revision; None if in nothing.

    No crash explains it: somebody wrote into the file.
    """
    true = codec.state_to_json(truth)
    if plain == true:
        return None
    keys = [key for key in {**true, **plain} if plain.get(key) != true.get(key)]
    return f"differs from its journal in {', '.join(map(str, keys)):.200}"


def view_problem(
    files: Files,
    stem: str,
    dir_fd: int,
    state_dir: Path,
    truth: ExperimentState,
    *,
    replay: bool,
) -> str | None:
    """In what the view disagrees with the *truth* of the journals; None if it does not.

    Args:
        replay: Let a view agree that only lies behind, because its owner died before it refreshed
            it: a replay shows whether the journals ever told that. A view that an owner is about to
            refresh lies behind, too: ask only where there is no owner.
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
        problem = differs(plain, truth)
        if problem is None:
            return None
    else:
        problem = (
            f"tells of epoch {seen[0]!r:.20}, revision {seen[1]!r:.20}, {seen[2]!r:.20}; the "
            f"journal of epoch {truth.epoch}, revision {truth.revision}, {str(truth.status)!r}"
        )
    epoch, revision, _ = seen
    if not replay or type(epoch) is not int or type(revision) is not int:
        return problem
    if not former.left_by_a_death(epoch, revision, truth):
        return problem
    journals = state_dir / stem / "journal"
    with contextlib.suppress(HoldfastError, OSError, LookupError):
        held = former.states(files, stem, dir_fd, journals, epoch, revision)
        if any(differs(plain, each) is None for each in held):
            return None
    return f"{problem}; no journal ever held what it tells: was it edited?"
