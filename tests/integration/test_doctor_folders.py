"""What is not there, what may not be looked at and what is nobody's: named, and left alone."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.doctor import Finding, examine
from holdfast.store.manager import StateManager

ID = "exp_7"


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    """A directory with one experiment that has run, and was let go."""
    made = StateManager(state_dir)
    made.create(ID, num_processes=2)
    for event in ("start", "interrupt"):
        with made.claim(ID) as claim:
            claim.record(event)
    return made


def symptoms(state_dir: Path, **options: Any) -> list[Finding]:
    """What is found about the experiments; the machine's own disk is not this test's business."""
    about_the_disk = {"locks", "durability", "clock"}
    found = examine(state_dir, **options)
    return [each for each in found if each.kind not in about_the_disk]


def tree(directory: Path) -> dict[Path, tuple[int, int]]:
    """Every file with its inode and size: what was not touched."""
    return {
        path: (path.lstat().st_ino, 0 if path.is_dir() else path.lstat().st_size)
        for path in directory.rglob("*")
    }


def _elsewhere(path: Path) -> None:
    path.rename(path.parent / ".moved")
    path.symlink_to(".moved")


def _file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def _emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


# -- what is missing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "spoil", "why"),
    [
        ("", shutil.rmtree, "is missing"),
        ("", _elsewhere, "is a symbolic link"),
        ("", _file, "is a regular file"),
        ("journal", shutil.rmtree, "is missing"),
        ("journal", _elsewhere, "is a symbolic link"),
        ("journal", _file, "is a regular file"),
        ("journal", _emptied, "holds no journal"),
    ],
)
def test_journals_that_the_view_tells_of_are_missed(
    manager: StateManager, state_dir: Path, place: str, spoil: Callable[[Path], object], why: str
) -> None:
    """Without them the view passes for the truth, and nobody would know what it lacks."""
    path = manager.folder(ID) / place
    spoil(path)
    before = tree(state_dir)
    found = [each for each in symptoms(state_dir, fix=True) if each.kind == "missing"]
    assert [(each.path, each.severity) for each in found] == [(path, "problem")]
    assert found[0].what.startswith(why)
    assert "epoch 2" in found[0].what
    assert "backup" in found[0].repair
    assert not found[0].fixable
    assert tree(state_dir) == before


def test_a_lost_newest_journal_is_missed_and_the_view_that_tells_of_it_stays(
    manager: StateManager, state_dir: Path
) -> None:
    """The older journal would pass for the truth; a rewritten view would no longer tell."""
    newest = manager.folder(ID) / "journal" / "00000002.jsonl"
    newest.unlink()
    before = tree(state_dir)
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.path, found.fixed) == ("missing", newest, False)
    assert tree(state_dir) == before


def test_an_experiment_that_nobody_ever_claimed_misses_nothing(state_dir: Path) -> None:
    """Its view is all there is."""
    StateManager(state_dir).create(ID)
    assert symptoms(state_dir) == []
    path = state_dir / f"{ID}.json"
    assert json.loads(path.read_bytes())["epoch"] == 0
    assert os.listdir(state_dir) == [path.name]


# -- what is left over ----------------------------------------------------------------------------

_HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    "place",
    [
        ".tmp-my-notes.txt",
        f".tmp-{_HEX.upper()}",
        ".trash-keep/data",
        f"{ID}/.tmp-{_HEX}.bak",
        f"{ID}/journal/.notes.tmp",
        f"{ID}/attempts/.2.1.json.tmp",
        f"{ID}/results/.2.1.json.tmp",
        f"{ID}/results/.{_HEX}.tmp",
        f"{ID}/results/.tmp-{_HEX}",
    ],
)
def test_a_user_s_own_file_is_no_leftover(
    manager: StateManager, state_dir: Path, place: str
) -> None:
    """However old, and however like one of ours it begins or ends; what is ours does go."""
    trash = state_dir / f".trash-{_HEX}" / "journal"
    trash.mkdir(parents=True)
    path = state_dir / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    os.utime(path, (1, 1))
    (found,) = symptoms(state_dir, fix=True)
    assert (found.path, found.fixed) == (trash.parent, True)
    assert path.read_text() == "precious"
    assert not trash.parent.exists()


def test_every_temporary_of_our_own_is_a_leftover(manager: StateManager, state_dir: Path) -> None:
    """In each of the places where one is made, that of `aggregate.json` among them."""
    folder = manager.folder(ID)
    (folder / "attempts").mkdir()
    ours = [
        state_dir / f".tmp-{_HEX}",
        folder / f".tmp-{_HEX}",
        folder / "journal" / f".tmp-{_HEX}",
        folder / "attempts" / f".{_HEX}.tmp",
    ]
    for path in ours:
        path.write_text("half")
        os.utime(path, (1, 1))
    found = symptoms(state_dir, fix=True)
    assert [(each.path, each.kind, each.fixed) for each in found] == [
        (path, "leftover", True) for path in ours
    ]
    assert not any(path.exists() for path in ours)
