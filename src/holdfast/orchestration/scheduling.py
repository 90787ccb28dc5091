"""What to do next: which process starts, which is tried again, when the experiment is over.

Decides on records alone; no clock, no file, no engine. `loop` makes a plan durable, then carries
it out.
"""

import heapq
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import attrs

from holdfast.config.declaration import Count, Seconds
from holdfast.config.experiment_file import Limits, Retry
from holdfast.config.rules import Rule
from holdfast.lifecycle.apply import apply_many
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.events import Event, ProcessExited, ProcessLost, Requested
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, summarise
from holdfast.orchestration.rows import Rows
from holdfast.orchestration.rules import Decision, Rules
from holdfast.status import ExperimentStatus, ProcessStatus, Reason

__all__ = ["Plan", "Policy", "Scheduler", "Slots"]


@attrs.frozen(kw_only=True)
class Policy:
    """How an experiment is to be run.

    Attributes:
        jobs: At most so many commands at a time: processes, or launchers of ranks.
        max_attempts: Failed attempts after which a process is failed for good.
        backoff_s: Pause before the second attempt; doubled before every further one.
        max_interruptions: Attempts in a row that may be interrupted from outside before a process
            is given up for this run.
        rules: What is otherwise after certain ends.
        limits: Those of the experiment, which rules start from.
        fail_fast: The first process that is failed for good ends the experiment.
    """

    jobs: int = attrs.field(validator=attrs.validators.ge(1))
    max_attempts: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    backoff_s: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    max_interruptions: int = attrs.field(default=10, validator=attrs.validators.ge(1))
    rules: Sequence[Rule] = ()
    limits: Limits = attrs.field(factory=Limits)
    fail_fast: bool = False

    @property
    def judge(self) -> Rules:
        """What becomes of what fails, or is interrupted."""
        retry = Retry(
            max_attempts=Count(self.max_attempts),
            backoff_s=Seconds(self.backoff_s),
            max_interruptions=Count(self.max_interruptions),
            rules=tuple(self.rules),  # type: ignore[arg-type]
        )
        return Rules(limits=self.limits, retry=retry)


@attrs.frozen(kw_only=True)
class Slots:
    """What of the commands that are recorded as running does not count as that.

    Attributes:
        idle: How many use no slot: they have ended, or their shim is gone.
        blocked: The (first) processes of those that nobody waits for: mostly because nobody can
            judge them.
    """

    idle: int = 0
    blocked: Sequence[int] = ()


@attrs.frozen(kw_only=True)
class Plan:
    """One turn's decision.

    Attributes:
        events: To be recorded as one line: what was learnt, and what follows from it. Starts are
            carried out once the line is durable.
        wait_s: Seconds until a delayed retry is due; None if none is waited for.
        stop_others: What runs is to be stopped: one process failed and nothing is to go on.
    """

    events: tuple[Event, ...]
    wait_s: float | None = None
    stop_others: bool = False

    @property
    def starts(self) -> bool:
        """Whether anything is started."""
        return any(isinstance(each, Requested) and each.event == "start" for each in self.events)


_NOTHING_IDLE: Final = Slots()
_ENDS: Final = (ProcessExited, ProcessLost)


class Scheduler:
    """Plans one experiment, turn after turn.

    What is started is a command: one process, or a launcher with all its ranks that are not
    completed. It goes by the index of its first process here.

    It keeps in order what waits to be started, since looking through 10,000 processes in every
    turn would cost more than running them. All of it can be read off the state again, but for the
    interruptions in a row, which every run counts anew.
    """

    def __init__(
        self,
        state: ExperimentState,
        policy: Policy,
        marks: Callable[[ExperimentState, int], Mapping[str, Any]] = lambda *_: {},
        held: Iterable[int] = (),
        at_once: Container[int] = (),
    ) -> None:
        """Take up the work where *state* left it.

        Args:
            marks: What else the start of a process records: its facts, and `evidence`.
            held: Processes that are not to be started; see `hold`.
            at_once: Processes that do not wait for what is left of a pause after their last end.
        """
        self._policy = policy
        self._rules = policy.judge
        self._marks = marks
        self._ready: list[int] = []
        self._delayed: list[tuple[datetime, int, datetime]] = []
        self._queued: set[int] = set()
        self._retryable: list[int] = []
        self._rows = Rows()
        self._given_up: dict[int, str] = {}
        self._held: set[int] = set()
        self._running: set[int] = set()
        #: Failed before, and not to be tried again: they are no failures of this run.
        self._passed_over = 0
        self.hold(state, held)
        for index, process in enumerate(state.processes.values()):
            if process.status is ProcessStatus.RUNNING:
                self._running.add(state.gang(index).start)
            elif process.status is ProcessStatus.FAILED:
                if state.gang(index).start in self._held:
                    self._passed_over += 1
                else:
                    self._retryable.append(index)
            elif process.status is ProcessStatus.PENDING:
                self._put(state, index, at_once=index in at_once)

    def hold(self, state: ExperimentState, processes: Iterable[int]) -> None:
        """Start the commands of *processes* no more: they stay pending until another run.

        What runs of them is not touched.
        """
        self._held |= {state.gang(index).start for index in processes}
        self._ready = [first for first in self._ready if first not in self._held]
        self._delayed = [entry for entry in self._delayed if entry[1] not in self._held]
        heapq.heapify(self._ready)
        heapq.heapify(self._delayed)
        self._queued -= self._held

    def plan(
        self,
        state: ExperimentState,
        facts: Sequence[Event],
        now: datetime,
        *,
        stopping: Reason | None = None,
        why: str | None = None,
        slots: Slots = _NOTHING_IDLE,
        room: Callable[[int], int] | None = None,
    ) -> Plan:
        """What follows from *facts* in *state*.

        Args:
            facts: What was learnt since the last turn. All of it will be in the plan.
            stopping: Why the experiment is to be interrupted, once nothing runs any more. Nothing
                is started then.
            why: The same in words, where there is more to say.
            room: Asked, where commands could start now, for how many of so many there is room;
                None for all of them.
        """
        events: list[Event] = list(facts)
        step = apply_many(state, events)
        # What fail_fast stops is stopped by us, too.
        failed = state.processes_failed > self._passed_over
        if stopping is None and not (self._policy.fail_fast and failed):
            self._count_interruptions(state, facts, step.changes)
            events, decided = self._rules.followed(
                step.state, facts, step.changes, now, self._rows.now
            )
            step = apply_many(state, events) if decided else step
            self._give_up(step.state, step.changes, decided)
        state = step.state
        self._take_in(state, step.changes)
        if state.status is not ExperimentStatus.RUNNING:
            return Plan(events=tuple(events))
        if stopping is None:
            retries = self._rules.retries(state, self._retryable, now)
            self._retryable.clear()
            step = apply_many(state, retries)
            state, events = step.state, [*events, *retries]
            self._take_in(state, step.changes)
        halted = self._policy.fail_fast and state.processes_failed > self._passed_over
        if stopping is None and not halted:
            free = self._policy.jobs - (len(self._running) - slots.idle)
            for ranks in self._due(state, self._fitting(free, room, now), now):
                events += self._starts(state, ranks, now)
        if len(self._running) > len(slots.blocked):
            return Plan(events=tuple(events), wait_s=self._next_due_s(now), stop_others=halted)
        if stopping is None and not halted and self._waiting():
            return Plan(events=tuple(events), wait_s=self._next_due_s(now))
        held = [first for first in sorted(self._held) if _pending(state, first)]
        end = _ending(state, now, stopping, why, self._given_up, slots.blocked, held)
        events.append(end)
        return Plan(events=tuple(events))

    def _fitting(self, free: int, room: Callable[[int], int] | None, now: datetime) -> int:
        """How many of *free* commands more there is room for."""
        self._fall_due(now)
        free = min(free, len(self._ready))
        return free if room is None or free <= 0 else room(free)

    def _count_interruptions(
        self, state: ExperimentState, facts: Sequence[Event], changes: Sequence[Change]
    ) -> None:
        """Count attempts that were ended from outside, which are charged to no retry budget.

        What is interrupted every time (a command that kills its parent, a host that kills all that
        grows) would else begin anew for ever.
        """
        ended = {fact.process: fact for fact in facts if isinstance(fact, _ENDS)}
        counted: set[int] = set()
        for change in changes:
            index = change.process
            if index is None or index not in ended or change.source != ProcessStatus.RUNNING:
                continue
            fact, first = ended[index], state.gang(index).start
            foreign = isinstance(fact, ProcessLost) or fact.stop_reason is not Reason.USER
            if change.target != ProcessStatus.PENDING or not foreign:
                self._rows.forget(first)
                continue
            if first in counted:
                continue  # its launcher was interrupted once
            counted.add(first)
            self._rows.count(first, change.reason, _lived_s(state.processes[index], fact))

    def _give_up(
        self, state: ExperimentState, changes: Sequence[Change], decided: Mapping[int, Decision]
    ) -> None:
        """Start no more in this run what was interrupted too often."""
        for change in changes:
            if change.process is None or change.target != ProcessStatus.PENDING:
                continue
            first = state.gang(change.process).start
            decision = decided.get(first)
            if decision is not None and decision.spent and decision.kind == "interruption":
                self._given_up.setdefault(first, change.evidence or str(change.reason))

    def _take_in(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        ended: dict[int, range] = {}
        for change in changes:
            if change.process is None or change.source == change.target:
                continue
            gang = state.gang(change.process)
            if change.source == ProcessStatus.RUNNING:
                ended[gang.start] = gang
            if change.target == ProcessStatus.PENDING:
                self._put(state, change.process)
            elif change.target == ProcessStatus.FAILED:
                self._retryable.append(change.process)
        for first, gang in ended.items():
            ranks = [state.processes[index] for index in gang]
            if any(rank.status is ProcessStatus.RUNNING for rank in ranks):
                continue
            self._running.discard(first)
            # A rank whose result was lost waited for its launcher to be over.
            if any(rank.status is ProcessStatus.PENDING for rank in ranks):
                self._put(state, first)

    def _put(self, state: ExperimentState, index: int, *, at_once: bool = False) -> None:
        """Have the command of a process wait for its start, once, whichever of its ranks it is."""
        first = state.gang(index).start
        if first in self._given_up or first in self._queued or first in self._held:
            return
        self._queued.add(first)
        waits = None if at_once else self._rules.waits(state, first)
        if waits is None:
            heapq.heappush(self._ready, first)
        else:
            due, since = waits
            heapq.heappush(self._delayed, (due, first, since))

    def _due(self, state: ExperimentState, free: int, now: datetime) -> list[list[int]]:
        """The commands that begin now, each by the processes that it is to run."""
        self._fall_due(now)
        found: list[list[int]] = []
        while self._ready and len(found) < free:
            first = heapq.heappop(self._ready)
            self._queued.discard(first)
            ranks = [
                index
                for index in state.gang(first)
                if state.processes[index].status is ProcessStatus.PENDING
            ]
            if ranks and first not in self._running:
                self._running.add(first)
                found.append(ranks)
        return found

    def _fall_due(self, now: datetime) -> None:
        # A clock that was set back behind the failure itself must not hold a retry for hours.
        while self._delayed and not self._delayed[0][2] <= now < self._delayed[0][0]:
            heapq.heappush(self._ready, heapq.heappop(self._delayed)[1])

    def _starts(self, state: ExperimentState, ranks: Sequence[int], at: datetime) -> list[Event]:
        """The starts of all that one command is to run, in its next attempt."""
        facts: dict[str, Any] = {}
        if state.ranks is not None:
            facts["attempt"] = 1 + max(state.processes[i].attempt for i in state.gang(ranks[0]))
        return [_request(at, "start", i, **facts, **self._marks(state, i)) for i in ranks]

    def _waiting(self) -> bool:
        return bool(self._ready or self._delayed)

    def _next_due_s(self, now: datetime) -> float | None:
        if not self._delayed:
            return None
        return max(0.0, (self._delayed[0][0] - now).total_seconds())


def _request(
    at: datetime, event: str, process: int, evidence: str | None = None, **facts: Any
) -> Requested:
    return Requested(
        entity="process", event=event, at=at, process=process, evidence=evidence, facts=facts
    )


def _lived_s(process: ProcessProgress, fact: ProcessExited | ProcessLost) -> float:
    began, ended = process.started_at, fact.at
    if isinstance(fact, ProcessExited):
        began, ended = fact.started_at or began, fact.ended_at or ended
    return 0.0 if began is None else (ended - began).total_seconds()


def _ending(
    state: ExperimentState,
    at: datetime,
    stopping: Reason | None,
    why: str | None,
    given_up: Mapping[int, str],
    blocked: Sequence[int],
    held: Sequence[int],
) -> Requested:
    """How the experiment ends, now that nothing runs and nothing is to be started."""
    # Everything done before the interrupt took effect: there is nothing left to interrupt.
    if state.can_aggregate():
        return Requested(entity="experiment", event="complete", at=at)
    if stopping is not None:
        return Requested(
            entity="experiment", event="interrupt", at=at, reason=stopping, error_message=why
        )
    if blocked:
        words = f"cannot be judged from here: {_named(state, blocked)}"
        return Requested(entity="experiment", event="interrupt", at=at, error_message=words)
    if given_up:
        first = min(given_up)
        # Not that of the first rank, which may have completed for itself.
        reason = state.processes[_open(state, [first])[0]].reason
        how = "stalled" if reason is Reason.STALL else "interrupted"
        words = f"{how} again and again: {_named(state, sorted(given_up))}"
        return Requested(
            entity="experiment",
            event="interrupt",
            at=at,
            reason=reason,
            error_message=f"{words}; the last time: {given_up[first]}",
        )
    failed = state.processes.indices(ProcessStatus.FAILED)
    rest = [f"held back: {_named(state, held)}"] if held else []
    if not failed and held:
        return Requested(
            entity="experiment",
            event="interrupt",
            at=at,
            reason=Reason.USER,
            error_message="; ".join(rest),
        )
    reasons = {state.processes[index].reason for index in failed}
    count = f"{len(failed):,} of {state.num_processes:,} processes failed"
    return Requested(
        entity="experiment",
        event="fail",
        at=at,
        reason=reasons.pop() if len(reasons) == 1 else Reason.EXIT,
        error_message="; ".join([f"{count}: {summarise(failed)}", *rest]),
    )


def _pending(state: ExperimentState, first: int) -> bool:
    gang = state.gang(first)
    return any(state.processes[index].status is ProcessStatus.PENDING for index in gang)


def _open(state: ExperimentState, commands: Sequence[int]) -> list[int]:
    """The processes of *commands* that are not completed; each has one."""
    return [
        index
        for first in commands
        for index in state.gang(first)
        if state.processes[index].status is not ProcessStatus.COMPLETED
    ]


def _named(state: ExperimentState, commands: Sequence[int]) -> str:
    processes = _open(state, commands)
    return f"process{'' if len(processes) == 1 else 'es'} {summarise(processes)}"
