"""Tags and notes: set by anybody, lost by nobody, and never those of another experiment."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from doctored import symptoms
from faults import Counting, Stopped, fail_with, stop
from holdfast.errors import ExperimentNotFoundError, StateCorruptError, StateWriteError
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from processes import owner
from waiting import PATIENCE_S

ID = "exp_7"


@pytest.fixture
def annotated(manager: StateManager) -> StateManager:
    manager.create(ID)
    manager.annotate(ID, add=["old", "kept"], note="before")
    return manager


def file_of(manager: StateManager) -> Path:
    return manager.state_dir / ".annotations" / f"{ID}.json"


def test_what_was_said_is_found_again(annotated: StateManager) -> None:
    """Tags are sorted and there once; a note takes the place of the one before."""
    assert annotated.annotations(ID) == (("kept", "old"), "before")
    said = annotated.annotate(
        ID, add=["b", "b", "a/c"], remove=["old", "nothing"], note=" two\nlines "
    )
    assert said == annotated.annotations(ID) == (("a/c", "b", "kept"), "two\nlines")
    assert annotated.annotate(ID, note="") == (("a/c", "b", "kept"), None)
    assert annotated.annotated().of(annotated.load(ID)).tags == ("a/c", "b", "kept")


def test_an_experiment_of_which_nothing_is_said_has_no_file(annotated: StateManager) -> None:
    """What says nothing any more goes; and what says the same is not written again."""
    before = file_of(annotated).stat()
    annotated.annotate(ID, add=["old"], remove=["nothing"], note="before")
    assert file_of(annotated).stat().st_ino == before.st_ino
    annotated.annotate(ID, remove=["old", "kept"], note="")
    assert not file_of(annotated).exists()
    assert annotated.annotations(ID) == ((), None)


def test_reading_makes_nothing(manager: StateManager) -> None:
    """A listing of experiments that nobody annotated leaves the directory as it is."""
    manager.create(ID)
    assert manager.annotations(ID) == ((), None)
    assert manager.annotated().found == {}
    assert os.listdir(manager.state_dir) == [f"{ID}.json"]


@pytest.mark.parametrize(
    "tag", ["", "a b", "-a", "a,b", "a\n", "a" * 65, "é" + "\x1b", "#1", "a'b", "..a"]
)
def test_what_can_be_no_tag_is_refused(annotated: StateManager, tag: str) -> None:
    """A tag is one word to a shell, a table and a list; nothing is changed."""
    with pytest.raises(ValueError, match="is not a tag"):
        annotated.annotate(ID, add=["fine", tag])
    assert annotated.annotations(ID).tags == ("kept", "old")


def test_a_tag_is_one_however_its_letters_are_composed(annotated: StateManager) -> None:
    """A Mac types an e and an accent where others type an é."""
    annotated.annotate(ID, add=["caf\u0065\u0301"])
    assert annotated.annotate(ID, remove=["caf\u00e9"]).tags == ("kept", "old")


def test_there_is_a_limit(annotated: StateManager) -> None:
    """A file that is read for every listing stays small."""
    with pytest.raises(ValueError, match="no more than 100 tags"):
        annotated.annotate(ID, add=map(str, range(100)))
    with pytest.raises(ValueError, match="at most 10,000"):
        annotated.annotate(ID, note="x" * 10_001)
    annotated.annotate(
        ID, add=["\U00010400" * 64] + [f"{n:x<64}" for n in range(97)], note="\U0001f600" * 10_000
    )
    assert len(annotated.annotations(ID).tags) == 100


def test_who_owns_the_experiment_is_not_disturbed(manager: StateManager, state_dir: Path) -> None:
    """The record is as it was, to the byte, and its owner goes on."""
    manager.create(ID)
    with owner(state_dir, ID):
        before = manager.load(ID)
        journal = [path.read_bytes() for path in (manager.folder(ID) / "journal").iterdir()]
        manager.annotate(ID, add=["mine"], note="while it runs")
        assert manager.load(ID) == before
        assert [path.read_bytes() for path in (manager.folder(ID) / "journal").iterdir()] == journal
    assert manager.annotations(ID).tags == ("mine",)


# -- which experiment -----------------------------------------------------------------------------


def test_tags_go_with_their_experiment(annotated: StateManager) -> None:
    """And a later one of the same name has none."""
    annotated.delete(ID)
    assert not file_of(annotated).exists()
    annotated.create(ID)
    assert annotated.annotations(ID) == ((), None)


def test_a_file_that_outlived_its_experiment_is_believed_of_no_other(
    annotated: StateManager,
) -> None:
    """A power cut can bring it back; the next who says something replaces it."""
    shutil.copy(file_of(annotated), annotated.state_dir.parent / "kept")
    annotated.delete(ID)
    annotated.create(ID)
    shutil.copy(annotated.state_dir.parent / "kept", file_of(annotated))
    assert annotated.annotations(ID) == ((), None)
    assert annotated.annotated().of(annotated.load(ID)) == ((), None)
    [found] = symptoms(annotated.state_dir)
    assert (found.kind, found.severity, found.path) == ("leftover", "hint", file_of(annotated))
    assert "former experiment" in found.what
    assert annotated.annotate(ID, add=["new"]) == (("new",), None)
    assert symptoms(annotated.state_dir) == []


def test_nobody_annotates_what_is_not_there(annotated: StateManager) -> None:
    """Not even the folder is made."""
    for method in (annotated.annotate, annotated.annotations):
        with pytest.raises(ExperimentNotFoundError, match="exp_7"):
            method("exp_8")


def test_a_delete_that_comes_between_wins(annotated: StateManager) -> None:
    """Whoever annotates at that moment learns that the experiment is gone, and leaves nothing."""

    class Racing(Files):
        def rename(self, *args: object) -> None:
            annotated.delete(ID)
            super().rename(*args)  # type: ignore[arg-type]

    with pytest.raises(ExperimentNotFoundError):
        StateManager(annotated.state_dir, files=Racing()).annotate(ID, add=["late"])
    assert os.listdir(annotated.state_dir / ".annotations") == [".lock"]


# -- crashes and failures -------------------------------------------------------------------------


def every_operation(work: Callable[[StateManager], object], manager: StateManager) -> int:
    """How many operations *work* takes, done on a copy."""
    copy = manager.state_dir.with_name("counted")
    shutil.copytree(manager.state_dir, copy)
    counting = Counting()
    work(StateManager(copy, files=counting))
    return len(counting.seen)


def change(manager: StateManager) -> object:
    return manager.annotate(ID, add=["new"], remove=["old"], note="after")


BEFORE, AFTER = (("kept", "old"), "before"), (("kept", "new"), "after")


@pytest.mark.parametrize("trouble", [stop, fail_with(errno.EIO), fail_with(errno.EROFS)])
def test_a_change_that_is_interrupted_is_there_or_not(
    annotated: StateManager, tmp_path: Path, trouble: Callable[[str], None]
) -> None:
    """Killed or refused at any operation: old or new, never a mix, and the next change works."""
    total = every_operation(change, annotated)
    seen = set()
    for at in range(total):
        copy = tmp_path / f"at{at}"
        shutil.copytree(annotated.state_dir, copy)
        with contextlib.suppress(Stopped, StateWriteError, StateCorruptError):
            change(StateManager(copy, files=Counting(at, trouble)))
        manager = StateManager(copy)
        said = manager.annotations(ID)
        assert said in (BEFORE, AFTER)
        seen.add(said)
        assert change(manager) == AFTER
        assert manager.annotated().unreadable == []
    assert seen == {BEFORE, AFTER}


def test_a_delete_that_is_interrupted_leaves_no_tags_for_the_next(
    annotated: StateManager, tmp_path: Path
) -> None:
    """Killed at any operation, and finished by whoever makes an experiment of that name."""
    total = every_operation(lambda manager: manager.delete(ID), annotated)
    for at in range(total):
        copy = tmp_path / f"at{at}"
        shutil.copytree(annotated.state_dir, copy)
        with contextlib.suppress(Stopped):
            StateManager(copy, files=Counting(at, stop)).delete(ID)
        manager = StateManager(copy)
        if ID in manager.list_experiments():
            assert manager.annotations(ID) == BEFORE
            manager.delete(ID)
        manager.create(ID)
        assert manager.annotations(ID) == ((), None)
        assert not (copy / ".annotations" / f"{ID}.json").exists()


WRITER = """
import sys
from holdfast.store.manager import StateManager
for name in sys.argv[2:]:
    StateManager(sys.argv[1]).annotate("exp_7", add=[name])
"""


def test_writers_at_once_lose_nothing_of_each_other(fast_dir: Path) -> None:
    """Each of four processes adds ten tags. On a slow disk, one might wait for too long."""
    manager = StateManager(fast_dir)
    manager.create(ID)
    shares = [[f"{who}.{number}" for number in range(10)] for who in "abcd"]
    words = [[sys.executable, "-c", WRITER, str(fast_dir), *each] for each in shares]
    writers = [subprocess.Popen(each) for each in words]
    assert [each.wait(PATIENCE_S) for each in writers] == [0, 0, 0, 0]
    assert {*manager.annotations(ID).tags} == {*itertools.chain(*shares)}


# -- what others put there ------------------------------------------------------------------------

GOOD = {
    "schema": "holdfast.annotations/1",
    "experiment_id": ID,
    "created_at": None,
    "tags": [],
    "note": None,
}


def _with(**fields: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(GOOD | fields))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a FIFO": lambda path: os.mkfifo(path),
    "a directory": lambda path: path.mkdir(),
    "huge": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    "empty": lambda path: path.touch(),
    "torn": lambda path: path.write_text('{"schema": "hold'),
    "no UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "no object": lambda path: path.write_text("[]"),
    "duplicate keys": lambda path: path.write_text('{"tags": [], "tags": []}'),
    "another schema": _with(schema="holdfast.annotations/2"),
    "tags of numbers": _with(tags=[1]),
    "a tag of control characters": _with(tags=["a\x1b[2J"]),
    "a thousand tags": _with(tags=[f"t{number}" for number in range(1000)]),
    "a list for a note": _with(note=["x"]),
    "about another": _with(experiment_id="other"),
    "about nobody": _with(experiment_id=""),
    "a time that is none": _with(created_at="soon"),
    "a time without a zone": _with(created_at="2026-01-01"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_named_left_alone_and_keeps_nobody_from_anything(
    annotated: StateManager, kind: str
) -> None:
    """Nothing is followed, waited for or replaced; every other experiment has its tags."""
    annotated.create("other")
    annotated.annotate("other", add=["fine"])
    file_of(annotated).unlink()
    HOSTILE[kind](file_of(annotated))
    before = file_of(annotated).lstat()
    for method in (annotated.annotations, lambda name: annotated.annotate(name, add=["x"])):
        with pytest.raises(StateCorruptError, match=r"\.annotations/exp_7\.json: \w"):
            method(ID)
    found = annotated.annotated()
    assert [said.tags for said in found.found.values()] == [("fine",)]
    assert [path for path, _ in found.unreadable] == [file_of(annotated)]
    now = file_of(annotated).lstat()
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    [finding] = symptoms(annotated.state_dir)
    assert (finding.severity, finding.path) == ("problem", file_of(annotated))
    assert annotated.load(ID).experiment_id == ID


@pytest.mark.parametrize("kind", ["a link", "a FIFO", "empty"])
def test_a_folder_that_is_none_is_named_too(manager: StateManager, kind: str) -> None:
    """Nothing can be said then, and everything else goes on."""
    manager.create(ID)
    HOSTILE[kind](manager.state_dir / ".annotations")
    assert len(manager.annotated().unreadable) == 1
    with pytest.raises(StateCorruptError, match="cannot be opened"):
        manager.annotations(ID)
    with pytest.raises(StateWriteError, match="something else is in its place"):
        manager.annotate(ID, add=["x"])
    assert [each.severity for each in symptoms(manager.state_dir)] == ["problem"]
    manager.delete(ID)


def test_the_doctor_knows_what_belongs_there(annotated: StateManager) -> None:
    """Files of a writer that died are tidied away; tags without an experiment are told."""
    assert symptoms(annotated.state_dir) == []
    temporary = annotated.state_dir / ".annotations" / ".tmp-0123456789abcdef"
    temporary.touch()
    os.utime(temporary, (0, 0))
    [found] = symptoms(annotated.state_dir, fix=True)
    assert (found.kind, found.fixed, temporary.exists()) == ("leftover", True, False)
    (annotated.state_dir / f"{ID}.json").unlink()
    [found] = symptoms(annotated.state_dir, fix=True)
    assert (found.kind, found.severity) == ("leftover", "hint")
    assert "backup" in found.repair
    assert file_of(annotated).exists()
