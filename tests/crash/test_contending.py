"""Slots are never held twice and never lost, whoever of those that contend for them is killed."""

import sys
from pathlib import Path

import pytest

from .contending import contend

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.timeout(900),  # what hangs is noticed, and told, before
]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def _proven(where: Path, seconds: float, kills: int, experiments: int) -> None:
    found = contend(
        where,
        seconds=seconds,
        kills=kills,
        experiments=experiments,
        slots=2,
        seed=experiments,
        greedy=experiments > 2,
    )
    print(found)
    assert found.overlaps == 0, found
    assert found.lost == [], found
    assert found.unfinished == [], found
    # Else nothing was tried.
    assert len(found.kills) > 2
    assert found.starts > found.experiments


@pytest.mark.parametrize("experiments", [2, 3])
def test_experiments_on_two_slots_never_meet_on_one(tmp_path, experiments):
    """By the locks of their own processes; of three, the last needs both for each process."""
    _proven(tmp_path, 5.0, 12, experiments)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("experiments", [2, 3])
def test_five_minutes_of_kills_lose_no_slot_and_give_none_twice(tmp_path, experiments):
    """The long form of the same."""
    _proven(tmp_path, 300.0, 50, experiments)
