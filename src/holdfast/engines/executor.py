"""The engine for what has the interface of `concurrent.futures.Executor`: pools of threads, of
processes, of MPI ranks.

Such a pool cannot be asked for what it was given before: after a crash of this program, attempts
are judged by their files alone.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from holdfast.attempts.files import revoke
from holdfast.attempts.names import AttemptName, prepare
from holdfast.attempts.parcels import Parcel
from holdfast.attempts.records import Attempt
from holdfast.engines import carrying, station, waves
from holdfast.engines.bell import Bell
from holdfast.engines.contract import EngineWord, Handle
from holdfast.engines.strays import Strays
from holdfast.errors import EngineRefusedError

__all__ = ["ExecutorEngine"]

_NAME: Final = "executor"


class ExecutorEngine:
    """Runs each attempt as a task of *executor*, which stays its owner's to shut down.

    A task lasts as long as its attempt. Where the pool's processes do not see the experiment's
    folder, exit record, outputs and result come back as the task's value; then no lock keeps an
    attempt from running twice.

    Why you would want it: a pool is there already (MPI ranks, executorlib on a cluster), or its
    size is what limits the work. On one machine, `LocalEngine` does the same and takes up again
    what it had started.

    Args:
        executor: Takes functions by name: holdfast has to be importable in its processes.
        max_workers: How many tasks it runs at a time, where it does not say so itself.
    """

    name = _NAME
    outlives = False
    shares_files = True

    def __init__(self, executor: Executor, *, max_workers: int | None = None) -> None:
        self._executor = executor
        known = getattr(executor, "_max_workers", None)
        self._room = max_workers or (known if isinstance(known, int) else None)
        self._tasks: dict[AttemptName, tuple[Handle, Future[Parcel | None]]] = {}
        self._over: dict[AttemptName, str] = {}
        self._bell = Bell()
        self._closed = False
        self._strays = Strays(_NAME)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        """See `Engine.check`."""
        refuse_slots(self.name, attempts)
        return ()

    def room(self) -> int | None:
        """See `Engine.room`: as many as the pool has workers."""
        return self._room

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        """See `Engine.submit`.

        Raises:
            EngineRefusedError: The pool is broken or was shut down, or attempts hold slots.
            StateReadError, StateWriteError: The folder of the attempts refused.
        """
        refuse_slots(self.name, attempts)
        handles = []
        for attempt in attempts:
            prepare(attempt.folder)
            wanted = carrying.order(attempt, waves.token(attempt.folder))
            handle = Handle(name=attempt.name, folder=attempt.folder, engine=self.name)
            try:
                future = self._executor.submit(carrying.carry_out, wanted)
            except (BrokenExecutor, RuntimeError) as err:
                raise EngineRefusedError(self.name, str(err) or type(err).__name__) from err
            self._tasks[attempt.name] = handle, future
            future.add_done_callback(lambda _: self._bell.ring())
            handles.append(handle)
        return handles

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        """See `Engine.find`: its own, and what runs by the files of *folder*."""
        self._collect()
        own = {
            name: handle
            for name, (handle, _) in self._tasks.items()
            if name.experiment_id == experiment_id
        }
        return {**self._strays.find(experiment_id, folder), **own}

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        """See `Engine.poll`.

        Raises:
            EngineError: The disk does not take what came back.
        """
        self._collect()
        return [self._word(handle) for handle in handles]

    def _word(self, handle: Handle) -> EngineWord:
        name = handle.name
        if name in self._tasks:
            running = self._tasks[name][1].running()
            return EngineWord(name, "running" if running else "queued")
        if name in self._over:
            return EngineWord(name, "completed", self._over[name])
        return self._strays.word(handle)

    def _collect(self) -> None:
        """Take in the tasks that are over."""
        for name, (handle, future) in list(self._tasks.items()):
            if not future.done():
                continue
            try:
                parcel = future.result()
            except (Exception, CancelledError) as err:
                # Whatever became of the task, its attempt may run on.
                self._strays.take(handle, f"its task failed: {str(err) or type(err).__name__}")
            else:
                if parcel is not None:
                    self.shares_files = False
                    carrying.take_in(handle, parcel)
                self._over[name] = "its task is over"
            del self._tasks[name]

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        """See `Engine.cancel`.

        What runs in another process of this host is woken, and looks for the files of the request;
        on another host it looks once a second.
        """
        self._collect()
        others = []
        for handle in handles:
            _, future = self._tasks.get(handle.name, (None, None))
            if future is not None and future.cancel():
                revoke(handle.folder, handle.name)
            elif not (future and station.running(handle.folder).keys() & {str(handle.name)}):
                others.append(handle)
            else:
                station.stop(handle.folder, [str(handle.name)], force=force)
        return self._strays.cancel(others, force=force)

    def wait(self, timeout_s: float) -> None:
        """See `Engine.wait`."""
        self._strays.wait(self._bell, timeout_s)

    def wake(self) -> None:
        """See `Engine.wake`."""
        self._bell.ring()

    def close(self) -> None:
        """Give up what has not begun; attempts run on, and the pool is left to its owner."""
        if self._closed:
            return
        self._closed = True
        for name, (handle, future) in self._tasks.items():
            future.cancel()
            # Else a pool of threads would keep this program from ending before they have.
            station.leave(handle.folder, [str(name)])
        self._tasks.clear()
        self._strays.close()
        self._bell.close()


def refuse_slots(engine: str, attempts: Sequence[Attempt]) -> None:
    """Refuse attempts that hold slots: their locks cannot be handed to where they run.

    Raises:
        EngineRefusedError: At least one does.
    """
    held = sorted({slot.kind for attempt in attempts for slot in attempt.slots})
    if held:
        raise EngineRefusedError(
            engine, f"slots ({', '.join(held)}) are this machine's: only the local engine has them"
        )
