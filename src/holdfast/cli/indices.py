"""`--only 3,7` and `0-4,9`: processes as they are typed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from holdfast.errors import InvalidRequestError

if TYPE_CHECKING:
    from holdfast.orchestration.selecting import Selection
    from holdfast.store.manager import StateManager

__all__ = ["only_option", "selected"]

_C = TypeVar("_C", bound=Callable[..., Any])

#: As many as any experiment has, at most: a typing error must not take all memory.
_MOST: Final = 1_000_000


def _indices(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    found: set[int] = set()
    for part in value.split(","):
        found.update(_range(part.strip()))
    return tuple(sorted(found))


def _range(words: str) -> range:
    first, dash, last = (each.strip() for each in words.partition("-"))
    ends = (first, last) if dash else (first, first)
    if not all(each.isascii() and each.isdigit() for each in ends):
        raise click.BadParameter(f"{words!r} is no process; expected something like 3,7 or 0-4,9")
    if max(map(len, ends)) > 9 or max(map(int, ends)) >= _MOST:
        raise click.BadParameter(f"{words}: no experiment has so many processes")
    low, high = map(int, ends)
    if low > high:
        raise click.BadParameter(f"{words} ends before it begins")
    return range(low, high + 1)


def only_option(about: str) -> Callable[[_C], _C]:
    """`--only`, which gives ascending indices, or None."""
    return click.option("--only", metavar="INDICES", callback=_indices, help=about)


def selected(
    manager: "StateManager",
    experiment_id: str,
    only: Sequence[int] | None,
    *,
    failed_only: bool = False,
) -> "Selection":
    """The processes of an experiment that are meant.

    Raises:
        click.UsageError: It has not all of them.
        ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for a load.
    """
    from holdfast.orchestration.selecting import select

    try:
        return select(manager.load(experiment_id), only, failed_only=failed_only)
    except InvalidRequestError as err:
        raise click.UsageError(f"--{err}") from err
