"""The local engine: attempts run on this machine, under shims that outlive this process.

Owns the watch over shims; what an attempt's files mean is decided in `holdfast.attempts`.
"""

import contextlib
import functools
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Self, TypeVar

import attrs

from holdfast import liveness
from holdfast.attempts import cgroups, looking
from holdfast.attempts.names import AttemptName, names, prepare
from holdfast.attempts.records import Attempt
from holdfast.engines.contract import LOCAL, EngineWord, Handle
from holdfast.engines.local import reaching
from holdfast.errors import DiskError, EngineError, UnsupportedPlatformError

if TYPE_CHECKING:
    from holdfast.engines.local.starting import Launched, Starter

__all__ = ["LocalEngine"]

P = ParamSpec("P")
R = TypeVar("R")

_LOOK_EVERY_S: Final = 0.2
#: Watched by a descriptor each; more are polled, so that they need none.
_MOST_PINNED: Final = 16
#: A look costs less than a tenth of a millisecond: with this pause for each, one in a hundred.
_LOOK_PAUSE_S: Final = 0.01
_LONGEST_WAIT_S: Final = 3600.0
_RECORDED: Final = "its outcome is recorded"


@attrs.frozen
class _Watched:
    """A shim that is not a child of our starter: adopted, or left behind by a dead starter.

    Attributes:
        pidfd: Readable once it has ended; None where there are too many, or no such things.
    """

    handle: Handle
    pidfd: int | None


def _by_one_thread(
    method: "Callable[Concatenate[LocalEngine, P], R]",
) -> "Callable[Concatenate[LocalEngine, P], R]":
    """Refuse a thread as long as another uses the engine: each would take the other's news."""

    @functools.wraps(method)
    def called(self: "LocalEngine", /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._enter()
        try:
            return method(self, *args, **kwargs)
        finally:
            self._inside -= 1

    return called


class LocalEngine:
    """Runs attempts on this machine, each in a session of its own.

    They run on when the engine is closed and when its process is killed; another `LocalEngine`
    adopts them. It starts what it is given at once: the caller limits how many run at a time.
    Its memory of experiments is their folders, nothing else. One thread uses it at a time, which is
    the one whose attempts run; another is refused with an `EngineError`.

    Args:
        cgroup: A directory of a cgroup v2 hierarchy in which each attempt gets a cgroup of its own,
            where that can be done; True for this process's own, False for nowhere.

    Raises:
        UnsupportedPlatformError: On Windows.
    """

    name = LOCAL
    outlives = False
    shares_files = True

    def __init__(self, *, cgroup: Path | bool = True) -> None:
        if not (hasattr(os, "fork") and hasattr(os, "posix_spawn")):
            raise UnsupportedPlatformError("fork, posix_spawn and process groups")
        self._cgroup = cgroup
        self._starter: Starter | None = None
        self._children: dict[int, Handle] = {}
        self._pids: dict[AttemptName, int] = {}
        self._words: dict[int, EngineWord] = {}
        self._watched: dict[AttemptName, _Watched] = {}
        self._completing: dict[AttemptName, bool] = {}
        self._refused: dict[AttemptName, str] = {}
        self._texts: dict[AttemptName, str] = {}
        self._done: set[AttemptName] = set()
        self._folders: dict[str, Path] = {}
        self._news = False
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._pid = os.getpid()
        self._closed = False
        self._guard = threading.Lock()
        self._user: threading.Thread | None = None
        self._inside = 0

    def _enter(self, *, last: bool = False) -> None:
        me = threading.current_thread()
        with self._guard:
            user = self._user
            # What a thread started that is no more, the next one takes over.
            if user is not None and user is not me and user.is_alive():
                busy = self._inside or (self._children and not last)
                if busy:
                    raise EngineError(
                        "local",
                        f"thread {user.name} uses it, and {me.name} cannot at the same time: "
                        f"give each its own LocalEngine()",
                    )
            elif user is not me:
                self._inside = 0
            self._user = me
            self._inside += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @_by_one_thread
    def start(self) -> None:
        """Start the starter now, so that the first `submit` need not wait for it.

        Raises:
            EngineError: It cannot be started, or the engine is closed.
        """
        self._running_starter()

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        """See `Engine.check`: nothing is to be asked beforehand."""
        return ()

    def room(self) -> int | None:
        """See `Engine.room`."""
        return None

    def _running_starter(self) -> "Starter":
        if self._closed:
            raise EngineError("local", "it is closed")
        if os.getpid() != self._pid:
            raise EngineError("local", "it belongs to the process that this one was forked from")
        if self._starter is None:
            # Not at the top: it needs what Windows does not have, and that is said by __init__.
            from holdfast.engines.local.starting import Starter

            self._starter = Starter(self._cgroups())
        return self._starter

    def _cgroups(self) -> cgroups.Subtree | None:
        if isinstance(self._cgroup, Path):
            found = cgroups.subtree(self._cgroup)
        else:
            found = cgroups.own() if self._cgroup else None
        if found is not None:
            found.sweep()
        return found

    @_by_one_thread
    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        """See `Engine.submit`. An attempt that could not be forked is `gone` with the reason.

        Raises:
            EngineError: The starter cannot be started, or died twice while it was asked.
            StateWriteError: The folder for the attempts cannot be made.
        """
        if not attempts:
            return []
        self._hear()
        for folder in dict.fromkeys(attempt.folder for attempt in attempts):
            prepare(folder)
            self._folders[experiment_id] = folder
        for _ in range(2):
            launched = self._running_starter().launch(attempts)
            if launched is not None:
                return list(map(self._launched, attempts, launched))
            # The starter died, and nobody knows how far it got. Asking another is safe: of two
            # shims of one attempt, only the first to link `.live` runs it.
            self._hear()
        raise EngineError("local", "the starter died twice while it was asked to start processes")

    def _launched(self, attempt: Attempt, launched: "Launched") -> Handle:
        self._refused.pop(attempt.name, None)
        if launched.pid is None:
            self._refused[attempt.name] = f"could not be forked: {launched.error}"
            self._news = True
            return Handle(name=attempt.name, folder=attempt.folder)
        identity = attrs.evolve(liveness.me(), pid=launched.pid, start_ticks=launched.start_ticks)
        handle = Handle(name=attempt.name, folder=attempt.folder, identity=identity)
        self._children[launched.pid] = handle
        self._pids[attempt.name] = launched.pid
        # Made once: every turn asks for the word of every child.
        self._words[launched.pid] = EngineWord(attempt.name, "running", f"shim {launched.pid}")
        return handle

    @_by_one_thread
    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        """See `Engine.find`: every attempt whose `.live` is locked, and those just submitted.

        Args:
            experiment_id: Which experiment.
            folder: Its folder; without it, the one of the attempts that this engine submitted.

        Raises:
            StateReadError: The folder of the attempts cannot be listed.
        """
        self._hear()
        folder = folder or self._folders.get(experiment_id)
        if folder is None:
            return {}
        found = {
            handle.name: handle
            for handle in self._children.values()
            if handle.name.experiment_id == experiment_id
        }
        for name in names(folder, experiment_id):
            if name in found:
                continue
            try:
                seen = looking.glance(folder, name)
            except DiskError:
                continue  # unreadable at this moment: the next look tells
            if isinstance(seen, looking.Running):
                found[name] = Handle(name=name, folder=folder, identity=seen.identity)
        return found

    @_by_one_thread
    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        """See `Engine.poll`."""
        self._hear()
        self._news = False  # everything heard so far is in the answer
        return [self._word(handle) for handle in handles]

    def _word(self, handle: Handle) -> EngineWord:
        pid = self._pids.get(handle.name)
        if pid is not None:
            return self._words[pid]
        word = self._look(handle)
        if word.kind == "running" and handle.name in self._completing:
            return attrs.evolve(word, kind="completing", clean=self._completing[handle.name])
        return word

    def _look(self, handle: Handle) -> EngineWord:
        """What the files say of an attempt that is no child of our starter; watch it if it runs."""
        name = handle.name
        if name in self._refused:
            return EngineWord(name, "gone", self._refused[name])
        if name in self._done:
            self._done.discard(name)
            return EngineWord(name, "gone", _RECORDED)
        try:
            return self._judge(handle)
        except DiskError as err:
            return EngineWord(name, "unknown", f"{err.path}: {err.operation} failed: {err.cause}")
        except OSError as err:
            return EngineWord(name, "unknown", str(err))  # no descriptors left to look with

    def _judge(self, handle: Handle) -> EngineWord:
        name = handle.name
        seen = looking.glance(handle.folder, name, shim=handle.identity)
        if isinstance(seen, looking.Running):
            if name not in self._watched:
                self._watch(attrs.evolve(handle, identity=seen.identity))
            return EngineWord(name, "running", str(seen.verdict))
        if isinstance(seen, looking.Ended):
            self._forget(name)
            return EngineWord(name, "gone", _RECORDED)
        if isinstance(seen, looking.Undecided):
            return EngineWord(name, "unknown", seen.evidence)
        self._forget(name)
        text = self._texts.pop(name, None)
        return EngineWord(name, "gone", f"{text}; {seen.evidence}" if text else seen.evidence)

    def _watch(self, handle: Handle) -> None:
        pidfd = None
        identity = handle.identity
        opener = getattr(os, "pidfd_open", None)
        pinned = sum(watched.pidfd is not None for watched in self._watched.values())
        if opener is None or pinned >= _MOST_PINNED:
            identity = None
        if opener is not None and identity is not None and identity.pid is not None:
            with contextlib.suppress(OSError, OverflowError):
                pidfd = opener(identity.pid)
                # Only now is the pid pinned: it may have been another's before.
                if liveness.judge(identity).kind != "alive":
                    os.close(pidfd)
                    pidfd = None
        self._watched[handle.name] = _Watched(handle, pidfd)

    def _forget(self, name: AttemptName) -> None:
        self._completing.pop(name, None)
        watched = self._watched.pop(name, None)
        if watched is not None and watched.pidfd is not None:
            os.close(watched.pidfd)

    @_by_one_thread
    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        """See `Engine.cancel`.

        Shims of our own hear it from their starter, whatever their disk. Others look for the files
        of the request, and are only woken: once a second they look unasked, too.
        """
        self._hear()
        ours = [self._pids[handle.name] for handle in handles if handle.name in self._pids]
        if ours and self._starter is not None:
            self._starter.stop(ours, force=force)
        unreached = {}
        for handle in handles:
            if handle.name not in self._pids:
                try:
                    why = reaching.ask(handle, force=force)
                except (OSError, DiskError) as err:
                    why = str(err)
                if why:
                    unreached[handle.name] = why
        return unreached

    @_by_one_thread
    def wait(self, timeout_s: float) -> None:
        """See `Engine.wait`; more than a few adopted attempts are polled every 0.2 s or so."""
        deadline = time.monotonic() + min(timeout_s, _LONGEST_WAIT_S)
        self._hear()
        while not self._news:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            pinned = {
                watched.pidfd: name
                for name, watched in self._watched.items()
                if watched.pidfd is not None
            }
            unpinned = [one.handle for one in self._watched.values() if one.pidfd is None]
            if unpinned:
                pause_s = max(_LOOK_EVERY_S, len(unpinned) * _LOOK_PAUSE_S)
                left_s = min(left_s, pause_s)
            told = [] if self._starter is None else [self._starter.fileno()]
            ready = _ready([self._wake_r, *told, *pinned], left_s)
            if self._wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
                return
            self._hear()
            for fd in ready & pinned.keys():
                self._forget(pinned[fd])
                self._news = True
            for handle in unpinned:
                if self._look(handle).kind != "running":
                    self._forget(handle.name)
                    self._news = True
        self._news = False

    def wake(self) -> None:
        """See `Engine.wake`."""
        with contextlib.suppress(OSError):
            os.write(self._wake_w, b"\0")

    def close(self) -> None:
        """End the starter; every attempt runs on under its shim. Closing again does nothing."""
        if self._closed:
            return
        self._enter(last=True)
        self._closed = True
        self._inside -= 1
        if self._starter is not None and self._starter.alive:
            self._starter.close()
        self._starter = None
        for name in list(self._watched):
            self._forget(name)
        # First: a signal that comes now must not wake who has the descriptor next.
        ring, self._wake_w = self._wake_w, -1
        os.close(ring)
        os.close(self._wake_r)

    def _hear(self) -> None:
        """Take in what the starter says; if it is gone, watch its shims like adopted ones."""
        starter = self._starter
        if starter is None:
            return
        gone = starter.ended()
        for pid, clean in starter.completing():
            if pid in self._children:
                self._completing[self._children[pid].name] = clean
                self._words[pid] = attrs.evolve(self._words[pid], kind="completing", clean=clean)
                self._news = True
        for pid, status in gone:
            self._news = True
            handle = self._children.pop(pid, None)
            if handle is None:
                continue
            del self._words[pid]
            if self._pids.get(handle.name) == pid:
                del self._pids[handle.name]
                self._completing.pop(handle.name, None)
                # Its shim says so itself; a second question is answered from its files.
                if status == 0:
                    self._done.add(handle.name)
            text = starter.describe(status)
            if text is not None:
                self._texts[handle.name] = text
        if not starter.alive:
            self._starter = None
            self._news = True
            orphans = list(self._children.values())
            self._children.clear()
            self._pids.clear()
            self._words.clear()
            for handle in orphans:
                self._watch(handle)


def _ready(fds: Iterable[int], timeout_s: float) -> set[int]:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    # Up, not down: a wait that ends a moment early makes its caller wait again for nothing.
    return {fd for fd, _ in poller.poll(int(timeout_s * 1000) + 1)}
