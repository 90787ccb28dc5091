"""The two machines, declared with python-statemachine: the one place that says what may happen.

A machine holds no data. It is built on a record, asked for one transition and dropped. The
lifecycle decides by `table()`, which is read off these declarations; the diagrams are, too.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

import attrs
from statemachine import StateMachine
from statemachine.exceptions import TransitionNotAllowed
from statemachine.states import States

from holdfast.errors import InvalidTransitionError, Refusal
from holdfast.guards import EXPERIMENT_GUARDS, FROM_RECORD, PROCESS_GUARDS, Facts
from holdfast.records import ExperimentState, ProcessProgress
from holdfast.status import Entity, ExperimentStatus, ProcessStatus

__all__ = ["Edge", "ExperimentMachine", "ProcessMachine", "edges", "explain", "table"]

Record = TypeVar("Record", ExperimentState, ProcessProgress)


@attrs.frozen
class Edge:
    """One declared transition; *guards* must all pass."""

    event: str
    source: str
    target: str
    guards: tuple[str, ...]


class _RecordMachine(StateMachine, Generic[Record]):
    """A machine on a record: `send` returns the record with its next status.

    `StateMachine`, not `StateChart`: the latter swallows errors of callbacks and moves anyway, and
    ignores events that it does not know.
    """

    _entity: ClassVar[Entity]
    _guards: ClassVar[Mapping[str, Callable[[Any, Facts], str | None]]]

    def __init__(
        self, record: Record, *, experiment_id: str = "", process: int | None = None
    ) -> None:
        """Stand where *record* stands. The id and process number only name it in errors."""
        self.record: Record = record
        self.experiment_id = experiment_id or getattr(record, "experiment_id", "")
        self.process = process
        self._facts: Facts = {}
        super().__init__(start_value=record.status)

    @property
    def status(self) -> ExperimentStatus | ProcessStatus:
        """Where the record stands."""
        return self.record.status

    # The library drops guard arguments named `state`, `source`, `target`, `model` and `event`, so
    # guards read the facts from here instead.
    def _passes(self, guard: str) -> bool:
        return self._guards[guard](self.record, self._facts) is None

    def send(self, event: str, *args: Any, **facts: Any) -> Record:
        """Ask for one transition; returns the record with the new status and nothing else changed.

        Raises:
            InvalidTransitionError: There is no such transition, or a guard refused.
        """
        self._facts = facts
        try:
            super().send(event)
        except TransitionNotAllowed as err:
            raise self._refusal(event, facts) from err
        target = cast(Any, self.current_state_value)
        self.record = attrs.evolve(self.record, status=target)
        return self.record

    def allowed(self) -> tuple[str, ...]:
        """The events that could be accepted now, in the order of declaration.

        Guards that depend on facts of the event are taken to pass; those that the record alone
        decides are asked.
        """
        found = dict.fromkeys(
            edge.event
            for edge in edges(type(self))
            if edge.source == self.record.status
            and all(self._passes(guard) for guard in edge.guards if guard in FROM_RECORD)
        )
        return tuple(found)

    def _refusal(self, event: str, facts: Facts) -> InvalidTransitionError:
        declared = [edge for edge in edges(type(self)) if edge.event == event]
        here = [edge for edge in declared if edge.source == self.record.status]
        # Without a transition from here, what the record alone refuses still helps the reader.
        asked = dict.fromkeys(
            guard
            for edge in here or declared
            for guard in edge.guards
            if here or guard in FROM_RECORD
        )
        refusals = [
            Refusal(guard, why)
            for guard in asked
            if (why := self._guards[guard](self.record, facts)) is not None
        ]
        return InvalidTransitionError(
            entity=self._entity,
            experiment_id=self.experiment_id,
            process=self.process,
            event=event,
            source=str(self.record.status),
            exists=bool(here),
            refusals=tuple(refusals),
            allowed=self.allowed(),
            possible_from=tuple(dict.fromkeys(edge.source for edge in declared)),
        )


class ExperimentMachine(_RecordMachine[ExperimentState]):
    """What may happen to an experiment."""

    _entity = "experiment"
    _guards = EXPERIMENT_GUARDS

    _ = States.from_enum(
        ExperimentStatus,
        initial=ExperimentStatus.INITIALISED,
        final=ExperimentStatus.AGGREGATED,
        use_enum_instance=True,
    )

    start = _.INITIALISED.to(_.RUNNING)
    complete = _.RUNNING.to(_.COMPLETED, cond="all_processes_completed")
    aggregate = _.COMPLETED.to(_.AGGREGATED, cond="can_aggregate")
    fail = _.INITIALISED.to(_.FAILED) | _.RUNNING.to(_.FAILED) | _.COMPLETED.to(_.FAILED)
    interrupt = _.INITIALISED.to(_.INTERRUPTED) | _.RUNNING.to(_.INTERRUPTED)
    retry = _.FAILED.to(_.RUNNING)
    resume = _.INTERRUPTED.to(_.RUNNING)

    def all_processes_completed(self) -> bool:
        return self._passes("all_processes_completed")

    def can_aggregate(self) -> bool:
        return self._passes("can_aggregate")


class ProcessMachine(_RecordMachine[ProcessProgress]):
    """What may happen to one process of an experiment."""

    _entity = "process"
    _guards = PROCESS_GUARDS

    _ = States.from_enum(ProcessStatus, initial=ProcessStatus.PENDING, use_enum_instance=True)

    start = _.PENDING.to(_.RUNNING)
    complete = _.RUNNING.to(_.COMPLETED, cond="exited_cleanly")
    fail = _.RUNNING.to(_.FAILED)
    requeue = (
        _.FAILED.to(_.PENDING, cond="attempts_left")
        | _.FAILED.to(_.PENDING, cond="requested_by_user")
        | _.RUNNING.to(_.PENDING, cond="is_orphaned")
        | _.COMPLETED.to(_.PENDING, cond="result_lost")
    )

    def exited_cleanly(self) -> bool:
        return self._passes("exited_cleanly")

    def attempts_left(self) -> bool:
        return self._passes("attempts_left")

    def requested_by_user(self) -> bool:
        return self._passes("requested_by_user")

    def is_orphaned(self) -> bool:
        return self._passes("is_orphaned")

    def result_lost(self) -> bool:
        return self._passes("result_lost")


MACHINES: Final[dict[Entity, type[_RecordMachine[Any]]]] = {
    "experiment": ExperimentMachine,
    "process": ProcessMachine,
}


@cache
def edges(machine: type[_RecordMachine[Any]]) -> tuple[Edge, ...]:
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


def explain(
    entity: Entity,
    record: ExperimentState | ProcessProgress,
    event: str,
    facts: Facts,
    *,
    experiment_id: str,
    process: int | None = None,
) -> InvalidTransitionError:
    """The error with which the machine itself refuses *event*.

    Raises:
        AssertionError: The machine accepts what the table refused: the two disagree.
    """
    machine = MACHINES[entity](record, experiment_id=experiment_id, process=process)
    try:
        machine.send(event, **facts)
    except InvalidTransitionError as refusal:
        return refusal
    raise AssertionError(f"table and machine disagree on {entity} {event} from {record.status}")
