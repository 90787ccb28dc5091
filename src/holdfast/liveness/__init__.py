"""Alive, dead or unknown: what this machine can prove about a process, here or elsewhere.

Whoever owns a lock file looks whether the lock is held, and hands that in;
`holdfast.attempts.settling` stops what a dead shim left. Unknown is never rounded to dead.
"""

import os
from functools import cache

import attrs

from holdfast.identity import LockState, ProcessIdentity, Verdict, VerdictKind
from holdfast.liveness import start_times
from holdfast.liveness.observer import Observer, ProcessFacts

__all__ = [
    "Observer",
    "ProcessFacts",
    "identity_of",
    "is_reused",
    "is_running",
    "is_stopped",
    "judge",
    "judge_legacy_pid",
    "judge_released",
    "me",
]


@cache
def _me(pid: int) -> ProcessIdentity:
    here = Observer.here()
    return _identity(pid, here) or ProcessIdentity(host=here.host, pid=pid)


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
        return say(
            "dead", "lock", f"the lock it held is free; same boot {_short(observer.boot_id)}"
        )
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


def is_running(identity: ProcessIdentity, *, observer: Observer | None = None) -> bool:
    """Whether the process that *identity* names is proven to run here."""
    facts, same = _compared(identity, observer or Observer.here())
    return same is True and facts is not None and not facts.zombie


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
