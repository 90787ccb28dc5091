"""What an engine runs of one experiment: submitted, adopted, settled, and whose is what.

*handles* run or are queued, *settling* are gone and on their way to a certain end, *blocked* cannot
be judged. `holdfast.orchestration.watch` learns what becomes of them, `asking` has them stopped.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.attempts.settling import Settling
from holdfast.attempts.surviving import Halted, halted_shim
from holdfast.config.experiment_file import Limits
from holdfast.engines.contract import Engine, EngineWord, Handle
from holdfast.errors import EngineError, EngineRefusedError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.hearing import Hearing, grace_s
from holdfast.orchestration.known import Known, ask
from holdfast.orchestration.launching import Launcher
from holdfast.orchestration.patience import Patience
from holdfast.orchestration.rules import limits_of_attempt
from holdfast.orchestration.wondering import Wondering

__all__ = ["SETTLE_SOON_S", "Watched"]

#: How soon what settles is checked again: most of it ends at once.
SETTLE_SOON_S: Final = 0.02


@attrs.define(kw_only=True)
class Watched:
    """Everything that runs of one experiment, and the engine that runs it.

    Attributes:
        state: How the experiment stands, for the limits that rules have set.
        fence: Raises if a newer owner took over, and what runs is not ours any more.
        gone_grace_s: How long an attempt may be over without an exit record before it is judged;
            None for what is right for its engine.
        force: Take for dead what cannot be judged.
        engine_trouble: The engine's errors, which are waited out.
        refused: What the engine refused for good; nothing more is submitted then.
        completing: Attempts whose command has ended and whose outcome is about to come.
        blocked: Attempts that cannot be judged, or that do not end, and why.
        left: Attempts that ended, and whose outcome the next resume takes up.
        kept: The handles of what settles, or is blocked.
        unsubmitted: What no engine has taken yet.
        launched: Handles of attempts that the engine started since somebody took them from here.
        elsewhere: Of those that are blocked, the ones that another engine has: nothing that can be
            seen here decides but their outcome.
        untaken: Of an engine that outlives us, what its scheduler may not have yet, or, if that is
            True, has no room for.
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
    handles: dict[AttemptName, Handle] = attrs.field(factory=dict)
    settling: dict[AttemptName, Settling] = attrs.field(factory=dict)
    blocked: dict[AttemptName, str] = attrs.field(factory=dict)
    completing: set[AttemptName] = attrs.field(factory=set)
    left: set[AttemptName] = attrs.field(factory=set)
    kept: dict[AttemptName, Handle] = attrs.field(factory=dict)
    unsubmitted: dict[AttemptName, Attempt] = attrs.field(factory=dict)
    launched: list[Handle] = attrs.field(factory=list)
    elsewhere: set[AttemptName] = attrs.field(factory=set)
    untaken: dict[AttemptName, bool] = attrs.field(factory=dict)
    last: dict[AttemptName, EngineWord] = attrs.field(factory=dict)
    shims: dict[AttemptName, ProcessIdentity | None] = attrs.field(factory=dict)
    #: The last words on what is on its way to an end, or is blocked.
    words: dict[AttemptName, EngineWord] = attrs.field(factory=dict)
    early: set[AttemptName] = attrs.field(factory=set)
    settle_s: float = SETTLE_SOON_S
    graces: dict[AttemptName, float] = attrs.field(factory=dict)

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
    def wondering(self) -> Wondering:
        """What the engine does not know."""
        return Wondering(self.hearing)

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
        self.shims[name] = shim
        if word is not None:
            self.words[name] = word
        self.settle_s = SETTLE_SOON_S
        self.settling[name] = Settling(
            folder=self.launcher.folder,
            name=name,
            shim=shim,
            grace_s=self.grace_s(name),
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
        self.submit_again()

    def submit_again(self) -> None:
        """Have the engine start what it could not be given before, if it may be asked again."""
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
            if self.engine.outlives:
                # Until a word on it was heard.
                self.untaken.update(dict.fromkeys((handle.name for handle in found), False))

    def _taken_all_the_same(self, refusal: EngineRefusedError) -> list[Handle]:
        """What the engine took before it refused the rest, which is settled: none of it begins."""
        taken = self.known() or {}
        for name in [each for each in self.unsubmitted if each not in taken]:
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

    def grace_s(self, name: AttemptName) -> float:
        """How long an attempt has from the request to stop to the kill."""
        found = self.graces.get(name)
        return self.limits(name).grace_s if found is None else found

    def forget(self, name: AttemptName) -> None:
        """Watch it no more."""
        self.last.pop(name, None)
        self.handles.pop(name, None)
        self.kept.pop(name, None)
        self.blocked.pop(name, None)
        self.completing.discard(name)
        self.untaken.pop(name, None)
        self.hearing.forget(name)
        self.wondering.forget(name)
