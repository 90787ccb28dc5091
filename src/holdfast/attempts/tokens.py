"""Which folder it was that an engine with a queue was given jobs from: this one, or one it copies.

A token file names the folder that it was made in, and itself, by their inodes: a copy has others.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["WAVES", "made_here", "own"]

#: The directory of what engines with a queue were given.
WAVES: Final = "waves"
_MOST_BYTES: Final = 4096
_MOST_FILES: Final = 1000


def made_here(said: Mapping[str, Any] | None, folder: int, own: int | None) -> str | None:
    """The token in a file of inode *own*, which *said* that, if it was made in *folder*."""
    # Not the device: of a network file system, every host has its own number.
    if said is None or (said.get("folder"), said.get("inode")) != (folder, own):
        return None
    found = said.get("token")
    return found if isinstance(found, str) else None


def own(folder: Path) -> frozenset[str] | None:
    """The tokens of *folder* itself; None if that cannot be told, or it has no token at all."""
    found, any_there = set[str](), False
    try:
        inode = folder.stat().st_ino
        with os.scandir(folder / WAVES) as entries:
            names = [each.name for each in entries if each.name.partition(".")[0] == "token"]
        for name in names[:_MOST_FILES]:
            any_there = True
            fd = os.open(folder / WAVES / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                said, info = os.read(fd, _MOST_BYTES), os.fstat(fd)
            finally:
                os.close(fd)
            content = json.loads(said)
            token = made_here(content if type(content) is dict else None, inode, info.st_ino)
            if token is not None:
                found.add(token)
    except (OSError, ValueError):
        return None
    return frozenset(found) if any_there else None
