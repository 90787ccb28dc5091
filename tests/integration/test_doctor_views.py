"""What somebody wrote into a view, and what the doctor cannot judge, outlives `--fix`."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doctored import edit, symptoms
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from processes import killed, run

ID = "exp_7"


def copies(manager: StateManager) -> list[bytes]:
    return [each.read_bytes() for each in manager.folder(ID).glob("view-replaced-*")]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: edit(path, extra={"note": "precious"}),
        lambda path: edit(path, note="precious"),
        lambda path: path.write_text(path.read_text() + " "),
        lambda path: edit(path, epoch=0, revision=0),
    ],
    ids=["edited", "a new key", "a space", "older"],
)
def test_a_hand_edit_of_the_view_of_a_killed_owner_is_kept(
    manager: StateManager, state_dir: Path, spoil: Callable[[Path], object]
) -> None:
    """That it is older than the journal does not mean that the journal has what is in it."""
    manager.create(ID, num_processes=2)
    killed(state_dir, ID, ("start",), ("start", 0))
    path = state_dir / f"{ID}.json"
    spoil(path)
    spoilt = path.read_bytes()
    (found,) = symptoms(state_dir)
    assert (found.severity, found.fixable) == ("problem", True)
    assert "kept aside" in found.repair
    (mended,) = symptoms(state_dir, fix=True)
    assert mended.fixed
    assert copies(manager) == [spoilt]
    assert f"{ID}/view-replaced-" in mended.repair
    assert symptoms(state_dir) == []


@pytest.mark.parametrize(
    ("steps", "compact"),
    [
        ([], 1 << 20),
        ([("start",), ("start", 0), ("start", 1)], 1 << 20),
        ([("start",), ("start", 0), ("fail", 0), ("start", 1)], 1),
    ],
    ids=["claimed only", "a step behind", "compacted"],
)
def test_of_a_view_that_is_merely_older_no_copy_is_made(
    manager: StateManager, state_dir: Path, steps: list[tuple[Any, ...]], compact: int
) -> None:
    """What the journal held at its revision, to the byte, is in the journal."""
    manager.create(ID, num_processes=2, name="näme", config={"b": 1, "a": [2.5]})
    killed(state_dir, ID, *steps, compact=compact)
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.severity, found.fixed) == ("view", "hint", True)
    assert copies(manager) == []


def test_the_view_of_an_earlier_owner_is_merely_older(
    manager: StateManager, state_dir: Path
) -> None:
    """Restored from a backup, or brought back by a superseded owner: it is in the history."""
    manager.create(ID, num_processes=2)
    with manager.claim(ID) as claim:
        claim.record("start")
    path = state_dir / f"{ID}.json"
    released = path.read_bytes()
    with manager.claim(ID) as claim:
        claim.record("interrupt")
    path.write_bytes(released)
    (found,) = symptoms(state_dir, fix=True)
    assert (found.severity, found.fixed) == ("problem", True)
    assert copies(manager) == []


def test_the_view_of_an_owner_that_died_while_it_let_go_is_a_hint(
    manager: StateManager, state_dir: Path
) -> None:
    """The journal says that it is free, the view does not yet, at the same revision."""
    manager.create(ID, num_processes=2)
    path = state_dir / f"{ID}.json"
    with manager.claim(ID) as claim:
        claim.record("start")
        owned = path.read_bytes()
    assert path.read_bytes() != owned
    path.write_bytes(owned)
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.severity, found.fixed) == ("view", "hint", True)
    assert copies(manager) == []


def test_a_view_of_a_newer_schema_is_named_and_left(manager: StateManager, state_dir: Path) -> None:
    """Beside a good journal, too: a newer holdfast wrote it, and knows why."""
    manager.create(ID, num_processes=1)
    with manager.claim(ID) as claim:
        claim.record("start")
    path = state_dir / f"{ID}.json"
    edit(path, schema_version=2)
    newer = path.read_bytes()
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.path, found.fixable) == ("unreadable", path, False)
    assert "schema 2" in found.what
    assert path.read_bytes() == newer
    command = "import sys; from holdfast.cli import main; sys.exit(main())"
    run(command, "-C", state_dir, "doctor", "--fix", exit_code=6)
    assert path.read_bytes() == newer


def test_a_corrupt_view_is_rewritten_once_its_bytes_are_kept(
    manager: StateManager, state_dir: Path
) -> None:
    """Whatever it is, only its owner can tell what it was worth."""
    manager.create(ID)
    with manager.claim(ID):
        pass
    path = state_dir / f"{ID}.json"
    path.write_bytes(b"\x00\xff half of a \n")
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.fixed) == ("view", True)
    assert copies(manager) == [b"\x00\xff half of a \n"]
    assert symptoms(state_dir) == []


@pytest.mark.parametrize("experiment_id", [ID, "two\nlines"])
@pytest.mark.parametrize("owned", [False, True])
def test_what_is_wrong_with_a_view_is_said_without_its_path(
    tmp_path: Path, experiment_id: str, owned: bool
) -> None:
    """Whoever prints a finding has printed the path already."""
    state_dir = tmp_path / "two\nlines"
    manager = StateManager(state_dir)
    manager.create(experiment_id)
    if owned:
        with manager.claim(experiment_id):
            pass
    (path,) = state_dir.glob("*.json")
    path.write_text('{"schema_version": 1, "experiment_id": 5}')
    (found,) = symptoms(state_dir)
    assert found.path == path
    assert "lines" not in found.what
    assert ".json" not in found.what
    assert "expected str, found int" in found.what


class _Order(Files):
    """Writes down which files were synced, and which names appeared, in their order."""

    def __init__(self) -> None:
        self.done: list[tuple[str, object]] = []

    def open_append(self, name: str, dir_fd: int, *, exclusive: bool = False) -> int:
        if name.startswith("view-replaced-"):
            self.done.clear()  # an inode may have been that of a file which is gone
        return super().open_append(name, dir_fd, exclusive=exclusive)

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.done.append(("fsync", os.fstat(fd).st_ino))

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        super().rename(source, target, dir_fd)
        self.done.append(("rename", target))


def test_what_was_in_a_view_is_on_the_disk_before_another_takes_its_place(
    manager: StateManager, state_dir: Path
) -> None:
    """A power cut would else take the only copy: its bytes, or its name."""
    manager.create(ID)
    with manager.claim(ID):
        pass
    (state_dir / f"{ID}.json").write_text("precious")
    files = _Order()
    (mended,) = symptoms(state_dir, fix=True, files=files)
    assert mended.fixed
    (copy,) = manager.folder(ID).glob("view-replaced-*")
    replaced = files.done.index(("rename", f"{ID}.json"))
    content = files.done.index(("fsync", copy.stat().st_ino))
    name = files.done.index(("fsync", manager.folder(ID).stat().st_ino))
    assert content < name < replaced


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket"])
def test_what_is_no_file_in_the_place_of_a_view_is_named_and_left(
    manager: StateManager, state_dir: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be kept is not replaced."""
    manager.create(ID)
    with manager.claim(ID):
        pass
    path = state_dir / f"{ID}.json"
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        monkeypatch.chdir(state_dir)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    before = path.lstat()
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.path, found.fixable) == ("unreadable", path, False)
    assert found.repair
    assert path.lstat().st_ino == before.st_ino
