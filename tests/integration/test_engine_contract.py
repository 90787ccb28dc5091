"""What every engine promises, run over each of them with real processes."""

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast.attempts.files import live_state, read_exit, revoke
from holdfast.attempts.looking import Ended, Running
from holdfast.attempts.names import AttemptName, error_path, output_path
from holdfast.attempts.records import Attempt, ExitRecord
from holdfast.attempts.settling import Lost
from holdfast.engines.contract import ALIVE, TERMINAL, Engine, Handle
from holdfast.engines.local.engine import LocalEngine
from holdfast.status import Reason
from processes import hear, python
from settled import settled
from shims import request
from waiting import until

EXPERIMENT = "exp_1"
#: Every engine, as what makes one in any program; with the fixture of the servers that it needs.
ENGINES = [
    pytest.param("holdfast.engines.local.engine:LocalEngine", None, id="local"),
    pytest.param("pools:Threads", None, id="threads"),
    pytest.param("pools:Processes", None, id="processes"),
    pytest.param(
        "holdfast.engines.dask.engine:DaskEngine", "dask", id="dask", marks=pytest.mark.dask
    ),
    pytest.param(
        "holdfast.engines.slurm.engine:SlurmEngine", "slurm", id="slurm", marks=pytest.mark.slurm
    ),
]


@pytest.fixture(
    params=[pytest.param(each.values, id=each.id, marks=each.marks) for each in ENGINES]
)
def kind(request: pytest.FixtureRequest) -> str:
    """`module:Class` of the engine under test, whose servers are up."""
    where, servers = request.param
    if servers is not None:
        request.getfixturevalue(servers)
    return str(where)


@pytest.fixture
def make_engine(kind: str, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Makes engines of one kind; all are closed, and what a failed test left is ended."""
    made: list[Engine] = []
    module, _, name = kind.partition(":")

    def make() -> Engine:
        made.append(getattr(importlib.import_module(module), name)())
        return made[-1]

    yield make
    last = make()
    left = list(last.find(EXPERIMENT, tmp_path).values())
    last.cancel(left, force=True)
    ended(last, left)
    for engine in made:
        engine.close()
    # A pool knows nothing of what another had: all of them run on this machine, and have files.
    with LocalEngine() as here:
        left = list(here.find(EXPERIMENT, tmp_path).values())
        here.cancel(left, force=True)
        ended(here, left)


@pytest.fixture
def engine(make_engine: Callable[[], Engine]) -> Engine:
    """One engine of the kind under test."""
    return make_engine()


def attempt(folder: Path, script: str, index: int = 0, number: int = 1, **options: Any) -> Attempt:
    return Attempt(
        name=AttemptName.of_process(EXPERIMENT, index, number),
        argv=("sh", "-c", script),
        folder=folder,
        **{"grace_s": 5.0, **options},
    )


def ended(engine: Engine, handles: Sequence[Handle], timeout_s: float = 120) -> None:
    """Wait as an orchestrator does, until all are over."""
    deadline = time.monotonic() + timeout_s
    while any(word.kind not in TERMINAL for word in engine.poll(handles)):
        assert time.monotonic() < deadline, engine.poll(handles)
        engine.wait(1.0)


def record(handle: Handle) -> ExitRecord:
    found = read_exit(handle.folder, handle.name)
    assert found is not None
    return found


def run(engine: Engine, *wanted: Attempt) -> list[ExitRecord]:
    handles = engine.submit(EXPERIMENT, wanted)
    ended(engine, handles)
    return [record(handle) for handle in handles]


def test_an_attempt_runs_and_its_outcome_is_recorded(engine: Engine, tmp_path: Path) -> None:
    """Exit code, times, cost, place, and both outputs."""
    (found,) = run(engine, attempt(tmp_path, "echo out; echo err >&2; exit 7"))
    assert (found.exit_code, found.signal, found.reason) == (7, None, Reason.EXIT)
    assert found.stop_requested is None
    assert found.started_at is not None
    assert found.ended_at is not None
    assert found.started_at <= found.ended_at
    assert found.max_rss_bytes is not None
    assert 100_000 < found.max_rss_bytes < 1_000_000_000
    assert found.cpu_s is not None
    assert 0 <= found.cpu_s < 10
    assert found.host
    name = AttemptName.of_process(EXPERIMENT, 0, 1)
    assert output_path(tmp_path, name).read_text() == "out\n"
    assert error_path(tmp_path, name).read_text() == "err\n"


def test_a_signal_is_recorded_as_a_signal(engine: Engine, tmp_path: Path) -> None:
    """Killed by somebody else: not asked to stop, no exit code."""
    (found,) = run(engine, attempt(tmp_path, "kill -9 $$"))
    assert (found.exit_code, found.signal, found.stop_requested) == (None, signal.SIGKILL, None)
    assert found.reason is Reason.SIGNAL


def test_the_environment_is_inherited_and_added_to(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Additions win; odd bytes arrive as they are. What is inherited is a Dask worker's own."""
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("REPLACED", "old")
    inherited = b"" if engine.name == "dask" else b"yes"
    env = {"REPLACED": "neu é \udcff", "HOLDFAST_INDEX": "0"}
    run(engine, attempt(tmp_path, 'printf %s "$INHERITED|$REPLACED|$HOLDFAST_INDEX"', env=env))
    output = output_path(tmp_path, AttemptName.of_process(EXPERIMENT, 0, 1)).read_bytes()
    assert output == inherited + b"|neu \xc3\xa9 \xff|0"


def test_a_command_starts_with_nothing_of_ours(engine: Engine, tmp_path: Path) -> None:
    """No descriptor but 0, 1, 2; default signals; nothing blocked; its own directory and group."""
    code = (
        "import json,os,signal,sys;"
        "fds=[f for f in range(256) if os.path.exists(f'/dev/fd/{f}')];"
        "ignored=[int(s) for s in signal.valid_signals() if s not in (13,25)"
        " and signal.getsignal(s) is signal.SIG_IGN];"
        "print(json.dumps([fds,ignored,[int(s) for s in signal.pthread_sigmask(0,())],"
        "os.getcwd(),os.getpgrp()==os.getpid(),sys.stdin.read(),"
        "[l.split()[1] for l in open('/proc/self/status') if l.startswith('SigIgn')]]))"
    )
    work = tmp_path / "work"
    work.mkdir()
    extra = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(extra, True)
    wanted = Attempt(
        name=AttemptName.of_process(EXPERIMENT, 0, 1),
        argv=(sys.executable, "-c", code),
        folder=tmp_path,
        cwd=str(work),
    )
    try:
        (found,) = run(engine, wanted)
    finally:
        os.close(extra)
    assert found.exit_code == 0, error_path(tmp_path, wanted.name).read_text()
    output = output_path(tmp_path, wanted.name).read_text()
    fds, ignored, blocked, cwd, leads, stdin, sig_ign = json.loads(output)
    # One descriptor more is what Python itself has open for a moment while it looks.
    assert [fd for fd in fds if fd > 2] in ([], [3])
    assert (ignored, blocked, cwd, leads, stdin) == ([], [], str(work), True, "")
    # Python ignores SIGPIPE (13) and SIGXFSZ (25) for itself; 32 and 33 are the C library's own.
    own = sum(1 << (number - 1) for number in (13, 25, 32, 33))
    assert all(int(mask, 16) & ~own == 0 for mask in sig_ign)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"argv": ("no-such-command-here",)}, "command not found"),
        ({"argv": ("./plain",)}, "not executable"),
        ({"argv": ("./no-interpreter",)}, "first line"),
        ({"argv": ("./no-program",)}, "no program"),
        ({"argv": ("true",), "cwd": "/no/such/place"}, "does not exist"),
        ({"argv": ("printf", "a\0b")}, "null"),
    ],
)
def test_what_cannot_be_started_says_why(
    engine: Engine, tmp_path: Path, options: Mapping[str, Any], said: str
) -> None:
    """A launch error is an outcome, with the reason in words."""
    for name, mode, content in (
        ("plain", 0o644, "#!/bin/sh\n"),
        ("no-interpreter", 0o755, "#!/no/such/thing\n"),
        ("no-program", 0o755, "just text\n"),
    ):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    base = {
        "name": AttemptName.of_process(EXPERIMENT, 0, 1),
        "folder": tmp_path,
        "cwd": str(tmp_path),
    }
    (found,) = run(engine, Attempt(**{**base, **options}))
    assert found.reason is Reason.LAUNCH_ERROR
    assert (found.exit_code, found.signal) == (None, None)
    assert found.error is not None
    assert said in found.error


def test_python_is_there_even_where_none_is_on_path(engine: Engine, tmp_path: Path) -> None:
    """The first word `python` then means the interpreter that runs holdfast."""
    wanted = Attempt(
        name=AttemptName.of_process(EXPERIMENT, 0, 1),
        argv=("python", "-c", "import sys; print(sys.executable)"),
        env={"PATH": str(tmp_path)},
        folder=tmp_path,
    )
    (found,) = run(engine, wanted)
    assert found.exit_code == 0
    shown = output_path(tmp_path, wanted.name).read_text().strip()
    assert os.path.realpath(shown) == os.path.realpath(sys.executable)


def test_a_timeout_stops_the_attempt_and_is_told_from_a_failure(
    engine: Engine, tmp_path: Path
) -> None:
    """TERM at the timeout; nobody asked for it."""
    (found,) = run(engine, attempt(tmp_path, "sleep 600", timeout_s=0.2))
    assert found.timed_out
    assert (found.reason, found.stop_requested) == (Reason.TIMEOUT, None)
    assert found.signal == signal.SIGTERM


def test_an_attempt_that_ignores_term_is_killed_after_its_grace_period(
    engine: Engine, tmp_path: Path
) -> None:
    """Neither a timeout nor a cancel can be sat out."""
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    wanted = attempt(tmp_path, script, timeout_s=0.5, grace_s=0.2)
    (found,) = run(engine, wanted)
    assert found.timed_out
    # On a slow machine, its time may be over before it has come to ignore anything.
    ignores = "up" in output_path(tmp_path, wanted.name).read_text()
    assert found.signal == signal.SIGKILL or not ignores


def up(handle: Handle, text: str = "up") -> None:
    path = output_path(handle.folder, handle.name)
    until(lambda: path.exists() and text in path.read_text())


def test_a_cancelled_attempt_that_exits_0_is_recorded_as_asked_to_stop(
    engine: Engine, tmp_path: Path
) -> None:
    """Exit code 0 after a request to stop is not the end of its work."""
    script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, script)])
    up(handles[0])
    engine.cancel(handles)
    ended(engine, handles)
    found = record(handles[0])
    assert (found.exit_code, found.stop_requested) == (0, "user")
    assert found.stop_requested is Reason.USER


def test_cancelling_at_once_is_not_too_early(engine: Engine, tmp_path: Path) -> None:
    """A request to stop that overtakes the start of the command is not lost."""
    wanted = [attempt(tmp_path, "exec sleep 600", index) for index in range(10)]
    handles = engine.submit(EXPERIMENT, wanted)
    engine.cancel(handles)
    ended(engine, handles)
    # Where there is a queue, some have not left it.
    waited = ("absent", "revoked")
    found = [record(one) for one in handles if live_state(tmp_path, one.name).kind not in waited]
    assert all(each.stop_requested == "user" for each in found)
    assert len(found) == len(handles) or engine.name != "local"


def test_force_kills_what_would_have_had_time(engine: Engine, tmp_path: Path) -> None:
    """A second request does not wait for the grace period of the first."""
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, script, grace_s=600.0)])
    up(handles[0])
    engine.cancel(handles)
    engine.cancel(handles, force=True)
    ended(engine, handles)
    found = record(handles[0])
    assert (found.signal, found.stop_requested) == (signal.SIGKILL, "user")


def test_cancelling_what_has_ended_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    """Its outcome stays what it was."""
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, "exit 0")])
    ended(engine, handles)
    engine.cancel(handles, force=True)
    assert (record(handles[0]).exit_code, record(handles[0]).stop_requested) == (0, None)


def test_what_an_attempt_left_running_is_gone_before_its_outcome(
    engine: Engine, tmp_path: Path
) -> None:
    """Whoever sees the outcome may start the next attempt: no two of them overlap."""
    script = (
        "(trap '' TERM HUP; while :; do date +%s%N >> left; sleep 0.01; done) & "
        "until [ -s left ]; do sleep 0.01; done; exit 0"
    )
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, script, cwd=str(tmp_path), grace_s=0.2)])
    until(lambda: read_exit(tmp_path, handles[0].name))
    size = (tmp_path / "left").stat().st_size
    ended(engine, handles)
    assert record(handles[0]).exit_code == 0
    assert (tmp_path / "left").stat().st_size == size


def test_many_attempts_run_at_once(engine: Engine, tmp_path: Path) -> None:
    """None of them ends before all have begun."""
    count = min(64, engine.room() or 64)
    script = "touch begun.$I; until [ -e go ]; do sleep 0.2; done"
    wanted = [
        attempt(tmp_path, script, index, cwd=str(tmp_path), env={"I": str(index)})
        for index in range(count)
    ]
    handles = engine.submit(EXPERIMENT, wanted)
    assert [handle.name for handle in handles] == [one.name for one in wanted]
    until(lambda: len(list(tmp_path.glob("begun.*"))) == count, 120)
    assert engine.find(EXPERIMENT, tmp_path).keys() == {one.name for one in wanted}
    (tmp_path / "go").touch()
    ended(engine, handles)
    assert {record(handle).exit_code for handle in handles} == {0}
    assert engine.find(EXPERIMENT, tmp_path) == {}
    # An outcome can be seen before its first name is gone.
    until(lambda: not [n for n in os.listdir(tmp_path / "attempts") if n.endswith(".tmp")])


def test_an_attempt_that_was_submitted_twice_runs_once(
    make_engine: Callable[[], Engine], tmp_path: Path
) -> None:
    """An engine's own retry, or a second engine, finds the right to run it taken."""
    wanted = attempt(tmp_path, "echo ran >> log; sleep 0.2", cwd=str(tmp_path))
    engines = [make_engine(), make_engine()]
    handles = [engine.submit(EXPERIMENT, [wanted, wanted]) for engine in engines]
    for engine, some in zip(engines, handles, strict=True):
        ended(engine, some)
    assert (tmp_path / "log").read_text() == "ran\n"


def test_a_revoked_attempt_never_runs(engine: Engine, tmp_path: Path) -> None:
    """Its shim comes late, finds the mark, and goes."""
    wanted = attempt(tmp_path, "echo ran > log", cwd=str(tmp_path))
    assert revoke(tmp_path, wanted.name)
    handles = engine.submit(EXPERIMENT, [wanted])
    ended(engine, handles)
    assert not (tmp_path / "log").exists()
    assert read_exit(tmp_path, wanted.name) is None
    assert isinstance(settled(tmp_path, wanted.name, grace_s=0), Lost)


def test_attempts_outlive_their_engine_and_are_adopted(
    make_engine: Callable[[], Engine], tmp_path: Path
) -> None:
    """Closing an engine stops nothing; another finds, watches, and stops them."""
    first = make_engine()
    gate = "echo up; until [ -e go ]; do sleep 0.02; done; exit 5"
    wanted = [attempt(tmp_path, gate, index, cwd=str(tmp_path)) for index in range(2)]
    handles = first.submit(EXPERIMENT, wanted)
    for handle in handles:
        up(handle)
    first.close()
    second = make_engine()
    assert second.find(EXPERIMENT) == {}
    found = second.find(EXPERIMENT, tmp_path)
    assert found.keys() == {one.name for one in wanted}
    assert [word.kind for word in second.poll(list(found.values()))] == ["running", "running"]
    for one in wanted:
        assert isinstance(settled(tmp_path, one.name, grace_s=0), Running)
    request(tmp_path, name=wanted[0].name)
    second.cancel([found[wanted[0].name]])
    ended(second, [found[wanted[0].name]])
    assert record(found[wanted[0].name]).stop_requested == "user"
    (tmp_path / "go").touch()
    ended(second, list(found.values()))
    assert record(found[wanted[1].name]).exit_code == 5
    assert isinstance(settled(tmp_path, wanted[1].name, grace_s=0), Ended)


def test_attempts_outlive_the_death_of_their_orchestrator(
    make_engine: Callable[[], Engine], kind: str, tmp_path: Path
) -> None:
    """After SIGKILL of the process that submitted it, an attempt ends in its own time."""
    module, _, name = kind.partition(":")
    code = (
        "import sys;from pathlib import Path;"
        f"from {module} import {name};"
        "from holdfast.attempts.names import AttemptName;"
        "from holdfast.attempts.records import Attempt;"
        f"folder=Path(sys.argv[1]);engine={name}();"
        "engine.submit('exp_1',[Attempt(name=AttemptName('exp_1','0',1),folder=folder,"
        "argv=['sh','-c','echo up; until [ -e go ]; do sleep 0.02; done; exit 5'],"
        "cwd=str(folder))]);"
        "print('submitted',flush=True);engine.wait(600)"
    )
    attempted = AttemptName.of_process(EXPERIMENT, 0, 1)
    with python(code, tmp_path) as orchestrator:
        hear(orchestrator.stdout, "submitted")
        # Not before it runs: a pool's own queue ends with the program that it is in.
        up(Handle(name=attempted, folder=tmp_path))
        orchestrator.kill()
    engine = make_engine()
    found = until(lambda: engine.find(EXPERIMENT, tmp_path))
    handle = found.get(attempted)
    assert handle is not None
    (tmp_path / "go").touch()
    ended(engine, [handle])
    assert record(handle).exit_code == 5


def test_a_handle_survives_as_json(engine: Engine, tmp_path: Path) -> None:
    """It finds its attempt again in another life."""
    (handle,) = engine.submit(EXPERIMENT, [attempt(tmp_path, "exit 0")])
    again = Handle.from_json(json.loads(json.dumps(handle.to_json())))
    assert again == handle
    ended(engine, [again])


def test_waiting_ends_when_an_attempt_does(engine: Engine, tmp_path: Path) -> None:
    """The loop reacts at once, not at the next look."""
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, "exit 0")])
    while engine.poll(handles)[0].kind not in TERMINAL:
        engine.wait(3600)  # no test takes that long


def test_waiting_is_ended_by_a_wake_up(engine: Engine) -> None:
    """A signal handler ends the wait, also one that has not begun yet."""
    engine.wake()
    engine.wait(3600)
    threading.Timer(0.05, engine.wake).start()
    engine.wait(3600)


def test_waiting_ends_in_time_when_nothing_happens(engine: Engine, tmp_path: Path) -> None:
    """A timeout is kept while attempts run."""
    handles = engine.submit(EXPERIMENT, [attempt(tmp_path, "exec sleep 600")])
    engine.wait(0.05)
    assert engine.poll(handles)[0].kind in ALIVE
    engine.cancel(handles, force=True)
    ended(engine, handles)


def test_closing_twice_is_fine(engine: Engine) -> None:
    """Whoever cleans up need not know who did before."""
    engine.close()
    engine.close()
