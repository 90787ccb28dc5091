"""Waves: what is submitted at once, found by a node and by whoever comes after a crash."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt, Slot
from holdfast.engines import tasks
from holdfast.engines.waves import node_of, record, token, waves, write
from holdfast.errors import StateWriteError

MADE_AT = datetime(2026, 11, 26, 18, 0, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an experiment."""
    path = tmp_path / "exp"
    path.mkdir()
    return path


def attempt(folder: Path, index: int, **others) -> Attempt:
    name = AttemptName("exp", str(index), 1)
    return Attempt(**{"name": name, "argv": ("true",), "folder": folder, **others})


def one_wave(folder: Path, count: int = 3, made_at: datetime = MADE_AT, **others):
    jobs = [[attempt(folder, index, **others)] for index in range(count)]
    return write(folder, engine="slurm", token=token(folder), tasks=jobs, made_at=made_at)


def read(folder: Path, wave: str, task: int):
    directory = tasks.open_waves(folder)
    try:
        return tasks.read_task(directory, wave, task)
    finally:
        os.close(directory)


def test_a_wave_is_found_again(folder):
    """With its engine, token, time and the names of every task."""
    written = [one_wave(folder, count) for count in (3, 1)]
    found = waves(folder)
    assert sorted(found, key=str) == sorted(written, key=str)
    assert all(wave.submitted is None for wave in found)


def test_waves_come_oldest_first(folder):
    """By when they were made, whatever their random names are."""
    made = [one_wave(folder, made_at=MADE_AT.replace(minute=minute)) for minute in (3, 1, 2)]
    assert [wave.name for wave in waves(folder)] == [made[i].name for i in (1, 2, 0)]


def test_nothing_was_submitted_where_there_are_no_waves(folder):
    """An experiment that never knew an engine with a queue."""
    assert waves(folder) == []


def test_a_task_finds_its_own_jobs(folder):
    """Words, environment and limits as they were; bytes that are no text included."""
    odd = os.fsdecode(b"caf\xe9 \xff")
    job = attempt(
        folder,
        7,
        argv=("run", odd, "é"),
        env={"A": odd, "B": "x=y\nz"},
        cwd=folder,
        timeout_s=1.5,
        grace_s=3,
    )
    wave = write(
        folder,
        engine="slurm",
        token=token(folder),
        tasks=[[attempt(folder, 1)], [job, attempt(folder, 8)]],
        made_at=MADE_AT,
    )
    experiment, (found, other) = read(folder, wave.name, 1)
    assert experiment == "exp"
    assert found["name"] == "7.1"
    assert found["argv"][1].encode("latin-1") == b"caf\xe9 \xff"
    assert found["argv"][2].encode("latin-1") == os.fsencode("é")
    assert found["env"]["A"].encode("latin-1") == b"caf\xe9 \xff"
    assert found["env"]["B"] == "x=y\nz"
    assert (found["cwd"], found["timeout_s"], found["grace_s"]) == (str(folder), 1.5, 3)
    assert other["name"] == "8.1"


def test_what_a_task_reads_does_not_grow_with_its_wave(folder, monkeypatch):
    """Ten thousand tasks on a network file system each read a few blocks, not all of it."""
    wave = one_wave(folder, 10_000, env={"X": "y" * 500})
    read_bytes = []
    pread = os.pread

    def counting(fd, size, at):
        data = pread(fd, size, at)
        read_bytes.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counting)
    _, (job,) = read(folder, wave.name, 9_999)
    assert job["name"] == "9999.1"
    assert sum(read_bytes) < 8192
    assert (folder / "waves" / f"{wave.name}.tasks").stat().st_size > 5_000_000


def test_what_came_of_submitting_is_said_once(folder):
    """Whoever comes second changes nothing."""
    wave = one_wave(folder)
    assert record(folder, wave.name, {"job_id": 12, "cluster": "mini"})
    assert not record(folder, wave.name, {"job_id": 13})
    assert waves(folder)[0].submitted == {"job_id": 12, "cluster": "mini"}


def test_a_folder_keeps_its_token(folder):
    """Also under another name, and whoever asks."""
    mine = token(folder)
    assert len(mine) == 12
    assert tasks.is_token(mine)
    assert token(folder) == mine
    assert token(folder.rename(folder.with_name("moved"))) == mine


def test_a_copy_of_a_folder_gets_its_own_token(folder):
    """Else it would take the jobs of the original for its own; a copy of the copy, too."""
    first = folder.with_name("first")
    shutil.copytree(folder, first)
    found = {token(folder), token(first)}
    for number in range(3):
        copy = folder.with_name(f"copy{number}")
        shutil.copytree(first, copy)
        found.add(token(copy))
        assert token(copy) in found
        first = copy
    assert len(found) == 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "abc"}', b"\xff" * 10])
def test_a_damaged_token_is_passed_over(folder, content):
    """Nobody can match its jobs any more; another one is made beside it, and kept."""
    token(folder)
    (folder / "waves" / "token").write_bytes(content)
    assert token(folder) == token(folder)
    assert (folder / "waves" / "token.1").exists()


def test_attempts_with_slots_are_refused(folder):
    """A lock of this host cannot be handed to another."""
    slot = Slot(kind="gpu", name="0", path=folder / "gpu.0", fd=0)
    with pytest.raises(ValueError, match="slots"):
        one_wave(folder, slots=(slot,))


def test_a_wave_is_not_written_through_a_link(folder, tmp_path):
    """Commands would be taken from where it leads."""
    (tmp_path / "elsewhere").mkdir()
    (folder / "waves").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateWriteError):
        one_wave(folder)
    assert waves(folder) == []


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    header, _, rest = data.partition(b"\n")
    about = json.loads(header)
    path.unlink()
    if how == "fifo":
        os.mkfifo(path)
    elif how == "link":
        path.symlink_to(path.with_name("token"))
    elif how == "directory":
        path.mkdir()
    else:
        content = {
            "empty": b"",
            "torn": header + rest[:5],
            "no header": b"x" * 100_000,
            "deep": b"[" * 60_000 + b"\n",
            "a list": b"[]\n",
            "later": json.dumps({**about, "format": 2}).encode() + b"\n" + rest,
            "many": json.dumps({**about, "tasks": 10**15}).encode() + b"\n" + rest,
            "huge names": json.dumps({**about, "names": 10**15}).encode() + b"\n" + rest,
            "negative": json.dumps({**about, "tasks": -1}).encode() + b"\n" + rest,
            "before time": json.dumps({**about, "made_at": "0001-01-01T00:00:00+14:00"}).encode()
            + b"\n"
            + rest,
            "no token": json.dumps({**about, "token": None}).encode() + b"\n" + rest,
            "huge number": header.replace(b'"tasks":3', b'"tasks":' + b"9" * 5000) + b"\n" + rest,
        }[how]
        path.write_bytes(content)


HOW = [
    *("fifo", "link", "directory", "empty", "torn", "no header", "deep", "a list", "later"),
    *("many", "huge names", "negative", "no token", "huge number", "before time"),
]


@pytest.mark.parametrize("how", HOW)
def test_a_hostile_file_is_no_wave(folder, how):
    """It neither blocks, nor fills the memory, nor hides the waves beside it."""
    good, bad = one_wave(folder), one_wave(folder)
    damaged(folder / "waves" / f"{bad.name}.tasks", how)
    with pytest.raises((tasks.BadWaveError, OSError)):
        read(folder, bad.name, 2)
    assert [wave.name for wave in waves(folder)] == [good.name]


def test_a_wave_whose_end_is_lost_still_names_its_attempts(folder):
    """Its jobs may be queued: whoever comes after a crash has to find them."""
    wave = one_wave(folder)
    path = folder / "waves" / f"{wave.name}.tasks"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(tasks.BadWaveError, match="too early"):
        read(folder, wave.name, 2)
    assert waves(folder) == [wave]


@pytest.mark.parametrize("name", ["", "w", "w../../../etc/x", "w0123456789aG", "token"])
def test_no_other_name_is_a_wave(folder, name):
    """Nothing outside of the directory is opened, whatever a command line says."""
    one_wave(folder)
    (folder / "waves" / "w.tasks").write_bytes(b"{}\n")
    with pytest.raises(tasks.BadWaveError):
        read(folder, name, 0)


@pytest.mark.parametrize("task", [-1, 3, 10**30])
def test_a_task_that_is_not_there_is_refused(folder, task):
    """Rather than reading something else as one."""
    wave = one_wave(folder)
    with pytest.raises(tasks.BadWaveError, match="no task"):
        read(folder, wave.name, task)


def test_a_damaged_line_is_not_run(folder):
    """A block that a disk has lost is no command."""
    wave = one_wave(folder)
    path = folder / "waves" / f"{wave.name}.tasks"
    path.write_bytes(path.read_bytes().replace(b'"true"', b'"evil"'))
    with pytest.raises(tasks.BadWaveError, match="checksum"):
        read(folder, wave.name, 0)


GOOD = {
    "name": "1.1",
    "argv": ["true"],
    "env": {},
    "cwd": None,
    "timeout_s": None,
    "grace_s": 1.0,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../../x"},
        {"name": "1.1/../../x"},
        {"name": "1.1\n"},
        {"name": None},
        {"argv": []},
        {"argv": "true"},
        {"argv": [1]},
        {"argv": ["\u20ac"]},
        {"env": []},
        {"env": {"A": 1}},
        {"env": {"\u20ac": "x"}},
        {"cwd": 3},
        {"timeout_s": "1"},
        {"timeout_s": -1},
        {"timeout_s": True},
        {"timeout_s": float("nan")},
        {"grace_s": None},
        {"grace_s": 1e300},
    ],
)
def test_a_job_that_is_none_is_refused(wrong):
    """Before anything of its task is started."""
    assert tasks.jobs_of(json.dumps([GOOD]).encode())
    with pytest.raises(tasks.BadWaveError):
        tasks.jobs_of(json.dumps([{**GOOD, **wrong}]).encode())


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b"[[]]", json.dumps([GOOD, GOOD]).encode()])
def test_what_is_no_list_of_jobs_is_refused(line):
    """Two of one name, too: they would fight for the same files."""
    with pytest.raises(tasks.BadWaveError):
        tasks.jobs_of(line)


def test_no_node_has_begun_where_none_says_so(folder):
    """Nor where there are no waves."""
    assert node_of(folder, "w0123456789ab", 0) is None
    one_wave(folder)
    assert node_of(folder, "w0123456789ab", 0) is None
