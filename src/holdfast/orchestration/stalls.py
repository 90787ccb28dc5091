"""Attempts that have reported how far they are, and report no more: told, or stopped and run again.

Silence counts from the last report that this process saw, by its own monotonic clock: neither a
clock that is set nor one of another host makes a stall. Files of progress that outgrew what is kept
of them are cut on the way.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.names import AttemptName, progress_path, reports_dir
from holdfast.attempts.progress import MOST_BYTES, trim
from holdfast.config.experiment_file import Limits
from holdfast.orchestration.watch import Watch
from holdfast.status import Reason

__all__ = ["Stalls"]

_LOOK_EVERY_S: Final = 1.0
#: How often a file that only has to be kept small is looked at.
_TRIM_EVERY_S: Final = 10.0

_Seen = tuple[tuple[str, int, int], ...]


@attrs.frozen
class _Report:
    """What was seen of the files of an attempt, and when that last changed."""

    seen: _Seen
    at: float


class Stalls:
    """The attempts of one experiment that may stall."""

    def __init__(self, watch: Watch) -> None:
        """Look at what *watch* watches, by the limits of its experiment."""
        self._watch = watch
        self._reports: dict[AttemptName, _Report] = {}
        self._looked_at = float("-inf")

    @property
    def _limits(self) -> Limits:
        return self._watch.launcher.experiment.limits

    @property
    def _may_stall(self) -> bool:
        rules = self._watch.launcher.experiment.retry.rules
        by_rule = any(each.name == "stall_s" for rule in rules for each in rule.settings)
        return by_rule or self._limits.stall_s is not None

    def look(self) -> dict[AttemptName, str]:
        """The attempts that have stalled, and in what words; those to be restarted are stopped."""
        now, watch = self._watch.monotonic(), self._watch
        every_s = _LOOK_EVERY_S if self._may_stall else _TRIM_EVERY_S
        if now - self._looked_at >= every_s:
            self._looked_at = now
            self._look_at_files(now)
        if not self._may_stall:
            return {}
        stalled = {
            name: now - report.at
            for name, report in self._reports.items()
            if name in watch.handles
            and name not in watch.asking.asked
            and name not in watch.completing
            and (limit_s := watch.limits(name).stall_s) is not None
            and now - report.at >= limit_s
        }
        if stalled and self._limits.on_stall == "restart":
            watch.asking.ask(list(stalled), force=False, why=Reason.STALL)
        return {name: self._words(age_s) for name, age_s in stalled.items()}

    def _words(self, age_s: float) -> str:
        then = (
            "it is stopped and tried again" if self._limits.on_stall == "restart" else "it runs on"
        )
        # The time makes two stalls of one attempt two messages.
        since = self._watch.clock() - timedelta(seconds=age_s)
        words = f"it has reported nothing for {age_s:.0f} s, since {since:%H:%M:%S}Z (limits.stall)"
        return f"{words}; {then}"

    def _look_at_files(self, now: float) -> None:
        waits = self._watch.hearing.waits
        running = {n: self._reports.get(n) for n in self._watch.handles if not waits(n)}
        for name in self._reports.keys() - running.keys():
            self._see(name)  # it is over: once more, to cut what it left
        reports = {}
        for name, before in running.items():
            seen = self._see(name)
            if before is not None and seen in (before.seen, ()):
                reports[name] = before
            elif seen:
                # Nothing counts before its first report.
                reports[name] = _Report(seen, now)
        self._reports = reports

    def _see(self, name: AttemptName) -> _Seen:
        seen = []
        for path in self._files(name):
            with contextlib.suppress(OSError):
                info = path.lstat()
                if info.st_blocks * 512 > MOST_BYTES:
                    trim(path)
                    info = path.lstat()  # the cut is no report
                if stat.S_ISREG(info.st_mode) and info.st_size:
                    seen.append((path.name, info.st_size, info.st_mtime_ns))
        return tuple(sorted(seen))

    def _files(self, name: AttemptName) -> Iterator[Path]:
        folder = self._watch.launcher.folder
        yield progress_path(folder, name)
        with contextlib.suppress(OSError):
            for entry in os.scandir(reports_dir(folder, name)):
                if entry.name.endswith(".progress"):
                    yield Path(entry.path)
