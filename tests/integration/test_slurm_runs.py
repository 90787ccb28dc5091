"""Whole experiments on a real Slurm cluster, by the command line: ranks over nodes, kills, limits.

    python -m pytest -m slurm

Needs Debian's slurmctld, slurmd, slurm-client and munge; each test process starts its own cluster.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager
from launched import alive, each, launching, nothing_is_left, state_of
from shell import Shell
from slurm_mini import Cluster
from waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

#: What a rank does: says where it runs, works, and holds until it is let go.
RANK = """
import fcntl, os, signal, sys, time
import holdfast
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
with holdfast.process() as process:
    if process.completed:
        sys.exit(0)
    alone = open(f"alone.{process.index}", "w")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(log, f"{process.index} {process.attempt} {os.getpid()} overlap\\n".encode())
    if os.path.exists("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    said = f"{process.index} {process.attempt} {os.getpid()} {os.environ['SLURMD_NODENAME']}\\n"
    os.write(log, said.encode())
    total = 0
    for step in process.track(range(40)):
        total += step * process.index
        if process.attempt == 1 and step == 10:
            while os.path.exists("hold"):
                time.sleep(0.05)
                if process.index == 3 and os.path.exists("bad"):
                    os.remove("bad")
                    raise ValueError("boom")
    process.result({"total": total, "world": process.world_size})
"""

RANKS = """
name = "ranks"
command = ["srun", "python", "rank.py"]
ranks = {ranks}
[engine]
name = "slurm"
nodes = 2
cpus = 1
extra = ["--ntasks-per-node=2"]
[limits]
grace = "5s"
[retry]
max_attempts = 2
backoff = "0s"
"""


@pytest.fixture
def sh(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell on a login node of the cluster."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with launching(tmp_path) as shell:
        (tmp_path / "rank.py").write_text(RANK)
        yield shell


def write(sh: Shell, text: str, **values: Any) -> None:
    (sh.path / "e.toml").write_text(text.format_map(values) if values else text)


def ranks(sh: Shell) -> list[tuple[int, int, int, str]]:
    """Index, attempt, pid and node of each that has begun."""
    path = sh.path / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    words = [line.split() for line in lines]
    return sorted((int(i), int(n), int(pid), node) for i, n, pid, node in words)


@pytest.mark.parametrize("kind", ["4", "{count = 4, independent = true}"], ids=["gang", "alone"])
def test_ranks_run_on_two_nodes(sh: Shell, kind: str) -> None:
    """`srun` starts two on each; every one is a process with a result of its own."""
    write(sh, RANKS, ranks=kind)
    sh("run", "e.toml")
    assert [(index, node) for index, _, _, node in ranks(sh)] == [
        (0, "n1"), (1, "n1"), (2, "n2"), (3, "n2"),
    ]  # fmt: skip
    state = state_of(sh)
    assert state.status is ExperimentStatus.AGGREGATED
    assert None not in each(state, "result")
    nothing_is_left(sh)


@pytest.mark.parametrize(
    ("kind", "again"), [("4", {0, 1, 2, 3}), ('{count = 4, independent = true}', {3})],
    ids=["gang", "alone"],
)  # fmt: skip
def test_a_rank_that_fails_on_another_node(sh: Shell, kind: str, again: set[int]) -> None:
    """A gang runs again as a whole; of independent ranks, the one that failed."""
    write(sh, RANKS, ranks=kind)
    for name in ("hold", "bad"):
        (sh.path / name).touch()
    program = sh.start("run", "e.toml")
    until(lambda: not (sh.path / "bad").exists(), 180)
    (sh.path / "hold").unlink()
    out, err = program.communicate(timeout=400)
    assert program.returncode == 0, f"{out}\n{err}"
    second = {index for index, number, _, _ in ranks(sh) if number == 2}
    assert second == again
    assert state_of(sh).status is ExperimentStatus.AGGREGATED
    nothing_is_left(sh)


def test_ranks_on_two_nodes_are_stopped_and_resumed(sh: Shell) -> None:
    """Nothing of the first attempt is alive on any node when the second one starts."""
    write(sh, RANKS, ranks="4")
    (sh.path / "hold").touch()
    program = sh.start("run", "e.toml")
    until(lambda: len(ranks(sh)) == 4, 180)
    sh("stop", "@last")
    program.communicate(timeout=180)
    assert alive(sh.path) == []
    (sh.path / "hold").unlink()
    sh("resume", "@last")
    assert Counter(number for _, number, _, _ in ranks(sh)) == {1: 4, 2: 4}
    assert state_of(sh).status is ExperimentStatus.AGGREGATED
    nothing_is_left(sh)


def test_ranks_that_outlive_their_srun_are_over_before_they_run_again(sh: Shell) -> None:
    """They are nobody's children on the node of the shim, and end with the job, by KillWait."""
    write(sh, RANKS, ranks="4")
    for name in ("hold", "deaf"):
        (sh.path / name).touch()
    program = sh.start("run", "e.toml")
    until(lambda: len(ranks(sh)) == 4, 180)
    (sh.path / "deaf").unlink()
    # With the one that would have ended its ranks for it: as a shim does whose grace is over.
    sruns = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "srun"]
    ours = [one for one in sruns if one.cwd() == str(sh.path)]
    assert ours
    for one in reversed(ours):
        one.kill()
    out, err = program.communicate(timeout=400)
    assert program.returncode == 0, f"{out}\n{err}"
    assert Counter((number, node) for _, number, _, node in ranks(sh)) == {
        (1, "n1"): 2, (1, "n2"): 2, (2, "n1"): 2, (2, "n2"): 2,
    }  # fmt: skip
    assert state_of(sh).status is ExperimentStatus.AGGREGATED
    nothing_is_left(sh)


SWEEP = """
name = "sweep"
processes = {count}
command = ["sh", "-c", "echo $HOLDFAST_INDEX >> ran; sleep 1.$((HOLDFAST_INDEX % 9))"]
[engine]
name = "slurm"
"""


def test_killed_again_and_again_loses_nothing_and_repeats_nothing(sh: Shell) -> None:
    """The orchestrator is killed at ten random instants; each process runs once."""
    count, seed = 60, random.randrange(1 << 30)
    print(f"seed {seed}")
    instants = random.Random(seed)
    write(sh, SWEEP, count=count)
    program = sh.start("run", "e.toml")
    for _ in range(10):
        try:
            program.communicate(timeout=instants.uniform(0.3, 2.5))
        except subprocess.TimeoutExpired:
            program.kill()
            program.communicate()
        made = list(sh.states.glob("*.json")) if sh.states.exists() else []
        program = sh.start(*(("resume", "@last") if made else ("run", "e.toml")))
    out, err = program.communicate(timeout=400)
    assert program.returncode == 0, f"{out}\n{err}"
    ran = Counter((sh.path / "ran").read_text().split())
    assert ran == {str(index): 1 for index in range(count)}
    assert state_of(sh).status is ExperimentStatus.AGGREGATED


def test_submit_and_leave(sh: Shell, slurm: Cluster) -> None:
    """Jobs run without anybody; `resume` collects what they did."""
    write(sh, SWEEP, count=12)
    out, err = sh("run", "e.toml", "--detach")
    assert "12" in f"{out}{err}"
    ran = sh.path / "ran"
    until(lambda: ran.exists() and len(ran.read_text().split()) == 12, 180)
    until(lambda: slurm.run("squeue", "-h").strip() == "", 180)
    sh("resume", "@last")
    assert Counter(ran.read_text().split()) == {str(index): 1 for index in range(12)}
    assert state_of(sh).status is ExperimentStatus.AGGREGATED


def test_a_signal_leaves_the_jobs_alone(sh: Shell, slurm: Cluster) -> None:
    """Ctrl-C on a login node: jobs that run and wait go on, and `stop` ends them."""
    write(sh, SWEEP.replace("sleep 1.", "sleep 600."), count=4)
    program = sh.start("run", "e.toml")
    ran = sh.path / "ran"
    until(lambda: ran.exists() and len(ran.read_text().split()) == 4, 180)
    program.terminate()
    out, err = program.communicate(timeout=180)
    assert program.returncode == 143, f"{out}\n{err}"
    assert "stop" in f"{out}{err}"
    state = state_of(sh)
    assert state.status is ExperimentStatus.RUNNING
    assert len(slurm.run("squeue", "-h").splitlines()) == 4
    sh("stop", "@last")
    until(lambda: slurm.run("squeue", "-h").strip() == "", 180)
    assert alive(sh.path) == []
    sh("stop", "@last")
    assert state_of(sh).status is ExperimentStatus.INTERRUPTED


LIMITED = """
name = "limited"
processes = {count}
command = ["sh", "-c", "trap 'exit 0' TERM; [ $HOLDFAST_ATTEMPT = 2 ] && exit 0; echo up >> up; while :; do sleep 0.05; done"]
[engine]
name = "slurm"
time = "1h"
"""  # noqa: E501


def test_no_end_at_a_time_limit_is_a_completion(sh: Shell, slurm: Cluster) -> None:
    """25 programs that exit 0 when they are stopped: all are interrupted, and run once more."""
    count = 25
    write(sh, LIMITED, count=count)
    program = sh.start("run", "e.toml")
    up = sh.path / "up"
    until(lambda: up.exists() and len(up.read_text().split()) == count, 180)
    for number in {line.partition("_")[0] for line in slurm.run("squeue", "-h", "-o%i").split()}:
        slurm.run("scontrol", "update", f"JobId={number}", "EndTime=now+3")
    out, err = program.communicate(timeout=400)
    assert program.returncode == 0, f"{out}\n{err}"
    state = state_of(sh)
    assert each(state, "attempt") == [2] * count
    assert each(state, "failures") == [0] * count
    steps = StateManager(sh.states).history(state.experiment_id)
    reasons = [str(step.reason) for step in steps if step.event == "requeue"]
    assert len(reasons) == count
    # What a shim heard may be known before the limit is that was changed a moment ago.
    assert set(reasons) <= {"time_limit", "preempted"}


def test_the_orchestrator_dies_with_its_login_node(sh: Shell) -> None:
    """What a queue has is adopted while it waits and while it runs."""
    write(sh, SWEEP, count=6)
    program = sh.start("run", "e.toml")
    until(lambda: (sh.path / "ran").exists(), 180)
    program.kill()
    program.communicate()
    sh("resume", "@last")
    assert Counter((sh.path / "ran").read_text().split()) == {str(i): 1 for i in range(6)}
