"""Rules and deadlines: what a file may say, and what follows for one process or one launcher."""

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from holdfast.config.durations import parse_duration, written
from holdfast.config.experiment_file import Experiment, Limits
from holdfast.config.rules import SETTABLE
from holdfast.errors import ConfigError, InvalidRequestError
from holdfast.lifecycle.apply import apply, apply_many
from holdfast.lifecycle.events import Event, Launch, ProcessExited, Requested
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, Ranks
from holdfast.orchestration.deadline import Passing, deadline_of
from holdfast.orchestration.rules import Rules, limits_of
from holdfast.orchestration.scheduling import Plan, Policy, Scheduler
from holdfast.reading.waiting import limits_words
from holdfast.status import ExperimentStatus, ProcessStatus, Reason

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


# -- the file -------------------------------------------------------------------------------------


def made(*rules: Any, **limits: Any) -> Experiment:
    config = {"command": ["true"], "limits": limits, "retry": {"rule": list(rules)}}
    return Experiment.from_config(config)


def problems(*rules: Any, **limits: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        made(*rules, **limits)
    return [str(each) for each in caught.value.problems]


WORDS = "timeout, out_of_memory, perhaps_memory, signal, exit, stall, lost, preempted, time_limit"


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({}, f".when: is missing: how an attempt ended, one or more of {WORDS}"),
        ({"when": []}, f".when: is empty; it can be {WORDS}"),
        ({"when": 5}, ".when: expected a word or a list of words, found the number 5"),
        ({"when": ["exit", 5]}, ".when: expected words, found the number 5"),
        ({"when": "oom"}, ".when: 'oom' is no way in which an attempt ends (did you mean out_of_m"),
        ({"when": "timout"}, "ends (did you mean timeout?)"),
        ({"when": "zzz"}, f"ends (it can be {WORDS})"),
        ({"when": "launch_error"}, "ends (what could not be started is tried again as [retry]"),
        ({"when": "exit", "codes": []}, ".codes: expected a list of exit codes, found a list"),
        ({"when": "exit", "codes": ["1"]}, ".codes: expected exit codes, found the text '1'"),
        ({"when": "exit", "codes": [0]}, ".codes: an exit code of a failure is 1 to 255, found 0"),
        (
            {"when": "signal", "codes": [9]},
            '.codes: only exit has codes, and when is signal (add "exit" to when, or',
        ),
        ({"when": "exit", "max_attempts": 0}, ".max_attempts: must be 1 or more, found 0"),
        ({"when": "exit", "backoff": "5"}, "found '5' (write \"5s\")"),
        ({"when": "exit", "code": [5]}, ".code: unknown key (did you mean codes?)"),
        ({"when": "exit", "timeout": 5}, '(write set = {"limits.timeout" = …})'),
        ({"when": "exit", "set": "x2"}, 'found the text \'x2\' (write set = {"limits.timeout" ='),
        ({"when": "exit", "set": {"limits.jobs": 2}}, ".set.limits.jobs: no rule can set this"),
        ({"when": "exit", "set": {"limits.timout": 2}}, "this (did you mean limits.timeout?)"),
        ({"when": "exit", "set": {"limits.timeout": "2x"}}, "found '2x' (write \"x2\")"),
        ({"when": "exit", "set": {"limits.timeout": "* 1.5"}}, "(write \"x1.5\")"),
        ({"when": "exit", "set": {"limits.timeout": "x1"}}, "at most x1000, and not x1; found x1"),
        ({"when": "exit", "set": {"limits.timeout": 0}}, ".limits.timeout: must be more than 0"),
        (
            {"when": "exit", "set": {"limits.stall": "x2"}},
            ".set.limits.stall: there is no limits.stall that x2 could be a multiple of (give a",
        ),
        (
            {"when": "stall"},
            '.when: no attempt ends by a stall: limits.on_stall is "tell" (write limits.on_stall =',
        ),
        (5, ": expected a table, found the number 5"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_rule_is_told_with_its_number(rule: Any, problem: str) -> None:
    """And with what to write instead."""
    (told,) = problems({"when": "lost"}, rule, timeout="1h")
    assert told.startswith("retry.rule 2")
    assert problem in told


def test_all_mistakes_of_all_rules_are_told_at_once() -> None:
    """Nobody mends a file one mistake at a time."""
    wrong = {"when": ["oom", "zzz"], "backof": 3, "set": {"limits.x": 1, "limits.grace": "x0"}}
    assert len(problems(wrong, {"when": "exit", "codes": [0]}, 7)) == 7
    with pytest.raises(ConfigError, match=r"retry.rule: expected a list of tables, found a table"):
        Experiment.from_config({"command": ["true"], "retry": {"rule": {"when": "exit"}}})


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({"when": "exit"}, {"when": "exit", "codes": [3]}, "rule 1 already decides on exit 3, so"),
        ({"when": "exit"}, {"when": ["lost", "exit"]}, "or leave exit out"),
        (
            {"when": "exit", "codes": [3, 4]},
            {"when": "exit", "codes": [4]},
            "rule 1 already decides on exit 4, so this one never would (put it before rule 1",
        ),
        ({"when": "signal"}, {"when": "perhaps_memory"}, "already decides on perhaps_memory"),
    ],
)
def test_a_rule_that_never_decides_is_a_mistake(first: Any, second: Any, problem: str) -> None:
    """It would be looked for in vain at 2 a.m."""
    (told,) = problems(first, second)
    assert problem in told


def test_rules_may_overlap_where_the_first_leaves_something() -> None:
    """A special case stands before the general one."""
    made({"when": "exit", "codes": [3]}, {"when": "exit", "codes": [3, 4]}, {"when": "exit"})
    made({"when": "perhaps_memory"}, {"when": "signal"})
    made(
        {"when": "timeout", "set": {"limits.stall": "1h"}},
        {"when": "lost", "set": {"limits.stall": "x2"}},
    )


def test_a_limit_that_was_lifted_since_keeps_nobody_from_going_on() -> None:
    """The rule that was for it has no meaning any more, and is no mistake in what is stored."""
    config = made({"when": "timeout", "set": {"limits.timeout": "x2"}}, timeout="1h").to_config()
    assert Experiment.from_stored({**config, "limits": {}}).retry.rules


def test_quotes_around_a_key_to_set_can_be_left_out() -> None:
    """TOML makes a table in a table of it."""
    (rule,) = made({"when": "timeout", "set": {"limits": {"timeout": "4h"}}}).retry.rules
    assert [(each.key, each.value) for each in rule.settings] == [("limits.timeout", 14_400)]


def test_rules_and_deadlines_are_no_part_of_the_work(tmp_path: Any) -> None:
    """A changed rule goes on with the same experiment."""
    plain = Experiment.from_config({"command": ["true"]})
    ruled = made({"when": "lost"}, deadline="8h")
    assert ruled.config_hash(tmp_path) == plain.config_hash(tmp_path)
    again = Experiment.from_stored(ruled.to_config())
    assert (again.retry, again.limits) == (ruled.retry, ruled.limits)


def test_what_rules_set_are_limits() -> None:
    """The one table of what can be set names attributes that there are."""
    assert set(SETTABLE.values()) <= attrs.fields_dict(Limits).keys()


@pytest.mark.parametrize("text", ["0s", "0.25s", "59s", "1m", "1h30m", "2d3h4m5.5s", "36500d"])
def test_a_written_duration_is_read_as_it_was(text: str) -> None:
    """And is as short as people write it."""
    assert written(parse_duration(text)) == text


# -- what follows ---------------------------------------------------------------------------------


@attrs.define
class Turns:
    """A scheduler and the state that its plans lead to."""

    state: ExperimentState
    policy: Policy
    scheduler: Scheduler = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.scheduler = Scheduler(self.state, self.policy)

    def turn(self, *facts: Event, at: float = 0, **more: Any) -> tuple[list[int], Plan]:
        plan = self.scheduler.plan(self.state, facts, later(at), **more)
        step = apply_many(self.state, plan.events)
        self.state = step.state
        return [act.process for act in step.actions if isinstance(act, Launch)], plan


def running(size: int, *rules: Any, ranks: Ranks | None = None, **limits: Any) -> Turns:
    experiment = made(*rules, timeout="1h", **limits)
    state = ExperimentState(experiment_id="exp_7", num_processes=size, ranks=ranks)
    state = apply(state, Requested(entity="experiment", event="start", at=NOW)).state
    policy = Policy(
        jobs=99,
        max_attempts=2,
        backoff_s=10,
        rules=experiment.retry.rules,
        limits=experiment.limits,
    )
    turns = Turns(state, policy)
    turns.turn()
    return turns


def exited(index: int, attempt: int = 1, at: float = 0, **how: Any) -> ProcessExited:
    return ProcessExited(process=index, attempt=attempt, at=later(at), **how)


def evidence(plan: Plan) -> list[str]:
    return [each.evidence for each in plan.events if getattr(each, "evidence", None)]  # type: ignore[union-attr]


def test_a_gang_has_one_answer() -> None:
    """One pause and one limit for all its ranks."""
    rule = {"when": "timeout", "backoff": "100s", "set": {"limits.timeout": "x2"}}
    turns = running(4, rule, ranks=Ranks(count=2))
    out = {"signal": 15, "timed_out": True}
    turns.turn(exited(0, **out), exited(1, **out), exited(2, exit_code=0), exited(3, exit_code=0))
    first, second = (turns.state.processes[index] for index in (0, 1))
    assert first.not_before == second.not_before
    assert first.not_before is not None
    assert 75 <= (first.not_before - NOW).total_seconds() <= 125
    assert first.limits == second.limits == {"timeout_s": {"from": 3600.0, "to": 7200.0}}
    assert turns.turn(at=126)[0] == [0, 1]


def test_independent_ranks_go_by_the_first_that_failed() -> None:
    """What was stopped with it waits with it; each failure has a budget of its own."""
    rules = [
        {"when": "exit", "max_attempts": 2, "backoff": "100s"},
        {"when": "signal", "max_attempts": 9, "set": {"limits.timeout": "x2"}},
    ]
    turns = running(3, *rules, ranks=Ranks(count=3, independent=True))
    gave_way = {"signal": 15, "stop_reason": Reason.PREEMPTED}
    _, plan = turns.turn(exited(0, **gave_way), exited(1, exit_code=3), exited(2, signal=11))
    moments = {turns.state.processes[index].not_before for index in range(3)}
    assert len(moments) == 1
    assert moments != {None}
    assert all(process.limits is None for process in turns.state.processes.values())
    assert all("rule 1 (exit): failure 1 of 2" in each for each in evidence(plan))
    assert turns.turn(at=126)[0] == [0, 1, 2]
    turns.turn(
        *(
            exited(0, 2, 130, **gave_way),
            exited(1, 2, 130, exit_code=3),
            exited(2, 2, 130, signal=11),
        ),
        at=130,
    )
    assert [process.status for process in turns.state.processes.values()] == [
        ProcessStatus.RUNNING,  # nothing that failed with it is tried again
        ProcessStatus.FAILED,
        ProcessStatus.FAILED,
    ]


def test_pauses_of_a_rule_spread_and_are_the_same_whoever_asks() -> None:
    """Not by chance: a crash must not draw again."""
    turns = running(40, {"when": "exit", "max_attempts": 9, "backoff": "100s"})
    turns.turn(*(exited(index, exit_code=3) for index in range(40)))
    pauses = [
        (process.not_before - NOW).total_seconds()
        for process in turns.state.processes.values()
        if process.not_before is not None
    ]
    assert len(set(pauses)) == 40
    assert 75 <= min(pauses) < 85
    assert 115 < max(pauses) <= 125
    failed = attrs.evolve(
        turns.state,
        process_progress={
            index: attrs.evolve(each, status="failed", not_before=None)
            for index, each in turns.state.processes.items()
        },
    )
    again = Turns(failed, turns.policy)
    again.turn(at=30)
    assert [each.not_before for each in again.state.processes.values()] == [
        each.not_before for each in turns.state.processes.values()
    ]


def test_an_interruption_waits_no_longer_than_an_hour_however_often_it_came() -> None:
    """What is preempted daily is not to wait for weeks; a longer backoff is what was asked for."""
    for backoff, most in (("1m", 3600 * 1.25), ("2h", 7200 * 1.25)):
        turns = running(1, {"when": "preempted", "max_attempts": 99, "backoff": backoff})
        state = turns.state
        process = attrs.evolve(state.processes[0], interruptions=40)
        turns = Turns(attrs.evolve(state, process_progress={0: process}), turns.policy)
        turns.turn(exited(0, exit_code=0, interrupted_by=15))
        due = turns.state.processes[0].not_before
        assert due is not None
        assert most * 0.6 <= (due - NOW).total_seconds() <= most


@pytest.mark.parametrize("back_s", [100.0, 86_400.0])
def test_a_clock_that_is_set_back_ends_a_pause(back_s: float) -> None:
    """In the run that began it, and in one that takes over."""
    for how in ({"exit_code": 3}, {"exit_code": 0, "interrupted_by": 15}):
        turns = running(1, {"when": ["exit", "preempted"], "max_attempts": 9, "backoff": "1m"})
        turns.turn(exited(0, **how))
        again = Turns(turns.state, turns.policy)
        assert turns.turn(at=-back_s)[0] == [0]
        assert again.turn(at=-back_s)[0] == [0]


def test_a_limit_that_is_configured_otherwise_since_takes_the_place_of_what_a_rule_set() -> None:
    """Somebody who gives 12h does not get the 2h that a rule once made of 1h."""
    process = ProcessProgress(
        limits={
            "timeout_s": {"from": 3600.0, "to": 7200.0},
            "grace_s": {"from": 30.0, "to": 60.0},
            "memory": {"from": 1, "to": 2},
        }
    )
    assert limits_of(made(timeout="1h").limits, process) == made(timeout="2h", grace="1m").limits
    assert limits_of(made(timeout="12h").limits, process) == made(timeout="12h", grace="1m").limits
    experiment = made({"when": "timeout", "set": {"limits.timeout": "x2"}}, timeout="12h")
    failed = attrs.evolve(process, status="failed", reason="timeout", failures=1)
    state = ExperimentState(experiment_id="exp_7", process_progress={0: failed})
    found = Rules(limits=experiment.limits, retry=experiment.retry).after(state, 0, NOW).limits
    assert found is not None
    assert found["timeout_s"] == {"from": 43_200.0, "to": 86_400.0}


def test_a_person_waits_for_nothing_and_keeps_what_rules_have_set() -> None:
    """`requested_by_user` gives a fresh budget, at once."""
    turns = running(1, {"when": "timeout", "set": {"limits.timeout": "x2"}})
    turns.turn(exited(0, signal=15, timed_out=True))
    failed = attrs.evolve(turns.state.processes[0], status="failed", failures=2)
    state = attrs.evolve(turns.state, process_progress={0: failed})
    asked = Requested(
        entity="process",
        event="requeue",
        at=later(1),
        process=0,
        facts={"requested_by_user": True, "not_before": later(99)},
    )
    process = apply(state, asked).state.processes[0]
    assert (process.failures, process.not_before) == (0, None)
    assert process.limits == failed.limits
    assert process.limits is not None


def test_our_own_stops_are_for_no_rule() -> None:
    """Neither a stop of the experiment nor that of fail_fast says anything of the process."""
    rule = {"when": ["preempted"], "max_attempts": 1, "set": {"limits.timeout": "x2"}}
    turns = running(1, rule)
    stopped = exited(0, exit_code=0, stop_reason=Reason.PREEMPTED)
    turns.turn(stopped, stopping=Reason.PREEMPTED)
    assert turns.state.processes[0].limits is None
    turns = running(2, rule)
    turns.policy = attrs.evolve(turns.policy, fail_fast=True, max_attempts=1)
    turns.scheduler = Scheduler(turns.state, turns.policy)
    assert turns.turn(exited(0, exit_code=3))[1].stop_others
    turns.turn(exited(1, exit_code=0, stop_reason=Reason.PREEMPTED))
    assert turns.state.processes[1].limits is None
    assert turns.state.status is ExperimentStatus.FAILED


@pytest.mark.parametrize(
    "facts",
    [
        {"not_before": "soon"},
        {"not_before": datetime(2024, 1, 15)},  # noqa: DTZ001
        {"process_limits": 5},
        {"process_limits": {"timeout_s": 7200}},
        {"process_limits": {"timeout_s": {"from": 1, "to": float("nan")}}},
    ],
)
def test_a_fact_that_could_not_be_read_again_is_refused(facts: dict[str, Any]) -> None:
    """Before it is recorded."""
    with pytest.raises(InvalidRequestError):
        Requested(entity="process", event="requeue", at=NOW, process=0, facts=facts)


@pytest.mark.parametrize(
    ("timeout", "words"), [("60m", "limits.timeout 1h → 2h"), ("4h", ""), (None, ""), ("x", "")]
)
def test_a_limit_that_was_changed_since_is_not_shown_as_the_rule_left_it(
    timeout: str | None, words: str
) -> None:
    """`resume --set` came after the rule, and counts."""
    process = ProcessProgress(limits={"timeout_s": {"from": 3600.0, "to": 7200.0}})
    state = ExperimentState(experiment_id="e", config={"limits": {"timeout": timeout}})
    assert limits_words(state, process) == words


# -- the deadline ---------------------------------------------------------------------------------


def begun(**limits: Any) -> tuple[ExperimentState, Limits]:
    return ExperimentState(experiment_id="exp_7", started_at=NOW), made(**limits).limits


def test_nothing_starts_a_grace_period_before_the_deadline() -> None:
    """What would be started then could only save and end."""
    deadline = deadline_of(*begun(deadline="1h", grace="1m"))
    assert deadline is not None
    assert (deadline.closes, deadline.at) == (later(3540), later(3600))
    deadline = deadline_of(*begun(deadline="10s", grace="1m"))
    assert deadline is not None
    assert deadline.closes == later(5)


@pytest.mark.parametrize("limits", [{}, {"deadline": "36500d"}])
def test_without_a_deadline_nothing_ends(limits: dict[str, Any]) -> None:
    """Nor with one that nobody lives to see; nor before the first start."""
    state, given = begun(**limits)
    passing = Passing(deadline_of(state, given), NOW, 0.0)
    assert not passing.over(later(1e9), 1e9)
    assert deadline_of(attrs.evolve(state, started_at=None), begun(deadline="1h")[1]) is None


def test_a_clock_that_is_set_back_gives_no_more_time() -> None:
    """What has passed by the monotonic clock has passed; one that is set forward counts."""
    passing = Passing(deadline_of(*begun(deadline="1h", grace=0)), later(600), 50.0)
    assert not passing.over(later(3599), 50.0)
    assert passing.over(later(3600), 50.0)
    assert not passing.over(later(-86_400), 3049.0)
    assert passing.over(later(-86_400), 3050.0)
