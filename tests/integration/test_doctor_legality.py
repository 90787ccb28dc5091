"""What a journal says of a step is what the lifecycle makes of it, to every field."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from doctored import NOW, append, symptoms
from holdfast.doctor import enactment
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle import apply
from holdfast.lifecycle.edges import table
from holdfast.lifecycle.events import (
    Again,
    Change,
    Event,
    PhaseReported,
    ProcessExited,
    ProcessLost,
    Requested,
)
from holdfast.lifecycle.records import ExperimentState, Origin, ProcessProgress, Ranks, ResultRef
from holdfast.lifecycle.reuse import Proof
from holdfast.status import Entity, ExperimentStatus, ProcessStatus, Reason
from holdfast.store.manager import StateManager

ID = "exp_7"
RESULT = ResultRef(path="results/1.2.json", size=2, sha256="0" * 64)
OUTPUTS = (ResultRef(path="model-1.pt", size=3, sha256="3" * 64),)
WORK = "0" * 32
PROOF = Proof(
    origin=Origin(experiment_id="exp_6", process=4, attempt=2, via="exp_5"),
    work=WORK,
    status=ProcessStatus.COMPLETED,
)
HERE = ProcessIdentity(host="here", pid=7)

# -- every event, every field ---------------------------------------------------------------------

#: A process that has been through a lot, so that every field has something to lose.
_LIVED = ProcessProgress(
    attempt=2,
    failures=1,
    interruptions=3,
    exit_code=1,
    signal=9,
    reason=Reason.SIGNAL,
    error_message="before",
    started_at=NOW - timedelta(hours=2),
    completed_at=NOW - timedelta(hours=1),
    host="before",
    identity=ProcessIdentity(host="before", pid=5),
    result=ResultRef(path="results/1.1.json", size=1, sha256="1" * 64),
    outputs=(ResultRef(path="model-1.pt", size=1, sha256="1" * 64),),
    work="before",
    code="before",
    origin=Origin(experiment_id="exp_1", process=1, attempt=1),
    limits={"grace_s": {"from": 30.0, "to": 60.0}},
)
#: How an engine with a queue finds an attempt again.
HANDLE = {"engine": "slurm", "data": {"job": 12}, "requested": {"cpus": 2}}
#: What a rule sets.
LIMITS = {"timeout_s": {"from": 3600.0, "to": 7200.0}}
#: A value that nothing here has.
_OTHER: dict[str, Any] = {
    "attempt": 70,
    "failures": 99,
    "interruptions": 50,
    "exit_code": 77,
    "signal": 15,
    "error_message": "other",
    "host": "other",
    "identity": ProcessIdentity(host="other", pid=1),
    "owner": ProcessIdentity(host="other", pid=1),
    "result": ResultRef(path="results/7.7.json", size=7, sha256="7" * 64),
    "process_progress": {0: ProcessProgress()},
    "config": {"other": 1},
    "extra": {"other": 1},
    "num_processes": 12,
    "schema_version": 0,
    "epoch": 40,
    "revision": 40,
    "subprocess_pid": 40,
    "ranks": Ranks(count=1),
    "reuse": "all",
    "outputs": (ResultRef(path="other.pt", size=7, sha256="7" * 64),),
    "origin": Origin(experiment_id="other", process=7, attempt=7),
    "limits": {"grace_s": {"from": None, "to": 7.0}},
    "not_before": NOW + timedelta(days=1),
    "phase": "held",
    "handle": {"engine": "other", "data": {}},
    "usage": {"cpu_s": 77.0},
    "submitted_at": NOW + timedelta(days=1),
    **dict.fromkeys(("work", "code"), "other"),
    **dict.fromkeys(("name", "config_hash", "config_path", "cwd", "experiment_id"), "other"),
    **dict.fromkeys(("started_at", "completed_at", "finished_at"), NOW + timedelta(days=1)),
    **dict.fromkeys(("created_at", "last_updated"), NOW + timedelta(days=1)),
}
#: What only the event knew, so that nobody can tell whether it is right.
_ONLY_TOLD: dict[tuple[str, str], set[str]] = {
    ("pending", "start"): {"work", "code"},
    ("pending", "reuse"): {"host", "result", "outputs", "work", "code", "origin"},
    ("running", "complete"): {
        *("started_at", "completed_at", "host", "result", "outputs", "work", "code", "usage")
    },
    ("running", "fail"): {
        *("started_at", "completed_at", "exit_code", "signal", "host", "error_message", "usage")
    },
    ("failed", "requeue"): {"not_before", "limits"},
    ("running", "requeue"): {"error_message", "not_before", "limits", "usage"},
    ("completed", "requeue"): {"error_message", "not_before", "limits"},
}
_ENDS = {"completed", "aggregated", "failed", "interrupted"}


def only_told(change: Change) -> set[str]:
    if change.process is not None:
        told = _ONLY_TOLD.get((change.source, change.event), set())
        if change.event == "phase":
            return _of_phase(change)
        # Who asks for it does not wait.
        by_user = change.event == "requeue" and "failures" in change.fields
        return told - {"not_before"} if by_user else told
    return {"error_message"} if change.target in _ENDS and change.event != "released" else set()


def _of_phase(change: Change) -> set[str]:
    """When it really began, and what its engine says of it; that it never waited is no belief."""
    if change.fields.get("phase") is None:
        return {"started_at"}
    if change.fields["phase"] == "running":
        return {"started_at", "handle", "host"}
    return {"handle", "host", "phase"}


def before(entity: Entity, status: str) -> ExperimentState:
    done = entity == "experiment" and status in ("running", "completed")
    inside = ProcessStatus.COMPLETED if done else ProcessStatus.RUNNING
    process = attrs.evolve(_LIVED, status=inside)
    if entity == "process":
        process = attrs.evolve(process, status=status)
        status = "running"
    return ExperimentState(
        experiment_id=ID,
        status=status,
        reason=Reason.STALE,
        error_message="before",
        finished_at=NOW - timedelta(hours=1),
        started_at=None if status == "initialised" else NOW - timedelta(hours=3),
        owner=HERE,
        config={"command": ["a"], "limits": {"jobs": 2}},
        process_progress=dict.fromkeys(range(2), process),
    )


def asked() -> Iterator[tuple[ExperimentState, Event]]:
    """Every event in every status in which the machines have it, with and without its facts."""
    entities: tuple[Entity, ...] = ("experiment", "process")
    for entity in entities:
        for (status, event), edges in table(entity).items():
            state = before(entity, status)
            index = None if entity == "experiment" else 1
            more: list[dict[str, Any]] = [{"host": "here", "result": RESULT, "signal": 9}, {}]
            if event == "complete":
                more[0]["signal"] = None  # only a death has one
            if event == "complete":
                more.append({"outputs": OUTPUTS, "code": "c" * 32})
            if event == "start":
                more.append({"work": WORK, "code": "c" * 32})
            if event == "reuse":
                more = [{"work": WORK, "proof": PROOF}]
                more.append({**more[0], "host": "here", "result": RESULT, "outputs": OUTPUTS})
                more[-1]["code"] = "c" * 32
            if event == "phase":
                more = [{"phase": "running", "since": NOW}]
                more.append({"phase": "running", "identity": HERE})
            if event == "requeue":
                later = {"not_before": NOW + timedelta(minutes=5), "process_limits": LIMITS}
                more = [{"max_attempts": 2}, {"requested_by_user": True, "max_attempts": 2}]
                more += [{**each, **later} for each in more]
            assert edges
            opens = event in ("start", "retry", "resume")
            of_experiment = [{}, {"limits": {"timeout": "4h"}}] if opens else [{}]
            for facts in more if index is not None else of_experiment:
                code = {"exit_code": 0 if event == "complete" else 3} if index is not None else {}
                yield (
                    state,
                    Requested(
                        entity=entity,
                        event=event,
                        at=NOW,
                        process=index,
                        reason=Reason.USER,
                        error_message="asked",
                        evidence="seen",
                        facts={"proven_dead": True, "result_lost": True, **code, **facts}
                        if index is not None
                        else facts,
                    ),
                )
    state = before("process", "running")
    began, ended = NOW - timedelta(minutes=5), NOW - timedelta(minutes=1)
    of: dict[str, Any] = {"process": 1, "attempt": 2, "at": NOW}
    yield state, PhaseReported(**of, identity=HERE)
    yield state, PhaseReported(**of, identity=None)
    waiting = attrs.evolve(state.processes[1], identity=None, host=None)
    queued = attrs.evolve(state, process_progress={0: state.processes[0], 1: waiting})
    yield queued, PhaseReported(**of, phase="queued", handle=HANDLE)
    queued = apply.apply(queued, PhaseReported(**of, phase="queued", handle=HANDLE)).state
    yield queued, PhaseReported(**of, phase="held", evidence="JobHeldUser")
    yield queued, PhaseReported(**of, phase="running", host="n1", since=ended)
    yield queued, ProcessLost(**of, evidence="gone", usage={"queued_s": 7.0})
    yield queued, ProcessExited(**of, exit_code=0, engine_end="timeout", usage={"cpu_s": 1.0})
    yield state, ProcessLost(**of, evidence="gone")
    again = Again(not_before=NOW + timedelta(minutes=5), limits=LIMITS)
    yield state, ProcessLost(**of, evidence="gone", again=again)
    yield state, ProcessExited(**of, exit_code=0, stop_reason=Reason.STALL, again=again)
    for reason in Reason:
        timed_out = reason is Reason.TIMEOUT
        yield (
            state,
            ProcessExited(**of, exit_code=0, reason=reason, timed_out=timed_out, started_at=began),
        )
        yield state, ProcessExited(**of, exit_code=1, stop_reason=reason, ended_at=ended)
    yield state, ProcessExited(**of, exit_code=0, result=RESULT, started_at=began, ended_at=ended)
    yield state, ProcessExited(**of, exit_code=0, outputs=OUTPUTS, code="c" * 32, ended_at=ended)
    yield state, ProcessExited(**of, exit_code=0, result_error="no JSON", ended_at=ended)
    yield (
        state,
        ProcessExited(**of, exit_code=0, interrupted_by=15, evidence="swept", ended_at=ended),
    )
    yield state, ProcessExited(**of, launch_error="no such file", ended_at=ended)
    yield state, ProcessExited(**of, signal=9, reason=Reason.SIGNAL, host="there")


def recorded() -> Iterator[tuple[ExperimentState, Change]]:
    for state, event in asked():
        (change,) = apply.apply(state, event).changes
        yield state, change
    owner = attrs.evolve(HERE, locked=False, released=True)
    yield before("experiment", "running"), _released(owner)


def _released(owner: ProcessIdentity) -> Change:
    return Change(
        entity="experiment",
        process=None,
        event="released",
        source="running",
        target="running",
        at=NOW,
        fields={"owner": owner},
    )


STEPS = list(recorded())
NAMES = [f"{change.source}-{change.event}-{at}" for at, (_, change) in enumerate(STEPS)]


def test_every_event_of_both_machines_is_tried() -> None:
    """Those that move nothing, too."""
    entities: tuple[Entity, ...] = ("experiment", "process")
    declared = {(entity, *edge) for entity in entities for edge in table(entity)}
    notes = {("experiment", "running", "released")}
    assert {(each.entity, each.source, each.event) for _, each in STEPS} == declared | notes


@pytest.mark.parametrize(("state", "change"), STEPS, ids=NAMES)
def test_what_the_lifecycle_makes_of_an_event_is_legal(
    state: ExperimentState, change: Change
) -> None:
    """Nobody is accused of what holdfast itself wrote."""
    assert list(enactment.problems(state, change)) == []


@pytest.mark.parametrize(("state", "change"), STEPS, ids=NAMES)
def test_no_field_can_be_set_to_what_the_lifecycle_would_not_set_it_to(
    state: ExperimentState, change: Change
) -> None:
    """Every field of the record, added or altered; only what the event alone knew is believed."""
    kind = ExperimentState if change.process is None else ProcessProgress
    statuses = ExperimentStatus if change.process is None else ProcessStatus
    due = change.fields.get("reason", change.reason)
    other = _OTHER | {
        "status": next(each for each in statuses if each != change.target),
        "reason": next(each for each in Reason if each is not due),
    }
    believed = set()
    for field in attrs.fields(kind):
        wrong = attrs.evolve(change, fields={**change.fields, field.name: other[field.name]})
        if not list(enactment.problems(state, wrong)):
            believed.add(field.name)
    assert believed == only_told(change)


@pytest.mark.parametrize(("state", "change"), STEPS, ids=NAMES)
def test_no_field_can_be_left_out_that_would_have_changed(
    state: ExperimentState, change: Change
) -> None:
    """A start that counts no attempt, a requeue that keeps the lost result."""
    record: Any = state if change.process is None else state.process_progress[change.process]
    for name, value in change.fields.items():
        fields = {key: kept for key, kept in change.fields.items() if key != name}
        legal = not list(enactment.problems(state, attrs.evolve(change, fields=fields)))
        # Without the end that its own clock knew, an attempt ended when that was learnt; a requeue
        # that leaves the failures alone is one that nobody asked for, and limits that stay are
        # limits that nobody changed.
        # Whether it waits, and that it began, is told by these fields alone.
        told = {"completed_at"}
        if change.event == "phase":
            told = {each for each in ("phase", "started_at") if getattr(record, each) is None}
        fine = only_told(change) - told | (
            {"failures"} if change.event == "requeue" else {"config"}
        )
        assert legal == (getattr(record, name) == value or name in fine), name


@pytest.mark.parametrize(("state", "change"), STEPS, ids=NAMES)
def test_history_gives_the_reason_that_is_stored(state: ExperimentState, change: Change) -> None:
    """A step that stores none may have been given one; a note moves nothing for any."""
    free = change.fields.get("reason") is None or change.event == "phase"
    for reason in {None, *Reason} - {change.reason}:
        wrong = attrs.evolve(change, reason=reason)
        assert free == (list(enactment.problems(state, wrong)) == [])


def test_only_the_limits_of_a_configuration_ever_change() -> None:
    """And none of them is taken away: one that is lifted is None."""
    state = before("experiment", "failed")
    facts = {"limits": {"timeout": None}}
    asked = Requested(entity="experiment", event="retry", at=NOW, facts=facts)
    (change,) = apply.apply(state, asked).changes
    config = change.fields["config"]
    assert config == {"command": ["a"], "limits": {"jobs": 2, "timeout": None}}
    for wrong in (
        {**config, "command": ["b"]},
        {**config, "retry": {}},
        {"command": ["a"], "limits": {"timeout": None}},
        {"command": ["a"]},
        {**config, "limits": 7},
        7,
    ):
        doctored = attrs.evolve(change, fields={**change.fields, "config": wrong})
        assert list(enactment.problems(state, doctored)), wrong


def test_a_fact_of_the_wrong_type_is_a_difference_and_no_crash() -> None:
    """Types are trusted where a checksum is right; here it may be right over anything."""
    state = before("process", "running")
    (change,) = apply.apply(state, ProcessExited(process=1, attempt=2, at=NOW)).changes
    wrong = attrs.evolve(change, fields={**change.fields, "exit_code": "3"})
    (what,) = enactment.problems(state, wrong)
    assert "cannot be" in what


# -- in journals ----------------------------------------------------------------------------------


@pytest.fixture
def manager(state_dir: Path) -> StateManager:
    """An experiment of two processes: one completed, one running in its first attempt."""
    made = StateManager(state_dir)
    made.create(ID, num_processes=2)
    with made.claim(ID) as claim:
        claim.record("start")
        for index in range(2):
            claim.record("start", index)
        claim.record("complete", 0, exit_code=0)
    return made


def move(manager: StateManager, event: str, index: int, **facts: Any) -> Change:
    """What the store would record."""
    request = Requested(entity="process", event=event, at=NOW, process=index, facts=facts)
    (change,) = apply.apply(manager.load(ID), request).changes
    return change


def illegal(state_dir: Path) -> list[str]:
    found = [each for each in symptoms(state_dir) if each.kind == "illegal"]
    assert all("backup" in each.repair for each in found)
    assert all(each.command[:2] == ("show", "--history") for each in found)
    return [each.what for each in found]


def test_a_completed_process_is_not_requeued_for_nothing(
    manager: StateManager, state_dir: Path
) -> None:
    """Only a lost result moves it, and that is recorded."""
    right = move(manager, "requeue", 0, result_lost=True)
    fields = {key: value for key, value in right.fields.items() if key != "reason"}
    append(manager, ID, attrs.evolve(right, reason=None, fields=fields))
    assert any(what.endswith("makes reason exit, not result_lost") for what in illegal(state_dir))


def test_a_completion_does_not_count_attempts_and_the_view_that_knows_better_stays(
    manager: StateManager, state_dir: Path
) -> None:
    """The view is not written anew from a journal that somebody altered."""
    right = move(manager, "complete", 1, exit_code=0)
    append(manager, ID, attrs.evolve(right, fields={**right.fields, "attempt": 7, "failures": 99}))
    view = state_dir / f"{ID}.json"
    before = view.read_bytes()
    found = symptoms(state_dir, fix=True)
    assert [(each.kind, each.fixable, each.fixed) for each in found] == [
        ("illegal", False, False),
        ("view", False, False),
    ]
    assert "sets attempt, failures, which it never does" in found[0].what
    assert "keep it" in found[1].repair
    assert view.read_bytes() == before
    assert list(manager.folder(ID).glob("view-replaced-*")) == []


@pytest.mark.parametrize(("name", "value"), [("status", ProcessStatus.COMPLETED), ("attempt", 4)])
def test_a_note_moves_nothing(
    manager: StateManager, state_dir: Path, name: str, value: object
) -> None:
    """`launched` says who runs it, and nothing else."""
    launched = PhaseReported(process=1, attempt=1, at=NOW, identity=HERE)
    (made,) = apply.apply(manager.load(ID), launched).changes
    right = attrs.evolve(made, event="launched")
    append(manager, ID, attrs.evolve(right, fields={**right.fields, name: value}))
    assert illegal(state_dir) == [
        f"revision 5: launched of process 1 sets {name}, which it never does"
    ]


def test_a_process_that_does_not_run_was_not_launched(
    manager: StateManager, state_dir: Path
) -> None:
    """Nor does a note move it."""
    note = Change(
        entity="process",
        process=0,
        event="launched",
        source="completed",
        target="running",
        at=NOW,
        fields={"identity": HERE, "host": "here"},
    )
    append(manager, ID, note)
    assert illegal(state_dir) == [
        "revision 5: launched moves process 0 from completed to running",
        "revision 5: launched of process 0: it is a process that is not running",
    ]


def test_a_status_other_than_the_one_it_moves_to_is_named(
    manager: StateManager, state_dir: Path
) -> None:
    """What counts is what is stored."""
    right = move(manager, "complete", 1, exit_code=0)
    append(
        manager, ID, attrs.evolve(right, fields={**right.fields, "status": ProcessStatus.FAILED})
    )
    assert illegal(state_dir) == [
        "revision 5: complete of process 1 makes status failed, not completed"
    ]


def test_a_save_that_completes_a_process_is_legal(manager: StateManager, state_dir: Path) -> None:
    """Its exit code is in the saved state, and not in the step."""
    state = manager.load(ID)
    done = attrs.evolve(
        state.process_progress[1], status=ProcessStatus.COMPLETED, exit_code=0, attempt=5
    )
    progress = {**state.process_progress, 1: done}
    manager.save(attrs.evolve(state, process_progress=progress))
    assert symptoms(state_dir) == []


@pytest.mark.parametrize(
    ("fields", "changes", "what"),
    [
        ({"num_processes": 1}, [], "num_processes never changes"),
        ({"owner": None}, [], "a save changed the owner"),
        ({"process_progress": {1: {"status": "completed", "exit_code": 3}}}, [], "exit code 3"),
        ({"process_progress": {0: {"status": "pending"}}}, [], "not proven lost"),
        ({"process_progress": {1: {"status": "failed"}}}, [], "from running to failed unnamed"),
        ({"status": "aggregated"}, [], "cannot become aggregated while running"),
        ({}, ["fail"], "a save names a step that the saved state does not show"),
    ],
)
def test_a_save_is_judged_as_it_was_when_it_was_made(
    manager: StateManager, state_dir: Path, fields: dict[str, Any], changes: list[str], what: str
) -> None:
    """By the store's own rules of saving; `saved` as evidence excuses nothing."""
    plain = json.loads((state_dir / f"{ID}.json").read_bytes())
    if "num_processes" in fields:
        del plain["process_progress"]["1"]
    if fields.get("status") == "aggregated":
        plain["process_progress"]["1"] = {"status": "completed", "exit_code": 0}
    for index, process in fields.pop("process_progress", {}).items():
        plain["process_progress"][str(index)] = process
    named = [attrs.evolve(move(manager, event, 1), evidence="saved") for event in changes]
    append(manager, ID, *named, kind="saved", state=plain | fields)
    (found,) = illegal(state_dir)
    assert found.startswith("revision 5: ")
    assert what in found


def test_saved_as_evidence_of_another_line_excuses_nothing(
    manager: StateManager, state_dir: Path
) -> None:
    """Whoever alters a journal could write that into it, too."""
    right = move(manager, "complete", 1, exit_code=0)
    append(
        manager, ID, attrs.evolve(right, evidence="saved", fields={**right.fields, "exit_code": 3})
    )
    assert "exit code 3" in illegal(state_dir)[0]


@pytest.fixture
def waiting(state_dir: Path) -> StateManager:
    """An experiment of two processes, of which none was started."""
    made = StateManager(state_dir)
    made.create(ID, num_processes=2)
    with made.claim(ID) as claim:
        claim.record("start")
    return made


def test_a_reuse_is_legal(waiting: StateManager, state_dir: Path) -> None:
    """As it is recorded, and after all that may follow it."""
    with waiting.claim(ID) as claim:
        claim.record("reuse", 0, work=WORK, proof=PROOF, outputs=OUTPUTS)
        claim.record("requeue", 0, result_lost=True)
        claim.record("start", 0, work=WORK)
        claim.record("reuse", 1, work=WORK, proof=PROOF, host="there")
    assert illegal(state_dir) == []


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"origin": None}, "nothing proves that another experiment's process did the same work"),
        ({"origin": attrs.evolve(PROOF.origin, via=ID)}, "is this very experiment"),
        ({"work": None}, "did other work"),
        ({"exit_code": 3}, "makes exit_code 3, not 0"),
        ({"attempt": 1}, "sets attempt, which it never does"),
        ({"reason": Reason.EXIT}, "makes reason exit, not reused"),
    ],
)
def test_a_reuse_that_could_not_be_is_illegal(
    waiting: StateManager, state_dir: Path, fields: dict[str, Any], what: str
) -> None:
    """Of nobody, of itself, of nothing that has a name; or with an attempt of its own."""
    right = move(waiting, "reuse", 1, work=WORK, proof=PROOF)
    fields = {**right.fields, **fields}
    append(waiting, ID, attrs.evolve(right, fields=fields, reason=fields["reason"]))
    assert any(what in each for each in illegal(state_dir))


def test_a_gang_of_which_one_rank_was_reused_is_torn(state_dir: Path) -> None:
    """It would have to run again for one of them, and to overwrite what the other has."""
    made = StateManager(state_dir)
    made.create(ID, num_processes=2, ranks=Ranks(count=2))
    facts = {"work": WORK, "proof": PROOF}
    with made.claim(ID) as claim:
        claim.record("start")
    wanted = [
        Requested(entity="process", event="reuse", at=NOW, process=index, facts=facts)
        for index in range(2)
    ]
    first, _ = apply.apply_many(made.load(ID), wanted).changes
    append(made, ID, first)
    assert illegal(state_dir) == [
        "revision 2: processes 0 to 1 are a gang, and it was torn apart",
    ]


def test_a_save_that_completes_what_nobody_started_is_illegal(
    waiting: StateManager, state_dir: Path
) -> None:
    """Whoever saves by hand proves nothing, and says so neither by an origin."""
    plain = json.loads((state_dir / f"{ID}.json").read_bytes())
    origin = {"experiment_id": "exp_6", "process": 0, "attempt": 1}
    done = {"status": "completed", "exit_code": 0, "reason": "reused", "origin": origin}
    plain["process_progress"]["1"] = done | {"work": WORK}
    append(waiting, ID, kind="saved", state=plain)
    (found,) = illegal(state_dir)
    assert "a save that is not allowed: " in found
    assert "nothing proves that another experiment's process did the same work" in found


def test_an_experiment_is_let_go_by_its_owner(manager: StateManager, state_dir: Path) -> None:
    """And as it was: no other identity takes its place."""
    append(manager, ID, _released(HERE), revision=manager.load(ID).revision)
    assert "released of the experiment makes owner" in illegal(state_dir)[0]


def test_statuses_of_an_experiment_come_with_their_fields(
    manager: StateManager, state_dir: Path
) -> None:
    """A failure without its time and reason is none that holdfast recorded."""
    append(
        manager,
        ID,
        Change(
            entity="experiment",
            process=None,
            event="fail",
            source="running",
            target="failed",
            at=NOW,
            reason=Reason.USER,
            fields={"status": ExperimentStatus.FAILED, "epoch": 9},
        ),
    )
    told = illegal(state_dir)
    assert [what.partition(" of ")[2] for what in told] == [
        "the experiment sets epoch, which it never does",
        "the experiment makes finished_at None, not 2024-01-15 12:00:00+00:00",
        "the experiment makes reason None, not user",
    ]
