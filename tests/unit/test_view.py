"""What a screen says of an experiment that goes on: what counts most, in any number of lines."""

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import experiments
from holdfast import StateManager
from holdfast.attempts.names import AttemptName, progress_path
from holdfast.cli.watching import Shown
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading import reasons, text
from holdfast.reading.evidence import parameters, tail
from holdfast.reading.view import View
from holdfast.status import ProcessStatus, Reason

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)


def view_of(manager: StateManager, state: ExperimentState) -> View:
    view = View(manager.folder)
    view.params = parameters(state)
    view.look_back(state)
    view.update(state)
    return view


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> View:
    """Failures of three kinds, interruptions, retries, and seven that run and report."""
    manager = StateManager(tmp_path_factory.mktemp("story") / ".experiment_state")
    wanted = {"failures": 7, "groups": 3, "interruptions": 4, "retries": 3, "curves": 56}
    with experiments.going_on(manager, 60, running=7, pending=4, **wanted) as claim:
        return view_of(manager, claim.state)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=st.integers(20, 200), rows=st.integers(1, 60))
def test_every_size_has_lines_that_fit(story: View, columns: int, rows: int) -> None:
    """None is wider, there are no more than asked for, and the first one counts."""
    lines = story.lines(columns, rows, datetime.now(UTC))
    assert len(lines) <= rows
    assert max(text.width(words) for words, _ in lines) <= columns
    assert "of 60" in lines[0][0]


def test_failures_come_first_by_their_reason_and_interruptions_apart(story: View) -> None:
    """The most frequent reason first, each with its processes and the end of a log."""
    words = [words for words, _ in story.lines(120, 40, datetime.now(UTC))]
    heads = [line for line in words if re.match(r"(failed|interrupted) ", line)]
    assert [line.split(":")[0] for line in heads] == [
        "failed 3 processes", "failed 2 processes", "failed 2 processes",
        "interrupted 4 processes",
    ]  # fmt: skip
    at = words.index(heads[0])
    assert re.match(r"  last: process \d+ \(lr=.*\); all: \d+, \d+, \d+$", words[at + 1])
    assert words[at + 2].startswith("  | ")
    header = next(line for line in words if "PROC" in line)
    assert header.split() == ["PROC", "RAN", "PROG", "ETA", "BEAT", "CPU", "MEM"]
    rows = words[words.index(header) + 1 :]
    assert len(rows) == 7
    assert all(re.search(r"150/300 50%  .*  lr=.* loss=", row) for row in rows)


def test_a_small_window_says_what_it_leaves_out(story: View) -> None:
    """At 60 × 15 there are a reason, and the first that run."""
    words = [words for words, _ in story.lines(59, 12, datetime.now(UTC))]
    assert any(line.startswith("failed 3 processes: ") for line in words)
    assert any(re.fullmatch(r"  … and \d more running", line) for line in words)


def test_who_has_stalled_stands_before_all_others(tmp_path: Path) -> None:
    """However many run: whoever looks wants to know whether something hangs."""
    manager = StateManager(tmp_path / ".experiment_state")
    with experiments.going_on(manager, 60, running=40, curves=60, width=40) as claim:
        last = max(claim.state.processes.indices(ProcessStatus.RUNNING))
        config = dict(claim.state.config) | {"limits": {"stall": "1h"}}
        state = attrs.evolve(claim.state, config=config)
        view = view_of(manager, state)
        found = view._running.stand(state, claim.folder, datetime.now(UTC))
        view._running._found = {last: attrs.evolve(found[last], stalled=True)}
        assert (
            view._running._chosen(state, state.processes.indices(ProcessStatus.RUNNING), 5)[0]
            == last
        )


def test_what_is_tried_again_is_said_until_it_fails_for_good(tmp_path: Path) -> None:
    """Then that is all it says; and nothing once somebody has it tried again."""
    began = datetime.now(UTC) - timedelta(seconds=20)
    failed = ProcessProgress(
        status=ProcessStatus.FAILED, attempt=1, failures=1, started_at=began,
        completed_at=datetime.now(UTC), exit_code=3, reason=Reason.EXIT,
    )  # fmt: skip
    state = ExperimentState(
        experiment_id="x", num_processes=2, status="running", process_progress={0: failed}
    )
    view = View(lambda _: tmp_path)
    found = reasons.failure(tmp_path, state, 0)
    view.failed(state, [0], found, again=True)
    view.update(state)

    def said() -> list[str]:
        return [
            words
            for words, _ in view.lines(80, 20, datetime.now(UTC))
            if words.startswith("failed")
        ]

    assert said() == ["failed process 0, tried again: exit code 3"]
    view.failed(state, [0], found, again=False)
    assert said() == ["failed process 0: exit code 3"]
    pending = attrs.evolve(failed, status=ProcessStatus.PENDING)
    view.update(attrs.evolve(state, process_progress=state.processes.replace({0: pending})))
    assert said() == []


def reporting(folder: Path, step: int) -> None:
    """Have the one process of `WATCHED` report *step* of 60, at `NOW`."""
    path = progress_path(folder, AttemptName("x", "0", 1))
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "total": 60}) + "\n")
    at_ns = int(NOW.timestamp() * 1e9)
    os.utime(path, ns=(at_ns, at_ns))


def row(view: View, after_s: float) -> list[str]:
    """RAN, PROG and BEAT in the frame that is drawn *after_s* past `NOW`."""
    lines = view.lines(100, 20, NOW + timedelta(seconds=after_s))
    head, cells = (re.split(r"\s{2,}", words.strip()) for words, _ in lines[-2:])
    found = dict(zip(head, cells, strict=False))
    return [found[name] for name in ("RAN", "PROG", "BEAT")]


WATCHED = ExperimentState(
    experiment_id="x", num_processes=1, status="running",
    process_progress={0: ProcessProgress(status="running", attempt=1, started_at=NOW)},
)  # fmt: skip


def test_each_frame_of_watch_shows_what_was_reported_since_the_one_before(tmp_path: Path) -> None:
    """However close two frames are: they are drawn once a second, give or take a little."""
    shown = Shown("x", lambda _: tmp_path)
    shown.join()
    for step, after_s in ((1, 0.9), (2, 1.88), (3, 2.9)):
        reporting(tmp_path, step)
        shown.step(WATCHED, ())
        age = text.duration(after_s)
        assert row(shown.view, after_s) == [age, f"{step}/60 {step * 100 // 60}%", age]


def test_a_frame_between_two_looks_has_a_heartbeat_that_is_older(tmp_path: Path) -> None:
    """What draws more often than it looks never calls an old report fresh."""
    view = View(lambda _: tmp_path)
    view.update(WATCHED)
    reporting(tmp_path, 3)
    assert row(view, 1.0) == ["1.0 s", "3/60 5%", "1.0 s"]
    reporting(tmp_path, 6)
    assert row(view, 1.5) == ["1.5 s", "3/60 5%", "1.5 s"]


def test_what_ended_before_counts_for_the_estimate(story: View, tmp_path: Path) -> None:
    """Whoever begins to watch late knows how long processes take."""
    state = story.state
    assert state is not None
    silent = View(lambda _: tmp_path)
    silent.update(state)
    assert re.search(r", about .+ left$", silent.counts(state, datetime.now(UTC)))
    silent.driven = False
    assert not silent.counts(state, datetime.now(UTC)).endswith("left")


def test_a_log_is_shown_without_its_colours_and_earlier_states(tmp_path: Path) -> None:
    """A bar is drawn a hundred times; a view has a line for it."""
    log = tmp_path / "0.1.err"
    log.write_bytes(b"first\r\n 10%|#\r 99%|##\r100%|###\n\x1b[31mValueError: x\x1b[0m\x07\n")
    assert tail(log, 3, plain=True) == ["first", "100%|###", "ValueError: x\\x07"]
