"""What a dead shim left is found by its mark and stopped, and nobody else is."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from holdfast import liveness
from holdfast.attempts import environment
from holdfast.attempts.family import Census, holds_lock, send_to_marked
from holdfast.attempts.files import live_state
from holdfast.attempts.looking import Gone, Running, Undecided, look
from holdfast.attempts.names import AttemptName, prepare
from holdfast.attempts.records import Process
from holdfast.attempts.settling import Lost
from holdfast.identity import ProcessIdentity
from holdfast.liveness import Observer
from settled import settled
from shims import asleep, mark_of
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

NAME = AttemptName("exp", "0", 1)
_UP_AND_SLEEP = 'import time; print("up", flush=True); time.sleep(600)'


def pids(found: list[Process]) -> set[int]:
    return {each.pid for each in found}


class Shim:
    """A leader that locked its `.live` and started *script* with the mark in its environment."""

    def __init__(self, folder: Path, script: str, mark: str | None = None) -> None:
        self.mark = mark = mark or mark_of(folder, NAME)
        code = (
            "import fcntl, json, os, subprocess, sys, attrs\n"
            "from holdfast import liveness\n"
            "folder, mark, script = sys.argv[1:]\n"
            "folder_fd = os.open(folder, os.O_RDONLY)\n"
            "fd = os.open('0.1.live', os.O_RDWR | os.O_CREAT, 0o644, dir_fd=folder_fd)\n"
            "fcntl.flock(fd, fcntl.LOCK_EX)\n"
            "me = attrs.evolve(liveness.me(), locked=True)\n"
            "more = {'mark': mark, 'inode': os.fstat(fd).st_ino}\n"
            "os.write(fd, json.dumps(attrs.asdict(me) | more).encode())\n"
            f"env = {{**os.environ, {environment.SESSION!r}: mark}}\n"
            "child = subprocess.Popen(['sh', '-c', script], env=env, process_group=0,\n"
            "                         stdout=subprocess.PIPE)\n"
            "child.stdout.readline()\n"
            "print('up', flush=True)\n"
            "child.wait()\n"
        )
        prepare(folder)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder / "attempts"), mark, script],
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n"
        self.process.stdout.close()
        found = liveness.identity_of(self.process.pid)
        assert found is not None
        self.identity: ProcessIdentity = found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def members(shim: Shim, *commands: str) -> list[Process]:
    """The processes of *shim* once they are these: amid `exec`, one would not show its mark."""
    mark = shim.mark.partition(":")[0]

    def found() -> list[Process]:
        marked = Census().marked(mark)
        return marked if sorted(each.command for each in marked) == [*commands] else []

    there = until(found)
    for each in there:
        if each.command == "sleep":
            asleep(each.pid)
    return there


def sleeping(folder: Path, mark: str | None = None) -> tuple[Shim, Process]:
    """A shim whose command is a `sleep`, and that."""
    shim = Shim(folder, "echo up; exec sleep 600", mark)
    [member] = members(shim, "sleep")
    return shim, member


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for each in Census().marked(mark_of(tmp_path, NAME)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)


def test_leftovers_of_a_dead_shim_are_stopped_whatever_session_they_made(folder: Path) -> None:
    """TERM for those that listen, KILL for those that do not."""
    shim = Shim(folder, "trap '' TERM; setsid sleep 600 & echo up; sleep 600 & wait")
    started = pids(members(shim, "sh", "sleep", "sleep"))
    assert isinstance(look(folder, NAME), Running)
    shim.kill()
    seen = look(folder, NAME)
    assert isinstance(seen, Gone)
    assert pids(list(seen.leftovers)) == started
    found = settled(folder, NAME, grace_s=1.0)
    assert isinstance(found, Lost)
    assert all(str(pid) in found.evidence for pid in started)
    assert Census().marked(shim.mark) == []


def test_looking_touches_nothing(folder: Path) -> None:
    """What a dead shim left runs on, and no file changes, however often it is looked at."""
    shim, _ = sleeping(folder)
    shim.kill()
    before = sorted(os.listdir(folder / "attempts"))
    for _ in range(3):
        assert isinstance(look(folder, NAME), Gone)
    assert len(Census().marked(shim.mark)) == 1
    assert sorted(os.listdir(folder / "attempts")) == before


def test_what_is_in_the_middle_of_an_exec_is_seen_all_the_same(folder: Path) -> None:
    """For a moment it has no environment to show; that puts no dead shim's attempt in doubt."""
    loop = folder / "loop.sh"
    loop.write_text(f"exec /bin/sh {loop}\n")
    shim = Shim(folder, f"echo up; exec /bin/sh {loop}")
    shim.kill()
    for _ in range(300):
        seen = look(folder, NAME)
        assert isinstance(seen, Gone)
        assert len(seen.leftovers) == 1


def test_a_stopped_leftover_is_ended_within_the_grace_period(folder: Path) -> None:
    """SIGSTOP does not keep a process from being told to end."""
    shim, member = sleeping(folder)
    shim.kill()
    os.kill(member.pid, signal.SIGSTOP)
    assert isinstance(settled(folder, NAME, grace_s=10**6), Lost)


def test_a_process_with_another_mark_is_left_alone(folder: Path) -> None:
    """Numbers are given to strangers in their turn, 128 random bits are not."""
    shim, member = sleeping(folder)
    shim.kill()
    live = folder / "attempts" / "0.1.live"
    plain = json.loads(live.read_text())
    another = mark_of(folder, NAME, "f" * 32)
    live.write_text(json.dumps(plain | {"mark": another}))
    assert isinstance(settled(folder, NAME), Lost)
    assert send_to_marked(member, another, signal.SIGKILL) == ""
    assert pids(Census().marked(shim.mark)) == {member.pid}


def test_a_nested_attempt_belongs_to_the_outer_one_too(folder: Path) -> None:
    """Marks are appended: who stops the outer attempt stops what runs within."""
    outer, inner = "a" * 32, "b" * 32
    shim, _ = sleeping(folder, f"{outer}:{inner}")
    assert pids(Census().marked(outer)) == pids(Census().marked(inner))
    for each in Census().marked(inner):
        assert send_to_marked(each, inner, signal.SIGKILL) == ""
    until(lambda: not Census().marked(outer))
    shim.kill()


def test_a_member_that_hides_its_environment_is_in_doubt(folder: Path) -> None:
    """It may be the shim's or a stranger's: it is neither stopped nor taken for gone."""
    shim = Shim(folder, f"exec env -i {sys.executable} -S -c '{_UP_AND_SLEEP}' 3>&-")
    shim.kill()
    [member] = until(lambda: Census().doubtful(shim.identity))
    try:
        found = settled(folder, NAME)
        assert isinstance(found, Undecided)
        assert str(member.pid) in found.evidence
        taken = settled(folder, NAME, force=True)
        assert isinstance(taken, Lost)
        assert "--force" in taken.evidence
    finally:
        os.kill(member.pid, signal.SIGKILL)
    until(lambda: not Census().doubtful(shim.identity))
    assert isinstance(settled(folder, NAME), Lost)


def test_a_mark_beside_an_odd_entry_is_seen(folder: Path) -> None:
    """`execve` takes entries without "=", and whoever shows the mark belongs to the attempt."""
    code = (
        "import ctypes, os; print('up', flush=True); os.setsid();"
        "env = [f'{k}={v}'.encode() for k, v in os.environ.items()];"
        "argv = (ctypes.c_char_p * 3)(b'sleep', b'600', None);"
        "envp = (ctypes.c_char_p * (len(env) + 2))(b'odd', *env, None);"
        "ctypes.CDLL(None).execve(b'/bin/sleep', argv, envp)"
    )
    shim = Shim(folder, f'{sys.executable} -S -c "{code}" & echo up; wait')
    members(shim, "sh", "sleep")
    shim.kill()
    assert isinstance(settled(folder, NAME), Lost)
    assert Census().marked(shim.mark) == []


def test_a_strangers_session_of_the_same_number_is_in_no_doubt(folder: Path) -> None:
    """For ever, where the stranger is a daemon."""
    shim = Shim(folder, "echo up; exec env -i sleep 600")
    stranger = attrs.evolve(shim.identity, start_ticks=(shim.identity.start_ticks or 0) - 500)
    assert Census().doubtful(stranger) == []
    assert Census().doubtful(attrs.evolve(shim.identity, boot_id="before")) == []
    [member] = until(lambda: Census().doubtful(shim.identity))
    shim.kill()
    os.kill(member.pid, signal.SIGKILL)


def test_a_session_is_only_a_strangers_if_that_is_proven(folder: Path) -> None:
    """Without a recorded start time, a session that somebody leads may still be the shim's."""
    shim = Shim(folder, f"exec env -i {sys.executable} -S -c '{_UP_AND_SLEEP}'")
    [member] = until(lambda: Census().doubtful(shim.identity))
    nameless = attrs.evolve(shim.identity, start_ticks=None)
    assert pids(Census().doubtful(nameless)) == {member.pid}
    shim.kill()
    os.kill(member.pid, signal.SIGKILL)


@pytest.fixture
def original(tmp_path: Path) -> Iterator[tuple[Path, Shim]]:
    """An experiment's folder and the shim of what runs there; nothing outlives the test."""
    folder = tmp_path / "one"
    folder.mkdir()
    shim, _ = sleeping(folder)
    yield folder, shim
    for each in Census().marked(shim.mark):
        send_to_marked(each, shim.mark, signal.SIGKILL)
    shim.kill()


def test_the_holder_of_a_lock_is_who_has_it_open_and_works_there(
    original: tuple[Path, Shim], tmp_path: Path
) -> None:
    """Not who is named in the file, nor who holds it under another name (`cp -al`)."""
    folder, shim = original
    copy = tmp_path / "two"
    subprocess.run(["cp", "-al", str(folder), str(copy)], check=True)
    here = Observer.here()
    live = live_state(folder, NAME)
    assert holds_lock(shim.process.pid, live, folder, here) is True
    assert holds_lock(os.getpid(), live, folder, here) is False
    assert holds_lock(shim.process.pid, live_state(copy, NAME), copy, here) is False
    seen = look(copy, NAME)
    assert isinstance(seen, Undecided)
    assert "copy of a running experiment" in seen.evidence


def test_nothing_of_the_original_is_stopped_from_a_copy(
    original: tuple[Path, Shim], tmp_path: Path
) -> None:
    """Its processes carry the mark that stands in the copy, too: as long as its shim lives."""
    folder, shim = original
    copy = tmp_path / "two"
    subprocess.run(["cp", "-a", str(folder), str(copy)], check=True)
    found = settled(copy, NAME)
    assert isinstance(found, Undecided)
    assert "copy of a running experiment" in found.evidence
    assert len(Census().marked(shim.mark)) == 1


def test_nothing_of_a_dead_original_is_stopped_from_a_copy(
    original: tuple[Path, Shim], tmp_path: Path
) -> None:
    """Nor where the shim lives in a container, and cannot be seen from here."""
    folder, shim = original
    copy = tmp_path / "two"
    shutil.copytree(folder, copy)
    shim.kill()
    found = settled(copy, NAME)
    assert isinstance(found, Undecided)
    assert "a copy of" in found.evidence
    assert len(Census().marked(shim.mark)) == 1
    assert isinstance(settled(folder, NAME), Lost)
    assert Census().marked(shim.mark) == []
    assert isinstance(settled(copy, NAME), Lost)


def test_the_mark_of_another_attempt_aims_at_nobody(folder: Path) -> None:
    """It says whose it is: nothing of that attempt is stopped, and this one does not begin."""
    shim, _ = sleeping(folder)
    theirs = json.loads((folder / "attempts" / f"{NAME}.live").read_text())
    forged = attrs.evolve(NAME, attempt=2)
    path = folder / "attempts" / f"{forged}.live"
    path.write_text("")
    gone = {"pid": 2**22 + 1, "inode": path.stat().st_ino}
    path.write_text(json.dumps(theirs | gone))
    for dead in (False, True):
        if dead:
            shim.kill()
        found = settled(folder, forged)
        assert isinstance(found, Undecided)
        assert "that this is a copy of" in found.evidence
        assert len(Census().marked(shim.mark)) == 1
    assert isinstance(settled(folder, NAME), Lost)
    assert Census().marked(shim.mark) == []
    assert isinstance(settled(folder, forged), Lost)


def test_nothing_of_a_dead_original_is_stopped_from_a_copy_of_hard_links(
    original: tuple[Path, Shim], tmp_path: Path
) -> None:
    """`cp -al`, as backups are made: the very same files, in another directory."""
    folder, shim = original
    copy = tmp_path / "two"
    subprocess.run(["cp", "-al", str(folder), str(copy)], check=True)
    shim.kill()
    assert isinstance(settled(copy, NAME), Undecided)
    assert len(Census().marked(shim.mark)) == 1
    assert isinstance(settled(folder, NAME), Lost)
    assert Census().marked(shim.mark) == []


def test_a_forged_live_file_names_nobody(folder: Path) -> None:
    """Its lock is held, but not by whom it names: neither adopted nor started again."""
    prepare(folder)
    victim = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        found = liveness.identity_of(victim.pid)
        assert found is not None
        path = folder / "attempts" / "0.1.live"
        path.write_text(
            json.dumps(attrs.asdict(found) | {"locked": True, "mark": mark_of(folder, NAME)})
        )
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert isinstance(look(folder, NAME), Undecided)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
