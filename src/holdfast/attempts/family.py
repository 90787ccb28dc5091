"""The processes that belong to an attempt: found by the mark that they carry, and signalled.

Owns the rule by which a process counts as a dead shim's: pids and sessions are numbers that
strangers get in their turn, and a stranger must never be signalled.
"""

import contextlib
import errno
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from holdfast import liveness
from holdfast.attempts.cgroups import Cgroup
from holdfast.attempts.environment import SESSION
from holdfast.attempts.names import attempts_dir
from holdfast.attempts.records import LiveState, Process
from holdfast.identity import ProcessIdentity
from holdfast.liveness import Observer

__all__ = [
    "Census",
    "confined",
    "holds",
    "holds_lock",
    "is_stuck",
    "release",
    "send",
    "send_to_confined",
    "send_to_marked",
]

_MOST_ROUNDS: Final = 20


class Census:
    """A snapshot of all visible processes: whose mark each carries, and in which session.

    One serves any number of attempts, and is out of date when it is used: before a signal,
    `send_to_marked` checks again.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        """Look from where *observer* stands, when first asked."""
        self._observer = observer or Observer.here()
        self._by_mark: dict[str, list[Process]] | None = None
        self._hidden: list[tuple[int, Process]] = []
        self._open: dict[tuple[int, int], list[Path]] | None = None

    def marked(self, mark: str) -> list[Process]:
        """Living processes that carry *mark*, whatever session they made."""
        if self._by_mark is None:
            self._by_mark = self._taken()
        return self._by_mark.get(mark, [])

    def doubtful(self, shim: ProcessIdentity) -> list[Process]:
        """Living processes of the session of *shim* that do not show whose they are.

        Their environment is another user's, or they have emptied it (`env -i`) or written over it.
        A stranger's that can be read has no mark, and is in no doubt.
        """
        if self._by_mark is None:
            self._by_mark = self._taken()
        if shim.pid is None or shim.pid <= 1 or not self._observer.shares_pids_with(shim):
            return []
        # While a session has members the kernel gives its number to nobody else: if somebody else
        # leads it now, it was empty in between.
        if liveness.is_reused(shim, observer=self._observer):
            return []
        return [each for session, each in self._hidden if session == shim.pid]

    def holders(self, inode: tuple[int, int]) -> list[tuple[Process, bool]]:
        """Who holds a lock of the file (device, inode), each with whether it is released.

        Empty where that cannot be seen; another user's are missing.
        """
        if self._open is None:
            self._open = self._opened()
        found = []
        for link in self._open.get(inode, ()):
            pid = int(link.parent.parent.name)
            with contextlib.suppress(OSError):
                # A reader has the file open, too, but not its lock.
                if "FLOCK" in (link.parent.parent / "fdinfo" / link.name).read_text("ascii"):
                    process = Process(pid, command_of(pid, self._observer))
                    found.append((process, _is_released(pid, self._observer)))
        return found

    def _opened(self) -> dict[tuple[int, int], list[Path]]:
        """All open regular files, and the descriptors that they are open as."""
        found: dict[tuple[int, int], list[Path]] = {}
        proc = self._observer.proc
        for pid in () if proc is None else self._observer.pids():
            assert proc is not None
            with contextlib.suppress(OSError):
                for link in (proc / str(pid) / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        info = link.stat()
                        if stat.S_ISREG(info.st_mode):
                            found.setdefault((info.st_dev, info.st_ino), []).append(link)
        return found

    def _taken(self) -> dict[str, list[Process]]:
        found: dict[str, list[Process]] = {}
        seen: set[int] = {os.getpid()}
        # Twice: who forks and ends while the list is read can hide its child once.
        for _ in range(2):
            for pid in self._observer.pids():
                if pid not in seen:
                    seen.add(pid)
                    self._enter(pid, found)
        return found

    def _enter(self, pid: int, found: dict[str, list[Process]]) -> None:
        observer = self._observer
        marks = marks_of(pid, observer)
        if marks == []:
            return
        try:
            facts = observer.look(pid)
        except PermissionError:
            with contextlib.suppress(OSError):
                self._hide(os.getsid(pid), None, pid)
            return
        if facts is None or facts.zombie:
            return
        if marks is None:
            # Kernel threads are in no session, and never have an environment.
            if facts.session is not None:
                self._hide(facts.session, facts.start_ticks, pid)
            return
        member = Process(pid, command_of(pid, observer), facts.start_ticks)
        for mark in marks:
            found.setdefault(mark, []).append(member)

    def _hide(self, session: int, ticks: int | None, pid: int) -> None:
        if session != pid:
            self._hidden.append((session, Process(pid, command_of(pid, self._observer), ticks)))


def marks_of(pid: int, observer: Observer) -> list[str] | None:
    """The marks that *pid* carries, outermost first; None if it does not show whether it has any.

    An empty list: it shows that it has none, or wants none.
    """
    return _marks_in(observer.environment(pid))


def _marks_in(environment: list[str] | None) -> list[str] | None:
    if not environment:
        return None
    prefix = f"{SESSION}="
    for entry in environment:
        if entry.startswith(prefix):
            return [mark for mark in entry[len(prefix) :].split(":") if mark]
    # An entry without "=" may be what was written over a mark. Beside one that is still there it
    # hides nothing: `execve` takes any text.
    return [] if all("=" in entry for entry in environment) else None


def _is_released(pid: int, observer: Observer) -> bool:
    """Whether *pid* shows that it wants to be part of no attempt."""
    return f"{SESSION}=" in (observer.environment(pid) or ())


def confined(cgroup: Cgroup, observer: Observer) -> tuple[list[Process], list[int]]:
    """Who is in *cgroup*, and which pids there are released, or descend from one that is."""
    pids = cgroup.pids()
    released = {pid for pid in pids if _is_released(pid, observer)}
    parents = {pid: _parent(pid, observer) for pid in pids} if released else {}
    while more := {pid for pid, parent in parents.items() if parent in released} - released:
        released |= more
    members = []
    for pid in pids:
        ticks = None
        with contextlib.suppress(PermissionError):
            facts = observer.look(pid)
            if facts is None or facts.zombie:
                continue
            ticks = facts.start_ticks
        if pid not in released:
            members.append(Process(pid, command_of(pid, observer), ticks))
    return members, sorted(released)


def release(cgroup: Cgroup, observer: Observer) -> bool:
    """Have the released leave *cgroup*; False if some cannot be moved."""
    # Until there are none: one that forks before it has left has its child in there.
    for _ in range(_MOST_ROUNDS):
        _, released = confined(cgroup, observer)
        if not released:
            return True
        for pid in released:
            cgroup.release(pid)
    return False


def _stat(pid: int, observer: Observer) -> list[bytes]:
    """State, parent and so on, as `/proc/PID/stat` has them; empty where it cannot be read."""
    try:
        told = ((observer.proc or Path("/proc")) / str(pid) / "stat").read_bytes()
        return told[told.rindex(b")") + 2 :].split()
    except (OSError, ValueError):
        return []


def _parent(pid: int, observer: Observer) -> int | None:
    return next(map(int, _stat(pid, observer)[1:2]), None)


def command_of(pid: int, observer: Observer) -> str:
    """The name of the program that *pid* runs, for people; empty if unknown."""
    if observer.proc is None:
        return ""
    try:
        return (observer.proc / str(pid) / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def is_stuck(pid: int, observer: Observer) -> bool:
    """Whether *pid* is in an uninterruptible sleep, in which not even KILL reaches it."""
    return _stat(pid, observer)[:1] == [b"D"]


def holds_lock(pid: int, live: LiveState, folder: Path, observer: Observer) -> bool | None:
    """Whether *pid* holds the lock of the `.live` in *folder*; None where that cannot be seen.

    It must work in that very directory, too: a copy made of hard links has the same locked file.
    """
    if live.inode is None:
        return None
    return holds(pid, live.inode, attempts_dir(folder), observer)


def holds(pid: int, inode: tuple[int, int], home: Path, observer: Observer) -> bool | None:
    """Whether *pid* has a lock of the file (device, inode) and the directory *home* open.

    None where that cannot be seen.
    """
    if observer.proc is None:
        return None
    try:
        there = home.stat()
        opened = list((observer.proc / str(pid) / "fd").iterdir())
    except OSError:
        return None
    locked = at_home = hidden = False
    for link in opened:
        try:
            info = link.stat()
            if (info.st_dev, info.st_ino) == inode:
                told = (link.parent.parent / "fdinfo" / link.name).read_text("ascii", "replace")
                locked = locked or "FLOCK" in told
            at_home = at_home or (info.st_dev, info.st_ino) == (there.st_dev, there.st_ino)
        except PermissionError:
            hidden = True  # a container's root may list what another user has open, and no more
        except OSError:
            continue  # closed meanwhile
    return True if locked and at_home else None if hidden else False


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A descriptor of the process, so that a signal cannot hit a later owner of its pid."""
    opener = getattr(os, "pidfd_open", None)
    fd: int | None = None
    if opener is not None:
        # Old kernels, seccomp: then the pid itself must do.
        with contextlib.suppress(OSError):
            fd = opener(pid)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def send(pid: int, number: int, still_it: Callable[[], bool]) -> str:
    """Send *number* to *pid* if *still_it* says so once the process is pinned.

    A stopped process receives nothing but KILL until it goes on, so that CONT follows.

    Returns:
        Why it could not be sent; empty if it was, or if there was nobody to send it to.
    """
    with _pinned(pid) as fd:
        if not still_it():
            return ""
        try:
            for each in (number,) if number == signal.SIGKILL else (number, signal.SIGCONT):
                if fd is not None and sys.platform == "linux":
                    signal.pidfd_send_signal(fd, each)
                else:
                    os.kill(pid, each)
        except ProcessLookupError:
            return ""
        except PermissionError:
            return "it belongs to another user"
        except OSError as err:
            return err.strerror or errno.errorcode.get(err.errno or 0, "it cannot be signalled")
    return ""


def send_to_marked(member: Process, mark: str, number: int) -> str:
    """Signal a process that still carries *mark*; as `send`."""
    here = Observer.here()
    return send(member.pid, number, lambda: mark in (marks_of(member.pid, here) or ()))


def send_to_confined(member: Process, cgroup: Cgroup, number: int) -> str:
    """Signal a process that is still in *cgroup*; as `send`."""
    return send(member.pid, number, lambda: member.pid in cgroup.pids())
