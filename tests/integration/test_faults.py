"""Every file operation of the manager fails, or is its last: the old or the new, never a mix."""

import errno
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from conftest import TickingClock
from faults import Counting, Stopped, fail_with, stop
from holdfast.errors import (
    ClaimClosedError,
    ExperimentNotFoundError,
    HoldfastError,
    OwnershipLostError,
    StateWriteError,
)
from holdfast.lifecycle.events import Requested
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus
from holdfast.store import writer as writer_module
from holdfast.store.manager import StateManager

ID = "exp_7"
pytestmark = pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")


@pytest.fixture(autouse=True)
def _compact_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "COMPACT_BYTES", 1500)
    monkeypatch.setattr(writer_module, "COMPACT_BASES", 0)


def create(manager: StateManager, _: list[int]) -> None:
    manager.create(ID, num_processes=4)


def record(manager: StateManager, done: list[int]) -> None:
    """Eight lines, one of many events, one compaction; *done* is the last acknowledged revision."""
    with manager.claim(ID) as claim:
        done.append(claim.record("start").revision)
        for index in range(3):
            done.append(claim.record("start", index).revision)
            done.append(claim.record("fail", index, error_message="x" * 100).revision)
        at = claim.state.last_updated
        assert at is not None
        many = [Requested(entity="process", event="start", at=at, process=3)]
        done.append(claim.record_many(many).state.revision)


def save(manager: StateManager, done: list[int]) -> None:
    state = manager.load(ID)
    state = manager.save(attrs.evolve(state, name="one", status="running"))
    done.append(state.revision)
    done.append(manager.save(attrs.evolve(state, name="two")).revision)


def read(manager: StateManager, _: list[int]) -> None:
    manager.load(ID)
    manager.history(ID)
    manager.liveness(ID)
    manager.list_experiments()
    manager.find_incomplete()
    manager.cleanup_stale()
    manager.resolve("exp")


WORK: dict[str, Callable[[StateManager, list[int]], None]] = {
    "create": create,
    "record": record,
    "save": save,
    "read": read,
}


def steps(base: Path, work: Callable[[StateManager, list[int]], None]) -> int:
    """How many file operations *work* takes."""
    files = Counting()
    fresh(base / "count", work)
    work(StateManager(base / "count", files=files, clock=TickingClock()), [])
    return len(files.seen)


def fresh(state_dir: Path, work: Callable[..., None]) -> StateManager:
    manager = StateManager(state_dir, clock=TickingClock())
    if work is not create:
        manager.create(ID, num_processes=4)
    if work is read:
        with manager.claim(ID) as claim:
            claim.record("start")
    return manager


def live_on(manager: StateManager, done: list[int]) -> ExperimentState:
    """What was acknowledged is there, and the experiment goes on from it."""
    try:
        state = manager.load(ID)
    except ExperimentNotFoundError:
        assert not done
        state = manager.create(ID, num_processes=4)
    # A line that was written and not acknowledged may count; one more there cannot be.
    assert max(done, default=0) <= state.revision <= max(done, default=0) + 1
    acknowledged = [step for step in manager.history(ID) if step.event in ("start", "fail")]
    assert len(acknowledged) <= state.revision + 1
    with manager.claim(ID) as claim:
        assert claim.state.process_progress == state.process_progress
        event = "start" if state.status is ExperimentStatus.INITIALISED else "interrupt"
        assert claim.record(event).revision == state.revision + 1
    assert manager.unreadable() == []
    return state


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_whatever_fails_is_our_error_and_the_next_owner_goes_on(
    fast_dir: Path, work: Callable[[StateManager, list[int]], None], number: int
) -> None:
    """At each operation: an error of ours or none, all that was acknowledged, a second life."""
    total = steps(fast_dir, work)
    assert total > 10
    for at in range(total):
        plain = fresh(fast_dir / str(at), work)
        before = None if work is create else plain.load(ID)
        files = Counting(at, fail_with(number))
        done: list[int] = []
        error: HoldfastError | None = None
        try:
            work(StateManager(plain.state_dir, files=files, clock=TickingClock()), done)
        except HoldfastError as caught:
            error = caught
        where = (at, files.seen[at], error)
        if isinstance(error, StateWriteError) and error.stored == "old" and work is not read:
            revision = max(done, default=0)
            try:
                assert plain.load(ID).revision == revision, where
                assert done or plain.load(ID).process_progress == (
                    before and before.process_progress
                )
            except ExperimentNotFoundError:
                assert work is create, where
        assert not isinstance(error, ClaimClosedError | OwnershipLostError) or done, where
        live_on(plain, done)


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_wherever_the_process_ends_the_next_owner_goes_on(
    fast_dir: Path, work: Callable[[StateManager, list[int]], None]
) -> None:
    """Killed at each operation: all that was acknowledged, and a second life."""
    for at in range(steps(fast_dir, work)):
        plain = fresh(fast_dir / str(at), work)
        done: list[int] = []
        files = Counting(at, stop)
        with pytest.raises(Stopped):
            work(StateManager(plain.state_dir, files=files, clock=TickingClock()), done)
        live_on(plain, done)


def test_a_full_disk_costs_nobody_the_claim(fast_dir: Path) -> None:
    """What could not be written is taken back, and can be recorded once there is room again."""
    files = Counting(trouble=fail_with(errno.ENOSPC))
    manager = StateManager(fast_dir / "state", files=files)
    manager.create(ID, num_processes=1)
    with manager.claim(ID) as claim:
        claim.record("start")
        # An appended line begins with its write.
        files.at = len(files.seen)
        with pytest.raises(StateWriteError, match="ENOSPC") as caught:
            claim.record("start", 0)
        assert caught.value.stored == "old"
        assert caught.value.operation == "writing"
        files.at = None
        assert claim.record("start", 0).processes_running == 1
    assert manager.load(ID).revision == 2


def test_a_failed_fsync_is_never_asked_twice(fast_dir: Path) -> None:
    """The kernel may have dropped the pages: the claim is over, and says so; the state is whole."""
    files = Counting(trouble=fail_with(errno.EIO))
    manager = StateManager(fast_dir / "state", files=files)
    manager.create(ID, num_processes=1)
    with manager.claim(ID) as claim:
        claim.record("start")
        files.at = len(files.seen) + 1
        with pytest.raises(StateWriteError, match="EIO") as caught:
            claim.record("start", 0)
        assert (caught.value.operation, caught.value.stored) == ("fdatasync", "unknown")
        synced = files.seen.count("fdatasync")
        with pytest.raises(ClaimClosedError, match="fdatasync failed"):
            claim.record("interrupt")
    assert files.seen.count("fdatasync") == synced
    assert manager.load(ID).revision in (1, 2)
