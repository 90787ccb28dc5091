"""`holdfast wait`: until experiments that others drive are over; and how such a wait passes."""

import time

__all__ = ["pause"]


def pause(seconds: float) -> None:
    """Let time pass before the next look.

    Polled, since nothing tells across hosts that somebody recorded something.
    """
    time.sleep(seconds)
