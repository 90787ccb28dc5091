"""One epoch's journal as it is found after a crash, after damage, and behind a successor's back."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.errors import SchemaTooNewError, StateCorruptError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ProcessStatus
from holdfast.store import history, journal
from holdfast.store.files import Files
from holdfast.store.journal import read_truth
from holdfast.store.lines import decode, encode
from holdfast.store.manager import StateManager
from holdfast.store.place import Opened

ID = "exp_7"


@pytest.fixture
def written(manager: StateManager) -> Path:
    """The only journal of an experiment with five acknowledged steps, let go in good order."""
    manager.create(ID, num_processes=3)
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        claim.record("start", 1)
        claim.record("complete", 0, exit_code=0)
        claim.record("fail", 1, exit_code=3, error_message="no such level")
    return manager.folder(ID) / "journal" / "00000001.jsonl"


@pytest.fixture
def folder(manager: StateManager, written: Path) -> Iterator[Opened]:
    with Opened.at(Files(), manager.folder(ID)) as folder:
        yield folder


def boundaries(data: bytes) -> list[int]:
    """Offsets behind every line."""
    return [at + 1 for at, byte in enumerate(data) if byte == 0x0A]


def test_a_tail_torn_at_any_byte_costs_only_the_torn_line(
    manager: StateManager, written: Path, folder: Opened
) -> None:
    """Every line that is whole counts, whatever stands of the one behind it."""
    data = written.read_bytes()
    ends = boundaries(data)
    whole: dict[int, ExperimentState] = {}
    for cut in range(ends[1], len(data) + 1):
        written.write_bytes(data[:cut])
        found = read_truth(folder)
        assert found is not None
        last = max(end for end in ends if end <= cut)
        assert found.offset == last
        assert found.torn == (cut != last)
        assert whole.setdefault(last, found.state) == found.state
    assert [state.revision for _, state in sorted(whole.items())] == [0, 1, 2, 3, 4, 5, 5]


def test_a_base_torn_at_any_byte_leaves_the_truth_where_it_was(
    manager: StateManager, written: Path, folder: Opened
) -> None:
    """An owner that died before its base was whole has not taken anything over."""
    data = written.read_bytes()
    ends = boundaries(data)
    for cut in range(ends[0], ends[1]):
        written.write_bytes(data[:cut])
        assert read_truth(folder) is None


@pytest.mark.parametrize(
    ("tail", "torn"),
    [
        (b"\0", False),
        (b"\0" * 4096, False),
        (b"\0" * 7 + b"\n", True),
        (b"\0" * 512 + b'rest of a line"}]}\n' + b"\0" * 100, True),
        (b"0123abcd {" + b"\0" * 512 + b"}\n\0", True),
        (b"0123abcd {\0", True),
        (b"\n", True),
        (b"\xff" * 30 + b"\n\n", True),
    ],
)
def test_what_stands_behind_the_lines_counts_for_nothing(
    manager: StateManager, written: Path, folder: Opened, tail: bytes, torn: bool
) -> None:
    """Zeros are room for a line, or a size without data; sectors of one line may be missing."""
    data = written.read_bytes()
    before = read_truth(folder)
    assert before is not None
    written.write_bytes(data + tail)
    found = read_truth(folder)
    assert found is not None
    assert (found.state, found.offset) == (before.state, before.offset)
    assert found.torn == torn


def test_a_line_that_lacks_nothing_but_its_end_is_torn(written: Path, folder: Opened) -> None:
    """It may be the first byte of a sector that was not written: nobody was promised anything."""
    data = written.read_bytes()
    written.write_bytes(data[:-1] + b"\0" * 4096)
    found = read_truth(folder)
    assert found is not None
    assert found.offset == boundaries(data)[-2]
    assert found.torn


def test_zeros_before_a_valid_line_are_damage(manager: StateManager, written: Path) -> None:
    """Every line was on the disk before the next one was begun: a zeroed sector lost a promise."""
    data = written.read_bytes()
    ends = boundaries(data)
    for start, end in (
        (ends[2], ends[3]),
        (ends[2] - 1, ends[3]),
        (ends[2] + 5, ends[4] - 5),
        (ends[1], ends[-2]),
        (0, ends[0]),
    ):
        written.write_bytes(data[:start] + bytes(end - start) + data[end:])
        with pytest.raises(StateCorruptError):
            manager.load(ID)


def test_a_damaged_line_before_a_valid_one_is_refused_at_every_line(
    manager: StateManager, written: Path
) -> None:
    """One flipped bit: the file is named with the place, nothing behind it is guessed."""
    data = written.read_bytes()
    starts = [0, *boundaries(data)[:-2]]
    for start in starts:
        flipped = bytearray(data)
        flipped[start + 20] ^= 0x01
        written.write_bytes(flipped)
        with pytest.raises(StateCorruptError) as caught:
            manager.load(ID)
        assert caught.value.path == written
        assert f"byte {start}" in caught.value.problem
        assert written.read_bytes() == flipped
    written.write_bytes(data)
    assert manager.load(ID).revision == 5


def test_every_single_bit_flip_is_noticed_or_costs_no_acknowledged_line(
    manager: StateManager, written: Path, folder: Opened
) -> None:
    """No flipped bit makes another valid state: it is refused, or only the last line is dropped."""
    data = written.read_bytes()
    good = read_truth(folder)
    assert good is not None
    last = boundaries(data)[-2]
    for at in [*range(0, last, 3), *range(last - 1, len(data))]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        written.write_bytes(flipped)
        try:
            found = read_truth(folder)
        except StateCorruptError:
            continue
        # The last line says that the owner let go: without it the state is the same, unreleased.
        assert at >= last
        assert found is not None
        assert found.state.process_progress == good.state.process_progress


def test_a_damaged_line_feed_loses_no_line_behind_it(manager: StateManager, written: Path) -> None:
    """Two lines that a damaged line feed joins are damage, no torn tail to be dropped."""
    data = written.read_bytes()
    for at in (boundaries(data)[-2] - 1, len(data) - 1):
        written.write_bytes(data[:at] + b"\x1a" + data[at + 1 :])
        with pytest.raises(StateCorruptError, match="damaged"):
            manager.load(ID)


def test_a_hole_between_two_lines_is_refused(manager: StateManager, written: Path) -> None:
    """A line that was lost from the middle leaves revisions that do not follow one another."""
    lines = written.read_bytes().splitlines(keepends=True)
    for missing in range(2, len(lines) - 1):
        written.write_bytes(b"".join(lines[:missing] + lines[missing + 1 :]))
        with pytest.raises(StateCorruptError, match="of revision"):
            manager.load(ID)


def test_a_line_that_is_there_twice_is_refused(manager: StateManager, written: Path) -> None:
    """A copied line would run a transition twice."""
    lines = written.read_bytes().splitlines(keepends=True)
    for twice in range(2, len(lines) - 1):
        written.write_bytes(b"".join(lines[: twice + 1] + lines[twice:]))
        with pytest.raises(StateCorruptError, match="of revision"):
            manager.load(ID)


def test_lines_in_another_order_are_refused(manager: StateManager, written: Path) -> None:
    """Valid lines do not make a journal unless each continues the one before it."""
    lines = written.read_bytes().splitlines(keepends=True)
    lines[3], lines[4] = lines[4], lines[3]
    written.write_bytes(b"".join(lines))
    with pytest.raises(StateCorruptError, match="of revision"):
        manager.load(ID)


def test_a_journal_without_a_claim_is_refused(manager: StateManager, written: Path) -> None:
    """A journal is synced before it gets its name: an empty one is damage, not a crash.

    Passing over it would silently take an older epoch for the truth.
    """
    riddle = "its first line is no claim"
    for content, told in (
        (b"", "is empty"),
        (b"\0" * 100, "is empty"),
        (b"not a journal\n", riddle),
    ):
        written.with_name("00000002.jsonl").write_bytes(content)
        with pytest.raises(StateCorruptError, match=told) as caught:
            manager.load(ID)
        assert caught.value.path == written.with_name("00000002.jsonl")


def test_a_claim_without_a_base_is_passed_over(
    manager: StateManager, written: Path, folder: Opened
) -> None:
    """An owner that died between its claim and its base: its predecessor's word stands."""
    before = read_truth(folder)
    claim_line = written.read_bytes().splitlines(keepends=True)[0]
    written.with_name("00000002.jsonl").write_bytes(claim_line)
    assert read_truth(folder) == before
    with manager.claim(ID) as claim:
        assert claim.epoch == 3
        assert claim.state.revision == 5


def test_an_unknown_kind_of_line_is_refused(manager: StateManager, written: Path) -> None:
    """A line that this version does not understand may matter."""
    data = written.read_bytes()
    written.write_bytes(data + encode({"kind": "renamed", "revision": 6}))
    with pytest.raises(StateCorruptError, match="'renamed'"):
        manager.load(ID)


def test_a_base_of_a_newer_schema_is_refused(manager: StateManager, written: Path) -> None:
    """A newer holdfast claimed the experiment: the older one keeps its hands off."""
    newer = encode(
        {"kind": "base", "at": "2024-01-15T12:00:00+00:00", "state": {"schema_version": 99}}
    )
    claim_line = written.read_bytes().splitlines(keepends=True)[0]
    written.with_name("00000002.jsonl").write_bytes(claim_line + newer)
    with pytest.raises(SchemaTooNewError):
        manager.load(ID)
    with pytest.raises(SchemaTooNewError):
        manager.claim(ID)


@pytest.mark.parametrize(
    "change",
    [
        {"event": "start", "from": "pending", "to": "running", "process": 9, "set": {}},
        {"event": "start", "from": "pending", "process": 2, "set": {}},
        {"event": "start", "from": "pending", "to": "running", "process": 2},
        {"event": "x", "from": "", "to": "", "process": 2, "set": {"status": "frozen"}},
        {"event": "x", "from": "", "to": "", "set": {"started_at": "soon"}},
        "start",
        None,
    ],
)
def test_a_change_that_cannot_be_one_is_refused(
    manager: StateManager, written: Path, change: object
) -> None:
    """A right checksum over nonsense is still an error that names the file, no traceback."""
    line = {"kind": "changes", "revision": 6, "at": "2024-01-15T12:00:00+00:00"}
    written.write_bytes(written.read_bytes() + encode(line | {"changes": [change]}))
    with pytest.raises(StateCorruptError) as caught:
        manager.load(ID)
    assert caught.value.path == written


@pytest.mark.parametrize("at", [None, 7, "soon"])
def test_a_line_without_its_time_is_refused(
    manager: StateManager, written: Path, at: object
) -> None:
    """Every line says when it was recorded."""
    line = {"kind": "changes", "revision": 6, "at": at, "changes": []}
    written.write_bytes(written.read_bytes() + encode(line))
    with pytest.raises(StateCorruptError):
        manager.load(ID)


def test_history_ends_where_the_successor_began(manager: StateManager, written: Path) -> None:
    """A line that a fenced owner wrote behind its successor's back counts for nothing."""
    late = encode(
        {
            "kind": "changes",
            "revision": 6,
            "at": "2024-01-15T12:00:00+00:00",
            "changes": [
                {
                    "event": "start",
                    "from": "pending",
                    "to": "running",
                    "process": 2,
                    "set": {"status": "running"},
                }
            ],
        }
    )
    with manager.claim(ID) as claim:
        claim.record("requeue", 1, max_attempts=2)
    expected = manager.history(ID)
    written.write_bytes(written.read_bytes() + late)
    assert manager.history(ID) == expected
    assert manager.load(ID).process_progress[2].status is ProcessStatus.PENDING
    assert [step.event for step in expected if step.index == 1] == ["start", "fail", "requeue"]


def claimed(epoch: int, source: int | None, *, based: bool = True) -> bytes:
    """A journal in which the owner of *epoch* continues *source*, or has only claimed yet."""
    at = datetime(2024, 1, 15, tzinfo=UTC).isoformat()
    lines = [encode({"kind": "claim", "at": at, "owner": {"pid": epoch}})]
    if based:
        offset = {"epoch": source, "offset": 100 + (source or 0)}
        lines.append(encode({"kind": "base", "from": source and offset}))
    return b"".join(lines)


def chained(folder: Path, files: Files) -> list[tuple[int, int | None]]:
    with Opened.at(files, folder) as journals:
        return [(each.epoch, until) for each, until in history.chain(journals)]


def test_history_follows_the_journals_that_were_folded(tmp_path: Path) -> None:
    """A claimant that was overtaken before its base was written is no part of the story."""
    assert chained(tmp_path, Files()) == []
    for epoch, source in ((1, None), (2, 1), (3, 1), (4, 3)):
        (tmp_path / journal.file_name(epoch)).write_bytes(claimed(epoch, source))
    assert chained(tmp_path, Files()) == [(1, 101), (3, 103), (4, None)]
    (tmp_path / journal.file_name(3)).unlink()
    with pytest.raises(StateCorruptError, match="epoch 3, which it continues, is missing"):
        chained(tmp_path, Files())


def test_claimants_that_go_on_under_a_reader_make_nothing_look_missing(tmp_path: Path) -> None:
    """Where there are no locks, bases can be written between two reads of one look."""

    class Hurried(Files):
        opened = 0

        def open_read(self, name: str, dir_fd: int) -> int:
            self.opened += 1
            if self.opened == 3:
                for epoch, source in ((2, 1), (3, 2)):
                    (tmp_path / journal.file_name(epoch)).write_bytes(claimed(epoch, source))
            return super().open_read(name, dir_fd)

    (tmp_path / journal.file_name(1)).write_bytes(claimed(1, None))
    for epoch in (2, 3):
        (tmp_path / journal.file_name(epoch)).write_bytes(claimed(epoch, None, based=False))
    assert chained(tmp_path, Hurried()) == [(1, None)]
    assert chained(tmp_path, Files()) == [(1, 101), (2, 102), (3, None)]


def test_names_that_are_no_epochs_are_none() -> None:
    """Temporaries, other scripts' digits and strangers' files are not journals."""
    names = ["00000002.jsonl", "00000010.jsonl", ".tmp-0123", "x.jsonl", "1.json", ".jsonl"]
    assert journal.epochs([*names, "\u0661.jsonl", "-1.jsonl", "100000000.jsonl"]) == [
        2,
        10,
        100000000,
    ]


def test_a_line_is_one_line_of_ascii_under_its_checksum() -> None:
    """Whatever a name or message holds, `grep` sees one line."""
    line = encode({"error_message": "a\nb\r\u2028é\ud800"})
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert decode(line[:-1]) == {"error_message": "a\nb\r\u2028é\ud800"}


def test_a_reader_sees_the_cut_back_tail_of_a_failed_append(
    manager: StateManager, written: Path
) -> None:
    """A failed append that is overwritten while somebody reads is no damage."""
    data = written.read_bytes()
    ends = boundaries(data)
    torn = data[: ends[3]] + b"half a li\n" + data[ends[4] :]

    class Overtaken(Files):
        """The file is as it was torn at the first look, and mended at the second."""

        looks = 0

        def read(self, fd: int, size: int, offset: int) -> bytes:
            if os.fstat(fd).st_ino == written.stat().st_ino and offset == 0:
                self.looks += 1
                written.write_bytes(torn if self.looks == 1 else data)
            return super().read(fd, size, offset)

    files = Overtaken()
    with Opened.at(files, written.parent) as journals:
        found = journal.read_journal(journals, 1)
    assert files.looks == 2
    assert found.size == len(data)


def test_a_reader_may_see_a_later_line_and_not_yet_the_one_before_it(
    manager: StateManager, written: Path
) -> None:
    """The owner writes into what is being read: a page that was read early holds zeros still."""
    data = written.read_bytes()
    ends = boundaries(data)
    early = data[: ends[3] + 20] + bytes(ends[4] - ends[3] - 40) + data[ends[4] - 20 :] + bytes(99)

    class Early(Files):
        """The first look comes early."""

        looks = 0

        def read(self, fd: int, size: int, offset: int) -> bytes:
            if os.fstat(fd).st_ino == written.stat().st_ino and offset == 0:
                self.looks += 1
                written.write_bytes(early if self.looks == 1 else data + bytes(99))
            return super().read(fd, size, offset)

    files = Early()
    with Opened.at(files, written.parent) as journals:
        found = journal.read_journal(journals, 1)
    assert files.looks == 2
    assert (found.size, found.torn) == (len(data), False)


def test_an_owner_is_told_apart_by_its_claim(manager: StateManager, written: Path) -> None:
    """The claim line holds everything that liveness later needs."""
    history_of = manager.history(ID)
    owner = manager.load(ID).owner
    assert isinstance(owner, ProcessIdentity)
    assert owner.pid == os.getpid()
    assert {step.actor for step in history_of} == {str(owner)}
    assert history_of[0].event == "claimed"
    assert history_of[-1].event == "released"
