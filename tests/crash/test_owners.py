"""Who may write: stopped, fenced, forked and far-away owners, and clocks that jump."""

import errno
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import liveness
from holdfast.attempts.names import attempts_dir, prepare
from holdfast.cli.failures import code_of
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import (
    AlreadyOwnedError,
    AttemptWarning,
    ClaimClosedError,
    NoLocksWarning,
    OwnershipLostError,
    UnknownLivenessError,
    UnreadableStateWarning,
)
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.orchestrator import Orchestrator, Outcome
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager
from processes import hear
from waiting import PATIENCE_S, until

from .bench import Ticking
from .subject import is_step
from .watching import Operation, WatchedFiles

# Views that lie behind and missing locks are what these tests are about.
pytestmark = [
    pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning"),
    pytest.mark.filterwarnings("ignore:.*without locks:UserWarning"),
]

# What an owner in a process of its own does: claims, says so, and records a step for each line.
_OWNER = """
import errno, os, sys, warnings
warnings.simplefilter("ignore")
from holdfast.errors import HoldfastError
from holdfast.store.files import Files
from holdfast.store.manager import StateManager

class NoLocks(Files):
    def flock(self, fd, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

files = NoLocks() if "no_locks" in sys.argv else Files()
claim = StateManager(sys.argv[1], files=files).claim("exp", force="force" in sys.argv)
print("claimed", os.getpid(), flush=True)
for line in sys.stdin:
    try:
        claim.record(line.strip())
        print("recorded", flush=True)
    except HoldfastError as err:
        print(type(err).__name__, flush=True)
claim.release()
print("released", flush=True)
"""


def _no_locks(operation: Operation, call: Callable[[], Any]) -> Any:
    if operation.name == "flock":
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    return call()


class _Owner:
    """An owner in another process, spoken to line by line."""

    def __init__(self, state_dir: Path, *words: str, lead: tuple[str, ...] = ()) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [*lead, sys.executable, "-c", _OWNER, str(state_dir), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        self.first = self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return hear(self.process.stdout)

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def manager(tmp_path: Path) -> StateManager:
    made = StateManager(tmp_path / "states")
    made.create("exp", num_processes=2)
    return made


@pytest.fixture
def owners() -> Iterator[list[_Owner]]:
    started: list[_Owner] = []
    yield started
    for each in started:
        each.end()


def _steps(manager: StateManager) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableStateWarning)
        return [each.event for each in manager.history("exp") if is_step(each)]


def test_a_stopped_owner_keeps_its_experiment_and_goes_on(
    manager: StateManager, owners: list[_Owner]
) -> None:
    """SIGSTOP frees no lock: the taker is refused and told who; after SIGCONT nothing is lost."""
    owner = _Owner(manager.state_dir)
    owners.append(owner)
    pid = int(owner.first.split()[1])
    os.kill(pid, signal.SIGSTOP)
    for force in (False, True):
        with pytest.raises(AlreadyOwnedError) as refused:
            manager.claim("exp", force=force)
        assert refused.value.owner is not None
        assert refused.value.owner.pid == pid
        assert refused.value.since is not None
    assert manager.cleanup_stale() == []
    os.kill(pid, signal.SIGCONT)
    owner.say("start")
    assert owner.hear() == "recorded"
    assert _steps(manager) == ["start"]


def test_a_killed_owner_is_succeeded_at_once(manager: StateManager, owners: list[_Owner]) -> None:
    """Its lock is free and was recorded as locked: dead, without any waiting."""
    owner = _Owner(manager.state_dir)
    owners.append(owner)
    owner.say("start")
    assert owner.hear() == "recorded"
    owner.process.kill()
    owner.process.wait()
    with manager.claim("exp") as claim:
        assert claim.verdict is not None
        assert claim.verdict.kind == "dead"
        claim.record("interrupt")
    assert _steps(manager) == ["start", "interrupt"]


def test_a_paused_owner_without_locks_that_wakes_up_late_changes_nothing(
    manager: StateManager, owners: list[_Owner]
) -> None:
    """Superseded by force while stopped: its next line is refused and counts for nothing."""
    owner = _Owner(manager.state_dir, "no_locks")
    owners.append(owner)
    owner.say("start")
    assert owner.hear() == "recorded"
    pid = int(owner.first.split()[1])
    os.kill(pid, signal.SIGSTOP)
    taker = StateManager(manager.state_dir, files=WatchedFiles(_no_locks))
    with pytest.raises(AlreadyOwnedError):
        taker.claim("exp")  # its pid is alive: no force, no claim
    claim = taker.claim("exp", force=True)
    claim.record("start", 0)
    before = manager.load("exp")
    os.kill(pid, signal.SIGCONT)
    owner.say("fail")
    assert owner.hear() == "OwnershipLostError"
    owner.say("fail")
    assert owner.hear() == "ClaimClosedError"
    assert manager.load("exp") == before
    claim.record("complete", 0, exit_code=0)
    claim.release()
    assert _steps(manager) == ["start", "start", "complete"]
    assert _view(manager)["revision"] == manager.load("exp").revision


_UNSHARES = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="not run: unshare takes root on Linux"
)

#: A machine of its own as far as an owner can tell: host name, boot, and machine id if it has one.
_ELSEWHERE = """
set -e
hostname "$1"
mount -t proc proc /proc
mount --bind "$2" /proc/sys/kernel/random/boot_id
for id in /etc/machine-id /var/lib/dbus/machine-id; do
    if [ -e "$id" ]; then mount --bind "$3" "$id"; fi
done
shift 3
exec "$@"
"""


def _elsewhere(
    tmp_path: Path, *, host: str = "elsewhere", machine_id: str | None = None
) -> tuple[str, ...]:
    """What leads a command to run on another host, which is in the same state directory."""
    boot, machine = tmp_path / "boot", tmp_path / "machine-id"
    boot.write_text(f"{uuid.uuid4()}\n")
    machine.write_text(f"{machine_id or uuid.uuid4().hex}\n")
    unshare = ("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount")
    return (*unshare, "sh", "-c", _ELSEWHERE, "sh", host, str(boot), str(machine))


@_UNSHARES
def test_another_hosts_owner_is_unknown_and_fenced_once_it_is_forced_away(
    manager: StateManager, owners: list[_Owner], tmp_path: Path
) -> None:
    """Own host name, boot, machine, namespaces, no locks: not taken without force, then fenced."""
    owner = _Owner(manager.state_dir, "no_locks", lead=_elsewhere(tmp_path))
    if not owner.first.startswith("claimed"):
        owner.end()
        pytest.skip("not run: unshare is refused here")
    owners.append(owner)
    owner.say("start")
    assert owner.hear() == "recorded"
    taker = StateManager(manager.state_dir, files=WatchedFiles(_no_locks))
    with pytest.raises(UnknownLivenessError, match="elsewhere") as refused:
        taker.claim("exp")
    assert refused.value.verdict.method == "host", refused.value.verdict
    assert taker.cleanup_stale() == []
    with taker.claim("exp", force=True) as claim:
        claim.record("start", 1)
        owner.say("fail")
        assert owner.hear() == "OwnershipLostError"
        claim.record("complete", 1, exit_code=0)
    assert _steps(manager) == ["start", "start", "complete"]
    assert str(manager.load("exp").status) == "running"


@_UNSHARES
@pytest.mark.parametrize("same", ["nothing", "host name", "machine id"])
def test_a_free_lock_says_nothing_of_another_hosts_owner(
    manager: StateManager, owners: list[_Owner], tmp_path: Path, same: str
) -> None:
    """Held, it is proof of life; free, it may be one that only that host knows of: unknown.

    So it is if the host is named like ours (containers) or has our machine id (cloned nodes).
    """
    here = liveness.me()
    lead = _elsewhere(
        tmp_path,
        host=here.host if same == "host name" else "elsewhere",
        machine_id=here.machine_id if same == "machine id" else None,
    )
    owner = _Owner(manager.state_dir, lead=lead)
    if not owner.first.startswith("claimed"):
        owner.end()
        pytest.skip("not run: unshare is refused here")
    owners.append(owner)
    owner.say("start")
    assert owner.hear() == "recorded"
    for force in (False, True):
        with pytest.raises(AlreadyOwnedError):
            manager.claim("exp", force=force)
    owner.process.kill()
    owner.process.wait()
    with (manager.state_dir / "exp" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # had once the owner in there is dead, too
    with pytest.raises(UnknownLivenessError) as refused:
        manager.claim("exp")
    assert refused.value.verdict.method == "host", refused.value.verdict
    assert manager.cleanup_stale() == []
    assert _steps(manager) == ["start"]
    with manager.claim("exp", force=True) as claim:
        claim.record("interrupt")
    assert _steps(manager) == ["start", "interrupt"]


@_UNSHARES
def test_a_lock_protects_across_pid_namespaces(manager: StateManager, owners: list[_Owner]) -> None:
    """Two containers on one machine: the held lock is proof of life, whatever the pids say."""
    lead = ("unshare", "--uts", "--pid", "--fork", "--mount", "sh", "-c", 'exec "$@"', "sh")
    owner = _Owner(manager.state_dir, lead=lead)
    if not owner.first.startswith("claimed"):
        owner.end()
        pytest.skip("not run: unshare is refused here")
    owners.append(owner)
    for force in (False, True):
        with pytest.raises(AlreadyOwnedError):
            manager.claim("exp", force=force)


def test_a_file_system_without_locks_rests_on_epochs_and_says_so(manager: StateManager) -> None:
    """ENOLCK: claims work one after another, and the claim tells that no lock protects it."""
    taker = StateManager(manager.state_dir, files=WatchedFiles(_no_locks))
    with pytest.warns(NoLocksWarning, match="without locks"):
        claim = taker.claim("exp")
    with claim:
        assert not claim.locked
        claim.record("start")
    with taker.claim("exp") as claim:
        claim.record("start", 0)
    assert _steps(manager) == ["start", "start"]


def test_of_two_forced_owners_the_older_is_fenced(manager: StateManager) -> None:
    """Epochs alone: the late owner's lines are neither in the state nor in the history."""
    taker = StateManager(manager.state_dir, files=WatchedFiles(_no_locks))
    old = taker.claim("exp")
    old.record("start")
    new = taker.claim("exp", force=True)
    with pytest.raises(OwnershipLostError):
        old.record("fail")
    old.release()
    new.record("start", 0)
    new.release()
    assert _steps(manager) == ["start", "start"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadableStateWarning)
        assert str(manager.load("exp").status) == "running", "the view healed"


def _view(manager: StateManager) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((manager.state_dir / "exp.json").read_bytes())
    return found


@pytest.mark.parametrize("released", [True, False])
def test_a_view_that_a_late_owner_wrote_over_misleads_nobody_and_the_next_claim_heals_it(
    manager: StateManager, released: bool
) -> None:
    """Overtaken in the midst of a rename, which no fence can stop: the journal is the truth."""
    newer: list[Claim] = []

    def overtaken(operation: Operation, call: Callable[[], Any]) -> Any:
        if operation.name == "rename" and operation.args[1] == "exp.json" and not newer:
            newer.append(taker.claim("exp", force=True))
            newer[0].record("start", 0)
            if released:
                newer[0].release()
            assert _view(manager)["epoch"] == 2
        return call()

    taker = StateManager(manager.state_dir, files=WatchedFiles(_no_locks))
    late = StateManager(manager.state_dir, files=WatchedFiles(_no_locks, overtaken)).claim("exp")
    late.record("start")
    assert (_view(manager)["epoch"], _view(manager)["revision"]) == (1, 1), "nothing was clobbered"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UnreadableStateWarning)
        found = manager.load("exp")
    assert (found.epoch, found.revision) == (2, 2)
    # The view of an owner that did not let go may lie behind: that is no cause for alarm.
    assert ["epoch 1, revision 1" in str(each.message) for each in told] == [True] * released
    with pytest.raises(OwnershipLostError):
        late.record("fail")
    late.release()
    healer = taker.claim("exp", force=not released)
    # Not by its release, and not by something that it records: by the claim.
    assert (_view(manager)["epoch"], _view(manager)["revision"]) == (3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadableStateWarning)
        assert manager.load("exp") == healer.state
    healer.release()
    newer[0].release()
    assert _steps(manager) == ["start", "start"]


@pytest.mark.parametrize("farewell", ["tick", "release", "both"])
def test_a_superseded_owner_leaves_the_view_to_the_newer_one(
    manager: StateManager, farewell: str
) -> None:
    """Without locks nothing but the epochs keeps its last words from being the newer ones."""
    clock = Ticking()
    old = StateManager(manager.state_dir, files=WatchedFiles(_no_locks), clock=clock).claim("exp")
    old.record("start")
    old.record("start", 0)  # of a process, so that its view lies behind and wants to be written
    assert _view(manager)["revision"] == 1
    taker = StateManager(manager.state_dir, files=WatchedFiles(_no_locks))
    new = taker.claim("exp", force=True)
    new.record("interrupt")
    before = (manager.state_dir / "exp.json").read_bytes()
    clock.now += timedelta(seconds=5)
    if farewell != "release":
        old.tick()
    if farewell != "tick":
        old.release()
    assert (manager.state_dir / "exp.json").read_bytes() == before
    assert _view(manager)["epoch"] == new.epoch
    old.release()
    new.release()
    assert _steps(manager) == ["start", "start", "interrupt"]


def test_a_reused_pid_in_the_same_tick_is_not_taken_for_the_owner(manager: StateManager) -> None:
    """Same pid, same start tick, alive, but the lock that the owner held is free: it is dead."""
    claim = manager.claim("exp")
    claim.record("start")
    claim._close()  # what its death frees; this very process now is what reused its pid
    with manager.claim("exp") as successor:
        assert successor.verdict is not None
        assert successor.verdict.kind == "dead"


def test_a_stranger_with_a_shims_pid_and_start_tick_is_neither_stopped_nor_taken_for_it(
    tmp_path: Path,
) -> None:
    """Its lock is free, yet it seems to run: undecided, until the stranger has gone."""
    manager = StateManager(tmp_path / "states")
    config = {"command": [sys.executable, "-c", ""], "processes": 1}
    manager.create("exp", num_processes=1, config=config)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        try:
            with manager.claim("exp") as claim:
                claim.record("start")
                claim.record("start", 0)
                prepare(claim.folder)
                identity = liveness.identity_of(stranger.pid)
                assert identity is not None
                live = attempts_dir(claim.folder) / "0.1.live"
                live.write_text(json.dumps({**attrs.asdict(identity), "locked": True}))
            with LocalEngine() as engine:
                with pytest.warns(AttemptWarning, match=f"pid {stranger.pid}"):
                    assert code_of(Orchestrator(manager, engine).resume("exp")) == 5
                assert stranger.poll() is None, "a process that is not ours was stopped"
                assert manager.load("exp").process_progress[0].attempt == 1
                stranger.kill()
                stranger.wait()
                outcome = Orchestrator(manager, engine).resume("exp")
        finally:
            stranger.kill()
    assert code_of(outcome) == 0
    assert outcome.state.process_progress[0].attempt == 2


def _in_child(work: Callable[[], str]) -> tuple[int, int]:
    """Fork; returns the child's pid and a pipe with the result of *work*; it waits to be killed."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # pytest-timeout's thread: the child calls nothing that could need its locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.write(write, work().encode())
        except BaseException as err:
            os.write(write, repr(err).encode())
        signal.pause()
        os._exit(0)
    os.close(write)
    return pid, read


def _read(fd: int) -> str:
    ready, _, _ = select.select([fd], [], [], PATIENCE_S)
    assert ready, "the child said nothing"
    return os.read(fd, 1000).decode()


def test_a_fork_of_the_owner_can_neither_write_nor_keep_the_lock(manager: StateManager) -> None:
    """The child's record is refused; after the owner's release the child holds nothing back."""
    claim = manager.claim("exp")
    claim.record("start")

    def in_child() -> str:
        try:
            claim.record("fail")
        except ClaimClosedError:
            claim.release()
            return "refused"
        return "recorded"

    pid, pipe = _in_child(in_child)
    try:
        assert _read(pipe) == "refused"
        claim.record("start", 0)  # the child's release was none
        claim.release()
        with manager.claim("exp") as again:  # the child lives, and is no owner
            again.record("complete", 0, exit_code=0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pipe)
    assert _steps(manager) == ["start", "start", "complete"]


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_jumps_by_hours_disturbs_nothing(tmp_path: Path, hours: int) -> None:
    """Two hours back or forth in mid-claim: steps, view, history and the next claim are right."""
    clock = Ticking()
    manager = StateManager(tmp_path / "states", clock=clock)
    manager.create("exp", num_processes=2)
    with manager.claim("exp") as claim:
        claim.record("start")
        claim.record("start", 0)
        clock.now += timedelta(hours=hours)
        claim.record("complete", 0, exit_code=0)
        claim.tick()
        claim.record("start", 1)
        clock.now += timedelta(seconds=2)
        claim.tick()
        assert _view(manager)["revision"] == claim.state.revision, "the jump silenced the view"
    clock.now = datetime(2026, 1, 1, tzinfo=UTC)
    with manager.claim("exp") as claim:
        assert claim.state.processes_completed == 1
        claim.record("complete", 1, exit_code=0)
    assert _steps(manager) == ["start", "start", "complete", "start", "complete"]


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_tick_after_a_jump_of_the_clock_brings_the_view_up_to_date(
    tmp_path: Path, hours: int
) -> None:
    """Nothing more is recorded: a clock that was set back must not silence the view for hours."""
    clock = Ticking()
    manager = StateManager(tmp_path / "states", clock=clock)
    manager.create("exp", num_processes=1)
    with manager.claim("exp") as claim:
        claim.record("start")
        claim.record("start", 0)
        assert _view(manager)["revision"] < claim.state.revision
        clock.now += timedelta(hours=hours)
        claim.tick()
        assert _view(manager)["revision"] == claim.state.revision


# Says when it began and ended; process 0 fails the first time, once it may, the others wait until
# they may end.
_WORK = """
import os, signal, sys, time
log, gate = sys.argv[1:]
index, attempt = os.environ["HOLDFAST_INDEX"], os.environ["HOLDFAST_ATTEMPT"]
def tell(what):
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{what} {index} {attempt} {time.monotonic()}\\n".encode())
    os.close(fd)
def tidy(*_):
    time.sleep(0.3)
    tell("tidied")
    os._exit(1)
signal.signal(signal.SIGTERM, tidy)
tell("began")
if (index, attempt) == ("0", "1"):
    while not os.path.exists(f"{gate}.0"):
        time.sleep(0.01)
    sys.exit(1)
while index != "0" and not os.path.exists(gate):
    time.sleep(0.01)
tell("ended")
"""


class _JumpingRun:
    """An orchestrator in this process, whose clock a test may set while it runs.

    Its shims keep the true one, so that from then on the times in their records are hours off.
    """

    def __init__(self, tmp_path: Path) -> None:
        self.ahead = timedelta(0)
        self.log, self.gate = tmp_path / "log", tmp_path / "gate"
        self.manager = StateManager(tmp_path / "states", clock=self.clock)
        self.script = tmp_path / "work.py"
        self.script.write_text(_WORK)

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def run(self, listen: Callable[[ExperimentState], None]) -> Outcome:
        config = {
            "command": [sys.executable, str(self.script), str(self.log), str(self.gate)],
            "processes": 3,
            "limits": {"jobs": 3, "timeout": "10m", "grace": "20s"},
            "retry": {"max_attempts": 2, "backoff": "0.3s"},
        }
        # What waits for hours is interrupted, so that it fails and leaves nothing behind.
        too_long = threading.Timer(PATIENCE_S, os.kill, (os.getpid(), signal.SIGINT))
        too_long.start()
        try:
            with LocalEngine() as engine:
                orchestrator = Orchestrator(
                    self.manager, engine, clock=self.clock, on_change=listen, gone_grace_s=0.05
                )
                return orchestrator.run(config, experiment_id="exp")
        finally:
            too_long.cancel()
            self.let_fail()
            self.gate.touch()

    def let_fail(self) -> None:
        """Let the first attempt of process 0 go on, and fail."""
        Path(f"{self.gate}.0").touch()

    def told(self, word: str) -> dict[tuple[int, int], float]:
        """For every process and attempt that said *word*: when."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found: dict[tuple[int, int], float] = {}
        for what, index, attempt, at in map(str.split, lines):
            if what == word:
                assert (int(index), int(attempt)) not in found, "an attempt ran twice"
                found[int(index), int(attempt)] = float(at)
        return found

    def shim(self, index: int) -> int:
        live = self.manager.folder("exp") / "attempts" / f"{index}.1.live"
        return int(until(lambda: live.exists() and json.loads(live.read_bytes())["pid"]))


@pytest.mark.parametrize("hours", [-2, 2])
@pytest.mark.parametrize("moment", ["while all run", "during a backoff"])
def test_a_clock_that_jumps_under_a_run_neither_holds_nor_ends_anything(
    tmp_path: Path, hours: int, moment: str
) -> None:
    """Nothing times out, no retry waits for hours, a lost attempt is noticed; none runs twice."""
    run = _JumpingRun(tmp_path)
    if moment == "during a backoff":
        run.let_fail()

    def listen(state: ExperimentState) -> None:
        first = state.process_progress[0]
        if not run.ahead and (
            first.failures if moment == "during a backoff" else state.processes_running == 3
        ):
            until(lambda: {(1, 1), (2, 1)} <= set(run.told("began")))
            run.ahead = timedelta(hours=hours)
            os.kill(run.shim(1), signal.SIGKILL)
            run.let_fail()
        if first.status == "completed" and state.process_progress[1].attempt == 2:
            run.gate.touch()

    outcome = run.run(listen)
    assert run.ahead, "the clock did not jump"
    assert str(outcome.state.status) == "aggregated"
    assert code_of(outcome) == 0
    assert set(run.told("began")) == {(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)}
    assert set(run.told("ended")) == {(0, 2), (1, 2), (2, 1)}
    counts = {i: (p.failures, p.interruptions) for i, p in outcome.state.process_progress.items()}
    assert counts == {0: (1, 0), 1: (0, 1), 2: (0, 0)}


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_jumps_while_a_run_stops_costs_no_grace(tmp_path: Path, hours: int) -> None:
    """Whoever tidies up after SIGTERM is given the time; the resume runs what is left, once."""
    run = _JumpingRun(tmp_path)
    run.let_fail()

    def listen(state: ExperimentState) -> None:
        if not run.ahead and state.process_progress[0].status == "completed":
            until(lambda: {(1, 1), (2, 1)} <= set(run.told("began")))
            os.kill(os.getpid(), signal.SIGINT)
            run.ahead = timedelta(hours=hours)

    outcome = run.run(listen)
    assert str(outcome.state.status) == "interrupted"
    assert set(run.told("tidied")) == {(1, 1), (2, 1)}
    run.ahead = timedelta(0)
    outcome = run.run(lambda state: None)
    assert str(outcome.state.status) == "aggregated"
    assert set(run.told("began")) == {(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)}
    assert set(run.told("ended")) == {(0, 2), (1, 2), (2, 2)}
