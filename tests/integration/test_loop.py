"""The loop with an engine of another kind, whose every word the test decides."""

import errno
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import attempts
from holdfast.attempts import Attempt, AttemptName
from holdfast.engines import EngineWord, Handle
from holdfast.errors import (
    ClaimClosedError,
    DiskWarning,
    OwnershipLostError,
    StateWriteError,
)
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store.files import Files
from holdfast.store.manager import StateManager

CONFIG = {"command": ["true"], "processes": 1, "limits": {"grace": 5}}


@attrs.define
class PaperEngine:
    """A scheduler on paper: attempts are words, and time passes only while it is waited for."""

    story: list[Callable[["PaperEngine"], None]] = attrs.field(factory=list)
    words: dict[AttemptName, str] = attrs.field(factory=dict)
    handles: dict[AttemptName, Handle] = attrs.field(factory=dict)
    submitted: list[str] = attrs.field(factory=list)
    cancelled: list[bool] = attrs.field(factory=list)
    now: float = 0.0

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        for attempt in attempts:
            self.submitted.append(str(attempt.name))
            self.words[attempt.name] = "queued"
            self.handles[attempt.name] = Handle(name=attempt.name, folder=attempt.folder)
        return [self.handles[attempt.name] for attempt in attempts]

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        return {
            name: handle
            for name, handle in self.handles.items()
            if self.words[name] in ("queued", "running")
        }

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        return [
            EngineWord(handle.name, self.words[handle.name], "as the test says")  # type: ignore[arg-type]
            for handle in handles
        ]

    def cancel(self, handles: Sequence[Handle], *, force: bool = False) -> None:
        self.cancelled.append(force)

    def wait(self, timeout_s: float) -> None:
        self.now += timeout_s
        if self.story:
            self.story.pop(0)(self)

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass

    # -- what a story is told with

    def say(self, word: str) -> None:
        for name in self.words:
            self.words[name] = word

    def exit(self, number: str, **record: Any) -> None:
        [handle] = [one for name, one in self.handles.items() if str(name) == number]
        path = attempts.attempts_dir(handle.folder)
        attempts.prepare(handle.folder)
        (path / f"{number}.exit").write_text(json.dumps(record))
        self.words[handle.name] = "gone"


def word(kind: str) -> Callable[[PaperEngine], None]:
    return lambda engine: engine.say(kind)


def exit_of(number: str, **record: Any) -> Callable[[PaperEngine], None]:
    return lambda engine: engine.exit(number, **record)


def orchestrator(manager: StateManager, engine: PaperEngine) -> Orchestrator:
    return Orchestrator(manager, engine, monotonic=lambda: engine.now, gone_grace_s=5.0)


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    return StateManager(state_dir)


def test_unknown_neither_fails_nor_reruns_anything(manager: StateManager) -> None:
    """A controller that cannot be reached for long says nothing about the attempt."""
    engine = PaperEngine([*[word("unknown")] * 50, word("running"), exit_of("0.1", exit_code=0)])
    outcome = orchestrator(manager, engine).run(CONFIG)
    assert outcome.state.status is ExperimentStatus.AGGREGATED
    assert engine.submitted == ["0.1"]


def test_an_exit_record_that_comes_late_beats_the_engines_word(manager: StateManager) -> None:
    """Gone, and on a shared file system the record is seen some seconds later."""
    engine = PaperEngine([*[word("gone")] * 3, exit_of("0.1", exit_code=0)])
    outcome = orchestrator(manager, engine).run(CONFIG)
    assert outcome.exit_code == 0
    assert engine.submitted == ["0.1"]
    assert engine.now < 5.0


def test_gone_without_a_record_is_lost_after_the_grace_period(manager: StateManager) -> None:
    """Run again, not charged; a shim of the first that begins after all finds itself revoked."""
    engine = PaperEngine([*[word("gone")] * 8, exit_of("0.2", exit_code=0)])
    outcome = orchestrator(manager, engine).run(CONFIG)
    process = outcome.state.processes[0]
    assert engine.submitted == ["0.1", "0.2"]
    assert (process.failures, process.interruptions) == (0, 1)
    folder = manager.folder(outcome.state.experiment_id)
    name = AttemptName(outcome.state.experiment_id, 0, 1)
    assert attempts.live_state(folder, name).kind == "revoked"
    steps = manager.history(outcome.state.experiment_id)
    [requeued] = [step for step in steps if step.event == "requeue"]
    assert requeued.reason is Reason.LOST
    assert "as the test says" in (requeued.evidence or "")


def test_what_waits_in_a_queue_is_adopted_not_revoked(manager: StateManager) -> None:
    """An attempt that was submitted by an orchestrator that died has no files yet."""
    engine = PaperEngine()

    class DiedError(Exception):
        pass

    def die(_: PaperEngine) -> None:
        raise DiedError

    engine.story = [die]
    with pytest.raises(DiedError):
        orchestrator(manager, engine).run(CONFIG, experiment_id="exp_a")
    engine.story = [word("running"), exit_of("0.1", exit_code=0)]
    outcome = orchestrator(manager, engine).resume("exp_a")
    assert (outcome.exit_code, outcome.adopted) == (0, 1)
    assert engine.submitted == ["0.1"]


def test_an_unreadable_exit_record_is_a_failed_attempt(manager: StateManager) -> None:
    """It proves that the attempt ended, and not how."""

    def scribble(engine: PaperEngine) -> None:
        engine.exit("0.1")
        [handle] = engine.handles.values()
        (attempts.attempts_dir(handle.folder) / "0.1.exit").write_text("{")

    outcome = orchestrator(manager, PaperEngine([scribble])).run(CONFIG)
    process = outcome.state.processes[0]
    assert (outcome.exit_code, process.status) == (3, ProcessStatus.FAILED)
    assert "0.1.exit" in (process.error_message or "")


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the system refuse to open exit records with that error, or open them again with 0."""
    opened, refusal = os.open, 0

    def open_or_refuse(path: Any, *args: Any, **options: Any) -> int:
        if refusal and str(path).endswith(".exit"):
            raise OSError(refusal, os.strerror(refusal), str(path))
        return opened(path, *args, **options)

    def be(number: int) -> None:
        nonlocal refusal
        refusal = number

    monkeypatch.setattr(os, "open", open_or_refuse)
    return be


TRANSIENT = [errno.EIO, errno.ENFILE, errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.EACCES]


@pytest.mark.parametrize("number", TRANSIENT)
def test_an_exit_record_that_cannot_be_read_now_is_read_later(
    manager: StateManager, sick: Callable[[int], None], number: int
) -> None:
    """Neither a failure nor a loss: the success in it counts once the disk is well again."""
    looks: list[float] = []

    def refuse(engine: PaperEngine) -> None:
        engine.exit("0.1", exit_code=0)
        sick(number)

    def look(engine: PaperEngine) -> None:
        looks.append(engine.now)

    engine = PaperEngine([refuse, *[look] * 9, lambda _: sick(0)])
    with pytest.warns(DiskWarning, match=r"0\.1\.exit.*every second") as told:
        outcome = orchestrator(manager, engine).run(CONFIG)
    assert (outcome.exit_code, engine.submitted) == (0, ["0.1"])
    assert looks == [looks[0] + seconds for seconds in range(9)]
    assert len(told) == 1


def test_what_is_gone_is_not_lost_while_its_outcome_cannot_be_told(
    manager: StateManager, sick: Callable[[int], None]
) -> None:
    """However long: an attempt that nobody may judge is not run again."""

    def refuse(engine: PaperEngine) -> None:
        engine.say("gone")
        sick(errno.EIO)

    engine = PaperEngine([refuse, *[word("gone")] * 20, exit_of("0.1", exit_code=0)])
    engine.story.append(lambda _: sick(0))
    with pytest.warns(DiskWarning, match="cannot be told"):
        outcome = orchestrator(manager, engine).run(CONFIG)
    assert (outcome.exit_code, engine.submitted) == (0, ["0.1"])


@pytest.mark.parametrize("number", TRANSIENT)
def test_a_resume_that_cannot_read_an_outcome_decides_nothing(
    manager: StateManager, sick: Callable[[int], None], number: int
) -> None:
    """It names the file, and the success is adopted by the next one."""

    class DiedError(Exception):
        pass

    def die(engine: PaperEngine) -> None:
        engine.exit("0.1", exit_code=0)
        raise DiedError

    engine = PaperEngine([die])
    with pytest.raises(DiedError):
        orchestrator(manager, engine).run(CONFIG, experiment_id="exp_a")
    sick(number)
    with pytest.raises(StateWriteError, match=r"0\.1\.exit: reading failed"):
        orchestrator(manager, engine).resume("exp_a")
    assert manager.load("exp_a").processes[0].status is ProcessStatus.RUNNING
    sick(0)
    outcome = orchestrator(manager, engine).resume("exp_a")
    assert (outcome.exit_code, outcome.adopted, engine.submitted) == (0, 1, ["0.1"])


class NoLocks(Files):
    """A file system without locks, and one that may refuse to list a journal's folder."""

    sick = False

    def flock(self, fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def names(self, fd: int) -> list[str]:
        if self.sick:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().names(fd)


def interrupt(_: PaperEngine) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def overtake(state_dir: Path) -> Callable[[PaperEngine], None]:
    """Have somebody else own `exp_a`."""

    def take(_: PaperEngine) -> None:
        StateManager(state_dir, files=NoLocks()).claim("exp_a", force=True).release()

    return take


@pytest.mark.filterwarnings("ignore::holdfast.errors.NoLocksWarning")
@pytest.mark.parametrize("aggregation", [False, True])
def test_a_superseded_owner_that_is_interrupted_stops_nothing(
    state_dir: Path, aggregation: bool
) -> None:
    """What runs is the new owner's by then."""
    config = {**CONFIG, "aggregate": {"command": ["true"]}} if aggregation else CONFIG
    before = [exit_of("0.1", exit_code=0)] if aggregation else []
    engine = PaperEngine([*before, word("running"), overtake(state_dir), interrupt])
    engine.story.append(exit_of("aggregate.1" if aggregation else "0.1", exit_code=0))
    with pytest.raises(OwnershipLostError):
        orchestrator(StateManager(state_dir, files=NoLocks()), engine).run(
            config, experiment_id="exp_a"
        )
    assert engine.cancelled == []


@pytest.mark.filterwarnings("ignore::holdfast.errors.NoLocksWarning")
def test_a_superseded_owner_revokes_nothing(state_dir: Path) -> None:
    """What looks lost to it may be what the new owner is about to start."""
    engine = PaperEngine([word("running"), overtake(state_dir), *[word("gone")] * 9])
    manager = StateManager(state_dir, files=NoLocks())
    with pytest.raises(OwnershipLostError):
        orchestrator(manager, engine).run(CONFIG, experiment_id="exp_a")
    name = AttemptName("exp_a", 0, 1)
    assert attempts.live_state(manager.folder("exp_a"), name).kind == "absent"


@pytest.mark.filterwarnings("ignore::holdfast.errors.NoLocksWarning")
def test_a_sick_disk_keeps_nobody_from_stopping_what_runs(state_dir: Path) -> None:
    """Nobody can tell whether a newer owner took over: the user's word counts."""
    files = NoLocks()

    def sicken(_: PaperEngine) -> None:
        files.sick = True

    engine = PaperEngine([word("running"), sicken, interrupt, interrupt])
    engine.story.append(exit_of("0.1", signal=9, stop_requested="user"))
    with pytest.raises((ClaimClosedError, StateWriteError)):
        orchestrator(StateManager(state_dir, files=files), engine).run(CONFIG)
    assert engine.cancelled == [False, True]


def test_what_runs_can_be_stopped_although_its_folder_was_taken_away(
    manager: StateManager,
) -> None:
    """There is no newer owner whose attempts they could be."""

    def take_away(engine: PaperEngine) -> None:
        manager.folder("exp_a").rename(manager.state_dir / "elsewhere")

    engine = PaperEngine([word("running"), take_away, interrupt, interrupt, word("running")])

    class DiedError(Exception):
        pass

    def die(_: PaperEngine) -> None:
        raise DiedError

    engine.story.append(die)
    with pytest.raises(DiedError):
        orchestrator(manager, engine).run(CONFIG, experiment_id="exp_a")
    assert engine.cancelled == [False, True]


def test_what_survives_a_kill_is_left_to_the_next_resume(manager: StateManager) -> None:
    """After the second signal nobody waits for ever: interrupted, with the process as recorded."""

    def signal_myself(_: PaperEngine) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    engine = PaperEngine([word("running"), signal_myself, signal_myself])
    outcome = orchestrator(manager, engine).run(CONFIG)
    assert (outcome.exit_code, outcome.state.status) == (130, ExperimentStatus.INTERRUPTED)
    assert outcome.state.processes[0].status is ProcessStatus.RUNNING
    assert engine.cancelled[:2] == [False, True]
    engine.story = [exit_of("0.1", exit_code=0)]
    outcome = orchestrator(manager, engine).resume(outcome.state.experiment_id)
    assert (outcome.exit_code, outcome.adopted) == (0, 1)
    assert engine.submitted == ["0.1"]


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_stopped_attempt_is_neither_completed_nor_failed(
    manager: StateManager, exit_code: int
) -> None:
    """Whatever its exit code: it may have cut its work short, and is run again."""
    stopped = exit_of("0.1", exit_code=exit_code, stop_requested="user")
    engine = PaperEngine([stopped, exit_of("0.2", exit_code=0)])
    outcome = orchestrator(manager, engine).run(CONFIG)
    assert engine.submitted == ["0.1", "0.2"]
    assert outcome.state.processes[0].interruptions == 1


def test_an_ignored_signal_stays_ignored(manager: StateManager) -> None:
    """`nohup` and a shell's background jobs are not stopped by what they chose not to hear."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        engine = PaperEngine(
            [lambda _: os.kill(os.getpid(), signal.SIGINT), exit_of("0.1", exit_code=0)]
        )
        outcome = orchestrator(manager, engine).run(CONFIG)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert (outcome.exit_code, engine.cancelled) == (0, [])


def test_a_fail_fast_experiment_killed_after_its_failure_tries_again(manager: StateManager) -> None:
    """It had failed in all but name: a resume that only says so would be of no use."""

    class DiedError(Exception):
        pass

    def die(_: PaperEngine) -> None:
        raise DiedError

    config = {"command": ["true"], "processes": 2, "limits": {"fail_fast": True}}
    engine = PaperEngine([exit_of("0.1", exit_code=1), die])
    with pytest.raises(DiedError):
        orchestrator(manager, engine).run(config, experiment_id="exp_a", jobs=2)
    assert manager.load("exp_a").status is ExperimentStatus.RUNNING
    engine.story = [exit_of("1.1", exit_code=0), exit_of("0.2", exit_code=0)]
    outcome = orchestrator(manager, engine).resume("exp_a")
    assert outcome.exit_code == 0
    assert engine.submitted == ["0.1", "1.1", "0.2"]
