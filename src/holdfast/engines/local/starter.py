"""The starter: a small process that forks a shim for every attempt it is sent.

A fork of the orchestrator would cost as much as the orchestrator is large, and inherit its locks.
This one is started before it is needed, has next to nothing in memory, and does nothing else. It
ends when its socket closes, and of no signal that can be blocked; its shims go on. Standard library
only.

Frames in both directions: four bytes of length, then JSON, whose strings carry bytes as Latin-1.
Behind a frame that asks for attempts come the descriptors of the slots that each of them holds.
"""

# The parts of `signal` in C: it makes enums of all that are blocked, 0.1 ms for every attempt.
import _signal  # type: ignore[import-not-found]
import contextlib
import fcntl
import gc
import json
import mmap
import os
import select
import signal
import struct

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.engines.local import cgroup, hearing, shim, system
else:  # by file, not by package: importing holdfast would bring its dependencies along
    import cgroup
    import hearing
    import shim
    import system
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

_BYTES = ("dir", "cwd", "python")
_SLOTS = 65536
_CHILD = (int(signal.SIGCHLD),)
#: Descriptors in one message; the kernel takes 253.
MOST_AT_ONCE = 200
#: Shells and scripts use the low ones by number, and would let go of a slot without knowing.
_LOWEST_HELD = 64


class _Children:
    """The shims that have not been waited for, which byte of the shared flags each has, and its
    mark.
    """

    def __init__(self, cgroups: "cgroup.Cgroups") -> None:
        self.cgroups = cgroups
        # A request by way of it needs no disk, which may be full or read-only.
        self.flags = mmap.mmap(-1, _SLOTS)
        self.slots: dict[int, int | None] = {}
        self.marks: dict[int, str] = {}
        self._free: list[int] = []
        self._used = 0

    def slot(self) -> int | None:
        """A byte for the next shim, with nothing in it; None if all are in use."""
        if self._free:
            slot = self._free.pop()
        elif self._used < _SLOTS:
            slot, self._used = self._used, self._used + 1
        else:
            return None
        self.flags[slot] = hearing.NOTHING
        return slot

    def free(self, slot: int | None) -> None:
        """Nobody looks at that byte any more."""
        if slot is not None:
            self._free.append(slot)

    def stop(self, pid: int, level: int) -> None:
        """Ask a shim to stop."""
        # Our own child that was not waited for: the pid cannot be another's by now.
        if pid not in self.slots:
            return
        slot = self.slots[pid]
        if slot is not None:
            self.flags[slot] = max(self.flags[slot], level)
        for number in (hearing.WAKE, signal.SIGCONT):
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def reap(self) -> "list[list[int]]":
        """Those that have ended, with their statuses."""
        ended = []
        while self.slots:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            self.free(self.slots.pop(pid, None))
            # Not if something is in there: settling the attempt finds it by that.
            self.cgroups.remove(self.marks.pop(pid, ""))
            ended.append([pid, os.waitstatus_to_exitcode(status)])
        return ended


def main(fd: int) -> None:
    """Serve the engine on the socket *fd* until it closes."""
    gc.disable()
    wake_r, wake_w = _pipe()
    signal.signal(signal.SIGCHLD, _awake)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    # What is sent to every process of a job must not end the one that answers for them.
    signal.pthread_sigmask(signal.SIG_SETMASK, hearing.ALL - {signal.SIGCHLD})
    hello = receive(fd)
    if hello is None:
        return
    completing_r, completing_w = _pipe()
    children = _Children(cgroup.Cgroups(hello["cgroup"]))
    hello["shared"] = shim.Shared(children.flags, completing_w)
    shim.rehearse(hello["facts"], hello["shared"])
    close = (fd, wake_r, wake_w, completing_r)
    # What is frozen is never touched by a collector, so its memory stays shared with every shim.
    gc.freeze()
    poller = select.poll()
    for each in (fd, wake_r, completing_r):
        poller.register(each, select.POLLIN)
    while True:
        ready = {ready_fd for ready_fd, _ in poller.poll()}
        if completing_r in ready:
            told = os.read(completing_r, 4096)
            send(fd, {"completing": list(struct.iter_unpack(">II", told))})
        if wake_r in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_r, 4096)
            ended = children.reap()
            if ended:
                send(fd, {"ended": ended})
        if fd in ready:
            message = receive(fd)
            if message is None:
                return
            if "launch" in message:
                jobs = message["launch"]
                send(fd, {"launched": [_launch(fd, job, hello, close, children) for job in jobs]})
            for pid, level in message.get("stop", ()):
                children.stop(pid, level)


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _awake(number: int, frame: "FrameType | None") -> None:
    """Have a handler: Python writes to the wake-up pipe for signals that have one."""


def _launch(
    fd: int,
    job: "dict[str, Any]",
    hello: "dict[str, Any]",
    close: "tuple[int, ...]",
    children: _Children,
) -> "list[int | str | None]":
    wanted = job.get("slots", 0)
    if not wanted:
        return _fork(job, hello, close, children)
    slots = _descriptors(fd, wanted)
    try:
        if len(slots) != wanted:
            return [None, None, "its slots cannot be handed over: too many open files (ulimit -n)"]
        return _fork(job, hello, close, children, slots)
    finally:
        # Its shim has them now: ours would keep them held when that has let them go.
        for slot in slots:
            os.close(slot)


def _descriptors(fd: int, wanted: int) -> "list[int]":
    """The next *wanted* descriptors from the engine; fewer if it is gone, or we have no room."""
    # Not at the top: who has no slots needs none of it.
    import _socket

    found: list[int] = []
    stream = _socket.socket(fileno=fd)
    try:
        for at in range(0, wanted, MOST_AT_ONCE):
            number = min(MOST_AT_ONCE, wanted - at)
            room = _socket.CMSG_SPACE(4 * number)
            told, ancillary, _, _ = stream.recvmsg(1, room, getattr(_socket, "MSG_CMSG_CLOEXEC", 0))
            for _, _, data in ancillary:
                found += map(_raised, memoryview(data[: len(data) // 4 * 4]).cast("i"))
            if not told:
                break
    except ConnectionResetError:
        pass  # the engine was killed in between
    finally:
        stream.detach()
    return found


def _raised(fd: int) -> int:
    """*fd* under a high number, closed on exec."""
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_HELD)
    except OSError:
        os.set_inheritable(fd, False)
        return fd
    os.close(fd)
    return high


def _fork(
    job: "dict[str, Any]",
    hello: "dict[str, Any]",
    close: "tuple[int, ...]",
    children: _Children,
    slots: "Sequence[int]" = (),
) -> "list[int | str | None]":
    slot, mark = children.slot(), _mark(job)
    # All that a shim must not be ended by is blocked in us already; the rest, before it is born.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _CHILD)
    try:
        try:
            pid, group = children.cgroups.fork(mark)
        except OSError as err:
            children.free(slot)
            return [None, None, str(err)]
        if pid == 0:
            _become_shim(job, hello, close, slot, mark, group, slots)
    finally:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _CHILD)
    children.slots[pid], children.marks[pid] = slot, mark
    return [pid, system.start_ticks(pid) if hello["proc"] else None, None]


def _mark(job: "dict[str, Any]") -> str:
    """128 random bits, and of which attempt in which directory they are.

    Everything that is started shows it: a file that names it for another attempt is forged, or of a
    copy, and aims at nobody.
    """
    try:
        folder = os.stat(job["dir"].encode("latin-1")).st_ino
    except OSError:
        folder = 0  # it is gone, which its shim finds out
    return f"{os.urandom(16).hex()}.{folder}.{job['name']}"


def _become_shim(
    job: "dict[str, Any]",
    hello: "dict[str, Any]",
    close: "tuple[int, ...]",
    slot: int | None,
    mark: str,
    group: "cgroup.Cgroup | None",
    slots: "Sequence[int]",
) -> None:
    """Never returns."""
    status, starter = shim.BROKEN, os.getppid()
    try:
        signal.set_wakeup_fd(-1)
        for fd in close:
            os.close(fd)
        for key in _BYTES:
            job[key] = None if job[key] is None else job[key].encode("latin-1")
        job["argv"] = [word.encode("latin-1") for word in job["argv"]]
        job["env"] = {
            name.encode("latin-1"): value.encode("latin-1") for name, value in job["env"].items()
        }
        status = shim.Shim(job, hello["facts"], hello["shared"], slot, mark, group, slots).main()
        if group is not None and os.getppid() != starter:
            group.leave()  # nobody is left who would remove it after our end
            group.remove()
    finally:
        # Nothing of the starter may run in its child, whatever happened.
        os._exit(status)


def receive(fd: int) -> "dict[str, Any] | None":
    """The next message; None once the other side is gone."""
    head = _read(fd, 4)
    body = _read(fd, int.from_bytes(head, "big")) if head else None
    return None if body is None else json.loads(body)


def _read(fd: int, size: int) -> bytes | None:
    parts = []
    while size:
        try:
            part = os.read(fd, min(size, 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(fd: int, message: "dict[str, Any]") -> None:
    """Send *message*, or nothing if the other side is gone: the next `receive` tells."""
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    view = memoryview(len(body).to_bytes(4, "big") + body)
    # Python ignores SIGPIPE, so a closed socket is an error here.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while view:
            view = view[os.write(fd, view) :]
