"""Who has a slot, judged by its lock, by what its file says and by what lives of that attempt."""

import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, Literal

import attrs

from holdfast import liveness
from holdfast.attempts import cgroups
from holdfast.attempts.family import Census
from holdfast.attempts.files import Signature
from holdfast.attempts.looking import listed, survivors
from holdfast.liveness import Observer
from holdfast.slots.places import Place

__all__ = ["Standing", "standing", "waits"]

#: Slots of one kind that a message names.
_MOST_NAMED: Final = 3

Kind = Literal["free", "held", "left", "unknown"]


@attrs.frozen(kw_only=True)
class Standing:
    """How it is with a slot.

    Attributes:
        kind: `held`: an attempt has it, or a run that is about to start one; `left`: its shim is
            dead, and what that left has it still; `unknown`: whether anything lives that uses it
            cannot be seen from here; `free`.
        holder: Whose it is, or was last; None if that is not written there.
        why: The evidence, for people.
        released: Whether of what is `left` nothing belongs to the attempt: a daemon that was meant
            to outlive it has inherited the lock, and its shim did not live to let that go.
    """

    slot: Place
    kind: Kind
    holder: Signature | None = None
    why: str = ""
    released: bool = False

    @property
    def since(self) -> datetime | None:
        """When its holder began."""
        return None if self.holder is None else self.holder.started_at

    def __str__(self) -> str:
        """`gpu.0 is held by exp_7 3.1 since 2024-01-15 12:34:56Z`."""
        if self.kind == "free":
            return f"{self.slot} is free"
        if self.holder is None:
            return f"{self.slot} is held by a run that is about to start something"
        whose = f"{self.holder.experiment_id} {self.holder.attempt}"
        since = "" if self.since is None else f" since {self.since:%Y-%m-%d %H:%M:%S}Z"
        if self.kind == "held":
            return f"{self.slot} is held by {whose}{since}"
        if self.kind == "left":
            return f"{self.slot} is used by what {whose} left: {self.why}"
        return f"{self.slot} may be used by {whose}{since}: {self.why}"


def waits(found: Iterable[Standing]) -> list[str]:
    """`waits for gpu: gpu.0 is held by exp_7 3.1 since …`, a line for each kind."""
    kinds: dict[str, list[Standing]] = {}
    for each in found:
        kinds.setdefault(each.slot.kind, []).append(each)
    lines = []
    for kind, standings in kinds.items():
        named = ", ".join(map(str, standings[:_MOST_NAMED]))
        more = len(standings) - _MOST_NAMED
        line = f"waits for {kind}: {named}" + (f", and {more} more" if more > 0 else "")
        if any(each.kind != "held" for each in standings):
            line += "; `holdfast slots` says what to do"
        lines.append(line)
    return lines


def standing(
    slot: Place, holder: Signature | None, census: Callable[[], Census], *, locked: bool | None
) -> Standing:
    """How it is with *slot*, whose file *holder* was the last to sign.

    Args:
        census: All processes, asked for only if its shim is dead.
        locked: Whether somebody else has locked it; None if nobody looked.
    """

    def say(kind: Kind, why: str) -> Standing:
        return Standing(slot=slot, kind=kind, holder=holder, why=why)

    if holder is None:
        return say("held", "its lock is held") if locked else say("free", "nobody holds it")
    here = Observer.here()
    verdict = liveness.judge(holder.identity, observer=here)
    if verdict.kind == "alive" or (locked and verdict.kind == "unknown"):
        # Also without its lock, which anything that inherits it can let go.
        return say("held", "its lock is held" if locked else verdict.compared)
    if verdict.kind == "unknown":
        return say("unknown", verdict.compared)
    if verdict.method == "boot":
        return say("held", "its lock is held") if locked else say("free", verdict.compared)
    cgroup = cgroups.of_mark(holder.cgroup, holder.mark)
    living, all_seen = survivors(holder.mark, cgroup, census(), here)
    if living:
        return say("left", listed(living))
    if not all_seen and cgroup is not None and cgroup.populated():
        return say("unknown", "something unseen from here is in its cgroup")
    hidden = [] if all_seen else census().doubtful(holder.identity)
    if hidden:
        return say("unknown", f"these do not show whose they are: {listed(hidden)}")
    if locked:
        with contextlib.suppress(OSError):
            info = slot.path.lstat()
            heirs = [process for process, _ in census().holders((info.st_dev, info.st_ino))]
            words = f"{listed(heirs) or 'nobody knows who'} has inherited its lock"
            return attrs.evolve(say("left", words), released=True)
    return say("free", f"{verdict.compared}; nothing of it is left")
