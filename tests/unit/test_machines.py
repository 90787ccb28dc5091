"""The two machines: every event in every status, and the table that is derived from them."""

import itertools
import pickle
from datetime import UTC, datetime

import attrs
import pytest

from holdfast import lifecycle
from holdfast.errors import InvalidTransitionError
from holdfast.events import Requested
from holdfast.guards import EXPERIMENT_GUARDS, PROCESS_GUARDS
from holdfast.machines import ExperimentMachine, ProcessMachine, edges, table
from holdfast.records import ExperimentState, ProcessProgress
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)

EXPERIMENT_MOVES = {
    ("initialised", "start"): "running",
    ("initialised", "fail"): "failed",
    ("initialised", "interrupt"): "interrupted",
    ("running", "complete"): "completed",
    ("running", "fail"): "failed",
    ("running", "interrupt"): "interrupted",
    ("completed", "aggregate"): "aggregated",
    ("completed", "fail"): "failed",
    ("failed", "retry"): "running",
    ("interrupted", "resume"): "running",
}
PROCESS_MOVES = {
    ("pending", "start"): "running",
    ("running", "complete"): "completed",
    ("running", "fail"): "failed",
    ("running", "requeue"): "pending",
    ("failed", "requeue"): "pending",
    ("completed", "requeue"): "pending",
}
EXPERIMENT_EVENTS = ("start", "complete", "aggregate", "fail", "interrupt", "retry", "resume")
PROCESS_EVENTS = ("start", "complete", "fail", "requeue")

#: Facts with which every guard of a process passes.
WILLING = {"exit_code": 0, "proven_dead": True, "result_lost": True, "requested_by_user": True}

#: For every guard, a record's fields and facts with which it passes and with which it refuses.
OUTCOMES = {
    "exited_cleanly": ({}, {"exit_code": 0}, {}, {"exit_code": 1}),
    "attempts_left": ({"failures": 1}, {"max_attempts": 2}, {"failures": 1}, {"max_attempts": 1}),
    "requested_by_user": ({}, {"requested_by_user": True}, {}, {}),
    "is_orphaned": ({}, {"proven_dead": True}, {}, {}),
    "result_lost": ({}, {"result_lost": True}, {}, {}),
}


def experiment(status: str, *, done: bool = True) -> ExperimentState:
    inside = ProcessStatus.COMPLETED if done else ProcessStatus.PENDING
    progress = {index: ProcessProgress(status=inside) for index in range(3)}
    return ExperimentState(experiment_id="exp_7", status=status, process_progress=progress)


@pytest.mark.parametrize("event", EXPERIMENT_EVENTS)
@pytest.mark.parametrize("status", [str(status) for status in ExperimentStatus])
def test_an_experiment_moves_exactly_where_the_table_says(status: str, event: str) -> None:
    """Every experiment event in every status: the legal ones move, the others raise."""
    record = experiment(status)
    machine = ExperimentMachine(record)
    target = EXPERIMENT_MOVES.get((status, event))
    if target is not None:
        assert machine.send(event).status == target
        return
    with pytest.raises(InvalidTransitionError) as caught:
        machine.send(event)
    error = caught.value
    assert (error.entity, error.event, error.source) == ("experiment", event, status)
    assert not error.exists
    assert error.allowed == tuple(
        name for name in EXPERIMENT_EVENTS if (status, name) in EXPERIMENT_MOVES
    )
    assert machine.record is record


@pytest.mark.parametrize("event", PROCESS_EVENTS)
@pytest.mark.parametrize("status", [str(status) for status in ProcessStatus])
def test_a_process_moves_exactly_where_the_table_says(status: str, event: str) -> None:
    """Every process event in every status: the legal ones move, the others raise."""
    record = ProcessProgress(status=status, failures=1)
    machine = ProcessMachine(record, experiment_id="exp_7", process=2)
    target = PROCESS_MOVES.get((status, event))
    if target is not None:
        assert machine.send(event, **WILLING).status == target
        return
    with pytest.raises(InvalidTransitionError, match=rf"exp_7/2: cannot {event} while") as caught:
        machine.send(event, **WILLING)
    assert not caught.value.exists
    assert set(caught.value.allowed) == {name for at, name in PROCESS_MOVES if at == status}
    assert machine.record is record


def test_an_unknown_event_is_refused_not_ignored() -> None:
    """`StateChart` would ignore it; a typo must not look like success."""
    with pytest.raises(InvalidTransitionError, match="no such experiment event"):
        ExperimentMachine(experiment("running")).send("finish")


def test_a_refusal_names_the_guard_and_what_is_missing() -> None:
    """`complete` says how many processes are not completed, and which."""
    with pytest.raises(InvalidTransitionError) as caught:
        ExperimentMachine(experiment("running", done=False)).send("complete")
    assert caught.value.exists
    assert [refusal.guard for refusal in caught.value.refusals] == ["all_processes_completed"]
    assert "3 of 3 processes not completed: 0, 1, 2" in str(caught.value)
    assert "allowed now: fail, interrupt" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "facts", "guards"),
    [
        ("failed", {}, ["attempts_left", "requested_by_user"]),
        ("running", {}, ["is_orphaned"]),
        ("completed", {}, ["result_lost"]),
        ("running", {"exit_code": 1}, ["exited_cleanly"]),
        ("running", {"exit_code": 0, "stop_requested": "user"}, ["exited_cleanly"]),
    ],
)
def test_every_refusing_guard_of_a_process_is_named(
    status: str, facts: dict[str, object], guards: list[str]
) -> None:
    """Where several transitions were possible, all their refusals are given."""
    event = "complete" if facts else "requeue"
    with pytest.raises(InvalidTransitionError) as caught:
        ProcessMachine(ProcessProgress(status=status, failures=1)).send(event, **facts)
    assert [refusal.guard for refusal in caught.value.refusals] == guards
    assert all(refusal.why in str(caught.value) for refusal in caught.value.refusals)


def test_a_refusal_pickles() -> None:
    """It crosses process pools and notebooks' kernels with its facts."""
    with pytest.raises(InvalidTransitionError) as caught:
        ExperimentMachine(experiment("running", done=False)).send("complete")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.refusals == caught.value.refusals


def test_the_declarations_are_those_of_the_design() -> None:
    """No transition more, none less."""
    assert {(e.source, e.event): e.target for e in edges(ExperimentMachine)} == EXPERIMENT_MOVES
    assert {(e.source, e.event): e.target for e in edges(ProcessMachine)} == PROCESS_MOVES
    guards = {guard for edge in edges(ProcessMachine) for guard in edge.guards}
    assert guards == set(PROCESS_GUARDS)
    guards = {guard for edge in edges(ExperimentMachine) for guard in edge.guards}
    assert guards == set(EXPERIMENT_GUARDS)


def _machine_says(machine: ExperimentMachine | ProcessMachine, event: str, **facts: object) -> str:
    try:
        return str(machine.send(event, **facts).status)
    except InvalidTransitionError:
        return "refused"


def _lifecycle_says(state: ExperimentState, request: Requested) -> str:
    try:
        step = lifecycle.apply(state, request)
    except InvalidTransitionError:
        return "refused"
    return step.changes[0].target


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("status", list(ExperimentStatus))
def test_the_table_decides_as_the_experiment_machine_does(
    status: ExperimentStatus, done: bool
) -> None:
    """Over every (status, event, guard outcome) the two agree."""
    for event in (*EXPERIMENT_EVENTS, "finish"):
        record = experiment(status, done=done)
        request = Requested(entity="experiment", event=event, at=NOW)
        assert _machine_says(ExperimentMachine(record), event) == _lifecycle_says(record, request)


@pytest.mark.parametrize("status", list(ProcessStatus))
def test_the_table_decides_as_the_process_machine_does(status: ProcessStatus) -> None:
    """Over every (status, event, guard outcome) the two agree."""
    assert set(OUTCOMES) == set(PROCESS_GUARDS)
    for event, outcomes in itertools.product(
        (*PROCESS_EVENTS, "finish"), itertools.product([True, False], repeat=len(OUTCOMES))
    ):
        fields: dict[str, int] = {}
        facts: dict[str, object] = {}
        for (passing, with_facts, refusing, without), passes in zip(
            OUTCOMES.values(), outcomes, strict=True
        ):
            fields |= passing if passes else refusing
            facts |= with_facts if passes else without
        record = ProcessProgress(status=status, **fields)
        for guard, passes in zip(OUTCOMES, outcomes, strict=True):
            assert (PROCESS_GUARDS[guard](record, facts) is None) is passes
        state = ExperimentState(experiment_id="e", status="running", process_progress={0: record})
        request = Requested(entity="process", process=0, event=event, at=NOW, facts=facts)
        expected = _machine_says(ProcessMachine(record), event, **facts)
        assert _lifecycle_says(state, request) == expected


def test_every_entry_of_the_table_is_a_declared_transition() -> None:
    """The table has no key that the declarations lack."""
    assert {key: found[0].target for key, found in table("experiment").items()} == EXPERIMENT_MOVES
    assert {key: found[0].target for key, found in table("process").items()} == PROCESS_MOVES


@pytest.mark.parametrize("settled", sorted(SETTLED))
def test_no_process_moves_once_the_experiment_is_settled(settled: ExperimentStatus) -> None:
    """A completed experiment whose process could be requeued would no longer be completed."""
    state = experiment(settled)
    for event in PROCESS_EVENTS:
        request = Requested(entity="process", process=0, event=event, at=NOW, facts=WILLING)
        with pytest.raises(InvalidTransitionError) as caught:
            lifecycle.apply(state, request)
        assert caught.value.refusals[0].guard == "experiment_is_open"


def test_a_machine_changes_nothing_but_the_status() -> None:
    """The record that `send` returns differs in its status alone."""
    record = experiment("running")
    moved = ExperimentMachine(record).send("complete")
    assert attrs.evolve(moved, status=record.status) == record
