"""`kill -9` of the orchestrator at random instants: nothing is lost, nothing runs twice.

Every process appends a line to a log when it starts and when it ends. The orchestrator is a program
of its own, killed at a random instant, then the experiment is resumed. In the log, every process
must have ended exactly once, and no two of its attempts may overlap.

The instants come from a seed (`KILL_SEED` in the environment chooses another), and are named by the
test's id, so that each can be run again. `-m long` tries 50 of them.
"""

import json
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.attempts.names import AttemptName
from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager
from killing import PROCESSES, Lab
from waiting import PATIENCE_S, until

SEED = int(os.environ.get("KILL_SEED", "1"))

#: About how long the run takes undisturbed, once the orchestrator's modules are loaded.
WHOLE_RUN_S = 0.75

#: How often a process may be lost in one run before it is failed.
FREE_LOSSES = 3


@pytest.fixture
def lab(tmp_path: Path, state_dir: Path) -> Iterator[Lab]:
    yield Lab(tmp_path, state_dir)
    (tmp_path / "go").touch()  # what a failed test left waiting ends, too
    (tmp_path / "stay").unlink(missing_ok=True)


#: In the worker, behind the line that says that it started.
WAIT = """
while os.path.exists("stay") and int(os.environ["HOLDFAST_INDEX"]) > 1:
    time.sleep(0.005)
"""


def stay(lab: Lab) -> Path:
    """A file; as long as it is there, only the first two processes end, and the run does not."""
    worker = lab.folder / "worker.py"
    started, _, rest = worker.read_text().partition("# Lengths that differ")
    assert rest
    worker.write_text(f"{started}{WAIT}# Lengths that differ{rest}")
    path = lab.folder / "stay"
    path.touch()
    return path


def instants(number: int) -> list[float]:
    rng = random.Random(SEED)
    return [round(rng.uniform(0, WHOLE_RUN_S), 4) for _ in range(number)]


def _killed_once(lab: Lab, instant: float, wait: Callable[[float], bool]) -> None:
    killed = lab.kill_after(instant)
    if killed and wait(instant):
        until(lambda: not lab.running())
    before = set(lab.ended())
    outcome = lab.finish()
    lab.check()
    assert before <= set(lab.ended())
    if killed and before:
        assert outcome["adopted"] + outcome["skipped"] >= len(before)


def _every_other(instant: float) -> bool:
    return int(instant * 10_000) % 2 == 0


@pytest.mark.parametrize("instant", instants(8))
def test_killed_at_any_instant_every_process_ends_exactly_once(lab: Lab, instant: float) -> None:
    """Resumed at once or after the orphans ended: none lost, none twice, none at a time."""
    _killed_once(lab, instant, _every_other)


@pytest.mark.long
@pytest.mark.parametrize("instant", instants(50))
def test_killed_at_fifty_instants_every_process_ends_exactly_once(lab: Lab, instant: float) -> None:
    """The long form of the same."""
    _killed_once(lab, instant, _every_other)


def test_killed_again_and_again_it_still_comes_to_its_end(lab: Lab) -> None:
    """Every resume is killed, too; the work goes on across all of them."""
    rng = random.Random(SEED)
    for _ in range(6):
        if not lab.kill_after(rng.uniform(0.05, 0.4)):
            break
    lab.finish()
    lab.check()


def test_a_whole_process_group_killed_leaves_its_processes_running(lab: Lab) -> None:
    """A closed terminal or a scheduler's cleanup takes the group; attempts are in none of it."""
    lab.kill_after(0.5, group=True)
    lab.finish()
    lab.check()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_is_the_orchestrators_to_handle(
    lab: Lab, number: signal.Signals, code: int
) -> None:
    """A terminal sends Ctrl-C to every process of the group; attempts are not in it."""
    staying = stay(lab)
    program = lab.start(session=True)
    until(lambda: len(lab.log()) >= 3)
    os.killpg(program.pid, number)
    program.communicate(timeout=PATIENCE_S)
    staying.unlink()
    assert program.returncode == code
    assert lab.running() == []
    state = StateManager(lab.state_dir).load("exp_k")
    assert state.status is ExperimentStatus.INTERRUPTED
    assert state.processes_running == state.processes_failed == 0
    lab.finish()
    # One that was stopped between its last line and its exit is not proven, and ends once more.
    assert {index for index, _ in lab.ended()} == set(range(PROCESSES))


def test_what_finished_while_nobody_watched_is_not_run_again(lab: Lab) -> None:
    """Outcomes published after the orchestrator died are adopted on resume."""
    staying = stay(lab)
    program = lab.start()
    until(lambda: len(lab.log()) >= 3)
    program.kill()
    program.communicate()
    staying.unlink()
    until(lambda: not lab.running())
    before = set(lab.ended())
    assert before
    outcome = lab.finish()
    lab.check()
    assert outcome["adopted"] >= 1
    # Not equal: a shim that was forked just before the kill may begin after the look.
    assert outcome["adopted"] + outcome["skipped"] >= len(before)


COMBINE = """
import glob, os, time
results = glob.glob(os.path.join(os.environ["HOLDFAST_RESULTS"], "*.json"))
log = os.open("combined", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
os.write(log, b"start\\n")
while not os.path.exists("go"):
    time.sleep(0.005)
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    file.write(str(len(results)))
os.write(log, b"end\\n")
"""


@pytest.mark.parametrize("watched", [True, False])
def test_an_aggregation_that_outlives_its_orchestrator_is_adopted(lab: Lab, watched: bool) -> None:
    """Running or finished: the user's command is an attempt like any other, and not run twice."""
    (lab.folder / "combine.py").write_text(COMBINE)
    combined = lab.folder / "combined"
    program = lab.start(combine="combine.py")
    until(combined.exists)
    program.kill()
    program.communicate()
    if watched:
        program = lab.start(combine="combine.py")
        until(lambda: StateManager(lab.state_dir).load("exp_k").epoch >= 2)
    (lab.folder / "go").touch()
    if not watched:
        until(lambda: not lab.running())
        program = lab.start(combine="combine.py")
    program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0
    assert combined.read_text() == "start\nend\n"
    lab.check()
    aggregate = json.loads((lab.state_dir / "exp_k" / "aggregate.json").read_text())
    assert aggregate["value"] == PROCESSES


def _chaos(lab: Lab, seed: int) -> None:
    """Kill shims and orchestrators at random until the experiment is done."""
    rng = random.Random(seed)
    struck: Counter[int] = Counter()

    def strike(name: AttemptName) -> bool:
        # A process that is lost a fourth time in one run is failed, and would be rightly.
        if struck[name.index] == FREE_LOSSES or rng.random() < 0.5:
            return False
        struck[name.index] += 1
        return True

    kills, program = 0, lab.start()
    while True:
        try:
            program.communicate(timeout=rng.uniform(0.0, 0.15))
            break
        except subprocess.TimeoutExpired:
            if rng.random() < 0.5:
                lab.kill_shims(strike)
            elif kills < 4 and rng.random() < 0.6:
                kills += 1
                program.kill()
                program.communicate()
                program = lab.start()
    assert program.returncode == 0
    assert StateManager(lab.state_dir).load("exp_k").status is ExperimentStatus.AGGREGATED
    assert {index for index, _ in lab.ended()} == set(range(PROCESSES))
    assert [entry for entry in lab.log() if entry[0] == "overlap"] == []


@pytest.mark.parametrize("seed", range(2))
def test_shims_that_are_killed_as_well_leave_nothing_that_overlaps(lab: Lab, seed: int) -> None:
    """What a dead shim left is stopped before its process is tried again."""
    _chaos(lab, SEED * 1_000 + seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 30))
def test_shims_that_are_killed_leave_nothing_that_overlaps_long(lab: Lab, seed: int) -> None:
    """The long form of the same."""
    _chaos(lab, SEED * 1_000 + seed)
