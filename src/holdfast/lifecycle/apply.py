"""The core: what an event makes of a record. No clock, no file, no process.

`apply` takes a state and an event and returns the next state, the changes that lead there (what a
journal keeps, and `changes` replays) and instructions for whoever carries them out. What may
happen is decided by `decisions`, what it changes by `effects`; this module puts both together.
*Requests* may be refused. *Facts* (a process exited) may not: one that comes late is ignored, with
the reason.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from holdfast.lifecycle import decisions, effects
from holdfast.lifecycle.changes import Change, replay
from holdfast.lifecycle.effects import Occasion, Told
from holdfast.lifecycle.events import (
    Action,
    Again,
    Event,
    Fact,
    Ignored,
    Launch,
    PhaseReported,
    ProcessExited,
    Requested,
    Step,
    Stop,
)
from holdfast.lifecycle.guards import experiment_is_open
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, summarise
from holdfast.status import Entity, ExperimentStatus, ProcessStatus

__all__ = ["apply", "apply_many", "ending"]

if TYPE_CHECKING:
    from holdfast.lifecycle.edges import Edge


def apply(state: ExperimentState, event: Event) -> Step:
    """What *event* makes of *state*. Touches `last_updated`, never `revision` or `epoch`.

    Raises:
        InvalidTransitionError: A request that is refused. Never for a fact.
    """
    return apply_many(state, (event,))


def apply_many(state: ExperimentState, events: Iterable[Event]) -> Step:
    """All of *events* in their order, or none: each sees what those before it did.

    Raises:
        InvalidTransitionError: One of them was refused.
    """
    changes: list[Change] = []
    actions: list[Action] = []
    left: Callable[[Event], tuple[int, ...]] = _nobody
    if state.has_gangs:
        events = tuple(events)
        left = _gangs(state, events)
    for event in events:
        if not isinstance(event, Requested):
            step = _fact(state, event, left(event))
        elif event.entity == "experiment":
            step = _experiment(state, event)
        else:
            step = _process(state, event, left(event))
        state = step.state
        changes += step.changes
        actions += step.actions
    return Step(state, tuple(changes), tuple(actions))


def _nobody(event: Event) -> tuple[int, ...]:
    return ()


def _gangs(state: ExperimentState, events: Iterable[Event]) -> Callable[[Event], tuple[int, ...]]:
    """What tells of each of *events* which ranks of its gang have no such event among them."""
    together: defaultdict[str, set[int]] = defaultdict(set)
    for event in events:
        if event.process is not None:
            together[_word(event)].add(event.process)

    @cache
    def missing(word: str, gang: range) -> tuple[int, ...]:
        return tuple(rank for rank in gang if rank not in together[word])

    def left(event: Event) -> tuple[int, ...]:
        if event.process is None or isinstance(event, PhaseReported):
            return ()
        return missing(_word(event), state.gang(event.process))

    return left


def _word(event: Event) -> str:
    # How a gang ended, its ranks are told alike: what that means for them the guards decide.
    return event.event if isinstance(event, Requested) else "ended"


def _experiment(state: ExperimentState, event: Requested) -> Step:
    edge = decisions.decide(
        "experiment", state, event.event, event.facts, experiment_id=state.experiment_id
    )
    actions: tuple[Action, ...] = ()
    if edge.target != ExperimentStatus.RUNNING and state.processes_running:
        actions = tuple(
            Stop(index, state.processes[index].attempt, event.reason)
            for index in state.processes.indices(ProcessStatus.RUNNING)
        )
    return _moved(state, state, None, edge, event, event.evidence, actions)


def _process(state: ExperimentState, event: Requested, left: tuple[int, ...]) -> Step:
    index = event.process
    assert index is not None
    process = state.process_progress.get(index)
    if process is None:
        decisions.refuse_absent(state, event.event, index)
    facts = {
        **event.facts,
        "experiment_id": state.experiment_id,
        "experiment_status": state.status,
        "ranks_left": left,
    }
    edge = decisions.decide(
        "process", process, event.event, facts, experiment_id=state.experiment_id, process=index
    )
    step = _moved(state, process, index, edge, event, event.evidence)
    if edge.target == ProcessStatus.RUNNING:
        launch = Launch(index, step.state.processes[index].attempt)
        return step._replace(actions=(launch,))
    return step


def _moved(
    state: ExperimentState,
    record: ExperimentState | ProcessProgress,
    index: int | None,
    edge: "Edge",
    occasion: Occasion,
    evidence: str | None,
    actions: tuple[Action, ...] = (),
    times: Mapping[str, datetime] | None = None,
) -> Step:
    entity: Entity = "experiment" if index is None else "process"
    changed = effects.fields(entity, record, edge, occasion)
    if times:
        changed.update(times)
    assert occasion.at is not None
    change = Change(
        entity=entity,
        process=index,
        event=edge.event,
        source=edge.source,
        target=edge.target,
        at=occasion.at,
        # A requeue under `result_lost` needs no reason to be given: the guard passed for it.
        reason=changed.get("reason", occasion.reason) or occasion.reason,
        evidence=evidence,
        fields=changed,
    )
    return Step(replay(state, change), (change,), actions)


def _fact(state: ExperimentState, fact: Fact, left: tuple[int, ...]) -> Step:
    process = state.process_progress.get(fact.process)
    late = _too_late(state, process, fact)
    if late is None and left:
        late = f"{fact.process}.{fact.attempt}: nothing is told of {summarise(list(left))}"
        late += ", the other ranks of its gang"
    if process is None or late is not None:
        return Step(state, (), (Ignored(late or ""),))
    if isinstance(fact, ProcessExited):
        return _exited(state, process, fact)
    if isinstance(fact, PhaseReported):
        return _phase(state, process, fact)
    facts = {
        **{"proven_dead": True, "experiment_status": state.status, "usage": fact.usage},
        **_again(fact.again),
    }
    edge = decisions.decide(
        "process",
        process,
        "requeue",
        facts,
        experiment_id=state.experiment_id,
        process=fact.process,
    )
    occasion = Told(fact.at, fact.reason, None, facts)
    return _moved(state, process, fact.process, edge, occasion, fact.evidence)


def _too_late(state: ExperimentState, process: ProcessProgress | None, fact: Fact) -> str | None:
    what = f"{fact.process}.{fact.attempt}: {type(fact).__name__}"
    if process is None:
        return f"{what}: there is no such process"
    settled = experiment_is_open(process, {"experiment_status": state.status})
    if settled is not None:
        return f"{what}: {settled}"
    if fact.attempt != process.attempt:
        return f"{what}: the current attempt is {process.attempt}"
    if process.status is not ProcessStatus.RUNNING:
        return f"{what}: the process is {process.status} already"
    return None


def _phase(state: ExperimentState, process: ProcessProgress, fact: PhaseReported) -> Step:
    facts = {
        "phase": fact.phase,
        "identity": fact.identity,
        "handle": fact.handle,
        "host": fact.host,
        "since": fact.since,
        "experiment_status": state.status,
    }
    # An engine may tell late what has changed since.
    refused = decisions.refusals("process", process, "phase", facts)
    if refused:
        what = f"{fact.process}.{fact.attempt}: {type(fact).__name__}"
        return Step(state, (), (Ignored(f"{what}: {refused[0].why}"),))
    edge = decisions.decide(
        *("process", process, "phase", facts),
        experiment_id=state.experiment_id,
        process=fact.process,
    )
    occasion = Told(fact.at, None, None, facts)
    return _moved(state, process, fact.process, edge, occasion, fact.evidence)


#: Any process whose attempt runs: how an attempt ended is all that the guards of its end look at.
_RUNNING: Final = ProcessProgress(status=ProcessStatus.RUNNING)


def ending(fact: ProcessExited) -> str:
    """The event that *fact* is for a process: `complete`, `requeue` or `fail`.

    As long as its attempt is the current one, and its experiment open. For whoever has to know
    before the event is applied: the result of an attempt is looked at only if it would complete.
    """
    return decisions.ended(_RUNNING, _facts(fact), experiment_id="").event


def _facts(fact: ProcessExited) -> dict[str, Any]:
    return {
        "exit_code": fact.exit_code,
        "signal": fact.signal,
        "stop_requested": fact.stop_reason,
        "interrupted_by": fact.interrupted_by,
        "timed_out": fact.timed_out,
        "launch_error": fact.launch_error,
        "reported_error": fact.reported_error,
        "result_error": fact.result_error,
        "host": fact.host,
        "result": fact.result,
        "outputs": fact.outputs,
        "code": fact.code,
        "work": fact.work,
        "engine_end": fact.engine_end,
        "usage": fact.usage,
        **_again(fact.again),
    }


def _again(again: Again | None) -> dict[str, Any]:
    if again is None:
        return {}
    return {"not_before": again.not_before, "process_limits": again.limits}


def _exited(state: ExperimentState, process: ProcessProgress, fact: ProcessExited) -> Step:
    facts = _facts(fact)
    facts["experiment_status"] = state.status
    edge = decisions.ended(process, facts, experiment_id=state.experiment_id, process=fact.process)
    evidence = fact.evidence
    if edge.event == "requeue":
        if fact.interrupted_by is not None or fact.engine_end is not None:
            # Why it is not completed although its exit code may be 0, in the guard's own words.
            found = decisions.refusals("process", process, "complete", facts)
            told = (*(refusal.why for refusal in found), evidence)
            evidence = "; ".join(why for why in told if why is not None)
        occasion = Told(fact.at, fact.stop_reason, fact.error_message, facts)
        return _moved(state, process, fact.process, edge, occasion, evidence)
    error = fact.result_error or fact.reported_error or fact.error_message or fact.launch_error
    occasion = Told(fact.at, fact.reason, error, facts)
    # The attempt's own clock knows better than we when it began and ended.
    known = {"started_at": fact.started_at, "completed_at": fact.ended_at}
    times = {name: at for name, at in known.items() if at is not None}
    return _moved(state, process, fact.process, edge, occasion, evidence, times=times)
