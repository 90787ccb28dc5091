"""Files that a command makes where the user says: whole, or not at all."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from holdfast.errors import DiskError

__all__ = ["write_file"]


def write_file(path: Path, parts: Iterable[bytes]) -> None:
    """Make *parts* the whole content of *path*, or leave it untouched.

    What is no file (`/dev/stdout`, a FIFO) is written to as it is; a link is followed.

    Raises:
        DiskError: The file system refused.
    """
    try:
        target = path.resolve()
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            with target.open("wb") as file:
                file.writelines(parts)
            return
        temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}")
        try:
            with temporary.open("xb") as file:
                file.writelines(parts)
            temporary.replace(target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as err:
        # Before Python 3.13, links that lead to each other are a RuntimeError.
        why = err if isinstance(err, OSError) else OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        raise DiskError.of(path, "writing it", why) from err
