"""The files of a wave, which is what an engine is given at once: written there, read on the node.

Owns their layout, by which a task reads its own line and nothing of the ten thousand others. The
standard library only: `holdfast.engines.node` runs where nothing else may be installed.
`holdfast.engines.waves` is for who submits.

A wave's file is a line about it, a line with the names of the attempts of every task, an index of
lines of one width, and a line for each task: its jobs.
"""

import binascii
import errno
import json
import math
import os
import re
import stat

from holdfast.engines.local import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    Job = dict[str, Any]

__all__ = [
    "ANOTHERS",
    "BROKEN",
    "DIRECTORY",
    "FAILED",
    "SUCCEEDED",
    "BadWaveError",
    "encode",
    "encoded",
    "is_token",
    "jobs_of",
    "node_file",
    "open_tasks",
    "open_waves",
    "publish",
    "read_header",
    "read_names",
    "read_small",
    "read_task",
    "sync_folder",
    "tasks_file",
]

#: How a node ends, which has run a task. `ANOTHERS`: at least one attempt was not its to run, or
#: something of it may run on, so that this end proves nothing. `BROKEN`: it could not do its work.
SUCCEEDED, FAILED, ANOTHERS, BROKEN = 0, 1, 3, 70

#: In the folder of an experiment: the waves of its attempts.
WAVES = "waves"
_FORMAT = 1
_WAVE = re.compile(r"w[0-9a-f]{12}")
_TOKEN = re.compile(r"[a-z2-7]{12}")
_NAME = re.compile(r"(?:(?:launcher-)?[0-9]{1,18}|aggregate)\.[0-9]{1,18}")
_ENTRY = b"%012x %08x %08x\n"  # where a task's line is, how long, its checksum
_ENTRY_BYTES = 31
_HEADER_BYTES, _LONGEST_HEADER = 4096, 1 << 16
_LONGEST = 1 << 26
_MOST_TASKS = 10_000_000
_LONGEST_S = 100 * 365 * 86400

#: How it is said that what has the name is no regular file: a link, a socket, a device.
_NO_FILE = {errno.ELOOP, errno.EMLINK, errno.ENXIO}
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
#: How a directory is opened.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class BadWaveError(Exception):
    """A file of a wave that is not what this version writes."""


def tasks_file(wave: str) -> str:
    """What the file of *wave* is called.

    Raises:
        BadWaveError: That is no name of a wave.
    """
    if not _WAVE.fullmatch(wave):
        raise BadWaveError(f"{wave[:40]!r} is no name of a wave")
    return f"{wave}.tasks"


def node_file(wave: str, task: int) -> str:
    """In which file the node says that it has begun with a task."""
    return f"{wave}.{task}.node"


def is_token(text: str) -> bool:
    """Whether it may be the token of a folder."""
    return _TOKEN.fullmatch(text) is not None


def open_waves(folder: "str | bytes") -> int:
    """A descriptor of the directory of the waves of an experiment, never through a link.

    Raises:
        OSError: There is none.
    """
    outer = os.open(folder, DIRECTORY)
    try:
        return os.open(WAVES, DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
    finally:
        os.close(outer)


# --- writing


def encode(about: "Mapping[str, Any]", tasks: "Sequence[Sequence[Job]]") -> bytes:
    """The content of a wave's file.

    Args:
        about: What is known of it as a whole: `engine`, `token`, `experiment`, `made_at`.
        tasks: The jobs of each, which its node runs at the same time.
    """
    names = encoded([[job["name"] for job in jobs] for jobs in tasks])
    lines = [encoded(list(jobs)) for jobs in tasks]
    header = encoded({"format": _FORMAT, **about, "tasks": len(lines), "names": len(names)})
    at = len(header) + len(names) + _ENTRY_BYTES * len(lines)
    index = []
    for line in lines:
        index.append(_ENTRY % (at, len(line), binascii.crc32(line)))
        at += len(line)
    return b"".join([header, names, *index, *lines])


def encoded(content: "Any") -> bytes:
    """*content* as a line of JSON."""
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"


def publish(
    folder: int, name: str, content: "bytes | Callable[[int], bytes]", *, durable: bool = True
) -> bool:
    """Link a file that is whole, and on the disk if *durable*; False if the name is taken.

    Args:
        folder: Descriptor of the directory.
        content: What it says, or makes that of its inode.

    Raises:
        OSError: The file system refused.
    """
    temporary = f".{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, 0o666, dir_fd=folder)
    try:
        mine = os.fstat(fd)
        view = memoryview(content(mine.st_ino) if callable(content) else content)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            system.sync(fd)
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            # The answer to a link that succeeded can be lost on NFS: the inode tells.
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
            return os.path.samestat(mine, there)
        if durable:
            sync_folder(folder)
        return True
    finally:
        os.close(fd)
        os.unlink(temporary, dir_fd=folder)


def sync_folder(folder: int) -> None:
    """Have the names in a directory on the disk, too: a power cut would take them back."""
    system.sync(folder)


# --- reading


def read_task(folder: int, wave: str, task: int) -> "tuple[str, list[Job]]":
    """Which experiment it is, and the jobs of one task, in a few reads whatever the others are.

    Args:
        folder: From `open_waves`.

    Raises:
        BadWaveError: It is no file of a wave, or has no such task.
        OSError: It cannot be read.
    """
    fd = _open(folder, tasks_file(wave))
    try:
        header, start = read_header(fd)
        if not 0 <= task < header["tasks"]:
            raise BadWaveError(f"{wave} has no task {task}, only {header['tasks']}")
        entry = _read(fd, start + header["names"] + _ENTRY_BYTES * task, _ENTRY_BYTES)
        try:
            at, size, checksum = (int(number, 16) for number in entry.split())
        except ValueError:
            raise BadWaveError(f"the index of {wave} is damaged") from None
        if size > _LONGEST:
            raise BadWaveError(f"task {task} of {wave} is too long: {size} bytes")
        line = _read(fd, at, size)
        if binascii.crc32(line) != checksum:
            raise BadWaveError(f"task {task} of {wave} is damaged: its checksum differs")
    finally:
        os.close(fd)
    return header["experiment"], jobs_of(line)


def read_header(fd: int) -> "tuple[dict[str, Any], int]":
    """What a wave's file says of it, and where the next line begins.

    Raises:
        BadWaveError: It is no file of a wave, or a later version's.
        OSError: It cannot be read.
    """
    head = os.pread(fd, _HEADER_BYTES, 0)
    if b"\n" not in head:
        head = os.pread(fd, _LONGEST_HEADER, 0)
    line, newline, _ = head.partition(b"\n")
    header = _parse(line) if newline else None
    if not isinstance(header, dict):
        raise BadWaveError("it is no file of a wave")
    if header.get("format") != _FORMAT:
        raise BadWaveError(f"its format is {header.get('format')!r}, not {_FORMAT}")
    for key in ("engine", "token", "experiment", "made_at"):
        if not isinstance(header.get(key), str):
            raise BadWaveError(f"it does not say its {key}")
    for key, most in (("tasks", _MOST_TASKS), ("names", _LONGEST)):
        if type(header.get(key)) is not int or not 0 <= header[key] <= most:
            raise BadWaveError(f"its number of {key} is {header.get(key)!r}"[:200])
    return header, len(line) + 1


def read_names(fd: int, header: "Mapping[str, Any]", start: int) -> "list[list[str]]":
    """The names of the attempts of every task.

    Raises:
        BadWaveError: They are not there.
        OSError: They cannot be read.
    """
    found = _parse(_read(fd, start, header["names"]))
    if not isinstance(found, list) or len(found) != header["tasks"]:
        raise BadWaveError("it does not name its attempts")
    for names in found:
        if not isinstance(names, list) or not all(_is_name(name) for name in names):
            raise BadWaveError("it does not name its attempts")
    return found


def read_small(folder: int, name: str) -> "dict[str, Any] | None":
    """What a small file in a directory says; None if it is not there, or no such file.

    Raises:
        OSError: It cannot be read.
    """
    try:
        fd = _open(folder, name)
    except (FileNotFoundError, BadWaveError):
        return None
    try:
        found = _parse(os.pread(fd, _LONGEST_HEADER, 0))
    except BadWaveError:
        return None
    finally:
        os.close(fd)
    return found if isinstance(found, dict) else None


def open_tasks(folder: int, wave: str) -> int:
    """A descriptor of the file of *wave*.

    Raises:
        BadWaveError: Something else has its name.
        OSError: It cannot be opened.
    """
    return _open(folder, tasks_file(wave))


def jobs_of(line: bytes) -> "list[Job]":
    """The jobs of a task, each as `holdfast.engines.local.jobs` makes them.

    Raises:
        BadWaveError: They are not.
    """
    jobs = _parse(line)
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise BadWaveError("it has no list of jobs")
    for job in jobs:
        wrong = next(_wrong(job), None)
        if wrong is not None:
            raise BadWaveError(f"a job has no {wrong}")
    names = [job["name"] for job in jobs]
    if len(set(names)) != len(names):
        raise BadWaveError("two jobs have one name")
    return jobs


def _wrong(job: "Job") -> "Iterator[str]":
    """Which of the fields of *job* are not what they must be."""
    if not _is_name(job.get("name")):
        yield "name"
    argv, env, cwd = job.get("argv"), job.get("env"), job.get("cwd")
    if not isinstance(argv, list) or not argv or not all(map(_is_word, argv)):
        yield "argv"
    if not isinstance(env, dict) or not all(
        _is_word(name) and _is_word(value) for name, value in env.items()
    ):
        yield "env"
    if cwd is not None and not _is_word(cwd):
        yield "cwd"
    if job.get("timeout_s") is not None and not _is_duration(job["timeout_s"]):
        yield "timeout_s"
    if not _is_duration(job.get("grace_s")):
        yield "grace_s"


def _is_name(text: "Any") -> bool:
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def _is_word(text: "Any") -> bool:
    """Whether it stands for bytes; those that no command can be given, its shim complains of."""
    return isinstance(text, str) and (text.isascii() or max(text) < "\u0100")


def _is_duration(number: "Any") -> bool:
    return type(number) in (int, float) and math.isfinite(number) and 0 <= number <= _LONGEST_S


def _open(folder: int, name: str) -> int:
    # A FIFO or a link put here by somebody must neither block nor lead elsewhere.
    try:
        fd = os.open(name, _READ, dir_fd=folder)
    except OSError as err:
        if err.errno in _NO_FILE:
            raise BadWaveError(f"{name} is not a regular file") from err
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadWaveError(f"{name} is not a regular file")
    return fd


def _read(fd: int, at: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.pread(fd, size, at)
        if not part:
            raise BadWaveError("it ends too early")
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return b"".join(parts)


def _parse(data: bytes) -> "Any":
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
