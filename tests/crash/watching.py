"""The store's own door to the file system, watched: every operation can be recorded, failed,
delayed or made the last one of a simulated death.

The store takes its `Files` as an argument, so the code under test is the real one, unchanged. What
happens at every operation is told by *hooks*, functions that get the operation and the means to
carry it out. `Recorder` makes the effects of a trace out of what went through (the same that
`recording` makes out of system calls; a test holds the two against each other), `Fault` fails the
n-th operation or dies there.

A simulated death (`Killed`) is what SIGKILL does, as far as files can tell: nothing after it
reaches the file system, and all descriptors are closed, which frees their locks.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from holdfast.store import place, uninterrupted
from holdfast.store.claim import Claim
from holdfast.store.files import Files

from .effects import ROOT, Data, Disk, Effect, Entries, Mark, Size, Sync, Trace, Tree

__all__ = [
    "COMPOSED",
    "HALF",
    "INTERRUPT",
    "PRIMITIVES",
    "ROOM",
    "WRITES",
    "CallLog",
    "Fault",
    "Hook",
    "Killed",
    "Operation",
    "Recorder",
    "RoomyFiles",
    "WatchedFiles",
    "asker",
]  # fmt: skip

#: One system call each. Everything else in `Files` is made of these.
PRIMITIVES = (
    "open_dir", "open_read", "open_write", "open_append", "open_new", "mkdir", "read", "write",
    "write_at", "copy_range", "truncate", "fsync", "fdatasync", "link", "rename",
    "unlink", "rmdir", "names", "scan", "touch", "stat", "fstat", "overwrites_cheaply", "flock",
    "close",
)  # fmt: skip

#: Made of the primitives, so that watching those is watching these.
COMPOSED = ("directory", "write_all", "read_all", "read_whole")


@attrs.frozen
class Operation:
    """One call of a primitive: its name and arguments."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        shown = [
            f"<{len(a)} bytes>" if isinstance(a, bytes | memoryview) else repr(a) for a in self.args
        ]
        return f"{self.name}({', '.join(shown)})"


Hook = Callable[[Operation, Callable[[], Any]], Any]


class Killed(BaseException):
    """The simulated process is dead. Not an Exception: no `except` of the store may survive it."""


#: Whether journals make room for lines wherever the laboratory works, which is in memory as a rule.
ROOM = os.environ.get("CRASH_ROOM", "on") == "on"


class RoomyFiles(Files):
    """The real operations, and room is made in journals as `ROOM` says, whatever the disk is."""

    def overwrites_cheaply(self, fd: int) -> bool:
        """See `Files`."""
        super().overwrites_cheaply(fd)
        return ROOM


class WatchedFiles(RoomyFiles):
    """The real operations, each going through *hooks*, the first outermost.

    Keeps a list of the descriptors that it gave out and that are still open, so that a death can
    close them.
    """

    def __init__(self, *hooks: Hook) -> None:
        self.hooks = hooks
        self.open: set[int] = set()

    def around(self, operation: Operation, call: Callable[[], Any]) -> Any:
        """Carry *operation* out through the hooks."""
        for hook in reversed(self.hooks):
            call = _bound(hook, operation, call)
        try:
            result = call()
        except Killed:
            self._forget()
            raise
        if operation.name.startswith("open"):
            self.open.add(result)
        elif operation.name == "close":
            self.open.discard(operation.args[0])
        return result

    def _forget(self) -> None:
        """Finalize nothing that goes through here any more: the dead have no finalizers."""
        for claim in list(uninterrupted.tenants):
            if isinstance(claim, Claim) and claim._place.files is self:
                claim._pid = 0
        for known, (files, _) in list(place._open.items()):
            if files is self:
                del place._open[known]

    def die(self) -> None:
        """Close what the dead process had open, as the kernel does."""
        self._forget()
        for fd in self.open:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.open.clear()


def _bound(hook: Hook, operation: Operation, call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: hook(operation, call)


def _watched(name: str) -> Callable[..., Any]:
    original = getattr(RoomyFiles, name)

    def method(self: WatchedFiles, *args: Any, **kwargs: Any) -> Any:
        return self.around(Operation(name, args, kwargs), lambda: original(self, *args, **kwargs))

    method.__name__ = name
    return method


for _name in PRIMITIVES:
    setattr(WatchedFiles, _name, _watched(_name))


#: What writes, in part perhaps.
WRITES = ("write", "write_at")

#: Ctrl-C, where an errno would be.
INTERRUPT = -2
#: There too: a disk that is full after half of a write.
HALF = -3


class CallLog:
    """A hook that counts: the boundaries at which a fault can be put."""

    def __init__(self) -> None:
        self.calls: list[Operation] = []

    def __call__(self, operation: Operation, call: Callable[[], Any]) -> Any:
        self.calls.append(operation)
        return call()


class Fault:
    """A hook that fails the n-th operation, counted from 0, or dies there.

    Args:
        at: Which one.
        error: The errno to fail with; None dies instead, before the operation; `INTERRUPT` lets it
            happen and raises KeyboardInterrupt after it, as Ctrl-C does; `HALF` writes half of it
            and fails the write of the rest.
        sticky: Every later operation that writes fails as well: a disk that stays full or dead.
    """

    _WRITES = frozenset(
        {
            *("open_append", "open_new", "mkdir", "write", "write_at", "truncate", "fsync"),
            *("fdatasync", "link", "rename", "copy_range"),
        }
    )

    # What these hand out would be lost between the call and the store, which no store can help.
    _HANDS_OUT = frozenset({"close", "open_dir", "open_read", "open_write", "scan"})

    def __init__(self, at: int, error: int | None, *, sticky: bool = False) -> None:
        self.at, self.error, self.sticky = at, error, sticky
        self.seen = -1
        self.struck: Operation | None = None
        self._full = False

    def __call__(self, operation: Operation, call: Callable[[], Any]) -> Any:
        self.seen += 1
        if self.error is None:
            if self.seen >= self.at:
                self.struck = self.struck or operation
                raise Killed
            return call()
        if self.error == INTERRUPT:
            result = call()
            if self.seen == self.at and operation.name not in self._HANDS_OUT:
                self.struck = operation
                raise KeyboardInterrupt
            return result
        if self.error == HALF:
            return self._halve(operation, call)
        again = self.sticky and self.struck is not None and operation.name in self._WRITES
        if self.seen == self.at or again:
            self.struck = self.struck or operation
            if operation.name == "close":
                # `Files.close` swallows these itself; strace tries that from outside.
                return call()
            raise OSError(self.error, os.strerror(self.error))
        return call()

    def _halve(self, operation: Operation, call: Callable[[], Any]) -> Any:
        if operation.name not in WRITES:
            self._full = False  # somebody made room as soon as nobody insisted
            return call()
        if self._full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.seen != self.at:
            return call()
        self.struck, self._full = operation, True
        fd, data, *offset = operation.args
        half = bytes(data[: len(bytes(data).rstrip(b"\0")) // 2])
        return os.pwrite(fd, half, *offset) if offset else os.write(fd, half)


class Recorder:
    """A hook that makes a trace of everything that goes through, by any number of `WatchedFiles`.

    Needs a directory whose file system does not reuse inode numbers soon; tmpfs does not.

    Args:
        root: The directory that the trace is about; its present content is taken as durable.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.initial = Tree.scan(root)
        self.effects: list[Effect] = []
        self.notes: list[str] = []
        self._disk = Disk(self.initial)
        self._sites: dict[int, str] = {}
        self._inodes: dict[int, int] = {os.stat(root).st_ino: ROOT}
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                found = self._disk.lookup(ROOT, os.path.relpath(path, root))
                assert found is not None
                self._inodes[os.lstat(path).st_ino] = found

    def sites(self) -> dict[int, str]:
        """For every effect but marks: which operation of which line of the store it is."""
        return self._sites

    def trace(self) -> Trace:
        """What was done so far."""
        return Trace(self.initial, tuple(self.effects), tuple(self.notes))

    def mark(self, text: str) -> None:
        """Put a mark after what was done so far."""
        self._did(Mark(text), text)

    def _did(self, effect: Effect, note: str) -> None:
        if not isinstance(effect, Mark):
            self._sites[len(self.effects)] = f"{note.partition('(')[0]} of {asker()}"
        self.effects.append(effect)
        self.notes.append(note)
        self._disk.apply(effect)

    def __call__(self, operation: Operation, call: Callable[[], Any]) -> Any:
        handler = getattr(self, f"_{operation.name}", None)
        if handler is None:
            return call()
        return handler(call, str(operation), *operation.args, **operation.kwargs)

    def _inode(self, real: int) -> int | None:
        return self._inodes.get(real)

    def _of(self, fd: int) -> int | None:
        info = os.fstat(fd)
        # A pipe, with which the doctor measures what a call costs, has numbers of its own.
        known = stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)
        return self._inode(info.st_ino) if known else None

    def _place(self, name: str, dir_fd: int | None) -> tuple[int | None, str]:
        parent, base = os.path.split(name)
        if dir_fd is None:
            return self._inode(os.stat(parent or ".").st_ino), base
        where = os.stat(parent, dir_fd=dir_fd).st_ino if parent else os.fstat(dir_fd).st_ino
        return self._inode(where), base

    def _open_append(
        self, call: Callable[[], Any], note: str, name: str, dir_fd: int, *, exclusive: bool = False
    ) -> Any:
        place, base = self._place(name, dir_fd)
        there = place is None or self._disk.lookup(place, base) is not None
        fd = call()
        if not there and place is not None:
            mine = self._inodes[os.fstat(fd).st_ino] = self._disk.fresh()
            self._did(Entries(place, ((base, mine),), "file"), note)
        return fd

    def _open_new(
        self, call: Callable[[], Any], note: str, name: str, dir_fd: int, mode: int = 0o666
    ) -> Any:
        return self._open_append(call, note, name, dir_fd)

    def _mkdir(
        self, call: Callable[[], Any], note: str, name: str, dir_fd: int | None = None
    ) -> Any:
        place, base = self._place(name, dir_fd)
        call()
        if place is not None:
            mine = self._inodes[os.stat(name, dir_fd=dir_fd).st_ino] = self._disk.fresh()
            self._did(Entries(place, ((base, mine),), "directory"), note)

    def _write(self, call: Callable[[], Any], note: str, fd: int, data: bytes) -> Any:
        inode = self._of(fd)
        done = call()
        if inode is not None:
            self._did(Data(inode, len(self._disk.files[inode]), bytes(data[:done])), note)
        return done

    def _write_at(
        self, call: Callable[[], Any], note: str, fd: int, data: bytes, offset: int
    ) -> Any:
        inode = self._of(fd)
        done = call()
        if inode is not None:
            self._did(Data(inode, offset, bytes(data[:done])), note)
        return done

    def _copy_range(
        self, call: Callable[[], Any], note: str, source: int, target: int, size: int
    ) -> Any:
        inode, at = self._of(target), os.lseek(source, 0, os.SEEK_CUR)
        done = call()
        if inode is not None:
            end = len(self._disk.files[inode])
            self._did(Data(inode, end, os.pread(source, done, at)), note)
        return done

    def _truncate(self, call: Callable[[], Any], note: str, fd: int, size: int) -> Any:
        inode = self._of(fd)
        call()
        if inode is not None:
            self._did(Size(inode, size), note)

    def _fsync(self, call: Callable[[], Any], note: str, fd: int) -> Any:
        inode = self._of(fd)
        call()
        if inode is not None:
            self._did(Sync(inode), note)

    _fdatasync = _fsync

    def _link(
        self,
        call: Callable[[], Any],
        note: str,
        source: str,
        target: str,
        dir_fd: int,
        *,
        source_fd: int | None = None,
    ) -> Any:
        place, base = self._place(target, dir_fd)
        there = dir_fd if source_fd is None else source_fd
        inode = self._inode(os.stat(source, dir_fd=there, follow_symlinks=False).st_ino)
        call()
        if place is not None:
            self._did(Entries(place, ((base, inode),)), note)

    def _rename(
        self, call: Callable[[], Any], note: str, source: str, target: str, dir_fd: int
    ) -> Any:
        place, base = self._place(target, dir_fd)
        inode = self._inode(os.stat(source, dir_fd=dir_fd, follow_symlinks=False).st_ino)
        call()
        if place is not None:
            self._did(Entries(place, ((source, None), (base, inode))), note)

    def _unlink(self, call: Callable[[], Any], note: str, name: str, dir_fd: int) -> Any:
        place, base = self._place(name, dir_fd)
        call()
        if place is not None:
            self._did(Entries(place, ((base, None),)), note)

    _rmdir = _unlink


_MEANS = ("holdfast.store.files", "holdfast.store.tail")


def asker() -> str:
    """`module.function:line` of the store's line that is at work."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        # The end of a journal does what its users say, and is no step of its own.
        if module.startswith("holdfast.") and module not in _MEANS:
            return f"{module.removeprefix('holdfast.')}.{frame.f_code.co_name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def uncovered() -> Sequence[str]:
    """Public methods of `Files` that are neither watched nor made of watched ones: must be none."""
    public = {name for name in vars(Files) if not name.startswith("_")}
    return sorted(public - set(PRIMITIVES) - set(COMPOSED))
