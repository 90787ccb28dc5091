"""The attempts that an engine runs for us: submitted, watched, stopped, settled when they are gone.

Owns which attempts are whose: *handles* run or are queued, *settling* are gone and on their way to
a certain end, *blocked* cannot be judged. It waits for nothing; `holdfast.orchestration.loop` does.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs

from holdfast.attempts.family import Census
from holdfast.attempts.looking import Ended, Look, Running, Undecided, look
from holdfast.attempts.names import AttemptName, attempts_dir
from holdfast.attempts.records import Attempt
from holdfast.attempts.settling import Lost, Settling
from holdfast.attempts.surviving import Halted, halted_shim
from holdfast.config.experiment_file import Limits
from holdfast.engines.contract import Engine, EngineWord, Handle
from holdfast.errors import (
    DiskError,
    EngineError,
    EngineRefusedError,
    StateReadError,
)
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.asking import Asking
from holdfast.orchestration.hearing import Hearing, grace_s
from holdfast.orchestration.known import Known, ask
from holdfast.orchestration.launching import Launcher
from holdfast.orchestration.patience import Patience
from holdfast.orchestration.rules import limits_of_attempt
from holdfast.orchestration.words import LOST, Meaning

__all__ = ["Learnt", "Watch"]

#: How often what settles is checked: soon at first, since most of it ends at once.
_SETTLE_EVERY_S: Final = (0.02, 0.25)
#: Of one turn, so that a thousand of them make nobody deaf.
_STEP_WITHIN_S: Final = 0.2
#: How often what cannot be judged is checked again.
_BLOCKED_EVERY_S: Final = 5.0
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
        means: What that means beside what was found.
    """

    name: AttemptName
    found: Ended | Lost
    text: str = ""
    means: Meaning = LOST


@attrs.define(kw_only=True)
class Watch:
    """Everything that runs of one experiment.

    Attributes:
        state: How the experiment stands, for the limits that rules have set.
        fence: Raises if a newer owner took over, and what runs is not ours any more.
        gone_grace_s: How long an attempt may be over without an exit record before it is judged;
            None for what is right for its engine.
        force: Take for dead what cannot be judged.
        engine_trouble: The engine's errors, which are waited out.
        refused: What the engine refused for good; nothing more is submitted then.
        unread: Why the last look could not tell how an attempt ended; None if none failed.
        completing: Attempts whose command has ended and whose outcome is about to come.
        blocked: Attempts that cannot be judged, or that do not end, and why.
        left: Attempts that ended, and whose outcome the next resume takes up.
        kept: The handles of what settles, or is blocked.
        unsubmitted: What no engine has taken yet.
        launched: Handles of attempts that the engine started since somebody took them from here.
        heard: Of an engine with a queue, what it says of those that go on, by attempt, since
            somebody took it from here.
        elsewhere: Of those that are blocked, the ones that another engine has: nothing that can be
            seen here decides but their outcome.
    """

    engine: Engine
    launcher: Launcher
    clock: Callable[[], datetime]
    state: Callable[[], ExperimentState]
    fence: Callable[[], None]
    monotonic: Callable[[], float] = time.monotonic
    gone_grace_s: float | None = None
    force: bool = False
    engine_trouble: Patience = attrs.field(factory=Patience)
    refused: EngineRefusedError | None = None
    unread: DiskError | None = None
    handles: dict[AttemptName, Handle] = attrs.field(factory=dict)
    settling: dict[AttemptName, Settling] = attrs.field(factory=dict)
    blocked: dict[AttemptName, str] = attrs.field(factory=dict)
    completing: set[AttemptName] = attrs.field(factory=set)
    left: set[AttemptName] = attrs.field(factory=set)
    kept: dict[AttemptName, Handle] = attrs.field(factory=dict)
    unsubmitted: dict[AttemptName, Attempt] = attrs.field(factory=dict)
    launched: list[Handle] = attrs.field(factory=list)
    heard: dict[AttemptName, EngineWord] = attrs.field(factory=dict)
    elsewhere: set[AttemptName] = attrs.field(factory=set)
    _last: dict[AttemptName, EngineWord] = attrs.field(factory=dict)
    _shims: dict[AttemptName, ProcessIdentity | None] = attrs.field(factory=dict)
    #: The last words on what is on its way to an end, or is blocked.
    _words: dict[AttemptName, EngineWord] = attrs.field(factory=dict)
    _early: set[AttemptName] = attrs.field(factory=set)
    _unread_since: dict[AttemptName, float] = attrs.field(factory=dict)
    _again: list[Learnt] = attrs.field(factory=list)
    _settle_s: float = _SETTLE_EVERY_S[0]
    _blocked_at: float = float("-inf")

    @functools.cached_property
    def hearing(self) -> Hearing:
        """What the engine says, and when that counts."""
        return Hearing(
            engine=self.engine,
            folder=self.launcher.folder,
            experiment_id=self.launcher.experiment_id,
            state=self.state,
            monotonic=self.monotonic,
            grace_s=grace_s(self.engine, self.gone_grace_s),
        )

    @functools.cached_property
    def asking(self) -> Asking:
        """What is asked to stop."""
        return Asking(self)

    # -- what is ours -----------------------------------------------------------------------------

    def known(self) -> Mapping[AttemptName, Handle] | None:
        """What the engine has queued or running of this experiment, whoever submitted it.

        None if it cannot be asked at this moment.
        """
        with self.reached():
            return self.engine.find(self.launcher.experiment_id, self.launcher.folder)
        return None

    def everything(self, state: ExperimentState) -> Known | None:
        """What the engine knows of all that *state* has running; None as for `known`."""
        with self.reached():
            return ask(self.engine, self.launcher.folder, state)
        return None

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str] | None:
        """What people should know before such *attempts* are submitted; None as for `known`.

        Raises:
            EngineRefusedError: The engine takes none of them, ever.
        """
        try:
            found = self.engine.check(attempts)
        except EngineRefusedError:
            raise
        except EngineError as err:
            self.engine_trouble.failed(err, self.monotonic())
            return None
        self.engine_trouble.passed()
        return found

    def adopt(self, names: Iterable[AttemptName], known: Mapping[AttemptName, Handle]) -> None:
        """Watch attempts that an orchestrator before us launched."""
        for name in names:
            # One that ended since then is not known: its exit record will be found.
            self.handles[name] = known.get(name) or Handle(name=name, folder=self.launcher.folder)

    def block(self, name: AttemptName, why: str) -> None:
        """Leave an attempt alone that another engine has, until it ends."""
        self.blocked[name] = why
        self.elsewhere.add(name)

    def adopt_others(self, names: Iterable[AttemptName]) -> None:
        """Watch what of *names* is not watched yet."""
        watched = {*self.handles, *self.settling, *self.elsewhere}
        self.adopt([name for name in names if name not in watched], {})

    def settle(
        self,
        name: AttemptName,
        shim: ProcessIdentity | None,
        word: EngineWord | None = None,
        *,
        proof: str | None = None,
    ) -> None:
        """Have an attempt come to a certain end that is gone, or never began.

        Args:
            shim: Who was recorded as its shim.
            word: What the engine says of it.
            proof: See `Settling`.
        """
        self._shims[name] = shim
        if word is not None:
            self._words[name] = word
        self._settle_s = _SETTLE_EVERY_S[0]
        self.settling[name] = Settling(
            folder=self.launcher.folder,
            name=name,
            shim=shim,
            grace_s=self.asking.grace_s(name),
            force=self.force,
            fence=self.fence,
            began=self.monotonic(),
            proof=proof,
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
        self.unsubmitted.update({attempt.name: attempt for attempt in wanted})
        self._submit()

    def _submit(self) -> None:
        if not self.unsubmitted or not self.engine_trouble.over(self.monotonic()):
            return
        wanted = list(self.unsubmitted.values())
        with self.reached():
            try:
                found = self.engine.submit(self.launcher.experiment_id, wanted)
            except EngineRefusedError as err:
                self.refused = err
                found = self._taken_all_the_same(err)
            self.unsubmitted.clear()
            self.handles.update({handle.name: handle for handle in found})
            self.launched += found

    def _taken_all_the_same(self, refusal: EngineRefusedError) -> list[Handle]:
        """What the engine took before it refused the rest, which is settled: none of it begins."""
        taken = self.known() or {}
        for name in self.unsubmitted.keys() - taken.keys():
            self.settle(name, None, EngineWord(name, "gone", str(refusal)))
        return [taken[name] for name in self.unsubmitted if name in taken]

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Wait out that the engine cannot be reached, whatever it is asked within."""
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
        if self.asking.to_cancel and self.engine_trouble.over(self.monotonic()):
            self.asking.cancel()
        self._submit()
        if handles := [*self.handles.values(), *self._doubtful()]:
            self._hear_all(handles, found)
        self._step(found)
        self._look_at_blocked(found)
        return found

    def put_back(self, learnt: Learnt, problem: DiskError) -> None:
        """Have *learnt* be told again: a disk kept it from being taken up at this moment."""
        self._again.append(learnt)
        self.unread = problem

    def _doubtful(self) -> list[Handle]:
        """The handles of what is blocked and the engine may know better by now."""
        if not self.kept or self.asking.everything or not self._is_blocked_due():
            return []
        return [handle for name, handle in self.kept.items() if name in self.blocked]

    def _poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        if self.engine_trouble.over(self.monotonic()):
            with self.reached():
                return self.engine.poll(handles)
        # Outcomes come all the same.
        return [EngineWord(each.name, "unknown") for each in handles]

    def _hear_all(self, handles: Sequence[Handle], found: list[Learnt]) -> None:
        try:
            self.hearing.begin()
        except DiskError as err:
            self.unread = err
        for word in self._poll(handles):
            try:
                self._hear(word, found)
            except DiskError as err:
                # It may hold a success, and what it is about may even run: every turn looks again.
                self.unread = err

    def _hear(self, word: EngineWord, found: list[Learnt]) -> None:
        name = word.name
        if word.handle is not None:
            kept = self.handles if name in self.handles else self.kept
            kept[name] = word.handle
        means, ended = self.hearing.hear(word)
        if means.kind in ("goes_on", "ending"):
            self._go_on(word, means)
        elif means.kind == "counts" and ended is not None:
            found.append(Learnt(name, ended, word.text, means))
            self.forget(name)
        elif means.kind == "doubtful" and not self.engine.shares_files:
            # That nothing of it is here proves nothing either.
            if name in self.handles:
                self.kept[name] = self.handles.pop(name)
            self.blocked[name] = means.words
        elif means.kind == "over" or (means.kind == "doubtful" and name in self.handles):
            handle = self.handles.get(name) or self.kept[name]
            early = self.hearing.is_early(name)
            self.forget(name)
            self.kept[name] = handle
            if early:
                self._early.add(name)
            self.settle(name, handle.identity, word, proof=None if early else means.proof)

    def _go_on(self, word: EngineWord, means: Meaning) -> None:
        name = word.name
        if name in self.blocked:
            del self.blocked[name]
            self.handles[name] = self.kept.pop(name)
        if not self.hearing.is_local:
            if self._last.get(name) != word:
                self._last[name] = self.heard[name] = word
        # Where the first failure ends all, nothing is begun beside an end that looks like one.
        elif means.kind == "ending" and (
            word.clean or not self.launcher.experiment.limits.fail_fast
        ):
            self.completing.add(name)

    def take_heard(self) -> list[tuple[EngineWord, Handle]]:
        """What was `heard`, with the handles, of attempts that still go on."""
        found = [
            (word, self.handles[name]) for name, word in self.heard.items() if name in self.handles
        ]
        self.heard.clear()
        return found

    def forget(self, name: AttemptName) -> None:
        """Watch it no more."""
        self._last.pop(name, None)
        self.handles.pop(name, None)
        self.kept.pop(name, None)
        self.blocked.pop(name, None)
        self.completing.discard(name)
        self.hearing.forget(name)

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
                seen = each.step(self.monotonic(), census, kill=self.asking.killing)
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
        word = self._words.pop(name, None)
        if isinstance(seen, Ended | Lost):
            self.kept.pop(name, None)
            record = seen.record if isinstance(seen, Ended) else None
            means = LOST if word is None else self.hearing.mean(word, record)
            found.append(Learnt(name, seen, "" if word is None else word.text, means))
        elif isinstance(seen, Running):
            handle = self.kept.pop(name, None) or Handle(name=name, folder=self.launcher.folder)
            self.handles[name] = attrs.evolve(handle, identity=seen.identity)
            # It began after all, and nothing that could be heard was asked of it yet.
            self.asking.orders.pop(name, _nothing)()
        elif isinstance(seen, Undecided):
            self._left_undecided(name, seen, word)
        else:
            self.settle(name, self._shims.get(name), word)

    def _left_undecided(self, name: AttemptName, seen: Undecided, word: EngineWord | None) -> None:
        if name in self._early and name in self.kept:
            # It began after all. Once its outcome has had its time to be seen, the word counts.
            self._early.discard(name)
            self.handles[name] = self.kept.pop(name)
            return
        means = LOST if word is None else self.hearing.mean(word, None)
        self.blocked[name] = means.words if means.kind == "doubtful" else seen.evidence

    def _look_at_blocked(self, found: list[Learnt]) -> None:
        if not self.blocked or self.asking.everything or not self._is_blocked_due():
            return
        self._blocked_at = self.monotonic()
        census = Census()
        for name in list(self.blocked):
            shim = self._shims.get(name)
            with contextlib.suppress(DiskError, OSError):
                seen = look(self.launcher.folder, name, shim=shim, census=census)
                if isinstance(seen, Undecided):
                    continue
                # What can be seen from here says nothing of another's attempts but how they ended.
                theirs = name in self.elsewhere or not self.engine.shares_files
                if theirs and not isinstance(seen, Ended):
                    continue
                del self.blocked[name]
                self._settled(name, seen, found)

    def _is_blocked_due(self) -> bool:
        return self.monotonic() - self._blocked_at >= _BLOCKED_EVERY_S

    def pause_s(self, longest_s: float) -> float:
        """How long to wait for something to happen, *longest_s* at most."""
        now = self.monotonic()
        pauses = [longest_s]
        # What an engine does not answer, no grace period brings to an end.
        pauses.append(max(self.hearing.pause_s(now), self.engine_trouble.left_s(now)))
        if self.settling:
            pauses.append(self._settle_s)
        if self._again or self.unread is not None:
            pauses = [max(min(pauses), _UNREAD_EVERY_S)]
        return min(pauses)
