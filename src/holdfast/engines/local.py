"""The local engine: attempts run on this machine, under shims that outlive this process.

Owns the starter's process and the watch over shims; what an attempt's files mean is decided in
`holdfast.attempts`.
"""

import contextlib
import os
import select
import socket
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGTERM
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from holdfast import attempts, liveness, sessions
from holdfast.attempts import Attempt, AttemptName
from holdfast.engines import EngineWord, Handle
from holdfast.engines.shim import DONE, NOT_FIRST
from holdfast.engines.starter import receive, send
from holdfast.errors import EngineError, UnsupportedPlatformError
from holdfast.identity import ProcessIdentity

if TYPE_CHECKING:
    import subprocess

__all__ = ["LocalEngine"]

_BOOT: Final = (
    "import sys; sys.path.append(sys.argv[2]); import starter; starter.main(int(sys.argv[1]))"
)
_REPLY_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.2
_LONGEST_WAIT_S: Final = 3600.0


@attrs.define
class _Watched:
    """A shim that is not a child of our starter: adopted, or left behind by a dead starter.

    Attributes:
        pidfd: Readable once it has ended; None where the system has no such thing.
    """

    handle: Handle
    pidfd: int | None


class LocalEngine:
    """Runs attempts on this machine, each in its own session and process group.

    They run on when the engine is closed and when its process is killed; another `LocalEngine`
    adopts them. It starts what it is given at once: how many run at a time is the caller's affair.

    Raises:
        UnsupportedPlatformError: On Windows.
    """

    def __init__(self) -> None:
        if not (hasattr(os, "fork") and hasattr(os, "posix_spawn")):
            raise UnsupportedPlatformError("fork, posix_spawn and process groups")
        self._starter: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._children: dict[int, Handle] = {}
        self._pids: dict[AttemptName, int] = {}
        self._watched: dict[AttemptName, _Watched] = {}
        self._refused: dict[AttemptName, str] = {}
        self._texts: dict[AttemptName, str] = {}
        self._folders: dict[str, Path] = {}
        self._news = False
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._closed = False
        self._pid = os.getpid()
        # A fork that kept the socket open would keep the starter alive after us.
        mine = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _let_go(mine()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the starter now, so that the first `submit` need not wait for it.

        Raises:
            EngineError: It cannot be started, or the engine is closed.
        """
        if self._closed or os.getpid() != self._pid:
            raise EngineError("local", "it is closed (or this is a fork of its process)")
        if self._socket is not None:
            return
        import subprocess

        ours, theirs = socket.socketpair()
        observer = liveness.Observer.here()
        with theirs:
            try:
                self._starter = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _BOOT, str(theirs.fileno()), _here()],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    # Shims would keep our terminal or pipe open, and `| tee` would never end.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,  # a terminal's Ctrl-C is for the orchestrator to handle
                )
            except OSError as err:
                ours.close()
                raise EngineError("local", f"cannot start {sys.executable}: {err}") from err
        self._socket = ours
        facts = {
            "host": observer.host,
            "machine_id": observer.machine_id,
            "boot_id": observer.boot_id,
            "pid_namespace": observer.pid_namespace,
        }
        send(ours.fileno(), {"facts": facts, "proc": observer.proc is not None})

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        """See `Engine.submit`. An attempt that could not be forked is `gone` with the reason.

        Raises:
            EngineError: The starter cannot be started, or died twice while it was asked.
            StateWriteError: The folder for the attempts cannot be made.
        """
        if not attempts:
            return []
        for folder in dict.fromkeys(attempt.folder for attempt in attempts):
            _prepare(folder)
        self._folders[experiment_id] = attempts[0].folder
        message = {"launch": [_job(attempt) for attempt in attempts]}
        for _ in range(2):
            self.start()
            assert self._socket is not None
            send(self._socket.fileno(), message)
            reply = self._reply()
            if reply is not None:
                return [
                    self._launched(attempt, *entry)
                    for attempt, entry in zip(attempts, reply, strict=True)
                ]
            # The starter died, and nobody knows how far it got. Asking another is safe: of two
            # shims of one attempt, only the first to link `.live` runs it.
        raise EngineError("local", "the starter died twice while it was asked to start processes")

    def _launched(
        self, attempt: Attempt, pid: int | None, ticks: int | None, error: str | None
    ) -> Handle:
        handle = Handle(name=attempt.name, folder=attempt.folder)
        self._refused.pop(attempt.name, None)
        if pid is None:
            self._refused[attempt.name] = f"could not be forked: {error}"
            self._news = True
            return handle
        identity = attrs.evolve(liveness.me(), pid=pid, start_ticks=ticks, locked=False)
        handle = attrs.evolve(handle, identity=identity)
        self._children[pid] = handle
        self._pids[attempt.name] = pid
        return handle

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        """See `Engine.find`: every attempt whose `.live` is locked, and those just submitted.

        Args:
            experiment_id: Which experiment.
            folder: Its folder; without it, the one of the attempts that this engine submitted.
        """
        folder = folder or self._folders.get(experiment_id)
        if folder is None:
            return {}
        found = {
            handle.name: handle
            for handle in self._children.values()
            if handle.name.experiment_id == experiment_id
        }
        for name in attempts.names(folder, experiment_id):
            live = attempts.live_state(folder, name)
            handle = Handle(name=name, folder=folder, identity=live.identity)
            if name in found or live.kind not in ("held", "unknown"):
                continue
            if self._look(handle).kind == "running":
                found[name] = handle
        return found

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        """See `Engine.poll`."""
        self._drain()
        return [
            EngineWord(handle.name, "running", f"shim {self._pids[handle.name]}")
            if handle.name in self._pids
            else self._look(handle)
            for handle in handles
        ]

    def _look(self, handle: Handle) -> EngineWord:
        """What the files say of an attempt that is no child of our starter; watch it if it runs."""
        name = handle.name
        if name in self._refused:
            return EngineWord(name, "gone", self._refused[name])
        live = attempts.live_state(handle.folder, name)
        identity = live.identity if live.kind in ("held", "free", "unknown") else handle.identity
        if live.kind == "revoked":
            return EngineWord(name, "gone", "it was revoked before it began")
        lock = live.kind if live.kind in ("held", "free") else None
        verdict = liveness.judge(identity, lock=lock)
        if verdict.kind == "dead" or live.kind == "free":
            self._forget(name)
            text = self._texts.pop(name, None)
            return EngineWord(name, "gone", f"{text}; {verdict}" if text else str(verdict))
        if verdict.kind == "unknown":
            return EngineWord(name, "unknown", str(verdict))
        if name not in self._watched:
            self._watch(attrs.evolve(handle, identity=identity))
        return EngineWord(name, "running", str(verdict))

    def _watch(self, handle: Handle) -> None:
        pidfd = None
        identity = handle.identity
        opener = getattr(os, "pidfd_open", None)
        if opener is not None and identity is not None and identity.pid is not None:
            with contextlib.suppress(OSError):
                pidfd = opener(identity.pid)
                # Only now is the pid pinned: it may have been another's before.
                if liveness.judge(identity).kind != "alive":
                    os.close(pidfd)
                    pidfd = None
        self._watched[handle.name] = _Watched(handle, pidfd)

    def _forget(self, name: AttemptName) -> None:
        watched = self._watched.pop(name, None)
        if watched is not None and watched.pidfd is not None:
            os.close(watched.pidfd)

    def cancel(self, handles: Sequence[Handle], *, force: bool = False) -> None:
        """See `Engine.cancel`. A shim that another host or container runs cannot be reached."""
        self._drain()
        from signal import SIGUSR1

        number = int(SIGUSR1 if force else SIGTERM)
        ours = [
            [self._pids[handle.name], number] for handle in handles if handle.name in self._pids
        ]
        if ours and self._socket is not None:
            # By its parent, which cannot mistake it for another process of the same pid.
            send(self._socket.fileno(), {"signal": ours})
        for handle in handles:
            if handle.name not in self._pids:
                self._signal(handle, number)

    def _signal(self, handle: Handle, number: int) -> None:
        def shim() -> ProcessIdentity | None:
            live = attempts.live_state(handle.folder, handle.name)
            if live.kind == "absent":
                identity = handle.identity
            else:
                identity = live.identity if live.kind in ("held", "unknown") else None
            alive = identity is not None and liveness.judge(identity).kind == "alive"
            return identity if alive else None

        identity = shim()
        if identity is not None and identity.pid is not None:
            sessions.signal_process(identity.pid, number, lambda: shim() == identity)

    def wait(self, timeout_s: float) -> None:
        """See `Engine.wait`; adopted attempts without a pidfd are looked at every 0.2 s."""
        deadline = time.monotonic() + min(timeout_s, _LONGEST_WAIT_S)
        while not self._news:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            poller = select.poll()
            poller.register(self._wake_r, select.POLLIN)
            if self._socket is not None:
                poller.register(self._socket.fileno(), select.POLLIN)
            pinned: dict[int, AttemptName] = {}
            for name, watched in self._watched.items():
                if watched.pidfd is not None:
                    pinned[watched.pidfd] = name
                    poller.register(watched.pidfd, select.POLLIN)
            if len(pinned) < len(self._watched):
                left_s = min(left_s, _LOOK_EVERY_S)
            ready = {fd for fd, _ in poller.poll(left_s * 1000 + 1)}
            if self._wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
                return
            self._drain()
            for fd in ready & pinned.keys():
                self._forget(pinned[fd])
                self._news = True
            for watched in [one for one in self._watched.values() if one.pidfd is None]:
                if self._look(watched.handle).kind != "running":
                    self._forget(watched.handle.name)
                    self._news = True
        self._news = False

    def wake(self) -> None:
        """See `Engine.wake`."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_w, b"\0")

    def close(self) -> None:
        """End the starter; every attempt runs on under its shim. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._lose_starter()
        for name in list(self._watched):
            self._forget(name)
        os.close(self._wake_r)
        os.close(self._wake_w)

    # --- the starter's messages

    def _reply(self) -> list[list[Any]] | None:
        """What became of the attempts just sent; None if the starter is gone."""
        while self._socket is not None:
            if not _readable(self._socket, _REPLY_WITHIN_S):
                self._lose_starter()
                raise EngineError("local", f"the starter is silent for {_REPLY_WITHIN_S:.0f} s")
            launched = self._receive()
            if launched is not None:
                return launched
        return None

    def _drain(self) -> None:
        while self._socket is not None and _readable(self._socket, 0):
            self._receive()

    def _receive(self) -> list[list[Any]] | None:
        assert self._socket is not None
        message = receive(self._socket.fileno())
        if message is None:
            self._lose_starter()
            return None
        for pid, status in message.get("ended", ()):
            handle = self._children.pop(pid, None)
            if handle is not None and status < 0:
                self._texts[handle.name] = f"its shim was killed by signal {-status}"
            elif handle is not None and status not in (DONE, NOT_FIRST):
                self._texts[handle.name] = f"its shim failed with status {status}"
            if handle is not None and self._pids.get(handle.name) == pid:
                del self._pids[handle.name]
            self._news = True
        launched: list[list[Any]] | None = message.get("launched")
        return launched

    def _lose_starter(self) -> None:
        """Without a starter (killed, or closed), its shims are watched like adopted ones."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._starter is not None:
            self._starter.kill()
            self._starter.wait()
            self._starter = None
        orphans = list(self._children.values())
        self._children.clear()
        self._pids.clear()
        self._news = True
        if not self._closed:
            for handle in orphans:
                self._watch(handle)


def _here() -> str:
    return os.path.dirname(os.path.abspath(__file__))


def _readable(connection: socket.socket, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def _prepare(folder: Path) -> None:
    attempts.prepare(folder)


def _job(attempt: Attempt) -> dict[str, Any]:
    return {
        "name": str(attempt.name),
        "experiment": attempt.name.experiment_id,
        "dir": _bytes(os.path.abspath(attempts.attempts_dir(attempt.folder))),
        "argv": [_bytes(word) for word in attempt.argv],
        "env": {_bytes(name): _bytes(value) for name, value in attempt.env.items()},
        "cwd": _bytes(os.path.abspath(attempt.cwd or os.curdir)),
        "timeout_s": attempt.timeout_s,
        "grace_s": attempt.grace_s,
        "python": _bytes(sys.executable),
    }


def _bytes(text: str) -> str:
    # The starter's locale may differ: what the operating system gets is encoded here, once.
    return os.fsencode(text).decode("latin-1")


def _let_go(engine: LocalEngine | None) -> None:
    """In a fork of the engine's process."""
    if engine is not None and engine._socket is not None:
        engine._socket.close()
