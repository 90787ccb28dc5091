"""What a manager hands over to other tools, as soon as somebody says how.

Records are made by what reads a store, which lies above it: the package sets the hook.
"""

TYPE_CHECKING = False  # imported with the package, which is not to cost `typing`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from holdfast.lifecycle.records import ExperimentState
__all__ = ["handed"]

#: Makes the records of an experiment of a manager, or of all, in a form of `reading.frames`.
maker: "Callable[[Any, str | ExperimentState | None, str], Any] | None" = None


def handed(manager: "Any", experiment: "str | ExperimentState | None", form: str) -> "Any":
    """What *maker* makes."""
    assert maker is not None, "`import holdfast` sets it"
    return maker(manager, experiment, form)
