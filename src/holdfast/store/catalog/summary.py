"""What a listing shows of an experiment: a light record that can be had without loading it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus, Reason

__all__ = ["TIMES", "Summary"]

#: The names of the times that a summary has.
TIMES: Final = ("created_at", "started_at", "finished_at", "last_updated")


class Summary(NamedTuple):
    """One experiment of a listing; its fields are those of `ExperimentState`.

    A tuple, since 100,000 of them are made for one listing.

    Attributes:
        owner: The last owner; None for what is aggregated, which nobody owns any more.
        subprocess_pid: As in `ExperimentState`; None for what is aggregated.
    """

    experiment_id: str
    name: str | None
    status: ExperimentStatus
    reason: Reason | None
    error_message: str | None
    config_hash: str | None
    num_processes: int
    processes_completed: int
    processes_failed: int
    processes_running: int
    processes_pending: int
    processes_reused: int
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    last_updated: datetime | None
    owner: ProcessIdentity | None = None
    subprocess_pid: int | None = None

    @property
    def times(self) -> tuple[datetime | None, ...]:
        """Those of `TIMES`, in their order."""
        return self.created_at, self.started_at, self.finished_at, self.last_updated

    @classmethod
    def aggregated(
        cls,
        experiment_id: str,
        name: str | None,
        reason: Reason | None,
        error_message: str | None,
        config_hash: str | None,
        num_processes: int,
        reused: int,
        times: Sequence[datetime | None],
    ) -> "Summary":
        """The summary of an experiment that is finished: every process is completed."""
        over, n = ExperimentStatus.AGGREGATED, num_processes
        created, started, finished, updated = times
        return cls(
            *(experiment_id, name, over, reason, error_message, config_hash),
            *(n, n, 0, 0, 0, reused),
            *(created, started, finished, updated),
        )

    @classmethod
    def of(cls, state: ExperimentState) -> "Summary":
        """The summary of *state*."""
        summary = cls(*(getattr(state, name) for name in cls._fields))
        if state.status is ExperimentStatus.AGGREGATED:
            return summary._replace(owner=None, subprocess_pid=None)
        return summary
