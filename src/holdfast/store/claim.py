"""A claim: the right to record events of one experiment, and the only way to do it.

Every recorded line is on the disk before the call returns (guide: storage, *Transition*). What the
claim cannot vouch for any more, it refuses to record: after a failed fsync, after a newer owner was
seen, in a fork, after its release.
"""

import contextlib
import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar

import attrs

from holdfast.errors import (
    ClaimBusyError,
    ClaimClosedError,
    OwnershipLostError,
    StateWriteError,
    UnreadableStateWarning,
    cause,
)
from holdfast.identity import ProcessIdentity, Verdict
from holdfast.lifecycle import apply
from holdfast.lifecycle.changes import Change, replay
from holdfast.lifecycle.events import Action, Event, Wanted, as_event, requested
from holdfast.lifecycle.records import SCHEMA_VERSION, ExperimentState
from holdfast.status import ExperimentStatus, Reason
from holdfast.store import lines, uninterrupted, view
from holdfast.store.observing import Observer, Observing
from holdfast.store.ownership import Owned
from holdfast.store.place import Place
from holdfast.store.requests import Inbox
from holdfast.store.writer import JournalWriter, WriterStatus

__all__ = ["Claim", "Recorded"]

P = ParamSpec("P")
R = TypeVar("R")


@attrs.frozen
class Recorded:
    """What a recorded line led to: the new state, and what is to be done now that it is durable."""

    state: ExperimentState
    actions: tuple[Action, ...]


def _alone(
    method: "Callable[Concatenate[Claim, P], R]",
) -> "Callable[Concatenate[Claim, P], R]":
    """One call at a time, from its first instruction to its last.

    Other threads wait. The thread that is in the middle of one cannot: what a signal handler, a
    finalizer or a clock calls there is refused. Ctrl-C waits until the call is over.
    """
    uninterrupted.within(method)

    @functools.wraps(method)
    def alone(self: "Claim", /, *args: P.args, **kwargs: P.kwargs) -> R:
        uninterrupted.hold()
        try:
            with self._mutex:
                if self._busy:
                    raise ClaimBusyError(self._state.experiment_id)
                try:
                    self._busy = True
                    return method(self, *args, **kwargs)
                finally:
                    self._busy = False
        finally:
            uninterrupted.deliver_if_waiting()

    return alone


class Claim:
    """Ownership of one experiment, from `StateManager.claim` until `release` or the process's end.

    Use it as a context manager. Safe to use from several threads: their lines follow one another.
    A claim that is dropped without a release is released when it is collected, with a
    `ResourceWarning`; it can be neither copied nor pickled, since there is one owner.

    Attributes:
        previous: The owner before this one, and *verdict* what was known of its life.
        locked: False where the file system has no locks: epochs alone protect then.
        inbox: What others ask of this owner.
    """

    def __init__(
        self,
        place: Place,
        owned: Owned,
        *,
        now: Callable[[], datetime],
        on_step: Observer | None = None,
    ) -> None:
        """Take over *place* and *owned*, and close them at the release."""
        self._place = place
        self._now = now
        self._state = owned.state
        self._folder = owned.folder
        self._lock = owned.lock
        self._writer = JournalWriter(place, owned)
        self.inbox = Inbox(owned.folder, owned.epoch)
        self.locked = owned.locked
        self.previous: ProcessIdentity | None = owned.previous
        self.verdict: Verdict | None = owned.verdict
        self._pid = os.getpid()
        # Reentrant, so that the thread that holds it is refused by `_busy` and does not hang.
        self._mutex = threading.RLock()
        self._busy = False
        # What was noted: the state that it leads to, what leads there, and what is to be done.
        self._ahead = owned.state
        self._noted: list[Change] = []
        self._noted_actions: list[Action] = []
        self._observing = Observing()
        # Before the first claim the view is the truth, and needs no second writing.
        written = None if owned.inherited else owned.state.revision
        self._view = view.Refresher(place, self._writer.is_newest, now, written)
        uninterrupted.tenancy(self)
        try:
            if on_step is not None:
                self._observing.add(on_step)
            self._view.refresh(self._state)
        except BaseException:
            # Nobody gets this claim, and so nobody would release it (Ctrl-C in a notebook).
            self._close()
            raise
        problem = self._view.problem
        if problem is not None and self._state.status is ExperimentStatus.AGGREGATED:
            # Whoever finds experiments takes a finished one for the same as long as its view is
            # the same file: it must not change behind that.
            self._close()
            raise StateWriteError.of(place.view_path, "refreshing", problem)

    @property
    def state(self) -> ExperimentState:
        """The state after the last recorded line; what was noted since is not in it yet."""
        return self._state

    @property
    def folder(self) -> Path:
        """The experiment's folder."""
        return self._folder.path

    @property
    def dir_fd(self) -> int:
        """A descriptor of the experiment's folder, open as long as the claim."""
        return self._folder.fd

    @property
    def epoch(self) -> int:
        """The fencing token: a later owner has a higher one."""
        return self._writer.epoch

    def record(
        self,
        event: str,
        process: int | None = None,
        *,
        reason: Reason | str | None = None,
        error_message: str | None = None,
        evidence: str | None = None,
        **facts: Any,
    ) -> ExperimentState:
        """Make one transition durable: of the experiment, or of *process*.

        Args:
            event: An event of the machine, e.g. `start`, `complete`.
            process: Index of a process; None is the experiment.
            reason: Why, one of `Reason`.
            error_message: For people.
            evidence: What proves it, kept in the history.
            facts: What the guards ask for, e.g. `exit_code=0`, `max_attempts=3`.

        Returns:
            The new state. Once returned, it survives SIGKILL and power loss.

        Raises:
            InvalidTransitionError: The machine refuses; nothing was written.
            InvalidRequestError: A fact that nobody knows, or something of the wrong kind.
            ClaimBusyError: This thread is in the middle of another call of this claim.
            StateWriteError: The file system refused; it says which state is stored.
            OwnershipLostError: A newer owner took over.
            ClaimClosedError: This claim cannot record (released, poisoned, forked).
        """
        event_ = requested(
            event,
            process,
            at=self._now(),
            reason=reason,
            error_message=error_message,
            evidence=evidence,
            facts=facts,
        )
        return self._record((event_,)).state

    def record_many(self, events: Iterable[Wanted]) -> Recorded:
        """Make *events*, in their order, durable as one line with one fdatasync: all or none.

        Each is what `record` takes: an event, or a tuple of the event, its process and what else
        `record` would be told. A `Requested` or a fact of `lifecycle.events` brings its own time.

        Example:
            >>> claim.record_many([("start", 0), ("start", 1)])
            >>> claim.record_many([("complete", 0, {"exit_code": 0}), ("fail", 1)])

        Raises:
            InvalidTransitionError: The machine refuses one of them; nothing was written.
            InvalidRequestError: One of them is none.
            ClaimBusyError, StateWriteError, OwnershipLostError, ClaimClosedError: As for `record`.
        """
        now = self._now()
        return self._record(tuple(as_event(event, now) for event in events))

    @_alone
    def _record(self, events: Sequence[Event]) -> Recorded:
        return self._step(events)

    def _step(self, events: Sequence[Event]) -> Recorded:
        self._check()
        step = apply.apply_many(self._ahead, events)
        changes, actions = step.changes, step.actions
        if self._noted:
            changes = (*self._noted, *changes)
            actions = (*self._noted_actions, *actions)
        if changes:
            self._append_changes(step.state, changes)
        return Recorded(self._state, actions)

    @_alone
    def note(self, fact: Wanted) -> None:
        """Keep *fact*, on which nothing depends, for the next line, at no fdatasync of its own.

        Raises:
            InvalidTransitionError, InvalidRequestError: It is refused; nothing is kept of it.
            ClaimBusyError, ClaimClosedError: As for `record`.
        """
        self._check()
        step = apply.apply(self._ahead, as_event(fact, self._now()))
        self._ahead = step.state
        self._noted += step.changes
        self._noted_actions += step.actions

    @_alone
    def remark(self, event: str, evidence: str) -> None:
        """Keep in the history what moves nothing: how a hook fared. Durable; raises as `record`."""
        self._check()
        status = str(self._ahead.status)
        said = Change(
            entity="experiment",
            process=None,
            event=event,
            source=status,
            target=status,
            at=self._now(),
            evidence=evidence,
            fields={},
        )
        self._append_changes(replay(self._ahead, said), (*self._noted, said))
        self._view.refresh(self._state)

    @_alone
    def tick(self) -> None:
        """Refresh the view if it is more than a second behind. Call it once per turn of a loop."""
        if self._view.is_old() and (self._noted or self._view.lacks(self._state)):
            self._check()
            if self._noted:
                self._step(())
            self._view.refresh(self._state)

    def on_step(self, observer: Observer) -> None:
        """Have *observer* called with `(state, changes)` after every line that is recorded.

        In a thread of its own, in the order of the lines, and never in the way: one that raises is
        warned of, one that does not keep up misses steps, the oldest first, which is told, too.
        """
        self._check()
        self._observing.add(observer)

    @_alone
    def record_saved(self, state: ExperimentState, changes: Sequence[Change]) -> ExperimentState:
        """Append *state* whole, with the transitions that it contains. For `StateManager.save`."""
        self._check()
        assert not self._noted, "a claim for a save notes nothing"
        at = self._now()
        state = attrs.evolve(
            state,
            revision=self._state.revision + 1,
            epoch=self._writer.epoch,
            schema_version=SCHEMA_VERSION,
            owner=self._state.owner,
            last_updated=at,
        )
        line = lines.saved(state, changes, at)
        self._writer.begin()
        self._writer.append(line)
        self._state = self._ahead = state
        self._writer.finish()
        self._observing.tell(state, changes)
        self._view.refresh(state)
        return state

    @_alone
    def record_deleted(self) -> None:
        """Append `deleted`: from here on the experiment counts as not found."""
        self._check()
        self._writer.delete(lines.deleted(self._state.revision, self._now()))

    @_alone
    def check_fence(self) -> None:
        """Make sure that nobody took over, before something is done that cannot be taken back.

        Raises:
            OwnershipLostError, ClaimClosedError: This claim is no longer the owner's.
            StateWriteError: It cannot be told.
        """
        self._check()
        self._writer.fence()

    def release(self) -> None:
        """Let the experiment go: record it, refresh the view, free the lock. Repeating it is fine.

        The lock is freed whatever happens. A view that cannot be written is only warned about,
        since the journal has everything.

        Raises:
            ClaimBusyError: It is in the middle of a call that this one interrupted.
        """
        try:
            self._release()
        finally:
            uninterrupted.let_go()
            self._observing.close()
            uninterrupted.deliver_if_waiting()

    @_alone
    def _release(self) -> None:
        if os.getpid() != self._pid:
            return
        try:
            if self._writer.status is WriterStatus.OPEN:
                self._say_goodbye()
        finally:
            self._writer.release()
            self._close()

    def _say_goodbye(self) -> None:
        assert self._state.owner is not None
        owner = attrs.evolve(self._state.owner, locked=False, released=True)
        farewell = Change(
            entity="experiment",
            process=None,
            event="released",
            source=str(self._state.status),
            target=str(self._state.status),
            at=self._now(),
            fields={"owner": owner},
        )
        try:
            if self._noted:
                self._step(())
            self._append([farewell], replay(self._state, farewell))
            self._view.refresh(self._state, final=True)
        except (StateWriteError, OwnershipLostError):
            # Everything acknowledged is stored; whoever looks next finds the lock free and us dead
            # or gone. An error here would hide the one that may be on its way up.
            pass
        if self._view.problem is not None:
            why = cause(self._view.problem)
            warnings.warn(
                f"{self._place.view_name} could not be refreshed ({why}); the journal has "
                f"everything, and the next claim rewrites it",
                UnreadableStateWarning,
                stacklevel=6,
            )

    @uninterrupted.within
    def __enter__(self) -> Self:
        try:
            uninterrupted.checkpoint()
        except BaseException:
            self.release()
            raise
        return self

    @uninterrupted.within
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
        uninterrupted.let_go(sys._getframe(1))
        uninterrupted.checkpoint()

    @uninterrupted.within
    def __del__(self) -> None:
        # Not at the end of the interpreter, when half of what it takes is gone: the kernel frees
        # the lock. Nor of a claim that was never whole, or is a forked child's.
        writer = getattr(self, "_writer", None)
        if writer is None or writer.held[0].closed:
            return
        if sys.is_finalizing() or os.getpid() != self._pid:
            return
        try:
            self.release()
        finally:
            uninterrupted.let_go(sys._getframe(1))
            warnings.warn(
                f"{self!r} was dropped without a release",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be copied or pickled: an experiment has one owner; hand the claim "
            f"itself on, or claim it where it is to be used"
        )

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ClaimClosedError(
                self._state.experiment_id, f"it belongs to pid {self._pid}, and this is a fork"
            )
        self._writer.check()

    def _append_changes(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        before = self._state
        # Nobody has seen it yet: no copy is made for that.
        object.__setattr__(state, "revision", before.revision + 1)
        self._append(changes, state)
        if self._noted:
            self._noted, self._noted_actions = [], []
        self._observing.tell(self._state, changes)
        moved = self._writer.compacted(self._state, self._now)
        if moved is not None:
            self._state = self._ahead = moved
        if self._state.status is not before.status or self._view.is_old():
            self._view.refresh(self._state)

    def _append(self, changes: Sequence[Change], state: ExperimentState) -> None:
        """Have *changes* on the disk, which lead to *state*."""
        line = lines.changed(changes, state.revision)
        self._writer.begin()
        self._writer.append(line)
        self._state = self._ahead = state
        self._writer.finish()

    def _close(self) -> None:
        uninterrupted.tenants.discard(self)
        for held in (*self._writer.held, self._lock, self._folder, self._place.top):
            with contextlib.suppress(OSError):
                held.close()

    def __repr__(self) -> str:
        writer = self._writer
        how = writer.why or writer.status
        return f"<Claim of {self._state.experiment_id} (epoch {writer.epoch}, {how})>"


def _close_in_child() -> None:
    # A flock belongs to the open file, which a fork shares: a child that kept it would hold the
    # experiment after its owner's death.
    for claim in list(uninterrupted.tenants):
        if isinstance(claim, Claim):
            # Another thread may have held it at the fork, and is not there to let it go.
            claim._mutex, claim._busy = threading.RLock(), False
            claim._close()


os.register_at_fork(after_in_child=_close_in_child)
