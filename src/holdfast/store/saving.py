"""What a saved state changes against the stored one: at most one legal event of each record."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from holdfast.config.hashing import canonical_json
from holdfast.errors import InvalidTransitionError
from holdfast.guards import refusals
from holdfast.lifecycle import Change
from holdfast.records import ExperimentState, ProcessProgress
from holdfast.status import Entity

__all__ = ["transitions"]

_FIXED = ("experiment_id", "num_processes", "created_at")


def transitions(stored: ExperimentState, given: ExperimentState, at: datetime) -> list[Change]:
    """The transitions that lead from *stored* to *given*, processes first.

    Raises:
        InvalidTransitionError: A status differs by no single event that its machine allows.
        ValueError: Something that never changes was changed, or `config` or `extra` holds what
            JSON cannot.
        TypeError: `config` or `extra` holds an object that JSON does not have.
    """
    for name in _FIXED:
        before, after = getattr(stored, name), getattr(given, name)
        if before != after:
            raise ValueError(
                f"{stored.experiment_id}: {name} never changes; "
                f"stored is {before!r}, given {after!r}"
            )
    for kept in (given.config, given.extra):
        canonical_json(kept)  # what could be written but not read again would lose the whole state
    changes = []
    for index, before in stored.process_progress.items():
        after = given.process_progress[index]
        if after.status is not before.status:
            facts = {"exit_code": after.exit_code, "max_attempts": before.failures + 1}
            changes.append(
                _transition("process", stored, before, after, facts, at, index, judged=before)
            )
    if given.status is not stored.status:
        # `complete` asks about the processes, which this save may have moved as well.
        changes.append(_transition("experiment", stored, stored, given, {}, at, None, judged=given))
    return changes


def _transition(
    entity: Entity,
    state: ExperimentState,
    before: ExperimentState | ProcessProgress,
    after: ExperimentState | ProcessProgress,
    facts: Mapping[str, Any],
    at: datetime,
    index: int | None,
    *,
    judged: ExperimentState | ProcessProgress,
) -> Change:
    from holdfast.machines import MACHINES, edges, explain

    leading = [edge for edge in edges(MACHINES[entity]) if edge.target == after.status]
    declared = [edge for edge in leading if edge.source == before.status]
    for edge in declared:
        if not refusals(entity, judged, edge.guards, facts):
            return Change(
                entity=entity,
                process=index,
                event=edge.event,
                source=str(before.status),
                target=str(after.status),
                at=at,
                reason=after.reason,
                evidence="saved",
                fields={"status": after.status},
            )
    if declared and entity == "process":
        raise explain(
            entity,
            before,
            declared[0].event,
            facts,
            experiment_id=state.experiment_id,
            process=index,
        )
    machine = MACHINES[entity](before, experiment_id=state.experiment_id, process=index)
    raise InvalidTransitionError(
        entity=entity,
        experiment_id=state.experiment_id,
        process=index,
        event=declared[0].event if declared else f"become {after.status}",
        source=str(before.status),
        exists=bool(declared),
        refusals=refusals(entity, judged, declared[0].guards, facts) if declared else (),
        allowed=machine.allowed(),
        possible_from=() if declared else tuple(dict.fromkeys(edge.source for edge in leading)),
    )
