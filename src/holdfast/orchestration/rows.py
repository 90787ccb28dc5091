"""Interruptions in a row, which have a limit although they are charged to no budget.

Counted by what they were for: nights that preempt are no reason to give up what then comes to its
time limit. Every run counts anew.
"""

from typing import Final

from holdfast.status import Reason

__all__ = ["Rows"]

#: An attempt that lived so long got somewhere: the count starts anew.
_LIVED_S: Final = 600.0
#: Those lived as long as a limit makes them, however far they got.
_BY_LIMIT: Final = (Reason.STALL, Reason.TIME_LIMIT)


class Rows:
    """Of the commands of one run, by their first processes."""

    def __init__(self) -> None:
        """Nothing was interrupted yet."""
        self._counts: dict[int, dict[Reason | None, int]] = {}
        self._last: dict[int, int] = {}

    def count(self, first: int, reason: Reason | None, lived_s: float) -> None:
        """The command was interrupted for *reason*, after it had lived for so long."""
        counts = self._counts.setdefault(first, {})
        if reason not in _BY_LIMIT and lived_s >= _LIVED_S:
            counts.pop(reason, None)
        counts[reason] = self._last[first] = counts.get(reason, 0) + 1

    def now(self, first: int) -> int:
        """The number of the last interruption in its row."""
        return self._last.get(first, 0)

    def forget(self, first: int) -> None:
        """It ended in another way."""
        self._counts.pop(first, None)
        self._last.pop(first, None)
