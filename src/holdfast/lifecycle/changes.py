"""What an event did to a record, and how it is done again: what journals keep, and `replay`."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import attrs

from holdfast.lifecycle.drafts import with_fields
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import Entity, Reason

__all__ = ["Change", "replay", "replay_many"]


@attrs.frozen(kw_only=True)
class Change:
    """What one event did to one record: what a journal keeps.

    Attributes:
        event: The machine's event; in journals of 0.1 `launched`, too, which is a `phase` now.
        at: When; becomes the experiment's `last_updated`.
        fields: The fields of the record that were set, typed, `status` among them if it moved.
    """

    entity: Entity
    process: int | None
    event: str
    source: str
    target: str
    at: datetime
    reason: Reason | None = None
    evidence: str | None = None
    fields: Mapping[str, Any]


def replay(state: ExperimentState, change: Change) -> ExperimentState:
    """*state* after *change*, which was judged when it was made: no guard is asked again."""
    return replay_many(state, (change,))


def replay_many(state: ExperimentState, changes: Iterable[Change]) -> ExperimentState:
    """*state* after *changes*, in their order.

    Raises:
        KeyError: A change of a process or of a field that there is not.
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
