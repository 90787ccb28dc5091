"""What a job itself says, which is of interest where its attempts never began."""

import os
import stat
from pathlib import Path
from typing import Final

from holdfast.engines import tasks
from holdfast.engines.slurm.batch import Marks

__all__ = ["last_line"]

_MOST_BYTES: Final = 2000
_MOST_CHARACTERS: Final = 200


def last_line(folder: Path, mark: Marks, task: int) -> str:
    """The last line of the log of the job that ran a task; empty if there is none."""
    path = folder / tasks.WAVES / f"{mark.name}.{task}.log"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return ""
        data = os.pread(fd, _MOST_BYTES, max(0, found.st_size - _MOST_BYTES))
    except OSError:
        return ""
    finally:
        os.close(fd)
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    line = next((line for line in reversed(lines) if line), "")
    return "".join(each if each.isprintable() else " " for each in line)[:_MOST_CHARACTERS]
