"""How a notebook shows what holdfast gives it: in words, with pictures where there is a painter."""

TYPE_CHECKING = False  # imported with the package, which is not to cost `typing`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from holdfast.lifecycle.records import ExperimentState

__all__ = ["followed", "shown"]

#: Characters of what is told: names and errors are as long as others made them.
_LONGEST = 2000

#: What draws an entity with words above, by MIME type. The package sets it: pictures are made of
#: the machines, and tables of what was read, so nothing here can know them.
painter: "Callable[..., dict[str, str]] | None" = None

#: Shows how an experiment stands as long as a context lasts. The package sets it, too.
follower: "Callable[..., AbstractContextManager[object]] | None" = None


def shown(
    entity: object,
    words: str,
    aggregate: "Mapping[str, Any] | None" = None,
    folder: "Path | None" = None,
) -> dict[str, str]:
    """A MIME bundle of *entity*, which *words* tell of, and of the *aggregate* it came to.

    Args:
        folder: Where what failed processes said is to be found.
    """
    from holdfast.errors import printable  # only where something is shown

    words = printable(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…")
    painted = painter(entity, words, aggregate, folder) if painter is not None else {}
    return {"text/plain": words, **painted}


def followed(
    look: "Callable[[], ExperimentState]", folder: "Path", *, whole: bool
) -> "AbstractContextManager[object]":
    """A context in which a notebook shows the state that *look* gives; see `reading.kernel`."""
    if follower is not None:
        return follower(look, folder, whole=whole)
    from contextlib import nullcontext

    return nullcontext()
