"""When a process is to save its work and end: signals, requests of holdfast's, its time limit.

Owns the handlers of signals, and what was there before them: a program's own are called as well,
and without a program that asks, everything ends it as if there were no handler.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` makes enums, for 4 ms
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = ["Stop"]

#: Ends a program that does not ask whether it should stop.
_TERM = int(signal.SIGTERM)

#: What batch systems send ahead of a stop. One that nobody heeds ends nothing: where no handler is,
#: the shim keeps them from a program, and ours must not make it die of them.
_WARNINGS = tuple(
    int(getattr(signal, name))
    for name in ("SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGPWR")
    if hasattr(signal, name)
)

_LOOK_EVERY_S = 1.0

_monotonic = time.monotonic

#: Whose handlers a fork is to be without.
_installed: "list[Stop]" = []


def _in_fork() -> None:
    # A handler in Python runs between two steps of the program: a child that has just begun to
    # wait, for a lock or in `sleep`, would hear its parent's TERM only when it has waited.
    for stop in list(_installed):
        stop.restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_fork)


class Stop:
    """What asks one process to stop.

    Args:
        requests: Files, any of which is a request by being there.
        warning: A file that warns of the end by being there; None for none.
        at: The time, in seconds since 1970, from which on it should stop; None for never.

    Attributes:
        why: What asked first: `request`, `time`, `warning` or the name of a signal; None while
            nothing has.
        heard: The first signal that came.
        asked: Whether the program has ever asked.
        handled: Whether TERM came, and the program has a handler of its own for it.
    """

    def __init__(
        self, requests: "tuple[str, ...]", at: "float | None", warning: "str | None" = None
    ) -> None:
        self._requests = requests
        self._warning = warning
        self._at = at
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}
        # One object, or `is` would not know it again.
        self._handler: Callable[[int, FrameType | None], None] = self._hear
        self._look_at = 0.0
        self.why: str | None = None
        self.heard: int | None = None
        self.asked = self.handled = False

    def install(self) -> None:
        """Listen to signals, in the main thread; in any other, nothing is heard of them."""
        hidden = _caught_unseen()
        _installed.append(self)
        for number in (_TERM, *_WARNINGS):
            before = signal.getsignal(number)
            # Ignored on purpose (`nohup`); or handled by something that is not Python, which would
            # not be called any more: MPI's own, faulthandler.
            if before is None or before == signal.SIG_IGN:
                continue
            if before == signal.SIG_DFL and hidden >> (number - 1) & 1:
                continue
            self._before[number] = before
            try:
                signal.signal(number, self._handler)
            except ValueError:
                return  # not the main thread

    def restore(self) -> None:
        """Have what was there before, except where somebody else has come after us."""
        for number, before in self._before.items():
            if signal.getsignal(number) is self._handler:
                try:
                    signal.signal(number, before)
                except ValueError:
                    break  # another thread leaves: ours goes on as what was there before
        self._pid = -1  # whoever chains to us gets what was before us
        if self in _installed:
            _installed.remove(self)

    def look(self) -> bool:
        """Whether it should stop."""
        self.asked = True
        if self.why is None:
            self.why = self._found()
        return self.why is not None

    def requested(self) -> bool:
        """Whether holdfast itself asks."""
        return any(map(os.path.lexists, self._requests))

    def _found(self) -> "str | None":
        if self.heard is not None:
            # holdfast sends TERM, too, and a node a warning; their files say whose it is.
            if self.requested():
                return "request"
            return "warning" if self._warned() and self.heard != _TERM else _name(self.heard)
        now = _monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + _LOOK_EVERY_S
        if self._at is not None and time.time() >= self._at:
            return "time"
        if self.requested():
            return "request"
        # Below a launcher nobody gets the signal: it would end the launcher.
        return "warning" if self._warned() else None

    def _warned(self) -> bool:
        return self._warning is not None and os.path.lexists(self._warning)

    def _hear(self, number: int, frame: "FrameType | None") -> None:
        before = self._before.get(number, signal.SIG_DFL)
        ours = os.getpid() == self._pid  # neither a fork nor a block that was left
        if ours and self.heard is None:
            self.heard = number
        # One that came after ours calls it, as it would have called none.
        handled = callable(before) or signal.getsignal(number) is not self._handler
        self.handled = self.handled or (ours and handled and number == _TERM)
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL and not (ours and (self.asked or handled or number != _TERM)):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _name(number: int) -> str:
    names = [name for name in dir(signal) if getattr(signal, name) == number]
    return next((name for name in names if name[:3] == "SIG" and name[3] != "_"), str(number))


def _caught_unseen() -> int:
    """A bit for every signal that this process catches, be it in Python or not; 0 if unknown."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"SigCgt:"):
                    return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0
