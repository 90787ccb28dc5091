"""Signals while an experiment runs: SIGINT and SIGTERM are counted and answered by the loop.

An exception out of a signal handler could strike between recording a start and launching it.
Everything else that would end the interpreter by default, and means no stop, is outlived.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

from holdfast.status import Reason

__all__ = ["Interrupts"]

#: Ctrl-C is a person's. SIGTERM comes from a batch system, a service manager or a shutdown.
_REASONS: Final = {signal.SIGINT: Reason.USER, signal.SIGTERM: Reason.PREEMPTED}

#: Batch systems and service managers send these to every process of a job: a warning, a limit, a
#: timer of somebody's. To die of one would leave what runs without an orchestrator.
_OUTLIVED: Final = (
    *("SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM", "SIGVTALRM", "SIGPROF"),
    *("SIGPWR", "SIGIO", "SIGSTKFLT"),
)


def _outlived() -> list[int]:
    """The numbers of those that this system has, and of all real-time signals."""
    known = [getattr(signal, name, None) for name in (*_OUTLIVED, "SIGRTMIN", "SIGRTMAX")]
    *named, first, last = known
    realtime = range(0) if first is None or last is None else range(first, last + 1)
    return [*filter(None, named), *realtime]


class Interrupts:
    """Context in which both signals ask the loop to stop instead of ending the interpreter.

    Only the main thread can handle signals; elsewhere the context does nothing. A signal that was
    ignored before (`nohup`, a shell's background job) stays ignored.

    Attributes:
        count: How much is asked for: 1 asks processes to stop, 2 and more kill them. Each signal
            asks for one more.
        first: The signal that came first; None if none did, or a request was there before.
        reason: Why the experiment is to be interrupted; None while it is not.
        partly: Whether somebody asked for some of its processes to stop.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """*wake* ends the loop's wait; it is called from a signal handler."""
        self._wakes = [wake]
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}
        self.count = 0
        self.first: signal.Signals | None = None
        self.reason: Reason | None = None
        self.partly = False

    @property
    def requested(self) -> bool:
        """Whether somebody asked for it by `ask`, before any signal came."""
        return self.reason is not None and self.first is None

    def ask(self, reason: Reason, *, force: bool = False) -> None:
        """Have the experiment stopped as by a signal, without one.

        Args:
            reason: What it is interrupted for; that of who asked first stays.
            force: Whether what runs is killed at once.
        """
        self.reason = self.reason or reason
        self.count = max(self.count, 2 if force else 1)

    def wake_also(self, wake: Callable[[], None]) -> None:
        """End another wait, too: that for a second engine."""
        self._wakes.append(wake)

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _REASONS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        for other in _outlived():
            # What the program handles itself is left alone.
            if signal.getsignal(other) is signal.SIG_DFL:
                self._before[other] = signal.signal(other, _ignore)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None is a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pid not in (os.getpid(), os.getppid()):
            # A worker of a pool, forked from us, has this handler, and nobody to stop it any more.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        self.count += 1
        if self.reason is None:
            self.first = signal.Signals(number)
            self.reason = _REASONS[self.first]
        for wake in self._wakes:
            wake()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Not `SIG_IGN`, which programs that are started would inherit."""
