"""The core: what an event makes of a record. No clock, no file, no process.

`apply` takes a state and an event and returns the next state, the changes that lead there (what a
journal keeps, what `replay` folds again) and instructions for whoever carries them out. What may
happen is decided by the declared machines in `holdfast.machines`; this module owns what else
changes in a record when it moves. *Requests* may be refused. *Facts* (a process exited) may not:
one that comes late is ignored, with the reason.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import attrs

from holdfast.effects import EFFECTS
from holdfast.errors import InvalidTransitionError, Refusal
from holdfast.events import (
    Action,
    Change,
    Event,
    Fact,
    Ignored,
    Launch,
    ProcessExited,
    ProcessLaunched,
    ProcessLost,
    Requested,
    Step,
    Stop,
)
from holdfast.guards import EXPERIMENT_GUARDS, PROCESS_GUARDS
from holdfast.records import ExperimentState, ProcessProgress
from holdfast.status import SETTLED, Entity, ExperimentStatus, ProcessStatus, Reason

__all__ = [
    "Action",
    "Change",
    "Event",
    "Fact",
    "Ignored",
    "Launch",
    "ProcessExited",
    "ProcessLaunched",
    "ProcessLost",
    "Requested",
    "Step",
    "Stop",
    "apply",
    "apply_many",
    "replay",
    "replay_many",
    "with_fields",
]

if TYPE_CHECKING:
    from holdfast.machines import Edge

Record = TypeVar("Record", ExperimentState, ProcessProgress)


def apply(state: ExperimentState, event: Event) -> Step:
    """What *event* makes of *state*. Touches `last_updated`, never `revision` or `epoch`.

    Raises:
        InvalidTransitionError: A request that is refused. Never for a fact.
    """
    if isinstance(event, Requested):
        if event.entity == "experiment":
            return _experiment(state, event)
        return _process(state, event)
    return _fact(state, event)


def apply_many(state: ExperimentState, events: Iterable[Event]) -> Step:
    """All of *events* in their order, or none: each sees what those before it did.

    Raises:
        InvalidTransitionError: One of them was refused.
    """
    changes: list[Change] = []
    actions: list[Action] = []
    for event in events:
        step = apply(state, event)
        state = step.state
        changes += step.changes
        actions += step.actions
    return Step(state, tuple(changes), tuple(actions))


def replay(state: ExperimentState, change: Change) -> ExperimentState:
    """*state* after *change*, which was judged when it was made: no guard is asked again."""
    return replay_many(state, (change,))


def replay_many(state: ExperimentState, changes: Iterable[Change]) -> ExperimentState:
    """*state* after *changes*, in their order.

    Raises:
        KeyError: A change of a process that the experiment does not have.
    """
    processes: dict[int, ProcessProgress] = {}
    own: dict[str, Any] = {}
    at = state.last_updated
    table = state.processes
    for change in changes:
        index = change.process
        if index is None:
            own.update(change.fields)
        else:
            before = processes.get(index)
            processes[index] = with_fields(
                table[index] if before is None else before, change.fields
            )
        at = change.at
    own["last_updated"] = at
    if processes:
        own["process_progress"] = table.replace(processes)
    return with_fields(state, own)


# attrs.evolve runs every converter and validator again, 10 µs for an experiment. The fields set
# here come from typed events or from the codec, which have checked them.
@cache
def _slots(kind: Any) -> tuple[Callable[[Any], tuple[Any, ...]], tuple[tuple[str, Any], ...]]:
    names = [field.name for field in attrs.fields(kind)]
    return attrgetter(*names), tuple((name, getattr(kind, name).__set__) for name in names)


def with_fields(record: Record, fields: Mapping[str, Any]) -> Record:
    """*record* with *fields*, whose types and values are known to be right."""
    kind: Any = type(record)
    values, setters = _slots(kind)
    new: Record = object.__new__(kind)
    for (name, put), value in zip(setters, values(record), strict=True):
        put(new, fields.get(name, value))
    return new


@cache
def _table(entity: Entity) -> Mapping[tuple[str, str], tuple["Edge", ...]]:
    from holdfast.machines import table  # 60 ms: who only reads never pays for it

    return table(entity)


def _target(
    entity: Entity, record: ExperimentState | ProcessProgress, event: str, facts: Mapping[str, Any]
) -> str | None:
    """Where *event* leads from here, by the derived table; None if it is refused."""
    guards: Any = EXPERIMENT_GUARDS if entity == "experiment" else PROCESS_GUARDS
    for edge in _table(entity).get((record.status, event), ()):
        for guard in edge.guards:
            if guards[guard](record, facts) is not None:
                break
        else:
            return str(edge.target)
    return None


def _refuse(state: ExperimentState, event: Requested, record: Any) -> NoReturn:
    from holdfast.machines import explain

    raise explain(
        event.entity,
        record,
        event.event,
        event.facts,
        experiment_id=state.experiment_id,
        process=event.process,
    )


def _experiment(state: ExperimentState, event: Requested) -> Step:
    target = _target("experiment", state, event.event, event.facts)
    if target is None:
        _refuse(state, event, state)
    fields: dict[str, Any] = {"status": ExperimentStatus(target)}
    actions: tuple[Action, ...] = ()
    if target == ExperimentStatus.RUNNING:
        fields.update(finished_at=None, reason=None, error_message=None)
        if state.started_at is None:
            fields["started_at"] = event.at
    else:
        fields.update(finished_at=event.at, reason=event.reason, error_message=event.error_message)
        if state.processes_running:
            actions = tuple(
                Stop(index, state.processes[index].attempt, event.reason)
                for index in state.processes.indices(ProcessStatus.RUNNING)
            )
    return _moved(state, event, state.status, target, fields, actions)


def _process(state: ExperimentState, event: Requested) -> Step:
    index = event.process
    assert index is not None
    process = state.process_progress.get(index)
    why_not = None
    if process is None:
        last = state.num_processes - 1
        why_not = "process_exists", f"there is no process {index}, only 0 … {last}"
    elif state.status in SETTLED:
        why_not = (
            "experiment_is_open",
            f"the experiment is {state.status}, and its processes stay as they are",
        )
    if process is None or why_not is not None:
        assert why_not is not None
        raise InvalidTransitionError(
            entity="process",
            experiment_id=state.experiment_id,
            process=index,
            event=event.event,
            source="absent" if process is None else str(process.status),
            exists=True,
            refusals=(Refusal(*why_not),),
            allowed=(),
        )
    target = _target("process", process, event.event, event.facts)
    if target is None:
        _refuse(state, event, process)
    fields = {"status": ProcessStatus(target), **EFFECTS[event.event](process, event)}
    actions: tuple[Action, ...] = ()
    if target == ProcessStatus.RUNNING:
        actions = (Launch(index, fields["attempt"]),)
    return _moved(state, event, process.status, target, fields, actions)


def _moved(
    state: ExperimentState,
    event: Requested,
    source: str,
    target: str,
    fields: Mapping[str, Any],
    actions: tuple[Action, ...],
) -> Step:
    change = Change(
        entity=event.entity,
        process=event.process,
        event=event.event,
        source=str(source),
        target=target,
        at=event.at,
        # A requeue under `result_lost` needs no reason to be given: the guard passed for it.
        reason=fields.get("reason", event.reason) or event.reason,
        evidence=event.evidence,
        fields=fields,
    )
    return Step(replay(state, change), (change,), actions)


def _fact(state: ExperimentState, fact: Fact) -> Step:
    late = _too_late(state, fact)
    if late is not None:
        return Step(state, (), (Ignored(late),))
    if isinstance(fact, ProcessLaunched):
        return _launched(state, fact)
    if isinstance(fact, ProcessLost):
        return _process(state, _requeue(fact, fact.reason, evidence=fact.evidence))
    if fact.stop_reason is not None:
        return _process(state, _requeue(fact, fact.stop_reason, error=fact.error_message))
    step = _process(state, _ended(fact))
    # The attempt's own clock knows better than we when it began and ended.
    known = {"started_at": fact.started_at, "completed_at": fact.ended_at}
    times = {name: at for name, at in known.items() if at is not None}
    if not times:
        return step
    change = step.changes[-1]
    change = attrs.evolve(change, fields={**change.fields, **times})
    return Step(replay(state, change), (change,), step.actions)


def _too_late(state: ExperimentState, fact: Fact) -> str | None:
    what = f"{fact.process}.{fact.attempt}: {type(fact).__name__}"
    process = state.process_progress.get(fact.process)
    if process is None:
        return f"{what}: there is no such process"
    if state.status in SETTLED:
        return f"{what}: the experiment is {state.status} already"
    if fact.attempt != process.attempt:
        return f"{what}: the current attempt is {process.attempt}"
    if process.status is not ProcessStatus.RUNNING:
        return f"{what}: the process is {process.status} already"
    return None


def _launched(state: ExperimentState, fact: ProcessLaunched) -> Step:
    change = Change(
        entity="process",
        process=fact.process,
        event="launched",
        source=ProcessStatus.RUNNING.value,
        target=ProcessStatus.RUNNING.value,
        at=fact.at,
        fields={
            "identity": fact.identity,
            "host": None if fact.identity is None else fact.identity.host,
        },
    )
    return Step(replay(state, change), (change,), ())


def _requeue(
    fact: ProcessExited | ProcessLost,
    reason: Reason,
    *,
    evidence: str | None = None,
    error: str | None = None,
) -> Requested:
    return Requested(
        entity="process",
        event="requeue",
        at=fact.at,
        process=fact.process,
        reason=reason,
        error_message=error,
        evidence=evidence,
        facts={"proven_dead": True},
    )


def _ended(fact: ProcessExited) -> Requested:
    clean = fact.exit_code == 0 and fact.signal is None and fact.reason is Reason.EXIT
    clean = clean and fact.result_error is None
    facts = {
        "exit_code": fact.exit_code,
        "signal": fact.signal,
        "host": fact.host,
        "result": fact.result if clean else None,
    }
    return Requested(
        entity="process",
        event="complete" if clean else "fail",
        at=fact.at,
        process=fact.process,
        reason=fact.reason,
        error_message=fact.result_error or fact.error_message,
        facts=facts,
    )
