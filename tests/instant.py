"""An engine that carries every attempt out at once, and what a dry run says beside it."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from holdfast.attempts.names import AttemptName, attempts_dir, prepare
from holdfast.attempts.records import Attempt
from holdfast.cli.program import guarded
from holdfast.engines.contract import LOCAL, EngineWord, Handle


@attrs.define
class InstantEngine:
    """Whatever is started, or is found running, ends at once with exit code 0.

    Attributes:
        begin: Does what the command of an attempt does, before that.
    """

    running: set[AttemptName] = attrs.field(factory=set)
    locks: dict[AttemptName, int] = attrs.field(factory=dict)
    now: float = 0.0
    begin: Callable[[Attempt], None] = lambda _: None
    submitted: list[AttemptName] = attrs.field(factory=list)

    name = LOCAL
    outlives = False
    shares_files = True

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        return ()

    def room(self) -> int | None:
        return None

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        for attempt in attempts:
            self.submitted.append(attempt.name)
            self.begin(attempt)
            put(attempt.folder, attempt.name, "exit", {"exit_code": 0})
        return [Handle(name=attempt.name, folder=attempt.folder) for attempt in attempts]

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        assert folder is not None
        return {name: Handle(name=name, folder=folder) for name in self.running}

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        for handle in handles:
            if handle.name in self.running:
                put(handle.folder, handle.name, "exit", {"exit_code": 0})
                self.running.discard(handle.name)
        return [EngineWord(handle.name, "gone") for handle in handles]

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        return {}

    def wait(self, timeout_s: float) -> None:
        self.now += timeout_s

    def wake(self) -> None:
        pass

    def close(self) -> None:
        for fd in self.locks.values():
            os.close(fd)


def put(folder: Path, name: AttemptName, suffix: str, content: object) -> Path:
    """Have the file *suffix* of the attempt *name*, with this *content*."""
    prepare(folder)
    path = attempts_dir(folder) / f"{name}.{suffix}"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def foretold(
    states: Path, file: Path, *options: str, verb: Sequence[str] = ("run", "-n")
) -> tuple[dict[str, Any], int]:
    """What `run -n --json FILE` says, or another *verb*, and its exit code."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = guarded([*verb, "--json", "-C", str(states), *options, str(file)])
    return json.loads(out.getvalue() or "{}"), code


def files_below(path: Path) -> dict[str, tuple[int, int]]:
    """Every file, with its size and time of change, but for what is only a cache."""
    return {
        str(file): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in path.rglob("*")
        if file.is_file() and "index" not in file.name
    }
