"""Ranks: what one launcher starts moves as one, or each for itself, and is started once."""

import json
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.attempts.names import AttemptName, attempts_dir, reports_dir
from holdfast.attempts.records import ExitRecord
from holdfast.attempts.reports import Report, output_of, reported, torchelastic_error
from holdfast.config.experiment_file import Experiment
from holdfast.errors import ConfigError, InvalidTransitionError
from holdfast.lifecycle.apply import apply, apply_many, ending
from holdfast.lifecycle.events import (
    Event,
    Ignored,
    Launch,
    PhaseReported,
    ProcessExited,
    ProcessLost,
    Requested,
)
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, ProcessTable, Ranks
from holdfast.orchestration import exits
from holdfast.orchestration.scheduling import Plan, Policy, Scheduler
from holdfast.orchestration.taking import Taking
from holdfast.results import acceptance
from holdfast.status import ExperimentStatus, ProcessStatus, Reason

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)
NAME = AttemptName("exp_7", "launcher-4", 1)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def of(gangs: int, count: int, *, independent: bool = False) -> ExperimentState:
    """A running experiment of so many launchers."""
    state = ExperimentState(
        experiment_id="exp_7",
        num_processes=gangs * count,
        ranks=Ranks(count=count, independent=independent),
    )
    return apply(state, Requested(entity="experiment", event="start", at=NOW)).state


def asks(event: str, *indices: int, **facts: Any) -> list[Event]:
    return [
        Requested(entity="process", event=event, at=NOW, process=index, facts=facts)
        for index in indices
    ]


def ends(*indices: int, attempt: int = 1, code: int = 0, **more: Any) -> list[Event]:
    return [
        ProcessExited(process=index, attempt=attempt, at=NOW, exit_code=code, **more)
        for index in indices
    ]


def statuses(state: ExperimentState) -> list[str]:
    return [str(process.status) for process in state.processes.values()]


# -- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["start", "complete", "fail", "requeue"])
def test_no_rank_of_a_gang_moves_alone(event: str) -> None:
    """Not even by who asks the library for it, and the refusal names the others."""
    state = of(2, 3)
    if event != "start":
        state = apply_many(state, asks("start", 3, 4, 5)).state
    facts = {"exit_code": 0} if event == "complete" else {"proven_dead": True}
    wanted = asks(event, 3, 4, 5, **({} if event == "start" else facts))
    with pytest.raises(InvalidTransitionError, match="would leave behind 5") as caught:
        apply_many(state, wanted[:2])
    assert "gang_moves_together" in {each.guard for each in caught.value.refusals}
    moved = apply_many(state, wanted).state
    assert len(set(statuses(moved)[3:])) == 1
    assert statuses(moved)[3:] != statuses(state)[3:]


def test_half_of_what_a_gang_did_is_no_fact() -> None:
    """It is ignored with a reason, as every fact is that comes at the wrong time."""
    state = apply_many(of(1, 2), asks("start", 0, 1)).state
    step = apply_many(state, ends(0))
    assert step.state is state
    [ignored] = step.actions
    assert isinstance(ignored, Ignored)
    assert "nothing is told of 1, the other ranks of its gang" in ignored.why
    assert statuses(apply_many(state, ends(0, 1)).state) == ["completed", "completed"]


def test_whom_a_launcher_is_moves_nobody() -> None:
    """Its identity is noted of one rank after the other."""
    state = apply_many(of(1, 2), asks("start", 0, 1)).state
    noted = apply(state, PhaseReported(process=0, attempt=1, at=NOW, identity=None))
    assert len(noted.changes) == 1


def test_independent_ranks_move_alone() -> None:
    """Each completes or fails for itself."""
    state = apply_many(of(1, 3, independent=True), asks("start", 0, 1, 2)).state
    state = apply_many(state, [*ends(0), *ends(1, code=1)]).state
    assert statuses(state) == ["completed", "failed", "running"]


def test_an_attempt_has_the_number_of_its_launcher() -> None:
    """A rank that was completed for some attempts takes part in the next one of all."""
    state = of(1, 2, independent=True)
    state = apply_many(state, asks("start", 0, 1)).state
    state = apply_many(state, [*ends(0), *ends(1, code=1)]).state
    state = apply_many(state, asks("requeue", 1, max_attempts=5)).state
    state = apply_many(state, asks("requeue", 0, result_lost=True)).state
    state = apply_many(state, asks("start", 1)).state
    step = apply_many(state, asks("start", 0, attempt=2))
    assert [each.attempt for each in step.state.processes.values()] == [2, 2]
    assert step.actions == (Launch(0, 2),)
    again = apply_many(of(1, 1), asks("start", 0, attempt=0)).state
    assert again.processes[0].attempt == 1  # it only ever grows


def test_processes_are_whole_gangs() -> None:
    """Half a launcher cannot be started."""
    with pytest.raises(ValueError, match="7 processes are no whole number of gangs of 2"):
        ExperimentState(experiment_id="x", num_processes=7, ranks=Ranks(count=2))
    with pytest.raises(ValueError, match="1 or more"):
        Ranks(count=0)


# -- what starts, and when ------------------------------------------------------------------------


@attrs.define
class Turns:
    """A scheduler and the state that its plans lead to."""

    state: ExperimentState
    policy: Policy
    scheduler: Scheduler = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.scheduler = Scheduler(self.state, self.policy)

    def turn(self, *facts: Event, at: float = 0) -> tuple[list[int], Plan]:
        plan = self.scheduler.plan(self.state, facts, later(at))
        step = apply_many(self.state, plan.events)
        self.state = step.state
        return [act.process for act in step.actions if isinstance(act, Launch)], plan


def test_jobs_count_launchers() -> None:
    """All ranks of a gang start in one line, and an end makes room for the next gang."""
    turns = Turns(of(3, 2), Policy(jobs=2))
    assert turns.turn()[0] == [0, 1, 2, 3]
    assert turns.turn()[0] == []
    assert turns.turn(*ends(2, 3))[0] == [4, 5]
    turns.turn(*ends(0, 1), *ends(4, 5))
    assert turns.state.status is ExperimentStatus.COMPLETED


def test_a_gang_is_charged_once() -> None:
    """Four ranks that fail together are one failed attempt, and one pause."""
    turns = Turns(of(1, 4), Policy(jobs=1, max_attempts=2, backoff_s=10))
    turns.turn()
    started, plan = turns.turn(*ends(0, 1, 2, 3, code=1))
    assert (started, plan.wait_s) == ([], pytest.approx(10))
    assert {each.failures for each in turns.state.processes.values()} == {1}
    assert turns.turn(at=9)[0] == []
    assert turns.turn(at=10)[0] == [0, 1, 2, 3]
    turns.turn(*ends(0, 1, 2, 3, attempt=2, code=1), at=11)
    assert turns.state.status is ExperimentStatus.FAILED
    assert {each.failures for each in turns.state.processes.values()} == {2}


@pytest.mark.parametrize("independent", [False, True])
def test_a_turn_costs_a_gang_what_its_ranks_do(
    monkeypatch: pytest.MonkeyPatch, independent: bool
) -> None:
    """Not their square, by which a gang of 10,000 took a minute to start, and one to end."""
    count, looks = 300, 0
    look = ProcessTable.__getitem__

    def counted(table: ProcessTable, index: int) -> ProcessProgress:
        nonlocal looks
        looks += 1
        return look(table, index)

    state = of(1, count, independent=independent)
    scheduler = Scheduler(state, Policy(jobs=1))
    monkeypatch.setattr(ProcessTable, "__getitem__", counted)
    state = apply_many(state, scheduler.plan(state, [], NOW).events).state
    plan = scheduler.plan(state, ends(*range(count)), NOW)
    assert apply_many(state, plan.events).state.status is ExperimentStatus.COMPLETED
    assert looks < 50 * count


def test_an_interrupted_gang_was_interrupted_once() -> None:
    """Not as often as it has ranks: three of it would exhaust the ten that a process has."""
    turns = Turns(of(1, 4), Policy(jobs=1, max_interruptions=3))
    assert turns.turn()[0] == [0, 1, 2, 3]
    for attempt in (1, 2, 3):
        seconds = 100.0 * attempt
        lost = [
            ProcessLost(process=i, attempt=attempt, at=later(seconds), evidence="it is gone")
            for i in range(4)
        ]
        started = turns.turn(*lost, at=seconds)[0] or turns.turn(at=seconds + 2)[0]
        assert started == ([0, 1, 2, 3] if attempt < 3 else [])
    assert turns.state.status is ExperimentStatus.INTERRUPTED
    assert "again and again: processes 0, 1, 2, 3" in (turns.state.error_message or "")


def test_what_is_given_up_is_told_by_a_rank_that_is_not_done() -> None:
    """The first one may have completed for itself: its end is not why the experiment stops."""
    turns = Turns(of(1, 2, independent=True), Policy(jobs=1, max_interruptions=1))
    turns.turn()
    turns.turn(*ends(0), *ends(1, stop_reason=Reason.STALL))
    assert turns.state.status is ExperimentStatus.INTERRUPTED
    assert turns.state.reason is Reason.STALL
    assert (turns.state.error_message or "").startswith("stalled again and again: process 1; ")


def test_only_independent_ranks_that_are_not_done_run_again() -> None:
    """They begin together, in the launcher's next attempt, once it is over."""
    turns = Turns(of(1, 3, independent=True), Policy(jobs=1, max_attempts=2, backoff_s=0))
    assert turns.turn()[0] == [0, 1, 2]
    assert turns.turn(*ends(1))[0] == []
    assert turns.turn(*ends(0), *ends(2, code=1))[0] == [2]
    assert [each.attempt for each in turns.state.processes.values()] == [1, 1, 2]
    turns.turn(*ends(2, attempt=2))
    assert turns.state.status is ExperimentStatus.COMPLETED


def test_a_lost_result_waits_for_its_launcher() -> None:
    """Its rank is pending while the others run: a second launcher is not started beside them."""
    turns = Turns(of(1, 2, independent=True), Policy(jobs=4))
    turns.turn()
    turns.turn(*ends(0))
    turns.state = apply_many(turns.state, asks("requeue", 0, result_lost=True)).state
    turns.scheduler = Scheduler(turns.state, turns.policy)
    assert turns.turn()[0] == []
    assert turns.turn(*ends(1))[0] == [0]
    assert turns.state.processes[0].attempt == 2


@given(
    gangs=st.integers(1, 4),
    count=st.integers(1, 4),
    independent=st.booleans(),
    jobs=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_whatever_happens_gangs_stay_whole(
    gangs: int, count: int, independent: bool, jobs: int, seed: int
) -> None:
    """Never more launchers than jobs, never half a gang, never a completed rank moved; it ends."""
    draw = random.Random(seed)
    policy = Policy(jobs=jobs, max_attempts=2, backoff_s=0, max_interruptions=3)
    turns = Turns(of(gangs, count, independent=independent), policy)
    now = 0.0
    facts: list[Event] = []
    for _ in range(200):
        before = turns.state
        turns.turn(*facts, at=now)
        state = turns.state
        running = {state.gang(i).start for i in state.processes.indices(ProcessStatus.RUNNING)}
        assert len(running) <= jobs
        for first in range(0, state.num_processes, count):
            ranks = [state.processes[i] for i in state.gang(first)]
            if not independent:
                assert len({(each.status, each.attempt, each.failures) for each in ranks}) == 1
            assert len({each.attempt for each in ranks if each.status == "running"}) <= 1
        for old, new in zip(before.processes.values(), state.processes.values(), strict=True):
            assert old.status != "completed" or new is old
        if state.status is not ExperimentStatus.RUNNING:
            break
        if draw.random() < 0.2:  # the orchestrator died, and another reads the state
            turns.scheduler = Scheduler(state, policy)
        now += draw.uniform(0, 200)
        facts = []
        if running:
            facts = _fate(state, draw.choice(sorted(running)), now, draw)
    assert turns.state.status in ("completed", "failed", "interrupted")


def _fate(state: ExperimentState, first: int, now: float, draw: random.Random) -> list[Event]:
    """How the launcher ended, or that one of its independent ranks did."""
    running = [i for i in state.gang(first) if state.processes[i].status == "running"]
    attempt, at = state.processes[running[0]].attempt, later(now)
    if not state.has_gangs and len(running) > 1 and draw.random() < 0.5:
        return [ProcessExited(process=draw.choice(running), attempt=attempt, at=at, exit_code=0)]
    word = draw.choice(["exit", "exit", "fail", "swept", "lost"])
    if word == "lost":
        return [ProcessLost(process=i, attempt=attempt, at=at, evidence="gone") for i in running]
    code = 1 if word == "fail" else 0
    swept = 15 if word == "swept" else None
    return [
        ProcessExited(process=i, attempt=attempt, at=at, exit_code=code, interrupted_by=swept)
        for i in running
    ]


# -- what ranks report ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an experiment whose launcher 4 to 7 has run."""
    attempts_dir(tmp_path).mkdir()
    reports_dir(tmp_path, NAME).mkdir()
    (tmp_path / acceptance.RESULTS).mkdir()
    return tmp_path


def report(
    folder: Path, index: int, suffix: str, incarnation: str = "0-9-9-h", **what: Any
) -> None:
    path = reports_dir(folder, NAME) / f"{index}.{incarnation}.{suffix}"
    path.write_text(json.dumps(what))


def result(folder: Path, index: int, value: object, incarnation: str = "0-9-9-h") -> None:
    name = acceptance.of_rank(index, NAME.attempt, incarnation)
    acceptance.path_of(folder, name).write_text(json.dumps(value))


def told(folder: Path, *, independent: bool = False, **end: Any) -> list[ProcessExited]:
    """The facts of the launcher's end."""
    state = of(2, 4, independent=independent)
    state = apply_many(state, asks("start", 4, 5, 6, 7)).state
    return exits.exited(state, folder, NAME, ExitRecord(**end), NOW, take=Taking())


def test_a_gang_completes_with_the_result_of_each_rank(folder: Path) -> None:
    """Each has its own file; who wrote none has none."""
    for index in (4, 6):
        report(folder, index, "said", completed=True)
        result(folder, index, {"rank": index})
    facts = told(folder, exit_code=0)
    assert [fact.process for fact in facts] == [4, 5, 6, 7]
    assert {ending(fact) for fact in facts} == {"complete"}
    paths = [None if fact.result is None else fact.result.path for fact in facts]
    assert paths == ["results/4.1.0-9-9-h.json", None, "results/6.1.0-9-9-h.json", None]


def test_a_shared_result_is_that_of_rank_0(folder: Path) -> None:
    """Without the worker API all ranks have one file, and the last that wrote it won."""
    acceptance.path_of(folder, NAME).write_text('{"loss": 1}')
    facts = told(folder, exit_code=0)
    assert facts[0].result is not None
    assert facts[0].result.path == "results/launcher-4.1.json"
    assert [fact.result for fact in facts[1:]] == [None] * 3


def test_a_shared_result_that_differs_from_rank_0s_fails_the_attempt(folder: Path) -> None:
    """Nobody can tell which of the two is meant; both are named."""
    acceptance.path_of(folder, NAME).write_text('{"loss": 1}')
    report(folder, 4, "said", completed=True)
    result(folder, 4, {"loss": 2})
    facts = told(folder, exit_code=0)
    assert {ending(fact) for fact in facts} == {"fail"}
    [error] = {fact.result_error for fact in facts}
    assert error is not None
    assert "results/launcher-4.1.json" in error
    assert "results/4.1.0-9-9-h.json" in error
    result(folder, 4, {"loss": 1})
    assert {ending(fact) for fact in told(folder, exit_code=0)} == {"complete"}


def test_one_invalid_result_fails_the_gang(folder: Path) -> None:
    """All or none: three good results of four are no result."""
    report(folder, 5, "said", completed=True)
    acceptance.path_of(folder, acceptance.of_rank(5, 1, "0-9-9-h")).write_text("{")
    facts = told(folder, exit_code=0)
    assert {ending(fact) for fact in facts} == {"fail"}
    assert "rank 1: " in (facts[0].result_error or "")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"suffix": "said", "stopped": True, "why": "SIGTERM", "signal": 15}, "(SIGTERM)"),
        ({"suffix": "exit", "exit_code": 0, "asked": 15}, "(signal 15)"),
    ],
)
def test_a_rank_that_gave_way_interrupts_its_gang(
    folder: Path, what: dict[str, Any], says: str
) -> None:
    """It exits 0, its launcher, too, and the work is not done."""
    report(folder, 6, **what)
    facts = told(folder, exit_code=0)
    assert {ending(fact) for fact in facts} == {"requeue"}
    how = "stopped by itself" if what["suffix"] == "said" else "was stopped"
    assert f"rank 2 {how} before it was done {says}" in (facts[0].evidence or "")


def test_who_said_that_it_completed_did(folder: Path) -> None:
    """Whatever signal came before: it was heard, and the work was finished all the same."""
    report(folder, 6, "said", completed=True, signal=15)
    report(folder, 6, "exit", exit_code=0, asked=15)
    assert {ending(fact) for fact in told(folder, exit_code=0)} == {"complete"}


def test_a_time_limit_without_a_checkpoint_is_a_failure(folder: Path) -> None:
    """Who saves nothing would come to it again, and be charged for none of it, for ever."""
    report(folder, 5, "said", stopped=True, why="time", saved=False)
    facts = told(folder, exit_code=0)
    assert {ending(fact) for fact in facts} == {"fail"}
    assert "rank 1 stopped by itself at its time limit" in (facts[0].reported_error or "")
    assert ending(told(folder, independent=True, exit_code=0)[1]) == "fail"
    # One that has saved goes on from there, and the others of its gang with it.
    report(folder, 6, "said", stopped=True, why="time", saved=True)
    assert {ending(fact) for fact in told(folder, exit_code=0)} == {"requeue"}


def test_a_batch_systems_warning_is_its_time_limit_ahead(folder: Path) -> None:
    """Who heeds it ends before: the job's own word is then that all went well."""
    report(folder, 6, "said", stopped=True, why="warning", saved=False)
    facts = told(folder, exit_code=0)
    assert {ending(fact) for fact in facts} == {"requeue"}
    assert {fact.stop_reason for fact in facts} == {Reason.TIME_LIMIT}


def test_a_failed_rank_counts_before_those_that_gave_way_to_it(folder: Path) -> None:
    """A shell that forks and waits ends with 0 whatever they did."""
    report(folder, 5, "said", error={"type": "ValueError", "message": "bad"})
    report(folder, 6, "said", stopped=True, why="SIGTERM", signal=15)
    assert {ending(fact) for fact in told(folder, exit_code=0)} == {"fail"}


def test_the_rank_that_knows_says_why(folder: Path) -> None:
    """Torchrun exits 1 whatever the rank's code."""
    report(folder, 6, "said", error={"type": "ValueError", "message": "bad", "rank": 2})
    facts = told(folder, exit_code=1)
    assert {fact.error_message for fact in facts} == {"rank 2: ValueError: bad"}
    # A shell that forks and waits loses their codes: it is no success.
    facts = told(folder, exit_code=0)
    assert {ending(fact) for fact in facts} == {"fail"}
    # What stopped the launcher is not the rank's to tell.
    facts = told(folder, exit_code=1, timed_out=True)
    assert {fact.error_message for fact in facts} == {"stopped at its timeout (exit code 1)"}


def test_torch_leaves_why(folder: Path) -> None:
    """Its error file tells the first failure where no rank of ours does."""
    path = reports_dir(folder, NAME) / "torchelastic.json"
    path.write_text(
        json.dumps({"message": {"message": "RuntimeError: boom\nmore", "extraInfo": {}}})
    )
    assert torchelastic_error(folder, NAME) == "RuntimeError: boom"
    assert told(folder, exit_code=1)[0].error_message == "RuntimeError: boom"


def test_the_newest_incarnation_counts(folder: Path) -> None:
    """An elastic restart starts all ranks anew inside one attempt."""
    report(folder, 4, "said", "0-500-1-h", error={"type": "E", "message": "old"})
    report(folder, 4, "begun", "1-30-7-h", at="2024-01-15T12:00:00+00:00")
    report(folder, 4, "begun", "1-40-5-h", at="2024-01-15T13:00:00+00:00")
    report(folder, 4, "said", "1-40-5-h", completed=True)
    result(folder, 4, "new", "1-40-5-h")
    assert reported(folder, NAME)[4].incarnation == "1-40-5-h"
    fact = told(folder, exit_code=0)[0]
    assert fact.result is not None
    assert fact.result.path == "results/4.1.1-40-5-h.json"


def test_a_wrapper_speaks_for_the_program_within(folder: Path) -> None:
    """`holdfast rank -- sh -c "python …"`: an incarnation of its own, which ends before it."""
    report(folder, 4, "begun", "0-30-7-h", at="2024-01-15T12:00:00+00:00")
    report(folder, 4, "err", "0-30-7-h")
    report(folder, 4, "begun", "0-31-8-h", at="2024-01-15T12:00:01+00:00")
    result(folder, 4, 1, "0-31-8-h")
    report(folder, 4, "exit", "0-30-7-h", exit_code=3, at="2024-01-15T12:00:02+00:00")
    found = reported(folder, NAME)[4]
    assert (found.incarnation, found.failure) == ("0-31-8-h", "exit code 3")
    assert output_of(folder, NAME, 4, "err").name == "4.0-30-7-h.err"
    # That of a run before says nothing about this one.
    report(folder, 4, "begun", "0-32-9-h", at="2024-01-15T12:00:03+00:00")
    assert reported(folder, NAME)[4].failure is None


@pytest.mark.parametrize("content", ["", "{", "7", '"text"'])
def test_garbage_is_no_newer_incarnation(folder: Path, content: str) -> None:
    """A delivered result is not taken away by a file that looks like one of a restart."""
    report(folder, 4, "begun", "0-30-7-h", at="2024-01-15T12:00:00+00:00", pid=30)
    report(folder, 4, "said", "0-30-7-h", completed=True)
    result(folder, 4, 1, "0-30-7-h")
    for suffix in ("begun", "said", "exit"):
        (reports_dir(folder, NAME) / f"4.9-1-1-h.{suffix}").write_text(content)
    os.mkfifo(reports_dir(folder, NAME) / "4.8-1-1-h.exit")
    (reports_dir(folder, NAME) / "4.7-1-1-h.exit").mkdir()
    fact = told(folder, exit_code=0)[0]
    assert fact.result is not None
    assert fact.result.path == "results/4.1.0-30-7-h.json"


def test_a_rank_that_was_stopped_for_another_is_told_so(folder: Path) -> None:
    """It did not stop by itself: its launcher stopped it because of the one that failed."""
    report(folder, 5, "exit", exit_code=3)
    report(folder, 6, "exit", exit_code=None, signal=15, asked=15)
    fact = told(folder, independent=True, exit_code=3)[2]
    assert ending(fact) == "requeue"
    assert fact.evidence == (
        "it was stopped before it was done (signal 15); "
        "its launcher: exit code 3; rank 1: exit code 3"
    )


def test_independent_ranks_end_each_for_itself(folder: Path) -> None:
    """Completed, failed, given way; who says nothing shares its launcher's fate."""
    report(folder, 4, "said", completed=True)
    result(folder, 4, 1)
    report(folder, 5, "said", error={"type": "E", "message": "bad"})
    report(folder, 6, "said", stopped=True, why="request")
    facts = told(folder, independent=True, exit_code=1)
    assert [ending(fact) for fact in facts] == ["complete", "fail", "requeue", "fail"]
    assert facts[0].result is not None
    assert facts[3].error_message == "its launcher: exit code 1; rank 1: E: bad"
    # What was acknowledged is not taken back by what came for the launcher.
    facts = told(folder, independent=True, exit_code=0, interrupted_by=15)
    assert [ending(fact) for fact in facts] == ["complete", "requeue", "requeue", "requeue"]


@pytest.mark.parametrize("independent", [False, True])
def test_who_began_and_says_no_more_did_not_complete(folder: Path, independent: bool) -> None:
    """A shell that waits for its ranks exits with 0, whatever became of them."""
    for index in (4, 5, 6):
        report(folder, index, "begun", pid=9)
    report(folder, 4, "said", completed=True)
    report(folder, 5, "exit", exit_code=0, signal=None, asked=None)
    facts = told(folder, independent=independent, exit_code=0)
    # Of rank 3, which does not use the worker API, nothing is expected.
    mute = ["complete", "complete", "fail", "complete"]
    assert [ending(fact) for fact in facts] == (mute if independent else ["fail"] * 4)
    words = facts[2].reported_error
    assert words is not None
    assert words.startswith("it began" if independent else "rank 2: it began and never said how")
    # Of a launcher that failed, it is no reason.
    assert "began" not in str(told(folder, independent=independent, exit_code=3))


def test_somebody_is_charged_for_a_launcher_that_fails(folder: Path) -> None:
    """The rank that is to blame; if none is, all that went down with it."""
    report(folder, 4, "exit", exit_code=None, signal=15, asked=15)
    report(folder, 5, "said", stopped=True, why="SIGTERM", signal=15)
    facts = told(folder, independent=True, signal=9)
    assert [ending(fact) for fact in facts] == ["fail"] * 4
    report(folder, 6, "exit", exit_code=3)
    facts = told(folder, independent=True, signal=9)
    assert [ending(fact) for fact in facts] == ["requeue", "requeue", "fail", "fail"]
    assert facts[2].exit_code == 3


def test_a_rank_that_its_launcher_killed_with_the_others_is_not_charged(folder: Path) -> None:
    """`holdfast rank` outlives whatever ends its command: nothing said means that it was killed."""
    report(folder, 7, "begun", pid=7)
    (reports_dir(folder, NAME) / "7.0-9-9-h.out").touch()
    assert ending(told(folder, independent=True, signal=9)[3]) == "fail"
    report(folder, 6, "exit", exit_code=None, signal=9)
    fact = told(folder, independent=True, signal=9)[3]
    assert ending(fact) == "requeue"
    assert (fact.evidence or "").startswith("it was killed with its launcher before it was done")


def test_a_rank_that_is_failed_for_good_takes_no_blame(folder: Path) -> None:
    """Its launcher starts it all the same, and stops the others: they would run for ever."""
    report(folder, 4, "said", error={"type": "E", "message": "bad"})
    report(folder, 5, "said", stopped=True, why="SIGTERM", signal=15)
    state = apply_many(of(2, 4, independent=True), asks("start", 5, 6, 7)).state
    facts = exits.exited(state, folder, NAME, ExitRecord(exit_code=1), NOW, take=Taking())
    assert [(fact.process, ending(fact)) for fact in facts] == [(i, "fail") for i in (5, 6, 7)]
    assert facts[0].error_message == "its launcher: exit code 1; rank 0: E: bad"


def test_a_launcher_that_dies_takes_no_report_with_it(folder: Path) -> None:
    """Completed is completed; the rest is run again, and charged to nobody."""
    report(folder, 5, "said", completed=True)
    state = apply_many(of(2, 4, independent=True), asks("start", 4, 5, 6, 7)).state
    facts = exits.lost(state, folder, NAME, NOW, "its shim is dead", Taking())
    after = apply_many(state, facts).state
    assert statuses(after)[4:] == ["pending", "completed", "pending", "pending"]
    gang = apply_many(of(2, 4), asks("start", 4, 5, 6, 7)).state
    after = apply_many(
        gang, exits.lost(gang, folder, NAME, NOW, "its shim is dead", Taking())
    ).state
    assert statuses(after)[4:] == ["pending"] * 4
    assert {after.processes[i].reason for i in range(4, 8)} == {Reason.LOST}


def test_the_last_rank_completes_with_its_launcher(folder: Path) -> None:
    """An experiment is not completed while something of it runs."""
    state = apply_many(of(2, 4, independent=True), asks("start", 4, 5, 6, 7)).state
    for index in (4, 5, 6, 7):
        report(folder, index, "said", completed=True)
    facts = exits.done_already(state, folder, NAME, NOW, Taking())
    assert [fact.process for fact in facts] == [4, 5, 6]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\0" * 100, b'{"completed": 1}', b'{"error": "text"}', b"{" * 10_000],
)
def test_garbage_in_a_report_says_nothing(folder: Path, content: bytes) -> None:
    """Only whole words of ours count, whoever else writes there."""
    for name in ("4.0-9-9-h.said", "5.0-9-9-h.exit", "6.0-9-9-h.begun", "notes.txt", "9" * 200):
        (reports_dir(folder, NAME) / name).write_bytes(content)
    (reports_dir(folder, NAME) / "7.0-9-9-h.said").symlink_to("/etc/passwd")
    found = reported(folder, NAME)
    assert set(found) == {4, 5, 6, 7}
    for index, each in found.items():
        assert each == Report(index=index, incarnation="0-9-9-h")
    assert {ending(fact) for fact in told(folder, exit_code=0)} == {"complete"}


def test_a_rank_may_have_a_log_of_its_own(folder: Path) -> None:
    """Else it is its launcher's, which all of them share."""
    assert output_of(folder, NAME, 5, "err") == attempts_dir(folder) / "launcher-4.1.err"
    report(folder, 5, "err")
    assert output_of(folder, NAME, 5, "err").name == "5.0-9-9-h.err"


# -- what a file declares -------------------------------------------------------------------------


def test_a_file_declares_ranks() -> None:
    """A number, or a table; every combination is a gang, whose ranks have the same parameters."""
    base = {"command": ["torchrun", "x.py", "{index}", "{lr}"], "matrix": {"lr": [1, 2]}}
    plain = Experiment.from_config({**base, "ranks": 3})
    table = Experiment.from_config({**base, "ranks": {"count": 3}})
    assert plain.num_processes == 6
    assert [each["lr"] for each in plain.params] == [1, 1, 1, 2, 2, 2]
    assert plain.argv(4) == ("torchrun", "x.py", "3", "2")
    here = Path()
    assert plain.config_hash(here) == table.config_hash(here)
    independent = Experiment.from_config({**base, "ranks": {"count": 3, "independent": True}})
    other = Experiment.from_config({**base, "ranks": 2})
    hashes = {each.config_hash(here) for each in (plain, independent, other)}
    assert len(hashes) == 3
    again = Experiment.from_stored(plain.to_config())
    assert (again.params, again.ranks) == (plain.params, plain.ranks)


def test_without_ranks_the_hash_is_what_it_was() -> None:
    """What was stored before there were any is found again."""
    work = Experiment.from_config({"command": ["true"], "processes": 2}).work(Path())
    assert set(work) == {"command", "params", "env", "cwd"}


def test_what_on_stall_may_be_is_said() -> None:
    """With the key, whatever kind of value stands there."""
    for wrong in ("bogus", True, [], 5):
        with pytest.raises(ConfigError, match=r'limits\.on_stall: must be "tell" or "restart"'):
            Experiment.from_config({"command": ["true"], "limits": {"on_stall": wrong}})


@pytest.mark.parametrize(
    ("ranks", "problem"),
    [
        (0, "1 or more"),
        (True, "expected an integer"),
        ("4", "expected an integer"),
        ({"count": 4, "independant": True}, "independent"),
        ({"independent": True}, "count"),
        (1_000_001, "too many"),
    ],
)
def test_what_are_no_ranks_is_refused(ranks: Any, problem: str) -> None:
    """With the key and what is wrong about it."""
    with pytest.raises(ConfigError, match=problem):
        Experiment.from_config({"command": ["true"], "ranks": ranks})
