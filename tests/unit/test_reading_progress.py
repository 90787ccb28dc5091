"""What is shown of running processes: cells, sums, time left; of hostile reports, too."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest

from holdfast.attempts.names import attempts_dir, progress_path
from holdfast.attempts.progress import Progress
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, Ranks
from holdfast.reading import progress
from holdfast.reading.progress import Estimate, Looks, Standing
from holdfast.status import ProcessStatus

NOW = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)


def running(size: int, *, since_s: float = 10, pending: int = 0, **more: object) -> ExperimentState:
    began = NOW - timedelta(seconds=since_s)
    entry = ProcessProgress(status=ProcessStatus.RUNNING, attempt=1, started_at=began)
    return ExperimentState(
        experiment_id="exp_7",
        num_processes=size + pending,
        process_progress=dict.fromkeys(range(size), entry),
        **more,  # type: ignore[arg-type]
    )


def report(folder: Path, index: int, *lines: object, state: ExperimentState) -> None:
    """Have process *index* write *lines* now, which is NOW."""
    attempts_dir(folder).mkdir(exist_ok=True)
    path = progress_path(folder, progress.attempt_of(state, index))
    with path.open("a") as file:
        for line in lines:
            file.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    at_ns = int(NOW.timestamp() * 1e9)
    os.utime(path, ns=(at_ns, at_ns))


def standing(step: float | None, total: float | None = None, **more: object) -> Standing:
    said = Progress(step=step, total=total, at=NOW)
    return Standing(progress=said, **{"age_s": 1.2, "remaining_s": None, "stalled": False, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, ("", "", "")),
        (standing(3, 90, remaining_s=130.0), ("3/90 3%", "2m 10s", "1.2 s")),
        (standing(899, 900), ("899/900 99%", "", "1.2 s")),
        (standing(95, 90), ("95/90 100%", "", "1.2 s")),
        (standing(-1, 90), ("-1/90 0%", "", "1.2 s")),
        (standing(0.5, 1.5), ("0.5/1.5 33%", "", "1.2 s")),
        (standing(3, 0), ("3/0", "", "1.2 s")),
        (standing(1e15, 5e-324), ("1e+15/4.94066e-324 100%", "", "1.2 s")),
        (standing(3), ("3", "", "1.2 s")),
        (standing(None, 90), ("?/90", "", "1.2 s")),
        (standing(None, stalled=True, age_s=725.0), ("", "", "12m 05s, stalled")),
    ],
)
def test_how_far_it_is_fits_into_three_cells(
    found: Standing | None, words: tuple[str, str, str]
) -> None:
    """Nothing is 100% before it is done."""
    assert progress.cells(found) == words


def test_before_anything_completed_the_reports_say_when_it_will_be_done(tmp_path: Path) -> None:
    """Two of three are at a third after 10 s; one says nothing; a fourth waits for its turn."""
    state = running(3, pending=1)
    for index in (0, 1):
        report(tmp_path, index, {"step": 10, "total": 30}, state=state)
    found = progress.standings(state, tmp_path, NOW)
    assert {index: each.remaining_s for index, each in found.items()} == {0: 20, 1: 20}
    assert Estimate().left_s(state, NOW) is None
    # 30 s for each, three at a time: the fourth begins when one of them is done.
    assert Estimate().left_s(state, NOW, found) == pytest.approx(20 + 30)


def test_the_slowest_is_waited_for(tmp_path: Path) -> None:
    """With nothing left to start, the others do not help it."""
    state = running(2)
    report(tmp_path, 0, {"step": 1, "total": 101}, state=state)
    report(tmp_path, 1, {"step": 100, "total": 101}, state=state)
    sums = progress.sums(state, tmp_path, NOW)
    assert sums is not None
    assert sums.remaining_s == pytest.approx(1000)
    assert (sums.step, sums.total, sums.age_s, sums.stalled) == (101, 202, 0, 0)
    assert progress.cells(sums) == ("101/202 50%", "16m 40s", "0.0 s")


def test_sums_are_of_those_that_report(tmp_path: Path) -> None:
    """Without a total of each there is none; the newest heartbeat counts; stalls are counted."""
    state = running(3, config={"limits": {"stall": "15m"}})
    assert progress.sums(state, tmp_path, NOW) is None
    report(tmp_path, 0, {"step": 4}, state=state)
    report(tmp_path, 2, {"step": 5, "total": 9}, state=state)
    late = NOW + timedelta(minutes=15)
    sums = progress.sums(state, tmp_path, late)
    assert sums is not None
    assert sums.form() == {
        "step": 9, "total": None, "heartbeat_age_s": 900.0, "stalled": 2, "eta_s": None,
    }  # fmt: skip
    assert progress.cells(sums) == ("9", "", "15m 00s, 2 stalled")
    [first] = progress.standings(state, tmp_path, late, only=2).items()
    assert (first[0], first[1].stalled, first[1].remaining_s) == (2, True, None)


@pytest.mark.parametrize("limit", [None, "soon", True, [], {}, -1])
def test_a_limit_that_is_none_stalls_nothing(tmp_path: Path, limit: object) -> None:
    """A configuration that was made by hand may hold anything."""
    state = running(1, config={"limits": {"stall": limit}})
    report(tmp_path, 0, {"step": 4}, state=state)
    found = progress.standings(state, tmp_path, NOW + timedelta(days=400))
    assert not found[0].stalled


HUGE = "9" * 4000


@pytest.mark.parametrize(
    "line",
    [
        {"step": 1e300, "total": 1e308, "x": 10**200},
        {"step": -1e14, "total": 1e-300},
        {"step": 1e-300, "total": 1e15, "time": -1e300},
        f'{{"step": {HUGE}, "total": NaN, "loss": NaN, "y": Infinity, "time": 1e999}}',
        {
            "step": 1,
            "total": 2,
            "message": "\x1b[31m\n" * 90,
            "\x1b[2J": "\x07",
            "k" * 99: "v" * 999,
        },
        {str(key): key for key in range(5000)},
    ],
)
def test_hostile_reports_are_shown_without_harm(tmp_path: Path, line: object) -> None:
    """Numbers beyond all counting, what JSON lacks, and words that a terminal would obey."""
    state = running(2)
    report(tmp_path, 0, line, line, state=state)
    report(tmp_path, 1, line, state=state)
    for now in (NOW, NOW + timedelta(days=1), NOW - timedelta(days=1)):
        found = progress.standings(state, tmp_path, now)
        sums = progress.sums(state, tmp_path, now)
        assert sums is not None
        json.dumps([progress.form(found[0]), sums.form()], allow_nan=False)
        words = (*progress.cells(found[0]), *progress.cells(sums), progress.said(found[0].progress))
        assert all(word.isprintable() and len(word) <= 200 for word in words)


def test_the_last_words_are_message_and_values(tmp_path: Path) -> None:
    """A loss that is no number any more is not hidden behind the last one that was."""
    state = running(1)
    report(tmp_path, 0, {"message": "warm", "loss": 0.5, "n": 3}, '{"loss": NaN}', state=state)
    [found] = progress.standings(state, tmp_path, NOW).values()
    assert progress.said(found.progress) == "warm loss=NaN n=3"
    form = progress.form(found)
    assert form is not None
    assert form["values"] == {"loss": None, "n": 3}


def test_ranks_that_are_alike_share_a_row() -> None:
    """Those of one launcher; others never do."""
    rows = [(index, ("a" if index != 2 else "b",)) for index in range(8)]
    gangs = running(8, ranks=Ranks(count=4))
    assert progress.alike(gangs, rows) == [
        ([0, 1], ("a",)), ([2], ("b",)), ([3], ("a",)), ([4, 5, 6, 7], ("a",)),
    ]  # fmt: skip
    assert len(progress.alike(running(8), rows)) == 8


def test_who_looks_again_and_again_looks_once_a_second(tmp_path: Path) -> None:
    """However often it draws; what ended is not followed any more."""
    state, seconds = running(2), [5.0]
    looks = Looks(lambda: seconds[0])
    report(tmp_path, 0, {"step": 1}, state=state)
    first = looks.at(state, tmp_path, NOW)
    assert first[0].progress.step == 1
    report(tmp_path, 0, {"step": 2}, state=state)
    seconds[0] += 0.9
    assert looks.at(state, tmp_path, NOW) is first
    seconds[0] += 0.2
    later = NOW + timedelta(seconds=1)
    assert looks.at(state, tmp_path, later)[0].progress.step == 2
    ended = attrs.evolve(state.processes[0], status=ProcessStatus.COMPLETED)
    seconds[0] += 1
    after = attrs.evolve(state, process_progress=state.processes.replace({0: ended}))
    assert looks.at(after, tmp_path, later + timedelta(seconds=1)) == {}


def test_each_frame_looks_where_frames_are_as_rare_as_looks(tmp_path: Path) -> None:
    """A frame that is early by some milliseconds shows what was reported since the one before."""
    state, seconds = running(1), [5.0]
    looks = Looks(lambda: seconds[0], every_s=0)
    for step, frame_s in enumerate((0.0, 0.98, 2.0)):
        now = NOW + timedelta(seconds=frame_s)
        seconds[0] = 5.0 + frame_s
        report(tmp_path, 0, {"step": step}, state=state)
        found = looks.at(state, tmp_path, now)
        assert (found[0].progress.step, found[0].age_s) == (step, frame_s)
        seconds[0] += 0.01
        report(tmp_path, 0, {"step": 99}, state=state)
        assert looks.at(state, tmp_path, now) is found  # the same frame
