"""The attempts that an engine runs for us: submitted, watched, stopped, settled when they are gone.

Owns which attempts are whose: *handles* run or are queued, *settling* are gone and on their way to
a certain end, *blocked* cannot be judged. It waits for nothing; `holdfast.orchestration.loop` does.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

import attrs

from holdfast.attempts import files
from holdfast.attempts.family import Census
from holdfast.attempts.looking import Ended, Look, Running, Undecided, glance, look
from holdfast.attempts.names import AttemptName, attempts_dir
from holdfast.attempts.records import Attempt
from holdfast.attempts.settling import Lost, Settling
from holdfast.attempts.surviving import Halted, halted_shim
from holdfast.config.experiment_file import Limits
from holdfast.engines.contract import Engine, EngineWord, Handle
from holdfast.errors import (
    ClaimClosedError,
    DiskError,
    EngineError,
    OwnershipLostError,
    StateReadError,
    StateWriteError,
)
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.launching import Launcher
from holdfast.orchestration.patience import Patience
from holdfast.orchestration.rules import limits_of_attempt
from holdfast.status import Reason

__all__ = ["Learnt", "Watch"]

#: How often what settles is checked: soon at first, since most of it ends at once.
_SETTLE_EVERY_S: Final = (0.02, 0.25)
#: Of one turn, so that a thousand of them make nobody deaf.
_STEP_WITHIN_S: Final = 0.2
#: How often what cannot be judged is checked again.
_BLOCKED_EVERY_S: Final = 5.0
#: How long after its grace period an attempt may take to vanish before the run ends without it.
_STOPPED_WITHIN_S: Final = 10.0
#: Not sooner than this is a disk asked again that just refused, and not for longer.
_UNREAD_EVERY_S: Final = 1.0
_UNREAD_WITHIN_S: Final = 30.0


def _nothing() -> None:
    pass


@attrs.frozen
class Learnt:
    """An attempt is over.

    Attributes:
        text: The engine's own word, where it adds something.
    """

    name: AttemptName
    found: Ended | Lost
    text: str = ""


@attrs.define(kw_only=True)
class Watch:
    """Everything that runs of one experiment.

    Attributes:
        state: How the experiment stands, for the limits that rules have set.
        fence: Raises if a newer owner took over, and what runs is not ours any more.
        gone_grace_s: How long an attempt may be gone without an exit record before it is judged:
            on a shared file system the record can be seen later than the engine's word.
        force: Take for dead what cannot be judged.
        engine_trouble: The engine's errors, which are waited out.
        unread: Why the last look could not tell how an attempt ended; None if none failed.
        completing: Attempts whose command has ended and whose outcome is about to come.
        blocked: Attempts that cannot be judged, or that do not end, and why.
        left: Attempts that ended, and whose outcome the next resume takes up.
        asked: When this orchestrator asked attempts to stop.
        unreached: Those that cannot be reached now, and why.
        launched: Handles of attempts that the engine started since somebody took them from here.
    """

    engine: Engine
    launcher: Launcher
    clock: Callable[[], datetime]
    state: Callable[[], ExperimentState]
    fence: Callable[[], None]
    monotonic: Callable[[], float] = time.monotonic
    gone_grace_s: float = 2.0
    force: bool = False
    engine_trouble: Patience = attrs.field(factory=Patience)
    unread: DiskError | None = None
    handles: dict[AttemptName, Handle] = attrs.field(factory=dict)
    settling: dict[AttemptName, Settling] = attrs.field(factory=dict)
    blocked: dict[AttemptName, str] = attrs.field(factory=dict)
    completing: set[AttemptName] = attrs.field(factory=set)
    left: set[AttemptName] = attrs.field(factory=set)
    asked: dict[AttemptName, float] = attrs.field(factory=dict)
    unreached: dict[AttemptName, str] = attrs.field(factory=dict)
    launched: list[Handle] = attrs.field(factory=list)
    _graces: dict[AttemptName, float] = attrs.field(factory=dict)
    #: What was asked of attempts that settled, should one of them turn out to run.
    _orders: dict[AttemptName, Callable[[], None]] = attrs.field(factory=dict)
    _shims: dict[AttemptName, ProcessIdentity | None] = attrs.field(factory=dict)
    _texts: dict[AttemptName, str] = attrs.field(factory=dict)
    _unsubmitted: dict[AttemptName, Attempt] = attrs.field(factory=dict)
    _gone_since: dict[AttemptName, float] = attrs.field(factory=dict)
    _unread_since: dict[AttemptName, float] = attrs.field(factory=dict)
    _again: list[Learnt] = attrs.field(factory=list)
    _settle_s: float = _SETTLE_EVERY_S[0]
    _blocked_at: float = float("-inf")
    _stopping: bool = False
    _killing: bool = False
    _to_cancel: set[AttemptName] = attrs.field(factory=set)
    _taken_away: bool = False

    # -- what is ours -----------------------------------------------------------------------------

    def known(self) -> Mapping[AttemptName, Handle] | None:
        """What the engine has queued or running of this experiment, whoever submitted it.

        None if it cannot be asked at this moment.
        """
        with self._engine():
            return self.engine.find(self.launcher.experiment_id, self.launcher.folder)
        return None

    def adopt(self, names: Iterable[AttemptName], known: Mapping[AttemptName, Handle]) -> None:
        """Watch attempts that an orchestrator before us launched."""
        for name in names:
            # One that ended since then is not known: its exit record will be found.
            self.handles[name] = known.get(name) or Handle(name=name, folder=self.launcher.folder)

    def adopt_others(self, names: Iterable[AttemptName]) -> None:
        """Watch what of *names* is not watched yet."""
        watched = {*self.handles, *self.settling}
        self.adopt([name for name in names if name not in watched], {})

    def settle(self, name: AttemptName, shim: ProcessIdentity | None, text: str = "") -> None:
        """Have an attempt come to a certain end that is gone, or never began.

        Args:
            shim: Who was recorded as its shim.
            text: What the engine says of it.
        """
        self._shims[name], self._texts[name] = shim, text
        self._settle_s = _SETTLE_EVERY_S[0]
        self.settling[name] = Settling(
            folder=self.launcher.folder,
            name=name,
            shim=shim,
            grace_s=self._grace_s(name),
            force=self.force,
            fence=self.fence,
            began=self.monotonic(),
        )

    def limits(self, name: AttemptName) -> Limits:
        """What counts for an attempt that is recorded as running."""
        return limits_of_attempt(self.launcher.experiment.limits, self.state(), name)

    def submit(self, wanted: Sequence[Attempt]) -> None:
        """Have the engine start *wanted*; what it started is in `launched`, at once or later.

        An engine that cannot be reached is asked again, at longer and longer intervals: an attempt
        that it had started all the same does not run twice.

        Raises:
            StateWriteError: The folder for the attempts cannot be made.
        """
        self._unsubmitted.update({attempt.name: attempt for attempt in wanted})
        self._submit()

    def _submit(self) -> None:
        if not self._unsubmitted or not self.engine_trouble.over(self.monotonic()):
            return
        wanted = list(self._unsubmitted.values())
        with self._engine():
            found = self.engine.submit(self.launcher.experiment_id, wanted)
            self._unsubmitted.clear()
            self.handles.update({handle.name: handle for handle in found})
            self.launched += found

    @property
    def unsubmitted(self) -> Collection[AttemptName]:
        """What no engine has taken yet."""
        return self._unsubmitted.keys()

    @contextlib.contextmanager
    def _engine(self) -> Iterator[None]:
        try:
            yield
        except EngineError as err:
            self.engine_trouble.failed(err, self.monotonic())
        else:
            self.engine_trouble.passed()

    def halted(self) -> dict[AttemptName, Halted]:
        """The attempts that nobody watches over, since somebody stopped their shims."""
        found = {name: halted_shim(handle.identity) for name, handle in self.handles.items()}
        return {name: each for name, each in found.items() if each is not None}

    @property
    def idle(self) -> int:
        """How many processes are recorded as running and use no slot."""
        names = (*self.completing, *self.settling, *self.blocked, *self.left)
        return sum(name.index is not None for name in names)

    @property
    def blocked_processes(self) -> list[int]:
        """The processes that nobody waits for, ascending."""
        names = (*self.blocked, *self.left)
        return sorted(name.index for name in names if name.index is not None)

    # -- what is learnt ---------------------------------------------------------------------------

    def collect(self) -> list[Learnt]:
        """The attempts that are over since the last look.

        The exit record beats the engine's word, and *unknown* says nothing at all.

        Raises:
            OwnershipLostError, ClaimClosedError: A newer owner took over.
        """
        self.unread = None
        found, self._again = self._again, []
        if self._to_cancel:
            self._cancel()
        self._submit()
        if self.handles and self.engine_trouble.over(self.monotonic()):
            with self._engine():
                for word in self.engine.poll(list(self.handles.values())):
                    self._hear(word, found)
        self._step(found)
        self._look_at_blocked(found)
        return found

    def put_back(self, learnt: Learnt, problem: DiskError) -> None:
        """Have *learnt* be told again: a disk kept it from being taken up at this moment."""
        self._again.append(learnt)
        self.unread = problem

    def _hear(self, word: EngineWord, found: list[Learnt]) -> None:
        name = word.name
        if word.kind in ("queued", "running", "completing"):
            self._gone_since.pop(name, None)
            # Where the first failure ends all, nothing is begun beside an end that looks like one.
            fail_fast = self.launcher.experiment.limits.fail_fast
            if word.kind == "completing" and (word.clean or not fail_fast):
                self.completing.add(name)
            return
        try:
            seen = glance(self.launcher.folder, name)
        except DiskError as err:
            # It may hold a success, and what it is about may even run: every turn looks again.
            self.unread = err
            return
        if isinstance(seen, Ended):
            found.append(Learnt(name, seen, word.text))
            self._forget(name)
        elif word.kind == "gone":
            now = self.monotonic()
            if now - self._gone_since.setdefault(name, now) >= self.gone_grace_s:
                shim = self.handles[name].identity
                self._forget(name)
                self.settle(name, shim, word.text)

    def _forget(self, name: AttemptName) -> None:
        self.handles.pop(name, None)
        self.completing.discard(name)
        self._gone_since.pop(name, None)

    def _step(self, found: list[Learnt]) -> None:
        """Everything that settles, one step each: all are signalled before any is waited for."""
        census, began = Census(), self.monotonic()
        for name, each in list(self.settling.items()):
            if self.monotonic() - began > _STEP_WITHIN_S:
                break
            # Behind the others, so that those come first who have waited for longest.
            self.settling[name] = self.settling.pop(name)
            seen: Look | Lost | None
            try:
                seen = each.step(self.monotonic(), census, kill=self._killing)
            except DiskError as err:
                self._not_now(name, err)
                continue
            except OSError as err:
                # No descriptors left, say, to look at processes with: nothing is decided.
                path = attempts_dir(self.launcher.folder) / str(name)
                self._not_now(name, StateReadError.of(path, "looking at it", err))
                continue
            self._unread_since.pop(name, None)
            if seen is None:
                continue
            del self.settling[name]
            self._settled(name, seen, found)
        self._settle_s = min(self._settle_s * 1.5, _SETTLE_EVERY_S[1])

    def _not_now(self, name: AttemptName, problem: DiskError) -> None:
        """Its files cannot be read: mostly that passes, but a run must end all the same."""
        self.unread = problem
        now = self.monotonic()
        if now - self._unread_since.setdefault(name, now) >= _UNREAD_WITHIN_S:
            del self.settling[name], self._unread_since[name]
            self.blocked[name] = f"{problem.path}: {problem.operation} failed: {problem.cause}"

    def _settled(self, name: AttemptName, seen: Look | Lost, found: list[Learnt]) -> None:
        if isinstance(seen, Ended | Lost):
            found.append(Learnt(name, seen, self._texts.get(name, "")))
        elif isinstance(seen, Running):
            handle = Handle(name=name, folder=self.launcher.folder, identity=seen.identity)
            self.handles[name] = handle
            # It began after all, and nothing that could be heard was asked of it yet.
            self._orders.pop(name, _nothing)()
        elif isinstance(seen, Undecided):
            self.blocked[name] = seen.evidence
        else:
            self.settle(name, self._shims.get(name), self._texts.get(name, ""))

    def _look_at_blocked(self, found: list[Learnt]) -> None:
        now = self.monotonic()
        if not self.blocked or self._stopping or now - self._blocked_at < _BLOCKED_EVERY_S:
            return
        self._blocked_at = now
        census = Census()
        for name in list(self.blocked):
            shim = self._shims.get(name)
            with contextlib.suppress(DiskError, OSError):
                seen = look(self.launcher.folder, name, shim=shim, census=census)
                if not isinstance(seen, Undecided):
                    del self.blocked[name]
                    self._settled(name, seen, found)

    # -- what is to stop --------------------------------------------------------------------------

    def stop(self, *, force: bool, why: Reason, grace_s: float | None = None) -> None:
        """Ask everything that runs to stop, within *grace_s* if that is given; *force* kills.

        Raises:
            OwnershipLostError, ClaimClosedError: A newer owner runs it; nothing was stopped.
        """
        self._fence()
        self._stopping, self._killing = True, self._killing or force
        self._settle_unsubmitted(list(self._unsubmitted))
        everything = [*self.handles, *self.blocked, *self.settling]
        self.ask(everything, force=force, why=why, grace_s=grace_s)

    def stop_some(
        self,
        firsts: Container[int],
        but: set[AttemptName],
        *,
        force: bool,
        grace_s: float | None,
    ) -> None:
        """As `stop`, on behalf of a user, of the commands whose first processes these are.

        Args:
            but: Attempts that were asked to before; those that are asked now are added.
        """
        there = [*self._unsubmitted, *self.handles, *self.blocked, *self.settling]
        some = [name for name in there if name.index in firsts and name not in but]
        if not some:
            return
        self._fence()
        but.update(some)
        self._settle_unsubmitted([name for name in some if name in self._unsubmitted])
        self.ask(some, force=force, why=Reason.USER, grace_s=grace_s)

    def _settle_unsubmitted(self, names: Sequence[AttemptName]) -> None:
        for name in names:
            # The engine may have started it before it failed.
            self.settle(name, None)
            del self._unsubmitted[name]

    def _fence(self) -> None:
        try:
            self.fence()
        except DiskError:
            pass  # a disk that cannot be asked must not keep a user from stopping what runs
        except ClaimClosedError:
            if not self._taken_away:
                raise
        except OwnershipLostError as err:
            if err.newer_epoch:
                raise
            # The folder was taken away, and nobody else is there to stop what runs.
            self._taken_away = True

    def ask(
        self,
        names: Sequence[AttemptName],
        *,
        force: bool,
        why: Reason,
        grace_s: float | None = None,
    ) -> None:
        """Ask these attempts to stop, within *grace_s* if that is given; *force* kills them."""
        for name in names:
            self.asked[name] = self.monotonic()
            if grace_s is not None or force:
                self._graces[name] = 0.0 if force else grace_s or 0.0
            if name in self.settling:
                self.settling[name].grace_s = self._grace_s(name)
                self._orders[name] = functools.partial(
                    self.ask, [name], force=force, why=why, grace_s=grace_s
                )
                continue
            # Where the disk takes no request, the engine has ways of its own.
            with contextlib.suppress(StateWriteError):
                what: Literal["stop", "kill"] = "kill" if force else "stop"
                files.request(self.launcher.folder, name, what, why, grace_s=grace_s)
        self._to_cancel.update(name for name in names if name in self.handles)
        self._cancel()

    def _cancel(self) -> None:
        with self._engine():
            handles = [self.handles[name] for name in self._to_cancel if name in self.handles]
            if handles:
                self.unreached.update(self.engine.cancel(handles, force=self._killing))
            self._to_cancel.clear()

    def give_up(self) -> None:
        """Leave to the next resume what was asked to stop long ago and does not end."""
        now = self.monotonic()
        for name, since in self.asked.items():
            lasted = now - since
            waited_for = name in self.handles or name in self.settling
            if lasted < _STOPPED_WITHIN_S or not waited_for:
                continue
            grace_s = 0.0 if self._killing else self._grace_s(name)
            if lasted < grace_s + _STOPPED_WITHIN_S:
                continue
            why = self.unreached.get(name)
            asked = f"it was asked to stop {lasted:.0f} s ago and has not ended"
            self.blocked[name] = f"{asked}: {why}" if why else asked
            self._forget(name)
            self.settling.pop(name, None)

    def _grace_s(self, name: AttemptName) -> float:
        found = self._graces.get(name)
        return self.limits(name).grace_s if found is None else found

    def pause_s(self, longest_s: float) -> float:
        """How long to wait for something to happen, *longest_s* at most."""
        now = self.monotonic()
        pauses = [longest_s]
        pauses += [max(0.0, at + self.gone_grace_s - now) for at in self._gone_since.values()]
        if self.settling:
            pauses.append(self._settle_s)
        if self._again or self.unread is not None:
            pauses = [max(min(pauses), _UNREAD_EVERY_S)]
        return min(pauses)
