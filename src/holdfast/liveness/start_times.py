"""Start times of processes on the machine's own clock, whatever time namespace they are read in.

`/proc/PID/stat` shows a start time shifted by the boot offset of the *reader's* namespace. Taken as
shown, a process of another namespace would look like one that got a used pid.
"""

import os
from pathlib import Path
from typing import Final

__all__ = ["own_offset_ns", "same", "without_offset"]

#: The kernel rounds down after the shift: with an offset that is no whole number of ticks, two
#: readings of one process are a tick apart. No pid is given out twice within one.
_ROUNDING_TICKS: Final = 1


def own_offset_ns() -> int:
    """What our time namespace adds to every start time that it shows us; 0 in the first one."""
    try:
        # The file tells of our children's namespace, in which we are not if we have just made it.
        if not Path("/proc/self/ns/time").samefile("/proc/self/ns/time_for_children"):
            return 0
        for line in Path("/proc/self/timens_offsets").read_text("ascii").splitlines():
            clock, seconds, nanoseconds = line.split()
            if clock in ("boottime", "7"):
                return int(seconds) * 10**9 + int(nanoseconds)
    except (OSError, ValueError):
        pass  # before Linux 5.5 there are none
    return 0


def without_offset(ticks: int, offset_ns: int) -> int:
    """The start time that was shown as *ticks*, in ticks since the machine booted."""
    if not offset_ns:
        return ticks
    tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
    shown_ns = ticks * tick_ns
    if shown_ns >= 1 << 63:
        shown_ns -= 1 << 64  # before the namespace's time began: the kernel prints it unsigned
    return (shown_ns - offset_ns) // tick_ns


def same(one: int, other: int) -> bool:
    """Whether two start times, each read somewhere, are one."""
    return abs(one - other) <= _ROUNDING_TICKS
