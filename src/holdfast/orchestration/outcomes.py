"""What the exit record of an attempt means for its process."""

from datetime import datetime
from pathlib import Path

import attrs

from holdfast import attempts, results
from holdfast.attempts import AttemptName, ExitRecord
from holdfast.errors import ResultInvalidError, StateCorruptError
from holdfast.events import ProcessExited
from holdfast.lifecycle import ending
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
    fact = ProcessExited(
        process=name.index,
        attempt=name.attempt,
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
    )
    if ending(fact) != "complete":
        return attrs.evolve(fact, error_message=describe(record))
    try:
        result = results.accept(folder, name.index, name.attempt)
    except ResultInvalidError as err:
        return attrs.evolve(fact, result_error=str(err))
    return attrs.evolve(fact, result=result)


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
    return how
