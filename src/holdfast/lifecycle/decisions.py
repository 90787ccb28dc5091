"""Whether an event may happen: the one interpreter of what `holdfast.lifecycle.machines` declares.

Machines, lifecycle, saving and the doctor ask here, and every refusal is made here. Decides by a
table read off the declared classes, because an instance and an event of a machine cost about 100 µs
each and a look-up a hundredth of one. A refusal is put to python-statemachine's own machine, too.
"""

from collections.abc import Container, Iterable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from holdfast.errors import InvalidTransitionError, Refusal
from holdfast.lifecycle.guards import FROM_RECORD, GUARDS, Facts, Guard
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import Entity, ExperimentStatus

__all__ = ["allowed", "decide", "ended", "leading", "refusals", "refuse_absent"]

if TYPE_CHECKING:
    from holdfast.lifecycle.edges import Edge

Record = ExperimentState | ProcessProgress


def decide(
    entity: Entity,
    record: Record,
    event: str,
    facts: Facts,
    *,
    experiment_id: str,
    process: int | None = None,
    only: Container[str] | None = None,
) -> "Edge":
    """The declared transition that *event* makes of *record*.

    Args:
        facts: What the guards read; `experiment_status` for those of a process.
        experiment_id: Names the record in a refusal, as *process* does.
        only: The guards to ask, the others pass: for whoever knows only some of the facts. None for
            all of them.

    Raises:
        InvalidTransitionError: There is no such transition from here, or a guard refused.
        AssertionError: The machine accepts what the table refuses: a mistake of ours.
    """
    edge = _accepted(entity, record, event, facts, only)
    if edge is None:
        _refuse(entity, record, event, facts, only, experiment_id, process)
    return edge


def ended(
    record: ProcessProgress, facts: Facts, *, experiment_id: str, process: int | None = None
) -> "Edge":
    """What becomes of a process whose attempt ended: the first of `ENDINGS` whose guards pass.

    Raises:
        InvalidTransitionError: None of them does: it is not running, or its experiment is settled.
    """
    events = _machines().ENDINGS
    edge = _first("process", record, events, facts)
    if edge is None:
        _refuse("process", record, events[-1], facts, None, experiment_id, process)
    return edge


def leading(
    entity: Entity,
    record: Record,
    target: str,
    facts: Facts,
    *,
    experiment_id: str,
    process: int | None = None,
) -> "Edge":
    """The declared transition that leads *record* to *target*, whatever its event.

    Raises:
        InvalidTransitionError: No single event leads there, or its guards refused.
    """
    there = [edge for edge in _declared(entity) if edge.target == target]
    events = list(dict.fromkeys(edge.event for edge in there if edge.source == record.status))
    if not events:
        raise InvalidTransitionError(
            entity=entity,
            experiment_id=experiment_id,
            process=process,
            event=f"become {target}",
            source=str(record.status),
            exists=False,
            refusals=(),
            allowed=allowed(entity, record, facts.get("experiment_status")),
            possible_from=tuple(dict.fromkeys(edge.source for edge in there)),
        )
    edge = _first(entity, record, events, facts)
    if edge is None:
        _refuse(entity, record, events[0], facts, None, experiment_id, process)
    return edge


def allowed(
    entity: Entity, record: Record, experiment_status: ExperimentStatus | None = None
) -> tuple[str, ...]:
    """The events that could be accepted now, in the order of declaration.

    Guards that depend on facts of the event are taken to pass.
    """
    facts = {"experiment_status": experiment_status}
    events = dict.fromkeys(edge.event for edge in _declared(entity))
    return tuple(
        event
        for event in events
        if _accepted(entity, record, event, facts, FROM_RECORD) is not None
    )


def refusals(entity: Entity, record: Record, event: str, facts: Facts) -> tuple[Refusal, ...]:
    """The guards of *event* in this status that refuse it, with their reasons."""
    paths = _paths(entity).get((record.status, event), ())
    asked = {name: guard for _, guards in paths for name, guard in guards}
    return tuple(
        Refusal(name, why)
        for name, guard in asked.items()
        if (why := guard(record, facts)) is not None
    )


def refuse_absent(state: ExperimentState, event: str, process: int) -> NoReturn:
    """Refuse *event* of a process that *state* does not have.

    Raises:
        InvalidTransitionError: Always.
    """
    why = f"there is no process {process}, only 0 … {state.num_processes - 1}"
    raise InvalidTransitionError(
        entity="process",
        experiment_id=state.experiment_id,
        process=process,
        event=event,
        source="absent",
        exists=True,
        refusals=(Refusal("process_exists", why),),
        allowed=(),
    )


_Path = tuple["Edge", tuple[tuple[str, Guard], ...]]


@cache
def _machines() -> ModuleType:
    # 60 ms, which who only reads never pays. A machine asks here, too, and so is above this module.
    from holdfast.lifecycle import machines

    return machines


@cache
def _declared(entity: Entity) -> "tuple[Edge, ...]":
    from holdfast.lifecycle.edges import edges

    return edges(_machines().MACHINES[entity])


@cache
def _paths(entity: Entity) -> dict[tuple[str, str], tuple[_Path, ...]]:
    """The declared transitions by status and event, each with its guards."""
    from holdfast.lifecycle.edges import table

    known = GUARDS[entity]
    return {
        key: tuple((edge, tuple((name, known[name]) for name in edge.guards)) for edge in edges)
        for key, edges in table(entity).items()
    }


def _first(entity: Entity, record: Record, events: Iterable[str], facts: Facts) -> "Edge | None":
    for event in events:
        edge = _accepted(entity, record, event, facts)
        if edge is not None:
            return edge
    return None


def _accepted(
    entity: Entity,
    record: Record,
    event: str,
    facts: Facts,
    only: Container[str] | None = None,
) -> "Edge | None":
    for edge, guards in _paths(entity).get((record.status, event), ()):
        for name, guard in guards:
            if (only is None or name in only) and guard(record, facts) is not None:
                break
        else:
            return edge
    return None


def _refuse(
    entity: Entity,
    record: Record,
    event: str,
    facts: Facts,
    only: Container[str] | None,
    experiment_id: str,
    process: int | None,
) -> NoReturn:
    declared = [edge for edge in _declared(entity) if edge.event == event]
    # Asked for an event that nobody declared, the library looks for an attribute of that name.
    machine = _machines().MACHINES[entity]
    moved = machine(record).move(event, facts, only=only) if declared else None
    if moved is not None:
        what = f"{entity} {event} from {record.status}"
        raise AssertionError(f"the table refuses {what}, and the machine goes to {moved}")
    here = [edge for edge in declared if edge.source == record.status]
    # Without a transition from here, what the records alone refuse still helps the reader.
    asked = dict.fromkeys(
        name
        for edge in here or declared
        for name in edge.guards
        if (here or name in FROM_RECORD) and (only is None or name in only)
    )
    known = GUARDS[entity]
    raise InvalidTransitionError(
        entity=entity,
        experiment_id=experiment_id,
        process=process,
        event=event,
        source=str(record.status),
        exists=bool(here),
        refusals=tuple(
            Refusal(name, why) for name in asked if (why := known[name](record, facts)) is not None
        ),
        allowed=tuple(
            each
            for each in allowed(entity, record, facts.get("experiment_status"))
            if each != event
        ),
        possible_from=tuple(dict.fromkeys(edge.source for edge in declared)),
    )
