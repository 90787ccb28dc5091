"""Bringing an attempt to its certain end in a test, on a clock of the test's own."""

from pathlib import Path

from holdfast.attempts.family import Census
from holdfast.attempts.looking import Look
from holdfast.attempts.names import AttemptName
from holdfast.attempts.settling import Lost, Settling
from holdfast.identity import ProcessIdentity
from waiting import until

__all__ = ["settled"]


def settled(
    folder: Path,
    name: AttemptName,
    *,
    shim: ProcessIdentity | None = None,
    grace_s: float = 0.0,
    force: bool = False,
    seconds_a_look: float = 0.1,
) -> Look | Lost:
    """What comes of the attempt, looked at again and again, *seconds_a_look* apart for it."""
    now = 0.0
    settling = Settling(
        folder=folder,
        name=name,
        shim=shim,
        grace_s=grace_s,
        force=force,
        fence=lambda: None,
        began=now,
    )

    def step() -> Look | Lost | None:
        nonlocal now
        found = settling.step(now, Census())
        now += seconds_a_look
        return found

    found = until(step)
    assert found is not None
    return found
