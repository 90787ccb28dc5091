"""Words, tables and estimates of the command line, without a terminal."""

import contextlib
import errno
import io
import os
import pickle
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli import failures
from holdfast.cli.live import Progress
from holdfast.cli.where import Where
from holdfast.errors import StateWriteError
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, ProcessTable
from holdfast.reading import text
from holdfast.reading.progress import Estimate
from holdfast.status import ProcessStatus
from holdfast.store.manager import StateManager

NOW = datetime(2024, 1, 15, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0 s"),
        (0.84, "0.8 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m 00s"),
        (3599.6, "1h 00m"),
        (7500, "2h 05m"),
        (86399, "23h 59m"),
        (266400, "3d 02h"),
    ],
)
def test_a_duration_is_short_and_never_says_60(seconds: float, words: str) -> None:
    """Two units at most."""
    assert text.duration(seconds) == words


@given(st.floats(0, 8e7))
def test_every_duration_fits_a_column(seconds: float) -> None:
    """However long."""
    assert len(text.duration(seconds)) <= 9


@given(st.sets(st.integers(0, 60)))
def test_ranges_name_every_index_once(indices: set[int]) -> None:
    """`0-3, 7` stands for exactly what it was made of."""
    found: list[int] = []
    for part in filter(None, text.ranges(sorted(indices)).split(", ")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    assert found == sorted(indices)


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=5))
def test_columns_are_aligned_whatever_is_in_them(rows: list[tuple[str, str]]) -> None:
    """Wide and combining characters take the columns that a terminal gives them."""
    cells = [(text.one_line(a), text.one_line(b)) for a, b in rows]
    lines = text.table(("A", "B"), cells, stream=io.StringIO())
    wide = max(1, *(text.width(a) for a, _ in cells))
    for line, (_, second) in zip(lines[1:], cells, strict=True):
        assert text.width(line) <= wide + 2 + text.width(second)
        if second.strip():
            assert line.endswith(second.rstrip())


@given(st.text(max_size=30), st.integers(1, 10))
def test_what_is_cut_fits(words: str, columns: int) -> None:
    """And is left alone if it fits anyway."""
    found = text.cut(words, columns)
    assert text.width(found) <= columns
    assert found == words or found.endswith(("…", "~"))


@given(st.text())
def test_one_line_is_one_harmless_line(words: str) -> None:
    """Whatever somebody called it."""
    assert text.one_line(words).isprintable()


@pytest.mark.parametrize("word", ["plain", "two words", "it's", "x\x1b[31m'\\\n\u202e", "größe"])
def test_a_command_can_be_pasted_and_shown(word: str) -> None:
    """The shell reads the very word, the terminal nothing that drives it."""
    import subprocess

    command = Where(option=word).command("show", word)
    assert command.isprintable()
    _, _, arguments = command.partition(" -C ")
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {arguments}"],
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split("\0")[:-1] == [word, "show", word]


def test_a_path_that_cannot_be_searched_spoils_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message that names a command looks there for this program."""
    monkeypatch.setenv("PATH", os.pathsep.join(["x" * 5000, os.environ["PATH"]]))
    monkeypatch.setattr(sys, "argv", ["/nowhere/holdfast"])
    assert Where().command("ls") == "/nowhere/holdfast ls"


def test_a_display_that_missed_steps_tells_of_their_failures(state_dir: Path) -> None:
    """What it did not see, the states still tell: a queue that was full forgot the oldest steps."""
    manager, steps = StateManager(state_dir), []
    manager.create("e", num_processes=4)
    over = threading.Event()

    def observe(state: ExperimentState, changes: Sequence[Change]) -> None:
        steps.append((state, changes))
        if len(steps) == 6:
            over.set()

    with manager.claim("e", on_step=observe) as claim:
        claim.record("start")
        claim.record_many([("start", index) for index in range(4)])
        for index, code in ((0, 1), (1, 2), (3, 3)):
            claim.record("fail", index, exit_code=code)
        claim.record("complete", 2, exit_code=0)
        assert over.wait(10)
    told: list[str] = []
    display = Progress(manager.folder, lambda state: None, lambda state: [])
    with contextlib.redirect_stderr(io.StringIO()) as err:
        display.step(*steps[0])
        display.step(*steps[-1])
    told = err.getvalue().splitlines()
    assert [line for line in told if line.startswith("failed process")] == [
        "failed process 0: exit code 1",
        "failed process 1: exit code 2",
        "failed process 3: exit code 3",
    ]


def test_who_looks_now_and_then_misses_no_failure(state_dir: Path) -> None:
    """The state tells of it, be it one step older or many."""
    manager = StateManager(state_dir)
    manager.create("e", num_processes=2)
    display = Progress(manager.folder, lambda state: None, lambda state: [])
    with manager.claim("e") as claim, contextlib.redirect_stderr(io.StringIO()) as err:
        claim.record("start")
        claim.record_many([("start", 0), ("start", 1)])
        display.step(claim.state, ())
        claim.record("fail", 0, exit_code=3)
        display.step(claim.state, ())
    assert "failed process 0: exit code 3" in err.getvalue().splitlines()


def _process(status: ProcessStatus, since_s: float, lasted_s: float | None) -> ProcessProgress:
    began = NOW - timedelta(seconds=since_s)
    ended = None if lasted_s is None else began + timedelta(seconds=lasted_s)
    return ProcessProgress(status=status, attempt=1, started_at=began, completed_at=ended)


def test_the_estimate_counts_what_waits_and_what_runs() -> None:
    """Two at a time, 10 s each, two half way, two waiting: both begin in 5 s."""
    estimate = Estimate()
    done = _process(ProcessStatus.COMPLETED, 20, 10)
    running = _process(ProcessStatus.RUNNING, 5, None)
    state = ExperimentState(
        experiment_id="x",
        num_processes=5,
        process_progress={0: done, 1: running, 2: running},
    )
    assert estimate.left_s(state, NOW) is None
    estimate.ended(done)
    assert estimate.left_s(state, NOW) == pytest.approx(5 + 10)
    assert estimate.left_s(state, NOW, held=2) == pytest.approx(5)


def test_what_is_held_back_is_counted_apart(tmp_path: Path) -> None:
    """Nobody waits for it, be it never tried or failed before."""
    again = attrs.evolve(_process(ProcessStatus.PENDING, 20, 10), failures=1)
    failed = attrs.evolve(again, status=ProcessStatus.FAILED)
    state = ExperimentState(
        experiment_id="x",
        num_processes=5,
        process_progress={
            0: _process(ProcessStatus.RUNNING, 5, None),
            1: again,
            2: again,
            3: failed,
        },
    )
    shown = Progress(lambda _: tmp_path, lambda _: None, lambda _: [])
    assert shown.counts(state) == "0 of 5 completed, 1 failed, 1 running, 2 to be tried again"
    shown.hold({2, 3, 4})
    assert shown.counts(state) == (
        "0 of 5 completed, 1 failed, 1 running, 1 to be tried again, 2 held back"
    )


@given(st.sets(st.integers(0, 199)))
def test_a_table_knows_what_changed_since_a_former_version(changed: set[int]) -> None:
    """Every replaced entry, and no other."""
    before = ProcessTable.pending(200)
    entries = {index: ProcessProgress(attempt=1) for index in changed}
    assert before.replace(entries).changed_since(before) == sorted(changed)


@pytest.mark.parametrize(
    ("verb", "fresh", "path", "again"),
    [
        ("rm", False, "exp_1/journal", "then repeat `rm`"),
        ("aggregate", False, "exp_1/aggregate.json", "then repeat `aggregate`"),
        ("run", True, ".run.lock", "then repeat `run`"),
        ("run", True, "exp_2.json", "then repeat `run`"),
        ("run", True, "exp_1/journal", "then go on: "),
        ("run", False, "exp_1/journal", "then repeat `run`"),
    ],
)
def test_a_full_disk_asks_for_space_and_for_what_goes_on(
    state_dir: Path, verb: str, fresh: bool, path: str, again: str
) -> None:
    """The same again, unless a fresh experiment was made by then: that is resumed."""
    StateManager(state_dir).create("exp_1")
    where = Where(option=str(state_dir), verb=verb, fresh=fresh)
    error = StateWriteError.of(state_dir / path, "writing", OSError(errno.ENOSPC, "full"))
    for each in (error, pickle.loads(pickle.dumps(error))):
        words = failures.told(each, where)
        assert "free some space, " in words
        assert again in words
        assert ("resume exp_1" in words) == again.startswith("then go on")


def test_a_lock_that_may_not_be_had_is_not_waited_for(state_dir: Path) -> None:
    """Only what another run holds comes free by itself."""
    refused = StateWriteError.of(Path(".run.lock"), "locking", PermissionError(errno.EACCES, ""))
    assert "nothing was made; make sure that you may" in str(refused)
    with (
        StateManager(state_dir).run_lock(),
        pytest.raises(StateWriteError, match="nothing was made; wait for it, then"),
        StateManager(state_dir).run_lock(wait_s=0.01),
    ):
        pass
