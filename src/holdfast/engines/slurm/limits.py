"""What a cluster allows, as its configuration says."""

from collections.abc import Mapping
from typing import Final, Self

import attrs

from holdfast.engines.slurm.parsing import first_number

__all__ = ["Limits"]

#: What is left of KillWait for a shim to see its command dead and to publish that.
_PUBLISHED_WITHIN_S: Final = 2.0
_SHORTEST_GRACE_S: Final = 1.0
#: Of all jobs that a controller keeps, those of one experiment; others want to submit, too.
_SHARE: Final = 0.8


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of a cluster.

    Attributes:
        most_tasks: Elements of one array; 0 where there are no arrays.
        most_jobs: Jobs that the controller keeps, those of all users.
        kill_wait_s: From TERM to KILL of a job that is cancelled, or reaches its time limit.
        remembers_s: How long a job that has ended is shown at least.
        accounting: Whether `sacct` knows how jobs ended that the controller has forgotten.
        told_s: How long before its end a preempted job may have been told; None if nobody says.
    """

    cluster: str = "cluster"
    version: str = ""
    proctrack: str = ""
    most_tasks: int = 1001
    most_jobs: int = 10_000
    kill_wait_s: float = 30.0
    remembers_s: float = 300.0
    told_s: float | None = None
    accounting: bool = False

    @classmethod
    def of(cls, config: Mapping[str, str], told_s: float | None = None) -> Self:
        """What `scontrol show config` says; Slurm's own defaults for what it does not."""
        default = cls()
        tasks = int(first_number(config, "MaxArraySize", default.most_tasks))
        most = first_number(config, "max_array_tasks", tasks)
        return cls(
            cluster=config.get("ClusterName") or default.cluster,
            version=config.get("SLURM_VERSION", ""),
            proctrack=config.get("ProctrackType", ""),
            # An index is below MaxArraySize, which so is how many there can be.
            most_tasks=min(tasks, int(most)),
            most_jobs=int(first_number(config, "MaxJobCount", default.most_jobs)),
            kill_wait_s=first_number(config, "KillWait", default.kill_wait_s),
            remembers_s=first_number(config, "MinJobAge", default.remembers_s),
            told_s=told_s,
            accounting=config.get("AccountingStorageType", "").endswith("slurmdbd"),
        )

    def grace_s(self, wanted_s: float) -> float:
        """The grace period that fits: else Slurm kills a shim before it publishes its outcome."""
        longest_s = max(self.kill_wait_s - _PUBLISHED_WITHIN_S, _SHORTEST_GRACE_S)
        return min(wanted_s, longest_s)

    def room(self, per_job: int) -> int:
        """How many attempts one experiment hands over at a time."""
        return max(int(self.most_jobs * _SHARE), 1) * per_job
