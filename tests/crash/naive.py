"""Stores that must be caught: without them, a laboratory that finds nothing has proved nothing.

Each is the same little store of one number per experiment, written as many programs write their
files, each with one of the classic mistakes. `careful` makes none of them and must pass: a
laboratory that cries wolf proves nothing either.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import attrs

from .subject import NOTHING, Found
from .watching import Recorder, WatchedFiles

__all__ = ["MISTAKES", "Mistake", "NaiveStore"]

Mistake = Literal[
    "none", "in_place", "no_fsync", "no_directory_fsync", "rename_before_fsync", "append_no_fsync"
]

#: Every way to be wrong.
MISTAKES: tuple[Mistake, ...] = (
    "in_place", "no_fsync", "no_directory_fsync", "rename_before_fsync", "append_no_fsync"
)  # fmt: skip


@attrs.frozen
class NaiveStore:
    """A store of counters, one file each, and a `Subject` of the judge.

    Attributes:
        mistake: What it does wrong.
    """

    mistake: Mistake

    def write(self, files: WatchedFiles, root: Path, name: str, number: int) -> None:
        """Make *number* the content of *name*, durably, or so it believes."""
        data = json.dumps({"number": number, "padding": "x" * 40}).encode() + b"\n"
        with files.directory(root) as folder:
            if self.mistake == "append_no_fsync":
                fd = files.open_append(name, folder)
                files.write_all(fd, data)
                files.close(fd)
                files.fsync(folder)
                return
            if self.mistake == "in_place":
                fd = files.open_append(name, folder)
                files.truncate(fd, 0)
                files.write_all(fd, data)
                files.fsync(fd)
                files.close(fd)
                files.fsync(folder)
                return
            fd = files.open_append(f".{name}.tmp", folder)
            files.truncate(fd, 0)
            files.write_all(fd, data)
            if self.mistake not in ("no_fsync", "rename_before_fsync"):
                files.fsync(fd)
            files.rename(f".{name}.tmp", name, folder)
            if self.mistake != "no_directory_fsync":
                files.fsync(folder)
            if self.mistake == "rename_before_fsync":
                files.fsync(fd)
            files.close(fd)

    def read(self, root: Path, name: str) -> Found:
        """Digest and number."""
        try:
            lines = (root / name).read_bytes().splitlines()
        except FileNotFoundError:
            return NOTHING
        try:
            number = json.loads(lines[-1])["number"]
        except (ValueError, IndexError):
            return Found("unreadable", 0)
        return Found(str(number), number)

    def work(self, files: WatchedFiles, root: Path, say: Callable[[str], None]) -> None:
        """A few numbers, each promised once it is written."""
        for number in range(1, 4):
            for name in ("one", "two"):
                self.write(files, root, name, number)
                say(_mark(name, number))

    def look(self, root: Path, ids: Iterable[str]) -> tuple[dict[str, Found], list[str]]:
        """See `Subject`."""
        return {name: self.read(root, name) for name in ids}, []

    def view(self, root: Path, name: str) -> str:
        """See `Subject`; there is no view."""
        return ""

    def live_on(
        self,
        root: Path,
        found: Mapping[str, Found],
        say: Callable[[str], None],
        recorder: Recorder,
        rng: random.Random,
    ) -> list[str]:
        """See `Subject`."""
        files = WatchedFiles(recorder)
        for name, before in found.items():
            self.write(files, root, name, before.events + 1)
            say(_mark(name, before.events + 1))
        return []


def _mark(name: str, number: int) -> str:
    return json.dumps({"id": name, "digest": str(number), "events": number, "status": ""})


def recorded(store: NaiveStore, root: Path) -> Recorder:
    """What *store* does to *root* in its life."""
    os.makedirs(root, exist_ok=True)
    recorder = Recorder(root)
    store.work(WatchedFiles(recorder), root, recorder.mark)
    return recorder
