"""Declared outputs: what a pattern matches, what is refused, and what gives a change away."""

import os
import socket
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from holdfast.errors import ResultInvalidError, StateReadError, StateWriteError
from holdfast.lifecycle.records import ResultRef
from holdfast.provenance.digests import Digests
from holdfast.results import outputs
from holdfast.results.going_on import GaveUpError
from holdfast.store.files import Files

LATER_NS = 3_600_000_000_000


def put(cwd: Path, *paths: str, data: bytes = b"data") -> None:
    for path in paths:
        file = cwd / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def paths(cwd: Path, *patterns: str) -> list[str]:
    outputs.inspect(cwd, patterns)
    return [ref.path for ref in outputs.take(cwd, patterns, Digests())]


def fault(cwd: Path, *patterns: str) -> str:
    """What is wrong with them, to who takes them and to who only looks."""
    with pytest.raises(ResultInvalidError) as caught:
        outputs.take(cwd, patterns, Digests())
    with pytest.raises(ResultInvalidError) as seen:
        outputs.inspect(cwd, patterns)
    assert str(seen.value) == str(caught.value)
    return str(caught.value)


# -- what a pattern matches -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("model.pt", ["model.pt"]),
        ("./model.pt", ["model.pt"]),
        ("*.pt", ["best.pt", "model.pt"]),
        ("model.p?", ["model.pt"]),
        ("[bm]*.pt", ["best.pt", "model.pt"]),
        ("[[]1].pt", ["[1].pt"]),
        ("plots/*", ["plots/a.png", "plots/b.png"]),
        ("*/a.png", ["linked/a.png", "plots/a.png"]),
        ("**/*.png", ["plots/a.png", "plots/b.png", "plots/old/c.png"]),
        ("plots/**", ["plots/a.png", "plots/b.png", "plots/old/c.png"]),
        ("plots/**/c.png", ["plots/old/c.png"]),
        (".hidden", [".hidden"]),
        (".h*", [".hidden"]),
        ("linked/a.png", ["linked/a.png"]),
    ],
)
def test_a_pattern_matches_files_as_a_shell_would(
    tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    """Stars stay within a name and pass hidden files by, `**` goes through folders, not links."""
    put(tmp_path, "model.pt", "best.pt", ".hidden", "plots/a.png", "plots/b.png")
    put(tmp_path, "plots/old/c.png", "plots/.cache/d.png")
    if "[[]" in pattern:
        put(tmp_path, "[1].pt")
    (tmp_path / "linked").symlink_to("plots")
    assert paths(tmp_path, pattern) == expected
    assert outputs.unmatched([pattern], expected) == []


def test_what_two_patterns_match_is_one_output(tmp_path: Path) -> None:
    """Files are recorded once, sorted by path, with size and digest of their content."""
    put(tmp_path, "b.pt", "a.pt", data=b"abc")
    found = outputs.take(tmp_path, ["b.pt", "*.pt"], Digests())
    digest = sha256(b"abc").hexdigest()
    assert found == tuple(ResultRef(path=f"{n}.pt", size=3, sha256=digest) for n in "ab")


def test_a_name_that_is_no_utf8_is_found_again(tmp_path: Path) -> None:
    """A program may name its files in any bytes, and a pattern may match them."""
    name = os.fsdecode(b"plot-\xff.png")
    put(tmp_path, name)
    found = outputs.take(tmp_path, ["*.png"], Digests())
    assert outputs.verify(tmp_path, found, Digests()) is None


def test_patterns_that_no_recorded_path_matches_are_named() -> None:
    """Somebody who declared less recorded less; that does for nobody who declares more."""
    recorded = ["model.pt", "plots/a.png", "plots/.b.png"]
    assert outputs.unmatched(["model.pt", "plots/*.png", "**/a.png"], recorded) == []
    wanted = ["model.pt", "plots/*.jpg", "*.png", "plots", "plots/a.png/x", "plots/*.b.png"]
    assert outputs.unmatched(wanted, recorded) == wanted[1:]
    assert outputs.unmatched([], recorded) == []
    assert outputs.unmatched(["a"], []) == ["a"]


# -- what is refused ------------------------------------------------------------------------------


def test_a_missing_output_is_named(tmp_path: Path) -> None:
    """Everything that is missing, at once: the next attempt may take hours, too."""
    put(tmp_path, "there.pt")
    assert fault(tmp_path, "there.pt", "model.pt") == "output model.pt is missing"
    assert fault(tmp_path, "plots/*.png") == "output plots/*.png matches no file"
    both = fault(tmp_path, "model.pt", "plots/*.png")
    assert both == "output model.pt is missing; output plots/*.png matches no file"
    assert fault(tmp_path, *"abcdef") == (
        "output a is missing; output b is missing; output c is missing; output d is missing; "
        "and 2 more"
    )
    assert fault(tmp_path, "there.pt/model.pt") == "output there.pt/model.pt is missing"


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    (path.parent / "data").write_bytes(b"data")
    path.symlink_to("data")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_directory, "is a directory"),
        (_fifo, "is not a regular file"),
        (_socket, "is not a regular file"),
        (_link, "is a symbolic link, which is never followed"),
        (_loop, "is a symbolic link, which is never followed"),
    ],
)
def test_only_regular_files_are_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], words: str
) -> None:
    """Nothing else has a content that stays; and nobody waits for a FIFO."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "model.pt")
    assert fault(tmp_path, "model.pt") == f"output model.pt {words}"
    if make is not _directory:
        assert fault(tmp_path, "*.pt") == f"output model.pt {words}"


def test_a_folder_beside_the_files_is_passed_by(tmp_path: Path) -> None:
    """`plots/*` means the plots; where there is nothing but a folder, there are none."""
    put(tmp_path, "plots/a.png", "plots/old/b.png")
    assert paths(tmp_path, "plots/*") == ["plots/a.png"]
    assert fault(tmp_path, "*") == "output * matches no file"


@pytest.fixture
def unprivileged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory in which files can be unreadable: to root they never are."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)  # what is above it needs no right, by a relative path
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    yield Path()
    if uid == 0:
        os.seteuid(0)
    for folder in tmp_path.iterdir():
        folder.chmod(0o755)


def test_an_unreadable_output_is_the_fault_of_its_attempt(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Who made it can mend it; whoever waits for the disk would wait for ever."""
    put(tmp_path, "model.pt", "plots/a.png")
    (tmp_path / "model.pt").chmod(0)
    (tmp_path / "plots").chmod(0)
    cwd = request.getfixturevalue("unprivileged")
    assert "output model.pt cannot be read: Permission denied" in fault(cwd, "model.pt")
    assert "output plots/* cannot be looked for: Permission denied" in fault(cwd, "plots/*")
    assert "output plots/a.png cannot be looked for" in fault(cwd, "plots/a.png")


# -- durability -----------------------------------------------------------------------------------


class Recording(Files):
    """Notes what is synchronised; refuses it from the one with that number on."""

    def __init__(self, refused_from: int = 1_000) -> None:
        self.synced: list[str] = []
        self.refused_from = refused_from

    def fsync(self, fd: int) -> None:
        if len(self.synced) >= self.refused_from:
            raise OSError(5, "Input/output error")
        self.synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        super().fsync(fd)


def test_files_folders_and_what_is_above_them_are_made_durable(tmp_path: Path) -> None:
    """An attempt may have made the folders, too, and a power cut would take them back."""
    put(tmp_path, "a/b/one", "a/b/two", "a/three")
    files = Recording()
    outputs.take(tmp_path, ["a/**"], Digests(), files=files)
    made = [Path(path).relative_to(tmp_path).as_posix() for path in files.synced]
    assert made == ["a/b/one", "a/b/two", "a/b", "a/three", "a", "."]


@pytest.mark.parametrize("refused_from", range(6))
def test_a_disk_that_refuses_is_not_the_fault_of_the_attempt(
    tmp_path: Path, refused_from: int
) -> None:
    """Whatever could not be made durable is taken later."""
    put(tmp_path, "a/b/one", "a/b/two", "a/three")
    with pytest.raises(StateWriteError, match="making outputs durable"):
        outputs.take(tmp_path, ["a/**"], Digests(), files=Recording(refused_from))


def test_what_is_written_to_all_the_time_is_not_recorded(tmp_path: Path) -> None:
    """A digest of half of it would be wrong a moment later, and no fault of the attempt."""
    put(tmp_path, "model.pt")

    def busy() -> int:
        with (tmp_path / "model.pt").open("ab") as file:
            file.write(b"more")
        return 0

    with pytest.raises(StateReadError, match="it changes all the time"):
        outputs.take(tmp_path, ["model.pt"], Digests(now_ns=busy))


# -- verification ---------------------------------------------------------------------------------


def taken(cwd: Path, *names: str, data: bytes = b"x" * 1204) -> tuple[ResultRef, ...]:
    put(cwd, *names, data=data)
    return outputs.take(cwd, names, Digests())


def test_what_became_of_an_output_is_told(tmp_path: Path) -> None:
    """The first that is missing, truncated or altered, by what was recorded of it."""
    refs = taken(tmp_path, "model.pt", "plots/a.png")
    model = tmp_path / "model.pt"
    assert outputs.verify(tmp_path, refs, Digests()) is None
    assert outputs.verify(tmp_path, (), Digests()) is None

    model.write_bytes(b"abc")
    told = "output model.pt was altered: it has 3 bytes, recorded are 1,204"
    assert outputs.verify(tmp_path, refs, Digests()) == told
    model.write_bytes(b"y" * 1204)
    told = "output model.pt was altered: its SHA-256 is not the recorded one"
    assert outputs.verify(tmp_path, refs, Digests()) == told
    model.unlink()
    assert outputs.verify(tmp_path, refs, Digests()) == "output model.pt is missing"
    (tmp_path / "plots/a.png").unlink()
    (tmp_path / "plots").rmdir()
    assert outputs.verify(tmp_path, refs[1:], Digests()) == "output plots/a.png is missing"
    put(tmp_path, "plots")
    assert outputs.verify(tmp_path, refs[1:], Digests()) == "output plots/a.png is missing"


def test_a_link_in_the_place_of_an_output_is_no_output(tmp_path: Path) -> None:
    """Even if the same content lies behind it: that is somebody else's file."""
    refs = taken(tmp_path, "model.pt")
    (tmp_path / "model.pt").rename(tmp_path / "moved.pt")
    (tmp_path / "model.pt").symlink_to("moved.pt")
    told = "output model.pt is a symbolic link, which is never followed"
    assert outputs.verify(tmp_path, refs, Digests()) == told


@pytest.mark.parametrize("cached", [False, True])
def test_an_edit_is_found_although_its_time_was_set_back(tmp_path: Path, cached: bool) -> None:
    """As `cp -p` or a careful editor do; with the digest in a cache, too."""
    refs = taken(tmp_path, "model.pt", data=b"x" * (1 << 17))
    model = tmp_path / "model.pt"
    now = model.stat().st_mtime_ns
    cache = tmp_path / "index" / "digests"
    with Digests(cache, now_ns=lambda: now + LATER_NS) as digests:
        assert outputs.verify(tmp_path, refs, digests) is None
    assert cache.is_file()
    before = model.stat()
    with model.open("r+b") as file:
        file.write(b"y")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = model.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    again = digests if cached else Digests(cache)
    told = "output model.pt was altered: its SHA-256 is not the recorded one"
    assert outputs.verify(tmp_path, refs, again) == told


@pytest.mark.parametrize("path", ["../model.pt", "/etc/passwd", "a/../../model.pt", ""])
def test_a_recorded_path_does_not_lead_out(tmp_path: Path, path: str) -> None:
    """References come from files, which somebody may have edited."""
    ref = ResultRef(path=path, size=1, sha256="0" * 64)
    told = outputs.verify(tmp_path, [ref], Digests())
    assert told == f"output {path} is recorded under a path outside of its directory"


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "plots/\0"])
def test_a_recorded_path_that_there_cannot_be_is_told(tmp_path: Path, path: str) -> None:
    """Edited or not, nobody gets a traceback for it: of an output nothing is there, of a directory
    nothing is known.
    """
    (tmp_path / "plots").mkdir()
    ref = ResultRef(path=path, size=1, sha256="0" * 64)
    told = outputs.verify(tmp_path, [ref], Digests())
    assert told is not None
    assert "is recorded under a path that there cannot be" in told
    with pytest.raises(OSError, match=r"embedded null|surrogates"):
        outputs.verify(tmp_path / path, [ref], Digests())


def test_a_directory_that_is_gone_has_lost_nothing(tmp_path: Path) -> None:
    """A disk that is not mounted proves nothing about what is on it."""
    refs = taken(tmp_path / "project", "model.pt")
    (tmp_path / "project").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        outputs.verify(tmp_path / "project", refs, Digests())


def test_an_output_that_may_not_be_read_proves_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It was readable when it was recorded: somebody can give that back, and lose no hours."""
    refs = taken(tmp_path, "model.pt")
    (tmp_path / "model.pt").chmod(0)
    cwd = request.getfixturevalue("unprivileged")
    with pytest.raises(PermissionError):
        outputs.verify(cwd, refs, Digests())


def test_reading_a_large_output_can_be_given_up(tmp_path: Path) -> None:
    """Between two blocks: whoever presses Ctrl-C does not wait for fifty gigabytes."""
    put(tmp_path, "model.pt")
    os.truncate(tmp_path / "model.pt", 1 << 24)
    refs = outputs.take(tmp_path, ["model.pt"], Digests())
    asked = iter([True, True, False])
    with pytest.raises(GaveUpError):
        outputs.lost(tmp_path, refs, Digests(), lambda: next(asked))
    assert list(asked) == []


# -- what it takes --------------------------------------------------------------------------------


def test_the_weight_of_outputs_is_their_size(tmp_path: Path) -> None:
    """Syncing a file costs as much as reading some kilobytes; a search can cost anything."""
    put(tmp_path, "small")
    put(tmp_path, "large", data=bytes(1 << 20))
    put(tmp_path, "[1]", data=bytes(1 << 20))
    assert outputs.weight(tmp_path, []) == 0
    assert outputs.weight(tmp_path, ["missing"]) == 0
    small = outputs.weight(tmp_path, ["small"])
    assert 0 < small < 1 << 16
    assert outputs.weight(tmp_path, ["small", "large"]) == small + (1 << 20)
    assert outputs.weight(tmp_path, ["[[]1]"]) == 1 << 20
    assert outputs.weight(tmp_path, ["s*", "missing/*"]) == small
    assert outputs.weight(tmp_path, ["**"]) == small + (2 << 20)
    put(tmp_path, *(f"many/{number}" for number in range(300)))
    assert outputs.weight(tmp_path, ["s*"]) == small
    assert outputs.weight(tmp_path, ["many/1*"]) > 1 << 30
    assert outputs.weight(tmp_path, ["many/1"]) == small
