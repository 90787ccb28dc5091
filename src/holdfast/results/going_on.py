"""Whether work that takes seconds is to go on: whoever does it asks now and then."""

from collections.abc import Callable

__all__ = ["GaveUpError", "GoingOn", "always", "check"]

#: Tells whether work is to go on: now and then it has a look.
GoingOn = Callable[[], bool]


class GaveUpError(Exception):
    """Raised by work that was asked to give up, and has left everything as it was."""


def always() -> bool:
    """Where nobody asks to give up."""
    return True


def check(going_on: GoingOn) -> None:
    """Raise GaveUpError unless it is *going_on*."""
    if not going_on():
        raise GaveUpError
