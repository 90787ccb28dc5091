"""What happened while nobody watched is told before anything is done about it, and done right."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import liveness
from holdfast.attempts.files import live_state, read_exit
from holdfast.attempts.names import AttemptName
from holdfast.config.experiment_file import load_config
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import decoding
from holdfast.store.manager import StateManager
from shell import Shell
from waiting import PATIENCE_S, until

#: Process 0 ends well, 1 ends badly, 2 and 3 go on: the last until its shim is killed.
WORKER = """
import os, sys, time
index = int(os.environ["HOLDFAST_INDEX"])
open(f"began.{index}.{os.environ['HOLDFAST_ATTEMPT']}", "w").close()
while os.path.exists("hold") or (os.path.exists("longer") and index > 1):
    time.sleep(0.01)
sys.exit(7 if index == 1 and os.path.exists("bad") else 0)
"""


@pytest.fixture
def left(sh: Shell) -> Iterator[Shell]:
    """An experiment whose orchestrator died while all four of its processes ran."""
    (sh.path / "work.py").write_text(WORKER)
    (sh.path / "bad").touch()
    (sh.path / "longer").touch()
    sh.hold()
    run = sh.start("run", "e.toml", "--set", "level=[1,2,3,4]", "-j", "4")
    sh.began(4)
    run.kill()
    run.communicate()
    sh.let_go()
    folder = sh.states / sh.only_id()
    until(lambda: all(read_exit(folder, AttemptName.of_process("", i, 1)) for i in (0, 1)))
    lost = AttemptName.of_process("", 3, 1)
    shim = live_state(folder, lost).identity
    assert shim is not None
    assert shim.pid is not None
    os.kill(shim.pid, signal.SIGKILL)
    # Its lock is free a moment before it is gone.
    until(lambda: liveness.judge(shim).kind == "dead")
    yield sh
    (sh.path / "longer").unlink(missing_ok=True)


def test_a_dry_run_tells_what_became_of_each_process(left: Shell) -> None:
    """Completed, failed, still running, died: what a resume would do with each, and why."""
    plan = left.json("run", "e.toml", "--set", "level=[1,2,3,4]", "--dry-run")
    told = [(each["action"], each["why"]) for each in plan["processes"]]
    assert [action for action, _ in told] == ["skip", "skip", "adopt", "run"]
    assert "completed while nobody watched" in told[0][1]
    assert "failed while nobody watched (exit code 7); no attempt left" in told[1][1]
    assert "to be taken over" in told[2][1]
    assert told[3][1].startswith("attempt 1 died; what it left is stopped first: ")


def test_what_was_told_is_what_a_resume_does(left: Shell) -> None:
    """One runs again, the one that died; the failure counts."""
    (left.path / "longer").unlink()
    left("resume", "@last", code=3)
    began = sorted(path.name for path in left.path.glob("began.*"))
    assert began == ["began.0.1", "began.1.1", "began.2.1", "began.3.1", "began.3.2"]
    (left.path / "bad").unlink()
    left("resume", "@last")
    assert len(list(left.path.glob("began.*"))) == 6


def test_show_tells_what_became_of_each_process(left: Shell) -> None:
    """The record still says running; the files say more."""
    out, _ = left("show", "@last")
    assert "completed while nobody watched" in out
    assert "failed while nobody watched" in out
    assert "died" in out
    assert "completed while nobody watched" in left("show", "@last/0")[0]
    assert "died" in left("show", "@last/3")[0]


def test_show_of_a_copy_of_a_running_experiment_asks_whether_it_is_one(sh: Shell) -> None:
    """Nothing locks the copy's files, yet the shims that they name run: nothing has died."""
    sh.hold()
    sh.start("run", "e.toml", "-j", "3")
    sh.began(3)
    # Without what its owner writes at this moment, and renames.
    shutil.copytree(sh.states, sh.path / "copy", ignore=shutil.ignore_patterns(".tmp-*"))
    out, _ = sh("-C", "copy", "show", "@last")
    assert out.count("is this a copy of a running experiment?") == 3
    assert "died" not in out
    assert "is this a copy" in sh("-C", "copy", "resume", "@last", code=5)[1]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "lost process 0 (level=5): attempt 1 was killed with its shim"),
        (
            signal.SIGTERM,
            "interrupted process 0 (level=5): attempt 1 was interrupted by signal 15 from outside "
            "(killed by signal 15)",
        ),
    ],
)
def test_what_ends_an_attempt_from_outside_is_told(
    sh: Shell, number: signal.Signals, told: str
) -> None:
    """Its process begins anew: whoever watches wonders why it takes so long."""
    sh.hold()
    run = sh.start("run", "e.toml", "--set", "level=[5]")
    sh.began(1)
    folder = sh.states / sh.only_id()
    shim = live_state(folder, AttemptName.of_process("", 0, 1)).identity
    assert shim is not None
    assert shim.pid is not None
    os.kill(shim.pid, number)
    sh.began(2)
    sh.let_go()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert f"{told}; not charged to its retries" in err


def test_what_never_began_is_told_as_that(sh: Shell) -> None:
    """Its start was recorded, and its orchestrator was gone before any command was launched."""
    manager = StateManager(sh.states)
    experiment = load_config(sh.path / "e.toml", {"level": "[5]"})
    manager.create(
        "exp_1",
        num_processes=1,
        config=experiment.to_config(),
        config_hash=experiment.config_hash(sh.states),
        cwd=str(sh.path),
    )
    with manager.claim("exp_1") as claim:
        claim.record("start")
        claim.record("start", 0)
    _, err = sh("resume", "exp_1")
    assert (
        "restarting process 0 (level=5): attempt 1 never began; not charged to its retries" in err
    )
    history, _ = sh("show", "exp_1", "--history")
    assert "it never began, and was revoked" in history


def test_a_lost_result_is_told_and_made_again(sh: Shell) -> None:
    """A completed process whose result is gone by now runs again before the aggregation."""
    sh("run", "e.toml", "--no-aggregate")
    folder = sh.states / sh.only_id()
    (folder / "results" / "1.1.json").unlink()
    plan = sh.json("run", "e.toml", "--dry-run")
    assert [each["action"] for each in plan["processes"]] == ["skip", "run", "skip"]
    assert "is lost" in plan["processes"][1]["why"]
    out, _ = sh("resume", "@last")
    assert "square" in out
    assert (folder / "results" / "1.2.json").exists()


def test_a_process_that_was_killed_is_told_with_its_signal(sh: Shell) -> None:
    """There is no exit code to be told."""
    _, err = sh("run", "--procs", "1", "--", "sh", "-c", "kill -9 $$", code=3)
    assert "signal 9" in err
    assert "signal 9" in sh("show", "@last")[0]


def test_an_own_aggregate_is_printed(sh: Shell) -> None:
    """A mapping of plain values as a table, anything else as JSON."""
    words = 'import json, os; json.dump(json.loads(os.environ["V"]), open(os.environ["R"], "w"))'
    words = words.replace('"R"', '"HOLDFAST_RESULT"')
    aggregate = f"[aggregate]\ncommand = ['python', '-c', '''{words}''']\n"
    with (sh.path / "e.toml").open("a") as file:
        file.write(aggregate)
    plain = {"best": 2.5, "sure": True, "none": None, "many": 1234567.0}
    out, _ = sh("run", "e.toml", env={"V": json.dumps(plain)})
    assert [line.split() for line in out.splitlines()[-4:]] == [
        ["best", "2.5"],
        ["sure", "true"],
        ["none"],
        ["many", "1234567"],
    ]
    nested = {"best": {"level": 3}}
    out, _ = sh("run", "e.toml", "--fresh", env={"V": json.dumps(nested)})
    assert out.endswith('{\n  "best": {\n    "level": 3\n  }\n}\n')


def test_the_demo_runs_and_says_what_to_do_next(sh: Shell) -> None:
    """What its user has changed by then is used as it is."""
    folder = sh.path / "holdfast-demo"
    folder.mkdir()
    (folder / "experiment.toml").write_text('command = ["python", "measure.py"]\nprocesses = 1\n')
    (folder / "measure.py").write_text("print('mine')\n")
    _, err = sh("demo")
    assert f"{Path('holdfast-demo') / 'measure.py'} is yours by now" in err
    assert "completed and aggregated" in err
    assert "kill it half way, and go on with" in err
    assert sh("logs", "@last/0", "-o")[0] == "mine\n"


def test_what_is_refused_leaves_the_trace_of_the_dead_owner(left: Shell) -> None:
    """A refused rm or aggregate owns nothing: whose death is proven later is who died."""
    found = left.only_id()
    before = StateManager(left.states).load(found)
    left("rm", found, code=5)
    left("aggregate", found, code=1)
    assert StateManager(left.states).load(found) == before
    left("cleanup")
    claims = [step.actor for step in StateManager(left.states).history(found)]
    assert len(set(claims)) == 2, "the orchestrator and the cleanup"


def _view(path: Path) -> ExperimentState:
    return decoding.state_from_json(json.loads(path.read_bytes()), path)


def test_processes_whose_folder_was_removed_are_not_run_beside_themselves(sh: Shell) -> None:
    """Only the view knows of them: it is said that they live, and nothing starts until they end."""
    (sh.path / "work.py").write_text(WORKER)
    sh.hold()
    run = sh.start("run", "e.toml", "-j", "3")
    sh.began(3)
    (view,) = sh.states.glob("*.json")
    until(lambda: view.read_text().count('"pid"') == 1 + 3)
    run.kill()
    run.communicate()
    shutil.rmtree(view.with_suffix(""))
    assert sh("show", "@last")[0].count("its files are gone, yet") == 3
    _, told = sh("resume", "@last", code=5)
    assert "its files are gone" in told
    assert len(list(sh.path.glob("began.*"))) == 3
    shims = [
        process.identity.pid
        for process in _view(view).process_progress.values()
        if process.identity is not None and process.identity.pid is not None
    ]
    assert len(shims) == 3
    sh.let_go()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in shims))
    sh("resume", "@last")
    assert "aggregated" in sh("ls")[0]


def test_a_listing_does_not_hide_an_aggregation_that_was_left(sh: Shell) -> None:
    """Its experiment is completed, and its command runs on without an owner."""
    file = sh.path / "own.toml"
    script = "touch aggregates; while [ -e hold ]; do sleep 0.02; done"
    file.write_text(
        f'command = ["true"]\nprocesses = 1\n[aggregate]\ncommand = ["sh", "-c", "{script}"]\n'
    )
    (sh.path / "hold").touch()
    run = sh.start("run", "own.toml")
    until((sh.path / "aggregates").exists)
    assert [each["attempts_alive"] for each in sh.json("ls")["experiments"]] == [0]
    run.kill()
    run.communicate()
    out, err = sh("ls")
    assert "completed, 1 run on" in out
    assert "may run on without an owner; stop what runs: " in err
    for verb in ("stop", "resume"):
        assert f"-m holdfast {verb} {sh.only_id()}" in err
    (sh.path / "hold").unlink()
    sh("resume", "@last")
    assert [each["attempts_alive"] for each in sh.json("ls")["experiments"]] == [0]
