"""How far the processes of an attempt say that they are: for eyes only, never a source of truth.

Any program may append lines of JSON to its `HOLDFAST_PROGRESS`; ranks and `holdfast.process()` have
files of their own among their reports. Nothing of it is synchronised, all of it may be torn,
foreign or hostile, and a look takes no more than `MOST_BYTES` of it.
"""

import contextlib
import json
import math
import os
import stat
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.names import AttemptName, progress_path, reports_dir
from holdfast.attempts.reports import newest_of_all

__all__ = ["KEPT_BYTES", "MOST_BYTES", "Follower", "Progress", "Sources", "latest", "trim"]

#: Bytes that a look reads at most, and that are kept of one process.
MOST_BYTES: Final = 1 << 20
#: What is left of a file that grew beyond that.
KEPT_BYTES: Final = 256 << 10
_LONGEST_LINE: Final = 64 << 10
#: Of a single look at a file that nobody follows: its begin, for the pace, and its end.
_HEAD_BYTES, _TAIL_BYTES = 4 << 10, 64 << 10
_MOST_VALUES: Final = 32
_MOST_CHARACTERS: Final = 200
_HISTORY: Final = 100
#: Of which lines of one file can be.
_MOST_RANKS: Final = 4096
#: Nobody counts further, and sums of it are numbers still.
_MOST_STEPS: Final = 1e15
_FOREVER_S: Final = 100 * 365 * 86_400.0

Number = int | float
_OWN: Final = frozenset({"step", "total", "message", "time", "rank"})


@attrs.frozen(kw_only=True)
class Progress:
    """The last that a process said.

    Attributes:
        step: How many steps are done, of *total*; None if it did not say.
        values: Whatever else it reported last, by name.
        at: When it last wrote, by the clock of the file system: its heartbeat.
        history: Steps with the time at which each was reported (Unix time), the oldest first.
    """

    step: Number | None = None
    total: Number | None = None
    message: str | None = None
    values: Mapping[str, Number | str | bool] = attrs.field(factory=dict)
    at: datetime
    history: tuple[tuple[float, Number], ...] = ()

    def age_s(self, now: datetime) -> float:
        """Seconds since its heartbeat; never negative, whatever the clocks are."""
        return max(0.0, (now - self.at).total_seconds())

    def remaining_s(self, now: datetime, began: datetime | None) -> float | None:
        """Seconds until it is done, at its pace so far; None if that cannot be told.

        Args:
            began: When its attempt did, for who reports no times.
        """
        if self.step is None or self.total is None or not self.total > 0:
            return None
        if self.step >= self.total:
            return 0.0
        last = self.at.timestamp()
        first, done = (self.history or ((math.nan, 0.0),))[0]
        if len(self.history) < 2 or self.step <= done:
            # What came before its first step is part of the price of none.
            first, done = (math.nan if began is None else began.timestamp()), 0.0
        if math.isnan(first) or self.step <= done or last <= first:
            return None
        pace_s = (last - first) / (self.step - done)
        left_s = (self.total - self.step) * pace_s - self.age_s(now)
        # A report that is late takes nothing off what comes after it.
        a_report = self.step - (self.history[-2][1] if len(self.history) > 1 else 0)
        left_s = max(left_s, (self.total - self.step - max(a_report, 1)) * pace_s, 0.0)
        return left_s if left_s < _FOREVER_S else None


@attrs.define
class _Told:
    """What one process has told, as far as it was read."""

    said: dict[str, Any] = attrs.field(factory=dict)
    values: dict[str, Number | str | bool] = attrs.field(factory=dict)
    history: deque[tuple[float, Number]] = attrs.field(factory=lambda: deque(maxlen=_HISTORY))
    at: datetime | None = None

    def learn(self, found: Mapping[str, Any]) -> None:
        for key in ("step", "total"):
            if (number := _number(found.get(key))) is not None and abs(number) <= _MOST_STEPS:
                self.said[key] = number
        if isinstance(found.get("message"), str):
            self.said["message"] = found["message"][:_MOST_CHARACTERS]
        for key, value in found.items():
            if key in _OWN or len(key) > _MOST_CHARACTERS:
                continue
            if (known := _value(value)) is not None:
                if key not in self.values and len(self.values) >= _MOST_VALUES:
                    continue
                self.values[key] = known
        at, step = _number(found.get("time")), self.said.get("step")
        if at is not None and step is not None and math.isfinite(at):
            self.history.append((float(at), step))


class Follower:
    """Reads one file as it grows, each byte once."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        """Follow *path*, there or not; where ranks share it, each line is of the one it names."""
        self.path = path
        self._shared = shared
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._rest = b""
        self._told: dict[int, _Told] = {}

    @property
    def progress(self) -> Progress | None:
        """What was read so far; None if nothing was ever reported."""
        return self.of_rank(0)

    def of_rank(self, rank: int) -> Progress | None:
        """What was read so far of *rank*, of a file that ranks share."""
        told = self._told.get(rank)
        if told is None or told.at is None:
            return None
        return Progress(
            step=told.said.get("step"),
            total=told.said.get("total"),
            message=told.said.get("message"),
            values=dict(told.values),
            at=told.at,
            history=tuple(told.history),
        )

    def look(self, *, brief: bool = False) -> bool:
        """Read what is new; whether anything was.

        Args:
            brief: Only the begin and the end of what is there, for who looks once.
        """
        # Times far beyond ours (ValueError, OverflowError) can be given to a file, too.
        with contextlib.suppress(OSError, ValueError, OverflowError):
            # A FIFO or a link put here by somebody must neither block nor lead elsewhere.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return self._read(fd, os.fstat(fd), brief=brief)
            finally:
                os.close(fd)
        return False

    def _read(self, fd: int, info: os.stat_result, *, brief: bool) -> bool:
        if not stat.S_ISREG(info.st_mode):
            return False
        if (info.st_dev, info.st_ino) != self._file or info.st_size < self._offset:
            # Another file, or one that was cut: what is there now is all new.
            self._file, self._offset, self._rest = (info.st_dev, info.st_ino), 0, b""
        if info.st_size == self._offset:
            return False
        at = datetime.fromtimestamp(info.st_mtime, UTC)
        if not self._shared:
            # Whatever it wrote, it lives.
            self._told.setdefault(0, _Told()).at = at
        if brief and info.st_size > _HEAD_BYTES + _TAIL_BYTES:
            self._take(at, os.pread(fd, _HEAD_BYTES, 0).rpartition(b"\n")[0])
            self._skip_to(info.st_size - _TAIL_BYTES)
        elif info.st_size - self._offset > MOST_BYTES:
            self._skip_to(info.st_size - MOST_BYTES)
        data = os.pread(fd, info.st_size - self._offset, self._offset)
        self._offset += len(data)
        whole, newline, rest = (self._rest + data).rpartition(b"\n")
        # A line without an end may be finished by the next look, unless nobody would.
        self._rest = rest if len(rest) <= _LONGEST_LINE else b""
        if newline:
            self._take(at, whole)
        return True

    def _skip_to(self, offset: int) -> None:
        self._offset, self._rest = offset, b"\0"  # the line that is cut there is none

    def _take(self, at: datetime, lines: bytes) -> None:
        for line in lines.split(b"\n"):
            if 2 <= len(line) <= _LONGEST_LINE:
                with contextlib.suppress(ValueError, RecursionError):
                    found = json.loads(line)
                    if isinstance(found, dict) and (told := self._whose(found)) is not None:
                        told.at = at
                        told.learn(found)

    def _whose(self, found: Mapping[str, Any]) -> _Told | None:
        rank = found.get("rank", 0) if self._shared else 0
        if type(rank) is not int or (rank not in self._told and len(self._told) >= _MOST_RANKS):
            return None
        return self._told.setdefault(rank, _Told())


def _number(value: Any) -> Number | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, float) or abs(value) < 10**300 else None


def _value(value: Any) -> Number | str | bool | None:
    if isinstance(value, str):
        return value[:_MOST_CHARACTERS]
    return value if isinstance(value, bool) else _number(value)


class Sources:
    """The files in which the processes of attempts report, followed as they grow."""

    def __init__(self, folder: Path) -> None:
        """Follow attempts of the experiment in *folder*."""
        self._folder = folder
        self._followers: dict[Path, Follower] = {}

    def look(self, name: AttemptName, index: int, *, brief: bool = False) -> Progress | None:
        """What process *index* has reported in attempt *name*; None if nothing."""
        return self.looks(name, [index], brief=brief).get(index)

    def looks(
        self, name: AttemptName, indices: Iterable[int], *, brief: bool = False
    ) -> dict[int, Progress]:
        """What those of the processes *indices* of attempt *name* have reported that did."""
        # They may report in their own files, and in the one that their attempt was given.
        given = self._follow(progress_path(self._folder, name), brief, shared=name.is_launcher)
        own = newest_of_all(self._folder, name, "progress")
        found = {}
        for index in indices:
            said = [given.of_rank(index - (name.index or 0) if name.is_launcher else 0)]
            if index in own:
                said.append(self._follow(own[index], brief).progress)
            newest = max(filter(None, said), key=lambda each: each.at, default=None)
            if newest is not None:
                found[index] = newest
        return found

    def _follow(self, path: Path, brief: bool, *, shared: bool = False) -> Follower:
        follower = self._followers.get(path)
        if follower is None:
            follower = self._followers[path] = Follower(path, shared=shared)
        follower.look(brief=brief)
        return follower

    def forget(self, name: AttemptName) -> None:
        """Follow no file of *name* any more."""
        ours = (progress_path(self._folder, name), reports_dir(self._folder, name))
        for path in [path for path in self._followers if path in ours or path.parent in ours]:
            del self._followers[path]


def latest(folder: Path, name: AttemptName, index: int) -> Progress | None:
    """One brief look at what process *index* has reported in attempt *name*."""
    return Sources(folder).look(name, index, brief=True)


def trim(path: Path) -> None:
    """Cut a file of progress that holds more than `MOST_BYTES` down to its last lines.

    Whoever writes to it does not notice, and what it writes at this very moment may be lost.
    """
    with contextlib.suppress(OSError):
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags)
        try:
            info = os.fstat(fd)
            # A writer that does not append leaves a hole in front, which holds nothing.
            if not stat.S_ISREG(info.st_mode) or info.st_blocks * 512 <= MOST_BYTES:
                return
            data = os.pread(fd, KEPT_BYTES, max(0, info.st_size - KEPT_BYTES))
            os.ftruncate(fd, 0)
            os.write(fd, data.partition(b"\n")[2])
        finally:
            os.close(fd)
