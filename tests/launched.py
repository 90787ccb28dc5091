"""What tests of launchers share: a shell whose processes are gone at its end, and looks at them."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast import doctor
from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName
from holdfast.lifecycle.records import ExperimentState
from holdfast.store.manager import StateManager
from shell import Shell

__all__ = [
    "alive",
    "command_of",
    "each",
    "launching",
    "nothing_is_left",
    "said",
    "shim_of",
    "state_of",
]


@contextlib.contextmanager
def launching(path: Path) -> Iterator[Shell]:
    """A shell in *path*; whatever was started there is killed at the end, its temporary files go.

    A killed mpirun leaves `ompi.PID` in the temporary folder, and one that gets the same pid
    later refuses to start (exit code 213): no two tests share that folder.
    """
    shell = Shell(path)
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as temporary:
        shell.env["TMPDIR"] = temporary
        try:
            yield shell
        finally:
            for program in shell.started:
                program.kill()
                program.communicate()
            for pid in alive(path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def alive(folder: Path) -> list[int]:
    """Everything that the attempts below *folder* have started and that still lives."""
    wanted = f"HOLDFAST_STATE_DIR={folder / '.experiment_state'}".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(int(pid))
        except OSError:
            continue
    return found


def said(sh: Shell, what: str, attempt: int | None = None) -> list[tuple[int, int, int]]:
    """What ranks wrote to the log: `what index attempt pid`, by the three numbers of each line."""
    path = sh.path / "log"
    words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return sorted(
        (int(index), int(number), int(pid))
        for word, index, number, pid in words
        if word == what and attempt in (None, int(number))
    )


def state_of(sh: Shell) -> ExperimentState:
    """The only experiment there."""
    return StateManager(sh.states).load(sh.only_id())


def each(state: ExperimentState, what: str) -> list[Any]:
    """A field of every process."""
    return [getattr(process, what) for process in state.processes.values()]


def nothing_is_left(sh: Shell) -> None:
    """Nothing runs, no two attempts did at a time, and every step that was recorded was legal."""
    assert alive(sh.path) == []
    assert said(sh, "overlap") == []
    problems = [found for found in doctor.examine(sh.states) if found.severity == "problem"]
    assert problems == [], problems


def shim_of(sh: Shell, unit: str) -> int:
    """The pid of the shim of the first attempt of *unit*."""
    name = AttemptName(sh.only_id(), unit, 1)
    identity = live_state(sh.states / sh.only_id(), name).identity
    assert identity is not None
    assert identity.pid is not None
    return identity.pid


def command_of(sh: Shell, unit: str) -> int:
    """The pid of its command: the only child of the shim."""
    pid = shim_of(sh, unit)
    [found] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found)
