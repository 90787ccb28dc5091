"""Going on with a part: `retry`, `resume --only`, `--set limits.…`, what is said of the rest."""

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast import doctor
from holdfast.lifecycle.records import ExperimentState
from holdfast.store.manager import StateManager
from processes import hear
from shell import Shell
from waiting import PATIENCE_S, until

WORKER = """
import json, os, sys, time
index, attempt = os.environ["HOLDFAST_INDEX"], os.environ["HOLDFAST_ATTEMPT"]
open(f"began.{index}.{attempt}", "w").close()
while os.path.exists(f"hold.{index}"):
    time.sleep(0.01)
if os.path.exists(f"bad.{index}"):
    sys.exit(f"bad {index}")
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"square": int(index) ** 2}, file)
"""

FILE = """
name = "parts"
command = ["python", "work.py"]
processes = 6
[limits]
jobs = 2
timeout = "1h"
grace = "2s"
"""


class Parts:
    """Six processes of which some fail as long as their file is there."""

    def __init__(self, sh: Shell) -> None:
        self.sh = sh
        (sh.path / "work.py").write_text(WORKER)
        (sh.path / "e.toml").write_text(FILE)

    def touch(self, *names: str) -> None:
        for name in names:
            (self.sh.path / name).touch()

    def remove(self, *names: str) -> None:
        for name in names:
            (self.sh.path / name).unlink()

    def failed(self, *indices: int) -> None:
        """Run it, so that these have failed; they would not fail again."""
        names = [f"bad.{index}" for index in indices]
        self.touch(*names)
        self.sh("run", "e.toml", code=3)
        self.remove(*names)

    @property
    def state(self) -> ExperimentState:
        return StateManager(self.sh.states).load(self.sh.only_id())

    @property
    def attempts(self) -> list[int]:
        return [process.attempt for process in self.state.processes.values()]

    @property
    def statuses(self) -> str:
        """The first letter of each."""
        return "".join(process.status[0] for process in self.state.processes.values())

    def events(self) -> list[dict[str, object]]:
        found = self.sh.json("show", "--history", "@last")["history"]
        assert isinstance(found, list)
        return found

    def is_sound(self) -> None:
        assert [each for each in doctor.examine(self.sh.states) if each.severity == "problem"] == []


@pytest.fixture
def parts(sh: Shell) -> Parts:
    return Parts(sh)


def test_a_retry_tries_what_failed_and_nothing_else(parts: Parts) -> None:
    """All of it, or what is named; then the experiment is done."""
    parts.failed(1, 3, 4)
    _, err = parts.sh("retry", "@last", "--only", "3")
    assert "held back until the next resume: processes 1, 4\n" in err
    assert "failed before, and held back: processes 1, 4" in err
    assert "\nfailed:" not in err  # these did not fail now
    assert (parts.statuses, parts.attempts) == ("cfccfc", [1, 1, 1, 2, 1, 1])
    assert parts.state.status == "failed"
    parts.sh("retry", f"{parts.sh.only_id()}/4")
    assert parts.statuses == "cfcccc"
    _, err = parts.sh("retry", "@last")
    assert "6 processes completed and aggregated" in err
    assert parts.attempts == [1, 2, 1, 2, 2, 1]
    parts.is_sound()


def test_a_retry_that_fails_again_says_so_of_what_it_tried(parts: Parts) -> None:
    """Exit code 3, with the budget that it was given anew."""
    parts.failed(1, 3)
    parts.touch("bad.1")
    _, err = parts.sh("retry", "@last", "--only", "1", code=3)
    assert "process 1, attempt 2" in err
    assert "bad 3" not in err
    assert "failed: 2 of 6 processes failed: 1, 3" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry", "@last", "--only", "0,2-3"], "processes 0, 2, 3 have not failed (process 1 has"),
        (["retry", "@last/0"], "process 0 has not failed (process 1 has)"),
        (["resume", "@last", "--only", "5"], "process 5 is completed"),
        (["resume", "@last/5", "--set", "limits.timeout=4h"], "process 5 is completed"),
    ],
)
def test_where_nothing_is_to_be_done_nothing_is_touched(
    parts: Parts, arguments: Sequence[str], says: str
) -> None:
    """Not even claimed: exit code 0, and what would be done next."""
    parts.failed(1)
    before = parts.state
    out, err = parts.sh(*arguments)
    assert f"nothing to do: {says}" in err
    assert "next: " in err
    assert "\nfailed:" not in f"\n{err}"
    assert out == ""
    assert parts.state == before


def test_a_retry_of_what_did_not_fail_has_nothing_to_do(parts: Parts) -> None:
    """Completed, or aggregated, whose result is shown; and of failed, where only that failed."""
    parts.sh("run", "e.toml", "--no-aggregate")
    _, err = parts.sh("retry", "@last")
    assert "nothing to do: no process has failed; 6 of 6 processes completed" in err
    assert "next: " in err
    assert "aggregate" in err
    parts.sh("aggregate", "@last")
    _, err = parts.sh("retry", "@last")
    assert "aggregated already, nothing to do" in err
    _, err = parts.sh("resume", "@last", "--only", "3")
    assert "aggregated already, nothing to do" in err
    assert parts.attempts == [1] * 6


def test_a_failed_aggregation_is_no_failed_process(parts: Parts) -> None:
    """A retry says what failed, and what repeats it."""
    (parts.sh.path / "e.toml").write_text(FILE + '[aggregate]\ncommand = ["false"]\n')
    parts.sh("run", "e.toml", code=3)
    _, err = parts.sh("retry", "@last")
    assert "nothing to do: no process has failed (aggregation: " in err
    assert "aggregate exp_" in err.split("next: ")[1]


def test_what_is_named_starts_and_the_rest_waits(parts: Parts) -> None:
    """Never tried, interrupted or failed; the experiment is interrupted, and a resume runs all."""
    for index in (0, 1):
        parts.touch(f"hold.{index}")
    run = parts.sh.start("run", "e.toml")
    parts.sh.began(2)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE_S)
    parts.remove("hold.0", "hold.1")
    assert parts.statuses == "pppppp"
    _, err = parts.sh("resume", "@last", "--only", "1,4-5")
    assert "held back until the next resume: processes 0, 2, 3\n" in err
    assert "interrupted: held back: processes 0, 2, 3; 3 of 6 processes completed" in err
    assert f"resume {parts.sh.only_id()}" in err.split("next: ")[1]
    assert (parts.statuses, parts.state.reason) == ("pcppcc", "user")
    assert parts.attempts == [1, 2, 0, 0, 1, 1]
    document = parts.sh.json("resume", "@last", "--only", "2")
    assert (document["held"], document["exit_code"]) == ([0, 3], 0)
    parts.sh("resume", "@last")
    assert (parts.statuses, parts.attempts) == ("cccccc", [2, 2, 1, 1, 1, 1])
    parts.is_sound()


def test_a_failed_process_that_is_named_has_a_fresh_budget(parts: Parts) -> None:
    """Also of an experiment that was interrupted, whose failed ones a resume leaves alone."""
    parts.touch("bad.0", "hold.1", "hold.2")
    run = parts.sh.start("run", "e.toml")
    parts.sh.began(3)
    until(lambda: parts.statuses[0] == "f")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE_S)
    parts.remove("bad.0", "hold.1", "hold.2")
    assert parts.statuses == "fppppp"
    plan = parts.sh.json("retry", "@last", "-n")["processes"]
    assert [each["action"] for each in plan] == ["run", *["hold"] * 5]  # type: ignore[attr-defined]
    parts.sh("retry", "@last")
    assert (parts.statuses, parts.attempts[0]) == ("cppppp", 2)


def test_a_dry_run_says_what_would_be_held_and_touches_nothing(parts: Parts) -> None:
    """The same plan that the real one follows, with the limits that would change."""
    parts.failed(1, 3)
    before = parts.state
    out, err = parts.sh("resume", "@last", "-n", "--only", "3", "--set", "limits.timeout=4h")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        *(["0", "skip"], ["1", "hold"], ["2", "skip"]),
        *(["3", "run"], ["4", "skip"], ["5", "skip"]),
    ]
    assert "limits.timeout 1h → 4h" in err
    assert "1 of 6 processes would be run, 1 held back" in err
    assert parts.state == before
    parts.touch("bad.3")
    parts.sh("resume", "@last", "--only", "3", code=3)
    assert parts.attempts == [1, 1, 1, 2, 1, 1]


def test_what_runs_is_taken_over_whatever_is_named(parts: Parts) -> None:
    """An orchestrator was killed: what it started ends by itself, and is not run a second time."""
    parts.touch("hold.0", "hold.1")
    run = parts.sh.start("run", "e.toml")
    parts.sh.began(2)
    run.kill()
    run.communicate()
    resumed = parts.sh.start("resume", "@last", "--only", "5")
    assert resumed.stderr is not None
    hear(resumed.stderr, "processes 0, 1 run, and are not stopped\n")
    parts.remove("hold.0", "hold.1")
    _, err = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 0, err
    assert (parts.statuses, parts.attempts) == ("ccpppc", [1, 1, 0, 0, 0, 1])
    parts.is_sound()


def test_a_retry_that_is_killed_leaves_nothing_held(parts: Parts) -> None:
    """Holding back belongs to the run: the next resume adopts what runs, and goes on with all."""
    parts.failed(1, 3, 5)
    parts.touch("hold.3")
    retry = parts.sh.start("retry", "@last", "--only", "3")
    until(lambda: (parts.sh.path / "began.3.2").exists())
    retry.kill()
    retry.communicate()
    assert parts.statuses == "cfcrcf"
    _, err = parts.sh("retry", "@last", "-n")
    assert "2 of 6 processes would be run, 1 taken over" in err
    parts.remove("hold.3")
    parts.sh("resume", "@last", code=3)
    # As of every experiment whose owner died: what had failed is tried again once it has failed.
    assert parts.statuses == "cfcccf"
    parts.sh("resume", "@last")
    assert parts.attempts == [1, 2, 1, 2, 1, 2]
    parts.is_sound()


def test_an_interrupted_part_says_how_to_go_on_with_it(parts: Parts) -> None:
    """Beside the resume of everything."""
    parts.failed(1, 3, 4)
    parts.touch("hold.3", "hold.4")
    retry = parts.sh.start("retry", "@last", "--only", "3-4")
    until(lambda: (parts.sh.path / "began.4.2").exists())
    retry.send_signal(signal.SIGTERM)
    _, err = retry.communicate(timeout=PATIENCE_S)
    assert retry.returncode == 143
    again = f"resume --only 3-4 {parts.sh.only_id()}\n"
    assert f"or only what this was about: {Path(sys.executable).name} -m holdfast {again}" in err
    parts.remove("hold.3", "hold.4")
    parts.sh("resume", "--only", "3-4", parts.sh.only_id())
    assert parts.statuses == "cfcccc"


def test_a_part_that_a_deadline_ended_says_how_to_go_on_with_it(parts: Parts) -> None:
    """What it was about is pending by then: `retry` would find nothing, and change no limit."""
    parts.failed(1, 3, 4)
    _, err = parts.sh("retry", "@last", "--only", "3-4", "--set", "limits.deadline=1ms", code=3)
    given = re.search(r"resume --only 3-4 (--set limits.deadline=[^ ]+) exp", err)
    assert given is not None, err
    _, err = parts.sh("retry", "@last", "--only", "3-4", "--set", "limits.deadline=1h")
    assert "limits.deadline 1ms → 1h: not recorded, since nothing is to be run\n" in err
    assert parts.state.config["limits"]["deadline"] == "1ms"
    parts.sh("retry", "@last", "--only", "3", "--set", "limits.deadline=1x", code=2)
    parts.sh("resume", "--only", "3-4", "--set", "limits.deadline=1h", "@last")
    assert parts.statuses == "cfcccc"
    parts.is_sound()


def test_somebody_else_runs_it(parts: Parts) -> None:
    """Then its owner is named, as for a resume of everything."""
    parts.touch("hold.0")
    run = parts.sh.start("run", "e.toml")
    parts.sh.began(1)
    _, err = parts.sh("retry", "@last", code=5)
    assert f"owned by pid {run.pid}" in err
    parts.sh("resume", "@last", "--only", "3", code=5)
    parts.remove("hold.0")
    run.communicate(timeout=PATIENCE_S)


# -- limits ---------------------------------------------------------------------------------------


def test_a_limit_is_changed_for_good(parts: Parts) -> None:
    """It stands in the history, and the next resume has it, too; the work is the same."""
    parts.failed(1, 3)
    config_hash = parts.state.config_hash
    parts.touch("bad.3")
    _, err = parts.sh(
        *("retry", "@last", "--set", "limits.timeout=1ms", "--set", "limits.jobs=1"), code=3
    )
    assert "limits.jobs 2 → 1; limits.timeout 1h → 1ms\n" in err
    assert parts.state.config["limits"] == {"timeout": "1ms", "jobs": 1, "grace": "2s"}
    _, err = parts.sh("resume", "@last", code=3)  # as it is now
    assert [str(parts.state.processes[i].reason) for i in (1, 3)] == ["timeout", "timeout"]
    parts.remove("bad.3")
    parts.sh("resume", "@last", "--set", "limits.timeout=none")
    state = parts.state
    assert (state.status, state.config_hash) == ("aggregated", config_hash)
    assert state.config["limits"]["timeout"] is None
    assert "timeout = none, grace" in parts.sh("show", "@last")[0]
    told = [each["evidence"] for each in parts.events() if each["event"] == "retry"]
    assert told == [
        "limits.jobs 2 → 1; limits.timeout 1h → 1ms", None, "limits.timeout 1ms → none"
    ]  # fmt: skip
    # The file finds its experiment, whatever limits that has by now.
    assert "aggregated already" in parts.sh("run", "e.toml")[1]
    parts.is_sound()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("retry.max_attempts=3", "--set changes only limits and engine of an experiment that"),
        ("command=[ls]", "not command (as in --set limits.timeout=4h)"),
        ("timeout=4h", "not timeout; did you mean limits.timeout?"),
        ("limits=4h", "only limits and engine of an experiment"),
        ("memory=8G", "did you mean engine.memory?"),
        ("limits.timeout", "--set needs KEY=VALUE"),
        ("limits.tiemout=4h", "limits.tiemout: unknown key (did you mean timeout?)"),
        ("limits.timeout=4x", "limits.timeout: expected a duration"),
        ("limits.jobs=none", None),
        ("limits.grace=none", "limits.grace: expected a duration"),
    ],
)
def test_only_limits_can_be_set(parts: Parts, words: str, says: str | None) -> None:
    """Everything else belongs to the work, or to the file; nothing is started."""
    parts.failed(1)
    before = parts.state
    _, err = parts.sh("resume", "@last", "-n", "--set", words, code=0 if says is None else 2)
    if says is not None:
        assert says in err
        assert says in parts.sh("retry", "@last", "--set", words, code=2)[1]
    assert parts.state == before


def test_what_runs_keeps_the_limits_that_it_was_started_with(parts: Parts) -> None:
    """Said where it matters."""
    parts.touch("hold.0", "hold.1")
    run = parts.sh.start("run", "e.toml")
    parts.sh.began(2)
    run.kill()
    run.communicate()
    resumed = parts.sh.start("resume", "@last", "--set", "limits.timeout=4h")
    assert resumed.stderr is not None
    hear(resumed.stderr, "limits.timeout 1h → 4h; what runs already keeps what it was started with")
    parts.remove("hold.0", "hold.1")
    resumed.communicate(timeout=PATIENCE_S)
    assert parts.statuses == "cccccc"


@pytest.mark.parametrize(
    ("only", "says"),
    [
        ("6", "--only names processes that are not there: 6;"),
        ("1,4-9", "not there: 6, 7, 8, 9;"),
        ("0-999999999", "no experiment has so many processes"),
        ("99999999999999999999", "no experiment has so many processes"),
        ("3-1", "3-1 ends before it begins"),
        ("1-", "'1-' is no process"),
        ("-1", "'-1' is no process"),
        ("one", "'one' is no process"),
        ("", "'' is no process"),
        ("1,,2", "'' is no process"),
        ("²", "'²' is no process"),
    ],
)
def test_indices_that_are_none_are_refused(parts: Parts, only: str, says: str) -> None:
    """Exit code 2, and nothing is started."""
    parts.failed(1)
    before = parts.state
    for command in ("retry", "resume"):
        _, err = parts.sh(command, "@last", f"--only={only}", code=2)
        assert says in " ".join(err.split())
    assert parts.state == before


def test_one_process_is_named_in_one_way(parts: Parts) -> None:
    """And what makes a new experiment holds nothing back."""
    parts.failed(1)
    _, err = parts.sh("retry", "@last/1", "--only", "1", code=2)
    assert "@last/1 is one process" in err
    _, err = parts.sh("resume", "@last/1", "--rerun-changed", code=2)
    assert "of which nothing is held back" in err
    parts.sh("retry", "nothing", "--only", "1", code=4)
    _, err = parts.sh("retry", "@last/7", code=2)
    assert "has processes 0 to 5, no 7" in err


def test_a_lost_result_runs_again_only_if_it_is_named(parts: Parts) -> None:
    """Else it is found, and waits for the next resume."""
    parts.sh("run", "e.toml", "--no-aggregate")
    for index in (1, 3):
        (parts.sh.states / parts.sh.only_id() / "results" / f"{index}.1.json").unlink()
    _, err = parts.sh("resume", "@last", "--only", "0,3")
    assert "process 0 is completed, not run again" in err
    assert "held back until the next resume: process 1\n" in err
    assert (parts.statuses, parts.attempts) == ("cpcccc", [1, 1, 1, 2, 1, 1])
    parts.sh("resume", "@last")
    assert parts.attempts == [1, 2, 1, 2, 1, 1]
    parts.is_sound()


def test_what_others_have_finished_completes_only_what_is_named(parts: Parts) -> None:
    """A new experiment of more processes: those that are held back are not reused either."""
    work = "[matrix]\nlevel = [1, 2, 3]\n"
    text = FILE.replace("processes = 6\n", "")
    (parts.sh.path / "e.toml").write_text(text + work)
    parts.sh("run", "e.toml")
    (parts.sh.path / "e.toml").write_text(text + work.replace("3]", "3, 4, 5]"))
    parts.touch("hold.3", "hold.4")
    run = parts.sh.start("run", "e.toml")
    parts.sh.began(5)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE_S)
    parts.remove("hold.3", "hold.4")
    newest = parts.sh.json("show", "@last")["experiment"]["experiment_id"]  # type: ignore[index]
    manager = StateManager(parts.sh.states)
    # Its results are lost, so that they would be reused once more.
    for index in (0, 1):
        [path] = (manager.folder(newest) / "results").glob(f"{index}.*.json")
        os.unlink(path)
    parts.sh("resume", "@last", "--only", "1,4")
    found = manager.load(newest).processes
    assert "".join(process.status[0] for process in found.values()) == "pccpc"
    assert json.loads((manager.folder(newest) / "results" / "4.2.json").read_text())
