"""A journal that is read on: what it tells is what reading all of it tells."""

from pathlib import Path

import pytest

from holdfast import StateManager
from holdfast.errors import ExperimentNotFoundError
from holdfast.store.following import Follower
from holdfast.store.standing import Lookout


def journals(manager: StateManager) -> list[Path]:
    return sorted((manager.folder("e") / "journal").iterdir())


def followed(lookout: Lookout) -> bool:
    """Whether the next look can go on where the last ended."""
    return lookout._follower._truth is not None


def test_what_is_appended_is_all_that_is_read(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step it shows the state that a whole read shows."""
    manager = StateManager(state_dir)
    manager.create("e", num_processes=300)
    with manager.claim("e") as claim:
        lookout = manager.lookout("e")
        assert lookout.look().state == manager.load("e")
        reads: list[object] = []
        monkeypatch.setattr(
            "holdfast.store.catalog.scanning.read", lambda *given: reads.append(given)
        )
        claim.record("start")
        claim.record_many([("start", index) for index in range(300)])
        assert lookout.look().state.processes_running == 300
        for index in range(300):
            claim.record("fail", index, exit_code=index % 3 + 1)
            if index % 50 == 0:
                assert lookout.look().state == claim.state
        assert lookout.look().state == claim.state
        assert not reads
        monkeypatch.undo()
        assert manager.load("e") == claim.state


def test_a_next_owner_has_another_journal(state_dir: Path) -> None:
    """Its steps count, and no late line of the one before it."""
    manager = StateManager(state_dir)
    manager.create("e", num_processes=2)
    with manager.claim("e") as claim:
        claim.record("start")
        lookout = manager.lookout("e")
        assert lookout.look().state.revision == claim.state.revision
    with manager.claim("e") as claim:
        claim.record("start", 1)
        assert lookout.look().state == claim.state
        assert followed(lookout)


def test_a_line_that_was_taken_back_is_forgotten(state_dir: Path) -> None:
    """A failed sync cuts a line off that somebody may have read."""
    manager = StateManager(state_dir)
    manager.create("e", num_processes=2)
    with manager.claim("e") as claim:
        claim.record("start")
        before = claim.state
        [path] = journals(manager)
        size = path.stat().st_size
        kept = path.read_bytes()
        claim.record("start", 0)
        lookout = manager.lookout("e")
        assert lookout.look().state.processes_running == 1
        with path.open("r+b") as file:
            file.write(kept)
            file.truncate(size)
        assert lookout.look().state == before


def test_a_torn_line_waits_for_its_end(state_dir: Path) -> None:
    """As long as it has none, it says nothing."""
    manager = StateManager(state_dir)
    manager.create("e", num_processes=2)
    with manager.claim("e") as claim:
        claim.record("start")
        before = claim.state
        lookout = manager.lookout("e")
        lookout.look()
        [path] = journals(manager)
        start = len(path.read_bytes().rstrip(b"\0"))
        claim.record("start", 0)
        whole = path.read_bytes()
        path.write_bytes(whole[: start + 40])
        assert lookout.look().state == before
        path.write_bytes(whole)
        assert lookout.look().state == claim.state


def test_a_damaged_line_is_left_to_who_reads_all(state_dir: Path) -> None:
    """The follower says nothing of it."""
    manager = StateManager(state_dir)
    manager.create("e", num_processes=2)
    with manager.claim("e") as claim:
        claim.record("start")
        lookout = manager.lookout("e")
        lookout.look()
        assert isinstance(lookout._follower, Follower)
        [path] = journals(manager)
        start = len(path.read_bytes().rstrip(b"\0"))
        claim.record("start", 0)
        with path.open("r+b") as file:
            file.seek(start + 20)
            file.write(b"?")
        with manager._directory.existing("e") as place:
            assert lookout._follower.look(place) is None
        assert not followed(lookout)


def test_what_was_deleted_is_not_found(state_dir: Path) -> None:
    """Its journal went with it."""
    manager = StateManager(state_dir)
    manager.create("e", num_processes=2)
    with manager.claim("e") as claim:
        claim.record("start")
        claim.record("interrupt", reason="user")
    lookout = manager.lookout("e")
    lookout.look()
    manager.delete("e")
    with pytest.raises(ExperimentNotFoundError):
        lookout.look()
