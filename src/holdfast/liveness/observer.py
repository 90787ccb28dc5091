"""Who looks at other processes and from where; owns `/proc`, and `psutil` where there is none."""

import contextlib
import errno
import os
import time
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple

import attrs

from holdfast import host
from holdfast.identity import ProcessIdentity
from holdfast.liveness import start_times

__all__ = ["Observer", "ProcessFacts", "Usage", "exec_phase"]

#: Threads of a process whose children are asked for.
_MOST_THREADS: Final = 256

#: An `exec` is over within microseconds, unless the machine is busy.
_EXEC_WITHIN_S: Final = 1.0
_RETRY_S: Final = 0.001
_LOOKS: Final = 3


class ProcessFacts(NamedTuple):
    """What the kernel says about a pid now.

    Attributes:
        start_ticks: As in `ProcessIdentity`: on the machine's own clock, in any time namespace.
        stopped: Whether SIGSTOP or the like keeps it from doing anything.
    """

    start_ticks: int | None
    zombie: bool
    session: int | None
    stopped: bool = False


class Usage(NamedTuple):
    """What a process has used, and uses now.

    Attributes:
        cpu_s: Its CPU time, and that of all its children that ended and were waited for.
        memory: Bytes that it has in memory, those that it shares with others among them.
    """

    cpu_s: float
    memory: int


@attrs.frozen(kw_only=True)
class Observer:
    """Who looks, and from where: the facts about this host that identities are compared with.

    Made by `here()`; a test, or a doctor who looks at another root, makes its own.

    Attributes:
        proc: Where the kernel's `/proc` is mounted; None where there is none (macOS).
        offset_ns: What the observer's time namespace adds to every start time that it is shown.
    """

    host: str
    machine_id: str | None
    boot_id: str | None
    pid_namespace: str | None
    pid: int
    proc: Path | None
    offset_ns: int = 0

    @classmethod
    def here(cls) -> "Observer":
        """The calling process; facts that cannot change while it lives are read once."""
        return _here(os.getpid())

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    def shares_pids_with(self, identity: ProcessIdentity) -> bool:
        """Whether the pid of *identity* means the same here: same boot, same pid namespace."""
        here = self.boot_id, self.pid_namespace
        return self.boot_id is not None and here == (identity.boot_id, identity.pid_namespace)

    def look(self, pid: int) -> ProcessFacts | None:
        """The facts about *pid*, None if there is no such process.

        Raises:
            PermissionError: It exists, and that is all that can be said.
        """
        if self.proc is not None:
            try:
                stat = (self.proc / str(pid) / "stat").read_bytes()
                return _parse_stat(stat, self.offset_ns)
            except (FileNotFoundError, ProcessLookupError, NotADirectoryError, ValueError):
                # With `hidepid` another user's process has no entry, yet it lives.
                _refuse_hidden(pid)
                return None
        return _look_with_psutil(pid)

    def pids(self) -> list[int]:
        """Every pid that can be seen."""
        if self.proc is not None:
            return [int(entry.name) for entry in self.proc.iterdir() if entry.name.isdigit()]
        import psutil

        return [int(pid) for pid in psutil.pids()]

    def children(self, pid: int) -> list[int]:
        """Those that can be seen, in no order; none of a process that is gone."""
        if self.proc is None:
            return _children_with_psutil(pid)
        found = []
        with contextlib.suppress(OSError, ValueError):
            # Each thread has those that it made.
            for thread in islice((self.proc / str(pid) / "task").iterdir(), _MOST_THREADS):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found += [int(word) for word in (thread / "children").read_bytes().split()]
        return found

    def usage(self, pid: int) -> Usage | None:
        """What *pid* uses; None if it is gone, or does not show it."""
        if self.proc is None:
            return _usage_with_psutil(pid)
        try:
            stat = (self.proc / str(pid) / "stat").read_bytes()
            fields = stat[stat.rindex(b")") + 2 :].split()
            ticks = sum(map(int, fields[11:15]))
            return Usage(
                ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            )
        except (OSError, ValueError, IndexError):
            return None

    def environment(self, pid: int) -> list[str] | None:
        """`NAME=value` as *pid* was given them; None if that is not ours to read, or it is gone.

        In the middle of `exec` a process shows none: that is waited out, a second at most.
        """
        if self.proc is not None:
            try:
                raw = (self.proc / str(pid) / "environ").read_bytes() or self._behind_exec(pid)
            except OSError:
                return None
            return [os.fsdecode(entry) for entry in raw.split(b"\0") if entry]
        import psutil

        try:
            return [f"{name}={value}" for name, value in psutil.Process(pid).environ().items()]
        except (psutil.Error, OSError):
            return None

    def _behind_exec(self, pid: int) -> bytes:
        """The environment of one that showed none: it has none, or was in the middle of `exec`."""
        assert self.proc is not None
        home, until = self.proc / str(pid), time.monotonic() + _EXEC_WITHIN_S
        looks = _LOOKS
        while (phase := exec_phase((home / "stat").read_bytes())) != "none":
            if raw := (home / "environ").read_bytes():
                return raw
            if phase == "over":
                # One that executes the next program at once may be in the middle of that.
                looks -= 1
                if looks == 0:
                    break
            elif time.monotonic() < until:
                time.sleep(_RETRY_S)
            else:
                break
        return b""


def exec_phase(stat: bytes) -> Literal["none", "amid", "over"]:
    """Whether there is an environment yet; none where there is no memory to hold one.

    The kernel (`fs/exec.c`, `fs/binfmt_elf.c`) tells where it ends (field 51) once it is made.
    """
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 49 or fields[20] == b"0":  # a kernel thread, a zombie, an old kernel
        return "none"
    return "amid" if fields[48] == b"0" else "over"


def _parse_stat(stat: bytes, offset_ns: int) -> ProcessFacts:
    # The name is in parentheses and may hold spaces and parentheses itself: count from the last.
    fields = stat[stat.rindex(b")") + 2 :].split()
    started = start_times.without_offset(int(fields[19]), offset_ns)
    zombie = fields[0] in (b"Z", b"X", b"x")
    return ProcessFacts(started, zombie, int(fields[3]), fields[0] == b"T")


def _refuse_hidden(pid: int) -> None:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return
    raise PermissionError(errno.EPERM, f"process {pid} exists, but does not show itself")


def _look_with_psutil(pid: int) -> ProcessFacts | None:
    import psutil

    try:
        process = psutil.Process(pid)
        status = process.status()
        started = round(process.create_time() * 1_000_000)
    except psutil.ZombieProcess:
        return ProcessFacts(None, True, None)
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return None
    except psutil.AccessDenied as err:
        raise PermissionError(errno.EPERM, f"process {pid} exists") from err
    session = None
    with contextlib.suppress(OSError):
        session = os.getsid(pid)
    zombie, stopped = status == psutil.STATUS_ZOMBIE, status == psutil.STATUS_STOPPED
    return ProcessFacts(started, zombie, session, stopped)


def _children_with_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [int(child.pid) for child in psutil.Process(pid).children()]
    except (psutil.Error, OSError):
        return []


def _usage_with_psutil(pid: int) -> Usage | None:
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        own = times.user + times.system + times.children_user + times.children_system
        return Usage(own, int(process.memory_info().rss))
    except (psutil.Error, OSError):
        return None


@cache
def _here(pid: int) -> Observer:
    proc = Path("/proc") if host.has_proc(pid) else None
    return Observer(
        **host.facts(),
        pid=pid,
        proc=proc,
        offset_ns=0 if proc is None else start_times.own_offset_ns(),
    )
