"""What the end of an attempt leads to: whether it is tried again, from when on, with which limits.

Pure functions on records: what `[retry]` and its rules say of a process as it is recorded after its
end. Whoever decides again, after a crash or on another host, decides the same.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.config.experiment_file import Limits, Retry
from holdfast.config.rules import Rule, in_force
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.events import Again, Event, ProcessExited, ProcessLost, Requested
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import ProcessStatus

__all__ = ["Decision", "Rules", "limits_of", "limits_of_attempt", "resources_of"]

_LONGEST_S: Final = 86_400.0 * 365
#: How far the pauses of one rule spread, so that what failed together does not return together.
_JITTER: Final = 0.25

#: The pause before the third attempt of interruptions in a row, doubled for each further one.
_INTERRUPTED_S: Final = 1.0
_INTERRUPTED_AT_MOST_S: Final = 60.0
_LONG_ROW: Final = 30
#: The same where a rule gives the first pause: what is preempted daily is not to wait for weeks.
_PREEMPTED_AT_MOST_S: Final = 3600.0

_ENDS: Final = (ProcessExited, ProcessLost)


def limits_of(limits: Limits, process: ProcessProgress) -> Limits:
    """The limits of the next attempt of *process*: what rules have set, else the experiment's."""
    found = in_force(limits, process.limits)
    replaced: dict[str, Any] = {name: each["to"] for name, each in found.items()}
    return attrs.evolve(limits, **replaced) if replaced else limits


def resources_of(own: Limits, limits: Limits) -> dict[str, float]:
    """What an attempt with its *own* limits is to get otherwise than the engine is told of all."""
    given = {name: getattr(own, name) for name in ("time_s", "memory_bytes")}
    return {
        name: value
        for name, value in given.items()
        if value is not None and value != getattr(limits, name)
    }


def limits_of_attempt(limits: Limits, state: ExperimentState, name: AttemptName) -> Limits:
    """Those of the attempt *name* in *state*: the same for all ranks of a launcher."""
    for index in () if name.index is None else state.gang(name.index):
        process = state.processes[index]
        if process.status is ProcessStatus.RUNNING and process.attempt == name.attempt:
            return limits_of(limits, process)
    return limits


@attrs.frozen(kw_only=True)
class Decision:
    """What follows from how a process ended.

    Attributes:
        rule: Which rule decided, `rule 2 (timeout)`; None if `[retry]` alone did.
        budget: How many failures, or interruptions, it may have; None if only those in a row count.
        count: How many it has.
        kind: `failure` or `interruption`.
        spent: Whether it is not tried again; what follows is void then.
        not_before: When its next attempt may start; None for at once.
        limits: What rules have set by now; None if nothing new.
        words: Which limits the rule sets, `limits.timeout 1h → 2h`.
    """

    rule: str | None
    budget: int | None
    count: int
    kind: str
    spent: bool
    not_before: datetime | None = None
    limits: Mapping[str, Any] | None = None
    words: Sequence[str] = ()

    def __str__(self) -> str:
        """As the history has it."""
        most = ""
        if self.budget is not None:
            within = self.count <= self.budget
            most = f" of {self.budget}" if within else f" (of at most {self.budget})"
        told = [f"{self.rule}: {self.kind} {self.count}{most}"]
        if not self.spent:
            told += self.words
            if self.not_before is not None:
                told.append(f"not before {self.not_before:%Y-%m-%d %H:%M:%S}Z")
        return ", ".join(told)


@attrs.frozen(kw_only=True)
class Rules:
    """What an experiment says of failures and interruptions."""

    limits: Limits
    retry: Retry

    def after(self, state: ExperimentState, index: int, at: datetime, row: int = 0) -> Decision:
        """What follows for process *index*, which failed, or was interrupted and is pending.

        Args:
            row: How many interruptions in a row that was.
        """
        process, retry = state.processes[index], self.retry
        failed = process.status is ProcessStatus.FAILED
        number, rule = self._rule(process)
        count = process.failures if failed else process.interruptions
        budget = None if rule is None else rule.max_attempts
        if failed and budget is None:
            budget = retry.max_attempts
        spent = row >= retry.max_interruptions if budget is None else count >= budget
        name = None if rule is None else f"rule {number} ({process.reason})"
        pause_s = self._pause_s(state, index, rule, row)
        due = (process.completed_at or at) + timedelta(seconds=pause_s)
        limits, words = self._replaced(process, rule)
        return Decision(
            rule=name,
            budget=budget,
            count=count,
            kind="failure" if failed else "interruption",
            spent=spent,
            not_before=due if pause_s and due > at else None,
            limits=limits,
            words=words,
        )

    def _rule(self, process: ProcessProgress) -> tuple[int, Rule | None]:
        for number, rule in enumerate(self.retry.rules, 1):
            if rule.fits(process.reason, process.exit_code):
                return number, rule
        return 0, None

    def _replaced(
        self, process: ProcessProgress, rule: Rule | None
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """What *rule* makes of the limits that the last attempt had, and in words."""
        had, found, words = limits_of(self.limits, process), dict[str, Any](), list[str]()
        for each in () if rule is None else rule.settings:
            before = getattr(had, each.name)
            after = each.of(before)
            if after is not None and after != before:
                found[each.name] = {"from": getattr(self.limits, each.name), "to": after}
                words.append(f"{each.key} {each.told(before)} → {each.told(after)}")
        return ({**(process.limits or {}), **found} if found else None), words

    def _pause_s(self, state: ExperimentState, index: int, rule: Rule | None, row: int) -> float:
        process = state.processes[index]
        # What was interrupted has no end of its own; one that failed keeps it while it waits.
        failed = process.status is ProcessStatus.FAILED or process.completed_at is not None
        count = process.failures if failed else process.interruptions
        first_s = None if rule is None else rule.backoff_s
        if first_s is None and not failed:
            doubled = _INTERRUPTED_S * float(1 << max(row - 2, 0))
            return min(doubled, _INTERRUPTED_AT_MOST_S) if row > 1 else 0.0
        if first_s is None:
            first_s = self.retry.backoff_s
        most_s = _LONGEST_S if failed else max(first_s, _PREEMPTED_AT_MOST_S)
        if count < 1:
            return 0.0  # of a state that was made by hand
        pause_s = min(first_s * float(1 << min(count - 1, 30)), most_s)
        return pause_s if rule is None else pause_s * (1 + _JITTER * _spread(state, index))

    def waits(self, state: ExperimentState, first: int) -> tuple[datetime, datetime] | None:
        """When the next attempt of a command may start, and since when it waits for that.

        None if it need not wait. A moment before it began to wait can only be another clock's.

        Args:
            first: Its first process.
        """
        gang = {index: state.processes[index] for index in state.gang(first)}
        found = [each.not_before for each in gang.values() if each.status is ProcessStatus.PENDING]
        moments = [moment for moment in found if moment is not None]
        if not moments:
            return None
        # That of the rank that decided, which may have failed for good.
        decisive = (ProcessStatus.PENDING, ProcessStatus.FAILED)
        longest_s = max(
            self._pause_s(state, index, self._rule(each)[1], _LONG_ROW)
            for index, each in gang.items()
            if each.status in decisive
        )
        return max(moments), max(moments) - timedelta(seconds=longest_s)

    def followed(
        self,
        state: ExperimentState,
        facts: Iterable[Event],
        changes: Iterable[Change],
        at: datetime,
        row: Callable[[int], int] = lambda _: 0,
    ) -> tuple[list[Event], dict[int, Decision]]:
        """*facts*, of which *changes* came, with what follows from them, and what was decided.

        Of each command there is one decision, by its first rank that failed, else was interrupted.
        What follows from a failure is requested later (`retries`), unless nothing does.

        Args:
            state: After *changes*.
            row: How many interruptions in a row those of a command are now.
        """
        ended: dict[int, list[int]] = {}
        for change in changes:
            over = change.target in (ProcessStatus.PENDING, ProcessStatus.FAILED)
            if change.process is not None and change.source == ProcessStatus.RUNNING and over:
                ended.setdefault(state.gang(change.process).start, []).append(change.process)
        decided: dict[int, Decision] = {}
        made: dict[int, Decision] = {}
        for first, ranks in ended.items():
            together = self._decided(state, ranks, at, row(first))
            decided[first] = together[ranks[0]]
            for index, each in together.items():
                if each.spent or state.processes[index].status is ProcessStatus.PENDING:
                    made[index] = each
        return [_with(fact, made) for fact in facts], decided

    def _decided(
        self, state: ExperimentState, ranks: Sequence[int], at: datetime, row: int = 0
    ) -> dict[int, Decision]:
        """What is decided on the *ranks* of one command that ended together."""
        failed = [i for i in ranks if state.processes[i].status is ProcessStatus.FAILED]
        one = self.after(state, min(failed or ranks), at, row)
        found = {}
        for index in failed:
            count = state.processes[index].failures
            found[index] = attrs.evolve(one, count=count, spent=count >= (one.budget or 0))
        # Those that were stopped with it are tried again in any case, and wait for it if it is.
        spent = all(each.spent for each in found.values()) if failed else one.spent
        rest = attrs.evolve(one, spent=spent)
        return found | {index: rest for index in ranks if index not in found}

    def retries(
        self, state: ExperimentState, failed: Iterable[int], at: datetime
    ) -> list[Requested]:
        """The requests that try again what of *failed* is to be."""
        together: dict[tuple[int, int], list[int]] = {}
        for index in failed:
            process = state.processes[index]
            if process.status is ProcessStatus.FAILED:
                key = state.gang(index).start, process.attempt
                together.setdefault(key, []).append(index)
        found = []
        for ranks in together.values():
            for index, each in self._decided(state, ranks, at).items():
                if not each.spent:
                    found.append(_requeue(index, each, at))
        return sorted(found, key=lambda request: request.process or 0)


def _requeue(index: int, decision: Decision, at: datetime) -> Requested:
    facts: dict[str, Any] = {"max_attempts": decision.budget}
    if decision.not_before is not None:
        facts["not_before"] = decision.not_before
    if decision.limits is not None:
        facts["process_limits"] = decision.limits
    return Requested(
        entity="process",
        event="requeue",
        at=at,
        process=index,
        evidence=None if decision.rule is None else str(decision),
        facts=facts,
    )


def _with(fact: Event, made: Mapping[int, Decision]) -> Event:
    if not isinstance(fact, _ENDS) or fact.process not in made:
        return fact
    decision = made[fact.process]
    if decision.rule is not None:
        # First: what is known of an end can be longer than a page shows.
        evidence = "; ".join(filter(None, (str(decision), fact.evidence)))
        fact = attrs.evolve(fact, evidence=evidence)
    if decision.spent or (decision.not_before is None and decision.limits is None):
        return fact
    again = Again(not_before=decision.not_before, limits=decision.limits)
    return attrs.evolve(fact, again=again)


def _spread(state: ExperimentState, index: int) -> float:
    """From -1 to 1, by chance, but the same for one attempt whenever it is asked."""
    unit, attempt = state.gang(index).start, state.processes[index].attempt
    digest = hashlib.sha256(f"{state.experiment_id}/{unit}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:8]) / (1 << 63) - 1
