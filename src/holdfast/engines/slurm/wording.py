"""What a state of Slurm's means: its word for the attempts of a task."""

from datetime import datetime, timedelta
from typing import Final

from holdfast.attempts.names import AttemptName
from holdfast.engines.contract import EngineWord, Handle, WordKind
from holdfast.engines.slurm.parsing import Job

__all__ = ["WAITS", "kind_of", "word_of"]

#: Kinds of what has not begun.
WAITS: Final = frozenset({"queued", "held"})

_KINDS: Final[dict[str, WordKind]] = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_FED": "queued",
    "REQUEUE_HOLD": "held",
    "SPECIAL_EXIT": "held",
    "RESV_DEL_HOLD": "held",
    "RUNNING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "COMPLETING": "completing",
    "STAGE_OUT": "completing",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "BOOT_FAIL": "failed",
    "LAUNCH_FAILED": "failed",
    "RECONFIG_FAIL": "failed",
    "CANCELLED": "cancelled",
    "DEADLINE": "cancelled",
    "TIMEOUT": "timeout",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node_fail",
    "OUT_OF_MEMORY": "out_of_memory",
}

#: Reasons that do not go away by waiting.
_HELD: Final = {
    "AccountNotAllowed",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "JobHeldAdmin",
    "JobHeldUser",
    "JobHoldMaxRequeue",
    "PartitionConfig",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
}


def kind_of(job: Job) -> WordKind:
    """The kind of word that a line of `squeue` stands for."""
    kind = _KINDS.get(job.state.partition(" ")[0], "unknown")  # `CANCELLED by 1000`
    # `launch failed requeued held` of a controller that was killed, and its like.
    if kind == "queued" and (job.reason in _HELD or "held" in job.reason.replace("_", " ").lower()):
        return "held"
    return kind


def word_of(
    name: AttemptName, job: Job, handle: Handle | None = None, *, told_s: float | None = None
) -> EngineWord:
    """The word for an attempt whose task is in *job*; *told_s*: see `Limits`."""
    kind = kind_of(job)
    said = job.state if not job.reason else f"{job.state} ({job.reason})"
    waits = kind in WAITS
    return EngineWord(
        name,
        kind,
        f"Slurm says {said}" if kind == "unknown" else said,
        host=None if waits else job.host or job.nodes,
        at=_at(kind, job, told_s),
        handle=handle,
    )


def _at(kind: WordKind, job: Job, told_s: float | None) -> datetime | None:
    if kind in WAITS:
        return job.submitted_at
    if kind in ("running", "completing"):
        return job.started_at
    if kind == "timeout" and job.started_at is not None and job.limit_s is not None:
        # Its end is when nothing of it was left; TERM it was sent at its limit at the earliest.
        limit = job.started_at + timedelta(seconds=job.limit_s)
        return limit if job.ends_at is None else min(limit, job.ends_at)
    if kind == "preempted":
        # It may have had so long to end by itself.
        if job.ends_at is None or told_s is None:
            return None
        return job.ends_at - timedelta(seconds=told_s)
    return job.ends_at
