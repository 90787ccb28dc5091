"""What is not there, what may not be looked at and what is nobody's: named, and left alone."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from doctored import edit, symptoms
from holdfast.attempts.names import AttemptName
from holdfast.doctor import examine
from holdfast.results import acceptance
from holdfast.store.manager import StateManager
from processes import NOBODY, in_a_fork

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
        ("journal", shutil.rmtree, "is missing"),
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
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.path, found.severity) == ("missing", path, "problem")
    assert found.what.startswith(why)
    assert "epoch 2" in found.what
    assert "backup" in found.repair
    assert not found.fixable
    assert tree(state_dir) == before


@pytest.mark.parametrize("place", ["", "journal"])
@pytest.mark.parametrize("spoil", [_elsewhere, _file], ids=["link", "file"])
def test_a_directory_that_is_none_is_named_and_not_read_through(
    manager: StateManager, state_dir: Path, place: str, spoil: Callable[[Path], object]
) -> None:
    """The view may be older than the journals that lie behind it."""
    path = manager.folder(ID) / place
    spoil(path)
    before = tree(state_dir)
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.path, found.fixable) == ("unreadable", path, False)
    assert "put the directory itself in its place" in found.repair
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


def _cut(path: Path, lines: int, tail: bytes = b"") -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]) + tail)


@pytest.mark.parametrize(
    "cut",
    [
        lambda path: _cut(path, 2),
        lambda path: _cut(path, 2, b"0123 torn"),
        lambda path: _cut(path, 2, bytes(4096)),
        lambda path: _cut(path, 1),
        lambda path: edit(path.parents[2] / f"{ID}.json", revision=99),
    ],
    ids=["its last steps", "torn", "zeroed", "all but its claim", "a view that is wrong"],
)
def test_a_view_that_is_ahead_of_its_journal_stays(
    manager: StateManager, state_dir: Path, cut: Callable[[Path], object]
) -> None:
    """It is all that still tells of steps that were acknowledged; no crash explains that."""
    cut(manager.folder(ID) / "journal" / "00000002.jsonl")
    before = tree(state_dir)
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.severity) == ("missing", "problem")
    assert found.path == state_dir / f"{ID}.json"
    assert "is ahead of its journal" in found.what
    assert "keep both" in found.what
    assert f"bring {ID}/journal/00000002.jsonl back from a backup" in found.repair
    assert (found.fixable, found.fixed) == (False, False)
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
    (folder / "code").mkdir()
    ours = [
        state_dir / f".tmp-{_HEX}",
        folder / f".tmp-{_HEX}",
        folder / "journal" / f".tmp-{_HEX}",
        folder / "code" / f".tmp-{_HEX}",
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


def test_the_reserve_of_a_living_shim_stays_when_its_owner_is_dead(
    manager: StateManager, state_dir: Path
) -> None:
    """It is where the exit record will be written, however long its command runs."""
    attempts = manager.folder(ID) / "attempts"
    attempts.mkdir()
    reserve = attempts / f".{_HEX}.tmp"
    reserve.write_text("")
    os.utime(reserve, (1, 1))
    with (attempts / "0.1.live").open("w") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        (found,) = symptoms(state_dir, fix=True)
        assert (found.kind, found.severity) == ("attempt", "hint")
        assert reserve.exists()
    (attempts / "0.1.exit").write_text('{"exit_code": 0}')
    (found,) = symptoms(state_dir, fix=True)
    assert (found.path, found.fixed) == (reserve, True)


# -- what may not be looked at --------------------------------------------------------------------


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are its user's alone."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def as_nobody(state_dir: Path, *, fix: bool) -> list[dict[str, Any]]:
    """What somebody finds who owns nothing there."""
    examine(state_dir)  # everything is imported before the privileges go

    def told() -> str:
        found = [attrs.asdict(each) for each in symptoms(state_dir, fix=fix)]
        return json.dumps(found, default=str)

    found = json.loads(in_a_fork(told, user=NOBODY))
    assert isinstance(found, list)
    return found


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("", 0o700),
        ("journal", 0o700),
        ("attempts", 0o700),
        ("attempts", 0o744),
        ("results", 0o711),
        ("code", 0o711),
        ("journal/00000002.jsonl", 0o600),
        (f"../{ID}.json", 0o600),
    ],
)
def test_what_may_not_be_read_is_named_and_the_rest_is_looked_at(
    open_dir: Path, place: str, mode: int
) -> None:
    """Another user's folder is no reason to stop, nor to offer to write what cannot be read."""
    state_dir = open_dir / "states"
    manager = StateManager(state_dir)
    for name in (ID, "later"):
        manager.create(name, num_processes=1)
        for event in ("start", "interrupt"):
            with manager.claim(name) as claim:
                claim.record(event)
        (manager.folder(name) / "attempts").mkdir()
        (manager.folder(name) / "results").mkdir()
        (manager.folder(name) / "code").mkdir()
    path = manager.folder(ID) / place
    path.chmod(mode)
    (state_dir / "later.json").write_text("{")
    found = as_nobody(state_dir, fix=True)
    assert [(each["kind"], each["path"]) for each in found] == [
        ("unreadable", os.path.normpath(path)),
        ("view", str(state_dir / "later.json")),
    ]
    assert "EACCES" in found[0]["what"]
    assert "permission" in found[0]["repair"]
    assert not found[0]["fixable"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_result_that_may_not_be_read_is_not_lost(open_dir: Path) -> None:
    """Whoever runs its process again would not be helped."""
    manager = StateManager(open_dir / "states")
    manager.create(ID, num_processes=1)
    path = manager.folder(ID) / "results" / "0.1.json"
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        acceptance.prepare(manager.folder(ID))
        path.write_text("1")
        claim.record(
            "complete",
            0,
            exit_code=0,
            result=acceptance.accept(path.parents[1], AttemptName("", "0", 1)),
        )
    path.chmod(0o000)
    (found,) = as_nobody(open_dir / "states", fix=True)
    assert (found["kind"], found["path"]) == ("unreadable", str(path))
    assert "permission" in found["repair"]


@pytest.mark.parametrize("place", [f"{ID}/journal/00000002.jsonl", f"{ID}.json"])
def test_an_empty_file_is_said_to_be_empty(
    manager: StateManager, state_dir: Path, place: str
) -> None:
    """That its first line is no claim, or that a value is expected, would be a riddle."""
    if place == f"{ID}.json":
        shutil.rmtree(manager.folder(ID))
    (state_dir / place).write_bytes(b"")
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.path, found.what) == ("unreadable", state_dir / place, "is empty")


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"exit_code": "0"}'])
def test_an_outcome_that_nobody_can_adopt_is_named(
    manager: StateManager, state_dir: Path, garbage: bytes
) -> None:
    """Resume would take it for a failure; the exit record of an attempt that is over is history."""
    with manager.claim(ID) as claim:
        claim.record("resume")
        claim.record("start", 1)
    attempts = manager.folder(ID) / "attempts"
    attempts.mkdir()
    for name in ("0.1.exit", "1.1.exit"):
        (attempts / name).write_bytes(garbage)
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.severity) == ("unreadable", "problem")
    assert found.path == attempts / "1.1.exit"
    assert found.what.startswith("process 1: is no exit record")
    assert "a failure of attempt 1" in found.repair
    assert (attempts / "1.1.exit").read_bytes() == garbage


# -- what is nobody's -----------------------------------------------------------------------------

_ELSEWHERE: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a symbolic link": lambda path: path.symlink_to("/etc/passwd"),
    "a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", _ELSEWHERE)
@pytest.mark.parametrize(
    "place",
    [
        ".run.lock",
        f"{ID}/lock",
        f"{ID}/aggregate.json",
        f"{ID}/attempts/0.1.out",
        f"{ID}/attempts/0.1.live",
        f"{ID}/results/9.9.json",
        f"{ID}/journal/00000003.jsonl",
    ],
)
def test_what_has_one_of_our_names_and_is_of_another_kind_is_a_problem(
    manager: StateManager, state_dir: Path, place: str, kind: str
) -> None:
    """Whoever needs the file will fail over it; it is not touched."""
    path = state_dir / place
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    _ELSEWHERE[kind](path)
    before = tree(state_dir)
    found = symptoms(state_dir, fix=True)
    assert [(each.path, each.severity, each.fixable) for each in found] == [
        (path, "problem", False)
    ]
    assert found[0].repair
    if "journal" not in place:
        assert kind in found[0].what
    assert tree(state_dir) == before


@pytest.mark.parametrize("name", ["attempts", "results", "code"])
def test_a_link_in_the_place_of_a_directory_is_a_problem(
    manager: StateManager, state_dir: Path, tmp_path: Path, name: str
) -> None:
    """What an attempt writes would land where it leads."""
    path = manager.folder(ID) / name
    path.symlink_to(tmp_path)
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.severity, found.path) == ("foreign", "problem", path)


def test_a_folder_that_is_a_link_is_a_problem(state_dir: Path) -> None:
    """Also before the first claim, which it will make fail."""
    StateManager(state_dir).create(ID)
    path = state_dir / ID
    path.symlink_to("elsewhere")
    (found,) = symptoms(state_dir, fix=True)
    assert (found.kind, found.severity, found.path) == ("unreadable", "problem", path)


@pytest.mark.parametrize("place", ["", ID, f"{ID}/journal", f"{ID}/attempts", f"{ID}/results"])
def test_links_and_fifos_that_are_nobody_s_are_hints_and_files_are_welcome(
    manager: StateManager, state_dir: Path, place: str
) -> None:
    """Users keep notes where they like; what could block or lead elsewhere is named."""
    folder = state_dir / place
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("mine")
    (folder / "figures").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "latest").symlink_to(manager.folder(ID))
    before = tree(state_dir)
    found = symptoms(state_dir, fix=True)
    assert [(each.kind, each.severity, each.path.name, each.fixable) for each in found] == [
        ("foreign", "hint", "latest", False),
        ("foreign", "hint", "pipe", False),
    ]
    assert tree(state_dir) == before


def test_checkpoints_are_the_user_s(manager: StateManager, state_dir: Path) -> None:
    """What is in there is not looked at, and it may be elsewhere."""
    checkpoints = manager.folder(ID) / "checkpoints"
    (checkpoints / "0").mkdir(parents=True)
    os.mkfifo(checkpoints / "0" / "pipe")
    assert symptoms(state_dir) == []
    shutil.rmtree(checkpoints)
    checkpoints.symlink_to("/tmp")
    assert symptoms(state_dir) == []
    checkpoints.unlink()
    checkpoints.write_text("")
    assert [each.path for each in symptoms(state_dir)] == [checkpoints]
