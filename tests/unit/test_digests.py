"""A remembered digest is that of the file as it is now, whatever happened to file and cache."""

import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import StateReadError
from holdfast.provenance import digests
from holdfast.provenance.digests import MOST, WORTHWHILE, Digests

LARGE = b"x" * WORTHWHILE
FORGED = "f" * 64


def later() -> int:
    """A time at which nothing that a test wrote is racy any more."""
    return time.time_ns() + 60 * 10**9


def real(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settle(path: Path, seen_ns: int) -> None:
    """Have *path* changed at another time than *seen_ns*: clocks of files tick slowly."""
    while path.stat().st_ctime_ns == seen_ns:
        os.chmod(path, 0o644)


def edited(cache: Path, edit: Callable[[list], object]) -> None:
    """Have *edit* change the rows of the cache, under a right checksum."""
    found = json.loads(cache.read_bytes()[9:])
    edit(found["files"])
    body = json.dumps(found).encode()
    cache.write_bytes(b"%08x %s\n" % (zlib.crc32(body), body))


def forge(rows: list) -> None:
    for row in rows:
        row[5] = FORGED


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "digests"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "data.bin"
    made.write_bytes(LARGE)
    return made


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_digest_is_that_of_all_bytes(tmp_path, size):
    """Whatever the size is to the size of a block."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    found = Digests().of(path)
    assert (found.size, found.sha256, found.mtime_ns) == (size, real(path), None)


def test_a_file_is_known_in_the_next_run(file, cache):
    """What one run hashed, the next one does not read again."""
    with Digests(cache, now_ns=later) as first:
        assert first.sha256(file) == real(file)
    edited(cache, forge)
    assert Digests(cache).sha256(file) == FORGED


def test_a_file_is_known_by_all_its_names(file, cache, tmp_path):
    """A link leads to the content of its target, which is hashed once."""
    with Digests(cache, now_ns=later) as first:
        first.of(file)
    edited(cache, forge)
    (tmp_path / "link").symlink_to(file)
    assert Digests(cache).sha256(tmp_path / "link") == FORGED


def test_a_file_just_touched_is_not_remembered(file, cache):
    """It may change once more without looking changed."""
    touched_ns = file.stat().st_mtime_ns
    with Digests(cache, now_ns=lambda: touched_ns) as first:
        first.of(file)
        file.write_bytes(LARGE.upper())
        assert first.sha256(file) == real(file)
    assert not cache.exists()


def test_times_in_the_future_are_not_believed(file, cache):
    """The clock was set back: the moment in which the file was changed comes once more."""
    day_ago = time.time_ns() - 86_400 * 10**9
    with Digests(cache, now_ns=lambda: day_ago) as first:
        first.of(file)
    assert not cache.exists()


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["write", "replace", "append", "truncate", "touch"]),
        st.integers(0, 255),
        st.booleans(),
    ),
    max_size=8,
)


def edit(path: Path, what: str, byte: int, restore: bool) -> None:
    before = path.stat()
    if what == "write":
        with path.open("r+b") as file:
            file.write(bytes([byte]))
    elif what == "replace":
        other = path.with_name("other")
        other.write_bytes(bytes([byte]) * before.st_size)
        other.replace(path)
    elif what == "append":
        with path.open("ab") as file:
            file.write(bytes([byte]))
    elif what == "truncate":
        os.truncate(path, max(1, before.st_size - 1))
    else:
        path.touch()
    if restore:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@given(edits=EDITS)
def test_a_remembered_digest_is_the_real_one(tmp_path_factory, edits):
    """Edits of the same size, with the old time put back, are noticed, too: by ctime."""
    folder = tmp_path_factory.mktemp("edits")
    path, cache = folder / "data", folder / "cache" / "digests"
    path.write_bytes(LARGE + b"end")
    memory = Digests(now_ns=later)
    for each in [None, *edits]:
        if each is not None:
            seen_ns = path.stat().st_ctime_ns
            edit(path, *each)
            settle(path, seen_ns)
        with Digests(cache, now_ns=later) as disk:
            assert memory.sha256(path) == disk.sha256(path) == real(path)
    edited(cache, forge)
    if path.stat().st_size >= WORTHWHILE:  # it was the cache that has been right
        assert Digests(cache).sha256(path) == FORGED


@given(edits=EDITS)
def test_edits_in_quick_succession_are_noticed(tmp_path_factory, edits):
    """Also those that no time of the file tells apart."""
    folder = tmp_path_factory.mktemp("edits")
    path, cache = folder / "data", folder / "cache" / "digests"
    path.write_bytes(LARGE + b"end")
    memory = Digests()
    for each in edits:
        edit(path, *each)
        with Digests(cache) as disk:
            assert memory.sha256(path) == disk.sha256(path) == real(path)


def test_what_another_program_learnt_stays(file, cache, tmp_path):
    """Two that write at once lose nothing of each other, unless at the very same moment."""
    other = tmp_path / "other.bin"
    other.write_bytes(LARGE * 2)
    one, two = Digests(cache, now_ns=later), Digests(cache, now_ns=later)
    one.of(file)
    two.of(other)
    one.store()
    two.store()
    edited(cache, forge)
    third = Digests(cache)
    assert third.sha256(file) == third.sha256(other) == FORGED


def test_many_that_write_at_once_leave_a_whole_cache(file, cache, tmp_path):
    """Whoever is last, what they leave can be read, and no draft stays."""
    others = [tmp_path / f"{number}.bin" for number in range(8)]
    for number, other in enumerate(others):
        other.write_bytes(LARGE + bytes([number]))

    def run(other: Path) -> None:
        for _ in range(10):
            with Digests(cache, now_ns=later) as found:
                found.of(other)
                found.of(file)
            cache.unlink(missing_ok=True)

    threads = [threading.Thread(target=run, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Digests(cache, now_ns=later) as last:
        last.of(file)
    edited(cache, forge)
    assert Digests(cache).sha256(file) == FORGED
    assert os.listdir(cache.parent) == [cache.name]


def test_the_least_recently_used_is_forgotten(file, cache, tmp_path):
    """The cache has a size that it never exceeds, and keeps what is in use."""
    old = tmp_path / "old.bin"
    old.write_bytes(LARGE * 2)
    with Digests(cache, now_ns=later) as first:
        first.of(old)
        first.of(file)

    def fill(rows: list) -> None:
        rows[:] = [*rows, *([7, number, WORTHWHILE, 1, 1, FORGED] for number in range(MOST - 2))]

    edited(cache, fill)
    new = tmp_path / "new.bin"
    new.write_bytes(LARGE * 3)
    with Digests(cache, now_ns=later) as second:
        second.of(file)
        second.of(new)
    rows = json.loads(cache.read_bytes()[9:])["files"]
    assert len(rows) == MOST
    inodes = {row[1] for row in rows if row[0] != 7}
    assert inodes == {file.stat().st_ino, new.stat().st_ino}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": lambda cache: cache.write_bytes(cache.read_bytes().replace(b"1", b"2", 1)),
    "cut": lambda cache: os.truncate(cache, cache.stat().st_size // 2),
    "empty": lambda cache: os.truncate(cache, 0),
    "huge": lambda cache: os.truncate(cache, 1 << 40),
    "a digest too short": lambda cache: edited(cache, lambda rows: rows[0].__setitem__(5, "f")),
    "a digest that is none": lambda cache: edited(cache, lambda rows: rows[0].__setitem__(5, [])),
    "a row too short": lambda cache: edited(cache, lambda rows: rows[0].pop()),
    "a row too long": lambda cache: edited(cache, lambda rows: rows[0].append(1)),
    "no row": lambda cache: edited(cache, lambda rows: rows.append(None)),
    "lists": lambda cache: edited(cache, lambda rows: rows.append([[], [], 1])),
    "a link": lambda cache: (cache.rename(f"{cache}2"), cache.symlink_to(f"{cache}2")),
    "a FIFO": lambda cache: (cache.unlink(), os.mkfifo(cache)),
    "a directory": lambda cache: (cache.unlink(), cache.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_no_cache(file, cache, damage):
    """It costs time, and neither a wrong digest nor an error."""
    with Digests(cache, now_ns=later) as first:
        first.of(file)
    DAMAGE[damage](cache)
    with Digests(cache, now_ns=later) as second:
        assert second.sha256(file) == real(file)


def test_a_directory_that_takes_no_cache_is_no_error(file, tmp_path):
    """A full or read-only disk, or a file in the way, stops nothing."""
    with Digests(file / "digests", now_ns=later) as first:
        assert first.sha256(file) == real(file)
    with Digests(tmp_path / "not" / "there" / "digests", now_ns=later) as second:
        assert second.sha256(file) == real(file)
    assert sorted(os.listdir(tmp_path)) == [file.name]


def test_what_a_killed_writer_left_is_removed(file, cache):
    """Once it is old: a young draft is another program's that still writes."""
    cache.parent.mkdir()
    old, young = (cache.parent / f".{cache.name}-{name}.tmp" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    with Digests(cache, now_ns=later) as first:
        first.of(file)
    assert sorted(os.listdir(cache.parent)) == sorted([cache.name, young.name])


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device", "loop", "nul"])
def test_what_is_no_file_is_an_error_that_names_it(tmp_path, kind):
    """And nobody waits for a FIFO's writer."""
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path(os.devnull)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nul":
        path = tmp_path / "a\0b"
    with pytest.raises(StateReadError) as caught:
        Digests().of(path)
    assert caught.value.path == path


class Restless(Digests):
    """Somebody changes the file whenever the clock is looked at: before each reading."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(now_ns=self.change)
        self.path, self.left = path, times

    def change(self) -> int:
        if self.left:
            self.left -= 1
            with self.path.open("ab") as file:
                file.write(b"more")
        return later()


def test_a_file_that_changes_while_it_is_read_is_read_again(file):
    """The digest is of one moment, or there is none."""
    found = Restless(file, 2).of(file)
    assert (found.size, found.sha256) == (file.stat().st_size, real(file))


def test_a_file_that_never_rests_is_an_error(file):
    """Not a digest of what it never was."""
    with pytest.raises(StateReadError, match="changes all the time"):
        Restless(file, 1000).of(file)
    assert digests.WORTHWHILE < file.stat().st_size < WORTHWHILE + 100
