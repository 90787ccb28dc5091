"""The files of attempts and what they prove: names, `.live`, `.exit`, revocation.

Shared by every engine and the orchestrator. `holdfast.engines.shim` writes `.live` and `.exit`; who
else writes here only ever adds a revoked `.live`, and nobody rewrites or removes another's file.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Self

import attrs

from holdfast import liveness
from holdfast.errors import StateCorruptError, StateWriteError
from holdfast.identity import ProcessIdentity
from holdfast.status import Reason

__all__ = [
    "AGGREGATE",
    "Attempt",
    "AttemptName",
    "ExitRecord",
    "LiveState",
    "attempts_dir",
    "disk_problem",
    "error_path",
    "has_exit",
    "live_state",
    "names",
    "open_output",
    "output_held",
    "output_path",
    "prepare",
    "read_exit",
    "revoke",
]

#: The index of the aggregation's own process.
AGGREGATE: Final = -1

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


@attrs.frozen(order=True)
class AttemptName:
    """What every engine can find an attempt by again. As text, `2.1`: process 2, attempt 1."""

    experiment_id: str
    index: int
    attempt: int

    def __str__(self) -> str:
        stem = "aggregate" if self.index == AGGREGATE else str(self.index)
        return f"{stem}.{self.attempt}"

    @classmethod
    def parse(cls, experiment_id: str, text: str) -> Self | None:
        """The name that `str()` made *text* of, None if it is none."""
        stem, _, number = text.rpartition(".")
        if not (number.isascii() and number.isdigit()):
            return None
        if stem == "aggregate":
            return cls(experiment_id, AGGREGATE, int(number))
        if not (stem.isascii() and stem.isdigit()):
            return None
        return cls(experiment_id, int(stem), int(number))


def _words(argv: Iterable[str]) -> tuple[str, ...]:
    return tuple(argv)


def _optional_text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


@attrs.frozen(kw_only=True)
class Attempt:
    """One run of one command, as an engine is asked for it.

    Attributes:
        env: Only what is added to the environment of whoever runs it.
        cwd: Directory it runs in; None for the engine's own.
        timeout_s: Seconds after which it is stopped; None for never.
        grace_s: Seconds between TERM and KILL when it is stopped.
        folder: The experiment's folder, in which `attempts/` is.
    """

    name: AttemptName
    argv: tuple[str, ...] = attrs.field(converter=_words, validator=attrs.validators.min_len(1))
    env: Mapping[str, str] = attrs.field(factory=dict)
    cwd: str | None = attrs.field(default=None, converter=_optional_text)
    timeout_s: float | None = None
    grace_s: float = 30.0
    folder: Path = attrs.field(converter=Path)


@attrs.frozen(kw_only=True)
class ExitRecord:
    """How an attempt ended, as its shim saw it.

    Attributes:
        exit_code: None if it was ended by *signal* or was never started.
        stop_requested: Who asked it to stop before it ended, `user`; None if nobody did.
        timed_out: Whether it was stopped because of its timeout.
        out_of_memory: Whether the kernel killed something for want of memory when this one was.
        error: Why it could not be started; None if it was.
        interrupted_by: The signal from outside that reached its shim around its end, if one did.
        perhaps_memory: Whether it may have been killed for want of memory, which nothing proves.
        stopped: Pid and name of every process of it that had to be stopped after it had ended.
        left: Pid, start time, name and reason of every one that could not be stopped.
        max_rss_bytes: Peak memory of the largest of its processes.
        cpu_s: User and system time of all its processes that were waited for.
        identity: The shim.
    """

    exit_code: int | None = None
    signal: int | None = None
    stop_requested: str | None = None
    timed_out: bool = False
    out_of_memory: bool = False
    error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    max_rss_bytes: int | None = None
    cpu_s: float | None = None
    host: str | None = None
    identity: ProcessIdentity | None = None
    interrupted_by: int | None = None
    perhaps_memory: bool = False
    stopped: tuple[tuple[int, str], ...] = ()
    left: tuple[tuple[int, int, str, str], ...] = ()

    @property
    def stop_reason(self) -> Reason | None:
        """Why it was asked to stop; None if it was not, or had run out of time before."""
        return None if self.stop_requested is None else Reason(self.stop_requested)

    @property
    def reason(self) -> Reason:
        """What ended it."""
        if self.error is not None:
            return Reason.LAUNCH_ERROR
        if self.timed_out:
            return Reason.TIMEOUT
        if self.out_of_memory:
            return Reason.OUT_OF_MEMORY
        return Reason.EXIT if self.signal is None else Reason.SIGNAL


@attrs.frozen
class LiveState:
    """What an attempt's `.live` says.

    Attributes:
        kind: `absent`: no shim has begun; `revoked`: none may any more; `held`: the shim lives;
            `free`: it does not; `unknown`: the file system has no locks to tell by.
        identity: The shim, where its file could be read.
    """

    kind: Literal["absent", "revoked", "held", "free", "unknown"]
    identity: ProcessIdentity | None = None


def attempts_dir(folder: Path) -> Path:
    """Where the files of all attempts of the experiment in *folder* are."""
    return folder / "attempts"


def disk_problem(folder: Path) -> OSError | None:
    """Why no exit record can be written to the disk of *folder* at this moment; None if one can.

    Tried with a file that never gets a name, where the system has such files; else only room is
    looked at.

    Raises:
        OSError: It cannot be told.
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


def output_path(folder: Path, name: AttemptName) -> Path:
    """What the attempt wrote to its standard output."""
    return attempts_dir(folder) / f"{name}.out"


def error_path(folder: Path, name: AttemptName) -> Path:
    """What the attempt wrote to its standard error."""
    return attempts_dir(folder) / f"{name}.err"


def prepare(folder: Path) -> None:
    """Make the directory of the attempts, durably.

    Raises:
        StateWriteError: The file system refused, or something else has its name.
    """
    path = attempts_dir(folder)
    try:
        path.mkdir()
        # The parent too: a power cut could take the directory back with every outcome in it.
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileExistsError:
        # Through a link, outcomes and logs would be written to where it leads.
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise StateWriteError(path, "making it", "something else has its name") from None
    except OSError as err:
        raise StateWriteError(path, "making it", str(err)) from err


def names(folder: Path, experiment_id: str, suffix: str = ".live") -> list[AttemptName]:
    """Attempts that have a file with *suffix*, ascending.

    Raises:
        StateWriteError: They cannot be listed at this moment.
    """
    path = attempts_dir(folder)
    try:
        files = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise StateWriteError(path, "listing", err.strerror or str(err)) from err
    parsed = (
        AttemptName.parse(experiment_id, file[: -len(suffix)])
        for file in files
        if file.endswith(suffix)
    )
    return sorted(name for name in parsed if name is not None)


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
    "stop_requested": str,
    "timed_out": bool,
    "out_of_memory": bool,
    "error": str,
    "interrupted_by": int,
    "perhaps_memory": bool,
    "max_rss_bytes": int,
    "cpu_s": float,
    "host": str,
}


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def has_exit(folder: Path, name: AttemptName) -> bool:
    """Whether an outcome is published, whatever it is.

    Raises:
        StateWriteError: That cannot be told at this moment.
    """
    path = attempts_dir(folder) / f"{name}.exit"
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as err:
        raise StateWriteError(path, "looking for it", err.strerror or str(err)) from err
    return True


def read_exit(folder: Path, name: AttemptName) -> ExitRecord | None:
    """How the attempt ended; None if no outcome is published.

    Raises:
        StateCorruptError: The file is there but no exit record: it is left as it is.
        StateWriteError: It cannot be read at this moment, which says nothing about the attempt.
    """
    path = attempts_dir(folder) / f"{name}.exit"
    try:
        data = _read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        if err.errno in _NO_FILE:
            raise StateCorruptError(path, f"cannot be opened: {err.strerror}") from err
        # No descriptors left, a sick disk, another user's file: it may hold a success.
        raise StateWriteError(path, "reading", err.strerror or str(err)) from err
    try:
        plain = _parse(data)
        identity = plain.get("identity")
        record = ExitRecord(
            **_fields(plain, _EXIT_FIELDS),
            started_at=_time(plain.get("started_at")),
            ended_at=_time(plain.get("ended_at")),
            identity=None if identity is None else _identity(identity),
        )
        if record.stop_requested is not None:
            Reason(record.stop_requested)
    # OverflowError: times and numbers beyond what Python has of them.
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as err:
        raise StateCorruptError(path, f"is no exit record: {err}") from err
    return record


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
    path = attempts_dir(folder) / f"{name}.live"
    try:
        fd = _open(path)
    except FileNotFoundError:
        return LiveState("absent")
    except OSError as err:
        if err.errno == errno.ENOTDIR:
            return LiveState("absent")
        return LiveState("unknown")
    try:
        identity = None
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            plain = _parse(os.read(fd, _MAX_BYTES))
            if plain.get("revoked") is True:
                return LiveState("revoked", _identity(plain))
            identity = _identity(plain)
        return LiveState(_probe(fd), identity)
    finally:
        os.close(fd)


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

    None where that cannot be told; False if it never had any.
    """
    held = [_held(path) for path in (output_path(folder, name), error_path(folder, name))]
    return True if True in held else None if None in held else False


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
    prepare(folder)
    directory = attempts_dir(folder)
    me = liveness.me()
    content = {"revoked": True, "attempt": str(name)}
    content |= attrs.asdict(me, filter=lambda _, value: value is not None)
    content["at"] = datetime.now(UTC).isoformat()
    temporary = directory / f".{os.urandom(8).hex()}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.write(fd, json.dumps(content).encode("ascii"))
            os.fsync(fd)
            mine = os.fstat(fd)
        finally:
            os.close(fd)
        target = directory / f"{name}.live"
        try:
            os.link(temporary, target)
        except FileExistsError:
            # The answer to a link that succeeded can be lost on NFS: the inode tells.
            return os.path.samestat(mine, os.stat(target))
        finally:
            temporary.unlink()
    except OSError as err:
        raise StateWriteError(directory / f"{name}.live", "revoking", str(err)) from err
    return True
