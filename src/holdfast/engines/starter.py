"""The starter: a small process that forks a shim for every attempt it is sent.

A fork of the orchestrator would cost as much as the orchestrator is large, and inherit its locks.
This one is started before it is needed, has next to nothing in memory, and does nothing else. It
ends when the orchestrator does; its shims go on. Standard library only.

Frames in both directions: four bytes of length, then JSON, whose strings carry bytes as Latin-1.
"""

import contextlib
import gc
import json
import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.engines import shim, system
else:  # by file, not by package: importing holdfast would bring its dependencies along
    import shim
    import system
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_BYTES = ("dir", "cwd", "python")


def main(fd: int) -> None:
    """Serve the engine on the socket *fd* until it closes."""
    gc.disable()
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    signal.signal(signal.SIGCHLD, _awake)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    hello = receive(fd)
    if hello is None:
        return
    hello["memory_events"] = system.memory_events()
    # What is frozen is never touched by a collector, so its memory stays shared with every shim.
    gc.freeze()
    children: set[int] = set()
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.register(wake_r, select.POLLIN)
    while True:
        ready = {ready_fd for ready_fd, _ in poller.poll()}
        if wake_r in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_r, 4096)
            ended = _reap(children)
            if ended:
                send(fd, {"ended": ended})
        if fd in ready:
            message = receive(fd)
            if message is None:
                return
            if "launch" in message:
                close = (fd, wake_r, wake_w)
                jobs = message["launch"]
                send(fd, {"launched": [_fork(job, hello, close, children) for job in jobs]})
            for pid, number in message.get("signal", ()):
                # Its own child that it has not waited for: the pid cannot be another's by now.
                if pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)


def _awake(number: int, frame: "FrameType | None") -> None:
    """Python's own handler writes to the wake-up pipe; this one only has to be there."""


def _reap(children: "set[int]") -> "list[list[int]]":
    ended = []
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            break
        children.discard(pid)
        ended.append([pid, os.waitstatus_to_exitcode(status)])
    return ended


def _fork(
    job: "dict[str, Any]",
    hello: "dict[str, Any]",
    close: "tuple[int, ...]",
    children: "set[int]",
) -> "list[int | str | None]":
    # Blocked before the fork: a shim must not be ended by a signal that it is there to obey.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, shim.WATCHED)
    try:
        try:
            pid = os.fork()
        except OSError as err:
            return [None, None, str(err)]
        if pid == 0:
            _become_shim(job, hello, close)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    children.add(pid)
    return [pid, system.start_ticks(pid) if hello["proc"] else None, None]


def _become_shim(job: "dict[str, Any]", hello: "dict[str, Any]", close: "tuple[int, ...]") -> None:
    """Never returns."""
    status = shim.BROKEN
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
        status = shim.Shim(job, hello["facts"], hello["memory_events"]).main()
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
