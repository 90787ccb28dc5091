"""What bounds an attempt: as it is configured, and as rules have set it for one process."""

from collections.abc import Mapping

from holdfast.config import engine
from holdfast.config.declaration import Limits, LimitsTable, check_limits
from holdfast.config.rules import in_force
from holdfast.lifecycle.records import ExperimentState, ProcessProgress

__all__ = ["memory_bytes", "of_state"]


def of_state(state: ExperimentState) -> Limits:
    """The limits of every attempt of *state* for which no rule has set another."""
    table = state.config.get("limits")
    found, _ = check_limits(table if isinstance(table, Mapping) else {})
    return Limits.of(found or LimitsTable(), engine.of(state.config))


def memory_bytes(limits: Limits, process: ProcessProgress) -> float | None:
    """What the memory of the last attempt of *process* was bounded to; None if it was not."""
    asked = (process.usage or {}).get("requested_memory_bytes")
    if asked is not None:
        return asked
    replaced = in_force(limits, process.limits).get("memory_bytes")
    return limits.memory_bytes if replaced is None else replaced["to"]
