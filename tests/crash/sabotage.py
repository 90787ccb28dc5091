"""Our protocol broken on purpose, while it runs: the schedules must notice.

`mutants` leaves out syncs, which change nothing but what a power cut leaves. Here is what is broken
in ways that only others at work at the same time can show.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from .schedules import Sabotage, Setting
from .watching import Operation

__all__ = ["SABOTAGES"]


def forget_fencing(operation: Operation, call: Callable[[], Any]) -> Any:
    """Sabotage: after its line, an owner does not see that there is a newer epoch than its own."""
    frame: FrameType | None = sys._getframe()
    while operation.name == "names" and frame is not None:
        if frame.f_code.co_name == "fence":
            return [f"{frame.f_locals['self'].epoch:08d}.jsonl"]
        frame = frame.f_back
    return call()


def take_for_unchanged(operation: Operation, call: Callable[[], Any]) -> Any:
    """Sabotage: a new owner does not see that its predecessor wrote on until it was fenced."""
    frame: FrameType | None = sys._getframe()
    while operation.name in ("names", "read") and frame is not None:
        if frame.f_code.co_name == "_unchanged":
            truth = frame.f_locals["truth"]
            if operation.name == "read":
                return b""
            return [f"{truth.epoch:08d}.jsonl"] if truth.epoch else []
        frame = frame.f_back
    return call()


def clobbering_link(operation: Operation, call: Callable[[], Any]) -> Any:
    """Sabotage: `link()` that replaces what is there, so that two can win."""
    if operation.name == "link":
        _, target, dir_fd = operation.args
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target, dir_fd=dir_fd)
    return call()


def lock_for_all(operation: Operation, call: Callable[[], Any]) -> Any:
    """Sabotage: everybody gets the lock."""
    if operation.name == "flock" and operation.args[1] & (fcntl.LOCK_EX | fcntl.LOCK_SH):
        return None
    return call()


#: What is broken, and the setting in which that must be noticed.
SABOTAGES: tuple[tuple[Sabotage, Setting], ...] = (
    (forget_fencing, "no_locks"),
    (take_for_unchanged, "no_locks"),
    (clobbering_link, "no_locks"),
    (lock_for_all, "locks"),
)
