"""What all views share: failures in groups, attempts over time, curves of what was reported."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import experiments
from holdfast.attempts.names import attempts_dir, progress_path
from holdfast.lifecycle.events import PhaseReported, ProcessExited
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, Ranks
from holdfast.reading import grouping, reasons
from holdfast.reading.curves import curves, thinned
from holdfast.reading.spans import spans
from holdfast.status import ProcessStatus, Reason
from holdfast.store.attempted import attempt_of
from holdfast.store.manager import StateManager

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def failure(*kind: object, how: str = "exit code 1") -> reasons.Failure:
    return reasons.Failure(how, None, kind, Reason.EXIT)


def tried(size: int, **more: object) -> ExperimentState:
    entry = ProcessProgress(status=ProcessStatus.COMPLETED, attempt=1)
    return ExperimentState(
        experiment_id="exp_7",
        num_processes=size,
        process_progress=dict.fromkeys(range(size), entry),
        **more,  # type: ignore[arg-type]
    )


def report(folder: Path, state: ExperimentState, index: int, *lines: object) -> Path:
    attempts_dir(folder).mkdir(exist_ok=True)
    path = progress_path(folder, attempt_of(state, index))
    with path.open("a") as file:
        for line in lines:
            file.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    return path


def test_the_most_frequent_failure_comes_first_and_then_the_one_that_began():
    """Each group says the words of its first process, whose log stands for all."""
    found = {5: failure("b"), 1: failure("a", how="first"), 3: failure("b"), 9: failure("c")}
    groups = grouping.groups(found)
    assert [each.indices for each in groups] == [(3, 5), (1,), (9,)]
    assert [each.sample_index for each in groups] == [3, 1, 9]
    assert (groups[1].words, groups[1].reason) == ("first", Reason.EXIT)


def test_interruptions_are_no_failures(manager: StateManager):
    """They are counted by attempt; without the history, a reason may be lost."""
    state = experiments.sweep(manager, 20, failures=2, interruptions=3)
    (known,) = grouping.interruptions(state, manager.history("sweep"))
    assert (known.reason, known.count, len(known.indices)) == (Reason.LOST, 3, 3)
    (unknown,) = grouping.interruptions(state)
    assert (unknown.reason, unknown.count, unknown.indices) == (None, 3, known.indices)
    failed = grouping.groups(reasons.failures(manager.folder("sweep"), state))
    assert sum(len(each.indices) for each in failed) == 2


def test_every_attempt_has_its_span(manager: StateManager):
    """Those that failed before another, those that were lost, and the last of each process."""
    state = experiments.sweep(manager, 30, failures=3, retries=4, interruptions=2)
    found = spans(state, manager.folder("sweep"))
    attempts = [(each.index, each.attempt) for each in found]
    assert attempts == sorted(set(attempts))
    assert dict(attempts) == {
        index: process.attempt for index, process in state.process_progress.items()
    }
    assert len(found) == sum(each.attempt for each in state.process_progress.values())
    for each in found:
        assert each.started_at is not None
        assert each.ended_at is not None
        assert each.started_at <= each.ended_at
    outcomes = [each.outcome for each in found]
    assert outcomes.count("interrupted") == 2
    assert outcomes.count("completed") == 27
    lost = [each for each in found if each.outcome == "interrupted"]
    assert {each.reason for each in lost} == {Reason.LOST}
    last = {each.index: each for each in found}
    for index, process in state.process_progress.items():
        assert last[index].started_at == process.started_at
        assert last[index].host == process.host


def test_what_waited_in_a_queue_is_told_apart_from_what_ran(manager: StateManager):
    """Of one that ended, too; one that was taken out of the queue never began."""
    handle = {"engine": "slurm", "data": {"job": "7"}}
    manager.create("queue", num_processes=3)
    with manager.claim("queue") as claim:
        claim.record("start")
        for index in range(3):
            claim.record("start", index)
        of = [{"process": index, "attempt": 1, "at": NOW} for index in range(3)]
        claim.record_many([PhaseReported(**each, phase="queued", handle=handle) for each in of])
        claim.record_many([PhaseReported(**e, host="n1", since=NOW + MINUTE) for e in of[:2]])
        claim.record_many(
            [
                ProcessExited(**of[0], exit_code=0, ended_at=NOW + 2 * MINUTE),
                ProcessExited(**of[2], reason=Reason.PREEMPTED, engine_end="cancelled"),
            ]
        )
        state = manager.load("queue")
        done, runs, taken = spans(state, manager.folder("queue"))
    submitted = state.processes[1].submitted_at
    assert submitted is not None
    assert (done.outcome, done.started_at, done.host) == ("completed", NOW + MINUTE, "n1")
    assert (runs.outcome, runs.started_at, runs.ended_at) == ("running", NOW + MINUTE, None)
    assert runs.submitted_at == submitted
    assert taken.outcome == "interrupted"
    assert taken.started_at is None


def test_what_runs_has_no_end(manager: StateManager):
    """And what has not begun has no span."""
    with experiments.going_on(manager, 12, running=4, pending=6):
        state = manager.load("going-on")
        found = spans(state, manager.folder("going-on"))
    assert [each.ended_at for each in found if each.outcome == "running"] == [None] * 4
    assert {each.index for each in found} == {
        index for index, each in state.process_progress.items() if each.attempt
    }


def test_without_journals_the_last_attempts_are_known_all_the_same(tmp_path: Path):
    """Of a state that another tool made, or whose journals cannot be read."""
    began = NOW - timedelta(minutes=5)
    ended = ProcessProgress(
        status=ProcessStatus.FAILED, attempt=3, started_at=began, completed_at=NOW
    )
    waits = ProcessProgress(
        status=ProcessStatus.RUNNING, attempt=1, phase="queued", submitted_at=began
    )
    state = ExperimentState(experiment_id="exp_7", process_progress={0: ended, 2: waits})
    first, second = spans(state, tmp_path)
    assert (first.index, first.attempt, first.outcome) == (0, 3, "failed")
    assert (first.started_at, first.ended_at) == (began, NOW)
    assert (second.outcome, second.submitted_at, second.started_at) == ("queued", began, None)


def test_a_curve_is_over_steps_else_over_time_else_over_reports(tmp_path: Path):
    """Whatever of them every report has, and orders them."""
    state = tried(3)
    report(tmp_path, state, 0, {"step": 0, "loss": 2, "time": 5}, {"step": 10, "loss": 1.5})
    report(tmp_path, state, 1, {"time": 100.0, "loss": 1}, {"time": 101.5, "loss": 2, "acc": 0.5})
    report(tmp_path, state, 2, {"loss": 1}, {"message": "on"}, {"loss": 3})
    found = curves(state, tmp_path)
    assert (found[0].x, found[0].lines) == ("step", {"loss": [(0, 2), (10, 1.5)]})
    assert (found[1].x, found[1].lines) == ("s", {"loss": [(0, 1), (1.5, 2)], "acc": [(1.5, 0.5)]})
    assert (found[2].x, found[2].lines) == ("report", {"loss": [(0, 1), (2, 3)]})


@pytest.mark.parametrize(
    "line",
    [
        *("", "{", "[1]", "null", '{"loss": NaN}', '{"loss": 1e999}', '{"loss": true}'),
        *('{"loss": "1"}', '{"loss": ' + "9" * 400 + "}", "[" * 70_000, '{"' + "x" * 70_000),
        "\x00" * 50,
    ],
)
def test_what_is_no_report_is_no_point(tmp_path: Path, line: str):
    """Files of programs hold anything, and may be torn anywhere."""
    state = tried(1)
    report(tmp_path, state, 0, line, {"step": 1, "loss": 1}, line, {"step": 2, "loss": 3})
    with progress_path(tmp_path, attempt_of(state, 0)).open("a") as file:
        file.write('{"step": 3, "lo')
    assert curves(state, tmp_path)[0].lines["loss"][-1] in [(2, 3), (3, 3)]


def test_nothing_but_a_file_is_read(tmp_path: Path):
    """A FIFO would block, a link lead elsewhere."""
    state = tried(2)
    attempts_dir(tmp_path).mkdir()
    os.mkfifo(progress_path(tmp_path, attempt_of(state, 0)))
    (tmp_path / "secret").write_text('{"step": 1, "loss": 1}\n')
    progress_path(tmp_path, attempt_of(state, 1)).symlink_to(tmp_path / "secret")
    assert curves(state, tmp_path) == {}


def test_of_a_long_file_only_the_end_is_read_and_that_is_said(tmp_path: Path):
    """It may have been cut down, too, which its size betrays."""
    state = tried(2)
    report(tmp_path, state, 0, *({"step": n, "loss": n} for n in range(60_000)))
    report(tmp_path, state, 1, {"step": 1, "loss": 1}, {"step": 2, "loss": 1})
    found = curves(state, tmp_path, points=50)
    assert found[0].trimmed
    assert not found[1].trimmed
    line = found[0].lines["loss"]
    assert len(line) <= 50
    assert line[-1] == (59_999, 59_999)


def test_of_many_processes_some_from_everywhere_are_shown(tmp_path: Path):
    """The first and the last are among them."""
    state = tried(250)
    for index in range(250):
        report(tmp_path, state, index, {"step": 1, "loss": 1}, {"step": 2, "loss": 1})
    found = list(curves(state, tmp_path, most=10))
    assert len(found) == 10
    assert (found[0], found[-1]) == (0, 249)


def test_ranks_share_the_file_of_their_launcher(tmp_path: Path):
    """Each line is of the rank that it names; of none, of the first."""
    state = tried(2, ranks=Ranks(count=2))
    lines = [{"step": n, "loss": n + 10 * rank, "rank": rank} for n in (1, 2) for rank in (0, 1)]
    report(tmp_path, state, 0, *lines, {"step": 3, "loss": 0})
    found = curves(state, tmp_path)
    assert found[0].lines["loss"] == [(1, 1), (2, 2), (3, 0)]
    assert found[1].lines["loss"] == [(1, 11), (2, 12)]


def test_a_thinned_curve_keeps_its_ends_and_its_peaks():
    """What a plot of all points would show."""
    line = [(float(n), 0.0) for n in range(10_000)]
    line[5000], line[7000] = (5000.0, 99.0), (7000.0, -99.0)
    found = thinned(line, 100)
    assert len(found) <= 100
    assert found[0] == line[0]
    assert found[-1] == line[-1]
    assert {line[5000], line[7000]} <= set(found)
    assert found == sorted(found)
