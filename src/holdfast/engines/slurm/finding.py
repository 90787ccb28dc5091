"""Finds the wave and the task of an attempt, and the handles of what waves name."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.attempts.names import AttemptName
from holdfast.engines import waves
from holdfast.engines.contract import Handle
from holdfast.engines.slurm.batch import Marks
from holdfast.engines.slurm.client import SLURM
from holdfast.engines.slurm.sending import Sent
from holdfast.errors import DiskError

__all__ = ["Finding", "handles_of"]


class Finding:
    """The waves that an engine has sent, and those of others that it was asked for."""

    def __init__(self) -> None:
        self._sent: dict[Marks, Sent] = {}
        self._by_name: dict[Path, Mapping[AttemptName, Handle]] = {}

    def add(self, sent: Sent) -> None:
        """A wave of this very engine."""
        self._sent[sent.marks] = sent

    def forget(self) -> None:
        """Read folders again: others write waves, too."""
        self._by_name.clear()

    def named(self, folder: Path, cluster: str | None = None) -> Iterator[Handle]:
        """Whatever the waves of *folder* itself name, oldest first; not those it is a copy of.

        Raises:
            StateReadError: They cannot be read at this moment.
            StateWriteError: It has waves, and no token can be made for it.
        """
        token = waves.token(folder) if (folder / "waves").exists() else ""
        for wave in waves.waves(folder):
            if wave.engine == SLURM and wave.token == token:
                sent = self._sent.setdefault(Marks(wave.token, wave.name), Sent.of(wave))
                yield from handles_of(sent, cluster, {}).values()

    def place(self, handle: Handle) -> tuple[Sent, int] | None:
        """The wave and the task of an attempt; None where none of its folder names it."""
        data = handle.data
        marks = Marks(str(data.get("token")), str(data.get("wave")))
        if marks not in self._sent:
            named = self._all_named(handle.folder)
            if "wave" not in data:
                # Nobody lived to record what it is called.
                return self.place(named[handle.name]) if handle.name in named else None
        sent, task = self._sent.get(marks), data.get("task")
        if sent is None or type(task) is not int or not 0 <= task < len(sent.tasks):
            return None
        return sent, task

    def _all_named(self, folder: Path) -> Mapping[AttemptName, Handle]:
        """What the waves of *folder* name, read once for all that are asked for at a time."""
        if folder not in self._by_name:
            self._by_name[folder] = {}
            with contextlib.suppress(DiskError):
                self._by_name[folder] = {each.name: each for each in self.named(folder)}
        return self._by_name[folder]


def handles_of(
    sent: Sent, cluster: str | None, requested: Mapping[str, float]
) -> dict[AttemptName, Handle]:
    """How the attempts of a wave are found again."""
    found, waits = {}, set(sent.left)
    for task, names in enumerate(sent.tasks):
        data: dict[str, Any] = {"token": sent.marks.token, "wave": sent.marks.wave, "task": task}
        if cluster is not None:
            data["cluster"] = cluster
        if sent.number is not None and task not in waits:
            data["job"] = f"{sent.number}_{task}"
        for name in names:
            found[name] = Handle(
                name=name, folder=sent.folder, engine=SLURM, data=data, requested=requested
            )
    return found
