"""What the files of an attempt say, and what is made of them at resume."""

import contextlib
import fcntl
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import liveness
from holdfast.attempts import files
from holdfast.attempts.looking import Ended, Gone, Running, Unbegun, Undecided, look
from holdfast.attempts.names import AGGREGATE, AttemptName, names, prepare
from holdfast.attempts.records import ExitRecord, Process
from holdfast.attempts.settling import Lost
from holdfast.errors import StateCorruptError
from holdfast.liveness import Observer
from holdfast.status import Reason
from settled import settled

NAME = AttemptName("exp", "2", 1)
SHIM: dict[str, Any] = attrs.asdict(attrs.evolve(liveness.me(), locked=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path)
    return tmp_path


def write(folder: Path, suffix: str, content: object) -> Path:
    path = folder / "attempts" / f"{NAME}.{suffix}"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@given(st.just(AGGREGATE) | st.integers(0, 10**6).map(str), st.integers(1, 10**4))
def test_names_survive_as_text(unit: str, attempt: int) -> None:
    """A file's name says which attempt it belongs to."""
    name = AttemptName("exp", unit, attempt)
    assert name.index == (None if unit == AGGREGATE else int(unit))
    assert AttemptName.parse("exp", str(name)) == name


@pytest.mark.parametrize(
    "text", ["", "2", ".1", "2.", "x.1", "2.x", "-1.1", "²1.1", "2.1.live", "02.1", "2.01"]
)
def test_other_files_are_no_attempts(text: str) -> None:
    """Temporary and foreign files are passed over."""
    assert AttemptName.parse("exp", text) is None


def test_an_exit_record_is_read_back(folder: Path) -> None:
    """Times are UTC, whole numbers may stand for seconds, unknown keys are for later versions."""
    write(
        folder,
        "exit",
        {
            "exit_code": 3,
            "started_at": "2024-01-15T12:00:00+02:00",
            "cpu_s": 1,
            "interrupted_by": 15,
            "stopped": [[17, "sh"]],
            "left": [[18, 4711, "sudo", "another user's"]],
            "identity": SHIM,
            "of_a_later_version": [1],
        },
    )
    record = files.read_exit(folder, NAME)
    assert record is not None
    assert record.exit_code == 3
    assert record.started_at is not None
    assert record.started_at.isoformat() == "2024-01-15T10:00:00+00:00"
    assert record.cpu_s == 1.0
    assert record.identity is not None
    assert record.identity.pid == os.getpid()
    assert (record.reason, record.stop_requested) == (Reason.EXIT, None)
    assert record.interrupted_by == 15
    assert record.stopped == (Process(17, "sh"),)
    assert record.left == (Process(18, "sudo", 4711, "another user's"),)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"exit_code": "0"}',
        '{"exit_code": true}',
        '{"started_at": 7}',
        '{"identity": 1}',
        '{"identity": {"pid": "1"}}',
        '{"stop_requested": "whim"}',
        '{"stopped": [1]}',
        '{"left": [["1", 2, "x", ""]]}',
        "[" * 30_000,
    ],
)
def test_garbage_is_no_outcome(folder: Path, content: str) -> None:
    """An unreadable record is an error that names the file, never an exit code."""
    path = write(folder, "exit", content)
    with pytest.raises(StateCorruptError, match=r"2\.1\.exit"):
        files.read_exit(folder, NAME)
    assert path.read_text() == content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
exit_like = st.dictionaries(
    st.sampled_from(
        [
            *("exit_code", "signal", "stop_requested", "started_at", "cpu_s", "identity"),
            *("error", "interrupted_by", "stopped", "left"),
        ]
    ),
    json_values,
).map(lambda plain: json.dumps(plain).encode())


@given(content=st.binary(max_size=200) | exit_like)
def test_no_bytes_are_read_as_anything_but_a_record_or_an_error(content: bytes) -> None:
    """Whatever is in the file, a caller has one error to reckon with."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "attempts").mkdir()
        for suffix in ("exit", "live"):
            (folder / "attempts" / f"{NAME}.{suffix}").write_bytes(content)
        with contextlib.suppress(StateCorruptError):
            assert isinstance(files.read_exit(folder, NAME), ExitRecord)
        assert files.live_state(folder, NAME).kind in ("free", "revoked")


def test_links_and_fifos_are_not_followed(folder: Path) -> None:
    """Nothing planted there leads elsewhere or blocks."""
    path = folder / "attempts" / f"{NAME}.exit"
    path.symlink_to("/etc/passwd")
    with pytest.raises(StateCorruptError):
        files.read_exit(folder, NAME)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StateCorruptError):
        files.read_exit(folder, NAME)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"exit_code": 0}, Reason.EXIT),
        ({"signal": 9}, Reason.SIGNAL),
        ({"signal": 9, "out_of_memory": True}, Reason.OUT_OF_MEMORY),
        ({"signal": 15, "timed_out": True}, Reason.TIMEOUT),
        ({"error": "nope"}, Reason.LAUNCH_ERROR),
    ],
)
def test_a_record_says_what_ended_it(fields: Mapping[str, Any], reason: Reason) -> None:
    """The most specific cause wins."""
    assert ExitRecord(**fields).reason is reason


def test_the_lock_tells_a_living_shim_from_a_dead_one(folder: Path) -> None:
    """Held while its shim lives, free afterwards, and looking does not take it."""
    assert files.live_state(folder, NAME).kind == "absent"
    path = write(folder, "live", SHIM)
    assert files.live_state(folder, NAME).kind == "free"
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(2):
            live = files.live_state(folder, NAME)
            assert live.kind == "held"
            assert live.identity is not None
            assert live.identity.pid == os.getpid()
    assert files.live_state(folder, NAME).kind == "free"


def test_a_published_outcome_is_adopted(folder: Path) -> None:
    """Whatever the lock says: who published has ended."""
    write(folder, "live", SHIM)
    write(folder, "exit", {"exit_code": 0})
    found = look(folder, NAME)
    assert isinstance(found, Ended)
    assert found.record.exit_code == 0


def test_an_outcome_beside_something_that_could_not_be_stopped_waits_for_it(folder: Path) -> None:
    """Nothing of an attempt is alive when its outcome is taken up."""
    with subprocess.Popen(["sleep", "60"]) as left:
        identity = liveness.identity_of(left.pid)
        assert identity is not None
        entry = [left.pid, identity.start_ticks, "sleep", "another user's"]
        write(folder, "exit", {"exit_code": 0, "identity": SHIM, "left": [entry]})
        found = look(folder, NAME)
        assert isinstance(found, Undecided)
        assert f"{left.pid} (sleep): another user's" in found.evidence
        left.kill()
    assert isinstance(look(folder, NAME), Ended)


def test_what_was_recorded_without_a_start_time_is_waited_for_while_its_pid_is_taken(
    folder: Path,
) -> None:
    """As without `/proc`: nobody can tell whether it is the one that was left, or a stranger."""
    with subprocess.Popen(["sleep", "60"]) as left:
        entry = [left.pid, None, "sleep", "another user's"]
        write(folder, "exit", {"exit_code": 0, "identity": SHIM, "left": [entry]})
        found = look(folder, NAME)
        assert isinstance(found, Undecided)
        assert f"{left.pid} (sleep)" in found.evidence
        mac = attrs.evolve(Observer.here(), proc=None)
        assert isinstance(look(folder, NAME, observer=mac), Undecided)
        left.kill()
    assert isinstance(look(folder, NAME), Ended)
    assert isinstance(look(folder, NAME, observer=mac), Ended)


def test_what_is_no_outcome_does_not_end_what_runs(folder: Path) -> None:
    """A directory, or a file torn by somebody, has its name: no second attempt beside the first."""
    path = write(folder, "live", SHIM)
    (folder / "attempts" / f"{NAME}.exit").mkdir()
    at_home = os.open(folder / "attempts", os.O_RDONLY)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert isinstance(look(folder, NAME), Running)
    os.close(at_home)
    found = look(folder, NAME)
    assert isinstance(found, Ended)
    assert found.record.error is not None


@pytest.mark.parametrize(
    ("where", "over"),
    [
        ({"host": "node7", "machine_id": "a" * 32, "boot_id": "b"}, False),
        ({"pid_namespace": "pid:[1]"}, False),
        ({"boot_id": "before"}, True),
    ],
)
def test_what_another_host_could_not_stop_is_waited_for(
    folder: Path, where: Mapping[str, Any], over: bool
) -> None:
    """Nobody can see from here that it ended; a restart of this machine proves it."""
    left = [[1234, 5, "sleep", "waits in the kernel"]]
    write(folder, "exit", {"exit_code": 0, "identity": {**SHIM, **where}, "left": left})
    assert isinstance(look(folder, NAME), Ended if over else Undecided)


def test_a_running_attempt_is_adopted(folder: Path) -> None:
    """A held lock: never a second one."""
    path = write(folder, "live", SHIM)
    at_home = os.open(folder / "attempts", os.O_RDONLY)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = look(folder, NAME)
    os.close(at_home)
    assert isinstance(found, Running)
    assert found.identity is not None


def test_a_free_lock_without_an_outcome_is_death(folder: Path) -> None:
    """It ended without being able to say how."""
    write(folder, "live", SHIM | {"pid": 2**22 + 1})
    found = settled(folder, NAME)
    assert isinstance(found, Lost)
    assert "lock" in found.evidence


def test_a_copy_of_a_running_attempt_is_undecided(folder: Path) -> None:
    """Its shim lives and holds another file's lock: nothing of it is stopped or started again."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as shim:
        identity = liveness.identity_of(shim.pid)
        assert identity is not None
        write(folder, "live", attrs.asdict(attrs.evolve(identity, locked=True)))
        try:
            found = settled(folder, NAME)
            assert shim.poll() is None
        finally:
            shim.kill()
    assert isinstance(found, Undecided)
    assert "copy of a running experiment" in found.evidence
    assert isinstance(settled(folder, NAME), Lost)


def test_a_torn_live_file_with_a_free_lock_is_death(folder: Path) -> None:
    """Only a power cut tears it, and nothing survives that."""
    write(folder, "live", "")
    assert isinstance(settled(folder, NAME), Lost)


def test_an_attempt_of_another_host_is_undecided(folder: Path) -> None:
    """Its lock may be invisible from here: nothing is started again, but by force."""
    write(folder, "live", SHIM | {"host": "node7", "machine_id": "a" * 32, "boot_id": "b"})
    found = settled(folder, NAME)
    assert isinstance(found, Undecided)
    assert "node7" in found.evidence
    assert isinstance(settled(folder, NAME, force=True), Lost)


def test_an_attempt_that_never_began_is_revoked(folder: Path) -> None:
    """From then on no late shim may run it; looking alone revokes nothing."""
    assert isinstance(look(folder, NAME), Unbegun)
    assert os.listdir(folder / "attempts") == []
    found = settled(folder, NAME)
    assert isinstance(found, Lost)
    assert "revoked" in found.evidence
    assert files.live_state(folder, NAME).kind == "revoked"
    assert files.revoke(folder, NAME) is False
    assert isinstance(look(folder, NAME), Gone)
    assert sorted(os.listdir(folder / "attempts")) == ["2.1.live"]


def test_a_shim_whose_files_were_removed_is_not_run_beside(folder: Path) -> None:
    """It is known by what was recorded of it, as long as it lives."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        shim = liveness.identity_of(process.pid)
        found = settled(folder, NAME, shim=shim)
        process.kill()
    assert isinstance(found, Undecided)
    assert "files are gone" in found.evidence
    assert isinstance(settled(folder, NAME, shim=shim), Lost)


def test_a_request_is_a_file_that_is_there_once(folder: Path) -> None:
    """Who asked first, and why, stays; asking again changes nothing."""
    assert files.requested(folder, NAME) is None
    files.request(folder, NAME, "stop", Reason.PREEMPTED)
    files.request(folder, NAME, "stop", Reason.USER)
    assert files.requested(folder, NAME) is Reason.PREEMPTED
    files.request(folder, NAME, "kill", Reason.USER)
    assert files.requested(folder, NAME) is Reason.USER
    plain = json.loads((folder / "attempts" / "2.1.kill").read_text())
    assert (plain["attempt"], plain["pid"]) == ("2.1", os.getpid())
    assert sorted(os.listdir(folder / "attempts")) == ["2.1.kill", "2.1.stop"]


def test_attempts_are_listed_by_their_files(folder: Path) -> None:
    """In order of process and attempt; temporary files are none."""
    for file in ("10.1.live", "2.2.live", "2.1.live", ".ab.tmp", "2.1.exit", "aggregate.1.live"):
        (folder / "attempts" / file).touch()
    assert [str(n) for n in names(folder, "exp")] == ["aggregate.1", "2.1", "2.2", "10.1"]
    assert [str(n) for n in names(folder, "exp", "exit")] == ["2.1"]
    assert names(folder / "nowhere", "exp") == []
