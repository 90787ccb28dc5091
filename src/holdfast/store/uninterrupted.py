"""Ctrl-C while the store is in the middle of something: it waits until that is over.

Python raises `KeyboardInterrupt` between any two instructions of the main thread, be it between
the opening of a file and the line that remembers its descriptor. While a claim is open, and during
every call of the store, SIGINT has a handler here that looks where it struck: inside a function
that is marked `whole` it is kept until that function has returned; anywhere else it goes to the
handler that was there before. Nothing is paid for it as long as no signal comes.

Only SIGINT, whose default is to raise. Other handlers run at once: what they call refuses re-entry.
"""

import contextlib
import functools
import sys
import weakref
from _signal import getsignal, signal  # type: ignore[import-not-found]
from collections.abc import Callable, Iterator
from signal import SIGINT, raise_signal
from threading import get_ident, main_thread
from types import CodeType, FrameType
from typing import Any, Final, ParamSpec, TypeVar

# Not `signal.getsignal`, which tries to make an enum of every handler: a tenth of a transition.

__all__ = [
    "checkpoint",
    "deliver_if_waiting",
    "held",
    "hold",
    "let_go",
    "tenants",
    "whole",
    "within",
]

P = ParamSpec("P")
R = TypeVar("R")

#: Who needs the handler between calls: every open claim.
tenants: "Final[weakref.WeakSet[Any]]" = weakref.WeakSet()

_whole: Final[set[CodeType]] = set()
_waits = False


class _Handler:
    """SIGINT's handler for the time being; *before* is the one that it stands in for."""

    __slots__ = ("before",)

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self.before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        global _waits
        _waits = _is_within(frame)
        if not _waits:
            self.before(number, frame)


def _is_within(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _whole:
            return True
        frame = frame.f_back
    return False


def within(function: Callable[P, R]) -> Callable[P, R]:
    """Mark *function* as one that Ctrl-C does not tear; whoever calls it delivers the signal."""
    _whole.add(function.__code__)
    return function


def whole(function: Callable[P, R]) -> Callable[P, R]:
    """Have Ctrl-C during *function* raise only once it has returned. Its result is dropped then."""
    within(function)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        hold()
        try:
            return function(*args, **kwargs)
        finally:
            let_go()
            deliver_if_waiting()

    return called


def hold() -> None:
    """Have the handler in place, if this thread can be interrupted at all."""
    before = getsignal(SIGINT)
    if type(before) is _Handler or get_ident() != main_thread().ident:
        return
    # No function: it is ignored, or ends the process without a word of ours.
    if callable(before):
        _install(_Handler(before))


def _install(handler: Callable[[int, FrameType | None], Any]) -> None:
    # Another interpreter than the main one has no signals; nothing of ours fails for that.
    with contextlib.suppress(ValueError, OSError):
        signal(SIGINT, handler)


def let_go(above: FrameType | None = None) -> None:
    """Put the handler before in its place again, once nobody needs ours.

    Args:
        above: Where those who may need it begin: the caller of whoever is done; default our caller.
    """
    if get_ident() != main_thread().ident or tenants:
        return
    handler = getsignal(SIGINT)
    # Somebody may have put another in our place, which is theirs to keep.
    if type(handler) is _Handler and not _is_within(above or sys._getframe(1)):
        _install(handler.before)


class _Tenant:
    __slots__ = ("__weakref__",)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Keep the handler in place: for many calls in a row."""
    tenant = _Tenant()
    tenants.add(tenant)
    hold()
    try:
        yield
    finally:
        tenants.discard(tenant)
        let_go()


def deliver_if_waiting() -> None:
    """Let a signal that was kept strike now, unless a caller is still in the middle of it."""
    global _waits
    if _waits and get_ident() == main_thread().ident:
        _waits = False
        raise_signal(SIGINT)


def checkpoint() -> None:
    """Let a signal that was kept strike now: in a wait, or where nothing is half done."""
    global _waits
    if not _waits or get_ident() != main_thread().ident:
        return
    _waits = False
    handler = getsignal(SIGINT)
    if type(handler) is _Handler:
        handler = handler.before
    if callable(handler):
        handler(SIGINT, sys._getframe(1))
