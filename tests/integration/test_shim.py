"""The shim and its starter under violence: killed, crowded out, confused, short of room."""

import contextlib
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import liveness
from holdfast.attempts.family import Census
from holdfast.attempts.files import live_state, read_exit
from holdfast.attempts.looking import Ended, Gone, Running, Undecided, glance
from holdfast.attempts.names import AttemptName, output_path, prepare
from holdfast.attempts.records import Attempt, ExitRecord
from holdfast.attempts.settling import Lost
from holdfast.engines.contract import Handle
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import EngineError
from holdfast.identity import ProcessIdentity
from processes import NOBODY, hear, in_a_fork, memory_group, parent_of
from settled import settled
from shims import (
    EXPERIMENT,
    NAME,
    alive,
    an_engine,
    asleep,
    command_of,
    exit_file,
    halted,
    request,
    shim_of,
    start,
    up,
)
from waiting import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    """An engine that leaves nothing of a failed or skipped test behind.

    It makes no cgroups, by which more would be proven.
    """
    with an_engine(tmp_path, cgroup=False) as engine:
        yield engine


def outcome(folder: Path) -> ExitRecord:
    record = until(lambda: read_exit(folder, NAME))
    assert record is not None
    return record


def known(handle: Handle) -> ProcessIdentity:
    assert handle.identity is not None
    return handle.identity


def starter_of(handle: Handle) -> int:
    """The parent of a shim."""
    return parent_of(shim_of(handle))


def test_a_killed_shim_leaves_nothing_behind_once_it_is_judged(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Its session runs on without it; resume stops that before anything is started again."""
    handle = start(engine, tmp_path, "trap '' TERM; sleep 600 & echo $! $$ up; wait")
    up(tmp_path)
    members = output_path(tmp_path, NAME).read_text().split()[:2]
    os.kill(shim_of(handle), signal.SIGKILL)
    until(lambda: engine.poll([handle])[0].kind == "gone")
    assert all(alive(int(pid)) for pid in members)
    found = settled(tmp_path, NAME, grace_s=0.1)
    assert isinstance(found, Lost)
    assert all(pid in found.evidence for pid in members)
    assert not any(alive(int(pid)) for pid in members)


def test_a_killed_shim_is_reported_with_its_signal(engine: LocalEngine, tmp_path: Path) -> None:
    """The engine's own text says what happened."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    os.kill(shim_of(handle), signal.SIGKILL)
    word = until(lambda: (w := engine.poll([handle])[0]).kind == "gone" and w)
    assert "signal 9" in word.text
    settled(tmp_path, NAME, grace_s=0)


def test_a_shim_killed_at_any_instant_leaves_an_outcome_or_nothing(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Judged exited or dead, never in between; once judged, nothing of the attempt runs."""
    chance = random.Random(7)
    kinds = set()
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        handle = start(engine, folder, "echo $$; sleep 0.01; echo $$", cwd=str(folder))
        engine.wait(chance.random() * 0.03)
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim_of(handle), signal.SIGKILL)
        # A shim that was killed while its command was in `exec` is held by it for that moment, and
        # one that is about to be gone lets go of its lock a moment before.
        found = until(
            lambda folder=folder: (
                isinstance(f := settled(folder, NAME, grace_s=0), Ended | Lost) and f
            )
        )
        kinds.add(type(found))
        out = output_path(folder, NAME)
        begun = out.read_text().split() if out.exists() else []
        assert not any(alive(int(pid)) for pid in begun)
        if isinstance(found, Ended):
            assert (found.record.exit_code, len(begun)) == (0, 2)
        else:
            assert isinstance(found, Lost)
        assert type(settled(folder, NAME, grace_s=0)) is type(found)
    assert Lost in kinds


#: A child in a process group of its own, as GNU `timeout` and the job control of a shell make them.
OWN_GROUP = (
    f'{sys.executable} -S -c \'import os; os.setpgid(0, 0); print(os.getpid(), "up", flush=True); '
    'os.execvp("sh", ["sh", "-c", "trap : TERM; while :; do sleep 0.02; done"])\' & '
)


@pytest.mark.parametrize(("way", "kind"), [("published", Ended), ("killed", Gone)])
def test_a_shim_that_ends_while_it_is_looked_at_is_not_in_doubt(
    engine: LocalEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    kind: type[Ended | Gone],
) -> None:
    """Between the look at its lock and that at its process: no copy of a running experiment."""
    (tmp_path / "hold").touch()
    script = "echo up; while [ -e hold ]; do sleep 0.02; done"
    handle = start(engine, tmp_path, script, cwd=str(tmp_path))
    up(tmp_path)
    shim, judge = shim_of(handle), liveness.judge

    def end(who: ProcessIdentity | None, **more: Any) -> liveness.Verdict:
        if "lock" not in more and alive(shim):
            if way == "killed":
                os.kill(shim, signal.SIGKILL)
            else:
                (tmp_path / "hold").unlink()
            until(lambda: engine.poll([handle])[0].kind == "gone")
        return judge(who, **more)

    monkeypatch.setattr(liveness, "judge", end)
    assert isinstance(glance(tmp_path, NAME), kind)
    assert not alive(shim)
    settled(tmp_path, NAME, grace_s=0)


@linux
@pytest.mark.parametrize("way", ["timeout", "cancel", "force", "end"])
def test_no_process_group_of_an_attempt_outlives_it(
    engine: LocalEngine, tmp_path: Path, way: str
) -> None:
    """Whatever its commands grouped themselves into is gone before the outcome can be seen."""
    options = {"timeout_s": 2.0} if way == "timeout" else {}
    script = OWN_GROUP + ("until [ -e go ]; do sleep 0.02; done" if way == "end" else "wait")
    handle = start(engine, tmp_path, script, grace_s=0.2, cwd=str(tmp_path), **options)
    with halted(handle) if way == "timeout" else contextlib.nullcontext():
        child = int(up(tmp_path)[0])
        assert os.getpgid(child) == child
    if way == "end":
        (tmp_path / "go").touch()
    elif way != "timeout":
        engine.cancel([handle], force=way == "force")
    record = outcome(tmp_path)
    assert Census().marked(str(live_state(tmp_path, NAME).mark)) == []
    assert not alive(child)
    assert record.timed_out == (way == "timeout")


@linux
def test_a_process_group_of_an_attempt_is_asked_before_it_is_killed(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """TERM reaches it too, and it has the grace period to end in order."""
    script = (
        f"{sys.executable} -S -c 'import os, signal; os.setpgid(0, 0); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
        'print("up", flush=True); signal.sigwait({signal.SIGTERM}); '
        'print("in order", flush=True)\' & wait'
    )
    handle = start(engine, tmp_path, script, grace_s=600.0)
    up(tmp_path)
    engine.cancel([handle])
    outcome(tmp_path)
    assert "in order" in output_path(tmp_path, NAME).read_text()


def orphaned(engine: LocalEngine, folder: Path, script: str) -> int:
    """What *script* said is its pid, once its shim was killed."""
    handle = start(engine, folder, script)
    up(folder)
    os.kill(shim_of(handle), signal.SIGKILL)
    until(lambda: engine.poll([handle])[0].kind == "gone")
    return int(output_path(folder, NAME).read_text().split()[0])


def ended(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


def judged_by_nobody(folder: Path) -> str:
    """What a user who shares nothing but the directory is told."""
    return in_a_fork(lambda: settled(folder, NAME, grace_s=0), user=NOBODY)


@linux
def test_a_leftover_without_its_environment_keeps_an_attempt_from_being_run_again(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Nothing tells it from a stranger's any more, and unknown never restarts."""
    code = 'import os, time; print(os.getpid(), "up", flush=True); time.sleep(600)'
    command = orphaned(engine, tmp_path, f"exec env -i {sys.executable} -S -c '{code}'")
    found = settled(tmp_path, NAME, grace_s=0)
    assert isinstance(found, Undecided)
    assert str(command) in found.evidence
    assert alive(command)
    ended(command)
    assert isinstance(settled(tmp_path, NAME, grace_s=0), Lost)


@linux
def test_a_leftover_that_left_the_session_keeps_an_attempt_from_being_run_again(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """If it hides its mark, too, it is not found, but still has the output of the attempt."""
    script = "setsid env -i /bin/sh -c 'echo $$ up; exec /bin/sleep 600' & wait"
    command = asleep(orphaned(engine, tmp_path, script))
    found = settled(tmp_path, NAME, grace_s=0)
    assert isinstance(found, Undecided)
    assert f"{command} (sleep) still holds its output" in found.evidence
    ended(command)
    assert isinstance(settled(tmp_path, NAME, grace_s=0), Lost)


@linux
def test_a_released_daemon_that_kept_its_output_holds_nothing_up(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Neither stopped nor waited for, also where the shim is dead: ssh masters keep stderr."""
    script = "HOLDFAST_SESSION= setsid sh -c 'echo $$ up; exec sleep 600' & wait"
    daemon = orphaned(engine, tmp_path, script)
    assert isinstance(settled(tmp_path, NAME, grace_s=1), Lost)
    assert alive(daemon)
    ended(daemon)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user")
def test_a_leftover_of_another_user_keeps_an_attempt_from_being_run_again(
    engine: LocalEngine, fast_dir: Path
) -> None:
    """What it was given is not ours to read, but whose session it is in can be seen."""
    fast_dir.chmod(0o755)
    command = orphaned(engine, fast_dir, "echo $$ up; exec sleep 600 >&- 2>&-")
    found = judged_by_nobody(fast_dir)
    assert found.startswith("Undecided")
    assert str(command) in found
    ended(command)
    assert judged_by_nobody(fast_dir).startswith("Lost")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user")
def test_another_users_attempt_cannot_be_reached_and_that_is_told(
    engine: LocalEngine, fast_dir: Path
) -> None:
    """With the reason; it runs on."""
    fast_dir.chmod(0o755)
    handle = start(engine, fast_dir, "echo $$ up; until [ -e go ]; do sleep 0.02; done",
                   cwd=str(fast_dir))  # fmt: skip
    up(fast_dir)
    request(fast_dir)
    told = in_a_fork(lambda: LocalEngine().cancel([handle])[NAME], user=NOBODY)
    assert told == f"its shim, pid {shim_of(handle)}: it belongs to another user"
    # It looks by itself, and finds what was asked for.
    assert outcome(fast_dir).stop_requested == "user"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user")
def test_the_output_of_another_user_tells_what_still_runs(
    engine: LocalEngine, fast_dir: Path
) -> None:
    """It cannot be written to, and needs not to be."""
    fast_dir.chmod(0o755)
    script = "echo $$; setsid sh -c 'echo $$ up; exec sleep 600' & wait"
    command = orphaned(engine, fast_dir, script)
    left = int(output_path(fast_dir, NAME).read_text().split()[1])
    ended(command)
    assert "holds its output" in judged_by_nobody(fast_dir)
    ended(left)
    assert judged_by_nobody(fast_dir).startswith("Lost")


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="becomes another user with a capability",
)
def test_an_attempt_whose_files_may_be_listed_only_is_running(
    engine: LocalEngine, fast_dir: Path
) -> None:
    """As a container's root sees another user's: it is no copy because its lock is not shown."""
    fast_dir.chmod(0o755)
    start(engine, fast_dir, "echo up; exec sleep 600")
    up(fast_dir)
    code = (
        "import sys; from pathlib import Path; from holdfast.attempts.looking import look;"
        "from holdfast.attempts.names import AttemptName;"
        "print(look(Path(sys.argv[1]), AttemptName('exp_1', '0', 1)))"
    )
    may = "+dac_read_search"
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={may}",
         f"--ambient-caps={may}", sys.executable, "-c", code, str(fast_dir)],
        capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    if "setpriv" in done.stderr:
        pytest.skip("needs the capability")
    assert done.stdout.startswith("Running"), done.stdout + done.stderr


@linux
def test_leftovers_in_another_container_keep_an_attempt_from_being_run_again(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Its processes cannot be seen from there; that they hold its output can."""

    def judged_elsewhere() -> str:
        code = (
            "import sys;from pathlib import Path;from settled import settled;"
            "from holdfast.attempts.names import AttemptName;"
            "print(settled(Path(sys.argv[1]),AttemptName('exp_1','0',1),grace_s=0))"
        )
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code,
             str(tmp_path)], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        if "unshare" in done.stderr:
            pytest.skip("needs the right to make a pid namespace")
        assert done.returncode == 0, done.stderr
        return done.stdout

    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    command = command_of(handle)
    assert judged_elsewhere().startswith("Running")
    os.kill(shim_of(handle), signal.SIGKILL)
    until(lambda: engine.poll([handle])[0].kind == "gone")
    assert judged_elsewhere().startswith("Undecided")
    os.kill(command, signal.SIGKILL)
    until(lambda: not alive(command))
    assert judged_elsewhere().startswith("Lost")


@linux
def test_attempts_go_on_when_the_starter_is_killed(engine: LocalEngine, tmp_path: Path) -> None:
    """They are watched like adopted ones, and another starter takes its place."""
    handle = start(engine, tmp_path, "echo up; until [ -e go ]; do sleep 0.02; done; exit 4",
                   cwd=str(tmp_path))  # fmt: skip
    up(tmp_path)
    os.kill(starter_of(handle), signal.SIGKILL)
    engine.wait(5)
    assert engine.poll([handle])[0].kind == "running"
    assert engine.find(EXPERIMENT, tmp_path).keys() == {NAME}
    other = Attempt(name=AttemptName.of_process(EXPERIMENT, 1, 1), argv=("true",), folder=tmp_path)
    (second,) = engine.submit(EXPERIMENT, [other])
    (tmp_path / "go").touch()
    assert outcome(tmp_path).exit_code == 4
    until(lambda: all(word.kind == "gone" for word in engine.poll([handle, second])))
    assert read_exit(tmp_path, other.name) is not None


@linux
def test_a_starter_that_dies_while_it_is_asked_is_replaced(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Nobody knows how far it got, and asking another cannot run anything twice."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    starter = starter_of(handle)
    os.kill(starter, signal.SIGSTOP)
    timer = threading.Timer(0.1, os.kill, (starter, signal.SIGKILL))
    timer.start()
    other = Attempt(
        name=AttemptName.of_process(EXPERIMENT, 1, 1),
        argv=("sh", "-c", "echo ran >> log"),
        cwd=str(tmp_path),
        folder=tmp_path,
    )
    (second,) = engine.submit(EXPERIMENT, [other])
    timer.join()
    until(lambda: engine.poll([second])[0].kind == "gone")
    assert (tmp_path / "log").read_text() == "ran\n"
    assert engine.poll([handle])[0].kind == "running"
    request(tmp_path, "kill")
    engine.cancel([handle], force=True)
    assert outcome(tmp_path).stop_requested == "user"


def test_an_engine_that_cannot_look_says_unknown(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sick disk is no error of an engine's, and no word on the attempt."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)

    opened = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(".exit"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *args, **options)

    with LocalEngine() as other:
        with monkeypatch.context() as broken:
            broken.setattr(os, "open", refuse)
            [word] = other.poll([handle])
            assert other.find(EXPERIMENT, tmp_path) == {}
        assert word.kind == "unknown"
        assert "0.1.exit" in word.text
        assert other.poll([handle])[0].kind == "running"


@pytest.mark.parametrize("pid", [-1, 0, 1, 2**40])
def test_a_forged_pid_is_not_signalled(engine: LocalEngine, tmp_path: Path, pid: int) -> None:
    """To the kernel, 0 and -1 are whole groups of processes."""
    prepare(tmp_path)
    identity = attrs.asdict(attrs.evolve(liveness.me(), pid=pid, start_ticks=None, locked=True))
    path = tmp_path / "attempts" / "0.1.live"
    path.write_text(json.dumps(identity))
    handle = Handle(name=NAME, folder=tmp_path)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        engine.cancel([handle])
        assert engine.poll([handle])[0].kind == "unknown"
        engine.wait(0.01)
    settled(tmp_path, NAME, grace_s=0)


@linux
def test_cancelling_reaches_attempts_whose_starter_is_dead(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """By the lock that its shim holds; the request itself is a file."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    os.kill(starter_of(handle), signal.SIGKILL)
    engine.wait(5)
    request(tmp_path)
    assert engine.cancel([handle]) == {}
    assert outcome(tmp_path).stop_requested == "user"


@linux
def test_the_starter_ends_with_its_orchestrator_even_if_a_fork_of_that_lives_on(
    tmp_path: Path,
) -> None:
    """Forks of the orchestrator (a pool of its user) hold nothing of ours."""
    code = (
        "import os,sys,time;from pathlib import Path;"
        "from holdfast.engines.local.engine import LocalEngine;"
        "from holdfast.attempts.names import AttemptName;"
        "from holdfast.attempts.records import Attempt;"
        "engine=LocalEngine();folder=Path(sys.argv[1]);"
        "h,=engine.submit('exp_1',[Attempt(name=AttemptName('exp_1','0',1),folder=folder,"
        "argv=['sh','-c','echo up; exec sleep 600'])]);"
        "fork=os.fork();"
        "fork or time.sleep(600);"
        "print(fork,h.identity.pid,flush=True);time.sleep(600)"
    )
    orchestrator = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    )
    with orchestrator:
        fork, shim = map(int, hear(orchestrator.stdout).split())
        up(tmp_path)
        starter = parent_of(shim)
        assert alive(starter)
        orchestrator.kill()
    try:
        until(lambda: not alive(starter))
        assert alive(fork)
        assert isinstance(settled(tmp_path, NAME, grace_s=0), Running)
    finally:
        os.kill(fork, signal.SIGKILL)
    request(tmp_path, "kill")
    assert outcome(tmp_path).signal == signal.SIGKILL


def test_a_fork_of_the_orchestrator_cannot_submit(engine: LocalEngine, tmp_path: Path) -> None:
    """Two processes on one socket would tear each other's messages."""
    engine.start()

    def submitted() -> str:
        with pytest.raises(EngineError):
            start(engine, tmp_path, "true")
        return "refused"

    assert in_a_fork(submitted) == "refused"
    start(engine, tmp_path, "true")
    assert outcome(tmp_path).exit_code == 0


@linux
def test_nobody_inherits_the_lock(engine: LocalEngine, tmp_path: Path) -> None:
    """With the shim, its lock is gone, whatever it has started: that is what makes it proof."""
    handle = start(engine, tmp_path, "sleep 600 & echo up; wait")
    up(tmp_path)
    assert live_state(tmp_path, NAME).kind == "held"
    live = os.stat(tmp_path / "attempts" / "0.1.live")
    holders = [
        pid
        for pid in liveness.Observer.here().pids()
        for file in _open_files(pid)
        if os.path.samestat(file, live)
    ]
    assert holders == [shim_of(handle)]
    os.kill(shim_of(handle), signal.SIGKILL)
    until(lambda: live_state(tmp_path, NAME).kind == "free")
    assert isinstance(settled(tmp_path, NAME, grace_s=0), Lost)


def _open_files(pid: int) -> list[os.stat_result]:
    found = []
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.stat(f"/proc/{pid}/fd/{fd}"))
    return found


@pytest.mark.parametrize("changed", ["start_ticks", "lock"])
def test_a_stranger_with_the_pid_of_a_shim_is_never_signalled(
    engine: LocalEngine, tmp_path: Path, changed: str
) -> None:
    """The lock has to be held and the start time has to be the recorded one."""
    prepare(tmp_path)
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        identity = attrs.asdict(liveness.identity_of(stranger.pid)) | {"locked": True}  # type: ignore[arg-type]
        if changed == "start_ticks":
            identity["start_ticks"] -= 100
        path = tmp_path / "attempts" / "0.1.live"
        path.write_text(json.dumps(identity))
        handle = Handle(name=NAME, folder=tmp_path)
        with path.open() as file:
            if changed == "start_ticks":
                fcntl.flock(file, fcntl.LOCK_EX)
            engine.cancel([handle])
            engine.cancel([handle], force=True)
        assert stranger.poll() is None
    finally:
        stranger.terminate()
        assert stranger.wait() == -signal.SIGTERM


def test_a_terminals_interrupt_does_not_reach_the_attempts(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Each has its own session: only the orchestrator is asked."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    pid = shim_of(handle)
    assert os.getsid(pid) == pid != os.getsid(0)
    engine.cancel([handle], force=True)
    outcome(tmp_path)


def test_a_stopped_command_can_be_cancelled(engine: LocalEngine, tmp_path: Path) -> None:
    """SIGSTOP does not make it deaf."""
    handle = start(engine, tmp_path, "echo up; kill -STOP $$; sleep 600", grace_s=600.0)
    up(tmp_path)
    engine.cancel([handle])
    assert outcome(tmp_path).signal == signal.SIGTERM


def test_a_shim_is_small(engine: LocalEngine, tmp_path: Path) -> None:
    """Less than 3 MB of its own, without a single dependency loaded."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    try:
        rollup = Path(f"/proc/{shim_of(handle)}/smaps_rollup").read_text()
    except OSError:
        pytest.skip("needs /proc/PID/smaps_rollup")
    finally:
        engine.cancel([handle], force=True)
    private = sum(
        int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")
    )
    assert private < 3000, rollup
    outcome(tmp_path)


def test_the_shim_needs_no_package() -> None:
    """It runs in an interpreter that has no site-packages."""
    from holdfast.engines.local.starting import places

    code = "import sys; sys.path += sys.argv[1:]; import starter, shim; print(len(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *places()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 76


def test_a_platform_without_fork_is_refused() -> None:
    """Windows has neither fork nor fcntl: a clear error, not a failing import."""
    code = (
        "import os,sys;sys.modules['fcntl']=None;"
        "from holdfast.engines.local.engine import LocalEngine;"
        "from holdfast.errors import UnsupportedPlatformError;"
        "del os.fork\n"
        "try: LocalEngine()\n"
        "except UnsupportedPlatformError as err: print(err)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "WSL" in done.stdout, done.stderr


def test_a_closed_engine_says_so(engine: LocalEngine, tmp_path: Path) -> None:
    """Nothing is started by it any more."""
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        start(engine, tmp_path, "true")


def fill(folder: Path) -> list[Path]:
    """Take every inode and every byte."""
    made = []
    with contextlib.suppress(OSError):
        (folder / "ballast").write_bytes(bytes(1 << 20))
    for number in range(1000):
        made.append(folder / f"ballast{number}")
        try:
            made[-1].touch()
        except OSError:
            return [*made[:-1], folder / "ballast"]
    raise AssertionError("the file system is never full")


def empty(ballast: list[Path]) -> None:
    for path in ballast:
        path.unlink(missing_ok=True)


def test_an_outcome_waits_for_room_on_a_full_disk(
    engine: LocalEngine, small_disk: Path, tmp_path: Path
) -> None:
    """`.live` stays locked until it is published: nobody takes the attempt for lost."""
    handle = start(engine, small_disk, "echo $$ up; until [ -e go ]; do sleep 0.02; done; exit 6",
                   cwd=str(tmp_path))  # fmt: skip
    up(small_disk)
    command = int(output_path(small_disk, NAME).read_text().split()[0])
    ballast = fill(small_disk)
    (tmp_path / "go").touch()
    until(lambda: not alive(command))
    assert isinstance(settled(small_disk, NAME, grace_s=0), Running)
    assert engine.poll([handle])[0].kind in ("running", "completing")
    empty(ballast)
    assert outcome(small_disk).exit_code == 6
    until(lambda: engine.poll([handle])[0].kind == "gone")
    assert isinstance(settled(small_disk, NAME, grace_s=0), Ended)


def test_a_shim_that_waits_for_room_can_be_told_to_give_up(
    engine: LocalEngine, small_disk: Path, tmp_path: Path
) -> None:
    """By force only: its outcome is lost then, and the attempt is dead, not failed."""
    handle = start(engine, small_disk, "echo $$ up; until [ -e go ]; do sleep 0.02; done",
                   cwd=str(tmp_path))  # fmt: skip
    up(small_disk)
    command = int(output_path(small_disk, NAME).read_text().split()[0])
    ballast = fill(small_disk)
    (tmp_path / "go").touch()
    until(lambda: not alive(command))
    engine.cancel([handle])
    assert engine.poll([handle])[0].kind in ("running", "completing")
    engine.cancel([handle], force=True)
    word = until(lambda: (w := engine.poll([handle])[0]).kind == "gone" and w)
    assert "room" in word.text
    empty(ballast)
    assert isinstance(settled(small_disk, NAME, grace_s=0), Lost)


def test_a_shim_that_is_told_to_kill_its_command_does_not_wait_for_room(
    engine: LocalEngine, small_disk: Path
) -> None:
    """Nobody would be left to end that wait, and a killed attempt is no worse for being lost."""
    handle = start(engine, small_disk, "echo $$ up; sleep 600")
    up(small_disk)
    command = int(output_path(small_disk, NAME).read_text().split()[0])
    ballast = fill(small_disk)
    engine.cancel([handle], force=True)
    word = until(lambda: (w := engine.poll([handle])[0]).kind == "gone" and w)
    assert "room" in word.text
    assert not alive(command)
    empty(ballast)
    assert isinstance(settled(small_disk, NAME, grace_s=0), Lost)


def test_nothing_starts_before_there_is_room_for_its_outcome(
    engine: LocalEngine, small_disk: Path, tmp_path: Path
) -> None:
    """A command whose outcome could not be written does not begin."""
    prepare(small_disk)
    ballast = fill(small_disk)
    handle = start(engine, small_disk, "echo ran > log", cwd=str(tmp_path))
    until(lambda: alive(shim_of(handle)))
    assert engine.poll([handle])[0].kind == "running"
    assert not (tmp_path / "log").exists()
    empty(ballast)
    assert outcome(small_disk).exit_code == 0
    assert (tmp_path / "log").read_text() == "ran\n"
    until(lambda: engine.poll([handle])[0].kind == "gone")


def test_an_attempt_that_waits_for_room_can_be_cancelled(
    engine: LocalEngine, small_disk: Path, tmp_path: Path
) -> None:
    """It has not begun, and it does not begin when there is room."""
    prepare(small_disk)
    ballast = fill(small_disk)
    handle = start(engine, small_disk, "echo ran > log", cwd=str(tmp_path))
    engine.cancel([handle])
    until(lambda: engine.poll([handle])[0].kind == "gone")
    empty(ballast)
    assert isinstance(settled(small_disk, NAME, grace_s=0), Lost)
    assert not (tmp_path / "log").exists()


def tracer_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])


@linux
@pytest.mark.parametrize(
    "fault",
    [
        "linkat:error=EDQUOT:when=1",
        "fallocate:error=ENOSPC:when=1",
        "pwrite64:error=EIO:when=1",
        "fsync:error=EIO:when=1",
        "linkat:error=EROFS:when=2",
        "fsync:error=EIO:when=2",
    ],
)
def test_no_fault_of_the_disk_loses_an_outcome(
    engine: LocalEngine, tmp_path: Path, fault: str
) -> None:
    """Each step of the shim fails once: the command runs once and its outcome is published."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    first = start(engine, tmp_path, "exec sleep 600")
    starter = starter_of(first)
    engine.cancel([first], force=True)
    until(lambda: engine.poll([first])[0].kind == "gone")
    call = fault.partition(":")[0]
    strace = subprocess.Popen(
        ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={fault}",
         "-p", str(starter)], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: tracer_of(starter) or strace.poll() is not None)
        if strace.poll() is not None:
            pytest.skip("needs the right to trace")
        second = AttemptName.of_process(EXPERIMENT, 2, 1)
        (handle,) = engine.submit(
            EXPERIMENT,
            [
                Attempt(
                    name=second,
                    argv=("sh", "-c", "echo ran >> log"),
                    cwd=str(tmp_path),
                    folder=tmp_path,
                )
            ],
        )
        until(lambda: engine.poll([handle])[0].kind == "gone")
    finally:
        strace.terminate()
        strace.wait()
    record = read_exit(tmp_path, second)
    assert record is not None
    assert record.exit_code == 0
    assert (tmp_path / "log").read_text() == "ran\n"
    assert not [name for name in os.listdir(tmp_path / "attempts") if name.endswith(".tmp")]


@linux
@pytest.mark.parametrize("whose", ["its own", "its child's"])
def test_a_command_killed_for_want_of_memory_is_told_from_one_that_was_killed(
    engine: LocalEngine, tmp_path: Path, whose: str
) -> None:
    """Proven by the kernel's log about its pid; else it is a guess, and called one."""
    group = memory_group()
    if group is None:
        pytest.skip("needs a writable memory cgroup")
    if not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("needs the kernel's log")
    path, procs = group
    hog = f"{sys.executable} -S -c 'b=[]\nwhile True: b.append(bytearray(1<<20))'"
    run = f"exec {hog}" if whose == "its own" else f"{hog}; exit 137"
    handle = start(engine, tmp_path, f"echo $$ > {procs}; {run}", grace_s=1.0)
    record = outcome(tmp_path)
    until(lambda: engine.poll([handle])[0].kind == "gone")
    until(lambda: _removed(path))
    proven = whose == "its own"
    assert record.signal == (signal.SIGKILL if proven else None)
    assert record.out_of_memory == proven
    assert exit_file(tmp_path)["perhaps_memory"] == (not proven)


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()
