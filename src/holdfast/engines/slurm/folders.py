"""What the files of attempts show of a whole experiment, in one listing: who has begun, who ended.

So an end is known within a second, and the controller need not be asked for it.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName, attempts_dir
from holdfast.attempts.records import LiveState

__all__ = ["Begun", "Folder"]

_PAUSE_S: Final = 0.5
#: Of the time that passes, how much listing may take.
_SHARE: Final = 0.05
#: A network file system may show an old time of a directory as long as it is not listed.
_LISTED_EVERY_S: Final = 5.0


@attrs.frozen
class Begun:
    """What the `.live` of an attempt says.

    Attributes:
        revoked: It never will.
        live: The rest, of one that has begun.
    """

    revoked: bool
    live: LiveState


class Folder:
    """The attempts of one experiment.

    Attributes:
        ended: Those whose outcome is published, as text.
        begun: Those that have a `.live`.
        news: Those of which that was not known when it was emptied last.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._directory = attempts_dir(path)
        self._changed: int | None = None
        self._listed_at = self._looked_at = float("-inf")
        self._cost_s = 0.0
        self._lives: dict[AttemptName, Begun] = {}
        self.ended: frozenset[str] = frozenset()
        self.begun: frozenset[str] = frozenset()
        self.news: set[str] = set()

    def due_in_s(self) -> float:
        """When it is worth a look again."""
        pause_s = max(_PAUSE_S, self._cost_s / _SHARE)
        return max(self._looked_at + pause_s - self._monotonic(), 0.0)

    def refresh(self, *, at_once: bool = False) -> bool:
        """List them if it is time to; whether more have begun or ended."""
        now = self._monotonic()
        if not at_once and self.due_in_s() > 0:
            return False
        self._looked_at = now
        try:
            changed = os.stat(self._directory).st_mtime_ns
            if changed == self._changed and not at_once and now - self._listed_at < _LISTED_EVERY_S:
                return False
            began = time.perf_counter()
            names = os.listdir(self._directory)
            self._cost_s = time.perf_counter() - began
        except OSError:
            return False  # what cannot be listed now says nothing
        self._changed, self._listed_at = changed, now
        ended = frozenset(name[:-5] for name in names if name.endswith(".exit"))
        begun = frozenset(name[:-5] for name in names if name.endswith(".live"))
        news = (ended ^ self.ended) | (begun ^ self.begun)
        self.news |= news
        self.ended, self.begun = ended, begun
        return bool(news)

    def live(self, name: AttemptName) -> Begun | None:
        """What the `.live` of an attempt says, read once; None if it has none."""
        if str(name) not in self.begun:
            return None
        found = self._lives.get(name)
        if found is None:
            state = live_state(self._path, name)
            found = Begun(state.kind == "revoked", state)
            if state.kind != "absent" and (found.revoked or state.identity is not None):
                self._lives[name] = found
        return found
