"""The real torchrun, whose ranks are in sessions of their own: no two attempts' ranks at a time.

Needs torch, which is no dependency of the tests: `pip install torch` (on Linux without a GPU, from
https://download.pytorch.org/whl/cpu), then `pytest -m launchers`.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.attempts.files import read_exit
from holdfast.attempts.names import AttemptName
from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager
from launched import alive, command_of, launching, shim_of
from nodes import job
from shell import Shell
from waiting import until

pytestmark = [
    pytest.mark.launchers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None,
        reason="needs torch: pip install torch --index-url https://download.pytorch.org/whl/cpu",
    ),
]

RANKS = 4

#: Attempt 1 works until it is stopped, half of its ranks deaf; every later one ends at once.
RANK = """
import os, signal, sys, time
rank, attempt = int(os.environ["RANK"]), os.environ["HOLDFAST_ATTEMPT"]
ours = b"HOLDFAST_STATE_DIR=" + os.environb[b"HOLDFAST_STATE_DIR"]
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

def say(what):
    os.write(log, f"{what} {attempt} {rank} {os.getpid()}\\n".encode())

for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\\0")
    except OSError:
        continue
    if ours in entries and b"HOLDFAST_ATTEMPT=" + attempt.encode() not in entries:
        say("overlap")
# together
if attempt == "1":
    if rank % 2:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("up")
    while True:
        time.sleep(60)
say("done")
"""

#: What takes a busy machine most of a minute: every rank loads torch.
TOGETHER = """
import atexit, torch, torch.distributed as dist
dist.init_process_group("gloo")
atexit.register(dist.destroy_process_group)
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == 4
"""

FILE = """
name = "ranks"
command = ["{python}", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4",
           "rank.py"]
processes = 1
[limits]
grace = "1s"
{timeout}
[retry]
max_attempts = 2
backoff = "0s"
"""


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "rank.py").write_text(RANK.replace("# together", TOGETHER))
    with launching(tmp_path) as shell:
        shell.env["OMP_NUM_THREADS"] = "1"
        yield shell


def said(sh: Shell, what: str) -> list[tuple[str, int, int]]:
    path = sh.path / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    words = [line.split() for line in lines]
    return [(word[1], int(word[2]), int(word[3])) for word in words if word[0] == what]


def begin(sh: Shell, timeout: str = "") -> "tuple[subprocess.Popen[str], list[int]]":
    """An orchestrator, and the ranks of attempt 1, each in a session of its own."""
    (sh.path / "e.toml").write_text(FILE.format(python=sys.executable, timeout=timeout))
    program = sh.start("run", "e.toml")
    until(lambda: len(said(sh, "up")) == RANKS or program.poll() is not None, 300)
    ranks = [pid for _, _, pid in said(sh, "up")]
    assert len(ranks) == RANKS, program.communicate()
    assert len({os.getsid(pid) for pid in ranks}) == RANKS
    return program, ranks


def ended(sh: Shell, program: "subprocess.Popen[str]", code: int) -> None:
    out, err = program.communicate(timeout=400)
    assert program.returncode == code, f"{program.returncode}\n{out}\n{err}"
    assert alive(sh.path) == []


def completed_in_attempt_2(sh: Shell) -> None:
    """Attempt 2 saw nothing of attempt 1, and did the work."""
    assert said(sh, "overlap") == []
    assert sorted(rank for attempt, rank, _ in said(sh, "done") if attempt == "2") == [0, 1, 2, 3]
    state = StateManager(sh.states).load(sh.only_id())
    assert state.status is ExperimentStatus.AGGREGATED
    assert state.processes[0].attempt == 2


def test_a_killed_launcher_takes_its_ranks_along(sh: Shell) -> None:
    """They lived on, and attempt 2 ran beside them."""
    program, ranks = begin(sh)
    os.kill(command_of(sh, "0"), signal.SIGKILL)
    ended(sh, program, 0)
    completed_in_attempt_2(sh)
    record = read_exit(sh.states / sh.only_id(), AttemptName.of_process(sh.only_id(), 0, 1))
    assert record is not None
    assert record.signal == signal.SIGKILL
    path = sh.states / sh.only_id() / "attempts" / "0.1.exit"
    assert {pid for pid, _ in json.loads(path.read_text())["stopped"]} >= set(ranks)


def test_a_timeout_ends_the_ranks_too(sh: Shell) -> None:
    """Torchrun waits 30 s for deaf ranks; the grace period is one second."""
    # Ranks that are all up long before.
    (sh.path / "rank.py").write_text(RANK)
    program, _ = begin(sh, timeout='timeout = "45s"')
    ended(sh, program, 0)
    completed_in_attempt_2(sh)
    record = read_exit(sh.states / sh.only_id(), AttemptName.of_process(sh.only_id(), 0, 1))
    assert record is not None
    assert record.timed_out


def test_ctrl_c_leaves_no_rank(sh: Shell) -> None:
    """When the run has ended, nothing of it runs, and a resume goes on."""
    program, _ = begin(sh)
    program.send_signal(signal.SIGINT)
    ended(sh, program, -signal.SIGINT)
    state = StateManager(sh.states).load(sh.only_id())
    assert state.status is ExperimentStatus.INTERRUPTED
    ended(sh, sh.start("resume", "@last"), 0)
    completed_in_attempt_2(sh)


def test_what_a_dead_shim_left_is_stopped_first(sh: Shell) -> None:
    """Launcher and ranks, found by their mark."""
    program, _ = begin(sh)
    os.kill(shim_of(sh, "0"), signal.SIGKILL)
    ended(sh, program, 0)
    completed_in_attempt_2(sh)


def test_what_a_dead_shim_and_a_dead_orchestrator_left_is_stopped_first(sh: Shell) -> None:
    """By the next resume, before it starts anything."""
    program, ranks = begin(sh)
    os.kill(shim_of(sh, "0"), signal.SIGKILL)
    program.kill()
    program.communicate()
    assert set(ranks) <= set(alive(sh.path))
    ended(sh, sh.start("resume", "@last"), 0)
    completed_in_attempt_2(sh)


WARNED = """
import holdfast
with holdfast.process() as process:
    print("up", flush=True)
    while not process.should_stop:
        pass
    print("saved", process.rank, flush=True)
"""


def test_a_warning_of_a_batch_system_reaches_every_rank_and_does_not_end_torchrun(tmp_path):
    """USR1 would kill it, and leave its ranks behind: they see the node's file instead."""
    torchrun = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
    with job(
        tmp_path,
        f"exec {torchrun} rank.py",
        units=["launcher-0"],
        env={"HOLDFAST_RANKS": "2"},
    ) as it:
        (it.folder / "rank.py").write_text(WARNED)
        started = it.start()
        until(lambda: it.path(0, "out").exists() and it.out(0, "").count("up") == 2, 300)
        started.send_signal(signal.SIGUSR1)
        until(lambda: it.out(0, "").count("saved") == 2, 300)
        it.ended(started)
        assert it.said(0)["exit_code"] == 0
        assert it.said(0)["stopped"] == []
        said = sorted(json.loads(p.read_text())["why"] for p in it.attempts.rglob("*.said"))
        assert said == ["warning", "warning"]
