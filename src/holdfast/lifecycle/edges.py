"""The declared transitions, read off the machines, for decisions and diagrams."""

from functools import cache
from typing import Any, cast

import attrs

from holdfast.lifecycle.machine import RecordMachine
from holdfast.lifecycle.machines import MACHINES
from holdfast.status import Entity

__all__ = ["Edge", "edges", "table"]


@attrs.frozen
class Edge:
    """One declared transition; *guards* must all pass."""

    event: str
    source: str
    target: str
    guards: tuple[str, ...]


@cache
def edges(machine: type[RecordMachine[Any]]) -> tuple[Edge, ...]:
    """Every declared transition of *machine*, by event in the order of declaration."""
    order = {event.id: place for place, event in enumerate(cast(Any, machine).events)}
    found = [
        Edge(
            event=str(transition.event),
            source=str(state.value),
            target=str(transition.target.value),
            guards=tuple(str(cond) for cond in transition.cond),
        )
        for state in machine.states
        for transition in state.transitions
    ]
    return tuple(sorted(found, key=lambda edge: order[edge.event]))


@cache
def table(entity: Entity) -> dict[tuple[str, str], tuple[Edge, ...]]:
    """`{(status, event): edges}` read off the declared machine of *entity*.

    An instance and an event of the machine cost about 100 µs each, a look-up here a tenth of one.
    """
    found: dict[tuple[str, str], tuple[Edge, ...]] = {}
    for edge in edges(MACHINES[entity]):
        key = edge.source, edge.event
        found[key] = (*found.get(key, ()), edge)
    return found
