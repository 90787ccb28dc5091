"""`holdfast stop` ends what runs, whoever runs it, and from wherever it is typed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import doctor
from holdfast.attempts.files import live_state, read_exit
from holdfast.attempts.names import AttemptName, names
from holdfast.store.manager import StateManager
from holdfast.store.requests import StopRequest
from launched import alive
from processes import hear
from shell import Shell
from waiting import PATIENCE_S, until

#: Says that it has begun, and waits; `deaf` to TERM, or slow to save, if a file says so: by a
#: second, or for as long as it may `stay`.
WORKER = """
import os, signal, sys, time
index = os.environ["HOLDFAST_INDEX"]
def save(*_):
    if os.path.exists("slow"):
        time.sleep(1)
    while os.path.exists("stay"):
        time.sleep(0.01)
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
grace = "10m"
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
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def running(sh: Shell, *args: str) -> "subprocess.Popen[str]":
    """A run of which two processes have begun."""
    run = sh.start("run", "e.toml", *args)
    sh.began(2)
    return run


def is_over(sh: Shell, run: "subprocess.Popen[str]", code: int = 130) -> str:
    """The run ended with *code*, nothing of it lives; what it said."""
    _, err = run.communicate(timeout=PATIENCE_S)
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


def is_over_by_itself(sh: Shell, name: AttemptName) -> bool:
    """Whether its shim has published how it ended, and is gone."""
    return live_state(sh.states / sh.only_id(), name).kind == "free"


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
    for name in ("saves", "stay"):
        (held.path / name).touch()
    run = running(held)
    stop = held.start("stop", "held")
    # It looks a moment later, and has nothing to tell of a run that is over by then.
    hear(stop.stderr, "asked pid")
    (held.path / "stay").unlink()
    out, err = stop.communicate(timeout=PATIENCE_S)
    assert (stop.returncode, out) == (0, "")
    assert "interrupted (user), 0 of 4 processes completed\nnext: " in err
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
    assert "nothing is running: interrupted (user)" in err
    held.let_go()
    held("resume", "held")
    assert "nothing is running: aggregated" in held("stop", "held")[1]
    assert before.revision < StateManager(held.states).load(held.only_id()).revision


def test_a_stopped_run_does_not_end_the_loop_around_it(held: Shell) -> None:
    """Only Ctrl-C means the loop, too: the run exits with 130 and is not ended by a signal."""
    run = running(held)
    held("stop", "held")
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130


def test_two_stops_at_once_are_as_good_as_one(held: Shell) -> None:
    """Both wait, both are told how it ended."""
    run = running(held)
    both = [held.start("stop", "held") for _ in range(2)]
    for each in both:
        _, err = each.communicate(timeout=PATIENCE_S)
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
    _, err = stop.communicate(timeout=PATIENCE_S)
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
    until(lambda: is_over_by_itself(held, first))
    _, err = held("stop", "held")
    assert "nobody drives it, and 1 attempt runs on: asking it to stop" in err
    assert "interrupted (user), 1 of 4 processes completed" in err
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
    until(lambda: all(is_over_by_itself(held, name) for name in attempts(held)))
    assert alive(held.path) == []
    _, err = held("stop", "held")
    assert "interrupted (user), 2 of 4 processes completed" in err


def test_ctrl_c_ends_the_waiting_alone(held: Shell) -> None:
    """What was asked to stop goes on stopping, in the time that it was given."""
    (held.path / "deaf").touch()
    kill(running(held))
    stop = held.start("stop", "held")
    folder = held.states / held.only_id()
    until(lambda: all((folder / f"attempts/{name}.stop").exists() for name in attempts(held)))
    until(lambda: StateManager(held.states).liveness(held.only_id()).kind == "alive")
    stop.send_signal(signal.SIGINT)
    _, err = stop.communicate(timeout=PATIENCE_S)
    assert stop.returncode == -signal.SIGINT, err
    assert "Traceback" not in err
    assert len(alive(held.path)) == 2
    held("stop", "--kill", "held")
    assert alive(held.path) == []


# -- how, and how much ------------------------------------------------------------------------


def test_a_shorter_grace_period_than_the_configured_one(held: Shell) -> None:
    """What does not heed TERM is killed when the time is over that was given."""
    (held.path / "deaf").touch()
    run = running(held)
    held("stop", "--grace", "200ms", "held")
    is_over(held, run)
    for name in attempts(held):
        record = read_exit(held.states / held.only_id(), name)
        assert record is not None
        assert record.signal == signal.SIGKILL


def test_a_longer_grace_period_than_the_configured_one(held: Shell) -> None:
    """What saves its work is given the time for it, by its shim and by its owner."""
    (held.path / "saves").touch()
    (held.path / "slow").touch()
    run = running(held, "--set", "limits.grace=100ms")
    held("stop", "--grace", "1m", "held")
    is_over(held, run)
    assert len(list(held.path.glob("saved.*"))) == 2


def test_an_orphan_is_given_the_same_grace_period(held: Shell) -> None:
    """Nobody drives it: its shim reads the time from the request."""
    (held.path / "deaf").touch()
    kill(running(held))
    held("stop", "--grace", "200ms", "held")
    assert alive(held.path) == []


def test_kill_leaves_no_time(held: Shell) -> None:
    """Also after a stop that waits for the grace period."""
    (held.path / "deaf").touch()
    run = running(held)
    held("stop", "--no-wait", "held")
    folder = held.states / held.only_id()
    until(lambda: all((folder / f"attempts/{name}.stop").exists() for name in attempts(held)))
    held("stop", "--kill", "held")
    said = is_over(held, run)
    assert "kill everything" in said


def test_a_second_stop_can_shorten_the_grace_period(held: Shell) -> None:
    """The first one gave them ten minutes; nobody wants to wait for it any more."""
    (held.path / "deaf").touch()
    run = running(held)
    held("stop", "--no-wait", "held")
    folder = held.states / held.only_id()
    until(lambda: all((folder / f"attempts/{name}.stop").exists() for name in attempts(held)))
    held("stop", "--grace", "100ms", "held")
    is_over(held, run)


def test_what_stops_for_a_failure_can_be_stopped_sooner(held: Shell) -> None:
    """`fail_fast` gave it ten minutes; a request that comes then has less patience."""
    (held.path / "deaf").touch()
    (held.path / "fail.py").write_text("exec(open('work.py').read())\nsys.exit(1)\n")
    (held.path / "f.toml").write_text(FILE.replace("work.py", "fail.py") + "fail_fast = true\n")
    run = held.start("run", "f.toml")
    held.began(2)
    (held.path / "go.0").touch()
    folder = held.states / held.only_id()
    until((folder / "attempts/1.1.stop").exists)
    held("stop", "--grace", "100ms", "held")
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130
    assert alive(held.path) == []


def test_no_wait_only_asks(held: Shell) -> None:
    """It returns while everything still runs, and says how to wait."""
    (held.path / "deaf").touch()
    run = running(held)
    _, err = held("stop", "--no-wait", "held")
    assert "to wait for it: " in err
    assert run.poll() is None
    held("stop", "--kill", "held")
    is_over(held, run)


def test_no_wait_of_what_nobody_drives(held: Shell) -> None:
    """Its shims are asked, and nobody is there to record it: that is said."""
    kill(running(held))
    _, err = held("stop", "--no-wait", "held")
    assert "to have its end recorded: " in err
    until(lambda: alive(held.path) == [])
    assert "nobody drives it" in held("wait", "held", code=7)[1]
    _, err = held("stop", "--no-wait", "held")
    assert "interrupted (user), 0 of 4 processes completed" in err


def test_several_are_asked_before_one_is_waited_for(held: Shell) -> None:
    """The grace periods run beside each other."""
    (held.path / "deaf").touch()
    runs = []
    for level in (1, 2):
        runs.append(held.start("run", "e.toml", "--set", f"level=[{level},9]"))
        held.began(2)
        for path in held.path.glob("began.*"):
            path.unlink()  # those of the next are called the same
    ids = StateManager(held.states).list_experiments()
    stop = held.start("stop", *ids)
    until(lambda: all((held.states / each / "stop.1").exists() for each in ids))
    assert stop.poll() is None
    held("stop", "--kill", *ids)
    _, err = stop.communicate(timeout=PATIENCE_S)
    assert stop.returncode == 0, err
    for run in runs:
        run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 130
    assert alive(held.path) == []


def test_one_wrong_id_stops_nothing(held: Shell) -> None:
    """Whoever mistyped one of them may have meant another by the rest."""
    run = running(held)
    _, err = held("stop", "held", "hold", code=4)
    assert "nothing was stopped" in err
    assert run.poll() is None
    assert not list(held.states.glob("*/stop.*"))


# -- a part of it -----------------------------------------------------------------------------


def test_some_processes_are_stopped_and_the_rest_goes_on(held: Shell) -> None:
    """They wait for the next resume; the experiment ends interrupted, and says what waits."""
    run = running(held)
    _, err = held("stop", "--only", "0,3", "held")
    assert "processes 0, 3 wait for the next resume; the experiment: running" in err
    assert run.poll() is None
    held.began(3)  # 2 has the place of 0
    (held.path / "go.1").touch()
    (held.path / "go.2").touch()
    _, said = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130, said
    assert "to stop processes 0, 3; the others go on" in said
    state = StateManager(held.states).load(held.only_id())
    assert (str(state.status), str(state.reason)) == ("interrupted", "user")
    assert [str(each.status) for each in state.processes.values()] == [
        *("pending", "completed", "completed", "pending")
    ]
    assert "held back: process" in (state.error_message or "")
    held.let_go()
    held("resume", "held")


def test_a_process_that_failed_by_itself_is_not_said_to_wait(held: Shell) -> None:
    """It ended before it heard the request: whoever asked learns that."""
    (held.path / "work.py").write_text(f"{WORKER}\nsys.exit(int(index) == 0)\n")
    run = running(held)
    (held.path / "go.0").touch()
    held.began(3)
    _, err = held("stop", "--only", "0,1", "held")
    assert "process 1 waits for the next resume; process 0 has failed; the experiment: " in err
    held.let_go()
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 3


def test_a_part_of_what_nobody_drives(held: Shell) -> None:
    """Its shim is asked; the other runs on for whoever resumes."""
    kill(running(held))
    _, err = held("stop", "--only", "1", "held")
    assert "process 1 waits for the next resume" in err
    assert "nobody drives the rest" in err
    folder = held.states / held.only_id()
    first, second = attempts(held)
    assert live_state(folder, first).kind == "held"
    until(lambda: is_over_by_itself(held, second))  # its outcome is published a moment before
    held("stop", "held")


def test_one_process_is_named_as_everywhere(held: Shell) -> None:
    """`ID/INDEX`, as `logs`, `show` and `retry` take it."""
    run = running(held)
    held("stop", "held/1")
    assert run.poll() is None
    folder = held.states / held.only_id()
    assert sorted(path.name for path in folder.glob("attempts/*.stop")) == ["1.1.stop"]
    held("stop", "--kill", "held")
    is_over(held, run)


def test_a_process_that_there_is_not_cannot_be_stopped(held: Shell) -> None:
    """Nothing is asked for then."""
    run = running(held)
    for command in ("stop", "resume"):
        _, err = held(command, "--only", "1,7", "held", code=2)
        assert "--only names processes that are not there: 7; " in err
        assert err.endswith(" has 0 to 3\n")
    assert run.poll() is None


def test_a_launcher_stops_whole(held: Shell) -> None:
    """One of its ranks is meant, and all of them stop and wait."""
    (held.path / "saves").touch()
    (held.path / "stay").touch()
    words = ("--ranks", "2", "--set", "limits.grace=10m", "--", "python", "-S", "rank.py")
    # The index of a process is what a launcher has none of.
    worker = WORKER.replace('os.environ["HOLDFAST_INDEX"]', '"launcher"')
    (held.path / "rank.py").write_text(worker)
    run = held.start("run", *words)
    held.began(1)
    stop = held.start("stop", "--only", "1", "@last")
    hear(stop.stderr, "to stop processes 0, 1 within 600 s")
    (held.path / "stay").unlink()
    _, err = stop.communicate(timeout=PATIENCE_S)
    assert stop.returncode == 0, err
    _, said = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130
    assert "to stop processes 0, 1; the others go on" in said
    state = StateManager(held.states).load(held.only_id())
    assert [str(each.status) for each in state.processes.values()] == ["pending", "pending"]


# -- while it does something else -------------------------------------------------------------


def test_a_stop_while_it_aggregates(held: Shell) -> None:
    """The user's own aggregation is stopped like a process; everything stays completed."""
    (held.path / "combine.py").write_text(
        "import time\nopen('combining', 'w').close()\nwhile True: time.sleep(0.01)\n"
    )
    (held.path / "a.toml").write_text(
        'command = ["true"]\nprocesses = 1\n[aggregate]\ncommand = ["python", "combine.py"]\n'
    )
    run = held.start("run", "a.toml")
    until((held.path / "combining").exists)
    _, err = held("stop", "@last")
    assert "completed, 1 of 1 process completed" in err
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130
    assert alive(held.path) == []


def test_an_aggregation_that_a_dead_orchestrator_left(held: Shell) -> None:
    """It is an attempt like any other, although no process of the experiment runs."""
    (held.path / "combine.py").write_text(
        "import time\nopen('combining', 'w').close()\nwhile True: time.sleep(0.01)\n"
    )
    (held.path / "a.toml").write_text(
        'command = ["true"]\nprocesses = 1\n[aggregate]\ncommand = ["python", "combine.py"]\n'
    )
    run = held.start("run", "a.toml")
    until((held.path / "combining").exists)
    kill(run)
    held("stop", "@last")
    assert alive(held.path) == []
    assert str(StateManager(held.states).load(held.only_id()).status) == "completed"


def test_a_stop_while_what_a_dead_shim_left_is_settled(held: Shell) -> None:
    """It is given the grace period of the request."""
    (held.path / "deaf").touch()
    run = running(held)
    for name in attempts(held):
        os.kill(shim_of(held, name), signal.SIGKILL)
    held("stop", "--grace", "200ms", "held")
    is_over(held, run)


def test_a_part_of_what_a_dead_shim_left_is_killed(held: Shell) -> None:
    """At once, not after the grace period of ten minutes."""
    (held.path / "deaf").touch()
    run = running(held, "--set", "limits.jobs=4")
    held.began(4)
    for name in attempts(held)[:2]:
        os.kill(shim_of(held, name), signal.SIGKILL)
    _, err = held("stop", "--kill", "--only", "0,1", "held")
    assert "processes 0-1 wait for the next resume" in err
    held("stop", "--kill", "held")
    is_over(held, run)


# -- many -------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_a_thousand_processes_are_stopped(held: Shell) -> None:
    """By their owner: none is left, all can be resumed."""
    stop_a_thousand(held, killed=False)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_orphans_are_stopped(held: Shell) -> None:
    """By `stop` itself, since their owner died."""
    stop_a_thousand(held, killed=True)


def stop_a_thousand(held: Shell, *, killed: bool) -> None:
    # However long it takes: nobody says within ten minutes that they have not stopped.
    words = ("--procs", "1000", "-j", "1000", "--set", "limits.grace=10m", "--", "sleep", "1000")
    run = held.start("run", *words)
    until(lambda: len(list(held.states.glob("*/attempts/*.live"))) == 1000, timeout_s=300)
    if killed:
        kill(run)
    _, err = held("stop", "@last", timeout_s=300)
    assert "interrupted (user), 0 of 1,000 processes completed" in err
    if not killed:
        run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 130
    assert alive(held.path) == []
    state = StateManager(held.states).load(held.only_id())
    assert state.processes_pending == 1000
    assert {str(each.reason) for each in state.processes.values()} == {"user"}


# -- elsewhere --------------------------------------------------------------------------------

#: Mounts of its own are a copy, and hold those of other tests, too.
LET_GO = """
awk '$5 ~ "/pytest-" { print $5 }' /proc/self/mountinfo | while read -r mount; do
    umount -l "$mount"
done
exec "$@"
"""
UNSHARE = [
    *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
    *("sh", "-c", LET_GO, "sh"),
]


@pytest.fixture
def elsewhere() -> list[str]:
    """What runs a program where pids are others."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a pid namespace")
    return UNSHARE


def test_an_owner_in_another_pid_namespace_hears(held: Shell, elsewhere: list[str]) -> None:
    """The file is all that both of them see."""
    run = subprocess.Popen(
        [*elsewhere, sys.executable, "-m", "holdfast", "run", "e.toml"],
        cwd=held.path,
        env=held.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    held.started.append(run)
    held.began(2)
    held("stop", "held")
    is_over(held, run)


def test_who_asks_may_be_in_another_pid_namespace(held: Shell, elsewhere: list[str]) -> None:
    """A container that shares the directory; with an owner, and without one."""
    run = running(held)
    stop = [*elsewhere, sys.executable, "-m", "holdfast", "stop", "held"]
    options = {"cwd": held.path, "env": held.env, "check": True, "timeout": PATIENCE_S}
    subprocess.run(stop, **options)  # type: ignore[call-overload]
    is_over(held, run)
    again = held.start("resume", "held")
    held.began(4)
    kill(again)
    subprocess.run(stop, **options)  # type: ignore[call-overload]
    assert alive(held.path) == []
    assert str(StateManager(held.states).load(held.only_id()).reason) == "user"


# -- what is no request -----------------------------------------------------------------------


def test_what_is_no_request_is_passed_over_and_named(held: Shell) -> None:
    """Half written, of another kind, hostile: the run goes on, and the next real one is heard."""
    run = running(held)
    folder = held.states / held.only_id()
    (folder / "stop.1").write_text('{"level": "st')
    (folder / "stop.1.2").mkdir()
    os.mkfifo(folder / "stop.1.3")
    (folder / "stop.1.4").symlink_to("/dev/zero")
    (folder / "stop.1.5").write_text('{"level": "stop", "grace_s": NaN}')
    (folder / "stop.1.6").write_text('{"level": "stop", "only": [-1, "x"]}')
    (folder / "stop.1.7").write_text('{"level": "please"}')
    (folder / "stop.0").write_text('{"level": "kill"}')
    named = {each.path.name for each in doctor.examine(held.states)}
    assert named == {f"stop.1{end}" for end in ("", ".2", ".3", ".4", ".5", ".6", ".7")}
    (held.path / "go.0").touch()
    held.began(3)  # it went on after it had seen them
    held("stop", "held")
    is_over(held, run)
    assert (folder / "stop.1.8").exists()


def test_a_request_that_cannot_be_read_is_a_stop_with_its_own_grace(held: Shell) -> None:
    """Whatever somebody puts in the place of a shim's request: it is there, and that counts."""
    run = running(held)
    folder = held.states / held.only_id()
    first, second = attempts(held)
    (folder / f"attempts/{first}.stop").write_bytes(b'{"grace_s": 1e999, "' * 5000)
    os.mkfifo(folder / f"attempts/{second}.stop")
    held.began(4)  # stopped once, and begun anew
    held("stop", "held")
    is_over(held, run)
