"""The index is only a cache: whatever happens to it or behind its back, answers stay right."""

import contextlib
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import ExperimentStatus, StateManager
from holdfast.store.catalog import index
from holdfast.store.catalog.index import FOLDER
from holdfast.store.catalog.summary import Summary
from holdfast.store.files import Files
from many import Template, finish, interrupt, populate
from waiting import until

# Copies under other names are unreadable, and said to be.
pytestmark = pytest.mark.filterwarnings("ignore::holdfast.UnreadableStateWarning")

FORK = multiprocessing.get_context("fork")


class Counting(Files):
    """The real file system, counted."""

    def __init__(self) -> None:
        self.scans = 0
        self.opened: list[str] = []

    def scan(self, fd: int) -> contextlib.AbstractContextManager[Iterator[os.DirEntry[str]]]:
        self.scans += 1
        return super().scan(fd)

    def open_read(self, name: str, dir_fd: int) -> int:
        self.opened.append(name)
        return super().open_read(name, dir_fd)


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every directory gets an index, and believes what is older than a few ticks of the clock.
    monkeypatch.setattr(index, "SMALLEST", 1)
    monkeypatch.setattr(index, "RACY_NS", 30_000_000)


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    populate(state_dir, finished=12, incomplete=3)
    return StateManager(state_dir)


def truth(manager: StateManager) -> list[Summary]:
    """What every journal says, without an index."""
    return [Summary.of(state) for state in manager.states()]


def agrees(manager: StateManager) -> bool:
    """Every way of finding gives what the journals say."""
    expected = truth(manager)
    listing = manager.listing()
    assert [one.experiment_id for one in listing.experiments] == [
        one.experiment_id for one in expected
    ]
    assert listing.experiments == expected
    assert sorted(str(error) for _, error in listing.unreadable) == sorted(
        str(error) for _, error in manager.unreadable()
    )
    assert manager.list_experiments() == sorted(one.experiment_id for one in expected)
    assert [state.experiment_id for state in manager.find_incomplete()] == [
        one.experiment_id for one in expected if one.status is not ExperimentStatus.AGGREGATED
    ]
    for one in expected[:2] + expected[-1:]:
        if one.config_hash is not None:
            found = manager.find_by_config_hash(one.config_hash, include_finished=True)
            assert found is not None
            assert found.config_hash == one.config_hash
    assert manager.find_by_config_hash("f" * 64, include_finished=True) is None
    return True


def make_current(state_dir: Path) -> None:
    """Look until the index is believed without a look at the directory."""

    def current() -> bool:
        files = Counting()
        StateManager(state_dir, files=files).find_incomplete()
        return files.scans == 0

    until(current)


def test_a_current_index_spares_every_look_at_what_is_finished(manager: StateManager) -> None:
    """Neither a listing of the directory nor a file of a finished experiment is read."""
    assert agrees(manager)
    make_current(manager.state_dir)
    files = Counting()
    looking = StateManager(manager.state_dir, files=files)
    assert len(looking.find_incomplete()) == 3
    assert looking.find_by_config_hash(f"{5:064x}") is None
    assert len(looking.listing().experiments) == 15
    assert files.scans == 0
    assert not [name for name in files.opened if name.startswith("fin")]
    assert agrees(manager)


def test_a_changed_directory_costs_one_look_and_no_load_of_what_is_finished(
    manager: StateManager,
) -> None:
    """After a change elsewhere, the finished are recognised by their stat alone."""
    make_current(manager.state_dir)
    manager.create("another")
    files = Counting()
    found = StateManager(manager.state_dir, files=files).find_incomplete()
    assert len(found) == 4
    assert files.scans == 1
    assert not [name for name in files.opened if name.startswith("fin")]


def test_a_small_directory_gets_no_index(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lists three experiments leaves nothing behind."""
    monkeypatch.undo()
    manager = StateManager(state_dir)
    finish(manager, "one")
    assert agrees(manager)
    assert not (state_dir / FOLDER).exists()


def test_what_is_finished_and_owned_again_is_loaded_until_it_is_let_go(
    manager: StateManager,
) -> None:
    """An owner may change a finished experiment, and its name is seen at once."""
    finish(manager, "real")
    make_current(manager.state_dir)
    manager.save(attrs.evolve(manager.load("real"), name="renamed"))
    assert agrees(manager)
    with manager.claim("real"):
        assert agrees(manager)
    assert agrees(manager)
    manager.delete("real")
    assert agrees(manager)


@pytest.mark.parametrize("damage", ["deleted", "folder", "file", "link", "fifo", "directory"])
def test_an_index_that_is_none_is_done_without(manager: StateManager, damage: str) -> None:
    """Deleted, or replaced by a thing of any kind: the answers are the same."""
    make_current(manager.state_dir)
    folder = manager.state_dir / FOLDER
    head = folder / "head"
    if damage in ("deleted", "folder", "file"):
        for path in folder.iterdir():
            path.unlink()
        if damage != "deleted":
            folder.rmdir()
        if damage == "file":
            folder.touch()
    else:
        head.unlink()
        if damage == "link":
            head.symlink_to("/etc/passwd")
        elif damage == "fifo":
            os.mkfifo(head)
        else:
            head.mkdir()
    assert agrees(manager)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(which=st.integers(0, 9), where=st.floats(0, 1, exclude_max=True), byte=st.binary(max_size=1))
def test_no_flipped_byte_and_no_lost_byte_of_it_is_believed(
    manager: StateManager, which: int, where: float, byte: bytes
) -> None:
    """Any byte of the index changed or missing: the answers are the same."""
    folder = manager.state_dir / FOLDER
    if not (folder / "head").exists():
        make_current(manager.state_dir)
    paths = sorted(folder.iterdir())
    path = paths[which % len(paths)]
    content = path.read_bytes()
    at = int(where * len(content))
    path.write_bytes(content[:at] + byte + content[at + 1 :])
    assert agrees(manager)


def _actions(state_dir: Path, manager: StateManager) -> list[Callable[[random.Random], None]]:
    """What people and tools do behind our back, each in the shortest time."""
    templates = StateManager(state_dir.with_name(state_dir.name + ".templates"))
    over, open_ = Template(templates, "fin"), Template(templates, "inc")

    def some(chance: random.Random) -> str:
        return f"fin_{chance.randrange(12):06d}"

    def replace(chance: random.Random) -> None:
        over.store(state_dir, some(chance), f"{chance.randrange(10**6, 2 * 10**6):064x}")

    def reopen(chance: random.Random) -> None:
        open_.store(state_dir, some(chance), f"{chance.randrange(10**6, 2 * 10**6):064x}")

    def remove(chance: random.Random) -> None:
        stem = some(chance)
        (state_dir / f"{stem}.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (state_dir / stem).rename(state_dir / f".gone-{chance.random()}")

    def remove_view(chance: random.Random) -> None:
        (state_dir / f"{some(chance)}.json").unlink(missing_ok=True)

    def exchange(chance: random.Random) -> None:
        one, other, spare = some(chance), some(chance), f".spare-{chance.random()}"
        for ending in chance.choice([(".json",), ("",), (".json", "")]):
            with contextlib.suppress(OSError):
                (state_dir / (one + ending)).rename(state_dir / spare)
                (state_dir / (other + ending)).rename(state_dir / (one + ending))
                (state_dir / spare).rename(state_dir / (other + ending))

    def link(chance: random.Random) -> None:
        with contextlib.suppress(OSError):
            (state_dir / f"copy_{chance.randrange(3)}.json").hardlink_to(
                state_dir / f"{some(chance)}.json"
            )

    def bare(chance: random.Random) -> None:
        # Two steps, of which the second does not change the state directory.
        stem = f"bare_{chance.randrange(3)}"
        if (state_dir / stem).exists():
            over.store(state_dir / stem / "..", stem)
            (state_dir / f"{stem}.json").unlink()
        else:
            (state_dir / stem).mkdir()

    def look(_: random.Random) -> None:
        manager.find_incomplete()

    return [replace, reopen, remove, remove_view, exchange, link, bare, look, look]


@pytest.mark.parametrize("seed", range(4))
def test_no_change_behind_its_back_is_missed_even_within_one_tick(
    manager: StateManager, seed: int
) -> None:
    """Replaced by others of the same size, exchanged, linked, removed, at once: never a wrong
    answer.
    """
    chance = random.Random(seed)
    actions = _actions(manager.state_dir, manager)
    if seed % 2:
        make_current(manager.state_dir)
    for _ in range(40):
        for _ in range(chance.randrange(1, 4)):
            chance.choice(actions)(chance)
        assert agrees(manager)


def _list_for_ever(state_dir: Path) -> None:
    manager = StateManager(state_dir)
    while True:
        manager.listing()


def test_many_who_look_and_update_at_once_do_not_mislead_each_other(manager: StateManager) -> None:
    """Two processes keep the index up to date while a third changes the directory."""
    lookers = [FORK.Process(target=_list_for_ever, args=(manager.state_dir,)) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        chance = random.Random(7)
        actions = _actions(manager.state_dir, manager)
        for _ in range(60):
            chance.choice(actions)(chance)
            assert agrees(manager)
        assert all(looker.is_alive() for looker in lookers)
    finally:
        for looker in lookers:
            looker.kill()
            looker.join()


class Mortal(Files):
    """Kills its process before the n-th change of the index."""

    def __init__(self, after: int) -> None:
        self.left = after

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def open_append(self, name: str, dir_fd: int, *, exclusive: bool = False) -> int:
        self._count()
        return super().open_append(name, dir_fd, exclusive=exclusive)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._count()
        return super().write(fd, data[: max(1000, len(data) // 2)])

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        self._count()
        super().rename(source, target, dir_fd)

    def unlink(self, name: str, dir_fd: int) -> None:
        self._count()
        super().unlink(name, dir_fd)


def _find(state_dir: Path, after: int) -> None:
    index._CHANGES = 0  # new rows each time
    StateManager(state_dir, files=Mortal(after)).listing()


def test_a_kill_at_any_step_of_an_update_leaves_right_answers(manager: StateManager) -> None:
    """Killed before each of its steps in turn; afterwards it is complete again."""
    make_current(manager.state_dir)
    for after in range(1, 200):
        # Something new to be learnt, that is no longer in doubt.
        finish(manager, f"more_{after}", 1)
        until(lambda: _is_past(manager.state_dir))
        killed = FORK.Process(target=_find, args=(manager.state_dir, after))
        killed.start()
        killed.join()
        assert agrees(manager)
        if killed.exitcode == 0:
            break
    else:
        pytest.fail("it never came to an end")
    assert after > 5
    make_current(manager.state_dir)


def _is_past(state_dir: Path) -> bool:
    probe = state_dir / FOLDER / "probe"
    probe.touch()
    return probe.stat().st_mtime_ns - state_dir.stat().st_mtime_ns > 2 * index.RACY_NS


class ReadOnly(Files):
    """A directory in which nothing can be made."""

    def open_append(self, name: str, dir_fd: int, *, exclusive: bool = False) -> int:
        raise PermissionError(13, "Permission denied")

    def mkdir(self, name: str, dir_fd: int | None = None) -> None:
        raise PermissionError(13, "Permission denied")


def test_a_directory_of_somebody_else_is_listed_without_writing(manager: StateManager) -> None:
    """Who may only read gets the same answers, with an index of others and without one."""
    reader = StateManager(manager.state_dir, files=ReadOnly())
    assert agrees(reader)
    make_current(manager.state_dir)
    manager.create("new")
    interrupt(manager, "other")
    assert agrees(reader)
