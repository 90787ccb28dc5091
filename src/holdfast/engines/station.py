"""A station: where attempts run in a process that is no orchestrator's, a Dask worker or a pool's.

One thread with a local engine for the attempts of one folder. Whoever calls `run` waits until the
attempt is over *for certain*, as far as that can be seen from this host: also if its shim runs on
from a worker that was killed, and this one was asked to run it again.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Literal

import attrs

from holdfast.attempts.family import Census
from holdfast.attempts.looking import Running, Undecided
from holdfast.attempts.records import Attempt
from holdfast.attempts.settling import Settling
from holdfast.engines.contract import EngineWord, Handle
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import DiskError, HoldfastError
from holdfast.identity import ProcessIdentity

__all__ = ["LeftError", "NotOverError", "leave", "run", "running", "stop"]

#: How long a station without attempts keeps its starter for the next one.
_IDLE_S: Final = 20.0
_TURN_S: Final = 1.0
_SETTLE_EVERY_S: Final = 0.05
#: How many attempts are remembered that were told to stop before they came.
_MOST_REFUSED: Final = 100_000


class NotOverError(Exception):
    """Whether an attempt is over cannot be seen from this host."""


class LeftError(Exception):
    """Nobody waits any more; the attempt runs on."""


#: An experiment's folder and the text of an attempt's name: ids repeat between directories.
Key = tuple[str, str]


@attrs.frozen
class _Completing:
    clean: bool


#: That it began, with its shim; that its end has begun; why nobody waits any more; that it is over.
_News = ProcessIdentity | None | _Completing | BaseException | Literal[True]


@attrs.define(eq=False)
class _Job:
    """An attempt here, and those who wait for it.

    Attributes:
        key: What it is called by those who ask from outside.
        handle: None until it was submitted.
        waiting: Each hears all that happens.
    """

    key: Key
    attempt: Attempt
    waiting: "list[queue.SimpleQueue[_News]]"
    handle: Handle | None = None
    settling: Settling | None = None
    completing: bool = False

    def tell(self, news: _News) -> None:
        for each in self.waiting:
            each.put(news)


_guard = threading.Lock()
_pid = os.getpid()
_stations: "dict[str, Station]" = {}
_jobs: dict[Key, _Job] = {}
_refused: dict[Key, None] = {}


def _ours() -> None:
    """Forget what a fork has copied: its threads and its starters are not here."""
    global _pid, _guard
    if _pid != os.getpid():
        _pid, _guard = os.getpid(), threading.Lock()
        _stations.clear()
        _jobs.clear()
        _refused.clear()


os.register_at_fork(after_in_child=_ours)


def run(
    attempt: Attempt,
    *,
    folder: Path | None = None,
    started: Callable[[ProcessIdentity | None], None] = lambda _: None,
    completing: Callable[[bool], None] = lambda _: None,
) -> bool:
    """Run *attempt* here, or wait for whoever runs it already; return once it is over.

    Args:
        folder: By which folder it is known to who asks from outside; default its own.
        started: Called in this thread with the identity of its shim.
        completing: Called in this thread once nothing of it runs and only its outcome is awaited,
            with whether its command ended with exit code 0.

    Returns:
        Whether it was begun at all: not if it was told to stop before it came.

    Raises:
        NotOverError: It may run on, elsewhere: nothing can be proven from this host.
        LeftError: `leave` was called.
        HoldfastError: It cannot be started here.
    """
    key = (str(folder or attempt.folder), str(attempt.name))
    heard: queue.SimpleQueue[_News] = queue.SimpleQueue()
    with _guard:
        if key in _refused:
            return False
        job = _jobs.get(key)
        if job is not None:
            job.waiting.append(heard)  # asked twice: both hear of its end
        else:
            where = str(attempt.folder)
            if where not in _stations:
                _stations[where] = Station(where)
            job = _jobs[key] = _Job(key, attempt, [heard])
            _stations[where].take(job)
    while True:
        news = heard.get()
        if isinstance(news, BaseException):
            raise news
        if news is True:
            return True
        if isinstance(news, _Completing):
            completing(news.clean)
        else:
            started(news)


def stop(folder: Path, names: Collection[str], *, force: bool) -> list[str]:
    """Ask those to stop that run here, and let none of the others begin here any more.

    Returns:
        Which of *names* run here.
    """
    found = []
    with _guard:
        for name in names:
            key = (str(folder), name)
            job = _jobs.get(key)
            if job is None:
                _refused[key] = None
                continue
            found.append(name)
            _stations[str(job.attempt.folder)].order(job, force)
        while len(_refused) > _MOST_REFUSED:
            del _refused[next(iter(_refused))]
    return found


def running(folder: Path) -> dict[str, ProcessIdentity | None]:
    """The attempts of an experiment that run here, each with its shim."""
    with _guard:
        return {
            name: None if job.handle is None else job.handle.identity
            for (where, name), job in _jobs.items()
            if where == str(folder)
        }


def leave(folder: Path, names: Collection[str]) -> None:
    """Wait for these no longer: whoever called `run` gets a `LeftError`, and they run on."""
    with _guard:
        for name in names:
            job = _jobs.pop((str(folder), name), None)
            if job is not None:
                _stations[str(job.attempt.folder)].drop(job)
                job.tell(LeftError(f"{name} runs on"))


class Station:
    """A local engine and the thread that it belongs to. All but `_serve` is called under `_guard`.

    Args:
        where: The folder of the attempts that it runs.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._engine = LocalEngine()
        self._taken: list[_Job] = []
        self._here: list[_Job] = []
        self._orders: list[tuple[_Job, bool]] = []
        # It must not keep a pool's process, or an interpreter, from ending.
        self._thread = threading.Thread(target=self._serve, name="holdfast-station", daemon=True)
        self._thread.start()

    def take(self, job: _Job) -> None:
        """Run one more."""
        self._taken.append(job)
        self._engine.wake()

    def order(self, job: _Job, force: bool) -> None:
        """Ask one to stop."""
        self._orders.append((job, force))
        self._engine.wake()

    def drop(self, job: _Job) -> None:
        """Forget one that runs on."""
        for jobs in (self._taken, self._here):
            if job in jobs:
                jobs.remove(job)
        self._engine.wake()

    def _serve(self) -> None:
        error: BaseException | None = None
        try:
            while self._turn():
                pass
        except BaseException as err:
            error = err  # told to those who wait, who would wait for ever
        finally:
            with _guard:
                if _stations.get(self._where) is self:
                    del _stations[self._where]
                for job in [*self._here, *self._taken]:
                    self._end(job, error or LeftError("its station was closed"))
            self._engine.close()

    def _turn(self) -> bool:
        with _guard:
            taken, self._taken = self._taken, []
            orders, self._orders = self._orders, []
            idle = not taken and not self._here
        self._begin(taken)
        handles = [(job.handle, force) for job, force in orders if job.handle is not None]
        for force in (False, True):
            some = [handle for handle, forced in handles if forced is force]
            if some:
                self._engine.cancel(some, force=force)
        with _guard:
            here = list(self._here)
        watched = [(job, job.handle) for job in here if job.handle is not None]
        words = self._engine.poll([handle for _, handle in watched])
        for (job, _), word in zip(watched, words, strict=True):
            self._hear(job, word)
        self._settle([job for job in here if job.settling is not None])
        settling = any(job.settling is not None for job in here)
        if not idle:
            self._engine.wait(_SETTLE_EVERY_S if settling else _TURN_S)
            return True
        self._engine.wait(_IDLE_S)
        with _guard:
            if self._taken or self._here:
                return True
            # Under the same lock as who looks for a station: nobody comes to this one any more.
            _stations.pop(self._where, None)
            return False

    def _begin(self, taken: list[_Job]) -> None:
        if not taken:
            return
        name = taken[0].attempt.name
        try:
            handles = self._engine.submit(name.experiment_id, [job.attempt for job in taken])
        except HoldfastError as err:
            with _guard:
                for job in taken:
                    self._end(job, err)
            return
        with _guard:
            for job, handle in zip(taken, handles, strict=True):
                job.handle = handle
                if _jobs.get(job.key) is job:  # else it was left meanwhile
                    self._here.append(job)
                    job.tell(handle.identity)

    def _hear(self, job: _Job, word: EngineWord) -> None:
        if word.kind == "running":
            job.settling = None
        elif word.kind == "completing":
            if not job.completing:
                job.completing = True
                job.tell(_Completing(word.clean))
        elif job.settling is None:
            assert job.handle is not None
            # What its shim left is on this host, and nobody else could find it.
            job.settling = Settling(
                folder=job.attempt.folder,
                name=job.attempt.name,
                shim=job.handle.identity,
                grace_s=job.attempt.grace_s,
                force=False,
                fence=lambda: None,
                began=time.monotonic(),
            )

    def _settle(self, jobs: list[_Job]) -> None:
        census = Census()
        for job in jobs:
            assert job.settling is not None
            try:
                found = job.settling.step(time.monotonic(), census)
            except (DiskError, OSError):
                continue  # of this moment: the next step tells
            if found is None or isinstance(found, Running):
                continue
            with _guard:
                if isinstance(found, Undecided):
                    self._end(job, NotOverError(found.evidence))
                else:
                    self._end(job, True)

    def _end(self, job: _Job, news: BaseException | Literal[True]) -> None:
        for jobs in (self._here, self._taken):
            if job in jobs:
                jobs.remove(job)
        if _jobs.get(job.key) is job:
            del _jobs[job.key]
        job.tell(news)
