"""The files that a shim publishes: whole, locked or synced before anybody can see them.

Owns the order in which they become visible and durable, not what is in them. Like the shim, the
standard library only and little of it.
"""

import contextlib
import errno
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.engines.local import system
else:
    import system
if TYPE_CHECKING:
    from collections.abc import Callable

_RESERVED_BYTES = 4096
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class Publisher:
    """Publishes `.live` and `.exit` of the attempt *name* in *folder*, a directory's descriptor.

    Attributes:
        locked: Whether `.live` is locked; not where the file system has no locks.
    """

    def __init__(self, folder: int, name: str) -> None:
        self._folder = folder
        self._name = name
        self.locked = True
        self._reserved: str | None = None
        self._fd = -1
        self._synced: bytes | None = None

    def become_live(self, content: "Callable[[bool, int], bytes]") -> bool:
        """Take the right to run the attempt; False if it is taken already, or was taken away.

        Args:
            content: What `.live` says, given whether it is locked and what inode it is: a copy of
                it has another, and says nothing about who runs.

        Raises:
            OSError: The file system refused for now.
        """
        temporary, fd = self._temporary()
        try:
            # Locked before it is visible: if it is seen free, its shim is dead.
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as err:
                if err.errno not in _NO_LOCKS:
                    raise
                self.locked = False
            said = content(self.locked, os.fstat(fd).st_ino)
            _whole(os.write(fd, said), said)
            # The descriptor stays open, and with it the lock, until this process ends.
            return self._link(temporary, fd, f"{self._name}.live")
        except OSError:
            os.close(fd)
            raise
        finally:
            os.unlink(temporary, dir_fd=self._folder)

    def reserve(self) -> bool:
        """Allocate the space for the outcome; True.

        Raises:
            OSError: There is none for now.
        """
        temporary, fd = self._temporary()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, _RESERVED_BYTES)
            else:
                os.write(fd, bytes(_RESERVED_BYTES))
        except OSError:
            os.close(fd)
            os.unlink(temporary, dir_fd=self._folder)
            raise
        self._reserved, self._fd, self._synced = temporary, fd, None
        return True

    def save(self, content: bytes) -> str:
        """Have *content* on the disk, under a name that nobody looks at, and which is returned.

        Raises:
            OSError: The file system refused for now.
        """
        if self._reserved is None:
            self.reserve()
        assert self._reserved is not None
        if self._synced != content:
            try:
                _whole(os.pwrite(self._fd, content, 0), content)
                os.ftruncate(self._fd, len(content))
                system.sync(self._fd)
            except OSError:
                # After a failed fsync a file may look written and not be: it is not used again.
                temporary, self._reserved = self._reserved, None
                os.close(self._fd)
                os.unlink(temporary, dir_fd=self._folder)
                raise
            self._synced = content
        return self._reserved

    def publish(self, content: bytes) -> bool:
        """Make *content* the outcome, for everybody to see; True.

        Raises:
            OSError: The file system refused for now.
        """
        temporary = self.save(content)
        # A link that finds no room is tried again, with the file that is safely on the disk.
        self._link(temporary, self._fd, f"{self._name}.exit")
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=self._folder)
        # Visible from now on, and a takeover makes it durable; a second fsync after a failed one
        # would prove nothing.
        with contextlib.suppress(OSError):
            system.sync(self._folder)
        return True

    def _temporary(self) -> tuple[str, int]:
        name = f".{os.urandom(8).hex()}.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return name, os.open(name, flags, 0o666, dir_fd=self._folder)

    def _link(self, temporary: str, fd: int, target: str) -> bool:
        try:
            os.link(temporary, target, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except FileExistsError:
            # The answer to a link that succeeded can be lost on NFS: the inode tells.
            there = os.stat(target, dir_fd=self._folder, follow_symlinks=False)
            mine = os.fstat(fd)
            return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
        return True


def _whole(written: int, content: bytes) -> None:
    if written != len(content):
        raise OSError(errno.ENOSPC, "short write")  # a disk about to be full writes short first
