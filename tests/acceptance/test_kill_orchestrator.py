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
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

import holdfast
from holdfast import attempts
from holdfast.attempts import AttemptName
from holdfast.manager import StateManager
from holdfast.status import ExperimentStatus
from waiting import until

PROCESSES = 20
JOBS = 4
SEED = int(os.environ.get("KILL_SEED", "1"))

#: About how long the run takes undisturbed, once the orchestrator's modules are loaded.
WHOLE_RUN_S = 0.75

WORKER = """
import os, sys, time
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
who = f"{os.environ['HOLDFAST_INDEX']} {os.environ['HOLDFAST_ATTEMPT']}"
os.write(log, f"start {who} {time.monotonic_ns()}\\n".encode())
# Lengths that differ, so that ends and starts fall at all kinds of instants.
time.sleep(0.02 + 0.008 * (int(os.environ["HOLDFAST_INDEX"]) * 7 % 20))
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    file.write('{"value": %d}' % int(os.environ["HOLDFAST_INDEX"]))
os.write(log, f"end {who} {time.monotonic_ns()}\\n".encode())
"""

ORCHESTRATOR = """
import json, sys
from pathlib import Path
from holdfast.engines.local import LocalEngine
from holdfast.manager import StateManager
from holdfast.orchestrator import Orchestrator
state_dir, config, jobs = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
print("up", flush=True)
outcome = Orchestrator(StateManager(state_dir), LocalEngine()).run(
    config, experiment_id="exp_k", jobs=jobs
)
print(json.dumps({"adopted": outcome.adopted, "skipped": outcome.skipped}), flush=True)
sys.exit(outcome.exit_code)
"""


@attrs.frozen
class Lab:
    """One experiment of twenty short processes, and the program that runs it."""

    folder: Path
    state_dir: Path

    def start(self, *, session: bool = False, combine: str = "") -> "subprocess.Popen[str]":
        config = {
            "command": [sys.executable, "-I", "-S", "worker.py"],
            "processes": PROCESSES,
            "limits": {"grace": 5},
            "aggregate": {"command": [sys.executable, "-I", combine]} if combine else {},
        }
        paths = [str(Path(holdfast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [
                *(sys.executable, "-c", ORCHESTRATOR),
                *(str(self.state_dir), json.dumps(config), str(JOBS)),
            ],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=session,
        )

    def kill_after(self, delay_s: float, *, group: bool = False) -> bool:
        """Run it and kill it that long after it came up; False if it was done before."""
        program = self.start(session=group)
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        try:
            return program.wait(delay_s) != 0
        except subprocess.TimeoutExpired:
            if group:
                os.killpg(program.pid, signal.SIGKILL)
            else:
                program.kill()
            return program.wait() == -signal.SIGKILL
        finally:
            program.stdout.close()

    def finish(self) -> dict[str, int]:
        program = self.start()
        output, _ = program.communicate(timeout=60)
        assert program.returncode == 0, output
        return dict(json.loads(output.splitlines()[-1]))

    def running(self) -> list[AttemptName]:
        """Attempts whose shim lives."""
        folder = self.state_dir / "exp_k"
        return [
            name
            for name in attempts.names(folder, "exp_k")
            if attempts.live_state(folder, name).kind == "held"
        ]

    def ended(self) -> list[tuple[int, int]]:
        return [(index, attempt) for what, index, attempt, _ in self.log() if what == "end"]

    def log(self) -> list[tuple[str, int, int, int]]:
        try:
            lines = (self.folder / "log").read_text().splitlines()
        except FileNotFoundError:
            return []
        words = [line.split() for line in lines]
        return [(what, int(index), int(attempt), int(at)) for what, index, attempt, at in words]

    def check(self) -> None:
        """Every process ended exactly once, and no two attempts of one overlapped."""
        state = StateManager(self.state_dir).load("exp_k")
        assert state.status is ExperimentStatus.AGGREGATED
        ends = sorted(index for index, _ in self.ended())
        assert ends == list(range(PROCESSES))
        inside: dict[int, int] = {}
        for what, index, attempt, _ in sorted(self.log(), key=lambda entry: entry[3]):
            if what == "start":
                assert index not in inside, f"attempts {inside[index]} and {attempt} of {index}"
                inside[index] = attempt
            else:
                assert inside.pop(index) == attempt
        assert inside == {}
        for index, attempt in self.ended():
            assert state.processes[index].attempt == attempt, f"{index} ran in a lost attempt"


@pytest.fixture
def lab(tmp_path: Path, state_dir: Path) -> Lab:
    (tmp_path / "worker.py").write_text(WORKER)
    return Lab(tmp_path, state_dir)


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


def test_what_finished_while_nobody_watched_is_not_run_again(lab: Lab) -> None:
    """Outcomes published after the orchestrator died are adopted on resume."""
    program = lab.start()
    until(lambda: len(lab.log()) >= 3)
    program.kill()
    program.communicate()
    until(lambda: not lab.running())
    before = set(lab.ended())
    assert before
    outcome = lab.finish()
    lab.check()
    assert outcome["adopted"] >= 1
    assert outcome["adopted"] + outcome["skipped"] == len(before)


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
    program.communicate(timeout=60)
    assert program.returncode == 0
    assert combined.read_text() == "start\nend\n"
    lab.check()
    aggregate = json.loads((lab.state_dir / "exp_k" / "aggregate.json").read_text())
    assert aggregate["value"] == PROCESSES
