"""How what processes report went over time: for eyes only, from files that may be torn or trimmed.

An attempt's progress is read where it is: no more than the begin and the end of a long file, which
is cut down while it grows.
"""

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.names import attempts_dir, progress_path
from holdfast.attempts.progress import KEPT_BYTES, MOST_BYTES
from holdfast.attempts.reports import newest_files
from holdfast.lifecycle.records import ExperimentState
from holdfast.store.attempted import attempt_of

__all__ = ["Curve", "curves", "thinned"]

#: Of one process.
_MOST_NAMES: Final = 8
_LONGEST_NAME: Final = 60
_LONGEST_LINE: Final = 64 << 10
#: Bytes of all files of one look: what is asked for beyond is read from their ends only.
_MOST_READ: Final = 32 << 20
_LEAST: Final = 64 << 10
_MOST: Final = 10**300
#: What a report says besides values.
_OWN: Final = frozenset({"step", "total", "message", "time", "rank"})


@attrs.frozen
class Curve:
    """What one process reported.

    Attributes:
        x: What the points are over: `step`, `s` (seconds since the first report), or `report`
            (their number) where it told neither.
        lines: The points of each value by its name, in the order of the reports.
        trimmed: Whether the beginning may be missing: it was not read, or the file is so long that
            it has been cut down.
    """

    x: str
    lines: Mapping[str, list[tuple[float, float]]]
    trimmed: bool


def curves(
    state: ExperimentState, folder: Path, most: int = 100, points: int = 200
) -> dict[int, Curve]:
    """What the processes of *state* reported in their last attempts: of *most* of them.

    Where more report, those that are shown are spread evenly over all.

    Args:
        points: Of one line at most: the first, the last, and of those between the extremes.
    """
    tried = [index for index, each in enumerate(state.processes.values()) if each.attempt]
    reported = [
        (index, path)
        for index in tried
        if state.processes[index].origin is None
        and (path := _path(state, folder, index)) is not None
    ]
    if len(reported) > most > 0:
        step = (len(reported) - 1) / max(most - 1, 1)
        reported = [reported[round(at * step)] for at in range(most)]
    attempts = attempts_dir(folder)
    share = max(_MOST_READ // max(len(reported), 1), _LEAST)
    found = {}
    for index, path in reported:
        # Ranks share the file of their launcher; their own files are theirs alone.
        shared = state.ranks is not None and path.parent == attempts
        rank = index % state.ranks.count if shared and state.ranks is not None else None
        curve = _curve(path, min(share, MOST_BYTES), rank, points)
        if curve is not None:
            found[index] = curve
    return found


def _path(state: ExperimentState, folder: Path, index: int) -> Path | None:
    """Where process *index* reports: its program's own file, else the one of its attempt."""
    name = attempt_of(state, index)
    given = progress_path(folder, name)
    with suppress(OSError):
        if given.lstat().st_size:
            return given
    return next(iter(newest_files(folder, name, index, "progress")), None)


def _curve(path: Path, most: int, rank: int | None, points: int) -> Curve | None:
    try:
        data, trimmed = _read(path, most)
    except (OSError, ValueError):
        return None
    rows = [row for line in data.split(b"\n") if (row := _row(line, rank)) is not None]
    x = next((key for key in ("step", "time") if _orders(rows, key)), "report")
    first = rows[0][x] if x == "time" else 0
    found: dict[str, list[tuple[float, float]]] = {}
    for at, row in enumerate(rows):
        where = at if x == "report" else row[x] - first
        for name, value in row.items():
            if name not in _OWN and _finite(value):
                line = found.get(name)
                if line is None:
                    if len(found) >= _MOST_NAMES or len(name) > _LONGEST_NAME:
                        continue
                    line = found[name] = []
                line.append((float(where), float(value)))
    lines = {name: thinned(line, points) for name, line in found.items()}
    return Curve({"time": "s"}.get(x, x), lines, trimmed) if lines else None


def _read(path: Path, most: int) -> tuple[bytes, bool]:
    """The last *most* bytes of whole lines, and whether there may have been more."""
    # What else may lie there in its place must neither block nor lead elsewhere.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return b"", False
        begin = max(0, info.st_size - most)
        data = os.pread(fd, most, begin)
    finally:
        os.close(fd)
    if begin:
        data = data.partition(b"\n")[2]
    return data, info.st_size > KEPT_BYTES - _LONGEST_LINE


def _row(line: bytes, rank: int | None) -> dict[str, Any] | None:
    if not 2 <= len(line) <= _LONGEST_LINE:
        return None
    with suppress(ValueError, RecursionError):
        found = json.loads(line)
        if isinstance(found, dict) and (rank is None or found.get("rank", 0) == rank):
            return found
    return None


def _orders(rows: list[dict[str, Any]], key: str) -> bool:
    """Whether *key* orders what was reported: two points at one place are none."""
    values = [row.get(key) for row in rows]
    return all(map(_finite, values)) and len(set(values)) > 1


def _finite(value: Any) -> bool:
    # Asked for every value of every report: of whole numbers, all but those that no float is.
    return (type(value) is float and value - value == 0) or (
        type(value) is int and -_MOST < value < _MOST
    )


def thinned(found: list[tuple[float, float]], points: int) -> list[tuple[float, float]]:
    """At most *points*: of each stretch its lowest and highest, so that no peak is lost."""
    if len(found) <= points:
        return found
    inner, pairs = found[1:-1], max((points - 2) // 2, 1)
    kept = [found[0]]
    for at in range(pairs):
        part = inner[len(inner) * at // pairs : len(inner) * (at + 1) // pairs]
        if part:
            ends = {min(part, key=lambda each: each[1]), max(part, key=lambda each: each[1])}
            kept += [each for each in part if each in ends][: len(ends)]
    return [*kept, found[-1]]
