"""What a running experiment waits for: slots that others have."""

from collections.abc import Mapping
from pathlib import Path

from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus

__all__ = ["slots_words"]


def slots_words(state: ExperimentState, folder: Path) -> list[str]:
    """`waits for gpu: gpu.0 is held by exp_7 3.1 since …`, a line for each kind.

    Empty if nothing is left to be started, or nobody but itself has any.
    """
    needs, slots = state.config.get("needs"), state.config.get("slots")
    if not isinstance(needs, Mapping) or not isinstance(slots, Mapping):
        return []
    if state.status is not ExperimentStatus.RUNNING or not state.processes_pending:
        return []
    from holdfast.slots.holders import waits
    from holdfast.slots.listing import waited_for

    # The names of GPUs by UUID are not those of their files.
    declared = {
        kind: set(map(str, slots[kind]))
        if isinstance(slots.get(kind), list) and not any(map(_is_uuid, slots[kind]))
        else None
        for kind in needs
    }
    found = waited_for(declared)
    return waits(each for each in found if each.holder is None or not each.holder.is_of(folder))


def _is_uuid(name: object) -> bool:
    return isinstance(name, str) and name.startswith("GPU-")
