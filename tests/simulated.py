"""An engine that talks to a cluster on paper, and the lives of orchestrators that drive it."""

import contextlib
import math
import random
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from cluster import Cluster, Fate
from faults import Counting, Stopped, stop
from holdfast import doctor
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.engines.contract import EngineWord, Handle
from holdfast.errors import EngineError, EngineRefusedError, ExperimentNotFoundError
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration import loop
from holdfast.orchestration.beside import Task
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.orchestration.outcomes import Outcome
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.manager import StateManager
from weather import Weather

__all__ = ["EXPERIMENT", "Dying", "Lives", "SimulatedEngine"]

EXPERIMENT = "exp_s"


class Dying(Counting):
    """The store's file operations, and the steps of an engine, of which one may be the last."""

    def __init__(self) -> None:
        super().__init__(None, stop)

    def live_for(self, steps: int | None) -> None:
        """Live again, for so many steps."""
        self.stopped = False
        self.at = None if steps is None else len(self.seen) + steps

    def step(self, name: str) -> None:
        self.seen.append(name)
        if self.stopped or (self.at is not None and self.at <= len(self.seen) - 1):
            self.stopped = True
            raise Stopped(name)


@attrs.define(eq=False)
class SimulatedEngine:
    """The contract over a cluster on paper, for one orchestrator's life.

    Attributes:
        story: Called at each wait, with how long it is for at most.
    """

    cluster: Cluster
    files: Dying = attrs.field(factory=Dying)
    story: Callable[[float], None] = lambda _: None
    name: str = "simulated"
    shares_files: bool = True
    _refused: bool = False

    @property
    def outlives(self) -> bool:
        return self.cluster.weather.outlives

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        self._call("check")
        self._refuse("check")
        return ()

    def room(self) -> int | None:
        return self.cluster.weather.jobs

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        self._call("submit")
        cluster = self.cluster
        made = []
        for attempt in attempts:
            known = cluster.jobs.get(attempt.name)
            if known is None:
                # Killed amid a submission, or between it and its record.
                self._call("submit one", share=0.2)
                self._refuse("submit")
                known = [cluster.submit(attempt)]
            made.append(cluster.handle(known[-1]))
        self._call("submitted", share=0.5)
        return made

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        self._call("find")
        return {job.name: self.cluster.handle(job) for job in self.cluster.found(experiment_id)}

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        # An end that no shim noticed is told in time.
        prompt = any(self.cluster.is_prompt(handle) for handle in handles)
        self._call("poll", share=0.0 if prompt else 0.5)
        if self.cluster.now < self.cluster.away_until and not prompt:
            return [EngineWord(handle.name, "unknown", "it is away") for handle in handles]
        # In an order that no hash of a name decides: what happens follows from the seed alone.
        inorder = sorted(handles, key=lambda handle: handle.name)
        words = {handle.name: self.cluster.word(handle) for handle in inorder}
        return [words[handle.name] for handle in handles]

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        self._call("cancel")
        for name in sorted(handle.name for handle in handles):
            self.cluster.cancel(name, force=force)
        return {}

    def wait(self, timeout_s: float) -> None:
        self.files.step("wait")
        self.story(timeout_s)
        now = self.cluster.now
        self.cluster.pass_until(now + min(timeout_s, self.cluster.weather.poll_s))
        self.cluster.pass_until(now + timeout_s, stop_at_news=True)
        self.cluster.listen()

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _refuse(self, what: str) -> None:
        if self.cluster.happens(self.cluster.weather.refuses, f"refused: {what}"):
            raise EngineRefusedError(self.name, "no such partition")

    def _call(self, what: str, share: float = 1.0) -> None:
        self.files.step(what)
        if self.cluster.happens(self.cluster.weather.errors * share, "engine error"):
            raise EngineError(self.name, f"{what}: it cannot be reached")


class _AtOnce:
    """What is done beside a loop is done before it goes on: no thread makes a seed ambiguous."""

    def __init__(self, wake: Callable[[], None]) -> None:
        pass

    def begin(self, work: Callable[[], Any]) -> Task[Any]:
        task = Task(work)
        task.do()
        return task


#: Lives in which everything may fail; those after them are calm.
_WILD = 10
#: No experiment here needs so many.
_MOST_LIVES = 40
_MOST_WAITS = 200_000


class Lives:
    """One experiment on one cluster, and one orchestrator after the other, until it has ended.

    Attributes:
        while_waiting: Called with the engine at each of its waits, and with how long it is for.
        outcome: What the last orchestrator that lived to its end said.
    """

    outcome: Outcome

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        weather: Weather | None = None,
        processes: int | None = None,
        on_change: Callable[[ExperimentState], None] | None = None,
        **config: Any,
    ) -> None:
        self.seed = seed
        self.cluster = Cluster(seed, weather)
        chance = self.chance = random.Random(seed + 1)
        self.files = Dying()
        self.state_dir = folder / ".experiment_state"
        self.manager = StateManager(self.state_dir, clock=self.cluster.clock)
        self.on_change = on_change
        self.config = {
            "command": ["true", "{index}"],
            "processes": processes or chance.choice([1, 2, 3, 5, 8, 8, 30]),
            "retry": {"max_attempts": chance.choice([1, 2, 3]), "backoff": 1},
            "limits": {
                "grace": 5,
                "fail_fast": chance.random() < 0.2,
                **({"jobs": 3} if chance.random() < 0.3 else {}),
            },
            **config,
        }
        # The first failure stops the others.
        self.cluster.asking = bool(self.config["limits"].get("fail_fast"))
        self.while_waiting: Callable[[SimulatedEngine, float], None] = lambda *_: None
        self.lives = 0
        self.waits = 0

    def run(self) -> ExperimentState:
        """Live until it has ended."""
        cluster, chance = self.cluster, self.chance
        with _undisturbed():
            while True:
                state = self._live()
                if state is not None and state.status in _FINAL:
                    return state
                self.lives += 1
                assert self.lives < _MOST_LIVES, f"{self}: does not come to its end: {state}"
                cluster.pass_until(cluster.now + chance.expovariate(1 / 50))
                if self.lives >= _WILD:
                    cluster.clear_up()
                if self.lives >= _WILD or chance.random() < 0.3:
                    cluster.learn_of_boots()

    def once(self) -> ExperimentState:
        """One orchestrator's life; how it left the experiment."""
        with _undisturbed():
            state = self._live()
        assert state is not None
        return state

    def _live(self) -> ExperimentState | None:
        """One orchestrator's life; how it left the experiment, None if there is none."""
        cluster, mean = self.cluster, self.cluster.weather.crashes
        steps = None if mean == math.inf else int(self.chance.expovariate(1 / mean))
        self.files.live_for(steps)
        self._next_ask = cluster.now + self._until_asked()
        engine = SimulatedEngine(cluster, self.files, self._while_waiting)
        self._engine = engine
        orchestrator = Orchestrator(
            StateManager(self.state_dir, clock=cluster.clock, files=self.files),
            engine,
            clock=cluster.clock,
            monotonic=cluster.monotonic,
            on_change=self.on_change,
        )
        before = self.state()
        leave = self.chance.random() < cluster.weather.leaves
        cluster.counts["left to the engine"] += leave
        try:
            if before is None:
                self.outcome = orchestrator.run(self.config, experiment_id=EXPERIMENT, leave=leave)
            else:
                self.outcome = orchestrator.resume(EXPERIMENT, leave=leave)
        except Stopped:
            cluster.counts["crash"] += 1
        except EngineRefusedError:
            cluster.counts["refused"] += 1
            after = self.state()
            assert _told(before) == _told(after), f"{self}: refused, and {before} became {after}"
        return self.state()

    def state(self) -> ExperimentState | None:
        with contextlib.suppress(ExperimentNotFoundError):
            return self.manager.load(EXPERIMENT)
        return None

    # -- while an orchestrator waits --------------------------------------------------------------

    def _until_asked(self) -> float:
        mean_s = self.cluster.weather.asks_s
        return math.inf if mean_s == math.inf else self.chance.expovariate(1 / mean_s)

    def _while_waiting(self, timeout_s: float) -> None:
        self.waits += 1
        assert self.waits < _MOST_WAITS, f"{self}: hangs"
        cluster = self.cluster
        self.while_waiting(self._engine, timeout_s)
        if cluster.now < self._next_ask:
            return
        self._next_ask = cluster.now + self._until_asked()
        what = self.chance.choice(["stop", "one", "signal"])
        cluster.counts[f"asked: {what}"] += 1
        # A signal leaves alone what outlives us.
        cluster.asking |= what != "signal" or not self._engine.outlives
        if what == "signal":
            signal.raise_signal(signal.SIGTERM)
        else:
            self.manager.request_stop(EXPERIMENT, only=[0] if what == "one" else None)

    # -- what must hold ---------------------------------------------------------------------------

    def check(self) -> None:
        """The record says what really happened, and nothing happened twice."""
        cluster, state = self.cluster, self.manager.load(EXPERIMENT)
        assert cluster.overlaps == [], f"{self}: {cluster.overlaps}"
        assert cluster.strangers == [], f"{self}: {cluster.strangers}"
        assert not cluster.running, f"{self}: runs on"
        told = self.endings()
        done = Counter(name.index for name, fate in cluster.fates.items() if fate == "completed")
        wrong = [
            f"{name} {fate}, and recorded as {told.get((name.index or 0, name.attempt))}"
            for name, fate in cluster.fates.items()
            if told.get((name.index or 0, name.attempt)) not in self._recorded_as(name, fate)
        ]
        began = {(name.index, name.attempt) for name in cluster.fates}
        wrong += [f"{key} never began: {end}" for key, end in told.items()
                  if key not in began and end != "requeue"]  # fmt: skip
        assert wrong == [], f"{self}: {wrong}"
        for index, process in state.processes.items():
            completed = process.status is ProcessStatus.COMPLETED
            assert done[index] == int(completed), f"{self}: {index} completed {done[index]} times"
            # Behind a first failure that ends all, some may never have been tried.
            over = process.status is ProcessStatus.FAILED or self.config["limits"].get("fail_fast")
            assert completed or over, f"{self}: {index} {process}"
        problems = [each for each in doctor.examine(self.state_dir) if each.severity == "problem"]
        assert problems == [], f"{self}: {problems}"

    def _recorded_as(self, name: AttemptName, fate: Fate) -> Collection[str]:
        """What may be recorded of an attempt with that fate."""
        asked = name in self.cluster.asked
        if fate == "completed":
            return {"complete"}
        if fate == "failed" or fate == "memory":
            forgets = fate == "memory" and self.cluster.weather.memory_s < math.inf
            return {"fail", "requeue"} if asked or forgets else {"fail"}
        return {"requeue"}

    def endings(self) -> dict[tuple[int, int], str]:
        """How each attempt of each process ended, as it is recorded."""
        attempts: Counter[int] = Counter()
        found = {}
        for step in self.manager.history(EXPERIMENT):
            if step.index is None:
                continue
            if step.event == "start":
                attempts[step.index] += 1
            elif step.source == "running" and step.target != "running":
                found[step.index, attempts[step.index]] = step.event
        return found

    def __str__(self) -> str:
        return f"seed {self.seed}, life {self.lives}, {self.cluster.now:.1f} s"

    __repr__ = __str__


def _told(state: ExperimentState | None) -> object:
    # One that was made and not begun is as good as none.
    begun = state is not None and state.status is not ExperimentStatus.INITIALISED
    return (state.status, state.process_progress) if state is not None and begun else None


_FINAL = (ExperimentStatus.AGGREGATED, ExperimentStatus.FAILED)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    before = loop.Beside
    loop.Beside = _AtOnce  # type: ignore[misc, assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        loop.Beside = before  # type: ignore[misc]
