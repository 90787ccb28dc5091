"""What running attempts use of this machine: CPU and memory of the shim's family, looked at twice.

For eyes only. Of an attempt on another machine, after a reboot, or in another pid namespace nothing
is known: its pids are other processes here.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from holdfast import liveness
from holdfast.identity import ProcessIdentity
from holdfast.liveness import Observer
from holdfast.reading import text

__all__ = ["HEADER", "UNKNOWN", "Machine", "Used", "cells"]

#: What heads the two cells.
HEADER: Final = ("CPU", "MEM")

#: Processes of one attempt, and of all that one look takes.
_MOST_OF_ONE, _MOST = 256, 2_000
#: Of what cannot be known.
UNKNOWN: Final = "–"


@attrs.frozen(kw_only=True)
class Used:
    """What the processes of an attempt use.

    Attributes:
        cores: CPU seconds in a second since the look before; None at the first.
        memory: Bytes that they have in memory; what they share counts for each.
    """

    cores: float | None
    memory: int


class Machine:
    """Looks at attempts again and again."""

    def __init__(
        self, observer: Observer | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Look from where *observer* stands; by default here."""
        self._observer = observer
        self._monotonic = monotonic
        self._before: dict[ProcessIdentity, tuple[float, float]] = {}

    def look(self, shims: Mapping[int, ProcessIdentity | None]) -> dict[int, Used]:
        """What is used by the attempt of each of *shims* that is proven to run here."""
        observer = self._observer or Observer.here()
        found: dict[int, Used] = {}
        seen: dict[ProcessIdentity, tuple[float, float]] = {}
        known: dict[ProcessIdentity, Used] = {}
        left = _MOST
        for index, shim in shims.items():
            if shim is None or shim.pid is None:
                continue
            if shim not in known:
                if left <= 0 or not liveness.is_running(shim, observer=observer):
                    continue
                cpu_s, memory, number = _family(shim.pid, observer, min(left, _MOST_OF_ONE))
                left -= number
                seen[shim] = self._monotonic(), cpu_s
                known[shim] = Used(cores=self._cores(shim, *seen[shim]), memory=memory)
            found[index] = known[shim]
        self._before = seen
        return found

    def _cores(self, shim: ProcessIdentity, now: float, cpu_s: float) -> float | None:
        before = self._before.get(shim)
        if before is None or now <= before[0]:
            return None
        # What was killed with its own children takes their time with it.
        return max(0.0, cpu_s - before[1]) / (now - before[0])


def _family(shim: int, observer: Observer, most: int) -> tuple[float, int, int]:
    """CPU seconds and bytes of all that descends from *shim*, and how many these are.

    It is a subreaper: whoever loses its parent is its child, and whatever ended has left its time
    with who waited for it, in the end with the shim. Its own memory is ours, not the attempt's.
    """
    own = observer.usage(shim)
    cpu_s, memory = (0.0 if own is None else own.cpu_s), 0
    pending, seen = observer.children(shim), {shim}
    while pending and len(seen) <= most:
        pid = pending.pop()
        if pid in seen:
            continue
        seen.add(pid)
        usage = observer.usage(pid)
        if usage is not None:
            cpu_s += usage.cpu_s
            memory += usage.memory
            pending += observer.children(pid)
    return cpu_s, memory, len(seen)


def cells(used: Used | None) -> tuple[str, str]:
    """`98%`, `1.2 GB`; `–` of what is not known."""
    if used is None or not used.memory:  # nothing of it lives, or not yet
        return UNKNOWN, UNKNOWN
    cores = UNKNOWN if used.cores is None else f"{100 * used.cores:.0f}%"
    return cores, text.size(used.memory)
