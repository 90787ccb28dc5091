"""What a life has left behind: who completed, results, outputs, and every other file."""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast import globs
from holdfast.attempts.names import AGGREGATE
from holdfast.drill.eyes import IGNORED
from holdfast.errors import HoldfastError
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import cells
from holdfast.results import aggregate_file, aggregation
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.manager import StateManager

__all__ = ["Look", "Trace", "each", "line_counts", "look", "shape", "trace"]

#: A larger file is compared whole, or not at all.
_LARGEST_TEXT: Final = 64 << 20
_BLOCK: Final = 1 << 20
_UUID: Final = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
_DRAFT: Final = re.compile(r"\btmp[a-z0-9_]{8}\b")
_HEX: Final = re.compile(r"(?<![A-Za-z])(?=[a-f]*[0-9])[0-9a-f]{6,}(?![A-Za-z])", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]+")


@attrs.frozen(kw_only=True)
class Trace:
    """What a file is like: enough to compare it with what it is like elsewhere.

    Attributes:
        sha256: Of a link, that of where it leads.
        lines: None where it is no text, or too large; in place, how many more it has than before.
        sorted: Digest of its lines in order; None as *lines*.
        json: Whether it can be read as JSON; None if its name does not say that it is.
        as_copied: Whether it is as it was before any run, and was not read.
    """

    size: int
    sha256: str
    lines: int | None = None
    sorted: str | None = None
    json: bool | None = None
    as_copied: bool = False


@attrs.frozen(kw_only=True)
class Look:
    """What one life has left.

    Attributes:
        state: None if there is no experiment at all.
        completions: How often each process was recorded as completed.
        values: Of results, by process (or `aggregate`) and dotted key.
        outputs: Declared ones by path, with the process that made each.
        files: All that lies in the folder, by path.
    """

    state: ExperimentState | None
    completions: Mapping[int, int] = attrs.field(factory=dict)
    values: Mapping[tuple[int | str, str], Any] = attrs.field(factory=dict)
    outputs: Mapping[str, int] = attrs.field(factory=dict)
    files: Mapping[str, Trace] = attrs.field(factory=dict)
    problem: str | None = None

    @property
    def done(self) -> frozenset[int]:
        """The processes that are completed."""
        if self.state is None:
            return frozenset()
        processes = self.state.processes.items()
        return frozenset(i for i, each in processes if each.status is ProcessStatus.COMPLETED)

    @property
    def attempts(self) -> dict[int | str, int]:
        """The number of the last attempt of each process."""
        if self.state is None:
            return {}
        return {index: each.attempt for index, each in self.state.processes.items()}

    @property
    def repeated(self) -> int:
        """How many attempts there were beyond one for each process."""
        if self.state is None:
            return 0
        return sum(max(each.attempt - 1, 0) for each in self.state.processes.values())


def look(
    folder: Path,
    state_dir: Path,
    ignore: Collection[str] = (),
    known: Mapping[str, tuple[int, int]] | None = None,
    lines: Mapping[str, int] | None = None,
    elsewhere: Collection[Path] = (),
) -> Look:
    """What is there now. Nothing of the experiment runs any more.

    Args:
        known: Size and time of files as they were before it ran; those are not read again.
        lines: How many there were in a file before it ran: those that it has more count.
        elsewhere: Files and folders that are compared, too.
    """
    files = dict(_all_files(folder, state_dir, ignore, known or {}, elsewhere))
    for path, before in (lines or {}).items():
        if (now := files.get(path)) is not None and now.lines is not None:
            files[path] = attrs.evolve(now, lines=now.lines - before)
    manager = StateManager(state_dir)
    found = manager.list_experiments()
    if not found:
        return Look(state=None, files=files)
    (experiment_id, *_) = found
    state = manager.load(experiment_id)
    completions: dict[int, int] = {}
    for step in manager.history(experiment_id):
        if step.index is not None and step.target == ProcessStatus.COMPLETED != step.source:
            completions[step.index] = completions.get(step.index, 0) + 1
    problem, values = None, {}
    try:
        values = dict(_values(state, manager.folder(experiment_id)))
    except HoldfastError as err:
        problem = str(err)
    return Look(
        state=state,
        completions=completions,
        values=values,
        outputs={
            ref.path: index for index, process in state.processes.items() for ref in process.outputs
        },
        files=files,
        problem=problem,
    )


def line_counts(folder: Path, state_dir: Path, elsewhere: Collection[Path]) -> dict[str, int]:
    """How many lines each text there has now."""
    files = _all_files(folder, state_dir, (), {}, elsewhere)
    return {path: trace.lines for path, trace in files if trace.lines is not None}


def _values(state: ExperimentState, folder: Path) -> Iterator[tuple[tuple[int | str, str], Any]]:
    for row in aggregation.table(state, folder, missing=[]):
        for key, value in cells.flat(row).items():
            yield (row["index"], key), value
    if state.status is ExperimentStatus.AGGREGATED:
        whole = aggregate_file.read(folder) or {}
        for key, value in cells.flat({"result": whole.get("value")}).items():
            yield (AGGREGATE, key), value


# -- files ----------------------------------------------------------------------------------------


def each(folder: Path) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Every file below *folder* by its relative path, but for what nobody asks for."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            entries = sorted(os.scandir(folder / prefix), key=lambda entry: entry.name)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            raise
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                yield path, entry
            elif entry.name not in IGNORED:
                pending.append(f"{path}/")


def _all_files(
    folder: Path,
    state_dir: Path,
    ignore: Collection[str],
    known: Mapping[str, tuple[int, int]],
    elsewhere: Collection[Path],
) -> Iterator[tuple[str, Trace]]:
    yield from _files(folder, state_dir, ignore, known)
    for path in elsewhere:
        if path.is_dir():
            for name, found in _files(path, state_dir, ignore, {}):
                yield str(path / name), found
        elif (found_at := trace(path)) is not None:
            yield str(path), found_at


def _files(
    folder: Path,
    state_dir: Path,
    ignore: Collection[str],
    known: Mapping[str, tuple[int, int]],
) -> Iterator[tuple[str, Trace]]:
    for path, entry in each(folder):
        if Path(entry.path).is_relative_to(state_dir):
            continue
        if any(globs.fits(pattern, path) for pattern in ignore):
            continue
        info = entry.stat(follow_symlinks=False)
        if known.get(path) == (info.st_size, info.st_mtime_ns):
            yield path, Trace(size=info.st_size, sha256="", as_copied=True)
            continue
        found = trace(Path(entry.path))
        if found is not None:
            yield path, found


def trace(path: Path) -> Trace | None:
    """What the file at *path* is like; None if it is gone, or nothing that has a content."""
    try:
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            target = os.fsencode(path.readlink())
            return Trace(size=len(target), sha256=hashlib.sha256(target).hexdigest())
        if not stat.S_ISREG(info.st_mode):
            return None
        if info.st_size > _LARGEST_TEXT:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Trace(size=info.st_size, sha256=digest)
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except PermissionError:
        return Trace(size=info.st_size, sha256="unreadable")
    digest = hashlib.sha256(data).hexdigest()
    readable = _is_json(data) if path.suffix == ".json" else None
    if b"\0" in data:
        return Trace(size=len(data), sha256=digest, json=readable)
    lines = data.splitlines()
    return Trace(
        size=len(data),
        sha256=digest,
        lines=len(lines),
        sorted=hashlib.sha256(b"\n".join(sorted(lines))).hexdigest(),
        json=readable,
    )


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def shape(path: str) -> str:
    """*path* with `*` for what differs from run to run in names that are made up."""
    for pattern in (_UUID, _DRAFT, _HEX, _NUMBER):
        path = pattern.sub("*", path)
    return path
