"""Independent ranks that are done before their launcher is: completed one by one."""

import contextlib
from collections.abc import Sequence
from typing import Final

from holdfast.attempts.names import AttemptName, reports_dir
from holdfast.errors import DiskError
from holdfast.lifecycle.events import Event
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration import exits
from holdfast.orchestration.taking import Taking
from holdfast.orchestration.watch import Watch

__all__ = ["EarlyRanks"]

_LOOK_EVERY_S: Final = 1.0


class EarlyRanks:
    """Looks at the reports of the launchers that run, where anything was written since."""

    def __init__(self, watch: Watch, take: Taking) -> None:
        """Look at what *watch* watches."""
        self._take = take
        self._watch = watch
        self._looked_at = float("-inf")
        #: When anything was last written there, and how often that was looked at since.
        self._seen: dict[AttemptName, tuple[int, int]] = {}

    def facts(self, state: ExperimentState, others: Sequence[Event]) -> list[Event]:
        """What is learnt of ranks whose launchers run on.

        Args:
            others: What is learnt beside that: of an end, nothing more is told here.
        """
        now = self._watch.monotonic()
        if state.ranks is None or not state.ranks.independent:
            return []
        if others or now - self._looked_at < _LOOK_EVERY_S:
            return []
        self._looked_at = now
        found: list[Event] = []
        for name in self._watch.handles:
            if self._watch.hearing.waits(name):
                continue
            folder = self._watch.launcher.folder
            with contextlib.suppress(DiskError, OSError):  # there is another look in a second
                written = reports_dir(folder, name).stat().st_mtime_ns
                before, looks = self._seen.get(name, (0, 0))
                looks = looks if written == before else 0
                # Twice: the clock of a file system may not tell two files of one moment apart.
                if not name.is_launcher or looks > 1:
                    continue
                at = self._watch.clock()
                found += exits.done_already(state, folder, name, at, self._take)
                self._seen[name] = written, looks + 1
        return found
