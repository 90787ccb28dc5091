"""How an experiment is to be run, from its configuration and what its engine takes."""

from collections.abc import Iterator
from typing import Final

from holdfast.attempts.records import Attempt
from holdfast.config.experiment_file import Experiment
from holdfast.engines.contract import LOCAL, Engine
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.capacity import usable_cpus
from holdfast.orchestration.launching import Launcher
from holdfast.orchestration.rules import limits_of, resources_of
from holdfast.orchestration.scheduling import Policy
from holdfast.status import ProcessStatus

__all__ = ["policy", "samples"]

#: Of an engine that has a queue and no limit.
_NO_LIMIT: Final = 1_000_000


def policy(experiment: Experiment, jobs: int | None, engine: Engine) -> Policy:
    """What *experiment* says, and at most *jobs* commands at a time, if anybody asks for that."""
    return Policy(
        jobs=jobs or experiment.limits.jobs or _room(experiment, engine),
        max_attempts=experiment.retry.max_attempts,
        max_interruptions=experiment.retry.max_interruptions,
        backoff_s=experiment.retry.backoff_s,
        rules=experiment.retry.rules,
        limits=experiment.limits,
        fail_fast=experiment.limits.fail_fast,
    )


def _room(experiment: Experiment, engine: Engine) -> int:
    if engine.name == LOCAL:
        return max(1, usable_cpus() // experiment.rank_count)
    room = engine.room()
    return _NO_LIMIT if room is None else max(1, room)


def samples(launcher: Launcher, state: ExperimentState) -> Iterator[Attempt]:
    """One attempt of each kind that is to be started, as an engine is asked beforehand; makes
    nothing.
    """
    seen: set[tuple[object, ...]] = set()
    for index in state.processes.indices(ProcessStatus.PENDING, ProcessStatus.FAILED):
        process = state.processes[index]
        limits = limits_of(launcher.experiment.limits, process)
        resources = resources_of(limits, launcher.experiment.limits)
        kind = (limits.grace_s, limits.timeout_s, *sorted(resources.items()))
        if kind in seen:
            continue
        seen.add(kind)
        yield Attempt(
            name=launcher.name(index, process.attempt + 1),
            argv=launcher.experiment.argv(index, {}),
            cwd=launcher.cwd,
            timeout_s=limits.timeout_s,
            grace_s=limits.grace_s,
            folder=launcher.folder,
            resources=resources,
        )
