"""What an experiment asks of the engine that runs it, as `[engine]` of its file says."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

import attrs

__all__ = ["ENGINES", "EngineName", "EngineOptions", "is_own"]

EngineName = Literal["local", "slurm", "dask"]
#: Every engine that can be named.
ENGINES: Final[tuple[EngineName, ...]] = get_args(EngineName)

#: Options of `sbatch` with which jobs would not be found again, or not be an attempt each.
_OWN: Final = tuple(
    f"--{name}"
    for name in (
        *("array", "chdir", "cluster", "clusters", "comment", "error", "export", "export-file"),
        *("help", "job-name", "no-requeue", "open-mode", "output", "parsable", "requeue", "signal"),
        *("test-only", "usage", "version", "wait", "wrap"),
    )
)
_OWN_LETTERS: Final = frozenset("aDehJMoVW?")

_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class EngineOptions:
    """What runs the attempts, and what it is asked for. No part of the work.

    A command is one process or, with `ranks`, one launcher.

    Attributes:
        name: `"local"`, this machine; `"slurm"`; or `"dask"`. `--engine` names another one.
        partition: Of Slurm, where jobs wait; None for the site's default.
        account: Of Slurm, who pays; None for the site's default.
        time_s: Of Slurm, the time limit of a job; None for the partition's default. A job that
            reaches it is interrupted, not failed.
        cpus: Of Slurm, CPUs of one command, on each of its nodes; None for what the partition
            gives.
        memory_bytes: Of Slurm, memory of one command, on each of its nodes; None for what the
            partition gives. `K`, `M`, `G` and `T` are powers of 1024.
        gpus: Of Slurm, GPUs of one command, on each of its nodes; None for none.
        nodes: Of Slurm, nodes of one job, whose command starts its ranks on all of them by `srun`
            or `torchrun`; None for one.
        per_job: Of Slurm, how many commands share one job.
        extra: Of Slurm, further options of `sbatch`, each as one word.
        python: Of Slurm, the Python that runs holdfast on the nodes; None for this one.
        grace_s: How long the files of an attempt that is over by the engine's word may take to be
            seen here.
        address: Of Dask, the scheduler, as in `"tcp://host:8786"`; None for a cluster on this
            machine that ends with the run.
        resources: Of Dask, what one command holds of a worker's resources.
    """

    name: EngineName = "local"
    partition: str | None = None
    account: str | None = None
    time_s: float | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    nodes: int | None = None
    per_job: int = 1
    extra: tuple[str, ...] = ()
    python: str | None = None
    grace_s: float = 30.0
    address: str | None = None
    resources: Mapping[str, float] = _NOTHING


def is_own(option: str) -> bool:
    """Whether *option* of `sbatch`, one word, is for holdfast to say, and not for `extra`."""
    if option.startswith("--"):
        flag = option.partition("=")[0]
        # sbatch takes the beginning of a name for all of it.
        return any(each.startswith(flag) for each in _OWN)
    return option[1:2] in _OWN_LETTERS
