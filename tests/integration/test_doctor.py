"""The doctor: finds what is wrong, mends what loses nothing, and leaves everything else alone."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest

from doctored import NOW, append, edit, symptoms
from holdfast.doctor import examine, strays, volume
from holdfast.errors import StateCorruptError
from holdfast.lifecycle.events import Change, PhaseReported, ProcessExited, Requested
from holdfast.lifecycle.records import ResultRef
from holdfast.liveness import me
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store import writer as writer_module
from holdfast.store.files import Files
from holdfast.store.lines import encode
from holdfast.store.manager import StateManager
from holdfast.store.place import Opened
from processes import killed, owner, run
from waiting import until

ID = "exp_7"
_COMMAND = "import sys; from holdfast.cli import main; sys.exit(main())"


def busy(manager: StateManager, experiment_id: str = ID) -> None:
    """A long life: every event of both machines, notes, saves, several owners."""
    manager.create(experiment_id, num_processes=3)
    with manager.claim(experiment_id) as claim:
        claim.record("interrupt")
        claim.record("resume")
        for index in range(3):
            claim.record("start", index)
        claim.note(PhaseReported(process=0, attempt=1, at=NOW, identity=me()))
        claim.record("fail", 1, error_message="no")
        claim.record("requeue", 1, max_attempts=2)
        claim.record("requeue", 2, proven_dead=True)
        ended = ProcessExited(process=0, attempt=1, at=NOW, exit_code=0, ended_at=NOW)
        claim.record_many([ended, Requested(entity="process", event="start", at=NOW, process=1)])
        claim.record("requeue", 0, result_lost=True)
        claim.record("fail")
    with manager.claim(experiment_id) as claim:
        claim.record("retry")
        claim.record("complete", 1, exit_code=0)
        for index in (0, 2):
            claim.record("start", index)
            claim.record("complete", index, exit_code=0)
    state = manager.load(experiment_id)
    manager.save(attrs.evolve(state, status="completed", name="saved"))
    with manager.claim(experiment_id) as claim:
        claim.record("aggregate")


def test_a_healthy_directory_has_no_findings(
    manager: StateManager, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the store itself writes passes the doctor: saves, notes, compactions, deletes."""
    assert examine(state_dir) == []
    assert not state_dir.exists()
    monkeypatch.setattr(writer_module, "COMPACT_BYTES", 1500)
    monkeypatch.setattr(writer_module, "COMPACT_BASES", 1)
    busy(manager)
    assert manager.load(ID).epoch > 4
    manager.create("fresh")
    manager.create("gone")
    manager.delete("gone")
    assert symptoms(state_dir) == []
    before = {path: path.read_bytes() for path in state_dir.rglob("*") if path.is_file()}
    assert symptoms(state_dir, fix=True) == []
    assert before == {path: path.read_bytes() for path in state_dir.rglob("*") if path.is_file()}


def test_an_experiment_at_work_is_no_finding(manager: StateManager, state_dir: Path) -> None:
    """A view that its owner will refresh within a second is as it should be."""
    manager.create(ID, num_processes=2)
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        assert symptoms(state_dir, fix=True) == []


def change(
    event: str, source: str, target: str, process: int | None = None, **fields: Any
) -> Change:
    kind = ExperimentStatus if process is None else ProcessStatus
    return Change(
        entity="experiment" if process is None else "process",
        process=process,
        event=event,
        source=source,
        target=target,
        at=NOW,
        fields={"status": kind(target), **fields},
    )


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (change("start", "completed", "running", 0), "does not have"),
        (change("complete", "pending", "completed", 1, exit_code=0), "does not have"),
        (change("complete", "running", "completed", 1, exit_code=0), "but it was pending"),
        (change("complete", "running", "completed"), "1 of 2 processes not completed"),
        (change("finish", "running", "failed"), "does not have"),
        (change("start", "pending", "completed", 1), "does not have"),
    ],
)
def test_a_step_that_the_machine_does_not_have_is_named(
    manager: StateManager, state_dir: Path, wrong: Change, what: str
) -> None:
    """A journal with a right checksum over a wrong step: the file, the revision, the reason."""
    manager.create(ID, num_processes=2)
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        claim.record("complete", 0, exit_code=0)
    append(manager, ID, wrong)
    found = [each for each in symptoms(state_dir, fix=True) if each.kind == "illegal"]
    assert found
    assert found[0].severity == "problem"
    assert found[0].path.name == "00000001.jsonl"
    assert what in found[0].what
    assert "revision 4" in found[0].what
    assert not any(each.fixed for each in found)


def test_a_completion_with_another_exit_code_is_named(
    manager: StateManager, state_dir: Path
) -> None:
    """Guards are asked again where their facts were kept."""
    manager.create(ID, num_processes=1)
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
    append(manager, ID, change("complete", "running", "completed", 0, exit_code=3))
    assert "exit code 3" in symptoms(state_dir)[0].what


def test_a_process_that_moves_in_a_settled_experiment_is_named(
    manager: StateManager, state_dir: Path
) -> None:
    """Completed experiments stay as they are."""
    busy(manager)
    append(manager, ID, change("requeue", "completed", "pending", 0))
    assert any("the experiment is aggregated" in each.what for each in symptoms(state_dir))


def test_a_saved_state_with_an_unnamed_move_is_named(
    manager: StateManager, state_dir: Path
) -> None:
    """A save records its transitions; a status that moved beside them was not judged."""
    manager.create(ID, num_processes=1)
    with manager.claim(ID):
        pass
    state = json.loads((state_dir / f"{ID}.json").read_bytes())
    state |= {"status": "failed", "process_progress": {"0": {"status": "running"}}}
    append(manager, ID, kind="saved", state=state)
    found = [each.what for each in symptoms(state_dir) if each.kind == "illegal"]
    assert found == [
        "revision 1: process 0 went from pending to running unnamed",
        "revision 1: the experiment went from initialised to failed unnamed",
    ]


def test_a_base_that_does_not_continue_its_predecessor_is_named(
    manager: StateManager, state_dir: Path
) -> None:
    """An owner takes over what the owner before left, and nothing else."""
    manager.create(ID, num_processes=2)
    for event in ("start", "interrupt"):
        with manager.claim(ID) as claim:
            claim.record(event)
    journal = manager.folder(ID) / "journal" / "00000002.jsonl"
    lines = [json.loads(line[9:]) for line in journal.read_bytes().splitlines()]
    lines[1]["state"]["name"] = "somebody else"
    journal.write_bytes(b"".join(encode(line) for line in lines))
    found = [each for each in symptoms(state_dir) if each.kind == "illegal"]
    assert [each.path for each in found] == [journal]
    assert "not the state that the journal before it ends" in found[0].what


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [
        (lambda path: edit(path, name="by hand"), True),
        (lambda path: edit(path, revision=1), True),
        (lambda path: path.write_text("{"), True),
        (lambda path: path.unlink(), False),
    ],
    ids=["edited", "behind", "cut", "missing"],
)
def test_a_disagreeing_view_is_rewritten_and_what_was_in_it_is_kept(
    manager: StateManager, state_dir: Path, spoil: Callable[[Path], object], kept: bool
) -> None:
    """Also one of a finished experiment, edited in place: nobody else would ever see that."""
    busy(manager)
    path = state_dir / f"{ID}.json"
    truth = manager.load(ID)
    spoil(path)
    spoilt = path.read_bytes() if path.exists() else None
    (found,) = symptoms(state_dir)
    assert (found.kind, found.path, found.fixed) == ("view", path, False)
    assert (path.read_bytes() if path.exists() else None) == spoilt
    (mended,) = symptoms(state_dir, fix=True)
    assert mended.fixed
    assert symptoms(state_dir) == []
    again = manager.load(ID)
    assert again.process_progress == truth.process_progress
    assert (again.name, again.status, again.revision) == (truth.name, truth.status, truth.revision)
    copies = [each.read_bytes() for each in manager.folder(ID).glob("view-replaced-*")]
    assert copies == ([spoilt] if kept else [])


def test_the_view_of_a_killed_owner_is_a_hint(manager: StateManager, state_dir: Path) -> None:
    """It lies a second behind, as it may; the next claim, or the doctor, brings it up to date."""
    manager.create(ID, num_processes=2)
    killed(state_dir, ID, ("start",), ("start", 0))
    (found,) = symptoms(state_dir)
    assert (found.kind, found.severity) == ("view", "hint")
    (mended,) = symptoms(state_dir, fix=True)
    assert mended.fixed
    assert not list(manager.folder(ID).glob("view-replaced-*"))
    assert manager.load(ID).process_progress[0].status is ProcessStatus.RUNNING


def test_unreadable_files_are_named_and_never_touched(
    manager: StateManager, state_dir: Path
) -> None:
    """Views, newer schemas, damaged journals: everything else is still looked at and mended."""
    busy(manager)
    manager.create("damaged")
    with manager.claim("damaged") as claim:
        claim.record("start")
    journal = manager.folder("damaged") / "journal" / "00000001.jsonl"
    data = bytearray(journal.read_bytes())
    data[30] ^= 1
    journal.write_bytes(data)
    (state_dir / "cut.json").write_text("{")
    (state_dir / "newer.json").write_text('{"experiment_id": "newer", "schema_version": 99}')
    edit(state_dir / f"{ID}.json", name="by hand")
    found = symptoms(state_dir, fix=True)
    assert {each.path for each in found if each.kind == "unreadable"} == {
        journal,
        state_dir / "cut.json",
        state_dir / "newer.json",
    }
    assert [each.fixed for each in found if each.kind == "view"] == [True]
    assert len(found) == 4
    assert journal.read_bytes() == data
    assert (state_dir / "cut.json").read_text() == "{"


def test_leftovers_are_removed_once_nobody_can_be_writing_them(
    manager: StateManager, state_dir: Path
) -> None:
    """Temporaries older than the margin, trash, interrupted deletes; never what is in use."""
    manager.create(ID, num_processes=1)
    with manager.claim(ID) as claim:
        claim.record("fail")
    folder = manager.folder(ID)
    (folder / "attempts").mkdir()
    old = [
        state_dir / ".tmp-0123456789abcdef",
        folder / "journal" / ".tmp-0123456789abcdef",
        folder / "attempts" / ".0123456789abcdef.tmp",
    ]
    for path in old:
        path.write_text("half")
        os.utime(path, (time.time() - 7200,) * 2)
    young = state_dir / ".tmp-fedcba9876543210"
    young.write_text("somebody's")
    trash = state_dir / ".trash-0123456789abcdef"
    (trash / "journal").mkdir(parents=True)
    found = symptoms(state_dir)
    assert {each.path for each in found} == {*old, trash}
    assert {(each.kind, each.severity, each.fixed) for each in found} == {
        ("leftover", "hint", False)
    }
    assert all(path.exists() for path in (*old, trash))
    assert all(each.fixed for each in symptoms(state_dir, fix=True))
    assert not any(path.exists() for path in (*old, trash))
    assert young.exists()
    assert symptoms(state_dir, margin_s=-10, fix=True)[0].path == young
    assert not young.exists()


def test_the_age_of_a_temporary_is_told_by_the_server_s_clock(
    manager: StateManager, state_dir: Path
) -> None:
    """A server that is two hours behind must not make fresh files look old."""
    manager.create(ID)
    fresh = state_dir / ".tmp-0123456789abcdef"
    fresh.write_text("somebody's")

    class Behind(Files):
        def stat(self, name: str, dir_fd: int | None = None) -> os.stat_result:
            return earlier(super().stat(name, dir_fd))

        def fstat(self, fd: int) -> os.stat_result:
            return earlier(super().fstat(fd))

    def earlier(info: os.stat_result) -> os.stat_result:
        fields = list(info)
        fields[8] -= 7200
        return os.stat_result(fields)

    assert symptoms(state_dir, files=Behind(), fix=True) == []
    assert fresh.exists()


def test_where_nothing_can_be_written_that_is_told_and_the_rest_is_looked_at(
    manager: StateManager, state_dir: Path
) -> None:
    """A read-only mount: everything that can be read is judged, nothing is mended."""
    busy(manager)
    edit(state_dir / f"{ID}.json", name="by hand")

    class ReadOnly(Files):
        def open_append(self, name: str, dir_fd: int, *, exclusive: bool = False) -> int:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    found = examine(state_dir, files=ReadOnly(), fix=True)
    assert ["EROFS" in each.what for each in found if each.kind == "durability"] == [True]
    assert [each.fixed for each in found if each.kind == "view"] == [False]


def test_a_live_owner_s_temporaries_stay(manager: StateManager, state_dir: Path) -> None:
    """However old: who holds the lock may come back to them."""
    manager.create(ID)
    with owner(state_dir, ID):
        path = manager.folder(ID) / "journal" / ".tmp-0123456789abcdef"
        path.write_text("half")
        os.utime(path, (0, 0))
        assert symptoms(state_dir, fix=True) == []
        assert path.exists()


def test_an_interrupted_delete_is_finished(manager: StateManager, state_dir: Path) -> None:
    """Once it was decided, nothing of the experiment counts any more."""
    busy(manager)
    claim = manager.claim(ID)
    claim.record_deleted()
    claim.release()
    (found,) = symptoms(state_dir)
    assert (found.kind, found.path) == ("leftover", manager.folder(ID))
    assert "interrupted" in found.what
    assert symptoms(state_dir, fix=True)[0].fixed
    assert symptoms(state_dir) == []
    assert not manager.folder(ID).exists()
    assert not (state_dir / f"{ID}.json").exists()


def test_a_folder_that_is_nothing_is_named_and_left(manager: StateManager, state_dir: Path) -> None:
    """Its view may be about to be restored from a backup."""
    busy(manager)
    (state_dir / f"{ID}.json").unlink()
    for path in (manager.folder(ID) / "journal").iterdir():
        path.unlink()
    (found,) = symptoms(state_dir, fix=True)
    assert "neither a view nor a valid journal" in found.what
    assert not found.fixed
    assert manager.folder(ID).exists()


def test_an_altered_result_is_named(manager: StateManager, state_dir: Path) -> None:
    """Completed means proven: missing and altered results of any experiment are told."""
    manager.create(ID, num_processes=2)
    results = manager.folder(ID) / "results"
    with manager.claim(ID) as claim:
        results.mkdir()
        claim.record("start")
        for index in range(2):
            (results / f"{index}.1.json").write_text('{"x": 1}')
            ref = ResultRef(
                path=f"results/{index}.1.json",
                size=8,
                sha256="d32df7da8bb0f6cd1ba75ea3b2c9ee64a0ec9d4f6a1fc9ed8e2a4b70cd0ee27a",
            )
            claim.record("start", index)
            claim.record("complete", index, exit_code=0, result=ref)
    (results / "1.1.json").unlink()
    found = [each for each in symptoms(state_dir) if each.kind == "result"]
    assert [each.path.name for each in found] == ["0.1.json", "1.1.json"]
    assert all(each.severity == "problem" for each in found)


@pytest.mark.parametrize(
    ("command", "spoil", "what"),
    [
        (["true"], lambda path: None, "is missing"),
        (["true"], lambda path: path.write_text("garbage"), "is not valid JSON"),
        (["true"], lambda path: path.write_text("[]"), "is not an aggregate in schema"),
        (None, lambda path: None, None),
    ],
    ids=["missing", "garbage", "another file", "of the library alone"],
)
def test_an_aggregate_that_is_none_is_named(
    manager: StateManager,
    state_dir: Path,
    command: list[str] | None,
    spoil: Callable[[Path], object],
    what: str | None,
) -> None:
    """Whoever aggregates with the library alone need not have one."""
    config = {} if command is None else {"command": command}
    manager.create(ID, num_processes=1, config=config)
    with manager.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
        claim.record("complete", 0, exit_code=0)
        claim.record("complete")
        claim.record("aggregate")
    path = manager.folder(ID) / "aggregate.json"
    spoil(path)
    found = symptoms(state_dir, fix=True)
    expected = [] if what is None else [("result", "problem", path, False)]
    assert [(each.kind, each.severity, each.path, each.fixed) for each in found] == expected
    assert [each.command for each in found] == [("aggregate", ID)] * len(expected)
    assert what is None or what in found[0].what


def test_a_directory_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A file in its place is named."""
    path = tmp_path / "state"
    path.write_text("")
    with pytest.raises(StateCorruptError):
        examine(path)


# -- the file system ------------------------------------------------------------------------------


def about(found: Iterable[volume.Symptom], kind: str) -> list[str]:
    return [each.what for each in found if each.kind == kind]


def test_locks_that_do_nothing_or_are_refused_are_told(tmp_path: Path) -> None:
    """Two descriptors that both get it, and a file system that says no."""

    class Useless(Files):
        def flock(self, fd: int, operation: int) -> None:
            pass

    class Refused(Files):
        def flock(self, fd: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

    assert about(volume.examine(Files(), tmp_path), "locks") == []
    assert all(each.repair for each in volume.examine(Refused(), tmp_path))
    assert "locks do nothing" in about(volume.examine(Useless(), tmp_path), "locks")[0]
    assert "there are no locks" in about(volume.examine(Refused(), tmp_path), "locks")[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("by_s", "direction"), [(3600, "s ahead of this host's"), (-3600, "s behind this host's")]
)
def test_a_server_with_another_clock_is_told(tmp_path: Path, by_s: int, direction: str) -> None:
    """File times an hour away from ours come from somebody else's clock."""

    class Elsewhere(Files):
        def fstat(self, fd: int) -> os.stat_result:
            info = list(super().fstat(fd))
            info[8] += by_s
            return os.stat_result(info)

    assert about(volume.examine(Files(), tmp_path), "clock") == []
    (told,) = [each for each in volume.examine(Elsewhere(), tmp_path) if each.kind == "clock"]
    assert direction in told.what
    assert "synchronised" in told.repair


class Timed(Files):
    """The operating system, with a clock that only flushes move.

    Args:
        call_s: What every call costs.
        flush_s: How much longer `fsync` and `fdatasync` of a file take.
    """

    def __init__(self, call_s: float = 0.0, **flush_s: float) -> None:
        self.now, self.call_s, self.flush_s = 0.0, call_s, flush_s

    def fsync(self, fd: int) -> None:
        self._take("fsync", fd)

    def fdatasync(self, fd: int) -> None:
        self._take("fdatasync", fd)

    def _take(self, name: str, fd: int) -> None:
        self.now += self.call_s
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.now += self.flush_s[name]

    def told(self, directory: Path) -> list[volume.Symptom]:
        with Opened.at(self, directory) as there:
            return list(volume._fsync(there, lambda: self.now))


@pytest.mark.parametrize("lies", ["fsync", "fdatasync"])
def test_a_flush_that_is_too_quick_to_be_true_is_a_hint(tmp_path: Path, lies: str) -> None:
    """No storage answers at once: not under views and claims, nor under the steps in between."""
    liar = Timed(**{"fsync": 0.001, "fdatasync": 0.001} | {lies: 0.0})
    (found,) = liar.told(tmp_path)
    assert (found.kind, found.certain) == ("durability", False)
    assert found.what.startswith(f"{lies} of 4 KiB takes ")
    assert " and " not in found.what


def test_a_call_that_is_slow_by_itself_is_no_flush(tmp_path: Path) -> None:
    """A sandbox that takes its time for every system call hides no disk that lies."""
    sandbox = Timed(0.0001, fsync=0.0, fdatasync=0.001)
    (found,) = sandbox.told(tmp_path)
    assert found.what.startswith("fsync of 4 KiB takes ")


def test_a_preloaded_library_that_swallows_fsync_is_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does is known by its name."""
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libeatmydata.so")
    found = [each for each in volume.examine(Files(), tmp_path) if "LD_PRELOAD" in each.what]
    assert [each.certain for each in found] == [True]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to swallow system calls")
@pytest.mark.parametrize("swallowed", ["fsync", "fdatasync", "fsync,fdatasync"])
def test_flushes_that_really_are_swallowed_are_told(
    manager: StateManager, state_dir: Path, swallowed: str
) -> None:
    """The command itself, on a kernel that only says that it has flushed."""
    manager.create(ID)
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={swallowed}"]
    doctor = [sys.executable, "-c", _COMMAND, "-C", str(state_dir), "doctor", "--json"]

    def all_told() -> bool:
        traced = subprocess.run(
            [*strace, "-e", f"inject={swallowed}:retval=0", *doctor],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            check=False,
        )
        found = json.loads(traced.stdout)["findings"]
        told = "".join(each["what"] for each in found if each["kind"] == "durability")
        return all(f"{name} of 4 KiB takes " in told for name in swallowed.split(","))

    # Where others work, one look may find a call held up for as long as storage takes.
    until(all_told)


def test_mount_options_are_told_where_nothing_can_be_written(
    manager: StateManager, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are to be read, and whoever may write there should know them."""
    manager.create(ID)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"2 1 9:9 / {tmp_path} rw - nfs server:/x rw,nolock\n")
    monkeypatch.setattr(volume, "_MOUNTS", mounts)

    class Forbidden(Files):
        def open_append(self, name: str, dir_fd: int, *, exclusive: bool = False) -> int:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    found = examine(state_dir, files=Forbidden())
    why = "locks are not passed on to other hosts"
    told = [(each.kind, each.severity, each.what) for each in found]
    assert told == [
        ("locks", "problem", f"{tmp_path} (nfs) is mounted nolock: {why}"),
        ("durability", "problem", "nothing can be written here: Permission denied (EACCES)"),
    ]


@pytest.mark.parametrize(
    ("line", "kind", "certain"),
    [
        ("nfs4 server:/x rw,vers=3,nolock", "locks", True),
        ("nfs server:/x rw,local_lock=flock", "locks", True),
        ("lustre mgs:/x rw,localflock", "locks", True),
        ("ext4 /dev/sda1 rw,nobarrier", "durability", True),
        ("zfs tank/x rw,sync=disabled", "durability", True),
        ("ext4 /dev/sda1 rw,barrier=0", "durability", True),
        ("ext4 /dev/sda1 rw,data=writeback", "durability", False),
        ("tmpfs tmpfs rw", "durability", False),
        ("overlay overlay rw,volatile", "durability", True),
        ("ext4 /dev/sda1 rw,relatime", None, None),
        ("nfs4 server:/x rw,vers=4.2,local_lock=none", None, None),
    ],
)
def test_mount_options_that_matter_are_told(
    tmp_path: Path, line: str, kind: str | None, certain: bool | None
) -> None:
    """Locks that other hosts do not see, a cache that is not flushed; ordinary mounts are fine."""
    device = tmp_path.stat().st_dev
    kind_of, source, options = line.split()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 9:9 / / rw - ext4 /dev/root rw,nobarrier\n"
        f"2 1 {os.major(device)}:{os.minor(device)} / {tmp_path} rw,noatime shared:1 - "
        f"{kind_of} {source} {options}\n"
    )
    mount = volume.mount_of(tmp_path, mounts)
    assert mount is not None
    assert mount.kind == kind_of
    found = list(volume._options(mount))
    assert [(each.kind, each.certain) for each in found] == (
        [] if kind is None else [(kind, certain)]
    )
    assert all(each.repair for each in found)
    assert volume.mount_of(tmp_path, tmp_path / "nowhere") is None


# -- the command ----------------------------------------------------------------------------------


def test_the_command_tells_mends_and_says_by_its_exit_code(
    manager: StateManager, state_dir: Path
) -> None:
    """0 if all is well or mended, 1 for a problem, 6 for a state that cannot be read."""
    busy(manager)
    arguments = ("-C", state_dir, "doctor")
    # The disk under this test may have a problem of its own.
    well = int(any(each.severity == "problem" for each in examine(state_dir)))
    out = run(_COMMAND, *arguments, "--json", exit_code=well)
    assert json.loads(out)["schema"] == "holdfast.doctor/1"
    assert json.loads(out)["strays"]["proof"] == strays.proof().kind
    edit(state_dir / f"{ID}.json", name="by hand")
    assert "differs from its journal in name" in run(_COMMAND, *arguments, exit_code=1)
    assert "done: rewrite it" in run(_COMMAND, *arguments, "--fix", exit_code=well)
    (state_dir / "cut.json").write_text("{")
    out = run(_COMMAND, *arguments, "--json", exit_code=6)
    (found,) = [each for each in json.loads(out)["findings"] if each["kind"] == "unreadable"]
    assert found["path"] == str(state_dir / "cut.json")
    assert found["what"].startswith("is not valid JSON")


def test_reasons_of_the_doctor_are_reasons(manager: StateManager, state_dir: Path) -> None:
    """A stale experiment that was interrupted with evidence is healthy."""
    manager.create(ID)
    with owner(state_dir, ID) as process:
        process.kill()
        process.wait()
    assert manager.cleanup_stale() == [ID]
    assert manager.load(ID).reason is Reason.STALE
    assert symptoms(state_dir) == []
