"""From completed to aggregated: the built-in table, or the user's own command as one more attempt.

A failed aggregation touches no process: it is tried again without running them.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.attempts.looking import Ended, Running, look
from holdfast.attempts.names import (
    RESULTS,
    AttemptName,
    error_path,
    last_aggregation,
    next_aggregation,
)
from holdfast.engines.contract import Handle
from holdfast.errors import AggregationError, ResultLostError, StateReadError
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration import exits
from holdfast.orchestration.endings import describe
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.loop import Loop
from holdfast.orchestration.taking import Taking
from holdfast.orchestration.watch import Learnt, Watch
from holdfast.results import acceptance, aggregation
from holdfast.results.going_on import GoingOn, check
from holdfast.status import ExperimentStatus, Reason
from holdfast.store.claim import Claim

__all__ = ["conclude"]


def conclude(
    claim: Claim, watch: Watch, loop: Loop, interrupts: Interrupts
) -> Mapping[str, Any] | None:
    """Aggregate a completed experiment, durably, before it is recorded as aggregated.

    Of one that is recorded so already, `aggregate.json` is made again.

    Returns:
        What `aggregate.json` holds; None if a signal came first: the experiment stays completed.

    Raises:
        AggregationError: It failed; the experiment is still completed.
        ResultLostError: A recorded result or output is missing or altered.
        DiskError: The file system refused.
    """
    state, experiment = claim.state, watch.launcher.experiment
    command, name = experiment.aggregate.command, None
    code = None if command is None else loop.code_of(command)

    def build(going_on: GoingOn) -> Mapping[str, Any]:
        # Nobody asks for the outputs of one that is aggregated.
        if state.status is ExperimentStatus.COMPLETED:
            _verify_outputs(state, loop.taking, going_on)
        # Verifies every result while it reads it.
        return aggregation.build(
            *(state, claim.folder, experiment.params, going_on), code=code, command=command
        )

    try:
        built = loop.beside(build, reading=True)
    except OSError as err:
        raise StateReadError.of(claim.folder / RESULTS, "reading", err) from err
    except MemoryError as err:
        path = claim.folder / RESULTS
        raise StateReadError.of(path, "reading the results", acceptance.NO_MEMORY) from err
    if built is None:
        return None
    found: Mapping[str, Any] | None = built
    if command is not None:
        name = ran = _run(state, claim.folder, command, built, watch, loop, interrupts)
        if ran is None:
            return None
        found = loop.beside(
            lambda _: aggregation.finish(state, claim.folder, built, ran), reading=True
        )
    if found is None:
        return None
    whole = found
    if loop.beside(lambda going_on: aggregation.write(claim.folder, whole, going_on)) is None:
        return None  # a signal came first: an older one is still there
    if state.status is ExperimentStatus.COMPLETED:
        claim.record("aggregate")
    if name is not None:
        aggregation.remove_inputs(claim.folder, name)
    return found


def _verify_outputs(state: ExperimentState, take: Taking, going_on: GoingOn) -> None:
    for index, process in state.process_progress.items():
        check(going_on)
        if (lost := take.lost(process, going_on)) is not None:
            raise ResultLostError(
                state.experiment_id, index, lost.path, lost.problem, what=lost.kind
            )


def _run(
    state: ExperimentState,
    folder: Path,
    command: tuple[str, ...],
    built: Mapping[str, Any],
    watch: Watch,
    loop: Loop,
    interrupts: Interrupts,
) -> AttemptName | None:
    """The attempt in which the user's command succeeded; None if a signal came first.

    One that was left counts only if it was given the results that there are now.

    Raises:
        AggregationError: It failed, or was interrupted from outside too often.
    """
    launcher = watch.launcher
    last, known = last_aggregation(folder, state.experiment_id), dict[AttemptName, Handle]()
    if not watch.hearing.is_local:
        if (asked := loop.known()) is None:
            return None
        # What waits in a queue has no files yet.
        known, coming = dict(asked.handles), next_aggregation(folder, state.experiment_id)
        last = coming if coming in known else last
    if last is not None:
        belongs = loop.beside(
            lambda going_on: aggregation.made_from(folder, built, last, going_on), reading=True
        )
        if belongs is None:
            return None
        learnt = _take_up(folder, last, watch, loop, known, stop=not belongs)
        if learnt is None:
            return None
        if belongs and _end(learnt) == "complete":
            return last
    for count in range(launcher.experiment.retry.max_interruptions):
        if interrupts.count:
            return None
        if count > 1:
            loop.pause(min(2.0 ** (count - 2), 60.0))
        name = next_aggregation(folder, state.experiment_id)
        inputs = loop.beside(partial(aggregation.prepare_inputs, state, folder, built, name))
        if inputs is None:
            return None
        learnt = loop.run(launcher.attempt(name, command, inputs))
        end = None if learnt is None else _end(learnt)
        if watch.refused is not None:
            raise AggregationError(state.experiment_id, str(watch.refused))
        if end == "complete":
            return name
        if learnt is None or (interrupts.count and end != "fail"):
            return None
        problem = _described(learnt)
        if end == "fail":
            where = error_path(folder, name)
            raise AggregationError(state.experiment_id, f"{problem}; its messages are in {where}")
    raise AggregationError(state.experiment_id, f"{problem}, again and again")


def _take_up(
    folder: Path,
    name: AttemptName,
    watch: Watch,
    loop: Loop,
    known: Mapping[AttemptName, Handle],
    *,
    stop: bool,
) -> Learnt | None:
    """How an attempt ended that somebody left; None if it does not end although it was asked to.

    Args:
        known: What an engine with a queue has.
    """
    seen = look(folder, name)
    if isinstance(seen, Ended):
        return Learnt(name, seen)
    if isinstance(seen, Running) or name in known:
        watch.adopt([name], known or watch.known() or {})
        if stop:
            watch.asking.ask([name], force=False, why=Reason.USER)
    else:
        watch.settle(name, None)
    return loop.run(name)


def _end(learnt: Learnt) -> str | None:
    """By which event it would end a process; None if it was lost."""
    if isinstance(learnt.found, Ended):
        return exits.ends_by(learnt.found.record, learnt.means)
    return "fail" if learnt.means.fails and learnt.found.began else None


def _described(learnt: Learnt) -> str:
    if isinstance(learnt.found, Ended):
        return describe(learnt.found.record)
    return f"it was lost: {learnt.found.evidence}"
