"""What happens in a folder while an experiment runs there: attempts begin, end, write files.

The kernel tells it (inotify), so that a kill can hit the very instant of a write; where it does
not, attempts are found by looking, and writes are not seen.
"""

import contextlib
import ctypes
import os
import select
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import attrs

from holdfast.attempts.names import ATTEMPTS, CHECKPOINTS, RESULTS, AttemptName
from holdfast.store.place import STATE_DIR

__all__ = ["IGNORED", "Began", "Ended", "Event", "Eyes", "Wrote"]

#: Folders of which nobody asks what they contain.
IGNORED: Final = frozenset({"__pycache__", ".git", str(STATE_DIR)})

_MODIFY, _MOVED_TO, _CREATE, _IS_DIR = 0x2, 0x80, 0x100, 0x40000000
_OVERFLOW: Final = 0x4000
_WANTED: Final = _MODIFY | _MOVED_TO | _CREATE
_HEAD: Final = struct.Struct("iIII")
#: How long at most until attempts are looked for by listing them.
_LISTED_S: Final = 0.02


class Began(NamedTuple):
    """A shim has begun an attempt."""

    name: AttemptName


class Ended(NamedTuple):
    """The outcome of an attempt was published."""

    name: AttemptName


class Wrote(NamedTuple):
    """A process of the experiment made or changed a file; its path in either folder."""

    path: str


Event = Began | Ended | Wrote


@attrs.define
class Eyes:
    """Watches *folder*, and what attempts leave in *state_dir*, from now on; use it in a `with`.

    Attributes:
        at_write: Called with every write before anything else is done about it: its path as events
            have it, the file, and its size before; None if something was moved there.
        emptied: Files that were seen empty and had not been so before: whoever writes them anew
            empties them first.
        since: Paths of all writes since it was cleared.
    """

    folder: Path
    state_dir: Path
    emptied: set[str] = attrs.field(factory=set)
    at_write: Callable[[str, Path, int | None], None] | None = None
    since: list[str] = attrs.field(factory=list)
    _sizes: dict[str, int] = attrs.field(factory=dict)
    _fd: int | None = None
    _paths: dict[int, Path] = attrs.field(factory=dict)
    _seen: set[str] = attrs.field(factory=set)
    _pending: list[Event] = attrs.field(factory=list)

    def __enter__(self) -> "Eyes":
        self._fd = _inotify()
        self.state_dir.mkdir(exist_ok=True)
        # What is there already is no news.
        self._add(self.folder)
        if not self.state_dir.is_relative_to(self.folder):
            self._add(self.state_dir)
        self._pending.clear()
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def see_writes(self) -> bool:
        """Whether writes are seen at all."""
        return self._fd is not None

    def look(self, within_s: float, *fds: int) -> list[Event]:
        """What has happened, once something has, one of *fds* is readable, or time is up."""
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        if self._fd is None:
            poller.poll(min(within_s, _LISTED_S) * 1000)
            self._list()
        else:
            poller.register(self._fd, select.POLLIN)
            if not self._pending and any(fd == self._fd for fd, _ in poller.poll(within_s * 1000)):
                self._take()
        found = list(self._pending)
        self._pending.clear()
        return found

    # -- by the kernel

    def _take(self) -> None:
        assert self._fd is not None
        data = os.read(self._fd, 1 << 20)
        at = 0
        while at < len(data):
            watch, mask, _, size = _HEAD.unpack_from(data, at)
            if mask & _OVERFLOW:
                self._list()
            at += _HEAD.size
            name = data[at : at + size].rstrip(b"\0")
            at += size
            folder = self._paths.get(watch)
            if folder is None or not name:
                continue
            path = folder / os.fsdecode(name)
            if mask & _IS_DIR:
                self._add(path)
            else:
                self._file(path, moved=bool(mask & _MOVED_TO))

    def _add(self, folder: Path) -> None:
        """Watch *folder* and all below it; tell what is there: it was made before we watched."""
        if self._fd is None or not self._matters(folder):
            return
        watch = _watch(self._fd, folder)
        if watch is None:
            return
        self._paths[watch] = folder
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self._add(Path(entry.path))
            else:
                self._file(Path(entry.path))

    def _matters(self, folder: Path) -> bool:
        if folder.is_relative_to(self.state_dir):
            # The store's own files change all the time: nothing of that is the experiment's.
            parts = folder.relative_to(self.state_dir).parts
            return len(parts) < 2 or parts[1] in (ATTEMPTS, CHECKPOINTS, RESULTS)
        return folder.name not in IGNORED

    def _file(self, path: Path, *, moved: bool = False) -> None:
        if not path.is_relative_to(self.state_dir):
            self._written(str(path.relative_to(self.folder)), path, moved)
            return
        parts = path.relative_to(self.state_dir).parts
        if len(parts) == 3 and parts[1] == ATTEMPTS:
            self._attempt(parts[0], parts[2])
        elif len(parts) > 2 and parts[1] in (CHECKPOINTS, RESULTS):
            self._written("/".join(parts[1:]), path, moved)

    def _written(self, path: str, file: Path, moved: bool) -> None:
        before = self._sizes.get(path)
        if self.at_write is not None:
            self.at_write(path, file, None if moved else before)
        self._pending.append(Wrote(path))
        self.since.append(path)
        with contextlib.suppress(OSError):
            size = file.lstat().st_size
            self._sizes[path] = size
            if not size and before:
                self.emptied.add(path)

    # -- by listing

    def _list(self) -> None:
        for path in self.state_dir.glob(f"*/{ATTEMPTS}/*"):
            self._attempt(path.parts[-3], path.name)

    def _attempt(self, experiment_id: str, file: str) -> None:
        stem, _, suffix = file.rpartition(".")
        if suffix not in ("live", "exit") or file in self._seen:
            return
        name = AttemptName.parse(experiment_id, stem)
        if name is not None:
            self._seen.add(file)
            self._pending.append(Began(name) if suffix == "live" else Ended(name))


_libc: ctypes.CDLL | None = None


def _inotify() -> int | None:
    """A descriptor to watch with; None where there is none, or no more of them."""
    global _libc
    if sys.platform != "linux":
        return None
    try:
        _libc = _libc or ctypes.CDLL(None, use_errno=True)
        fd = int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    except (OSError, AttributeError):
        return None
    return fd if fd >= 0 else None


def _watch(fd: int, folder: Path) -> int | None:
    assert _libc is not None
    watch = int(_libc.inotify_add_watch(fd, os.fsencode(folder), ctypes.c_uint32(_WANTED)))
    return watch if watch >= 0 else None
