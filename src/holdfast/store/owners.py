"""The owner of an experiment as others see it: whether it lives, and is to be waited for."""

from holdfast import liveness
from holdfast.identity import LockState, Verdict
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import loading, locking
from holdfast.store.place import Place

__all__ = ["is_owned", "judged", "may_be_owned", "stray_view", "verdict"]


def verdict(place: Place, state: ExperimentState) -> Verdict:
    """Whether the owner of *state* lives, by its lock and its identity."""
    return judged(state, locking.lock_state(place))


def judged(state: ExperimentState, lock: LockState | None) -> Verdict:
    """As `verdict`, by the *lock* as it was seen."""
    if lock != "held" and state.owner is None and state.subprocess_pid is not None:
        return liveness.judge_legacy_pid(state.subprocess_pid)
    if state.owner is not None and state.owner.released:
        return liveness.judge_released(state.owner, lock=lock)
    return liveness.judge(state.owner, lock=lock)


def stray_view(place: Place, state: ExperimentState) -> str | None:
    """How the view disagrees with *state*, its journals', which no owner is about to mend."""
    if not state.epoch:
        return None
    problem = loading.view_problem(place, state, replay=False)
    if problem is None or is_owned(place, state):
        return None
    # Once more, now that there is no owner who could be about to refresh it.
    problem = loading.view_problem(place, state, replay=True)
    if problem is None:
        return None
    return f"{place.view_name} {problem}; the journal counts, and the next claim rewrites the file"


def is_owned(place: Place, state: ExperimentState) -> bool:
    """Whether somebody owns the experiment, or may: its view may lie a second behind."""
    return may_be_owned(state, locking.lock_state(place))


def may_be_owned(state: ExperimentState, lock: LockState | None) -> bool:
    """As `is_owned`, by the *lock* as it was seen."""
    if lock is not None or state.owner is None or state.owner.released:
        return lock == "held"
    return liveness.judge(state.owner).kind != "dead"
