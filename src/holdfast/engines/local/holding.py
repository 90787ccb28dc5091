"""The slots of an attempt, as its shim has them: signed before its command starts, let go after it.

Their locks came with the descriptors, and whatever inherits one of these shares the lock. Like the
shim, the standard library only and little of it.
"""

import contextlib
import errno
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def sign(slots: "Sequence[int]", holder: bytes) -> bool:
    """Write *holder* into the file of each, and have the command inherit them; True.

    Raises:
        OSError: The file system refused for now.
    """
    for fd in slots:
        # Whoever has the lock may find a torn one: then nothing runs yet by that name. Over what
        # the run has written there to make room: to empty it first would give that away.
        if os.pwrite(fd, holder, 0) != len(holder):
            raise OSError(errno.ENOSPC, "short write")
        os.ftruncate(fd, len(holder))
        os.set_inheritable(fd, True)
    return True


def let_go(slots: "Sequence[int]") -> None:
    """Free them, now that nothing of the attempt is left."""
    for fd in slots:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)  # else it names a mark that nothing carries any more
        with contextlib.suppress(OSError):
            # A daemon that is meant to outlive the attempt has inherited it, too.
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
