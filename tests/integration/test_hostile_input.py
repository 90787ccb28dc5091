"""Files and names made to do harm: a clear error each, nothing followed, nothing overwritten."""

import contextlib
import json
import os
import socket
import stat
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.doctor import examine
from holdfast.errors import (
    ExperimentExistsError,
    ExperimentNotFoundError,
    HoldfastError,
    SchemaTooNewError,
    StateCorruptError,
    StateWriteError,
    UnreadableStateWarning,
    printable,
)
from holdfast.store import decoding, encoding, strictjson
from holdfast.store.files import Files
from holdfast.store.lines import encode
from holdfast.store.manager import StateManager
from processes import run

BAD = "bad"
pytestmark = pytest.mark.filterwarnings("ignore::holdfast.errors.UnreadableStateWarning")


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    manager = StateManager(state_dir)
    manager.create("before")
    manager.create("later", config={"lr": 1})
    return manager


def state(**fields: Any) -> str:
    return json.dumps({"experiment_id": BAD, "schema_version": 1, **fields})


def write(text: str | bytes) -> Callable[[Path], object]:
    data = text.encode() if isinstance(text, str) else text
    return lambda path: path.write_bytes(data)


def sparse(size: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def listening(path: Path) -> None:
    # The path of a socket has to be short, wherever the test's directory is.
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


DEEP = 100_000
FILES = {
    "nothing": write(""),
    "zeros": write(b"\0" * 4096),
    "NaN": write(state(extra={"x": 1}).replace("1}", "NaN}")),
    "Infinity": write(state(extra={"x": 1}).replace("1}", "-Infinity}")),
    "overflowing float": write(state(extra={"x": 1}).replace("1}", "1e999}")),
    "duplicate key": write('{"experiment_id": "bad", "status": "running", "status": "failed"}'),
    "duplicate process": write(state(process_progress={}).replace("{}", '{"0": {}, "0": {}}')),
    "deep list": write("[" * DEEP + "]" * DEEP),
    "deep object": write('{"a":' * DEEP + "1" + "}" * DEEP),
    "deep, but a state": write(state(extra=None).replace("null", "[" * 200 + "]" * 200)),
    "endless integer": write(state(revision=7).replace("7", "7" * 5000)),
    "large integer": write(state(num_processes=10**12)),
    "byte order mark": write(b"\xef\xbb\xbf" + state().encode()),
    "UTF-16": write(state().encode("utf-16")),
    "Latin-1": write(state(name="x").replace('"x"', '"\xe9"').encode("latin-1")),
    "two documents": write(state() + state()),
    "a list": write("[1, 2, 3]"),
    "a Python dict": write("{'experiment_id': 'bad'}"),
    "a pickle": write(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94."),
    "wrong type": write(state(config="rm -rf /")),
    "unknown status": write(state(status="hacked")),
    "illegal combination": write(
        state(status="aggregated", process_progress={"0": {"status": "failed"}})
    ),
    "negative": write(state(num_processes=-1)),
    "another's": write(state(experiment_id="before")),
    "id that is none": write(state(experiment_id="a\0b")),
    "newer": write('{"schema_version": 2, "experiment_id": "bad"}'),
    "1 GB of nothing": sparse(1 << 30),
    "endless": sparse(1 << 40),
    "FIFO": os.mkfifo,
    "socket": listening,
    "directory": Path.mkdir,
    "link to a secret": lambda path: path.symlink_to("/etc/passwd"),
    "link to another": lambda path: path.symlink_to("before.json"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
}


def fingerprint(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Kind, size and time of the last change of everything that is no cache."""
    return {
        str(path.relative_to(directory)): (info.st_mode, info.st_size, info.st_mtime_ns)
        for path in directory.rglob("*")
        if ".index" not in path.parts
        for info in [path.lstat()]
        if not stat.S_ISDIR(info.st_mode)
    }


@pytest.mark.parametrize("content", FILES)
def test_a_hostile_view_is_named_and_everything_else_goes_on(
    manager: StateManager, state_dir: Path, content: str
) -> None:
    """Whatever lies where a state should be: an error with its name, and not one byte changed."""
    path = state_dir / f"{BAD}.json"
    FILES[content](path)
    before = fingerprint(state_dir)
    for method in (manager.load, manager.claim, manager.delete, manager.history, manager.liveness):
        with pytest.raises((StateCorruptError, SchemaTooNewError)) as error:
            method(BAD)
        assert f"{BAD}.json" in str(error.value)
        assert len(str(error.value)) < 1000
        assert "root:" not in str(error.value)
    with pytest.raises(ExperimentExistsError):
        manager.create(BAD)
    assert manager.list_experiments() == ["before", "later"]
    assert len(manager.find_incomplete()) == 2
    assert manager.find_by_config_hash("nothing") is None
    assert manager.cleanup_stale() == []
    assert [(each.name, type(error).__base__) for each, error in manager.unreadable()] == [
        (path.name, HoldfastError)
    ]
    assert path in [each.path for each in examine(state_dir, fix=True)]
    assert fingerprint(state_dir) == before
    with manager.claim("later") as claim:
        claim.record("start")


class Reads(Files):
    """Counts how many bytes were read of each file, by their inodes."""

    def __init__(self) -> None:
        self.got: Counter[int] = Counter()

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        self.got[os.fstat(fd).st_ino] += len(data)
        return data


@pytest.mark.parametrize("size", [1 << 30, 1 << 40])
@pytest.mark.parametrize("kind", ["view", "journal"])
def test_a_file_beyond_all_measure_is_refused_by_its_size_and_not_read(
    manager: StateManager, state_dir: Path, kind: str, size: int
) -> None:
    """A sparse file costs its maker nothing; to read it would cost the reader all its memory."""
    manager.create(BAD)
    path = state_dir / f"{BAD}.json"
    if kind == "journal":
        with manager.claim(BAD) as claim:
            claim.record("start")
        path = manager.folder(BAD) / "journal" / "00000002.jsonl"
        size += 1  # a journal may have 1 GB
    sparse(size)(path)
    files = Reads()
    reader = StateManager(state_dir, files=files)
    for method in (reader.load, reader.history, reader.claim, reader.delete):
        with pytest.raises(StateCorruptError, match="more than the limit") as error:
            method(BAD)
        assert path.name in str(error.value)
        assert f"{size:,} bytes" in str(error.value)
    assert files.got[path.stat().st_ino] == 0
    assert reader.list_experiments() == ["before", "later"]
    [(named, told)] = reader.unreadable()
    assert named == path
    assert path.name in str(told)
    # Listings begin with a piece of every view, in which most of them end.
    assert files.got[path.stat().st_ino] <= 2 << 20
    assert files.got[(state_dir / "later.json").stat().st_ino], "nothing was counted"
    assert path.stat().st_size == size


def behind(kind: str, *, revision: int = 2, **fields: Any) -> Callable[[Path], object]:
    """A good journal (of revision 1) with one more line, which has a right checksum."""
    line = {"kind": kind, "revision": revision, "at": "2024-01-15T12:00:00+00:00", **fields}
    return lambda path: path.write_bytes(
        path.with_name("00000001.jsonl").read_bytes() + encode(line)
    )


def start(process: int) -> list[dict[str, Any]]:
    plain = {"event": "start", "from": "pending", "to": "running", "set": {"status": "running"}}
    return [{"process": process, **plain}]


JOURNALS: dict[str, Callable[[Path], object]] = {
    "empty": write(""),
    "garbage": write("\x1b[2J" * 100),
    "deep": write(b"00000000 " + b"[" * DEEP + b"\n"),
    "deep under a right checksum": lambda path: path.write_bytes(_deep_line()),
    "no state": write(
        encode({"kind": "claim", "owner": {}, "at": "2024-01-15T12:00:00+00:00"})
        + encode({"kind": "base"})
    ),
    "a line of a kind that is none": behind("hacked"),
    "a line that was skipped": behind("changes", revision=3, changes=start(0)),
    "changes that are none": behind("changes", changes=[{"event": "start"}]),
    "a change of a process that is not there": behind("changes", changes=start(7)),
    "a state that is none": behind("saved", state={"experiment_id": BAD, "status": "hacked"}),
    "2 GB of nothing": sparse(2 << 30),
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "link to a secret": lambda path: path.symlink_to("/etc/passwd"),
    "link to an older one": lambda path: path.symlink_to("00000001.jsonl"),
}


def _deep_line() -> bytes:
    import zlib

    body = b"[" * DEEP + b"]" * DEEP
    return b"%08x %s\n" % (zlib.crc32(body), body)


@pytest.mark.parametrize("make", JOURNALS.values(), ids=JOURNALS.keys())
def test_a_hostile_journal_is_named_and_never_passed_over(
    manager: StateManager, state_dir: Path, make: Callable[[Path], object]
) -> None:
    """An older epoch in its place would lose what was acknowledged."""
    manager.create(BAD)
    with manager.claim(BAD) as claim:
        claim.record("start")
    path = manager.folder(BAD) / "journal" / "00000002.jsonl"
    make(path)
    before = fingerprint(state_dir)
    for method in (manager.load, manager.claim, manager.delete, manager.history):
        with pytest.raises(StateCorruptError) as error:
            method(BAD)
        assert path.name in str(error.value)
    assert manager.list_experiments() == ["before", "later"]
    assert len(manager.unreadable()) == 1
    examine(state_dir, fix=True)
    assert fingerprint(state_dir) == before


@pytest.mark.parametrize("victim", ["folder", "lock", "journal"])
def test_links_in_the_place_of_our_folders_are_not_followed(
    manager: StateManager, state_dir: Path, tmp_path: Path, victim: str
) -> None:
    """Nothing is read, written, locked or removed where a link leads, or taken for older truth."""
    manager.create(BAD)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    folder = manager.folder(BAD)
    if victim == "folder":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
        target = elsewhere if victim == "journal" else elsewhere / "precious"
        (folder / victim).symlink_to(target)
    if victim == "lock":
        assert manager.load(BAD).experiment_id == BAD
    else:
        with pytest.raises(StateCorruptError, match="is a link or no directory"):
            manager.load(BAD)
    for method in (manager.claim, manager.delete):
        with pytest.raises((StateWriteError, StateCorruptError)):
            method(BAD)
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "mine"
    readable = [BAD] if victim == "lock" else []
    assert manager.list_experiments() == [*readable, "before", "later"]
    assert len(manager.unreadable()) == 1 - len(readable)


HOSTILE_IDS = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/../../b",
    "~root",
    "a\\..\\b",
    "C:evil",
    "con",
    "NUL.txt",
    "exp.json",
    ".run.lock",
    ".index",
    ".tmp-0123456789abcdef",
    "-rf",
    "$(reboot)",
    "a\nb",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp.exe",
    "раураl",  # Cyrillic look-alikes
    "paypal",
    "ﬁle",
    "file",
    "é",
    "e\u0301",
    "Exp",
    "exp",
    "EXP",
    "x" * 100,
    "x" * 101,
    "y" * 10_000,
    "💥" * 200,
    " ",
    "a ",
    "a",
]


def test_hostile_ids_stay_inside_and_apart(tmp_path: Path) -> None:
    """Traversal, look-alikes, case twins, devices, 10 kB: each its own experiment, in its place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    manager = StateManager(outside / "state")
    for number, name in enumerate(HOSTILE_IDS):
        manager.create(name, config={"number": number})
    for number, name in enumerate(HOSTILE_IDS):
        assert manager.load(name).config == {"number": number}
        assert manager.folder(name).parent == manager.state_dir
    assert sorted(manager.list_experiments()) == sorted(HOSTILE_IDS)
    with manager.claim("../../etc/passwd") as claim:
        claim.record("start")
    for name in HOSTILE_IDS[::2]:
        manager.delete(name)
    assert sorted(manager.list_experiments()) == sorted(HOSTILE_IDS[1::2])
    assert [path.name for path in outside.iterdir()] == ["state"]
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    for name in os.listdir(manager.state_dir):
        assert len(name.encode()) < 200


ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e\ud800"


def test_terminal_escapes_in_names_and_messages_are_printed_harmlessly(
    manager: StateManager, state_dir: Path
) -> None:
    """No output of a command and no error carries a control character from a file."""
    name = f"evil {ESCAPES}".replace("\ud800", "")
    manager.create(name, name=ESCAPES, num_processes=2, config={ESCAPES: ESCAPES})
    with manager.claim(name) as claim:
        claim.record("start")
        claim.record("start", 0)
        claim.record("fail", 0, error_message=ESCAPES)
        claim.record("fail", error_message=ESCAPES)
    (state_dir / "x\x1b[31m.json").write_text(state(status=ESCAPES))
    (state_dir / "y.json").write_text(state(**{ESCAPES: 1}, revision=ESCAPES))
    code = "import sys; from holdfast.cli import main; sys.exit(main())"
    for words, exit_code in [
        (("ls",), 6),
        (("ls", "--json"), 6),
        (("show", name), 0),
        (("show", name, "--json"), 0),
        (("show", f"no{name}"), 4),
        (("doctor",), 6),
        (("doctor", "--json"), 6),
        (("cleanup",), 6),
    ]:
        both = f"{code}".replace("sys.exit(main())", "sys.stderr = sys.stdout; sys.exit(main())")
        out = run(both, "-C", state_dir, *words, exit_code=exit_code)
        stray = {c for c in out if not c.isprintable() and c != "\n"}
        assert not stray, words
    for error in [error for _, error in manager.unreadable()]:
        assert printable(error) == str(error)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> StateManager:
    """One experiment with a journal, whose files are written over by each example."""
    manager = StateManager(tmp_path_factory.mktemp("arena") / "state")
    manager.create(BAD, num_processes=2)
    with manager.claim(BAD) as claim:
        claim.record("start")
        claim.record("start", 0)
        claim.record("complete", 0, exit_code=0)
    return manager


words = st.sampled_from(
    ["experiment_id", "status", "process_progress", "0", "owner", "pid", "running", "completed"]
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=12,
)


@given(st.binary(max_size=60) | documents.map(json.dumps).map(str.encode))
@settings(max_examples=150)
def test_any_bytes_are_a_state_or_a_clear_error(data: bytes) -> None:
    """No file can make the reader fail in another way."""
    path = Path("somewhere/bad.json")
    with contextlib.suppress(ValueError, StateCorruptError, SchemaTooNewError):
        found = decoding.state_from_json(strictjson.loads(data), path)
        assert decoding.state_from_json(json.loads(encoding.view(found)), path) == found


@given(st.data())
@settings(max_examples=60)
def test_any_damage_to_a_journal_is_a_state_or_a_clear_error(
    arena: StateManager, data: st.DataObject
) -> None:
    """Cut, flipped, repeated or spliced lines, with right checksums or wrong ones."""
    path = arena.folder(BAD) / "journal" / "00000001.jsonl"
    good = path.read_bytes()
    try:
        lines = good.splitlines(keepends=True)
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(good)))
            end = data.draw(st.integers(at, len(good)))
            path.write_bytes(good[:at] + data.draw(st.binary(max_size=9)) + good[end:])
        else:
            number = data.draw(st.integers(0, len(lines) - 1))
            plain = json.loads(lines[number][9:])
            key = data.draw(st.sampled_from(sorted(plain)))
            plain[key] = data.draw(documents.filter(lambda each: each == each))
            try:
                lines[number] = encode(plain)
            except ValueError:
                return
            path.write_bytes(b"".join(lines))
        for method in (arena.load, arena.history):
            with contextlib.suppress(StateCorruptError, SchemaTooNewError, ExperimentNotFoundError):
                method(BAD)
        examine(arena.state_dir)
    finally:
        path.write_bytes(good)
    assert arena.load(BAD).processes_completed == 1


def test_warnings_name_what_was_passed_over(manager: StateManager, state_dir: Path) -> None:
    """A listing that skips something says so."""
    (state_dir / "bad.json").write_text("{")
    with pytest.warns(UnreadableStateWarning, match=r"1 unreadable in .*: bad\.json"):
        manager.list_experiments()


@pytest.mark.parametrize("token", [b"1e999", b"NaN"])
def test_a_number_that_json_cannot_hold_is_refused_under_a_right_checksum(
    state_dir: Path, token: bytes
) -> None:
    """What a claim could not write again is no state to begin with."""
    manager = StateManager(state_dir)
    manager.create(BAD, config={"lr": 0.125})
    with manager.claim(BAD) as claim:
        claim.record("start")
    path = manager.folder(BAD) / "journal" / "00000001.jsonl"
    lines = path.read_bytes().splitlines()
    bodies = [line[9:].replace(b"0.125", token) for line in lines]
    assert token in b"".join(bodies)
    path.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(body), body) for body in bodies))
    for method in (manager.load, manager.claim):
        with pytest.raises(StateCorruptError, match=path.name):
            method(BAD)
