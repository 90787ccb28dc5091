"""What a file holds, to the disk itself: one meaning of that for everything that is promised.

Only the shim, which runs without this package, has its own.
"""

import os
import sys

__all__ = ["sync"]

if sys.platform == "darwin":
    import fcntl

    def sync(fd: int) -> None:
        """Content, size and names. Raises OSError: they may not be there."""
        # There fsync leaves the data in the drive's cache, which a power cut empties.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
else:

    def sync(fd: int) -> None:
        """Content, size and names. Raises OSError: they may not be there."""
        os.fsync(fd)
