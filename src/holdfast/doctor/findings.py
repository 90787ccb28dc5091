"""What the doctor finds, and where it looks."""

import stat
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

import attrs

from holdfast.errors import HoldfastError, printable
from holdfast.lifecycle.records import ResultRef
from holdfast.provenance.digests import Digests
from holdfast.store.files import Files
from holdfast.store.place import Opened

__all__ = ["Finding", "Kind", "Maker", "Site", "hint", "kind_of", "problem", "readable", "to_read"]

Kind = Literal[
    "unreadable",
    "missing",
    "illegal",
    "view",
    "result",
    "origin",
    "foreign",
    "leftover",
    "attempt",
    "links",
    "locks",
    "durability",
    "clock",
]


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: `unreadable`: a file that holds no state, or may not be read. `missing`: a journal, or
            the end of one, that the view tells of. `illegal`: a recorded step that was not allowed.
            `view`: disagrees with its journals. `result`: missing or altered, or a declared output
            is. `origin`: of a reuse, edited since. `foreign`: nothing that holdfast makes.
            `leftover`: of a process that died. `attempt`: runs, and nobody watches it. `locks`,
            `durability`, `clock`: of the file system.
        severity: `problem`, or `hint` where nothing need be wrong.
        repair: What `fix` does about it, or what to do.
        command: The words of the holdfast command that does it, or that comes last; without the
            state directory, which only the caller knows how to name.
        fixable: Whether `fix` can mend it without losing anything.
        fixed: Whether it did.
    """

    kind: Kind
    severity: Literal["problem", "hint"]
    path: Path
    what: str
    repair: str
    command: tuple[str, ...] = ()
    fixable: bool = False
    fixed: bool = False


def problem(kind: Kind, path: Path, what: str, repair: str, *command: str) -> Finding:
    """What is wrong for certain, and only its owner can mend."""
    return Finding(
        kind=kind, severity="problem", path=path, what=what, repair=repair, command=command
    )


def hint(kind: Kind, path: Path, what: str, repair: str, *command: str) -> Finding:
    """What need not be wrong, and only its owner can tell."""
    return attrs.evolve(problem(kind, path, what, repair, *command), severity="hint")


class Maker(NamedTuple):
    """A completed process that left an output, *ref*, below *cwd*."""

    experiment_id: str
    process: int
    at: datetime | None
    cwd: Path
    ref: ResultRef


@attrs.frozen(kw_only=True)
class Site:
    """A state directory under examination.

    Attributes:
        top: The directory, open.
        fix: Whether what loses nothing is to be mended.
        oldest: Files last changed before this, by the file server's clock, are nobody's at this
            moment; none are, as long as it is None.
        digests: Of files that several experiments may name, each read once. None that an earlier
            look has kept: bits rot without a change of times.
        makers: By its path, who has recorded an output; filled in where one is not as it was.
    """

    top: Opened
    fix: bool
    oldest: float | None = None
    digests: Digests = attrs.field(factory=Digests)
    makers: dict[Path, list[Maker]] = attrs.field(factory=dict)

    @property
    def files(self) -> Files:
        """The door to the file system."""
        return self.top.files


def kind_of(mode: int) -> str:
    """What a file of this *mode* is, like `a FIFO`."""
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link, which is never followed",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def to_read(err: BaseException | None) -> str:
    """What to do about a file that *err* keeps from being read."""
    if isinstance(err, PermissionError):
        return "left as it is: ask its owner for permission to read it, or to look themselves"
    return "left as it is: look again once the disk can be read, or bring it back from a backup"


def readable(error: HoldfastError) -> str:
    """What is wrong, by *error*: without the path before it and what to do behind it."""
    path = printable(getattr(error, "path", ""))
    # Errors tell of a line feed in a path in this way, so that their first line is all of it.
    return str(error).removeprefix(f"{path}: ".replace("\n", "\\n")).partition("\n")[0]
