"""From completed to aggregated: the built-in table, or the user's own command as one more attempt.

A failed aggregation touches no process: it is tried again without running them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast import aggregation, attempts
from holdfast.attempts import AGGREGATE, AttemptName, ExitRecord
from holdfast.errors import AggregationError, StateWriteError
from holdfast.judgement import Dead, Exited, Running
from holdfast.orchestration import outcomes, recovery
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.loop import Watch
from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus
from holdfast.store.claim import Claim

__all__ = ["conclude"]


def conclude(claim: Claim, watch: Watch, interrupts: Interrupts) -> Mapping[str, Any] | None:
    """Aggregate a completed experiment, durably, before it is recorded as aggregated.

    Of one that is recorded so already, `aggregate.json` is made again.

    Returns:
        What `aggregate.json` holds; None if a signal came first: the experiment stays completed.

    Raises:
        AggregationError: It failed; the experiment is still completed.
        ResultLostError: A recorded result is missing or altered.
        StateWriteError: The file system refused.
    """
    state, experiment = claim.state, watch.launcher.experiment
    try:
        # Verifies every result while it reads it.
        found = aggregation.build(state, claim.folder, experiment.params)
    except OSError as err:
        cause = err.strerror or str(err)
        raise StateWriteError(claim.folder / "results", "reading", cause) from err
    command = experiment.aggregate.command
    attempt = None
    if command is None:
        aggregation.write(claim.folder, found)
    else:
        own = _run(state, claim.folder, command, found, watch, interrupts)
        if own is None:
            return None
        name, record = own
        if record.exit_code != 0 or record.error is not None:
            where = attempts.error_path(claim.folder, name)
            problem = f"{outcomes.describe(record)}; its messages are in {where}"
            raise AggregationError(state.experiment_id, problem)
        attempt = name.attempt
        found = aggregation.finish(state, claim.folder, found, attempt)
    if state.status is ExperimentStatus.COMPLETED:
        claim.record("aggregate")
    if attempt is not None:
        aggregation.remove_inputs(claim.folder, attempt)
    return found


def _run(
    state: ExperimentState,
    folder: Path,
    command: tuple[str, ...],
    built: Mapping[str, Any],
    watch: Watch,
    interrupts: Interrupts,
) -> tuple[AttemptName, ExitRecord] | None:
    """The outcome of the user's command: an attempt left running, its outcome, or a new one.

    What was left counts only if it was given the results that there are now.
    """
    last = _last(state, folder)
    name = watch.launcher.name(AGGREGATE, 1)
    if last is not None:
        name = watch.launcher.name(AGGREGATE, last.attempt + 1)
        grace_s = watch.launcher.experiment.limits.grace_s
        judged = recovery.judge(folder, last, grace_s=grace_s, force=watch.force, fence=watch.fence)
        belongs = aggregation.made_from(folder, built, last.attempt)
        if isinstance(judged, Exited) and belongs and _succeeded(judged.record):
            return last, judged.record
        if isinstance(judged, Running):
            watch.adopt([last], watch.known())
            if not belongs:
                watch.stop(force=False)
            record = _await(folder, last, watch, interrupts)
            if record is None or belongs:
                return None if record is None else (last, record)
    inputs = aggregation.prepare_inputs(state, folder, built, name.attempt)
    attempt = watch.launcher.aggregation(name.attempt, command, inputs)
    # Nothing was recorded just now that would have told of a newer owner.
    watch.fence()
    for handle in watch.engine.submit(state.experiment_id, [attempt]):
        watch.handles[handle.name] = handle
    record = _await(folder, name, watch, interrupts)
    return None if record is None else (name, record)


def _last(state: ExperimentState, folder: Path) -> AttemptName | None:
    found = [
        name
        for suffix in (".live", ".exit")
        for name in attempts.names(folder, state.experiment_id, suffix)
        if name.index == AGGREGATE
    ]
    return max(found, default=None)


def _succeeded(record: ExitRecord) -> bool:
    return record.exit_code == 0 and record.error is None and record.stop_requested is None


def _await(
    folder: Path, name: AttemptName, watch: Watch, interrupts: Interrupts
) -> ExitRecord | None:
    answered = 0
    gone_since: float | None = None
    while (record := outcomes.read(folder, name)) is None:
        if interrupts.count > answered:
            answered = interrupts.count
            watch.stop(force=answered > 1)
        gone = False
        for word in watch.engine.poll(list(watch.handles.values())):
            gone = gone or (word.name == name and word.kind == "gone")
        if not gone:
            gone_since = None
        elif gone_since is None:
            gone_since = watch.monotonic()
        elif watch.monotonic() - gone_since > watch.gone_grace_s:
            judged = recovery.judge(folder, name, grace_s=1.0, force=watch.force, fence=watch.fence)
            if isinstance(judged, Dead):
                raise AggregationError(name.experiment_id, f"it was lost: {judged.evidence}")
        watch.engine.wait(watch.pause_s(watch.gone_grace_s))
    watch.handles.pop(name, None)
    return None if interrupts.count else record
