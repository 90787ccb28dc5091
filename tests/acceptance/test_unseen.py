"""What nobody sees to is said in every view: a shim that was stopped, attempts without an owner."""

import os
import re
import shlex
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.attempts.files import live_state, read_exit
from holdfast.attempts.names import AttemptName
from holdfast.store.manager import StateManager
from processes import hear
from shell import Shell, Terminal
from waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def shim_of(sh: Shell, index: int) -> int:
    folder = sh.states / sh.only_id()
    name = AttemptName.of_process("", index, 1)
    identity = until(lambda: live_state(folder, name).identity)
    assert identity is not None
    assert identity.pid is not None
    return identity.pid


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def orphaned(sh: Shell) -> None:
    """Two processes run on, and their orchestrator was killed."""
    sh.hold()
    run = sh.start("run", "e.toml")
    sh.began(2)
    run.kill()
    run.communicate()


def test_a_stopped_shim_is_told_by_every_view(sh: Shell) -> None:
    """Its timeout is not enforced: who waits for it must learn why, and how to mend it."""
    sh.hold()
    run = sh.start("run", "e.toml")
    sh.began(2)
    shim = shim_of(sh, 1)
    stop(shim)
    words = f"shim {shim} is stopped (SIGSTOP): its timeout is not enforced"
    told = re.escape(words)
    assert re.search(rf"process 1: {told}.*kill -CONT {shim}", sh("show", "@last")[0])
    doctor = sh("doctor")[0]
    assert re.search(rf"hint .*1\.1\.live: attempt 1\.1: {told}", doctor)
    assert doctor.count("is stopped") == 1
    assert f"kill -CONT {shim}" in doctor
    hear(run.stderr, f"attempt 1.1 goes unwatched: {words}")
    os.kill(shim, signal.SIGCONT)
    sh.let_go()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert "is stopped" not in err  # said once


def test_a_stopped_shim_is_told_on_a_terminal_as_long_as_it_is(sh: Shell) -> None:
    """The live view has it below the process, until it goes on."""
    sh.hold()
    terminal = Terminal(sh, "run", "e.toml", columns=200)
    sh.began(2)
    shim = shim_of(sh, 0)
    stop(shim)
    terminal.read(rf"level=1\b[^\n]*\n[^\n]*shim {shim} is stopped .*kill -CONT {shim}")
    os.kill(shim, signal.SIGCONT)
    sh.let_go()
    assert terminal.exit_code() == 0


def test_a_stopped_shim_without_an_owner_is_told_by_who_would_adopt_it(sh: Shell) -> None:
    """A dry run and `show` say so beside what a resume would do."""
    orphaned(sh)
    shim = shim_of(sh, 0)
    stop(shim)
    plan = sh.json("run", "e.toml", "--dry-run")["processes"]
    assert isinstance(plan, list)
    assert f"kill -CONT {shim}" in plan[0]["why"]
    assert "kill" not in plan[1]["why"]
    assert f"kill -CONT {shim}" in sh("show", "@last")[0]
    os.kill(shim, signal.SIGCONT)
    sh.let_go()


def test_the_doctor_names_attempts_that_run_without_an_owner(sh: Shell) -> None:
    """Nothing is wrong with them: a hint, exit code 0, and the command that stops them works."""
    orphaned(sh)
    out, err = sh("doctor")
    assert "nothing is wrong" not in err
    assert "hint  attempt " in out
    assert "2 attempts run on without an owner: 0.1, 1.1 (0.1: its lock is held)" in out
    line = next(line for line in out.splitlines() if "`resume`" in line)
    command = line.partition("takes it over instead: ")[2]
    sh(*shlex.split(command)[3:])
    assert sh("doctor")[0] == ""


def test_the_doctor_names_what_a_dead_shim_left(sh: Shell) -> None:
    """With the pids of what runs."""
    orphaned(sh)
    os.kill(shim_of(sh, 0), signal.SIGKILL)
    out = until(lambda: (found := sh("doctor")[0]) and "its shim is dead" in found and found)
    assert re.search(r"these processes of it run on: \d+ \(", out)
    sh.let_go()
    folder = sh.states / sh.only_id()
    until(lambda: read_exit(folder, AttemptName.of_process("", 1, 1)))
    until(lambda: "run on" not in sh("doctor")[0])


def test_time_goes_on_while_attempts_outlive_their_owner(sh: Shell) -> None:
    """They are counted, and every view's time is until now; a resume need not be told twice."""
    orphaned(sh)
    state = StateManager(sh.states).load(sh.only_id())
    recorded_s = (state.last_updated - state.started_at).total_seconds()
    until(lambda: (datetime.now(UTC) - state.started_at).total_seconds() > recorded_s + 1)
    out, err = sh("ls")
    assert "running (owner dead), 2 run on" in out
    assert err.count("resume") == 1
    [listed] = sh.json("ls")["experiments"]
    assert listed["attempts_alive"] == 2
    assert listed["elapsed_s"] > recorded_s + 1
    assert listed["eta_s"] is None  # nobody starts the third
    assert re.search(r"^time .* so far$", sh("show", "@last")[0], re.MULTILINE)
    sh.let_go()


def test_without_a_living_attempt_time_ends_at_the_last_sign(sh: Shell) -> None:
    """The exit records and reports are later than what the dead owner recorded; now is a guess."""
    orphaned(sh)
    sh.let_go()
    folder = sh.states / sh.only_id()
    ends = [
        until(lambda index=index: read_exit(folder, AttemptName.of_process("", index, 1))).ended_at
        for index in (0, 1)
    ]
    began = StateManager(sh.states).load(sh.only_id()).started_at
    until(lambda: sh.json("ls")["experiments"][0]["attempts_alive"] == 0)
    [listed] = sh.json("ls")["experiments"]
    assert abs(listed["elapsed_s"] - (max(ends) - began).total_seconds()) < 0.05
    assert "run on" not in sh("ls")[0]
    assert not re.search(r"^time .* so far$", sh("show", "@last")[0], re.MULTILINE)


def test_attempts_of_an_owner_that_lives_are_no_finding(sh: Shell) -> None:
    """Somebody sees to them."""
    sh.hold()
    run = sh.start("run", "e.toml")
    sh.began(2)
    assert sh("doctor")[0] == ""
    sh.let_go()
    run.communicate(timeout=PATIENCE_S)
