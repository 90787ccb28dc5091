"""How long all attempts of a process took together, those that were lost or stopped included.

The record of a process knows its last attempt; the journals know the others. Of an attempt that
ended while nobody watched, its own files tell when.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from holdfast.attempts.files import read_exit
from holdfast.attempts.names import AttemptName, error_path, output_path
from holdfast.errors import HoldfastError
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import ProcessStatus
from holdfast.store import history
from holdfast.store.files import Files
from holdfast.store.history import Spell
from holdfast.store.place import Opened

__all__ = ["attempts_duration_s", "duration_s", "ended_at", "spells"]


def duration_s(process: ProcessProgress) -> float | None:
    """How long the last attempt took; None if it did not end, or never began."""
    if process.started_at is None or process.completed_at is None:
        return None
    return _between_s(process.started_at, process.completed_at)


def attempts_duration_s(state: ExperimentState, folder: Path) -> dict[int, float]:
    """How long all attempts took that ended, in seconds, by process.

    A process is not among them if none ended, if the journals do not tell of each of them, or if
    its result was reused: who ran it knows. They are read only where there were several attempts.
    """
    known: dict[int, float] = {}
    several = set()
    for index, process in state.process_progress.items():
        if process.origin is not None:
            continue
        if process.attempt > 1:
            several.add(index)
        elif (seconds := duration_s(process)) is not None:
            known[index] = seconds
    if not several:
        return known
    ended: dict[int, dict[int, float]] = {index: {} for index in several}
    for spell in spells(folder):
        if spell.process in several:
            seconds = _between_s(spell.started_at, ended_at(state, folder, spell))
            ended[spell.process][spell.attempt] = seconds
    for index in sorted(several):
        process = state.process_progress[index]
        expected = process.attempt - (process.status is ProcessStatus.RUNNING)
        if len(ended[index]) == expected:
            known[index] = round(sum(ended[index].values()), 6)
    return known


def spells(folder: Path) -> Iterator[Spell]:
    """Every attempt that ended; none where the journals cannot be read: no view fails for times."""
    try:
        with Opened.at(Files(), folder) as opened:
            yield from history.spells(opened)
    except (HoldfastError, OSError):
        return


def ended_at(state: ExperimentState, folder: Path, spell: Spell) -> datetime:
    """When an attempt ended: it may have been long before that was recorded."""
    if spell.watched:
        return spell.ended_at
    name = AttemptName.of_process(
        state.experiment_id, spell.process, spell.attempt, ranks=state.rank_count
    )
    try:
        record = read_exit(folder, name)
    except HoldfastError:
        record = None
    if record is not None and record.ended_at is not None:
        return record.ended_at
    # Its shim died, too. Nobody can say when; it lived at least until it last wrote something.
    traces = [spell.started_at]
    for path in (output_path(folder, name), error_path(folder, name)):
        try:
            traces.append(datetime.fromtimestamp(path.lstat().st_mtime, UTC))
        except OSError:
            continue
    return min(max(traces), spell.ended_at)


def _between_s(start: datetime, end: datetime) -> float:
    # A clock that was set back in between must not make a negative duration of it.
    return max(0.0, (end - start).total_seconds())
