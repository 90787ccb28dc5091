"""Records of attempts: what is asked of an engine, what a shim says of itself and of the end."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.identity import ProcessIdentity
from holdfast.status import Reason

__all__ = ["Attempt", "CgroupAddress", "ExitRecord", "LiveState", "Process", "Slot", "by_kind"]


def _words(argv: Iterable[str]) -> tuple[str, ...]:
    return tuple(argv)


def _optional_text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


@attrs.frozen(kw_only=True)
class Slot:
    """Something of which a machine has only so many, such as a GPU, held by one attempt.

    It is held as long as the exclusive lock of its file is, by whoever has inherited the
    descriptor. An engine that cannot hand descriptors on has to lock the file where the command
    runs, and keep it locked until nothing of the attempt is left.

    Attributes:
        kind: What it is one of: `gpu`.
        name: Which one of them it is, as the command is told: `0`.
        path: The file that is locked.
        fd: A descriptor of it, locked; the engine's to inherit, not to close.
    """

    kind: str
    name: str
    path: Path
    fd: int


def by_kind(slots: Iterable[Slot]) -> dict[str, str]:
    """Their names by kind, as a command is told them: `{"gpu": "0,1"}`."""
    names: dict[str, list[str]] = {}
    for slot in slots:
        names.setdefault(slot.kind, []).append(slot.name)
    return {kind: ",".join(which) for kind, which in names.items()}


@attrs.frozen(kw_only=True)
class Attempt:
    """One run of one command, as an engine is asked for it.

    Attributes:
        env: Added to the environment of the engine.
        cwd: Directory it runs in; None for the engine's own.
        timeout_s: Seconds after which it is stopped; None for never.
        grace_s: Seconds between TERM and KILL when it is stopped.
        folder: The experiment's folder, in which `attempts/` is.
        slots: What it holds; open until the engine has taken the attempt.
        resources: What rules have set for this attempt, instead of what the engine is told of all:
            `time_s`, `memory_bytes`.
    """

    name: AttemptName
    argv: tuple[str, ...] = attrs.field(converter=_words, validator=attrs.validators.min_len(1))
    env: Mapping[str, str] = attrs.field(factory=dict)
    cwd: str | None = attrs.field(default=None, converter=_optional_text)
    timeout_s: float | None = None
    grace_s: float = 30.0
    folder: Path = attrs.field(converter=Path)
    slots: tuple[Slot, ...] = ()
    resources: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen
class Process:
    """A process that an attempt started, as it is named to people.

    Attributes:
        start_ticks: As in `ProcessIdentity`; None where it is not needed or not known.
        why: Why it could not be stopped; empty where it could.
    """

    pid: int
    command: str = ""
    start_ticks: int | None = None
    why: str = ""

    def __str__(self) -> str:
        named = f"{self.pid} ({self.command})" if self.command else str(self.pid)
        return f"{named}: {self.why}" if self.why else named


@attrs.frozen(kw_only=True)
class ExitRecord:
    """How an attempt ended, as its shim saw it. The guards decide what that means.

    Attributes:
        exit_code: None if it was ended by *signal* or was never started.
        stop_requested: Who of us asked it to stop before it ended, `user`; None if nobody did.
        interrupted_by: The foreign signal that asked its shim to stop, before the end or within
            half a second of it: such an end proves nothing. None if there was none.
        timed_out: Whether it was stopped because of its timeout.
        out_of_memory: Whether the kernel is proven to have killed it for want of memory.
        perhaps_memory: Whether the kernel killed something for that when this one was killed.
        error: Why it could not be started; None if it was.
        max_rss_bytes: Peak memory of the largest of its processes.
        cpu_s: User and system time of all its processes that were waited for.
        stopped: What it had started, beside the command itself, and its shim stopped.
        left: What its shim could not stop.
        identity: The shim.
    """

    exit_code: int | None = None
    signal: int | None = None
    stop_requested: Reason | None = None
    interrupted_by: int | None = None
    timed_out: bool = False
    out_of_memory: bool = False
    perhaps_memory: bool = False
    error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    max_rss_bytes: int | None = None
    cpu_s: float | None = None
    host: str | None = None
    stopped: tuple[Process, ...] = ()
    left: tuple[Process, ...] = ()
    identity: ProcessIdentity | None = None

    @property
    def reason(self) -> Reason:
        """What ended it."""
        if self.error is not None:
            return Reason.LAUNCH_ERROR
        if self.timed_out:
            return Reason.TIMEOUT
        if self.out_of_memory:
            return Reason.OUT_OF_MEMORY
        if self.signal is None:
            return Reason.EXIT
        return Reason.PERHAPS_MEMORY if self.perhaps_memory else Reason.SIGNAL


@attrs.frozen
class CgroupAddress:
    """Where a cgroup is found again.

    Attributes:
        path: As the kernel names it.
        namespace: The cgroup namespace in which it has that path.
    """

    path: str
    namespace: str


@attrs.frozen
class LiveState:
    """What an attempt's `.live` says.

    Attributes:
        kind: `absent`: no shim has begun; `revoked`: none may any more; `held`: the shim lives;
            `free`: it does not; `unknown`: the file system has no locks to tell by.
        identity: The shim, where its file could be read.
        mark: What everything that it started carries in its environment.
        inode: Device and inode of the file; None if there is none.
        copied: Whether it is a copy, or forged: its lock and its mark belong to another.
        cgroup: That of the attempt; None if it has none.
    """

    kind: Literal["absent", "revoked", "held", "free", "unknown"]
    identity: ProcessIdentity | None = None
    mark: str | None = None
    inode: tuple[int, int] | None = None
    copied: bool = False
    cgroup: CgroupAddress | None = None
