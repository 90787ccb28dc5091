"""What the end of an attempt means for its process, or for the ranks of a launcher.

The exit record says how the command ended, the reports what its ranks, or its program, know of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import ExitRecord
from holdfast.attempts.reports import Report, torchelastic_error
from holdfast.errors import ResultInvalidError
from holdfast.lifecycle.apply import ending
from holdfast.lifecycle.events import ProcessExited
from holdfast.orchestration.taking import Taking
from holdfast.results import acceptance
from holdfast.status import Reason
from holdfast.store.attempted import by_rank

__all__ = ["describe", "failure", "of_gang", "of_one", "of_rank", "with_all"]


def of_one(
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
    return _with_outputs(_taken(folder, name, fact, take), take)


def of_rank(
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
        return with_all(folder, done, report, take)
    if ending(fact) == "requeue":
        return attrs.evolve(fact, error_message=describe(record))
    if report is not None and report.stopped and ending(fact) == "complete":
        return _gave_way(fact, report, "it")
    if report is not None and blamed and (report.stopped or report.cut_off):
        evidence = "; ".join(filter(None, (how, fact.evidence)))
        return _gave_way(attrs.evolve(fact, evidence=evidence), report, "it")
    if report is not None and report.failure is not None:
        code = fact.exit_code if report.exit_code is None else report.exit_code
        return attrs.evolve(fact, exit_code=code, reported_error=report.failure)
    if ending(fact) != "complete":
        return attrs.evolve(fact, error_message=how)
    if report is not None and report.unsaid is not None:
        return attrs.evolve(fact, reported_error=report.unsaid)
    if report is None:
        return _with_outputs(fact, take)
    return with_all(folder, fact, report, take)


def of_gang(
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
        if fault := failure(found, ranks):
            fact = attrs.evolve(fact, reported_error=fault)
        elif stopped:
            # If one of them has saved, the next attempt goes on from there.
            saved = any(found[ranks[rank]].saved for rank in stopped)
            first = attrs.evolve(found[ranks[stopped[0]]], saved=saved)
            fact = _gave_way(fact, first, f"rank {stopped[0]}")
        elif fault := failure(found, ranks, "unsaid"):
            fact = attrs.evolve(fact, reported_error=fault)
        else:
            return _completed(folder, name, fact, found, ranks, take)
    else:
        own = failure(found, ranks) or torchelastic_error(folder, name)
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
    """The ranks with their results; a fault of one of them fails all.

    What they declare they make together: it is recorded with the first of them.
    """
    facts = [
        _with_result(folder, attrs.evolve(fact, process=index), found[index], take)
        if index in found
        else attrs.evolve(fact, process=index)
        for index in ranks
    ]
    shared = _taken(folder, name, fact, take)
    fault = shared.result_error or next(
        (by_rank(rank, each.result_error) for rank, each in enumerate(facts) if each.result_error),
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
        facts[0] = _with_outputs(facts[0], take)
        fault = facts[0].result_error
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
    how = "stopped by itself" if report.said == "stopped" else "was stopped"
    words = f"{who} {how} before it was done ({cause})"
    if report.cut_off:
        words = f"{who} was killed with its launcher before it was done"
    evidence = "; ".join(filter(None, (words, fact.evidence)))
    # Batch systems warn of their time limit; who heeds that ends before it, as if of itself.
    reason = Reason.TIME_LIMIT if report.why == "warning" else Reason.PREEMPTED
    return attrs.evolve(fact, stop_reason=fact.stop_reason or reason, evidence=evidence)


def failure(
    found: Mapping[int, Report],
    ranks: Sequence[int],
    kind: Literal["failure", "unsaid"] = "failure",
) -> str | None:
    """What the first rank of which it is known failed of."""
    for rank, index in enumerate(ranks):
        if index in found and (why := getattr(found[index], kind)) is not None:
            return by_rank(rank, why)
    return None


def with_all(folder: Path, fact: ProcessExited, report: Report, take: Taking) -> ProcessExited:
    """*fact* of an independent rank with what it left: its result, and its outputs."""
    return _with_outputs(_with_result(folder, fact, report, take), take)


def _with_result(folder: Path, fact: ProcessExited, report: Report, take: Taking) -> ProcessExited:
    """*fact* with the result that the rank delivered itself, if it is one and there is one."""
    own = acceptance.of_rank(report.index, fact.attempt, report.incarnation)
    return _taken(folder, own, fact, take)


def _taken(
    folder: Path, written: acceptance.Written, fact: ProcessExited, take: Taking
) -> ProcessExited:
    try:
        result = take.result(folder, written)
    except ResultInvalidError as err:
        return attrs.evolve(fact, result_error=str(err))
    return fact if result is None else attrs.evolve(fact, result=result)


def _with_outputs(fact: ProcessExited, take: Taking) -> ProcessExited:
    """*fact* with the outputs of its process, unless it is not completed anyway."""
    if fact.result_error is not None:
        return fact
    try:
        outputs = take.outputs(fact.process)
    except ResultInvalidError as err:
        return attrs.evolve(fact, result_error=str(err))
    return attrs.evolve(fact, outputs=outputs) if outputs else fact


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
