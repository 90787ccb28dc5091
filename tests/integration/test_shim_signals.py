"""What a shim makes of signals and requests: none loses an end, none makes a false word."""

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import liveness
from holdfast.attempts.files import read_exit
from holdfast.attempts.names import AttemptName, attempts_dir, file_path, prepare
from holdfast.engines.contract import Handle
from holdfast.engines.local.engine import LocalEngine
from holdfast.engines.local.hearing import ALL, STOPS, WAKE
from holdfast.engines.local.shim import WINDOW_S
from holdfast.orchestration.exits import ends_by
from processes import parent_of
from shims import (
    EXPERIMENT,
    NAME,
    alive,
    an_engine,
    asleep,
    command_of,
    exit_file,
    halted,
    live_file,
    request,
    shim_of,
    start,
    state_of,
    up,
)
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

GATE = "until [ -e go ]; do sleep 0.01; done; "


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    with an_engine(tmp_path) as engine:
        yield engine


# --- signals of others


def test_no_signal_but_a_stop_changes_an_attempt(engine: LocalEngine, tmp_path: Path) -> None:
    """Whatever else can be blocked ends neither shim, command nor starter, and is no timeout."""
    handle = start(engine, tmp_path, f"echo up; {GATE} exit 3", timeout_s=600.0)
    up(tmp_path)
    shim = shim_of(handle)
    starter = parent_of(shim)
    for number in sorted(ALL):
        if number not in STOPS:
            os.kill(shim, number)
        if number != signal.SIGCHLD:
            os.kill(starter, number)
    (tmp_path / "go").touch()
    found = exit_file(tmp_path)
    assert (found["exit_code"], found["signal"]) == (3, None)
    assert (found["timed_out"], found["stop_requested"], found["interrupted_by"]) == (
        False, None, None,
    )  # fmt: skip
    assert alive(starter)
    second = AttemptName.of_process(EXPERIMENT, 1, 1)
    start(engine, tmp_path, "exit 4", second)
    assert exit_file(tmp_path, second)["exit_code"] == 4


@pytest.mark.parametrize("number", sorted(STOPS))
def test_a_strangers_stop_is_passed_on_and_recorded(
    engine: LocalEngine, tmp_path: Path, number: int
) -> None:
    """A machine that shuts down asks every process: it is not our own request."""
    handle = start(engine, tmp_path, "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done")
    up(tmp_path)
    os.kill(shim_of(handle), number)
    found = exit_file(tmp_path)
    assert (found["exit_code"], found["interrupted_by"]) == (0, number)
    assert found["stop_requested"] is None


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, WAKE + 1])
def test_a_warning_reaches_a_command_that_catches_it(
    engine: LocalEngine, tmp_path: Path, number: int
) -> None:
    """It may mean: save yourself, the time is nearly over."""
    code = (
        f"import os, signal; n = {int(number)}; signal.signal(n, lambda *_: open('warned', 'w'))\n"
        "print('up', flush=True)\n"
        "while not os.path.exists('warned'): signal.sigtimedwait([], 0.02)"
    )
    handle = start(engine, tmp_path, f'exec {sys.executable} -S -c "{code}"')
    up(tmp_path)
    os.kill(shim_of(handle), number)
    assert exit_file(tmp_path)["exit_code"] == 0
    assert (tmp_path / "warned").exists()


def test_a_warning_never_reaches_the_children_of_the_command(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """A launcher's ranks get it from the launcher, if it means them to have it."""
    child = (
        f"{sys.executable} -S -c \"import signal; signal.signal(10, lambda *_: open('no', 'w'));"
    )
    child += " print('up', flush=True); signal.pause()\""
    handle = start(engine, tmp_path, f"{child} & {GATE} kill $!; exit 0")
    up(tmp_path)
    os.kill(shim_of(handle), signal.SIGUSR1)
    (tmp_path / "go").touch()
    assert exit_file(tmp_path)["exit_code"] == 0
    assert not (tmp_path / "no").exists()


def test_a_waking_signal_means_nothing_without_a_request(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Everybody can send it."""
    handle = start(engine, tmp_path, f"echo up; {GATE}")
    up(tmp_path)
    for _ in range(20):
        os.kill(shim_of(handle), WAKE)
    (tmp_path / "go").touch()
    found = exit_file(tmp_path)
    assert (found["exit_code"], found["stop_requested"], found["interrupted_by"]) == (0, None, None)


# --- the window

# Half a second is short where others work, too: what must happen within it is tried again.
ATTEMPTS = [attrs.evolve(NAME, attempt=number) for number in range(1, 21)]


def ended(engine: LocalEngine, folder: Path, name: AttemptName, exit_code: int) -> Handle:
    """Attempt *name*, whose command has just ended with *exit_code*."""
    script = f"echo up; until [ -e go.{name.attempt} ]; do sleep 0.01; done; exit {exit_code}"
    handle = start(engine, folder, script, name)
    up(folder, name=name)
    command = command_of(handle)
    assert engine.poll([handle])[0].kind == "running"
    (folder / f"go.{name.attempt}").touch()
    until(lambda: not alive(command))
    return handle


def window_of(folder: Path, name: AttemptName = NAME) -> float:
    """Seconds from the end of its command to the file that tells of it."""
    record = read_exit(folder, name)
    assert record is not None
    assert record.ended_at is not None
    coarse = 0.02  # the clock of a file system
    return file_path(folder, name, "exit").stat().st_ctime + coarse - record.ended_at.timestamp()


def test_a_stop_just_after_the_end_leaves_it_unproven(engine: LocalEngine, tmp_path: Path) -> None:
    """A sweep reaches the command first, and the shim up to half a second later."""
    for name in ATTEMPTS:
        handle = ended(engine, tmp_path, name, 0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim_of(handle), signal.SIGTERM)
        sent = time.time()
        assert exit_file(tmp_path, name)["exit_code"] == 0
        record = read_exit(tmp_path, name)
        assert record is not None
        assert record.ended_at is not None
        if sent < record.ended_at.timestamp() + WINDOW_S:
            break
    else:
        pytest.fail("none was sent in time")
    assert record.interrupted_by == signal.SIGTERM
    until(lambda: engine.poll([handle])[0].kind == "gone")


def test_an_end_is_announced_at_once_and_published_after_the_window(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Its place is free for the next attempt; its outcome is on the disk, but not to be seen."""
    for name in ATTEMPTS:
        handle = ended(engine, tmp_path, name, 7)
        while (kind := engine.poll([handle])[0].kind) == "running":
            engine.wait(10)
        unpublished = not file_path(tmp_path, name, "exit").exists()
        while engine.poll([handle])[0].kind != "gone":
            engine.wait(10)
        assert exit_file(tmp_path, name)["exit_code"] == 7
        assert window_of(tmp_path, name) >= WINDOW_S
        if unpublished:
            break
    assert (kind, unpublished) == ("completing", True)


def test_a_short_childless_success_is_published_at_once(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """It had no child to lose, and no time to be asked: thousands of them are not held up."""
    kinds_of_short = []
    for name in ATTEMPTS:
        handle = start(engine, tmp_path, "exit 0", name)
        kinds = set()
        while (kind := engine.poll([handle])[0].kind) != "gone":
            kinds.add(kind)
            engine.wait(10)
        record = read_exit(tmp_path, name)
        assert record is not None
        assert record.exit_code == 0
        assert record.started_at is not None
        assert record.ended_at is not None
        # One that a busy machine held up for half a second has its window like any other.
        if (record.ended_at - record.started_at).total_seconds() < WINDOW_S / 2:
            kinds_of_short.append(kinds)
    assert kinds_of_short
    assert all(kinds <= {"running"} for kinds in kinds_of_short)


@pytest.mark.parametrize("script", ["true | true; exit 0", "exit 1", "kill -9 $$"])
def test_every_other_end_has_its_window(engine: LocalEngine, tmp_path: Path, script: str) -> None:
    """Commands with children, failures and deaths may be the work of a sweep."""
    start(engine, tmp_path, script)
    exit_file(tmp_path)
    assert window_of(tmp_path) >= WINDOW_S


WORK = "for i in $(seq 30); do sleep 0.05; done; echo done > done.$I; exit 0"
CATCHES = (
    f'exec {sys.executable} -S -c "import signal, sys, os; '
    "signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); "
    "[signal.sigtimedwait([], 0.05) for _ in range(30)]; open('done.' + os.environ['I'], 'w')\""
)


@pytest.mark.parametrize("order", ["leaf", "root", "random"])
def test_a_sweep_of_signals_neither_completes_nor_fails_anything(
    engine: LocalEngine, tmp_path: Path, order: str
) -> None:
    """Slurm, systemd and a closing container signal every process, in any order, within 0.3 s."""
    chance = random.Random(order)
    for attempt in range(1, 6):
        names = [AttemptName.of_process(EXPERIMENT, index, attempt) for index in range(24)]
        swept_s = sweep(engine, tmp_path, names, order, chance)
        found = {name: exit_file(tmp_path, name) for name in names}
        if swept_s < WINDOW_S:  # nothing is promised where it takes longer
            break
    else:
        pytest.fail("every sweep took too long")
    for name in names:
        finished = (tmp_path / f"done.{name}").exists()
        if found[name]["interrupted_by"] is None:
            # It ended before: in good order, and really at its end.
            assert (found[name]["exit_code"], finished) == (0, True), found[name]
        assert found[name]["stop_requested"] is None


def sweep(
    engine: LocalEngine,
    folder: Path,
    names: Sequence[AttemptName],
    order: str,
    chance: random.Random,
) -> float:
    """Start *names*, and then send each process of theirs a signal; how many seconds that took."""
    handles = [
        start(engine, folder, "echo up; " + WORK if name.index % 2 else CATCHES, name,
              env={"I": str(name)})
        for name in names
    ]  # fmt: skip
    for name in names:
        up(folder, name=name)
    # Shorter commands that catch the signal and exit 0 are beyond what can be told.
    old = time.monotonic() + WINDOW_S
    until(lambda: time.monotonic() > old)
    # A snapshot, as those who sweep take it: roots first.
    tree, todo = [], [shim_of(handle) for handle in handles]
    while todo:
        pid = todo.pop(0)
        tree.append(pid)
        with contextlib.suppress(OSError):
            todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    if order == "leaf":
        tree.reverse()
    elif order == "random":
        chance.shuffle(tree)
    began = time.monotonic()
    for pid in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return time.monotonic() - began


# --- what ended before counts


def ended_asleep(engine: LocalEngine, folder: Path, **options: Any) -> Handle:
    """An attempt whose command has exited with 0 while its shim was stopped, as it still is."""
    handle = start(engine, folder, f"echo up; {GATE} exit 0", **options)
    command = command_of(handle)
    os.kill(shim_of(handle), signal.SIGSTOP)
    until(lambda: state_of(shim_of(handle)) == "T")
    up(folder)
    (folder / "go").touch()
    until(lambda: state_of(command) == "Z")
    return handle


def test_an_end_while_the_shim_slept_is_no_timeout(engine: LocalEngine, tmp_path: Path) -> None:
    """Whoever was stopped over the deadline asks first whether anything was left to stop."""
    handle = ended_asleep(engine, tmp_path, timeout_s=1.5)
    deadline = time.monotonic() + 1.6
    until(lambda: time.monotonic() > deadline)
    os.kill(shim_of(handle), signal.SIGCONT)
    found = exit_file(tmp_path)
    assert (found["exit_code"], found["timed_out"]) == (0, False)


@pytest.mark.parametrize("force", [False, True])
def test_a_request_after_the_end_changes_nothing(
    engine: LocalEngine, tmp_path: Path, force: bool
) -> None:
    """It came too late, though the shim hears of both at once."""
    handle = ended_asleep(engine, tmp_path)
    request(tmp_path, "kill" if force else "stop")
    engine.cancel([handle], force=force)
    found = exit_file(tmp_path)
    assert (found["exit_code"], found["stop_requested"]) == (0, None)


def test_a_strangers_stop_that_waits_beside_an_end_leaves_it_unproven(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Which of them came first, nobody can say."""
    handle = ended_asleep(engine, tmp_path)
    os.kill(shim_of(handle), signal.SIGTERM)
    os.kill(shim_of(handle), signal.SIGCONT)
    assert exit_file(tmp_path)["interrupted_by"] == signal.SIGTERM


def test_a_strangers_stop_after_our_timer_leaves_a_timeout(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """It was over by our own clock."""
    script = "trap 'echo heard; until [ -e go ]; do sleep 0.01; done; exit 0' TERM; echo up;"
    handle = start(engine, tmp_path, script + " while :; do sleep 0.01; done", timeout_s=1.0,
                   grace_s=600.0)  # fmt: skip
    with halted(handle):
        up(tmp_path)
    up(tmp_path, "heard")
    os.kill(shim_of(handle), signal.SIGTERM)
    (tmp_path / "go").touch()
    found = exit_file(tmp_path)
    assert (found["exit_code"], found["timed_out"], found["interrupted_by"]) == (0, True, None)


# --- requests


@pytest.mark.parametrize(("suffix", "ended_by"), [("stop", 15), ("kill", 9)])
def test_a_request_is_noticed_without_any_signal(
    engine: LocalEngine, tmp_path: Path, suffix: str, ended_by: int
) -> None:
    """From another container or host none can come: the shim looks once a second."""
    start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    request(tmp_path, suffix)
    found = exit_file(tmp_path)
    assert (found["signal"], found["stop_requested"]) == (ended_by, "user")


def test_a_request_that_was_there_first_lets_nothing_start(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Its command does not begin."""
    prepare(tmp_path)
    request(tmp_path)
    start(engine, tmp_path, "echo ran > log")
    found = exit_file(tmp_path)
    assert (found["exit_code"], found["signal"], found["stop_requested"]) == (None, None, "user")
    assert not (tmp_path / "log").exists()


def test_a_request_to_kill_shortens_the_grace_period(engine: LocalEngine, tmp_path: Path) -> None:
    """A second request to stop does not."""
    start(engine, tmp_path, "trap '' TERM; echo up; while :; do sleep 0.01; done", grace_s=600.0)
    up(tmp_path)
    request(tmp_path)
    request(tmp_path, "kill")
    found = exit_file(tmp_path)
    assert (found["signal"], found["stop_requested"]) == (signal.SIGKILL, "user")


def test_a_stopped_shim_hears_a_request(engine: LocalEngine, tmp_path: Path) -> None:
    """It is sent on its way with it."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    os.kill(shim_of(handle), signal.SIGSTOP)
    until(lambda: state_of(shim_of(handle)) == "T")
    assert engine.cancel([handle]) == {}
    assert exit_file(tmp_path)["stop_requested"] == "user"


def test_an_adopted_stopped_shim_hears_a_request(engine: LocalEngine, tmp_path: Path) -> None:
    """By its file; the signal only wakes it."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    os.kill(shim_of(handle), signal.SIGSTOP)
    until(lambda: state_of(shim_of(handle)) == "T")
    request(tmp_path)
    with LocalEngine() as other:
        assert other.cancel([handle]) == {}
    found = exit_file(tmp_path)
    assert (found["stop_requested"], found["interrupted_by"]) == ("user", None)


@pytest.mark.parametrize("force", [False, True])
def test_an_adopted_attempt_is_stopped_even_where_no_request_can_be_made(
    engine: LocalEngine, tmp_path: Path, force: bool
) -> None:
    """On a full disk its shim is sent a stranger's TERM, or its command is found and killed."""
    handle = start(engine, tmp_path, "echo up; exec sleep 600")
    up(tmp_path)
    asleep(command_of(handle))
    with LocalEngine() as other:
        assert other.cancel([handle], force=force) == {}
    assert exit_file(tmp_path)["signal"] == (signal.SIGKILL if force else signal.SIGTERM)


def test_a_stop_without_a_request_does_not_complete_what_ends_in_order(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """A command that saves its checkpoint and exits with 0 was stopped all the same."""
    handle = start(engine, tmp_path, "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done")
    up(tmp_path)
    with LocalEngine() as other:
        assert other.cancel([handle]) == {}
    found = exit_file(tmp_path)
    assert (found["exit_code"], found["interrupted_by"]) == (0, signal.SIGTERM)
    record = read_exit(tmp_path, NAME)
    assert record is not None
    assert ends_by(record) == "requeue"


def test_a_copied_folder_aims_at_nobody(engine: LocalEngine, tmp_path: Path) -> None:
    """`cp -al` of a running experiment has the very file that the shim has locked."""
    source = tmp_path / "source"
    source.mkdir()
    handle = start(engine, source, f"echo up; {GATE} exit 5")
    up(source)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-al", str(source), str(copy)], check=True)
    with LocalEngine() as other:
        assert other.find(EXPERIMENT, copy) == {}
        copied = Handle(name=NAME, folder=copy, identity=handle.identity)
        request(copy)
        unreached = other.cancel([copied], force=True)
    assert "does not hold the lock" in unreached[NAME]
    (source / "go").touch()
    found = exit_file(source)
    assert (found["exit_code"], found["stop_requested"]) == (5, None)
    assert handle.name == NAME


def test_the_mark_of_another_attempt_lets_nobody_be_killed(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Where the disk takes no request, marked commands are killed: the right attempt's only."""
    handle = start(engine, tmp_path, f"echo up; {GATE} exit 5")
    up(tmp_path)
    forged = attrs.evolve(NAME, attempt=2)
    path = attempts_dir(tmp_path) / f"{forged}.live"
    me = attrs.asdict(attrs.evolve(liveness.me(), locked=True))
    path.write_text(json.dumps(me | {"mark": live_file(tmp_path)["mark"]}))
    at_home = os.open(attempts_dir(tmp_path), os.O_RDONLY)
    with path.open() as file, LocalEngine() as other:
        fcntl.flock(file, fcntl.LOCK_EX)
        unreached = other.cancel([Handle(name=forged, folder=tmp_path)], force=True)
        assert "cannot be found" in unreached[forged]
    os.close(at_home)
    (tmp_path / "go").touch()
    assert exit_file(tmp_path)["exit_code"] == 5
    assert handle.name == NAME


def test_who_cannot_be_reached_is_told_with_the_reason(engine: LocalEngine, tmp_path: Path) -> None:
    """Another host's shim sees the request, if it sees the disk."""
    handle = start(engine, tmp_path, f"echo up; {GATE}")
    up(tmp_path)
    live = live_file(tmp_path)
    path = attempts_dir(tmp_path) / f"{NAME}.live"
    path.write_text(json.dumps({**live, "boot_id": "0" * 36, "host": "elsewhere"}))
    with LocalEngine() as other:
        assert "another host, elsewhere" in other.cancel([handle])[NAME]
    path.write_text(json.dumps(live))
    (tmp_path / "go").touch()
    assert exit_file(tmp_path)["exit_code"] == 0


def test_adopting_needs_no_descriptor_for_each(engine: LocalEngine, tmp_path: Path) -> None:
    """Eighty attempts are watched with room for 64 descriptors."""
    import resource

    names = [AttemptName.of_process(EXPERIMENT, index, 1) for index in range(80)]
    for name in names:
        start(engine, tmp_path, f"echo up; {GATE.replace('0.01', '0.3')}", name)
    for name in names:
        up(tmp_path, name=name)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(map(int, os.listdir("/dev/fd")))
    with LocalEngine() as other:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(64, lowest + 24), limits[1]))
        try:
            found = list(other.find(EXPERIMENT, tmp_path).values())
            assert {word.kind for word in other.poll(found)} == {"running"}
            (tmp_path / "go").touch()
            while any(word.kind != "gone" for word in other.poll(found)):
                other.wait(10)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert {exit_file(tmp_path, name)["exit_code"] for name in names} == {0}
