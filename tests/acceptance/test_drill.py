"""`holdfast drill`: good experiments are told from bad ones, by real kills of real processes."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import holdfast
from drilled import BAD, CHECKPOINTS, GANG, written
from waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a drill needs Linux's /proc")

#: Faults like others that are tried each time.
RARER = ("makes another file", "writes its checkpoint in place")


class Drills:
    """A folder with an experiment, and drills of it."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.rooms = path / "rooms"
        self.rooms.mkdir()
        self.env = {
            **os.environ,
            "PYTHONPATH": str(Path(holdfast.__file__).parents[1]),
            "TMPDIR": str(self.rooms),
            "COLUMNS": "80",
        }
        self.started: list[subprocess.Popen[str]] = []

    def write(self, files: dict[str, str]) -> None:
        written(self.home, files, sys.executable)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        program = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "drill", "e.toml", *words],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(program)
        return program

    def __call__(self, *words: str, code: int = 0) -> str:
        """What a drill prints that ends with that *code*, all of it."""
        out, err = self.start(*words).communicate(timeout=280)
        assert self.started[-1].returncode == code, f"{out}\n{err}"
        assert "Traceback" not in err, err
        return out + err

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        out, err = self.start("--json", *words).communicate(timeout=280)
        assert self.started[-1].returncode == code, f"{out}\n{err}"
        return dict(json.loads(out))

    def alive(self) -> list[str]:
        """The command lines of all that runs in one of their folders."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/cwd").startswith(str(self.rooms)):
                    found.append(Path(f"/proc/{pid}/cmdline").read_text())
            except OSError:
                continue
        return found


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Drills]:
    made = Drills(tmp_path)
    yield made
    for program in made.started:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("files", [CHECKPOINTS, GANG], ids=["checkpoints", "gang"])
def test_an_experiment_that_survives_is_equal(drill: Drills, files: dict[str, str]):
    """Killed attempts are run again, which is told and changes nothing; nothing is left."""
    drill.write(files)
    told_of_ends = drill.home.parent / "ends"
    with (drill.home / "e.toml").open("a") as file:
        file.write(f'\n[hooks]\non_finish = ["touch", "{told_of_ends}"]\n')
    before = sorted(path.name for path in drill.home.iterdir())
    told = drill("--kills=4", "--seed=1")
    assert "equal after 4 kills" in told
    assert not told_of_ends.exists(), "hooks are told of what a drill makes"
    assert "different without kills, not compared: ended" in told
    assert sorted(path.name for path in drill.home.iterdir()) == before
    assert list(drill.rooms.iterdir()) == []
    assert drill.alive() == []


@pytest.mark.parametrize("fault", [fault for fault in BAD if not fault.startswith(RARER)])
def test_what_is_wrong_is_found(drill: Drills, fault: str):
    """Within twenty kills, with the kill that did it and the command that shows it again."""
    drill.write(BAD[fault])
    out, err = drill.start("--seed=1").communicate(timeout=280)
    assert drill.started[-1].returncode == 3, err
    assert "not equal after" in out
    assert "    by kill " in out
    assert "to see it again: " in err
    assert drill.alive() == []


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", BAD)
def test_whatever_the_seed_it_is_found(drill: Drills, fault: str, seed: int):
    """Not by luck."""
    drill.write(BAD[fault])
    assert len(drill.json(f"--seed={seed}", code=3)["kills"]) <= 20


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("files", [CHECKPOINTS, GANG], ids=["checkpoints", "gang"])
def test_whatever_the_seed_there_is_no_false_alarm(drill: Drills, files: dict[str, str], seed: int):
    """Sweeps included."""
    drill.write(files)
    assert "equal after 20 kills" in drill(f"--seed={100 * seed}", "--sweeps")
    assert drill.alive() == []


@pytest.mark.long
def test_the_demo_survives(drill: Drills):
    """The real little experiment that everybody begins with."""
    drill.home.mkdir()
    demo = Path(holdfast.__file__).parent / "demo"
    for name in ("experiment.toml", "measure.py"):
        (drill.home / name).write_bytes((demo / name).read_bytes())
    (drill.home / "experiment.toml").rename(drill.home / "e.toml")
    assert "equal after 20 kills" in drill("--seed=1", "--set=matrix.level=[1]", "--sweeps")


# -- what is said of it ---------------------------------------------------------------------------


@pytest.mark.long
def test_a_kill_that_did_it_is_named_and_shown_again(drill: Drills):
    """The command that is printed finds the same once more, and the copies can be compared."""
    drill.write(BAD["appends again what it has appended"])
    out, err = drill.start("--seed=3").communicate(timeout=280)
    assert "repeated: results.csv has" in out
    compare, again = (
        shlex.split(next(line for line in err.splitlines() if word in line).partition(": ")[2])
        for word in ("to compare", "to see it again")
    )
    found = subprocess.run(compare, capture_output=True, text=True, check=False)
    assert "results.csv" in found.stdout
    assert again[-1] == "e.toml"
    assert "not equal" in drill(*again[again.index("drill") + 1 : -1], code=3)


def test_what_differs_without_kills_is_not_held_against_it(drill: Drills):
    """A time, lines in any order, a draft with a name of its own."""
    drill.write(
        {
            "work.py": """
import json, os, time
index = os.environ["HOLDFAST_INDEX"]
time.sleep(0.02)
open(f"{os.getpid()}.log", "w").write(str(time.time()))
value = {"index": index, "ended": time.time()}
open(os.environ["HOLDFAST_RESULT"], "w").write(json.dumps(value))
""",
            "e.toml": 'command = ["{python}", "-I", "-S", "work.py"]\nprocesses = 2\n',
        }
    )
    told = drill("--kills=1", "--seed=1", "--ignore=*.log", "--keep")
    assert "compared: who completes, index of results\n" in told
    assert "kept, with the logs" in told
    [room] = drill.rooms.iterdir()
    assert (room / "copy" / "home" / ".experiment_state").is_dir()


def test_what_is_alive_without_any_kill_is_told_at_once(drill: Drills):
    """A released process may stay only where that is meant."""
    drill.write(
        {
            "e.toml": 'command = ["sh", "-c", "HOLDFAST_SESSION= setsid sleep 1000 &"]\n',
        }
    )
    assert "left alive: pid" in drill("--kills=1", code=3)
    assert drill.alive() == []
    # It ends in an instant: the seed is one whose first kill is that of the orchestrator.
    assert "equal after 1 kill" in drill("--kills=1", "--seed=0", "--daemons")
    assert drill.alive() == []


# -- what is refused ------------------------------------------------------------------------------


def test_what_would_write_into_the_original_is_refused(drill: Drills):
    """Nothing is run, and nothing copied."""
    drill.write({"e.toml": 'command = ["sh", "-c", "echo > {{out}}"]\nmatrix = {{out = ["x"]}}\n'})
    path = f"{drill.home}/out"
    told = drill(f'--set=matrix.out=["{path}", "/there/is/none"]', code=2)
    assert f"names {path}, which is in the folder itself" in told
    assert "names /there/is/none, which is not there: it would be made" in told
    assert list(drill.rooms.iterdir()) == []


def test_what_does_write_into_the_original_is_told_before_any_kill(drill: Drills):
    """A script may do so whatever its words say."""
    drill.write(
        {
            "work.sh": f"echo >{drill.home}/out\n",
            "e.toml": 'command = ["sh", "work.sh"]\n',
        }
    )
    told = drill(code=2)
    assert f"this changed outside of it:\n  {drill.home}/out" in told
    assert list(drill.rooms.iterdir()) == []


def test_in_place_it_runs_where_it_lies(drill: Drills):
    """It has a state directory of its own; what was there stays."""
    drill.write(
        {
            "work.sh": f"echo 1 >{drill.home}/out; sleep 0.1\n",
            "e.toml": 'command = ["sh", "work.sh"]\n',
        }
    )
    assert "equal after 1 kill" in drill("--kills=1", "--seed=1", "--in-place")
    assert sorted(path.name for path in drill.home.iterdir()) == ["e.toml", "out", "work.sh"]


@pytest.mark.long
def test_in_place_what_it_writes_elsewhere_is_compared(drill: Drills):
    """A log that every attempt appends to, wherever it is."""
    drill.write(BAD["appends again what it has appended"])
    log = drill.home.parent / "elsewhere.csv"
    work = drill.home / "work.py"
    work.write_text(work.read_text().replace('"results.csv"', "sys.argv[1]"))
    toml = drill.home / "e.toml"
    toml.write_text(toml.read_text().replace('"work.py"', f'"work.py", "{log}"'))
    assert f"names {log}, which is not there" in drill(code=2)
    assert f"repeated: {log} has" in drill("--in-place", "--seed=1", code=3)


def test_what_does_not_run_undisturbed_is_not_killed(drill: Drills):
    """It says what the run said, and where that is."""
    drill.write({"e.toml": 'command = ["sh", "-c", "echo no such data >&2; exit 7"]\n'})
    told = drill(code=3)
    assert "it does not run undisturbed: exit code 3" in told
    assert "no such data" in told


def test_values_that_are_to_be_compared_have_to_agree(drill: Drills):
    """Else nothing that a kill does could be told from what happens anyway."""
    drill.write(CHECKPOINTS)
    told = drill("--compare=ended,loss", code=2)
    assert "ended differs without any kill" in told
    assert "no result has loss; there are ended, weight" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_drill_that_is_stopped_leaves_nothing(drill: Drills, number: int):
    """No process, no copy."""
    drill.write({"e.toml": 'command = ["sleep", "1000"]\nlimits = {{grace = 0}}\nprocesses = 2\n'})
    program = drill.start()
    until(lambda: "sleep\x001000\x00" in drill.alive())
    program.send_signal(number)
    _, err = program.communicate(timeout=PATIENCE_S)
    assert "stopped; nothing of it runs any more" in err
    assert abs(program.returncode) in (number, 128 + number)
    assert drill.alive() == []
    assert list(drill.rooms.iterdir()) == []


def test_a_drill_that_is_killed_leaves_no_process(drill: Drills):
    """It cannot end its run any more: that ends by itself, and with it all that it started."""
    drill.write({"e.toml": 'command = ["sleep", "1000"]\nlimits = {{grace = 0}}\nprocesses = 2\n'})
    program = drill.start()
    until(lambda: "sleep\x001000\x00" in drill.alive())
    program.kill()
    program.communicate(timeout=PATIENCE_S)
    until(lambda: drill.alive() == [])
