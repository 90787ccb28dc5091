"""What is killed and when, drawn from a seed: relative to what undisturbed runs took.

Nothing here depends on how fast the machine is: an instant is a share of a measured duration, of
an attempt that begins, or a number of writes.
"""

import random
from collections.abc import Iterator
from typing import Final, Literal

import attrs

__all__ = ["SWEEPS", "TARGETS", "Measured", "Moment", "Strike", "Target", "drawn"]

Target = Literal["orchestrator", "shim", "process", "attempt", "everything", "TERM", "INT"]
Moment = Literal["clock", "attempt", "write"]

#: Twice whose death tears what is being written: most faults of programs show there.
TARGETS: Final[tuple[Target, ...]] = (
    *("attempt", "process", "attempt", "process"),
    *("everything", "shim", "orchestrator"),
)
#: What `--sweeps` adds: signals to all, as a batch system or a terminal sends them.
SWEEPS: Final[tuple[Target, ...]] = ("TERM", "INT")
#: Where faults show: what is written is torn by the death of who writes, and by no other.
_MOMENTS: Final[dict[Target, tuple[Moment, ...]]] = {
    "attempt": ("write", "write", "write", "attempt"),
    "shim": ("attempt", "attempt", "write"),
    "everything": ("write", "write", "attempt", "clock"),
    "process": ("write", "write", "write", "attempt"),
    "orchestrator": ("attempt", "clock", "write"),
    "TERM": ("attempt", "clock"),
    "INT": ("attempt", "clock"),
}
#: The share of an undisturbed run that lies between two kills at the most.
_GAP: Final = 1 / 3


@attrs.frozen(kw_only=True)
class Measured:
    """What undisturbed runs were like.

    Attributes:
        run_s: How long the longest took.
        attempts_s: How long each unit took.
        writes: Files that were written to, each as often as the kernel told.
    """

    run_s: float
    attempts_s: dict[str, float]
    writes: int

    @property
    def quiet_s(self) -> float:
        """After which a run in which nothing happens hangs, however slow the machine has become."""
        return 60 + 4 * self.run_s


@attrs.frozen(kw_only=True)
class Strike:
    """One kill that is to be.

    Attributes:
        target: Who is killed, or signalled.
        moment: What the instant counts from: the last kill, the beginning of an attempt, a write.
        share: Of a third of the run, or of the attempt.
        skip: Attempts or writes that are let pass before.
        pause: How much of a third of a run nobody watches, after an orchestrator was killed.
    """

    target: Target
    moment: Moment
    share: float
    skip: int
    pause: float

    def gap_s(self, measured: Measured) -> float:
        """How long after the last kill, where that is what it counts from."""
        return self.share * _GAP * measured.run_s

    def pause_s(self, measured: Measured) -> float:
        """How long nobody watches."""
        return self.pause * _GAP * measured.run_s


def drawn(seed: int, measured: Measured, *, sweeps: bool) -> Iterator[Strike]:
    """Kills without end, each target as often as it stands in the list."""
    rng = random.Random(seed)
    targets = TARGETS + (SWEEPS if sweeps else ())
    most = {"attempt": len(measured.attempts_s), "write": measured.writes, "clock": 0}
    while True:
        for target in rng.sample(targets, len(targets)):
            moment = rng.choice(
                [each for each in _MOMENTS[target] if each == "clock" or most[each]]
            )
            yield Strike(
                target=target,
                moment=moment,
                share=rng.random(),
                skip=rng.randrange(max(1, round(most[moment] * _GAP))),
                pause=rng.choice((0.0, rng.random())),
            )
