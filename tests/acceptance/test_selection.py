"""Tags, notes, and which experiments `ls` and `rm` mean, as they are typed and read."""

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest

from holdfast import StateManager
from shell import Shell, Terminal

WORKER = """
import json, os, sys
from pathlib import Path
params = json.loads(os.environ["HOLDFAST_PARAMS"])
given = json.loads(Path("given.json").read_text())[os.environ["WHO"]][str(params["lr"])]
if given == "fail":
    sys.exit(1)
if given != "nothing":
    Path(os.environ["HOLDFAST_RESULT"]).write_text(json.dumps(given))
"""

#: By experiment, what the process of each learning rate delivers.
GIVEN = {
    "good": {"0.1": {"accuracy": 0.8, "metrics": {"f1": 1}}, "0.5": {"accuracy": 0.9}},
    "odd": {"0.1": {"accuracy": "n/a"}, "0.5": {"accuracy": float("nan"), "curve": [1, 2]}},
    "single": {"0.5": {"accuracy": 0.5, "amp": True}},
    "silent": {"0.5": "nothing", "1.0": "nothing"},
    "broken": {"0.1": {"accuracy": 0.99}, "0.5": "fail"},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Experiments that were really run, one after the other; nobody changes them."""
    sh = Shell(tmp_path_factory.mktemp("lab"))
    (sh.path / "deliver.py").write_text(WORKER)
    (sh.path / "given.json").write_text(json.dumps(GIVEN))
    for who, given in GIVEN.items():
        file = sh.path / f"{who}.toml"
        rates = ", ".join(given)
        file.write_text(
            f'name = "{who}"\ncommand = ["python", "deliver.py"]\nenv = {{WHO = "{who}"}}\n'
            f"[matrix]\nlr = [{rates}]\n[retry]\nmax_attempts = 1\n"
        )
        sh("run", file.name, "--tag", who, "--tag", "all", code=3 if who == "broken" else 0)
    sh("note", "good", "the", "best", "so", "far")
    StateManager(sh.states).create("by-hand", name="by hand")
    return sh


def names(sh: Shell, *options: str) -> list[str]:
    return [each["name"] for each in sh.json("ls", *options)["experiments"]]


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (["--tag", "all"], ["good", "odd", "single", "silent", "broken"]),
        (["--tag", "all", "--tag", "odd"], ["odd"]),
        (["--tag", "nobody"], []),
        (["--state", "failed"], ["broken"]),
        (["--status", "failed", "--state", "initialised"], ["broken", "by hand"]),
        (["--since", "1h", "--state", "failed"], ["broken"]),
        (["--since", "2100-01-01"], []),
        (["--older-than", "1h"], []),
        (["--older-than", "2100-01-01", "--tag", "good"], ["good"]),
        (["--where", "accuracy > 0.85"], ["good", "broken"]),
        (["--where", "accuracy > 0.85", "--where", "lr = 0.1"], ["broken"]),
        (["--where", "accuracy > 0.85", "--where", "accuracy < 0.85"], []),
        (["--where", "accuracy = nan"], ["odd"]),
        (["--where", "accuracy = n/a"], ["odd"]),
        (["--where", "metrics.f1 = 1"], ["good"]),
        (["--where", "result.metrics.f1 = 1", "--where", "params.lr < 1"], ["good"]),
        (["--where", "curve = [1, 2]"], ["odd"]),
        (["--where", "amp = true"], ["single"]),
        (["--where", "lr >= 1"], ["silent"]),
        (["--where", "failed > 0"], ["broken"]),
        (["--where", "name != good", "--where", "done = 2"], ["odd", "silent"]),
        (["--where", "processes = 1"], ["single", "by hand"]),
        (["--where", "created > 1h", "--where", "duration < 1h", "--where", "id != x"],
         ["good", "odd", "single", "silent", "broken"]),
    ],
)  # fmt: skip
def test_an_experiment_is_meant_if_one_process_satisfies_everything(
    lab: Shell, options: list[str], meant: list[str]
) -> None:
    """By what the listing knows, parameters and results; of any type, in any experiment."""
    assert names(lab, *options) == meant


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ([], ["good", "odd", "single", "silent", "broken", "by hand"]),
        (["-n", "2"], ["broken", "by hand"]),
        (["--sort", "accuracy"], ["single", "good", "broken", "odd", "silent", "by hand"]),
        (["--sort", "-accuracy"], ["broken", "good", "single", "odd", "silent", "by hand"]),
        (["--sort", "-accuracy", "-n", "2"], ["broken", "good"]),
        (["--sort", "-created", "--limit", "1"], ["by hand"]),
        (["--sort", "name", "--tag", "all"], ["broken", "good", "odd", "silent", "single"]),
        (["--sort", "-lr", "-n", "1"], ["silent"]),
        (["--sort", "-done", "-n", "1", "--where", "done < 2"], ["single"]),
    ],
)
def test_experiments_are_sorted_by_anything_that_they_have(
    lab: Shell, options: list[str], order: list[str]
) -> None:
    """Numbers first, then texts; what has nothing of that name comes last in both directions."""
    assert names(lab, *options) == order


def test_what_it_is_sorted_by_is_shown(lab: Shell) -> None:
    """The mean of an experiment's processes, as a column of its own."""
    out, err = lab("ls", "--sort", "accuracy", "--tag", "all", "-n", "2")
    header, single, good = out.splitlines()
    assert header.split()[:5] == ["ID", "NAME", "STATE", "DONE", "accuracy"]
    assert single.split()[1:6] == ["single", *single.split()[2:4], "1/1", "0.5"]
    assert good.split()[1:6] == ["good", *good.split()[2:4], "2/2", "0.85"]
    assert "2 of 5" in err
    found = lab.json("ls", "--sort", "accuracy")["experiments"]
    assert [each["sort"] for each in found] == [0.5, pytest.approx(0.85), 0.99, None, None, None]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--where", "acuracy > 1"], "'acuracy' is no parameter and in no result of 6 experiments"),
        (["--where", "acuracy > 1"], "did you mean `accuracy`?"),
        (["--sort", "statsu"], "did you mean `status`"),
        (["--sort", "zzz", "--tag", "single"], "'zzz' is no parameter and in no result of 1 exp"),
        (["--where", "lr > 99", "--where", "acuracy > 1"], "`accuracy`"),
        (["--where", "lr"], "no condition; one is NAME OP VALUE, such as 'lr > 0.1'"),
        (["--where", "created > soon"], "neither how long ago"),
        (["--where", "duration > soon"], "a duration such as"),
        (["--where", "status = runing"], "'runing' is no status; one of initialised, running"),
        (["--since", "soon"], "--since: 'soon' is neither how long ago, such as 2d"),
        (["--older-than", "soon"], "--older-than: 'soon'"),
        (["--tag", "a b"], "'a b' is not a tag"),
        (["--state", "done"], "aggregated"),
        (["-n", "0"], "0"),
    ],
)
def test_a_mistake_is_named_with_what_may_have_been_meant(
    lab: Shell, options: list[str], told: str
) -> None:
    """Nothing is listed then: an empty answer would pass for the truth."""
    out, err = lab("ls", *options, code=2)
    assert out == ""
    assert told in " ".join(err.split())


def test_an_empty_answer_says_of_how_many(lab: Shell) -> None:
    """And is no error."""
    out, err = lab("ls", "--where", "lr > 99")
    assert (out, err) == ("", "none matches, of 6 experiments in .experiment_state\n")


def test_a_result_that_is_lost_satisfies_nothing(tmp_path: Path) -> None:
    """And keeps nobody from the others: what was lost is told by `show` and `doctor`."""
    sh = Shell(tmp_path)
    sh("run", "e.toml", "--no-aggregate")
    next((sh.states / sh.only_id() / "results").glob("0.*")).unlink()
    assert len(sh.json("ls", "--where", "square = 1")["experiments"]) == 1
    assert sh.json("ls", "--where", "square = 0")["experiments"] == []
    assert sh.json("ls", "--sort", "square")["experiments"][0]["sort"] == 2.5


def test_a_damaged_aggregate_is_asked_of_the_results_instead(tmp_path: Path) -> None:
    """What holdfast itself has recorded of each process is still there."""
    sh = Shell(tmp_path)
    sh("run", "e.toml")
    (sh.states / sh.only_id() / "aggregate.json").write_text("{")
    assert len(sh.json("ls", "--where", "square = 4")["experiments"]) == 1


# -- tags and notes -------------------------------------------------------------------------------


def test_tags_and_the_note_are_shown_wherever_the_experiment_is(lab: Shell) -> None:
    """`show`, `ls`, their JSON, and exports have them."""
    assert lab("note", "good") == ("the best so far\n", "")
    out, _ = lab("show", "good")
    assert "\ntags       all good\n" in out
    assert "\nnote       the best so far\n" in out
    shown = lab.json("show", "good")["experiment"]
    listed = next(each for each in lab.json("ls")["experiments"] if each["name"] == "good")
    for found in (shown, listed):
        assert (found["tags"], found["note"]) == (["all", "good"], "the best so far")
    rows = list(csv.DictReader(io.StringIO(lab("export", "good")[0])))
    assert {(row["tags"], row["note"]) for row in rows} == {("all good", "the best so far")}
    lines = [json.loads(line) for line in lab("export", "good", "--jsonl")[0].splitlines()]
    assert {(*line["tags"], line["note"]) for line in lines} == {("all", "good", "the best so far")}
    assert "tags" not in lab("show", "by-hand")[0]


def test_tags_are_listed_with_how_many_have_them(lab: Shell) -> None:
    """`holdfast tag` alone says which there are."""
    out, _ = lab("tag")
    assert [line.split() for line in out.splitlines()][:3] == [
        ["TAG", "EXPERIMENTS"], ["all", "5"], ["broken", "1"],
    ]  # fmt: skip
    assert lab("tag", "by-hand") == ("by-hand\n", "")


@pytest.fixture
def two(sh: Shell) -> Shell:
    for name in ("one", "two"):
        StateManager(sh.states).create(name)
    return sh


def test_tags_are_added_and_removed_of_several_at_once(two: Shell) -> None:
    """And it is said what each has then."""
    assert two("tag", "one", "two", "-a", "x", "-a", "y")[0] == "one  x y\ntwo  x y\n"
    assert two("tag", "one", "--remove", "x", "--add", "z")[0] == "one  y z\n"
    assert two("tag", "one", "two", "one")[0] == "one  y z\ntwo  x y\n"


def test_one_wrong_id_changes_nothing(two: Shell) -> None:
    """Whoever mistyped one may have meant others, too."""
    _, err = two("tag", "one", "nix", "-a", "x", code=4)
    assert "nothing was changed" in err
    assert two("tag", "one")[0] == "one\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tag", "-a", "x"], "an ID is missing"),
        (["tag", "one", "-a", "x", "-r", "x"], "x is to be added and removed"),
        (["note", "one", "x", "--clear"], "not both"),
        (["note", "one", " "], "an empty note; --clear removes"),
        (["note", "one", "x" * 10_001], "one: a note of 10,001 characters; at most 10,000"),
        (["tag", "one", *(word for n in range(101) for word in ("-a", f"t{n}"))], "100 tags"),
    ],
)
def test_what_makes_no_sense_is_refused(two: Shell, words: list[str], told: str) -> None:
    """As a mistake of whoever typed it."""
    assert told in two(*words, code=2)[1]
    assert two("tag", "one")[0] == "one\n"


def test_a_note_comes_from_a_pipe_and_goes_with_clear(two: Shell) -> None:
    """Lines are kept; what would drive a terminal is escaped when it is shown."""
    done = two.shell("printf 'first\\nsecond\\033[2J\\n' | holdfast note one -")
    assert done.returncode == 0, done.stderr
    assert two("note", "one")[0] == "first\nsecond\\x1b[2J\n"
    assert "note       first second\\x1b[2J\n" in two("show", "one")[0]
    assert two("note", "one", "--clear") == ("", "nothing is noted about one any more\n")
    assert two("note", "one") == ("", "nothing is noted about one\n")


def test_a_run_that_has_nothing_to_do_is_tagged_all_the_same(sh: Shell) -> None:
    """As is one that goes on; a dry run changes nothing."""
    sh("run", "e.toml", "-n", "--tag", "no")
    sh("run", "e.toml", "--no-aggregate", "--tag", "first")
    sh("run", "e.toml", "--tag", "second")
    sh("run", "e.toml", "--tag", "third")
    sh("resume", "@last", "--tag", "fourth")
    assert sh("tag", "@last")[0].split()[1:] == ["first", "fourth", "second", "third"]
    sh("run", "e.toml", "--tag", "a b", code=2)


def test_a_run_goes_on_without_a_tag_that_cannot_be_written(sh: Shell) -> None:
    """The processes are what counts."""
    sh.states.mkdir()
    (sh.states / ".annotations").touch()
    _, err = sh("run", "e.toml", "--tag", "x")
    assert "is not tagged" in err
    assert "3 processes completed and aggregated" in err


def test_a_file_that_says_nothing_readable_is_named_by_the_exit_code(two: Shell) -> None:
    """The listing is whole; what is tagged cannot be told."""
    (two.states / ".annotations").mkdir()
    (two.states / ".annotations" / "one.json").write_text("{")
    out, err = two("ls", code=6)
    assert len(out.splitlines()) == 3
    assert "one.json: holds no annotations" in err
    assert two("show", "one")[1].startswith("warning: ")
    assert two.json("ls", code=6)["unreadable"][0]["path"].endswith("one.json")
    two("tag", "one", "-a", "x", code=6)
    assert "remove it, and tag and note anew" in " ".join(two("doctor", code=6)[0].split())


def test_what_was_reused_is_listed(sh: Shell) -> None:
    """A matrix that grows runs only what is new, and `ls` says so."""
    sh("run", "e.toml")
    assert "REUSED" not in sh("ls")[0]
    sh("run", "e.toml", "--set", "level=[1, 2, 3, 4]")
    header, *rows = csv.reader(sh("ls", "--columns", "done,reused", "-o", "csv")[0].splitlines())
    assert header == ["done", "reused"]
    assert rows == [["3", "0"], ["4", "3"]]
    assert "REUSED" in sh("ls")[0]
    assert [each["reused"] for each in sh.json("ls")["experiments"]] == [0, 3]
    assert names(sh, "--where", "reused > 0") == ["squares"]


# -- rm -------------------------------------------------------------------------------------------


@pytest.fixture
def aged(sh: Shell) -> Shell:
    """One aggregated and tagged, one failed, one that runs as is recorded, one not begun."""
    sh("run", "e.toml", "--tag", "tmp")
    (sh.path / "bad").touch()
    sh("run", "e.toml", "--fresh", "--set", "retry.max_attempts=1", code=3)
    manager = StateManager(sh.states)
    for name in ("dead", "new"):
        manager.create(name)
        manager.annotate(name, add=["tmp"])
    with manager.claim("dead") as claim:
        claim.record("start")
    return sh


def statuses(sh: Shell) -> list[str]:
    return [each["status"] for each in sh.json("ls", "--sort", "status")["experiments"]]


def test_a_selection_is_deleted_without_ids(aged: Shell) -> None:
    """What runs, or is recorded to, is never meant."""
    out, err = aged("rm", "--tag", "tmp")
    assert out.count(" deleted") == 2
    assert err == "dead left alone: running, or so it is recorded\n"
    assert statuses(aged) == ["failed", "running"]
    out, _ = aged("rm", "--state", "failed", "--older-than", "2100-01-01")
    assert out.count(" deleted") == 1


def test_a_dry_run_says_what_would_go_and_how_much(aged: Shell) -> None:
    """And deletes nothing."""
    out, err = aged("rm", "--state", "aggregated", "--state", "failed", "-n")
    first, second = out.splitlines()
    assert re.search(r"would be deleted: 3 processes, 3 results, \d+\.\d KB$", first)
    assert re.search(r"2 results, \d+\.\d KB, 2 never shown nor aggregated$", second)
    assert re.match(r"2 experiments would be deleted, \d+\.\d KB$", err, re.MULTILINE)
    assert len(statuses(aged)) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "which ones? IDs, or --state, --tag, --older-than"),
        (["-y"], "which ones?"),
        (["dead", "--tag", "tmp"], "not both"),
        (["--older-than", "tomorrow"], "--older-than: 'tomorrow'"),
        (["--where", "acuracy < 1"], "no parameter"),
    ],
)
def test_nothing_is_deleted_by_a_mistake(aged: Shell, words: list[str], told: str) -> None:
    """Never without a filter, and never with one that means nothing."""
    assert told in aged("rm", *words, code=2)[1]
    assert len(statuses(aged)) == 4


def test_nothing_selected_is_no_error(aged: Shell) -> None:
    """A job that tidies up every night finds nothing on most."""
    out, err = aged("rm", "--older-than", "30d")
    assert (out, err) == (
        "",
        "nothing to delete: none matches, of 4 experiments in .experiment_state\n",
    )


@pytest.mark.parametrize(("answer", "left"), [("n", 4), ("y", 2)])
def test_on_a_terminal_a_selection_is_always_asked_about(
    aged: Shell, answer: str, left: int
) -> None:
    """With what would go, before anything does; `-y` is for those who know."""
    terminal = Terminal(aged, "rm", "--tag", "tmp")
    terminal.read(r"2 experiments would be deleted, \d+\.\d KB\s+Delete\? \[y/N\]: ")
    assert len(statuses(aged)) == 4
    os.write(terminal.fd, f"{answer}\n".encode())
    assert terminal.exit_code() == (1 if answer == "n" else 0)
    assert len(statuses(aged)) == left


def test_what_changes_before_its_turn_is_left_alone(aged: Shell) -> None:
    """Somebody may take it up, or take its tag away, while the question stands there."""
    manager = StateManager(aged.states)
    aggregated = next(
        each for each in manager.list_experiments() if each.startswith("exp") and
        manager.load(each).status == "aggregated"
    )  # fmt: skip
    terminal = Terminal(aged, "rm", "--tag", "tmp")
    terminal.read(r"Delete\? \[y/N\]: ")
    with manager.claim("new") as claim:
        claim.record("fail", reason="user")
    manager.annotate(aggregated, remove=["tmp"])
    os.write(terminal.fd, b"y\n")
    terminal.exit_code()
    assert terminal.seen.count("left alone: it changed meanwhile") == 2
    assert len(statuses(aged)) == 4
