"""Logs that are followed end when nothing more can come, and what was silent is told."""

import subprocess

import pytest

from holdfast.attempts.files import read_exit
from holdfast.attempts.names import AttemptName
from holdfast.store.manager import StateManager
from processes import hear
from shell import FILE, Shell
from waiting import PATIENCE_S, until


@pytest.fixture
def left(sh: Shell) -> Shell:
    """An experiment whose orchestrator died while two of its processes ran and one waited."""
    with (sh.path / "work.py").open("a") as file:
        file.write('print("bye", flush=True)\n')
    sh.hold()
    run = sh.start("run", "e.toml")
    sh.began(2)
    run.kill()
    run.communicate()
    return sh


def ended(sh: Shell) -> None:
    """Wait until what the dead orchestrator had begun has recorded its end."""
    sh.let_go()
    folder = sh.states / sh.only_id()
    until(lambda: all(read_exit(folder, AttemptName("", i, 1)) for i in (0, 1)))


@pytest.mark.parametrize("which", ["", "/0", "/2"])
def test_logs_are_not_followed_for_a_dead_owner(left: Shell, which: str) -> None:
    """All, one that ended unwatched, one that never began: it returns, and says how to go on."""
    ended(left)
    _, err = left("logs", "-f", f"@last{which}")
    assert "is dead; go on: " in err
    assert err.rstrip().endswith(f"resume {left.only_id()}")


def test_logs_of_what_outlives_its_owner_are_followed_to_its_end(left: Shell) -> None:
    """What runs under its own shim writes on, and its last words are printed."""
    follower = left.start("logs", "-f", "-o", "@last")
    assert follower.stdout is not None
    hear(follower.stdout, "out 1")
    ended(left)
    out, err = follower.communicate(timeout=PATIENCE_S)
    assert follower.returncode == 0
    assert out.count("bye") == 2
    assert "is dead; go on: " in err


def test_logs_of_what_a_cleanup_interrupted_are_followed_while_it_runs(left: Shell) -> None:
    """The record says interrupted; the process writes on."""
    left("cleanup")
    follower = left.start("logs", "-f", "-o", "@last/0")
    with pytest.raises(subprocess.TimeoutExpired):
        follower.wait(2.5)  # it looks for news every second
    ended(left)
    assert follower.communicate(timeout=PATIENCE_S)[0] == "out 0\nbye\n"
    assert follower.returncode == 0


def test_logs_of_an_aggregation_whose_owner_died_are_not_waited_for(sh: Shell) -> None:
    """The experiment stays completed for ever."""
    sh("run", "e.toml", "--no-aggregate")
    assert "has written nothing yet" in sh("logs", "-f", "@last/aggregate")[1]


def test_what_ended_without_a_word_wrote_nothing(sh: Shell) -> None:
    """`yet` is for what may still come."""
    sh.hold()
    (sh.path / "work.py").write_text(
        "import os, time\nopen('began.0.1', 'w')\nwhile os.path.exists('hold'): time.sleep(0.01)\n"
    )
    run = sh.start("run", "e.toml")
    sh.began(1)
    assert "has written anything yet" in sh("logs", "@last")[1]
    assert "/2 has written nothing yet" in sh("logs", "@last/2")[1]
    sh.let_go()
    assert run.wait(PATIENCE_S) == 0
    assert "/0 wrote nothing" in sh("logs", "@last/0")[1]
    assert "no process of" in (err := sh("logs", "@last")[1])
    assert "wrote anything" in err


def test_a_command_that_cannot_be_launched_points_to_no_empty_log(sh: Shell) -> None:
    """Its message is all there is."""
    (sh.path / "e.toml").write_text(FILE.replace('"python", "work.py"', '"./simulate"'))
    _, err = sh("run", "e.toml", code=3)
    assert "./simulate" in err
    assert " logs " not in err
    assert " logs " not in sh("show", "@last")[0]


def test_the_log_of_a_process_is_not_that_of_a_longer_name(sh: Shell) -> None:
    """`e/1` is process 1 of e, whatever else begins so; an experiment called `e/1` is itself."""
    manager = StateManager(sh.states)
    sh("run", "--procs", "3", "--", "sh", "-c", "echo process $HOLDFAST_INDEX")
    found = sh.only_id()
    for name in ("10", "11"):
        manager.create(f"{found}/{name}", num_processes=1)
    (sh.states / "zz.json").write_text("{")
    assert sh("logs", "-o", f"{found}/1") == ("process 1\n", "")
    manager.create(f"{found}/1", num_processes=1)
    assert sh("logs", "-o", f"{found}/1")[0] == ""
