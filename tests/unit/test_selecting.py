"""Which processes a part of an experiment is, and that no others are started."""

import random
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.config.experiment_file import Limits, Retry
from holdfast.errors import InvalidRequestError
from holdfast.lifecycle import apply
from holdfast.lifecycle.events import Event, Launch, ProcessExited
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, Ranks
from holdfast.orchestration.scheduling import Policy, Scheduler
from holdfast.orchestration.selecting import EVERYTHING, Selection, select
from holdfast.orchestration.surveying import Survey
from holdfast.orchestration.takeover import plan
from holdfast.orchestration.taking import Lost
from holdfast.status import ExperimentStatus, ProcessStatus

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)

STATUSES = ("completed", "failed", "pending", "running", "failed", "pending")


def state(ranks: Ranks | None = None, statuses: tuple[str, ...] = STATUSES) -> ExperimentState:
    return ExperimentState(
        experiment_id="exp_7",
        ranks=ranks,
        process_progress={
            i: ProcessProgress(status=ProcessStatus(each)) for i, each in enumerate(statuses)
        },
    )


PAIRS = Ranks(count=2)
LONERS = Ranks(count=2, independent=True)
OF_PAIRS = ("failed", "failed", "pending", "pending", "completed", "completed")


@pytest.mark.parametrize(
    ("found", "only", "failed_only", "chosen"),
    [
        (state(), [2], False, {2}),
        (state(), [0, 1], False, {1}),  # 0 is completed
        (state(), None, True, {1, 4}),
        (state(), [1, 2], True, {1}),
        (state(), [2, 3], True, set()),
        (state(PAIRS, OF_PAIRS), [1], False, {0, 1}),
        (state(PAIRS, OF_PAIRS), None, True, {0, 1}),
        (state(PAIRS, OF_PAIRS), [2, 4], True, set()),
        (state(LONERS), [2], False, {2, 3}),
        (state(LONERS), [0], False, set()),  # and 1, of the same launcher, was not named
        (state(LONERS), None, True, {0, 1, 4, 5}),
        (state(LONERS), [5], True, set()),
    ],
)
def test_whole_commands_are_chosen_of_what_is_to_be_run(
    found: ExperimentState, only: list[int] | None, failed_only: bool, chosen: set[int]
) -> None:
    """What is completed has nothing to be run, and drags no other rank along."""
    selection = select(found, only, failed_only=failed_only)
    assert selection.chosen(found) == chosen
    assert selection.held(found) == set(range(6)) - chosen


def test_what_is_completed_is_chosen_if_it_is_lost() -> None:
    """It runs again; a retry is of what failed."""
    assert Selection(only=frozenset({0})).chosen(state(), lost={0}) == {0}
    assert Selection(only=frozenset({0}), failed_only=True).chosen(state(), lost={0}) == set()


def test_everything_holds_nothing_back() -> None:
    """Not even what is completed, of which a result may be lost later."""
    assert select(state(), None) == EVERYTHING
    assert EVERYTHING.held(state()) == frozenset()


@pytest.mark.parametrize(
    ("only", "says"),
    [
        ([], "names no process at all"),
        ([6], "names processes that are not there: 6; exp_7 has 0 to 5"),
        ([0, -1, 9], "not there: -1, 9;"),
        (["3"], "must be indices of processes, got '3'"),
        ([True], "must be indices of processes, got True"),
        ([1.0], "must be indices of processes, got 1.0"),
        ("3,7", "must be indices of processes, got '3,7'"),
        (3, "must be indices of processes, got 3"),
    ],
)
def test_what_names_no_processes_is_refused(only: Any, says: str) -> None:
    """Nothing is started for a typing error."""
    with pytest.raises(InvalidRequestError) as caught:
        select(state(), only)
    assert says in str(caught.value)
    assert str(caught.value).startswith("only ")


@given(
    statuses=st.lists(st.sampled_from(["completed", "failed", "pending"]), min_size=3, max_size=3),
    status=st.sampled_from(["initialised", "interrupted", "failed", "running"]),
    ranks=st.sampled_from([None, Ranks(count=2), Ranks(count=2, independent=True)]),
    only=st.none() | st.sets(st.integers(0, 5), min_size=1),
    failed_only=st.booleans(),
    lost=st.sets(st.integers(0, 5)),
    policy=st.builds(
        Policy,
        jobs=st.integers(1, 3),
        max_attempts=st.integers(1, 2),
        backoff_s=st.just(0.0),
        fail_fast=st.booleans(),
    ),
    seed=st.integers(0, 99),
)
def test_nothing_else_is_ever_started_and_the_end_tells_what_is_left(
    statuses: list[str],
    status: str,
    ranks: Ranks | None,
    only: set[int] | None,
    failed_only: bool,
    lost: set[int],
    policy: Policy,
    seed: int,
) -> None:
    """From the takeover to the end, over failures and retries of every kind of launcher."""
    # Two of each status: the ranks of a gang, or neighbours.
    found = attrs.evolve(
        state(ranks, tuple(each for each in statuses for _ in range(2))), status=status
    )
    gone = {
        rank: Lost("result", "results/1.1.json", "is missing")
        for index in lost
        for rank in (found.gang(index) if found.has_gangs else [index])
        if found.processes[index].status is ProcessStatus.COMPLETED
    }
    selection = select(found, only, failed_only=failed_only)
    survey = Survey(looks={}, facts={}, said={}, lost=gone)
    limits = Limits(fail_fast=policy.fail_fast)
    taken = plan(found, survey, NOW, limits, Retry(), selection=selection)
    chosen = set(range(6)) - taken.held
    scheduler = Scheduler(taken.state, policy, held=taken.held)
    now, facts, started = taken.state, list[Event](), set[int]()
    outcomes = random.Random(seed)
    while now.status is ExperimentStatus.RUNNING:
        step = apply.apply_many(now, scheduler.plan(now, facts, NOW).events)
        now, facts = step.state, []
        for act in (act for act in step.actions if isinstance(act, Launch)):
            started.add(act.process)
        ended: dict[int, int] = {}
        for index in now.processes.indices(ProcessStatus.RUNNING):
            attempt, launcher = now.processes[index].attempt, now.gang(index).start
            code = outcomes.choice([0, 0, 1])
            code = ended.setdefault(launcher, code) if now.has_gangs else code
            facts.append(ProcessExited(process=index, attempt=attempt, at=NOW, exit_code=code))
    assert started <= chosen
    assert all(found.processes[i].attempt == now.processes[i].attempt for i in taken.held)
    for index, decision in enumerate(taken.decisions):
        assert index not in started or decision.action == "run"
        if found.processes[index].status is not ProcessStatus.COMPLETED and index in taken.held:
            assert decision.action == "hold"
            assert now.processes[index].status is found.processes[index].status
    if now.status is ExperimentStatus.INTERRUPTED:
        assert now.error_message is not None
        assert now.error_message.startswith("held back: ")
        assert not now.processes_failed
        assert set(now.processes.indices(ProcessStatus.PENDING)) <= taken.held
    elif now.status is ExperimentStatus.FAILED:
        assert now.processes_failed
    else:
        assert now.can_aggregate()
