"""The command of an attempt and everything it started: found, waited for, signalled.

Owns the rule by which a process belongs to an attempt: it descends from its shim, whatever session
or group it has made, or is in the cgroup of its shim. The shim adopts orphans, so that none can
leave by losing its parents. Like the shim, the standard library only and little of it.
"""

import contextlib
import os
import resource  # by the starter: `wait4` would import it in every shim
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.attempts import environment
    from holdfast.engines.local import system
else:
    import environment
    import system
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from holdfast.engines.local import cgroup

    #: pid, parent, group, session, state, start ticks, name, forked and nothing executed since.
    Member = tuple[int, int, int, int, str, int, str, bool]

_PR_SET_CHILD_SUBREAPER = 36
_FORKED_ONLY = 0x40  # PF_FORKNOEXEC
#: Whoever has this in the environment is meant to outlive the attempt, with all its children.
_RELEASED = b"\0%s=\0" % environment.SESSION.encode()
#: After which nothing is waited for that was killed.
KILLED_WITHIN_S = 5.0
_AT_MOST = 20  # named in an outcome, which has to fit its reserve


def adoption() -> "Callable[[], bool] | None":
    """What makes the calling process adopt the orphans among its descendants; None where none can.

    Called once, before the forks: loading ctypes takes some milliseconds.
    """
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (ImportError, OSError, AttributeError):
        return None
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)

    def adopt() -> bool:
        return bool(prctl(_PR_SET_CHILD_SUBREAPER, one, zero, zero, zero) == 0)

    return adopt


class Family:
    """What descends from the calling process, of which *command* was started by itself.

    Attributes:
        adopts: Whether orphans come to us; else those that left the session are out of reach.
        group: The cgroup of the attempt; None where there is none.
        command: Pid of the command; it stays ours until `reap` has seen its end.
        status: How the command ended, as `wait4` says it; None as long as it runs.
        empty: Whether we have no child left. Proves that nothing is left, if orphans come to us.
        unsettled: Whether `living` has just seen something that may be about to execute a program,
            and to show only then that it is released.
        released: Whether `living` has just seen something that is released.
        alone: Whether `anything_left` has just seen that nothing but us is in the cgroup.
        childless: Whether the command itself never waited for a child.
        apart: Children that are left out, with all that descends from them.
        killed: Orphans that died of a signal, at most 20.
        cpu_s: Of the command and the orphans, and of all that they waited for.
        max_rss: Of the largest of them, in the kernel's unit.
    """

    def __init__(self, *, adopts: bool, group: "cgroup.Cgroup | None" = None) -> None:
        self.adopts = adopts
        self.group = group
        self.command = 0
        self.status: int | None = None
        self.empty = False
        self.released = False
        self.unsettled = False
        self.childless = False
        self.apart: set[int] = set()
        self.killed: list[int] = []
        self.orphan_died_of_signal = False
        self.cpu_s = 0.0
        self.max_rss = 0
        self.alone = False
        self._spared: set[int] = set()

    # --- ends

    def reap(self) -> bool:
        """Take in what has ended; True once the command has."""
        while not self.empty:
            try:
                ended = self._next_end()
            except ChildProcessError:
                self.empty = True
                break
            if ended is None:
                break
            pid, status, usage = ended
            self.cpu_s += usage.ru_utime + usage.ru_stime
            self.max_rss = max(self.max_rss, usage.ru_maxrss)
            if pid == self.command:
                self.status = status
            elif os.WIFSIGNALED(status):
                self.orphan_died_of_signal = True
                if len(self.killed) < _AT_MOST:
                    self.killed.append(pid)
        return self.status is not None

    def _next_end(self) -> "tuple[int, int, resource.struct_rusage] | None":
        if not hasattr(os, "waitid"):  # macOS
            ended = os.wait4(-1, os.WNOHANG)
            return ended if ended[0] else None
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_pid == self.command:
            # Known of a zombie only: once it has been waited for, nobody can tell.
            self.childless = system.waited_for_none(found.si_pid)
        return os.wait4(found.si_pid, 0)

    # --- who is there

    def living(self) -> "list[Member] | None":
        """Everything that is neither ended nor released; None where processes cannot be listed.

        A look, not a proof: what forks or ends meanwhile may be missed, so look again.
        """
        me = os.getpid()
        self.released = self.unsettled = False
        try:
            # In a new pid namespace with the old /proc, its numbers are other processes.
            if os.readlink("/proc/self") != str(me):
                return None
            if self.adopts and os.path.exists(f"/proc/self/task/{me}/children"):
                found = self._descend(me, _children)
            else:
                found = self._descend(me, _everyone(me))
        except OSError:
            return None
        return found if self.group is None else found + self._others(self.group, found)

    def _descend(self, me: int, children: "Callable[[int], Iterable[int]]") -> "list[Member]":
        found: list[Member] = []
        seen, todo = {me, *self.apart}, [me]
        self._spared = set()
        while todo:
            for pid in children(todo.pop()):
                if pid in seen:
                    continue
                seen.add(pid)
                member = _member(pid)
                if member is None or member[4] == "Z":
                    continue
                if _shows_release(pid):
                    self.released = True  # and with it all that descends from it
                    self._spared.add(pid)
                    continue
                found.append(member)
                todo.append(pid)
                self.unsettled = self.unsettled or member[7]
        return found

    def _others(self, group: "cgroup.Cgroup", kin: "list[Member]") -> "list[Member]":
        """Who is in the cgroup and neither of *kin* nor released, with its children."""
        others = set(group.others()) - {member[0] for member in kin} - self._spared
        found = [m for m in map(_member, others) if m is not None and m[4] != "Z"]
        self._spared |= {member[0] for member in found if _shows_release(member[0])}
        while True:
            spared = {m[0] for m in found if m[0] in self._spared or m[1] in self._spared}
            if spared <= self._spared:
                break
            self._spared |= spared
        found = [member for member in found if member[0] not in self._spared]
        self.unsettled = self.unsettled or any(member[7] for member in found)
        return found

    def let_go(self) -> None:
        """Have the released leave the cgroup, which is about to be ended or given up."""
        # Until there are none: one that forks before it has left has its child in there.
        for _ in range(_AT_MOST):
            if self.group is None or self.alone or self.living() is None:
                return
            staying = self._spared.intersection(self.group.others())
            if not staying:
                return
            for pid in staying:
                self.group.let_go(pid)

    def anything_left(self) -> bool:
        """Whether something may still run that was not released."""
        self.reap()
        if self.empty and self.adopts:
            # What has joined another pid namespace can be lost to the reaper of that.
            self.alone = self.group is None or self.group.alone()
            if self.alone or (self.group and not self.group.others()):
                return False
        # Looked at twice: a process that forks and ends meanwhile can hide its child once.
        for _ in range(2):
            living = self.living()
            if living is None:
                return self._group_exists()
            if living:
                return True
            self.reap()
        # A child that is neither ended, seen nor released hides: without descriptors, say.
        return self.adopts and not self.empty and not self.released

    def _group_exists(self) -> bool:
        try:
            os.killpg(self.command, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    # --- signals

    def signal(self, number: int, told: "set[tuple[int, int]]") -> "list[Member]":
        """Send *number* to everything that is left, but what is in *told*, and add it there.

        Returns:
            What was signalled now, as far as it can be listed.
        """
        living = self.living()
        if living is None:
            if (self.command, 0) not in told:
                told.add((self.command, 0))
                system.signal_group(self.command, number)
            return []
        new = [member for member in living if (member[0], member[5]) not in told]
        told.update((member[0], member[5]) for member in new)
        group = 0
        if self.status is None and not self.released and any(m[0] == self.command for m in new):
            # In one blow, so that what forks just now cannot slip through. Its leader has not been
            # waited for: the group cannot be a stranger's.
            group = self.command
            system.signal_group(group, number)
        kin = {os.getpid(), *(member[0] for member in living)}
        for member in new:
            if member[2] != group:
                _send(member, number, kin, self.group)
        if number == signal.SIGKILL and self.group is not None:
            self.let_go()
            self.group.kill()
        return new

    def pass_on(self, number: int) -> None:
        """Send a warning to the command itself, if it catches that: any other would die of it."""
        if self.status is None and system.catches(self.command, number):
            with contextlib.suppress(OSError):
                os.kill(self.command, number)

    def left(self) -> "list[list[int | str | None]]":
        """Pid, start, name, and the reason, of what could not be stopped."""
        living = self.living()
        if living is None:
            return [[self.command, None, "", "its group cannot be stopped"]]
        return [[m[0], m[5], m[6], _why(m)] for m in living[:_AT_MOST]]


def named(members: "Iterable[Member]") -> "list[list[int | str]]":
    """Pid and name of each, at most 20."""
    pairs: list[list[int | str]] = [[member[0], member[6]] for member in members]
    return pairs[:_AT_MOST]


def parse(stat: bytes) -> "Member":
    """What `/proc/PID/stat` says.

    Raises:
        ValueError: It is not that.
    """
    # The name is in parentheses and may hold spaces and parentheses itself: count from the last.
    start, end = stat.index(b"("), stat.rindex(b")")
    fields = stat[end + 2 :].split()
    # The first thread of a process may end before the others: then it still runs.
    ended = fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1
    name = "".join(chr(c) if 32 <= c < 127 else "?" for c in stat[start + 1 : end])
    state = "Z" if ended else fields[0].decode("ascii").replace("Z", "S")
    # In the middle of `exec` it has memory (field 23), and no end of an environment (field 51) yet.
    amid_exec = len(fields) > 48 and fields[20] != b"0" and fields[48] == b"0"
    return (
        int(stat[:start]),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        state,
        int(fields[19]) - system.OFFSET_TICKS,
        name,
        amid_exec or bool(int(fields[6]) & _FORKED_ONLY),
    )


def _member(pid: int) -> "Member | None":
    try:
        return parse(system.read(f"/proc/{pid}/stat", 1024))
    except (OSError, ValueError, IndexError):
        return None


def _shows_release(pid: int) -> bool:
    """Whether *pid* says that it is released; what hides its environment does not."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return _RELEASED in b"\0" + file.readall() + b"\0"
    except OSError:
        return False


def _children(pid: int) -> "list[int]":
    """By the kernel's lists of children: a few files, however many processes there are."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file,
            ):
                found += map(int, file.readall().split())
    return found


def _everyone(me: int) -> "Callable[[int], list[int]]":
    """By the parents of all processes, where the kernel keeps no lists of children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        member = _member(int(name)) if name.isdigit() else None
        if member is not None:
            # Where nobody adopts it, an orphan is known by its session only.
            children.setdefault(me if member[3] == me else member[1], []).append(member[0])
    return lambda pid: children.get(pid, [])


def _send(member: "Member", number: int, kin: "set[int]", group: "cgroup.Cgroup | None") -> None:
    """Send *number* to *member*, unless a stranger has its pid by now."""
    pid = member[0]
    numbers = (number, signal.SIGCONT) if number == signal.SIGTERM else (number,)
    pinned = -1
    try:
        # A child of ours that we have not waited for keeps its pid; others are pinned first, and
        # looked at again then.
        if member[1] != os.getpid():
            with contextlib.suppress(OSError):
                pinned = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
            now = _member(pid)
            if now is None or now[5] != member[5]:
                return
            if now[1] not in kin and (group is None or pid not in group.others()):
                return
        for each in numbers:
            if pinned >= 0:
                signal.pidfd_send_signal(pinned, each)
            else:
                os.kill(pid, each)
    except OSError:
        pass  # it has ended, or is another user's: the next look tells
    finally:
        if pinned >= 0:
            os.close(pinned)


def _why(member: "Member") -> str:
    if member[4] == "D":
        return "waits in the kernel and cannot be killed now"
    try:
        os.kill(member[0], 0)
    except PermissionError:
        return "belongs to another user"
    except OSError:
        pass
    return f"lived on {KILLED_WITHIN_S:.0f} s after it was killed"
