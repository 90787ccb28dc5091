"""What a shim asks of the operating system: start times, signals, memory kills, durability.

Like the shim, the standard library only and little of it.
"""

import contextlib
import fcntl
import os
import signal
import sys
import time

_FIRST_PID_NAMESPACE = 0xEFFFFFFC
_CLOCKS_DIFFER_S = 10.0

#: Bytes in one of `ru_maxrss`.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def _clock_offsets() -> "dict[str, float]":
    """By how many seconds the clocks of our time namespace differ from the machine's own."""
    found = {}
    with contextlib.suppress(OSError, ValueError), open("/proc/self/timens_offsets", "rb") as file:
        for line in file:
            name, seconds, nanoseconds = line.split()
            found[name.decode("ascii")] = int(seconds) + int(nanoseconds) / 1e9
    return found


_OFFSETS = _clock_offsets()

#: What our time namespace adds to the start time of every process.
OFFSET_TICKS = round(_OFFSETS.get("boottime", 0.0) * os.sysconf("SC_CLK_TCK"))


def start_ticks(process: "int | str") -> int | None:
    """When *process* (a pid, or "self") began, in clock ticks since boot; None without `/proc`.

    The same from every time namespace.
    """
    try:
        return int(_stat_fields(process)[19]) - OFFSET_TICKS
    except (OSError, ValueError, IndexError):
        return None


def waited_for_none(pid: int) -> bool:
    """Whether *pid*, now a zombie, never waited for a child that ended; False where unknown.

    A child that ran has had page faults, and who waits for it gets them added to its own account.
    """
    try:
        return _stat_fields(pid)[8] == b"0"
    except (OSError, ValueError, IndexError):
        return False


def _stat_fields(process: "int | str") -> "list[bytes]":
    stat = read(f"/proc/{process}/stat", 1024)
    return stat[stat.rindex(b")") + 2 :].split()


def read(path: str, size: int, folder: int | None = None) -> bytes:
    """What the kernel says in *path*, of *size* bytes at most. `open` costs four times as much."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def catches(pid: int, number: int) -> bool:
    """Whether *pid* has a handler for *number*; False where nobody can say."""
    try:
        mask = read(f"/proc/{pid}/status", 65536).partition(b"\nSigCgt:")[2].split(None, 1)[0]
        return bool(int(mask, 16) >> (number - 1) & 1)
    except (OSError, ValueError, IndexError):
        return False


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


def signal_group(pgid: int, number: int) -> None:
    """Send *number* to every process of the group, if there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)
        if number == signal.SIGTERM:
            os.killpg(pgid, signal.SIGCONT)  # a stopped process receives TERM only once it goes on


def oom_kills(own: str | None) -> int:
    """How often the kernel killed for want of memory, in our *own* cgroup where it counts there."""
    count = None if own is None else counted_kills(own)
    return (counted_kills("/proc/vmstat") or 0) if count is None else count


def counted_kills(path: str, folder: int | None = None) -> int | None:
    """What `oom_kill` is in *path*, from *folder*, a descriptor, on; None where nobody counts."""
    try:
        content = b"\n" + read(path, 65536, folder)
        return int(content.partition(b"\noom_kill ")[2].split(None, 1)[0])
    except (OSError, ValueError, IndexError):
        return None


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


def killed_for_memory(pids: "list[int]", since_s: float) -> bool:
    """Whether the kernel's log says that it killed one of *pids* for want of memory.

    Args:
        since_s: `log_clock` when they began; a few seconds before, their pids may be strangers'.
    """
    try:
        if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
            return False  # the log has the numbers of the outermost pid namespace
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    wanted = [b"Killed process %d " % pid for pid in pids]
    try:
        while True:
            try:
                record = os.read(fd, 8192)
            except BrokenPipeError:
                continue  # it was overwritten before it was read
            head, _, text = record.partition(b";")
            level, _, logged_us, *_ = head.split(b",")
            # Users can write to that log, too, but not as the kernel.
            if int(level) >> 3 or int(logged_us) / 1e6 < since_s - _CLOCKS_DIFFER_S:
                continue
            if any(words in text for words in wanted):
                return True
    except (OSError, ValueError):
        return False
    finally:
        os.close(fd)


def log_clock() -> float:
    """The clock of the kernel's log, as nearly as it can be asked for: no clock server bends it."""
    if not hasattr(time, "CLOCK_MONOTONIC_RAW"):
        return 0.0
    return time.clock_gettime(time.CLOCK_MONOTONIC_RAW) - _OFFSETS.get("monotonic", 0.0)
