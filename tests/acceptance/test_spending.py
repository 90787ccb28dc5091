"""What all attempts of a process took together, beside what the last one took."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.attempts.names import AttemptName, attempts_dir, error_path
from holdfast.results.spending import attempts_duration_s
from holdfast.store.manager import StateManager
from shell import FILE, Shell

ID = "exp_7"
BEGIN = datetime(2024, 1, 15, 12, 0, tzinfo=UTC)


class Clock:
    """Shows the time that it is set to, in seconds after the beginning."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> datetime:
        return BEGIN + timedelta(seconds=self.at_s)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manager(state_dir: Path, clock: Clock) -> StateManager:
    """An experiment of two processes, whose first attempt of process 0 began at 0."""
    found = StateManager(state_dir, clock=clock)
    found.create(ID, num_processes=2)
    with found.claim(ID) as claim:
        claim.record("start")
        claim.record("start", 0)
    return found


def spent(manager: StateManager) -> dict[int, float]:
    return attempts_duration_s(manager.load(ID), manager.folder(ID))


def goes_on(
    manager: StateManager, clock: Clock, *steps: tuple[float, str], **facts: object
) -> None:
    """A later owner records *steps* of process 0, each at its time."""
    with manager.claim(ID) as claim:
        for clock.at_s, event in steps:
            claim.record(event, 0, **facts)  # type: ignore[arg-type]


def test_failed_attempts_count_and_pauses_between_them_do_not(
    manager: StateManager, clock: Clock
) -> None:
    """Three attempts of 5, 10 and 20 seconds, with an hour between them."""
    with manager.claim(ID) as claim:
        clock.at_s = 5
        claim.record("fail", 0, exit_code=1, reason="exit")
        for begin, event, end in [(3600, "fail", 3610), (7200, "complete", 7220)]:
            clock.at_s = begin
            claim.record("requeue", 0, max_attempts=3)
            claim.record("start", 0)
            clock.at_s = end
            claim.record(event, 0, exit_code=int(event == "fail"), reason="exit")
        clock.at_s = 8000
        claim.record("start", 1)
        assert spent(manager) == {0: 35}, "what still runs is not counted"
        clock.at_s = 8004
        claim.record("complete", 1, exit_code=0)
    assert spent(manager) == {0: 35, 1: 4}


def test_an_attempt_that_died_unseen_lived_as_long_as_it_left_traces(
    manager: StateManager, clock: Clock
) -> None:
    """A night between the death and the resume is not what it took."""
    folder = manager.folder(ID)
    attempts_dir(folder).mkdir(exist_ok=True)
    log = error_path(folder, AttemptName(ID, 0, 1))
    log.write_text("epoch 3\n")
    os.utime(log, (BEGIN.timestamp() + 90,) * 2)
    steps = [(40_000, "requeue"), (40_000, "start"), (40_010, "complete")]
    goes_on(manager, clock, *steps, proven_dead=True, exit_code=0)
    assert spent(manager) == {0: 100}
    log.unlink()
    assert spent(manager) == {0: 10}, "nothing is made up"


def test_an_attempt_that_was_stopped_unseen_took_what_its_outcome_says(
    manager: StateManager, clock: Clock
) -> None:
    """Its shim wrote down when it ended."""
    folder = manager.folder(ID)
    attempts_dir(folder).mkdir(exist_ok=True)
    ended = (BEGIN + timedelta(seconds=7)).isoformat()
    record = {"exit_code": 0, "stop_requested": "user", "ended_at": ended}
    (attempts_dir(folder) / f"{AttemptName(ID, 0, 1)}.exit").write_text(json.dumps(record))
    steps = [(40_000, "requeue"), (40_000, "start"), (40_010, "complete")]
    goes_on(manager, clock, *steps, proven_dead=True, exit_code=0)
    assert spent(manager) == {0: 17}


def test_what_the_journals_do_not_tell_is_not_made_up(manager: StateManager, clock: Clock) -> None:
    """Damaged, or removed: no time, and no error either."""
    steps = [(5, "requeue"), (6, "start"), (7, "complete")]
    goes_on(manager, clock, *steps, proven_dead=True, exit_code=0)
    state, folder = manager.load(ID), manager.folder(ID)
    assert set(attempts_duration_s(state, folder)) == {0}
    first = folder / "journal" / "00000001.jsonl"
    first.write_bytes(b"nonsense\n" + first.read_bytes())
    assert attempts_duration_s(state, folder) == {}
    shutil.rmtree(folder)
    assert attempts_duration_s(state, folder) == {}


def test_the_table_has_it_where_something_was_tried_again(sh: Shell) -> None:
    """At a run's end, by show and for programs; without retries there is no such column."""
    out, _ = sh("run", "e.toml")
    assert out.splitlines()[0].split() == ["#", "level", "square", "level.level", "time"]
    retry = '[retry]\nmax_attempts = 2\nbackoff = "0s"\n[env]\nOTHER = "work"\n'
    (sh.path / "e.toml").write_text(FILE + retry)
    worker = (sh.path / "work.py").read_text()
    first = 'os.environ["HOLDFAST_ATTEMPT"] == "1"'
    (sh.path / "work.py").write_text(worker.replace('os.path.exists("bad")', first))
    out, _ = sh("run", "e.toml")
    header = out.splitlines()[0]
    assert header.split()[-4:] == ["attempts", "time", "all", "attempts"]
    assert header in sh("show", "@last")[0]
    processes = sh.json("show", "@last")["processes"]
    aggregate = sh.json("aggregate", "@last")["aggregate"]
    assert isinstance(processes, list)
    assert isinstance(aggregate, dict)
    assert [row["attempts"] for row in aggregate["rows"]] == [1, 2, 1]
    totals = [each["attempts_duration_s"] for each in processes]
    assert totals == [row["attempts_duration_s"] for row in aggregate["rows"]]
    for total, row in zip(totals, aggregate["rows"], strict=True):
        if row["attempts"] == 1:
            assert total == row["duration_s"]
        else:
            assert total > row["duration_s"]
