"""Waiting out what fails from outside: longer and longer pauses, told once."""

from typing import Final

import attrs

from holdfast.errors import EngineError

__all__ = ["Patience"]

_FIRST_S: Final = 1.0
_LONGEST_S: Final = 60.0


@attrs.define
class Patience:
    """What an engine said that cannot be reached, and when it is to be asked again.

    Attributes:
        error: Its last error; None while all is well.
    """

    error: EngineError | None = None
    _failures: int = 0
    _again_at: float = float("-inf")

    def failed(self, error: EngineError, now: float) -> None:
        """It could not be reached."""
        self.error = error
        pause_s = min(_FIRST_S * 2**self._failures, _LONGEST_S)
        self._failures = min(self._failures + 1, 30)
        self._again_at = now + pause_s

    def passed(self) -> None:
        """It answered."""
        self.error, self._failures, self._again_at = None, 0, float("-inf")

    def left_s(self, now: float) -> float:
        """How long it is not to be asked."""
        return max(0.0, self._again_at - now)

    def over(self, now: float) -> bool:
        """Whether it may be asked again."""
        return now >= self._again_at
