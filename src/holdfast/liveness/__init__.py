"""Alive, dead or unknown: what this machine can prove about a process, here or elsewhere.

Owns every look at other processes (and `psutil`, where there is no `/proc`). Whether a lock is held
is looked up by whoever owns the lock file and handed in; `holdfast.attempts.settling` stops what a
dead shim left. Unknown is never rounded to dead.
"""

import contextlib
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import attrs

from holdfast.identity import LockState, ProcessIdentity, Verdict, VerdictKind
from holdfast.liveness import start_times

__all__ = [
    "Observer",
    "ProcessFacts",
    "identity_of",
    "is_reused",
    "is_stopped",
    "judge",
    "judge_legacy_pid",
    "judge_released",
    "me",
]

_MACHINE_ID_FILES: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")


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

    def environment(self, pid: int) -> list[str] | None:
        """`NAME=value` as *pid* was given them; None if that is not ours to read, or it is gone.

        Empty while a process is in the middle of `exec`.
        """
        if self.proc is not None:
            try:
                raw = (self.proc / str(pid) / "environ").read_bytes()
            except OSError:
                return None
            return [os.fsdecode(entry) for entry in raw.split(b"\0") if entry]
        import psutil

        try:
            return [f"{name}={value}" for name, value in psutil.Process(pid).environ().items()]
        except (psutil.Error, OSError):
            return None


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


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None


def _darwin_ids() -> tuple[str | None, str | None]:
    """Machine id and boot session of a Mac."""
    import ctypes
    import uuid

    libc = ctypes.CDLL(None)
    machine = boot = None
    raw = ctypes.create_string_buffer(16)
    if libc.gethostuuid(raw, (ctypes.c_long * 2)(1, 0)) == 0:
        machine = str(uuid.UUID(bytes=raw.raw))
    text = ctypes.create_string_buffer(64)
    size = ctypes.c_size_t(64)
    if libc.sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0) == 0:
        boot = text.value.decode("ascii")
    return machine, boot


def _host() -> str:
    if hasattr(os, "uname"):
        return os.uname().nodename
    import platform  # a millisecond, where every command has only a few

    return platform.node()


@cache
def _here(pid: int) -> Observer:
    namespace = None
    proc: Path | None = None
    if sys.platform == "darwin":
        machine_id, boot_id = _darwin_ids()
    else:
        machine_id = next(filter(None, map(_text, _MACHINE_ID_FILES)), None)
        boot_id = _text("/proc/sys/kernel/random/boot_id")
        with contextlib.suppress(OSError):
            namespace = str(Path("/proc/self/ns/pid").readlink())
        with contextlib.suppress(OSError):
            # In a new pid namespace with the old /proc, its numbers are other processes.
            if str(Path("/proc/self").readlink()) == str(pid):
                proc = Path("/proc")
    return Observer(
        host=_host(),
        machine_id=machine_id,
        boot_id=boot_id,
        pid_namespace=namespace,
        pid=pid,
        proc=proc,
        offset_ns=0 if proc is None else start_times.own_offset_ns(),
    )


@cache
def _me(pid: int) -> ProcessIdentity:
    return _identity(pid, _here(pid)) or ProcessIdentity(host=_host(), pid=pid)


def me() -> ProcessIdentity:
    """The identity of the calling process, also after a fork; holds no lock as far as it says."""
    return _me(os.getpid())


def identity_of(pid: int) -> ProcessIdentity | None:
    """The identity of a living process of this pid namespace; None if there is none."""
    return _identity(pid, Observer.here())


def _identity(pid: int, observer: Observer) -> ProcessIdentity | None:
    ticks = None
    try:
        facts = observer.look(pid)
        if facts is None or facts.zombie:
            return None
        ticks = facts.start_ticks
    except PermissionError:
        pass
    return ProcessIdentity(
        host=observer.host,
        machine_id=observer.machine_id,
        boot_id=observer.boot_id,
        pid_namespace=observer.pid_namespace,
        pid=pid,
        start_ticks=ticks,
    )


def judge(
    identity: ProcessIdentity | None,
    *,
    lock: LockState | None = None,
    observer: Observer | None = None,
) -> Verdict:
    """Whether the process that *identity* names lives, with the evidence.

    Args:
        identity: What was recorded; None if nothing was.
        lock: State of the lock that belongs to it, where somebody looked and could tell.
        observer: From where to look; the calling process by default.
    """
    observer = observer or Observer.here()

    def say(kind: VerdictKind, method: str, compared: str) -> Verdict:
        return Verdict(kind=kind, method=method, compared=compared, observer=str(observer))

    if lock == "held":
        return say("alive", "lock", "its lock is held")
    if identity is None:
        return say("unknown", "none", "no process was recorded")
    boot = f"boot {_short(identity.boot_id)} against {_short(observer.boot_id)}"
    same_boot = identity.boot_id is not None and identity.boot_id == observer.boot_id
    if same_boot and identity.locked and lock == "free":
        return say("dead", "lock", f"the lock it held is free; same {boot}")
    if same_boot:
        if identity.pid_namespace != observer.pid_namespace:
            return say(
                "unknown",
                "pid",
                f"pid namespace {identity.pid_namespace} against {observer.pid_namespace}",
            )
        return say(*_judge_pid(identity, observer))
    hosts = (
        f"host {identity.host or '?'}, machine {_short(identity.machine_id)} against "
        f"host {observer.host}, machine {_short(observer.machine_id)}"
    )
    known = None not in (identity.boot_id, observer.boot_id, identity.machine_id)
    # Cloned nodes share a machine id, containers a host name: only both together are one machine.
    same_machine = (identity.machine_id, identity.host) == (observer.machine_id, observer.host)
    if known and same_machine:
        return say("dead", "boot", f"this machine was restarted since: {boot}")
    return say("unknown", "host", hosts)


def _short(text: str | None) -> str:
    return "?" if text is None else text[:8]


def _judge_pid(identity: ProcessIdentity, observer: Observer) -> tuple[VerdictKind, str, str]:
    pid, ticks = identity.pid, identity.start_ticks
    if pid is None or pid <= 0:
        return "unknown", "pid", "no pid was recorded"
    try:
        facts = observer.look(pid)
    except PermissionError:
        return "alive", "pid", f"pid {pid} exists and does not show its start time"
    if facts is None:
        return "dead", "pid", f"no process has pid {pid}"
    shown = facts.start_ticks
    same = ticks is None or shown is None or start_times.same(ticks, shown)
    if facts.zombie and same:
        return "dead", "pid", f"pid {pid} is a zombie: it ended, nobody asked for its exit code"
    if ticks is None or shown is None:
        return "unknown", "pid", f"pid {pid} exists, but its start time was not recorded"
    compared = f"pid {pid} started at {ticks} against {shown}"
    if same:
        return "alive", "pid", compared
    return "dead", "pid", f"the pid was reused: {compared}"


def is_stopped(identity: ProcessIdentity, *, observer: Observer | None = None) -> bool:
    """Whether the process that *identity* names is proven to be stopped, as by SIGSTOP."""
    facts, same = _compared(identity, observer or Observer.here())
    return same is True and facts is not None and facts.stopped


def is_reused(identity: ProcessIdentity, *, observer: Observer | None = None) -> bool:
    """Whether another process is proven to have the pid of *identity* by now."""
    return _compared(identity, observer or Observer.here())[1] is False


def _compared(
    identity: ProcessIdentity, observer: Observer
) -> tuple[ProcessFacts | None, bool | None]:
    """Who has its pid here, and whether that is the same process; None where nothing tells."""
    if identity.pid is None or not observer.shares_pids_with(identity):
        return None, None
    try:
        facts = observer.look(identity.pid)
    except PermissionError:
        return None, None
    if facts is None or facts.start_ticks is None or identity.start_ticks is None:
        return facts, None
    return facts, start_times.same(identity.start_ticks, facts.start_ticks)


def judge_released(
    identity: ProcessIdentity,
    *,
    lock: LockState | None = None,
    observer: Observer | None = None,
) -> Verdict:
    """As `judge`, of an owner that let its experiment go: that it lives does not make it the owner.

    It may mean to come back, so that is no proof of death either.
    """
    verdict = judge(identity, lock=lock, observer=observer)
    if verdict.kind != "alive" or lock == "held":
        return verdict
    compared = f"its owner let it go and lives ({verdict.compared})"
    return attrs.evolve(verdict, kind="unknown", method="released", compared=compared)


def judge_legacy_pid(pid: int, *, observer: Observer | None = None) -> Verdict:
    """What can be said of a bare pid that some tool recorded, when and where nobody knows.

    Gone or a zombie is dead; present may be anybody and is unknown.
    """
    observer = observer or Observer.here()
    kind: VerdictKind = "unknown"
    try:
        facts = observer.look(pid) if pid > 0 else None
        if pid <= 0:
            compared = f"{pid} is no pid"
        elif facts is None:
            kind, compared = "dead", f"no process has pid {pid}"
        elif facts.zombie:
            kind, compared = "dead", f"pid {pid} is a zombie"
        else:
            compared = f"pid {pid} exists, but may be another process by now"
    except PermissionError:
        compared = f"pid {pid} exists and belongs to another user"
    return Verdict(kind=kind, method="legacy_pid", compared=compared, observer=str(observer))
