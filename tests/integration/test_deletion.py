"""Deleting: whole or gone, however it is interrupted, and never from under something alive."""

import contextlib
import errno
import json
import os
import threading
from pathlib import Path

import pytest

from faults import Counting, Stopped, fail_with, stop
from holdfast.attempts.files import live_state
from holdfast.attempts.names import AGGREGATE, AttemptName, attempts_dir, prepare
from holdfast.attempts.records import Attempt
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import (
    AlreadyOwnedError,
    ExperimentExistsError,
    ExperimentNotFoundError,
    HoldfastError,
    StateWriteError,
    UnknownLivenessError,
)
from holdfast.store import deletion
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from holdfast.store.place import Opened, Place
from processes import owner
from waiting import until

ID = "exp_7"


def make(manager: StateManager) -> None:
    """An experiment with a journal of its own, results and attempts."""
    manager.create(ID, num_processes=2)
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        claim.record("complete", 0, exit_code=0)
        claim.record("interrupt")
    (manager.folder(ID) / "results").mkdir()
    (manager.folder(ID) / "results" / "0.1.json").write_text("{}")


def names(manager: StateManager) -> set[str]:
    # The index of the directory is a cache, which comes and goes.
    return {name for name in os.listdir(manager.state_dir) if not name.startswith(".index")}


def test_a_deleted_experiment_is_gone_with_everything(manager: StateManager) -> None:
    """View, folder, journals and results; its id is free, and starts from nothing."""
    make(manager)
    manager.create("other")
    manager.delete(ID)
    assert names(manager) == {"other.json"}
    assert manager.list_experiments() == ["other"]
    for method in (manager.load, manager.claim, manager.delete, manager.history):
        with pytest.raises(ExperimentNotFoundError):
            method(ID)
    again = manager.create(ID)
    assert (again.revision, again.num_processes) == (0, 1)
    assert manager.history(ID) == []


def test_an_experiment_that_was_never_claimed_is_deleted(manager: StateManager) -> None:
    """A view without a folder goes the same way."""
    manager.create(ID)
    manager.delete(ID)
    assert names(manager) == set()


def test_a_live_owner_s_experiment_is_not_deleted(manager: StateManager, state_dir: Path) -> None:
    """Not even by force; a killed owner's is."""
    manager.create(ID)
    with owner(state_dir, ID) as process:
        for force in (False, True):
            with pytest.raises(AlreadyOwnedError):
                manager.delete(ID, force=force)
        assert manager.load(ID).status == "running"
        process.kill()
        process.wait()
        manager.delete(ID)
    assert names(manager) == set()


def test_an_unknown_owner_s_experiment_is_deleted_by_force_only(
    manager: StateManager, state_dir: Path
) -> None:
    """Another host may still work on it."""
    state_dir.mkdir()
    plain = {"experiment_id": ID, "status": "running", "owner": {"host": "elsewhere", "pid": 7}}
    (state_dir / f"{ID}.json").write_text(json.dumps(plain))
    with pytest.raises(UnknownLivenessError):
        manager.delete(ID)
    assert manager.load(ID).status == "running"
    manager.delete(ID, force=True)
    assert names(manager) == set()


@pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")
def test_a_delete_that_is_stopped_anywhere_leaves_all_or_nothing(fast_dir: Path) -> None:
    """Stopped at each of its file operations: the experiment is whole, or it is not found.

    Whichever it is, a second delete or a create then works, and nothing is left over.
    """
    steps = 0
    seen = set()
    for at in range(1000):
        state_dir = fast_dir / str(at)
        plain = StateManager(state_dir)
        make(plain)
        before = plain.load(ID)
        files = Counting(at, stop)
        try:
            StateManager(state_dir, files=files).delete(ID)
        except Stopped:
            steps += 1
        else:
            break
        state = None
        try:
            state = plain.load(ID)
        except ExperimentNotFoundError:
            assert plain.list_experiments() == []
        if state is not None:
            assert state.process_progress == before.process_progress
            assert (plain.folder(ID) / "results" / "0.1.json").exists()
        seen.add(state is None)
        if at % 2:
            _gone_or_finished(plain)
            plain.create(ID)
        elif state is None:
            assert plain.create(ID, num_processes=5).num_processes == 5
        else:
            with pytest.raises(ExperimentExistsError):
                plain.create(ID)
        with plain.claim(ID) as claim:
            claim.record("fail" if claim.state.status == "initialised" else "resume")
        plain.delete(ID)
        # A view that was being written when its writer died is `holdfast doctor`'s to remove.
        assert not {name for name in names(plain) if not name.startswith(".tmp-")}, at
    assert steps > 30
    assert seen == {True, False}


def _gone_or_finished(manager: StateManager) -> None:
    with contextlib.suppress(ExperimentNotFoundError):
        manager.delete(ID)


@pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES], ids=["EIO", "EACCES"])
def test_a_delete_that_fails_anywhere_says_so_and_can_be_repeated(
    fast_dir: Path, number: int
) -> None:
    """Every error of the file system is one of ours, and leaves all or nothing."""
    failures = 0
    for at in range(1000):
        state_dir = fast_dir / str(at)
        plain = StateManager(state_dir)
        make(plain)
        before = plain.load(ID)
        files = Counting(at, fail_with(number))
        error: HoldfastError | None = None
        try:
            StateManager(state_dir, files=files).delete(ID)
        except HoldfastError as caught:
            error = caught
        if len(files.seen) <= at:
            break
        failures += error is not None
        if error is None:
            with pytest.raises(ExperimentNotFoundError):
                plain.load(ID)
        else:
            try:
                assert plain.load(ID).process_progress == before.process_progress
            except ExperimentNotFoundError:
                assert not isinstance(error, StateWriteError) or error.stored != "old"
            _gone_or_finished(plain)
        plain.create(ID)
        plain.delete(ID)
        assert names(plain) == set(), (at, files.seen[at])
    assert failures > 20


def test_a_delete_that_was_decided_is_finished_by_the_next_one(
    manager: StateManager, state_dir: Path
) -> None:
    """A full disk at the wrong moment: the same command again does the rest."""
    make(manager)

    class Full(Files):
        def rename(self, source: str, target: str, dir_fd: int) -> None:
            if source == ID:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().rename(source, target, dir_fd)

    with pytest.raises(StateWriteError, match="deleting failed"):
        StateManager(state_dir, files=Full()).delete(ID)
    assert manager.list_experiments() == []
    assert ID in names(manager)
    manager.delete(ID)
    assert names(manager) == set()


def test_who_waits_for_the_lock_of_a_deleted_experiment_is_told_that_it_is_gone(
    manager: StateManager, state_dir: Path
) -> None:
    """The folder was moved away under the waiting claim, with the lock that it then gets."""
    make(manager)
    outcome: list[object] = []
    claim = manager.claim(ID)

    def wait() -> None:
        try:
            outcome.append(manager.claim(ID, wait_s=20))
        except HoldfastError as error:
            outcome.append(type(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    with Opened.at(Files(), state_dir) as top:
        deletion.remove(Place.of(top, ID), claim)
    claim.release()
    waiter.join()
    assert outcome == [ExperimentNotFoundError]
    until(lambda: names(manager) == set())


@pytest.mark.parametrize(
    ("unit", "before", "number"),
    [("0", (), 1), (AGGREGATE, (), 1), (AGGREGATE, ("aggregate.1.exit", "aggregate.2.exit"), 3)],
)
def test_an_attempt_that_phase_goes_on_cannot_begin_while_it_is_deleted(
    manager: StateManager, tmp_path: Path, unit: str, before: tuple[str, ...], number: int
) -> None:
    """A late shim finds that it was revoked, in the folder that it was given."""
    manager.create(ID)
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        if unit == AGGREGATE:
            claim.record("complete", 0, exit_code=0)
            claim.record("complete")
    folder, name = manager.folder(ID), AttemptName(ID, unit, number)
    prepare(folder)
    for file in before:
        (attempts_dir(folder) / file).write_text('{"exit_code": 1}')
    seen: list[object] = []

    class Late(Files):
        """As the folder is about to go, the engine comes to what it was asked before."""

        def rename(self, source: str, target: str, dir_fd: int) -> None:
            if target.startswith(".trash-"):
                seen.append(live_state(folder, name).kind)
                with LocalEngine() as engine:
                    began = ("touch", str(tmp_path / "began"))
                    handles = engine.submit(ID, [Attempt(name=name, argv=began, folder=folder)])
                    until(lambda: [word.kind for word in engine.poll(handles)] == ["gone"])
            super().rename(source, target, dir_fd)

    StateManager(manager.state_dir, files=Late()).delete(ID)
    assert seen == ["revoked"]
    assert not (tmp_path / "began").exists()
    assert names(manager) == set()
