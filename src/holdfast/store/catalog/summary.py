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
        times: Sequence[datetime | None],
    ) -> "Summary":
        """The summary of an experiment that is finished: every process is completed."""
        created_at, started_at, finished_at, last_updated = times
        return cls(
            experiment_id,
            name,
            ExperimentStatus.AGGREGATED,
            reason,
            error_message,
            config_hash,
            num_processes,
            num_processes,
            0,
            0,
            0,
            created_at,
            started_at,
            finished_at,
            last_updated,
        )

    @classmethod
    def of(cls, state: ExperimentState) -> "Summary":
        """The summary of *state*."""
        over = state.status is ExperimentStatus.AGGREGATED
        return cls(
            state.experiment_id,
            state.name,
            state.status,
            state.reason,
            state.error_message,
            state.config_hash,
            state.num_processes,
            state.processes_completed,
            state.processes_failed,
            state.processes_running,
            state.processes_pending,
            state.created_at,
            state.started_at,
            state.finished_at,
            state.last_updated,
            None if over else state.owner,
            None if over else state.subprocess_pid,
        )
