"""Why a process would run, what differs, and which rows ran with which code."""

import csv
import io
import json
from pathlib import Path

import pytest

from holdfast.store.manager import StateManager
from shell import Shell, Terminal

TRAIN = """
import json, os, sys
lr = float(sys.argv[1])
if os.path.exists("bad") and lr > 0.2:
    sys.exit(7)
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"loss": lr * FACTOR}, file)
"""

FILE = """
command = ["python", "train.py", "{lr}"]
[matrix]
lr = [0.1, 0.2, 0.3]
[env]
LR = "0.1"
[retry]
max_attempts = 1
"""


@pytest.fixture
def sweep(sh: Shell) -> Shell:
    (sh.path / "s.toml").write_text(FILE)
    script(sh, 2)
    return sh


def script(sh: Shell, factor: int) -> None:
    (sh.path / "train.py").write_text(TRAIN.replace("FACTOR", str(factor)))


def edit(sh: Shell, old: str, new: str) -> None:
    path = sh.path / "s.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_what_failed_elsewhere_says_so_before_it_is_run_again(sweep: Shell) -> None:
    """A combination that another experiment has tried without success is not like another one."""
    (sweep.path / "bad").touch()
    sweep("run", "s.toml", code=3)
    [first] = ids(sweep)
    edit(sweep, "[0.1, 0.2, 0.3]", "[0.1, 0.2, 0.3, 0.4]")
    found = explained(sweep, "s.toml")
    assert [each["action"] for each in found] == ["reuse", "reuse", "run", "run"]
    assert (found[2]["nearest"], found[2]["failed"]) == (f"{first}/2", "exit code 7")
    assert found[3]["failed"] is None
    out, _ = sweep("explain", "s.toml")
    assert f"failed as {first}/2: exit code 7; a new experiment" in out


def ids(sh: Shell) -> list[str]:
    return sorted(StateManager(sh.states).list_experiments())


def explained(sh: Shell, *args: str, code: int = 0) -> list[dict[str, object]]:
    plan = sh.json("explain", *args, code=code)
    processes = plan["processes"]
    assert isinstance(processes, list)
    return processes


def test_one_more_value_is_explained_and_run(sweep: Shell) -> None:
    """What is reused has its origin, what is new its nearest; the run does just that."""
    sweep("run", "s.toml")
    (old,) = ids(sweep)
    edit(sweep, "0.3]", "0.3, 0.4]")
    processes = explained(sweep, "s.toml")
    assert [each["action"] for each in processes] == ["reuse"] * 3 + ["run"]
    origin = {"experiment_id": old, "process": 1, "attempt": 1, "via": None}
    assert processes[1]["origin"] == origin
    assert processes[3]["differences"] == ["lr 0.3 → 0.4"]
    assert processes[3]["nearest"] == f"{old}/2"
    dry = sweep.json("run", "s.toml", "--dry-run")
    assert dry["processes"] == processes
    out, err = sweep("explain", "s.toml")
    assert "lr 0.3 → 0.4" in out
    assert "1 of 4 processes would be run, 3 reused" in err
    assert ids(sweep) == [old]
    run = sweep.json("run", "s.toml")
    assert run["reused"] == 3
    (new,) = set(ids(sweep)) - {old}
    done = StateManager(sweep.states).load(new).process_progress
    assert [process.attempt for process in done.values()] == [0, 0, 0, 1]


def test_what_differs_is_named_by_its_key(sweep: Shell) -> None:
    """The environment, a word of the command: those of the nearest process."""
    sweep("run", "s.toml")
    edit(sweep, 'LR = "0.1"', 'LR = "0.01"')
    found = explained(sweep, "s.toml")
    assert [each["differences"] for each in found] == [["env.LR 0.1 → 0.01"]] * 3
    edit(sweep, '"{lr}"]', '"{lr}", "--fast"]')
    found = explained(sweep, "s.toml")
    assert found[0]["differences"] == [
        "word 4 of the command: nothing → --fast",
        "env.LR 0.1 → 0.01",
    ]


def test_a_declared_file_that_changed_is_named(sweep: Shell) -> None:
    """It is part of what a process does, and no parameter shows it."""
    (sweep.path / "data.csv").write_text("1\n")
    edit(sweep, "[env]", '[identity]\nfiles = ["data.csv"]\n[env]')
    sweep("run", "s.toml")
    (sweep.path / "data.csv").write_text("2\n")
    found = explained(sweep, "s.toml")
    assert [each["action"] for each in found] == ["run"] * 3
    assert found[0]["differences"] == ["declared data.csv changed"]
    assert "outdated: data.csv changed since 3 of 3 ran" in sweep("show", "@last")[0]


def test_a_project_that_was_moved_runs_where_it_ran(sh: Shell) -> None:
    """Moved with its states, it is the same place, and no reason for anything to run."""
    home, sh.path = sh.path, sh.path / "old"
    sh.path.mkdir()
    (sh.path / "s.toml").write_text(FILE)
    script(sh, 2)
    sh("run", "s.toml")
    sh.path = sh.path.rename(home / "new")
    edit(sh, "0.3]", "0.3, 0.4]")
    found = explained(sh, "s.toml")
    assert [each["action"] for each in found] == ["reuse"] * 3 + ["run"]
    assert found[3]["differences"] == ["lr 0.3 → 0.4"]


def test_finished_work_of_other_code_is_explained_both_ways(sweep: Shell) -> None:
    """The table, what changed, and both ways; the exit code is that of the run."""
    sweep("run", "s.toml")
    (old,) = ids(sweep)
    script(sweep, 3)
    out, err = sweep("explain", "s.toml", code=2)
    assert "train.py changed (keep: skip, rerun: run)" in out
    assert "--keep-results" in err
    assert "--rerun-changed" in err
    found = explained(sweep, "s.toml", code=2)
    assert {each["action"] for each in found} == {"blocked"}
    assert found[0]["differences"] == ["train.py changed"]
    sweep("run", "s.toml", code=2)
    kept = explained(sweep, "s.toml", "--keep-results")
    assert {each["action"] for each in kept} == {"skip"}
    again = explained(sweep, "s.toml", "--rerun-changed")
    assert {each["action"] for each in again} == {"run"}
    assert again[0]["differences"] == ["train.py changed"]
    assert {each["action"] for each in explained(sweep, old, code=2)} == {"blocked"}
    assert ids(sweep) == [old]
    shown = sweep("show", old)[0]
    assert "outdated: train.py changed since 3 of 3 ran" in shown
    assert f"resume --rerun-changed {old}" in shown


def test_rows_of_different_code_are_marked_everywhere(sweep: Shell) -> None:
    """A script that is mended half way: the table, show, the export and the aggregate tell."""
    (sweep.path / "bad").touch()
    sweep("run", "s.toml", code=3)
    (only,) = ids(sweep)
    (sweep.path / "bad").unlink()
    script(sweep, 3)
    assert "train.py changed since 2 of 3 ran" in sweep("show", only)[0]
    out, err = sweep("run", "s.toml")
    told = "train.py differs between 2 and 1 of the 3 rows"
    assert "CODE" in out.splitlines()[0]
    assert [line.split()[3] for line in out.splitlines()[1:4]] == ["a", "a", "b"]
    assert told in err
    shown = sweep("show", only)[0]
    assert told in shown
    assert "outdated: train.py changed since 2 of 3 ran" in shown
    aggregate = json.loads((sweep.states / only / "aggregate.json").read_text())
    codes = [row["code"] for row in aggregate["rows"]]
    assert codes[0] == codes[1] != codes[2]
    inputs = aggregate["inputs"]
    assert {name: each["processes"] for name, each in inputs["code"].items()} == {
        codes[0]: 2,
        codes[2]: 1,
    }
    assert set(inputs["code"][codes[2]]["files"]) == {"train.py"}
    assert sum(inputs["hosts"].values()) == 3
    assert inputs["aggregation"] is None
    rows = list(csv.DictReader(io.StringIO(sweep("export", only)[0])))
    assert [row["code"] for row in rows] == codes
    lines = [json.loads(line) for line in sweep("export", "--jsonl", only)[0].splitlines()]
    assert [line["code"] for line in lines] == codes
    assert sweep.json("show", only)["code"]["mixed"] == [told]


def test_the_code_of_the_aggregation_is_an_input(sweep: Shell) -> None:
    """The files that its own command names, as for processes."""
    (sweep.path / "best.py").write_text("import os\nos.environ['HOLDFAST_TABLE']\n")
    edit(sweep, "[env]", '[aggregate]\ncommand = ["python", "best.py"]\n[env]')
    sweep("run", "s.toml")
    (only,) = ids(sweep)
    inputs = json.loads((sweep.states / only / "aggregate.json").read_text())["inputs"]
    assert set(inputs["aggregation"]["files"]) == {"best.py"}


def test_an_aggregate_without_inputs_is_shown_as_before(sweep: Shell) -> None:
    """As 0.2 wrote it: nothing is known of code, and nothing told."""
    sweep("run", "s.toml")
    path = sweep.states / ids(sweep)[0] / "aggregate.json"
    aggregate = json.loads(path.read_text())
    del aggregate["inputs"]
    for row in aggregate["rows"]:
        del row["code"], row["reused"]
    path.write_text(json.dumps(aggregate))
    out, _ = sweep("show", "@last")
    assert "0.4" in out
    assert "CODE" not in out


def test_what_was_reused_says_from_where(sweep: Shell) -> None:
    """In the table, in `show` of an experiment and of a process, in the history and the export."""
    sweep("run", "s.toml")
    (old,) = ids(sweep)
    edit(sweep, "0.3]", "0.3, 0.4]")
    out, _ = sweep("run", "s.toml")
    assert out.splitlines()[1].endswith(f"{old}/0")
    (new,) = set(ids(sweep)) - {old}
    shown = sweep("show", new)[0]
    assert "4 completed (3 reused)" in shown
    assert "3 processes reused: 0-2" in shown
    page = sweep("show", f"{new}/1")[0]
    assert f"reused     from {old}/1, attempt 1" in page
    process = sweep.json("show", f"{new}/1")["process"]
    assert process["work"].startswith(page.split("work       ")[1].split()[0])
    rows = list(csv.DictReader(io.StringIO(sweep("export", new)[0])))
    assert [row["reused_from"] for row in rows] == [f"{old}/0", f"{old}/1", f"{old}/2", ""]
    assert [row["duration_s"] == "" for row in rows] == [True, True, True, False]
    assert [row["attempts_duration_s"] == "" for row in rows] == [True, True, True, False]


def test_diff_tells_configuration_code_environment_and_results(sweep: Shell) -> None:
    """Key by key, file by file, number by number; 1 if anything differs, 0 if nothing does."""
    sweep("run", "s.toml")
    (old,) = ids(sweep)
    script(sweep, 3)
    edit(sweep, 'LR = "0.1"', 'LR = "0.01"')
    sweep("run", "s.toml")
    (new,) = set(ids(sweep)) - {old}
    out, _ = sweep("diff", old, new, code=1)
    assert "env.LR 0.1 → 0.01" in out
    assert "train.py " in out
    assert "0 of 3 processes that both completed have the same result" in out
    found = sweep.json("diff", old, new, code=1)
    assert found["environment"] == [{"what": "env.LR", "a": "0.1", "b": "0.01"}]
    [code] = found["code"]
    assert code["what"] == "train.py"
    first = found["results"][0]
    assert first["fields"][0]["field"] == "loss"
    assert first["fields"][0]["difference"] == pytest.approx(0.1)
    assert "nothing differs" in sweep("diff", old, old)[1]
    sweep("diff", old, "nobody", code=4)


def test_explain_leaves_everything_as_it_was(sweep: Shell) -> None:
    """Not a file of an experiment is made or touched."""
    sweep("run", "s.toml")
    edit(sweep, "0.3]", "0.3, 0.4]")
    before = contents(sweep.states)
    sweep("explain", "s.toml")
    sweep("explain", "@last")
    sweep("diff", "@last", "@last")
    assert contents(sweep.states) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".index" not in path.parts
    }


def test_a_display_leaves_word_of_what_was_reused(sweep: Shell) -> None:
    """On a terminal, too: what the display showed goes, and this stands."""
    sweep("run", "s.toml")
    (old,) = ids(sweep)
    edit(sweep, "0.3]", "0.3, 0.4]")
    terminal = Terminal(sweep, "run", "s.toml")
    assert terminal.exit_code() == 0
    assert f"3 of 4 are finished in {old}, 1 to run\r\n" in terminal.seen


def test_a_directory_that_is_not_there_yet_is_no_mistake(sh: Shell) -> None:
    """As for `run -n`: a run would make it, and explaining does not."""
    elsewhere = sh.path / "elsewhere"
    plan = sh.json("explain", "e.toml", "-C", str(elsewhere))
    assert {each["action"] for each in plan["processes"]} == {"run"}
    assert not elsewhere.exists()
