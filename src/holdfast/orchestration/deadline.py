"""`limits.deadline`: until when an experiment may run, from its first start, over all its runs."""

from datetime import datetime, timedelta

import attrs

from holdfast.config.durations import written
from holdfast.config.experiment_file import Limits
from holdfast.lifecycle.records import ExperimentState

__all__ = ["Deadline", "Passing", "deadline_of"]


@attrs.frozen(kw_only=True)
class Deadline:
    """Two moments by the clock.

    Attributes:
        closes: From then on nothing is started, since it could only save and end, and programs
            should stop by themselves (`HOLDFAST_STOP_AT`).
        at: Then what still runs is stopped.
        given_s: What the experiment was given.
    """

    closes: datetime
    at: datetime
    given_s: float

    def __str__(self) -> str:
        """For people: since when nothing is started any more, and how to go on."""
        closes, at = (f"{each:%Y-%m-%d %H:%M:%S}Z" for each in (self.closes, self.at))
        return (
            f"its deadline is {at} (limits.deadline = {written(self.given_s)}, from the first "
            f"start), and nothing starts after {closes}; "
            f"`resume --set limits.deadline=…` gives it more time"
        )


def deadline_of(state: ExperimentState, limits: Limits) -> Deadline | None:
    """That of an experiment that was started; None if it has none."""
    given_s = limits.deadline_s
    if given_s is None or state.started_at is None:
        return None
    try:
        at = state.started_at + timedelta(seconds=given_s)
    except OverflowError:
        return None  # beyond the calendar
    ahead_s = min(limits.grace_s, given_s / 2)
    return Deadline(closes=at - timedelta(seconds=ahead_s), at=at, given_s=given_s)


class Passing:
    """The time of an experiment while it runs.

    A clock that is set back meanwhile gives it no more of that: what has passed by the monotonic
    clock has passed.
    """

    def __init__(self, deadline: Deadline | None, now: datetime, monotonic_s: float) -> None:
        """Begin to watch at *now*."""
        self.deadline = deadline
        self._began, self._began_s = now, monotonic_s

    def closed(self, now: datetime, monotonic_s: float) -> bool:
        """Whether nothing is to be started any more."""
        return (
            self.deadline is not None and self._at_least(now, monotonic_s) >= self.deadline.closes
        )

    def over(self, now: datetime, monotonic_s: float) -> bool:
        """Whether what runs is to be stopped."""
        return self.deadline is not None and self._at_least(now, monotonic_s) >= self.deadline.at

    def _at_least(self, now: datetime, monotonic_s: float) -> datetime:
        return max(now, self._began + timedelta(seconds=monotonic_s - self._began_s))
