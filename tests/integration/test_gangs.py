"""Launchers with real ranks, some in sessions of their own, under real kills.

The launcher is a script of this test: what torchrun and mpirun do with the same machine is in the
integration group.
"""

import csv
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager
from launched import command_of, each, launching, nothing_is_left, said, shim_of, state_of
from shell import Shell
from waiting import PATIENCE_S, until

#: Starts the ranks, each in a session of its own, waits for them all, and fails if one of them did:
#: the others are stopped then, as torchrun and mpirun do.
LAUNCHER = """
import os, signal, subprocess, sys
ranks = [
    subprocess.Popen(
        [sys.executable, "rank.py"],
        env={**os.environ, "RANK": str(rank), "WORLD_SIZE": os.environ["HOLDFAST_RANKS"]},
        start_new_session=True,
    )
    for rank in range(int(os.environ["HOLDFAST_RANKS"]))
]
codes = {}
while len(codes) < len(ranks):
    pid, status = os.wait()
    codes[pid] = os.waitstatus_to_exitcode(status)
    if codes[pid] and os.environ.get("TOGETHER") != "no":
        for rank in ranks:
            if rank.pid not in codes:
                os.kill(rank.pid, signal.SIGTERM)
sys.exit(1 if any(codes.values()) else 0)
"""

#: Reports as a rank does, in files of its own; what it does is said by files named after it.
RANK = """
import json, os, signal, sys, time
rank, attempt = int(os.environ["RANK"]), os.environ["HOLDFAST_ATTEMPT"]
index = int(os.environ["HOLDFAST_LAUNCHER"]) + rank
if str(index) in os.environ.get("HOLDFAST_COMPLETED", "").split(","):
    sys.exit(0)
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
ours = b"HOLDFAST_STATE_DIR=" + os.environb[b"HOLDFAST_STATE_DIR"]
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\\0")
    except OSError:
        continue
    same = b"HOLDFAST_LAUNCHER=" + os.environb[b"HOLDFAST_LAUNCHER"]
    now = b"HOLDFAST_ATTEMPT=" + attempt.encode()
    if ours in entries and same in entries and now not in entries:
        os.write(log, f"overlap {index} {attempt} {pid}\\n".encode())
os.write(log, f"start {index} {attempt} {os.getpid()}\\n".encode())
stem = f"{index}.0-{os.getpid()}-1-here"
def say(suffix, **what):
    path = os.path.join(os.environ["HOLDFAST_REPORTS"], f"{stem}.{suffix}")
    with open(path + ".new", "w") as file:
        json.dump(what, file)
    os.rename(path + ".new", path)
say("begun", at="2024-01-15T12:00:00+00:00")
while attempt == "1" and os.path.exists("hold") and not os.path.exists(f"go.{index}"):
    time.sleep(0.01)
if os.path.exists(f"bad.{index}"):
    say("said", error={"type": "ValueError", "message": f"bad {index}", "rank": rank})
    sys.exit(3)
if attempt == "1" and os.path.exists(f"deaf.{index}"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)
if "OUTPUTS" in os.environ and not os.path.exists(f"none.{index}.{attempt}"):
    for name in (f"model-{os.environ['HOLDFAST_LAUNCHER']}.pt", f"rank-{index}.pt"):
        with open(name, "w") as file:
            file.write(name)
results = os.path.dirname(os.environ["HOLDFAST_RESULT"])
stem = f"{index}.{attempt}.0-{os.getpid()}-1-here"
with open(os.path.join(results, stem + ".json"), "w") as file:
    json.dump({"square": index * index}, file)
stem = f"{index}.0-{os.getpid()}-1-here"
say("said", completed=True)
os.write(log, f"end {index} {attempt} {os.getpid()}\\n".encode())
"""

FILE = """
name = "gangs"
command = ["python", "launch.py"]
ranks = {ranks}
[matrix]
lr = {lr}
[limits]
grace = "1s"
jobs = 2
[retry]
backoff = "0s"
max_attempts = {attempts}
"""

GANG, INDEPENDENT = "4", "{count = 4, independent = true}"


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "launch.py").write_text(LAUNCHER)
    (tmp_path / "rank.py").write_text(RANK)
    with launching(tmp_path) as shell:
        yield shell


def write(
    sh: Shell, *, ranks: str = GANG, lr: str = "[1]", attempts: int = 1, outputs: str = ""
) -> None:
    text = FILE.format(ranks=ranks, lr=lr, attempts=attempts)
    if outputs:
        text += f"[outputs]\nfiles = {outputs}\n[env]\nOUTPUTS = ''\n"
    (sh.path / "e.toml").write_text(text)


def shim(sh: Shell) -> int:
    return shim_of(sh, "launcher-0")


def launcher(sh: Shell) -> int:
    return command_of(sh, "launcher-0")


def begin(sh: Shell, **file: Any) -> "subprocess.Popen[str]":
    """An orchestrator whose four ranks have begun, and wait."""
    write(sh, **file)
    (sh.path / "hold").touch()
    program = sh.start("run", "e.toml")
    until(lambda: len(said(sh, "start")) == 4 or program.poll() is not None)
    assert program.poll() is None, program.communicate()
    return program


def ended(sh: Shell, program: "subprocess.Popen[str]", code: int) -> str:
    out, err = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == code, f"{program.returncode}\n{out}\n{err}"
    return out + err


def test_every_combination_is_a_gang(sh: Shell) -> None:
    """Two launchers of four ranks: eight processes, each with its own result, none run twice."""
    write(sh, lr="[1, 2]")
    sh("run", "e.toml")
    state = state_of(sh)
    assert state.status is ExperimentStatus.AGGREGATED
    assert sorted(index for index, _, _ in said(sh, "start")) == list(range(8))
    document = sh.json("show", "@last")
    rows = document["aggregate"]["rows"]
    assert [row["result"]["square"] for row in rows] == [i * i for i in range(8)]
    assert [row["rank"] for row in rows] == [0, 1, 2, 3] * 2
    assert [row["params"]["lr"] for row in rows] == [1] * 4 + [2] * 4
    assert "ranks      4 of each command, a gang; 2 launchers" in sh("show", "@last")[0]
    table = list(csv.DictReader(sh("export", "@last")[0].splitlines()))
    assert [row["rank"] for row in table] == ["0", "1", "2", "3"] * 2
    nothing_is_left(sh)


def test_one_failed_rank_fails_its_gang_and_says_why(sh: Shell) -> None:
    """Charged once; the retry runs all four, whose reports of the first attempt count no more."""
    write(sh, attempts=2)
    (sh.path / "bad.2").touch()
    _, err = sh("run", "e.toml", code=3)
    assert "  rank 2: ValueError: bad 2\n    4 processes: 0-3 (2: lr=1)\n" in err
    state = state_of(sh)
    assert each(state, "status") == ["failed"] * 4
    assert each(state, "failures") == [2] * 4
    (sh.path / "bad.2").unlink()
    sh("resume", "@last")
    state = state_of(sh)
    assert each(state, "status") == ["completed"] * 4
    assert each(state, "attempt") == [3] * 4
    nothing_is_left(sh)


def test_only_independent_ranks_that_failed_run_again(sh: Shell) -> None:
    """The others are told that they are completed, and keep their results."""
    write(sh, ranks=INDEPENDENT, attempts=2)
    (sh.path / "bad.2").touch()
    sh("run", "e.toml", code=3, env={"TOGETHER": "no"})
    state = state_of(sh)
    assert each(state, "status") == ["completed", "completed", "failed", "completed"]
    assert each(state, "failures") == [0, 0, 2, 0]
    (sh.path / "bad.2").unlink()
    sh("resume", "@last")
    state = state_of(sh)
    assert each(state, "status") == ["completed"] * 4
    assert each(state, "attempt") == [1, 1, 3, 1]
    assert sorted(index for index, attempt, _ in said(sh, "start") if attempt > 1) == [2, 2]
    nothing_is_left(sh)


@pytest.mark.parametrize("ranks", [GANG, INDEPENDENT])
def test_whole_launchers_are_resumed_and_held_back(sh: Shell, ranks: str) -> None:
    """A gang that is named by one of its ranks starts whole; of independent ones what is left."""
    write(sh, ranks=ranks, lr="[1, 2]")
    for index in (1, 2, 6):
        (sh.path / f"bad.{index}").touch()
    sh("run", "e.toml", code=3, env={"TOGETHER": "no"})
    for index in (1, 2, 6):
        (sh.path / f"bad.{index}").unlink()
    gang = ranks == GANG
    _, err = sh("resume", "@last", "--only", "1")
    along = "processes 0, 2, 3 go along" if gang else "process 2 goes along"
    assert f"{along}: a launcher starts all its ranks" in err
    left = "processes 4, 5, 6, 7" if gang else "process 6"
    assert f"held back until the next resume: {left}\n" in err
    again = sorted({index for index, attempt, _ in said(sh, "start") if attempt == 2})
    assert again == ([0, 1, 2, 3] if gang else [1, 2])
    assert each(state_of(sh), "status")[4:] == (
        ["failed"] * 4 if gang else ["completed", "completed", "failed", "completed"]
    )
    _, err = sh("retry", f"{sh.only_id()}/0")
    assert "nothing to do: process 0 has not failed" in err
    sh("retry", f"{sh.only_id()}/6")
    assert each(state_of(sh), "status") == ["completed"] * 8
    nothing_is_left(sh)


def test_independent_ranks_complete_while_their_launcher_runs(sh: Shell) -> None:
    """Somebody who looks sees three of four; the last is completed with its launcher."""
    program = begin(sh, ranks=INDEPENDENT)
    for index in (0, 1, 3):
        (sh.path / f"go.{index}").touch()
    until(lambda: each(state_of(sh), "status").count("completed") == 3)
    assert each(state_of(sh), "status") == ["completed", "completed", "running", "completed"]
    (sh.path / "hold").unlink()
    ended(sh, program, 0)
    nothing_is_left(sh)


def test_a_killed_orchestrator_leaves_a_gang_that_is_adopted(sh: Shell) -> None:
    """Its launcher runs on, and is not started a second time."""
    program = begin(sh)
    program.kill()
    program.communicate()
    resume = sh.start("resume", "@last")
    manager, exp = StateManager(sh.states), sh.only_id()
    until(lambda: "resume" in {step.event for step in manager.history(exp)})
    (sh.path / "hold").unlink()
    assert "(4 processes taken over)" in ended(sh, resume, 0)
    assert len(said(sh, "start")) == 4
    assert each(state_of(sh), "attempt") == [1] * 4
    nothing_is_left(sh)


@pytest.mark.parametrize("ranks", [GANG, INDEPENDENT])
@pytest.mark.parametrize("victim", [launcher, shim])
def test_a_dead_launcher_takes_no_acknowledged_rank_along(
    sh: Shell, ranks: str, victim: Callable[[Shell], int]
) -> None:
    """Its ranks, each in a session of its own, are stopped before the next attempt begins.

    An independent rank that had said that it completed is completed; a gang begins anew.
    """
    program = begin(sh, ranks=ranks, attempts=2)
    (sh.path / "deaf.3").touch()
    for index in (1, 3):
        (sh.path / f"go.{index}").touch()
    until(lambda: [index for index, _, _ in said(sh, "end")] == [1])
    os.kill(victim(sh), signal.SIGKILL)
    ended(sh, program, 0)
    again = sorted(index for index, attempt, _ in said(sh, "start") if attempt == 2)
    assert again == ([0, 1, 2, 3] if ranks == GANG else [0, 2, 3])
    state = state_of(sh)
    charged = 0 if victim is shim else 1
    assert each(state, "failures") == (
        [charged] * 4 if ranks == GANG else [charged, 0, charged, charged]
    )
    nothing_is_left(sh)


def test_everything_dies_at_once(sh: Shell) -> None:
    """Orchestrator, shim and launcher by SIGKILL: a resume stops what is left, and runs all."""
    program = begin(sh)
    pids = (shim(sh), launcher(sh))
    program.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    program.communicate()
    sh("resume", "@last")
    assert sorted(index for index, attempt, _ in said(sh, "start") if attempt == 2) == [0, 1, 2, 3]
    assert each(state_of(sh), "failures") == [0] * 4
    nothing_is_left(sh)


def test_ctrl_c_interrupts_the_whole_gang(sh: Shell) -> None:
    """Nothing is left, nothing is charged, and a resume goes on."""
    program = begin(sh)
    program.send_signal(signal.SIGINT)
    told = ended(sh, program, -signal.SIGINT)
    assert "stopping 1 launcher; once more (Ctrl-C) kills them at once" in told
    state = state_of(sh)
    assert state.status is ExperimentStatus.INTERRUPTED
    assert each(state, "status") == ["pending"] * 4
    assert each(state, "interruptions") == [1] * 4
    (sh.path / "hold").unlink()
    sh("resume", "@last")
    nothing_is_left(sh)


def test_one_lost_result_requeues_its_gang(sh: Shell) -> None:
    """And no other: the second gang keeps its results."""
    write(sh, lr="[1, 2]")
    sh("run", "e.toml", "--no-aggregate")
    [path] = (sh.states / sh.only_id() / "results").glob("2.1.*.json")
    path.unlink()
    out, _ = sh("run", "e.toml", "--dry-run")
    assert out.count("run ") >= 4
    sh("resume", "@last")
    assert sorted(i for i, attempt, _ in said(sh, "start") if attempt == 2) == [0, 1, 2, 3]
    assert each(state_of(sh), "attempt") == [2] * 4 + [1] * 4
    nothing_is_left(sh)


OF_GANG = '["model-{index}.pt", "rank-*.pt"]'
OF_RANK = '["rank-{index}.pt"]'


def paths(sh: Shell) -> list[list[str]]:
    return [[ref.path for ref in outputs] for outputs in each(state_of(sh), "outputs")]


def test_the_outputs_of_a_gang_are_recorded_with_its_first_rank(sh: Shell) -> None:
    """Its ranks make them together; if one is lost, all of them run again, and no other gang."""
    write(sh, lr="[1, 2]", outputs='["model-{index}.pt"]')
    sh("run", "e.toml", "--no-aggregate")
    assert paths(sh) == [["model-0.pt"], [], [], [], ["model-4.pt"], [], [], []]
    (sh.path / "model-4.pt").write_text("edited")
    plan = sh.json("run", "e.toml", "-n")["processes"]
    assert [each["action"] for each in plan] == ["skip"] * 4 + ["run"] * 4
    assert "its output model-4.pt is lost: was altered: it has 6 bytes" in plan[4]["why"]
    assert "output model-4.pt of process 4, of the same gang, was altered" in plan[6]["why"]
    sh("resume", "@last")
    assert each(state_of(sh), "attempt") == [1] * 4 + [2] * 4
    assert paths(sh) == [["model-0.pt"], [], [], [], ["model-4.pt"], [], [], []]
    nothing_is_left(sh)


def test_an_output_that_a_gang_did_not_make_fails_all_of_it(sh: Shell) -> None:
    """Charged to all, and tried again together."""
    write(sh, attempts=2, outputs=OF_GANG)
    for index in range(4):
        (sh.path / f"none.{index}.1").touch()
    sh("run", "e.toml")
    state = state_of(sh)
    assert each(state, "failures") == [1] * 4
    assert each(state, "attempt") == [2] * 4
    assert paths(sh) == [["model-0.pt", *(f"rank-{index}.pt" for index in range(4))], [], [], []]
    nothing_is_left(sh)


def test_an_independent_rank_has_outputs_of_its_own(sh: Shell) -> None:
    """`{index}` is its own there; what one has not made, or has lost, runs that one again."""
    write(sh, ranks=INDEPENDENT, attempts=2, outputs=OF_RANK)
    (sh.path / "none.2.1").touch()
    sh("run", "e.toml", "--no-aggregate")
    state = state_of(sh)
    assert each(state, "failures") == [0, 0, 1, 0]
    assert each(state, "attempt") == [1, 1, 2, 1]
    assert paths(sh) == [[f"rank-{index}.pt"] for index in range(4)]
    (sh.path / "rank-3.pt").unlink()
    sh("resume", "@last")
    assert each(state_of(sh), "attempt") == [1, 1, 2, 3]
    assert paths(sh) == [[f"rank-{index}.pt"] for index in range(4)]
    nothing_is_left(sh)


@pytest.mark.parametrize("ranks", [GANG, INDEPENDENT])
def test_ranks_that_ended_unwatched_are_adopted_with_their_outputs(sh: Shell, ranks: str) -> None:
    """Killed between their ends and the record of it."""
    program = begin(sh, ranks=ranks, outputs=OF_GANG if ranks == GANG else OF_RANK)
    program.kill()
    program.communicate()
    (sh.path / "hold").unlink()
    folder = sh.states / sh.only_id() / "attempts"
    until((folder / "launcher-0.1.exit").exists)
    sh("resume", "@last")
    assert len(said(sh, "start")) == 4
    names = [f"rank-{index}.pt" for index in range(4)]
    shared = [["model-0.pt", *names], [], [], []]
    assert paths(sh) == (shared if ranks == GANG else [[name] for name in names])
    nothing_is_left(sh)


def test_a_rank_completes_early_with_its_output(sh: Shell) -> None:
    """While its launcher runs on: what it declares is proven then."""
    program = begin(sh, ranks=INDEPENDENT, outputs=OF_RANK)
    (sh.path / "go.1").touch()
    until(lambda: each(state_of(sh), "status").count("completed") == 1)
    assert paths(sh) == [[], ["rank-1.pt"], [], []]
    (sh.path / "hold").unlink()
    ended(sh, program, 0)
    assert paths(sh) == [[f"rank-{index}.pt"] for index in range(4)]
    nothing_is_left(sh)


def test_a_command_line_needs_no_file(sh: Shell) -> None:
    """`run --ranks 4 -- COMMAND`, whose ranks share one result without the worker API."""
    script = 'echo "$HOLDFAST_RANKS" > "$HOLDFAST_RESULT"; for i in 0 1; do true & done; wait'
    sh("run", "--ranks", "2", "--", "sh", "-c", script)
    rows = sh.json("show", "@last")["aggregate"]["rows"]
    assert [row["result"] for row in rows] == [2, None]
    log = sh("logs", f"{sh.only_id()}/1")[0]
    assert log == ""
    folder = sh.states / sh.only_id()
    assert json.loads((sh.states / f"{sh.only_id()}.json").read_text())["ranks"]["count"] == 2
    assert (folder / "attempts" / "launcher-0.1.exit").exists()


def test_a_launchers_timeout_is_told_ahead(sh: Shell) -> None:
    """Its ranks know from when on to stop; what an outer launcher says of ranks is not theirs."""
    write(sh)
    text = (sh.path / "e.toml").read_text()
    text = text.replace('"python", "launch.py"', '"sh", "-c", "env > seen"')
    (sh.path / "e.toml").write_text(text.replace("[limits]", '[limits]\ntimeout = "1h"'))
    sh("run", "e.toml", env={"RANK": "7", "OMPI_COMM_WORLD_RANK": "7", "HOLDFAST_INDEX": "9"})
    seen = dict(
        line.split("=", 1) for line in (sh.path / "seen").read_text().splitlines() if "=" in line
    )
    assert not {"RANK", "OMPI_COMM_WORLD_RANK", "HOLDFAST_INDEX"} & set(seen)
    started = state_of(sh).processes[0].started_at
    assert started is not None
    assert 3590 < float(seen["HOLDFAST_STOP_AT"]) - started.timestamp() < 3600
    assert seen["HOLDFAST_LAUNCHER"] == "0"
