"""What is told to somebody who mistyped, mislaid or changed something."""

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from holdfast.store.manager import StateManager
from processes import hear
from shell import FILE, Shell, Terminal
from waiting import PATIENCE_S, until

TORN = '{"experiment_id": "to'


def held(sh: Shell, index: int) -> Path:
    """A file; as long as it is there, that process waits."""
    path = sh.path / f"hold.{index}"
    path.touch()
    return path


@pytest.fixture
def torn(sh: Shell) -> Path:
    """A file of an experiment that cannot be read."""
    sh.states.mkdir()
    path = sh.states / "torn_one.json"
    path.write_text(TORN)
    return path


# -- experiments that cannot be read --------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "resume", "logs", "rm", "aggregate", "run --resume"])
def test_the_beginning_of_an_unreadable_name_names_its_file(
    sh: Shell, torn: Path, command: str
) -> None:
    """`ls` lists it, so it is not unknown: exit code 6, and the file as it is."""
    out, err = sh(*command.split(), "torn", code=6)
    assert out == ""
    assert "torn_one.json: " in err
    assert torn.read_text() == TORN


def test_a_beginning_never_passes_an_unreadable_experiment_by(sh: Shell, torn: Path) -> None:
    """What another one begins with, too, deletes neither."""
    StateManager(sh.states).create("torn_two")
    _, err = sh("rm", "torn", code=4)
    assert "torn_two, torn_one" in err
    assert StateManager(sh.states).load("torn_two")
    # Whole names are no beginnings.
    sh("rm", "torn_two")
    assert torn.exists()


def test_a_torn_journal_is_found_by_the_beginning_of_its_experiment(sh: Shell) -> None:
    """The file that is named lies in the experiment's folder."""
    StateManager(sh.states).create("exp_torn")
    with StateManager(sh.states).claim("exp_torn"):
        pass
    [journal] = (sh.states / "exp_torn/journal").glob("*.jsonl")
    journal.write_text("x" + journal.read_text())
    assert journal.name in sh("show", "exp_t", code=6)[1]


def test_rm_of_an_unreadable_experiment_says_how_to_be_rid_of_it(sh: Shell, torn: Path) -> None:
    """A command to be pasted, that removes all of it and nothing else."""
    StateManager(sh.states).create("good")
    (sh.states / "torn_one").mkdir()
    _, err = sh("rm", "torn_one", code=6)
    command = err.split("nothing of it runs: ")[1].strip()
    assert shlex.split(command)[3:] == [
        ".experiment_state/torn_one.json",
        ".experiment_state/torn_one",
    ]
    assert sh.shell(command).returncode == 0
    assert [each["experiment_id"] for each in sh.json("ls")["experiments"]] == ["good"]


# -- experiments that are not what is to be run ---------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--resume", "short"], ["e.toml"], ["e.toml", "--resume", "short"]]
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_experiment_of_another_number_of_processes_is_refused(
    sh: Shell, words: list[str], dry: list[str]
) -> None:
    """Whoever makes one through the library can make them differ; a dry run says so, too."""
    from holdfast.config.experiment_file import load_config

    experiment = load_config(sh.path / "e.toml")
    StateManager(sh.states).create(
        "short",
        num_processes=2,
        config=experiment.to_config(),
        config_hash=experiment.config_hash(sh.states),
        cwd=sh.path,
    )
    out, err = sh("run", *words, *dry, code=2)
    assert out == ""
    assert "short:\n  processes: it has 2, but " in err
    assert "makes 3" in err


def test_a_dry_run_of_what_has_no_command_says_what_a_resume_would(sh: Shell) -> None:
    """It was made through the library."""
    StateManager(sh.states).create("bare", num_processes=2)
    told = [sh(*words, "bare", code=2)[1] for words in (["resume"], ["run", "-n", "--resume"])]
    assert "command: it was made without one" in told[0]
    assert told[0] == told[1]


# -- what was typed -------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["ls"], ["doctor"], ["cleanup"], ["show", "@last"]])
def test_a_directory_without_experiments_is_named_where_it_was_looked_for(
    sh: Shell, words: list[str]
) -> None:
    """Most often it is the wrong one."""
    code = {"show": 4, "doctor": 1}.get(words[0], 0)
    absent = f"there is no directory .experiment_state in {sh.path}"
    _, err = sh(*words, code=code)
    assert absent in err
    assert "nothing is wrong" not in err
    StateManager(sh.states).create("exp")
    assert absent not in sh(*words)[1]


@pytest.mark.parametrize(
    "words",
    [
        *("ls", "ls --json", "cleanup", "doctor", "doctor --json", "show @last", "logs @last"),
        *("aggregate @last", "export @last", "rm @last", "resume @last"),
    ],
)
def test_a_directory_that_was_named_and_is_not_there_is_an_error(sh: Shell, words: str) -> None:
    """A typing error must not look like an empty list; only a run makes what it needs."""
    wanted = f"there is no directory some/where in {sh.path}, which"
    assert f"{wanted} -C names" in sh("-C", "some/where", *words.split(), code=2)[1]
    assert f"{wanted} -C names" in sh(*words.split(), "-C", "some/where", code=2)[1]
    env = {"HOLDFAST_STATE_DIR": "some/where"}
    assert f"{wanted} HOLDFAST_STATE_DIR names" in sh(*words.split(), code=2, env=env)[1]
    assert not (sh.path / "some").exists()


def test_a_state_directory_that_is_a_file_is_an_error_and_a_run_makes_one(sh: Shell) -> None:
    """`-C e.toml` is a slip of the hand; `-C some/where` is a wish."""
    for words in ("ls", "run e.toml"):
        env = {"HOLDFAST_STATE_DIR": "e.toml"}
        assert "e.toml in" in (err := sh(*words.split(), code=2, env=env)[1])
        assert "is no directory" in err
    assert sh("-C", "some/where", "run", "-n", "e.toml")
    assert not (sh.path / "some").exists()
    sh("-C", "some/where", "run", "e.toml")
    assert "squares" in sh("-C", "some/where", "ls")[0]


@pytest.mark.parametrize("command", ["aggregate", "resume", "rm"])
def test_what_was_meant_by_an_id_is_suggested(sh: Shell, command: str) -> None:
    """A misspelt `@last`, and a process where only a whole experiment will do."""
    StateManager(sh.states).create("exp_one")
    assert "did you mean: @last\n" in sh(command, "@latest", code=4)[1]
    if command == "resume":  # of one process: there is no such
        assert "exp_one has processes 0 to 0, no 3" in sh(command, "exp/3", code=2)[1]
    else:
        assert "did you mean: exp_one\n" in sh(command, "exp/3", code=4)[1]
    assert StateManager(sh.states).load("exp_one")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("list", "did you mean `HOLDFAST ls`?"),
        ("-C x list", "did you mean `HOLDFAST -C x ls`?"),
        ("e.toml", "did you mean `HOLDFAST run e.toml`?"),
        ("run python3 x.py", "if it is a command: HOLDFAST run --procs 1 -- python3 x.py"),
        ("run --procs 3 python3 x.py", "stands behind --: HOLDFAST run --procs 3 -- python3 x.py"),
        ("run e.toml -- x", "a FILE or a command behind --, not both"),
        ("run E.toml", "did you mean e.toml?"),
    ],
)
def test_wrong_usage_says_what_may_have_been_meant(sh: Shell, words: str, told: str) -> None:
    """To be typed as it stands there."""
    told = told.replace("HOLDFAST", f"{Path(sys.executable).name} -m holdfast")
    assert told in sh(*words.split(), code=2)[1]


def test_logs_of_an_attempt_that_never_was_is_a_mistake(sh: Shell) -> None:
    """Not an attempt that is silent."""
    sh("run", "e.toml")
    assert (
        "has had 1 attempt, so that there is no"
        in sh("logs", "@last/0", "--attempt", "2", code=2)[1]
    )
    assert "out 0" in sh("logs", "@last/0", "--attempt", "1")[0]


def test_a_dry_run_of_what_runs_says_that_a_run_would_be_refused(sh: Shell) -> None:
    """Its owner is named; the plan is what its successor would do."""
    sh.hold()
    run = sh.start("run", "e.toml")
    sh.began(2)
    assert "not while its owner runs it: alive" in sh("run", "e.toml", "-n", code=5)[1]
    assert sh.json("run", "e.toml", "-n", code=5)["liveness"]["kind"] == "alive"
    run.kill()
    run.communicate()
    assert "owner" not in sh("run", "e.toml", "-n")[1]


def test_a_refused_aggregation_says_how_to_get_there(sh: Shell) -> None:
    """The machine's events are no commands."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    _, err = sh("aggregate", "@last", code=1)
    assert f"holdfast resume {sh.only_id()}" in err.split("to run what is missing: ")[1]


def test_a_dry_run_of_a_failed_aggregation_says_that_it_would_run(sh: Shell) -> None:
    """`0 of 3 processes would be run` reads as if nothing would."""
    (sh.path / "e.toml").write_text(FILE + '[aggregate]\ncommand = ["false"]\n')
    sh("run", "e.toml", code=3)
    assert "only the aggregation would be run" in sh("run", "e.toml", "-n")[1]
    assert sh.json("run", "e.toml", "-n")["aggregates"] is True


# -- what is lost ---------------------------------------------------------------------------------


def test_lost_results_of_an_aggregated_experiment_lead_to_a_new_run(sh: Shell) -> None:
    """No process of it runs again: neither `resume` nor `aggregate` is advised, and 0 is no end."""
    sh("run", "e.toml")
    experiment_id = sh.only_id()
    folder = sh.states / experiment_id
    (folder / "aggregate.json").unlink()
    for command in (("run", "e.toml"), ("resume", "@last")):
        # The results are there: it can be made again.
        assert f"holdfast aggregate {experiment_id}" in sh(*command)[1].split("next: ")[1]
    for result in (folder / "results").glob("*.json"):
        result.unlink()
    for command in (("run", "e.toml"), ("resume", "@last"), ("aggregate", "@last")):
        err = sh(*command, code=1 if command[0] == "aggregate" else 3)[1]
        assert "run --fresh" in err
        assert f"holdfast rm {experiment_id}" in err
        assert "holdfast resume" not in err
        assert "holdfast aggregate" not in err
        assert ("3 of its 3 results are lost (0, 1, 2)" in err) == (command[0] != "aggregate")
    out, _ = sh("show", "@last")
    [again] = [line.partition("next: ")[2] for line in out.splitlines() if "next: " in line]
    assert sh.shell(again.replace(f"{Path(sys.executable).name} -m ", "")).returncode == 0


def test_a_working_directory_that_was_moved_is_looked_for_and_the_ways_out_told(sh: Shell) -> None:
    """A resume fails no process for it; moved back, it goes on."""
    (sh.path / "d").mkdir()
    for name in ("e.toml", "work.py"):
        (sh.path / name).rename(sh.path / "d" / name)
    (sh.path / "d" / "hold").touch()
    run = sh.start("run", "d/e.toml")
    until(lambda: len(list(sh.path.glob("d/began.*"))) == 2)
    run.kill()
    run.communicate()
    (sh.path / "d").rename(sh.path / "e")
    (sh.path / "e" / "hold").unlink()
    for _ in range(2):
        _, err = sh("resume", "@last", code=2)
        assert f"working directory: {sh.path / 'd'} is gone" in err
        assert f"link it: ln -s NEW {sh.path / 'd'}" in err
        assert "run --fresh NEW/e.toml" in err
    (sh.path / "d").symlink_to("e")
    sh("resume", "@last")
    assert len(list(sh.path.glob("e/began.*"))) == 3


# -- what is shown --------------------------------------------------------------------------------


def test_show_prints_values_as_they_were_written(sh: Shell) -> None:
    """Not their escapes."""
    (sh.path / "e.toml").write_text(FILE.replace("[1, 2, 3]", '["größe"]') + '[env]\nA = "hällo"\n')
    sh("run", "e.toml", env={"PYTHONUTF8": "1"})
    out, _ = sh("show", "@last", env={"PYTHONUTF8": "1"})
    assert 'matrix     level = ["größe"]' in out
    assert 'env        A = "hällo"' in out


def test_show_says_that_the_file_has_other_limits_by_now(sh: Shell) -> None:
    """A run of it uses those, and they are stored nowhere."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    assert "by now" not in sh("show", "@last")[0]
    (sh.path / "e.toml").write_text(FILE.replace("jobs = 2", "jobs = 1"))
    out, _ = sh("show", "@last")
    assert 'limits     jobs = 2, grace = "2s"' in out
    assert "e.toml (has other limits by now: `run` uses those, `resume` these)" in out
    # Of other work, and gone: nothing that its limits could tell.
    (sh.path / "e.toml").write_text(FILE.replace("jobs = 2", "jobs = 1").replace("3]", "4]"))
    assert "by now" not in sh("show", "@last")[0]
    (sh.path / "e.toml").unlink()
    assert "by now" not in sh("show", "@last")[0]


def test_the_end_counts_what_the_beginning_counted(sh: Shell) -> None:
    """Completed before, completed while nobody watched, taken over while it ran."""
    (sh.path / "work.py").write_text(
        "import os, time\n"
        "index = os.environ['HOLDFAST_INDEX']\n"
        "open(f'began.{index}.x', 'w').close()\n"
        "while os.path.exists(f'hold.{index}'): time.sleep(0.01)\n"
    )
    text = FILE.replace("[1, 2, 3]", "[1, 2, 3, 4]").replace("jobs = 2", "jobs = 3")
    (sh.path / "e.toml").write_text(text)
    ends, runs = held(sh, 1), held(sh, 2)
    held(sh, 3)
    run = sh.start("run", "e.toml")
    sh.began(4)
    until(lambda: sh.json("ls")["experiments"][0]["processes"]["completed"] == 1)
    run.kill()
    run.communicate()
    ends.unlink()
    until(lambda: "completed while nobody watched" in sh("run", "e.toml", "-n")[0])
    resumed = sh.start("resume", "@last")
    hear(resumed.stderr, "2 of 4 processes completed so far, 2 running")
    runs.unlink()
    (sh.path / "hold.3").unlink()
    _, err = resumed.communicate(timeout=PATIENCE_S)
    assert (
        "(2 processes completed before, not run again, 1 of them while nobody watched; "
        "2 processes taken over)"
    ) in err


# -- a terminal that goes away --------------------------------------------------------------------


def test_a_closed_terminal_leaves_the_processes_to_the_next_resume(sh: Shell) -> None:
    """SIGHUP ends the run: what runs goes on, nothing new begins, `resume` adopts it."""
    sh.hold()
    terminal = Terminal(sh, "run", "e.toml")
    terminal.read("2 running")
    sh.began(2)
    os.close(terminal.fd)
    assert terminal.process.wait(PATIENCE_S) == -signal.SIGHUP
    assert "owner dead" in sh("ls")[0]
    plan = sh.json("run", "e.toml", "-n")["processes"]
    assert ["to be taken over" in each["why"] for each in plan] == [True, True, False]
    assert len(list(sh.path.glob("began.*"))) == 2
    resumed = sh.start("resume", "@last")
    hear(resumed.stderr, "0 of 3 processes completed so far, 2 running")
    sh.let_go()
    _, err = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 0, err
    assert "2 processes taken over" in err
    assert len(list(sh.path.glob("began.*"))) == 3


def test_an_engine_without_a_name_is_said_to_count_for_nothing(sh: Shell) -> None:
    """A partition alone sends nothing to a cluster; what this machine reads counts here."""
    (sh.path / "e.toml").write_text(
        'command = ["true"]\nprocesses = 1\n[engine]\npartition = "x"\ngrace = "5s"\n'
    )
    _, err = sh("run", "e.toml")
    assert "[engine] names no engine: this machine runs it, without regard to partition\n" in err
