"""The loop between the durable record and the engine: wait, learn, plan, save, act.

One thread. What it acts on is on the disk before it acts; what it learns is on the disk before
anything follows from it. Killed at any instant, `takeover` finds everything it needs. Processes and
the user's own aggregation are attempts of one and the same loop.
"""

import contextlib
import errno
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from holdfast.attempts.files import disk_problem
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.engines.contract import Handle
from holdfast.errors import AttemptWarning, DiskWarning, EngineWarning, SlotWarning
from holdfast.lifecycle.events import Action, Event, Launch, PhaseReported
from holdfast.lifecycle.processes import RUNS
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.accepting import Accepting
from holdfast.orchestration.beside import Beside
from holdfast.orchestration.deadline import Passing, deadline_of
from holdfast.orchestration.early import EarlyRanks
from holdfast.orchestration.holding import Holding
from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.marking import Marks
from holdfast.orchestration.requests import LOOK_EVERY_S, Requests
from holdfast.orchestration.scheduling import Plan, Policy, Scheduler, Slots
from holdfast.orchestration.stalls import Stalls
from holdfast.orchestration.taking import Taking
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

#: How often the disk is tried.
_DISK_EVERY_S: Final = 2.0
#: How often shims are checked for a SIGSTOP: some 20 µs each.
_HALTED_EVERY_S: Final = 5.0

#: What may be the matter with an attempt.
_LEFT: Final = "is left as it is"
_UNTOLD: Final = "cannot be told to stop at once"
_UNWATCHED: Final = "goes unwatched"
_STALLED: Final = "has stalled"


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
        self._stalls = Stalls(watch)
        self.requests = Requests(claim, watch, interrupts, note, hold)
        self._answered = 0
        self._asked_at = 0.0
        self._stopping_others: Reason | None = None
        self._disk_looked_at = -_DISK_EVERY_S
        self._disk_problem: int | None = None
        self._told_unread = False
        self._told_engine = False
        self._halted_looked_at = -_HALTED_EVERY_S
        self._told: defaultdict[str, set[AttemptName]] = defaultdict(set)

    def drive(
        self, policy: Policy, held: Iterable[int] = (), at_once: Container[int] = ()
    ) -> ExperimentState:
        """Go on until the experiment is not `running` any more; the state that it is in then.

        Args:
            held: Processes that are not to be started.
            at_once: Processes that do not wait for what is left of a pause.

        Raises:
            StateWriteError: The disk refused. What runs goes on, and is adopted by a resume.
            OwnershipLostError: A newer owner took over.
        """
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
                why=str(deadline) if stopping is Reason.DEADLINE else None,
                slots=Slots(idle=watch.idle, blocked=watch.blocked_processes),
                room=holding.room,
            )
            self._carry_out(plan)
            holding.settle()
            self._warn_of(_LEFT, self._watch.blocked)
            if self._claim.state.status is not ExperimentStatus.RUNNING:
                return self._claim.state
            late = stopping is Reason.DEADLINE and time.over(now, monotonic_s)
            if self._stopping_others is None and (plan.stop_others or late):
                # Nobody asked for them to stop: they gave way to the failure of another.
                self._stopping_others = Reason.PREEMPTED if plan.stop_others else Reason.DEADLINE
                watch.stop(force=False, why=self._stopping_others)
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
            How it ended; None if it does not end although it was asked to stop.

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
            self._warn_of(_LEFT, self._watch.blocked)
            if name in self._watch.blocked:
                return None

    def known(self) -> Mapping[AttemptName, Handle] | None:
        """What the engine has of the experiment; None if a signal came before it could be asked.

        An engine that cannot be reached is waited for: whether what it has is to be adopted or
        started, only it can tell.
        """
        watch = self._watch
        while not self._interrupts.count:
            if watch.engine_trouble.over(watch.monotonic()):
                found = watch.known()
                if found is not None:
                    return found
            self._claim.tick()
            self.requests.hear()
            self._warn_of_engine()
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
        self._warn()
        self.requests.hear()
        self._stop_if_asked()
        self._warn_of(_UNTOLD, watch.unreached)
        watch.give_up()
        if self._answered:
            self._accepting.give_up(self._asked_at, now=self._answered > 1)
        # A signal between the look at it above and this wait has left its mark with `wake`.
        longest_s = _STOPPING_TURN_S if self._answered else _TURN_S
        watch.engine.wait(watch.pause_s(longest_s if wait_s is None else min(wait_s, longest_s)))
        found = watch.collect()
        self._note_launched()
        return found

    # -- what a plan asks for ---------------------------------------------------------------------

    def _carry_out(self, plan: Plan) -> None:
        if not plan.events:
            return
        recorded = self._claim.record_many(self.requests.signed(plan.events))
        self._act(recorded.actions)
        if self._on_change is not None:
            self._on_change(self._claim.state)

    def _act(self, actions: Sequence[Action]) -> None:
        # Not the stops: nothing that is watched runs any more when an experiment ends, and what
        # cannot be judged is not ours to stop.
        launcher = self._watch.launcher
        launches = [action for action in actions if isinstance(action, Launch)]
        if launches:
            # A launcher starts all the ranks of its gang.
            names = dict.fromkeys(launcher.name(each.process, each.attempt) for each in launches)
            state, slots = self._claim.state, self._holding.of
            self._watch.submit([launcher.process(name, state, slots(name)) for name in names])
            self._note_launched()

    def _note_launched(self) -> None:
        for handle in self._watch.launched:
            if handle.name.index is None:
                continue
            for index in self._claim.state.gang(handle.name.index):
                self._claim.note(
                    PhaseReported(
                        process=index,
                        attempt=handle.name.attempt,
                        at=self._watch.clock(),
                        phase=RUNS if handle.record is None else "queued",
                        identity=handle.identity,
                        handle=handle.record,
                    )
                )
        self._watch.launched.clear()

    def _stop_if_asked(self) -> None:
        asked = min(self._interrupts.count, 2)
        if asked <= self._answered or self._interrupts.reason is None:
            return
        self._asked_at = self._asked_at if self._answered else self._watch.monotonic()
        self._answered = asked
        grace_s = self.requests.grace_s
        self._watch.stop(force=asked > 1, why=self._interrupts.reason, grace_s=grace_s)

    # -- warnings ---------------------------------------------------------------------------------

    def _warn(self) -> None:
        self._warn_of_disk()
        self._warn_of_unread()
        self._warn_of_engine()
        self._warn_of_halted()
        stalled = self._stalls.look()
        self._told[_STALLED] &= stalled.keys()  # told again if it stalls again
        self._warn_of(_STALLED, stalled)

    def _warn_of_disk(self) -> None:
        """Say so when attempts that end may be waiting for the disk: else a run seems to hang."""
        now = self._watch.monotonic()
        if not self._watch.handles or now - self._disk_looked_at < _DISK_EVERY_S:
            return
        self._disk_looked_at = now
        folder, before = self._watch.launcher.folder, self._disk_problem
        with contextlib.suppress(OSError):
            problem = disk_problem(folder)
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
            stacklevel=4,
        )

    def _warn_of_unread(self) -> None:
        """Say so when an outcome is there but cannot be read: else a run seems to hang."""
        problem, told = self._watch.unread, self._told_unread
        self._told_unread = problem is not None
        if problem is None or told:
            return
        warnings.warn(
            f"{problem.path}: {problem.operation} failed ({problem.cause}): how its process ended "
            f"is unknown; it is checked again every second",
            DiskWarning,
            stacklevel=4,
        )

    def _warn_of_engine(self) -> None:
        problem, told = self._watch.engine_trouble.error, self._told_engine
        self._told_engine = problem is not None
        if problem is not None and not told:
            warnings.warn(
                f"{problem}; what runs goes on, and the engine is asked again, at most a minute "
                f"apart",
                EngineWarning,
                stacklevel=4,
            )

    def _warn_of_halted(self) -> None:
        """Say so when a shim was stopped: else its process seems to outlive its timeout."""
        now = self._watch.monotonic()
        if now - self._halted_looked_at < _HALTED_EVERY_S:
            return
        self._halted_looked_at = now
        found = self._watch.halted()
        self._told[_UNWATCHED] &= found.keys()  # told again if it is stopped again
        self._warn_of(_UNWATCHED, found)

    def _warn_of(self, what: str, found: Mapping[AttemptName, object]) -> None:
        """Say once of each attempt *what* is the matter with it, and why."""
        for name in found.keys() - self._told[what]:
            self._told[what].add(name)
            warnings.warn(f"attempt {name} {what}: {found[name]}", AttemptWarning, stacklevel=4)
