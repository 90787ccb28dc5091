"""How long an experiment has been going on, and until when something of it is known."""

from datetime import UTC, datetime, timedelta

import attrs

import experiments
from holdfast.reading import times
from holdfast.status import ExperimentStatus, Reason
from holdfast.store.manager import StateManager


def test_what_cleanup_found_dead_has_no_duration_and_ends_at_its_last_trace(tmp_path):
    """When an owner died, nobody knows; that it was found out days later says nothing."""
    with experiments.going_on(StateManager(tmp_path), 12, running=3) as claim:
        state = claim.state
    now = datetime.now(UTC) + timedelta(days=2)
    found = attrs.evolve(
        state, status=ExperimentStatus.INTERRUPTED, reason=Reason.STALE, finished_at=now
    )
    since = times.began(found)
    assert times.elapsed_s(since, found, now, on=False) is None
    assert times.known_until(found, now, on=False) < now - timedelta(days=1)
    assert times.known_until(state, now, on=False) == state.last_updated
    assert times.known_until(state, now, on=True) == now
    assert times.elapsed_s(since, state, now, on=True) == (now - since).total_seconds()
