"""Nothing of an attempt is alive when its outcome can be seen, whatever sessions it has made."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.attempts import cgroups
from holdfast.attempts.names import AttemptName
from holdfast.engines.local.engine import LocalEngine
from holdfast.engines.local.hearing import WAKE
from processes import parent_of
from shims import (
    EXPERIMENT,
    NAME,
    alive,
    an_engine,
    exit_file,
    halted,
    live_file,
    mark_of,
    request,
    shim_of,
    start,
    up,
)
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

GATE = "until [ -e go ]; do sleep 0.01; done; "

#: A rank as torchrun starts it, or worse: a session of its own, deaf to TERM, quiet, parentless.
RANKS = """
import os, signal, sys
for rank in range(4):
    if os.fork() == 0:
        os.setsid()
        if "deaf" in sys.argv: signal.signal(15, signal.SIG_IGN)
        if "double" in sys.argv and os.fork(): os._exit(0)
        if "silent" in sys.argv: [os.close(fd) for fd in (0, 1, 2)]
        with open(f"rank.{rank}.tmp", "w") as file: file.write(str(os.getpid()))
        os.rename(f"rank.{rank}.tmp", f"rank.{rank}")
        while True: signal.sigtimedwait([], 60)
"""


@pytest.fixture(params=[False, True], ids=["descent", "cgroup"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalEngine]:
    if request.param and cgroups.own() is None:
        pytest.skip("no cgroups can be made here")
    with an_engine(tmp_path, cgroup=request.param) as engine:
        yield engine


def ranks(folder: Path) -> list[int]:
    paths = [folder / f"rank.{number}" for number in range(4)]
    until(lambda: all(path.exists() for path in paths))
    return [int(path.read_text()) for path in paths]


@pytest.mark.parametrize("kind", ["", "deaf", "double", "silent", "deaf double silent"])
@pytest.mark.parametrize("way", ["exit 0", "exit 1", "killed", "timeout", "stop", "kill", "term"])
def test_ranks_in_sessions_of_their_own_are_gone_before_the_outcome(
    engine: LocalEngine, tmp_path: Path, way: str, kind: str
) -> None:
    """Attempt 2 must not run beside what attempt 1 has left."""
    (tmp_path / "launch.py").write_text(RANKS)
    script = f"{sys.executable} -S launch.py {kind} & echo up; {GATE} {way.replace('killed', '')}"
    options = {"timeout_s": 1.5} if way == "timeout" else {}
    handle = start(engine, tmp_path, script, grace_s=0.2, **options)
    with halted(handle) if way == "timeout" else contextlib.nullcontext():
        started = ranks(tmp_path)
    if way.startswith("exit"):
        (tmp_path / "go").touch()
    elif way == "killed":
        os.kill(command_of_shell(shim_of(handle)), signal.SIGKILL)
    elif way in ("stop", "kill"):
        request(tmp_path, way)
        os.kill(shim_of(handle), WAKE)  # else it looks once a second
    elif way == "term":
        os.kill(shim_of(handle), signal.SIGTERM)
    found = exit_file(tmp_path)
    assert not any(alive(pid) for pid in started)
    assert found["left"] == []
    if way.startswith("exit"):
        assert found["exit_code"] == int(way[-1])
        assert {pid for pid, _ in found["stopped"]} >= set(started)
        assert all(name.startswith("python") for _, name in found["stopped"])
    assert found["timed_out"] == (way == "timeout")
    assert found["stop_requested"] == ("user" if way in ("stop", "kill") else None)


def command_of_shell(shim: int) -> int:
    """The command among the children of *shim*, which adopts orphans."""
    for pid in Path(f"/proc/{shim}/task/{shim}/children").read_text().split():
        with contextlib.suppress(OSError):  # an orphan that has ended since
            if Path(f"/proc/{pid}/comm").read_text() == "sh\n":
                return int(pid)
    raise AssertionError("no shell")


def test_what_is_left_has_the_grace_period_to_end_in_order(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """TERM first, also for what the command has left behind in another session."""
    script = (
        'setsid sh -c \'trap "echo in order; exit 0" TERM; echo up;'
        " while :; do sleep 0.01; done' & " + GATE
    )
    start(engine, tmp_path, script, grace_s=600.0)
    up(tmp_path)
    (tmp_path / "go").touch()
    assert exit_file(tmp_path)["exit_code"] == 0
    assert "in order" in (tmp_path / "attempts" / f"{NAME}.out").read_text()


def test_a_stopped_leftover_is_ended(engine: LocalEngine, tmp_path: Path) -> None:
    """TERM reaches it only once it goes on."""
    script = "setsid sh -c 'echo $$ up; kill -STOP $$; sleep 600' & " + GATE
    start(engine, tmp_path, script, grace_s=600.0)
    left = int(up(tmp_path)[0])
    (tmp_path / "go").touch()
    assert exit_file(tmp_path)["exit_code"] == 0
    assert not alive(left)


def test_what_forks_faster_than_it_is_killed_is_ended(engine: LocalEngine, tmp_path: Path) -> None:
    """Again and again: each generation comes to the shim when the one before is killed."""
    code = (
        "import os, signal\nsignal.signal(15, signal.SIG_IGN)\nos.setsid()\n"
        "print('up', flush=True)\n"
        "while True:\n    if os.fork(): os._exit(0)\n    open('last', 'w').write(str(os.getpid()))"
    )
    (tmp_path / "hop.py").write_text(code)
    start(engine, tmp_path, f"{sys.executable} -S hop.py & {GATE}", grace_s=0.1)
    up(tmp_path)
    (tmp_path / "go").touch()
    assert exit_file(tmp_path)["left"] == []
    before = (tmp_path / "last").read_text()
    assert not before or not alive(int(before))


def test_a_released_daemon_is_left_alone(engine: LocalEngine, tmp_path: Path) -> None:
    """What is meant to be shared is neither stopped nor waited for, nor its children."""
    script = (
        "HOLDFAST_SESSION= setsid sh -c 'sleep 600 & echo $$ $! up; wait' >daemon 2>&1 & "
        "sleep 600 & echo $! up; until grep -q up daemon; do sleep 0.01; done; exit 0"
    )
    start(engine, tmp_path, script, grace_s=600.0)
    found = exit_file(tmp_path)
    released = [int(word) for word in (tmp_path / "daemon").read_text().split()[:2]]
    other = int(up(tmp_path)[0])
    try:
        assert found["exit_code"] == 0
        assert all(alive(pid) for pid in released)
        assert not alive(other)
        assert [pid for pid, _ in found["stopped"]] == [other]
        assert found["left"] == []
    finally:
        for pid in released:
            os.kill(pid, signal.SIGKILL)


def test_a_request_to_stop_spares_the_released(engine: LocalEngine, tmp_path: Path) -> None:
    """Also one in the very group of the command."""
    script = (
        f"HOLDFAST_SESSION= {sys.executable} -S -c "
        "'import os, signal; print(os.getpid(), flush=True); signal.sigtimedwait([], 600)' "
        ">daemon & until [ -s daemon ]; do sleep 0.01; done; echo up; sleep 600"
    )
    start(engine, tmp_path, script, grace_s=0.1)
    up(tmp_path)
    daemon = int((tmp_path / "daemon").read_text())
    request(tmp_path, "kill")
    found = exit_file(tmp_path)
    try:
        assert found["signal"] == signal.SIGKILL
        assert alive(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_a_released_process_that_lives_on_does_not_hold_its_own_release_back(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """A shell that is gone before its child has become the daemon does not doom it."""
    start(engine, tmp_path, "HOLDFAST_SESSION= setsid sleep 600 & echo $! up; exit 0")
    found = exit_file(tmp_path)
    daemon = int(up(tmp_path)[0])
    try:
        assert found["stopped"] == []
        assert alive(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


@pytest.mark.parametrize("engine", [False], indirect=True)  # a cgroup ends other users', too
def test_what_cannot_be_signalled_is_named_and_not_waited_for(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Another user's process, say: the outcome names it after five seconds, with the reason."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    first = start(engine, tmp_path, GATE)
    starter = parent_of(shim_of(first))
    (tmp_path / "go").touch()
    exit_file(tmp_path)
    strace = subprocess.Popen(
        ["strace", "-f", "-o", os.devnull, "-e", "trace=kill,pidfd_send_signal",
         "-e", "inject=kill,pidfd_send_signal:error=EPERM", "-p", str(starter)],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    second = AttemptName.of_process(EXPERIMENT, 1, 1)
    left = 0
    try:
        until(lambda: _traced(starter) or strace.poll() is not None)
        if strace.poll() is not None:
            pytest.skip("needs the right to trace")
        script = "setsid sleep 600 & echo $! up; exit 0"
        start(engine, tmp_path, script, second, grace_s=0.1)
        left = int(up(tmp_path, name=second)[0])
        found = exit_file(tmp_path, second)
    finally:
        strace.terminate()
        strace.wait()
        if left:
            os.kill(left, signal.SIGKILL)
    assert found["exit_code"] == 0
    [[pid, ticks, name, why]] = found["left"]
    assert (pid, name, why) == (left, "sleep", "belongs to another user")
    assert ticks > 0


def _traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return status.partition("TracerPid:")[2].split()[0] != "0"


# --- the mark


def test_every_attempt_has_a_mark_of_its_own(engine: LocalEngine, tmp_path: Path) -> None:
    """128 random bits and whose they are, in `.live` and in the environment of all that it runs."""
    start(engine, tmp_path, 'echo "$HOLDFAST_SESSION up"')
    mark = live_file(tmp_path)["mark"]
    bits = mark.partition(".")[0]
    assert len(bytes.fromhex(bits)) == 16
    assert mark == mark_of(tmp_path, NAME, bits)
    assert up(tmp_path)[0] == mark
    exit_file(tmp_path)


@pytest.mark.parametrize(("inherited", "expected"), [("abc:def", "abc:def:"), ("", "")])
def test_the_mark_of_a_nested_attempt_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inherited: str, expected: str
) -> None:
    """It belongs to the attempt that runs it, too; what was released belongs to nobody else."""
    monkeypatch.setenv("HOLDFAST_SESSION", inherited)
    with an_engine(tmp_path) as engine:
        start(engine, tmp_path, 'echo "$HOLDFAST_SESSION up"')
        assert up(tmp_path)[0] == expected + live_file(tmp_path)["mark"]
        exit_file(tmp_path)


def test_adopted_orphans_count_for_cpu_and_memory(engine: LocalEngine, tmp_path: Path) -> None:
    """What the command did not wait for was still its work."""
    burn = (
        "import time\nb = b'x' * (100 << 20)\nwhile time.process_time() < 0.4: pass\n"
        "open('go', 'w')"
    )
    (tmp_path / "burn.py").write_text(burn)
    script = f"(setsid {sys.executable} -S burn.py &); {GATE} sleep 0.1; exit 0"
    start(engine, tmp_path, script)
    found = exit_file(tmp_path)
    assert found["cpu_s"] >= 0.4
    assert found["max_rss_bytes"] > 100 << 20
