"""A run on an engine with a queue, whose every word the test decides: what comes of each."""

import os
import signal
import sys
import time
from datetime import timedelta
from typing import Any

import pytest

from holdfast import doctor
from holdfast.attempts.files import live_state
from holdfast.cli.failures import code_of
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import (
    AttemptNotOverError,
    AttemptWarning,
    EngineError,
    EngineRefusedError,
    EngineWarning,
)
from holdfast.lifecycle.handed import handed_over
from holdfast.orchestration.orchestrator import Orchestrator, Outcome
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store.manager import StateManager, utc_now
from scripted import EPOCH, ScriptedEngine, Step, conduct, ended, everything, say

CONFIG: dict[str, Any] = {"command": ["true"], "processes": 1, "limits": {"grace": 5}}


def run(manager: StateManager, engine: ScriptedEngine, number: int = 1, **more: Any) -> Outcome:
    config = {**CONFIG, "processes": number}
    return conduct(manager, engine).run(config, experiment_id="exp_a", **more)


def resume(manager: StateManager, engine: ScriptedEngine, **more: Any) -> Outcome:
    force = more.pop("force", False)
    return conduct(manager, engine, force=force).resume("exp_a", **more)


def evidence(manager: StateManager, event: str) -> list[str]:
    return [step.evidence or "" for step in manager.history("exp_a") if step.event == event]


def nothing(engine: ScriptedEngine) -> None:
    pass


def interrupt(engine: ScriptedEngine) -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def away(why: str | None) -> Step:
    """Its controller does not answer, or does again."""

    def told(engine: ScriptedEngine) -> None:
        engine.away = why

    return told


def wait(seconds: float, then: Step = nothing) -> list[Step]:
    """So much time passes, half a second at a time, then that happens."""
    return [nothing] * round(2 * seconds) + [then]


def runs(number: str) -> Step:
    """It begins on another host, where its lock and its processes cannot be seen."""
    return everything(
        lambda engine: engine.live(number) and None, say(number, "running", host="n1")
    )


# -- how far they are -----------------------------------------------------------------------------


def test_queued_held_and_running_are_recorded_with_their_times(manager: StateManager) -> None:
    """The start that counts is the real one; how long it waited is kept, and what it used."""
    engine = ScriptedEngine(
        [
            *[*wait(2), say("0.1", "held", "JobHeldUser"), *wait(2), runs("0.1")],
            *wait(60, ended("0.1", max_rss_bytes=1 << 20, cpu_s=3.5)),
        ]
    )
    outcome = run(manager, engine)
    assert code_of(outcome) == 0
    process = outcome.state.processes[0]
    assert process.host == "n1"
    assert process.usage is not None
    assert process.submitted_at is not None
    assert process.started_at is not None
    waited = (process.started_at - process.submitted_at).total_seconds()
    assert process.usage == {
        **{"queued_s": waited, "requested_cpus": 2, "requested_memory_bytes": 1 << 30},
        **{"max_rss_bytes": 1 << 20, "cpu_s": 3.5},
    }
    assert 4 <= waited <= 6
    assert (process.phase, process.handle) == (None, None)
    assert "JobHeldUser" in evidence(manager, "phase")
    assert [found for found in doctor.examine(manager.state_dir) if found.severity != "hint"] == []


def test_a_record_counts_while_its_engine_still_says_that_it_runs(manager: StateManager) -> None:
    """Its poll is a minute old; the folder is not."""
    engine = ScriptedEngine([runs("0.1"), lambda e: e.exit("0.1", exit_code=0)])
    outcome = run(manager, engine)
    assert code_of(outcome) == 0
    assert engine.now < 5


def test_an_outcome_waits_as_long_as_its_job_is_completing(manager: StateManager) -> None:
    """What it says in the end decides: exit 0 beside a time limit is none."""
    engine = ScriptedEngine(
        [
            *[runs("0.1"), lambda e: e.exit("0.1", exit_code=0), say("0.1", "completing")],
            *wait(20, lambda e: e.say("0.1", "timeout", at=e.time - timedelta(seconds=20))),
            *[runs("0.2"), ended("0.2")],
        ]
    )
    # Both at once: else the record is seen while the job runs.
    engine.story[1:3] = [everything(*engine.story[1:3])]
    outcome = run(manager, engine)
    process = outcome.state.processes[0]
    assert (process.attempt, process.interruptions, process.failures) == (2, 1, 0)
    [requeue] = [step for step in manager.history("exp_a") if step.event == "requeue"]
    assert requeue.reason is Reason.TIME_LIMIT
    assert "so that its exit proves nothing" in (requeue.evidence or "")


# -- without a record -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *[("completed", "lost"), ("failed", "lost"), ("gone", "lost")],
        *[("timeout", "time_limit"), ("preempted", "preempted"), ("cancelled", "preempted")],
    ],
)
def test_what_left_no_outcome_is_lost_after_a_grace(
    manager: StateManager, kind: Any, reason: str
) -> None:
    """Not charged, and run again; its lock on another host is free, which alone proves nothing."""
    engine = ScriptedEngine(
        [runs("0.1"), say("0.1", kind, "so it says"), *wait(40), runs("0.2"), ended("0.2")]
    )
    outcome = run(manager, engine)
    process = outcome.state.processes[0]
    assert (code_of(outcome), engine.submitted) == (0, ["0.1", "0.2"])
    assert (process.failures, process.interruptions) == (0, 1)
    [requeue] = [step for step in manager.history("exp_a") if step.event == "requeue"]
    assert requeue.reason == reason
    assert "so it says" in (requeue.evidence or "")
    assert (requeue.at - engine.time).total_seconds() < 0


def test_the_folder_is_listed_once_more_before_an_attempt_is_given_up(
    manager: StateManager,
) -> None:
    """On NFS, a file that another host has made is seen when its directory is read again."""
    engine, listed = ScriptedEngine(), []
    folder = manager.folder("exp_a") / "attempts"

    def hook(event: str, what: tuple[Any, ...]) -> None:
        if event == "os.scandir" and str(what[0]) == str(folder):
            listed.append(engine.now)

    sys.addaudithook(hook)
    over: list[float] = []
    engine.story = [
        *[runs("0.1"), everything(say("0.1", "failed"), lambda e: over.append(e.now))],
        *wait(45, ended("0.2")),
    ]
    run(manager, engine)
    assert engine.submitted == ["0.1", "0.2"]
    [begun] = [step.at for step in manager.history("exp_a") if step.event == "requeue"]
    given_up = (begun - EPOCH).total_seconds()
    assert [each for each in listed if over[0] + 30 <= each <= given_up]


def test_a_record_that_is_seen_late_beats_the_word(manager: StateManager) -> None:
    """On NFS it took half a minute; nothing ran twice."""
    engine = ScriptedEngine(
        [runs("0.1"), say("0.1", "failed"), *wait(25, lambda e: e.exit("0.1", exit_code=0))]
    )
    outcome = run(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])


def test_what_was_cancelled_in_the_queue_is_settled_at_once(manager: StateManager) -> None:
    """It never began, and cannot any more: there is nothing to wait for."""
    engine = ScriptedEngine([*wait(3, say("0.1", "cancelled")), *wait(3, ended("0.2"))])
    outcome = run(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1", "0.2"])
    assert engine.now < 15
    assert live_state(manager.folder("exp_a"), engine.named("0.1")).kind == "revoked"


def test_what_began_unheard_is_not_taken_for_what_never_did(manager: StateManager) -> None:
    """It ran between two polls: its outcome has its time to be seen, too."""
    engine = ScriptedEngine(
        [
            *wait(3, everything(lambda e: e.live("0.1") and None, say("0.1", "failed"))),
            *wait(10, lambda e: e.exit("0.1", exit_code=0)),
        ]
    )
    outcome = run(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])


def test_out_of_memory_is_a_failure_of_its_own(manager: StateManager) -> None:
    """Charged, with or without a record of the kill."""
    engine = ScriptedEngine(
        [
            *[runs("0.1"), say("0.1", "out_of_memory"), *wait(40), runs("1.1")],
            ended("1.1", "out_of_memory", exit_code=None, signal=9),
        ]
    )
    outcome = run(manager, engine, 2, jobs=1)
    found = list(outcome.state.processes.values())
    assert [each.reason for each in found] == [Reason.OUT_OF_MEMORY] * 2
    assert [each.failures for each in found] == [1, 1]
    assert outcome.state.status is ExperimentStatus.FAILED


def test_what_never_began_has_not_failed_whatever_its_job_died_of(manager: StateManager) -> None:
    """Its batch script ran out of memory before the command began: nobody is charged for that."""
    engine = ScriptedEngine([*wait(3, say("0.1", "out_of_memory")), *wait(3, ended("0.2"))])
    outcome = run(manager, engine)
    assert (code_of(outcome), outcome.state.processes[0].failures) == (0, 0)


def test_unknown_decides_nothing_for_ever_but_a_record_does(manager: StateManager) -> None:
    """An engine that has forgotten it for an hour has not ended it."""
    engine = ScriptedEngine(
        [
            *[runs("0.1"), say("0.1", "unknown", "no job of that name")],
            *wait(3_600, ended("0.1", "unknown")),
        ]
    )
    with pytest.warns(AttemptWarning, match="unknown to its engine") as told:
        outcome = run(manager, engine)
    assert [str(each.message) for each in told] == [
        "attempt 0.1 is unknown to its engine, and waited for: no job of that name"
    ]
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])


def test_what_a_copy_of_a_running_experiment_cannot_know_is_left_to_the_original(
    manager: StateManager,
) -> None:
    """The copy ends, and says why; with --force it goes on by itself."""
    engine = ScriptedEngine(
        [everything(lambda e: e.live("0.1", mark="0.1.0.1") and None, say("0.1", "unknown"))]
    )
    with pytest.warns(AttemptWarning, match="its files are a copy"):
        outcome = run(manager, engine)
    assert "resume the original" in outcome.blocked["0.1"]
    engine.story = [*wait(40), ended("0.2")]
    forced = resume(manager, engine, force=True)
    assert (code_of(forced), engine.submitted) == (0, ["0.1", "0.2"])


def test_a_held_lock_is_alive_whatever_the_engine_says(manager: StateManager) -> None:
    """A job id that was reused says `failed`; the shim still holds its lock on shared storage."""
    import fcntl

    held: list[Any] = []

    def lock(engine: ScriptedEngine) -> None:
        file = engine.live("0.1").open("rb")
        fcntl.flock(file, fcntl.LOCK_EX)
        held.append(file)

    def let_go(engine: ScriptedEngine) -> None:
        engine.exit("0.1", exit_code=0)
        held[0].close()

    engine = ScriptedEngine(
        [lock, say("0.1", "running"), *wait(2, say("0.1", "failed")), *wait(300, let_go)]
    )
    outcome = run(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])


# -- a node is gone -------------------------------------------------------------------------------


def test_a_failed_node_blocks_its_attempts_alone_until_it_has_booted(manager: StateManager) -> None:
    """Its siblings go on; once a boot is reported, it is run again."""

    def reboot(engine: ScriptedEngine) -> None:
        engine.say("0.1", "node_fail", host="n1", booted_at=engine.time)

    engine = ScriptedEngine(
        [
            *[everything(runs("0.1"), runs("1.1")), say("0.1", "node_fail", host="n1")],
            *wait(60, reboot),
            *wait(60, everything(runs("0.2"))),
            *wait(2, ended("0.2")),
            *wait(2, ended("1.1")),
        ]
    )
    with pytest.warns(AttemptWarning, match="node n1 failed, and nothing proves") as told:
        outcome = run(manager, engine, 2)
    assert len(told) == 1
    assert (code_of(outcome), engine.submitted) == (0, ["0.1", "1.1", "0.2"])
    assert outcome.state.processes[0].interruptions == 1
    assert "says that it is over (node_fail" in evidence(manager, "requeue")[0]


@pytest.mark.parametrize(("recorded_s", "live_s"), [(0, 200), (200, 0)])
def test_a_boot_before_the_later_of_two_starts_proves_nothing(
    manager: StateManager, recorded_s: float, live_s: float
) -> None:
    """The clock of the controller, or of the node, is slow: it may have begun after that boot."""

    def begin(engine: ScriptedEngine) -> None:
        engine.live("0.1", began=engine.time + timedelta(seconds=live_s))
        at = engine.time + timedelta(seconds=recorded_s)
        engine.say("0.1", "running", host="n1", at=at)

    booted = EPOCH + timedelta(seconds=100)
    engine = ScriptedEngine([begin, say("0.1", "node_fail", host="n1", booted_at=booted)])
    with pytest.warns(AttemptWarning, match="nothing proves"):
        outcome = run(manager, engine)
    assert outcome.blocked.keys() == {"0.1"}


def test_what_is_blocked_is_named_and_taken_up_by_a_later_resume(manager: StateManager) -> None:
    """The run ends without it, and says what would unblock it; nothing of it is run twice."""
    engine = ScriptedEngine(
        [
            *[everything(runs("0.1"), runs("1.1")), say("0.1", "node_fail", host="n1")],
            *wait(10, ended("1.1")),
        ]
    )
    with pytest.warns(AttemptWarning, match="nothing proves"):
        outcome = run(manager, engine, 2)
    assert outcome.state.status is ExperimentStatus.INTERRUPTED
    assert outcome.state.processes[0].status is ProcessStatus.RUNNING
    assert "report a boot after that" in outcome.blocked["0.1"]
    with pytest.warns(AttemptWarning, match="nothing proves"):
        again = resume(manager, engine)
    assert (again.blocked.keys(), engine.submitted) == ({"0.1"}, ["0.1", "1.1"])
    engine.say("0.1", "node_fail", host="n1", booted_at=engine.time)
    engine.story = [*wait(40), runs("0.2"), ended("0.2")]
    last = resume(manager, engine)
    assert (code_of(last), engine.submitted) == (0, ["0.1", "1.1", "0.2"])


def test_a_node_that_comes_back_brings_its_attempts_back(manager: StateManager) -> None:
    """It was only cut off: the controller sees it again, and what ran there had gone on."""
    engine = ScriptedEngine(
        [
            *[everything(runs("0.1"), runs("1.1")), say("0.1", "node_fail", host="n1")],
            *wait(60, say("0.1", "running", host="n1")),
            *wait(60, ended("0.1")),
            *wait(2, ended("1.1")),
        ]
    )
    with pytest.warns(AttemptWarning, match="nothing proves"):
        outcome = run(manager, engine, 2)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1", "1.1"])


def test_without_shared_files_a_failed_node_proves_nothing_by_what_is_not_there(
    manager: StateManager,
) -> None:
    """Its shim has made its files elsewhere: there is nothing here to revoke."""
    engine = ScriptedEngine([say("0.1", "running", host="n1")], shares_files=False)
    engine.story += [say("0.1", "node_fail", host="n1"), *wait(40)]
    with pytest.warns(AttemptWarning, match="nothing proves"):
        outcome = run(manager, engine)
    assert (outcome.blocked.keys(), engine.submitted) == ({"0.1"}, ["0.1"])
    assert live_state(manager.folder("exp_a"), engine.named("0.1")).kind == "absent"


def test_force_takes_what_is_blocked_for_dead(manager: StateManager) -> None:
    """The node is off, and somebody has seen that."""
    engine = ScriptedEngine([runs("0.1"), say("0.1", "node_fail", host="n1")])
    with pytest.warns(AttemptWarning, match="nothing proves"):
        run(manager, engine)
    engine.story = [*wait(40), runs("0.2"), ended("0.2")]
    outcome = resume(manager, engine, force=True)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1", "0.2"])
    assert "--force" in evidence(manager, "requeue")[0]


def test_force_waits_for_an_engine_that_is_only_away(manager: StateManager) -> None:
    """Its jobs run on: what is blocked is meant, and not all that nobody can ask about."""
    engine = ScriptedEngine([runs("0.1"), interrupt])
    run(manager, engine)
    away = say("0.1", "unknown", "Slurm does not answer", passes=True)
    lost = say("0.1", "unknown", "nobody knows its node")
    engine.story = [away, *wait(90), lost, *wait(20), *wait(1, ended("0.1"))]
    with pytest.warns(AttemptWarning, match="Slurm does not answer"):
        outcome = resume(manager, engine, force=True)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])


def test_a_failed_node_that_never_began_it_blocks_nothing(manager: StateManager) -> None:
    """Its right to begin is taken from it, which needs no proof."""
    engine = ScriptedEngine([say("0.1", "node_fail", host="n1"), *wait(3, ended("0.2"))])
    outcome = run(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1", "0.2"])


# -- errors of the engine -------------------------------------------------------------------------


def test_an_engine_that_is_away_ends_no_run_and_outcomes_come_all_the_same(
    manager: StateManager,
) -> None:
    """Said once, asked at longer and longer intervals, and exit records count meanwhile."""

    def leave(engine: ScriptedEngine) -> None:
        engine.away = "the controller does not answer"

    engine = ScriptedEngine([runs("0.1"), leave, *wait(600, lambda e: e.exit("0.1", exit_code=0))])
    with pytest.warns(EngineWarning, match="the controller does not answer") as told:
        outcome = run(manager, engine)
    assert (code_of(outcome), len(told), engine.submitted) == (0, 1, ["0.1"])
    assert engine.asked < 40


def test_a_submission_that_cannot_be_made_now_is_made_later(manager: StateManager) -> None:
    """Nothing is lost by it, and nothing is submitted twice."""
    engine = ScriptedEngine([*wait(100, away(None)), *wait(40)])
    engine.story += [runs("0.1"), ended("0.1")]
    checks = engine.check

    def check(attempts: Any) -> Any:
        found = checks(attempts)
        engine.away = "busy"
        return found

    engine.check = check  # type: ignore[method-assign]
    with pytest.warns(EngineWarning, match="busy"):
        outcome = run(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1"])


def test_what_is_refused_beforehand_changes_nothing(manager: StateManager) -> None:
    """The scheduler's own words, and not a line recorded beyond what makes the experiment."""
    engine = ScriptedEngine(refuses="sbatch: error: invalid partition specified: nope")
    with pytest.raises(EngineRefusedError, match="invalid partition specified: nope"):
        run(manager, engine)
    state = manager.load("exp_a")
    assert state.status is ExperimentStatus.INITIALISED
    assert {each.status for each in state.processes.values()} == {ProcessStatus.PENDING}
    assert engine.submitted == []
    engine.refuses, engine.story = None, [ended("0.1")]
    assert code_of(resume(manager, engine)) == 0


def test_notes_of_the_engine_are_told_before_anything_starts(manager: StateManager) -> None:
    """Such as a grace period that does not fit under the scheduler's own."""
    told: list[str] = []
    engine = ScriptedEngine([ended("0.1")], notes=("the grace period is cut to 28 s",))
    conduct(manager, engine, on_note=told.append).run(CONFIG)
    assert "the grace period is cut to 28 s" in told
    assert [str(each.name) for each in engine.checked] == ["0.1"]


def test_what_is_refused_later_is_pending_again_and_the_rest_goes_on(manager: StateManager) -> None:
    """A quota that was reached: what runs ends in peace, then the experiment says why."""
    engine = ScriptedEngine([runs("0.1"), *wait(30, ended("0.1"))], takes=1, refuses="over quota")
    outcome = run(manager, engine, 3)
    state = outcome.state
    assert (state.status, state.reason) == ("interrupted", "launch_error")
    assert "over quota" in str(state.error_message)
    assert [each.status for each in state.processes.values()] == ["completed", "pending", "pending"]
    assert engine.cancelled == []
    engine.takes = engine.refuses = None
    engine.story = [ended("1.2"), ended("2.2")]
    assert code_of(resume(manager, engine)) == 0


# -- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_attempts_to_an_engine_that_outlives_us(
    manager: StateManager, number: signal.Signals, code: int
) -> None:
    """Jobs that waited for days are not lost to a closed terminal; what is known is recorded."""
    engine = ScriptedEngine(
        [
            *[everything(runs("0.1"), runs("1.1")), ended("0.1")],
            *[say("2.1", "held", "why"), lambda _: os.kill(os.getpid(), number)],
        ]
    )
    outcome = run(manager, engine, 3)
    assert (code_of(outcome), outcome.left, outcome.engine) == (code, 2, "slurm")
    assert "2 attempts are left to Slurm" in outcome.message
    assert engine.cancelled == []
    state = manager.load("exp_a")
    assert state.status is ExperimentStatus.RUNNING
    assert [each.phase for each in state.processes.values()] == [None, "running", "held"]
    assert handed_over(state) == [1, 2]
    assert state.owner is not None
    assert state.owner.released
    assert not list((manager.folder("exp_a") / "attempts").glob("*.stop"))
    assert manager.cleanup_stale() == manager.cleanup_stale(force=True) == []
    engine.story = [ended("1.1"), ended("2.1")]
    again = resume(manager, engine)
    assert (code_of(again), engine.submitted) == (0, ["0.1", "1.1", "2.1"])
    # Nobody has interrupted it.
    assert [step.event for step in manager.history("exp_a") if step.index is None] == [
        *("claimed", "start", "released", "claimed", "complete", "aggregate", "released"),
    ]


def test_a_signal_stops_what_would_not_outlive_us(manager: StateManager) -> None:
    """Nobody would see to it: its engine ends with the program that started it."""

    def stopped(engine: ScriptedEngine) -> None:
        engine.exit("0.1", exit_code=0, stop_requested="user")
        engine.say("0.1", "completed")

    engine = ScriptedEngine([runs("0.1"), interrupt, nothing, stopped], outlives=False)
    outcome = run(manager, engine)
    assert (code_of(outcome), outcome.left) == (130, 0)
    assert outcome.state.status is ExperimentStatus.INTERRUPTED
    assert engine.cancelled == [("0.1", False)]


def test_a_signal_before_anything_is_with_the_engine_interrupts(manager: StateManager) -> None:
    """Nothing is left to it: the experiment ends as it does everywhere."""
    engine = ScriptedEngine([interrupt], away="busy")
    with pytest.warns(EngineWarning, match="busy"):
        outcome = run(manager, engine)
    assert code_of(outcome) == 130
    assert outcome.state.status is ExperimentStatus.INITIALISED


def test_stop_really_stops_what_was_left(manager: StateManager) -> None:
    """A request is meant: requests for what runs, and the engine cancels all of it."""
    engine = ScriptedEngine([runs("0.1"), interrupt])
    run(manager, engine, 2)

    def hear(engine: ScriptedEngine) -> None:
        assert (manager.folder("exp_a") / "attempts/0.1.stop").exists()
        engine.exit("0.1", exit_code=0, stop_requested="user")
        engine.say("0.1", "cancelled")
        engine.say("1.1", "cancelled")

    engine.story = [nothing, hear]
    outcome = conduct(manager, engine).stop("exp_a")
    assert outcome.state.status is ExperimentStatus.INTERRUPTED
    assert {name for name, _ in engine.cancelled} == {"0.1", "1.1"}
    found = list(outcome.state.processes.values())
    assert {(each.status, each.reason) for each in found} == {("pending", "user")}
    assert not (manager.folder("exp_a") / "attempts/1.1.stop").exists()
    assert engine.now < 20


def test_what_is_stopped_has_the_time_that_its_engine_takes_to_say_so(
    manager: StateManager,
) -> None:
    """Polls a minute apart and files that are seen late are no reason to leave it as it is."""
    engine = ScriptedEngine([runs("0.1"), interrupt])
    run(manager, engine)
    engine.story = wait(50, say("0.1", "cancelled"))
    outcome = conduct(manager, engine).stop("exp_a")
    process = outcome.state.processes[0]
    assert (outcome.blocked, process.status, process.reason) == ({}, "pending", "user")


def test_what_waits_behind_a_controller_that_is_away_finds_the_request(
    manager: StateManager,
) -> None:
    """It is taken out of the queue as soon as that can be done; should it begin before, it ends."""
    engine = ScriptedEngine()
    run(manager, engine, leave=True)

    def back(engine: ScriptedEngine) -> None:
        assert (manager.folder("exp_a") / "attempts/0.1.stop").exists()
        engine.away = None

    engine.story = [
        *[nothing, nothing, away(None)],
        *wait(40, everything(back, say("0.1", "cancelled"))),
    ]
    cancel = engine.cancel

    def fail(*asked: Any, **how: Any) -> Any:
        engine.cancel = cancel  # type: ignore[method-assign]
        engine.away = "the controller does not answer"
        return cancel(*asked, **how)

    engine.cancel = fail  # type: ignore[method-assign]
    with pytest.warns(EngineWarning, match="does not answer"):
        outcome = conduct(manager, engine).stop("exp_a")
    assert outcome.state.processes[0].status is ProcessStatus.PENDING
    assert [name for name, _ in engine.cancelled] == ["0.1"]


def test_what_another_engine_has_finds_the_request_when_it_begins(manager: StateManager) -> None:
    """It cannot be taken out of that queue from here, and is told to stop all the same."""
    run(manager, ScriptedEngine(), leave=True)
    outcome = conduct(manager, ScriptedEngine(name="dask")).stop("exp_a")
    assert outcome.blocked.keys() == {"0.1"}
    assert (manager.folder("exp_a") / "attempts/0.1.stop").exists()


# -- submit and leave -----------------------------------------------------------------------------


def test_everything_is_submitted_and_left(manager: StateManager) -> None:
    """Nobody stays; a later resume collects, retries and aggregates."""
    engine = ScriptedEngine()
    config = {**CONFIG, "processes": 3, "retry": {"max_attempts": 2, "backoff": 1}}
    outcome = conduct(manager, engine).run(config, experiment_id="exp_a", leave=True)
    assert (code_of(outcome), outcome.left, outcome.ok) == (0, 3, True)
    assert engine.submitted == ["0.1", "1.1", "2.1"]
    state = manager.load("exp_a")
    assert (state.status, handed_over(state)) == ("running", [0, 1, 2])
    assert [each.phase for each in state.processes.values()] == ["queued"] * 3
    # They run without anybody.
    engine.now += 3600
    ended("0.1")(engine)
    ended("1.1", "failed", exit_code=1)(engine)
    runs("2.1")(engine)
    engine.now += 60
    again = conduct(manager, engine).resume("exp_a", leave=True)
    assert (again.left, engine.submitted[3:]) == (2, ["1.2"])
    assert [each.phase for each in manager.load("exp_a").processes.values()] == [
        *(None, "queued", "running"),
    ]
    third = conduct(manager, engine).resume("exp_a", leave=True)
    assert (third.left, len(engine.submitted)) == (2, 4)
    engine.story = [ended("1.2"), ended("2.1")]
    last = resume(manager, engine)
    assert code_of(last) == 0
    assert last.state.status is ExperimentStatus.AGGREGATED
    assert engine.submitted == ["0.1", "1.1", "2.1", "1.2"]


def test_nothing_is_left_before_its_scheduler_has_it(manager: StateManager) -> None:
    """What goes on without us is said of nothing that may never have been submitted."""
    queued = say("0.1", "queued", "could not be submitted", taken=None)
    doubt = say("0.1", "unknown", "it may have been submitted", taken=None)
    engine = ScriptedEngine([queued, *wait(60, doubt), *wait(50, say("0.1", "queued"))])
    outcome = run(manager, engine, leave=True)
    assert (outcome.left, engine.story) == (1, [])


def test_what_a_scheduler_has_no_room_for_is_not_left_to_it(manager: StateManager) -> None:
    """It may take days, and nobody stays."""
    engine = ScriptedEngine([say("1.1", "queued", "waits for the submit limit", taken=False)])
    outcome = run(manager, engine, 3, leave=True)
    assert outcome.left == 2
    assert "2 attempts are left to Slurm, and 1 is not known to be" in outcome.message


def test_a_signal_says_what_may_not_have_been_submitted(manager: StateManager) -> None:
    """Nobody waits for a controller that does not answer, and nobody guesses."""
    engine = ScriptedEngine([say("1.1", "unknown", taken=None), interrupt])
    outcome = run(manager, engine, 3)
    assert (code_of(outcome), outcome.left) == (130, 2)
    assert "2 attempts are left to Slurm, and 1 is not known to be" in outcome.message


def test_whoever_leaves_has_asked_once_how_far_everything_is(manager: StateManager) -> None:
    """Also where there is nothing to submit."""
    engine = ScriptedEngine()
    run(manager, engine, leave=True)
    runs("0.1")(engine)
    assert conduct(manager, engine).resume("exp_a", leave=True).left == 1
    assert manager.load("exp_a").processes[0].phase == "running"


def test_nobody_leaves_where_nothing_is_left_to_an_engine(manager: StateManager) -> None:
    """What waits for its next attempt would wait for ever: it is submitted first."""
    engine = ScriptedEngine()
    config = {**CONFIG, "retry": {"max_attempts": 2, "backoff": 100}}
    conduct(manager, engine).run(config, experiment_id="exp_a", leave=True)
    ended("0.1", "failed", exit_code=1)(engine)
    outcome = conduct(manager, engine).resume("exp_a", leave=True)
    assert (outcome.left, engine.submitted) == (1, ["0.1", "0.2"])
    assert engine.now >= 100
    ended("0.2")(engine)
    last = conduct(manager, engine).resume("exp_a", leave=True)
    assert (code_of(last), last.left, last.state.status) == (0, 0, "completed")


def test_what_ends_unseen_is_decided_before_anybody_leaves(manager: StateManager) -> None:
    """Else `leave` again and again would never come to the end of its grace period."""
    engine = ScriptedEngine()
    run(manager, engine, 2, leave=True)
    everything(runs("0.1"), runs("1.1"), say("0.1", "failed"))(engine)
    outcome = conduct(manager, engine).resume("exp_a", leave=True)
    assert (outcome.left, engine.submitted) == (2, ["0.1", "1.1", "0.2"])
    assert engine.now >= 30


def test_what_jobs_hold_back_waits_for_the_next_resume(manager: StateManager) -> None:
    """As many as may be at a time are submitted, and no more: nobody is there to go on."""
    engine = ScriptedEngine()
    outcome = run(manager, engine, 5, leave=True, jobs=2)
    assert (outcome.left, engine.submitted) == (2, ["0.1", "1.1"])
    assert "3 wait for the next resume" in outcome.message


def test_an_engine_says_how_much_it_takes(manager: StateManager) -> None:
    """Not the CPUs of the machine that submits."""
    engine = ScriptedEngine(limit=3)
    assert run(manager, engine, 200, leave=True).left == 3
    engine = ScriptedEngine()
    assert conduct(manager, engine).run({**CONFIG, "processes": 200}, leave=True).left == 200


def test_a_time_limit_that_nobody_watched_completes_nothing(manager: StateManager) -> None:
    """The record says exit 0, the engine says why: asked before the record is believed."""
    engine = ScriptedEngine()
    run(manager, engine, leave=True)
    ended("0.1", "timeout")(engine)
    engine.story = [runs("0.2"), ended("0.2")]
    outcome = resume(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1", "0.2"])
    [requeue] = [step for step in manager.history("exp_a") if step.event == "requeue"]
    assert requeue.reason is Reason.TIME_LIMIT


def test_what_is_completing_when_it_is_taken_up_is_not_decided_yet(manager: StateManager) -> None:
    """Its last word is still to come, and it is not good."""
    engine = ScriptedEngine()
    run(manager, engine, leave=True)
    ended("0.1", "completing")(engine)
    at = engine.time
    engine.story = [*wait(20, lambda e: e.say("0.1", "preempted", at=at)), *wait(3, ended("0.2"))]
    outcome = resume(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.1", "0.2"])
    assert outcome.state.processes[0].interruptions == 1


def test_a_crash_between_submission_and_record_loses_and_doubles_nothing(
    manager: StateManager,
) -> None:
    """What the engine took, it is asked for; nothing is submitted again."""

    class DiedError(Exception):
        pass

    def die() -> None:
        raise DiedError

    engine = ScriptedEngine(dies=die)
    with pytest.raises(DiedError):
        run(manager, engine, 3)
    # Nobody calls it stale, or deletes it, before the engine was asked.
    assert handed_over(manager.load("exp_a")) == [0, 1, 2]
    assert manager.cleanup_stale(force=True) == []
    with pytest.raises(AttemptNotOverError):
        manager.delete("exp_a")
    engine.dies = lambda: None
    # One is over by now, of which the engine's list says nothing any more.
    ended("1.1", "timeout", exit_code=0)(engine)
    engine.story = [everything(runs("0.1"), runs("2.1")), ended("0.1"), ended("2.1"), ended("1.2")]
    outcome = resume(manager, engine)
    assert (code_of(outcome), outcome.adopted) == (0, 3)
    assert {
        each.usage and each.usage.get("requested_cpus") for each in outcome.state.processes.values()
    } == {2}
    assert engine.submitted == ["0.1", "1.1", "2.1", "1.2"]


def test_a_crash_before_submission_begins_what_was_recorded_anew(manager: StateManager) -> None:
    """Nobody has it, it never began, and it cannot any more."""

    class DiedError(Exception):
        pass

    def die(attempts: Any) -> Any:
        raise DiedError

    engine = ScriptedEngine()
    submit = engine.submit
    engine.submit = lambda *_: die(None)  # type: ignore[method-assign]
    with pytest.raises(DiedError):
        run(manager, engine)
    engine.submit = submit  # type: ignore[method-assign]
    engine.story = wait(3, ended("0.2"))
    outcome = resume(manager, engine)
    assert (code_of(outcome), engine.submitted) == (0, ["0.2"])


# -- gangs and siblings ---------------------------------------------------------------------------


def test_a_gang_waits_runs_and_is_ended_by_its_engine_together(manager: StateManager) -> None:
    """One job, two processes: they share its phases, its host, and its time limit."""
    engine = ScriptedEngine()
    config = {**CONFIG, "processes": 1, "ranks": 2}
    conduct(manager, engine).run(config, experiment_id="exp_a", leave=True)
    assert engine.submitted == ["launcher-0.1"]
    state = manager.load("exp_a")
    assert [each.phase for each in state.processes.values()] == ["queued", "queued"]
    assert handed_over(state) == [0, 1]
    number = "launcher-0.1"
    engine.story = [
        *[runs(number), ended(number, "timeout"), *wait(3, runs("launcher-0.2"))],
        ended("launcher-0.2"),
    ]
    outcome = resume(manager, engine)
    found = list(outcome.state.processes.values())
    assert (code_of(outcome), engine.submitted) == (0, ["launcher-0.1", "launcher-0.2"])
    assert [(each.attempt, each.interruptions, each.host) for each in found] == [(2, 1, "n1")] * 2
    requeues = [step for step in manager.history("exp_a") if step.event == "requeue"]
    assert [(step.index, step.reason) for step in requeues] == [
        (0, "time_limit"),
        (1, "time_limit"),
    ]


def test_the_first_failure_cancels_the_rest_where_that_is_wanted(manager: StateManager) -> None:
    """What waits is taken out of the queue, what runs is asked to stop; nothing is charged."""

    def stopped(engine: ScriptedEngine) -> None:
        assert [name for name, _ in engine.cancelled] == ["1.1", "2.1"]
        engine.exit("1.1", exit_code=0, interrupted_by=15)
        engine.say("1.1", "cancelled")
        engine.say("2.1", "cancelled")

    engine = ScriptedEngine(
        [
            everything(runs("0.1"), runs("1.1")),
            *[ended("0.1", "failed", exit_code=3), nothing, stopped],
        ]
    )
    limits = {"grace": 5, "fail_fast": True}
    config = {**CONFIG, "processes": 3, "limits": limits}
    outcome = conduct(manager, engine).run(config, experiment_id="exp_a")
    found = list(outcome.state.processes.values())
    assert outcome.state.status is ExperimentStatus.FAILED
    assert [each.status for each in found] == ["failed", "pending", "pending"]
    assert [each.failures for each in found] == [1, 0, 0]
    assert (manager.folder("exp_a") / "attempts/1.1.stop").exists()


def test_a_crash_while_polling_is_gone_on_from(manager: StateManager) -> None:
    """Nothing was said goodbye to, and nothing is submitted again."""

    class DiedError(Exception):
        pass

    def die(_: ScriptedEngine) -> None:
        raise DiedError

    engine = ScriptedEngine([runs("0.1"), die])
    with pytest.raises(DiedError):
        run(manager, engine, 2)
    engine.story = [ended("0.1"), ended("1.1")]
    outcome = resume(manager, engine)
    assert (code_of(outcome), outcome.adopted, engine.submitted) == (0, 2, ["0.1", "1.1"])


def test_slots_of_this_machine_are_refused_elsewhere(manager: StateManager) -> None:
    """A lock that is held here keeps nobody away there."""
    config = {**CONFIG, "slots": {"gpu": ["0"]}, "needs": {"gpu": 1}}
    with pytest.raises(EngineRefusedError, match="slots of this machine"):
        conduct(manager, ScriptedEngine()).run(config)


# -- another engine's -----------------------------------------------------------------------------


def test_attempts_of_another_engine_are_left_alone_until_they_end(manager: StateManager) -> None:
    """Blocked, with who has them; an exit record counts all the same."""
    slurm, dask = ScriptedEngine(), ScriptedEngine(name="dask")
    run(manager, slurm, 2, leave=True)
    ended("0.1")(slurm)
    told: list[str] = []
    outcome = conduct(manager, dask, on_note=told.append).resume("exp_a")
    assert told == ["slurm has attempt 1.1: `resume --engine slurm` takes it up"]
    words = "Slurm (job 2) has it: `resume --engine slurm` takes it up"
    assert outcome.blocked == {"1.1": words}
    assert outcome.state.processes[0].status is ProcessStatus.COMPLETED
    assert dask.submitted == []
    assert live_state(manager.folder("exp_a"), slurm.named("1.1")).kind == "absent"
    slurm.story = [ended("1.1")]
    assert code_of(resume(manager, slurm)) == 0


def test_this_machine_leaves_alone_what_a_scheduler_has(manager: StateManager) -> None:
    """It has not begun anywhere, and could not be told from what never will, but for its record."""
    run(manager, ScriptedEngine(), 2, leave=True)
    with LocalEngine() as engine:
        outcome = Orchestrator(manager, engine).resume("exp_a")
    assert outcome.blocked.keys() == {"0.1", "1.1"}
    assert not list((manager.folder("exp_a") / "attempts").glob("*"))


# -- aggregating ----------------------------------------------------------------------------------

TOTAL = {**CONFIG, "aggregate": {"command": ["sh", "-c", "echo {} > $HOLDFAST_RESULT"]}}


def test_an_aggregation_runs_on_an_engine_of_its_own(manager: StateManager) -> None:
    """Here by default, and not in the queue that its processes were in."""
    real = {"clock": utc_now, "monotonic": time.monotonic}
    engine, made = ScriptedEngine([ended("0.1")]), []

    def local() -> LocalEngine:
        made.append(LocalEngine())
        return made[-1]

    outcome = conduct(manager, engine, aggregation_engine=local, **real).run(TOTAL)
    assert (code_of(outcome), outcome.state.status) == (0, "aggregated")
    assert (engine.submitted, len(made)) == (["0.1"], 1)
    with pytest.raises(EngineError, match="closed"):
        made[0].start()
    engine = ScriptedEngine([ended("0.1")])
    outcome = conduct(manager, engine, **real).run(TOTAL, fresh=True)
    assert (outcome.state.status, engine.submitted) == ("aggregated", ["0.1"])


def test_an_aggregation_that_waits_in_a_queue_is_left_and_found_there(
    manager: StateManager,
) -> None:
    """Ctrl-C leaves it alone, and a resume does not submit it twice."""
    engine = ScriptedEngine([ended("0.1"), interrupt])
    there = conduct(manager, engine, aggregation_engine=lambda: engine)
    outcome = there.run(TOTAL, experiment_id="exp_a")
    assert code_of(outcome) == 130
    assert outcome.state.status is ExperimentStatus.COMPLETED
    assert engine.submitted == ["0.1", "aggregate.1"]
    folder = manager.folder("exp_a")

    def aggregate(engine: ScriptedEngine) -> None:
        (folder / "results/aggregate.1.json").write_text("{}")
        ended("aggregate.1")(engine)

    engine.story = wait(3, aggregate)
    assert code_of(there.resume("exp_a")) == 0
    assert engine.submitted == ["0.1", "aggregate.1"]


def test_an_aggregation_that_comes_to_its_time_limit_is_tried_again(manager: StateManager) -> None:
    """Its exit 0 proves nothing either."""
    engine = ScriptedEngine([ended("0.1"), *wait(1, ended("aggregate.1", "timeout"))])

    def aggregate(engine: ScriptedEngine) -> None:
        (manager.folder("exp_a") / "results/aggregate.2.json").write_text("{}")
        ended("aggregate.2")(engine)

    engine.story += wait(3, aggregate)
    there = conduct(manager, engine, aggregation_engine=lambda: engine)
    outcome = there.run(TOTAL, experiment_id="exp_a")
    assert (code_of(outcome), engine.submitted[1:]) == (0, ["aggregate.1", "aggregate.2"])


def test_an_aggregation_that_is_refused_fails_with_the_words(manager: StateManager) -> None:
    """Tried again and again, it would be refused again and again."""
    engine = ScriptedEngine([ended("0.1")], takes=1, refuses="over quota")
    outcome = conduct(manager, engine, aggregation_engine=lambda: engine).run(TOTAL)
    assert outcome.state.status is ExperimentStatus.FAILED
    assert "over quota" in str(outcome.state.error_message)


# -- deleting -------------------------------------------------------------------------------------


def test_what_an_engine_is_to_begin_is_not_deleted(manager: StateManager) -> None:
    """It would find its folder gone."""
    run(manager, ScriptedEngine(), leave=True)
    with pytest.raises(AttemptNotOverError, match=r"Slurm \(job 1\) has it"):
        manager.delete("exp_a")
    manager.delete("exp_a", force=True)
