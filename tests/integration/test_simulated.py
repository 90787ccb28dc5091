"""The real orchestrator, loop and store on an engine where everything happens that may.

What happens follows from a number: `Lives(593, folder).run()` does it again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.status import ExperimentStatus, ProcessStatus
from simulated import EXPERIMENT, Lives
from weather import Weather

pytestmark = pytest.mark.timeout(600)


@contextmanager
def living(seed: int, folder: Path, **options: Any) -> Iterator[Lives]:
    lives = Lives(seed, folder, **options)
    try:
        yield lives
    finally:
        lives.cluster.close()


def live(seed: int, folder: Path) -> None:
    with living(seed, folder) as lives:
        lives.run()
        lives.check()


@pytest.mark.parametrize("tens", range(5))
def test_what_is_recorded_is_what_happened(memory: Path, tens: int) -> None:
    """Delays, losses, lies, failures and crashes: nothing lost, nothing twice, nothing guessed."""
    for seed in range(10 * tens, 10 * tens + 10):
        live(seed, memory / str(seed))


@pytest.mark.long
@pytest.mark.parametrize("fifties", range(1, 20))
def test_a_thousand_times_what_is_recorded_is_what_happened(memory: Path, fifties: int) -> None:
    """The long form of the same."""
    for seed in range(50 * fifties, 50 * fifties + 50):
        live(seed, memory / str(seed))


def test_a_seed_says_everything_that_happens(memory: Path) -> None:
    """Twice the same number, twice the same story, crashes included."""
    stories = []
    for name in ("once", "again"):
        with living(3, memory / name) as lives:
            lives.run()
            steps = lives.manager.history(EXPERIMENT)
            told = [(step.at, step.index, step.event, step.target) for step in steps]
            stories.append((told, lives.cluster.counts, lives.lives))
    assert stories[0] == stories[1]
    assert stories[0][1]["crash"] > 1


def test_unknown_changes_nothing_however_long_it_lasts(memory: Path) -> None:
    """Twenty minutes in which nobody knows: nothing is recorded, asked for, or begun again."""
    weather = Weather(queue_s=1.0, run_s=1e9, locks="unseen")
    with living(1, memory, weather=weather, processes=8, limits={"jobs": 8}) as lives:
        cluster, seen = lives.cluster, list[tuple[int, int]]()

        def away(engine: Any, timeout_s: float) -> None:
            if len(cluster.running) == 8 and not cluster.away_until > 0 and cluster.now > 60:
                cluster.away_until = cluster.now + 1200
            if cluster.away_until > 0:
                seen.append((lives.manager.load(EXPERIMENT).revision, len(cluster.jobs)))
            if 0 < cluster.away_until < cluster.now:
                for run in list(cluster.running.values()):
                    cluster.complete(run)

        lives.while_waiting = away
        state = lives.run()
        assert len(set(seen[:1000])) == 1
        assert len(seen) > 1200
        assert state.status is ExperimentStatus.AGGREGATED
        lives.check()


def test_a_node_that_nobody_can_prove_dead_holds_up_its_own_alone(memory: Path) -> None:
    """Cut off with what runs there: that is left and named, and everything else goes on."""
    weather = Weather(queue_s=0.1, run_s=5.0, locks="unseen")
    with living(2, memory, weather=weather, processes=30, limits={"jobs": 6}) as lives:
        cluster, cut = lives.cluster, []

        def cut_off(engine: Any, timeout_s: float) -> None:
            if not cut and len(cluster.running) >= 5:
                for run in cluster.cut_off(next(iter(cluster.running.values())).node):
                    run.ending = True  # it goes on for as long as the node does
                    cut.append(run.job.name)

        lives.while_waiting = cut_off
        state = lives.once()
        assert cut
        assert state.status is ExperimentStatus.INTERRUPTED
        left = {name.index for name in cut}
        for index, process in state.processes.items():
            expected = ProcessStatus.RUNNING if index in left else ProcessStatus.COMPLETED
            assert process.status is expected, index
        assert {str(name) for name in cut} == set(lives.outcome.blocked)
        assert all("boot" in why for why in lives.outcome.blocked.values())
        lives.run()
        lives.check()


@pytest.mark.long
def test_ten_thousand_processes_end_as_they_should(memory: Path) -> None:
    """A thousand at a time, in fair weather with some of everything."""
    weather = Weather(
        jobs=1000, locks="none", queue_s=0.5, run_s=2.0, poll_s=0.5, stale=0.02, unknown=0.02,
        lag_s=2.0, late_s=2.0, fails=0.02, shims=0.005, limits=0.01, forgotten=0.002, twice=0.01,
        crashes=3000.0,
    )  # fmt: skip
    with living(4, memory, weather=weather, processes=10_000, limits={"jobs": 1000}) as lives:
        lives.run()
        lives.check()
