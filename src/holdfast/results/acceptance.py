"""The results of processes: accepted once, durable and proven from then on.

Owns `results/` in an experiment's folder: `<index>.<attempt>.json`, and `aggregate.<attempt>.json`
for what the user's own aggregation wrote. Nothing there is ever rewritten by holdfast.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.names import RESULTS, AttemptName
from holdfast.errors import ResultInvalidError, StateReadError, StateWriteError, cause
from holdfast.lifecycle.records import ResultRef
from holdfast.results.outline import Outline, outline
from holdfast.store import strictjson
from holdfast.store.files import Files

__all__ = [
    "LARGE",
    "NO_MEMORY",
    "SIZE_LIMIT",
    "Written",
    "accept",
    "check",
    "copy",
    "inspect",
    "load",
    "of_rank",
    "outlined",
    "path_of",
    "prepare",
    "size",
    "verified",
    "verify",
]

#: A result is a summary. Arrays and models belong into files of their own, named in it.
SIZE_LIMIT: Final = 64 << 20

#: From here on, a result is never built as a whole unless somebody asks for its value.
LARGE: Final = 1 << 20

#: What a machine without memory is refused with.
NO_MEMORY: Final = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

# The outlines of the last large results that were looked at, by digest, without their texts: a look
# takes seconds, and another follows soon.
_seen: dict[bytes, Outline] = {}
_MOST_SEEN: Final = 64

# The directories that this process has synchronised: once is enough, and it is done per attempt.
_durable: set[tuple[int, int]] = set()


#: What the file of a result is called after: an attempt, or as text the rank of one.
Written = AttemptName | str


def of_rank(index: int, attempt: int, incarnation: str) -> str:
    """What the result of a rank is called: no two incarnations of it write to one file."""
    return f"{index}.{attempt}.{incarnation}"


def path_of(folder: Path, name: Written) -> Path:
    """Where that attempt, or that rank of one, may write its result: its `HOLDFAST_RESULT`."""
    return folder / f"{RESULTS}/{name}.json"


def prepare(folder: Path, *, files: Files | None = None) -> None:
    """Make `results/`, durably, so that an attempt can write there at once.

    Raises:
        StateWriteError: The file system refused, or something else has its name.
    """
    files = files or Files()
    try:
        with files.directory(folder) as parent:
            made = False
            with contextlib.suppress(FileExistsError):
                files.mkdir(RESULTS, parent)
                made = True
            info = files.stat(RESULTS, parent)
            # Through a link, results would be written to where it leads.
            if not stat.S_ISDIR(info.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "something else has its name")
            # A power cut could take the directory with every result in it. One that exists may
            # have been made by a process that was killed before it came to this line; a new one
            # may have the inode number of one that was deleted.
            if made or (info.st_dev, info.st_ino) not in _durable:
                files.fsync(parent)
                _durable.add((info.st_dev, info.st_ino))
    except OSError as err:
        raise StateWriteError.of(folder / RESULTS, "making it", err) from err


def accept(folder: Path, name: Written, *, files: Files | None = None) -> ResultRef | None:
    """Read, check and make durable what an attempt wrote; None if it wrote nothing.

    Only once this has returned may the process be recorded as completed: from then on the file
    and its name survive a power cut, and its digest gives away any change.

    NaN and Infinity may stand in it: Python writes them for every run that diverged.

    Raises:
        ResultInvalidError: Not a JSON file as `strictjson` has it, or too large: fail the attempt.
        StateWriteError: The disk could not make it durable: not the attempt's fault.
    """
    return _taken(folder, name, files or Files(), durably=True)


def inspect(folder: Path, name: Written, *, files: Files | None = None) -> ResultRef | None:
    """What `accept` would return or raise, and nothing is made durable."""
    return _taken(folder, name, files or Files(), durably=False)


def size(folder: Path, name: Written) -> int:
    """How many bytes an attempt wrote; 0 if it wrote nothing, or if that cannot be told now."""
    try:
        return path_of(folder, name).lstat().st_size
    except OSError:
        return 0


def _taken(folder: Path, name: Written, files: Files, *, durably: bool) -> ResultRef | None:
    path = path_of(folder, name)
    try:
        with files.directory(folder) as parent, files.directory(RESULTS, parent) as results:
            fd = _open(files, path, results)
            if fd is None:
                return None
            try:
                data = _read(files, path, fd)
                check(path, data)
                if durably:
                    files.fsync(fd)
            finally:
                files.close(fd)
            if durably:
                # The name too: the process that made it did not care.
                files.fsync(results)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise StateWriteError.of(path, "making the result durable", err) from err
    except MemoryError as err:
        # Not the attempt's fault, and there may be more memory soon.
        raise StateReadError.of(path, "checking the result", NO_MEMORY) from err
    return ResultRef(
        path=f"{RESULTS}/{path.name}", size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )


def verify(folder: Path, ref: ResultRef, *, files: Files | None = None) -> str | None:
    """What is wrong with a recorded result, as the end of a sentence; None if it is as it was.

    Raises:
        OSError: The disk could not be read (EIO, ENOMEM): whether it is lost is not known.
    """
    try:
        _proven(folder, ref, files or Files())
    except ResultInvalidError as err:
        return err.problem
    return None


def verified(folder: Path, ref: ResultRef, *, files: Files | None = None) -> bytes:
    """The bytes of a recorded result. Raises as `load`."""
    return _proven(folder, ref, files or Files())


def load(folder: Path, ref: ResultRef, *, files: Files | None = None) -> Any:
    """The verified value of a recorded result; NaN and infinities are floats in it.

    Raises:
        ResultInvalidError: It is missing or altered, or no JSON that is accepted today.
        OSError: The disk could not be read.
    """
    data = _proven(folder, ref, files or Files())
    with _refused(folder / ref.path):
        return strictjson.loads(data, finite=False)


def outlined(folder: Path, ref: ResultRef, *, files: Files | None = None) -> Outline:
    """What there is to see of a recorded result, without building its value. Raises as `load`."""
    data = _proven(folder, ref, files or Files())
    digest = bytes.fromhex(ref.sha256)
    seen = _seen.get(digest)
    if seen is not None:
        return attrs.evolve(seen, text=data.decode())
    with _refused(folder / ref.path):
        found = outline(data)
    _remember(digest, found)
    return found


def _remember(digest: bytes, found: Outline) -> None:
    _seen[digest] = attrs.evolve(found, text="")
    for eldest in list(_seen)[:-_MOST_SEEN]:
        _seen.pop(eldest, None)  # another thread may have been first


def check(path: Path, data: bytes) -> None:
    """Refuse *data*, the whole content of *path*, if it cannot be a result.

    Raises:
        ResultInvalidError: It is no JSON as `strictjson` has it.
    """
    with _refused(path):
        if len(data) < LARGE:
            strictjson.loads(data, finite=False)
        else:
            _remember(hashlib.sha256(data).digest(), outline(data))


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as err:
        raise ResultInvalidError(path, f"is not valid JSON: {err}") from err


def copy(folder: Path, ref: ResultRef, target: Path) -> None:
    """Make *target* a copy of the accepted result, which may be edited. Raises OSError."""
    shutil.copyfile(folder / ref.path, target)


def _proven(folder: Path, ref: ResultRef, files: Files) -> bytes:
    path = folder / ref.path
    # References come from files; one that was tampered with must not lead out of the folder.
    if ref.path != f"{RESULTS}/{path.name}" or path.name in ("", ".", ".."):
        raise ResultInvalidError(path, "is recorded under a path outside of results/")
    try:
        with files.directory(folder) as parent, files.directory(RESULTS, parent) as results:
            fd = _open(files, path, results)
            if fd is None:
                raise ResultInvalidError(path, "is missing")
            try:
                data = _read(files, path, fd)
            finally:
                files.close(fd)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ResultInvalidError(path, "is missing") from err
    if len(data) != ref.size:
        raise ResultInvalidError(
            path, f"was altered: it has {len(data):,} bytes, recorded are {ref.size:,}"
        )
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise ResultInvalidError(path, "was altered: its SHA-256 is not the recorded one")
    return data


def _open(files: Files, path: Path, results: int) -> int | None:
    try:
        return files.open_read(path.name, results)
    except OSError as err:
        if err.errno == errno.ENOENT:
            return None
        if err.errno == errno.ELOOP:
            raise ResultInvalidError(path, "is a symbolic link, which is never followed") from err
        if err.errno in (errno.EACCES, errno.EPERM, errno.ENXIO):
            raise ResultInvalidError(path, f"cannot be opened: {cause(err)}") from err
        raise


def _read(files: Files, path: Path, fd: int) -> bytes:
    try:
        return files.read_whole(fd, SIZE_LIMIT)
    except ValueError as err:
        raise ResultInvalidError(path, str(err)) from err
