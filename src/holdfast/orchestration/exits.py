"""From what was seen of an attempt to the facts that the lifecycle is told: one of each process.

The exit record says how its command ended, `holdfast.attempts.reports` what its ranks, or its
program, said of themselves; what both mean together is decided here, for a launcher as for a
command that is one process.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import attrs

from holdfast.attempts import files
from holdfast.attempts.looking import listed
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import ExitRecord
from holdfast.attempts.reports import Report, reported, torchelastic_error
from holdfast.errors import ResultInvalidError
from holdfast.lifecycle.apply import ending
from holdfast.lifecycle.events import ProcessExited, ProcessLost
from holdfast.lifecycle.records import ExperimentState, ResultRef
from holdfast.results import acceptance
from holdfast.status import ProcessStatus, Reason

__all__ = [
    "Later",
    "Taking",
    "describe",
    "done_already",
    "ends_by",
    "exited",
    "lost",
    "never",
    "takes_long",
]

#: Bytes of a result that are checked in about two milliseconds.
_LONG: Final = 1 << 16

#: How a result is looked at: `acceptance.accept`, or `acceptance.inspect` by who only looks.
Taking = Callable[[Path, acceptance.Written], ResultRef | None]

#: Whether an outcome is not taken now.
Later = Callable[[Path, AttemptName, ExitRecord], bool]


def exited(
    state: ExperimentState,
    folder: Path,
    name: AttemptName,
    record: ExitRecord,
    at: datetime,
    *,
    stopping: Reason | None = None,
    asked: bool = False,
    take: Taking = acceptance.accept,
) -> list[ProcessExited]:
    """The facts that *record* tells, with the results that the attempt left.

    Args:
        state: Says which processes the attempt runs.
        at: When this was learnt.
        stopping: Why this orchestrator asks its attempts to stop, where it does: it knows better
            than the request, of which there may have been several.
        asked: Whether it has asked this one.
        take: What to do with a result.

    Raises:
        DiskError: Something could not be read or made durable; nothing is decided then.
    """
    assert name.index is not None
    why = _stop_reason(folder, name, record, stopping, asked=asked)
    fact = _fact(name.index, name.attempt, record, at, why)
    found = reported(folder, name)
    if not name.is_launcher:
        return [_of_one(folder, name, fact, record, found.get(name.index), take)]
    if not state.has_gangs:
        running = _running(state, name)
        blamed = any(index in found and found[index].failure for index in running)
        cause = _failure(found, state.gang(name.index))
        how = "; ".join(filter(None, (f"its launcher: {describe(record)}", cause)))
        return [
            _of_rank(
                *(folder, attrs.evolve(fact, process=index), record, found.get(index), take),
                blamed=blamed,
                how=how,
            )
            for index in running
        ]
    return _of_gang(folder, name, fact, record, found, state.gang(name.index), take)


def done_already(
    state: ExperimentState, folder: Path, name: AttemptName, at: datetime, take: Taking
) -> list[ProcessExited]:
    """The facts of the independent ranks that are completed while their launcher runs on.

    Never the last of them: a launcher that runs has a process that does. Nor those with a large
    result, which would be checked while nobody hears: they complete with their launcher.

    Raises:
        DiskError: As for `exited`.
    """
    running = _running(state, name)
    found = reported(folder, name)
    done = [
        index
        for index in running
        if index in found and found[index].completed and not _is_long(folder, name, found[index])
    ]
    fact = ProcessExited(process=0, attempt=name.attempt, at=at, exit_code=0)
    return [
        _with_result(folder, attrs.evolve(fact, process=index), found[index], take)
        for index in done[: len(running) - 1]
    ]


def lost(
    state: ExperimentState,
    folder: Path,
    name: AttemptName,
    at: datetime,
    evidence: str,
    take: Taking = acceptance.accept,
) -> list[ProcessExited | ProcessLost]:
    """The facts of an attempt that is proven dead and left no exit record.

    What an independent rank had acknowledged, its launcher's death does not take back.

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
            facts.append(_with_result(folder, fact, report, take))
        else:
            fate = ProcessLost(process=index, attempt=name.attempt, at=at, evidence=evidence)
            facts.append(fate)
    return facts


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


# -- what an end means ----------------------------------------------------------------------------


def _of_one(
    folder: Path,
    name: AttemptName,
    fact: ProcessExited,
    record: ExitRecord,
    report: Report | None,
    take: Taking,
) -> ProcessExited:
    """Of a command that is one process: its exit decides, its program may know why."""
    if report is not None and report.stopped and ending(fact) == "complete":
        return _gave_way(fact, report, "it")
    if ending(fact) != "complete":
        own = None if report is None or record.reason is not Reason.EXIT else report.error
        return attrs.evolve(fact, error_message=own or describe(record))
    return _taken(folder, name, fact, take)


def _of_rank(
    folder: Path,
    fact: ProcessExited,
    record: ExitRecord,
    report: Report | None,
    take: Taking,
    *,
    blamed: bool,
    how: str,
) -> ProcessExited:
    """Of an independent rank: what it said of itself, else what became of its launcher.

    Args:
        blamed: Whether one of the ranks that ran failed. Else a launcher that did takes all along
            that were stopped with it: somebody is to be charged. One that is failed for good, and
            fails again whenever its launcher starts it, would have the others run for ever.
        how: How its launcher ended, and of which rank that is known.
    """
    if report is not None and report.completed:
        # That was durable before its launcher was asked to stop, or died.
        done = ProcessExited(
            process=fact.process, attempt=fact.attempt, at=fact.at, exit_code=0, host=fact.host
        )
        return _with_result(folder, done, report, take)
    if ending(fact) == "requeue":
        return attrs.evolve(fact, error_message=describe(record))
    if report is not None and report.stopped and (blamed or ending(fact) == "complete"):
        return _gave_way(fact, report, "it")
    if report is not None and report.failure is not None:
        code = fact.exit_code if report.exit_code is None else report.exit_code
        return attrs.evolve(fact, exit_code=code, reported_error=report.failure)
    if ending(fact) != "complete":
        return attrs.evolve(fact, error_message=how)
    if report is not None and report.unsaid is not None:
        return attrs.evolve(fact, reported_error=report.unsaid)
    return fact if report is None else _with_result(folder, fact, report, take)


def _of_gang(
    folder: Path,
    name: AttemptName,
    fact: ProcessExited,
    record: ExitRecord,
    found: Mapping[int, Report],
    ranks: Sequence[int],
    take: Taking,
) -> list[ProcessExited]:
    """Of a gang: one end for all, and what only one of its ranks knows is evidence for it."""
    if ending(fact) == "complete":
        stopped = [rank for rank, i in enumerate(ranks) if i in found and found[i].stopped]
        if failure := _failure(found, ranks):
            fact = attrs.evolve(fact, reported_error=failure)
        elif stopped:
            # If one of them has saved, the next attempt goes on from there.
            saved = any(found[ranks[rank]].saved for rank in stopped)
            first = attrs.evolve(found[ranks[stopped[0]]], saved=saved)
            fact = _gave_way(fact, first, f"rank {stopped[0]}")
        elif failure := _failure(found, ranks, "unsaid"):
            fact = attrs.evolve(fact, reported_error=failure)
        else:
            return _completed(folder, name, fact, found, ranks, take)
    else:
        own = _failure(found, ranks) or torchelastic_error(folder, name)
        told = own if own is not None and record.reason is Reason.EXIT else None
        fact = attrs.evolve(fact, error_message=told or describe(record))
    return [attrs.evolve(fact, process=index) for index in ranks]


def _completed(
    folder: Path,
    name: AttemptName,
    fact: ProcessExited,
    found: Mapping[int, Report],
    ranks: Sequence[int],
    take: Taking,
) -> list[ProcessExited]:
    """The ranks with their results; a fault of one of them fails all."""
    facts = [
        _with_result(folder, attrs.evolve(fact, process=index), found[index], take)
        if index in found
        else attrs.evolve(fact, process=index)
        for index in ranks
    ]
    shared = _taken(folder, name, fact, take)
    fault = shared.result_error or next(
        (
            f"rank {rank}: {each.result_error}"
            for rank, each in enumerate(facts)
            if each.result_error
        ),
        None,
    )
    first = facts[0].result
    if fault is None and shared.result is not None:
        if first is None:
            facts[0] = attrs.evolve(facts[0], result=shared.result)
        elif first.sha256 != shared.result.sha256:
            fault = (
                f"{shared.result.path}, which all ranks share, differs from {first.path} of rank 0"
            )
    if fault is None:
        return facts
    return [attrs.evolve(fact, process=index, result_error=fault) for index in ranks]


def _gave_way(fact: ProcessExited, report: Report, who: str) -> ProcessExited:
    """An end in order of what was not done: exit code 0 does not prove that it was.

    One that comes to its time limit and saves nothing would come to it again for ever.
    """
    if report.why == "time" and not report.saved:
        words = f"{who} stopped by itself at its time limit, and saved no checkpoint to go on from"
        return attrs.evolve(fact, reported_error=words)
    cause = report.why or ("a request" if report.asked is None else f"signal {report.asked}")
    words = f"{who} stopped by itself before it was done ({cause})"
    evidence = "; ".join(filter(None, (words, fact.evidence)))
    return attrs.evolve(fact, stop_reason=fact.stop_reason or Reason.PREEMPTED, evidence=evidence)


def _failure(
    found: Mapping[int, Report],
    ranks: Sequence[int],
    kind: Literal["failure", "unsaid"] = "failure",
) -> str | None:
    """What the first rank of which it is known failed of."""
    for rank, index in enumerate(ranks):
        if index in found and (failure := getattr(found[index], kind)) is not None:
            return f"rank {rank}: {failure}"
    return None


def _with_result(folder: Path, fact: ProcessExited, report: Report, take: Taking) -> ProcessExited:
    own = acceptance.of_rank(report.index, fact.attempt, report.incarnation)
    return _taken(folder, own, fact, take)


def _taken(
    folder: Path, written: acceptance.Written, fact: ProcessExited, take: Taking
) -> ProcessExited:
    try:
        result = take(folder, written)
    except ResultInvalidError as err:
        return attrs.evolve(fact, result_error=str(err))
    return fact if result is None else attrs.evolve(fact, result=result)


# -- what the exit record says --------------------------------------------------------------------


def never(folder: Path, name: AttemptName, record: ExitRecord) -> bool:
    """Every outcome is taken at once."""
    return False


def takes_long(folder: Path, name: AttemptName, record: ExitRecord) -> bool:
    """Whether `exited` takes longer than a loop may be deaf: the attempt left a large result."""
    large = acceptance.size(folder, name) >= _LONG
    if name.is_launcher and not large:
        large = any(_is_long(folder, name, each) for each in reported(folder, name).values())
    return large and ends_by(record) == "complete"


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
