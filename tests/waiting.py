"""Waiting in tests: for a condition, never for a time."""

import multiprocessing.connection
import time
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["PATIENCE_S", "until"]

T = TypeVar("T")

#: How long a test waits at most for what takes seconds: where others work, too, it takes minutes.
PATIENCE_S: Final = 120.0


def until(
    predicate: Callable[[], T],
    timeout_s: float = PATIENCE_S,
    *,
    on: list[multiprocessing.connection.Connection] | None = None,
) -> T:
    """The first true value of *predicate*, asked again at every event *on* and at short intervals.

    Raises:
        AssertionError: It stayed false for *timeout_s* seconds.
    """
    deadline = time.monotonic() + timeout_s
    pause = 0.001
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {timeout_s} s: {predicate}")
        if on:
            multiprocessing.connection.wait(on, pause)
        else:
            time.sleep(pause)
        pause = min(pause * 2, 0.05)
