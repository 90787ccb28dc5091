"""File operations that fail, or are the last of their process, at a chosen place."""

import errno
import os
from collections.abc import Callable
from typing import Any, Final

from holdfast.store.files import Files

__all__ = ["OPERATIONS", "Counting", "Stopped", "fail_with", "stop"]

#: Every operation of the store's door to the file system but `close`, whose failure tells nothing.
OPERATIONS: Final = (
    *(
        "open_dir",
        "open_read",
        "open_write",
        "open_append",
        "open_new",
        "mkdir",
        "read",
        "write",
        "write_at",
        "copy_range",
        "truncate",
        "fsync",
    ),
    *("fdatasync", "link", "rename", "unlink", "rmdir", "names", "stat", "fstat", "flock"),
    "overwrites_cheaply",
)


class Stopped(BaseException):
    """Stands for a process that ends: no code of the store may catch it."""


def stop(name: str) -> None:
    """As if the process had been killed here: its locks are free, and it does nothing any more."""
    raise Stopped(name)


def fail_with(number: int) -> Callable[[str], None]:
    """The operation fails with that errno, and nothing of it happens."""

    def fail(name: str) -> None:
        raise OSError(number, os.strerror(number))

    return fail


_EIO: Final = fail_with(errno.EIO)


class Counting(Files):
    """Counts operations and calls *trouble* in place of the *at*-th one (from 0)."""

    def __init__(self, at: int | None = None, trouble: Callable[[str], None] = _EIO) -> None:
        """Disturb nothing while *at* is None."""
        self.at = at
        self.trouble = trouble
        self.seen: list[str] = []
        self.stopped = False

    def __getattribute__(self, name: str) -> Any:
        operation = super().__getattribute__(name)
        if name not in OPERATIONS:
            return operation

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.seen.append(name)
            # A process that was killed does not tidy up either.
            if self.stopped:
                raise Stopped(name)
            if self.at == len(self.seen) - 1:
                self.stopped = self.trouble is stop
                self.trouble(name)
            return operation(*args, **kwargs)

        return counted
