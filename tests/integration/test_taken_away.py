"""What somebody takes away from under an experiment: its lock, its journals, its folder."""

import errno
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import (
    AlreadyOwnedError,
    ClaimClosedError,
    ExperimentExistsError,
    NoLocksWarning,
    OwnershipLostError,
    StateCorruptError,
    StateWriteError,
    UnreadableStateWarning,
)
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from processes import killed, owner

ID = "exp_7"


def left_dead(manager: StateManager) -> None:
    """An experiment whose owner was killed in epoch 2, before it refreshed the view."""
    manager.create(ID, num_processes=3)
    with manager.claim(ID) as claim:
        claim.record("start")
    killed(manager.state_dir, ID, *(("start", index) for index in range(3)))


def open_descriptors() -> set[str]:
    """To be compared with a later look by `<=`: others may be closed by the collector meanwhile."""
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("what", ["journals", "journal", "folder"])
def test_a_view_without_its_journals_says_so_and_epochs_never_go_back(
    manager: StateManager, what: str
) -> None:
    """An owner of an epoch that came before may still live somewhere."""
    left_dead(manager)
    folder = manager.folder(ID)
    before = manager.load(ID)
    if what == "journals":
        for path in (folder / "journal").iterdir():
            path.unlink()
    else:
        shutil.rmtree(folder if what == "folder" else folder / "journal")
    with pytest.warns(UnreadableStateWarning, match="its journals, with what came after it, are g"):
        seen = manager.load(ID)
    assert seen.revision < before.revision
    with manager.claim(ID) as claim:
        assert claim.epoch == seen.epoch + 1
        claim.record("interrupt")
    assert manager.load(ID).epoch == seen.epoch + 1


@pytest.mark.parametrize("what", ["folder", "journal"])
def test_a_journal_behind_a_link_is_named_and_no_older_truth_is_told(
    manager: StateManager, tmp_path: Path, what: str
) -> None:
    """Moved to a larger disk and linked: its view lies behind it."""
    left_dead(manager)
    path = manager.folder(ID) if what == "folder" else manager.folder(ID) / "journal"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    for method in (manager.load, manager.claim, manager.history):
        with pytest.raises(StateCorruptError, match=f"{path.name}: is a link or no directory"):
            method(ID)
    path.unlink()
    (tmp_path / "elsewhere").rename(path)
    assert manager.load(ID).processes_running == 3


def test_a_removed_lock_proves_no_death(manager: StateManager, state_dir: Path) -> None:
    """Its owner holds it all the same, where nobody can see it."""
    manager.create(ID)
    with owner(state_dir, ID):
        (manager.folder(ID) / "lock").unlink()
        with pytest.raises(AlreadyOwnedError) as refused:
            manager.claim(ID)
        assert refused.value.verdict is not None
        assert refused.value.verdict.method == "pid"
        assert manager.liveness(ID).kind == "alive"
    with manager.claim(ID) as claim:
        assert claim.verdict is not None
        assert claim.verdict.kind == "dead"


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_an_owner_whose_folder_is_taken_away_records_nothing_more(
    manager: StateManager, tmp_path: Path, how: str
) -> None:
    """In another place it would own alone, and somebody else here."""
    manager.create(ID)
    with manager.claim(ID) as claim:
        claim.record("start")
        if how == "removed":
            shutil.rmtree(manager.folder(ID))
        else:
            manager.folder(ID).rename(tmp_path / "moved")
        with pytest.raises(OwnershipLostError, match="removed or moved away"):
            claim.record("interrupt")
        with pytest.raises(ClaimClosedError, match="taken away"):
            claim.check_fence()


def test_a_view_that_was_written_into_is_told_by_load(manager: StateManager) -> None:
    """The next claim would discard it without a word."""
    manager.create(ID, num_processes=2)
    with manager.claim(ID) as claim:
        claim.record("start")
    path = manager.state_dir / f"{ID}.json"
    plain = json.loads(path.read_bytes())
    plain["process_progress"]["1"]["status"] = "completed"
    path.write_text(json.dumps({**plain, "name": "mine"}))
    with pytest.warns(UnreadableStateWarning, match="differs from its journal in name, process_"):
        assert manager.load(ID).processes_completed == 0


class _Interposed(Files):
    """Calls *hook* once, after the folder of the experiment was looked for."""

    hook: Callable[[], object] | None = None

    def open_dir(self, name: str | os.PathLike[str], dir_fd: int | None = None) -> int:
        try:
            return super().open_dir(name, dir_fd)
        finally:
            if name == ID and self.hook is not None:
                hook, self.hook = self.hook, None
                hook()


class _DiesBeforeTrash(Files):
    def rename(self, source: str, target: str, dir_fd: int) -> None:
        if target.startswith(".trash-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().rename(source, target, dir_fd)


def test_a_create_outlasts_a_delete_that_began_after_it_looked(manager: StateManager) -> None:
    """The delete's folder comes after the look for one, and must not take the new view along."""
    manager.create(ID)  # never claimed: it has no folder
    files = _Interposed()

    def delete() -> None:
        with pytest.raises(StateWriteError):
            StateManager(manager.state_dir, files=_DiesBeforeTrash()).delete(ID)

    files.hook = delete
    assert StateManager(manager.state_dir, files=files).create(ID, num_processes=7)
    assert manager.load(ID).num_processes == 7
    with manager.claim(ID) as claim:
        claim.record("start")
    with pytest.raises(ExperimentExistsError):
        manager.create(ID)


class _SecondCreator(_Interposed):
    """Calls *linked* once, after the view was linked."""

    linked: Callable[[], object] | None = None

    def link(self, source: str, target: str, dir_fd: int) -> None:
        super().link(source, target, dir_fd)
        if target == f"{ID}.json" and self.linked is not None:
            linked, self.linked = self.linked, None
            linked()


def test_of_two_creates_beside_an_interrupted_delete_one_succeeds(manager: StateManager) -> None:
    """The other one takes its view for a leftover of the delete, and removes it."""
    manager.create(ID)
    files = _SecondCreator()

    def delete() -> None:
        with pytest.raises(StateWriteError):
            StateManager(manager.state_dir, files=_DiesBeforeTrash()).delete(ID)

    files.hook = delete
    files.linked = lambda: manager.create(ID, num_processes=9)
    with pytest.raises(ExperimentExistsError):
        StateManager(manager.state_dir, files=files).create(ID, num_processes=7)
    assert manager.load(ID).num_processes == 9


def test_a_claim_that_comes_to_nothing_leaves_no_lock_behind(
    manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor either: it would be owned by nobody until the process ends."""
    manager.create(ID)
    before = open_descriptors()

    def full(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", full)
        with pytest.raises(StateWriteError, match="EMFILE"):
            manager.claim(ID)
    assert open_descriptors() <= before

    class NoLocks(Files):
        def flock(self, fd: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with warnings.catch_warnings():
        warnings.simplefilter("error", NoLocksWarning)
        with pytest.raises(NoLocksWarning):
            StateManager(manager.state_dir, files=NoLocks()).claim(ID)
    assert open_descriptors() <= before
    manager.claim(ID).release()


def test_a_listing_that_fails_leaves_no_descriptor_behind(
    manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lists every minute would run out of them."""
    from holdfast.store.catalog import index

    monkeypatch.setattr(index, "SMALLEST", 1)
    manager.create(ID)
    manager.list_experiments()

    class Sick(Files):
        def scan(self, fd: int) -> object:  # type: ignore[override]
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    (manager.state_dir / ".index").mkdir(exist_ok=True)
    before = open_descriptors()
    with pytest.raises(StateCorruptError):
        StateManager(manager.state_dir, files=Sick()).list_experiments()
    assert open_descriptors() <= before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
def test_a_run_lock_that_cannot_be_had_is_a_clear_error(manager: StateManager, number: int) -> None:
    """It names the file."""
    manager.create(ID)

    class Sick(Files):
        def open_append(self, name: str, dir_fd: int, *, exclusive: bool = False) -> int:
            if name == ".run.lock":
                raise OSError(number, os.strerror(number))
            return super().open_append(name, dir_fd, exclusive=exclusive)

    sick = StateManager(manager.state_dir, files=Sick())
    with pytest.raises(StateWriteError, match=r"\.run\.lock: locking"), sick.run_lock():
        pass
    (manager.state_dir / ".run.lock").mkdir()
    with pytest.raises(StateWriteError, match=r"\.run\.lock: locking"), manager.run_lock():
        pass


def test_a_fork_is_refused_at_once_even_if_another_thread_was_recording(
    manager: StateManager,
) -> None:
    """That thread is not there to let its mutex go."""
    manager.create(ID)
    with manager.claim(ID) as claim:
        holding, done = threading.Event(), threading.Event()

        def record() -> None:
            with claim._mutex:
                holding.set()
                done.wait(30)

        thread = threading.Thread(target=record)
        thread.start()
        holding.wait(30)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads, as meant
            pid = os.fork()
        if pid == 0:
            import signal

            signal.alarm(20)
            try:
                claim.record("start")
            except ClaimClosedError:
                claim.release()
                os._exit(7)
            os._exit(1)
        status = os.waitpid(pid, 0)[1]
        done.set()
        thread.join()
        assert os.waitstatus_to_exitcode(status) == 7
        claim.record("start")


def test_only_what_a_delete_moved_away_is_trash(manager: StateManager) -> None:
    """A folder of somebody's whose name merely begins like trash stays."""
    manager.create(ID)
    mine = manager.state_dir / ".trash-mine"
    mine.mkdir()
    (mine / "thesis").write_text("years")
    left = manager.state_dir / ".trash-0123456789abcdef"
    left.mkdir()
    manager.delete(ID)
    assert (mine / "thesis").read_text() == "years"
    assert not left.exists()


def test_an_aggregated_file_without_an_owner_is_read_every_time(
    manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tool writes into it as it lies there, which no time of the directory tells."""
    from holdfast.store.catalog import index

    monkeypatch.setattr(index, "SMALLEST", 1)
    monkeypatch.setattr(index, "RACY_NS", 0)
    manager.state_dir.mkdir()
    for name in ("a", "b", "c"):
        state = {"experiment_id": name, "status": "aggregated", "total_runs": 0}
        (manager.state_dir / f"{name}.json").write_text(json.dumps(state))
    assert manager.find_incomplete() == []
    assert manager.find_incomplete() == []
    path = manager.state_dir / "b.json"
    path.write_text(path.read_text().replace("aggregated", "failed    ").replace("    ", ""))
    assert [state.experiment_id for state in manager.find_incomplete()] == ["b"]


def test_a_released_owner_that_lives_is_not_taken_for_the_owner(manager: StateManager) -> None:
    """It may come back: unknown, and marked as stale by force only."""
    manager.create(ID)
    with manager.claim(ID) as claim:
        claim.record("start")
    assert manager.liveness(ID).kind == "unknown"
    assert manager.cleanup_stale() == []
    assert manager.cleanup_stale(force=True) == [ID]


def test_a_claim_that_cannot_look_for_a_newer_owner_goes_on(manager: StateManager) -> None:
    """Nothing was written whose fate could be in doubt."""
    manager.create(ID)

    class Sick(Files):
        sick = False

        def names(self, fd: int) -> list[str]:
            if self.sick:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().names(fd)

    files = Sick()
    with StateManager(manager.state_dir, files=files).claim(ID) as claim:
        files.sick = True
        with pytest.raises(StateWriteError, match="EIO"):
            claim.check_fence()
        files.sick = False
        claim.check_fence()
        assert claim.record("start").revision == 1
