"""Nodes under tests: real ones, as a batch script's `exec` starts them, and what they run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast import liveness
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.engines import node
from holdfast.engines.waves import Wave, token, write
from waiting import until

__all__ = ["EXPERIMENT", "Job", "alive", "job"]

EXPERIMENT = "exp"


def alive(pid: int) -> bool:
    return liveness.identity_of(pid) is not None


class Job:
    """A wave of one task, and the nodes that run it.

    Args:
        units: What each script is an attempt of; by default processes 0, 1 and so on.

    Attributes:
        folder: Of the experiment.
        nodes: Those that were started.
    """

    def __init__(
        self,
        folder: Path,
        scripts: Sequence[str],
        units: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.attempts = folder / "attempts"
        units = units or [str(i) for i in range(len(scripts))]
        self.names = [AttemptName(EXPERIMENT, unit, 1) for unit in units]
        wanted = [
            Attempt(
                name=name,
                argv=("sh", "-c", script),
                folder=folder,
                **{"grace_s": 5.0, "cwd": str(folder), **options, "env": self._env(name, options)},
            )
            for name, script in zip(self.names, scripts, strict=True)
        ]
        made_at = datetime.now(UTC)
        self.wave: Wave = write(
            folder, engine="slurm", token=token(folder), tasks=[wanted], made_at=made_at
        )
        self.nodes: list[subprocess.Popen[str]] = []

    def _env(self, name: AttemptName, options: Mapping[str, Any]) -> dict[str, str]:
        return {
            "HOLDFAST_EXPERIMENT_ID": EXPERIMENT,
            "HOLDFAST_STATE_DIR": str(self.folder.parent),
            "HOLDFAST_LAUNCHER" if name.is_launcher else "HOLDFAST_INDEX": str(name.index),
            "HOLDFAST_ATTEMPT": str(name.attempt),
            "HOLDFAST_REPORTS": str(self.attempts / f"{name}.reports"),
            "HOLDFAST_RESULT": str(self.folder / "results" / f"{name}.json"),
            **options.get("env", {}),
        }

    @property
    def words(self) -> list[str]:
        """What a node is told."""
        return [str(self.folder), self.wave.name, "0"]

    def start(
        self,
        *words: str,
        python: Sequence[str] = (sys.executable, node.__file__),
        **options: Any,
    ) -> "subprocess.Popen[str]":
        """A node that leads a process group in a session of somebody else's."""
        started = subprocess.Popen(
            [*python, *self.words, *words],
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                "process_group": 0,
                "cwd": "/",
                **options,
            },
        )
        self.nodes.append(started)
        return started

    def run(self, *words: str, exits: int = 0, **options: Any) -> str:
        """What a node wrote to its stderr; it must exit with *exits*."""
        return self.ended(self.start(*words, **options), exits)

    @staticmethod
    def ended(started: "subprocess.Popen[str]", exits: int = 0) -> str:
        out, err = started.communicate(timeout=240)
        assert (started.returncode, out) == (exits, ""), err
        return err

    # --- what its attempts leave

    def path(self, index: int, suffix: str) -> Path:
        return self.attempts / f"{self.names[index]}.{suffix}"

    def said(self, index: int, suffix: str = "exit") -> dict[str, Any]:
        path = self.path(index, suffix)
        until(path.exists)
        return dict(json.loads(path.read_text()))

    def out(self, index: int, text: str = "\n") -> str:
        """What its command wrote, once *text* is in it."""
        path = self.path(index, "out")
        until(lambda: path.exists() and text in path.read_text())
        return path.read_text()

    def ended_at(self, index: int) -> bool:
        return self.path(index, "exit").exists()

    def shim(self, index: int) -> int:
        return int(self.said(index, "live")["pid"])

    def end(self) -> None:
        """Leave nothing alive, whatever a test did."""
        for started in self.nodes:
            started.kill()
            started.communicate()
        for index in range(len(self.names)):
            live = self.path(index, "live")
            if live.exists() and "mark" in live.read_text() and not self.ended_at(index):
                self.path(index, "kill").write_text('{"reason": "user"}')
                shim = self.shim(index)
                until(lambda shim=shim: not alive(shim))


@contextlib.contextmanager
def job(folder: Path, *scripts: str, **options: Any) -> Iterator[Job]:
    """*scripts* as the attempts of one task in *folder*; nothing of it is left alive."""
    made = Job(folder / EXPERIMENT, scripts, **options)
    try:
        yield made
    finally:
        made.end()


def leave_ignored(*numbers: int) -> None:
    """As `trap ''` in a batch script does; for `preexec_fn`."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
