"""The files of an attempt that ran where nobody shares its folder: packed there, unpacked here.

An exit record is unpacked last and is linked, as a shim does it: whoever sees it sees all of them.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from holdfast.attempts.names import RESULTS, AttemptName, attempts_dir, file_path, prepare
from holdfast.errors import StateWriteError
from holdfast.syncing import sync

__all__ = ["Parcel", "packed", "unpack"]

#: Contents by what they are: `exit`, `out`, `err`, `progress`, `result`.
Parcel = Mapping[str, bytes]

#: What the command printed: of more, the middle is left out.
_MOST_PRINTED: Final = 4 << 20
#: A larger result fails the attempt here as it would have there; one byte more tells.
_MOST_RESULT: Final = (64 << 20) + 1
_MOST_EXIT: Final = 64 << 10


def packed(folder: Path, name: AttemptName) -> Parcel:
    """What the attempt left in *folder*; without an `exit`, nobody knows how it ended."""
    found = {}
    for part, most in (
        ("exit", _MOST_EXIT),
        ("out", _MOST_PRINTED),
        ("err", _MOST_PRINTED),
        ("progress", _MOST_PRINTED),
        ("result", _MOST_RESULT),
    ):
        content = _content(_path(folder, name, part), most, whole=part in ("exit", "result"))
        if content is not None:
            found[part] = content
    return found


def _path(folder: Path, name: AttemptName, part: str) -> Path:
    if part == "result":
        return folder / RESULTS / f"{name}.json"
    return attempts_dir(folder) / f"{name}.{part}"


def _content(path: Path, most: int, *, whole: bool) -> bytes | None:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return None
        if whole or info.st_size <= most:
            return file.read(most)
        head = file.read(most // 2)
        file.seek(-(most // 2), os.SEEK_END)
        left_out = info.st_size - 2 * (most // 2)
        note = f"\n[{left_out} bytes are left out here: nothing larger comes back]\n"
        return head + note.encode() + file.read(most // 2)


def unpack(folder: Path, name: AttemptName, parcel: Parcel) -> bool:
    """Put the files of an attempt where they would be if it had run here, durably.

    Returns:
        False if it has an outcome, or was revoked, before: nothing is touched then.

    Raises:
        StateWriteError: The file system refused.
    """
    prepare(folder)
    if _is_there(folder, name):
        return False
    for part in ("out", "err", "progress", "result", "exit"):
        if part in parcel:
            path = _path(folder, name, part)
            try:
                _link(path, parcel[part])
            except OSError as err:
                raise StateWriteError.of(path, "writing what came back", err) from err
    return True


def _is_there(folder: Path, name: AttemptName) -> bool:
    return any(os.path.lexists(file_path(folder, name, suffix)) for suffix in ("exit", "live"))


def _link(path: Path, content: bytes) -> None:
    """Make the file, whole or not at all; one that is there is another's and stays."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    temporary = f".{os.urandom(8).hex()}.tmp"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(temporary, flags, 0o666, dir_fd=directory)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(content)
            sync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
        sync(directory)
    except OSError as err:
        if err.errno != errno.EEXIST:
            raise
    finally:
        os.close(directory)
