"""How a notebook shows a record or a machine: in words, with a picture where there is a painter."""

TYPE_CHECKING = False  # imported with the package, which is not to cost `typing`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["shown"]

#: What draws an entity with words above, by MIME type. The package sets it: pictures are made of
#: the machines, so nothing here can know them.
painter: "Callable[[Any, str], dict[str, str]] | None" = None


def shown(entity: object, words: str) -> dict[str, str]:
    """A MIME bundle of *entity*, which *words* tell of."""
    return {"text/plain": words, **(painter(entity, words) if painter is not None else {})}
