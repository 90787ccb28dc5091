"""Where the locks of slots are, one file for each, and how they are taken.

They are never unlinked: of two that lock one path, each could else have a file of its own.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.files import Signature, signature
from holdfast.errors import DiskError
from holdfast.liveness import Observer

__all__ = ["Place", "all_known", "clear", "directory", "holder", "lock", "peek", "place", "signed"]

_MAX_BYTES: Final = 64 * 1024
#: What a signature takes; one of the longest has a path of 4,096 bytes in it.
_ROOM: Final = 8 * 1024
_FILE: Final = re.compile(r"([a-z][a-z0-9_]*)\.([A-Za-z0-9][A-Za-z0-9._:%-]*)")
#: How often a file is locked that somebody moves away at that moment.
_MOST_TRIES: Final = 20
_PASSES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
_NAMED: Final = "name a place on this machine with XDG_STATE_HOME"
_ELSEWHERE: Final = "mend that, or name a place on another disk with XDG_STATE_HOME"


@attrs.frozen
class Place:
    """One slot of this host.

    Attributes:
        kind: What it is one of: `gpu`.
        name: Which of them.
        path: The file that is locked.
    """

    kind: str
    name: str
    path: Path

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}"


def directory() -> Path:
    """Where the locks of this host are: not in what a logout empties.

    Raises:
        DiskError: Nobody knows.
    """
    home = Path(os.environ.get("XDG_STATE_HOME") or "")
    # Relative ones would name another place in every directory: two runs would not see each other.
    if not home.is_absolute():
        # Not `Path.home`, which raises where a container runs as a user that it does not know.
        home = Path(os.path.expanduser("~"), ".local", "state")  # noqa: PTH111
    if not home.is_absolute():
        what = "HOME is no absolute path" if os.environ.get("HOME") else "HOME is not set"
        raise DiskError(home, "finding the place of the slots", what, advice=_NAMED)
    return home / "holdfast" / "slots" / _escaped(Observer.here().host or "localhost")


def place(kind: str, name: str) -> Place:
    """The slot *name* of *kind*."""
    return Place(kind, name, directory() / f"{kind}.{_escaped(name)}")


def _escaped(text: str) -> str:
    # As in a URL, but for what the names of slots may have: no path leads elsewhere.
    return re.sub(r"[^A-Za-z0-9._:-]|^\.", lambda found: f"%{ord(found[0]):02X}", text)


def all_known() -> list[Place]:
    """Every slot that was ever held on this host.

    Raises:
        DiskError: Their directory cannot be read.
    """
    home = directory()
    try:
        paths = list(home.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise DiskError.of(home, "listing", err) from err
    named = [(path, _FILE.fullmatch(path.name)) for path in paths]
    found = [Place(each[1], _unescaped(each[2]), path) for path, each in named if each is not None]
    return sorted(found, key=lambda each: (each.kind, len(each.name), each.name))


def _unescaped(text: str) -> str:
    return re.sub("%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text)


def lock(slot: Place) -> int | None:
    """A descriptor of its file, locked; None if somebody else has locked it.

    Raises:
        DiskError: It cannot be made, opened or locked.
    """
    import fcntl  # here, so that Windows can say clearly that it is not supported

    try:
        for _ in range(_MOST_TRIES):
            fd = _opened(slot.path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # It may have been moved away, and another be in its place.
                if os.path.samestat(os.fstat(fd), slot.path.lstat()):
                    return fd
            except BlockingIOError:
                os.close(fd)
                return None
            except FileNotFoundError:
                pass
            except OSError:
                os.close(fd)
                raise
            os.close(fd)
    except OSError as err:
        facts = {} if err.errno in _PASSES else {"advice": _ELSEWHERE}
        raise DiskError.of(slot.path, "locking the slot", err, **facts) from err
    return None


def _opened(path: Path, flags: int) -> int:
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ENOTDIR, "something else has its name")
    return fd


def clear(fd: int) -> None:
    """Have it name nobody, with room for whoever signs it: its shim would wait for that in silence.

    Raises:
        OSError: There is no room.
    """
    if os.pwrite(fd, b" " * _ROOM, 0) != _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, _ROOM)


def signed(fd: int) -> Signature | None:
    """Who has signed the file; None if nobody has, or has cleared it since."""
    return signature(os.pread(fd, _MAX_BYTES, 0))


def holder(slot: Place) -> Signature | None:
    """Who has signed its file last, as far as that can be read."""
    with contextlib.suppress(OSError):
        fd = _opened(slot.path, os.O_RDONLY)
        try:
            return signed(fd)
        finally:
            os.close(fd)
    return None


@contextlib.contextmanager
def peek(slot: Place) -> Iterator[tuple[bool, Signature | None]]:
    """Whether its lock is free, for as long as the context lasts, and who has signed it last.

    Raises:
        DiskError: It cannot be opened or locked.
    """
    import fcntl

    try:
        fd = _opened(slot.path, os.O_RDONLY)
    except FileNotFoundError:
        yield True, None
        return
    except OSError as err:
        raise DiskError.of(slot.path, "opening", err) from err
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        found = signed(fd)
    except OSError as err:
        os.close(fd)
        raise DiskError.of(slot.path, "reading", err) from err
    try:
        yield free, found
    finally:
        os.close(fd)
