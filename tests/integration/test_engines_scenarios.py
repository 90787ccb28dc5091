"""What may happen to a run, on every engine: the same faults, and the same states in the end.

By the command line, with real processes, which count themselves. Engines with servers of their own
carry a marker; whoever lacks one is told in one line what to install.
"""

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from scenarios import PROCESSES, Kind, Site, sweep
from waiting import until

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
]

COMPLETED, FAILED = ProcessStatus.COMPLETED, ProcessStatus.FAILED

KINDS = [
    pytest.param(Kind("local", "holdfast.engines.local.engine:LocalEngine"), id="local"),
    pytest.param(
        Kind(
            "slurm",
            "holdfast.engines.slurm.engine:SlurmEngine",
            table='name = "slurm"\ncpus = 1\ngrace = "2s"',
            servers="slurm",
        ),
        id="slurm",
        marks=pytest.mark.slurm,
    ),
    pytest.param(
        Kind(
            "dask",
            "holdfast.engines.dask.engine:DaskEngine",
            table='name = "dask"\ngrace = "2s"',
            servers="dask",
        ),
        id="dask",
        marks=pytest.mark.dask,
    ),
    # It needs nothing, but waits for long, as those with servers do.
    pytest.param(
        Kind("executor", "holdfast.engines.executor:ExecutorEngine"),
        id="executor",
        marks=pytest.mark.dask,
    ),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """An engine whose servers are up."""
    found: Kind = request.param
    if found.servers is not None:
        request.getfixturevalue(found.servers)
    return found


@pytest.fixture
def site(kind: Kind, tmp_path: Path) -> Iterator[Site]:
    made = Site(kind, tmp_path)
    yield made
    made.end()


# -- how processes end ----------------------------------------------------------------------------


def test_eight_processes_of_which_one_fails_and_one_is_killed(site: Site) -> None:
    """The states are the same on every engine, and so is the exit code."""
    (site.path / "bad").touch()
    site.run(code=3)
    assert site.each() == [COMPLETED, FAILED, FAILED, *[COMPLETED] * 5]
    assert site.each("exit_code") == [0, 7, None, *[0] * 5]
    assert site.each("signal") == [None, None, signal.SIGKILL, *[None] * 5]
    reasons = site.each("reason")
    assert reasons[1:3] == [Reason.EXIT, Reason.SIGNAL]
    assert site.each("attempt") == [1] * PROCESSES
    assert site.runs() == dict.fromkeys(range(PROCESSES), 1)
    assert site.state().status is ExperimentStatus.FAILED
    site.is_consistent()
    (site.path / "bad").unlink()
    site("retry", site.id)
    site.is_done_once(runs={1: 2, 2: 2})


# -- the orchestrator dies ------------------------------------------------------------------------


def test_killed_in_the_midst_of_it_all_are_adopted(site: Site) -> None:
    """What runs goes on, and the next orchestrator takes it over."""
    site.hold()
    program = site.start_run()
    site.began()
    program.kill()
    program.communicate()
    assert site.state().processes_running == PROCESSES
    site.let_go()
    site.resume()
    site.is_done_once()


def test_killed_and_resumed_when_all_is_over_nothing_runs_again(site: Site) -> None:
    """What ended while nobody watched is taken from its records."""
    site.hold()
    program = site.start_run()
    site.began()
    program.kill()
    program.communicate()
    site.let_go()
    until(lambda: len(site.said("end")) == PROCESSES and not site.shims(), 180)
    site.resume()
    site.is_done_once()


@pytest.mark.parametrize("when", ["before submit", "submitted", "polling"])
def test_killed_around_a_submission_nothing_is_lost_or_doubled(site: Site, when: str) -> None:
    """Between intent and submission, between submission and record, and while it asks."""
    site.hold()  # else all may have ended before it asks often enough
    site.run(code=-signal.SIGKILL, when=when)
    site.let_go()
    assert site.state().status is ExperimentStatus.RUNNING
    site.resume()
    site.is_done_once()


def killed_at_random(site: Site, times: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(times):
        program = site.start("run", "e.toml", env={"LASTS": "0.4"})
        try:
            program.wait(chance.uniform(0.1, 1.5))
        except Exception:
            program.kill()
        program.communicate()
    site("run", "e.toml")
    site.is_done_once()


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_nothing_is_lost_or_doubled(site: Site, seed: int) -> None:
    """At random instants, of which the seed tells."""
    killed_at_random(site, 4, seed)


# -- somebody stops some of it --------------------------------------------------------------------


def test_one_is_stopped_and_the_others_go_on(site: Site) -> None:
    """It waits for the next resume, in which it alone runs."""
    site.hold()
    program = site.start_run()
    site.began()
    site("stop", site.id, "--only", "3")
    site.let_go()
    program.communicate(timeout=180)
    assert site.each() == [ProcessStatus.PENDING if i == 3 else COMPLETED for i in range(PROCESSES)]
    site.resume()
    site.is_done_once(runs={3: 2})


def test_all_is_stopped_from_outside(site: Site) -> None:
    """Nothing runs any more, nothing is charged, and resume runs it all."""
    site.hold()
    program = site.start_run()
    site.began()
    site("stop", site.id)
    program.communicate(timeout=180)
    until(lambda: not site.shims())
    state = site.state()
    assert (state.status, state.processes_running) == (ExperimentStatus.INTERRUPTED, 0)
    assert site.each("failures") == [0] * PROCESSES
    site.let_go()
    site.resume()
    site.is_done_once(runs=dict.fromkeys(range(PROCESSES), 2))


# -- something of it dies -------------------------------------------------------------------------


def test_a_killed_shim_costs_its_own_attempt_alone(site: Site) -> None:
    """It is lost, run again, and charged to nobody."""
    site.hold()
    program = site.start_run()
    site.began()
    os.kill(site.shim(4), signal.SIGKILL)
    site.began(PROCESSES + 1)
    site.let_go()
    program.communicate(timeout=300)
    assert program.returncode == 0
    site.is_done_once(runs={4: 2})
    assert (site.each("failures"), site.each("interruptions")[4]) == ([0] * PROCESSES, 1)


def test_a_sweep_of_everything_completes_and_fails_nothing(site: Site) -> None:
    """TERM to every process at once, shims and commands, as a host that goes down sends it."""
    site.hold()
    program = site.start_run()
    site.began()
    sweep([*(site.pid(index) for index in range(PROCESSES)), *site.shims()], signal.SIGTERM)
    site.began(2 * PROCESSES)
    site.let_go()
    program.communicate(timeout=300)
    assert program.returncode == 0
    site.is_done_once(runs=dict.fromkeys(range(PROCESSES), 2))
    assert site.each("failures") == [0] * PROCESSES
