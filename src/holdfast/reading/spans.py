"""The attempts of an experiment over time: when each waited, ran and ended, and how.

Journals tell of those that ended, the state of those that run. One pass over both.
"""

from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import attrs

from holdfast.lifecycle.records import ExperimentState
from holdfast.results import spending
from holdfast.status import ProcessStatus, Reason
from holdfast.store.history import Spell

__all__ = ["Outcome", "Span", "spans"]

Outcome = Literal["completed", "failed", "interrupted", "running", "reused", "queued"]

_OUTCOMES: Final[dict[ProcessStatus, Outcome]] = {
    ProcessStatus.COMPLETED: "completed",
    ProcessStatus.FAILED: "failed",
    ProcessStatus.PENDING: "interrupted",
}


@attrs.frozen(kw_only=True)
class Span:
    """One attempt of a process; or the moment at which it was completed without one.

    Attributes:
        attempt: 0 of one that was completed by reuse.
        submitted_at: When an engine with a queue was given it; else None.
        started_at: None while it waits in a queue, or where it never began.
        ended_at: None while it waits or runs. Where nobody watched it end, the last trace of it.
        reason: Why it ended; None while it runs, or where that was not recorded.
    """

    index: int
    attempt: int
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    outcome: Outcome
    reason: Reason | None
    host: str | None


def spans(state: ExperimentState, folder: Path) -> list[Span]:
    """Every attempt of *state*, by process and number.

    Where the journals cannot be read, only the last attempt of each process.
    """
    found = {
        (each.process, each.attempt): _ended(state, folder, each)
        for each in spending.spells(folder)
        if each.process < state.num_processes
    }
    for index, process in enumerate(state.processes.values()):
        key = index, process.attempt
        if process.origin is not None:
            found[index, 0] = Span(
                index=index,
                attempt=0,
                submitted_at=None,
                started_at=None,
                ended_at=process.completed_at,
                outcome="reused",
                reason=process.reason,
                host=process.host,
            )
        elif process.attempt and key not in found and process.status is not ProcessStatus.PENDING:
            outcome: Outcome = "queued" if process.waits else "running"
            found[key] = Span(
                index=index,
                attempt=process.attempt,
                submitted_at=process.submitted_at,
                started_at=process.started_at,
                ended_at=process.completed_at,
                outcome=_OUTCOMES.get(process.status, outcome),
                reason=process.reason,
                host=process.host,
            )
    return [found[key] for key in sorted(found)]


def _ended(state: ExperimentState, folder: Path, spell: Spell) -> Span:
    return Span(
        index=spell.process,
        attempt=spell.attempt,
        submitted_at=spell.submitted_at,
        started_at=spell.started_at if spell.began else None,
        ended_at=max(spell.started_at, spending.ended_at(state, folder, spell)),
        outcome=_OUTCOMES[spell.outcome],
        reason=spell.reason,
        host=spell.host,
    )
