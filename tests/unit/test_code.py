"""The record of the code: what is in it, that it lasts, and what has changed since."""

import hashlib
import json
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import StateReadError, StateWriteError
from holdfast.provenance import code
from holdfast.provenance.code import LARGE, Code, changed, look, read, without_written, write
from holdfast.provenance.digests import Digests, FileDigest
from holdfast.provenance.git import Git

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
PATHS = st.text(max_size=20)
DIGESTS = st.builds(FileDigest, size=st.integers(0, 1 << 62), sha256=HEX) | st.builds(
    FileDigest, size=st.integers(0, 1 << 62), mtime_ns=st.integers(-(1 << 62), 1 << 62)
)
CODES = st.builds(
    Code,
    files=st.dictionaries(PATHS | st.just("\udcff.py"), DIGESTS, max_size=4),
    declared=st.dictionaries(PATHS, DIGESTS, max_size=4),
    git=st.none()
    | st.builds(
        Git, revision=st.none() | HEX.map(lambda text: text[:40]), dirty=st.none() | st.booleans()
    ),
    python=st.none() | st.text(max_size=8),
)


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    (made / "train.py").write_text("one")
    (made / "data.csv").write_text("1,2")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "exp_7"
    made.mkdir()
    return made


@pytest.fixture
def digests() -> Digests:
    return Digests()


@given(codes=st.tuples(CODES, CODES))
def test_reading_gives_what_was_written(tmp_path_factory, codes):
    """And equal names mean equal code."""
    folder = tmp_path_factory.mktemp("exp")
    one, two = codes
    assert write(folder, one) == one.name
    write(folder, two)
    assert (read(folder, one.name), read(folder, two.name)) == codes
    assert (one.name == two.name) == (one == two)


def test_the_order_of_files_does_not_matter(cwd, digests):
    """The same code has one name."""
    there = look(["train.py", "data.csv"], cwd, digests)
    back = look(["data.csv", "train.py"], cwd, digests)
    assert there.name == back.name


def test_its_file_is_named_by_its_content(cwd, folder, digests):
    """Any tool can tell whether a record is whole."""
    name = write(folder, look(["train.py"], cwd, digests, python="3.12.1"))
    data = (folder / "code" / f"{name}.json").read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith(name)
    assert len(name) == 32
    assert json.loads(data) == {
        "format": 1,
        "files": {"train.py": {"size": 3, "sha256": hashlib.sha256(b"one").hexdigest()}},
        "declared": {},
        "git": None,
        "python": "3.12.1",
    }


def test_a_record_is_written_once(cwd, folder, digests):
    """The second attempt with the same code touches nothing."""
    found = look(["train.py"], cwd, digests)
    name = write(folder, found)
    before = os.stat(folder / "code" / f"{name}.json"), os.stat(folder / "code")
    assert write(folder, found) == name
    assert before == (os.stat(folder / "code" / f"{name}.json"), os.stat(folder / "code"))
    assert os.listdir(folder / "code") == [f"{name}.json"]


def test_a_damaged_record_is_missing_and_written_again(cwd, folder, digests):
    """A flipped bit is found by the name."""
    found = look(["train.py"], cwd, digests)
    name = write(folder, found)
    path = folder / "code" / f"{name}.json"
    path.write_bytes(path.read_bytes().replace(b'"size":3', b'"size":4'))
    assert read(folder, name) is None
    assert write(folder, found) == name
    assert read(folder, name) == found


def test_a_record_that_somebody_removed_is_written_again(cwd, folder, digests):
    """Alone or with its folder: what was durable once need not be there now."""
    found = look(["train.py"], cwd, digests)
    name = write(folder, found)
    (folder / "code" / f"{name}.json").unlink()
    write(folder, found)
    assert read(folder, name) == found
    (folder / "code" / f"{name}.json").unlink()
    (folder / "code").rmdir()
    write(folder, found)
    assert read(folder, name) == found


def planted(folder: Path, data: bytes) -> str:
    """A record with *data*, under the name that fits it."""
    name = hashlib.sha256(data).hexdigest()[:32]
    (folder / "code").mkdir()
    (folder / "code" / f"{name}.json").write_bytes(data)
    return name


GOOD = '{"declared":{},"files":{},"format":1,"git":null,"python":null}'
DIGEST = f'"sha256":"{"a" * 64}"'


def test_what_is_planted_can_be_read_at_all(folder):
    """The next test would prove nothing otherwise."""
    assert read(folder, planted(folder, GOOD.encode())) == Code()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        GOOD + "\n",
        GOOD.replace('"format":1', '"format":2'),
        GOOD.replace('"python":null', '"python":null,"python":null'),
        GOOD.replace('"python":null', '"python":null,"what":1'),
        GOOD.replace('"python":null', '"python":3.12'),
        GOOD.replace('"python":null', '"python":NaN'),
        GOOD.replace('"python":null', '"python":' + "9" * 5000),
        GOOD.replace('"python":null', '"python":' + "[" * 100_000 + "]" * 100_000),
        GOOD.replace('"git":null', '"git":{}'),
        GOOD.replace('"git":null', '"git":{"dirty":1,"revision":null}'),
        GOOD.replace('"git":null', '"git":{"dirty":"","revision":null}'),
        GOOD.replace('"git":null', '"git":{"dirty":1.0,"revision":null}'),
        GOOD.replace('"git":null', '"git":{"dirty":true,"revision":"HEAD"}'),
        GOOD.replace('"files":{}', '"files":[]'),
        GOOD.replace('"files":{}', '"files":{"a":[]}'),
        GOOD.replace('"files":{}', '"files":{"a":{"size":1}}'),
        GOOD.replace('"files":{}', '"files":{"a":{"sha256":"a","size":1}}'),
        GOOD.replace('"files":{}', f'"files":{{"a":{{{DIGEST},"size":-1}}}}'),
        GOOD.replace('"files":{}', f'"files":{{"a":{{{DIGEST},"size":true}}}}'),
        GOOD.replace('"files":{}', f'"files":{{"a":{{{DIGEST},"size":1.0}}}}'),
        GOOD.replace('"files":{}', f'"files":{{"a":{{"mtime_ns":1,{DIGEST},"size":1}}}}'),
    ],
)
def test_what_holdfast_did_not_write_is_missing(folder, text):
    """Although its name is right."""
    assert text != GOOD
    assert read(folder, planted(folder, text.encode())) is None


def test_names_lead_nowhere_else(folder):
    """Whatever a state says."""
    name = planted(folder, GOOD.encode())
    assert read(folder, f"../code/{name}") is None
    for each in ("", ".", "..", name[:-1], name.upper() + "\n", "\0" * 32):
        assert read(folder, each) is None


def test_nothing_is_read_through_a_link_or_a_fifo(folder, tmp_path):
    """Nor does anybody wait, and a file without end is not read."""
    name = planted(folder, GOOD.encode())
    path = folder / "code" / f"{name}.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert read(folder, name) is None
    path.unlink()
    os.mkfifo(path)
    assert read(folder, name) is None
    path.unlink()
    path.mkdir()
    assert read(folder, name) is None
    path.rmdir()
    path.touch()
    os.truncate(path, 1 << 40)
    assert read(folder, name) is None
    (folder / "code").rename(tmp_path / "moved")
    (folder / "code").symlink_to(tmp_path / "moved")
    assert read(folder, name) is None
    assert read(tmp_path / "nowhere", name) is None


@pytest.mark.parametrize("kind", ["file", "link", "directory of its name", "no folder"])
def test_a_write_that_is_refused_is_an_error(folder, tmp_path, kind):
    """It says what is in the way, and leaves it."""
    if kind == "file":
        (folder / "code").touch()
    elif kind == "link":
        (folder / "code").symlink_to(tmp_path)
    elif kind == "no folder":
        folder.rmdir()
    else:
        (folder / "code" / f"{Code().name}.json").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StateWriteError) as caught:
        write(folder, Code())
    assert caught.value.path == folder / "code" / f"{Code().name}.json"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_large_named_file_is_data(cwd, digests):
    """It is told by size and time, and never read; declared, it is read all the same."""
    path = cwd / "data.bin"
    with path.open("wb") as file:
        file.truncate(LARGE + 1)
    os.utime(path, ns=(1, 2))
    found = look(["data.bin"], cwd, digests, declared=["data.bin"])
    assert found.files == {"data.bin": FileDigest(size=LARGE + 1, mtime_ns=2)}
    assert found.declared["data.bin"].sha256 is not None
    assert changed(found, cwd, digests) == {}
    os.utime(path, ns=(1, 3))
    assert changed(found, cwd, digests) == {"data.bin": "changed"}


def test_what_cannot_be_read_is_no_named_file_but_must_be_a_declared_one(cwd, digests):
    """A command may name what goes; who declares means it."""
    assert look(["nothing.py", "train.py", "."], cwd, digests).files.keys() == {"train.py"}
    with pytest.raises(StateReadError):
        look([], cwd, digests, declared=["nothing.py"])


def test_what_became_of_the_files_is_told(cwd, digests):
    """Of those that the command names."""
    for name in ("same.py", "gone.py", "dir.py", "longer.py", "fifo.py"):
        (cwd / name).write_text("one")
    names = sorted(os.listdir(cwd))
    found = look(names, cwd, digests, declared=["data.csv"])
    assert changed(found, cwd, digests) == {}
    (cwd / "train.py").write_text("two")
    (cwd / "longer.py").write_text("longer")
    (cwd / "same.py").write_text("one")  # saved again
    for name in ("gone.py", "dir.py", "fifo.py"):
        (cwd / name).unlink()
    (cwd / "dir.py").mkdir()
    os.mkfifo(cwd / "fifo.py")
    assert changed(found, cwd, digests) == {
        "train.py": "changed",
        "longer.py": "changed",
        "gone.py": "is gone",
        "dir.py": "is no file any more",
        "fifo.py": "is no file any more",
    }


def test_what_the_attempt_wrote_is_not_its_code(cwd, digests):
    """Data that changed while it ran; a script that changed was edited by somebody."""
    names = ["train.py", "data.csv", "model.pt", "log", "out.ipynb", "in.ipynb"]
    (cwd / "in.ipynb").write_text("old")
    (cwd / "out.ipynb").write_text("old")
    (cwd / "model.pt").write_text("old")
    (cwd / "log").write_text("old")
    found = look(names, cwd, digests)
    assert without_written(found, cwd, digests) is found
    (cwd / "train.py").write_text("two")
    (cwd / "model.pt").write_text("new")
    (cwd / "out.ipynb").write_text("new")
    (cwd / "log").unlink()
    left = without_written(found, cwd, digests)
    assert left.files == {name: found.files[name] for name in ("train.py", "data.csv", "in.ipynb")}
    assert left.name != found.name


def test_names_that_are_no_text_are_kept(cwd, folder, digests):
    """The bytes of a file's name survive the record."""
    (cwd / os.fsdecode(b"\xff.py")).write_text("one")
    found = look(["\udcff.py"], cwd, digests)
    stored = read(folder, write(folder, found))
    assert stored == found
    assert changed(stored, cwd, digests) == {}


def test_a_crash_before_the_name_leaves_nothing_that_is_read(cwd, folder, digests, monkeypatch):
    """The file is synced before it has its name, and its name before anything rests on it."""
    done = []
    real_sync, real_rename = code.sync, os.rename

    def sync(fd: int) -> None:
        done.append("sync " + ("file" if stat.S_ISREG(os.fstat(fd).st_mode) else "folder"))
        real_sync(fd)

    def rename(*args: object, **kwargs: object) -> None:
        done.append("rename")
        real_rename(*args, **kwargs)

    monkeypatch.setattr(code, "sync", sync)
    monkeypatch.setattr(os, "rename", rename)
    write(folder, look(["train.py"], cwd, digests))
    assert done == ["sync folder", "sync file", "rename", "sync folder"]


def test_a_killed_writers_record_is_synced_by_the_next(cwd, folder, digests, monkeypatch):
    """It may have died between the name and the sync of the folder: being there is no proof."""
    found = look(["train.py"], cwd, digests)
    write(folder, found)
    monkeypatch.setattr(code, "_durable", set())  # another process
    synced = []
    monkeypatch.setattr(code, "sync", synced.append)
    write(folder, found)
    assert len(synced) == 3  # the experiment's folder, the record, its folder
    write(folder, found)
    assert len(synced) == 3


def test_a_record_is_made_of_a_remembered_digest(cwd, tmp_path):
    """What has been hashed for the plan is not hashed again for each start."""
    late = Digests(now_ns=lambda: time.time_ns() + 60 * 10**9)
    first = look(["train.py"], cwd, late)
    assert first == look(["train.py"], cwd, late) == look(["train.py"], cwd, Digests())
