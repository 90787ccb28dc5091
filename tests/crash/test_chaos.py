"""Every part of running experiments is killed, stopped and swept: nothing strays or is lost."""

import sys

import pytest

from . import campaigns
from .campaigns import LONG, SHORT, Figures

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.timeout(900),  # what hangs is noticed, and told, before
]


def _whole_in_the_end(figures: Figures) -> None:
    print(figures)
    assert not figures.losses, f"{figures}\n" + "\n".join(figures.problems[:3])
    # Else nothing was tried: some had to be started again.
    assert figures.numbers["starts"] > figures.numbers["processes"]


def test_whatever_is_killed_or_stopped_nothing_overlaps_repeats_or_is_left() -> None:
    """Of all parts, in all kinds of experiments, by the log of their own processes."""
    _whole_in_the_end(campaigns.havoc(SHORT))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_thousand_kills_of_all_parts_of_fifty_experiments_leave_them_whole() -> None:
    """The long form of the same."""
    figures = campaigns.havoc(LONG)
    _whole_in_the_end(figures)
    assert figures.numbers["events"] >= 1_000
