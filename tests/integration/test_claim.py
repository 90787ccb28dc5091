"""A claim: what it records, what it refuses, and what it tells others, with real files."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from conftest import TickingClock
from holdfast import liveness
from holdfast.errors import (
    AlreadyOwnedError,
    ClaimClosedError,
    InvalidTransitionError,
    NoLocksWarning,
    OwnershipLostError,
    UnknownLivenessError,
    UnreadableStateWarning,
)
from holdfast.lifecycle.edges import edges
from holdfast.lifecycle.events import Launch, PhaseReported, ProcessExited, Requested
from holdfast.lifecycle.machines import ExperimentMachine, ProcessMachine
from holdfast.lifecycle.records import ExperimentState, Origin
from holdfast.lifecycle.reuse import Proof
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store import writer as writer_module
from holdfast.store.claim import Claim
from holdfast.store.encoding import identity_to_json
from holdfast.store.files import Files
from holdfast.store.lines import encode
from holdfast.store.manager import StateManager
from processes import hear, owner, python, run
from waiting import PATIENCE_S, until

ID = "exp_7"


@pytest.fixture
def claim(manager: StateManager) -> Iterator[Claim]:
    manager.create(ID, num_processes=3)
    with manager.claim(ID) as claim:
        yield claim


def content(directory: Path) -> dict[str, tuple[int, bytes | None]]:
    """Everything below *directory*: time of the last change and bytes, by path."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in directory.rglob("*")
    }


def view(state_dir: Path) -> dict[str, Any]:
    plain = json.loads((state_dir / f"{ID}.json").read_bytes())
    assert isinstance(plain, dict)
    return plain


def request(event: str, process: int | None = None, **facts: object) -> Requested:
    return Requested(
        entity="experiment" if process is None else "process",
        event=event,
        at=datetime.now(UTC),
        process=process,
        facts=facts,
    )


# -- recording ------------------------------------------------------------------------------------


def test_a_recorded_event_is_what_everybody_loads(claim: Claim, manager: StateManager) -> None:
    """`record` returns the state that any other process reads from then on."""
    state = claim.record("start")
    assert (state.status, state.revision) == (ExperimentStatus.RUNNING, 1)
    claim.record("start", process=2)
    state = claim.record("complete", process=2, exit_code=0)
    loaded = manager.load(ID)
    assert loaded == claim.state == state
    assert loaded.process_progress[2].exit_code == 0
    assert loaded.process_progress[2].attempt == 1
    assert loaded.revision == 3


def test_what_is_recorded_together_is_one_line_or_nothing(
    claim: Claim, manager: StateManager
) -> None:
    """Many events, one line and one revision; one refused event, and none of them happened."""
    recorded = claim.record_many([request("start"), request("start", 0), request("start", 1)])
    assert recorded.state.revision == 1
    assert recorded.actions == (Launch(0, 1), Launch(1, 1))
    with pytest.raises(InvalidTransitionError):
        claim.record_many(
            [request("complete", 0, exit_code=0), request("complete", 1, exit_code=3)]
        )
    assert claim.state == recorded.state == manager.load(ID)
    journal = claim.folder / "journal" / "00000001.jsonl"
    assert journal.read_bytes().count(b"\n") == 3


_SCRIPTS: dict[str, list[Requested]] = {
    "initialised": [],
    "running": [request("start")],
    "completed": [
        request("start"),
        request("start", 0),
        request("complete", 0, exit_code=0),
        request("complete"),
    ],
    "failed": [request("fail")],
    "interrupted": [request("interrupt")],
}
_SCRIPTS["aggregated"] = [*_SCRIPTS["completed"], request("aggregate")]
_PROCESS_SCRIPTS = {
    "pending": [request("start")],
    "running": [request("start"), request("start", 0)],
    "completed": [request("start"), request("start", 0), request("complete", 0, exit_code=0)],
    "failed": [request("start"), request("start", 0), request("fail", 0)],
}
_FACTS: dict[str, Any] = {
    "phase": {"phase": "running"},
    "complete": {"exit_code": 0},
    "requeue": {"proven_dead": True, "max_attempts": 9, "result_lost": True},
    "reuse": {
        "work": "0" * 32,
        "proof": Proof(
            origin=Origin(experiment_id="exp_6", process=4, attempt=2),
            work="0" * 32,
            status=ProcessStatus.COMPLETED,
        ),
    },
}


def _try_every_event(
    manager: StateManager, state_dir: Path, scripts: dict[str, list[Requested]], index: int | None
) -> dict[tuple[str, str], str]:
    """`{(status, event): status after}` of all that were accepted, checked on the disk."""
    machine = ExperimentMachine if index is None else ProcessMachine
    events = sorted({edge.event for edge in edges(machine)} | {"explode"})
    accepted = {}
    for status, script in scripts.items():
        for event in events:
            name = f"{status}-{event}"
            manager.create(name, num_processes=1)
            with manager.claim(name) as claim:
                if script:
                    claim.record_many(script)
                before, old = content(state_dir), claim.state
                facts = {} if index is None else _FACTS.get(event, {})
                try:
                    new = claim.record(event, index, **facts)
                except InvalidTransitionError:
                    assert content(state_dir) == before, (status, event)
                    assert claim.state is old
                else:
                    assert manager.load(name) == new
                    record = new if index is None else new.process_progress[index]
                    accepted[status, event] = str(record.status)
    return accepted


def test_every_experiment_event_in_every_status_on_disk(
    manager: StateManager, state_dir: Path
) -> None:
    """The legal ones move; the others raise and change not one byte of the directory."""
    accepted = _try_every_event(manager, state_dir, _SCRIPTS, None)
    declared = {(edge.source, edge.event): edge.target for edge in edges(ExperimentMachine)}
    # Running with a pending process is refused by a guard; with all completed it is done above.
    del declared["running", "complete"]
    assert accepted == declared


def test_every_process_event_in_every_status_on_disk(
    manager: StateManager, state_dir: Path
) -> None:
    """The legal ones move; the others raise and change not one byte of the directory."""
    accepted = _try_every_event(manager, state_dir, _PROCESS_SCRIPTS, 0)
    assert accepted == {(edge.source, edge.event): edge.target for edge in edges(ProcessMachine)}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"error_message": ValueError("an exception")}, TypeError),
        ({"reason": "bored"}, ValueError),
        ({"exit_kode": 0}, TypeError),
        ({"exit_code": "0"}, TypeError),
        ({"error_message": float("nan")}, TypeError),
        ({"exit_code": 10**5000}, ValueError),
    ],
)
def test_what_cannot_be_recorded_leaves_the_claim_as_good_as_before(
    claim: Claim, manager: StateManager, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """A caller's mistake is an error, writes nothing, and costs nobody the claim."""
    claim.record("start")
    claim.record("start", 0)
    before = content(manager.state_dir)
    with pytest.raises(error):
        claim.record("fail", 0, **arguments)
    assert content(manager.state_dir) == before
    claim.record("fail", 0, error_message="now as text")
    assert manager.load(ID).process_progress[0].error_message == "now as text"


def test_a_note_costs_no_line_of_its_own(claim: Claim, manager: StateManager) -> None:
    """Who runs an attempt is kept for the next line, and written at the release at the latest."""
    claim.record_many([request("start"), request("start", 0), request("start", 1)])
    journal = claim.folder / "journal" / "00000001.jsonl"
    before = journal.read_bytes()
    me = liveness.me()

    def launched(index: int) -> PhaseReported:
        return PhaseReported(process=index, attempt=1, at=datetime.now(UTC), identity=me)

    claim.note(launched(0))
    assert journal.read_bytes() == before
    claim.record("start", 2)
    assert manager.load(ID).process_progress[0].identity == me
    assert manager.load(ID).revision == 2
    claim.note(launched(1))
    claim.release()
    assert manager.load(ID).process_progress[1].identity == me


def test_a_late_fact_is_recorded_as_nothing(claim: Claim, manager: StateManager) -> None:
    """An exit of an attempt that is over already changes no byte."""
    claim.record_many([request("start"), request("start", 0)])
    exited = ProcessExited(process=0, attempt=1, at=datetime.now(UTC), exit_code=0)
    claim.record_many([exited])
    before = content(manager.state_dir)
    claim.record_many([exited, attrs.evolve(exited, attempt=7), attrs.evolve(exited, process=9)])
    assert content(manager.state_dir) == before


def test_threads_of_one_owner_record_one_after_the_other(
    manager: StateManager, state_dir: Path
) -> None:
    """Four threads, forty processes: every line is there, no two share a revision."""
    manager.create(ID, num_processes=40)
    with manager.claim(ID) as claim:
        claim.record("start")

        def work(first: int) -> None:
            for index in range(first, 40, 4):
                claim.record("start", index)
                claim.record("complete", index, exit_code=0)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert claim.state.revision == 81
        assert claim.record("complete").can_aggregate()
    assert manager.load(ID).revision == 82


# -- the view -------------------------------------------------------------------------------------


def test_the_view_is_at_most_a_second_behind(state_dir: Path, fixed_clock: TickingClock) -> None:
    """At once for the experiment, with the next line or tick after a second for its processes."""
    manager = StateManager(state_dir, clock=fixed_clock)
    manager.create(ID, num_processes=4)
    with manager.claim(ID) as claim:
        claim.record("start")
        assert (view(state_dir)["status"], view(state_dir)["revision"]) == ("running", 1)
        claim.record("start", 0)
        claim.tick()
        assert view(state_dir)["revision"] == 1
        assert manager.load(ID).revision == 2
        fixed_clock.advance(1.1)
        claim.tick()
        assert view(state_dir)["revision"] == 2
        fixed_clock.advance(1.1)
        before = (state_dir / f"{ID}.json").stat()
        claim.tick()
        assert (state_dir / f"{ID}.json").stat() == before
        claim.record("start", 1)
        assert view(state_dir)["revision"] == 3
        claim.record("start", 2)
        assert view(state_dir)["revision"] == 3
        fixed_clock.advance(-7200)
        claim.record("start", 3)
        assert view(state_dir)["revision"] == 5
        claim.record("complete", 0, exit_code=0)
        assert view(state_dir)["revision"] == 5
    assert view(state_dir)["revision"] == 6
    assert view(state_dir)["owner"]["released"]
    assert manager.load(ID).last_updated is not None


def test_a_view_that_takes_long_to_write_is_written_less_often(
    state_dir: Path, fixed_clock: TickingClock
) -> None:
    """It costs a tenth of the time at most, whatever the number of processes."""

    class Slow(Files):
        def rename(self, source: str, target: str, dir_fd: int) -> None:
            if target == f"{ID}.json":
                fixed_clock.advance(2.0)
            super().rename(source, target, dir_fd)

    manager = StateManager(state_dir, clock=fixed_clock, files=Slow())
    manager.create(ID, num_processes=4)
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        for advanced, revision in ((15.0, 1), (5.1, 2)):
            fixed_clock.advance(advanced)
            claim.tick()
            assert view(state_dir)["revision"] == revision


def test_a_tick_writes_what_was_noted(state_dir: Path, fixed_clock: TickingClock) -> None:
    """Who runs the attempts is to be seen within a second, even if nothing else happens."""
    manager = StateManager(state_dir, clock=fixed_clock)
    manager.create(ID, num_processes=1)
    with manager.claim(ID) as claim:
        claim.record_many([request("start"), request("start", 0)])
        claim.note(
            PhaseReported(process=0, attempt=1, at=datetime.now(UTC), identity=liveness.me())
        )
        claim.tick()
        assert manager.load(ID).process_progress[0].identity is None
        fixed_clock.advance(1.1)
        claim.tick()
        assert manager.load(ID).process_progress[0].identity == liveness.me()
        assert view(state_dir)["process_progress"]["0"]["identity"]["pid"] == os.getpid()


def test_a_view_that_cannot_be_written_stops_nothing(
    manager: StateManager, state_dir: Path
) -> None:
    """The journal has everything: recording goes on, the release says what is the matter."""
    manager.create(ID)

    class NoRoomForViews(Files):
        full = False

        def rename(self, source: str, target: str, dir_fd: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().rename(source, target, dir_fd)

    files = NoRoomForViews()
    other = StateManager(state_dir, files=files)
    claim = other.claim(ID)
    files.full = True
    claim.record("start")
    claim.record("interrupt")
    with pytest.warns(UnreadableStateWarning, match="ENOSPC"):
        claim.release()
    with pytest.warns(UnreadableStateWarning, match="the journal counts"):
        assert manager.load(ID).status is ExperimentStatus.INTERRUPTED
    manager.claim(ID).release()
    assert view(state_dir)["status"] == "interrupted"
    assert not [name for name in os.listdir(state_dir) if name.startswith(".tmp")]


# -- owning ---------------------------------------------------------------------------------------


def test_a_live_owner_is_named(manager: StateManager, state_dir: Path) -> None:
    """Who is refused learns the pid, the host and since when, and that it is alive."""
    manager.create(ID)
    began = datetime.now(UTC)
    with owner(state_dir, ID) as process:
        for force in (False, True):
            with pytest.raises(AlreadyOwnedError) as caught:
                manager.claim(ID, force=force)
            error = caught.value
            assert error.owner is not None
            assert error.since is not None
            assert error.owner.pid == process.pid
            assert error.owner.host == liveness.me().host
            assert began - timedelta(seconds=1) <= error.since <= datetime.now(UTC)
            assert error.verdict is not None
            assert error.verdict.kind == "alive"
            assert f"pid {process.pid} on {error.owner.host} since" in str(error)
        assert manager.liveness(ID).kind == "alive"
        # A reader is no owner: it sees everything.
        assert manager.load(ID).status is ExperimentStatus.RUNNING


def test_a_claim_that_is_refused_for_a_view_alone_leaves_nothing(
    manager: StateManager, state_dir: Path
) -> None:
    """Its folder is gone, and the owner that the view names lives: no new lock proves anything."""
    manager.create(ID)
    manager.claim(ID).release()
    plain = view(state_dir)
    plain["owner"] = identity_to_json(liveness.me())
    shutil.rmtree(state_dir / ID)
    (state_dir / f"{ID}.json").write_text(json.dumps(plain, indent=2) + "\n")
    before = content(state_dir)
    with pytest.raises(AlreadyOwnedError):
        manager.claim(ID)
    assert content(state_dir) == before


def test_a_second_claim_of_the_same_process_is_refused(claim: Claim, manager: StateManager) -> None:
    """The lock is between claims, not between processes."""
    with pytest.raises(AlreadyOwnedError) as caught:
        manager.claim(ID)
    assert caught.value.owner is not None
    assert caught.value.owner.pid == os.getpid()


def test_a_claim_waits_for_a_short_owner(manager: StateManager, claim: Claim) -> None:
    """`wait_s` bridges a save or a cleanup of somebody else."""
    got: list[int] = []

    def wait() -> None:
        with manager.claim(ID, wait_s=20) as second:
            got.append(second.epoch)

    waiter = threading.Thread(target=wait)
    waiter.start()
    claim.record("start")
    claim.release()
    waiter.join()
    assert got == [2]


def test_a_late_claimant_does_not_take_the_name_of_anothers_lock(
    manager: StateManager, state_dir: Path
) -> None:
    """Who got the lock of a file that was replaced meanwhile leaves the new one where it is."""
    manager.create(ID)
    path = manager.folder(ID) / "lock"
    with contextlib.ExitStack() as opened:

        class Overtaken(Files):
            """Another claimant came and failed, a third one made a lock anew and holds it."""

            held = 0

            def flock(self, fd: int, operation: int) -> None:
                if not self.held:
                    path.unlink()
                    self.held = opened.enter_context(path.open("w")).fileno()
                    fcntl.flock(self.held, fcntl.LOCK_EX)
                super().flock(fd, operation)

        files = Overtaken()
        with pytest.raises(AlreadyOwnedError):
            StateManager(state_dir, files=files).claim(ID)
        assert os.path.samestat(path.stat(), os.fstat(files.held))


def test_a_stopped_owner_keeps_what_it_owns(manager: StateManager, state_dir: Path) -> None:
    """SIGSTOP is not death: the lock is held, nobody can take over, and it goes on afterwards."""
    manager.create(ID)
    with owner(state_dir, ID) as process:
        process.send_signal(signal.SIGSTOP)
        for force in (False, True):
            with pytest.raises(AlreadyOwnedError):
                manager.claim(ID, force=force)
        assert manager.cleanup_stale(force=True) == []
        assert manager.liveness(ID).kind == "alive"
        process.send_signal(signal.SIGCONT)
        process.communicate("", timeout=PATIENCE_S)
    assert manager.liveness(ID).kind == "dead"


def test_a_killed_owner_is_proven_dead_and_succeeded(
    manager: StateManager, state_dir: Path
) -> None:
    """Its lock is free: the next owner goes on from its last acknowledged step."""
    manager.create(ID)
    with owner(state_dir, ID) as process:
        process.kill()
        process.wait()
        assert manager.liveness(ID).kind == "dead"
        with manager.claim(ID) as claim:
            assert claim.previous is not None
            assert claim.verdict is not None
            assert claim.previous.pid == process.pid
            assert (claim.verdict.kind, claim.verdict.method) == ("dead", "lock")
            assert claim.state.status is ExperimentStatus.RUNNING
            claim.record("interrupt", reason=Reason.STALE)
    actors = [step.actor for step in manager.history(ID) if step.event == "claimed"]
    assert [f"pid {process.pid} on" in actor for actor in actors] == [True, False]


def by_hand(state_dir: Path, **fields: Any) -> None:
    state_dir.mkdir(exist_ok=True)
    plain = {"experiment_id": ID, "status": "running", "num_processes": 1, **fields}
    (state_dir / f"{ID}.json").write_text(json.dumps(plain))


def test_an_owner_on_another_host_is_unknown_and_only_force_goes_on(
    manager: StateManager, state_dir: Path
) -> None:
    """Unknown never overwrites anything; who knows better says so, and it is in the evidence."""
    by_hand(state_dir, owner={"host": "elsewhere", "boot_id": "b", "pid": 7, "locked": True})
    before = content(state_dir)
    with pytest.raises(UnknownLivenessError, match="--force") as caught:
        manager.claim(ID)
    assert caught.value.owner is not None
    assert caught.value.owner.host == "elsewhere"
    assert manager.liveness(ID).kind == "unknown"
    assert content(state_dir) == before
    with manager.claim(ID, force=True) as claim:
        assert claim.verdict is not None
        assert claim.verdict.kind == "unknown"


def test_a_bare_pid_of_another_tool_is_judged(manager: StateManager, state_dir: Path) -> None:
    """A gone pid is proof; a present one may be anybody."""
    by_hand(state_dir, subprocess_pid=os.getpid())
    with pytest.raises(UnknownLivenessError):
        manager.claim(ID)
    by_hand(state_dir, subprocess_pid=2**22 + 1)
    with manager.claim(ID) as claim:
        assert claim.record("interrupt").status is ExperimentStatus.INTERRUPTED


def test_a_released_claim_records_nothing(claim: Claim, manager: StateManager) -> None:
    """Letting go can be repeated, and is for good; the experiment is free at once."""
    claim.release()
    claim.release()
    before = content(manager.state_dir)
    with pytest.raises(ClaimClosedError, match="released"):
        claim.record("start")
    assert content(manager.state_dir) == before
    assert manager.load(ID).owner is not None
    manager.claim(ID).release()


_FORK = """
import os, sys
from holdfast import StateManager
from holdfast.errors import ClaimClosedError, AlreadyOwnedError
manager = StateManager(sys.argv[1])

# One write a line: parent and child share the pipe.
def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())

with manager.claim("exp_7") as claim:
    claim.record("start")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        try:
            claim.record("interrupt")
        except ClaimClosedError as error:
            say("child:", "fork" in str(error))
        claim.release()
        try:
            manager.claim("exp_7")
        except AlreadyOwnedError as error:
            say("owner:", error.owner.pid == os.getppid())
        os.read(reading, 1)
        os._exit(0)
    say(child)
    sys.stdin.readline()
    os._exit(9)
"""


def test_a_fork_of_the_owner_cannot_write_and_does_not_keep_the_lock(
    manager: StateManager, state_dir: Path
) -> None:
    """The child is refused; when the owner is gone, a child that lives on holds nothing back."""
    manager.create(ID)
    with python(_FORK, state_dir) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = {hear(process.stdout) for _ in range(3)}
        assert {"child: True", "owner: True"} < said
        child = next(int(line) for line in said if line.isdigit())
        process.stdin.write("\n")
        process.stdin.close()
        # The parent is dead; the child still waits on the pipe until its writing end is gone.
        assert process.wait(timeout=PATIENCE_S) == 9
        until(lambda: manager.liveness(ID).kind == "dead")
        with manager.claim(ID) as claim:
            assert claim.state.status is ExperimentStatus.RUNNING
        until(lambda: not Path(f"/proc/{child}/stat").exists() or _zombie(child))


def _zombie(pid: int) -> bool:
    try:
        return b") Z" in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return True


def test_children_of_the_owner_inherit_no_descriptor(claim: Claim, manager: StateManager) -> None:
    """A command that is started while the experiment is owned cannot hold its lock."""
    code = """
import os
for fd in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{fd}"))
    except FileNotFoundError:
        pass
"""
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to look into")
    assert str(manager.state_dir) not in run(code)


# -- where there are no locks ---------------------------------------------------------------------


class NoLocks(Files):
    """A file system that refuses `flock`, as NFS mounted `nolock` does."""

    def flock(self, fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")


def test_without_locks_a_live_owner_is_told_by_its_pid(state_dir: Path) -> None:
    """Where the kernel keeps no locks, the recorded process decides."""
    manager = StateManager(state_dir, files=NoLocks())
    manager.create(ID)
    with pytest.warns(NoLocksWarning, match="without locks"):
        claim = manager.claim(ID)
    with claim:
        assert not claim.locked
        claim.record("start")
        with pytest.raises(AlreadyOwnedError) as caught:
            manager.claim(ID)
        assert caught.value.since == manager.history(ID)[0].at, "not when it last recorded"
        assert caught.value.verdict is not None
        assert caught.value.verdict.method == "pid"
    manager.claim(ID).release()


def test_a_superseded_owner_can_change_nothing(state_dir: Path) -> None:
    """It wakes up late, is told so, and neither journal nor history nor state knows its word."""
    manager = StateManager(state_dir, files=NoLocks())
    manager.create(ID, num_processes=2)
    late = manager.claim(ID)
    late.record("start")
    with pytest.raises(AlreadyOwnedError):
        manager.claim(ID)
    # Seen from another machine nothing is known of the first owner, and somebody forces it.
    _forget_the_boot(late.folder / "journal" / "00000001.jsonl")
    newer = manager.claim(ID, force=True)
    newer.record("start", 0)
    history = manager.history(ID)
    with pytest.raises(OwnershipLostError) as caught:
        late.record("start", 1)
    assert (caught.value.epoch, caught.value.newer_epoch) == (1, 2)
    with pytest.raises(ClaimClosedError):
        late.record("interrupt")
    late.release()
    assert manager.history(ID) == history
    assert manager.load(ID) == newer.state
    assert newer.record("start", 1).processes_running == 2
    newer.release()
    assert view(state_dir)["revision"] == 3


def _forget_the_boot(journal: Path) -> None:
    """Have the claim come from a machine that nobody here can say anything about."""
    content = journal.read_bytes().rstrip(b"\0")
    lines = [json.loads(line[9:]) for line in content.splitlines()]
    for identity in (lines[0]["owner"], lines[1]["state"]["owner"]):
        # The same length, since the owner goes on appending where it thinks that the end is.
        identity["boot_iq"] = identity.pop("boot_id")
    journal.write_bytes(b"".join(encode(line) for line in lines))


# -- compaction -----------------------------------------------------------------------------------


def test_a_long_story_moves_to_fresh_journals_and_stays_whole(
    manager: StateManager, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load time stays bounded; history has every step once; the owner is the one from the start."""
    monkeypatch.setattr(writer_module, "COMPACT_BYTES", 4000)
    monkeypatch.setattr(writer_module, "COMPACT_BASES", 2)
    manager.create(ID, num_processes=5)
    with manager.claim(ID) as claim:
        claim.record("start")
        began = manager.history(ID)[0].at
        for round_ in range(12):
            for index in range(5):
                claim.record("start", index)
                claim.record("fail", index, error_message=f"round {round_}")
                claim.record("requeue", index, max_attempts=99)
        assert claim.epoch > 5
        newest = claim.folder / "journal" / f"{claim.epoch:08d}.jsonl"
        assert newest.stat().st_size < 10_000
        assert manager.load(ID) == claim.state
        with pytest.raises(AlreadyOwnedError) as caught:
            manager.claim(ID)
        assert caught.value.since == began
        assert caught.value.owner is not None
        assert caught.value.owner.pid == os.getpid()
    steps = manager.history(ID)
    assert [step.event for step in steps if step.index is None] == ["claimed", "start", "released"]
    for index in range(5):
        mine = [step.event for step in steps if step.index == index]
        assert mine == ["start", "fail", "requeue"] * 12
    state: ExperimentState = manager.load(ID)
    assert state.revision == 181
    assert state.process_progress[3].failures == 12
    assert state.process_progress[3].status is ProcessStatus.PENDING


def test_a_journal_that_is_gone_after_a_compaction_is_missed(
    manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written to a file that nobody finds is not acknowledged, whatever was seen before."""
    manager.create(ID, num_processes=3)
    with manager.claim(ID) as claim:
        monkeypatch.setattr(writer_module, "COMPACT_BYTES", 1)
        monkeypatch.setattr(writer_module, "COMPACT_BASES", 0)
        claim.record("start")
        monkeypatch.undo()
        assert claim.epoch == 2
        (claim.folder / "journal" / "00000002.jsonl").unlink()
        with pytest.raises(OwnershipLostError):
            claim.record("start", 0)
    with pytest.warns(UnreadableStateWarning, match="tells of epoch 2"):
        assert manager.load(ID).processes_running == 0


def test_a_compaction_that_fails_loses_nothing(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The present journal goes on; the next line tries again."""
    monkeypatch.setattr(writer_module, "COMPACT_BYTES", 2000)
    monkeypatch.setattr(writer_module, "COMPACT_BASES", 1)

    class NoLinks(Files):
        refused = 0
        refusing = False

        def link(self, source: str, target: str, dir_fd: int) -> None:
            if self.refusing:
                self.refused += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            super().link(source, target, dir_fd)

    files = NoLinks()
    manager = StateManager(state_dir, files=files)
    manager.create(ID)
    with manager.claim(ID) as claim:
        files.refusing = True
        claim.record("start")
        for _ in range(10):
            claim.record("start", 0)
            claim.record("requeue", 0, proven_dead=True)
        assert files.refused > 1
        assert claim.epoch == 1
        files.refusing = False
        claim.record("start", 0)
        assert claim.epoch == 2
    assert manager.load(ID).process_progress[0].attempt == 11
    assert not list((state_dir / ID / "journal").glob(".tmp-*"))
