"""Declared outputs, through the command line with real processes, signals and kills."""

import json
import os
import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager
from launched import alive, each, state_of
from shell import Shell
from waiting import PATIENCE_S, until

#: Does in each attempt what a file `<what>.<index>.<attempt>` says; else writes what it declares.
WORKER = """
import json, os, sys, time
index, attempt = os.environ["HOLDFAST_INDEX"], os.environ["HOLDFAST_ATTEMPT"]
def told(what):
    return os.path.exists(f"{what}.{index}.{attempt}")
os.makedirs("plots", exist_ok=True)
model = f"model-{sys.argv[1]}.pt"
if not told("skip"):
    with open(model, "w") as file:
        file.write(f"model of {index} " + "." * 1000)
    with open(f"plots/{index}-a.png", "w") as file:
        file.write(index)
if told("spoil"):
    with open(f"plots/{2 - int(index)}-a.png", "a") as file:
        file.write("spoilt")
if told("fifo"):
    os.unlink(model)
    os.mkfifo(model)
if told("large"):
    with open(model, "w") as file:
        file.truncate(768 << 20)
    # After a child, a shim waits a moment for a stop that may have caused the end, as those of
    # processes do that take their time.
    os.system(":")
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"score": int(index)}, file)
open(f"began.{index}.{attempt}", "w").close()
while os.path.exists("hold") and not os.path.exists(f"go.{index}"):
    time.sleep(0.01)
"""

FILE = """
command = ["python", "model.py", "{level}"]
[matrix]
level = [1, 2, 3]
[outputs]
files = ["model-{level}.pt", "plots/{index}-*.png"]
[limits]
jobs = 3
grace = "5s"
[retry]
backoff = "0s"
"""


@pytest.fixture
def sh(sh: Shell) -> Shell:
    (sh.path / "model.py").write_text(WORKER)
    (sh.path / "e.toml").write_text(FILE)
    return sh


def began(sh: Shell) -> list[str]:
    """Every attempt so far, as `index.attempt`."""
    return sorted(path.name.removeprefix("began.") for path in sh.path.glob("began.*"))


ONCE = ["0.1", "1.1", "2.1"]


def paths(state: ExperimentState) -> list[list[str]]:
    return [[ref.path for ref in outputs] for outputs in each(state, "outputs")]


def of(index: int) -> list[str]:
    return [f"model-{index + 1}.pt", f"plots/{index}-a.png"]


def check(sh: Shell, *, status: ExperimentStatus = ExperimentStatus.AGGREGATED) -> None:
    """All of it is recorded as it lies there."""
    state = state_of(sh)
    assert state.status is status
    assert paths(state) == [of(index) for index in range(3)]
    for ref in (ref for outputs in each(state, "outputs") for ref in outputs):
        data = (sh.path / ref.path).read_bytes()
        assert (ref.size, ref.sha256) == (len(data), sha256(data).hexdigest())


def recorded(sh: Shell, event: str) -> list[dict[str, Any]]:
    """The changes of that kind, as they stand in the journals."""
    found = []
    for journal in sorted((sh.states / sh.only_id() / "journal").iterdir()):
        for line in journal.read_text().splitlines():
            record = json.loads(line.split(" ", 1)[1])
            found += [each for each in record.get("changes", []) if each["event"] == event]
    return found


def kill(program: Any) -> None:
    os.kill(program.pid, signal.SIGKILL)
    program.wait()


# -- as they are made -----------------------------------------------------------------------------


def test_outputs_are_recorded_with_the_completion(sh: Shell) -> None:
    """In one line with it: no process is completed whose outputs are not proven."""
    sh("run", "e.toml")
    check(sh)
    assert began(sh) == ONCE
    changes = [each for each in recorded(sh, "complete") if "process" in each]
    assert sorted(each["process"] for each in changes) == [0, 1, 2]
    for change in changes:
        assert [ref["path"] for ref in change["set"]["outputs"]] == of(change["process"])


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_missing_output_fails_its_attempt(sh: Shell, attempts: int) -> None:
    """Exit code 0 or not; it says which, and is tried again as long as the budget lasts."""
    with (sh.path / "e.toml").open("a") as file:
        file.write(f"max_attempts = {attempts}\n")
    (sh.path / "skip.1.1").touch()
    _, err = sh("run", "e.toml", code=0 if attempts == 2 else 3)
    if attempts == 2:
        check(sh)
        assert each(state_of(sh), "failures") == [0, 1, 0]
        assert began(sh) == ["0.1", "1.1", "1.2", "2.1"]
        return
    told = "output model-2.pt is missing; output plots/1-*.png matches no file"
    state = state_of(sh)
    assert each(state, "status") == ["completed", "failed", "completed"]
    assert state.processes[1].error_message == told
    assert told in err
    assert told in sh("show", "@last")[0]
    assert paths(state) == [of(0), [], of(2)]
    sh("resume", "@last")
    check(sh)
    assert began(sh) == ["0.1", "1.1", "1.2", "2.1"]


def test_what_is_no_regular_file_fails_its_attempt(sh: Shell) -> None:
    """And nobody waits for a FIFO that nobody writes to."""
    (sh.path / "fifo.0.1").touch()
    _, err = sh("run", "e.toml", code=3)
    assert "output model-1.pt is not a regular file" in err


def test_a_failed_attempt_has_no_outputs(sh: Shell) -> None:
    """What it left is not looked at: the next attempt makes it anew."""
    (sh.path / "model.py").write_text(WORKER + "sys.exit(4 if told('bad') else 0)\n")
    (sh.path / "bad.2.1").touch()
    (sh.path / "skip.2.1").touch()
    sh("run", "e.toml", code=3)
    state = state_of(sh)
    assert state.processes[2].error_message == "exit code 4"
    assert paths(state) == [of(0), of(1), []]


@pytest.mark.parametrize(
    ("ranks", "files", "told"),
    [
        (None, '["model.pt"]', "processes 0 and 1 would both write model.pt"),
        (None, '["plots/{level}*.png", "plots/*-{index}.png"]', "processes 1 and 2 would both"),
        ("2", '["model.pt"]', "processes 0 and 2 would both write model.pt"),
        ("{count = 2, independent = true}", '["model-{level}.pt"]', "processes 0 and 1 would both"),
    ],
)
def test_an_output_of_two_processes_is_an_error_before_anything_starts(
    sh: Shell, ranks: str | None, files: str, told: str
) -> None:
    """Named by their processes, with what keeps them apart; nothing is made."""
    text = FILE.replace('["model-{level}.pt", "plots/{index}-*.png"]', files)
    (sh.path / "e.toml").write_text((f"ranks = {ranks}\n" if ranks else "") + text)
    _, err = sh("run", "e.toml", code=2)
    assert told in err
    assert "{index}" in err
    assert began(sh) == []
    assert not sh.states.exists()


# -- what becomes of them -------------------------------------------------------------------------


def delete(path: Path) -> str:
    path.unlink()
    return "is missing"


def truncate(path: Path) -> str:
    size = path.stat().st_size
    os.truncate(path, 3)
    return f"was altered: it has 3 bytes, recorded are {size:,}"


def alter(path: Path) -> str:
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return "was altered: its SHA-256 is not the recorded one"


HARM = [delete, truncate, alter]


@pytest.mark.parametrize("harm", HARM)
def test_what_has_lost_an_output_runs_again_and_nothing_else(sh: Shell, harm: Any) -> None:
    """Between two calls; a dry run and `show` foresee it, and the history says why."""
    sh("run", "e.toml", "--no-aggregate")
    check(sh, status=ExperimentStatus.COMPLETED)
    problem = harm(sh.path / "model-2.pt")
    plan = sh.json("run", "e.toml", "--dry-run")
    actions = [each["action"] for each in plan["processes"]]
    assert actions == ["skip", "run", "skip"]
    assert plan["processes"][1]["why"] == f"its output model-2.pt is lost: {problem}"
    assert plan["aggregates"] is False
    _, err = sh("aggregate", "@last", code=1)
    assert f"/1: output model-2.pt {problem}" in err
    assert "resume" in err
    sh("resume", "@last")
    check(sh)
    assert began(sh) == [*ONCE[:2], "1.2", "2.1"]
    [requeue] = recorded(sh, "requeue")
    assert requeue["process"] == 1
    assert requeue["evidence"] == f"output model-2.pt {problem}"
    assert requeue["set"]["reason"] == "result_lost"


@pytest.mark.parametrize("harm", HARM)
def test_an_output_is_verified_before_the_aggregation(sh: Shell, harm: Any) -> None:
    """Lost while others ran: its process runs once more before anything is aggregated."""
    sh.hold()
    for index in (0, 1):
        (sh.path / f"go.{index}").touch()
    run = sh.start("run", "e.toml")
    manager = StateManager(sh.states)
    until(lambda: sh.states.exists() and began(sh) == ONCE)
    until(lambda: manager.load(sh.only_id()).processes_completed == 2)
    harm(sh.path / "plots/0-a.png")
    sh.let_go()
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, f"{out}\n{err}"
    check(sh)
    assert began(sh) == ["0.1", "0.2", "1.1", "2.1"]


def test_what_never_stays_as_it_was_is_not_run_for_ever(sh: Shell) -> None:
    """Processes that spoil each other's outputs run once more each, and then it is said."""
    sh.hold()
    for name in ("go.0", "go.1", "spoil.2.1", "spoil.0.2", "spoil.2.2"):
        (sh.path / name).touch()
    run = sh.start("run", "e.toml")
    manager = StateManager(sh.states)
    until(lambda: sh.states.exists() and began(sh) == ONCE)
    until(lambda: manager.load(sh.only_id()).processes_completed == 2)
    (sh.path / "plots/0-a.png").write_text("spoilt")
    sh.let_go()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 1
    assert "output plots/0-a.png was altered" in err
    assert began(sh) == ["0.1", "0.2", "1.1", "2.1", "2.2"]


def test_show_has_what_is_declared(sh: Shell) -> None:
    """As it stands in the file."""
    (sh.path / "e.toml").write_text(FILE + '[identity]\nfiles = ["model.py"]\n')
    sh("run", "e.toml")
    out, _ = sh("show", "@last")
    assert '\nidentity   files = ["model.py"]\n' in out
    assert '\noutputs    files = ["model-{level}.pt", "plots/{index}-*.png"]\n' in out


def test_nobody_asks_for_the_outputs_of_an_aggregated_experiment(sh: Shell) -> None:
    """Its result is what counts, and models are moved away once it is there."""
    sh("run", "e.toml")
    (sh.path / "model-1.pt").unlink()
    assert "nothing to do" in "".join(sh("run", "e.toml"))
    sh("resume", "@last")
    (sh.states / sh.only_id() / "aggregate.json").unlink()
    sh("aggregate", "@last")
    assert began(sh) == ONCE


def test_a_directory_that_is_gone_loses_nothing(sh: Shell) -> None:
    """A disk that is not mounted is an error; no process is run again for it."""
    project = sh.path / "project"
    project.mkdir()
    (project / "e.toml").write_text(FILE.replace("model.py", f"{sh.path}/model.py"))
    sh("run", "project/e.toml", "--no-aggregate", "-C", str(sh.states))
    project.rename(sh.path / "away")
    sh("resume", "@last", code=1)
    assert each(state_of(sh), "status") == ["completed"] * 3
    (sh.path / "away").rename(project)
    sh("resume", "@last")
    assert sorted(path.name for path in project.glob("began.*")) == [f"began.{n}" for n in ONCE]


# -- signals and kills ----------------------------------------------------------------------------


def large(sh: Shell, index: int) -> None:
    """Have the first attempt of process *index* leave an output that takes a second to read."""
    (sh.path / f"large.{index}.1").touch()


def has_ended(sh: Shell, attempt: str) -> bool:
    return bool(list(sh.states.glob(f"*/attempts/{attempt}.exit")))


def test_ctrl_c_is_answered_while_a_large_output_is_taken(sh: Shell) -> None:
    """What was not taken is by the next resume, and its process is not run again."""
    large(sh, 0)
    sh.hold()
    run = sh.start("run", "e.toml", "--jobs", "1")
    until(lambda: began(sh) == ["0.1"])
    # It hears of the end and of Ctrl-C at one time, and is faster than the output is read.
    run.send_signal(signal.SIGSTOP)
    (sh.path / "go.0").touch()
    until(lambda: has_ended(sh, "0.1"))
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGCONT)
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == -signal.SIGINT, err
    assert "Traceback" not in err
    assert "what attempt 0.1 left was still being checked" in err
    sh.let_go()
    sh("resume", "@last")
    check(sh)
    assert [name for name in began(sh) if name.startswith("0")] == ["0.1"]


def test_another_process_completes_while_a_large_output_is_taken(sh: Shell) -> None:
    """The loop hears: what ends later is recorded before."""
    large(sh, 0)
    sh.hold()
    run = sh.start("run", "e.toml")
    until(lambda: began(sh) == ONCE)
    (sh.path / "go.0").touch()
    until(lambda: len(alive(sh.path)) == 2)
    sh.let_go()
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, f"{out}\n{err}"
    check(sh)
    changes = [each["process"] for each in recorded(sh, "complete") if "process" in each]
    assert sorted(changes) == [0, 1, 2]
    assert changes[-1] == 0


def test_an_attempt_that_ended_unwatched_is_adopted_with_its_outputs(sh: Shell) -> None:
    """Killed between the exit and its record: nothing runs twice, and the outputs are proven."""
    sh.hold()
    run = sh.start("run", "e.toml")
    until(lambda: began(sh) == ONCE)
    kill(run)
    sh.let_go()
    until(lambda: all(has_ended(sh, name) for name in ONCE))
    assert [each["action"] for each in sh.json("run", "e.toml", "-n")["processes"]] == ["skip"] * 3
    assert state_of(sh).processes_running == 3
    sh("resume", "@last")
    check(sh)
    assert began(sh) == ONCE


def test_an_output_that_is_gone_when_its_attempt_is_adopted_fails_it(sh: Shell) -> None:
    """As if it had never been written; whoever only looks says the same."""
    sh.hold()
    run = sh.start("run", "e.toml")
    until(lambda: began(sh) == ONCE)
    kill(run)
    sh.let_go()
    until(lambda: all(has_ended(sh, name) for name in ONCE))
    (sh.path / "model-1.pt").unlink()
    told = "attempt 1 failed while nobody watched (output model-1.pt is missing); no attempt left"
    plan = sh.json("run", "e.toml", "-n")["processes"]
    assert [each["action"] for each in plan] == ["skip"] * 3
    assert plan[0]["why"] == told
    sh("resume", "@last", code=3)
    assert each(state_of(sh), "status") == ["failed", "completed", "completed"]


def test_killed_while_a_large_output_is_taken_it_is_adopted(sh: Shell) -> None:
    """The record of its completion was not there yet: the next resume reads the output anew."""
    large(sh, 0)
    run = sh.start("run", "e.toml", "--jobs", "1")
    until(lambda: has_ended(sh, "0.1"))
    kill(run)
    sh("resume", "@last")
    check(sh)
    assert [name for name in began(sh) if name.startswith("0")] == ["0.1"]
