"""What a process writes: whole and durable, or one line at a time.

Owns how a file gets onto the disk here; which files there are is others'. The standard library
only, and little of it: it comes with `import holdfast` in every program.
"""

import errno
import os
import stat

from holdfast.syncing import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "TEMPORARY",
    "Lines",
    "make_folder",
    "publish",
    "put",
    "remove",
    "sync_folder",
    "sync_tree",
    "temporary",
]

#: How names end that nobody reads.
TEMPORARY = ".tmp"

_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_LINES = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


def temporary() -> str:
    """A name that nothing has and nobody reads."""
    return f".{os.urandom(8).hex()}{TEMPORARY}"


def put(path: str, data: bytes) -> None:
    """Make *data* the whole content of *path*, for a reader at any moment; not durable.

    Raises:
        OSError: It is not there.
    """
    _replace(path, data, durably=False)


def publish(path: str, data: bytes) -> None:
    """Make *data* the whole content of *path*; once this returns, no power cut undoes it.

    Raises:
        OSError: It is not certain to be there. What was there before may be.
    """
    _replace(path, data, durably=True)
    # The folder too: a power cut could take the name although the content survived.
    sync_folder(os.path.dirname(path) or ".")


def _replace(path: str, data: bytes, *, durably: bool) -> None:
    draft = os.path.join(os.path.dirname(path), temporary())
    fd = os.open(draft, _NEW, 0o666)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            if durably:
                sync(fd)
        finally:
            os.close(fd)
        os.replace(draft, path)
    except BaseException:
        _forget(draft)
        raise


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def sync_folder(path: str) -> None:
    """Have the names in the folder *path* survive a power cut.

    Raises:
        OSError: They may not.
    """
    fd = os.open(path, _FOLDER)
    try:
        sync(fd)
    finally:
        os.close(fd)


def make_folder(path: str) -> None:
    """Have the folder *path*, durably, below one that is there.

    Raises:
        OSError: It cannot be made.
    """
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    sync_folder(os.path.dirname(path))


def sync_tree(path: str) -> None:
    """Have *path*, a file or a folder with all that is in it, survive a power cut.

    Raises:
        OSError: It may not.
    """
    if os.path.islink(path):
        return  # what it leads to is another's
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            for entry in entries:
                sync_tree(entry.path)
        sync_folder(path)
    elif os.path.isfile(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync(fd)
        finally:
            os.close(fd)


def remove(path: str) -> None:
    """Remove *path*, be it a file or a folder with all that is in it, as far as possible."""
    if os.path.islink(path) or not os.path.isdir(path):
        _forget(path)
        return
    import shutil

    shutil.rmtree(path, ignore_errors=True)


class Lines:
    """A file that lines are appended to by one writer, and that stays below a size.

    What cannot be written is lost: these lines are for eyes only.

    Args:
        path: The file; its folder is made if there is none.
        limit: Bytes that it never has more than, and *keep*, how many of the last ones stay
            when it would have.
    """

    def __init__(self, path: str, *, limit: int = 1 << 20, keep: int = 1 << 18) -> None:
        self.path = path
        self._limit = limit
        self._keep = keep
        self._fd = -1
        self._torn = False

    def append(self, line: bytes) -> bool:
        """Append *line*, which has no end of its own; whether it is there."""
        data = b"\n" + line + b"\n" if self._torn else line + b"\n"
        try:
            size = self._opened()
            if size + len(data) > self._limit:
                self._cut(size)
            self._torn = True
            self._torn = os.write(self._fd, data) != len(data)
        except OSError:
            return False
        return not self._torn

    def close(self) -> None:
        """Let the file go; the next line opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _opened(self) -> int:
        """Have it open, where it is seen; its size."""
        if self._fd >= 0:
            info = os.fstat(self._fd)
            if info.st_nlink:
                return info.st_size
            self.close()  # somebody removed it
        self._fd = open_lines(self.path)
        return os.fstat(self._fd).st_size

    def _cut(self, size: int) -> None:
        last = os.pread(self._fd, self._keep, max(0, size - self._keep))
        # A file of its own: whoever reads the old one is in the midst of no line.
        put(self.path, last.partition(b"\n")[2] if size > self._keep else last)
        self.close()
        self._opened()


def open_lines(path: str) -> int:
    """A descriptor that appends to *path*; its folder is made if there is none.

    Raises:
        OSError: It cannot be written, or is no regular file.
    """
    try:
        fd = os.open(path, _OPEN_LINES, 0o666)
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
        fd = os.open(path, _OPEN_LINES, 0o666)
    # A FIFO would block, or end in a broken pipe.
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def leftovers(folder: str, beginning: str) -> "Iterable[str]":
    """Names in *folder* that begin with *beginning* and that nobody reads."""
    try:
        names = os.listdir(folder)
    except OSError:
        return ()
    return [name for name in names if name.startswith(beginning) and name.endswith(TEMPORARY)]
