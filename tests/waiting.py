"""Waiting in tests: for a condition, never for a time."""

import multiprocessing.connection
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["until"]

T = TypeVar("T")


def until(
    predicate: Callable[[], T],
    timeout_s: float = 20.0,
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
