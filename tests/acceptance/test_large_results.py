"""While a result of tens of megabytes is accepted, everything else goes on."""

import os
import signal
from collections.abc import Iterator

import pytest

from holdfast.store.manager import StateManager
from shell import Shell
from waiting import PATIENCE_S, until

#: Process 0 leaves a result that takes seconds to check, and the other ends once it has ended.
WORKER = """
import fcntl, os, time
from pathlib import Path
index, result = os.environ["HOLDFAST_INDEX"], Path(os.environ["HOLDFAST_RESULT"])
lives = open("lives", "a")
if index == "0":
    fcntl.flock(lives, fcntl.LOCK_EX)
    Path("locked").touch()
Path(f"began.{index}.{os.environ['HOLDFAST_ATTEMPT']}").touch()
if index == "0":
    while os.path.exists("stay"):
        time.sleep(0.001)
    result.write_text('{"acc": 1, "w": [' + ",".join(["[]"] * 16_000_000) + "]}")
else:
    while os.path.exists("hold") or not os.path.exists("locked"):
        time.sleep(0.001)
    fcntl.flock(lives, fcntl.LOCK_EX)
    result.write_text("1")
"""


@pytest.fixture
def large(sh: Shell) -> Shell:
    (sh.path / "large.py").write_text(WORKER)
    (sh.path / "large.toml").write_text(
        'command = ["python", "large.py"]\nprocesses = 2\n[limits]\njobs = 2\ngrace = "5s"\n'
    )
    return sh


def steps(sh: Shell) -> Iterator[tuple[int, str]]:
    """What was recorded of the processes, in its order."""
    for step in StateManager(sh.states).history(sh.only_id()):
        if step.index is not None and step.source != step.target:
            yield step.index, str(step.event)


def has_ended(sh: Shell, attempt: str) -> bool:
    return bool(list(sh.states.glob(f"*/attempts/{attempt}.exit")))


def test_another_process_is_recorded_while_a_large_result_is_accepted(large: Shell) -> None:
    """It ends after the one with the large result, and completes before it."""
    large("run", "large.toml")
    completed = [process for process, event in steps(large) if event == "complete"]
    assert completed == [1, 0]


def test_ctrl_c_is_answered_while_a_large_result_is_accepted(large: Shell) -> None:
    """What runs is stopped at once; what was not accepted yet is, by the next resume."""
    large.hold()
    (large.path / "stay").touch()
    run = large.start("run", "large.toml")
    large.began(2)
    # It hears of the end and of Ctrl-C at one time, and is faster than the result is checked.
    run.send_signal(signal.SIGSTOP)
    (large.path / "stay").unlink()
    until(lambda: has_ended(large, "0.1"))
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGCONT)
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == -signal.SIGINT, err
    assert "Traceback" not in err
    assert "--force" not in err
    assert next(step for step in steps(large) if step[1] != "start") == (1, "requeue")
    large.let_go()
    large("resume", "@last")
    assert list(steps(large))[-1][1] == "complete"
    assert sorted(path.name for path in large.path.glob("began.*")) == [
        "began.0.1", "began.1.1", "began.1.2"
    ]  # fmt: skip


def test_a_resume_starts_what_is_left_while_it_accepts_a_large_result(large: Shell) -> None:
    """Left by an orchestrator that was killed before it could have accepted it."""
    (large.path / "large.toml").write_text(
        (large.path / "large.toml").read_text().replace("jobs = 2", "jobs = 1")
    )
    (large.path / "stay").touch()
    run = large.start("run", "large.toml")
    large.began(1)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    (large.path / "stay").unlink()
    until(lambda: has_ended(large, "0.1"))
    large("resume", "@last")
    assert list(steps(large)) == [(0, "start"), (1, "start"), (1, "complete"), (0, "complete")]
    assert sorted(path.name for path in large.path.glob("began.*")) == ["began.0.1", "began.1.1"]
