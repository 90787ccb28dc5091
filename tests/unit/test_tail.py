"""A journal has room made for its lines where that is cheaper, and none is left in the end."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.errors import StateWriteError
from holdfast.store.claim import Claim
from holdfast.store.files import Files
from holdfast.store.manager import StateManager
from holdfast.store.place import Opened
from holdfast.store.tail import LARGEST, Tail

ID = "exp_7"
LONG = "x" * 3000


class Roomy(Files):
    """A file system on which room is made, whatever the real one is; `room` says otherwise."""

    room = True
    #: Nothing is written behind this offset, nor a part of what would lead there.
    limit = 1 << 40

    def overwrites_cheaply(self, fd: int) -> bool:
        return self.room

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if offset + len(data) > self.limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write_at(fd, data, offset)


class Bare(Roomy):
    room = False


@pytest.fixture(params=[Roomy, Bare])
def files(request: pytest.FixtureRequest) -> Roomy:
    made: Roomy = request.param()
    return made


@pytest.fixture
def manager(state_dir: Path, files: Roomy) -> StateManager:
    made = StateManager(state_dir, files=files)
    made.create(ID, num_processes=1)
    return made


@pytest.fixture
def claim(manager: StateManager) -> Iterator[Claim]:
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        yield claim


def journal(claim: Claim) -> Path:
    return claim.folder / "journal" / f"{claim.epoch:08d}.jsonl"


def lines(path: Path) -> bytes:
    return path.read_bytes().rstrip(b"\0")


def test_lines_go_into_the_room_until_it_is_used_up(claim: Claim, files: Roomy) -> None:
    """The file grows now and then, in powers of two; what lies behind the lines is zeros."""
    path = journal(claim)
    sizes = set()
    for _ in range(60):
        claim.record("requeue", 0, proven_dead=True)
        claim.record("start", 0)
        data = path.read_bytes()
        assert data.rstrip(b"\0").endswith(b"}\n")
        assert (len(data) > len(lines(path))) == files.room
        sizes.add(len(data))
    if files.room:
        assert sizes <= {4096 << n for n in range(5)}
        assert len(sizes) >= 4
        assert max(sizes) < 2 * len(lines(path))
    else:
        assert len(sizes) == 60


def test_what_is_let_go_ends_with_its_last_line(claim: Claim, manager: StateManager) -> None:
    """No file that stays takes more than its lines do, and a listing takes it at a glance."""
    path = journal(claim)
    claim.release()
    data = path.read_bytes()
    assert data == lines(path)
    assert b'"released"' in data.splitlines()[-1]


def test_a_power_cut_that_brings_the_room_back_changes_nothing(
    claim: Claim, manager: StateManager
) -> None:
    """Nobody waits for the disk when a journal is cut to its size, so that it may not be."""
    path = journal(claim)
    claim.release()
    before = manager.load(ID), manager.history(ID), manager.list_experiments()
    path.write_bytes(path.read_bytes() + bytes(LARGEST - 1))
    assert (manager.load(ID), manager.history(ID), manager.list_experiments()) == before
    with manager.claim(ID) as again:
        assert again.state.revision == before[0].revision
        assert again.record("requeue", 0, proven_dead=True).revision == before[0].revision + 1


@pytest.mark.parametrize("more", [0, 1, 500])
def test_a_disk_that_has_room_for_a_line_and_no_more_takes_it(
    claim: Claim, files: Roomy, more: int
) -> None:
    """Room is only a wish: no line is refused because of the zeros that it would bring."""
    path = journal(claim)
    length = left = 0
    while left >= length or claim.state.revision < 11:  # until the next line finds no room
        before = len(lines(path))
        claim.record("requeue", 0, proven_dead=True)
        length = len(lines(path)) - before
        claim.record("start", 0)
        left = path.stat().st_size - len(lines(path))
        assert claim.state.revision < 99, "the next line is as long as the one that was measured"
    end = len(lines(path))
    files.limit = end + length + more
    claim.record("requeue", 0, proven_dead=True)
    assert path.stat().st_size == end + length
    with pytest.raises(StateWriteError, match="ENOSPC"):
        claim.record("start", 0, evidence=LONG)
    files.limit = 1 << 40
    claim.record("start", 0)


@pytest.mark.parametrize("cut", [1, 100, 299])
@pytest.mark.parametrize("evidence", ["-", LONG])
def test_what_a_refused_line_left_is_gone_before_the_next_one(
    claim: Claim, manager: StateManager, cut: int, evidence: str
) -> None:
    """A short line over a longer one that failed, a longer over a shorter: nothing shows."""
    path = journal(claim)
    before = lines(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + cut, hard))
    try:
        with pytest.raises(StateWriteError) as caught:
            claim.record("fail", 0, exit_code=1, error_message="?" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.stored == "old"
    assert path.read_bytes() == before
    claim.record("requeue", 0, proven_dead=True, evidence=evidence)
    data = lines(path)
    assert data.startswith(before)
    assert data.count(b"\n") == before.count(b"\n") + 1
    assert b"?" not in data
    assert manager.load(ID) == claim.state


@pytest.mark.parametrize("operation", ["truncate", "fdatasync"])
def test_what_cannot_be_taken_back_ends_the_claim(
    state_dir: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what stands behind the last line nothing would be known any more."""
    files = Roomy()
    manager = StateManager(state_dir, files=files)
    manager.create(ID, num_processes=1)
    with manager.claim(ID) as claim:
        claim.record("start")
        files.limit = 0

        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(files, operation, refuse)
        with pytest.raises(StateWriteError) as caught:
            claim.record("start", 0)
        assert (caught.value.operation, caught.value.stored) == ("writing", "unknown")
        monkeypatch.undo()
        files.limit = 1 << 40
        assert "could not be taken back" in repr(claim)
    assert manager.load(ID).revision == 1


def test_a_line_is_written_in_pieces_if_the_disk_takes_pieces(tmp_path: Path) -> None:
    """Every piece goes where the one before it ended, and what follows the line is zeros."""

    class Slow(Roomy):
        def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            return os.pwrite(fd, data[:7], offset)

    files = Slow()
    with Opened.at(files, tmp_path) as folder:
        file = Opened(files, tmp_path / "a", files.open_new("a", folder.fd))
        tail = Tail.of(file)
        for number in range(50):
            tail.size = tail.write(b"%d " % number * 5 + b"\n")
        file.close()
    data = (tmp_path / "a").read_bytes()
    assert data.rstrip(b"\0") == b"".join(b"%d " % number * 5 + b"\n" for number in range(50))


def test_only_a_block_device_of_ones_own_is_written_over_cheaply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, networks and what copies on write would pay twice for every zero."""
    real = os.fstat
    answers: list[bool] = []

    def told(major: int) -> Callable[[int], os.stat_result]:
        def fstat(fd: int) -> os.stat_result:
            fields = list(real(fd))
            fields[2] = os.makedev(major, 7)
            return os.stat_result(fields)

        return fstat

    fd = os.open(tmp_path, os.O_RDONLY)
    for major in (0, 8, 253, 259):
        monkeypatch.setattr(os, "fstat", told(major))
        answers.append(Files().overwrites_cheaply(fd))
        monkeypatch.undo()
    os.close(fd)
    assert answers == [False, True, True, True]
