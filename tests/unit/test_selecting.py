"""Which processes a part of an experiment is."""

from typing import Any

import pytest

from holdfast.errors import InvalidRequestError
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, Ranks
from holdfast.orchestration.selecting import EVERYTHING, Selection, select
from holdfast.status import ProcessStatus

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
