"""A node: one task of a wave on a host of its own, started as a batch script's `exec` starts it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from holdfast.attempts.files import read_exit, revoke
from holdfast.engines import node, running, tasks
from holdfast.engines.waves import node_of
from holdfast.liveness import Observer
from nodes import EXPERIMENT, alive, job, leave_ignored
from processes import hear
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

_SAVES = """
import os, sys, holdfast
with holdfast.process() as process:
    print("up", flush=True)
    while not process.should_stop:
        pass
    print("saved", process._stop.why, flush=True)
"""
_LAUNCHES = """
import subprocess, sys
print("launched", flush=True)
sys.exit(subprocess.call([sys.executable, "-c", sys.argv[1]]))
"""


def fields(pid: int) -> list[str]:
    """State, parent, group, session and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# --- one task


def test_eight_commands_of_one_job_each_come_to_their_own_end(tmp_path):
    """One fails and one is killed: the others do not notice, and the status tells of it."""
    scripts = ["echo $HOLDFAST_INDEX", *["exit 0"] * 5, "exit 3", "kill -9 $$"]
    with job(tmp_path, *scripts) as it:
        assert it.run(exits=tasks.FAILED) == ""
        ends = [read_exit(it.folder, name) for name in it.names]
        assert [end.exit_code for end in ends] == [0] * 6 + [3, None]
        assert ends[7].signal == 9
        assert it.out(0) == "0\n"
        assert all(end.interrupted_by is None and end.error is None for end in ends)


def test_a_node_whose_commands_succeed_exits_0(tmp_path):
    """So that the scheduler's own records are right."""
    with job(tmp_path, "exit 0", "exit 0") as it:
        it.run(exits=tasks.SUCCEEDED)


def test_a_failed_command_need_not_fail_its_job(tmp_path):
    """Where a site stops or bans what fails: the exit records say it anyway."""
    with job(tmp_path, "exit 3") as it:
        it.run("--keep-going", exits=tasks.SUCCEEDED)
        assert it.said(0)["exit_code"] == 3


def test_a_node_stays_in_the_session_of_its_job(tmp_path):
    """It leads a group already, so that it could make none; the shims make their own."""
    with job(tmp_path, "echo up; read x < wait || exit 1") as it:
        os.mkfifo(it.folder / "wait")
        started = it.start()
        it.out(0, "up")
        mine, theirs = fields(started.pid), fields(it.shim(0))
        assert mine[2] == str(started.pid)
        assert mine[3] == str(os.getsid(0))
        assert theirs[1] == str(started.pid)
        assert theirs[3] == str(it.shim(0))
        (it.folder / "wait").write_text("go\n")
        it.ended(started)


def test_a_node_says_where_it_runs(tmp_path):
    """Of an attempt that left nothing, nobody else would know on which host it was."""
    with job(tmp_path, "true") as it:
        assert node_of(it.folder, it.wave.name, 0) is None
        started = it.start()
        it.ended(started)
        said, here = node_of(it.folder, it.wave.name, 0), Observer.here()
        assert said["pid"] == started.pid
        assert (said["host"], said["boot_id"]) == (here.host, here.boot_id)
        assert said["python"] == sys.executable


def test_commands_find_what_the_scheduler_says(tmp_path, monkeypatch):
    """Its variables and its choice of GPUs are kept, but not which of its tasks this is."""
    for name in ("SLURM_JOB_ID", "SLURM_PROCID", "CUDA_VISIBLE_DEVICES", "MINE"):
        monkeypatch.setenv(name, "5")
    said = 'echo "$SLURM_JOB_ID,$SLURM_PROCID,$CUDA_VISIBLE_DEVICES,$MINE"'
    with job(tmp_path, said, env={"MINE": "6"}) as it:
        it.run()
        assert it.out(0) == "5,,5,6\n"


def test_a_command_without_a_directory_runs_in_that_of_its_job(tmp_path):
    """The one that the scheduler has changed to."""
    with job(tmp_path, "pwd", cwd=None) as it:
        it.run(cwd=tmp_path)
        assert it.out(0) == f"{tmp_path}\n"


def test_a_job_finds_its_folder_under_another_name(tmp_path):
    """A file system may be mounted elsewhere on a node."""
    with job(tmp_path, "true", cwd=None) as it:
        (tmp_path / "mounted").symlink_to(tmp_path)
        words = [str(tmp_path / "mounted" / EXPERIMENT), it.wave.name, "0"]
        subprocess.run([sys.executable, node.__file__, *words], check=True, timeout=240)
        assert it.said(0)["exit_code"] == 0


# --- once


def test_a_revoked_attempt_is_skipped(tmp_path):
    """How one of several in a job that waits is cancelled; the status says nothing of it."""
    with job(tmp_path, "echo ran >&2", "true") as it:
        assert revoke(it.folder, it.names[0])
        assert it.run() == ""
        assert not it.path(0, "out").exists()
        assert it.said(1)["exit_code"] == 0


def test_a_task_that_is_run_twice_runs_its_commands_once(tmp_path):
    """An engine that tries again by itself; its second end proves nothing about the first."""
    with job(tmp_path, f"echo ran >> {tmp_path}/ran") as it:
        it.run()
        assert "another's" in it.run(exits=tasks.ANOTHERS)
        assert (tmp_path / "ran").read_text() == "ran\n"


def test_two_nodes_at_once_run_their_commands_once(tmp_path):
    """Whoever is first to link `.live`."""
    with job(tmp_path, *[f"echo ran >> {tmp_path}/ran"] * 4) as it:
        both = [it.start(), it.start()]
        codes = [started.communicate(timeout=240) and started.returncode for started in both]
        assert set(codes) <= {tasks.SUCCEEDED, tasks.ANOTHERS}
        assert tasks.ANOTHERS in codes
        assert (tmp_path / "ran").read_text() == "ran\n" * 4


# --- killed


def test_commands_outlive_a_node_that_was_killed(tmp_path):
    """Their shims go on, publish, and keep no stream open that somebody reads to its end."""
    with job(tmp_path, *["echo up; read x < wait.$HOLDFAST_INDEX"] * 3) as it:
        for index in range(3):
            os.mkfifo(it.folder / f"wait.{index}")
        started = it.start()
        for index in range(3):
            it.out(index, "up")
        started.kill()
        out, _ = started.communicate(timeout=240)
        assert out == ""
        assert all(alive(it.shim(index)) for index in range(3))
        for index in range(3):
            (it.folder / f"wait.{index}").write_text("go\n")
        assert [it.said(index)["exit_code"] for index in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("script", ["sleep 600", "trap '' TERM; sleep 600 & sleep 600; wait"])
def test_the_command_of_a_killed_shim_does_not_outlive_the_node(tmp_path, script):
    """The end of the job is the end of everything of it; other attempts are left alone."""
    with job(tmp_path, f"echo $$; {script}", "echo up; read x < wait; exit 0", grace_s=0.3) as it:
        os.mkfifo(it.folder / "wait")
        started = it.start()
        command = int(it.out(0))
        it.out(1, "up")
        os.kill(it.shim(0), signal.SIGKILL)
        until(lambda: not alive(command))
        assert started.poll() is None
        (it.folder / "wait").write_text("go\n")
        assert "ended with -9" in it.ended(started, tasks.FAILED)
        assert it.said(1)["exit_code"] == 0
        assert not it.path(0, "exit").exists()


def test_what_is_released_outlives_node_and_shim(tmp_path):
    """A daemon that says that it belongs to no attempt belongs to no job of ours either."""
    daemon = "HOLDFAST_SESSION= setsid sleep 600 & echo $!; sleep 600"
    with job(tmp_path, daemon) as it:
        started = it.start()
        pid = int(it.out(0))
        until(lambda: b"sleep" in Path(f"/proc/{pid}/comm").read_bytes())
        os.kill(it.shim(0), signal.SIGKILL)
        it.ended(started, tasks.FAILED)
        assert alive(pid)
        os.kill(pid, signal.SIGKILL)


def test_what_a_batch_script_has_started_is_left_alone(tmp_path):
    """A monitor, say: it is no part of any attempt, and the scheduler ends it with the job."""
    script = 'sleep 600 & echo $! > "$0"; exec "$@"'
    python = ("sh", "-c", script, str(tmp_path / "pid"), sys.executable, node.__file__)
    with job(tmp_path, "echo $$; sleep 600", grace_s=0.3) as it:
        started = it.start(python=python, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = int(it.out(0))
        os.kill(it.shim(0), signal.SIGKILL)
        assert started.wait(240) == tasks.FAILED
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        assert not alive(command)
        os.kill(pid, signal.SIGKILL)


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_at_the_node_stops_its_commands_as_a_foreign_one(tmp_path, number):
    """Nobody of holdfast's asked: what they end with proves nothing. The node ends last."""
    with job(tmp_path, *["trap 'exit 0' TERM; echo up; sleep 600 & wait"] * 2) as it:
        started = it.start()
        for index in range(2):
            it.out(index, "up")
        for _ in range(3):
            started.send_signal(number)
        it.ended(started, tasks.SUCCEEDED)
        for index in range(2):
            assert it.said(index)["interrupted_by"] == number
            assert it.said(index)["stop_requested"] is None


def test_other_signals_end_nothing(tmp_path):
    """Whatever a batch system sends to all, or a terminal."""
    others = {signal.SIGUSR2, signal.SIGALRM, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE}
    with job(tmp_path, "echo up; read x < wait; exit 0") as it:
        os.mkfifo(it.folder / "wait")
        started = it.start()
        it.out(0, "up")
        for number in (*others, *range(signal.SIGRTMIN, signal.SIGRTMAX)):
            started.send_signal(number)
        (it.folder / "wait").write_text("go\n")
        it.ended(started)
        assert it.said(0)["interrupted_by"] is None


def test_a_warning_reaches_a_program_that_asks(tmp_path):
    """It gets the signal itself, since it has a handler for it; its end is its own."""
    with job(tmp_path, f'exec "{sys.executable}" -c "$CODE"', env={"CODE": _SAVES}) as it:
        started = it.start()
        it.out(0, "up")
        started.send_signal(signal.SIGUSR1)
        it.ended(started)
        assert it.out(0, "saved").split() == ["up", "saved", "warning"]
        assert it.said(0)["interrupted_by"] is None


def test_a_warning_reaches_a_program_below_a_launcher_that_would_die_of_it(tmp_path):
    """Such as torchrun: it gets no signal, its ranks see the file."""
    code = {"CODE": _LAUNCHES, "RANK_CODE": _SAVES}
    with job(tmp_path, f'exec "{sys.executable}" -c "$CODE" "$RANK_CODE"', env=code) as it:
        started = it.start()
        it.out(0, "up")
        started.send_signal(signal.SIGUSR1)
        it.ended(started)
        assert it.out(0, "saved").split() == ["launched", "up", "saved", "warning"]
        assert it.said(0)["exit_code"] == 0
        assert json.loads(it.path(0, "warn").read_text())["signal"] == signal.SIGUSR1


def test_a_warning_does_not_end_a_command_that_knows_nothing_of_it(tmp_path):
    """Its default would."""
    with job(tmp_path, "echo up; read x < wait; exit 0") as it:
        os.mkfifo(it.folder / "wait")
        started = it.start()
        it.out(0, "up")
        started.send_signal(signal.SIGUSR1)
        until(it.path(0, "warn").exists)
        (it.folder / "wait").write_text("go\n")
        it.ended(started)


def test_a_node_hears_what_its_batch_script_ignored(tmp_path):
    """`trap '' USR1` spares it while its interpreter starts; ignored children could not be waited
    for.
    """
    ignored = (signal.SIGUSR1, signal.SIGCHLD, signal.SIGHUP)
    with job(tmp_path, "echo up; sleep 600") as it:
        started = it.start(preexec_fn=lambda: leave_ignored(*ignored))
        it.out(0, "up")
        started.send_signal(signal.SIGUSR1)
        until(it.path(0, "warn").exists)
        started.send_signal(signal.SIGHUP)
        it.ended(started, tasks.FAILED)
        assert it.said(0)["interrupted_by"] == signal.SIGHUP


def test_a_request_of_ours_is_heard_on_a_node(tmp_path):
    """By its file alone, as from another host."""
    with job(tmp_path, "echo up; sleep 600") as it:
        started = it.start()
        it.out(0, "up")
        it.path(0, "stop").write_text('{"reason": "user"}')
        it.ended(started, tasks.FAILED)
        assert it.said(0)["stop_requested"] == "user"


# --- what it needs


def test_a_node_needs_the_standard_library_only(tmp_path):
    """Run by its path, by a Python that finds no packages at all."""
    bare = (sys.executable, "-I", "-S")
    missing = subprocess.run([*bare, "-c", "import attrs"], capture_output=True, check=False)
    assert missing.returncode != 0
    with job(tmp_path, "true") as it:
        it.run(python=(*bare, node.__file__))


def test_what_a_node_loads_is_of_the_standard_library_or_ours():
    """Nothing else, however it is started."""
    code = (
        "import sys; names = lambda: {name.split('.')[0] for name in sys.modules};"
        "before = names();"
        f"import {node.__name__}, {running.__name__};"
        "print(names() - before - {*sys.stdlib_module_names, 'holdfast'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.strip() == "set()"


def test_a_node_is_a_module_of_the_package_too(tmp_path):
    """`-m` finds it in whatever environment holdfast is installed."""
    with job(tmp_path, "true") as it:
        it.run(python=(sys.executable, "-m", node.__name__))


def test_commands_run_with_the_interpreter_of_their_node(tmp_path):
    """Where `python` is nowhere else to be had, it is the node's own, whatever submitted them."""
    venv.create(tmp_path / "there", symlinks=True)
    theirs, tools = tmp_path / "there" / "bin" / "python", tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which("sh"))
    script = "exec python -c 'import sys; print(sys.prefix)'"
    with job(tmp_path, script, env={"PATH": str(tools)}) as it:
        # A shell of its own has no such rule: the command itself is `python`.
        it.run(python=(str(theirs), node.__file__), exits=tasks.FAILED)
    with job(tmp_path / "second", "", env={"PATH": str(tools)}) as it:
        self_named = json.loads(read_line(it.folder, it.wave.name))
        self_named[0]["argv"] = ["python", "-c", "import sys; print(sys.prefix)"]
        rewrite(it.folder, it.wave.name, self_named)
        it.run(python=(str(theirs), node.__file__))
        assert it.out(0) == f"{tmp_path / 'there'}\n"


def read_line(folder: Path, wave: str) -> bytes:
    return (folder / "waves" / f"{wave}.tasks").read_bytes().splitlines()[-1]


def rewrite(folder: Path, wave: str, jobs: list[dict]) -> None:
    path = folder / "waves" / f"{wave}.tasks"
    about = json.loads(path.read_bytes().splitlines()[0])
    path.write_bytes(tasks.encode(about, [jobs]))


# --- what is wrong


@pytest.mark.parametrize("words", [(), ("/", "x"), ("/", "x", "-1"), ("/", "x", "y"), ("a",) * 4])
def test_a_node_that_is_told_nonsense_says_what_it_wants(words):
    """Rather than running something else."""
    done = subprocess.run(
        [sys.executable, node.__file__, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == tasks.BROKEN
    assert "usage" in done.stderr


def test_a_task_that_cannot_be_read_runs_nothing(tmp_path):
    """The log of the job says why."""
    with job(tmp_path, "true") as it:
        path = it.folder / "waves" / f"{it.wave.name}.tasks"
        path.write_bytes(path.read_bytes().replace(b'"true"', b'"evil"'))
        assert "checksum" in it.run(exits=tasks.BROKEN)
        assert not list(it.attempts.iterdir())


def test_a_wave_that_shows_late_is_waited_for(tmp_path):
    """As on a network file system."""
    with job(tmp_path, "true") as it:
        waves = it.folder / "waves"
        hidden = waves.rename(it.folder / "hidden")
        started = it.start()
        hear(started.stderr, "not there yet")
        hidden.rename(waves)
        it.ended(started)
        assert it.said(0)["exit_code"] == 0


def test_a_folder_that_is_gone_is_reported(tmp_path):
    """An experiment that was deleted while its jobs waited."""
    with job(tmp_path, "true") as it:
        shutil.rmtree(it.folder)
        assert "No such file" in it.run(exits=tasks.BROKEN)


def test_words_that_no_command_can_be_given_fail_their_attempt_alone(tmp_path):
    """The others of its job run; the exit record says what is wrong with it."""
    with job(tmp_path, "true\0", "true", env={"A": "x"}) as it:
        it.run(exits=tasks.FAILED)
        assert "null" in it.said(0)["error"]
        assert it.said(1)["exit_code"] == 0
    with job(tmp_path / "second", "true", env={"A=B": "x"}) as it:
        it.run(exits=tasks.FAILED)
        assert it.said(0)["error"]


def test_a_closed_stderr_keeps_nothing_from_running(tmp_path):
    """A scheduler may give a job no streams at all."""
    with job(tmp_path, "true") as it:
        started = it.start(
            python=("/bin/sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, node.__file__)
        )
        it.ended(started)
        assert it.said(0)["exit_code"] == 0
