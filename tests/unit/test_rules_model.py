"""What rules make of any history, against a model that is written from the guide alone.

The model knows no record and no code of holdfast: it reads the file as it is written, hears how
each attempt ended, and says what has to follow.
"""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from hypothesis import event, given, settings
from hypothesis import strategies as st

from holdfast.config.experiment_file import Experiment
from holdfast.lifecycle import apply
from holdfast.lifecycle.events import Event, Launch, ProcessExited, ProcessLost, Requested
from holdfast.lifecycle.records import ExperimentState, Ranks
from holdfast.orchestration.rules import limits_of
from holdfast.orchestration.scheduling import Policy, Scheduler
from holdfast.orchestration.surveying import Survey
from holdfast.orchestration.takeover import plan
from holdfast.status import ExperimentStatus, ProcessStatus, Reason

EPOCH = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)
FAILURES = ("timeout", "out_of_memory", "perhaps_memory", "signal", "exit", "launch_error")
INTERRUPTIONS = ("stall", "lost", "preempted")
#: Of one that lived so long, the count of interruptions in a row begins anew.
LONG_S = 600.0


# -- the model ------------------------------------------------------------------------------------


@attrs.define
class One:
    """One command: a process, or a gang that stands and falls together."""

    failures: int = 0
    interruptions: int = 0
    in_a_row: Counter[str] = attrs.field(factory=Counter)
    timeout: float | None = None
    pause: tuple[float, float] = (0.0, 0.0)
    over: str = ""


@attrs.define
class Model:
    """What the guide says of `[limits] timeout`, `[retry]` and its rules."""

    file: dict[str, Any]
    ones: dict[int, One]

    def ended(self, which: int, how: str, code: int, lived_s: float, *, seen: bool) -> str:
        """What follows: `done`, `failed`, `given up`, or `again` within `pause`.

        Args:
            seen: Whether the run that goes on saw it happen: else it is in no row of its own.
        """
        one, retry = self.ones[which], self.file["retry"]
        if how == "done":
            one.over = "done"
            return one.over
        rule = next((rule for rule in retry["rule"] if self.fits(rule, how, code)), None)
        asked = rule or {}
        one.pause = (0.0, 0.0)
        if how in FAILURES:
            one.failures += 1
            one.in_a_row.clear()
            if one.failures >= asked.get("max_attempts", retry["max_attempts"]):
                one.over = "failed"
                return one.over
            pause = asked.get("backoff", retry["backoff"]) * 2 ** (one.failures - 1)
            one.pause = (0.75 * pause, 1.25 * pause) if rule else (pause, pause)
        elif how == "user":
            one.interruptions += 1
            one.in_a_row.clear()
        else:
            one.interruptions += 1
            if lived_s >= LONG_S and how != "stall":
                one.in_a_row[how] = 0
            one.in_a_row[how] += seen
            count, most = one.in_a_row[how], retry["max_interruptions"]
            if "max_attempts" in asked:
                count, most = one.interruptions, asked["max_attempts"]
            if count >= most:
                return "given up"
            if "backoff" in asked:
                pause = asked["backoff"] * 2 ** (one.interruptions - 1)
                pause = min(pause, max(asked["backoff"], 3600))
                one.pause = (0.75 * pause, 1.25 * pause)
            elif one.in_a_row[how] > 1:
                pause = min(2.0 ** (one.in_a_row[how] - 2), 60)
                one.pause = (pause, pause)
        self.set(one, asked.get("set", {}).get("limits.timeout"))
        return "again"

    def fits(self, rule: dict[str, Any], how: str, code: int) -> bool:
        words = rule["when"]
        if how == "perhaps_memory":
            return "perhaps_memory" in words or "signal" in words
        return how in words and (how != "exit" or code in rule.get("codes", [code]))

    def set(self, one: One, wanted: str | None) -> None:
        if wanted is None:
            return
        if wanted.startswith("x"):
            one.timeout = (one.timeout or 0) * float(wanted[1:])
        else:
            one.timeout = float(wanted.removesuffix("s"))

    def resumed(self) -> None:
        """Whoever goes on counts interruptions in a row anew."""
        for one in self.ones.values():
            one.in_a_row.clear()


# -- histories ------------------------------------------------------------------------------------

causes = st.lists(
    st.sampled_from([each for each in (*FAILURES, *INTERRUPTIONS) if each != "launch_error"]),
    min_size=1,
    max_size=3,
    unique=True,
)
some_rules = st.builds(
    lambda when, **more: {"when": when, **{k: v for k, v in more.items() if v is not None}},
    causes,
    codes=st.none() | st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True),
    max_attempts=st.none() | st.integers(1, 5),
    backoff=st.none() | st.sampled_from([0, 1, 30, 2000]),
    set=st.none() | st.sampled_from(["x2", "x1.5", "7200s"]).map(lambda v: {"limits.timeout": v}),
)


def consistent(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """*rules* without those that the file may not have."""
    found: list[dict[str, Any]] = []
    decided: set[str] = set()
    for rule in rules:
        kept = [each for each in rule["when"] if each not in decided]
        if "signal" in decided:
            kept = [each for each in kept if each != "perhaps_memory"]
        rule = {**rule, "when": kept}
        if "exit" not in kept:
            rule.pop("codes", None)
        if "codes" in rule:
            # Only the first that has codes of an exit: which overlap is another test's.
            if "codes" in decided:
                rule["when"] = [each for each in kept if each != "exit"]
                del rule["codes"]
            decided.add("codes")
        elif "exit" in kept:
            decided.add("exit")
        decided |= set(rule["when"]) - {"exit"}
        if rule["when"]:
            found.append(rule)
    return found


files = st.builds(
    lambda rules, timeout, **retry: {
        "command": ["true"],
        "limits": {"timeout": timeout, "stall": "1h", "on_stall": "restart"},
        "retry": {"rule": consistent(rules), **retry},
    },
    st.lists(some_rules, max_size=4),
    st.sampled_from([60.0, 3600.0]),
    max_attempts=st.integers(1, 6),
    backoff=st.sampled_from([0.0, 10.0, 600.0]),
    max_interruptions=st.integers(1, 4),
)


@attrs.define
class History:
    """An experiment that is run, interrupted, resumed: its record, the model, and two clocks."""

    rng: random.Random
    experiment: Experiment
    model: Model
    state: ExperimentState
    true_s: float = 0.0
    offset_s: float = 0.0
    scheduler: Scheduler | None = None
    running: dict[tuple[int, int], float] = attrs.field(factory=dict)
    ended_at: dict[int, float] = attrs.field(factory=dict)
    given_up: set[int] = attrs.field(factory=set)
    set_back: set[int] = attrs.field(factory=set)
    seen: Counter[str] = attrs.field(factory=Counter)

    @property
    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.true_s + self.offset_s)

    @property
    def policy(self) -> Policy:
        retry = self.experiment.retry
        return Policy(
            jobs=self.rng.randint(1, 3),
            max_attempts=retry.max_attempts,
            backoff_s=retry.backoff_s,
            max_interruptions=retry.max_interruptions,
            rules=retry.rules,
            limits=self.experiment.limits,
        )

    def first(self, index: int) -> int:
        return self.state.gang(index).start

    # -- how attempts end

    def ends(self) -> list[Event]:
        """Of some that run, how they ended."""
        found: list[Event] = []
        for first, attempt in list(self.running):
            if self.rng.random() < 0.6:
                found += self.end(first, attempt)
        return found

    def end(self, first: int, attempt: int) -> list[Event]:
        how = self.rng.choice(
            ("done", "user", *FAILURES, *FAILURES, *INTERRUPTIONS, *INTERRUPTIONS)
        )
        code, at = self.rng.randint(1, 4), self.now
        lived = self.rng.choice((1.0, 1.0, 1000.0))
        self.running[first, attempt] = self.true_s
        facts: list[Event] = []
        for index in self.state.gang(first):
            of: dict[str, Any] = {"process": index, "attempt": attempt, "at": at}
            times = {"started_at": at - timedelta(seconds=lived), "ended_at": at}
            if how == "lost":
                facts.append(ProcessLost(**of, evidence="its lock is free"))
                continue
            more: dict[str, Any] = {
                "done": {"exit_code": 0},
                "exit": {"exit_code": code},
                "timeout": {"signal": 15, "timed_out": True},
                "signal": {"signal": 11},
                "perhaps_memory": {"signal": 9, "reason": Reason.PERHAPS_MEMORY},
                "out_of_memory": {"signal": 9, "reason": Reason.OUT_OF_MEMORY},
                "launch_error": {"launch_error": "no such file"},
                "stall": {"signal": 15, "stop_reason": Reason.STALL},
                "preempted": {"exit_code": 0, "interrupted_by": 15},
                "user": {"exit_code": 0, "stop_reason": Reason.USER},
            }[how]
            facts.append(ProcessExited(**of, **more, **times))
        started = self.state.processes[first].started_at
        assert started is not None
        if how == "lost":
            lived = (at - started).total_seconds()
        self.pending[first, attempt] = how, code, lived
        return facts

    pending: dict[tuple[int, int], tuple[str, int, float]] = attrs.field(factory=dict)

    # -- what is recorded

    def take(self, events: list[Event], *, seen: bool = True) -> list[Launch]:
        """Record *events*, and have the model hear of the ends among them."""
        step = apply.apply_many(self.state, events)
        told = {(self.first(e.process), e.attempt) for e in events if hasattr(e, "attempt")}
        self.state = step.state
        for key in sorted(told & self.pending.keys()):
            self.hear(*key, seen=seen)
        return [action for action in step.actions if isinstance(action, Launch)]

    def hear(self, first: int, attempt: int, *, seen: bool) -> None:
        how, code, lived = self.pending.pop((first, attempt))
        del self.running[first, attempt]
        one = self.model.ones[first]
        expected = self.model.ended(first, how, code, lived, seen=seen)
        self.seen[how] += 1
        self.seen[expected] += 1
        self.ended_at[first] = self.true_s
        self.set_back.discard(first)
        for index in self.state.gang(first):
            process = self.state.processes[index]
            assert (process.failures, process.interruptions) == (one.failures, one.interruptions)
            if expected == "done":
                assert process.status is ProcessStatus.COMPLETED
            elif expected == "failed":
                assert process.status is ProcessStatus.FAILED
            elif expected == "given up":
                assert process.not_before is None
                if seen:
                    self.given_up.add(first)
            elif process.status is ProcessStatus.PENDING:
                self.check_pause(process.not_before, one)
                self.check_limits(first)

    def check_limits(self, first: int) -> None:
        for index in self.state.gang(first):
            found = limits_of(self.experiment.limits, self.state.processes[index])
            assert found.timeout_s == self.model.ones[first].timeout

    def check_pause(self, not_before: datetime | None, one: One) -> None:
        least, most = one.pause
        if not_before is None:
            assert least == 0
        else:
            paused = (not_before - self.now).total_seconds()
            assert least - 1e-3 <= paused <= most + 1e-3

    def launch(self, first: int, attempt: int) -> None:
        one = self.model.ones[first]
        assert not one.over, "ran again although it was over"
        assert first not in self.given_up, "given up, and started in the same run"
        assert not any(unit == first for unit, _ in self.running), "two attempts at a time"
        if first in self.ended_at and first not in self.set_back:
            assert self.true_s - self.ended_at[first] >= one.pause[0] - 1e-3, "too soon"
        self.check_limits(first)
        for index in self.state.gang(first):
            assert self.state.processes[index].not_before is None
        self.running[first, attempt] = self.true_s
        one.pause = (0.0, 0.0)

    # -- what happens between

    def jump(self) -> None:
        """Somebody sets the clock."""
        by = self.rng.choice((-86_400.0, -5.0, 5.0, 86_400.0))
        self.offset_s += by
        # Whatever it makes of pauses that run now: they may end early, and never late (below).
        self.set_back |= self.model.ones.keys()

    def turns(self) -> Iterator[None]:
        """Until it is over: turns, crashes before or after what they record, and resumes."""
        for _ in range(400):
            yield
            if self.scheduler is None:
                self.resume()
                continue
            planned = self.scheduler.plan(self.state, self.ends(), self.now)
            chance = self.rng.random()
            if chance < 0.1:
                self.scheduler = None  # nothing of it was recorded
                for key in self.pending:
                    assert key in self.running
                self.pending.clear()
                continue
            launches = self.take(list(planned.events))
            if chance < 0.2:
                launches = launches[: self.rng.randint(0, len(launches))]
                self.scheduler = None
            begun = {(self.first(each.process), each.attempt) for each in launches}
            for first, attempt in sorted(begun):
                self.launch(first, attempt)
            if self.state.status is not ExperimentStatus.RUNNING:
                if self.state.status is not ExperimentStatus.INTERRUPTED:
                    return
                self.scheduler = None
                continue
            self.true_s += self.until_next(planned.wait_s)
            if self.rng.random() < 0.05:
                self.jump()

    def until_next(self, wait_s: float | None) -> float:
        if wait_s is None or self.running:
            return self.rng.choice((0.0, 1.0, 20.0))
        waiting = [one.pause[1] for one in self.model.ones.values() if not one.over]
        # However the clock was set, nobody waits for longer than the longest pause.
        assert wait_s <= max(waiting, default=0.0) + 60.0
        return wait_s

    def resume(self) -> None:
        """As a takeover does, through what it really plans."""
        facts: dict[int, ProcessExited] = {}
        lost: list[Event] = []
        for index in self.state.processes.indices(ProcessStatus.RUNNING):
            first, attempt = self.first(index), self.state.processes[index].attempt
            if (first, attempt) not in self.running:
                # Its start was recorded and never carried out: found out in the first turn.
                self.running[first, attempt] = self.true_s
                self.pending[first, attempt] = "lost", 0, self.age_s(first)
            if (first, attempt) in self.pending:
                lost.append(
                    ProcessLost(process=index, attempt=attempt, at=self.now, evidence="revoked")
                )
                self.pending[first, attempt] = "lost", 0, self.age_s(first)
        for first, attempt in list(self.running):
            if (first, attempt) not in self.pending and self.rng.random() < 0.3:
                ended = self.end(first, attempt)
                if all(isinstance(each, ProcessExited) for each in ended):
                    facts |= {each.process: each for each in ended}  # type: ignore[union-attr, misc]
                else:
                    del self.pending[first, attempt]
        self.model.resumed()
        self.given_up.clear()
        found = Survey(looks={}, facts=facts, said={}, lost={})
        limits, retry = self.experiment.limits, self.experiment.retry
        taken = plan(self.state, found, self.now, limits, retry)
        self.take(list(taken.events), seen=False)
        self.scheduler = Scheduler(self.state, self.policy)
        if lost:
            planned = self.scheduler.plan(self.state, lost, self.now)
            begun = {
                (self.first(each.process), each.attempt) for each in self.take(list(planned.events))
            }
            for first, attempt in sorted(begun):
                self.launch(first, attempt)
            if self.state.status is ExperimentStatus.INTERRUPTED:
                self.scheduler = None

    def age_s(self, first: int) -> float:
        started = self.state.processes[first].started_at
        assert started is not None
        return (self.now - started).total_seconds()


@settings(max_examples=400)
@given(
    file=files, seed=st.integers(0, 2**32), size=st.integers(1, 3), ranks=st.sampled_from([0, 2])
)
def test_every_history_is_what_the_guide_says(
    file: dict[str, Any], seed: int, size: int, ranks: int
) -> None:
    """Ends of every kind, crashes at any moment, clocks that jump; processes and gangs."""
    gang = {"ranks": ranks} if ranks else {}
    experiment = Experiment.from_config({**file, **gang, "processes": size})
    count = ranks or 1
    state = ExperimentState(
        experiment_id="exp_7",
        num_processes=size * count,
        ranks=Ranks(count=ranks) if ranks else None,
    )
    begun = apply.apply(state, Requested(entity="experiment", event="start", at=EPOCH)).state
    timeout = experiment.limits.timeout_s
    ones = {first: One(timeout=timeout) for first in range(0, size * count, count)}
    history = History(random.Random(seed), experiment, Model(file, ones), begun)
    history.scheduler = Scheduler(begun, history.policy)
    for _ in history.turns():
        assert history.state.has_gangs == bool(ranks)
    for what in history.seen:
        event(what)
    if history.state.status is ExperimentStatus.FAILED:
        assert any(one.over == "failed" for one in ones.values())
