"""When equal processes are done on so many slots, and what an estimate makes of it."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.attempts.progress import Progress
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading.progress import Estimate, Standing, remaining_s
from holdfast.reading.schedule import done_in_s
from holdfast.status import ProcessStatus

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def simulated_s(free: list[float], count: int, each_s: float) -> float:
    """One process after the other, each on the slot that is free first."""
    slots = list(free)
    for _ in range(count):
        slots[slots.index(min(slots))] += each_s
    return max(slots)


SECONDS = st.floats(0, 1e4, allow_nan=False)


@given(st.lists(SECONDS, min_size=1, max_size=12), st.integers(0, 200), st.floats(0.001, 1e4))
@example([0.0, 0.0], 3, 8.0)
@example([1000.0, 0.0], 10, 1.0)
@example([0.1, 0.2, 0.3], 30, 0.1)
def test_it_is_what_a_list_schedule_takes(free: list[float], count: int, each_s: float) -> None:
    """Whatever is left on each slot, and however many wait."""
    wanted = simulated_s(free, count, each_s)
    found = done_in_s(free, count, each_s)
    # A slot that is free as early as another but for rounding may be taken for the first.
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.integers(0, 200), st.integers(0, 99)
)
def test_in_whole_seconds_it_is_exact(free: list[int], count: int, each_s: int) -> None:
    """Ties among slots change nothing."""
    assert done_in_s(free, count, each_s) == simulated_s(free, count, each_s)


def test_ten_million_that_wait_cost_no_more_than_ten() -> None:
    """Else this would take seconds, in every frame."""
    free = [3.0, 0.0, 1.0]
    assert done_in_s(free, 9_999_999, 2.0) == simulated_s(free, 9, 2.0) + 3_333_330 * 2.0


def at(seconds: float, ends: list[tuple[float, float]]) -> ExperimentState:
    """Processes that begin and end then, as they stand *seconds* after the first began."""
    table = {}
    for index, (began_s, ended_s) in enumerate(ends):
        began, ended = (BEGAN + timedelta(seconds=each) for each in (began_s, ended_s))
        if began_s > seconds:
            table[index] = ProcessProgress()
        elif ended_s > seconds:
            running = ProcessStatus.RUNNING
            table[index] = ProcessProgress(status=running, attempt=1, started_at=began)
        else:
            table[index] = ProcessProgress(
                status=ProcessStatus.COMPLETED, attempt=1, started_at=began, completed_at=ended
            )
    return ExperimentState(experiment_id="x", num_processes=len(ends), process_progress=table)


def waves(
    number: int, jobs: int, each_s: float, between_s: float = 0.0
) -> list[tuple[float, float]]:
    """Begin and end of *number* equal processes, *jobs* at a time."""
    begins = [index // jobs * (each_s + between_s) for index in range(number)]
    return [(began_s, began_s + each_s) for began_s in begins]


def left_s(seconds: float, ends: list[tuple[float, float]]) -> float | None:
    """What is told then, where all that runs reports when it will be done."""
    now, state = BEGAN + timedelta(seconds=seconds), at(seconds, ends)
    said = Progress(step=1, total=2, at=now)
    standing = {
        index: Standing(progress=said, age_s=0, remaining_s=ends[index][1] - seconds, stalled=False)
        for index in state.processes.indices(ProcessStatus.RUNNING)
    }
    return remaining_s(state, now, standing)


@pytest.mark.parametrize(
    ("number", "each_s", "seconds", "wanted"), [(3, 8.0, 1.8, 16.0 - 1.8), (5, 20.0, 3.0, 57.0)]
)
def test_a_process_is_not_shared_by_two_slots(
    number: int, each_s: float, seconds: float, wanted: float
) -> None:
    """Three of 8 s take two 16 s, and five of 20 s a minute."""
    assert left_s(seconds, waves(number, 2, each_s)) == pytest.approx(wanted)


@pytest.mark.parametrize("number", [3, 5, 8])
def test_what_is_left_never_rises_while_all_take_the_same(number: int) -> None:
    """Not at the end of a wave either, nor while one slot of it is taken again before the other."""
    ends = [
        (began_s + 0.2 * (index % 2), ended_s + 0.2 * (index % 2))
        for index, (began_s, ended_s) in enumerate(waves(number, 2, 8.0, between_s=0.1))
    ]
    last_s = max(ended_s for _, ended_s in ends)
    estimate, told = Estimate(), []
    known: set[int] = set()
    for tenth in range(5, int(last_s * 10)):
        seconds = tenth / 10 + 0.05
        state = at(seconds, ends)
        over = set(state.processes.indices(ProcessStatus.COMPLETED))
        for index in over - known:
            estimate.ended(state.processes[index])
        known = over
        if over:
            watched_s = estimate.left_s(state, BEGAN + timedelta(seconds=seconds))
            assert watched_s is not None
            told.append((watched_s, left_s(seconds, ends)))
    for before, after in itertools.pairwise(told):
        for earlier_s, later_s in zip(before, after, strict=True):
            assert earlier_s is not None
            assert later_s is not None
            assert later_s <= earlier_s + 1e-6
