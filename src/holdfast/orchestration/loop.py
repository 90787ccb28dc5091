"""The loop between the durable record and the engine: wait, learn, plan, save, act.

One thread. What it acts on is on the disk before it acts; what it learns is on the disk before
anything follows from it. Killed at any instant, `takeover` finds everything it needs. Processes and
the user's own aggregation are attempts of one and the same loop.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Final, TypeVar

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.errors import SlotWarning
from holdfast.lifecycle.events import Action, Event, Launch
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.accepting import Accepting
from holdfast.orchestration.beside import Beside
from holdfast.orchestration.deadline import Passing, deadline_of
from holdfast.orchestration.early import EarlyRanks
from holdfast.orchestration.holding import Holding
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.known import Known
from holdfast.orchestration.leaving import Leaving
from holdfast.orchestration.marking import Marks
from holdfast.orchestration.phases import Phases
from holdfast.orchestration.requests import LOOK_EVERY_S, Requests
from holdfast.orchestration.scheduling import Plan, Policy, Scheduler, Slots
from holdfast.orchestration.taking import Taking
from holdfast.orchestration.warning import Warnings
from holdfast.orchestration.watch import Learnt, Watch
from holdfast.provenance.code import Code
from holdfast.results.going_on import GaveUpError, GoingOn
from holdfast.status import ExperimentStatus, Reason
from holdfast.store.claim import Claim

__all__ = ["Loop"]

T = TypeVar("T")

#: The longest wait: what others ask is heard within it, and the view is a second behind at most.
_TURN_S: Final = LOOK_EVERY_S
#: The longest wait once everything was asked to stop, and who asked waits.
_STOPPING_TURN_S: Final = 0.1
#: How often who waits for work beside the loop looks for signals.
_HEARD_WITHIN_S: Final = 0.1

#: How long an end that nothing depends on waits to be recorded together with something else.
_COMPANY_S: Final = 0.01


class Loop:
    """Runs an experiment until nothing of it is to be started and nothing runs.

    Attributes:
        taking: What becomes of what attempts leave.
        requests: What others ask while it goes.
    """

    def __init__(
        self,
        claim: Claim,
        watch: Watch,
        interrupts: Interrupts,
        on_change: Callable[[ExperimentState], None] | None,
        marks: Marks,
        note: Callable[[str], None] = lambda _: None,
        hold: Callable[[Collection[int]], None] = lambda _: None,
    ) -> None:
        """Take the work up as *claim* has it; *watch* has what runs already.

        *note* is told what people want to know at once, *hold* which processes somebody wants to
        wait for another run.
        """
        self._holding = Holding(watch)
        self._marks = marks
        self._claim = claim
        self._watch = watch
        self._interrupts = interrupts
        self._on_change = on_change
        self._beside = Beside(watch.engine.wake)
        self.taking = Taking(experiment=marks.experiment, digests=marks.digests)
        self._accepting = Accepting(watch, self._beside, lambda: claim.state, self.taking)
        self._early = EarlyRanks(watch, self.taking)
        self._warnings = Warnings(watch)
        self._phases = Phases(watch.clock)
        self.requests = Requests(claim, watch, interrupts, note, hold)
        self._answered = 0
        self._asked_at = 0.0
        self._stopping_others: Reason | None = None
        self._leaving = Leaving(watch, interrupts)

    def drive(
        self,
        policy: Policy,
        held: Iterable[int] = (),
        at_once: Container[int] = (),
        *,
        leave: bool = False,
    ) -> ExperimentState:
        """Go on until the experiment is not `running` any more; the state that it is in then.

        It still is if attempts are left to an engine that goes on without us: for a signal, or to
        *leave* them there.

        Args:
            held: Processes that are not to be started.
            at_once: Processes that do not wait for what is left of a pause.
            leave: Go on only until everything that may start now is submitted.

        Raises:
            StateWriteError: The disk refused. What runs goes on, and is adopted by a resume.
            OwnershipLostError: A newer owner took over.
        """
        self._leaving.wanted = leave
        with contextlib.closing(self._holding) as holding:
            marks = holding.marked(self._marks.start)
            scheduler = Scheduler(self._claim.state, policy, marks, held, at_once)
            return self._drive(policy, scheduler, holding)

    def _drive(self, policy: Policy, scheduler: Scheduler, holding: Holding) -> ExperimentState:
        facts: list[Event] = []
        watch = self._watch
        deadline = deadline_of(self._claim.state, policy.limits)
        time = Passing(deadline, watch.clock(), watch.monotonic())
        stopping: Reason | None = None
        while True:
            now, monotonic_s = watch.clock(), watch.monotonic()
            if stopping is None and time.closed(now, monotonic_s):
                stopping = Reason.DEADLINE
            if watch.refused is not None:
                stopping = stopping or Reason.LAUNCH_ERROR
            why = {Reason.DEADLINE: deadline, Reason.LAUNCH_ERROR: watch.refused}
            # Who asks while the time runs out gets the answer of one who asked before.
            stopping = self._interrupts.reason or stopping
            if self.requests.held:
                scheduler.hold(self._claim.state, self.requests.held)
                self.requests.held.clear()
            holding.waits = False
            plan = scheduler.plan(
                self._claim.state,
                facts,
                now,
                stopping=stopping,
                why=str(why[stopping]) if stopping in why else None,
                slots=Slots(idle=watch.idle, blocked=watch.blocked_processes),
                room=holding.room,
            )
            self._carry_out(plan)
            holding.settle()
            self._warnings.of_blocked()
            if self._claim.state.status is not ExperimentStatus.RUNNING:
                return self._claim.state
            if self._leaving.is_due(plan, stopping=self._stopping_others is not None):
                return self._claim.state
            late = stopping is Reason.DEADLINE and time.over(now, monotonic_s)
            if self._stopping_others is None and (plan.stop_others or late):
                # Nobody asked for them to stop: they gave way to the failure of another.
                self._stopping_others = Reason.PREEMPTED if plan.stop_others else Reason.DEADLINE
                watch.asking.stop(force=False, why=self._stopping_others)
            found = self._learn(self._pause_s(plan))
            facts = self._accepting.facts(found, self._interrupts.reason or self._stopping_others)
            facts += self._early.facts(self._claim.state, facts)
            facts = self._marks.ended(self._claim.state, facts)

    def _pause_s(self, plan: Plan) -> float | None:
        """How long nothing is to be planned, unless something happens."""
        if not self._holding.waits:
            return plan.wait_s
        # Else a run seems to hang.
        for words in self._holding.news():
            warnings.warn(words, SlotWarning, stacklevel=4)
        return min(self._holding.pause_s(), math.inf if plan.wait_s is None else plan.wait_s)

    def code_of(self, command: Sequence[str]) -> Code:
        """What code a command runs with that is no process of the experiment."""
        return self._marks.of_command(self._claim.state, command)

    def run(self, attempt: Attempt | AttemptName) -> Learnt | None:
        """Run one attempt that is no process of the experiment, or go on with one that runs.

        Returns:
            How it ended; None if it does not end although it was asked to stop, or is left to its
            engine.

        Raises:
            StateWriteError, OwnershipLostError: As for `drive`.
        """
        name = attempt.name if isinstance(attempt, Attempt) else attempt
        if isinstance(attempt, Attempt):
            # Nothing was recorded just now that would have told of a newer owner.
            self._watch.fence()
            self._watch.submit([attempt])
        while True:
            for learnt in self._turn(None):
                if learnt.name == name:
                    return learnt
            self._warnings.of_blocked()
            if name in self._watch.blocked or self._leaving.by_signal:
                return None

    def known(self) -> Known | None:
        """What the engine has of the experiment; None if a signal came before it could be asked.

        An engine that cannot be reached is waited for: whether what it has is to be adopted or
        started, only it can tell.
        """
        return self._answer(lambda: self._watch.everything(self._claim.state))

    def checked(self, attempts: Sequence[Attempt]) -> Sequence[str] | None:
        """What people should know before such *attempts* are started; None as for `known`.

        Raises:
            EngineRefusedError: The engine takes none of them, ever.
        """
        return self._answer(lambda: self._watch.check(attempts))

    def _answer(self, ask: Callable[[], T | None]) -> T | None:
        watch = self._watch
        while not self._interrupts.count:
            if watch.engine_trouble.over(watch.monotonic()):
                found = ask()
                if found is not None:
                    return found
            self._claim.tick()
            self.requests.hear()
            self._warnings.of_engine()
            watch.engine.wait(_TURN_S)
        return None

    def beside(self, work: Callable[[GoingOn], T], *, reading: bool = False) -> T | None:
        """What *work* gives, which takes long, while this thread hears who asks to stop.

        Args:
            work: Called in another thread, with what tells whether it is to go on.
            reading: It only reads, so that it is not waited for once a signal came.

        Returns:
            None if it gave up, which it does by a `GaveUpError`, or was not waited for.
        """
        left = False
        task = self._beside.begin(lambda: work(lambda: not (left or self._interrupts.count)))
        try:
            while not task.over.wait(_HEARD_WITHIN_S):
                if reading and self._interrupts.count:
                    return None
                self._claim.tick()
                self.requests.hear()
            return task.result()
        except GaveUpError:
            return None
        finally:
            left = True

    def drain(self) -> None:
        """Wait until nothing that is watched runs, and record what of it ended."""
        while self._watch.handles or self._watch.settling or self._watch.completing:
            facts = self._accepting.facts(self._turn(None), self._interrupts.reason)
            if facts:
                self._claim.record_many(self._marks.ended(self._claim.state, facts))

    def pause(self, seconds: float) -> None:
        """Let time pass, and hear meanwhile who asks to stop."""
        until = self._watch.monotonic() + seconds
        while not self._interrupts.count and (left := until - self._watch.monotonic()) > 0:
            self._turn(left)

    def _learn(self, wait_s: float | None) -> list[Learnt]:
        """Wait for something to be recorded."""
        idle = set(self._watch.completing)
        found = self._turn(wait_s)
        # These ends free no slot, that was done when their commands ended, half a second ago: they
        # wait a moment to share their line, and its sync, with the next start.
        ended = {learnt.name for learnt in found}
        if found and idle >= ended | self._watch.completing:
            found += self._turn(_COMPANY_S)
        return found

    def _turn(self, wait_s: float | None) -> list[Learnt]:
        """Wait for something to happen, and learn what did."""
        watch = self._watch
        self._claim.tick()
        self._warnings.look()
        self.requests.hear()
        self._stop_if_asked()
        self._warnings.of_unreached()
        watch.asking.give_up()
        if self._answered:
            self._accepting.give_up(self._asked_at, now=self._answered > 1)
        # A signal between the look at it above and this wait has left its mark with `wake`.
        longest_s = _STOPPING_TURN_S if self._answered else _TURN_S
        watch.engine.wait(watch.pause_s(longest_s if wait_s is None else min(wait_s, longest_s)))
        found = watch.collect()
        self._note_phases()
        return found

    # -- what a plan asks for ---------------------------------------------------------------------

    def _carry_out(self, plan: Plan) -> None:
        if not plan.events:
            return
        recorded = self._claim.record_many(self.requests.signed(plan.events))
        self._act(recorded.actions)
        self._changed()

    def _act(self, actions: Sequence[Action]) -> None:
        # Not the stops: nothing that is watched runs any more when an experiment ends, and what
        # cannot be judged is not ours to stop.
        launcher = self._watch.launcher
        launches = [action for action in actions if isinstance(action, Launch)]
        if launches:
            # A launcher starts all the ranks of its gang.
            names = dict.fromkeys(launcher.name(each.process, each.attempt) for each in launches)
            if (engine := self._watch.engine).outlives:
                promised = self._phases.promised(self._claim.state, names, engine.name)
                self._claim.record_many(list(promised))
            state, slots = self._claim.state, self._holding.of
            self._watch.submit([launcher.process(name, state, slots(name)) for name in names])
            self._note_phases()

    def _note_phases(self) -> None:
        watch, state = self._watch, self._claim.state
        facts: list[Event] = list(self._phases.launched(state, watch.launched))
        watch.launched.clear()
        if watch.hearing.is_local:
            for fact in facts:
                self._claim.note(fact)
            return
        if watch.heard:
            facts += self._phases.heard(state, watch.take_heard())
        if facts:
            # Durable at once: what an engine has is to be found again, and said of it when it ends.
            self._claim.record_many(facts)
            self._changed()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change(self._claim.state)

    def _stop_if_asked(self) -> None:
        if self._leaving.by_signal:
            return
        asked = min(self._interrupts.count, 2)
        if asked <= self._answered or self._interrupts.reason is None:
            return
        self._asked_at = self._asked_at if self._answered else self._watch.monotonic()
        self._answered = asked
        grace_s = self.requests.grace_s
        self._watch.asking.stop(force=asked > 1, why=self._interrupts.reason, grace_s=grace_s)
