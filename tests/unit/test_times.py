"""How long an experiment has been going on, and until when something of it is known."""

import os
from datetime import UTC, datetime, timedelta

import attrs

import experiments
from holdfast.attempts.names import progress_path
from holdfast.identity import Verdict
from holdfast.reading import times
from holdfast.reading.outliving import Outlived, outlived
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store.attempted import attempt_of
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


def test_time_ends_with_the_last_report_where_nothing_is_alive(tmp_path):
    """It is later than the last record; and what is ahead of our clock is not believed."""
    manager = StateManager(tmp_path)
    with experiments.going_on(manager, 12, running=3) as claim:
        state = claim.state
    folder, dead = (
        manager.folder(state.experiment_id),
        Verdict(kind="dead", method="lock", compared="its lock", observer="us"),
    )
    now = datetime.now(UTC) + timedelta(days=2)
    reported = now - timedelta(days=1)
    index = state.processes.indices(ProcessStatus.RUNNING)[0]
    path = progress_path(folder, attempt_of(state, index))
    path.write_text('{"step": 1}\n')
    os.utime(path, (reported.timestamp(),) * 2)
    left = outlived(state, folder, dead, None, now)
    assert left == Outlived(attempts=0, seen=False, last=reported)
    assert times.known_until(state, now, on=False, left=left) == reported
    since = times.began(state)
    assert since is not None
    lasted_s = times.elapsed_s(since, state, now, on=False, left=left)
    assert lasted_s == (reported - since).total_seconds()
    os.utime(path, ((now + timedelta(days=1)).timestamp(),) * 2)
    left = outlived(state, folder, dead, None, now)
    assert left is not None
    assert left.last == now


def test_an_experiment_that_somebody_drives_has_outlived_nobody(tmp_path):
    """Nothing is looked at then."""
    with experiments.going_on(StateManager(tmp_path), 12, running=3) as claim:
        alive = Verdict(kind="alive", method="lock", compared="its lock", observer="us")
        assert outlived(claim.state, tmp_path / "none", alive, None, datetime.now(UTC)) is None
