"""What people are warned of while a run goes on: what would otherwise look as if it hung."""

import contextlib
import errno
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from holdfast.attempts.files import disk_problem
from holdfast.attempts.names import AttemptName
from holdfast.errors import AttemptWarning, DiskWarning, EngineWarning
from holdfast.orchestration.stalls import Stalls
from holdfast.orchestration.watch import Watch

__all__ = ["Warnings"]

#: How often the disk is tried.
_DISK_EVERY_S: Final = 2.0
#: How often shims are checked for a SIGSTOP: some 20 µs each.
_HALTED_EVERY_S: Final = 5.0

#: What may be the matter with an attempt.
_LEFT: Final = "is left as it is"
_UNTOLD: Final = "cannot be told to stop at once"
_UNWATCHED: Final = "goes unwatched"
_STALLED: Final = "has stalled"
_UNKNOWN: Final = "is unknown to its engine, and waited for"


class Warnings:
    """Tells each thing once."""

    def __init__(self, watch: Watch) -> None:
        """Look at what *watch* watches."""
        self._watch = watch
        self._stalls = Stalls(watch)
        self._disk_looked_at = -_DISK_EVERY_S
        self._disk_problem: int | None = None
        self._told_unread = False
        self._told_engine = False
        self._halted_looked_at = -_HALTED_EVERY_S
        self._told: defaultdict[str, set[AttemptName]] = defaultdict(set)

    def of_blocked(self) -> None:
        """Say which attempts are left as they are."""
        blocked, elsewhere = self._watch.blocked, self._watch.elsewhere
        self._warn_of(_LEFT, {each: why for each, why in blocked.items() if each not in elsewhere})

    def of_unreached(self) -> None:
        """Say which attempts do not hear that they are to stop."""
        self._warn_of(_UNTOLD, self._watch.asking.unreached)

    def look(self) -> None:
        """Warn of what is to be seen now; who is asked to stop for a stall is asked here."""
        self._warn_of_disk()
        self._warn_of_unread()
        self.of_engine()
        self._warn_of_halted()
        self._warn_of(_UNKNOWN, self._watch.wondering.long)
        stalled = self._stalls.look()
        self._told[_STALLED] &= stalled.keys()  # told again if it stalls again
        self._warn_of(_STALLED, stalled)

    def _warn_of_disk(self) -> None:
        """Say so when attempts that end may be waiting for the disk: else a run seems to hang."""
        now = self._watch.monotonic()
        if not self._watch.handles or now - self._disk_looked_at < _DISK_EVERY_S:
            return
        self._disk_looked_at = now
        folder, before = self._watch.launcher.folder, self._disk_problem
        with contextlib.suppress(OSError):
            problem = disk_problem(folder)
            self._disk_problem = None if problem is None else problem.errno
        if self._disk_problem is None or before is not None:
            return
        if self._disk_problem in (errno.ENOSPC, errno.EDQUOT):
            what, mend = f"no room left on the disk of {folder}", "free some"
        elif self._disk_problem == errno.EFBIG:
            what = f"a file-size limit keeps {folder} from being written to"
            mend = "lift it (`ulimit -f`, or `prlimit` for what runs already)"
        else:
            why = os.strerror(self._disk_problem)
            what, mend = f"the disk of {folder} refuses to be written to ({why})", "mend it"
        warnings.warn(
            f"{what}: processes that end wait until they can record it; {mend}, and everything "
            f"goes on",
            DiskWarning,
            stacklevel=5,
        )

    def _warn_of_unread(self) -> None:
        """Say so when an outcome is there but cannot be read: else a run seems to hang."""
        problem, told = self._watch.unread, self._told_unread
        self._told_unread = problem is not None
        if problem is None or told:
            return
        warnings.warn(
            f"{problem.path}: {problem.operation} failed ({problem.cause}): how its process ended "
            f"is unknown; it is checked again every second",
            DiskWarning,
            stacklevel=5,
        )

    def of_engine(self) -> None:
        """Say that the engine cannot be reached."""
        problem, told = self._watch.engine_trouble.error, self._told_engine
        self._told_engine = problem is not None
        if problem is not None and not told:
            warnings.warn(
                f"{problem}; what runs goes on, and the engine is asked again, at most a minute "
                f"apart",
                EngineWarning,
                stacklevel=5,
            )

    def _warn_of_halted(self) -> None:
        """Say so when a shim was stopped: else its process seems to outlive its timeout."""
        now = self._watch.monotonic()
        if now - self._halted_looked_at < _HALTED_EVERY_S:
            return
        self._halted_looked_at = now
        found = self._watch.halted()
        self._told[_UNWATCHED] &= found.keys()  # told again if it is stopped again
        self._warn_of(_UNWATCHED, found)

    def _warn_of(self, what: str, found: Mapping[AttemptName, object]) -> None:
        """Say once of each attempt *what* is the matter with it, and why."""
        told = self._told[what]
        alike: defaultdict[str, list[AttemptName]] = defaultdict(list)
        for name in [each for each in found if each not in told]:
            alike[str(found[name])].append(name)
        for why, names in alike.items():
            told.update(names)
            # A node that fails takes hundreds along.
            more = f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
            words = f"attempt {min(names)}{more} {what}: {why}"
            warnings.warn(words, AttemptWarning, stacklevel=5)
