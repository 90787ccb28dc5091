"""Turns what was seen of an attempt into a fact for the lifecycle."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts import files
from holdfast.attempts.looking import listed
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import ExitRecord
from holdfast.errors import ResultInvalidError
from holdfast.lifecycle.apply import ending
from holdfast.lifecycle.events import ProcessExited
from holdfast.lifecycle.records import ResultRef
from holdfast.results import acceptance
from holdfast.status import Reason

__all__ = ["Later", "Taking", "describe", "ends_by", "exited", "never", "takes_long"]

#: Bytes of a result that are checked in about two milliseconds.
_LONG: Final = 1 << 16

#: How the result of an attempt is taken: `results.accept`, or `results.inspect` for a mere look.
Taking = Callable[[Path, AttemptName], ResultRef | None]

#: Whether an outcome is not taken now.
Later = Callable[[Path, AttemptName, ExitRecord], bool]


def exited(
    folder: Path,
    name: AttemptName,
    record: ExitRecord,
    at: datetime,
    *,
    stopping: Reason | None = None,
    asked: bool = False,
    take: Taking = acceptance.accept,
) -> ProcessExited:
    """The fact that *record* tells, with the result that the attempt left.

    Args:
        at: When this was learnt.
        stopping: Why this orchestrator asks its attempts to stop, where it does: it knows better
            than the request, of which there may have been several.
        asked: Whether it has asked this one.
        take: What to do with a result.

    Raises:
        DiskError: The result could not be read or made durable; nothing is decided then.
    """
    assert name.index is not None
    why = _stop_reason(folder, name, record, stopping, asked=asked)
    fact = _fact(name.index, name.attempt, record, at, why)
    if ending(fact) != "complete":
        return attrs.evolve(fact, error_message=describe(record))
    try:
        result = take(folder, name)
    except ResultInvalidError as err:
        return attrs.evolve(fact, result_error=str(err))
    return fact if result is None else attrs.evolve(fact, result=result)


def never(folder: Path, name: AttemptName, record: ExitRecord) -> bool:
    """Every outcome is taken at once."""
    return False


def takes_long(folder: Path, name: AttemptName, record: ExitRecord) -> bool:
    """Whether `exited` takes longer than a loop may be deaf: the attempt left a large result."""
    return acceptance.size(folder, name) >= _LONG and ends_by(record) == "complete"


def ends_by(record: ExitRecord) -> str:
    """What such an end is to a process: `complete`, `requeue` or `fail`."""
    at = datetime.min.replace(tzinfo=UTC)
    return ending(_fact(0, 0, record, at, record.stop_requested))


def _fact(
    index: int, attempt: int, record: ExitRecord, at: datetime, stop_reason: Reason | None
) -> ProcessExited:
    return ProcessExited(
        process=index,
        attempt=attempt,
        at=at,
        exit_code=record.exit_code,
        signal=record.signal,
        stop_reason=stop_reason,
        interrupted_by=record.interrupted_by,
        timed_out=record.timed_out,
        launch_error=record.error,
        reason=record.reason,
        host=record.host,
        started_at=record.started_at,
        ended_at=record.ended_at,
        evidence=_stopped(record),
    )


def _stop_reason(
    folder: Path, name: AttemptName, record: ExitRecord, stopping: Reason | None, *, asked: bool
) -> Reason | None:
    if record.stop_requested is None:
        # Where the disk took no request, its shim was sent TERM, or its command was killed.
        ours = record.interrupted_by == _TERM or record.signal in (_KILL, _TERM)
        return stopping if asked and ours else None
    return stopping or files.requested(folder, name) or record.stop_requested


_KILL, _TERM = 9, 15


def _stopped(record: ExitRecord) -> str | None:
    if not record.stopped:
        return None
    return f"processes that it had started were stopped: {listed(record.stopped)}"


def describe(record: ExitRecord) -> str:
    """How an attempt ended, as a sentence for people."""
    if record.error is not None:
        return record.error
    how = f"exit code {record.exit_code}"
    if record.signal is not None:
        how = f"killed by signal {record.signal}"
    if record.timed_out:
        return f"stopped at its timeout ({how})"
    if record.out_of_memory:
        return f"out of memory ({how})"
    if record.stop_requested is not None:
        return f"asked to stop ({how})"
    if record.interrupted_by is not None:
        return f"interrupted by signal {record.interrupted_by} from outside ({how})"
    if record.perhaps_memory:
        return f"{how} (perhaps memory: the kernel killed for want of it meanwhile)"
    return how
