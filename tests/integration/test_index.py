"""The index is only a cache: whatever happens to it or behind its back, answers stay right."""

import contextlib
import math
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

from holdfast import ExperimentStatus, ProcessStatus, StateManager
from holdfast.lifecycle.records import Origin
from holdfast.lifecycle.reuse import Proof
from holdfast.store.catalog import index, works
from holdfast.store.catalog.index import FOLDER
from holdfast.store.catalog.summary import Summary
from holdfast.store.files import Files
from many import Template, finish, interrupt, populate, work
from waiting import until

# Copies under other names are unreadable, and said to be.
pytestmark = pytest.mark.filterwarnings("ignore::holdfast.UnreadableStateWarning")

#: What many experiments of these tests did.
COMMON = "c0" * 16

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
    # Small enough that there are several, and names that are longer than most.
    monkeypatch.setattr(works, "_BLOCK", 3 * works._WIDTH)
    monkeypatch.setattr(works, "_NAME_SIZE", 20)
    monkeypatch.setattr(works, "_FORGOTTEN", 4)


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    populate(state_dir, finished=12, incomplete=3)
    return StateManager(state_dir)


def truth(manager: StateManager) -> list[Summary]:
    """What every journal says, without an index."""
    return [Summary.of(state) for state in manager.states()]


def doers(manager: StateManager, limit: int) -> dict[str, tuple[str, ...]]:
    """Who completed what, newest first, as every journal says it."""
    found: dict[str, list[tuple[float, str]]] = {}
    for state in manager.states():
        created = -math.inf if state.created_at is None else state.created_at.timestamp()
        for each in state.process_progress.values():
            if each.work is not None and each.status is ProcessStatus.COMPLETED:
                found.setdefault(each.work, []).append((-created, state.experiment_id))
    return {
        work: tuple(name for _, name in sorted(set(those))[:limit]) for work, those in found.items()
    }


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
    assert sorted(manager.offered(1000)) == sorted(
        (one.experiment_id, one.name) for one in expected
    )
    # What was done at any time by any name of these tests, and is not done any more, is not found.
    asked = {work(f"fin_{number:06d}", 0) for number in range(12)} | {COMMON, "f" * 32}
    for limit in (2, 8):
        done = doers(manager, limit)
        assert manager.doers(asked | set(done), limit=limit) == done
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
        number = chance.randrange(10**6, 2 * 10**6)
        works = chance.choice([(), (COMMON,), (f"{number:032x}", COMMON)])
        day = f"2026-11-{chance.randrange(10, 30)}T00:00:00+00:00"
        over.store(state_dir, some(chance), f"{number:064x}", works=works, created_at=day)

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
        manager.doers([COMMON])


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
    work_of_many = doers(manager, 8)
    assert reader.doers(set(work_of_many)) == work_of_many


# -- works ----------------------------------------------------------------------------------------


def segments(state_dir: Path) -> list[Path]:
    """The files that hold works."""
    return sorted((state_dir / FOLDER).glob("works-*"))


def test_a_query_for_works_reads_segments_alone_and_nothing_else_reads_them(
    manager: StateManager,
) -> None:
    """With a current index; what it finds is loaded by nobody."""
    make_current(manager.state_dir)
    files = Counting()
    looking = StateManager(manager.state_dir, files=files)
    asked = work("fin_000007", 1)
    assert looking.doers([asked, "f" * 32]) == {asked: ("fin_000007",)}
    assert files.scans == 0
    assert not [name for name in files.opened if name.startswith(("fin", "rows"))]
    files.opened.clear()
    looking.listing()
    looking.find_by_config_hash("f" * 64, include_finished=True)
    assert not [name for name in files.opened if name.startswith("works")]


def test_the_newest_come_first_and_no_more_than_asked_for(state_dir: Path) -> None:
    """Finished and unfinished ones together, by the time at which they were made."""
    populate(state_dir, finished=1, incomplete=1)
    templates = StateManager(state_dir.with_name(state_dir.name + ".templates"))
    over, open_ = Template(templates, "fin"), Template(templates, "inc")
    for number in range(20):
        template = open_ if number % 5 == 0 else over
        day = f"2026-11-{1 + number * 7 % 20:02d}T00:00:00+00:00"
        template.store(state_dir, f"e{number}", works=[COMMON], created_at=day)
    manager = StateManager(state_dir)
    make_current(state_dir)
    expected = sorted(range(20), key=lambda number: -(number * 7 % 20))
    for limit in (1, 5, 30):
        found = manager.doers([COMMON], limit=limit)
        assert found == {COMMON: tuple(f"e{number}" for number in expected[:limit])}
    assert manager.doers([]) == {}


def test_segments_stay_few_and_hold_what_was_learnt_in_many_looks(manager: StateManager) -> None:
    """One look after each of many experiments; some are deleted, made again, changed."""
    templates = StateManager(manager.state_dir.with_name(manager.state_dir.name + ".templates"))
    over = Template(templates, "fin")
    make_current(manager.state_dir)
    for number in range(60):
        works = (COMMON, f"{number % 7:032x}")
        over.store(manager.state_dir, f"more_{number % 40}", works=works)
        if number % 6 == 5:
            manager.delete(f"more_{number % 40}")
        until(lambda: _is_past(manager.state_dir))
        manager.find_incomplete()
    make_current(manager.state_dir)
    assert 1 <= len(segments(manager.state_dir)) <= 5
    assert agrees(manager)


def test_works_without_32_digits_and_names_of_any_kind_are_found(state_dir: Path) -> None:
    """Made by hand; equal at their beginning, at their end, or no numbers at all."""
    odd = ["", "x" * 40, "1", f"{1:032x}", f"{1:016x}" * 2, f"{1 << 64:032x}", "ü\udc80"]
    manager = StateManager(state_dir)
    for number, each in enumerate(odd):
        name = f"a/{'ü' * number * 30}{number}"
        manager.create(name, num_processes=1)
        with manager.claim(name) as claim:
            claim.record("start")
            claim.record("start", 0, work=each)
            claim.record("complete", 0, exit_code=0)
            claim.record("complete")
            claim.record("aggregate")
    expected = doers(manager, 8)
    assert set(expected) == set(odd)
    assert manager.doers(odd) == expected
    make_current(state_dir)
    assert manager.doers(odd) == expected


@pytest.mark.parametrize("damage", ["deleted", "shorter", "longer", "link", "directory"])
def test_a_damaged_segment_is_made_again_by_the_next_look(
    manager: StateManager, damage: str
) -> None:
    """Whatever happened to it: nothing is missed, and the index is complete again."""
    make_current(manager.state_dir)
    path = segments(manager.state_dir)[0]
    content = path.read_bytes()
    path.unlink()
    if damage == "shorter":
        path.write_bytes(content[:-1])
    elif damage == "longer":
        path.write_bytes(content + b"\0")
    elif damage == "link":
        path.symlink_to("/etc/passwd")
    elif damage == "directory":
        path.mkdir()
    assert agrees(manager)
    make_current(manager.state_dir)
    assert path not in segments(manager.state_dir) or damage == "directory"
    assert agrees(manager)


def test_what_is_flipped_in_a_segment_is_mended_by_a_look_that_merges_it(
    manager: StateManager,
) -> None:
    """Nobody asks for works; the index learns of new experiments all the same."""
    make_current(manager.state_dir)
    damaged = segments(manager.state_dir)
    for path in damaged:
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    finish(manager, "new", 50)
    make_current(manager.state_dir)
    assert not {*damaged}.intersection(segments(manager.state_dir))
    files = Counting()
    asked = work("new", 0)
    assert StateManager(manager.state_dir, files=files).doers([asked]) == {asked: ("new",)}
    assert files.scans == 0


def test_works_of_another_host_are_not_taken_from_a_cache(
    manager: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a remote file system, no segment is read: what changed there may not show here."""
    make_current(manager.state_dir)
    monkeypatch.setattr(index, "_kind_of_file_system", lambda _: "nfs4")
    files = Counting()
    asked = work("fin_000007", 1)
    assert StateManager(manager.state_dir, files=files).doers([asked]) == {asked: ("fin_000007",)}
    assert not [name for name in files.opened if name.startswith("works")]


def test_a_shell_is_offered_what_there_is_and_nothing_is_kept_of_the_look(
    manager: StateManager,
) -> None:
    """Of what is not finished, only the last are loaded; a made-up name passes for no id."""
    manager.create("named", name="a name")
    manager.create("größe", name="slugged")
    make_current(manager.state_dir)
    head = (manager.state_dir / FOLDER / "head").read_bytes()
    finished = {(f"fin_{number:06d}", None) for number in range(12)}
    open_ = {(f"inc_{number:06d}", None) for number in range(3)}
    manager.create("another")
    assert set(manager.offered()) == finished | open_ | {
        ("named", "a name"), ("größe", "slugged"), ("another", None),
    }  # fmt: skip
    assert set(manager.offered(1)) == finished | open_ | {("named", "a name"), ("another", None)}
    assert (manager.state_dir / FOLDER / "head").read_bytes() == head


def test_what_was_reused_is_known_without_the_experiment(manager: StateManager) -> None:
    """By the index as by a glance at the view: as many as the journal says."""
    origin = Origin(experiment_id="elsewhere", process=1, attempt=1)
    proof = Proof(origin=origin, work=COMMON, status=ProcessStatus.COMPLETED)
    manager.create("reusing", num_processes=2, reuse="all")
    with manager.claim("reusing") as claim:
        claim.record("start")
        claim.record("reuse", 0, work=COMMON, proof=proof)
        claim.record("start", 1)
        claim.record("complete", 1, exit_code=0)
        claim.record("complete")
        claim.record("aggregate")

    def reused(files: Files | None = None) -> int:
        listing = StateManager(manager.state_dir, files=files or Files()).listing()
        return sum(one.processes_reused for one in listing.experiments)

    assert reused() == 1
    make_current(manager.state_dir)
    files = Counting()
    assert reused(files) == 1
    assert not [name for name in files.opened if name.startswith("reusing")]
    assert agrees(manager)
