"""A strike that waits for its instant, and whom it is meant for."""

import random
import time
from collections.abc import Iterator
from typing import Final

import attrs

from holdfast.attempts.names import CHECKPOINTS, RESULTS, AttemptName
from holdfast.drill.eyes import Began, Event, Wrote
from holdfast.drill.strikes import Measured, Strike
from holdfast.drill.tree import Member

__all__ = ["IN_ATTEMPTS", "SOON_S", "Aim", "unit_of"]

#: Who needs an attempt to be there.
IN_ATTEMPTS: Final = ("shim", "process", "attempt")
#: What an attempt has started by then that had nothing to be hit yet.
SOON_S: Final = 0.005
#: How often to look who is to be struck at the next write.
_READY_S: Final = 0.03


def unit_of(path: str) -> str | None:
    """The process whose checkpoint or result *path* is; None where its name does not tell."""
    kind, _, rest = path.partition("/")
    if kind == CHECKPOINTS:
        return rest.partition("/")[0]
    return rest.partition(".")[0] if kind == RESULTS else None


@attrs.define
class Aim:
    """A strike that waits for its instant.

    Attributes:
        skip: Attempts, or writes, that are still let pass.
        victim: The attempt that is meant.
        wrote: The file whose writing it waited for.
    """

    strike: Strike
    measured: Measured
    rng: random.Random
    since: float
    skip: int
    victim: AttemptName | None = None
    wrote: str | None = None

    @classmethod
    def at(cls, strikes: Iterator[Strike], measured: Measured, rng: random.Random) -> "Aim | None":
        """The next of *strikes*, from now on; None if there is none."""
        strike = next(strikes, None)
        if strike is None:
            return None
        return cls(strike, measured, rng, time.monotonic(), strike.skip)

    @property
    def armed(self) -> bool:
        """Whether the next write is the instant."""
        return self.strike.moment == "write" and self.wrote is None and self.skip <= 0

    def again(self) -> None:
        """Nobody was there: take what comes next."""
        self.wrote = None

    def hear(self, event: Event) -> None:
        """Take note of what it may wait for."""
        moment = self.strike.moment
        if isinstance(event, Began) and moment == "attempt" and self.victim is None:
            self.victim = event.name if self.skip <= 0 else None
            self.skip -= 1
        elif isinstance(event, Wrote) and moment == "write" and self.wrote is None:
            self.skip -= 1

    def due(self, now: float, live: dict[AttemptName, float]) -> bool:
        """Whether it is to be done now, while the *live* attempts run, each since when."""
        moment = self.strike.moment
        if moment == "write":
            return self.wrote is not None
        if not live and self.strike.target in IN_ATTEMPTS:
            return False
        if moment == "clock":
            return now >= self.since + self.strike.gap_s(self.measured)
        if self.victim is not None and self.victim not in live:
            self.victim = None  # it was shorter this time: the next is as good
        return self.victim is not None and now >= live[self.victim] + self._into_s()

    def _into_s(self) -> float:
        assert self.victim is not None
        return self.strike.share * self.measured.attempts_s.get(self.victim.unit, 0.0)

    def wait_s(self, now: float, most: float) -> float:
        """How long to wait for what happens, before it may be due."""
        if self.strike.moment == "clock":
            return min(most, max(SOON_S, self.since + self.strike.gap_s(self.measured) - now))
        if self.armed:
            return _READY_S
        return SOON_S if self.victim is not None else most

    def victims(self, live: list[AttemptName]) -> list[AttemptName]:
        """Which of the attempts that run are hit: if possible the one whose write it was."""
        if self.victim in live:
            return [self.victim]
        unit = None if self.wrote is None else unit_of(self.wrote)
        if unit is not None:
            # Of a rank nobody knows whose; of another process, it is one that a dead shim left.
            wrote = [name for name in live if name.unit == unit]
            live = wrote or [name for name in live if name.is_launcher]
        if self.wrote is not None and self.strike.target == "attempt":
            return live
        return [self.rng.choice(live)] if live else []

    def of(self, members: list[Member]) -> list[Member]:
        """Which of an attempt's *members*, of which its shim is the last, are hit."""
        *started, shim = members
        if self.strike.target == "shim":
            return [shim]
        if self.strike.target == "process":
            return [self.rng.choice(started)] if started else []
        return members
