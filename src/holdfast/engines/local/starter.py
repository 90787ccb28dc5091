"""The starter: a small process that forks a shim for every attempt it is sent.

A fork of the orchestrator would cost as much as the orchestrator is large, and inherit its locks.
This one is started before it is needed, has next to nothing in memory, and does nothing else. It
ends when its socket closes, and of no signal that can be blocked; its shims go on. Standard library
only.

Frames in both directions: four bytes of length, then JSON, whose strings carry bytes as Latin-1.
Behind a frame that asks for attempts come the descriptors of the slots that each of them holds.
"""

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import struct

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.engines.local import hearing
    from holdfast.engines.local.children import Children
else:  # by file, not by package: importing holdfast would bring its dependencies along
    import hearing
    from children import Children
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

#: Descriptors in one message; the kernel takes 253.
MOST_AT_ONCE = 200
#: Shells and scripts use the low ones by number, and would let go of a slot without knowing.
_LOWEST_HELD = 64


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
    children = Children(
        hello["facts"],
        proc=hello["proc"],
        subtree=hello["cgroup"],
        completing=completing_w,
        close=(fd, wake_r, wake_w, completing_r),
        unblocked=(int(signal.SIGCHLD),),
    )
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
                send(fd, {"launched": [_launch(fd, job, children) for job in jobs]})
            for pid, level in message.get("stop", ()):
                children.stop(pid, level)


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _awake(number: int, frame: "FrameType | None") -> None:
    """Have a handler: Python writes to the wake-up pipe for signals that have one."""


def _launch(fd: int, job: "dict[str, Any]", children: Children) -> "list[int | str | None]":
    wanted = job.get("slots", 0)
    if not wanted:
        return children.fork(job)
    slots = _descriptors(fd, wanted)
    try:
        if len(slots) != wanted:
            return [None, None, "its slots cannot be handed over: too many open files (ulimit -n)"]
        return children.fork(job, slots)
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
