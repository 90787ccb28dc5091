"""Progress: read as it grows, whoever writes what, and never more than a megabyte of it."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.attempts.names import AttemptName, attempts_dir, progress_path, reports_dir
from holdfast.attempts.progress import MOST_BYTES, Follower, Progress, Sources, latest, trim
from holdfast.lifecycle.apply import apply_many
from holdfast.lifecycle.events import Requested
from holdfast.lifecycle.records import ExperimentState, Ranks
from holdfast.reading.progress import standings

NAME = AttemptName("exp_7", "3", 1)
NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)


def append(path: Path, *lines: object) -> None:
    with path.open("ab") as file:
        for line in lines:
            data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
            file.write(data)


def test_what_was_said_last_counts(tmp_path: Path) -> None:
    """Each key for itself: who reports only the loss has not forgotten its step."""
    path = tmp_path / "p"
    follower = Follower(path)
    assert not follower.look()
    assert follower.progress is None
    append(path, {"step": 3, "total": 90, "loss": 0.5}, {"loss": 0.25, "message": "warm"})
    assert follower.look()
    found = follower.progress
    assert found is not None
    assert (found.step, found.total, found.message, found.values) == (3, 90, "warm", {"loss": 0.25})
    assert not follower.look()
    append(path, {"step": 4})
    assert follower.look()
    assert follower.progress is not None
    assert follower.progress.step == 4


def test_a_torn_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    """A writer may be in the middle of one at any moment."""
    path = tmp_path / "p"
    follower = Follower(path)
    append(path, {"step": 1}, b'{"step"')
    follower.look()
    assert follower.progress is not None
    assert follower.progress.step == 1
    append(path, b": 2}\n")
    follower.look()
    assert follower.progress.step == 2


HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"\0" * 500, b"[]", b"null", b"{" * 2000, b'"' * 7, b'{"step": true}', b'{"step": "9"}',
            b'{"step": NaN, "total": Infinity, "x": -Infinity}', b'{"step": ' + b"9" * 5000 + b"}",
            b'{"message": 7, "total": null}', b'{"\\ud800": 1}', b"\xff\xfe{}", b'{"a": {"b": 1}}',
        ]
    ),
)  # fmt: skip


@given(st.lists(HOSTILE, max_size=8), st.integers(0, 200))
def test_foreign_lines_harm_nothing(tmp_path_factory: pytest.TempPathFactory, junk, cut) -> None:
    """Whatever stands before and behind a line of ours, it is read; and read in any portions."""
    path = tmp_path_factory.mktemp("p") / "p"
    ours = [b'{"step": 7, "total": 9, "loss": 1.5}']
    data = b"\n".join([*(line.replace(b"\n", b" ") for line in junk), *ours, b""])
    follower = Follower(path)
    path.write_bytes(data[:cut])
    follower.look()
    append(path, data[cut:])
    follower.look()
    found = follower.progress
    assert found is not None
    assert (found.step, found.total, found.values["loss"]) == (7, 9, 1.5)


def test_a_look_reads_a_megabyte_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what grew meanwhile the newest; a single look takes even less."""
    path = tmp_path / "p"
    line = json.dumps({"step": 1, "total": 9, "pad": "x" * 100}).encode() + b"\n"
    path.write_bytes(line * (3 * MOST_BYTES // len(line)) + b'{"step": 8}\n')
    read: list[int] = []
    real = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    follower = Follower(path)
    follower.look()
    assert sum(read) <= MOST_BYTES
    assert follower.progress is not None
    assert follower.progress.step == 8
    read.clear()
    once = Follower(path)
    once.look(brief=True)
    assert sum(read) <= 1 << 17
    assert once.progress is not None
    assert (once.progress.step, once.progress.total) == (8, 9)


def test_nothing_but_a_file_is_read(tmp_path: Path) -> None:
    """No link is followed, and no FIFO waited for."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "there").write_text('{"step": 1}\n')
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "link", "folder"):
        follower = Follower(tmp_path / name)
        assert not follower.look()
        trim(tmp_path / name)
        assert follower.progress is None


def test_a_file_is_kept_below_a_megabyte_also_of_who_ignores_us(tmp_path: Path) -> None:
    """Cut to its newest lines under its writer's hands, which goes on, and is read on."""
    path = tmp_path / "p"
    line = json.dumps({"step": 1, "pad": "x" * 100}).encode() + b"\n"
    with path.open("ab", buffering=0) as writer:
        writer.write(line * (2 * MOST_BYTES // len(line)))
        writer.write(b'{"step": 2}\n')
        follower = Follower(path)
        follower.look()
        trim(path)
        assert path.stat().st_size <= MOST_BYTES // 4
        writer.write(b'{"step": 3}\n')
        follower.look()
        assert follower.progress is not None
        assert follower.progress.step == 3
    trim(path)
    assert path.read_bytes().endswith(b'{"step": 2}\n{"step": 3}\n')
    small = tmp_path / "small"
    small.write_bytes(line)
    trim(small)
    assert small.read_bytes() == line


def test_a_writer_that_does_not_append_is_bounded_too(tmp_path: Path) -> None:
    """After the cut its file has a hole, which takes no room and says nothing."""
    path = tmp_path / "p"
    line = json.dumps({"step": 1, "pad": "x" * 100}).encode() + b"\n"
    with path.open("wb", buffering=0) as writer:
        writer.write(line * (2 * MOST_BYTES // len(line)))
        trim(path)
        writer.write(b'\n{"step": 4}\n')
        found = Follower(path)
        found.look()
        assert path.stat().st_blocks * 512 <= MOST_BYTES
    assert found.progress is not None
    assert found.progress.step == 4


def test_it_is_found_wherever_it_was_reported(tmp_path: Path) -> None:
    """In the file of the variable, or in that of the newest incarnation: the newer of the two."""
    attempts_dir(tmp_path).mkdir()
    assert latest(tmp_path, NAME, 3) is None
    append(progress_path(tmp_path, NAME), {"step": 1})
    os.utime(progress_path(tmp_path, NAME), (100, 100))
    found = latest(tmp_path, NAME, 3)
    assert found is not None
    assert found.step == 1
    reports_dir(tmp_path, NAME).mkdir()
    append(reports_dir(tmp_path, NAME) / "3.0-9-9-h.progress", {"step": 2})
    sources = Sources(tmp_path)
    found = sources.look(NAME, 3)
    assert found is not None
    assert found.step == 2
    append(reports_dir(tmp_path, NAME) / "3.1-9-9-h.progress", {"step": 0})
    found = sources.look(NAME, 3)
    assert found is not None
    assert found.step == 0
    sources.forget(NAME)
    assert sources._followers == {}


def test_ranks_share_the_file_of_their_launcher(tmp_path: Path) -> None:
    """A line says of which rank it is, else it is that of the first."""
    name = AttemptName("exp_7", "launcher-4", 1)
    attempts_dir(tmp_path).mkdir()
    append(progress_path(tmp_path, name), {"step": 5}, {"step": 6, "rank": 2}, {"rank": [], "x": 1})
    steps = [found and found.step for found in (latest(tmp_path, name, i) for i in range(4, 8))]
    assert steps == [5, None, 6, None]


def test_a_look_at_many_ranks_lists_their_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing for each of 200 ranks took a fifth of a second, every second."""
    name = AttemptName("exp_7", "launcher-0", 1)
    reports_dir(tmp_path, name).mkdir(parents=True)
    for index in range(20):
        append(reports_dir(tmp_path, name) / f"{index}.0-9-9-h.progress", {"step": index})
    state = ExperimentState(experiment_id="exp_7", num_processes=20, ranks=Ranks(count=20))
    starts = [
        Requested(entity="process", event="start", process=index, at=NOW) for index in range(20)
    ]
    state = apply_many(
        state, [Requested(entity="experiment", event="start", at=NOW), *starts]
    ).state
    listed: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    found = standings(state, tmp_path, NOW)
    assert {index: each.progress.step for index, each in found.items()} == {i: i for i in range(20)}
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("said", "remaining"),
    [
        ({"step": 10, "total": 40}, 300.0),  # at 10 s a step since its attempt began
        ({"step": 40, "total": 40}, 0.0),
        ({"step": 50, "total": 40}, 0.0),
        ({"step": 0, "total": 40}, None),
        ({"step": 10}, None),
        ({"total": 40}, None),
        ({"step": 10, "total": 0}, None),
        # It went on at step 5, and took 2 s for each of the five since.
        (
            {
                "step": 10,
                "total": 40,
                "history": ((NOW.timestamp() - 10, 5), (NOW.timestamp(), 10)),
            },
            60.0,
        ),
    ],
)
def test_what_remains_is_told_by_the_pace(said, remaining: float | None) -> None:
    """Of the steps that were done here: a resumed process did not do those before."""
    found = Progress(at=NOW, **said)
    began = NOW - timedelta(seconds=100)
    assert found.remaining_s(NOW, began) == remaining
    if remaining:
        assert found.remaining_s(NOW + timedelta(seconds=5), began) == remaining - 5
        assert found.age_s(NOW + timedelta(seconds=20)) == 20
        assert found.remaining_s(NOW, None) == (remaining if "history" in said else None)


def test_a_late_report_brings_the_end_no_nearer() -> None:
    """At 2 s a step and five steps a report, 30 steps are left, of which 25 come after the next."""
    history = ((NOW.timestamp() - 10, 5), (NOW.timestamp(), 10))
    found = Progress(at=NOW, step=10, total=40, history=history)
    assert found.remaining_s(NOW + timedelta(seconds=10), None) == 50
    assert found.remaining_s(NOW + timedelta(hours=1), None) == 50
    last = Progress(
        at=NOW, step=36, total=40, history=((NOW.timestamp() - 10, 31), (NOW.timestamp(), 36))
    )
    assert last.remaining_s(NOW + timedelta(hours=1), None) == 0
