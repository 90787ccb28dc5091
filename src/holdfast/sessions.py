"""What a shim leaves behind: the processes of its session, found and stopped.

Owns the rule by which a process counts as a dead shim's: pids and sessions are numbers that
strangers get in their turn, and a stranger must never be signalled.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from holdfast import start_times
from holdfast.identity import ProcessIdentity
from holdfast.liveness import Observer, judge

__all__ = [
    "SESSION_VARIABLE",
    "doubtful_members",
    "leader_lives",
    "session_mark",
    "session_members",
    "signal_process",
    "stop_session",
]

#: In the environment of everything that a shim runs: whose session it belongs to.
SESSION_VARIABLE: Final = "HOLDFAST_SESSION"

_PAUSE_S: Final = 0.01
_KILLED_WITHIN_S: Final = 5.0
_EXEC_WITHIN_S: Final = 1.0
_ENDED_WITHIN_S: Final = 2.0


def session_mark(pid: int, start_ticks: int | None) -> str:
    """The value of `SESSION_VARIABLE` for the session of that shim."""
    return f"{pid}.{start_ticks}"


def session_members(identity: ProcessIdentity, *, observer: Observer | None = None) -> list[int]:
    """Living pids of the session that the shim *identity* leads or led, itself not included.

    The kernel does not give a number away while it still names a session, but once that session is
    empty a stranger may get it. So the leader must be the recorded one; where it is gone, a member
    counts only if its environment carries the shim's mark.
    """
    return _sort(identity, observer or Observer.here())[0]


def doubtful_members(identity: ProcessIdentity, *, observer: Observer | None = None) -> list[int]:
    """Living pids that may be left of that session or be a stranger's: they do not show which.

    Their environment is another user's, or they have emptied it (`env -i`) or written over it
    (what shows its state in its title). A stranger's that can be read has no mark, and is in no
    doubt: else whoever gets the number of a session would keep an attempt undecided.
    """
    return _sort(identity, observer or Observer.here())[1]


def _sort(identity: ProcessIdentity, observer: Observer) -> tuple[list[int], list[int]]:
    """The members of that session that are the shim's, and those that may be."""
    here = (identity.boot_id, identity.pid_namespace) == (
        observer.boot_id,
        observer.pid_namespace,
    )
    leader = identity.pid
    if not here or leader is None or leader <= 1:
        return [], []
    leads = _same(leader, identity.start_ticks, observer)
    if leads is False:
        return [], []
    mark = f"{SESSION_VARIABLE}={session_mark(leader, identity.start_ticks)}"
    deadline = time.monotonic() + _EXEC_WITHIN_S
    ours, doubtful = [], []
    for pid in observer.pids():
        if pid == leader or not _in_session(pid, leader, observer):
            continue
        marked = leads or _marked(pid, leader, mark, observer, deadline)
        if marked:
            ours.append(pid)
        elif marked is None:
            doubtful.append(pid)
    return ours, doubtful


def _in_session(pid: int, leader: int, observer: Observer) -> bool:
    try:
        facts = observer.look(pid)
    except PermissionError:
        # It hides, but its session is not its secret.
        with contextlib.suppress(OSError):
            return os.getsid(pid) == leader
        return False
    return facts is not None and not facts.zombie and facts.session == leader


def _marked(pid: int, leader: int, mark: str, observer: Observer, deadline: float) -> bool | None:
    """Whether *pid* carries *mark*; None if it cannot be read, or has nothing that could."""
    while True:
        environment = observer.environment(pid)
        if environment and mark in environment:
            return True
        if environment and all("=" in entry for entry in environment):
            return False
        # What ended meanwhile has no environment either.
        if not _in_session(pid, leader, observer):
            return False
        # A command whose shim was killed just after it started has no environment for a moment.
        if environment is None or time.monotonic() >= deadline:
            return None
        time.sleep(_PAUSE_S)


def _same(pid: int, ticks: int | None, observer: Observer) -> bool | None:
    """Whether *pid* is the process of *ticks*; None if there is no such process."""
    try:
        facts = observer.look(pid)
    except PermissionError:
        return False
    if facts is None:
        return None
    shown = facts.start_ticks
    return ticks is not None and shown is not None and start_times.same(shown, ticks)


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A descriptor of the process, so that a signal cannot hit a later owner of its pid."""
    opener = getattr(os, "pidfd_open", None)
    fd: int | None = None
    if opener is not None:
        # Old kernels, seccomp: then the pid itself has to do.
        with contextlib.suppress(OSError):
            fd = opener(pid)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def signal_process(pid: int, number: int, still_it: Callable[[], bool]) -> bool:
    """Send *number* to *pid* if *still_it* says so once the process is pinned.

    Returns:
        Whether the signal was sent.
    """
    with _pinned(pid) as fd:
        if not still_it():
            return False
        try:
            if fd is not None and sys.platform == "linux":
                signal.pidfd_send_signal(fd, number)
            else:
                os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            return False
    return True


def _members(identity: ProcessIdentity, observer: Observer | None) -> list[int]:
    """`session_members`, looked at twice before it is empty.

    A process that forks and ends while the list of processes is read can hide its child once.
    """
    return session_members(identity, observer=observer) or session_members(
        identity, observer=observer
    )


def leader_lives(
    identity: ProcessIdentity,
    *,
    observer: Observer | None = None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether the shim is there although its lock is free, and stays there.

    The kernel frees the locks of a process that ends a moment before the process itself is gone.
    """
    deadline = clock() + _ENDED_WITHIN_S
    while judge(identity, observer=observer).kind == "alive":
        if clock() >= deadline:
            return True
        pause(_PAUSE_S)
    return False


def stop_session(
    identity: ProcessIdentity,
    grace_s: float,
    *,
    observer: Observer | None = None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[list[int], list[int]]:
    """Make sure that nothing is left of a dead shim's session: TERM, *grace_s*, KILL.

    Returns:
        The pids that were found and signalled, and those still alive in the end (five seconds
        after KILL: stuck in the kernel, or not ours to signal).
    """
    found: list[int] = []
    left: list[int] = []
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILLED_WITHIN_S)):
        deadline = clock() + patience_s
        signalled: set[int] = set()
        while left := _members(identity, observer):
            # Again and again: what is stopped may still fork in the meantime.
            for pid in left:
                if pid in signalled:
                    continue
                signalled.add(pid)
                found += [pid] if pid not in found else []

                def still_it(pid: int = pid) -> bool:
                    return pid in session_members(identity, observer=observer)

                signal_process(pid, number, still_it)
                if number == signal.SIGTERM:
                    # A stopped process receives TERM only once it goes on.
                    signal_process(pid, signal.SIGCONT, still_it)
            if clock() >= deadline:
                break
            pause(_PAUSE_S)
        if not left:
            break
    return found, left
