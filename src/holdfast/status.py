"""The words of the two machines: statuses, reasons and what an entity is called.

Owns nothing but vocabulary; everything else imports it.
"""

from enum import StrEnum
from typing import Final, Literal

__all__ = [
    "ENGINE_ENDS",
    "ENGINE_TITLES",
    "SETTLED",
    "Entity",
    "ExperimentStatus",
    "ProcessStatus",
    "Reason",
]

Entity = Literal["experiment", "process"]


class ExperimentStatus(StrEnum):
    """Where an experiment stands; `aggregated` is final."""

    INITIALISED = "initialised"
    RUNNING = "running"
    COMPLETED = "completed"
    AGGREGATED = "aggregated"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class ProcessStatus(StrEnum):
    """Where one process of an experiment stands, whatever its number of attempts."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a status was reached, within the six and four statuses."""

    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    PERHAPS_MEMORY = "perhaps_memory"
    PREEMPTED = "preempted"
    STALL = "stall"
    USER = "user"
    STALE = "stale"
    LOST = "lost"
    RESULT_LOST = "result_lost"
    LAUNCH_ERROR = "launch_error"
    REUSED = "reused"
    DEADLINE = "deadline"
    TIME_LIMIT = "time_limit"


#: What an engine's word for an end that it brought about itself stands for.
ENGINE_ENDS: Final = {
    "timeout": Reason.TIME_LIMIT,
    "preempted": Reason.PREEMPTED,
    "cancelled": Reason.PREEMPTED,
}
#: What people call engines.
ENGINE_TITLES: Final = {"slurm": "Slurm", "dask": "Dask", "local": "this machine"}
#: Statuses in which no process may move: every process is completed there, and stays so.
SETTLED: Final = frozenset({ExperimentStatus.COMPLETED, ExperimentStatus.AGGREGATED})
