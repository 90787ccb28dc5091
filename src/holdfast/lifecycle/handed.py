"""What was handed over to an engine with a queue, which has it whether or not anybody watches."""

from collections.abc import Mapping
from typing import Any

from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ENGINE_TITLES, ProcessStatus

__all__ = ["handed_over", "whereabouts"]


def handed_over(state: ExperimentState) -> list[int]:
    """The running processes whose attempts such an engine has, as far as is recorded; ascending.

    An experiment that has any is not stale: its attempts go on, and end, without an owner.
    """
    running = state.processes.indices(ProcessStatus.RUNNING)
    return [index for index in running if state.processes[index].handle is not None]


def whereabouts(handle: Mapping[str, Any]) -> str:
    """Who has it, as people find it there: `Slurm (job 12_3)`."""
    data = handle.get("data")
    job = data.get("job") if isinstance(data, Mapping) else None
    name = str(handle.get("engine"))
    engine = ENGINE_TITLES.get(name, name)
    return engine if job is None else f"{engine} (job {job})"
