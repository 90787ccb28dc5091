"""The two machines: every event in every status, and the table that is derived from them."""

import ast
import itertools
import pickle
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast.errors import InvalidTransitionError
from holdfast.lifecycle import apply, decisions
from holdfast.lifecycle.decisions import decide, ended
from holdfast.lifecycle.edges import edges, table
from holdfast.lifecycle.events import ProcessExited, Requested
from holdfast.lifecycle.guards import GUARDS
from holdfast.lifecycle.machines import ENDINGS, ExperimentMachine, ProcessMachine
from holdfast.lifecycle.records import ExperimentState, Origin, ProcessProgress, Ranks, ResultRef
from holdfast.lifecycle.reuse import Proof
from holdfast.status import SETTLED, Entity, ExperimentStatus, ProcessStatus, Reason

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
    ("pending", "reuse"): "completed",
    ("running", "phase"): "running",
    ("running", "complete"): "completed",
    ("running", "fail"): "failed",
    ("running", "requeue"): "pending",
    ("failed", "requeue"): "pending",
    ("completed", "requeue"): "pending",
}
EXPERIMENT_EVENTS = ("start", "complete", "aggregate", "fail", "interrupt", "retry", "resume")
PROCESS_EVENTS = ("start", "phase", "complete", "fail", "reuse", "requeue")
#: With one that nobody declared.
EVENTS = (*PROCESS_EVENTS, "finish")

WORK = "0123456789abcdef" * 2
ORIGIN = Origin(experiment_id="exp_6", process=4, attempt=2)
PROOF = Proof(origin=ORIGIN, work=WORK, status=ProcessStatus.COMPLETED)
#: Facts with which every guard of a process passes.
WILLING = {
    **{"exit_code": 0, "proven_dead": True, "result_lost": True, "requested_by_user": True},
    **{"work": WORK, "proof": PROOF, "phase": "running"},
}

#: For every guard, a record's fields and facts with which it passes and with which it refuses.
OUTCOMES = {
    "experiment_is_open": (
        *({}, {"experiment_status": "running"}),
        *({}, {"experiment_status": "completed"}),
    ),
    "gang_moves_together": ({}, {}, {}, {"ranks_left": (1,)}),
    "phase_goes_on": ({}, {"phase": "running"}, {"phase": "running"}, {"phase": "queued"}),
    "exited_cleanly": ({}, {"exit_code": 0}, {}, {"exit_code": 1}),
    "attempts_left": ({"failures": 1}, {"max_attempts": 2}, {"failures": 1}, {"max_attempts": 1}),
    "requested_by_user": ({}, {"requested_by_user": True}, {}, {}),
    "is_orphaned": ({}, {"proven_dead": True}, {}, {}),
    "was_interrupted": ({}, {"interrupted_by": 15}, {}, {}),
    "has_stalled": ({}, {"stop_requested": "stall"}, {}, {}),
    "result_lost": ({}, {"result_lost": True}, {}, {}),
    "same_work_proven": ({}, {"work": WORK, "proof": PROOF}, {}, {}),
}
#: One fact decides both, against each other: an interrupted attempt never exits cleanly.
NEVER_BOTH = (
    ("exited_cleanly", "was_interrupted"),
    ("exited_cleanly", "has_stalled"),
    ("was_interrupted", "has_stalled"),
)


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
        ("running", {}, ["was_interrupted", "has_stalled", "is_orphaned"]),
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
    assert guards == set(GUARDS["process"])
    guards = {guard for edge in edges(ExperimentMachine) for guard in edge.guards}
    assert guards == set(GUARDS["experiment"])


def _decided(
    entity: Entity,
    record: ExperimentState | ProcessProgress,
    event: str,
    facts: dict[str, object],
    only: set[str] | None = None,
) -> str | None:
    try:
        return decide(entity, record, event, facts, experiment_id="e", only=only).target
    except InvalidTransitionError as err:
        refusal = err
    assert refusal.exists == ((str(record.status), event) in table(entity))
    if refusal.exists:
        assert refusal.refusals
        assert only is None or {each.guard for each in refusal.refusals} <= only
    return None


def _subsets(names: Iterable[str]) -> Iterator[set[str]]:
    known = list(names)
    for chosen in itertools.product([True, False], repeat=len(known)):
        yield set(itertools.compress(known, chosen))


def _passing(status: str, event: str) -> Iterator[set[str]]:
    """Sets of guards of a process that pass: every one of those that are declared for *event*.

    The others, of which a decision that read them would be wrong, pass all, none, or at random.
    """
    declared = {
        guard for edge in table("process").get((status, event), ()) for guard in edge.guards
    }
    others = sorted(GUARDS["process"].keys() - declared)
    rng = random.Random(f"{status} {event}")
    for chosen in _subsets(sorted(declared)):
        some = {each for each in others if rng.random() < 0.5}
        yield from (chosen | rest for rest in (set(), set(others), some))


@pytest.mark.parametrize("status", list(ExperimentStatus))
def test_the_table_decides_as_the_experiment_machine_does(status: ExperimentStatus) -> None:
    """Over every (status, event, guard outcome): what the one takes, python-statemachine takes."""
    refusing = experiment(status, done=False)
    for event in (*EXPERIMENT_EVENTS, "finish"):
        # Every guard refuses here, so that those that are not asked are those that pass.
        for only in _subsets(GUARDS["experiment"]):
            moved = ExperimentMachine(refusing).move(event, {}, only=only)
            assert _decided("experiment", refusing, event, {}, only) == moved
        for done in (True, False):
            record = experiment(status, done=done)
            moved = ExperimentMachine(record).move(event, {})
            assert _decided("experiment", record, event, {}) == moved
            assert moved is None or done or event not in ("complete", "aggregate")


@pytest.mark.parametrize("status", list(ProcessStatus))
def test_the_table_decides_as_the_process_machine_does(status: ProcessStatus) -> None:
    """Over every (status, event, guard outcome), each guard forced both ways."""
    record = ProcessProgress(status=status, failures=1)
    facts: dict[str, object] = {"experiment_status": "completed", "ranks_left": (1,)}
    assert all(guard(record, facts) for guard in GUARDS["process"].values())
    outcomes = set()
    for event in EVENTS:
        for passing in _passing(status, event):
            # All of them refuse here, so that those that are not asked are those that pass.
            only = GUARDS["process"].keys() - passing
            moved = ProcessMachine(record).move(event, facts, only=only)
            assert _decided("process", record, event, facts, only) == moved
            if moved is not None:
                outcomes.add(event)
    assert outcomes == {event for at, event in PROCESS_MOVES if at == status}


@pytest.mark.parametrize("status", list(ProcessStatus))
def test_the_lifecycle_decides_as_the_machine_does(status: ProcessStatus) -> None:
    """Over every (status, event, guard outcome) that facts can bring about."""
    assert set(OUTCOMES) == set(GUARDS["process"])
    every = [(event, chosen) for event in EVENTS for chosen in _passing(status, event)]
    for event, chosen in every:
        wanted = {guard: guard in chosen for guard in OUTCOMES}
        if any(wanted[one] and wanted[other] for one, other in NEVER_BOTH):
            continue
        fields: dict[str, Any] = {}
        facts: dict[str, object] = {}
        for guard, (passing, with_facts, refusing, without) in OUTCOMES.items():
            fields |= passing if wanted[guard] else refusing
            facts |= with_facts if wanted[guard] else without
        record = ProcessProgress(status=status, **fields)
        for guard, passes in wanted.items():
            assert (GUARDS["process"][guard](record, facts) is None) is passes
        told = str(facts.pop("experiment_status"))
        # One rank of two, which the event leaves behind.
        left = facts.pop("ranks_left", ())
        state = ExperimentState(
            experiment_id="e",
            status=told,
            ranks=Ranks(count=2) if left else None,
            process_progress=dict.fromkeys(range(1 + bool(left)), record),
        )
        request = Requested(entity="process", process=0, event=event, at=NOW, facts=facts)
        try:
            made = str(apply.apply(state, request).state.processes[0].status)
        except InvalidTransitionError:
            made = None
        facts |= {"experiment_status": told, "ranks_left": left}
        assert ProcessMachine(record).move(event, facts) == made
        assert _decided("process", record, event, facts) == made


def test_an_end_is_tried_in_the_declared_order() -> None:
    """The last of the endings takes whatever the others leave."""
    assert set(ENDINGS) <= {event for at, event in PROCESS_MOVES if at == "running"}
    last = table("process")["running", ENDINGS[-1]]
    assert [edge.guards for edge in last] == [("experiment_is_open", "gang_moves_together")]
    process = ProcessProgress(status="running")
    for facts, event in (
        ({"exit_code": 0}, "complete"),
        ({"exit_code": 0, "stop_requested": "user"}, "requeue"),
        ({"exit_code": 0, "proven_dead": True}, "complete"),
        ({"exit_code": 1}, "fail"),
    ):
        assert ended(process, facts, experiment_id="e").event == event
    with pytest.raises(InvalidTransitionError, match="only possible from running"):
        ended(ProcessProgress(), {"exit_code": 0}, experiment_id="e")


def test_a_table_that_refuses_what_the_machine_takes_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two interpreters that disagree are a mistake of ours, and never a silent refusal."""
    monkeypatch.setattr(decisions, "_paths", lambda entity: {})
    with pytest.raises(AssertionError, match="the machine goes to running"):
        decide("process", ProcessProgress(), "start", {}, experiment_id="e")


def test_only_one_module_makes_refusals() -> None:
    """Whoever refuses asks there."""
    root = Path(decisions.__file__).parent
    makers = {
        path.name
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "InvalidTransitionError"
    }
    assert makers == {"decisions.py"}


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
            apply.apply(state, request)
        assert caught.value.refusals[0].guard == "experiment_is_open"


@pytest.mark.parametrize("status", list(ExperimentStatus))
def test_an_experiment_machine_gives_the_record_that_a_claim_would_store(
    status: ExperimentStatus,
) -> None:
    """Status, reason, error and times, and nothing else."""
    record = experiment(status)
    for at, event in EXPERIMENT_MOVES:
        if at != status:
            continue
        why: dict[str, Any] = {"at": NOW, "reason": Reason.USER, "error_message": "why"}
        moved = ExperimentMachine(record).send(event, **why)
        request = Requested(entity="experiment", event=event, **why)
        assert moved == apply.apply(record, request).state
        assert ExperimentMachine(record).send(event).status == moved.status


@pytest.mark.parametrize("status", list(ProcessStatus))
def test_a_process_machine_gives_the_record_that_a_claim_would_store(status: ProcessStatus) -> None:
    """Whatever the event sets: the attempt's number, its failures, its exit code."""
    record = ProcessProgress(status=status, attempt=2, failures=1, host="before")
    state = ExperimentState(experiment_id="e", status="running", process_progress={0: record})
    for at, event in PROCESS_MOVES:
        if at != status:
            continue
        why: dict[str, Any] = {"at": NOW, "reason": Reason.USER, "error_message": "why"}
        moved = ProcessMachine(record).send(event, **why, **WILLING)
        request = Requested(entity="process", process=0, event=event, facts=WILLING, **why)
        assert moved == apply.apply(state, request).state.processes[0]
        assert ProcessMachine(record).send(event, **WILLING).status == moved.status


def test_a_machine_knows_no_fact_that_a_request_does_not_know() -> None:
    """`exitcode=0` must not read as "no exit code was given"."""
    with pytest.raises(TypeError, match="unknown fact 'exitcode'"):
        ProcessMachine(ProcessProgress(status="running")).send("complete", exitcode=0)


def test_a_process_of_a_settled_experiment_is_frozen_for_whoever_says_so() -> None:
    """A machine on a process alone knows nothing of its experiment unless it is told."""
    process = ProcessProgress()
    assert ProcessMachine(process).send("start").status == "running"
    with pytest.raises(InvalidTransitionError, match="the experiment is aggregated") as caught:
        ProcessMachine(process).send("start", experiment_status="aggregated")
    assert caught.value.allowed == ()


def reused(state: ExperimentState, *indices: int, **facts: Any) -> ExperimentState:
    """*state* after the reuse of its processes *indices*."""
    facts = {"work": WORK, "proof": PROOF, **facts}
    wanted = [
        Requested(entity="process", process=index, event="reuse", at=NOW, facts=facts)
        for index in indices
    ]
    return apply.apply_many(state, wanted).state


def pending(count: int, *, id_: str = "exp_7", ranks: Ranks | None = None) -> ExperimentState:
    """A running experiment of so many pending processes."""
    return ExperimentState(experiment_id=id_, status="running", num_processes=count, ranks=ranks)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"proof": None}, "nothing proves that another experiment's process did the same work"),
        ({"work": "f" * 32}, "exp_6, from which it would be taken, did other work"),
        ({"work": None}, "exp_6, from which it would be taken, did other work"),
        ({"proof": attrs.evolve(PROOF, work=None)}, "did other work"),
        ({"work": None, "proof": attrs.evolve(PROOF, work=None)}, "did other work"),
        *(
            ({"proof": attrs.evolve(PROOF, status=status)}, f"has it {status}, not completed")
            for status in ("pending", "running", "failed")
        ),
        (
            {"proof": attrs.evolve(PROOF, problem="results/4.2.json is missing")},
            "exp_6, from which it would be taken, has lost it: results/4.2.json is missing",
        ),
        (
            {"proof": attrs.evolve(PROOF, origin=attrs.evolve(ORIGIN, experiment_id="exp_7"))},
            "exp_7, from which it would be taken, is this very experiment",
        ),
        (
            {"proof": attrs.evolve(PROOF, origin=attrs.evolve(ORIGIN, via="exp_7"))},
            "exp_7, from which it would be taken, is this very experiment",
        ),
        (
            {"proof": attrs.evolve(PROOF, origin=attrs.evolve(ORIGIN, via="exp_5"), work=None)},
            "exp_5, from which it would be taken, did other work",
        ),
    ],
)
def test_what_is_not_proven_to_be_the_same_work_is_not_reused(
    facts: dict[str, Any], why: str
) -> None:
    """Other work, unfinished, lost, or its own; the machine refuses it in the same words."""
    state = pending(2)
    machine = ProcessMachine(state.processes[1], experiment_id="exp_7", process=1)
    for ask in (
        lambda: reused(state, 1, **facts),
        lambda: machine.send("reuse", **{**WILLING, **facts}),
    ):
        with pytest.raises(InvalidTransitionError, match="cannot reuse while pending") as caught:
            ask()
        assert [refusal.guard for refusal in caught.value.refusals] == ["same_work_proven"]
        assert caught.value.refusals[0].why.endswith(why)
        assert caught.value.allowed == ("start",)


def test_nobody_tells_a_request_whose_process_it_is() -> None:
    """Otherwise an experiment could be made to reuse what is its own."""
    proof = attrs.evolve(PROOF, origin=attrs.evolve(ORIGIN, experiment_id="exp_7"))
    with pytest.raises(InvalidTransitionError, match="is this very experiment"):
        reused(pending(1), 0, proof=proof, experiment_id="another")
    machine = ProcessMachine(ProcessProgress(), experiment_id="exp_7")
    with pytest.raises(InvalidTransitionError, match="is this very experiment"):
        machine.send("reuse", proof=proof, work=WORK, experiment_id="another")


def test_what_an_experiment_ran_itself_comes_back_from_who_reused_it() -> None:
    """Its own result was lost since; that of the other is a file of its own, and was verified."""
    origin = Origin(experiment_id="exp_7", process=0, attempt=1, via="exp_8")
    again = reused(pending(1), 0, proof=attrs.evolve(PROOF, origin=origin)).processes[0]
    assert (again.status, again.origin) == ("completed", origin)


@pytest.mark.parametrize("status", ["running", "failed", "completed"])
def test_only_what_waits_is_reused(status: str) -> None:
    """What runs is not overtaken, and nothing that is recorded is replaced."""
    state = attrs.evolve(pending(1), process_progress={0: ProcessProgress(status=status)})
    with pytest.raises(InvalidTransitionError, match="only possible from pending") as caught:
        reused(state, 0)
    assert not caught.value.exists


@pytest.mark.parametrize("settled", sorted(SETTLED))
def test_no_settled_experiment_reuses(settled: ExperimentStatus) -> None:
    """Nor would one say so that is told of its experiment."""
    machine = ProcessMachine(ProcessProgress())
    with pytest.raises(InvalidTransitionError) as caught:
        machine.send("reuse", experiment_status=settled, **WILLING)
    assert [refusal.guard for refusal in caught.value.refusals] == ["experiment_is_open"]


def test_a_gang_is_reused_all_or_none() -> None:
    """Half of it would have to run beside results that it did not make."""
    state = pending(4, ranks=Ranks(count=2))
    with pytest.raises(InvalidTransitionError, match="would leave behind 3") as caught:
        reused(state, 2)
    assert [refusal.guard for refusal in caught.value.refusals] == ["gang_moves_together"]
    statuses = [process.status for process in reused(state, 2, 3).processes.values()]
    assert statuses == ["pending", "pending", "completed", "completed"]
    # One of the two is not proven: neither moves.
    wanted = [
        Requested(entity="process", process=index, event="reuse", at=NOW, facts=facts)
        for index, facts in ((2, WILLING), (3, {**WILLING, "work": "other"}))
    ]
    with pytest.raises(InvalidTransitionError, match="exp_7/3: cannot reuse"):
        apply.apply_many(state, wanted)


def test_independent_ranks_are_reused_alone() -> None:
    """Each completes for itself."""
    state = pending(2, ranks=Ranks(count=2, independent=True))
    assert [each.status for each in reused(state, 1).processes.values()] == ["pending", "completed"]


def test_a_reused_process_says_where_its_result_comes_from() -> None:
    """No attempt of its own is counted, and nothing is left of those that failed before."""
    result = ResultRef(path="results/0.0.json", size=2, sha256="0" * 64)
    outputs = (ResultRef(path="model.pt", size=9, sha256="1" * 64),)
    before = ProcessProgress(
        attempt=2,
        failures=2,
        interruptions=1,
        exit_code=1,
        signal=9,
        reason=Reason.SIGNAL,
        error_message="died",
        completed_at=NOW,
        host="here",
    )
    state = attrs.evolve(pending(1), process_progress={0: before})
    facts = {"result": result, "outputs": outputs, "code": "c" * 32, "host": "there"}
    after = reused(state, 0, **facts).processes[0]
    assert after == ProcessProgress(
        status="completed",
        attempt=2,
        failures=2,
        interruptions=1,
        exit_code=0,
        reason=Reason.REUSED,
        completed_at=NOW,
        host="there",
        result=result,
        outputs=outputs,
        work=WORK,
        code="c" * 32,
        origin=ORIGIN,
    )


def test_what_was_reused_and_lost_is_run_as_if_it_had_never_been() -> None:
    """Neither its origin nor its outputs are those of the attempt that follows."""
    outputs = (ResultRef(path="model.pt", size=9, sha256="1" * 64),)
    state = reused(pending(1), 0, outputs=outputs, code="c" * 32)
    ask = Requested(entity="process", process=0, event="requeue", at=NOW, facts=WILLING)
    state = apply.apply(state, ask).state
    lost = state.processes[0]
    assert (lost.status, lost.reason) == ("pending", "result_lost")
    assert (lost.origin, lost.outputs, lost.result) == (None, (), None)
    start = Requested(
        entity="process", process=0, event="start", at=NOW, facts={"work": WORK, "code": "d" * 32}
    )
    began = apply.apply(state, start).state.processes[0]
    assert (began.attempt, began.work, began.code) == (1, WORK, "d" * 32)


def test_an_attempt_begins_with_work_and_code_of_its_own() -> None:
    """Those of the attempt before it are gone, even if nobody tells those of the new one."""
    outputs = (ResultRef(path="model.pt", size=9, sha256="1" * 64),)
    state = pending(1)

    def moved(event: str, **facts: Any) -> ProcessProgress:
        nonlocal state
        ask = Requested(entity="process", process=0, event=event, at=NOW, facts=facts)
        state = apply.apply(state, ask).state
        return state.processes[0]

    assert moved("start", work=WORK, code="c").code == "c"
    # It wrote one of the files that its command names: they were no code of its own.
    done = moved("complete", exit_code=0, outputs=outputs, code="d")
    assert (done.work, done.code, done.outputs) == (WORK, "d", outputs)
    assert moved("requeue", result_lost=True).outputs == ()
    # As somebody may save it by hand.
    by_hand = attrs.evolve(state.processes[0], outputs=outputs, origin=ORIGIN)
    state = attrs.evolve(state, process_progress={0: by_hand})
    began = moved("start")
    assert (began.work, began.code, began.outputs, began.origin) == (None, None, (), None)
    assert moved("complete", exit_code=0).code is None


def test_an_outcome_brings_its_outputs_and_code() -> None:
    """As a fact, too; an attempt that tells of no other code keeps that of its start."""
    outputs = (ResultRef(path="model.pt", size=9, sha256="1" * 64),)
    start = Requested(entity="process", process=0, event="start", at=NOW, facts={"code": "c"})
    state = apply.apply(pending(1), start).state
    for code, recorded in ((None, "c"), ("d", "d")):
        fact = ProcessExited(process=0, attempt=1, at=NOW, exit_code=0, outputs=outputs, code=code)
        done = apply.apply(state, fact).state.processes[0]
        assert (done.code, done.outputs) == (recorded, outputs)
