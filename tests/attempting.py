"""An attempt without an orchestrator: its folders and variables, in which programs are started."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Attempt"]

#: What launchers set; a test may run under one itself.
_FOREIGN = ("RANK", "WORLD_SIZE", "OMPI_", "PMI", "SLURM_", "TORCHELASTIC_", "HOLDFAST_")


class Attempt:
    """Attempt 1 of process 3, or of the launcher of *ranks* processes from 4 on.

    Attributes:
        env: What its programs find.
    """

    def __init__(
        self,
        folder: Path,
        ranks: int | None = None,
        *,
        attempt: int = 1,
        completed: str | None = None,
        **more: str,
    ) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        unit = "3" if ranks is None else "launcher-4"
        name = f"{unit}.{attempt}"
        for each in ("attempts", "results", "checkpoints/3"):
            (folder / each).mkdir(parents=True, exist_ok=True)
        self.attempts, self.results = folder / "attempts", folder / "results"
        self.checkpoints = folder / "checkpoints"
        self.reports = self.attempts / f"{name}.reports"
        self.progress = self.attempts / f"{name}.progress"
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)},
            "HOLDFAST_ATTEMPT": str(attempt),
            "HOLDFAST_PARAMS": '{"lr": 0.1}',
            "HOLDFAST_PROGRESS": str(self.progress),
            "HOLDFAST_REPORTS": str(self.reports),
            "HOLDFAST_RESULT": str(self.results / f"{name}.json"),
            "HOLDFAST_SESSION": f"beef.17.{name}",
        }
        if ranks is None:
            self.env |= {
                "HOLDFAST_INDEX": "3",
                "HOLDFAST_CHECKPOINT_DIR": str(self.checkpoints / "3"),
            }
        else:
            self.env |= {
                "HOLDFAST_LAUNCHER": "4",
                "HOLDFAST_RANKS": str(ranks),
                "HOLDFAST_CHECKPOINTS": str(self.checkpoints),
            }
        if completed is not None:
            self.env["HOLDFAST_COMPLETED"] = completed
        self.env |= more

    def start(
        self, code: str, *args: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[str]":
        """Python with *code*; `ready` on its stdout is what a test waits for."""
        return self.popen([sys.executable, "-c", code, *args], env=env, **options)

    def popen(
        self, argv: list[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env={**self.env, **(env or {})},
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.started.append(process)
        return process

    def run(
        self, code: str, *args: str, exits: int = 0, env: Mapping[str, str] | None = None
    ) -> tuple[str, str]:
        """What Python with *code* printed; it must exit with *exits*."""
        return self.done(self.start(code, *args, env=env), exits)

    def cli(
        self,
        *args: str,
        exits: int = 0,
        env: Mapping[str, str] | None = None,
        given: str | None = None,
    ) -> tuple[str, str]:
        """What `holdfast *args*` printed, with *given* on its stdin."""
        argv = [sys.executable, "-m", "holdfast", *args]
        process = self.popen(argv, env=env, stdin=subprocess.PIPE)
        return self.done(process, exits, given)

    @staticmethod
    def done(
        process: "subprocess.Popen[str]", exits: int, given: str | None = None
    ) -> tuple[str, str]:
        out, err = process.communicate(given, timeout=240)
        assert process.returncode == exits, f"exit {process.returncode}\n{out}\n{err}"
        return out, err

    def told(self, suffix: str, index: int = 3) -> Any:
        """The only file of that kind that process *index* wrote; None if there is none."""
        found = list(self.reports.glob(f"{index}.*.{suffix}")) if self.reports.exists() else []
        assert len(found) <= 1, found
        return json.loads(found[0].read_text()) if found else None

    def lines(self, index: int = 3) -> list[dict[str, Any]]:
        """What process *index* reported."""
        return [
            json.loads(line)
            for path in self.reports.glob(f"{index}.*.progress")
            for line in path.read_text().splitlines()
        ]

    def told_by(self, pid: int, suffix: str) -> Any:
        """The file of that kind that the process *pid* wrote; None if there is none."""
        found = list(self.reports.glob(f"*.*-{pid}-*.{suffix}"))
        return json.loads(found[0].read_text()) if found else None

    def result(self, index: int = 3) -> Any:
        """The only result of process *index*."""
        [path] = [
            each
            for each in self.results.iterdir()
            if each.name.startswith(f"{index}.") and each.suffix == ".json"
        ]
        return json.loads(path.read_text())

    def end(self) -> None:
        """Leave no process alive."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
