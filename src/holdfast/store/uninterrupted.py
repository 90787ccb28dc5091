"""A signal while the store is in the middle of something: what it raises waits until that is over.

Python runs a signal's handler between any two instructions of the main thread, be it between the
opening of a file and the line that remembers its descriptor, and Ctrl-C raises there. While a claim
is open, and during every call of the store, handlers of ours stand before those that are there, and
look where a signal struck: inside a function that is marked `whole` it is kept until that function
has returned; anywhere else it goes to the handler before. Next to nothing is paid for it as long as
no signal comes.

Every handler written in Python may raise (a time limit by SIGALRM, a batch system's SIGTERM), so
that each waits that is there when a claim is opened or the store is called. While a claim is open,
only `_OFTEN` are asked for handlers that were put in place since: to ask for all 62 takes a tenth
of a transition. Not kept are signals of faults (SIGSEGV and the like), which cannot wait, and what
is no signal: exceptions that another thread raises in the main one.
"""

import _signal  # type: ignore[import-not-found]
import contextlib
import functools
import sys
import weakref
from _signal import getsignal
from collections.abc import Callable, Iterator
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
    "tenancy",
    "tenants",
    "whole",
    "within",
]

P = ParamSpec("P")
R = TypeVar("R")

#: Who needs the handler between calls: every open claim.
tenants: "Final[weakref.WeakSet[Any]]" = weakref.WeakSet()

_whole: Final[set[CodeType]] = set()
#: Signals that were kept. Only the main thread touches them.
_waiting: Final[set[int]] = set()


def _numbers(*names: str) -> tuple[int, ...]:
    # A system without one of them has SIGINT a second time.
    return tuple(int(getattr(_signal, name, _signal.SIGINT)) for name in names)


#: What programs put handlers in place for at any time.
_OFTEN: Final = _numbers("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_INT, _TERM, _ALRM, _HUP, _USR1, _USR2 = _OFTEN

_FAULTS: Final = _numbers(
    *("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT", "SIGSYS")
)
_ALL: Final = tuple(
    sorted({*_signal.valid_signals()} - {*_FAULTS, *_numbers("SIGKILL", "SIGSTOP")} | {_INT})
)

#: Where handlers of ours stand.
_standing: Final[set[int]] = set()
#: The handlers of `_OFTEN` at the last look; ours, wherever one can be.
_seen: tuple[Any, ...] = (object(),) * len(_OFTEN)


class _Handler:
    """A signal's handler for the time being; *before* is the one that it stands in for."""

    __slots__ = ("before",)

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self.before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _is_within(frame):
            _waiting.add(number)
        else:
            _waiting.discard(number)
            self.before(number, frame)


def _is_within(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _whole:
            return True
        frame = frame.f_back
    return False


def within(function: Callable[P, R]) -> Callable[P, R]:
    """Mark *function* as one that no signal tears; whoever calls it delivers what came."""
    _whole.add(function.__code__)
    return function


def whole(function: Callable[P, R]) -> Callable[P, R]:
    """Have signals during *function* raise once it has returned. Its result is dropped then."""
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
    """Have our handlers in place, if this thread can be interrupted at all."""
    # In one expression: every transition asks.
    if (
        getsignal(_INT) is _seen[0]
        and getsignal(_TERM) is _seen[1]
        and getsignal(_ALRM) is _seen[2]
        and getsignal(_HUP) is _seen[3]
        and getsignal(_USR1) is _seen[4]
        and getsignal(_USR2) is _seen[5]
    ):
        return
    _stand_before_all()


def _stand_before_all() -> None:
    global _seen
    if get_ident() != main_thread().ident:
        return
    for number in _ALL:
        before = getsignal(number)
        # No function: it is ignored, or ends the process without a word of ours.
        if callable(before) and type(before) is not _Handler:
            _standing.add(number)
            _install(number, _Handler(before))
    _seen = tuple(map(getsignal, _OFTEN))


def _install(number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
    # Another interpreter than the main one has no signals; nothing of ours fails for that.
    with contextlib.suppress(ValueError, OSError):
        _signal.signal(number, handler)


def let_go(above: FrameType | None = None) -> None:
    """Put the handlers before in their places again, once nobody needs ours.

    Args:
        above: Where those who may need it begin: the caller of whoever is done; default our caller.
    """
    global _seen
    if get_ident() != main_thread().ident or tenants:
        return
    if not _standing or _is_within(above or sys._getframe(1)):
        return
    for number in list(_standing):
        handler = getsignal(number)
        # Somebody may have put another in our place, which is theirs to keep.
        if type(handler) is _Handler:
            _install(number, handler.before)
    _standing.clear()
    _seen = (object(),) * len(_OFTEN)


def tenancy(tenant: object) -> None:
    """Have our handlers in place, before all that are there, until *tenant* is dropped or left."""
    tenants.add(tenant)
    _stand_before_all()


class _Tenant:
    __slots__ = ("__weakref__",)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Keep our handlers in place: for many calls in a row."""
    tenant = _Tenant()
    tenancy(tenant)
    try:
        yield
    finally:
        tenants.discard(tenant)
        let_go()


def deliver_if_waiting() -> None:
    """Let what was kept strike now, unless a caller is still in the middle of it."""
    if _waiting and get_ident() == main_thread().ident and not _is_within(sys._getframe(1)):
        _deliver(sys._getframe(1))


def checkpoint() -> None:
    """Let what was kept strike now: in a wait, or where nothing is half done."""
    if _waiting and get_ident() == main_thread().ident:
        _deliver(sys._getframe(1))


def _deliver(frame: FrameType) -> None:
    try:
        try:
            number = _waiting.pop()
        except KeyError:
            return  # it came once more just now, and was not kept
        handler = getsignal(number)
        if type(handler) is _Handler:
            handler = handler.before
        if callable(handler):
            # Not by the signal once more, of which a wakeup descriptor would tell twice.
            handler(number, frame)
        elif handler == _signal.SIG_DFL:
            _signal.raise_signal(number)
    finally:
        if _waiting:
            _deliver(frame)
