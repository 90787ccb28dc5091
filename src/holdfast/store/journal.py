"""The journal of one epoch, appended by one owner; and how it is read.

What its lines say is in `lines`. Reading takes no lock. What a crash can leave is a torn last line,
since no line is begun before the one before it is on the disk; anything else that does not fit its
checksum is damage and is refused. Zeros at the end are room that was made for lines (`tail`).
"""

import errno
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import attrs

from holdfast.errors import StateCorruptError, cause
from holdfast.lifecycle.changes import Change, replay_many
from holdfast.lifecycle.records import ExperimentState
from holdfast.store.lines import (
    Base,
    Changed,
    Claimed,
    Deleted,
    Line,
    Saved,
    Step,
    body,
    decode,
    parse,
)
from holdfast.store.place import JOURNALS, Opened

__all__ = [
    "NO_DIRECTORY",
    "Journal",
    "Truth",
    "continued",
    "epochs",
    "file_name",
    "read_journal",
    "read_truth",
]

#: Larger than any journal that compaction lets grow; more is not ours.
SIZE_LIMIT: Final = 1 << 30
_SUFFIX: Final = ".jsonl"
#: What is wrong with what stands in the place of a folder.
NO_DIRECTORY: Final = (
    "is a link or no directory, and nothing is ever read through one: move it back"
)


def file_name(epoch: int) -> str:
    """The name of the journal of *epoch*, like `00000003.jsonl`."""
    return f"{epoch:08d}{_SUFFIX}"


def epochs(names: list[str]) -> list[int]:
    """The epochs among the names of a journal directory, ascending."""
    return sorted(
        int(name[: -len(_SUFFIX)])
        for name in names
        if name.endswith(_SUFFIX) and name[: -len(_SUFFIX)].isdecimal() and name.isascii()
    )


class Journal(NamedTuple):
    """What is valid in one journal file.

    Attributes:
        lines: Every valid line with the offset behind it; a torn tail is not among them.
        size: Bytes of the valid lines.
        torn: Whether something that is neither a line nor room for one stands behind them.
    """

    epoch: int
    path: Path
    lines: tuple[tuple[int, Line], ...]
    size: int
    torn: bool

    @property
    def claim(self) -> Claimed | None:
        """The owner's claim; None if the file is damaged."""
        first = self.lines[0][1] if self.lines else None
        return first if isinstance(first, Claimed) else None

    @property
    def base(self) -> Base | None:
        """What the owner took over; None if it died first, and then readers look past it."""
        second = self.lines[1][1] if len(self.lines) > 1 else None
        return second if isinstance(second, Base) else None

    def steps(self, until: int | None = None) -> Iterator[tuple[int, Step]]:
        """The lines after the base, up to offset *until*, each with the offset behind it.

        Raises:
            StateCorruptError: There is a second claim or base among them.
        """
        for end, line in self.lines[2:]:
            if until is not None and end > until:
                return
            if not isinstance(line, Step):
                raise StateCorruptError(self.path, f"unknown line {line.kind!r}")
            yield end, line


class Truth(NamedTuple):
    """The state that the journals tell.

    Attributes:
        offset: Bytes of the journal that were folded: what a successor names in its base.
        deleted: The last line says so; the experiment counts as not found.
    """

    state: ExperimentState
    epoch: int
    offset: int
    deleted: bool
    torn: bool = False


def _read(journals: Opened, path: Path) -> bytes:
    files = journals.files
    try:
        fd = files.open_read(path.name, journals.fd)
    except OSError as err:
        if err.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM, errno.EIO):
            raise StateCorruptError(path, f"cannot be opened: {cause(err)}") from err
        raise
    try:
        info = files.fstat(fd)
        # Reading a part of it, or an empty pipe, would silently take older steps for the last.
        if not stat.S_ISREG(info.st_mode):
            raise StateCorruptError(path, "is not a regular file")
        if info.st_size > SIZE_LIMIT:
            raise StateCorruptError(
                path, f"has {info.st_size:,} bytes, more than the limit of {SIZE_LIMIT:,}"
            )
        # No line has a zero in it: whatever a crash left of one among them, it ends before these.
        return files.read_all(fd, SIZE_LIMIT).rstrip(b"\0")
    finally:
        files.close(fd)


def _parse(data: bytes, path: Path) -> tuple[list[tuple[int, Line]], int | None]:
    """The valid lines, and the offset of damage that no cut in the last line explains."""
    lines: list[tuple[int, Line]] = []
    bad: int | None = None
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        payload = decode(data[start:end])
        if payload is None:
            if body(data[start:end]) is not None:
                return lines, start  # no end that was torn has a right checksum
            bad = start if bad is None else bad
        elif bad is not None:
            return lines, bad
        else:
            lines.append((end + 1, parse(payload, path)))
        start = end + 1
    tail = lines[-1][0] if lines else 0
    return lines, tail if _hides_a_line(data[tail:]) else None


#: How a line begins.
_HEAD: Final = re.compile(rb"[0-9a-f]{8} \{")


def _hides_a_line(tail: bytes) -> bool:
    """Whether *tail*, which no write that was cut short explains, lost the end of a line.

    A damaged line feed joins two lines to one that fits no checksum, or leaves the last one open;
    taken for a torn tail, they would be dropped although they were acknowledged.
    """
    rest = tail.removesuffix(b"\n")
    if not tail.endswith(b"\n") and decode(tail[:-1]) is not None:
        return True
    return any(decode(rest[found.start() :]) is not None for found in _HEAD.finditer(rest, 1))


def read_journal(journals: Opened, epoch: int) -> Journal:
    """What is valid in the journal of *epoch* in the directory *journals*.

    Raises:
        FileNotFoundError: There is none.
        StateCorruptError: A line is damaged and the lines behind it are not.
    """
    path = journals.path / file_name(epoch)
    data = _read(journals, path)
    lines, bad = _parse(data, path)
    if bad is not None:
        # The owner writes into what we read, or cuts a failed line off: only what stays is damage.
        before, data = data, _read(journals, path)
        lines, bad = _parse(data, path)
        if bad is not None and data[: len(before)] == before:
            raise StateCorruptError(path, f"the line at byte {bad} is damaged, and is no torn end")
        if bad is not None:
            lines, _ = _parse(data[:bad], path)
    size = lines[-1][0] if lines else 0
    return Journal(epoch, path, tuple(lines), size, torn=size != len(data))


def fold(journal: Journal, until: int | None = None) -> Truth:
    """The state after every line of *journal* (up to offset *until*), which has a base.

    Raises:
        StateCorruptError: A line does not continue the one before it.
    """
    base = journal.base
    assert base is not None
    taken = Truth(base.state, journal.epoch, journal.lines[1][0], deleted=False, torn=journal.torn)
    steps = list(journal.steps(until))
    offset = steps[-1][0] if steps else taken.offset
    return continued(taken, [step for _, step in steps], journal.path, offset)


def continued(truth: Truth, steps: Iterable[Step], path: Path, offset: int) -> Truth:
    """*truth* after *steps*, the lines that follow it in the journal *path* up to *offset*.

    Raises:
        StateCorruptError: A line does not continue the one before it.
    """
    state = truth.state
    revision = state.revision
    deleted = truth.deleted
    pending: list[Change] = []
    for step in steps:
        found = step.revision
        # No crash leaves a hole between two lines: each is on the disk before the next.
        if found != revision + step.moves():
            raise StateCorruptError(
                path, f"a line of revision {found!r:.20} follows revision {revision}"
            )
        if isinstance(step, Saved):
            state, pending = step.state, []
        elif isinstance(step, Changed):
            pending += step.changes
        elif isinstance(step, Deleted):
            deleted = True
        else:
            raise StateCorruptError(path, f"unknown line {step.name}")
        revision = found
    try:
        state = replay_many(state, pending)
    except (KeyError, TypeError, ValueError) as err:
        raise StateCorruptError(path, f"a change does not fit the state: {err!r}") from err
    state = attrs.evolve(state, revision=revision, epoch=truth.epoch)
    return truth._replace(state=state, offset=offset, deleted=deleted)


def read_truth(folder: Opened, *, below: int | None = None) -> Truth | None:
    """The state that the highest epoch with a valid base tells; None if there is no such epoch.

    Lock-free: a journal that is superseded while it is read is given up for its successor.

    Args:
        below: Look only at epochs below this one: a new owner folds its predecessor.

    Raises:
        StateCorruptError: That journal is damaged. Older ones are never taken in its place, since
            acknowledged steps would be lost.
    """
    try:
        journals = folder.open_dir(JOURNALS)
    except OSError as err:
        if err.errno == errno.ENOENT:
            return None
        if err.errno in (errno.ENOTDIR, errno.ELOOP):
            raise StateCorruptError(folder.path / JOURNALS, NO_DIRECTORY) from err
        raise
    with journals:
        while True:
            seen = epochs(journals.names())
            found = _highest(journals, seen, below)
            if below is not None or epochs(journals.names()) == seen:
                return None if found is None else fold(found)


def _highest(journals: Opened, seen: list[int], below: int | None) -> Journal | None:
    for epoch in reversed(seen):
        if below is not None and epoch >= below:
            continue
        try:
            journal = read_journal(journals, epoch)
        except FileNotFoundError:
            continue  # the folder is being deleted under our eyes
        if journal.claim is None:
            # It was whole and synced before it got its name, so that no crash explains this.
            what = "its first line is no claim" if journal.lines or journal.torn else "is empty"
            raise StateCorruptError(journal.path, what)
        if journal.base is not None:
            return journal
    return None
