"""A machine on a record: built, asked for one transition, dropped. The record is the only state.

What is declared with it is in `machines`. A machine holds no data and decides nothing itself:
`decisions` does, and python-statemachine has to come to the same.
"""

from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs
from statemachine import StateMachine
from statemachine.event import BoundEvent
from statemachine.exceptions import TransitionNotAllowed

from holdfast.errors import InvalidRequestError
from holdfast.lifecycle import decisions, display
from holdfast.lifecycle.effects import Told, fields
from holdfast.lifecycle.events import requested
from holdfast.lifecycle.guards import GUARDS, Facts, Guard
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import Entity, ExperimentStatus, ProcessStatus, Reason

__all__ = ["RecordMachine"]

Record = TypeVar("Record", ExperimentState, ProcessProgress)

#: Only to have the rest of a request judged, where nobody said when.
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _condition(guard: str) -> Callable[[Any], bool]:
    def passes(machine: Any) -> bool:
        return bool(machine._passes(guard))

    return passes


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

    def __init_subclass__(cls) -> None:
        """Have every guard of the entity as a condition of its name, which `cond=` then finds."""
        super().__init_subclass__()
        for name in GUARDS[cls.entity]:
            setattr(cls, name, _condition(name))

    def __init__(
        self, record: Record, *, experiment_id: str = "", process: int | None = None
    ) -> None:
        """Stand where *record* stands. The id and number of a process say whose it is."""
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
        if self.entity == "process":
            facts["experiment_id"] = self.experiment_id
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

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows: the diagram, with the status that it is in."""
        return display.shown(self, repr(self))

    # The library's own need Graphviz.
    def _repr_svg_(self) -> str | None:
        return self._repr_mimebundle_().get("image/svg+xml")

    def _repr_html_(self) -> str | None:
        return self._repr_mimebundle_().get("text/html")

    def allowed(self) -> tuple[str, ...]:
        """The events that could be accepted now, in the order of declaration.

        Guards that depend on facts of the event are taken to pass; those that the record alone
        decides are asked.
        """
        return decisions.allowed(self.entity, self.record)
