"""What the file system refused, or what lies in it: state files, directories, platforms."""

import errno
import os
import shlex
from pathlib import Path
from typing import Final, Self

from holdfast.errors.base import HoldfastError, Spell

__all__ = [
    "SOMETHING_ELSE",
    "DiskError",
    "NoHardLinksError",
    "SchemaTooNewError",
    "StateCorruptError",
    "StateReadError",
    "StateWriteError",
    "UnsupportedPlatformError",
    "UntrustedPlaceError",
    "cause",
    "remedy",
]

#: Advice where the name of what is to be made is taken.
SOMETHING_ELSE: Final = "something else is in its place, or on the way to it: move that away"
_ANOTHER_DISK: Final = "name a directory on another one, with -C DIR or HOLDFAST_STATE_DIR"
_NOT_YOURS: Final = "make sure that you may read and write there"

#: What to do about a refusal of the file system.
_REMEDIES: Final = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "have the file system made writable",
    **dict.fromkeys((errno.EACCES, errno.EPERM), _NOT_YOURS),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST), SOMETHING_ELSE),
    errno.ENAMETOOLONG: "choose a shorter name or directory",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "have the machine allow more open files",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EIO: "check the disk",
    errno.ENOMEM: "free some memory, or write smaller results",
}


def remedy(number: int | None) -> str:
    """What to do about a refusal of the file system, by its errno."""
    return _REMEDIES.get(number or 0, "mend that")


#: Operations before there is anything to go on with.
_BEFORE_ALL: Final = frozenset(
    {"creating", "locking", "making the directory", "opening", "writing the demo"}
)


def cause(err: OSError) -> str:
    """What went wrong, like `No space left on device (ENOSPC)`."""
    name = errno.errorcode.get(err.errno or 0, "?")
    if isinstance(err, NoHardLinksError):
        return f"{err.strerror} ({name})"
    return f"{os.strerror(err.errno) if err.errno else err} ({name})"


class NoHardLinksError(OSError):
    """A link was refused by a file system that has none."""


class DiskError(HoldfastError):
    """The file system refused something.

    Attributes:
        path: What it was about, and *operation*, what was to be done with it.
        cause: Why it was not, in words.
        errno: The number of the refusal; None if it was none of the file system's.
        advice: What to do about it, where the number alone does not say that.
    """

    path: Path
    operation: str
    cause: str
    errno: int | None = None
    advice: str | None = None
    _says = "{path}: {operation} failed: {cause}"

    @classmethod
    def of(cls, path: Path, operation: str, err: OSError, **facts: str) -> Self:
        """What *err* was, which was met with *operation* on *path*."""
        if isinstance(err, NoHardLinksError):
            facts["advice"] = _ANOTHER_DISK
        return cls(path, operation, cause(err), err.errno, **facts)

    def _step(self, command: Spell, again: str | None) -> str:
        return f"{self.advice or remedy(self.errno)}, then {again or 'repeat it'}"


class StateReadError(DiskError):
    """The file system refused a read: nothing was changed, and what it holds is not known."""


class StateWriteError(DiskError):
    """The file system refused a write.

    Attributes:
        stored: `old` if the disk is proven to hold the state before, `unknown` if it holds the
            old or the new one (never a mix): load it to learn which.
    """

    stored: str = "old"

    def _step(self, command: Spell, again: str | None) -> str:
        which = {
            "old": "the state before is stored, nothing of the change",
            "new": "the change is stored",
            "unknown": "the state before or the change is stored, whole: load it to learn which",
        }[self.stored]
        before_all = self.operation in _BEFORE_ALL and self.stored == "old"
        if before_all:
            which = "nothing was made"
        if again is None and not before_all and self.operation != "deleting":
            again = f"`{command('resume')}` goes on"
        return f"{which}; {super()._step(command, again)}"


class StateCorruptError(HoldfastError):
    """A file does not hold a state, or no longer does. It is left as it is.

    Attributes:
        remake: The words of the command that makes the file again once it is removed; empty where
            nothing can.
    """

    path: Path
    problem: str
    remake: tuple[str, ...] = ()
    _says = "{path}: {problem}"

    def _step(self, command: Spell, again: str | None) -> str:
        if self.remake:
            removal = shlex.join(["rm", "-r", "--", str(self.path.absolute())])
            return f"remove it first: {removal}\n  then make it again: {command(*self.remake)}"
        return f"the file is left as it is; `{command('doctor')}` looks at everything around it"


class SchemaTooNewError(HoldfastError):
    """A newer holdfast wrote this file. It is left as it is."""

    path: Path
    found: int
    supported: int
    _says = "{path}: written in schema {found}, this holdfast reads up to {supported}"
    _next = "upgrade holdfast to read it"


class UntrustedPlaceError(HoldfastError):
    """A state directory was found that others can write into: its commands may be theirs."""

    path: Path
    why: str
    _says = "{path} was found, and is not used: {why}"

    def _step(self, command: Spell, again: str | None) -> str:
        named = f"-C {shlex.quote(str(self.path))}"
        return f"if it is the right one: {named}; -C DIR or HOLDFAST_STATE_DIR names another"


class UnsupportedPlatformError(HoldfastError):
    """This operating system lacks what crash safety rests on."""

    missing: str
    _says = "holdfast needs {missing}, which this platform does not have"
    _next = "use Linux or macOS; on Windows, WSL 2 works"
