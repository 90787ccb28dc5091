"""The command line as its users meet it: real processes, their output and their exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.cli.failures import EXIT_CODES
from holdfast.store.manager import StateManager
from processes import hear
from shell import FILE, Shell, Terminal, has_open
from waiting import PATIENCE_S, until

COMMANDS = [
    *("run", "resume", "ls", "show", "logs"),
    *("cleanup", "aggregate", "rm", "diagram", "demo"),
]


# -- run, resume, dedup ---------------------------------------------------------------------------


def test_a_run_prints_the_table_to_stdout_and_messages_to_stderr(sh: Shell) -> None:
    """Data can be piped; who it is about and how it ended is told aside."""
    out, err = sh("run", "e.toml")
    assert out.splitlines()[0].split()[:2] == ["#", "level"]
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["0", "1", "2"]
    assert "square" in out
    assert "running exp_" in err
    assert "completed and aggregated" in err
    assert "next:" not in err
    assert "\x1b" not in out + err


def test_an_aggregated_file_is_not_run_again_but_shown(sh: Shell) -> None:
    """The same work, asked for twice, is done once."""
    first, _ = sh("run", "e.toml")
    again, err = sh("run", "e.toml")
    assert again == first
    assert "aggregated already" in err
    assert len(list(sh.path.glob("began.*"))) == 3


def test_fresh_makes_a_new_experiment(sh: Shell) -> None:
    """`--fresh` runs it again although it is done."""
    sh("run", "e.toml")
    sh("run", "e.toml", "--fresh")
    assert len(sh.json("ls")["experiments"]) == 2


def test_a_failed_process_is_told_with_its_last_words_and_the_next_command_works(
    sh: Shell,
) -> None:
    """Exit code 3, why, and a command that can be pasted."""
    (sh.path / "bad").touch()
    out, err = sh("run", "e.toml", code=3)
    assert out == ""
    assert "\n  exit code 7: ValueError: boom\n    process 1 (level=2)\n" in err
    assert "| ValueError: boom \\x1b[31m" in err
    assert "\x1b" not in err
    command = err.split("next: ")[1].strip()
    (sh.path / "bad").unlink()
    done = sh.shell(command.replace(f"{Path(sys.executable).name} -m holdfast", "holdfast"))
    assert done.returncode == 0, done.stderr
    assert "2 processes completed before, not run again" in done.stderr
    assert len(list(sh.path.glob("began.*"))) == 4


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_an_interrupted_run_says_how_to_go_on_and_run_resumes_it(
    sh: Shell, number: int, code: int
) -> None:
    """Ctrl-C and SIGTERM stop the processes; the same file goes on with the same experiment."""
    sh.hold()
    process = sh.start("run", "e.toml")
    sh.began(2)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    assert "stopping 2 processes" in err
    assert f"resume {sh.only_id()}" in err.split("next: ")[1]
    assert sh.json("ls")["experiments"][0]["status"] == "interrupted"
    sh.let_go()
    _, err = sh("run", "e.toml")
    assert f"resuming {sh.only_id()}" in err


def test_a_second_signal_kills_at_once(sh: Shell) -> None:
    """A process that does not listen to SIGTERM need not be waited for."""
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); "
    deaf += "open('began.0.1', 'w').close(); time.sleep(600)"
    (sh.path / "work.py").write_text(deaf)
    process = sh.start("run", "e.toml", "--set", "level=1", "--set", "limits.grace=10m")
    sh.began(1)
    process.send_signal(signal.SIGINT)
    hear(process.stderr, "stopping")
    process.send_signal(signal.SIGINT)
    # Far less than the grace period.
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT
    assert "killing 1 process" in err


def test_a_killed_orchestrator_is_told_and_resumed(sh: Shell) -> None:
    """After kill -9, ls and show name the dead owner; resume adopts what still runs."""
    sh.hold()
    process = sh.start("run", "e.toml")
    sh.began(2)
    process.kill()
    process.communicate()
    experiment_id = sh.only_id()
    out, err = sh("ls")
    assert "running (owner dead)" in out
    assert f"resume {experiment_id}" in err
    out, _ = sh("show", "@last")
    assert re.search(r"^status .*running \(owner dead\)$", out, re.MULTILINE)
    assert "to be taken over" in out
    assert sh.json("ls")["experiments"][0]["liveness"]["kind"] == "dead"
    plan = sh.json("run", "e.toml", "--dry-run")
    assert [each["action"] for each in plan["processes"]] == ["adopt", "adopt", "run"]
    resumed = sh.start("resume", experiment_id)
    hear(resumed.stderr, "0 of 3 processes completed so far, 2 running")
    sh.let_go()
    _, err = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 0, err
    assert "2 processes taken over" in err
    assert len(list(sh.path.glob("began.*"))) == 3


def test_three_runs_of_one_file_make_one_experiment(sh: Shell) -> None:
    """One runs; the others exit 5 and say who owns it, where and since when."""
    sh.hold()
    runs = [sh.start("run", "e.toml") for _ in range(3)]
    until(lambda: sum(run.poll() is not None for run in runs) == 2)
    [owner] = [run for run in runs if run.poll() is None]
    for run in runs:
        if run is not owner:
            _, err = run.communicate()
            assert run.returncode == 5, err
            assert re.search(rf"owned by pid {owner.pid} on \S+ since \d{{4}}-", err)
    sh.let_go()
    assert owner.wait(PATIENCE_S) == 0
    assert len(sh.json("ls")["experiments"]) == 1


def test_resume_uses_the_stored_configuration(sh: Shell) -> None:
    """The file may be gone or changed: what was started is what is finished."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    (sh.path / "bad").unlink()
    (sh.path / "e.toml").unlink()
    sh("run", "--resume", "@last")
    assert sh.json("ls")["experiments"][0]["status"] == "aggregated"


def test_a_file_of_other_work_is_not_resumed_and_the_difference_is_told(sh: Shell) -> None:
    """`run FILE --resume ID` exits 2 where FILE is not what ID was made with."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    other = FILE.replace("[1, 2, 3]", "[1, 2, 4]") + '[env]\nA = "1"\n'
    (sh.path / "e.toml").write_text(other)
    out, err = sh("run", "e.toml", "--resume", "@last", code=2)
    assert out == ""
    assert 'process 2: {"level": 3} in the experiment, {"level": 4} now' in err
    assert 'env.A: nothing in the experiment, "1" now' in err
    # Limits do not define the work.
    (sh.path / "e.toml").write_text(FILE.replace("jobs = 2", "jobs = 1"))
    (sh.path / "bad").unlink()
    _, err = sh("run", "e.toml", "--resume", "@last")
    assert "limits as given now" in err


def test_several_matches_are_refused_with_the_list(sh: Shell) -> None:
    """Nobody guesses which of two unfinished twins is meant."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    sh("run", "e.toml", "--fresh", code=3)
    ids = StateManager(sh.states).list_experiments()
    for words in ((), ("--dry-run",)):
        _, err = sh("run", "e.toml", *words, code=4)
        assert err.startswith("error: 2 unfinished experiments do this work: ")
        assert all(each in err for each in ids)
        for way in (f"holdfast resume {ids[-1]}", "--fresh", f"holdfast rm {ids[-1]}"):
            assert way in err


def test_a_command_needs_no_file(sh: Shell) -> None:
    """`run --procs N -- CMD` runs N of it here, told apart by {index}."""
    out, _ = sh("run", "--procs", "3", "--", "python", "-c", "print('n', {index})")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["0", "1", "2"]
    assert sh("logs", "@last/2")[0].endswith("n 2\n")


def test_no_word_behind_the_dashes_is_for_holdfast(sh: Shell) -> None:
    """Options of the command stay the command's."""
    sh("run", "--", "echo", "--json", "-n", "--")
    assert sh("logs", "@last/0", "-o")[0] == "--json -n --\n"


def test_an_experiment_without_a_name_is_called_after_its_file(sh: Shell) -> None:
    """A listing of nameless ids helps nobody."""
    (sh.path / "e.toml").rename(sh.path / "sweep.toml")
    text = (sh.path / "sweep.toml").read_text().replace('name = "squares"', "")
    (sh.path / "sweep.toml").write_text(text)
    sh("run", "sweep.toml")
    assert sh.json("ls")["experiments"][0]["name"] == "sweep"


def test_settings_change_the_file(sh: Shell) -> None:
    """`--set` reaches any key, and a list of the matrix by its own name."""
    sh("run", "e.toml", "--set", "level=[5]", "--set", "name=other")
    [experiment] = sh.json("ls")["experiments"]
    assert (experiment["name"], experiment["num_processes"]) == ("other", 1)


def test_no_aggregate_stops_before_and_aggregate_goes_on(sh: Shell) -> None:
    """All processes are done; the aggregation is a step of its own."""
    _, err = sh("run", "e.toml", "--no-aggregate")
    assert "aggregate exp_" in err.split("next: ")[1]
    assert sh.json("ls")["experiments"][0]["status"] == "completed"
    out, _ = sh("aggregate", "@last")
    assert "square" in out
    assert sh.json("aggregate", "@last")["aggregate"]["num_processes"] == 3


def test_aggregate_of_unfinished_work_is_refused_with_the_reason(sh: Shell) -> None:
    """What is missing is named."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    _, err = sh("aggregate", "@last", code=1)
    assert "cannot aggregate" in err
    assert "1 of 3 processes not completed" in err


def test_a_dry_run_says_run_or_skip_and_why_and_changes_nothing(sh: Shell) -> None:
    """For every process; nothing is created."""
    out, _ = sh("run", "e.toml", "--dry-run")
    assert out.count("a new experiment") == 3
    assert not sh.states.exists()
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    before = (sh.states / f"{sh.only_id()}.json").read_bytes()
    plan = sh.json("run", "e.toml", "-n")
    assert [(each["action"], each["why"]) for each in plan["processes"]] == [
        ("skip", "completed in attempt 1"),
        ("run", "failed: exit code 7"),
        ("skip", "completed in attempt 1"),
    ]
    assert (sh.states / f"{sh.only_id()}.json").read_bytes() == before


# -- what is wrong with what was typed ------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run"],
        ["run", "missing.toml"],
        ["run", "a", "b"],
        ["run", "--procs", "2"],
        ["run", "--procs", "2", "echo"],
        ["run", "e.toml", "--procs", "2", "--", "echo"],
        ["run", "e.toml", "--set", "nonsense"],
        ["run", "e.toml", "--resume", "x", "--fresh"],
        ["run", "--resume", "x", "--set", "a=1"],
        ["run", "e.toml", "-j", "0"],
        ["shwo"],
        ["ls", "--nonsense"],
        ["diagram", "nothing"],
    ],
)
def test_wrong_usage_exits_2(sh: Shell, words: list[str]) -> None:
    """And leaves no state directory behind."""
    out, err = sh(*words, code=2)
    assert out == ""
    assert err
    assert not sh.states.exists()


def test_a_misspelt_command_is_suggested(sh: Shell) -> None:
    """As git does."""
    assert "-m holdfast show`?" in sh("shwo", code=2)[1]


def test_all_problems_of_a_file_are_told_at_once(sh: Shell) -> None:
    """With the misspelt key's neighbour."""
    (sh.path / "e.toml").write_text('comand = ["x"]\n[limits]\njobs = "many"\n')
    _, err = sh("run", "e.toml", code=2)
    assert "command" in err
    assert "jobs" in err


@pytest.mark.parametrize("command", ["show", "resume", "logs", "rm", "aggregate"])
def test_unknown_and_ambiguous_ids_exit_4(sh: Shell, command: str) -> None:
    """With close matches, or all that fit."""
    manager = StateManager(sh.states)
    manager.create("sweep_a")
    manager.create("sweep_b")
    assert "did you mean: sweep_" in sh(command, "swep_a", code=4)[1]
    assert "sweep_a, sweep_b" in sh(command, "swe", code=4)[1]


def test_a_unique_prefix_and_last_name_an_experiment(sh: Shell) -> None:
    """Nobody types whole ids."""
    manager = StateManager(sh.states)
    manager.create("old_one")
    manager.create("new_one")
    assert sh("show", "old")[0].startswith("old_one")
    assert sh("show", "@last")[0].startswith("new_one")


# -- listings -------------------------------------------------------------------------------------


def test_ls_of_nothing_says_so_and_is_no_error(sh: Shell) -> None:
    """An empty listing is valid JSON, too."""
    out, err = sh("ls")
    assert out == ""
    assert "no experiments in .experiment_state" in err
    assert sh.json("ls") == {
        "schema": "holdfast.experiments/1",
        "experiments": [],
        "unreadable": [],
    }


@pytest.mark.parametrize("command", ["ls", "cleanup"])
def test_unreadable_files_are_named_and_everything_else_is_listed(sh: Shell, command: str) -> None:
    """Exit code 6 at the end, and not a byte of them is changed."""
    StateManager(sh.states).create("good")
    (sh.states / "torn.json").write_text('{"experiment_id": "to')
    (sh.states / "newer.json").write_text('{"schema_version": 99, "experiment_id": "newer"}')
    out, err = sh(command, code=6)
    assert ("good" in out) == (command == "ls")
    assert "torn.json" in err
    assert "newer.json" in err
    document = sh.json(command, code=6)
    assert {Path(each["path"]).name for each in document["unreadable"]} == {
        "torn.json",
        "newer.json",
    }
    assert (sh.states / "torn.json").read_text() == '{"experiment_id": "to'


def test_an_unreadable_experiment_exits_6(sh: Shell) -> None:
    """`show` of the very one."""
    sh.states.mkdir()
    (sh.states / "torn.json").write_text("{")
    assert "torn.json" in sh("show", "torn", code=6)[1]


def test_a_warning_is_one_clean_line(sh: Shell) -> None:
    """No Python file name, no source line."""
    StateManager(sh.states).create("good")
    (sh.states / "torn.json").write_text("{")
    out, err = sh("show", "@last")
    assert out.startswith("good")
    assert err.startswith("warning: ")
    assert err.count("\n") == 1
    assert ".py" not in err


def test_off_a_terminal_nothing_is_cut_or_coloured(sh: Shell) -> None:
    """However narrow COLUMNS says that it is."""
    name = "long " * 40
    StateManager(sh.states).create("exp", name=name)
    for command in (("ls",), ("show", "exp")):
        out, _ = sh(*command, env={"COLUMNS": "20", "FORCE_COLOR": "1", "TERM": "xterm"})
        assert name.strip() in out
        assert "\x1b" not in out


def test_escapes_in_names_do_not_reach_the_terminal(sh: Shell) -> None:
    """A name comes from somebody else's file."""
    evil = "x\x1b]0;owned\x07\u202ey"
    StateManager(sh.states).create(evil, name=evil)
    for command in (("ls",), ("show", "@last")):
        out, err = sh(*command)
        assert not set("\x1b\x07\u202e") & set(out + err)
        assert "\\x1b" in out


@pytest.mark.parametrize("command", ["ls", "ls --json", "show @last", "--help", "diagram"])
def test_a_closed_pipe_is_no_traceback(sh: Shell, command: str) -> None:
    """`| head` has seen enough."""
    manager = StateManager(sh.states)
    for number in range(3):
        manager.create(f"exp_{number}", num_processes=3000, config={"k": "v" * 100_000})
    done = sh.shell(f"holdfast {command} | true; exit ${{PIPESTATUS[0]}}")
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_a_run_whose_table_nobody_reads_still_succeeds(sh: Shell) -> None:
    """The pipe is gone long before the table comes."""
    done = sh.shell("holdfast run e.toml | true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0, done.stderr
    assert "completed and aggregated" in done.stderr


def test_a_run_whose_stderr_is_gone_goes_on(sh: Shell) -> None:
    """Messages are lost then, results are not."""
    done = sh.shell("holdfast run e.toml 2>&1 >table | true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0
    assert "square" in (sh.path / "table").read_text()


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_no_harm(sh: Shell, streams: str) -> None:
    """No journal ever becomes descriptor 1 or 2."""
    done = sh.shell(f"holdfast run e.toml {streams}")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert sh.json("ls")["experiments"][0]["status"] == "aggregated"


def test_a_full_disk_under_stdout_is_an_error(sh: Shell) -> None:
    """A listing that could not be written must not look like a short one."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    StateManager(sh.states).create("exp")
    done = sh.shell("holdfast ls >/dev/full")
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_state_directory_comes_from_option_or_environment(sh: Shell) -> None:
    """The option, before or after the command, beats the environment."""
    StateManager(sh.path / "a").create("in_a")
    StateManager(sh.path / "b").create("in_b")
    env = {"HOLDFAST_STATE_DIR": str(sh.path / "b")}
    assert "in_b" in sh("ls", env=env)[0]
    assert "in_a" in sh("-C", "a", "ls", env=env)[0]
    assert "in_a" in sh("ls", "--state-dir", "a", env=env)[0]


def test_the_next_command_names_the_state_directory(sh: Shell) -> None:
    """What is printed can be pasted as it is."""
    (sh.path / "bad").touch()
    _, err = sh("-C", "else where", "run", "e.toml", code=3)
    assert "-C 'else where' resume exp_" in err.split("next: ")[1]


# -- show, logs, cleanup, rm ----------------------------------------------------------------------


def test_show_tells_what_failed_first_and_what_to_do_last(sh: Shell) -> None:
    """The page that is read at two in the morning."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    out, _ = sh("show", "@last")
    lines = out.splitlines()
    assert lines[0].endswith("squares")
    assert re.match(r"status     [✗x] failed \(exit\): 1 of 3", lines[1])
    assert lines[2].startswith("processes  3: 2 completed, 1 failed")
    assert out.index("ValueError: boom") < out.index("\nresult") < out.index("\nabout\n")
    assert "\n  exit code 7: ValueError: boom\n    process 1 (level=2)\n" in out
    assert "| ValueError: boom \\x1b[31m" in out
    assert "experiment fail: running -> failed" in out
    assert lines[-1].startswith("next: ")


def test_show_json_has_processes_history_and_next_command(sh: Shell) -> None:
    """Everything that the page says, for programs."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    document = sh.json("show", "@last")
    assert document["schema"] == "holdfast.experiment/1"
    assert document["experiment"]["status"] == "failed"
    assert document["processes"][1]["exit_code"] == 7
    assert document["processes"][2]["params"] == {"level": 3}
    assert document["history"][0]["event"] == "claimed"
    assert document["next_command"].endswith(f"resume {sh.only_id()}")


def test_show_of_a_finished_experiment_has_its_result(sh: Shell) -> None:
    """The table can be seen again at any time."""
    sh("run", "e.toml")
    out, _ = sh("show", "@last")
    assert "square" in out
    assert "next:" not in out


def test_a_failed_aggregation_is_told_and_tried_again_alone(sh: Shell) -> None:
    """Its last words, its log, and the command that repeats only it."""
    own = """[aggregate]
command = ["python", "-c", "import os, sys; sys.exit(os.path.exists('bad') and 'no way')"]
"""
    (sh.path / "e.toml").write_text(FILE + own)
    (sh.path / "work.py").write_text("open('began.x', 'a').write('x')")
    (sh.path / "bad").touch()
    _, err = sh("run", "e.toml", code=3)
    assert "| no way" in err
    assert "aggregate exp_" in err.split("next: ")[1]
    assert sh("logs", "@last/aggregate", "-e")[0] == "no way\n"
    (sh.path / "bad").unlink()
    sh("aggregate", "@last")
    assert (sh.path / "began.x").read_text() == "xxx"


def test_logs_are_printed_byte_for_byte(sh: Shell) -> None:
    """One stream of one process has no title; several do."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    assert sh("logs", "@last/1", "--stdout")[0] == "out 1\n"
    assert sh("logs", "@last/1", "-e")[0] == "ValueError: boom \x1b[31m\n"
    both, _ = sh("logs", "@last/1")
    assert both == "==> 1.1 stdout <==\nout 1\n\n==> 1.1 stderr <==\nValueError: boom \x1b[31m\n"
    assert sh("logs", "@last", "-o")[0].count("==> ") == 3
    assert "no 9" in sh("logs", "@last/9", code=2)[1]
    assert "neither a process's number" in sh("logs", "@last/x", code=2)[1]
    assert "has written nothing yet" in sh("logs", "@last/aggregate")[1]


@pytest.mark.parametrize(("written", "last"), [("0\n1\n2\n", "1\n2\n"), ("0\n1\n2", "1\n2")])
def test_the_last_lines_of_a_log(sh: Shell, written: str, last: str) -> None:
    """`-n 2`, with and without a newline at the end."""
    sh("run", "--procs", "1", "--", "printf", "%s", written)
    assert sh("logs", "@last/0", "-o", "-n", "2")[0] == last


def test_logs_are_followed_until_the_process_ends(sh: Shell) -> None:
    """`-f` prints what comes, and returns when nothing more can."""
    sh.hold()
    run = sh.start("run", "e.toml")
    sh.began(2)
    follower = sh.start("logs", "-f", "-o", "@last/0")
    assert follower.stdout is not None
    assert hear(follower.stdout) == "out 0"
    sh.let_go()
    assert follower.wait(PATIENCE_S) == 0
    assert run.wait(PATIENCE_S) == 0


def test_cleanup_interrupts_what_is_dead_with_the_evidence(sh: Shell) -> None:
    """And only says so with --dry-run."""
    sh.hold()
    process = sh.start("run", "e.toml")
    sh.began(2)
    assert sh.json("cleanup")["interrupted"] == []
    process.kill()
    process.communicate()
    out, _ = sh("cleanup", "-n")
    assert "would be interrupted: owner dead" in out
    assert out.count("is not over: alive (lock: its lock is held") == 2
    assert f"to stop it: {Path(sys.executable).name} -m holdfast stop {sh.only_id()}" in out
    document = sh.json("cleanup")
    assert document["schema"] == "holdfast.cleanup/1"
    assert document["interrupted"][0]["liveness"]["kind"] == "dead"
    assert "interrupted (stale)" in sh("ls")[0]
    # When the owner died, nobody knows; only when somebody looked.
    assert sh.json("ls")["experiments"][0]["elapsed_s"] is None
    assert "(nobody saw when its owner died)" in sh("show", "@last")[0]
    assert "nothing to clean up" in sh("cleanup")[1]


def test_unknown_liveness_exits_5_unless_forced(sh: Shell) -> None:
    """Another host's run is never taken for dead without --force."""
    sh.states.mkdir()
    foreign = {
        "schema_version": 1,
        "experiment_id": "far",
        "status": "running",
        "num_processes": 1,
        "config": {"command": ["true"], "processes": 1},
        "owner": {"host": "elsewhere", "boot_id": "b", "machine_id": "m", "pid": 1},
    }
    (sh.states / "far.json").write_text(json.dumps(foreign))
    for command in (["cleanup"], ["resume", "far"], ["rm", "far"]):
        _, err = sh(*command, code=5)
        assert "cannot prove" in err
        assert "--force" in err
    assert sh.json("ls")["experiments"][0]["liveness"]["kind"] == "unknown"
    assert "resume --force far" in sh("show", "far")[0]
    out, _ = sh("cleanup", "--force")
    assert "interrupted" in out
    sh("resume", "far")


@pytest.mark.parametrize("command", ["resume", "rm"])
def test_a_short_claim_of_another_program_is_waited_for(sh: Shell, command: str) -> None:
    """Up to two seconds: a listing or a cleanup elsewhere is no reason to give up."""
    (sh.path / "bad").touch()
    sh("run", "e.toml", code=3)
    (sh.path / "bad").unlink()
    claim = StateManager(sh.states).claim(sh.only_id())
    process = sh.start(command, "@last")
    until(lambda: has_open(process.pid, claim.folder / "lock"))
    claim.release()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err


def test_rm_deletes_and_refuses_what_is_alive(sh: Shell) -> None:
    """Exit code 5 and the owner, as everywhere."""
    sh.hold()
    process = sh.start("run", "e.toml")
    sh.began(2)
    assert f"pid {process.pid}" in sh("rm", "@last", code=5)[1]
    sh.let_go()
    assert process.wait(PATIENCE_S) == 0
    experiment_id = sh.only_id()
    assert sh("rm", experiment_id)[0] == f"{experiment_id} deleted\n"
    assert not list(sh.states.glob("exp*"))


def test_rm_refuses_while_a_process_outlives_its_orchestrator(sh: Shell) -> None:
    """And says how to stop it."""
    sh.hold()
    process = sh.start("run", "e.toml")
    sh.began(2)
    process.kill()
    process.communicate()
    _, err = sh("rm", "@last", code=5)
    assert "alive" in err
    assert f"to stop it: {Path(sys.executable).name} -m holdfast stop {sh.only_id()}" in err


def test_what_waits_for_its_next_attempt_is_told(sh: Shell) -> None:
    """A pause between two attempts must not look like a hang."""
    (sh.path / "bad").touch()
    (sh.path / "e.toml").write_text(FILE + '[retry]\nmax_attempts = 2\nbackoff = "1h"\n')
    terminal = Terminal(sh, "run", "e.toml")
    terminal.read("failed process 1 .*, tried again: exit code 7")
    terminal.read("2 of 3 completed, 1 to be tried again")
    os.write(terminal.fd, b"\x03")
    assert terminal.exit_code() == -signal.SIGINT


def test_rm_deletes_nothing_if_one_id_is_wrong(sh: Shell) -> None:
    """Whoever mistyped one may have meant another by the rest, and nothing brings it back."""
    manager = StateManager(sh.states)
    manager.create("one")
    manager.create("two")
    out, err = sh("rm", "one", "zzz", "two", code=4)
    assert out == ""
    assert "zzz" in err
    assert "nothing was deleted" in err
    assert sh("rm", "one", "two", "one")[0].split() == ["one", "deleted", "two", "deleted"]


# -- the rest -------------------------------------------------------------------------------------


def test_the_version_is_told_without_loading_the_command_line(sh: Shell) -> None:
    """Scripts ask for it all the time."""
    assert sh("--version")[0] == f"holdfast {holdfast.__version__}\n"
    loaded = "import sys, holdfast.cli as c; c.main(['--version']); print('click' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", loaded], env=sh.env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_ls_loads_neither_rich_nor_the_machines(sh: Shell) -> None:
    """Looking is quick."""
    StateManager(sh.states).create("exp")
    code = (
        "import sys, holdfast.cli as c; c.main(['ls']); "
        "print(*(m for m in ('rich', 'statemachine', 'psutil') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=sh.path,
        env=sh.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("machine", ["experiment", "process"])
@pytest.mark.parametrize(
    ("notation", "start"), [("mermaid", "stateDiagram-v2"), ("dot", "digraph"), ("svg", "<svg")]
)
def test_both_machines_are_drawn(sh: Shell, machine: str, notation: str, start: str) -> None:
    """In every notation."""
    out, _ = sh("diagram", machine, "--format", notation)
    assert out.startswith(start)
    assert "running" in out


def test_help_names_every_command_and_exit_code(sh: Shell) -> None:
    """And every command has its own."""
    out, _ = sh("--help")
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", out, re.MULTILINE)
    words = " ".join(out.split())
    assert all(f" {code} " in words for code in EXIT_CODES)
    assert "--dry-run" in sh("run", "--help")[0]


def test_on_a_terminal_progress_is_live_and_ctrl_c_stops_it(sh: Shell) -> None:
    """Counts and running processes, then what Ctrl-C does, then how to go on."""
    sh.hold()
    terminal = Terminal(sh, "run", "e.toml")
    terminal.read(r"0 of 3 completed, 2 running")
    terminal.read(r"level=2")
    sh.began(2)
    os.write(terminal.fd, b"\x03")
    assert terminal.exit_code() == -signal.SIGINT
    assert "stopping 2 processes" in terminal.seen
    assert "next:" in terminal.seen


def test_no_color_is_obeyed_on_a_terminal(sh: Shell) -> None:
    """See https://no-color.org."""
    StateManager(sh.states).create("exp")
    coloured, plain = Terminal(sh, "ls"), Terminal(sh, "ls", NO_COLOR="1")
    assert coloured.exit_code() == plain.exit_code() == 0
    assert "\x1b[" in coloured.seen
    assert "\x1b[" not in plain.seen


def test_a_narrow_terminal_cuts_the_name_only(sh: Shell) -> None:
    """Every experiment stays one line."""
    StateManager(sh.states).create("exp", name="n" * 200)
    terminal = Terminal(sh, "ls", columns=80, NO_COLOR="1")
    assert terminal.exit_code() == 0
    lines = terminal.seen.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "n…" in lines[1]
