"""Attempts under real shims, for tests of what shims do."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast import liveness
from holdfast.attempts.names import AttemptName, attempts_dir, output_path, prepare
from holdfast.attempts.records import Attempt
from holdfast.engines.contract import Handle
from holdfast.engines.local.engine import LocalEngine
from waiting import until

__all__ = [
    "EXPERIMENT",
    "NAME",
    "alive",
    "an_engine",
    "asleep",
    "command_of",
    "exit_file",
    "halted",
    "live_file",
    "mark_of",
    "request",
    "shim_of",
    "start",
    "state_of",
    "up",
]

EXPERIMENT = "exp_1"
NAME = AttemptName.of_process(EXPERIMENT, 0, 1)


@contextlib.contextmanager
def an_engine(folder: Path, cgroup: Path | bool = True) -> Iterator[LocalEngine]:
    """An engine that leaves nothing of a failed test behind."""
    with LocalEngine(cgroup=cgroup) as engine:
        yield engine
        left = list(engine.find(EXPERIMENT, folder).values())
        engine.cancel(left, force=True)
        until(lambda: all(word.kind == "gone" for word in engine.poll(left)))


def start(
    engine: LocalEngine, folder: Path, script: str, name: AttemptName = NAME, **options: Any
) -> Handle:
    """*script* under a shim, in *folder*."""
    wanted = Attempt(
        name=name,
        argv=("sh", "-c", script),
        folder=folder,
        **{"grace_s": 5.0, "cwd": str(folder), **options},
    )
    (handle,) = engine.submit(EXPERIMENT, [wanted])
    return handle


def up(folder: Path, text: str = "up", name: AttemptName = NAME) -> list[str]:
    """What it wrote, word by word, once *text* is in it."""
    path = output_path(folder, name)
    until(lambda: path.exists() and text in path.read_text())
    return path.read_text().split()


def exit_file(folder: Path, name: AttemptName = NAME) -> dict[str, Any]:
    """What its shim published, as it stands there."""
    path = attempts_dir(folder) / f"{name}.exit"
    until(path.exists)
    return dict(json.loads(path.read_text()))


def live_file(folder: Path, name: AttemptName = NAME) -> dict[str, Any]:
    path = attempts_dir(folder) / f"{name}.live"
    until(path.exists)
    return dict(json.loads(path.read_text()))


def mark_of(folder: Path, name: AttemptName = NAME, bits: str = "0123456789abcdef" * 2) -> str:
    """A mark as a starter makes one for *name*."""
    prepare(folder)
    return f"{bits}.{attempts_dir(folder).stat().st_ino}.{name}"


def request(folder: Path, suffix: str = "stop", name: AttemptName = NAME) -> None:
    """Ask by file alone, as from another host."""
    directory = attempts_dir(folder)
    temporary = directory / ".request.tmp"
    temporary.write_text(json.dumps({"reason": "user"}))
    os.link(temporary, directory / f"{name}.{suffix}")
    temporary.unlink()


def shim_of(handle: Handle) -> int:
    assert handle.identity is not None
    assert handle.identity.pid is not None
    return handle.identity.pid


def command_of(handle: Handle) -> int:
    """The one child of its shim."""
    shim = shim_of(handle)
    path = Path(f"/proc/{shim}/task/{shim}/children")
    return int(until(lambda: path.read_text().split())[0])


def alive(pid: int) -> bool:
    return liveness.identity_of(pid) is not None


def state_of(pid: int) -> str:
    """`S` if it sleeps, `T` if it is stopped, `Z` if it has ended, and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def asleep(pid: int) -> int:
    """*pid*, once it is the `sleep` that it was to become: amid `exec` its mark cannot be seen."""
    comm = Path(f"/proc/{pid}/comm")
    until(lambda: comm.read_text() == "sleep\n" and state_of(pid) == "S")
    return pid


@contextlib.contextmanager
def halted(handle: Handle) -> Iterator[None]:
    """Its shim is stopped as soon as it has a command, which goes on: no time limit strikes here.

    However long the command takes to be ready. What is due by then strikes at the end.
    """
    command_of(handle)
    shim = shim_of(handle)
    os.kill(shim, signal.SIGSTOP)
    until(lambda: state_of(shim) == "T")
    yield
    os.kill(shim, signal.SIGCONT)
