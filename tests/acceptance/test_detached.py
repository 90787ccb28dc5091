"""`--detach`, `wait`, `watch`: a run that outlives its terminal, and those who come to see it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.store.manager import StateManager
from launched import alive
from processes import hear
from shell import FILE, Shell, Terminal
from waiting import PATIENCE_S, until


@pytest.fixture
def away(sh: Shell) -> Iterator[Shell]:
    """A shell whose detached runs are killed at the end, if they are not over by then."""
    sh.hold()
    yield sh
    sh.let_go()
    for path in sh.states.glob("*/journal"):
        manager = StateManager(sh.states)
        owner = manager.load(path.parent.name).owner
        if manager.liveness(path.parent.name).kind == "alive":
            assert owner is not None
            assert owner.pid is not None
            with contextlib.suppress(ProcessLookupError):  # it came to its end by itself
                os.kill(owner.pid, signal.SIGKILL)
    until(lambda: alive(sh.path) == [])


def status(sh: Shell) -> str:
    return str(StateManager(sh.states).load(sh.only_id()).status)


def log(sh: Shell, number: int = 1) -> str:
    return (sh.states / sh.only_id() / f"detached.{number}.log").read_text()


#: As it is called here: an environment has both names for its Python.
PROGRAM = f"{Path(sys.executable).name} -m holdfast"


# -- detached ---------------------------------------------------------------------------------


def test_a_detached_run_goes_on_and_says_how_to_meet_it(away: Shell) -> None:
    """The command returns once the experiment is owned; its id is all that stdout gets."""
    out, err = away("run", "--detach", "e.toml")
    assert out.split() == [away.only_id()]
    for verb in ("watch", "wait", "stop"):
        assert f"to {verb}: {PROGRAM} {verb} {away.only_id()}" in err
    assert "detached.1.log" in err
    assert StateManager(away.states).liveness(away.only_id()).kind == "alive"
    away.let_go()
    _, err = away("wait", "@last")
    assert "aggregated, 3 of 3 processes completed" in err
    # Its last words are said once it has let the experiment go, which is all that is waited for.
    until(lambda: "3 processes completed and aggregated" in log(away))
    assert away.json("doctor")["findings"] == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_who_cannot_be_given_the_id_is_told_what_runs(away: Shell) -> None:
    """It has begun by then: without a word, nobody would know."""
    done = away.shell("holdfast run --detach e.toml > /dev/full")
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert f"to stop: {PROGRAM} stop {away.only_id()}" in done.stderr


def test_it_outlives_its_terminal(away: Shell) -> None:
    """SIGHUP goes to whatever the terminal holds: nothing of this."""
    terminal = Terminal(
        away, program=("bash", "-i", "-c", f"{sys.executable} -m holdfast run --detach e.toml; cat")
    )
    terminal.read("detached.1.log")
    away.began(2)
    owner = StateManager(away.states).load(away.only_id()).owner
    assert owner is not None
    assert os.getsid(owner.pid or 0) == owner.pid
    os.close(terminal.fd)  # as if the window were closed
    terminal.process.wait(PATIENCE_S)
    away.let_go()
    away("wait", "@last")
    assert status(away) == "aggregated"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("run", "--detach", "no.toml"), 2, "No such file"),
        (("run", "--detach", "e.toml", "--set", "limits.jobs=0"), 2, "limits.jobs"),
        (("resume", "--detach", "nobody"), 4, "nobody"),
        (("run", "--detach", "-n", "e.toml"), 2, "--dry-run"),
    ],
)
def test_what_can_be_refused_is_refused_at_the_terminal(
    away: Shell, args: tuple[str, ...], code: int, words: str
) -> None:
    """With the exit code that it has without --detach, and nothing is left behind."""
    assert words in away(*args, code=code)[1]
    assert alive(away.path) == []


def test_what_somebody_owns_is_refused_at_the_terminal(away: Shell) -> None:
    """Exit 5, as without --detach."""
    away("run", "--detach", "e.toml")
    away.began(2)
    _, err = away("resume", "--detach", "@last", code=5)
    assert "is owned by pid" in err
    away("stop", "@last")


def test_what_is_refused_once_it_is_owned_is_refused_at_the_terminal(away: Shell) -> None:
    """A declared file that is gone: nothing is recorded, and no log is made."""
    (away.path / "data").write_text("1")
    (away.path / "d.toml").write_text('identity.files = ["data"]\n' + FILE)
    run = away.start("run", "d.toml")
    away.began(2)
    away("stop", "@last")
    run.communicate(timeout=PATIENCE_S)
    (away.path / "data").unlink()
    _, err = away("resume", "--detach", "@last", code=2)
    assert "data" in err
    assert status(away) == "interrupted"
    assert not list(away.states.glob("*/detached.*"))


def test_what_is_done_already_is_shown_at_the_terminal(away: Shell) -> None:
    """There is nothing to begin, and so nothing to detach."""
    away.let_go()
    away("run", "e.toml")
    out, err = away("resume", "--detach", "@last")
    assert "aggregated already" in err
    assert "square" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143)])
def test_a_signal_before_it_has_begun_ends_it(away: Shell, number: int, code: int) -> None:
    """Whoever waits at the terminal for the lock of another can still change their mind."""
    first = away.start("run", "e.toml")
    away.began(2)
    process = away.start("resume", "--detach", "@last")
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    detached: list[int] = []
    while not detached and process.poll() is None:
        with contextlib.suppress(OSError):  # one of them is gone already
            detached = [pid for pid in map(int, path.read_text().split()) if os.getsid(pid) == pid]
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (code, 5)
    assert not any(Path(f"/proc/{pid}").exists() for pid in detached)
    assert first.poll() is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143)])
def test_a_signal_before_it_is_told_what_runs_is_one_to_the_run(
    away: Shell, number: int, code: int
) -> None:
    """Else it would go on, and nobody would know: here, nobody reads what the command says."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b" ")
    os.set_blocking(writing, True)
    command = [sys.executable, "-m", "holdfast", "run", "--detach", "e.toml"]
    process = subprocess.Popen(
        command, cwd=away.path, env=away.env, stdout=subprocess.DEVNULL, stderr=writing
    )
    away.started.append(process)  # type: ignore[arg-type]
    os.close(writing)
    away.began(2)
    process.send_signal(number)
    with open(reading, encoding="utf-8") as said:
        words = said.read()
    assert process.wait(PATIENCE_S) == code
    assert words.endswith(f"it was asked to stop by {signal.Signals(number).name}\n")
    away("wait", "@last", code=130 if number == signal.SIGINT else 143)
    assert status(away) == "interrupted"


def test_json_of_a_detached_run(away: Shell) -> None:
    """For scripts: its id, its pid, its log, and the commands that go on from there."""
    found = away.json("run", "--detach", "e.toml")
    assert found["experiment_id"] == away.only_id()
    assert Path(str(found["log"])).is_file()
    assert set(found["commands"]) == {"watch", "wait", "stop"}  # type: ignore[call-overload]
    away("stop", "@last")
    assert "asked by pid" in log(away)


# -- waited for -------------------------------------------------------------------------------


def test_wait_exits_as_the_run_does(away: Shell) -> None:
    """0, 3, 130, 143; and of several the first that is not 0."""
    away("run", "--detach", "e.toml")
    away.began(2)
    waiting = away.start("wait", "@last")
    hear(waiting.stderr, "waiting for pid")
    away("stop", "@last")
    _, err = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 130, err
    (away.path / "bad").touch()
    away.let_go()
    away("resume", "@last", code=3)
    away("wait", "@last", code=3)
    (away.path / "bad").unlink()
    away("resume", "@last")
    away("wait", "@last")


def test_wait_says_preempted_as_the_run_does(away: Shell) -> None:
    """A batch system's SIGTERM."""
    run = away.start("run", "e.toml")
    away.began(2)
    run.terminate()
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 143
    away("wait", "@last", code=143)


def test_wait_gives_up_in_time(away: Shell) -> None:
    """124, as of `timeout`, and the run goes on."""
    run = away.start("run", "e.toml")
    away.began(2)
    _, err = away("wait", "--timeout", "200ms", "@last", code=124)
    assert "not over yet: running, 0 of 3" in err
    assert run.poll() is None
    away("stop", "@last")


def test_wait_tells_what_nobody_runs_any_more(away: Shell) -> None:
    """Its orchestrator died: first what it left is waited for, then 7 says that it is not over."""
    run = away.start("run", "e.toml")
    away.began(2)
    run.kill()
    run.communicate()
    waiting = away.start("wait", "@last")
    hear(waiting.stderr, "nobody drives it, and 2 attempts run on")
    away.let_go()
    _, err = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 7, err
    assert "nobody drives it, its orchestrator: dead" in err
    assert "next: " in err


def test_wait_of_several_tells_the_first_that_is_not_0(away: Shell) -> None:
    """All of them are waited for, whatever the first is."""
    away.let_go()
    away("run", "e.toml")
    done = away.only_id()
    (away.path / "bad").touch()
    away("run", "e.toml", "--set", "level=[7,8]", code=3)
    _, failed = StateManager(away.states).list_experiments()
    away("wait", done, failed, code=3)
    away("wait", failed, done, code=3)
    found = away.json("wait", done, failed, code=3)
    assert [each["exit_code"] for each in found["experiments"]] == [0, 3]  # type: ignore[union-attr]


# -- watched ----------------------------------------------------------------------------------


def test_watch_shows_what_anybody_runs_until_it_is_over(away: Shell) -> None:
    """Off a terminal a line for each change; its end ends it."""
    assert "nothing runs" in away("watch")[1]
    away("run", "--detach", "e.toml")
    away.began(2)
    watching = away.start("watch")
    hear(watching.stderr, "0 of 3 completed, 2 running")
    away.let_go()
    _, err = watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 0
    assert err.splitlines()[-1].endswith("aggregated, 3 of 3 processes completed")


def test_watch_says_that_nobody_drives_what_it_shows(away: Shell) -> None:
    """Its processes run on, and what is recorded is `running`: that alone would mislead."""
    run = away.start("run", "e.toml")
    away.began(2)
    watching = away.start("watch")
    hear(watching.stderr, "0 of 3 completed, 2 running")
    run.kill()
    hear(watching.stderr, "0 of 3 completed, 2 running; nobody drives it")
    away.let_go()
    _, err = watching.communicate(timeout=PATIENCE_S)
    assert "running, 0 of 3 processes completed; nobody drives it" in err
    away("resume", "@last")


def test_ctrl_c_leaves_what_is_watched_running(away: Shell) -> None:
    """On a terminal, live; exit 0."""
    away("run", "--detach", "e.toml")
    away.began(2)
    terminal = Terminal(away, "watch", "@last", columns=100)
    terminal.read("0 of 3 completed, 2 running")
    os.write(terminal.fd, b"\x03")
    assert terminal.exit_code() == 0
    assert "goes on: running" in terminal.seen
    assert StateManager(away.states).liveness(away.only_id()).kind == "alive"
    away("stop", "@last")
    watching = away("watch", "@last")[1]
    assert "interrupted (user)" in watching
