"""Slots with real processes: who holds one, as long as anything of an attempt lives."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.engines.local import starter
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import ConfigError, DiskError, SlotWarning
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.orchestration.outcomes import Outcome
from holdfast.slots import listing, places
from holdfast.store.manager import StateManager
from processes import in_a_fork
from waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs flock")

#: Proves by a lock of its own that nobody else has its slots, and notes what it was told.
PROVING = """
import fcntl, json, os, sys
names = ("HOLDFAST_SLOT_GPU", "HOLDFAST_SLOT_SEAT", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
told = {name: os.environ.get(name) for name in names}
for slot in os.environ["HOLDFAST_SLOT_GPU"].split(","):
    proof = os.open(f"proof.{slot}", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(proof, fcntl.LOCK_EX | fcntl.LOCK_NB)
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"told": told, "argv": sys.argv[1:]}, file)
"""

#: Says that it has begun, and stays until its pipe is closed, or for good.
HELD = """
import os, sys
with open(f"began.{os.environ['HOLDFAST_INDEX']}", "w") as file:
    print(os.getpid(), os.getppid(), file=file, flush=True)
while not os.path.exists("go"):
    os.read(os.open("pipe", os.O_RDONLY), 1)
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def program_of(code: str, name: str = "work") -> list[str]:
    """A command that runs *code*, whatever braces that has."""
    Path(f"{name}.py").write_text(code)
    return ["python", f"{name}.py"]


def config(code: str, **more: Any) -> dict[str, Any]:
    base = {"slots": {"gpu": ["0", "1"]}, "needs": {"gpu": 1}, "limits": {"grace": 1}}
    return {"command": program_of(code), **base, **more}


def run(manager: StateManager, config: Mapping[str, Any], **how: Any) -> Outcome:
    with LocalEngine() as engine:
        return Orchestrator(manager, engine, gone_grace_s=0.1).run(config, **how)


def results(manager: StateManager, outcome: Outcome) -> list[dict[str, Any]]:
    folder = manager.folder(outcome.state.experiment_id)
    found = [process.result for process in outcome.state.processes.values()]
    return [json.loads((folder / each.path).read_text()) for each in found if each is not None]


def states() -> dict[str, str]:
    return {f"{each.slot.kind}.{each.slot.name}": each.kind for each in listing.listing()[0]}


def test_processes_share_slots_and_never_at_a_time(manager):
    """Each is told which it holds, in every way that it may ask; the start records it."""
    outcome = run(
        manager,
        config(
            PROVING,
            command=["python", "work.py", "{slot.gpu}"],
            processes=6,
            env={"SEAT": "at {slot.seat}"},
            slots={"gpu": ["0", "1"], "seat": ["a", "b", "c"]},
            needs={"gpu": 1, "seat": 1},
        ),
        jobs=4,
    )
    assert not outcome.failed
    told = [each["told"] for each in results(manager, outcome)]
    assert len(told) == 6
    for each, result in zip(told, results(manager, outcome), strict=True):
        assert each["HOLDFAST_SLOT_GPU"] == each["CUDA_VISIBLE_DEVICES"] == result["argv"][0]
        assert each["HOLDFAST_SLOT_SEAT"] in ("a", "b", "c")
        assert each["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    steps = manager.history(outcome.state.experiment_id)
    starts = [each.evidence for each in steps if each.entity == "process" and each.event == "start"]
    assert len(starts) == 6
    assert all(each is not None and each.startswith("slots: gpu ") for each in starts)
    assert states() == dict.fromkeys(states(), "free")


def test_a_launcher_holds_what_its_ranks_need(manager):
    """The needs are of one command, however many processes it stands for."""
    ranks = (
        "import os, subprocess, sys\n"
        "for rank in '01':\n"
        "    subprocess.run([sys.executable, '-m', 'holdfast', 'rank', 'true'],"
        " env={**os.environ, 'RANK': rank}, check=True)\n"
        "assert os.environ['HOLDFAST_SLOT_GPU'] == '0,1'\n"
    )
    whole = config(ranks, ranks=2, needs={"gpu": 2}, processes=2)
    # `holdfast rank` has to be this one's, whatever `python` is.
    outcome = run(manager, {**whole, "command": [sys.executable, "work.py"]})
    assert not outcome.failed
    assert outcome.state.processes_completed == 4


def test_one_whose_command_cannot_be_started_holds_nothing(manager):
    """Nor does it keep others from theirs."""
    outcome = run(manager, config("", command=["no such program"], processes=3))
    assert outcome.state.processes_failed == 3
    assert set(states().values()) == {"free"}


@contextlib.contextmanager
def program(*words: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def written(path: Path, **config: Any) -> str:
    """A file with *config*, as JSON that TOML can read."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if key != "tables"]
    path.write_text("\n".join(lines))
    return path.name


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts experiments whose processes stay until they are let go."""
    os.mkfifo("pipe")
    end = os.open("pipe", os.O_RDWR)
    with contextlib.ExitStack() as started:

        def start(name: str, code: str = HELD, **more: Any) -> "subprocess.Popen[str]":
            file = written(
                tmp_path / f"{name}.toml",
                command=program_of(code, name),
                **{"slots.gpu": ["0"], "needs.gpu": 1, "limits.grace": 1, **more},
            )
            return started.enter_context(program("-C", ".", "run", file))

        (tmp_path / ".experiment_state").mkdir()
        yield start
        (tmp_path / "go").touch()
        os.write(end, b"." * 100)
    os.close(end)


def began(index: int = 0) -> tuple[int, int]:
    """The pids of its command and its shim."""
    path = Path(f"began.{index}")
    words = until(lambda: path.exists() and path.read_text().split())
    return int(words[0]), int(words[1])


def test_another_experiment_waits_and_says_for_whom(held, manager, tmp_path):
    """It holds nothing meanwhile, starts as soon as it can, and does not ask for long."""
    held("first")
    _, shim = began()
    assert states() == {"gpu.0": "held"}
    (found,) = listing.listing()[0]
    assert found.holder is not None
    assert found.holder.attempt == "0.1"
    assert found.holder.identity.pid == shim

    def let_go(*_: object, **__: object) -> None:
        (tmp_path / "go").touch()
        with open("pipe", "wb") as pipe:
            pipe.write(b"." * 100)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SlotWarning)
        original = warnings.showwarning
        warnings.showwarning = lambda *args, **more: (original(*args, **more), let_go())
        outcome = run(manager, config(PROVING, slots={"gpu": ["0"]}))
    assert not outcome.failed
    (words,) = [str(each.message) for each in told if each.category is SlotWarning]
    assert words.startswith("waits for gpu: gpu.0 is held by ")
    assert " 0.1 since " in words


def test_a_killed_shim_frees_nothing_as_long_as_its_command_lives(held):
    """The command has the lock, too; its experiment's next run stops it, and has the slot."""
    first = held("first")
    command, shim = began()
    first.kill()
    os.kill(shim, signal.SIGKILL)
    until(lambda: states() == {"gpu.0": "left"})
    fd = places.lock(places.place("gpu", "0"))
    assert fd is None
    os.kill(command, signal.SIGKILL)
    until(lambda: states() == {"gpu.0": "free"})


CLOSING = (
    """
import os, sys
for name in os.listdir("/proc/self/fd"):
    try:
        os.close(int(name))
    except OSError:
        pass
"""
    + HELD
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of processes")
def test_who_has_closed_every_descriptor_still_has_the_slot(held):
    """Its mark tells: the lock is to be had, the GPU is not."""
    first = held("first", CLOSING)
    command, shim = began()
    first.kill()
    os.kill(shim, signal.SIGKILL)
    until(lambda: states() == {"gpu.0": "left"})
    fd = places.lock(places.place("gpu", "0"))
    assert fd is not None
    os.close(fd)
    os.kill(command, signal.SIGKILL)
    until(lambda: states() == {"gpu.0": "free"})


def test_an_adopted_orphan_keeps_its_slot(held, tmp_path):
    """The run that takes it over neither takes the slot again nor starts another beside it."""
    first = held("first", processes=2)
    command, shim = began()
    first.kill()
    first.wait()
    assert states() == {"gpu.0": "held"}
    with program("-C", ".", "resume", "@last") as second:
        until(lambda: _owner_is(second.pid))
        assert began() == (command, shim)
        assert not Path("began.1").exists()
        (tmp_path / "go").touch()
        with open("pipe", "wb") as pipe:
            pipe.write(b"." * 100)
        assert second.wait(PATIENCE_S) == 0
    assert Path("began.1").exists()
    assert states() == {"gpu.0": "free"}


def _owner_is(pid: int) -> bool:
    manager = StateManager(Path())
    (found,) = manager.list_experiments()
    owner = manager.load(found).owner
    return owner is not None and owner.pid == pid


RELEASED = f"""
import os, subprocess, sys
env = {{**os.environ, "HOLDFAST_SESSION": ""}}
subprocess.Popen([sys.executable, "-c", {HELD!r}], env=env, close_fds=False)
while not os.path.exists("began.0"):
    pass
"""


def test_what_the_record_says_is_over_holds_nothing(manager):
    """Its end was recorded, although its processes could not be seen from here any more.

    As after a container was killed and another goes on: the run's own word is proof enough.
    """
    outcome = run(manager, config(PROVING, slots={"gpu": ["0"]}), aggregate=False)
    folder = manager.folder(outcome.state.experiment_id)
    (slot,) = places.all_known()
    live = json.loads((folder / "attempts" / "0.1.live").read_text())
    slot.path.write_text(json.dumps({**live, "pid_namespace": "pid:[1]"}))
    assert states() == {"gpu.0": "unknown"}
    (folder / outcome.state.processes[0].result.path).unlink()
    with LocalEngine() as engine:
        again = Orchestrator(manager, engine).resume(outcome.state.experiment_id)
    assert not again.failed
    assert again.state.processes[0].attempt == 2
    assert states() == {"gpu.0": "free"}


def test_a_daemon_that_was_left_on_purpose_keeps_no_slot(held):
    """It has inherited the lock, which is let go of for all who have it."""
    first = held("first", RELEASED)
    daemon, _ = began()
    assert first.wait(PATIENCE_S) == 0
    assert states() == {"gpu.0": "free"}
    os.kill(daemon, 0)
    os.kill(daemon, signal.SIGKILL)


def test_what_cannot_be_locked_starts_nothing(manager, tmp_path):
    """It says where, and how to have the locks elsewhere; no experiment is made."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "holdfast").touch()
    with pytest.raises(DiskError, match="XDG_STATE_HOME"):
        run(manager, config("pass"))
    assert not manager.list_experiments()


def test_a_need_that_cannot_be_met_makes_no_experiment(manager, monkeypatch):
    """Also one that only this machine's environment makes impossible."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=5"):
        run(manager, config("pass"))
    assert not manager.list_experiments()


def test_slots_of_an_attempt_are_not_inherited_by_those_within(manager, monkeypatch):
    """What runs holdfast itself tells its own processes only what they hold."""
    monkeypatch.setenv("HOLDFAST_SLOT_SEAT", "outer")
    outcome = run(manager, config(PROVING))
    (told,) = [each["told"] for each in results(manager, outcome)]
    assert told["HOLDFAST_SLOT_SEAT"] is None


def test_many_slots_go_to_one_attempt(manager):
    """More descriptors than the kernel takes at once."""
    names = [str(number) for number in range(300)]
    code = (
        "import os; held = os.environ['HOLDFAST_SLOT_GPU'].split(','); assert len(held) == 300\n"
        "count = 0\n"
        "for fd in range(3, 2000):\n"
        "    try:\n"
        "        count += os.fstat(fd).st_size > 0 and os.fstat(fd).st_nlink == 1\n"
        "    except OSError:\n"
        "        pass\n"
        "assert count >= 300, count\n"
    )
    outcome = run(manager, config(code, slots={"gpu": names}, needs={"gpu": 300}))
    assert not outcome.failed
    assert set(states().values()) == {"free"}


def test_locks_that_fail_in_between_are_waited_for(manager, monkeypatch):
    """What runs goes on, and is not to be lost because a descriptor was wanting."""
    original, failed = places._opened, []

    def failing(path: Path, flags: int) -> int:
        if flags & os.O_CREAT and 4 <= len(failed) < 6:
            failed.append(path)
            raise OSError(24, "Too many open files")
        failed.append(path)
        return original(path, flags)

    monkeypatch.setattr(places, "_opened", failing)
    with pytest.warns(SlotWarning, match="waits for slots: .*EMFILE"):
        outcome = run(manager, config("pass"))
    assert not outcome.failed


def _handed(number: int, room: int | None = None) -> list[int]:
    """How a starter gets that many descriptors, with room for so many more."""
    ours, theirs = socket.socketpair()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(number)]
    with ours, theirs:
        for at in range(0, number, starter.MOST_AT_ONCE):
            socket.send_fds(ours, [b"\0"], opened[at : at + starter.MOST_AT_ONCE])
        starter.send(ours.fileno(), {"next": "frame"})
        for fd in opened:
            os.close(fd)
        if room is not None:
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, free + room))
        found = starter._descriptors(theirs.fileno(), number)
        assert starter.receive(theirs.fileno()) == {"next": "frame"}
    return found


def test_descriptors_are_out_of_the_way_and_closed_on_exec():
    """A script that says `exec 3>log` lets go of none; what follows them is read as ever."""
    found = _handed(3)
    try:
        assert len(found) == 3
        assert min(found) >= 64
        assert not any(map(os.get_inheritable, found))
    finally:
        for fd in found:
            os.close(fd)


def test_without_room_for_all_of_them_the_rest_of_the_message_is_read_all_the_same():
    """The attempt is not started with some of its slots, and the next ones are."""
    assert int(in_a_fork(lambda: len(_handed(300, room=250)))) < 300


def test_an_engine_that_died_in_between_hands_nothing_over():
    """Nothing is started then: the kernel has freed what was on its way."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        assert starter._descriptors(theirs.fileno(), 2) == []
