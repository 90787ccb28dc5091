"""The loop between the durable record and the engine: wait, learn, plan, save, act.

One thread. What it acts on is on the disk before it acts; what it learns is on the disk before
anything follows from it. Killed at any instant, `recovery` finds everything it needs.
"""

import contextlib
import errno
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final

import attrs

from holdfast import attempts
from holdfast.attempts import AttemptName, ExitRecord
from holdfast.engines import Engine, EngineWord, Handle
from holdfast.errors import (
    ClaimClosedError,
    DiskWarning,
    OwnershipLostError,
    StateWriteError,
)
from holdfast.events import Action, Event, Launch, ProcessLaunched, ProcessLost, Stop
from holdfast.judgement import Dead, Exited
from holdfast.orchestration import outcomes, recovery
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.launching import Launcher
from holdfast.orchestration.scheduling import Plan, Policy, Scheduler
from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus, Reason
from holdfast.store.claim import Claim

__all__ = ["Loop", "Watch"]

#: The longest wait: the view is to be no more than a second behind.
_TURN_S: Final = 1.0

#: How often the disk is tried.
_DISK_EVERY_S: Final = 2.0

#: How long after a kill an attempt may take to vanish before it is left to the next resume.
_KILLED_WITHIN_S: Final = 10.0


@attrs.define(kw_only=True)
class Watch:
    """The attempts that an engine runs for us, and what it says about them.

    Attributes:
        gone_grace_s: How long an attempt may be gone without an exit record before it is judged:
            on a shared file system the record can be seen later than the engine's word.
        fence: Raises if a newer owner took over, and what runs is not ours any more.
        unread: Why the last look could not tell how an attempt ended; None if none failed.
    """

    engine: Engine
    launcher: Launcher
    clock: Callable[[], datetime]
    fence: Callable[[], None]
    monotonic: Callable[[], float] = time.monotonic
    gone_grace_s: float = 2.0
    force: bool = False
    unread: StateWriteError | None = None
    handles: dict[AttemptName, Handle] = attrs.field(factory=dict)
    _gone_since: dict[AttemptName, float] = attrs.field(factory=dict)
    _taken_away: bool = False

    def known(self) -> Mapping[AttemptName, Handle]:
        """What the engine has queued or running of this experiment, whoever submitted it."""
        return self.engine.find(self.launcher.experiment_id, self.launcher.folder)

    def adopt(self, names: Iterable[AttemptName], known: Mapping[AttemptName, Handle]) -> None:
        """Watch attempts that an orchestrator before us launched."""
        for name in names:
            # One that ended since it was judged is not known: its exit record will be found.
            self.handles[name] = known.get(name) or Handle(name=name, folder=self.launcher.folder)

    def collect(self, stopping: Reason | None) -> list[Event]:
        """What was learnt since the last look: attempts that ended.

        The exit record beats the engine's word, and *unknown* says nothing at all.
        """
        facts: list[Event] = []
        self.unread = None
        if not self.handles:
            return facts
        for word in self.engine.poll(list(self.handles.values())):
            if word.kind in ("queued", "running"):
                self._gone_since.pop(word.name, None)
                continue
            fact = self._learnt(word, stopping)
            if fact is not None:
                self.handles.pop(word.name, None)
                self._gone_since.pop(word.name, None)
                facts.append(fact)
        return facts

    def _learnt(self, word: EngineWord, stopping: Reason | None) -> Event | None:
        try:
            record = outcomes.read(self.launcher.folder, word.name)
        except StateWriteError as err:
            # It may hold a success, and what it is about may even run: every turn looks again.
            self.unread = err
            return None
        if record is not None:
            return self._exited(word.name, record, stopping)
        return self._gone(word.name, word.text, stopping) if word.kind == "gone" else None

    def _exited(self, name: AttemptName, record: ExitRecord, stopping: Reason | None) -> Event:
        return outcomes.exited(self.launcher.folder, name, record, self.clock(), stopping)

    def _gone(self, name: AttemptName, text: str, stopping: Reason | None) -> Event | None:
        since = self._gone_since.setdefault(name, self.monotonic())
        if self.monotonic() - since < self.gone_grace_s:
            return None
        try:
            found = recovery.judge(
                self.launcher.folder,
                name,
                grace_s=self.launcher.experiment.limits.grace_s,
                force=self.force,
                fence=self.fence,
            )
        except StateWriteError as err:
            self.unread = err
            # Not sooner than the next turn, however short the grace is.
            self._gone_since[name] = self.monotonic() - self.gone_grace_s + _TURN_S
            return None
        if isinstance(found, Exited):
            return self._exited(name, found.record, stopping)
        if isinstance(found, Dead):
            evidence = found.evidence
            if text != evidence:
                evidence = f"the engine says that it is gone ({text}); {evidence}"
            return ProcessLost(
                process=name.index, attempt=name.attempt, at=self.clock(), evidence=evidence
            )
        return None

    def stop(self, *, force: bool) -> None:
        """Ask everything that runs to stop; *force* kills.

        Raises:
            OwnershipLostError, ClaimClosedError: A newer owner runs it; nothing was stopped.
        """
        try:
            self.fence()
        except StateWriteError:
            pass  # a disk that cannot be asked must not keep a user from stopping what runs
        except ClaimClosedError:
            if not self._taken_away:
                raise
        except OwnershipLostError as err:
            if err.newer_epoch:
                raise
            # The folder was taken away, and nobody else is there to stop what runs.
            self._taken_away = True
        self.engine.cancel(list(self.handles.values()), force=force)

    def pause_s(self, wanted: float | None) -> float:
        """How long to wait for something to happen."""
        pauses = [_TURN_S if wanted is None else min(wanted, _TURN_S)]
        now = self.monotonic()
        pauses += [max(0.0, at + self.gone_grace_s - now) for at in self._gone_since.values()]
        return min(pauses)


class Loop:
    """Runs an experiment until nothing of it is to be started and nothing runs."""

    def __init__(
        self,
        claim: Claim,
        watch: Watch,
        policy: Policy,
        interrupts: Interrupts,
        on_change: Callable[[ExperimentState], None] | None,
    ) -> None:
        """Take the work up as *claim* has it; *watch* has what runs already."""
        self._claim = claim
        self._watch = watch
        self._interrupts = interrupts
        self._on_change = on_change
        self._scheduler = Scheduler(claim.state, policy)
        self._answered = 0
        self._stopping_others: Reason | None = None
        self._killed_at: float | None = None
        self._disk_looked_at = -_DISK_EVERY_S
        self._disk_problem: int | None = None
        self._told_unread = False

    def drive(self) -> ExperimentState:
        """Go on until the experiment is not `running` any more; the state that it is in then.

        Raises:
            StateWriteError: The disk refused. What runs goes on, and is adopted by a resume.
            OwnershipLostError: A newer owner took over.
            UnknownLivenessError: An attempt is gone, and nobody can tell whether it is dead.
        """
        facts: list[Event] = []
        while True:
            stopping = self._interrupts.reason
            now = self._watch.clock()
            plan = self._scheduler.plan(self._claim.state, facts, now, stopping=stopping)
            self._carry_out(plan)
            if self._claim.state.status is not ExperimentStatus.RUNNING:
                return self._claim.state
            self._claim.tick()
            self._warn_of_disk()
            self._warn_of_unread()
            self._stop_if_asked(plan)
            if self._given_up():
                return self._claim.state
            # A signal between the look at it above and this wait has left its mark with `wake`.
            self._watch.engine.wait(self._watch.pause_s(plan.wait_s))
            facts = self._watch.collect(self._interrupts.reason or self._stopping_others)

    def _warn_of_disk(self) -> None:
        """Say so when attempts that end may be waiting for the disk: else a run seems to hang."""
        now = self._watch.monotonic()
        if not self._watch.handles or now - self._disk_looked_at < _DISK_EVERY_S:
            return
        self._disk_looked_at = now
        folder, before = self._watch.launcher.folder, self._disk_problem
        with contextlib.suppress(OSError):
            problem = attempts.disk_problem(folder)
            self._disk_problem = None if problem is None else problem.errno
        if self._disk_problem is None or before is not None:
            return
        if self._disk_problem in (errno.ENOSPC, errno.EDQUOT):
            what, mend = f"no room left on the disk of {folder}", "free some"
        elif self._disk_problem == errno.EFBIG:
            what = f"a file-size limit keeps {folder} from being written to"
            mend = "lift it (`ulimit -f`, or `prlimit` for what runs already)"
        else:
            why = os.strerror(self._disk_problem)
            what, mend = f"the disk of {folder} refuses to be written to ({why})", "mend it"
        warnings.warn(
            f"{what}: processes that end wait until they can record it; {mend}, and everything "
            f"goes on",
            DiskWarning,
            stacklevel=3,
        )

    def _warn_of_unread(self) -> None:
        """Say so when an outcome is there but cannot be read: else a run seems to hang."""
        problem, told = self._watch.unread, self._told_unread
        self._told_unread = problem is not None
        if problem is None or told:
            return
        warnings.warn(
            f"{problem.path}: {problem.operation} failed ({problem.cause}): how its process ended "
            f"cannot be told; it is looked at again every second",
            DiskWarning,
            stacklevel=3,
        )

    def _carry_out(self, plan: Plan) -> None:
        if not plan.events:
            return
        recorded = self._claim.record_many(plan.events)
        self._act(recorded.actions)
        if self._on_change is not None:
            self._on_change(self._claim.state)

    def _act(self, actions: Iterable[Action]) -> None:
        watch = self._watch
        launches = [action for action in actions if isinstance(action, Launch)]
        if launches:
            wanted = [watch.launcher.process(each.process, each.attempt) for each in launches]
            for handle in watch.engine.submit(watch.launcher.experiment_id, wanted):
                watch.handles[handle.name] = handle
                self._claim.note(
                    ProcessLaunched(
                        process=handle.name.index,
                        attempt=handle.name.attempt,
                        at=watch.clock(),
                        identity=handle.identity,
                    )
                )
        stops = {(act.process, act.attempt) for act in actions if isinstance(act, Stop)}
        left = [
            handle for name, handle in watch.handles.items() if (name.index, name.attempt) in stops
        ]
        if left:
            watch.engine.cancel(left, force=True)

    def _stop_if_asked(self, plan: Plan) -> None:
        asked = min(self._interrupts.count, 2)
        if plan.stop_others:
            asked = max(asked, 1)
            # Nobody asked for them to stop: they gave way to the failure of another.
            self._stopping_others = Reason.PREEMPTED
        if asked <= self._answered:
            return
        self._answered = asked
        self._watch.stop(force=asked > 1)
        if asked > 1:
            self._killed_at = self._watch.monotonic()

    def _given_up(self) -> bool:
        """Record the interrupt although something survived a kill: the next resume judges it."""
        if self._killed_at is None:
            return False
        if self._watch.monotonic() - self._killed_at < _KILLED_WITHIN_S:
            return False
        self._claim.record("interrupt", reason=self._interrupts.reason)
        return True
