"""A scheduler on paper: its attempts are words, and time passes only while it is waited for.

It outlives who submits to it, as the real ones do: the same object serves one orchestrator after
the other. What it runs writes its files itself, as `exit` and `live` of a story do.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

from holdfast.attempts.names import AttemptName, attempts_dir, prepare
from holdfast.attempts.records import Attempt
from holdfast.engines.contract import ALIVE, EngineWord, Handle, WordKind
from holdfast.errors import EngineError, EngineRefusedError
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.store.manager import StateManager

__all__ = ["EPOCH", "ScriptedEngine", "Step", "conduct", "everything", "say"]

EPOCH = datetime(2024, 1, 15, 12, 0, tzinfo=UTC)

Step = Callable[["ScriptedEngine"], None]

#: Of an attempt that ran on another host: nothing of it can be seen from here.
ELSEWHERE: dict[str, Any] = {
    **{"host": "n1", "machine_id": "another", "boot_id": "another", "pid_namespace": "pid:[1]"},
    **{"pid": 4711, "start_ticks": 1, "locked": True},
}


@attrs.define(slots=False)
class ScriptedEngine:
    """What it says is what the story of the test says.

    Attributes:
        story: What comes to pass, one step for each time that it is waited for.
        words: What it says of each attempt.
        submitted: What it was given, in order, and `cancelled` what it was asked to cancel.
        refuses: What it refuses for good, and `away` why it cannot be reached.
        dies: Called in `submit`, once it has taken its attempts.
    """

    story: list[Step] = attrs.field(factory=list)
    name: str = "slurm"
    outlives: bool = True
    shares_files: bool = True
    limit: int | None = None
    words: dict[AttemptName, EngineWord] = attrs.field(factory=dict)
    handles: dict[AttemptName, Handle] = attrs.field(factory=dict)
    attempts: list[Attempt] = attrs.field(factory=list)
    submitted: list[str] = attrs.field(factory=list)
    cancelled: list[tuple[str, bool]] = attrs.field(factory=list)
    checked: list[Attempt] = attrs.field(factory=list)
    notes: tuple[str, ...] = ()
    refuses: str | None = None
    takes: int | None = None
    away: str | None = None
    asked: int = 0
    waited: int = 0
    now: float = 0.0
    dies: Callable[[], None] = lambda: None
    closed: bool = False

    # -- the contract

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        self._reach()
        self.checked += attempts
        if self.refuses and self.takes is None:
            raise EngineRefusedError(self.name, self.refuses)
        return self.notes

    def room(self) -> int | None:
        return self.limit

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        self._reach()
        for attempt in attempts:
            if self.takes is not None and len(self.submitted) >= self.takes:
                raise EngineRefusedError(self.name, str(self.refuses))
            self.attempts.append(attempt)
            self.submitted.append(str(attempt.name))
            self.words[attempt.name] = EngineWord(attempt.name, "queued", at=self.time)
            self.handles[attempt.name] = Handle(
                name=attempt.name,
                folder=attempt.folder,
                engine=self.name,
                data={"job": f"{len(self.submitted)}"},
                requested={"cpus": 2, "memory_bytes": 1 << 30},
            )
        self.dies()
        return [self.handles[attempt.name] for attempt in attempts]

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        self._reach()
        return {
            name: handle for name, handle in self.handles.items() if self.words[name].kind in ALIVE
        }

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        self._reach()
        never = "it was never submitted"
        return [
            self.words.get(each.name) or EngineWord(each.name, "gone", never) for each in handles
        ]

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        self._reach()
        self.cancelled += [(str(each.name), force) for each in handles]
        return {}

    def wait(self, timeout_s: float) -> None:
        self.now += timeout_s
        if self.story:
            self.story.pop(0)(self)
            return
        self.waited += 1
        assert self.waited < 1000, "its story is over, and it is still waited for"

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def _reach(self) -> None:
        self.asked += 1
        if self.away:
            raise EngineError(self.name, self.away)

    # -- what a story is told with

    @property
    def time(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now)

    def named(self, number: str) -> AttemptName:
        [name] = [each for each in self.handles if str(each) == number]
        return name

    def say(self, number: str, kind: WordKind, text: str = "", **more: Any) -> None:
        name = self.named(number)
        more.setdefault("at", self.time)
        self.words[name] = EngineWord(name, kind, text, **more)

    def put(self, number: str, suffix: str, content: Any) -> Path:
        handle = self.handles[self.named(number)]
        prepare(handle.folder)
        path = attempts_dir(handle.folder) / f"{number}.{suffix}"
        path.write_text(json.dumps(content))
        return path

    def exit(self, number: str, **record: Any) -> None:
        """The shim of the attempt records its end, on that other host."""
        record.setdefault("ended_at", self.time.isoformat())
        self.put(number, "exit", {"identity": ELSEWHERE, "host": "n1", **record})

    def live(self, number: str, *, began: datetime | None = None, **identity: Any) -> Path:
        """Its shim has begun, on that other host, and nobody holds its lock."""
        folder = self.handles[self.named(number)].folder
        prepare(folder)
        mark = f"0.{attempts_dir(folder).stat().st_ino}.{number}"
        signed = {**ELSEWHERE, "mark": mark, "attempt": number, "experiment": "exp_a", **identity}
        signed["started_at"] = (began or self.time).isoformat()
        return self.put(number, "live", signed)


def say(number: str, kind: WordKind, text: str = "", **more: Any) -> Step:
    return lambda engine: engine.say(number, kind, text, **more)


def everything(*steps: Step) -> Step:
    """All of it at once."""

    def told(engine: ScriptedEngine) -> None:
        for step in steps:
            step(engine)

    return told


def ended(number: str, kind: WordKind = "completed", **record: Any) -> Step:
    record.setdefault("exit_code", 0)
    return everything(lambda engine: engine.exit(number, **record), say(number, kind))


def conduct(manager: StateManager, engine: ScriptedEngine, **more: Any) -> Orchestrator:
    return Orchestrator(
        *(manager, engine),
        **{"clock": lambda: engine.time, "monotonic": lambda: engine.now, **more},
    )
