"""An experiment runs while its disk fills up, turns read-only, forbids or limits what it needs."""

import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import hear
from waiting import PATIENCE_S, until

from .powercut import FILE_SYSTEMS, alone, unavailable
from .test_file_systems import _fill, _free

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="not run: mounting takes root on Linux"
)

# Tells that it runs, works until it may end, tells that it ended. The log is on another disk.
_WORK = """
import os, sys, time
log, gate, index = sys.argv[1:]
def tell(what):
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{what} {index}\\n".encode())
    os.close(fd)
tell("began")
while not (os.path.exists(gate) or os.path.exists(f"{gate}.{index}")):
    time.sleep(0.01)
tell("ended")
"""


#: Enough for their exits not to fit into the last page of the journal.
_COUNT = 12


class _Run:
    """An experiment under `holdfast run`, its state on a disk of its own."""

    def __init__(self, tmp_path: Path, *mount: str) -> None:
        self.disk = tmp_path / "disk"
        self.disk.mkdir()
        self._mount = ["mount", *mount, str(self.disk)]
        done = subprocess.run(self._mount, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"not run: no mounts here: {done.stderr.decode().strip()}")
        self.log, self.gate = tmp_path / "log", tmp_path / "gate"
        script = tmp_path / "work.py"
        script.write_text(_WORK)
        self.file = tmp_path / "experiment.toml"
        command = [sys.executable, str(script), str(self.log), str(self.gate), "{index}"]
        listed = ", ".join(f"'{word}'" for word in command)
        self.file.write_text(
            f"command = [{listed}]\nprocesses = {_COUNT}\n[limits]\njobs = {_COUNT}\n"
        )
        self.cwd = tmp_path
        self._started: list[subprocess.Popen[str]] = []

    def mount_again(self) -> None:
        """As after a reboot: nothing holds the disk any more, and its journal is replayed."""
        # The shims that were told to give up do so in their own time.
        umount = ["umount", str(self.disk)]
        until(lambda: not subprocess.run(umount, capture_output=True, check=False).returncode)
        subprocess.run(self._mount, check=True)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "holdfast", "-C", str(self.disk / "states"), *words]

    def holdfast(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, cwd=self.cwd, timeout=PATIENCE_S,
            env=_env(), check=False,
        )  # fmt: skip

    def start(self, *under: str) -> "subprocess.Popen[str]":
        """Run it, as an argument of the command *under*, until all run and that is recorded."""
        process = subprocess.Popen(
            [*under, *self.command("run", str(self.file))], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, cwd=self.cwd, env=_env(),
        )  # fmt: skip
        self._started.append(process)
        until(lambda: len(self.lines("began")) == _COUNT)
        # The view follows what is on the disk, with the owner and all shims: from here on there is
        # nothing to record until something ends.
        until(lambda: sum(v.read_text().count('"pid"') for v in self._views()) == 1 + _COUNT)
        return process

    def end(self) -> None:
        """Leave nothing of a failed test behind: neither its orchestrator nor its processes."""
        self.gate.touch()
        for process in self._started:
            process.kill()
            process.communicate()
        subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def _views(self) -> Iterator[Path]:
        return (self.disk / "states").glob("*.json")

    def open_gate(self, index: int) -> None:
        """Let one process end."""
        Path(f"{self.gate}.{index}").touch()

    def shims(self) -> dict[int, int]:
        """For every process whose shim has not ended, the pid of that."""
        found = {}
        for path in self.disk.rglob("attempts/*.live"):
            with path.open("rb") as file:
                try:
                    # What a shim holds locked as long as it lives.
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found[int(path.name.split(".")[0])] = json.load(file)["pid"]
        return found

    def exits(self) -> int:
        """How many exit records there are."""
        return len(list(self.disk.rglob("attempts/*.exit")))

    def lines(self, word: str) -> list[str]:
        if not self.log.exists():
            return []
        return [line for line in self.log.read_text().splitlines() if line.startswith(word)]

    def is_aggregated(self) -> None:
        """Resume adopts what ended meanwhile: each process ran once, and the aggregate is there."""
        resumed = self.holdfast("resume", "@last")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert sorted(self.lines("began")) == sorted(f"began {i}" for i in range(_COUNT))
        assert sorted(self.lines("ended")) == sorted(f"ended {i}" for i in range(_COUNT))
        assert "aggregated" in self.holdfast("ls", "--json").stdout


def _last_words(process: "subprocess.Popen[str]") -> str:
    """What it says on stderr until its end."""
    return process.communicate(timeout=PATIENCE_S)[1]


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NO_COLOR": "1"}


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[_Run]:
    run = _Run(tmp_path, "-t", "tmpfs", "-o", request.param, "none")
    yield run
    run.end()


@pytest.fixture
def on_ext4(tmp_path: Path) -> Iterator[_Run]:
    if (why_not := unavailable("ext4")) is not None:
        pytest.skip(f"not run: {why_not}")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    path = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/sbin:/usr/sbin"}
    subprocess.run([*FILE_SYSTEMS["ext4"], str(image)], check=True, env=path)
    with alone():
        run = _Run(tmp_path, "-o", "loop", str(image))
        yield run
        run.end()


@pytest.mark.parametrize("running", ["size=2m"], indirect=True)
def test_a_disk_that_fills_up_stops_no_process_and_resume_adopts_what_ended(running: _Run) -> None:
    """No space: a clear message, exit 1, the processes run on, and nothing runs twice."""
    orchestrator = running.start()
    _fill(running.disk, inodes=False)
    running.gate.touch()
    # Nobody needs the disk to end: the processes do, whatever becomes of their orchestrator. It
    # cannot finish while the disk is full: at the latest the aggregate finds no room.
    until(lambda: len(running.lines("ended")) == _COUNT)
    words = _last_words(orchestrator)
    _free(running.disk)
    assert orchestrator.returncode == 1, words
    assert "No space left on device" in words
    assert "Traceback" not in words
    print(words)
    running.is_aggregated()


_FEW_INODES = pytest.mark.parametrize("running", ["size=16m,nr_inodes=160"], indirect=True)


@_FEW_INODES
def test_without_inodes_a_run_says_what_it_waits_for_and_ends_once_there_are_some(
    running: _Run,
) -> None:
    """The space of an exit record is reserved, its name is not: told, waited for, recorded."""
    orchestrator = running.start()
    _fill(running.disk, inodes=True)
    running.gate.touch()
    until(lambda: len(running.lines("ended")) == _COUNT)
    assert "free some" in hear(orchestrator.stderr, "no room left on the disk")
    assert orchestrator.poll() is None
    assert running.exits() < _COUNT, "the disk was not full"
    _free(running.disk)
    words = _last_words(orchestrator)
    assert orchestrator.returncode == 0, words
    assert "Traceback" not in words
    assert "aggregated" in running.holdfast("ls", "--json").stdout
    running.is_aggregated()


@_FEW_INODES
def test_what_ended_without_inodes_and_without_an_orchestrator_is_adopted(running: _Run) -> None:
    """Killed while nothing can be recorded: the shims keep the outcomes until they have room."""
    orchestrator = running.start()
    _fill(running.disk, inodes=True)
    running.gate.touch()
    until(lambda: len(running.lines("ended")) == _COUNT)
    hear(orchestrator.stderr, "no room left on the disk")
    orchestrator.kill()
    orchestrator.wait()
    assert running.exits() < _COUNT, "the disk was not full"
    _free(running.disk)
    running.is_aggregated()
    history = running.holdfast("show", "@last", "--history").stdout
    assert history.count("requeue") == 0, history


@pytest.mark.parametrize("running", ["size=2m"], indirect=True)
def test_a_full_disk_is_told_while_the_processes_run(running: _Run) -> None:
    """Attempts that end wait for room; without a word of it the run would seem to hang."""
    orchestrator = running.start()
    _fill(running.disk, inodes=False)
    told = hear(orchestrator.stderr, "no room left on the disk")
    assert "free some" in told
    _free(running.disk)
    running.gate.touch()
    words = _last_words(orchestrator)
    assert orchestrator.returncode == 0, words
    assert len(running.lines("ended")) == _COUNT


def test_a_disk_that_turns_read_only_stops_no_process_and_is_told(on_ext4: _Run) -> None:
    """As ext4 does after an error. What could not be recorded is lost with the shims, and rerun."""
    orchestrator = on_ext4.start()
    subprocess.run(["mount", "-o", "remount,abort", str(on_ext4.disk)], check=True)
    told = hear(orchestrator.stderr, "refuses to be written to")
    assert "Read-only file system" in told
    on_ext4.gate.touch()
    until(lambda: len(on_ext4.lines("ended")) == _COUNT)
    # Twice: their shims wait for a disk that only comes back when nobody holds it any more.
    for word in ("stopping", "killing"):
        orchestrator.send_signal(signal.SIGTERM)
        hear(orchestrator.stderr, word)
    words = _last_words(orchestrator)
    assert orchestrator.returncode == 1, words
    assert "Read-only file system" in words
    assert "Traceback" not in words
    assert "running" in on_ext4.holdfast("ls").stdout  # it can be looked at all the same
    on_ext4.mount_again()
    resumed = on_ext4.holdfast("resume", "@last")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert len(on_ext4.lines("ended")) == 2 * _COUNT
    assert "aggregated" in on_ext4.holdfast("ls", "--json").stdout
    shown = on_ext4.holdfast("show", "@last", "--history").stdout
    assert shown.count("requeue") == _COUNT, shown


def test_what_ended_before_a_disk_turned_read_only_is_adopted(on_ext4: _Run) -> None:
    """Nobody watched it end, and the disk is gone since: only what could not be told runs again."""
    orchestrator = on_ext4.start()
    orchestrator.send_signal(signal.SIGSTOP)
    early, late = set(range(0, _COUNT, 2)), set(range(1, _COUNT, 2))
    for index in early:
        on_ext4.open_gate(index)
    # A shim ends once its record is durable, which comes after it can be seen.
    until(lambda: set(on_ext4.shims()) == late)
    assert on_ext4.exits() == len(early)
    shims = on_ext4.shims()
    subprocess.run(["mount", "-o", "remount,abort", str(on_ext4.disk)], check=True)
    orchestrator.kill()
    orchestrator.wait()
    on_ext4.gate.touch()
    until(lambda: len(on_ext4.lines("ended")) == _COUNT)
    assert on_ext4.shims() == shims, "a shim gave up an outcome that it could not record"
    for pid in shims.values():
        os.kill(pid, signal.SIGKILL)
    on_ext4.mount_again()
    resumed = on_ext4.holdfast("resume", "@last")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    times = Counter(on_ext4.lines("began"))
    assert times == {f"began {i}": 1 if i in early else 2 for i in range(_COUNT)}
    assert Counter(on_ext4.lines("ended")) == {f"ended {i}": 1 + (i in late) for i in range(_COUNT)}
    assert "aggregated" in on_ext4.holdfast("ls", "--json").stdout
    shown = on_ext4.holdfast("show", "@last", "--history").stdout
    assert shown.count("requeue") == len(late), shown


@pytest.mark.parametrize("running", ["size=16m"], indirect=True)
def test_a_directory_that_turns_another_users_is_told_and_waited_for(running: _Run) -> None:
    """EACCES under a run: processes run on and wait to say how they ended; given back, all ends."""
    if (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("not run: setpriv is missing")
    # Root, but bound by permissions like everybody else.
    orchestrator = running.start(setpriv, "--bounding-set=-dac_override,-dac_read_search")
    states = [running.disk / "states", *(running.disk / "states").rglob("*")]
    for path in states:
        os.chown(path, 65534, 65534)
        path.chmod(0o755 if path.is_dir() else 0o644)
    told = hear(orchestrator.stderr, "refuses to be written to")
    assert "Permission denied" in told
    running.gate.touch()
    until(lambda: len(running.lines("ended")) == _COUNT)
    assert orchestrator.poll() is None
    for path in states:
        with contextlib.suppress(FileNotFoundError):  # what waited is published meanwhile
            os.chown(path, 0, 0)
    words = _last_words(orchestrator)
    assert orchestrator.returncode == 0, words
    assert "Traceback" not in words
    running.is_aggregated()


@pytest.mark.parametrize("running", ["size=16m"], indirect=True)
def test_a_file_size_limit_stops_no_process_and_resume_adopts_what_ended(running: _Run) -> None:
    """EFBIG under a run, as batch systems set it: named, and what ended is not run again."""
    orchestrator = running.start()
    resource.prlimit(orchestrator.pid, resource.RLIMIT_FSIZE, (100, 100))
    running.gate.touch()
    until(lambda: len(running.lines("ended")) == _COUNT)
    words = _last_words(orchestrator)
    assert orchestrator.returncode == 1, words
    assert "File too large" in words
    assert "Traceback" not in words
    running.is_aggregated()


@pytest.mark.parametrize("running", ["size=16m"], indirect=True)
def test_a_file_size_limit_on_all_that_runs_is_told_and_waited_for(running: _Run) -> None:
    """Whoever ends cannot say so, and a run would seem to hang; lifted, all of it goes on."""
    orchestrator = running.start()
    bound = [orchestrator.pid, *running.shims().values()]
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in bound]
    for pid, (_, hard) in zip(bound, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, hard))
    running.gate.touch()
    assert "ulimit -f" in hear(orchestrator.stderr, "a file-size limit keeps")
    for pid, limit in zip(bound, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
    words = _last_words(orchestrator)
    assert orchestrator.returncode == 0, words
    assert len(running.lines("began")) == _COUNT
    running.is_aggregated()
