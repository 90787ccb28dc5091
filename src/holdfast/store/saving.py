"""What a saved state changes against the stored one: at most one legal event of each record."""

from datetime import datetime
from typing import TYPE_CHECKING

from holdfast.config.hashing import canonical_json
from holdfast.lifecycle import decisions
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.drafts import with_fields
from holdfast.lifecycle.records import ExperimentState, ProcessProgress

if TYPE_CHECKING:
    from holdfast.lifecycle.edges import Edge

__all__ = ["transitions"]

_FIXED = ("experiment_id", "num_processes", "ranks", "created_at")


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
            left = [
                rank
                for rank in (stored.gang(index) if stored.has_gangs else ())
                if given.process_progress[rank].status is not after.status
            ]
            facts = {
                "exit_code": after.exit_code,
                "max_attempts": before.failures + 1,
                "experiment_status": stored.status,
                "ranks_left": tuple(left),
            }
            edge = decisions.leading(
                "process",
                before,
                after.status,
                facts,
                experiment_id=stored.experiment_id,
                process=index,
            )
            changes.append(_change(edge, index, after, at))
    if given.status is not stored.status:
        # `complete` asks about the processes, which this save may have moved as well.
        judged = with_fields(given, {"status": stored.status})
        edge = decisions.leading(
            "experiment", judged, given.status, {}, experiment_id=stored.experiment_id
        )
        changes.append(_change(edge, None, given, at))
    return changes


def _change(
    edge: "Edge", index: int | None, after: ExperimentState | ProcessProgress, at: datetime
) -> Change:
    return Change(
        entity="experiment" if index is None else "process",
        process=index,
        event=edge.event,
        source=edge.source,
        target=edge.target,
        at=at,
        reason=after.reason,
        evidence="saved",
        fields={"status": after.status},
    )
