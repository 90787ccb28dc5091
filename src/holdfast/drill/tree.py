"""The processes that descend from this one: who they are, which are holdfast's own, ending them."""

import contextlib
import ctypes
import os
import random
import re
import signal
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts import environment, family
from holdfast.engines.local.descendants import adoption
from holdfast.engines.local.starting import BOOT

__all__ = [
    "Member",
    "adopt",
    "below",
    "bound",
    "end",
    "is_dying",
    "is_own",
    "is_released",
    "member_of",
    "reap",
    "strike",
    "words",
]

_PROC: Final = Path("/proc")
_OWN: Final = os.fsencode(BOOT)
_RELEASED: Final = f"{environment.SESSION}=".encode()
_PR_SET_PDEATHSIG: Final = 1  # of linux/prctl.h
_EXITING: Final = 0x4  # PF_EXITING of linux/sched.h
_KILL: Final = 1 << (signal.SIGKILL - 1)
_PENDING: Final = re.compile(rb"^S(?:ig|hd)Pnd:\s*([0-9a-f]+)$", re.MULTILINE)
#: What forks while it is killed is killed in the next round.
_MOST_ROUNDS: Final = 50


@attrs.frozen
class Member:
    """A process, by what no other will ever have: its pid and when it began."""

    pid: int
    ticks: int
    parent: int = attrs.field(eq=False)
    zombie: bool = attrs.field(eq=False)

    @property
    def lives(self) -> bool:
        """Whether it is still there, and no zombie."""
        now = member_of(self.pid)
        return now == self and not now.zombie


def adopt() -> bool:
    """Have every orphan among our descendants come to us, whatever it did to its environment.

    False where the system cannot do that, or does not show who descends from whom.
    """
    make = adoption()
    listed = (_PROC / f"self/task/{os.getpid()}/children").exists()
    return make is not None and listed and make()


def bound() -> Callable[[], None]:
    """What has a child, which calls it before its exec, get TERM once we are no more.

    A drill that was killed cannot end what it has started; a run that is told to stop can.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    number, zero = ctypes.c_ulong(signal.SIGTERM), ctypes.c_ulong(0)
    parent = os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, number, zero, zero, zero)
        if os.getppid() != parent:  # it was over before that
            os._exit(128 + signal.SIGTERM)

    return bind


def member_of(pid: int) -> Member | None:
    """Who has *pid* now; None if nobody has."""
    try:
        told = (_PROC / str(pid) / "stat").read_bytes()
        fields = told[told.rindex(b")") + 2 :].split()
        return Member(pid, int(fields[19]), int(fields[1]), fields[0] in b"ZX")
    except (OSError, ValueError, IndexError):
        return None


def below(root: int) -> list[Member]:
    """What descends from *root*, parents first, and has not ended."""
    listed: list[Member] = []
    pending = [root]
    while pending:
        for pid in _children(pending.pop(0)):
            member = member_of(pid)
            if member is not None:
                pending.append(pid)
                if not member.zombie:
                    listed.append(member)
    return listed


def _children(pid: int) -> list[int]:
    """The children of *pid*, those of its threads, too."""
    found: list[int] = []
    try:
        # By the kernel's own list: a look at all processes would take longer than most writes do.
        for task in os.listdir(_PROC / str(pid) / "task"):  # noqa: PTH208
            told = (_PROC / str(pid) / "task" / task / "children").read_bytes()
            found += map(int, told.split())
    except OSError:
        return found
    return found


def is_own(member: Member) -> bool:
    """Whether it is holdfast's starter or a shim."""
    return _OWN in _read(member.pid, "cmdline")


def is_dying(member: Member) -> bool:
    """Whether it does nothing any more: it is on its way out, or was killed and has not noticed."""
    try:
        told = _read(member.pid, "stat")
        exiting = int(told[told.rindex(b")") + 2 :].split()[6]) & _EXITING
    except (ValueError, IndexError):
        return True  # it is gone
    pending = _PENDING.findall(_read(member.pid, "status"))
    return bool(exiting) or any(int(mask, 16) & _KILL for mask in pending)


def is_released(member: Member) -> bool:
    """Whether it shows that it wants to be part of no attempt."""
    return _RELEASED in _read(member.pid, "environ").split(b"\0")


def words(member: Member) -> str:
    """The command line of *member*, for people."""
    program, *rest = _read(member.pid, "cmdline").strip(b"\0").split(b"\0")
    return os.fsdecode(b" ".join([program.rpartition(b"/")[2], *rest]))


def _read(pid: int, what: str) -> bytes:
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / what).read_bytes()
    return b""


def strike(members: Iterable[Member], number: int) -> int:
    """Send *number* to each of *members* that is still there; to how many."""
    there: list[Member] = []

    def is_there(member: Member) -> bool:
        if member.lives:
            there.append(member)
        return there[-1:] == [member]

    for member in members:
        family.send(member.pid, number, partial(is_there, member))
    return len(there)


def end(
    before: Collection[Member] = (),
    rng: random.Random | None = None,
    awaited: Collection[int] = (),
) -> int:
    """Kill all that descends from us but for *before*, in any order; how many were met first.

    Args:
        awaited: As for `reap`.
    """
    met = 0
    for number in range(_MOST_ROUNDS):
        members: Sequence[Member] = [each for each in below(os.getpid()) if each not in before]
        if not members:
            break
        if number == 0:
            met = len(members)
        if rng is not None:
            members = rng.sample(members, len(members))
        strike(members, signal.SIGKILL)
        reap(awaited)
    return met


def reap(awaited: Collection[int] = ()) -> None:
    """Let go of orphans that came to us and ended, but not of what somebody waits for himself."""
    for pid in _children(os.getpid()):
        member = member_of(pid)
        if member is not None and member.zombie and pid not in awaited:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
