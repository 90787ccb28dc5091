"""An experiment runs while its disk fills up, by bytes and by inodes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from waiting import until

from .test_file_systems import _fill, _free

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="not run: mounting takes root on Linux"
)

# Tells that it runs, works until it may end, tells that it ended. The log is on another disk.
_WORK = """
import os, pathlib, sys, time
log, gate, index = sys.argv[1:]
def tell(what):
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{what} {index}\\n".encode())
    os.close(fd)
tell("began")
while not pathlib.Path(gate).exists():
    time.sleep(0.01)
tell("ended")
"""


#: Enough for their exits not to fit into the last page of the journal.
_COUNT = 12


class _Run:
    """An experiment under `holdfast run`, its state on a disk of its own."""

    def __init__(self, tmp_path: Path, options: str) -> None:
        self.disk = tmp_path / "disk"
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(self.disk)]
        done = subprocess.run(mount, capture_output=True, check=False)
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

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "holdfast", "-C", str(self.disk / "states"), *words]

    def holdfast(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, cwd=self.cwd, timeout=60,
            env=_env(), check=False,
        )  # fmt: skip

    def start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            self.command("run", str(self.file)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=self.cwd, env=_env(),
        )  # fmt: skip
        until(lambda: len(self.lines("began")) == _COUNT)
        return process

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


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NO_COLOR": "1"}


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[_Run]:
    run = _Run(tmp_path, request.param)
    yield run
    run.gate.touch()
    subprocess.run(["umount", "-l", str(run.disk)], check=True)


@pytest.mark.parametrize(
    ("running", "inodes"),
    [("size=2m", False), ("size=16m,nr_inodes=160", True)],
    indirect=["running"],
)
def test_a_disk_that_fills_up_stops_no_process_and_resume_adopts_what_ended(
    running: _Run, inodes: bool
) -> None:
    """No space, no inodes: a clear message, the processes run on, and nothing runs twice."""
    orchestrator = running.start()
    _fill(running.disk, inodes=inodes)
    running.gate.touch()
    # Nobody needs the disk to end: the processes do, whatever becomes of their orchestrator.
    until(lambda: len(running.lines("ended")) == _COUNT)
    ends = time.monotonic() + 2
    until(lambda: orchestrator.poll() is not None or time.monotonic() > ends)
    stopped = orchestrator.poll() is not None
    _free(running.disk)
    _, words = orchestrator.communicate(timeout=60)
    if stopped and orchestrator.returncode:
        assert "No space left on device" in words
        assert "Traceback" not in words
        print(words)
    running.is_aggregated()


def _count(journals: Path, word: str) -> int:
    return sum(path.read_text().count(word) for path in journals.glob("*/journal/*.jsonl"))


@pytest.mark.parametrize("running", ["size=2m"], indirect=True)
def test_a_full_disk_is_told_while_the_processes_run(running: _Run) -> None:
    """Attempts that end wait for room; without a word of it the run would seem to hang."""
    orchestrator = running.start()
    journals = running.disk / "states"
    # From here on there is nothing to record until something ends.
    until(lambda: _count(journals, "launched") == _COUNT and _count(journals, '"pid"') > _COUNT)
    _fill(running.disk, inodes=False)
    assert orchestrator.stderr is not None
    told = next(line for line in orchestrator.stderr if "no room left on the disk" in line)
    assert "free some" in told
    _free(running.disk)
    running.gate.touch()
    _, words = orchestrator.communicate(timeout=60)
    assert orchestrator.returncode == 0, words
    assert len(running.lines("ended")) == _COUNT
