"""From what was seen of an attempt to the facts that the lifecycle is told: one of each process.

The exit record says how its command ended, `holdfast.attempts.reports` what its ranks, or its
program, said of themselves; what both mean together is decided here, for a launcher as for a
command that is one process.
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts import files
from holdfast.attempts.looking import listed
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import ExitRecord
from holdfast.attempts.reports import Report, reported
from holdfast.engines.contract import Handle
from holdfast.lifecycle.apply import ending
from holdfast.lifecycle.events import ProcessExited, ProcessLost
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.orchestration.endings import (
    describe,
    failure,
    of_gang,
    of_one,
    of_rank,
    with_all,
)
from holdfast.orchestration.taking import Taking
from holdfast.orchestration.words import LOST, Meaning
from holdfast.results import acceptance
from holdfast.status import ProcessStatus, Reason

__all__ = [
    "Later",
    "done_already",
    "ends_by",
    "exited",
    "lost",
    "never",
    "takes_long",
]

_NO_RECORD: Final = ExitRecord()
_NOBODY: Final = AttemptName("", "0", 0)
#: Bytes of what was left that are checked in about two milliseconds.
_LONG: Final = 1 << 16

#: Whether an outcome is not taken now.
Later = Callable[[Path, AttemptName, ExitRecord, Taking], bool]


def exited(
    state: ExperimentState,
    folder: Path,
    name: AttemptName,
    record: ExitRecord,
    at: datetime,
    *,
    stopping: Reason | None = None,
    asked: bool = False,
    means: Meaning = LOST,
    take: Taking,
) -> list[ProcessExited]:
    """The facts that *record* tells, with the results and outputs that the attempt left.

    Args:
        state: Says which processes the attempt runs.
        at: When this was learnt.
        stopping: Why this orchestrator asks its attempts to stop, where it does: it knows better
            than the request, of which there may have been several.
        asked: Whether it has asked this one.
        means: What the word of its engine means beside the record.
        take: What to do with these.

    Raises:
        DiskError: Something could not be read or made durable; nothing is decided then.
    """
    assert name.index is not None
    why = _stop_reason(folder, name, record, stopping, asked=asked)
    usage = _usage(state.processes[name.index], record) or None
    fact = _fact(name.index, name.attempt, record, at, why, usage)
    if means.reason is not None and why is None:
        evidence = "; ".join(filter(None, (means.words, fact.evidence)))
        fact = attrs.evolve(
            fact,
            evidence=evidence,
            engine_end=means.engine_end,
            reason=fact.reason if means.engine_end else means.reason,
        )
    found = reported(folder, name)
    if not name.is_launcher:
        return [of_one(folder, name, fact, record, found.get(name.index), take)]
    if not state.has_gangs:
        running = _running(state, name)
        blamed = any(index in found and found[index].failure for index in running)
        cause = failure(found, state.gang(name.index))
        how = "; ".join(filter(None, (f"its launcher: {describe(record)}", cause)))
        return [
            of_rank(
                *(folder, attrs.evolve(fact, process=index), record, found.get(index), take),
                blamed=blamed,
                how=how,
            )
            for index in running
        ]
    return of_gang(folder, name, fact, record, found, state.gang(name.index), take)


def done_already(
    state: ExperimentState, folder: Path, name: AttemptName, at: datetime, take: Taking
) -> list[ProcessExited]:
    """The facts of the independent ranks that are completed while their launcher runs on.

    Never the last of them: a launcher that runs has a process that does. Nor those with a large
    result or output, which would be checked while nobody hears: they complete with their launcher.

    Raises:
        DiskError: As for `exited`.
    """
    running = _running(state, name)
    found = reported(folder, name)
    done = [
        index
        for index in running
        if index in found
        and found[index].completed
        and not _is_long(folder, name, found[index])
        and take.weight([index]) < _LONG
    ]
    fact = ProcessExited(process=0, attempt=name.attempt, at=at, exit_code=0)
    return [
        with_all(folder, attrs.evolve(fact, process=index), found[index], take)
        for index in done[: len(running) - 1]
    ]


def lost(
    state: ExperimentState,
    folder: Path,
    name: AttemptName,
    at: datetime,
    evidence: str,
    take: Taking,
    *,
    means: Meaning = LOST,
    stopping: Reason | None = None,
) -> list[ProcessExited | ProcessLost]:
    """The facts of an attempt that is proven dead and left no exit record.

    What an independent rank had acknowledged, its launcher's death does not take back.

    Args:
        means: What the word of its engine means.
        stopping: Why this orchestrator asked this attempt to stop; None if it did not.

    Raises:
        DiskError: As for `exited`.
    """
    assert name.index is not None
    facts: list[ProcessExited | ProcessLost] = []
    found = reported(folder, name) if name.is_launcher and not state.has_gangs else {}
    for index in _running(state, name) if name.is_launcher else [name.index]:
        report = found.get(index)
        if report is not None and report.completed:
            fact = ProcessExited(
                process=index, attempt=name.attempt, at=at, exit_code=0, evidence=evidence
            )
            facts.append(with_all(folder, fact, report, take))
            continue
        # Who cancels it does that because we asked for it.
        reason = (means.reason and stopping) or means.reason or Reason.LOST
        usage = _usage(state.processes[index]) or None
        fate = ProcessLost(
            process=index,
            attempt=name.attempt,
            at=at,
            evidence=evidence,
            reason=reason,
            usage=usage,
        )
        facts.append(_failed(fate) if means.fails else fate)
    return facts


def _failed(fate: ProcessLost) -> ProcessExited:
    """An end of its own, of which only its engine tells."""
    return ProcessExited(
        process=fate.process,
        attempt=fate.attempt,
        at=fate.at,
        reason=fate.reason,
        error_message=fate.evidence,
        usage=fate.usage,
    )


def _usage(process: ProcessProgress, record: ExitRecord = _NO_RECORD) -> dict[str, float]:
    """What an attempt asked for and used, as far as that is known."""
    found: dict[str, Any] = {"max_rss_bytes": record.max_rss_bytes, "cpu_s": record.cpu_s}
    if process.handle is not None:
        asked = Handle.from_record(_NOBODY, Path(), process.handle).requested
        found |= {f"requested_{each}": asked.get(each) for each in ("cpus", "memory_bytes")}
    began = record.started_at or process.started_at
    if process.submitted_at is not None and began is not None:
        found["queued_s"] = max(0.0, (began - process.submitted_at).total_seconds())
    # Files can be forged, and what they say is no reason to end a run.
    return {
        name: value
        for name, value in found.items()
        if type(value) in (int, float) and 0 <= value < math.inf
    }


def _is_long(folder: Path, name: AttemptName, report: Report) -> bool:
    own = acceptance.of_rank(report.index, name.attempt, report.incarnation)
    return acceptance.size(folder, own) >= _LONG


def _running(state: ExperimentState, name: AttemptName) -> list[int]:
    """The ranks that this launcher runs, and that are not through."""
    assert name.index is not None
    return [
        index
        for index in state.gang(name.index)
        if state.processes[index].status is ProcessStatus.RUNNING
        and state.processes[index].attempt == name.attempt
    ]


# -- what the exit record says --------------------------------------------------------------------


def never(folder: Path, name: AttemptName, record: ExitRecord, take: Taking) -> bool:
    """Every outcome is taken at once."""
    return False


def takes_long(folder: Path, name: AttemptName, record: ExitRecord, take: Taking) -> bool:
    """Whether `exited` takes longer than a loop may be deaf: the attempt left much to be read."""
    assert name.index is not None
    if ends_by(record) != "complete":
        return False
    large = acceptance.size(folder, name) >= _LONG
    if name.is_launcher and not large:
        large = any(_is_long(folder, name, each) for each in reported(folder, name).values())
    return large or take.weight(take.processes(name)) >= _LONG


def ends_by(record: ExitRecord, means: Meaning = LOST) -> str:
    """What such an end is to a process, beside what its engine says: `complete`, `requeue` or
    `fail`.
    """
    at = datetime.min.replace(tzinfo=UTC)
    fact = _fact(0, 0, record, at, record.stop_requested)
    return ending(attrs.evolve(fact, engine_end=means.engine_end))


def _fact(
    index: int,
    attempt: int,
    record: ExitRecord,
    at: datetime,
    stop_reason: Reason | None,
    usage: Mapping[str, float] | None = None,
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
        usage=usage,
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
