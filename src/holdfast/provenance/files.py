"""Regular files, and nothing else: what has such a name may be a FIFO, a device or a link."""

import os
import stat

__all__ = ["content", "regular"]

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def regular(path: str | os.PathLike[str]) -> int | None:
    """A descriptor of the regular file that *path* leads to, for reading; None if it is none.

    Raises:
        OSError: It cannot be opened.
    """
    # Opening a device or a FIFO can have effects of its own; and it may become one in between.
    if not stat.S_ISREG(os.stat(path).st_mode):
        return None
    fd = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return fd


def content(path: str | os.PathLike[str], limit: int, dir_fd: int | None = None) -> bytes | None:
    """All that is in one of our own files; None if it is no regular file, or has more than *limit*.

    Raises:
        OSError: It cannot be read, or is a link.
    """
    fd = os.open(path, _READ | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
            return None
        data = bytearray()
        while part := os.pread(fd, 1 << 20, len(data)):
            data += part
            if len(data) > limit:
                return None
        return bytes(data)
    finally:
        os.close(fd)
