"""The locks of a state directory: made, looked at, taken, waited for."""

import contextlib
import errno
import fcntl
import os
import time
from typing import Final

from holdfast.identity import LockState
from holdfast.store import uninterrupted
from holdfast.store.files import NO_LOCKS
from holdfast.store.place import LOCK, Opened, Place

__all__ = ["get", "lock_state", "open_lock", "open_shared_lock", "pause", "try_lock"]

_RETRY_S: Final = 0.002
#: At a lock that readers have alone: a second or more.
_LOOKS: Final = 500


def _flock(lock: Opened, operation: int) -> bool | None:
    """Whether *lock* was had; None where the file system has no locks."""
    try:
        lock.files.flock(lock.fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        if errno.errorcode.get(err.errno or 0) in NO_LOCKS:
            return None
        raise
    return True


def open_lock(directory: Opened, name: str = LOCK) -> Opened:
    """The lock *name* in *directory*, made if missing. Raises OSError."""
    fd = directory.files.open_append(name, directory.fd)
    return Opened(directory.files, directory.path / name, fd)


def open_shared_lock(directory: Opened, name: str) -> Opened:
    """The lock *name* in a *directory* that several users may share, made if missing.

    The file of another user may be read-only to us: that is enough for a lock. Raises OSError.
    """
    files, fd = directory.files, directory.fd
    try:
        try:
            lock = files.open_write(name, fd)
        except FileNotFoundError:
            return open_lock(directory, name)
    except PermissionError:
        # Also if another user has made it since: whoever has a umask of 022 lets us read.
        try:
            lock = files.open_read(name, fd)
        except FileNotFoundError:
            return open_lock(directory, name)
    return Opened(files, directory.path / name, lock)


def try_lock(lock: Opened) -> bool | None:
    """Take the exclusive lock if it is free; None where the file system has no locks."""
    return _flock(lock, fcntl.LOCK_EX)


def lock_state(place: Place) -> LockState | None:
    """Whether somebody holds the experiment's lock; None if that cannot be told.

    Looks with a shared lock for a moment; claimants know a look from an owner.
    """
    folder = place.open_folder()
    if folder is None:
        return None
    # A lock that cannot be opened or asked tells nothing of an owner.
    with folder, contextlib.suppress(OSError), folder.open_read(LOCK) as lock:
        had = _flock(lock, fcntl.LOCK_SH)
        return None if had is None else "free" if had else "held"
    return None


def pause() -> None:
    """Wait a moment for a lock that somebody else holds. Ctrl-C that was kept strikes here.

    Polled, since nothing says that a lock is free: `flock` itself would wait without a deadline,
    and only a signal, which belongs to the program around us, could end that.
    """
    uninterrupted.checkpoint()
    # Random, so that two claimants that look at each other do not go on in step.
    time.sleep(_RETRY_S * (0.5 + os.urandom(1)[0] / 256))


def get(lock: Opened, deadline: float) -> bool | None:
    """Get the lock for oneself until *deadline*: True, False (an owner has it), None (no locks)."""
    looks = _LOOKS
    while True:
        had = _flock(lock, fcntl.LOCK_EX)
        if had is not False:
            return had
        # Readers look with a shared lock for microseconds, unless the machine is busy. If one is to
        # be had, no owner is there, and giving up would refuse a claim because somebody typed
        # `holdfast ls`.
        shared = _flock(lock, fcntl.LOCK_SH)
        if shared:
            lock.files.flock(lock.fd, fcntl.LOCK_UN)
            looks -= 1
        if time.monotonic() >= deadline and (not shared or looks <= 0):
            return False
        pause()
