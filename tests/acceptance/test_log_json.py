"""`--log-json`: every line on stderr is one JSON object, whatever happens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = [sys.executable, "-c", "import sys; from holdfast.cli import main; sys.exit(main())"]


def run(folder: Path, *words: str) -> tuple[int, str, list[dict[str, Any]]]:
    """The exit code, what went to stdout, and what the lines on stderr say."""
    done = subprocess.run([*PROGRAM, *words], cwd=folder, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    for each in lines:
        assert each["schema"] == "holdfast.log/1"
        assert {"at", "level", "event", "experiment_id", "index", "words"} <= each.keys()
    return done.returncode, done.stdout, lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "e.toml").write_text(
        'command = ["sh", "-c", "exit {code}"]\n'
        "matrix = { code = [0, 3] }\n"
        'hooks = { on_failure = ["false"] }\n'
    )
    return tmp_path


def test_a_run_says_its_transitions_its_notes_and_its_outcome(folder):
    """In the order in which they were recorded, each with what it is about."""
    code, _, lines = run(folder, "run", "--log-json", "e.toml")
    assert code == 3
    steps = [(each["index"], each["event"], each["to"]) for each in lines if "to" in each]
    assert [each for each in steps if each[0] == 1 and each[1] != "phase"] == [
        (1, "start", "running"),
        (1, "fail", "failed"),
    ]
    assert [each for each in steps if each[0] is None] == [
        (None, "start", "running"),
        (None, "fail", "failed"),
        (None, "hook", "failed"),
        (None, "hook", "failed"),
    ]
    (outcome,) = (each for each in lines if each["event"] == "outcome")
    assert (outcome["status"], outcome["failed"], outcome["total"]) == ("failed", 1, 2)
    assert (outcome["exit_code"], outcome["level"]) == (3, "error")
    notes = [each["words"] for each in lines if each["event"] == "note"]
    assert any("the hook on_failure failed" in each for each in notes)
    assert {each["experiment_id"] for each in lines} == {outcome["experiment_id"]}


def test_stdout_is_what_it_was(folder):
    """Data is not logged: it stays where it was, whole."""
    code, out, _ = run(folder, "run", "--log-json", "--json", "e.toml")
    assert code == 3
    assert json.loads(out)["schema"] == "holdfast.outcome/1"
    code, out, lines = run(folder, "wait", "--log-json", "@last")
    assert (code, out) == (3, "")
    assert [each["exit_code"] for each in lines if each["event"] == "outcome"] == [3]


def test_who_watches_sees_transitions_too(folder):
    """As states are seen now and then, without their events; in the end the outcome."""
    (folder / "slow.toml").write_text(
        'command = ["sh", "-c", "until test -e go; do sleep 0.05; done"]\n'
    )
    code, out, _ = run(folder, "run", "--log-json", "--detach", "slow.toml")
    assert code == 0
    with subprocess.Popen(
        [*PROGRAM, "watch", "--log-json", out.strip()],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stderr is not None
        lines = [json.loads(watching.stderr.readline())]
        (folder / "go").touch()
        lines += [json.loads(each) for each in watching.stderr]
    assert watching.returncode == 0
    seen = [(each["index"], each["to"]) for each in lines if each["event"] == "seen"]
    assert (0, "completed") in seen
    assert seen[-1] == (None, "aggregated")
    (outcome,) = (each for each in lines if each["event"] == "outcome")
    assert (outcome["status"], outcome["exit_code"]) == ("aggregated", 0)


@pytest.mark.parametrize(
    ("words", "code", "event"),
    [
        (("run", "--log-json", "--no-such"), 2, "error"),
        (("run", "--log-json", "missing.toml"), 2, "error"),
        (("resume", "--log-json", "unknown"), 4, "error"),
        (("run", "--log-json", "--procs", "1", "--", "echo", "$HOME"), 0, "warning"),
    ],
)
def test_errors_and_warnings_are_lines_too(folder, words, code, event):
    """Also of a command line that cannot be parsed."""
    found, _, lines = run(folder, *words)
    assert found == code
    assert event in [each["event"] for each in lines]


def test_an_option_of_the_command_that_is_run_is_not_ours(folder):
    """What stands behind `--` is no word for us."""
    done = subprocess.run(
        [*PROGRAM, "run", "--procs", "1", "--", "echo", "--log-json"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("running exp_")
