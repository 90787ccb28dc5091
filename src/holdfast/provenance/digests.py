"""SHA-256 of files, remembered for as long as a file is certainly the same.

Owns the cache file, one line of JSON under a checksum:

    crc32 {"format": 1, "files": [[device, inode, size, mtime_ns, ctime_ns, sha256], …]}

It is replaced whole, never locked and never synced. Of two programs that write at once the later
one wins, and what the other learnt is hashed again. Nothing is raised for its sake: without a
cache everything is hashed.
"""

import contextlib
import hashlib
import json
import os
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from holdfast.errors import StateReadError
from holdfast.provenance.files import content, regular

__all__ = ["Digests", "FileDigest"]

#: Changed twice within the resolution of its times (2 s on FAT), a file looks changed once. What
#: was touched this shortly before it is hashed is hashed again the next time.
RACY_NS: Final = 2_500_000_000
#: A smaller file is hashed sooner than its line is looked up.
WORTHWHILE: Final = 64 << 10
#: Files that the cache on disk remembers; the least recently used ones go first.
MOST: Final = 20_000

_FORMAT: Final = 1
_LIMIT: Final = 16 << 20
_BLOCK: Final = 1 << 20
#: Times that a file may change while it is read, before that is an error.
_READINGS: Final = 5
_ABANDONED_S: Final = 3600
_HEX: Final = re.compile(r"[0-9a-f]{64}")

_File: TypeAlias = tuple[int, int]  # device, inode
_Known: TypeAlias = tuple[int, int, int, str]  # size, mtime_ns, ctime_ns, sha256


@attrs.frozen(kw_only=True)
class FileDigest:
    """What a file contained.

    Attributes:
        size: In bytes.
        sha256: In hex; None where the file was too large to be read for this.
        mtime_ns: When it was last modified; only where there is no *sha256*.
    """

    size: int
    sha256: str | None = None
    mtime_ns: int | None = None


class Digests:
    """The digests of files, each hashed once for as long as it does not change.

    A file is the same while device, inode, size and both times are: `ctime` gives away an edit
    whose `mtime` was set back. Use it in a `with`, or call `store`, to keep what was learnt.

    Args:
        cache: The file that keeps digests for later runs; its folder is made if missing. Give it a
            folder of its own: each write changes that folder's times.
        now_ns: The time, in nanoseconds since 1970.
    """

    def __init__(
        self, cache: Path | None = None, *, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._cache = cache
        self._now_ns = now_ns
        self._loaded = cache is None
        self._known: dict[_File, _Known] = {}
        # What this run asked for, oldest first: the cache forgets by it.
        self._used: dict[_File, None] = {}
        self._learnt = False

    def __enter__(self) -> "Digests":
        return self

    def __exit__(self, *_: object) -> None:
        self.store()

    def of(
        self, path: str | os.PathLike[str], *, between: Callable[[], None] = lambda: None
    ) -> FileDigest:
        """The digest of the file at *path*, a symbolic link's target. Never waits for a FIFO.

        Args:
            between: Called again and again while it is read, which can take minutes: what it raises
                ends that.

        Raises:
            StateReadError: It is missing, unreadable, no regular file, or keeps changing.
        """
        try:
            return self._of(path, between)
        except OSError as err:
            raise StateReadError.of(Path(path), "reading", err) from err
        except ValueError as err:  # a NUL, a surrogate that stands for no byte
            raise StateReadError(Path(path), "reading", str(err)) from err

    def sha256(self, path: Path) -> str:
        """The digest in hex. Raises as `of`."""
        found = self.of(path).sha256
        assert found is not None
        return found

    def _of(self, path: str | os.PathLike[str], between: Callable[[], None]) -> FileDigest:
        fd = regular(path)
        if fd is None:
            raise StateReadError(Path(path), "reading", "it is not a regular file")
        try:
            for _ in range(_READINGS):
                # From the descriptor: opening makes NFS ask its server, a stat alone may be old.
                info = os.fstat(fd)
                known = self._remembered(info)
                if known is not None:
                    return FileDigest(size=info.st_size, sha256=known)
                now_ns = self._now_ns()
                found = _hashed(fd, info.st_size, between)
                if found is not None and _signature(info) == _signature(os.fstat(fd)):
                    self._remember(info, found, now_ns)
                    return FileDigest(size=info.st_size, sha256=found)
        finally:
            os.close(fd)
        advice = "wait until nothing writes to it"
        raise StateReadError(Path(path), "reading", "it changes all the time", advice=advice)

    def _remembered(self, info: os.stat_result) -> str | None:
        file = (info.st_dev, info.st_ino)
        if not self._loaded and info.st_size >= WORTHWHILE:
            self._loaded = True
            assert self._cache is not None
            self._known = {**_read(self._cache), **self._known}
        known = self._known.get(file)
        if known is None or known[:3] != _signature(info) or not _is_digest(*known[3:]):
            return None
        self._used.pop(file, None)
        self._used[file] = None
        return known[3]

    def _remember(self, info: os.stat_result, digest: str, now_ns: int) -> None:
        file = (info.st_dev, info.st_ino)
        # Not even in memory: a program that writes and a run that looks may be that close. A time
        # in the future is one, too: the clock was set back, and will be then once more.
        if max(info.st_mtime_ns, info.st_ctime_ns) > now_ns - RACY_NS:
            self._known.pop(file, None)
            self._used.pop(file, None)
            return
        self._known[file] = (*_signature(info), digest)
        self._used.pop(file, None)
        self._used[file] = None
        self._learnt = self._learnt or info.st_size >= WORTHWHILE

    def store(self) -> None:
        """Keep what was learnt for the next run, if that is possible and worth it."""
        if self._cache is None or not self._learnt:
            return
        self._learnt = False
        # What another program has learnt meanwhile, then what is older than ours.
        kept = _read(self._cache)
        # A thread that was left may be hashing yet, and what changed since is known no more.
        for file in list(self._used):
            known = self._known.get(file)
            if known is not None and known[0] >= WORTHWHILE:
                kept.pop(file, None)
                kept[file] = known
        rows = [[*file, *known] for file, known in kept.items()]
        # A full or read-only disk must not stop a run for the cache's sake.
        with contextlib.suppress(OSError):
            _write(self._cache, rows[-MOST:])


def _is_digest(*said: Any) -> bool:
    return len(said) == 1 and isinstance(said[0], str) and _HEX.fullmatch(said[0]) is not None


def _signature(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _hashed(fd: int, size: int, between: Callable[[], None]) -> str | None:
    """The digest of all that is in *fd*; None if that is another *size*."""
    digest, at = hashlib.sha256(), 0
    block = bytearray(min(_BLOCK, size + 1))
    view = memoryview(block)
    # Never beyond: a log may grow as fast as it is read.
    while at <= size and (got := os.preadv(fd, [block], at)):
        digest.update(view[:got])
        at += got
        between()
    return digest.hexdigest() if at == size else None


def _read(cache: Path) -> dict[_File, _Known]:
    """What *cache* remembers, least recently used first; nothing if it is missing or damaged."""
    try:
        data = content(cache, _LIMIT)
        if data is None or data[:9] != b"%08x " % zlib.crc32(body := data[9:].removesuffix(b"\n")):
            return {}
        found = json.loads(body)
        if found["format"] != _FORMAT:
            return {}
        # Thousands of rows, of which a run needs a few: what one says is checked when it is used.
        return {(row[0], row[1]): tuple(row[2:]) for row in found["files"]}
    except (OSError, LookupError, TypeError, ValueError, RecursionError):
        return {}


def _write(cache: Path, rows: list[list[Any]]) -> None:
    said = {"format": _FORMAT, "files": rows}
    body = json.dumps(said, separators=(",", ":")).encode("ascii")
    cache.parent.mkdir(exist_ok=True)
    draft = cache.with_name(f".{cache.name}-{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(draft, flags, 0o666), "wb") as file:
            file.write(b"%08x %s\n" % (zlib.crc32(body), body))
        os.replace(draft, cache)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    _sweep(cache)


def _sweep(cache: Path) -> None:
    """Remove what writers left that were killed."""
    now_s = cache.stat().st_mtime  # by the clock of the same file system
    for left in cache.parent.glob(f".{cache.name}-*.tmp"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < now_s - _ABANDONED_S:
                left.unlink()
