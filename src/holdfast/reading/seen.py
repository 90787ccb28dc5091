"""Whether anybody has seen the results of an experiment, so that none is deleted by accident.

An aggregated experiment's were shown at the end of its run. Of any other, the time of the empty
file `shown` in its folder says when they last were.
"""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus

__all__ = ["mark", "unseen"]

_NAME: Final = "shown"
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def mark(folder: Path) -> None:
    """The results have been shown. Where that cannot be noted, a question more is asked."""
    with contextlib.suppress(OSError):
        fd = os.open(folder / _NAME, _FLAGS, 0o666)
        try:
            os.utime(fd)
        finally:
            os.close(fd)


def unseen(state: ExperimentState, folder: Path) -> int:
    """How many results nobody can have seen in a table."""
    if state.status is ExperimentStatus.AGGREGATED:
        return 0
    shown = datetime.min.replace(tzinfo=UTC)
    with contextlib.suppress(OSError):
        shown = datetime.fromtimestamp((folder / _NAME).lstat().st_mtime, UTC)
    return sum(
        process.result is not None
        and (process.completed_at is None or process.completed_at > shown)
        for process in state.process_progress.values()
    )
