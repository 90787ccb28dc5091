"""`ls`, `show` and `logs` as people read them, in terminals of any width, and as programs do."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from holdfast import StateManager
from holdfast.reading import text
from processes import hear
from shell import Shell, Terminal
from waiting import PATIENCE_S, until

LONG = "sweep-of-the-learning-rate-20261126-a"
LONGEST = "a-very-long-id-of-an-experiment-that-was-named-after-everything-that-is-in-it-2026"
UTF8 = {"LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
SEQUENCE = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def many(sh: Shell) -> Shell:
    """Experiments of every kind, none of which ever ran."""
    manager = StateManager(sh.states)
    experiments.sweep(manager, 12, experiment_id=LONG, failures=3, groups=1, interruptions=1)
    experiments.sweep(manager, 6, experiment_id="good")
    experiments.sweep(manager, 6, experiment_id=LONGEST, interrupted=True, pending=2)
    manager.create("new", name="実験：大規模な学習 \x1b[31m\u202eevil" + "m" * 100)
    return sh


def screen(sh: Shell, *args: str, columns: int, **env: str) -> list[str]:
    terminal = Terminal(sh, *args, columns=columns, **{**UTF8, **env})
    assert terminal.exit_code() == 0
    return terminal.seen.replace("\r\n", "\n").splitlines()


# -- ls -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_listing_fits_the_terminal_and_cuts_no_id(many: Shell, columns: int) -> None:
    """Only an id that is wider than the terminal is, alone on its row."""
    lines = screen(many, "ls", columns=columns)
    assert lines[0].split()[0] == "ID"
    assert {"STATE", "DONE", "FAIL"} <= set(lines[0].split())
    assert all(text.width(line) <= columns or line == LONGEST for line in lines)
    for name in (LONG, "good", LONGEST, "new"):
        assert sum(line.split()[0] == name for line in lines) == 1
    page = "\n".join(lines)
    for words in ("✗ failed", "Σ aggregated", "‖ interrupted", "○ initialised"):
        assert words in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_locale_without_signs_has_ascii(many: Shell) -> None:
    """Python writes UTF-8 under LANG=C all the same."""
    page = "\n".join(screen(many, "ls", columns=80, LC_ALL="C"))
    for words in ("x failed", "* aggregated", "= interrupted", "o initialised"):
        assert words in page
    assert "\n".join(screen(many, "show", LONG, columns=80, LC_ALL="C")).isascii()


def test_columns_are_chosen_parameters_and_results_among_them(many: Shell) -> None:
    """Of several processes, numbers are their mean; what is of no number is what all have."""
    out, _ = many("ls", "--columns", "ID, state,width,seed,Accuracy".lower(), "-o", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert list(rows[0]) == ["id", "state", "width", "seed", "accuracy"]
    good = next(row for row in rows if row["id"] == "good")
    assert good["state"] == "aggregated"
    assert 0 < float(good["accuracy"]) < 1


@pytest.mark.parametrize(
    ("wrong", "meant"), [("stat", "`state`"), ("elapsd", "`elapsed`"), ("acuracy", "`accuracy`")]
)
def test_a_column_that_there_is_not_is_guessed(many: Shell, wrong: str, meant: str) -> None:
    """Of columns, of parameters, and of results."""
    out, err = many("ls", "--columns", f"id,{wrong}", code=2)
    assert out == ""
    assert "did you mean" in err
    assert meant in err


def test_every_format_has_every_experiment_whole(many: Shell) -> None:
    """Nothing is cut or lost, whatever a name is made of."""
    whole = many.json("ls")["experiments"]
    lines = [json.loads(line) for line in many("ls", "-o", "jsonl")[0].splitlines()]
    assert [each["experiment_id"] for each in lines] == [each["experiment_id"] for each in whole]
    as_csv = list(csv.DictReader(many("ls", "-o", "csv")[0].splitlines()))
    header, *rows = (line.split("\t") for line in many("ls", "-o", "tsv")[0].splitlines())
    as_tsv = [dict(zip(header, row, strict=True)) for row in rows]
    assert [{**each, "elapsed": ""} for each in as_csv] == [
        {**each, "elapsed": ""} for each in as_tsv
    ]
    assert {row["id"] for row in as_csv} == {LONG, "good", LONGEST, "new"}
    assert next(row["name"] for row in as_csv if row["id"] == "new") == next(
        each["name"] for each in whole if each["experiment_id"] == "new"
    )
    assert next(row["created"] for row in as_csv if row["id"] == "good").endswith("+00:00")


def test_what_would_break_a_row_of_tsv_is_escaped(sh: Shell) -> None:
    """A tab or a line feed in a note."""
    StateManager(sh.states).create("exp")
    sh("note", "exp", "one\ttwo\nthree \\ four")
    out, _ = sh("ls", "-o", "tsv", "--columns", "id,note")
    assert out == "id\tnote\nexp\tone\\ttwo\\nthree \\\\ four\n"


def test_two_formats_at_once_are_refused(sh: Shell) -> None:
    """`--json` is `-o json`."""
    assert "--json or -o csv, not both" in sh("ls", "--json", "-o", "csv", code=2)[1]
    assert json.loads(sh("ls", "--json", "-o", "json")[0])["experiments"] == []


def test_a_running_experiment_says_when_it_ends_without_any_report(sh: Shell) -> None:
    """From how long its processes took that are done; of what nobody told, a dash."""
    with experiments.going_on(StateManager(sh.states), 12, running=3, pending=4):
        header, row = sh("ls", env=UTF8)[0].splitlines()
        [listed] = sh.json("ls")["experiments"]
        page, _ = sh("show", "@last")
    assert header.split()[:9] == [
        "ID",
        "NAME",
        "STATE",
        "DONE",
        "FAIL",
        "PROG",
        "ELAPSED",
        "ETA",
        "BEAT",
    ]
    assert "● running" in row
    assert row.count("–") == 2  # PROG and BEAT
    assert listed["eta_s"] > 0
    assert 3_500 < listed["elapsed_s"] < 4_000
    assert re.search(r"\ntime       1h 0\dm so far, about .* left\n", page)


# -- show -----------------------------------------------------------------------------------------


def test_show_has_what_matters_first(many: Shell) -> None:
    """How it stands, what failed and why: on the first screen; what it was told is behind that."""
    lines = screen(many, "show", LONG, columns=80)
    first = "\n".join(lines[:24])
    assert "✗ failed" in first
    assert "12: 9 completed, 3 failed" in first
    assert re.search(r"3 processes: \d+, \d+, \d+", first)
    assert lines.index("about") > lines.index("failed")


def test_events_have_who_why_and_what_proved_it(many: Shell) -> None:
    """Every transition, one after the other."""
    out, _ = many("show", LONG, "--events")
    steps = many.json("show", LONG)["history"]
    assert len(re.findall(r"^\d{4}-\d\d-\d\d .*Z . (?:experiment|process)", out, re.M)) == len(
        steps
    )
    assert out.count("by pid ") >= len(steps)
    assert "fail: running -> failed (exit)" in out
    found = [
        json.loads(line) for line in many("show", LONG, "--events", "-o", "jsonl")[0].splitlines()
    ]
    assert found == steps
    document = many.json("show", LONG, "--events")
    assert document["schema"] == "holdfast.events/1"
    assert document["events"] == steps


def test_events_of_one_process_are_its_own(many: Shell) -> None:
    """In every format."""
    rows = list(csv.DictReader(many("show", f"{LONG}/1", "--events", "-o", "csv")[0].splitlines()))
    assert rows
    assert {row["index"] for row in rows} == {"1"}
    assert rows[0]["event"] == "start"
    assert all(
        "process 1 " in each for each in many("show", f"{LONG}/1", "--events")[0].splitlines()
    )


@pytest.mark.parametrize("columns", [60, 80])
def test_events_fit_the_terminal(many: Shell, columns: int) -> None:
    """What has no room goes on below."""
    lines = screen(many, "show", LONG, "--events", columns=columns)
    assert all(text.width(line) <= columns for line in lines)


def test_processes_are_rows_of_every_format(many: Shell) -> None:
    """With the columns that an export has."""
    exported = many("export", LONG)[0]
    assert many("show", LONG, "-o", "csv")[0].splitlines()[0] == exported.splitlines()[0]
    rows = [json.loads(line) for line in many("show", LONG, "-o", "jsonl")[0].splitlines()]
    assert [row["index"] for row in rows] == list(range(12))
    assert len(many("show", f"{LONG}/3", "-o", "tsv")[0].splitlines()) == 2


# -- logs -----------------------------------------------------------------------------------------

BAR = """
import os, sys, time
attempt, index = os.environ["HOLDFAST_ATTEMPT"], os.environ["HOLDFAST_INDEX"]
print("begin", index, attempt, flush=True)
for percent in (10, 50, 90):
    sys.stderr.write(f"\\r{percent}%|####")
    sys.stderr.flush()
open(f"began.{index}.{attempt}", "w").close()
while os.path.exists("hold"):
    time.sleep(0.01)
sys.stderr.write("\\r100%|####\\n")
print("\\x1b[31mloss=0.5\\x1b[0m \\x1b]0;title\\x07\\tend", flush=True)
sys.exit(3 if attempt == "1" else 0)
"""


@pytest.fixture
def bars(sh: Shell) -> Shell:
    (sh.path / "work.py").write_text(BAR)
    (sh.path / "b.toml").write_text(
        'command = ["python", "work.py"]\nprocesses = 2\n'
        '[retry]\nmax_attempts = 2\nbackoff = "0s"\n'
    )
    return sh


def test_of_a_bar_only_the_last_state_is_a_line(bars: Shell) -> None:
    """And with `--raw`, everything that was written."""
    bars("run", "b.toml")
    assert bars("logs", "-e", "@last/0")[0] == "100%|####\n"
    raw = "\r10%|####\r50%|####\r90%|####\r100%|####\n"
    attempts: Path = bars.states / bars.only_id() / "attempts"
    assert (attempts / "0.2.err").read_bytes().decode() == raw
    assert bars("logs", "-e", "--raw", "@last/0", "--attempt", "1")[0].replace("\r", "") == (
        raw.replace("\r", "")
    )


def test_lines_are_found_in_all_logs(bars: Shell) -> None:
    """With the titles of those that have any."""
    bars("run", "b.toml")
    out, _ = bars("logs", "@last", "--grep", r"^begin \d")
    assert out == "==> 0.2 stdout <==\nbegin 0 2\n\n==> 1.2 stdout <==\nbegin 1 2\n"
    assert bars("logs", "@last", "--grep", "^loss=0[.]5 ")[0].count("loss") == 2
    assert bars("logs", "@last", "--grep", "nowhere") == ("", "no line has it\n")


def test_a_pattern_that_is_none_is_refused(bars: Shell) -> None:
    """And so is what would take for ever."""
    bars("run", "--procs", "1", "--", "echo", "a" * 60 + "b")
    assert "not a regular expression: missing )" in bars("logs", "@last", "--grep", "(a", code=2)[1]
    assert "nested repetitions" in bars("logs", "@last", "--grep", "(a+)+$", code=2)[1]


def test_a_terminal_gets_nothing_from_a_log_that_drives_it(bars: Shell) -> None:
    """No colour, no title of its window; a tab is a tab."""
    bars("run", "b.toml")
    terminal = Terminal(bars, "logs", "@last/0")
    assert terminal.exit_code() == 0
    assert "loss=0.5 \tend" in terminal.seen
    assert "\x1b" not in terminal.seen
    assert "\x07" not in terminal.seen


def test_logs_go_on_with_the_next_attempt_and_say_so(bars: Shell) -> None:
    """Whoever follows a process follows it to its end."""
    bars.hold()
    run = bars.start("run", "b.toml")
    bars.began(2)
    follower = bars.start("logs", "-f", "@last/0")
    assert follower.stdout is not None
    hear(follower.stdout, "begin 0 1")
    bars.let_go()
    out, err = follower.communicate(timeout=PATIENCE_S)
    assert run.wait(PATIENCE_S) == 0
    assert "begin 0 2" in out
    assert out.count("100%|####\n") == 2
    assert "90%" not in out
    assert f"{bars.only_id()}/0: attempt 1 is over; going on with attempt 2" in err


HALF = """
import os, sys, time
attempt = os.environ["HOLDFAST_ATTEMPT"]
sys.stderr.write("\\rload 1/2\\rload 2/2\\n")
sys.stderr.flush()
print("loaded", attempt, flush=True)
open(f"began.{os.environ['HOLDFAST_INDEX']}.{attempt}", "w").close()
while os.path.exists("hold." + attempt):
    time.sleep(0.01)
sys.stderr.write("\\rtrain 1/9\\rtrain 5/9" if attempt == "1" else "\\rtrain 9/9\\n")
sys.exit(3 if attempt == "1" else 0)
"""


@pytest.mark.parametrize("which", [["-e"], []])
def test_a_bar_is_printed_when_its_line_ends_or_its_attempt(bars: Shell, which: list[str]) -> None:
    """Not behind whatever the next attempts write."""
    (bars.path / "work.py").write_text(HALF)
    for attempt in (1, 2):
        (bars.path / f"hold.{attempt}").touch()
    run = bars.start("run", "b.toml")
    bars.began(2)
    printed = bars.path / "printed"
    with printed.open("w") as file:
        follower = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "logs", "-f", *which, "@last/0"],
            cwd=bars.path, env=bars.env, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    bars.started.append(follower)  # type: ignore[arg-type]
    until(lambda: "load 2/2\n" in printed.read_text())
    (bars.path / "hold.1").unlink()
    until(lambda: printed.read_text().count("load 2/2\n") == 2)
    (bars.path / "hold.2").unlink()
    assert (run.wait(PATIENCE_S), follower.wait(PATIENCE_S)) == (0, 0)
    lines = printed.read_text().splitlines()
    assert [line for line in lines if re.match("load |train |.* is over", line)] == [
        "load 2/2",
        "train 5/9",
        f"{bars.only_id()}/0: attempt 1 is over; going on with attempt 2",
        "load 2/2",
        "train 9/9",
    ]


def test_a_bar_is_shown_in_its_place_while_it_is_followed(bars: Shell) -> None:
    """Below everything else, and taken away when it is done."""
    bars.hold()
    bars.start("run", "b.toml")
    bars.began(2)
    terminal = Terminal(bars, "logs", "-f", "@last/0", columns=60)
    terminal.read("90%")
    bars.let_go()
    assert terminal.exit_code() == 0
    last = SEQUENCE.sub("", terminal.seen.replace("\r\n", "\n")).splitlines()
    assert sum(line == "100%|####" for line in last) == 2
