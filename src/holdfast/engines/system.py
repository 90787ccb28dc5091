"""What a shim asks of the operating system: programs, sessions, memory kills, durability.

Like the shim, the standard library only and little of it.
"""

import contextlib
import errno
import fcntl
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What a command must not inherit: Python ignores SIGPIPE and SIGXFSZ. Made once, because a set of
#: enums costs a tenth of what a whole attempt does.
DEFAULTED = [
    int(number)
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP)
]

#: What a command inherits, read once: `os.environb` converts every value at every look.
INHERITED = dict(os.environb)

#: Bytes in one of `ru_maxrss`.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def start_ticks(process: "int | str") -> int | None:
    """When *process* (a pid, or "self") began, in clock ticks since boot; None without `/proc`."""
    try:
        with open(f"/proc/{process}/stat", "rb", buffering=0) as file:
            stat = file.read(1024)
        return int(stat[stat.rindex(b")") + 2 :].split()[19])
    except (OSError, ValueError):
        return None


def timestamp(seconds: float) -> str:
    """*seconds* since the epoch as ISO 8601, UTC; importing datetime would cost more than this."""
    whole = int(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{int((seconds - whole) * 1e6):06d}+00:00"


def sync(fd: int) -> None:
    """To the disk itself."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # there fsync stops at the drive's cache
    else:
        os.fsync(fd)


def find_program(word: bytes, path: bytes, python: bytes) -> bytes:
    """The program that a shell would run for *word*; `python` is always to be had."""
    if b"/" in word:
        return word
    refused = False
    for folder in path.split(b":"):
        candidate = os.path.join(folder or b".", word)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            refused = True
    if word == b"python":
        return python
    if refused:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), word)
    raise FileNotFoundError(errno.ENOENT, "not found on PATH", word)


def explain(err: Exception, job: "dict[str, Any]") -> str:
    """Why the command of *job* could not be started, in words of the user's."""
    word = os.fsdecode(job["argv"][0])
    cwd = job["cwd"]
    code = getattr(err, "errno", None)
    if cwd is not None and not os.path.isdir(cwd):
        return f"working directory {os.fsdecode(cwd)} does not exist"
    if code == errno.ENOENT and os.path.exists(os.path.join(cwd or b"", job["argv"][0])):
        return f"{word}: the interpreter that its first line names does not exist"
    if code == errno.ENOENT:
        return f"{word}: command not found"
    if code == errno.EACCES:
        return f"{word}: not executable"
    if code == errno.ENOEXEC:
        return f"{word}: no program (a script needs a first line like #!/bin/sh)"
    return f"{word}: cannot be started: {err}"


def signal_group(pgid: int, number: int) -> None:
    """Send *number* to every process of the group, if there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)
        if number == signal.SIGTERM:
            os.killpg(pgid, signal.SIGCONT)  # a stopped process receives TERM only once it goes on


def signal_session(pgid: int, number: int) -> None:
    """Send *number* to everything in the caller's session but itself.

    The group *pgid*, whose leader nobody has waited for yet, gets it in one blow, so that what
    forks just now cannot slip through.
    """
    signal_group(pgid, number)
    for pid in session_members(pgid):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) != pgid:
                signal_member(pid, number)


def signal_member(pid: int, number: int) -> None:
    """Send *number* to *pid*, from `session_members`, unless a stranger has that pid by now."""
    if pid < 0:
        signal_group(-pid, number)
        return
    fd = -1
    with contextlib.suppress(OSError):
        fd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
    try:
        # Looked at once it is pinned: its number may have been given away since it was found.
        with contextlib.suppress(OSError):
            for each in (number, signal.SIGCONT) if number == signal.SIGTERM else (number,):
                if os.getsid(pid) != os.getpid():
                    return
                if fd >= 0:
                    signal.pidfd_send_signal(fd, each)
                else:  # old kernels, seccomp
                    os.kill(pid, each)
    finally:
        if fd >= 0:
            os.close(fd)


def session_members(pgid: int) -> "list[int]":
    """What is more than a zombie in the caller's session, itself not included.

    Not only the group *pgid*: `timeout` and the job control of a shell make groups of their own.
    Where processes cannot be listed (macOS) the group is all that can be asked, and is returned as
    its negative number.
    """
    before: set[int] = set()
    while True:
        found = _look(os.getpid())
        if found is None:
            return [-pgid] if sys.platform == "darwin" and _group_exists(pgid) else []
        living, ended = found
        # What ended while we looked may have forked a child that the list does not have yet.
        if living or ended <= before:
            return living
        before |= ended


def _look(session: int) -> "tuple[list[int], set[int]] | None":
    """Members of *session* that live, and what ended since it was listed; None if nobody can say.

    A question to the kernel for each process, and not a file that is read: this is done at the end
    of every attempt.
    """
    try:
        # In a new pid namespace with the old /proc, its numbers are other processes.
        if os.readlink("/proc/self") != str(session):
            return None
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    living, ended = [], set()
    for pid in pids:
        try:
            if pid == session or os.getsid(pid) != session:
                continue
        except ProcessLookupError:
            ended.add(pid)
            continue
        except PermissionError:
            continue
        # An init that never waits (many containers) keeps zombies for ever.
        if _zombie(pid):
            ended.add(pid)
        else:
            living.append(pid)
    return living, ended


def _zombie(pid: int) -> bool:
    """Whether *pid* has ended, waited for or not."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read(1024)
        return stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, ValueError):
        return False


def _group_exists(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def oom_kills(own: str | None) -> int:
    """How often the kernel killed for want of memory, in our *own* cgroup where it counts there."""
    for path in (own, "/proc/vmstat"):
        if path is None:
            continue
        try:
            with open(path, "rb", buffering=0) as file:
                content = b"\n" + file.read(65536)
        except OSError:
            continue
        _, found, rest = content.partition(b"\noom_kill ")
        if found:
            return int(rest.split(None, 1)[0])
    return 0


def memory_events() -> str | None:
    """The file in which our own cgroup counts such kills; None where there is none."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if line.startswith("0::/") and line != "0::/\n":
                    return f"/sys/fs/cgroup{line[3:-1]}/memory.events"
    except OSError:
        pass
    return None
