"""What can be said of an attempt: by its worker, by its files, by workers who may see more."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.looking import Ended, Running, glance
from holdfast.attempts.names import AttemptName
from holdfast.engines.contract import EngineWord, Handle
from holdfast.engines.dask import tasks
from holdfast.engines.dask.link import Link
from holdfast.errors import DiskError, EngineError
from holdfast.identity import ProcessIdentity

__all__ = ["Judges", "by_files", "error_of", "running"]

_ASKED_EVERY_S: Final = 10.0


class Judges:
    """The workers, one of which may be on the host of an attempt that cannot be judged from here:
    its host was restarted since, say, or its worker was.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._said: dict[AttemptName, tuple[float, EngineWord]] = {}

    def word(self, word: EngineWord) -> EngineWord:
        """What one of them said last; *word* if none could say anything."""
        return self._said.get(word.name, (0.0, word))[1]

    def ask(self, words: Sequence[EngineWord], handles: Sequence[Handle]) -> None:
        """Ask about those that were not asked about for some time; `word` has the answers."""
        if not words:
            return
        now = time.monotonic()
        folders = {handle.name: handle.folder for handle in handles}
        asked: dict[Path, dict[str, AttemptName]] = defaultdict(dict)
        for word in words:
            if now - self._said.get(word.name, (-_ASKED_EVERY_S, word))[0] >= _ASKED_EVERY_S:
                self._said[word.name] = (now, word)
                asked[folders[word.name]][str(word.name)] = word.name
        for folder, names in asked.items():
            wanted = {text: name.experiment_id for text, name in names.items()}
            with contextlib.suppress(EngineError):
                for worker, answer in self._link.run(tasks.judge, str(folder), wanted).items():
                    for text, (kind, why) in answer.items() if isinstance(answer, dict) else ():
                        said = EngineWord(names[text], kind, f"as worker {worker} sees it: {why}")
                        self._said[names[text]] = (now, said)


def error_of(future: Any) -> str:
    """Why a task failed."""
    err = future.exception()
    return f"{type(err).__name__}: {err}"


def by_files(handle: Handle, otherwise: str) -> EngineWord:
    """What is known of an attempt while nobody can be asked; *otherwise* says why not."""
    seen = None
    with contextlib.suppress(DiskError, OSError):
        seen = glance(handle.folder, handle.name)
    if isinstance(seen, Ended):
        return EngineWord(handle.name, "completed", "its outcome is recorded")
    if isinstance(seen, Running):
        return EngineWord(handle.name, "running", str(seen.verdict))
    return EngineWord(handle.name, "unknown", otherwise, passes=True)


def running(asked: Handle, began: Mapping[str, Any]) -> EngineWord:
    """What a worker said of an attempt that it began."""
    identity = None
    with contextlib.suppress(TypeError, ValueError):
        identity = ProcessIdentity(**(began.get("identity") or {}))
    worker = str(began.get("worker"))
    at = began.get("at")
    return EngineWord(
        asked.name,
        "running",
        f"on worker {worker}",
        host=identity.host if identity and identity.host else None,
        at=datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else None,
        handle=attrs.evolve(
            asked, identity=identity, data=asked.data and {**asked.data, "worker": worker}
        ),
    )
