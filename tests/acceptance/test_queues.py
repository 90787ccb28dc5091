"""What views say of attempts that wait in an engine's queue, or run on its nodes.

The records are made by hand, as an engine's words would: every view is tried without a scheduler.
"""

import csv
import io
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.config.experiment_file import load_config
from holdfast.engines import waves
from holdfast.lifecycle.events import PhaseReported, ProcessExited
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading.engines import being_submitted, handed_over, place, waited
from holdfast.reading.progress import Estimate
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager
from shell import Shell

FILE = """
name = "sweep"
command = ["python", "work.py", "{level}"]
[matrix]
level = [1, 2, 3, 4, 5, 6]
[engine]
name = "slurm"
partition = "debug"
"""
NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(hours=3)


@pytest.fixture(autouse=True)
def _now() -> None:
    """A suite takes minutes, and these are moments of each test."""
    global NOW, LONG_AGO
    NOW = datetime.now(UTC)
    LONG_AGO = NOW - timedelta(hours=3)


def submit(folder: Path) -> None:
    """What Slurm is asked for, as the engine writes it before it asks."""
    attempts = [
        Attempt(
            name=AttemptName.of_process("sweep", i, 1, ranks=None), argv=["true"], folder=folder
        )
        for i in range(5)
    ]
    token = waves.token(folder)
    tasks = [[each] for each in attempts]
    wave = waves.write(folder, engine="slurm", token=token, tasks=tasks, made_at=NOW)
    waves.record(
        folder, wave.name, {"job": "12", "cluster": "mini", "submitted_at": NOW.isoformat()}
    )


def handle(index: int, token: str = "") -> dict[str, object]:
    data = {"job": f"12_{index}", **({"token": token} if token else {})}
    return {"engine": "slurm", "data": data, "requested": {"cpus": 2}}


def waiting(claim: Claim) -> None:
    """Process 0 runs on a node, 1 is held, 2 to 4 are queued; 5 is not begun."""
    token = waves.token(claim.folder)
    claim.record("start")
    for index in range(5):
        claim.record("start", index)
    queued = [
        PhaseReported(process=index, attempt=1, at=NOW, phase="queued", handle=handle(index, token))
        for index in range(5)
    ]
    runs = PhaseReported(process=0, attempt=1, at=NOW, host="n1", since=LONG_AGO)
    held = PhaseReported(process=1, attempt=1, at=NOW, phase="held", evidence="JobHeldUser")
    claim.record_many([*queued, runs, held])


@pytest.fixture
def claim(sh: Shell):
    """One that its owner has: handed over, and recorded."""
    file = sh.path / "queue.toml"
    file.write_text(FILE)
    experiment, manager = load_config(file), StateManager(sh.states)
    state = manager.create(
        "sweep",
        num_processes=6,
        config=experiment.to_config(),
        config_hash=experiment.config_hash(sh.states),
        name="sweep",
        cwd=str(experiment.cwd),
    )
    with manager.claim(state.experiment_id) as claimed:
        waiting(claimed)
        submit(manager.folder("sweep"))
        yield claimed


@pytest.fixture
def submitted(claim: Claim) -> str:
    """The same, left to its engine."""
    claim.release()
    return "sweep"


def end(sh: Shell, *indices: int, suffix: str = "exit") -> None:
    """What an attempt leaves where nobody watches it."""
    attempts = sh.states / "sweep" / "attempts"
    attempts.mkdir(exist_ok=True)
    for index in indices:
        record = {"exit_code": 0, "ended_at": NOW.isoformat()} if suffix == "exit" else {}
        name = AttemptName.of_process("sweep", index, 1, ranks=None)
        (attempts / f"{name}.{suffix}").write_text(json.dumps(record))


def test_what_an_owner_drives_is_running_and_its_queue_is_told(sh: Shell, claim: Claim) -> None:
    """A listing says at a glance whether anything runs, or all of it waits."""
    out, _ = sh("ls", env={"COLUMNS": "200"})
    assert "running, 3 queued, 1 held" in out
    [listed] = sh.json("ls")["experiments"]
    assert listed["handed_over"] == {
        "engine": "slurm", "queued": 3, "held": 1, "running": 1, "ended": 0
    }  # fmt: skip


def test_what_is_left_to_an_engine_is_submitted_and_not_stale(sh: Shell, submitted: str) -> None:
    """Nobody drives it, and it goes on all the same: no view calls it dead."""
    out, err = sh("ls", env={"COLUMNS": "200"})
    assert "submitted, 3 queued, 1 held, 1 running" in out
    assert "dead" not in out + err
    page, _ = sh("show", submitted, env={"COLUMNS": "200"})
    assert page.splitlines()[1].endswith(" submitted")
    assert "processes  6: 1 pending, 5 with Slurm\n" in page
    assert "Slurm      3 queued, 1 held, 1 running\n" in page
    assert "what Slurm has" in page


def test_a_copy_does_not_have_the_jobs_of_the_original(sh: Shell, submitted: str) -> None:
    """They are recorded in it, and are another folder's all the same."""
    shutil.copytree(sh.states, sh.path / "copy")
    assert "submitted" in sh("ls")[0]
    out, _ = sh("-C", "copy", "ls")
    assert "running" in out
    assert "submitted" not in out
    assert "held" not in out
    [listed] = sh.json("-C", "copy", "ls")["experiments"]
    assert listed["handed_over"] is None
    page, _ = sh("-C", "copy", "show", submitted)
    assert "what Slurm has" not in page
    assert "5 running" in page.splitlines()[2]


def test_what_an_engine_has_ended_is_not_called_running(sh: Shell, submitted: str) -> None:
    """It is the engine's until it is collected, and said once."""
    end(sh, *range(5))
    lines = sh("show", submitted)[0].splitlines()
    assert lines[2:4] == ["processes  6: 1 pending, 5 with Slurm", "Slurm      5 ended"]


def test_elapsed_is_counted_from_what_began_first(sh: Shell, claim: Claim) -> None:
    """Process 0 began three hours ago; the queue before that is not counted."""
    [listed] = sh.json("ls")["experiments"]
    assert 10_700 < listed["elapsed_s"] < 11_400


def test_show_says_where_each_is_and_since_when(sh: Shell, submitted: str) -> None:
    """Times of what runs count from its real start, of what waits from its submission."""
    page, _ = sh("show", submitted, env={"COLUMNS": "200"})
    rows = page.split("what Slurm has\n")[1].split("\n\n")[0].splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["0", "1", "2", "3", "4"]  # held before queued
    assert "3h 00m  running: Slurm job 12_0 on n1" in rows[0]
    assert "held: Slurm job 12_1 (JobHeldUser)" in rows[1]
    assert "queued: Slurm job 12_2" in rows[2]
    one, _ = sh("show", f"{submitted}/1", env={"COLUMNS": "200"})
    assert "engine     held for" in one
    assert "submitted  20" in one
    assert "started" not in one


def test_what_ended_since_is_told_and_taken_in_by_a_resume(sh: Shell, submitted: str) -> None:
    """Its files say it, before anybody has recorded it."""
    end(sh, 0, 2)
    end(sh, 3, suffix="live")
    out, err = sh("ls", env={"COLUMNS": "200"})
    assert "submitted, 1 queued, 1 held, 1 running, 2 ended" in out
    assert (
        "2 of the 5 that Slurm ran of sweep have ended; collect them: holdfast resume sweep"
        in (" ".join(err.split()))
        or "resume sweep" in err
    )
    found = sh.json("show", submitted)
    assert found["handed_over"]["ended"] == 2


def test_a_resume_says_what_has_begun_since(sh: Shell, submitted: str) -> None:
    """Not what was recorded when somebody looked last."""
    end(sh, 3, suffix="live")
    _, err = sh("resume", "--engine", "local", submitted, code=5)
    assert "Slurm has 2 queued, 1 held, 2 running" in err


def test_json_has_phase_handle_and_submission(sh: Shell, submitted: str) -> None:
    """For who draws its own picture."""
    found = sh.json("show", submitted)
    by_phase = [each.get("phase") for each in found["processes"]]
    assert by_phase == ["running", "held", "queued", "queued", "queued", None]
    assert found["processes"][2]["handle"] == handle(2, waves.token(sh.states / submitted))
    assert "started_at" not in found["processes"][2]
    assert found["processes"][2]["submitted_at"] is not None


def test_an_export_has_the_queue_in_columns_of_its_own(sh: Shell, submitted: str) -> None:
    """And none of them where nothing was ever queued."""
    rows = list(csv.DictReader(io.StringIO(sh("export", submitted)[0])))
    assert [row["phase"] for row in rows][:3] == ["running", "held", "queued"]
    assert rows[2]["submitted_at"]
    assert rows[2]["started_at"] == ""
    lines = [json.loads(line) for line in sh("export", "--jsonl", submitted)[0].splitlines()]
    assert lines[1]["phase"] == "held"
    sh("run", "e.toml")
    header = sh("export", "squares")[0].splitlines()[0].split(",")
    assert "phase" not in header
    assert {"max_rss_bytes", "cpu_s"} <= set(header)


def test_usage_is_shown_and_exported(sh: Shell, claim: Claim) -> None:
    """What was asked for, beside what was used: the next request can be smaller."""
    usage = {"queued_s": 300.0, "requested_cpus": 2, "max_rss_bytes": 3 << 29, "cpu_s": 7200.0}
    claim.note(ProcessExited(process=0, attempt=1, at=NOW, exit_code=0, usage=usage, ended_at=NOW))
    claim.release()
    page, _ = sh("show", "sweep/0", env={"COLUMNS": "200"})
    assert "waited 5m 00s in the queue, 1.6 GB by its largest program, 2h 00m of CPU" in page
    row = next(csv.DictReader(io.StringIO(sh("export", "sweep")[0])))
    assert (row["queued_s"], row["cpu_s"]) == ("300.0", "7200.0")
    assert float(row["duration_s"]) == pytest.approx(3 * 3600, abs=60)  # without the queue


def test_cleanup_names_what_an_engine_has_and_leaves_it(sh: Shell, submitted: str) -> None:
    """A submitted experiment is not stale, whoever asks, and with --force."""
    for words in (("cleanup",), ("cleanup", "--force"), ("cleanup", "-n")):
        out, err = sh(*words)
        assert submitted not in out
        assert "sweep is not stale: Slurm has 3 queued, 1 held, 1 running" in err
        assert "stop sweep" in err
    [left] = sh.json("cleanup")["left"]
    assert left["handed_over"]["queued"] == 3
    assert StateManager(sh.states).load(submitted).status is ExperimentStatus.RUNNING


def test_a_long_queue_is_cut_and_what_runs_comes_first() -> None:
    """Ten thousand lines that say the same help nobody; the numbers are of all of them."""
    processes = {
        index: ProcessProgress(
            status=ProcessStatus.RUNNING, attempt=1, phase="queued", submitted_at=NOW,
            handle=handle(index),
        )
        for index in range(10_000)
    }  # fmt: skip
    state = ExperimentState(
        experiment_id="e", status=ExperimentStatus.RUNNING, process_progress=processes
    )
    having = handed_over(state)
    assert having is not None
    assert (str(having), len(having.waits)) == ("10,000 queued", 10_000)


def test_nobody_knows_how_long_a_queue_takes() -> None:
    """What waits has no time of its own, and no view says when it will be done."""
    done = ProcessProgress(
        status=ProcessStatus.COMPLETED, attempt=1, started_at=LONG_AGO, completed_at=NOW
    )
    queued = ProcessProgress(
        status=ProcessStatus.RUNNING, attempt=1, phase="queued", submitted_at=LONG_AGO
    )
    runs = ProcessProgress(status=ProcessStatus.RUNNING, attempt=1, started_at=NOW)
    estimate = Estimate()
    estimate.ended(done)
    state = ExperimentState(experiment_id="e", process_progress={0: done, 1: queued})
    assert estimate.left_s(state, NOW) is None
    state = ExperimentState(experiment_id="e", process_progress={0: done, 1: queued, 2: runs})
    assert estimate.left_s(state, NOW) == pytest.approx(2 * 3 * 3600)


def test_words_of_a_process() -> None:
    """However little an engine has told."""
    bare = ProcessProgress(status=ProcessStatus.RUNNING, phase="queued", handle={"engine": "x\ny"})
    assert (place(bare), waited(bare, NOW)) == ("x y", "queued")
    assert place(ProcessProgress(status=ProcessStatus.RUNNING, host="here")) == ""
    there = ProcessProgress(
        status=ProcessStatus.RUNNING, phase="running", host="n1", handle=handle(3)
    )
    assert place(there) == "Slurm job 12_3 on n1"


def test_what_is_being_submitted_does_not_run_yet(tmp_path: Path) -> None:
    """Between its recorded start and its scheduler's answer, which a dead controller delays."""
    started = ProcessProgress(status=ProcessStatus.RUNNING, attempt=1, started_at=NOW)
    config = {"command": ["true"], "engine": {"name": "slurm"}}
    state = ExperimentState(experiment_id="e", config=config, process_progress={0: started})
    assert being_submitted(state) == [0]
    here = ExperimentState(experiment_id="e", config={}, process_progress={0: started})
    assert being_submitted(here) == []


def test_what_an_engine_is_asked_can_change_for_good(sh: Shell) -> None:
    """Recorded with the resume, as limits are, and legal to the doctor."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    (sh.path / "bad").unlink()
    _, err = sh("resume", "-n", "--set", "engine.memory=8G", "@last")
    assert "engine.memory none → 8G" in err
    _, err = sh("resume", "--set", "engine.memory=8G", "@last")
    assert "engine.memory none → 8G" in err
    found = sh.json("show", "@last")
    assert found["experiment"]["config"]["engine"] == {"memory": "8G"}
    assert "engine.memory none → 8G" in sh("show", "--history", "@last")[0]
    sh("doctor")


def test_waiting_for_what_was_left_ends_with_it(sh: Shell, submitted: str) -> None:
    """`wait` goes by exit records; the engine is asked now and then, and need not answer."""
    end(sh, 0, 1, 2, 3, 4)
    _, err = sh("wait", submitted, code=7)
    assert "submitted, 0 of 6 processes completed; all that Slurm ran has ended" in err
    assert "resume sweep" in err


def test_waiting_gives_up_in_time(sh: Shell, submitted: str) -> None:
    """A queue may take days."""
    _, err = sh("wait", "--timeout", "500ms", submitted, code=124)
    assert "waiting for Slurm: 3 queued, 1 held, 1 running" in err
    assert "not over yet: submitted" in err
