"""The core without I/O: what events make of records."""

import itertools
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidTransitionError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle import apply
from holdfast.lifecycle.changes import replay, replay_many
from holdfast.lifecycle.events import (
    Event,
    Fact,
    Ignored,
    Launch,
    PhaseReported,
    ProcessExited,
    ProcessLost,
    Requested,
    Step,
    Stop,
)
from holdfast.lifecycle.records import ExperimentState, Origin, ResultRef
from holdfast.lifecycle.reuse import Proof
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus, Reason

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)
RESULT = ResultRef(path="results/0.1.json", size=2, sha256="0" * 64)
OUTPUTS = (ResultRef(path="model.pt", size=9, sha256="1" * 64),)
WORK = "0" * 32
SIZE = 3


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def ask(event: str, process: int | None = None, at: datetime = NOW, **more: object) -> Requested:
    own = {"reason", "error_message", "evidence"}
    return Requested(
        entity="experiment" if process is None else "process",
        event=event,
        at=at,
        process=process,
        facts={key: value for key, value in more.items() if key not in own},
        **{key: value for key, value in more.items() if key in own},  # type: ignore[arg-type]
    )


def running(size: int = SIZE) -> ExperimentState:
    state = ExperimentState(experiment_id="exp_7", num_processes=size)
    return apply.apply_many(state, [ask("start"), ask("start", 0)]).state


indices = st.integers(0, SIZE)  # one too many: there is no process 3
attempts = st.integers(0, 4)
times = st.integers(0, 1000).map(later)
facts: st.SearchStrategy[Fact] = st.one_of(
    st.builds(
        PhaseReported,
        process=indices,
        attempt=attempts,
        at=times,
        identity=st.just(ProcessIdentity(host="h", pid=7)),
    ),
    st.builds(
        ProcessExited,
        process=indices,
        attempt=attempts,
        at=times,
        exit_code=st.sampled_from([None, 0, 0, 0, 1]),
        signal=st.sampled_from([None, None, 9]),
        stop_reason=st.sampled_from([None, None, Reason.USER, Reason.PREEMPTED]),
        interrupted_by=st.sampled_from([None, None, 15]),
        timed_out=st.sampled_from([False, False, True]),
        launch_error=st.sampled_from([None, None, "no such file"]),
        evidence=st.sampled_from([None, "7 sleep had to be stopped"]),
        result=st.sampled_from([None, RESULT]),
        outputs=st.sampled_from([(), OUTPUTS]),
        code=st.sampled_from([None, "a", "b"]),
        result_error=st.sampled_from([None, None, "not JSON"]),
        started_at=st.none() | times,
        ended_at=st.none() | times,
    ),
    st.builds(
        ProcessLost, process=indices, attempt=attempts, at=times, evidence=st.just("seen dead")
    ),
)
proofs = st.builds(
    Proof,
    origin=st.builds(
        Origin,
        experiment_id=st.sampled_from(["exp_6", "exp_6", "exp_7"]),
        process=indices,
        attempt=attempts,
        via=st.sampled_from([None, None, "exp_5", "exp_7"]),
    ),
    work=st.sampled_from([None, WORK, WORK, "other"]),
    status=st.sampled_from([*ProcessStatus, ProcessStatus.COMPLETED]),
    problem=st.sampled_from([None, None, "is missing"]),
)
requests: st.SearchStrategy[Requested] = st.one_of(
    st.builds(
        Requested,
        entity=st.just("experiment"),
        event=st.sampled_from(
            ["start", "complete", "aggregate", "fail", "interrupt", "retry", "resume"]
        ),
        at=times,
        reason=st.sampled_from([None, Reason.USER]),
        facts=st.fixed_dictionaries(
            {}, optional={"limits": st.sampled_from([None, {}, {"jobs": 1}, {"timeout": "4h"}])}
        ),
    ),
    st.builds(
        Requested,
        entity=st.just("process"),
        process=indices,
        event=st.sampled_from(["start", "start", "complete", "fail", "requeue", "reuse"]),
        at=times,
        facts=st.fixed_dictionaries(
            {},
            optional={
                "exit_code": st.sampled_from([0, 1]),
                "max_attempts": st.integers(1, 3),
                "requested_by_user": st.booleans(),
                "proven_dead": st.booleans(),
                "result_lost": st.booleans(),
                "result": st.just(RESULT),
                "outputs": st.sampled_from([(), OUTPUTS]),
                "code": st.sampled_from([None, "a", "b"]),
                "work": st.just(WORK),
                "proof": proofs,
            },
        ),
    ),
)
stories = st.lists(st.one_of(facts, requests, requests), max_size=40)


def tell(story: list[Event]) -> list[tuple[ExperimentState, Event, Step]]:
    """Every accepted event of *story* with the state before it."""
    state = ExperimentState(experiment_id="exp_7", num_processes=SIZE)
    steps = []
    for event in [ask("start"), *story]:
        try:
            step = apply.apply(state, event)
        except InvalidTransitionError:
            continue
        steps.append((state, event, step))
        state = step.state
    return steps


@given(stories, facts)
def test_a_fact_is_never_refused(story: list[Event], fact: Fact) -> None:
    """Whatever happened before: a fact is taken in or ignored with a reason, never an error."""
    state = tell(story)[-1][2].state
    step = apply.apply(state, fact)
    if step.changes:
        assert not any(isinstance(action, Ignored) for action in step.actions)
    else:
        assert step.state is state
        assert isinstance(step.actions[0], Ignored)


@given(stories)
def test_replayed_changes_equal_the_state(story: list[Event]) -> None:
    """What a journal keeps is enough to rebuild the state, one by one and all at once."""
    steps = tell(story)
    first = steps[0][0]
    changes = [change for _, _, step in steps for change in step.changes]
    assert replay_many(first, changes) == steps[-1][2].state
    one_by_one = first
    for change in changes:
        one_by_one = replay(one_by_one, change)
    assert one_by_one == steps[-1][2].state


@given(stories)
def test_nothing_that_runs_is_launched_again(story: list[Event]) -> None:
    """A launch follows a pending process only, with an attempt number never used before."""
    launched = set()
    for before, _, step in tell(story):
        for action in step.actions:
            if isinstance(action, Launch):
                assert before.processes[action.process].status is ProcessStatus.PENDING
                assert action not in launched
                launched.add(action)


@given(stories)
def test_a_completed_process_stays_completed_except_under_result_lost(story: list[Event]) -> None:
    """Only a requeue for which the result is proven lost moves it."""
    for before, event, step in tell(story):
        for index, process in before.process_progress.items():
            if process.status is not ProcessStatus.COMPLETED:
                continue
            after = step.state.processes[index]
            if after != process:
                assert isinstance(event, Requested)
                assert (event.event, event.facts["result_lost"]) == ("requeue", True)
                assert after.reason is Reason.RESULT_LOST


@given(stories)
def test_what_is_reused_and_what_was_put_out_goes_with_its_completion(story: list[Event]) -> None:
    """Nothing pending, running or failed has an origin or outputs, and no origin is its own."""
    for _, _, step in tell(story):
        for process in step.state.processes.values():
            if process.outputs or process.origin is not None:
                assert process.status is ProcessStatus.COMPLETED
            assert (process.origin is not None) == (process.reason is Reason.REUSED)
            assert process.origin is None or process.origin.ancestor != step.state.experiment_id


@given(stories)
def test_an_aggregated_experiment_has_every_process_completed(story: list[Event]) -> None:
    """No story leads to a settled experiment with a process that is not completed."""
    for _, _, step in tell(story):
        if step.state.status in (ExperimentStatus.COMPLETED, ExperimentStatus.AGGREGATED):
            assert step.state.can_aggregate()


@given(stories)
def test_revision_and_epoch_are_left_to_the_claim(story: list[Event]) -> None:
    """The core stamps the time of an event and no more."""
    for _, event, step in tell(story):
        assert (step.state.revision, step.state.epoch) == (0, 0)
        if step.changes:
            assert step.state.last_updated == event.at


@given(stories)
def test_a_record_made_without_checks_passes_them(story: list[Event]) -> None:
    """The quick way past attrs' validators makes no record that they would refuse."""
    for _, _, step in tell(story):
        attrs.validate(step.state)
        assert attrs.evolve(step.state) == step.state
        for process in step.state.process_progress.values():
            attrs.validate(process)
            assert attrs.evolve(process) == process


def test_a_start_forgets_the_attempt_before_but_not_its_failures() -> None:
    """An attempt begins without exit code, error and result of the one before."""
    state = running()
    exited = ProcessExited(process=0, attempt=1, at=later(5), exit_code=3, error_message="boom")
    again = [exited, ask("requeue", 0, max_attempts=2), ask("start", 0, later(9))]
    process = apply.apply_many(state, again).state.processes[0]
    assert (process.attempt, process.failures) == (2, 1)
    assert process.started_at == later(9)
    assert process.exit_code is process.error_message is process.completed_at is None


def test_a_clean_exit_completes_with_its_result() -> None:
    """Exit code 0, nobody asked it to stop: completed, when the attempt's own clock says."""
    fact = ProcessExited(
        process=0, attempt=1, at=later(60), exit_code=0, result=RESULT, ended_at=later(2)
    )
    process = apply.apply(running(), fact).state.processes[0]
    assert (process.status, process.result) == (ProcessStatus.COMPLETED, RESULT)
    assert process.completed_at == later(2)


@pytest.mark.parametrize(
    "how",
    [
        {"exit_code": 1},
        {"exit_code": None, "signal": 9, "reason": Reason.SIGNAL},
        {"exit_code": 0, "timed_out": True},
        {"exit_code": 0, "timed_out": True, "stop_reason": Reason.USER},
        {"exit_code": 0, "timed_out": True, "interrupted_by": 15},
        {"exit_code": 0, "signal": 9},
        {"exit_code": 0, "result_error": "results/0.1.json is not JSON"},
        {"exit_code": None, "launch_error": "no such file"},
    ],
)
def test_any_other_exit_fails_and_is_charged(how: dict[str, object]) -> None:
    """Only a clean exit with a readable result completes; everything else costs one failure."""
    fact = ProcessExited(process=0, attempt=1, at=NOW, **how)  # type: ignore[arg-type]
    process = apply.apply(running(), fact).state.processes[0]
    assert (process.status, process.failures) == (ProcessStatus.FAILED, 1)
    assert process.result is None
    assert process.reason is (Reason.TIMEOUT if "timed_out" in how else fact.reason)


def every_end() -> Iterator[dict[str, Any]]:
    """Every combination of what can be known of an end."""
    known: dict[str, list[Any]] = {
        "exit_code": [0, 1, None],
        "signal": [None, 9],
        "stop_reason": [None, Reason.USER],
        "interrupted_by": [None, 15],
        "timed_out": [False, True],
        "launch_error": [None, "no such file"],
        "result_error": [None, "not JSON"],
    }
    for values in itertools.product(*known.values()):
        yield dict(zip(known, values, strict=True))


def test_every_end_is_exactly_one_of_completed_requeued_and_failed() -> None:
    """Exit code 0 completes if nothing speaks against it; only what nothing excuses is charged."""
    state = running()
    before = state.processes[0]
    for end in every_end():
        fact = ProcessExited(process=0, attempt=1, at=NOW, **end)
        step = apply.apply(state, fact)
        (change,) = step.changes
        after = step.state.processes[0]
        assert change.event == apply.ending(fact)
        charged = (after.failures - before.failures, after.interruptions - before.interruptions)
        against = [name for name in end if name != "exit_code" and end[name] not in (None, False)]
        stopped = end["stop_reason"] is not None or end["interrupted_by"] is not None
        if end["exit_code"] == 0 and not against:
            assert (after.status, charged) == (ProcessStatus.COMPLETED, (0, 0)), end
        elif stopped and not end["timed_out"]:
            assert (after.status, charged) == (ProcessStatus.PENDING, (0, 1)), end
            assert after.reason is (end["stop_reason"] or Reason.PREEMPTED)
        else:
            assert (after.status, charged) == (ProcessStatus.FAILED, (1, 0)), end
            assert (after.reason is Reason.TIMEOUT) == (
                end["timed_out"] and end["launch_error"] is None
            )


def test_what_is_recorded_of_an_interruption_says_why_it_proves_nothing() -> None:
    """The guard's own words, and what else is known of the end."""
    fact = ProcessExited(
        process=0, attempt=1, at=NOW, exit_code=0, interrupted_by=15, evidence="stopped 7 (sleep)"
    )
    (change,) = apply.apply(running(), fact).changes
    assert (change.event, change.reason) == ("requeue", Reason.PREEMPTED)
    assert change.evidence == (
        "signal 15 from outside reached it around its end, so that its exit code 0 proves nothing; "
        "stopped 7 (sleep)"
    )


@pytest.mark.parametrize("how", [{"exit_code": 0}, {"exit_code": 1}, {"stop_reason": Reason.USER}])
def test_evidence_of_an_end_is_kept_with_the_change(how: dict[str, Any]) -> None:
    """What had to be stopped after it is in the history, whatever became of the process."""
    fact = ProcessExited(process=0, attempt=1, at=NOW, evidence="stopped 7 (sleep)", **how)
    (change,) = apply.apply(running(), fact).changes
    assert change.evidence == "stopped 7 (sleep)"


def test_a_timeout_is_said_in_both_places_or_none() -> None:
    """A reason that no guard reads would let exit code 0 complete."""
    with pytest.raises(ValueError, match="timed_out"):
        ProcessExited(process=0, attempt=1, at=NOW, exit_code=0, reason=Reason.TIMEOUT)


@pytest.mark.parametrize("settled", sorted(SETTLED))
def test_a_fact_of_a_settled_experiment_is_ignored(settled: ExperimentStatus) -> None:
    """In the words of the guard that freezes its processes, and not refused."""
    state = attrs.evolve(running(), status=settled)
    for fact in (
        ProcessExited(process=0, attempt=1, at=NOW, exit_code=0),
        ProcessLost(process=0, attempt=1, at=NOW, evidence="gone"),
        PhaseReported(process=0, attempt=1, at=NOW, identity=None),
    ):
        step = apply.apply(state, fact)
        assert step.state is state
        (ignored,) = step.actions
        assert isinstance(ignored, Ignored)
        assert f"the experiment is {settled}" in ignored.why


@pytest.mark.parametrize("exit_code", [0, 143])
def test_an_exit_after_a_stop_request_is_requeued_not_completed(exit_code: int) -> None:
    """A stopped attempt may have cut its work short, whatever its exit code says."""
    fact = ProcessExited(process=0, attempt=1, at=NOW, exit_code=exit_code, stop_reason=Reason.USER)
    process = apply.apply(running(), fact).state.processes[0]
    assert process.status is ProcessStatus.PENDING
    assert (process.failures, process.interruptions, process.reason) == (0, 1, Reason.USER)


def test_a_lost_attempt_is_requeued_with_its_evidence_and_not_charged() -> None:
    """Death without an exit record is no failure of the process."""
    fact = ProcessLost(process=0, attempt=1, at=NOW, evidence="lock free, pid 7 gone")
    step = apply.apply(running(), fact)
    process = step.state.processes[0]
    assert (process.status, process.failures) == (ProcessStatus.PENDING, 0)
    assert step.changes[0].evidence == "lock free, pid 7 gone"


def test_a_launch_is_annotated_without_moving_the_process() -> None:
    """Who runs the attempt is kept while it runs."""
    who = ProcessIdentity(host="node1", pid=4711)
    step = apply.apply(running(), PhaseReported(process=0, attempt=1, at=NOW, identity=who))
    assert step.state.processes[0].identity == who
    assert step.state.processes[0].host == "node1"
    assert (step.changes[0].source, step.changes[0].target) == ("running", "running")


def test_a_requeue_by_the_user_gives_a_fresh_budget() -> None:
    """Failures are counted anew, and why the last attempt failed stays readable."""
    state = apply.apply(
        running(), ProcessExited(process=0, attempt=1, at=NOW, exit_code=1, error_message="boom")
    ).state
    process = apply.apply(state, ask("requeue", 0, requested_by_user=True)).state.processes[0]
    assert (process.failures, process.error_message) == (0, "boom")


def test_opening_an_experiment_may_change_its_limits_and_nothing_else_of_its_configuration() -> (
    None
):
    """Key by key, kept by all that follow; only what opens it does."""
    config = {"command": ["a"], "limits": {"timeout": "1h", "jobs": 2}}
    state = ExperimentState(experiment_id="exp_7", num_processes=1, config=config, config_hash="h")
    assert apply.apply(state, ask("start")).state.config is config
    state = apply.apply(state, ask("start", limits={"timeout": "4h", "grace": 5})).state
    assert state.config == {
        "command": ["a"],
        "limits": {"timeout": "4h", "jobs": 2, "grace": 5},
    }
    assert state.config_hash == "h"
    failed = apply.apply(state, ask("fail", limits={"jobs": 9})).state
    assert failed.config == state.config
    again = apply.apply(failed, ask("retry", limits={"timeout": None})).state
    assert again.config["limits"] == {"timeout": None, "jobs": 2, "grace": 5}


def test_an_interrupt_asks_for_what_still_runs_to_be_stopped() -> None:
    """Instructions name the attempts; carrying them out is the shell's."""
    step = apply.apply(running(), ask("interrupt", reason="user"))
    assert step.actions == (Stop(0, 1, Reason.USER),)
    assert (step.state.reason, step.state.finished_at) == (Reason.USER, NOW)
    again = apply.apply(step.state, ask("resume", at=later(1))).state
    assert again.reason is again.finished_at is None
    assert again.started_at == NOW


def test_all_events_of_a_line_or_none() -> None:
    """The last of them is refused: nothing of the others is kept."""
    state = running()
    with pytest.raises(InvalidTransitionError):
        apply.apply_many(state, [ask("start", 1), ask("start", 1)])
    assert state.processes[1].status is ProcessStatus.PENDING


def test_a_request_for_a_process_that_does_not_exist_is_refused() -> None:
    """The refusal names the indices that there are, and pickles."""
    with pytest.raises(InvalidTransitionError, match="no process 99, only 0 … 2") as caught:
        apply.apply(running(), ask("start", 99))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    "facts", [{"exitcode": 0}, {"exit_code": "0"}, {"exit_code": True}, {"result": "r.json"}]
)
def test_a_misspelt_or_mistyped_fact_is_an_error(facts: dict[str, object]) -> None:
    """`exitcode=0` must not read as "no exit code was given"."""
    with pytest.raises(TypeError, match="fact"):
        ask("complete", 0, **facts)


def test_naive_times_are_refused() -> None:
    """A time without a zone would be read differently on the next machine."""
    with pytest.raises(ValueError, match="timezone-aware"):
        ask("start", at=datetime(2024, 1, 1))  # noqa: DTZ001


def test_ten_thousand_processes_cost_no_more_per_event_than_one() -> None:
    """The next table shares every chunk but one with the table before."""
    state = running(10_000)
    after = apply.apply(state, ask("start", 5_000)).state
    before_chunks, after_chunks = state.processes._chunks, after.processes._chunks
    shared = sum(a is b for a, b in zip(before_chunks, after_chunks, strict=True))
    assert shared == len(before_chunks) - 1
