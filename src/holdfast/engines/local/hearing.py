"""What a shim hears: signals of others, and requests of holdfast's own.

The two cannot be confused: a request is a file beside the attempt, or a byte that the starter sets,
and the signal that goes with it only says that it is worth a look. Like the shim, the standard
library only and little of it.
"""

import json
import os
import signal
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap

#: Everything that can be blocked. Numbers: the enums' own comparisons are slow.
ALL = frozenset(
    int(number)
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP)
)

_REAL_TIME = range(int(getattr(signal, "SIGRTMIN", 0)), int(getattr(signal, "SIGRTMAX", -1)) + 1)

#: Means that there may be a request, and nothing without one. Queued where there are such signals
#: (not on macOS): it can neither vanish in a stranger's nor swallow one.
WAKE = _REAL_TIME[5] if _REAL_TIME else int(signal.SIGUSR2)

#: What asks to stop, from whomever.
STOPS = frozenset((int(signal.SIGTERM), int(signal.SIGINT), int(signal.SIGHUP)))

#: What batch systems send ahead of a stop, and users to a program that knows what is meant.
WARNINGS = frozenset(
    int(getattr(signal, name))
    for name in ("SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGPWR", "SIGQUIT")
    if hasattr(signal, name)
) | frozenset(_REAL_TIME) - {WAKE}

#: How much a request asks for.
NOTHING, STOP, KILL = 0, 1, 2

_LOOK_EVERY_S = 1.0  # a signal of ours may be unable to come: another container, another host
_MOST_BYTES = 4096
_LONGEST_S = 100 * 365 * 86400


class Hearing:
    """The ears of one shim, whose signals are all blocked.

    Args:
        folder: Descriptor of the directory in which requests are made.
        name: Of the attempt.
        flags: Memory shared with the starter, and *slot*, which byte of it is ours; None: no byte.

    Attributes:
        level: What was asked for so far: `NOTHING`, `STOP` or `KILL`.
        grace_s: The grace period that the request to stop gives, instead of the attempt's own.
        heard_at: Whatever came before this time has been heard (monotonic clock).
        look_at: When the files are looked for next.
        warnings: Heard and not taken yet.
    """

    def __init__(
        self, folder: int, name: str, flags: "bytearray | mmap | None", slot: int | None
    ) -> None:
        self._folder = folder
        self._stop, self._kill = f"{name}.stop", f"{name}.kill"
        self._flags = flags
        self._slot = slot
        self.level = NOTHING
        self.grace_s: float | None = None
        self.heard_at = time.monotonic()
        self.look_at = 0.0
        self.warnings: list[int] = []

    def listen(self, until: float) -> int | None:
        """Sleep until then (monotonic clock), or until a signal comes, and take in all that came.

        Returns:
            The first signal among them that asks to stop; None if there is none.
        """
        stop = None
        heard = wait(until - time.monotonic())
        while True:
            now = time.monotonic()
            if heard in STOPS:
                stop = stop or heard
            elif heard == WAKE:
                self.look_at = 0.0
            elif heard in WARNINGS:
                self.warnings.append(heard)
            heard = wait(0.0)
            if not heard:
                break
        self.heard_at = now
        return stop

    def requested(self) -> int:
        """What holdfast itself asks for; the files are looked for when woken, or once a second."""
        before = self.level
        if self._flags is not None and self._slot is not None:
            self.level = max(self.level, self._flags[self._slot])
        now = time.monotonic()
        if self.level < KILL and now >= self.look_at:
            self.look_at = now + _LOOK_EVERY_S
            if os.access(self._kill, os.F_OK, dir_fd=self._folder):
                self.level = KILL
            elif self.level < STOP and os.access(self._stop, os.F_OK, dir_fd=self._folder):
                self.level = STOP
        if before < self.level == STOP:
            self.grace_s = self._grace()
        return self.level

    def _grace(self) -> "float | None":
        """What the request says of the grace period, and nothing else that may be in there."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self._stop, flags, dir_fd=self._folder)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                grace_s = json.loads(os.read(fd, _MOST_BYTES))["grace_s"]
            finally:
                os.close(fd)
            if type(grace_s) in (int, float) and 0 <= grace_s <= _LONGEST_S:
                return float(grace_s)
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            pass  # a disk that is full, an older request, anything at all: the attempt's own
        return None


def wait(seconds: float) -> int:
    """The next signal, 0 if none comes within *seconds*, or within one; all are blocked."""
    if hasattr(signal, "sigtimedwait"):
        heard = signal.sigtimedwait(ALL, min(max(seconds, 0.0), _LOOK_EVERY_S))
        return 0 if heard is None else heard.si_signo
    # macOS. An alarm of somebody else's only makes the shim look around early.
    if seconds <= 0:
        return int(signal.sigwait(ALL)) if signal.sigpending() else 0
    signal.setitimer(signal.ITIMER_REAL, min(seconds, _LOOK_EVERY_S))
    heard_there = int(signal.sigwait(ALL))
    signal.setitimer(signal.ITIMER_REAL, 0)
    return heard_there
