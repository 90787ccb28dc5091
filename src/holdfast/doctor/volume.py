"""What can be found out about a file system by honest means: locks, durability, its clock.

It cannot be proven from user space that fsync reaches the platters. A symptom is certain (a lock
that does not exclude, a mount option that says so) or only a hint.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import attrs

from holdfast.errors import NoHardLinksError, cause
from holdfast.store.files import NO_LOCKS, Files
from holdfast.store.place import Opened
from holdfast.store.view import temporary_name

__all__ = ["Mount", "Symptom", "examine", "mount_of", "server_time"]

_MOUNTS: Final = Path("/proc/self/mountinfo")
_ROUNDS: Final = 7
#: No disk or flash, with or without a protected cache, answers a flush sooner than this.
_IMPLAUSIBLE_S: Final = 30e-6
#: Clocks nearer than this cannot be told apart: file times tick, and some have whole seconds.
_CLOCK_S: Final = 2.0
_VOLATILE: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})

#: `(option, why)`: locks that other hosts do not see.
_LOCAL_LOCKS: Final = {
    **dict.fromkeys(
        ("nolock", "local_lock=all", "local_lock=flock"), "locks are not passed on to other hosts"
    ),
    "localflock": "locks are seen on this host only",
    "noflock": "locks are refused",
}
#: `(option, why)`: what was synced can be lost all the same.
_NOT_DURABLE: Final = {
    **dict.fromkeys(("nobarrier", "barrier=0"), "the disk's cache is not flushed by fsync"),
    **dict.fromkeys(
        ("volatile", "fsync=volatile", "nofsync", "sync=disabled"), "fsync does nothing"
    ),
}


#: `{(kind, certain): what to do}`.
_REPAIRS: Final = {
    ("links", True): "move it to a file system that has them: nothing can be begun or resumed here",
    ("locks", True): "move it to a file system with locks, or use it from one host at a time",
    ("durability", True): "have that changed, or move it elsewhere: a power cut can lose steps",
    ("durability", False): "nothing, if what is here may be lost with the machine's power",
    ("clock", False): "have the clocks of both synchronised; nothing that counts rests on them",
}


@attrs.frozen
class Symptom:
    """One thing that was seen.

    Attributes:
        certain: False for a hint, which can have a harmless reason.
    """

    kind: Literal["links", "locks", "durability", "clock"]
    what: str
    certain: bool

    @property
    def repair(self) -> str:
        """What to do about it."""
        return _REPAIRS[self.kind, self.certain]


@attrs.frozen
class Mount:
    """Where a file system hangs, of which type it is, and its options."""

    point: str
    kind: str
    options: frozenset[str]


def examine(files: Files, directory: Path) -> Iterator[Symptom]:
    """What is wrong with the file system of *directory*, where files are made and removed again.

    What can be told by looking comes first. Raises OSError if nothing can be written there.
    """
    mount = mount_of(directory)
    if mount is not None:
        yield from _options(mount)
    with Opened.at(files, directory) as there:
        yield from _links(there)
        yield from _locks(there)
        yield from _fsync(there)
        yield from _clock(there)


def mount_of(directory: Path, mounts: Path | None = None) -> Mount | None:
    """The mount that *directory* is in; None where the kernel does not tell."""
    try:
        device = directory.stat().st_dev
        lines = (mounts or _MOUNTS).read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(directory)
    best: Mount | None = None
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, more = left.split(), right.split()
        if len(fields) < 6 or len(more) < 3:
            continue
        point = fields[4].encode("ascii", "surrogateescape").decode("unicode_escape")
        options = frozenset((fields[5] + "," + more[2]).split(","))
        mount = Mount(point, more[0], options)
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # btrfs and overlays show another device number in stat than in their mount.
        if inside and (fields[2] == wanted or best is None or len(point) > len(best.point)):
            best = mount
    return best


def server_time(directory: Opened) -> float:
    """What time it is for the files in *directory*, in seconds since the epoch. Raises OSError.

    Ages of files are measured by this clock: a server's can be hours away from ours.
    """
    with _temporary(directory) as file:
        file.files.write_all(file.fd, b"tick")
        return file.files.fstat(file.fd).st_mtime


def _options(mount: Mount) -> Iterator[Symptom]:
    where = f"{mount.point} ({mount.kind})"
    for option in sorted(mount.options & _LOCAL_LOCKS.keys()):
        yield Symptom("locks", f"{where} is mounted {option}: {_LOCAL_LOCKS[option]}", True)
    for option in sorted(mount.options & _NOT_DURABLE.keys()):
        yield Symptom("durability", f"{where} is mounted {option}: {_NOT_DURABLE[option]}", True)
    if mount.kind in _VOLATILE:
        # Whoever puts it there knows that, as a rule; nothing pretends to be what it is not.
        yield Symptom("durability", f"{where} is memory: a power cut takes everything", False)
    if "data=writeback" in mount.options:
        # What is synced is safe; what is not can come back as another file's old content.
        what = f"{where} is mounted data=writeback: torn tails may hold other files' old data"
        yield Symptom("durability", what, False)


@contextlib.contextmanager
def _temporary(directory: Opened) -> Iterator[Opened]:
    files, name = directory.files, temporary_name()
    fd = files.open_append(name, directory.fd, exclusive=True)
    file = Opened(files, directory.path / name, fd)
    try:
        yield file
    finally:
        file.close()
        with contextlib.suppress(OSError):
            files.unlink(name, directory.fd)


def _links(directory: Opened) -> Iterator[Symptom]:
    """Whether a file can be given the name that only the first of several can have."""
    files, other = directory.files, temporary_name()
    with _temporary(directory) as file:
        try:
            files.link(file.path.name, other, directory.fd)
        except NoHardLinksError as err:
            yield Symptom("links", cause(err), True)
        else:
            files.unlink(other, directory.fd)


def _locks(directory: Opened) -> Iterator[Symptom]:
    """Whether a lock on one descriptor is refused to another, as it is to another process."""
    files = directory.files
    with _temporary(directory) as first, directory.open_read(first.path.name) as second:
        try:
            files.flock(first.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                files.flock(second.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            yield Symptom("locks", "two descriptors got one exclusive lock: locks do nothing", True)
        except OSError as err:
            known = errno.errorcode.get(err.errno or 0) in NO_LOCKS
            what = "there are no locks" if known else "locks do not work"
            yield Symptom("locks", f"{what}: {cause(err)}; epochs alone protect", True)


def _fsync(directory: Opened, clock: Callable[[], float] = time.perf_counter) -> Iterator[Symptom]:
    preloaded = os.environ.get("LD_PRELOAD", "")
    if "eatmydata" in preloaded:
        yield Symptom("durability", f"LD_PRELOAD={preloaded}: fsync does nothing here", True)
    quick = []
    # Views and claims rest on the one, every acknowledged step on the other.
    files = directory.files
    for name, sync in (("fsync", files.fsync), ("fdatasync", files.fdatasync)):
        took = _flush_s(directory, sync, clock)
        if took < _IMPLAUSIBLE_S:
            quick.append(f"{name} of 4 KiB takes {took * 1e6:.0f} µs")
    if quick:
        what = f"{' and '.join(quick)}, sooner than storage can answer"
        yield Symptom("durability", f"{what}: memory, or a virtual disk that does not flush", False)


def _flush_s(directory: Opened, sync: Callable[[int], None], clock: Callable[[], float]) -> float:
    """How long *sync* waits for the storage, in seconds, without what the call itself costs.

    In a sandbox, or under a tracer, a call that does nothing can take longer than a real flush.
    """
    flushes, calls = [], []
    with _temporary(directory) as file, _pipe() as nothing:
        for _ in range(_ROUNDS):
            file.files.write_all(file.fd, os.urandom(4096))
            began = clock()
            sync(file.fd)
            flushes.append(clock() - began)
            began = clock()
            with contextlib.suppress(OSError):
                sync(nothing)
            calls.append(clock() - began)
    # A machine that is busy only ever adds; the very quickest may have been written back before.
    return max(0.0, sorted(flushes)[1] - sorted(calls)[1])


@contextlib.contextmanager
def _pipe() -> Iterator[int]:
    """Something that nothing can be flushed of."""
    ends = os.pipe()
    try:
        yield ends[0]
    finally:
        for end in ends:
            os.close(end)


def _clock(directory: Opened, clock: Callable[[], float] = time.time) -> Iterator[Symptom]:
    """The file's time against ours: they differ if a server stamps it by its own clock."""
    with _temporary(directory) as file:
        before = clock()
        file.files.write_all(file.fd, b"tick")
        file.files.fsync(file.fd)
        stamped = file.files.fstat(file.fd).st_mtime
        after = clock()
    ahead = stamped - after if stamped > after else min(stamped - before, 0.0)
    if abs(ahead) > _CLOCK_S:
        direction = "ahead of" if ahead > 0 else "behind"
        what = f"its clock is {abs(ahead):.0f} s {direction} this host's: times in states differ"
        yield Symptom("clock", what, False)
