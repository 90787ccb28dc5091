"""The store's only door to the file system: one method, one system call.

It is handed in, so that a test can run the store's real code while it schedules, counts, records
or fails every operation. Everything else about files (order, durability, names) is decided above.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final

from holdfast.errors import NoHardLinksError, UnsupportedPlatformError
from holdfast.syncing import sync

if sys.platform == "win32":
    raise UnsupportedPlatformError("POSIX file locks and directory descriptors")

import fcntl

__all__ = ["Files"]

# flock says so in these words where a file system has no locks (NFS `nolock`, Lustre).
NO_LOCKS: Final = frozenset({"ENOLCK", "ENOSYS", "EOPNOTSUPP", "ENOTSUP"})

# link says so in these words on FAT, exFAT and many a FUSE file system.
NO_LINKS: Final = frozenset({"EPERM", "ENOSYS", "EOPNOTSUPP", "ENOTSUP"})

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Files:
    """The operating system's files, relative to directory descriptors. Raises OSError as it is."""

    def open_dir(self, name: str | os.PathLike[str], dir_fd: int | None = None) -> int:
        """A descriptor of a directory; below *dir_fd* a symbolic link is refused."""
        flags = _DIRECTORY if dir_fd is None else _DIRECTORY | os.O_NOFOLLOW
        return os.open(name, flags, dir_fd=dir_fd)

    def open_read(self, name: str, dir_fd: int) -> int:
        """Open for reading without following a link and without waiting for a FIFO's writer."""
        return os.open(
            name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd
        )

    def open_append(self, name: str, dir_fd: int, *, exclusive: bool = False) -> int:
        """Open for appending, made if missing; *exclusive* refuses what exists."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags | (os.O_EXCL if exclusive else 0), 0o666, dir_fd=dir_fd)

    def open_new(self, name: str, dir_fd: int, mode: int = 0o666) -> int:
        """Make a file that is written at offsets, which appending would ignore."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, mode, dir_fd=dir_fd)

    def open_write(self, name: str, dir_fd: int) -> int:
        """Open what is there for reading and writing: for a lock, which NFS gives to writers only.

        Never made: in a sticky directory `O_CREAT` is refused to all but a file's owner.
        """
        return os.open(
            name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd
        )

    def mkdir(self, name: str, dir_fd: int | None = None) -> None:
        os.mkdir(name, 0o777, dir_fd=dir_fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        """One write, which may be short."""
        return os.write(fd, data)

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """One write, which may be short."""
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        """Content, size and names to the disk itself."""
        sync(fd)

    def fdatasync(self, fd: int) -> None:
        """Content and size to the disk; times may stay behind."""
        if sys.platform == "darwin":
            self.fsync(fd)
        else:
            os.fdatasync(fd)

    def link(self, source: str, target: str, dir_fd: int, *, source_fd: int | None = None) -> None:
        """A second name of *source*, which is in *dir_fd* unless *source_fd* says where."""
        there = dir_fd if source_fd is None else source_fd
        try:
            os.link(source, target, src_dir_fd=there, dst_dir_fd=dir_fd, follow_symlinks=False)
        except OSError as err:
            # Of a file of ours, in one directory, nothing else is not permitted.
            if errno.errorcode.get(err.errno or 0) in NO_LINKS:
                raise NoHardLinksError(err.errno, "the file system has no hard links") from err
            raise

    def copy_range(self, source: int, target: int, size: int) -> int:
        """Copy at most *size* bytes between offsets, or share their blocks; how many it were."""
        return os.copy_file_range(source, target, size)

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        os.rename(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def unlink(self, name: str, dir_fd: int) -> None:
        os.unlink(name, dir_fd=dir_fd)

    def rmdir(self, name: str, dir_fd: int) -> None:
        os.rmdir(name, dir_fd=dir_fd)

    def names(self, fd: int) -> list[str]:
        """What is in the directory *fd*, in no order."""
        return os.listdir(fd)

    def scan(self, fd: int) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        """What is in the directory *fd*, with the kind and inode of each, for a `with`."""
        return os.scandir(fd)

    def touch(self, fd: int) -> None:
        """Set the times to now, by the clock of the file system."""
        os.utime(fd)

    def stat(self, name: str, dir_fd: int | None = None) -> os.stat_result:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def overwrites_cheaply(self, fd: int) -> bool:
        """Whether what is written over is written where it lies, with no size to be committed.

        Memory, networks, overlays, FUSE, and file systems that copy on write have no block device
        of their own and so a major number of 0.
        """
        return os.major(os.fstat(fd).st_dev) != 0

    def flock(self, fd: int, operation: int) -> None:
        fcntl.flock(fd, operation)

    def close(self, fd: int) -> None:
        """Give *fd* back. An I/O error reported here is of nothing that was not synced before."""
        try:
            os.close(fd)
        except OSError as err:
            # The descriptor is free all the same; only closing what is not open is a mistake.
            if err.errno == errno.EBADF:
                raise

    @contextlib.contextmanager
    def directory(self, name: str | os.PathLike[str], dir_fd: int | None = None) -> Iterator[int]:
        """`open_dir` for the length of a `with`."""
        fd = self.open_dir(name, dir_fd)
        try:
            yield fd
        finally:
            self.close(fd)

    def write_all(self, fd: int, data: bytes | bytearray) -> None:
        """Write until everything is written: a disk about to be full writes short first."""
        done = self.write(fd, data)
        while done < len(data):
            done += self.write(fd, memoryview(data)[done:])

    def read_all(self, fd: int, limit: int) -> bytes:
        """Everything in *fd*; of more than *limit* bytes, *limit* + 1."""
        parts: list[bytes] = []
        got = 0
        while got <= limit:
            part = self.read(fd, min(1 << 20, limit + 1 - got), got)
            if not part:
                break
            parts.append(part)
            got += len(part)
        return b"".join(parts)

    def read_whole(self, fd: int, limit: int) -> bytes:
        """Everything in *fd*, which somebody else may have put there.

        Raises:
            ValueError: It is no regular file, or has more than *limit* bytes; as the end of a
                sentence.
        """
        info = self.fstat(fd)
        # Anything but a regular file can block, never end, or be a device.
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("is not a regular file")
        size = info.st_size
        if size <= limit:
            data = self.read_all(fd, limit)
            size = len(data)  # it may have grown
        if size > limit:
            raise ValueError(f"has {size:,} bytes, more than the limit of {limit:,}")
        return data
