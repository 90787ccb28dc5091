"""`holdfast rank`, `progress` and `result`: what programs in any language type in an attempt."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attempting import Attempt
from shell import IN_TERMINAL
from waiting import PATIENCE_S, until

HOLDFAST = [sys.executable, "-m", "holdfast"]

#: Counts what it hears, says so, and ends with 0 when it was told to stop.
LISTENER = """
import signal, sys, time
heard = []
def hear(number, _):
    heard.append(number)
    print("heard", signal.Signals(number).name, flush=True)
    if number in (signal.SIGTERM, signal.SIGINT): sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
               signal.SIGCONT, signal.SIGWINCH):
    signal.signal(number, hear)
print("ready", flush=True)
while True: time.sleep(0.01)  # a signal just before a pause would not end it
"""


@pytest.fixture
def gang(tmp_path: Path) -> Iterator[Attempt]:
    """Attempt 1 of a launcher with three ranks, 4 to 6."""
    made = Attempt(tmp_path, 3)
    yield made
    made.end()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Attempt]:
    """No attempt at all."""
    made = Attempt(tmp_path)
    made.env = {key: value for key, value in made.env.items() if "HOLDFAST" not in key}
    yield made
    made.end()


def output(gang: Attempt, index: int, suffix: str = "out") -> str:
    found = list(gang.reports.glob(f"{index}.*.{suffix}"))
    return found[0].read_text() if found else ""


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- rank


@pytest.mark.parametrize("words", [["rank", "--"], ["rank"], ["rank", "--rank", "2", "--"]])
def test_outside_an_experiment_the_command_is_run_and_nothing_else(alone, words):
    """With its own output and exit code, in the same process."""
    out, err = alone.cli(*words, "sh", "-c", "echo out --rank; echo err >&2; exit 3", exits=3)
    assert (out, err) == ("out --rank\n", "err\n")
    process = alone.popen([*HOLDFAST, "rank", "--", "sh", "-c", "echo $$"])
    assert alone.done(process, 0)[0] == f"{process.pid}\n"
    assert everything(alone.folder) == []


def test_a_rank_has_files_of_its_own(gang):
    """Result, progress, checkpoints and output: MPI ranks that share a file overwrite it."""
    script = (
        'echo "{\\"rank\\": $RANK}" > "$HOLDFAST_RESULT"; echo "step $RANK"; echo oops >&2; '
        'echo "{\\"step\\": $RANK}" >> "$HOLDFAST_PROGRESS"; touch "$HOLDFAST_CHECKPOINT_DIR/x"'
    )
    ranks = [
        gang.popen([*HOLDFAST, "rank", "--", "sh", "-c", script], env={"RANK": str(rank)})
        for rank in range(3)
    ]
    for rank, process in enumerate(ranks):
        assert gang.done(process, 0) == ("", "")
        index = 4 + rank
        assert gang.result(index) == {"rank": rank}
        assert gang.lines(index) == [{"step": rank}]
        assert (output(gang, index), output(gang, index, "err")) == (f"step {rank}\n", "oops\n")
        assert (gang.checkpoints / str(index) / "x").exists()
        ended = gang.told("exit", index)
        assert (ended["exit_code"], ended["signal"], ended["asked"]) == (0, None, None)
        begun = gang.told("begun", index)
        assert (begun["rank"], begun["world_size"], begun["pid"]) == (rank, 3, process.pid)


def test_a_rank_that_nothing_names_is_an_error(gang):
    """By hand it can be named."""
    _, err = gang.cli("rank", "--", "true", exits=1)
    assert "which of the 3 ranks" in err
    assert "holdfast rank --rank R -- COMMAND" in err
    _, err = gang.cli("rank", "--rank", "3", "--", "true", exits=1)
    assert "only 3 ranks are declared" in err
    gang.cli("rank", "--rank", "2", "--", "true")
    assert gang.told("exit", 6)["exit_code"] == 0


def test_an_undeclared_rank_is_run_and_told(tmp_path):
    """Its process has one result, whoever writes it."""
    made = Attempt(tmp_path)
    out, err = made.cli("rank", "--", "echo", "hi", env={"RANK": "1"})
    assert out == "hi\n"
    assert "no ranks are declared" in err


@pytest.mark.parametrize(("command", "code"), [("nosuch", 127), ("./plain", 126)])
def test_a_command_that_cannot_be_started_ends_as_in_a_shell(gang, command, code):
    """And that is recorded."""
    (gang.folder / "plain").touch()
    _, err = gang.cli("rank", "--rank", "0", "--", command, exits=code)
    assert command in err
    told = gang.told("exit", 4)
    assert told["exit_code"] == code
    assert told["error"].startswith(f"{command}: ")


@pytest.mark.parametrize("over", ["5", "4,5"])
def test_a_rank_that_is_over_is_not_run_again(tmp_path, over):
    """Its launcher starts all of its ranks, also those that are completed or failed for good."""
    made = Attempt(tmp_path, 3, completed="", HOLDFAST_OVER=over)
    out, err = made.cli("rank", "--rank", "1", "--", "touch", str(tmp_path / "ran"))
    assert (out, err) == ("", "holdfast: rank 1 is over, and is not run again\n")
    assert not (tmp_path / "ran").exists()
    assert not made.reports.exists()
    made.cli("rank", "--rank", "2", "--", "touch", str(tmp_path / "ran"))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_it_dies_of_the_signal_that_ended_the_command(gang, number):
    """A launcher sees no difference."""
    script = f"kill -{int(number)} $$"
    gang.cli("rank", "--rank", "0", "--", "sh", "-c", script, exits=-number)
    ended = gang.told("exit", 4)
    assert (ended["exit_code"], ended["signal"], ended["asked"]) == (None, number, None)


def test_signals_are_passed_on(gang):
    """Each once; the first that asks to stop is recorded: exit code 0 proves nothing then."""
    process = gang.popen([*HOLDFAST, "rank", "--rank", "0", "--", sys.executable, "-c", LISTENER])
    until(lambda: "ready" in output(gang, 4))
    said = "ready\n"
    for name in ("SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH", "SIGHUP", "SIGTERM"):
        process.send_signal(signal.Signals[name])
        said += f"heard {name}\n"
        until(lambda said=said: output(gang, 4) == said)
    gang.done(process, 0)
    ended = gang.told("exit", 4)
    assert (ended["exit_code"], ended["asked"]) == (0, signal.SIGHUP)


def test_a_terminal_interrupts_the_command_once(gang):
    """Ctrl-C goes to the command itself, too."""
    controller, terminal = os.openpty()
    argv = [*HOLDFAST, "rank", "--rank", "0", "--", sys.executable, "-c", LISTENER]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *argv],
        env=gang.env,
        cwd=gang.folder,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        until(lambda: "ready" in output(gang, 4))
        os.write(controller, b"\x03")
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert output(gang, 4) == "ready\nheard SIGINT\n"
    assert gang.told("exit", 4)["asked"] == signal.SIGINT


def test_the_command_stays_in_group_and_session(gang):
    """A launcher that signals a group, or a shim that looks for a session, finds it."""
    code = "import os; print(os.getpgrp(), os.getsid(0))"
    process = gang.popen([*HOLDFAST, "rank", "--rank", "0", "--", sys.executable, "-c", code])
    gang.done(process, 0)
    assert output(gang, 4) == f"{os.getpgrp()} {os.getsid(0)}\n"


WORKS = """
import holdfast
with holdfast.process() as process:
    process.report(step=1)
    process.checkpoint(lambda path: path.write_text("x"))
    print("logged", file=process.log)
    process.result({"rank": process.rank, "of": process.world_size})
"""


def test_a_program_with_the_worker_api_goes_by_the_wrappers_name(gang):
    """One process, one set of files, whoever speaks."""
    gang.cli("rank", "--rank", "1", "--", sys.executable, "-c", WORKS)
    assert gang.result(5) == {"rank": 1, "of": 3}
    assert gang.told("said", 5)["completed"] is True
    assert gang.told("exit", 5)["exit_code"] == 0
    assert output(gang, 5, "err") == "logged\n"
    stems = {path.name.rpartition(".")[0] for path in gang.reports.iterdir()}
    assert len(stems) == 1
    assert (gang.checkpoints / "5" / "step-2").exists()


def test_a_program_further_below_has_a_name_of_its_own(gang):
    """A script may run several, one after the other or at once: one writer for each file."""
    script = f'"{sys.executable}" -c "$WORKS"; true'
    gang.cli("rank", "--rank", "1", "--", "sh", "-c", script, env={"WORKS": WORKS})
    assert gang.result(5) == {"rank": 1, "of": 3}
    [said] = gang.reports.glob("*.said")
    [ended] = gang.reports.glob("*.exit")
    assert said.stem != ended.stem


#: Until the end of the shell was seen; or so long that nobody should still wait for a stop.
AT_ONCE, LATER = "while kill -0 $$; do :; done", "sleep 0.4"


@pytest.mark.parametrize(
    ("completed", "when", "asked"), [("", AT_ONCE, signal.SIGTERM), (None, LATER, None)]
)
def test_a_stop_right_after_an_end_counts_for_an_independent_rank(tmp_path, completed, when, asked):
    """A shell goes on past its killed child, and exits with 0; alone, that would complete it."""
    made = Attempt(tmp_path, 3, completed=completed)
    script = f"({when}; kill -TERM $PPID) 2>/dev/null & exit 0"
    made.cli("rank", "--rank", "0", "--", "sh", "-c", script)
    assert made.told("exit", 4)["asked"] == asked


@pytest.mark.parametrize("completed", [None, ""])
def test_an_end_that_cannot_be_recorded_is_no_success(tmp_path, completed):
    """A rank that began and says no more did not complete, whatever its launcher exits with."""
    made = Attempt(tmp_path, 3, completed=completed)
    script = f'rm -r "{made.attempts}"'
    _, err = made.cli("rank", "--rank", "0", "--", "sh", "-c", script, exits=1)
    assert "saying how it ended failed: No such file or directory" in err


# --- progress


def test_progress_is_one_line(tmp_path):
    """Numbers as numbers, the rest as text."""
    made = Attempt(tmp_path)
    assert made.cli("progress", "--step", "3", "--total", "90", "--message", "warm up", "loss=0.1",
                    "model=small") == ("", "")  # fmt: skip
    made.cli("progress", "--step", "4.5")
    first, second = map(json.loads, made.progress.read_text().splitlines())
    assert first.pop("time") > 1e9
    assert first == {
        "step": 3, "total": 90, "message": "warm up", "loss": 0.1, "model": "small",
    }  # fmt: skip
    assert second["step"] == 4.5


def test_progress_of_a_rank_says_which(gang):
    """All ranks of a launcher share that file."""
    gang.cli("progress", "--step", "3", env={"PMI_RANK": "2"})
    assert json.loads(gang.progress.read_text())["rank"] == 2


def test_progress_that_cannot_be_recorded_fails_nothing(alone, tmp_path):
    """A script with `set -e` goes on: nothing depends on it."""
    _, err = alone.cli("progress", "--step", "3")
    assert "nothing was recorded" in err
    made = Attempt(tmp_path, HOLDFAST_PROGRESS=str(tmp_path / "no" / "where" / "p"))
    assert "cannot be written" in made.cli("progress", "--step", "3")[1]


@pytest.mark.parametrize("words", [["loss"], ["=3"], ["step=3"], ["--step", "three"]])
def test_progress_that_means_nothing_is_refused(tmp_path, words):
    """With what would mean something."""
    made = Attempt(tmp_path)
    made.cli("progress", *words, exits=2)
    assert not made.progress.exists()


# --- result


def test_a_result_is_delivered_from_a_file_or_a_pipe(tmp_path):
    """As it is, and the last one counts."""
    made = Attempt(tmp_path)
    (tmp_path / "r.json").write_text('{"loss": NaN }')
    assert made.cli("result", "r.json") == ("", "")
    assert (made.results / "3.1.json").read_text() == '{"loss": NaN }'
    made.cli("result", "-", given="[1]")
    assert made.result() == [1]
    assert everything(made.results) == ["3.1.json"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "the file is empty"),
        ('{"a": 1, "a": 2}', "duplicate key"),
        ("{", "Expecting property name"),
        ('"' + "x" * (64 << 20) + '"', "too large"),
    ],
    ids=["empty", "twice", "cut", "large"],
)
def test_what_is_no_result_is_refused(tmp_path, content, why):
    """Before it takes the place of a good one."""
    made = Attempt(tmp_path)
    made.cli("result", "-", given="1")
    (tmp_path / "r.json").write_text(content)
    _, err = made.cli("result", "r.json", exits=1)
    assert "error: result r.json" in err
    assert why in err
    assert made.result() == 1
    assert "cannot be read: No such file" in made.cli("result", "none.json", exits=1)[1]


def test_outside_an_experiment_a_result_is_checked(alone):
    """So that a script fails where it is tried, not in the night."""
    assert "not recorded" in alone.cli("result", "-", given="1")[1]
    alone.cli("result", "-", given="{", exits=1)


def test_a_result_that_cannot_be_stored_is_an_error(tmp_path):
    """Nobody believes that it is safe."""
    made = Attempt(tmp_path, HOLDFAST_RESULT=str(tmp_path / "no" / "r.json"))
    assert "writing the result failed" in made.cli("result", "-", given="1", exits=1)[1]
