"""The loop with an engine of another kind, whose every word the test decides."""

import contextlib
import errno
import fcntl
import functools
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import liveness
from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName, attempts_dir, prepare
from holdfast.attempts.records import Attempt
from holdfast.cli.failures import code_of
from holdfast.config.experiment_file import Experiment
from holdfast.engines.contract import LOCAL, EngineWord, Handle
from holdfast.errors import (
    AttemptWarning,
    ClaimClosedError,
    DiskWarning,
    EngineError,
    EngineWarning,
    OwnershipLostError,
    StateWriteError,
)
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.loop import Loop
from holdfast.orchestration.marking import Marks
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.orchestration.watch import Watch
from holdfast.provenance.digests import Digests
from holdfast.results.going_on import GaveUpError
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store.encoding import identity_to_json
from holdfast.store.files import Files
from holdfast.store.manager import StateManager, utc_now

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

    name = LOCAL
    outlives = False
    shares_files = True

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        return ()

    def room(self) -> int | None:
        return None

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

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        self.cancelled.append(force)
        return {}

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
        path = attempts_dir(handle.folder)
        prepare(handle.folder)
        (path / f"{number}.exit").write_text(json.dumps(record))
        self.words[handle.name] = "gone"


def word(kind: str) -> Callable[[PaperEngine], None]:
    return lambda engine: engine.say(kind)


def exit_of(number: str, **record: Any) -> Callable[[PaperEngine], None]:
    return lambda engine: engine.exit(number, **record)


def orchestrator(manager: StateManager, engine: PaperEngine) -> Orchestrator:
    return Orchestrator(manager, engine, monotonic=lambda: engine.now, gone_grace_s=5.0)


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
    assert code_of(outcome) == 0
    assert engine.submitted == ["0.1"]
    assert engine.now < 5.0


def test_gone_without_a_record_is_lost_after_the_grace_period(manager: StateManager) -> None:
    """Run again, not charged; a shim of the first that begins after all finds itself revoked."""
    engine = PaperEngine([*[word("gone")] * 14, exit_of("0.2", exit_code=0)])
    outcome = orchestrator(manager, engine).run(CONFIG)
    process = outcome.state.processes[0]
    assert engine.submitted == ["0.1", "0.2"]
    assert (process.failures, process.interruptions) == (0, 1)
    folder = manager.folder(outcome.state.experiment_id)
    name = AttemptName.of_process(outcome.state.experiment_id, 0, 1)
    assert live_state(folder, name).kind == "revoked"
    steps = manager.history(outcome.state.experiment_id)
    [requeued] = [step for step in steps if step.event == "requeue"]
    assert requeued.reason is Reason.LOST
    assert "as the test says" in (requeued.evidence or "")


def test_an_end_shares_its_line_with_the_next_start(manager: StateManager) -> None:
    """Its slot was free half a second before, so nothing waits for it: one sync does for both."""

    def completing(number: str) -> Callable[[PaperEngine], None]:
        def told(engine: PaperEngine) -> None:
            engine.words = {
                name: "completing" if str(name) == number else kind
                for name, kind in engine.words.items()
            }

        return told

    engine = PaperEngine(
        [
            completing("0.1"), exit_of("0.1", exit_code=0), completing("1.1"),
            exit_of("1.1", exit_code=0), exit_of("2.1", exit_code=0),
        ]
    )  # fmt: skip
    config = {**CONFIG, "processes": 3}
    outcome = orchestrator(manager, engine).run(config, jobs=1, aggregate=False)
    assert engine.submitted == ["0.1", "1.1", "2.1"]
    [journal] = manager.folder(outcome.state.experiment_id).glob("journal/*.jsonl")
    together = [line for line in journal.read_text().splitlines() if '"complete"' in line]
    assert '"start"' in together[0]
    assert code_of(outcome) == 0


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
    assert (code_of(outcome), outcome.adopted) == (0, 1)
    assert engine.submitted == ["0.1"]


def test_an_unreadable_exit_record_is_a_failed_attempt(manager: StateManager) -> None:
    """It proves that the attempt ended, and not how."""

    def scribble(engine: PaperEngine) -> None:
        engine.exit("0.1")
        [handle] = engine.handles.values()
        (attempts_dir(handle.folder) / "0.1.exit").write_text("{")

    outcome = orchestrator(manager, PaperEngine([scribble])).run(CONFIG)
    process = outcome.state.processes[0]
    assert (code_of(outcome), process.status) == (3, ProcessStatus.FAILED)
    assert "0.1.exit" in (process.error_message or "")


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the system refuse to open that exit record with that error, or open it again with 0."""
    opened, refusal = os.open, 0

    def open_or_refuse(path: Any, *args: Any, **options: Any) -> int:
        if refusal and str(path).endswith("/0.1.exit"):
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
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])
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
    with pytest.warns(DiskWarning, match="is unknown"):
        outcome = orchestrator(manager, engine).run(CONFIG)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])


class DiedError(Exception):
    """The orchestrator is gone, without a word."""


def left(
    manager: StateManager,
    engine: PaperEngine,
    *last: Callable[[PaperEngine], None],
    config: Mapping[str, Any] = CONFIG,
) -> None:
    """Have an orchestrator die with `exp_a` running, before it could learn what came *last*."""

    def die(engine: PaperEngine) -> None:
        for each in last:
            each(engine)
        raise DiedError

    engine.story.append(die)
    with pytest.raises(DiedError):
        orchestrator(manager, engine).run(config, experiment_id="exp_a")


@pytest.mark.parametrize("number", TRANSIENT)
def test_a_resume_that_cannot_read_an_outcome_waits_for_it(
    manager: StateManager, sick: Callable[[int], None], number: int
) -> None:
    """Neither a failure nor a loss: it is told, and the success is adopted once it can be read."""
    engine = PaperEngine()
    left(manager, engine, exit_of("0.1", exit_code=0))
    sick(number)
    engine.story = [*[word("gone")] * 9, lambda _: sick(0)]
    with pytest.warns(DiskWarning, match=r"0\.1\.exit.*every second") as told:
        outcome = orchestrator(manager, engine).resume("exp_a")
    assert (code_of(outcome), engine.submitted, len(told)) == (0, ["0.1"], 1)


TWO = {**CONFIG, "processes": 2, "limits": {"jobs": 1}}


def test_an_outcome_that_stays_unreadable_blocks_its_process_alone(
    manager: StateManager, sick: Callable[[int], None]
) -> None:
    """The others are done, and after half a minute the run ends with exit code 5."""
    engine = PaperEngine()
    left(manager, engine, exit_of("0.1", exit_code=0), config=TWO)

    sick(errno.EACCES)
    engine.story = [exit_of("1.1", exit_code=0)]
    with pytest.warns(UserWarning, match=r"0\.1\.exit") as told:
        outcome = orchestrator(manager, engine).resume("exp_a")
    assert code_of(outcome) == 5
    assert [str(each.message).count("0.1.exit") for each in told] == [1, 1]
    assert outcome.state.processes[0].status is ProcessStatus.RUNNING
    sick(0)
    assert code_of(orchestrator(manager, engine).resume("exp_a")) == 0
    assert engine.submitted == ["0.1", "1.1"]


def test_an_attempt_that_nobody_can_judge_blocks_itself_alone(manager: StateManager) -> None:
    """It stays as it is recorded and is named; its sibling is run; exit code 5."""
    engine = PaperEngine()
    left(manager, engine, word("gone"), config=TWO)
    folder = manager.folder("exp_a") / "attempts"
    folder.mkdir()
    live = folder / "0.1.live"
    live.write_text(json.dumps({"host": "node7", "boot_id": "another", "locked": True}))
    engine.story = [exit_of("1.1", exit_code=0)]
    with pytest.warns(AttemptWarning, match=r"attempt 0\.1 is left as it is: .*node7"):
        outcome = orchestrator(manager, engine).resume("exp_a")
    assert (code_of(outcome), engine.submitted) == (5, ["0.1", "1.1"])
    statuses = [process.status for process in outcome.state.processes.values()]
    assert statuses == [ProcessStatus.RUNNING, ProcessStatus.COMPLETED]
    assert outcome.state.status is ExperimentStatus.INTERRUPTED
    assert "cannot be judged" in outcome.message
    assert list(outcome.blocked) == ["0.1"]
    live.unlink()
    engine.story = [nothing, exit_of("0.2", exit_code=0)]
    assert code_of(orchestrator(manager, engine).resume("exp_a")) == 0


@attrs.define
class AwayEngine(PaperEngine):
    """A scheduler that cannot be reached for a while; what it runs goes on."""

    away: bool = False
    asked: list[float] = attrs.field(factory=list)

    def _reached(self) -> None:
        self.asked.append(self.now)
        if self.away:
            raise EngineError("paper", "the controller does not answer")

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        self._reached()
        return super().submit(experiment_id, attempts)

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        self._reached()
        return super().find(experiment_id, folder)

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        self._reached()
        return super().poll(handles)

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        self._reached()
        return super().cancel(handles, force=force)


def leave(engine: PaperEngine) -> None:
    assert isinstance(engine, AwayEngine)
    engine.away = True


def come_back(engine: PaperEngine) -> None:
    assert isinstance(engine, AwayEngine)
    engine.away = False


def nothing(_: PaperEngine) -> None:
    pass


def test_an_engine_that_cannot_be_reached_is_waited_for(manager: StateManager) -> None:
    """Told once, asked again at longer and longer intervals; nothing fails, nothing is lost."""
    engine = AwayEngine([leave, *[nothing] * 80, come_back, exit_of("0.1", exit_code=0)])
    with pytest.warns(EngineWarning, match="the controller does not answer") as told:
        outcome = orchestrator(manager, engine).run(CONFIG)
    assert (code_of(outcome), engine.submitted, len(told)) == (0, ["0.1"], 1)
    asked = sorted(set(engine.asked))
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert gaps[1:6] == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_what_an_engine_did_not_take_is_submitted_again(manager: StateManager) -> None:
    """The start is recorded, and carried out once the engine is there."""
    engine = AwayEngine([nothing, come_back, *[nothing] * 3, exit_of("0.1", exit_code=0)])
    engine.away = True
    with pytest.warns(EngineWarning):
        outcome = orchestrator(manager, engine).run(CONFIG)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])
    assert outcome.state.processes[0].attempt == 1


def test_a_resume_waits_for_its_engine_before_it_decides(manager: StateManager) -> None:
    """What the engine has is adopted, not started a second time."""
    engine = AwayEngine()
    left(manager, engine, leave)
    engine.story = [nothing, nothing, come_back, *[nothing] * 4, exit_of("0.1", exit_code=0)]
    with pytest.warns(EngineWarning):
        outcome = orchestrator(manager, engine).resume("exp_a")
    assert (code_of(outcome), outcome.adopted, engine.submitted) == (0, 1, ["0.1"])


def test_what_was_not_submitted_when_it_is_to_stop_never_begins(manager: StateManager) -> None:
    """An interrupted run does not wait for an engine that is away."""
    engine = AwayEngine([interrupt])
    engine.away = True
    with pytest.warns(EngineWarning):
        outcome = orchestrator(manager, engine).run(CONFIG)
    assert (code_of(outcome), outcome.state.status) == (130, ExperimentStatus.INTERRUPTED)
    assert outcome.state.processes[0].status is ProcessStatus.PENDING
    name = AttemptName.of_process(outcome.state.experiment_id, 0, 1)
    assert live_state(manager.folder(name.experiment_id), name).kind == "revoked"


@pytest.mark.parametrize("only", [None, [0]])
def test_what_began_although_its_engine_failed_is_asked_to_stop(
    manager: StateManager, only: list[int] | None
) -> None:
    """By a file, as everything that runs: else its shim takes the signal for a stranger's."""
    locks = contextlib.ExitStack()

    def begin(engine: PaperEngine) -> None:
        [experiment_id] = manager.list_experiments()
        name = AttemptName.of_process(experiment_id, 0, 1)
        folder = manager.folder(experiment_id)
        engine.handles[name] = Handle(name=name, folder=folder)
        engine.words[name] = "running"
        prepare(folder)
        locks.callback(os.close, os.open(attempts_dir(folder), os.O_RDONLY))  # at work there
        me = {**identity_to_json(liveness.me()), "mark": "0" * 32}
        live = locks.enter_context((attempts_dir(folder) / "0.1.live").open("w"))
        fcntl.flock(live, fcntl.LOCK_EX)
        live.write(json.dumps(me))
        live.flush()
        manager.request_stop(experiment_id, only=only)

    end = exit_of("0.1", exit_code=0, stop_requested="user")
    engine = AwayEngine([begin, *[nothing] * 8, come_back, *[nothing] * 600, end])
    engine.away = True
    with locks, pytest.warns(EngineWarning):
        outcome = orchestrator(manager, engine).run({**CONFIG, "limits": {"grace": 3600}})
    assert (code_of(outcome), engine.cancelled, engine.submitted) == (130, [False], [])
    asked = attempts_dir(manager.folder(outcome.state.experiment_id)) / "0.1.stop"
    assert json.loads(asked.read_text())["reason"] == "user"


def test_a_request_is_heard_while_an_engine_is_away(manager: StateManager) -> None:
    """Before anything was submitted, and before the engine could say what it has."""

    def ask(_: PaperEngine) -> None:
        manager.request_stop(manager.list_experiments()[0])

    engine = AwayEngine([nothing, ask])
    engine.away = True
    with pytest.warns(EngineWarning):
        outcome = orchestrator(manager, engine).run(CONFIG)
    assert (code_of(outcome), outcome.stopped, outcome.signal) == (130, True, None)
    assert outcome.state.reason is Reason.USER
    engine = AwayEngine()
    left(manager, engine, leave)
    engine.story = [nothing, lambda _: manager.request_stop("exp_a")]
    with pytest.warns(EngineWarning):
        outcome = orchestrator(manager, engine).resume("exp_a")
    assert (code_of(outcome), outcome.stopped) == (130, True)


def test_a_part_is_asked_for_before_what_runs_of_it_is_taken_over(manager: StateManager) -> None:
    """Results are checked, or an engine is away: what is adopted afterwards is stopped, too."""
    engine = AwayEngine()
    left(manager, engine, leave)
    stopped = exit_of("0.1", exit_code=0, stop_requested="user")
    ask = functools.partial(manager.request_stop, "exp_a", only=[0])
    engine.story = [nothing, lambda _: ask(), come_back, *[nothing] * 10, stopped]
    with pytest.warns(EngineWarning):
        outcome = orchestrator(manager, engine).resume("exp_a")
    assert engine.cancelled == [False]
    assert (code_of(outcome), outcome.state.reason) == (130, Reason.USER)
    assert outcome.state.processes[0].status is ProcessStatus.PENDING
    asked = attempts_dir(manager.folder("exp_a")) / "0.1.stop"
    assert json.loads(asked.read_text())["reason"] == "user"


PARTS = {"command": ["true"], "processes": 2, "limits": {"grace": 5, "deadline": 100, "jobs": 2}}


def timed(manager: StateManager, engine: PaperEngine) -> Orchestrator:
    """Its clocks go as the engine's."""
    now = utc_now()
    return Orchestrator(
        manager,
        engine,
        clock=lambda: now + timedelta(seconds=engine.now),
        monotonic=lambda: engine.now,
    )


def to(seconds: float) -> Callable[[PaperEngine], None]:
    def jump(engine: PaperEngine) -> None:
        engine.now = seconds

    return jump


def test_a_deadline_is_no_request_although_a_part_was_stopped_on_one(manager: StateManager) -> None:
    """`run` and `wait` tell the same, and the history does not put it down to who asked."""

    def ask(_: PaperEngine) -> None:
        manager.request_stop(manager.list_experiments()[0], only=[0])

    whys = ("user", "deadline")
    ends = [exit_of(f"{i}.1", exit_code=0, stop_requested=why) for i, why in enumerate(whys)]
    engine = PaperEngine([word("running"), ask, nothing, ends[0], to(101), nothing, ends[1]])
    outcome = timed(manager, engine).run(PARTS)
    assert (outcome.state.reason, code_of(outcome), outcome.held) == (Reason.DEADLINE, 3, (0,))
    [step] = [
        each for each in manager.history(outcome.state.experiment_id) if each.event == "interrupt"
    ]
    assert step.evidence is None


def test_who_asks_while_the_time_runs_out_is_answered(manager: StateManager) -> None:
    """What runs has a grace period left until its deadline; the end is the user's."""

    def ask(_: PaperEngine) -> None:
        manager.request_stop(manager.list_experiments()[0])

    ends = [exit_of(f"{i}.1", exit_code=0, stop_requested="user") for i in range(2)]
    engine = PaperEngine([word("running"), to(96), ask, *[nothing] * 6, *ends])
    outcome = timed(manager, engine).run(PARTS)
    assert (outcome.state.reason, code_of(outcome)) == (Reason.USER, 130)
    assert outcome.state.error_message is None


def test_who_asks_for_everything_is_named_not_who_asked_for_a_part(manager: StateManager) -> None:
    """Although both did, and the part was first."""

    def ask(engine: PaperEngine) -> None:
        [experiment_id] = manager.list_experiments()
        manager.request_stop(experiment_id, only=[0])
        other = {"level": "stop", "by": {"host": "elsewhere", "pid": 7}}
        (manager.folder(experiment_id) / "stop.1.2").write_text(json.dumps(other))

    ends = [exit_of(f"{i}.1", exit_code=0, stop_requested="user") for i in range(2)]
    engine = PaperEngine([word("running"), ask, *[nothing] * 6, *ends])
    outcome = timed(manager, engine).run(PARTS)
    assert code_of(outcome) == 130
    steps = manager.history(outcome.state.experiment_id)
    [step] = [each for each in steps if each.event == "interrupt"]
    assert step.evidence == "asked by pid 7 on elsewhere"


def test_what_is_named_does_not_wait_for_the_end_of_its_pause(manager: StateManager) -> None:
    """It can be tried now by no other means; a resume of everything keeps the pause."""
    config = {**CONFIG, "processes": 2, "retry": {"max_attempts": 2, "backoff": 3600}}
    fails = [exit_of("0.1", exit_code=3), exit_of("1.1", exit_code=3)]
    engine = PaperEngine([*fails, interrupt])
    outcome = orchestrator(manager, engine).run(config, jobs=2)
    pauses = [each.not_before for each in outcome.state.processes.values()]
    assert None not in pauses
    told = orchestrator(manager, engine).resume(outcome.state.experiment_id, failed_only=True)
    assert "no process has failed for good (processes 0, 1 wait for another attempt" in told.message
    engine = PaperEngine([exit_of("0.2", exit_code=0)])
    outcome = orchestrator(manager, engine).resume(outcome.state.experiment_id, only=[0])
    assert (engine.submitted, outcome.held) == (["0.2"], (1,))
    assert outcome.state.processes[1].not_before == pauses[1]
    engine = PaperEngine([nothing, nothing, interrupt])
    orchestrator(manager, engine).resume(outcome.state.experiment_id)
    assert engine.submitted == []


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


@pytest.mark.parametrize("reading", [False, True])
def test_work_beside_the_loop_gives_up_when_a_signal_comes(
    manager: StateManager, reading: bool
) -> None:
    """What may have begun to write is waited for; what only reads is not."""
    manager.create("exp_a")
    engine, seen, may_end = PaperEngine(), [], threading.Event()

    def work(going_on: Callable[[], bool]) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        while going_on():
            pass
        if reading:
            assert may_end.wait(60)
        seen.append("left")
        raise GaveUpError

    with manager.claim("exp_a") as claim, Interrupts(engine.wake) as interrupts:
        watch = Watch(
            engine=engine,
            launcher=None,  # type: ignore[arg-type]
            clock=utc_now,
            state=lambda: claim.state,
            fence=claim.check_fence,
        )
        experiment = Experiment.from_config(CONFIG, manager.state_dir)
        marks = Marks(experiment, manager.state_dir, claim.folder, Digests(), time.monotonic)
        loop = Loop(claim, watch, interrupts, None, marks)
        assert loop.beside(work, reading=reading) is None
        assert seen == ([] if reading else ["left"])
        may_end.set()
        with pytest.raises(ZeroDivisionError):
            loop.beside(lambda _: 1 // 0)
        assert loop.beside(lambda _: 7) == 7


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
    name = AttemptName.of_process("exp_a", 0, 1)
    assert live_state(manager.folder("exp_a"), name).kind == "absent"


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
    with pytest.warns(AttemptWarning, match=r"0\.1.*asked to stop 1\d s ago and has not ended"):
        outcome = orchestrator(manager, engine).run(CONFIG)
    assert (code_of(outcome), outcome.state.status) == (130, ExperimentStatus.INTERRUPTED)
    assert outcome.state.processes[0].status is ProcessStatus.RUNNING
    assert engine.cancelled[:2] == [False, True]
    engine.story = [exit_of("0.1", exit_code=0)]
    outcome = orchestrator(manager, engine).resume(outcome.state.experiment_id)
    assert (code_of(outcome), outcome.adopted) == (0, 1)
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
    assert (code_of(outcome), engine.cancelled) == (0, [])


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
    assert code_of(outcome) == 0
    assert engine.submitted == ["0.1", "1.1", "0.2"]
