"""How long an experiment has been going on: since its first process began, not since it queued."""

from datetime import datetime
from typing import TYPE_CHECKING

from holdfast.config.engine import is_local
from holdfast.identity import Verdict
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading.engines import HandedOver, is_left
from holdfast.status import ExperimentStatus, Reason

if TYPE_CHECKING:
    from holdfast.reading.outliving import Outlived
    from holdfast.store.catalog.summary import Summary

__all__ = ["began", "elapsed_s", "goes_on", "known_until"]


def began(state: ExperimentState) -> datetime | None:
    """When the first of its processes began; None if none has.

    Those of this machine begin when the experiment is started, or as good as.
    """
    if is_local(state.config):
        return state.started_at
    own = (each.started_at for each in state.process_progress.values() if each.origin is None)
    return min((at for at in own if at is not None), default=None)


def goes_on(
    state: "ExperimentState | Summary", living: Verdict | None, having: HandedOver | None
) -> bool:
    """Whether something of it runs, or may, by its owner's verdict and what an engine has."""
    if state.status is not ExperimentStatus.RUNNING:
        return False
    return having is not None or not is_left(state, living)


def elapsed_s(
    since: datetime | None,
    state: "ExperimentState | Summary",
    now: datetime,
    *,
    on: bool,
    left: "Outlived | None" = None,
) -> float | None:
    """Seconds *since* it began, until it ended or, without an owner, was last heard of.

    None if its owner died: somebody found that out, perhaps days later, and nobody knows when it
    was.

    Args:
        on: Whether it goes on; see `goes_on`.
        left: What outlived its owner: as long as an attempt is seen alive, time goes on.
    """
    if state.reason is Reason.STALE and not on:
        return None
    until = now if on else _heard_of(state, left)
    return None if since is None or until is None else max((until - since).total_seconds(), 0.0)


def _heard_of(state: "ExperimentState | Summary", left: "Outlived | None") -> datetime | None:
    """When it ended or, without an owner, was last heard of."""
    if left is not None and left.last is not None:
        return left.last
    return state.finished_at or state.last_updated


def known_until(
    state: ExperimentState, now: datetime, *, on: bool, left: "Outlived | None" = None
) -> datetime:
    """The last moment at which attempts of *state* that have no end are known to have been there.

    Args:
        on: Whether it goes on; see `goes_on`.
        left: What outlived its owner.
    """
    if on:
        return now
    if state.reason is not Reason.STALE:
        return _heard_of(state, left) or now
    # What came later was recorded by who found its owner dead.
    every = state.process_progress.values()
    traces = (
        at for each in every for at in (each.submitted_at, each.started_at, each.completed_at)
    )
    return max((at for at in traces if at is not None), default=state.started_at or now)
