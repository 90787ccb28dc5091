"""Who a process is, and what an observer could prove about it. Records only; no I/O.

`holdfast.liveness` finds these facts out.
"""

from typing import Literal

import attrs

from holdfast.validators import optional_number, optional_text, text

__all__ = ["LockState", "ProcessIdentity", "Verdict", "VerdictKind"]

VerdictKind = Literal["alive", "dead", "unknown"]
LockState = Literal["held", "free"]


@attrs.frozen(kw_only=True)
class ProcessIdentity:
    """One process, distinct from every other that ever ran, here or elsewhere.

    A pid alone is reused within hours, so it is kept together with the boot it belongs to and
    the kernel's start time. `None` means that the platform could not say.

    Attributes:
        start_ticks: Start time in clock ticks since boot (Linux, `/proc/PID/stat` field 22 without
            what a time namespace adds to it), in microseconds since the epoch elsewhere. Never
            changes while the process lives.
        locked: Whether this process held the experiment's `flock` when it wrote this. A free lock
            then proves death, in any pid namespace of the same boot.
        released: Whether this process let the experiment go in good order. It may live on.
    """

    host: str = attrs.field(default="", validator=text)
    machine_id: str | None = attrs.field(default=None, validator=optional_text)
    boot_id: str | None = attrs.field(default=None, validator=optional_text)
    pid_namespace: str | None = attrs.field(default=None, validator=optional_text)
    pid: int | None = attrs.field(default=None, validator=optional_number)
    start_ticks: int | None = attrs.field(default=None, validator=optional_number)
    locked: bool = False
    released: bool = False

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host or 'an unnamed host'}"

    def is_same(self, other: "ProcessIdentity | None") -> bool:
        """Whether *other* is this process, whatever either says of the experiment's lock."""
        if other is None:
            return False
        return attrs.evolve(self, locked=other.locked, released=other.released) == other


@attrs.frozen(kw_only=True)
class Verdict:
    """Whether a process lives, with the evidence: shown to the user, stored with what it caused.

    Attributes:
        method: Which rule decided: `lock`, `pid`, `boot`, `legacy_pid`, `host`, `released`,
            `none`.
        compared: What was compared, as text: `recorded` against `observed`.
        observer: Who looked: `pid N on HOST`.
    """

    kind: VerdictKind
    method: str
    compared: str
    observer: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.method}: {self.compared}; seen by {self.observer})"
