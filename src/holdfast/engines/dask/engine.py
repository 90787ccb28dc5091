"""The Dask engine: every attempt is a task, published under the experiment's name.

A task lasts as long as its attempt. Where files are shared, a worker that is killed, a task that
Dask runs again and a scheduler that forgets everything change nothing: the attempt's own lock lets
it run once, and its files tell how it ended.
"""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.files import revoke
from holdfast.attempts.names import AttemptName, prepare
from holdfast.attempts.records import Attempt
from holdfast.engine_options import EngineOptions
from holdfast.engines import carrying, station, waves
from holdfast.engines.bell import Bell
from holdfast.engines.contract import TERMINAL, EngineWord, Handle, WordKind
from holdfast.engines.dask import tasks
from holdfast.engines.dask.judging import Judges, by_files, error_of, running
from holdfast.engines.dask.link import Link
from holdfast.engines.dask.workers import Workers
from holdfast.engines.executor import refuse_slots
from holdfast.engines.strays import Strays
from holdfast.errors import DiskError, EngineError

__all__ = ["DaskEngine"]

_NAME: Final = "dask"
#: While the scheduler is away: how soon it is asked again.
_AWAY_S: Final = 0.5
#: How often all tasks are looked at, not only those of which something was told.
_ALL_EVERY_S: Final = 5.0


@attrs.define(kw_only=True)
class _Task:
    """An attempt that a task stands for.

    Attributes:
        dataset: Under which name it was published, with others.
        word: What is said of it; made once, since every turn asks for all of them.
        worker: Who has begun it; empty while it waits.
        heard_at: By the monotonic clock, when its worker was last heard of.
        lost: Whether the connection over which its end would be told was lost.
    """

    handle: Handle
    future: Any
    dataset: str
    word: EngineWord
    worker: str = ""
    heard_at: float = 0.0
    lost: bool = False

    def hear(self, said: Mapping[str, Any]) -> None:
        """Take in that a worker began it, or that nothing of it runs any more."""
        if "clean" in said:
            self.word = attrs.evolve(self.word, kind="completing", clean=bool(said["clean"]))
            return
        self.word, self.heard_at = running(self.handle, said), time.monotonic()
        self.worker = str(said.get("worker"))


class DaskEngine:
    """Runs attempts on the workers of a Dask cluster, each in one of their slots.

    They run on when the engine is closed and when its process is killed, and another `DaskEngine`
    finds them again. Without an address, neither in the options nor in Dask's own configuration,
    it starts a cluster in this process, which ends with it.

    Args:
        options: `address`, and `resources` that each attempt holds of its worker.
    """

    name = _NAME
    outlives = False
    shares_files = True

    def __init__(self, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions(name="dask")
        self._bell = Bell()
        self._link = Link(options.address, options.resources, self._bell.ring)
        self._workers = Workers(self._link, options.resources)
        self._judges = Judges(self._link)
        self._strays = Strays(_NAME)
        self._tasks: dict[AttemptName, _Task] = {}
        self._over: dict[AttemptName, str] = {}
        self._folders: dict[str, Path] = {}
        self._keys: dict[str, AttemptName] = {}
        self._all_at = 0.0
        self._away = False
        self._closed = False

    # -- before anything runs ---------------------------------------------------------------------

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        """See `Engine.check`."""
        refuse_slots(_NAME, attempts)
        self._link.client()
        notes = self._probe(attempts[0].folder) if attempts else []
        short = self._workers.shortage()
        return [*notes, f"{short}: attempts wait until one comes"] if short else notes

    def _probe(self, folder: Path) -> list[str]:
        note = self._workers.probe(folder)
        if note:
            self.shares_files = False
        return [note] if note else []

    def examine(self) -> Iterator[tuple[str, str]]:
        """Yield how the cluster is, as `ok`, `warning` or `problem`, and what."""
        return self._workers.examine()

    def room(self) -> int | None:
        """See `Engine.room`: the scheduler has a queue."""
        return None

    # -- what is there ----------------------------------------------------------------------------

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        """See `Engine.submit`.

        Raises:
            EngineError: The scheduler cannot be reached.
            EngineRefusedError: Workers have no holdfast, or another, or attempts hold slots.
            StateReadError, StateWriteError: The folder of the attempts refused.
        """
        if not attempts:
            return []
        refuse_slots(_NAME, attempts)
        folder = attempts[0].folder
        prepare(folder)
        self._folders[experiment_id] = folder
        token = waves.token(folder)
        self._link.client()
        self._probe(folder)
        names = {str(attempt.name): attempt.name for attempt in attempts}
        orders = {
            str(attempt.name): carrying.order(attempt, token, apart=not self.shares_files)
            for attempt in attempts
        }
        dataset = f"{_prefix(token)}{os.urandom(6).hex()}"
        keys = [f"{_prefix(token)}{name}" for name in orders]
        futures = self._link.submit(dataset, tasks.attempt, orders, keys)
        for text, name in names.items():
            self._add(name, folder, futures[text], dataset)
        return [self._tasks[attempt.name].handle for attempt in attempts]

    def _add(self, name: AttemptName, folder: Path, future: Any, dataset: str) -> None:
        # A cluster of our own ends with us: nothing will find it there again.
        data = {} if self._link.own else {"address": self._link.address, "key": future.key}
        handle = Handle(name=name, folder=folder, engine=_NAME, data=data)
        self._over.pop(name, None)
        self._keys[future.key] = name
        self._tasks[name] = _Task(
            handle=handle,
            future=future,
            dataset=dataset,
            word=EngineWord(name, "queued", at=datetime.now(UTC)),
        )

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        """See `Engine.find`: what is published, and what runs by the files of *folder*."""
        folder = folder or self._folders.get(experiment_id)
        if folder is None:
            return {}
        self._folders[experiment_id] = folder
        self._link.client()
        self._take_up(experiment_id, folder)
        self._hear()
        self._all_at = 0.0
        self._collect()
        found = dict(self._strays.find(experiment_id, folder))
        for name, task in self._tasks.items():
            if name.experiment_id == experiment_id:
                found[name] = task.handle
        return found

    def _take_up(self, experiment_id: str, folder: Path) -> None:
        """Watch what an engine before this one published."""
        for dataset, futures in self._link.published(_prefix(waves.token(folder))).items():
            for text, future in futures.items():
                name = AttemptName.parse(experiment_id, str(text))
                if name is None or name in self._over:
                    continue
                task = self._tasks.get(name)
                if task is None or task.lost:
                    self._add(name, folder, future, dataset)
        for worker, answer in self._link.run(tasks.running, str(folder)).items():
            for text, identity in answer.items() if isinstance(answer, dict) else ():
                task = self._tasks.get(AttemptName.parse(experiment_id, text) or _NOBODY)
                if task is not None:
                    task.hear({"worker": worker, "identity": identity})

    # -- what becomes of it -----------------------------------------------------------------------

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        """See `Engine.poll`.

        Raises:
            EngineError: The scheduler cannot be reached, and no files tell that anything is over;
                or the disk does not take what came back.
        """
        self._hear()
        away = self._collect()
        short = ""
        if self._tasks:
            with contextlib.suppress(EngineError):
                short = self._workers.shortage()
        words = [self._word(handle, short) for handle in handles]
        self._judges.ask([word for word in words if word.kind == "node_fail"], handles)
        if away is not None and not any(word.kind in TERMINAL for word in words):
            raise away
        return words

    def _hear(self) -> None:
        """Take in what workers said."""
        for said in self._link.said():
            name = self._keys.get(f"{_prefix(said.get('token'))}{said.get('attempt')}")
            task = None if name is None else self._tasks.get(name)
            if task is not None:
                task.hear(said)

    def _collect(self) -> EngineError | None:
        """Take in the tasks that are over, and find those again whose connection was lost.

        Returns:
            Why the latter cannot be done now.
        """
        now = time.monotonic()
        told = self._link.done()
        if self._away or now - self._all_at >= _ALL_EVERY_S:
            # One that was told of before it was known here, or whose end was lost and came again.
            self._all_at = now
            done = [task for task in self._tasks.values() if task.future.done()]
        else:
            names = [self._keys[key] for key in told if key in self._keys]
            tasks_told = [self._tasks[name] for name in names if name in self._tasks]
            done = [task for task in tasks_told if task.future.done()]
        if not done:
            return None
        lost = [task for task in done if task.future.cancelled()]
        self._take_in([task for task in done if not task.future.cancelled()])
        return self._again(lost)

    def _again(self, lost: Sequence[_Task]) -> EngineError | None:
        """Find *lost* tasks again, whose connection was; why that cannot be done now."""
        self._away = False
        for task in lost:
            task.lost = True
        folders = {task.handle.name.experiment_id: task.handle.folder for task in lost}
        try:
            for experiment_id, folder in folders.items():
                self._take_up(experiment_id, folder)
        except (EngineError, DiskError) as err:
            self._away = True
            return err if isinstance(err, EngineError) else EngineError(_NAME, str(err))
        for task in lost:
            if self._tasks.get(task.handle.name) is task:
                self._end(task)
                self._strays.take(task.handle, "the scheduler does not know it any more")
        return None

    def _take_in(self, done: Sequence[_Task]) -> None:
        """Take in what of *done* left, and have the scheduler forget it."""
        finished = [task for task in done if task.future.status == "finished"]
        # Where files are shared there is nothing to fetch, and the type of the value says so.
        apart = [task for task in finished if task.future.type is not type(None)]
        values: list[Any] = []
        if apart:
            try:
                values = self._link.gather([task.future for task in apart])
            except EngineError:
                self._all_at = 0.0  # of this moment, or lost with its worker: then it runs again
                return
        for task, value in zip(apart, values, strict=True):
            if value is not None:
                self.shares_files = False
                self._all_at = 0.0  # else a disk that refuses would have it forgotten for a while
                carrying.take_in(task.handle, value)
        for task in finished:
            self._end(task)
            self._over[task.handle.name] = "its task is over"
        for task in done:
            if task.future.status == "error":
                self._end(task)
                self._strays.take(task.handle, f"its task failed: {error_of(task.future)}")
        self._forget({task.dataset for task in done})

    def _end(self, task: _Task) -> None:
        del self._tasks[task.handle.name]
        self._keys.pop(task.future.key, None)

    def _forget(self, datasets: set[str]) -> None:
        """Have the scheduler forget what is over, with all that was submitted with it."""
        over = datasets - {task.dataset for task in self._tasks.values()}
        if over:
            self._link.unpublish(sorted(over))

    def _word(self, handle: Handle, short: str) -> EngineWord:
        name = handle.name
        task = self._tasks.get(name)
        if task is None:
            if name in self._over:
                return EngineWord(name, "completed", self._over[name])
            word = self._strays.word(handle)
            return self._judges.word(word) if word.kind == "node_fail" else word
        if task.lost:
            return by_files(handle, "the scheduler cannot be reached")
        if task.word.kind == "running":
            if self._workers.is_gone(task.worker, task.heard_at):
                words = f"worker {task.worker} is gone, and no other has taken it yet"
                return by_files(handle, words)
        elif task.word.kind != "completing" and task.word.text != short:
            kind: WordKind = "held" if short else "queued"
            task.word = attrs.evolve(task.word, kind=kind, text=short)
        return task.word

    # -- what is to stop --------------------------------------------------------------------------

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        """See `Engine.cancel`: every worker is asked, and what none of them has is dequeued."""
        self._hear()
        self._collect()
        strays = [handle for handle in handles if handle.name not in self._tasks]
        unreached = dict(self._strays.cancel(strays, force=force))
        wanted = defaultdict(list)
        for handle in handles:
            if handle.name in self._tasks:
                wanted[handle.folder].append(handle)
        for folder, some in wanted.items():
            names = [str(handle.name) for handle in some]
            answers = self._link.run(tasks.stop, str(folder), names, force)
            there = {name for each in answers.values() if isinstance(each, list) for name in each}
            silent = [worker for worker, each in answers.items() if not isinstance(each, list)]
            waiting = [handle for handle in some if str(handle.name) not in there]
            if silent:
                words = f"worker {silent[0]} does not answer"
                unreached.update((handle.name, words) for handle in waiting)
            else:
                self._dequeue(waiting)
        return unreached

    def _dequeue(self, handles: Sequence[Handle]) -> None:
        """Take out of the queue what no worker has, and will take any more."""
        # The mark on the disk first: what begins all the same finds it.
        out = [handle for handle in handles if revoke(handle.folder, handle.name)]
        taken = [self._tasks[handle.name] for handle in out]
        for task in taken:
            self._end(task)
        if taken:
            self._link.cancel([task.future for task in taken])
            self._forget({task.dataset for task in taken})

    def wait(self, timeout_s: float) -> None:
        """See `Engine.wait`."""
        self._strays.wait(self._bell, min(timeout_s, _AWAY_S) if self._away else timeout_s)

    def wake(self) -> None:
        """See `Engine.wake`."""
        self._bell.ring()

    def close(self) -> None:
        """Leave the cluster; attempts run on. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._link.own:
            for name, task in self._tasks.items():
                station.leave(task.handle.folder, [str(name)])
        self._tasks.clear()
        self._keys.clear()
        self._link.close()
        self._strays.close()
        self._bell.close()


_NOBODY: Final = AttemptName("", "0", 0)


def _prefix(token: Any) -> str:
    """What the names of all tasks and datasets of one experiment's folder begin with."""
    return f"{tasks.TOPIC}-{token}-"
