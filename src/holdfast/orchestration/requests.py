"""What others ask of a run while it goes: heard by whoever drives it, within half a second.

A request for all of it interrupts the run as a signal would. One for a part of it is carried out
here: these processes are asked to stop, and held back from then on.
"""

import contextlib
from collections.abc import Callable, Collection
from typing import Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.lifecycle.events import Event, Requested
from holdfast.lifecycle.records import summarise
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.selecting import commands_of
from holdfast.orchestration.watch import Watch
from holdfast.status import Reason
from holdfast.store.claim import Claim
from holdfast.store.requests import StopRequest

__all__ = ["LOOK_EVERY_S", "Requests", "processes"]

#: How often the files are looked for: some 15 µs each time.
LOOK_EVERY_S: Final = 0.5


@attrs.frozen
class _Part:
    """Commands that somebody wants to stop, by their first processes, and what was asked to."""

    firsts: frozenset[int]
    request: StopRequest
    asked: set[AttemptName] = attrs.field(factory=set)


class Requests:
    """The requests to one run.

    Attributes:
        held: Processes that somebody wants not to run, since the scheduler was told last.
        grace_s: The grace period that somebody gave for everything; None if nobody did.
    """

    def __init__(
        self,
        claim: Claim,
        watch: Watch,
        interrupts: Interrupts,
        note: Callable[[str], None],
        hold: Callable[[Collection[int]], None],
    ) -> None:
        """Look for what is asked of the owner *claim*; *note* and *hold* tell its user."""
        self._claim = claim
        self._watch = watch
        self._interrupts = interrupts
        self._note = note
        self._tell_held = hold
        self._look_at = 0.0
        self._kill_at: float | None = None
        self._evidence: str | None = None
        self._parts: list[_Part] = []
        self.held: set[int] = set()
        self.grace_s: float | None = None

    def hear(self) -> None:
        """Look for requests, if it is time for that.

        Raises:
            OwnershipLostError, ClaimClosedError: A newer owner runs it.
        """
        now = self._watch.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._interrupts.ask(Reason.USER, force=True)
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        found: list[StopRequest] = []
        with contextlib.suppress(OSError):
            found = self._claim.inbox.look()
        for request in found:
            if request.only is None:
                what = "kill everything" if request.force else "stop"
                self._note(f"asked by {request.by} to {what}")
                self.stop(_asked_by(request), force=request.force, grace_s=request.grace_s)
            else:
                self._hold(request, request.only)
        for part in self._parts:
            # Again and again: a request can come before what runs already is taken over.
            self._watch.asking.stop_some(
                part.firsts, part.asked, force=part.request.force, grace_s=part.request.grace_s
            )

    def signed(self, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """*events*, with who asked for the interruption, if it is one of them.

        A part that is held back can be interrupted for another reason, such as a deadline.
        """
        evidence = self._evidence
        if evidence is None and self._parts:
            evidence = _asked_by(self._parts[0].request)
        if evidence is None or self._interrupts.first is not None:
            return events
        return tuple(
            attrs.evolve(each, evidence=evidence)
            if isinstance(each, Requested)
            and (each.entity, each.event, each.reason) == _INTERRUPTED_BY_USER
            else each
            for each in events
        )

    def stop(self, evidence: str, *, force: bool, grace_s: float | None) -> None:
        """Have everything stopped; *evidence* says who wants it, and why they may."""
        self._evidence = self._evidence or evidence
        if grace_s is not None:
            self.grace_s = grace_s
            if self._interrupts.count or self._watch.asking.asked:
                # What was asked to stop before has its grace period already: it can end earlier.
                at = self._watch.monotonic() + grace_s
                self._kill_at = at if self._kill_at is None else min(at, self._kill_at)
        self._interrupts.ask(Reason.USER, force=force)

    def _hold(self, request: StopRequest, only: tuple[int, ...]) -> None:
        """Have these stopped and not be started, with the other ranks of their launchers."""
        state = self._claim.state
        there = commands_of(state, (index for index in only if index < state.num_processes))
        if not there:
            return
        which = f"{processes(len(there))} {summarise(sorted(there))}"
        self._note(f"asked by {request.by} to stop {which}; the others go on")
        self.held.update(there)
        self._tell_held(there)
        self._interrupts.partly = True
        self._parts.append(_Part(frozenset(state.gang(each).start for each in there), request))


_INTERRUPTED_BY_USER: Final = ("experiment", "interrupt", Reason.USER)


def processes(count: int) -> str:
    """The noun before the indices of so many."""
    return "process" if count == 1 else "processes"


def _asked_by(request: StopRequest) -> str:
    return f"asked by {request.by}"
