"""The planner: what starts, what is tried again, when it is over; with crashes at any moment."""

import random
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lifecycle import apply
from holdfast.lifecycle.events import Event, Launch, ProcessExited, ProcessLost, Requested
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.orchestration.scheduling import Plan, Policy, Scheduler, Slots
from holdfast.status import ExperimentStatus, ProcessStatus, Reason

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def started(size: int) -> ExperimentState:
    state = ExperimentState(experiment_id="exp_7", num_processes=size)
    return apply.apply(state, Requested(entity="experiment", event="start", at=NOW)).state


def exited(index: int, attempt: int = 1, code: int = 0, at: float = 0) -> ProcessExited:
    return ProcessExited(process=index, attempt=attempt, at=later(at), exit_code=code)


def ask(event: str, index: int) -> Requested:
    return Requested(entity="process", event=event, at=NOW, process=index)


@attrs.define
class Turns:
    """A scheduler and the state that its plans lead to."""

    state: ExperimentState
    policy: Policy
    held: tuple[int, ...] = ()
    scheduler: Scheduler = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.scheduler = Scheduler(self.state, self.policy, held=self.held)

    def turn(
        self, *facts: Event, at: float = 0, stopping: Reason | None = None
    ) -> tuple[list[int], Plan]:
        """Plan and record; the processes that were started."""
        plan = self.scheduler.plan(self.state, facts, later(at), stopping=stopping)
        step = apply.apply_many(self.state, plan.events)
        self.state = step.state
        return [act.process for act in step.actions if isinstance(act, Launch)], plan


def test_as_many_start_as_may_run_at_a_time() -> None:
    """In the order of their index; an exit makes room for the next, in the same line."""
    turns = Turns(started(4), Policy(jobs=2))
    assert turns.turn()[0] == [0, 1]
    assert turns.turn()[0] == []
    assert turns.turn(exited(1))[0] == [2]
    assert turns.turn(exited(0), exited(2))[0] == [3]
    assert turns.state.status is ExperimentStatus.RUNNING
    turns.turn(exited(3))
    assert turns.state.status is ExperimentStatus.COMPLETED


def test_one_failure_does_not_stop_the_others() -> None:
    """The experiment goes on to its end, then is failed, and says which."""
    turns = Turns(started(3), Policy(jobs=1))
    turns.turn()
    assert turns.turn(exited(0, code=1))[0] == [1]
    assert turns.turn(exited(1))[0] == [2]
    turns.turn(exited(2, code=1))
    assert turns.state.status is ExperimentStatus.FAILED
    assert turns.state.error_message == "2 of 3 processes failed: 0, 2"


def test_what_is_held_back_stays_pending_and_the_end_says_so() -> None:
    """The others run to their end; what is held later is not started again once it was stopped."""
    turns = Turns(started(4), Policy(jobs=2))
    turns.scheduler.hold(turns.state, [2])
    assert turns.turn()[0] == [0, 1]
    turns.scheduler.hold(turns.state, [1])
    stopped = ProcessExited(process=1, attempt=1, at=NOW, signal=15, stop_reason=Reason.USER)
    assert turns.turn(exited(0), stopped)[0] == [3]
    turns.turn(exited(3))
    assert turns.state.status is ExperimentStatus.INTERRUPTED
    assert turns.state.reason is Reason.USER
    assert turns.state.error_message == "held back: processes 1, 2"
    assert [p.status for p in turns.state.processes.values()] == [
        *(ProcessStatus.COMPLETED, ProcessStatus.PENDING),
        *(ProcessStatus.PENDING, ProcessStatus.COMPLETED),
    ]


def test_a_failure_comes_before_what_was_held_back() -> None:
    """The experiment is failed, and names both."""
    turns = Turns(started(2), Policy(jobs=2))
    turns.scheduler.hold(turns.state, [1])
    turns.turn()
    turns.turn(exited(0, code=1))
    assert turns.state.status is ExperimentStatus.FAILED
    assert turns.state.error_message == "1 of 2 processes failed: 0; held back: process 1"


def test_what_completed_although_it_was_to_be_held_leaves_nothing_held() -> None:
    """A request that came too late interrupts nothing."""
    turns = Turns(started(1), Policy(jobs=1))
    turns.turn()
    turns.scheduler.hold(turns.state, [0])
    turns.turn(exited(0))
    assert turns.state.status is ExperimentStatus.COMPLETED


@pytest.mark.parametrize("fail_fast", [False, True])
def test_what_had_failed_and_is_held_back_is_no_failure_of_this_run(fail_fast: bool) -> None:
    """It is not tried again although an attempt is left, and does not stop the others."""
    state = started(3)
    events = [ask("start", 0), exited(0, code=1)]
    state = apply.apply_many(state, events).state
    policy = Policy(jobs=1, max_attempts=2, backoff_s=0, fail_fast=fail_fast)
    turns = Turns(state, policy, held=(0,))
    assert turns.turn()[0] == [1]
    started_now, plan = turns.turn(exited(1))
    assert (started_now, plan.stop_others) == ([2], False)
    turns.turn(exited(2))
    assert turns.state.status is ExperimentStatus.FAILED
    assert turns.state.error_message == "1 of 3 processes failed: 0"
    assert turns.state.processes[0].attempt == 1


def test_a_failure_of_this_run_still_ends_one_that_is_to_fail_fast() -> None:
    """What was held back before it does not hide it."""
    state = apply.apply_many(started(3), [ask("start", 0), exited(0, code=1)]).state
    turns = Turns(state, Policy(jobs=1, fail_fast=True), held=(0,))
    turns.turn()
    assert turns.turn(exited(1, code=1))[0] == []
    assert turns.state.error_message == "2 of 3 processes failed: 0, 1"
    assert turns.state.processes[2].status is ProcessStatus.PENDING


def test_no_more_start_than_there_is_room_for() -> None:
    """The room is asked for as many as could start; the rest waits, and nothing is over."""
    turns, asked = Turns(started(4), Policy(jobs=3)), []

    def room(number: int) -> int:
        asked.append(number)
        return len(asked) - 1

    def start(*facts: Event) -> list[int]:
        plan = turns.scheduler.plan(turns.state, facts, NOW, room=room)
        step = apply.apply_many(turns.state, plan.events)
        turns.state = step.state
        return [act.process for act in step.actions if isinstance(act, Launch)]

    assert start() == []
    assert turns.state.status is ExperimentStatus.RUNNING
    assert start() == [0]
    assert start(exited(0)) == [1, 2]
    assert asked == [3, 3, 3]


def test_fail_fast_stops_the_others_after_the_first_final_failure() -> None:
    """What runs is to be stopped, nothing more starts, and the end is `failed`."""
    turns = Turns(started(3), Policy(jobs=2, fail_fast=True, max_attempts=2, backoff_s=0))
    turns.turn()
    launched, plan = turns.turn(exited(0, code=1))
    assert (launched, plan.stop_others) == ([0], False)
    launched, plan = turns.turn(exited(0, attempt=2, code=1))
    assert (launched, plan.stop_others) == ([], True)
    stopped = ProcessExited(process=1, attempt=1, at=NOW, signal=15, stop_reason=Reason.USER)
    turns.turn(stopped)
    assert turns.state.status is ExperimentStatus.FAILED
    assert turns.state.processes[1].status is ProcessStatus.PENDING


def test_a_retry_waits_twice_as_long_every_time() -> None:
    """10 s, 20 s, 40 s … after the failure, while others go on."""
    turns = Turns(started(2), Policy(jobs=1, max_attempts=4, backoff_s=10))
    turns.turn()
    assert turns.turn(exited(0, code=1, at=1), at=1)[0] == [1]
    launched, plan = turns.turn(exited(1, at=2), at=2)
    assert (launched, plan.wait_s) == ([], 9)
    assert turns.turn(at=10.9)[0] == []
    assert turns.turn(at=11)[0] == [0]
    _, plan = turns.turn(exited(0, attempt=2, code=1, at=12), at=12)
    assert plan.wait_s == 20
    assert turns.turn(at=32)[0] == [0]
    _, plan = turns.turn(exited(0, attempt=3, code=1, at=33), at=33)
    assert plan.wait_s == 40
    turns.turn(at=73)
    turns.turn(exited(0, attempt=4, code=1, at=74), at=74)
    assert turns.state.status is ExperimentStatus.FAILED
    assert turns.state.processes[0].failures == 4


def test_a_crash_neither_forgets_a_pause_nor_starts_it_anew() -> None:
    """The pause is read off the record."""
    policy = Policy(jobs=1, max_attempts=2, backoff_s=10)
    turns = Turns(started(1), policy)
    turns.turn()
    turns.turn(exited(0, code=1, at=1), at=1)
    again = Turns(turns.state, policy)
    launched, plan = again.turn(at=4)
    assert (launched, plan.wait_s) == ([], 7)
    assert again.turn(at=11)[0] == [0]


def test_a_clock_that_was_set_back_does_not_hold_a_retry() -> None:
    """A moment before the failure itself can only be another clock's."""
    turns = Turns(started(1), Policy(jobs=1, max_attempts=2, backoff_s=10))
    turns.turn()
    turns.turn(exited(0, code=1, at=7200), at=7200)
    assert turns.turn(at=5)[0] == [0]


def test_a_lost_attempt_starts_again_at_once() -> None:
    """It was no fault of the process, so that neither budget nor pause is charged."""
    turns = Turns(started(1), Policy(jobs=1))
    turns.turn()
    lost = ProcessLost(process=0, attempt=1, at=NOW, evidence="gone")
    assert turns.turn(lost)[0] == [0]
    assert turns.state.processes[0].attempt == 2


def interrupted(attempt: int, at: float, lived_s: float = 0.0) -> ProcessExited:
    """An exit that a signal from outside left unproven."""
    return ProcessExited(
        process=0,
        attempt=attempt,
        at=later(at),
        exit_code=0,
        interrupted_by=15,
        started_at=later(at - lived_s),
        ended_at=later(at),
    )


def test_interruptions_in_a_row_wait_longer_and_longer_and_have_a_limit() -> None:
    """What is stopped or lost from outside every time does not begin anew for ever."""
    turns = Turns(started(2), Policy(jobs=1, max_interruptions=5))
    assert turns.turn()[0] == [0]
    at, pauses = 0.0, []
    for attempt in range(1, 5):
        begun, plan = turns.turn(interrupted(attempt, at), at=at)
        if begun == [1]:  # its sibling goes on meanwhile
            turns.turn(exited(1, at=at), at=at)
        pauses.append(0.0 if begun == [0] else plan.wait_s)
        if begun != [0]:
            at += plan.wait_s or 0.0
            assert turns.turn(at=at)[0] == [0]
    assert pauses == [0.0, 1.0, 2.0, 4.0]
    assert turns.turn(interrupted(5, at), at=at)[0] == []
    state = turns.state
    assert (state.status, state.processes[0].status) == ("interrupted", "pending")
    assert (state.processes[0].interruptions, state.processes[0].failures) == (5, 0)
    assert state.processes[1].status is ProcessStatus.COMPLETED
    assert "again and again: process 0" in str(state.error_message)
    # Whoever goes on, gives a new budget.
    state = apply.apply(state, Requested(entity="experiment", event="resume", at=NOW)).state
    assert Turns(state, Policy(jobs=1)).turn()[0] == [0]


def test_interruptions_are_counted_by_what_they_were_for() -> None:
    """Three that preempt and three that lose it are not six that come to their time limit."""
    turns = Turns(started(1), Policy(jobs=1, max_interruptions=3))
    turns.turn()
    limit = attrs.evolve(interrupted(1, 0), interrupted_by=None, engine_end="timeout")
    kinds = [
        lambda n, at: interrupted(n, at),
        lambda n, at: ProcessLost(process=0, attempt=n, at=later(at), evidence="it is gone"),
        lambda n, at: attrs.evolve(limit, attempt=n, at=later(at)),
    ]
    for attempt in range(1, 7):
        at = attempt * 100.0
        turns.turn(kinds[attempt % 3](attempt, at), at=at)
        turns.turn(at=at + 90)
    process = turns.state.processes[0]
    assert (turns.state.status, process.status, process.attempt) == ("running", "running", 7)
    turns.turn(kinds[2](7, 700.0), at=700.0)
    assert (turns.state.status, turns.state.reason) == ("interrupted", "time_limit")
    assert turns.state.processes[0].failures == 0


def test_what_comes_to_its_time_limit_every_time_is_given_up_however_long_that_is() -> None:
    """It lived as long as it was let, which says nothing about how far it got."""
    turns = Turns(started(1), Policy(jobs=1, max_interruptions=2))
    turns.turn()
    for attempt in range(1, 3):
        at = attempt * 86_400.0
        end = interrupted(attempt, at, lived_s=86_000)
        turns.turn(attrs.evolve(end, interrupted_by=None, engine_end="timeout"), at=at)
        turns.turn(at=at + 60)
    assert (turns.state.status, turns.state.reason) == ("interrupted", "time_limit")


def test_what_stalls_every_time_is_given_up_however_long_its_limit_is() -> None:
    """It lived for an hour each time, and the count of its stalls does not begin anew."""
    turns = Turns(started(1), Policy(jobs=1, max_interruptions=3))
    turns.turn()
    for attempt in range(1, 4):
        at = attempt * 3600.0
        stall = attrs.evolve(interrupted(attempt, at, lived_s=3600), stop_reason=Reason.STALL)
        turns.turn(attrs.evolve(stall, interrupted_by=None, exit_code=None, signal=15), at=at)
        turns.turn(at=at + 60)
    process = turns.state.processes[0]
    assert (process.attempt, process.interruptions, process.failures) == (3, 3, 0)
    assert (turns.state.status, turns.state.reason) == ("interrupted", "stall")
    assert str(turns.state.error_message).startswith("stalled again and again: process 0")


def test_an_attempt_that_lived_long_starts_the_count_anew() -> None:
    """Preempted every quarter of an hour, it gets somewhere all the same."""
    turns = Turns(started(1), Policy(jobs=1, max_interruptions=2))
    turns.turn()
    for attempt in range(1, 8):
        assert turns.turn(interrupted(attempt, 900 * attempt, 900), at=900 * attempt)[0] == [0]


def test_a_failure_ends_a_row_of_interruptions() -> None:
    """It is the process's own, and has a budget of its own."""
    turns = Turns(started(1), Policy(jobs=1, max_attempts=9, backoff_s=0, max_interruptions=2))
    turns.turn()
    for attempt in range(1, 8):
        fact = exited(0, attempt, code=1) if attempt % 2 else interrupted(attempt, 0)
        assert turns.turn(fact)[0] == [0]


def test_our_own_stops_are_no_interruptions() -> None:
    """Ctrl-C and fail_fast leave nothing that would count against the next attempt."""
    turns = Turns(started(1), Policy(jobs=1, max_interruptions=1))
    turns.turn()
    stopped = attrs.evolve(exited(0, code=0), stop_reason=Reason.USER)
    assert turns.turn(stopped)[0] == [0]


def test_what_uses_no_slot_makes_room() -> None:
    """An attempt whose outcome is on its way, or that nobody can judge, holds up no other."""
    turns = Turns(started(3), Policy(jobs=1))
    assert turns.turn()[0] == [0]
    plan = turns.scheduler.plan(turns.state, (), NOW, slots=Slots(idle=1))
    turns.state = apply.apply_many(turns.state, plan.events).state
    assert turns.state.processes.indices(ProcessStatus.RUNNING) == [0, 1]


def test_one_that_cannot_be_judged_blocks_itself_alone() -> None:
    """Its siblings end, it stays as it is recorded, and the experiment is left interrupted."""
    turns = Turns(started(2), Policy(jobs=2))
    turns.turn()
    plan = turns.scheduler.plan(turns.state, (exited(1),), NOW, slots=Slots(idle=1, blocked=[0]))
    state = apply.apply_many(turns.state, plan.events).state
    assert [process.status for process in state.processes.values()] == ["running", "completed"]
    assert state.status is ExperimentStatus.INTERRUPTED
    assert "cannot be judged from here: process 0" in str(state.error_message)


def test_nothing_starts_while_stopping_and_the_end_is_interrupted() -> None:
    """The experiment is interrupted once the last process has ended."""
    turns = Turns(started(3), Policy(jobs=1, max_attempts=2, backoff_s=0))
    turns.turn()
    assert turns.turn(stopping=Reason.USER)[0] == []
    assert turns.state.status is ExperimentStatus.RUNNING
    assert turns.turn(exited(0, code=1), stopping=Reason.USER)[0] == []
    assert turns.state.status is ExperimentStatus.INTERRUPTED
    assert turns.state.reason is Reason.USER


def test_a_stop_that_comes_after_the_last_exit_still_completes() -> None:
    """Work that is all done is not called interrupted."""
    turns = Turns(started(1), Policy(jobs=1))
    turns.turn()
    turns.turn(exited(0), stopping=Reason.USER)
    assert turns.state.status is ExperimentStatus.COMPLETED


def test_an_experiment_without_open_work_ends_in_the_first_turn() -> None:
    """All of it completed before the crash: nothing is launched again."""
    done = {0: ProcessProgress(status="completed", attempt=1)}
    turns = Turns(attrs.evolve(started(1), process_progress=done), Policy(jobs=1))
    assert turns.turn()[0] == []
    assert turns.state.status is ExperimentStatus.COMPLETED


def test_a_huge_number_of_failures_does_not_overflow_the_pause() -> None:
    """Doubling stops before time does."""
    failed = ProcessProgress(status="failed", failures=5_000, completed_at=NOW)
    state = attrs.evolve(started(1), process_progress={0: failed})
    turns = Turns(state, Policy(jobs=1, max_attempts=9_999, backoff_s=1e6))
    assert turns.turn()[0] == []
    due = turns.state.processes[0].not_before
    assert due is not None
    assert due <= NOW + timedelta(days=366)


@attrs.define
class World:
    """What really runs: shims that live on when the orchestrator dies."""

    rng: random.Random
    failing: dict[int, int]
    living: dict[tuple[int, int], float] = attrs.field(factory=dict)
    exits: dict[tuple[int, int], int] = attrs.field(factory=dict)
    ended_well: list[int] = attrs.field(factory=list)

    def launch(self, index: int, attempt: int, now: float) -> None:
        assert not any(living == index for living, _ in self.living), "two attempts at a time"
        assert index not in self.ended_well, "ran again after it was completed"
        self.living[index, attempt] = now + self.rng.uniform(0.1, 5)

    def advance(self, now: float) -> None:
        for (index, attempt), end in sorted(self.living.items()):
            if end > now:
                continue
            del self.living[index, attempt]
            code = 0
            if self.failing.get(index, 0) > 0:
                self.failing[index] -= 1
                code = 1
            else:
                self.ended_well.append(index)
            self.exits[index, attempt] = code

    def seen(self, state: ExperimentState, now: float) -> list[Event]:
        """The exits of the attempts that are recorded as running."""
        return [
            exited(index, attempt, self.exits[index, attempt], at=now)
            for index, attempt in (
                (index, state.processes[index].attempt)
                for index in state.processes.indices(ProcessStatus.RUNNING)
            )
            if (index, attempt) in self.exits
        ]

    def lost(self, state: ExperimentState, now: float) -> list[Event]:
        """Recorded starts that were never carried out, as a resume finds them."""
        return [
            ProcessLost(process=index, attempt=attempt, at=later(now), evidence="revoked")
            for index in state.processes.indices(ProcessStatus.RUNNING)
            if (index, attempt := state.processes[index].attempt) not in self.living
            and (index, attempt) not in self.exits
        ]


@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 12),
    jobs=st.integers(1, 4),
    crash_rate=st.sampled_from([0.0, 0.2, 0.6]),
)
def test_with_crashes_anywhere_every_process_ends_exactly_once(
    seed: int, size: int, jobs: int, crash_rate: float
) -> None:
    """Before recording, between recording and launching, or after: nothing is lost or run twice."""
    rng = random.Random(seed)
    failing = {index: 2 for index in range(size) if rng.random() < 0.3}
    policy = Policy(jobs=jobs, max_attempts=3, backoff_s=1)
    world = World(rng=rng, failing=dict(failing))
    stored = started(size)
    now = 0.0
    scheduler: Scheduler | None = None
    for _ in range(20_000):
        now += rng.uniform(0, 2)
        world.advance(now)
        facts: list[Event] = []
        if scheduler is None:
            facts = world.lost(stored, now)
            scheduler = Scheduler(stored, policy)
        facts += world.seen(stored, now)
        plan = scheduler.plan(stored, facts, later(now))
        dies = rng.random() < crash_rate
        if dies and rng.random() < 0.5:
            scheduler = None  # nothing of the plan was recorded
            continue
        step = apply.apply_many(stored, plan.events)
        stored = step.state
        launches = [action for action in step.actions if isinstance(action, Launch)]
        if dies:
            launches = launches[: rng.randint(0, len(launches))]
            scheduler = None
        for launch in launches:
            world.launch(launch.process, launch.attempt, now)
        if stored.status is not ExperimentStatus.RUNNING:
            break
    assert stored.status is ExperimentStatus.COMPLETED
    assert sorted(world.ended_well) == list(range(size))
    assert all(stored.processes[index].failures == 2 for index in failing)
    assert not world.living


@pytest.mark.parametrize("size", [10_000])
def test_a_turn_does_not_look_through_ten_thousand_processes(size: int) -> None:
    """Each process is put into the queue once and taken out once."""
    turns = Turns(started(size), Policy(jobs=1))
    launched, _ = turns.turn()
    for turn in range(50):
        assert launched == [turn]
        launched, _ = turns.turn(exited(turn))
    assert len(turns.scheduler._ready) == size - 51
