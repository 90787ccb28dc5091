"""`holdfast stop` ends what runs, whoever runs it, and from wherever it is typed."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName, names
from holdfast.store.manager import StateManager
from holdfast.store.requests import StopRequest
from launched import alive
from shell import Shell
from waiting import until

#: Says that it has begun, and waits; `deaf` to TERM, or slow to save, if a file says so.
WORKER = """
import os, signal, sys, time
index = os.environ["HOLDFAST_INDEX"]
def save(*_):
    if os.path.exists("slow"):
        time.sleep(1)
    open(f"saved.{index}", "w").close()
    sys.exit(0)
if os.path.exists("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif os.path.exists("saves"):
    signal.signal(signal.SIGTERM, save)
open(f"began.{index}.{os.environ['HOLDFAST_ATTEMPT']}", "w").close()
while os.path.exists("hold") and not os.path.exists(f"go.{index}"):
    time.sleep(0.01)
"""

FILE = """
name = "held"
command = ["python", "-S", "work.py", "{level}"]
[matrix]
level = [0, 1, 2, 3]
[limits]
jobs = 2
grace = "30s"
"""


@pytest.fixture
def held(sh: Shell) -> Iterator[Shell]:
    """A directory with an experiment whose processes go on until they are let go."""
    (sh.path / "work.py").write_text(WORKER)
    (sh.path / "e.toml").write_text(FILE)
    sh.hold()
    yield sh
    for process in sh.started:
        process.kill()
        process.communicate()
    for pid in alive(sh.path):
        os.kill(pid, signal.SIGKILL)


def running(sh: Shell, *args: str) -> "subprocess.Popen[str]":
    """A run of which two processes have begun."""
    run = sh.start("run", "e.toml", *args)
    sh.began(2)
    return run


def is_over(sh: Shell, run: "subprocess.Popen[str]", code: int = 130) -> str:
    """The run ended with *code*, nothing of it lives; what it said."""
    _, err = run.communicate(timeout=30)
    assert run.returncode == code, err
    assert alive(sh.path) == []
    state = StateManager(sh.states).load(sh.only_id())
    assert (str(state.status), str(state.reason)) == ("interrupted", "user")
    assert state.processes_pending == 4 - state.processes_completed
    return err


def shim_of(sh: Shell, name: AttemptName) -> int:
    identity = live_state(sh.states / sh.only_id(), name).identity
    assert identity is not None
    assert identity.pid is not None
    return identity.pid


def attempts(sh: Shell) -> list[AttemptName]:
    return names(sh.states / sh.only_id(), sh.only_id())


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def is_halted(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def halt(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_halted(pid))


# -- somebody drives it -----------------------------------------------------------------------


def test_a_run_is_stopped_from_another_terminal(held: Shell) -> None:
    """Its owner hears it, stops everything, and exits with 130; who asked stands in the history."""
    run = running(held)
    out, err = held("stop", "held")
    assert out == ""
    assert "asked pid" in err
    assert "interrupted, 0 of 4 processes completed\nnext: " in err
    said = is_over(held, run)
    assert "asked by pid" in said
    assert "stopping 2 processes" in said
    history = StateManager(held.states).history(held.only_id())
    [interrupt] = [each for each in history if each.event == "interrupt"]
    assert interrupt.evidence is not None
    assert interrupt.evidence.startswith("asked by pid ")
    held.let_go()
    held("resume", "held")


def test_what_is_stopped_already_stays_as_it_is(held: Shell) -> None:
    """Whoever types it twice is told so, and that all is well."""
    run = running(held)
    held("stop", "held")
    is_over(held, run)
    before = StateManager(held.states).load(held.only_id())
    _, err = held("stop", "held")
    assert "interrupted already, nothing of it runs" in err
    held.let_go()
    held("resume", "held")
    assert "aggregated already" in held("stop", "held")[1]
    assert before.revision < StateManager(held.states).load(held.only_id()).revision


def test_a_stopped_run_does_not_end_the_loop_around_it(held: Shell) -> None:
    """Only Ctrl-C means the loop, too: the run exits with 130 and is not ended by a signal."""
    run = running(held)
    held("stop", "held")
    run.communicate(timeout=30)
    assert run.returncode == 130


def test_two_stops_at_once_are_as_good_as_one(held: Shell) -> None:
    """Both wait, both are told how it ended."""
    run = running(held)
    both = [held.start("stop", "held") for _ in range(2)]
    for each in both:
        _, err = each.communicate(timeout=30)
        assert each.returncode == 0, err
        assert "interrupted" in err
    is_over(held, run)


def test_a_later_owner_is_not_meant(held: Shell) -> None:
    """A request is for the owner that there was: a resume that comes after it goes on."""
    run = running(held)
    halt(run.pid)
    StateManager(held.states).lookout(held.only_id()).ask(StopRequest())
    kill(run)
    held.let_go()
    held("resume", "held")
    assert str(StateManager(held.states).load(held.only_id()).status) == "aggregated"


def test_an_owner_that_is_killed_after_the_request_is_no_excuse(held: Shell) -> None:
    """`stop` sees that nobody is left who could, and does it itself."""
    run = running(held)
    halt(run.pid)
    stop = held.start("stop", "held")
    folder = held.states / held.only_id()
    until(lambda: (folder / "stop.1").exists())
    kill(run)
    _, err = stop.communicate(timeout=60)
    assert stop.returncode == 0, err
    assert alive(held.path) == []
    state = StateManager(held.states).load(held.only_id())
    assert (str(state.status), str(state.reason)) == ("interrupted", "user")


def test_an_owner_that_sleeps_is_woken(held: Shell) -> None:
    """Ctrl-Z, or SIGSTOP: proven to be who holds the lock, it is continued, and hears."""
    run = running(held)
    halt(run.pid)
    _, err = held("stop", "held")
    assert f"pid {run.pid}" in err
    assert "it was woken to hear this" in err
    is_over(held, run)


def test_a_shim_that_sleeps_is_woken(held: Shell) -> None:
    """With an owner, and without one."""
    run = running(held)
    for name in attempts(held):
        halt(shim_of(held, name))
    held("stop", "held")
    is_over(held, run)


# -- nobody drives it -------------------------------------------------------------------------


def test_what_a_dead_orchestrator_left_is_stopped(held: Shell) -> None:
    """What ended by itself meanwhile is completed, and counted."""
    run = running(held)
    kill(run)
    (held.path / "go.0").touch()
    first, _ = attempts(held)
    until(lambda: live_state(held.states / held.only_id(), first).kind == "free")
    _, err = held("stop", "held")
    assert "nobody drives it, and 1 attempt runs on: stopping and recording that" in err
    assert "interrupted, 1 of 4 processes completed" in err
    assert alive(held.path) == []
    state = StateManager(held.states).load(held.only_id())
    assert (state.processes_completed, state.processes_pending) == (1, 3)
    assert str(state.reason) == "user"


def test_an_orphan_whose_shim_sleeps_is_stopped(held: Shell) -> None:
    """Nobody drives it, and the shim hears nothing as long as it is stopped."""
    kill(running(held))
    for name in attempts(held):
        halt(shim_of(held, name))
    held("stop", "held")
    assert alive(held.path) == []


def test_a_stale_experiment_without_anything_left_is_marked(held: Shell) -> None:
    """The orchestrator and everything else died: `stop` says so in the record."""
    kill(running(held))
    held.let_go()
    until(lambda: alive(held.path) == [])
    _, err = held("stop", "held")
    assert "interrupted, 2 of 4 processes completed" in err
