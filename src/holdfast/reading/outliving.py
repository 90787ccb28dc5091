"""What outlived the owner of an experiment: attempts that run on, or else the last sign of it.

Only the attempts of processes that are recorded as running are looked at.
"""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.files import began_at, read_exit
from holdfast.attempts.names import AttemptName, error_path, output_path
from holdfast.errors import HoldfastError
from holdfast.identity import Verdict
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading.engines import HandedOver, is_left
from holdfast.status import ProcessStatus
from holdfast.store.attempted import attempt_of

__all__ = ["Outlived", "outlived"]

#: Attempts in whose files one look searches for signs.
_MOST_READ: Final = 500


@attrs.frozen(kw_only=True)
class Outlived:
    """What is left of an experiment that nobody drives.

    Attributes:
        attempts: How many run on, or may.
        seen: Whether one of them is seen alive, on this host.
        last: The latest sign of the experiment; None if it has none.
    """

    attempts: int
    seen: bool
    last: datetime | None


def outlived(
    state: ExperimentState,
    folder: Path,
    living: Verdict | None,
    having: HandedOver | None,
    now: datetime,
) -> Outlived | None:
    """What is left of *state*; None while somebody drives it, or may, or an engine has some of it.

    Args:
        living: The verdict on its owner.
        having: What an engine with a queue has of it.
    """
    if having is not None or not is_left(state, living):
        return None
    from holdfast.attempts import surviving  # 20 ms, which a listing rarely needs

    running = state.processes.indices(ProcessStatus.RUNNING)
    members = {
        name: list(group)
        for name, group in groupby(running, lambda index: attempt_of(state, index))
    }
    verdicts = []
    with contextlib.suppress(HoldfastError):  # nobody can tell at this moment
        found = surviving.survivors(folder, state.experiment_id, only=members)
        verdicts = [each.verdict for each in found]
    seen = any(each.kind == "alive" for each in verdicts)
    if seen:
        return Outlived(attempts=len(verdicts), seen=True, last=now)
    signs = [] if state.last_updated is None else [state.last_updated]
    for name, indices in islice(members.items(), _MOST_READ):
        signs += _signs(folder, name, indices)
    # The clock of another host, or of a file system, may be ahead.
    last = max((min(at, now) for at in signs), default=None)
    return Outlived(attempts=len(verdicts), seen=False, last=last)


def _signs(folder: Path, name: AttemptName, indices: list[int]) -> Iterator[datetime]:
    """When an attempt began, reported, wrote and ended, as far as its files tell."""
    from holdfast.attempts.progress import Sources

    with contextlib.suppress(HoldfastError):
        if (began := began_at(folder, name)) is not None:
            yield began
    with contextlib.suppress(HoldfastError):
        record = read_exit(folder, name)
        if record is not None and record.ended_at is not None:
            yield record.ended_at
    for said in Sources(folder).looks(name, indices, brief=True).values():
        yield said.at
    for path in (output_path(folder, name), error_path(folder, name)):
        # Times far beyond ours can be given to a file, too.
        with contextlib.suppress(OSError, ValueError, OverflowError):
            yield datetime.fromtimestamp(path.lstat().st_mtime, UTC)
