"""What to do next: which process starts, which is tried again, when the experiment is over.

Decides on records alone; no clock, no file, no engine. `loop` makes a plan durable, then carries
it out.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import attrs

from holdfast.events import Change, Event, ProcessExited, ProcessLost, Requested
from holdfast.lifecycle import apply_many
from holdfast.records import ExperimentState, ProcessProgress, summarise
from holdfast.status import ExperimentStatus, ProcessStatus, Reason

__all__ = ["Plan", "Policy", "Scheduler", "retry_at"]

_LONGEST_S: Final = 86_400.0 * 365

#: So many attempts of one process may be lost under one orchestrator before that counts as failing.
_FREE_LOSSES: Final = 3

#: Nothing is started from here; a failed process is, once the same plan has requeued it.
_MOVED_ON: Final = frozenset({ProcessStatus.RUNNING, ProcessStatus.COMPLETED})


@attrs.frozen(kw_only=True)
class Policy:
    """How an experiment is to be run.

    Attributes:
        jobs: At most so many processes at a time.
        max_attempts: Failed attempts after which a process is failed for good.
        backoff_s: Pause before the second attempt; doubled before every further one.
        fail_fast: The first process that is failed for good ends the experiment.
    """

    jobs: int = attrs.field(validator=attrs.validators.ge(1))
    max_attempts: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    backoff_s: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    fail_fast: bool = False


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


def retry_at(process: ProcessProgress, policy: Policy) -> datetime | None:
    """The earliest moment for the next attempt of *process*; None is now.

    Read off the record, so that a crash neither forgets a pause nor starts it anew.
    """
    if process.failures == 0 or process.completed_at is None or not policy.backoff_s:
        return None
    doublings = min(process.failures - 1, 30)
    return process.completed_at + timedelta(
        seconds=min(policy.backoff_s * 2**doublings, _LONGEST_S)
    )


class Scheduler:
    """Plans one experiment, turn after turn.

    It keeps in order what waits to be started, since looking through 10,000 processes in every
    turn would cost more than running them. All of it can be read off the state again.
    """

    def __init__(self, state: ExperimentState, policy: Policy) -> None:
        """Take up the work where *state* left it."""
        self._policy = policy
        self._ready: list[int] = []
        self._delayed: list[tuple[datetime, int, datetime]] = []
        self._retryable: list[int] = []
        self._losses: Counter[int] = Counter()
        for index, process in enumerate(state.processes.values()):
            if process.status is ProcessStatus.PENDING:
                self._put(index, process)
            elif process.status is ProcessStatus.FAILED:
                self._retryable.append(index)

    def plan(
        self,
        state: ExperimentState,
        facts: Sequence[Event],
        now: datetime,
        *,
        stopping: Reason | None = None,
    ) -> Plan:
        """What follows from *facts* in *state*.

        Args:
            facts: What was learnt since the last turn. All of it will be in the plan; a loss that
                is one too many, as a failure.
            stopping: Why the experiment is to be interrupted, once nothing runs any more. Nothing
                is started then.
        """
        events: list[Event] = [self._charged(fact) for fact in facts]
        step = apply_many(state, events)
        state = step.state
        self._take_in(state, step.changes)
        if state.status is not ExperimentStatus.RUNNING:
            return Plan(events=tuple(events))
        if stopping is None:
            events += self._retries(state, now)
        retried = len(events) - len(facts)
        halted = self._policy.fail_fast and state.processes_failed > retried
        starts: list[int] = []
        if stopping is None and not halted:
            starts = self._due(state, self._policy.jobs - state.processes_running, now)
            events += [_request(now, "start", index) for index in starts]
        if state.processes_running or starts:
            return Plan(events=tuple(events), wait_s=self._next_due_s(now), stop_others=halted)
        if stopping is None and not halted and self._waiting():
            return Plan(events=tuple(events), wait_s=self._next_due_s(now))
        events.append(_ending(state, now, stopping))
        return Plan(events=tuple(events))

    def _charged(self, fact: Event) -> Event:
        """*fact*, or a failure: what is lost every time, kills what watches it, and never ends."""
        if not isinstance(fact, ProcessLost):
            return fact
        self._losses[fact.process] += 1
        count = self._losses[fact.process]
        if count <= _FREE_LOSSES:
            return fact
        return ProcessExited(
            process=fact.process,
            attempt=fact.attempt,
            at=fact.at,
            reason=fact.reason,
            error_message=f"its shim was killed {count} times in this run: does the command kill "
            f"its parent? The last time: {fact.evidence}",
        )

    def _take_in(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.process is None or change.source == change.target:
                continue
            if change.target == ProcessStatus.PENDING:
                self._put(change.process, state.processes[change.process])
            elif change.target == ProcessStatus.FAILED:
                self._retryable.append(change.process)

    def _put(self, index: int, process: ProcessProgress) -> None:
        due = retry_at(process, self._policy)
        if due is None or process.completed_at is None:
            heapq.heappush(self._ready, index)
        else:
            heapq.heappush(self._delayed, (due, index, process.completed_at))

    def _retries(self, state: ExperimentState, now: datetime) -> list[Event]:
        """Requeue what failed and has attempts left; the rest is failed for good."""
        found: list[Event] = []
        for index in self._retryable:
            process = state.processes[index]
            failed = process.status is ProcessStatus.FAILED
            if failed and process.failures < self._policy.max_attempts:
                budget = self._policy.max_attempts
                found.append(_request(now, "requeue", index, max_attempts=budget))
                self._put(index, process)
        self._retryable.clear()
        return found

    def _due(self, state: ExperimentState, free: int, now: datetime) -> list[int]:
        # A clock that was set back behind the failure itself must not hold a retry for hours.
        while self._delayed and not self._delayed[0][2] <= now < self._delayed[0][0]:
            heapq.heappush(self._ready, heapq.heappop(self._delayed)[1])
        found: list[int] = []
        while self._ready and len(found) < free:
            index = heapq.heappop(self._ready)
            if state.processes[index].status not in _MOVED_ON:
                found.append(index)
        return found

    def _waiting(self) -> bool:
        return bool(self._ready or self._delayed)

    def _next_due_s(self, now: datetime) -> float | None:
        if not self._delayed:
            return None
        return max(0.0, (self._delayed[0][0] - now).total_seconds())


def _request(at: datetime, event: str, process: int, **facts: object) -> Requested:
    return Requested(entity="process", event=event, at=at, process=process, facts=facts)


def _ending(state: ExperimentState, at: datetime, stopping: Reason | None) -> Requested:
    """How the experiment ends, now that nothing runs and nothing is to be started."""
    # Everything done before the interrupt took effect: there is nothing left to interrupt.
    if state.can_aggregate():
        return Requested(entity="experiment", event="complete", at=at)
    if stopping is not None:
        return Requested(entity="experiment", event="interrupt", at=at, reason=stopping)
    failed = state.processes.indices(ProcessStatus.FAILED)
    reasons = {state.processes[index].reason for index in failed}
    count = f"{len(failed):,} of {state.num_processes:,} processes failed"
    return Requested(
        entity="experiment",
        event="fail",
        at=at,
        reason=reasons.pop() if len(reasons) == 1 else Reason.EXIT,
        error_message=f"{count}: {summarise(failed)}",
    )
