"""What batch systems do at a time limit: unfinished work is neither completed nor failed."""

import sys

import pytest

from . import campaigns
from .campaigns import LONG, SHORT, Figures

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.timeout(900),  # what hangs is noticed, and told, before
]


def _no_false_word(figures: Figures) -> None:
    print(figures)
    assert not figures.losses, f"{figures}\n" + "\n".join(figures.problems[:3])
    # Else nothing was tried: many have outlived their child, or have caught the signal.
    assert figures.numbers["went_on"] > figures.numbers["sweeps"] // 2
    assert figures.numbers["saved"] > figures.numbers["sweeps"] // 2


def test_a_sweep_of_signals_makes_no_false_word_of_any_end() -> None:
    """In any order, with the orchestrator or without: interrupted, not charged, gone on with."""
    figures = campaigns.swept(SHORT)
    _no_false_word(figures)
    assert figures.numbers["sweeps"] == 6 * SHORT.sweeps


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_thousand_sweeps_in_each_order_make_no_false_word() -> None:
    """The long form of the same."""
    figures = campaigns.swept(LONG)
    _no_false_word(figures)
    assert figures.numbers["sweeps"] == 6 * LONG.sweeps
    assert figures.numbers["slow"] < LONG.sweeps // 10


def test_a_sweep_of_a_job_on_a_node_makes_no_false_word_of_any_end() -> None:
    """A scheduler signals the node too, and first or last: it ends after all its commands."""
    figures = campaigns.swept_by_batch(SHORT)
    _no_false_word(figures)
    assert figures.numbers["sweeps"] == 3 * SHORT.batch_jobs


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_thousand_sweeps_of_jobs_in_each_order_make_no_false_word() -> None:
    """The long form of the same."""
    figures = campaigns.swept_by_batch(LONG)
    _no_false_word(figures)
    assert figures.numbers["slow"] < LONG.batch_jobs // 10
