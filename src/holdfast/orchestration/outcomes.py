"""What the exit record of an attempt means for its process."""

from datetime import datetime
from pathlib import Path

from holdfast import attempts, results
from holdfast.attempts import AttemptName, ExitRecord
from holdfast.errors import ResultInvalidError, StateCorruptError
from holdfast.events import ProcessExited
from holdfast.status import Reason

__all__ = ["describe", "exited", "read"]


def read(folder: Path, name: AttemptName) -> ExitRecord | None:
    """How the attempt ended; None if no outcome is published.

    One that is no exit record proves that it ended and nothing else: an attempt that failed.

    Raises:
        StateWriteError: Whether there is one cannot be told at this moment.
    """
    try:
        return attempts.read_exit(folder, name)
    except StateCorruptError as err:
        return ExitRecord(error=str(err).splitlines()[0])


def exited(
    folder: Path, name: AttemptName, record: ExitRecord, at: datetime, stopping: Reason | None
) -> ProcessExited:
    """The fact that *record* tells, with the result that the attempt left, proven and durable.

    Args:
        at: When this was learnt.
        stopping: Why this orchestrator asked its attempts to stop, where it did: it knows better
            than the shim, which is only told to stop.

    Raises:
        StateWriteError: The result could not be made durable; nothing is decided then.
    """
    stop_reason = record.stop_reason
    if stop_reason is not None and stopping is not None:
        stop_reason = stopping
    result, result_error = None, None
    clean = record.exit_code == 0 and record.reason is Reason.EXIT and record.signal is None
    if clean and stop_reason is None:
        try:
            result = results.accept(folder, name.index, name.attempt)
        except ResultInvalidError as err:
            result_error = str(err)
    return ProcessExited(
        process=name.index,
        attempt=name.attempt,
        at=at,
        exit_code=record.exit_code,
        signal=record.signal,
        stop_reason=stop_reason,
        reason=record.reason,
        error_message=None if clean else describe(record),
        result=result,
        result_error=result_error,
        host=record.host,
        started_at=record.started_at,
        ended_at=record.ended_at,
    )


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
    return how
