"""The files of an attempt: what is read of them, and what is linked beside them.

`holdfast.engines.local.shim` writes `.live` and `.exit`. Everybody else only ever adds a file (a
revoked `.live`, a request), and nobody rewrites or removes another's.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import attrs

from holdfast import liveness
from holdfast.attempts.names import (
    AttemptName,
    Suffix,
    attempts_dir,
    error_path,
    file_path,
    output_path,
    prepare,
)
from holdfast.attempts.records import CgroupAddress, ExitRecord, LiveState, Process
from holdfast.errors import StateCorruptError, StateReadError, StateWriteError
from holdfast.identity import ProcessIdentity
from holdfast.status import Reason
from holdfast.syncing import sync

__all__ = [
    "Signature",
    "began_at",
    "disk_problem",
    "live_state",
    "open_output",
    "output_held",
    "output_inodes",
    "read_exit",
    "request",
    "requested",
    "revoke",
    "signature",
]

_MAX_BYTES: Final = 64 * 1024
#: What a shim allocates for its exit record.
_EXIT_BYTES: Final = 4096
#: How file systems (and old kernels) say that they have no files without a name.
_NO_UNNAMED_FILES: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}
#: How it is said that what has the name is no regular file: a link, a socket, a FIFO, a directory.
_NO_FILE: Final = {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR}
#: What a disk says that lets nothing be written.
_REFUSED: Final = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM,
}  # fmt: skip


def disk_problem(folder: Path) -> OSError | None:
    """Why no exit record can be written to the disk of *folder* at this moment; None if one can.

    Tried with a file that never gets a name, where the system has such files; elsewhere, only free
    space is checked.

    Raises:
        OSError: The disk cannot be asked.
    """
    unnamed = getattr(os, "O_TMPFILE", None)
    if unnamed is not None:
        try:
            fd = os.open(folder, unnamed | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _EXIT_BYTES)
            finally:
                os.close(fd)
        except OSError as err:
            if err.errno in _REFUSED:
                return err
            if err.errno not in _NO_UNNAMED_FILES:
                raise
        else:
            return None
    disk = os.statvfs(folder)
    # Some file systems count no inodes at all and say 0 of 0.
    if disk.f_bavail * disk.f_frsize >= _EXIT_BYTES and (disk.f_favail > 0 or disk.f_files == 0):
        return None
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open(path: Path) -> int:
    # A FIFO or a link put here by somebody must neither block nor lead elsewhere.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def open_output(path: Path) -> BinaryIO | None:
    """What an attempt wrote, to be read; None if it has not begun.

    Raises:
        StateCorruptError: What is there is no file of an attempt, and is left alone.
    """
    try:
        fd = _open(path)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise StateCorruptError(path, f"cannot be opened: {err.strerror}") from err
    # A directory, or a FIFO or device that would never end.
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StateCorruptError(path, "is not a regular file")
    return os.fdopen(fd, "rb")


def _parse(data: bytes) -> dict[str, Any]:
    plain = json.loads(data)
    if not isinstance(plain, dict):
        raise ValueError(f"expected an object, found {type(plain).__name__}")
    return plain


_IDENTITY_FIELDS: Final = {
    "host": str,
    "machine_id": str,
    "boot_id": str,
    "pid_namespace": str,
    "pid": int,
    "start_ticks": int,
    "locked": bool,
}


def _identity(plain: Mapping[str, Any]) -> ProcessIdentity:
    # By hand, and not with the store's codec: an orchestrator's loop reads hundreds of these.
    return ProcessIdentity(**_fields(plain, _IDENTITY_FIELDS))


def _fields(plain: Mapping[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    found = {}
    for name, kind in kinds.items():
        value = plain.get(name)
        if value is None:
            continue
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f"{name} is {type(value).__name__}, expected {kind.__name__}")
        found[name] = value
    return found


_EXIT_FIELDS: Final = {
    "exit_code": int,
    "signal": int,
    "interrupted_by": int,
    "timed_out": bool,
    "out_of_memory": bool,
    "perhaps_memory": bool,
    "error": str,
    "max_rss_bytes": int,
    "cpu_s": float,
    "host": str,
}


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def read_exit(folder: Path, name: AttemptName) -> ExitRecord | None:
    """How the attempt ended; None if no outcome is published.

    Raises:
        StateCorruptError: The file is there but no exit record: it is left as it is.
        StateReadError: It cannot be read at this moment, which says nothing about the attempt.
    """
    path = file_path(folder, name, "exit")
    try:
        data = _read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        if err.errno in _NO_FILE:
            raise StateCorruptError(path, f"cannot be opened: {err.strerror}") from err
        # No descriptors left, a sick disk, another user's file: it may hold a success.
        raise StateReadError.of(path, "reading", err) from err
    try:
        plain = _parse(data)
        identity, asked = plain.get("identity"), plain.get("stop_requested")
        record = ExitRecord(
            **_fields(plain, _EXIT_FIELDS),
            stop_requested=None if asked is None else Reason(asked),
            started_at=_time(plain.get("started_at")),
            ended_at=_time(plain.get("ended_at")),
            stopped=tuple(Process(pid, str(comm)) for pid, comm in plain.get("stopped") or ()),
            left=tuple(_left(*each) for each in plain.get("left") or ()),
            identity=None if identity is None else _identity(identity),
        )
    # OverflowError: times and numbers beyond what Python has of them.
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as err:
        raise StateCorruptError(path, f"is no exit record: {err}") from err
    return record


def _left(pid: int, start_ticks: int | None, command: str, why: str) -> Process:
    if type(pid) is not int or type(start_ticks) not in (int, type(None)):
        raise ValueError("left is not a list of processes")
    return Process(pid, str(command), start_ticks, str(why))


def _read_file(path: Path) -> bytes:
    fd = _open(path)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ENXIO, "is not a regular file")
        return os.read(fd, _MAX_BYTES)
    finally:
        os.close(fd)


def live_state(folder: Path, name: AttemptName) -> LiveState:
    """What `.live` and its lock say now.

    A `.live` that cannot be parsed was torn by a power cut (a shim links only whole files): its
    lock still tells whether anybody holds it.
    """
    path = file_path(folder, name, "live")
    try:
        fd = _open(path)
    except FileNotFoundError:
        return LiveState("absent")
    except OSError as err:
        if err.errno == errno.ENOTDIR:
            return LiveState("absent")
        return LiveState("unknown")
    try:
        identity, mark, copied, cgroup = None, None, False, None
        info = os.fstat(fd)
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            plain = _parse(os.read(fd, _MAX_BYTES))
            identity = _identity(plain)
            if plain.get("revoked") is True:
                return LiveState("revoked", identity)
            mark = _mark(plain, identity)
            copied = plain.get("inode", info.st_ino) != info.st_ino
            if "mark" in plain:
                copied = copied or not _is_of(mark, folder, name)
            cgroup = _cgroup(plain.get("cgroup"))
        return LiveState(_probe(fd), identity, mark, (info.st_dev, info.st_ino), copied, cgroup)
    finally:
        os.close(fd)


@attrs.frozen
class Signature:
    """What a shim writes into files that it locks: of which attempt it is, and who it is.

    Attributes:
        mark: What everything that it started carries in its environment.
        folder: Where its files are; None where that is not written.
        cgroup: That of the attempt; None if it has none.
    """

    experiment_id: str
    attempt: str
    identity: ProcessIdentity
    mark: str
    folder: str | None
    started_at: datetime | None
    cgroup: CgroupAddress | None

    def is_of(self, folder: Path) -> bool:
        """Whether it is an attempt of the experiment whose folder that is; False if unknown."""
        with contextlib.suppress(OSError):
            return self.mark.split(".")[1:2] == [str(attempts_dir(folder).stat().st_ino)]
        return False


def signature(data: bytes) -> Signature | None:
    """Who has written *data*; None if nobody has, or not to its end.

    Of what is whole and not understood (a later version's, say), nothing is known but that.
    """
    try:
        plain = _parse(data)
    except (ValueError, RecursionError):
        return None
    try:
        identity = _identity(plain)
        return Signature(
            **_fields({"experiment_id": plain["experiment"], **plain}, _SIGNED),
            identity=identity,
            mark=_mark(plain, identity),
            folder=plain["dir"] if isinstance(plain.get("dir"), str) else None,
            started_at=_time(plain.get("started_at")),
            cgroup=_cgroup(plain.get("cgroup")),
        )
    except (ValueError, TypeError, KeyError, OverflowError):
        return Signature("?", "?", ProcessIdentity(), "", None, None, None)


def began_at(folder: Path, name: AttemptName) -> datetime | None:
    """When the attempt began, by the clock of where it did; None if its `.live` does not tell.

    Raises:
        StateReadError: It cannot be read at this moment.
    """
    path = file_path(folder, name, "live")
    try:
        found = signature(_read_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise StateReadError.of(path, "reading", err) from err
    return None if found is None else found.started_at


_SIGNED: Final = {"experiment_id": str, "attempt": str}


def _is_of(mark: str, folder: Path, name: AttemptName) -> bool:
    """Whether *mark* says that it is of this attempt in this directory. Raises OSError."""
    return mark.partition(".")[2] == f"{attempts_dir(folder).stat().st_ino}.{name}"


def _mark(plain: Mapping[str, Any], identity: ProcessIdentity) -> str:
    # A shim of 0.1 made its mark of its pid and start time, and may still run.
    mark = plain.get("mark")
    if isinstance(mark, str) and mark:
        return mark
    return f"{identity.pid}.{identity.start_ticks}"


def _cgroup(plain: Any) -> CgroupAddress | None:
    if not isinstance(plain, dict):
        return None
    path, namespace = plain.get("path"), plain.get("namespace")
    if not isinstance(path, str) or not isinstance(namespace, str):
        return None
    return CgroupAddress(path, namespace)


def _probe(fd: int) -> Literal["held", "free", "unknown"]:
    """Whether somebody holds the lock: a shared one is had for a moment only if nobody does."""
    import fcntl  # here, so that Windows can say clearly that it is not supported

    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except OSError:
        # Without locks, `free` would be a guess that starts an attempt twice.
        return "unknown"
    return "free"


def output_held(folder: Path, name: AttemptName) -> bool | None:
    """Whether a process that the attempt started still has its standard output or error open.

    None if unknown; False if it never had any.
    """
    held = [_held(path) for path in (output_path(folder, name), error_path(folder, name))]
    return True if True in held else None if None in held else False


def output_inodes(folder: Path, name: AttemptName) -> list[tuple[int, int]]:
    """Device and inode of what the attempt writes its standard output and error to."""
    found = []
    for path in (output_path(folder, name), error_path(folder, name)):
        with contextlib.suppress(OSError):
            info = path.lstat()
            found.append((info.st_dev, info.st_ino))
    return found


def _held(path: Path) -> bool | None:
    import fcntl

    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            # Writable, because NFS has exclusive locks for writers only.
            fd = os.open(path, flags | os.O_RDWR)
        except (PermissionError, IsADirectoryError):
            fd = os.open(path, flags | os.O_RDONLY)  # another user's, in a directory that is shared
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False


def revoke(folder: Path, name: AttemptName) -> bool:
    """Take the right to run away from an attempt whose shim has not begun.

    Returns:
        False if a `.live` is there already: look again.

    Raises:
        StateWriteError: The file system refused.
    """
    return _publish(folder, name, "live", {"revoked": True, "attempt": str(name)}, durable=True)


def request(
    folder: Path,
    name: AttemptName,
    what: Literal["stop", "kill"],
    why: Reason,
    *,
    grace_s: float | None = None,
) -> None:
    """Ask the shim of an attempt to stop it: with its grace period, or *grace_s*, or at once.

    A shim sees it within a second, across hosts and pid namespaces. The first one counts, also for
    the grace period. Not durable: a power cut that loses it ends the attempt, too.

    Raises:
        StateWriteError: The file system refused.
    """
    content: dict[str, Any] = {"reason": str(why), "attempt": str(name)}
    if grace_s is not None:
        content["grace_s"] = grace_s
    _publish(folder, name, what, content, durable=False)


def requested(folder: Path, name: AttemptName, *, force: bool = False) -> Reason | None:
    """Why somebody asked for the attempt to be stopped; None if nobody did, as far as is known.

    Args:
        force: Whether only a request to kill it counts.
    """
    suffixes: tuple[Suffix, ...] = ("kill",) if force else ("kill", "stop")
    for suffix in suffixes:
        with contextlib.suppress(OSError, LookupError, ValueError, TypeError, RecursionError):
            return Reason(_parse(_read_file(file_path(folder, name, suffix)))["reason"])
    return None


def _publish(
    folder: Path, name: AttemptName, suffix: Suffix, content: dict[str, Any], *, durable: bool
) -> bool:
    """Link a file with *content* and who we are; False if there is one already."""
    prepare(folder)
    target = file_path(folder, name, suffix)
    content |= attrs.asdict(liveness.me(), filter=lambda _, value: value is not None)
    content["at"] = datetime.now(UTC).isoformat()
    temporary = target.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.write(fd, json.dumps(content).encode("ascii"))
            if durable:
                sync(fd)
            mine = os.fstat(fd)
        finally:
            os.close(fd)
        try:
            os.link(temporary, target)
        except FileExistsError:
            # The answer to a link that succeeded can be lost on NFS: the inode tells.
            return os.path.samestat(mine, target.stat())
        finally:
            temporary.unlink()
    except OSError as err:
        raise StateWriteError.of(target, "linking", err) from err
    return True
