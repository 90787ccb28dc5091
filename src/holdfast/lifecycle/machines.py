"""The two machines, declared with python-statemachine: the one place that says what may happen.

A machine holds no data. It is built on a record, asked for one transition and dropped. What
`holdfast.lifecycle.decisions` decides by is read off these declarations; the diagrams are, too.
"""

from collections.abc import Container, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

import attrs
from statemachine import StateMachine
from statemachine.event import BoundEvent
from statemachine.exceptions import TransitionNotAllowed
from statemachine.states import States

from holdfast.errors import InvalidRequestError
from holdfast.lifecycle import decisions
from holdfast.lifecycle.effects import Told, fields
from holdfast.lifecycle.events import requested
from holdfast.lifecycle.guards import GUARDS, Facts, Guard
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import Entity, ExperimentStatus, ProcessStatus, Reason

__all__ = [
    "ENDINGS",
    "MACHINES",
    "Edge",
    "ExperimentMachine",
    "ProcessMachine",
    "RecordMachine",
    "edges",
    "table",
]

Record = TypeVar("Record", ExperimentState, ProcessProgress)

#: What an attempt that ended becomes: the first of these events whose guards pass. Completed before
#: requeued before failed, so that only what nothing excuses is charged to the process.
ENDINGS: Final = ("complete", "requeue", "fail")


#: Only to have the rest of a request judged, where nobody said when.
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen
class Edge:
    """One declared transition; *guards* must all pass."""

    event: str
    source: str
    target: str
    guards: tuple[str, ...]


class _Method(BoundEvent):
    """An event as a method of its machine. The library's own would go round our `send`."""

    def __call__(self, *args: Any, **facts: Any) -> Any:
        machine: Any = self._sm
        return machine.send(self.id, *args, **facts)


class RecordMachine(StateMachine, Generic[Record]):
    """A machine on a record: `send` returns the record that the event makes of it.

    `StateMachine`, not `StateChart`: the latter swallows errors of callbacks and moves anyway, and
    ignores events that it does not know.
    """

    entity: ClassVar[Entity]

    def __init__(
        self, record: Record, *, experiment_id: str = "", process: int | None = None
    ) -> None:
        """Stand where *record* stands. The id and process number only name it in errors."""
        self.record: Record = record
        self.experiment_id = experiment_id or getattr(record, "experiment_id", "")
        self.process = process
        self._guards: Mapping[str, Guard] = GUARDS[self.entity]
        self._facts: Facts = {}
        self._only: Container[str] | None = None
        super().__init__(start_value=record.status)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if type(found) is BoundEvent:
            return _Method(id=found.id, name=found.name, _sm=self)
        return found

    @property
    def status(self) -> ExperimentStatus | ProcessStatus:
        """Where the record stands."""
        return self.record.status

    # The library drops guard arguments named `state`, `source`, `target`, `model` and `event`, so
    # guards read the facts from here instead.
    def _passes(self, guard: str) -> bool:
        if self._only is not None and guard not in self._only:
            return True
        return self._guards[guard](self.record, self._facts) is None

    def send(  # type: ignore[override]
        self,
        event: str,
        *,
        at: datetime | None = None,
        reason: Reason | str | None = None,
        error_message: str | None = None,
        **facts: Any,
    ) -> Record:
        """Ask for one transition; returns the record that a claim would store.

        Args:
            at: When; without it, the times that the event sets are None.
            facts: What the guards read and the record keeps, as for `Requested`. Those of a process
                have its `experiment_status` only if it is given here.

        The events are methods, too: `machine.resume(at=now)`.

        Raises:
            InvalidTransitionError: There is no such transition, or a guard refused.
            InvalidRequestError: A fact that nobody knows, or something of the wrong kind.
        """
        if not isinstance(event, str):
            raise InvalidRequestError("event", f"must be text, got {event!r:.80}")
        # Judged as a claim would: what it refuses to store is no record of ours.
        told = requested(
            event,
            at=_NO_TIME if at is None else at,
            reason=reason,
            error_message=error_message,
            facts=facts,
        )
        edge = decisions.decide(
            self.entity,
            self.record,
            event,
            facts,
            experiment_id=self.experiment_id,
            process=self.process,
        )
        target = self.move(event, facts)
        if target != edge.target:
            raise AssertionError(f"decided {edge}, but the machine went to {target}")
        occasion = Told(at, told.reason, error_message, facts)
        changed = fields(self.entity, self.record, edge, occasion)
        if at is not None and self.entity == "experiment":
            changed["last_updated"] = at
        self.record = attrs.evolve(self.record, **changed)
        return self.record

    def move(self, event: str, facts: Facts, *, only: Container[str] | None = None) -> str | None:
        """Let python-statemachine itself judge and move; the record is left alone.

        Args:
            only: The guards to ask, the others pass; None for all of them.

        Returns:
            The status that it is in now, None if it refused.
        """
        self._facts, self._only = facts, only
        try:
            super().send(event)
        except TransitionNotAllowed:
            return None
        return str(self.current_state_value)

    def __repr__(self) -> str:
        who = self.experiment_id or "a record"
        which = "" if self.process is None else f"/{self.process}"
        return f"<{type(self).__name__} of {who}{which}: {self.status}>"

    def _repr_svg_(self) -> str:
        from holdfast import diagrams

        return diagrams.diagram(self)

    def _repr_html_(self) -> str:
        from holdfast import diagrams

        return diagrams.html(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows: the diagram, with the status that it is in."""
        return {
            "text/plain": repr(self),
            "text/html": self._repr_html_(),
            "image/svg+xml": self._repr_svg_(),
        }

    def allowed(self) -> tuple[str, ...]:
        """The events that could be accepted now, in the order of declaration.

        Guards that depend on facts of the event are taken to pass; those that the record alone
        decides are asked.
        """
        return decisions.allowed(self.entity, self.record)


class ExperimentMachine(RecordMachine[ExperimentState]):
    """What may happen to an experiment."""

    entity = "experiment"

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


class ProcessMachine(RecordMachine[ProcessProgress]):
    """What may happen to one process of an experiment."""

    entity = "process"

    _ = States.from_enum(ProcessStatus, initial=ProcessStatus.PENDING, use_enum_instance=True)

    # First everywhere: whatever else an event lacks, this is what the user has to know.
    start = _.PENDING.to(_.RUNNING, cond="experiment_is_open")
    complete = _.RUNNING.to(_.COMPLETED, cond=["experiment_is_open", "exited_cleanly"])
    fail = _.RUNNING.to(_.FAILED, cond="experiment_is_open")
    requeue = (
        _.FAILED.to(_.PENDING, cond=["experiment_is_open", "attempts_left"])
        | _.FAILED.to(_.PENDING, cond=["experiment_is_open", "requested_by_user"])
        | _.RUNNING.to(_.PENDING, cond=["experiment_is_open", "was_interrupted"])
        | _.RUNNING.to(_.PENDING, cond=["experiment_is_open", "is_orphaned"])
        | _.COMPLETED.to(_.PENDING, cond=["experiment_is_open", "result_lost"])
    )

    def experiment_is_open(self) -> bool:
        return self._passes("experiment_is_open")

    def exited_cleanly(self) -> bool:
        return self._passes("exited_cleanly")

    def attempts_left(self) -> bool:
        return self._passes("attempts_left")

    def requested_by_user(self) -> bool:
        return self._passes("requested_by_user")

    def is_orphaned(self) -> bool:
        return self._passes("is_orphaned")

    def was_interrupted(self) -> bool:
        return self._passes("was_interrupted")

    def result_lost(self) -> bool:
        return self._passes("result_lost")


MACHINES: Final[dict[Entity, type[RecordMachine[Any]]]] = {
    "experiment": ExperimentMachine,
    "process": ProcessMachine,
}


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
