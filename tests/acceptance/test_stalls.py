"""Programs that report how far they are and then fall silent: what is told, done and shown."""

import os
import re
from collections.abc import Iterator

import pytest

from holdfast.attempts.names import AttemptName, progress_path
from holdfast.attempts.progress import MOST_BYTES
from holdfast.store.manager import StateManager
from processes import hear
from shell import Shell, Terminal
from waiting import PATIENCE_S, until

#: Process 0 reports two steps at once and falls silent, with `recovers` only in its first attempt.
WORKER = """
import json, os, time
index, attempt = int(os.environ["HOLDFAST_INDEX"]), os.environ["HOLDFAST_ATTEMPT"]
def report(*steps):
    with open(os.environ["HOLDFAST_PROGRESS"], "a") as file:
        file.write("".join(json.dumps(said) + "\\n" for said in steps))
open(f"began.{index}.{attempt}", "w").close()
print("hello from", index, flush=True)
if index == 0 and attempt != "1" and os.path.exists("recovers"):
    raise SystemExit
if index == 0:
    report(*({"step": step, "total": 8, "loss": 0.5 / step} for step in (1, 2)))
while not os.path.exists("go"):
    time.sleep(0.01)
"""

FILE = """
name = "stalls"
command = ["python", "work.py"]
processes = 2
[limits]
jobs = 2
grace = "5s"
stall = "1s"
on_stall = "{on_stall}"
[retry]
max_interruptions = 2
"""


@pytest.fixture
def stalls(sh: Shell) -> Iterator[Shell]:
    (sh.path / "work.py").write_text(WORKER)
    (sh.path / "tell.toml").write_text(FILE.format(on_stall="tell"))
    (sh.path / "restart.toml").write_text(FILE.format(on_stall="restart"))
    yield sh
    (sh.path / "go").touch()  # whatever failed, nothing waits on


def process(sh: Shell, index: int) -> dict[str, object]:
    return sh.json("show", "@last")["processes"][index]  # type: ignore[index]


def test_a_stall_is_told_once_and_shown(stalls: Shell) -> None:
    """One that never reports never stalls; whoever runs on completes."""
    run = stalls.start("run", "tell.toml")
    stalls.began(2)
    told = "attempt 0.1 has stalled: it has reported nothing for "
    hear(run.stderr, told)
    shown = process(stalls, 0)["progress"]
    assert shown["heartbeat_age_s"] >= 1  # type: ignore[index]
    assert {**shown, "heartbeat_age_s": 0} == {  # type: ignore[dict-item]
        "step": 2, "total": 8, "message": None, "values": {"loss": 0.25}, "heartbeat_age_s": 0,
        "stalled": True,
    }  # fmt: skip
    assert process(stalls, 1)["progress"] is None
    page, _ = stalls("show", "@last", env={"COLUMNS": "200"})
    assert re.search(r"PROCESS .* PROG +BEAT +SHIM +SAYS\n", page), page
    assert re.search(r"\n +0 .* 2/8 25%  [0-9.]+ s, stalled  .* loss=0.25\n", page), page
    assert re.search(r"\n +1 .* hello from 1\n", page), page
    assert re.search(
        r"\nprogress +2/8 25%, last report .* ago, stalled: loss=0.25\n",
        stalls("show", "@last/0")[0],
    )
    [listed] = stalls.json("ls")["experiments"]  # type: ignore[misc]
    sums = listed["progress"]
    assert (sums["step"], sums["total"], sums["stalled"], sums["eta_s"]) == (2, 8, 1, None)
    assert "2/8 25%" in stalls("ls")[0]
    # Told once for as long as it lasts, and again if it falls silent again.
    folder = stalls.states / stalls.only_id()
    with progress_path(folder, AttemptName.of_process("", 0, 1)).open("a") as file:
        file.write('{"step": 3}\n')
    hear(run.stderr, told)
    (stalls.path / "go").touch()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert "stalled" not in err
    assert process(stalls, 0)["progress"] is None


def test_with_restart_it_is_stopped_and_tried_again(stalls: Shell) -> None:
    """Requeued for its own reason, not charged, and the next attempt completes."""
    (stalls.path / "recovers").touch()
    run = stalls.start("run", "restart.toml")
    stalls.began(3)
    (stalls.path / "go").touch()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert "attempt 0.1 has stalled: it has reported nothing for " in err
    assert "stopped process 0: attempt 1 had stalled; not charged to its retries" in err
    assert "stopping" not in err
    state = StateManager(stalls.states).load(stalls.only_id())
    found = state.processes[0]
    assert (found.attempt, found.failures, found.interruptions) == (2, 0, 1)
    assert state.processes[1].attempt == 1
    history, _ = stalls("show", "@last", "--history")
    assert "process 0 requeue: running -> pending (stall)" in history
    stalls("doctor")


#: A launcher whose ranks share a file, and fall silent in their first attempt.
GANG = """
import os, time
if os.environ["HOLDFAST_ATTEMPT"] == "1":
    with open(os.environ["HOLDFAST_PROGRESS"], "w") as file:
        file.write('{"step": 1}\\n{"step": 2, "rank": 2}\\n')
    while True:
        time.sleep(0.01)
"""


def test_a_gang_that_stalls_is_tried_again_as_one(sh: Shell) -> None:
    """All of its ranks have the reason, and it is told in one line."""
    (sh.path / "work.py").write_text(GANG)
    (sh.path / "g.toml").write_text(
        'command = ["python", "work.py"]\nranks = 3\n'
        'limits = {stall = "1s", on_stall = "restart", grace = "5s"}\n'
    )
    _, err = sh("run", "g.toml")
    assert "attempt launcher-0.1 has stalled: it has reported nothing for " in err
    assert "\nstopped processes 0-2: attempt 1 had stalled; not charged to its retries\n" in err
    found = StateManager(sh.states).load(sh.only_id()).process_progress.values()
    assert [(each.attempt, each.failures, each.interruptions) for each in found] == [(2, 0, 1)] * 3
    assert sh("show", "@last", "--history")[0].count("requeue: running -> pending (stall)") == 3


def test_what_stalls_again_and_again_is_given_up(stalls: Shell) -> None:
    """Interrupted, with what it was: a resume gives a new budget."""
    run = stalls.start("run", "restart.toml")
    stalls.began(3)
    until(lambda: process(stalls, 0)["interruptions"] == 2)
    (stalls.path / "go").touch()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 3, err
    assert "stalled again and again: process 0" in err
    page, _ = stalls("show", "@last")
    assert "interrupted (stall): stalled again and again: process 0" in page
    stalls("resume", "@last")


def test_a_new_orchestrator_counts_the_silence_anew(stalls: Shell) -> None:
    """It saw no report, and has its own clock; a stall that its predecessor asked for is one."""
    run = stalls.start("run", "restart.toml", "--set", "limits.stall=1h")
    stalls.began(2)
    folder = stalls.states / stalls.only_id()
    path = progress_path(folder, AttemptName.of_process("", 0, 1))
    until(path.exists)
    run.kill()
    run.communicate()
    os.utime(path, (0, 0))
    (stalls.path / "recovers").touch()
    again = stalls.start("run", "restart.toml")
    stalls.began(3)
    (stalls.path / "go").touch()
    _, err = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, err
    assert re.search(r"attempt 0\.1 has stalled: it has reported nothing for [0-9]+ s", err)
    assert StateManager(stalls.states).load(stalls.only_id()).processes[0].interruptions == 1


def test_progress_that_outgrew_its_room_is_cut_while_the_program_runs(stalls: Shell) -> None:
    """Its writer, which ignores us, goes on, and its last words are still shown."""
    run = stalls.start("run", "tell.toml", "--set", "limits.stall=1h")
    stalls.began(2)
    path = progress_path(stalls.states / stalls.only_id(), AttemptName.of_process("", 0, 1))
    until(path.exists)
    with path.open("ab", buffering=0) as file:
        file.write(b'{"step": 7, "pad": "%s"}\n' % (b"x" * 1000) * (2 * MOST_BYTES // 1000))
        until(lambda: path.stat().st_size < MOST_BYTES)
        assert run.poll() is None
        assert process(stalls, 0)["progress"]["step"] == 7  # type: ignore[index]
        file.write(b'{"step": 8}\n')
        assert process(stalls, 0)["progress"]["step"] == 8  # type: ignore[index]
    (stalls.path / "go").touch()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err


def test_a_live_view_shows_how_far_they_are(stalls: Shell) -> None:
    """Steps, time left before anything completed, heartbeat; and what is printed where none is."""
    terminal = Terminal(stalls, "run", "tell.toml", "--set", "limits.stall=1h", columns=150)
    terminal.read(r"PROG .*ETA .*BEAT")
    terminal.read(r"about [0-9.]+ s left")
    terminal.read(r" 0 .* 2/8 25%  .*loss=0\.25")
    terminal.read(r" 1 .*hello from 1")
    (stalls.path / "go").touch()
    assert terminal.exit_code() == 0
