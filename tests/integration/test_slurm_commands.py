"""The commands of a user on a real Slurm cluster: what is printed, and what it does."""

import re
import subprocess
from pathlib import Path

import pytest

from shell import Shell
from slurm_mini import Cluster
from waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

FILE = """
name = "there"
command = ["python", "work.py", "{level}"]
[matrix]
level = [1, 2, 3]
[limits]
grace = "1s"
fail_fast = true
[engine]
partition = "debug"
"""


@pytest.fixture
def sh(slurm: Cluster, tmp_path: Path):
    """A directory whose holdfast finds the cluster."""
    shell = Shell(tmp_path)
    (tmp_path / "there.toml").write_text(FILE)
    yield shell
    shell.let_go()
    for process in shell.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def left(sh: Shell, *words: str) -> str:
    """What `run --detach` says; its processes wait until they are let go."""
    sh.hold()
    out, err = sh("run", "--detach", "--engine", "slurm", *words, "there.toml")
    assert out.strip() == sh.only_id()
    return err


def queue(slurm: Cluster) -> str:
    done = subprocess.run(["squeue", "-h", "-r"], capture_output=True, text=True, check=True)
    return done.stdout


def test_what_is_left_is_told_watched_waited_for_and_taken_in(sh: Shell, slurm: Cluster) -> None:
    """From submission to the table, with no program of ours in between."""
    said = left(sh)
    assert "3 attempts are left to" in said
    assert "retries, fail_fast and the aggregation wait for a resume" in said
    for verb in ("resume", "watch", "wait", "stop"):
        assert re.search(rf"{verb} exp_\w+$", said, re.MULTILINE), said
    wide = {"COLUMNS": "200"}
    assert "submitted, " in sh("ls", env=wide)[0]
    sh.began(3)
    assert "submitted, 3 running" in sh("ls", env=wide)[0]
    assert "running: Slurm job" in sh("show", "@last", env=wide)[0]
    _, err = sh("wait", "--timeout", "100ms", "@last", code=124)
    assert "waiting for Slurm: 3 running" in err
    sh.let_go()
    _, err = sh("wait", "@last", code=7)
    assert "all that Slurm ran has ended" in err
    assert "submitted, 3 ended" in sh("ls", env=wide)[0]
    # Its engine is known: nobody has to name it again.
    _, err = sh("resume", "@last")
    assert "3 processes completed and aggregated" in err
    one = sh("show", "@last/1", env=wide)[0]
    assert "of CPU time" in one


def test_one_that_waits_is_stopped_and_the_others_run_on(sh: Shell, slurm: Cluster) -> None:
    """Of an experiment that nobody drives: its job leaves the queue, and is run by the resume."""
    left(sh, "--set", "engine.extra=[--hold]")
    until(lambda: len(queue(slurm).splitlines()) == 3)
    _, err = sh("stop", "@last/1")
    assert "process 1 waits for the next resume" in err
    until(lambda: len(queue(slurm).splitlines()) == 2)
    wide = {"COLUMNS": "200"}
    shown, _ = sh("show", "@last", env=wide)
    assert shown.count("taken out of the queue before it began") == 1
    # How far the others are by now, nobody has recorded.
    explained, _ = sh("explain", "@last", env=wide)
    assert re.search(r"is with Slurm \(job \w+\): to be taken over", explained)
    _, err = sh("stop", "@last")
    until(lambda: not queue(slurm))
    out, _ = sh("ls", env={"COLUMNS": "200"})
    assert "interrupted (user)" in out
    sh.let_go()
    assert not list(sh.path.glob("began.*"))
    sh("run", "--engine", "local", "there.toml")
    assert len(list(sh.path.glob("began.*"))) == 3


def test_another_engine_leaves_alone_what_slurm_has(sh: Shell, slurm: Cluster) -> None:
    """And says which one takes it up, once."""
    left(sh)
    sh.began(3)
    _, err = sh("resume", "--engine", "local", "@last", code=5)
    assert "resume --engine slurm exp_" in err
    assert "--force" not in err
    sh.let_go()
    sh("resume", "@last")
    assert len(list(sh.path.glob("began.*"))) == 3


@pytest.mark.parametrize("engine", ["local", "slurm"])
def test_an_aggregation_has_an_engine_of_its_own(sh: Shell, engine: str) -> None:
    """Where the processes run, or here: their results are on the shared disk."""
    words = 'echo "job ${SLURM_JOB_ID:-none}"; echo {} > $HOLDFAST_RESULT'
    table = f"[aggregate]\nengine = '{engine}'\ncommand = ['sh', '-c', '{words}']\n"
    (sh.path / "there.toml").write_text(FILE + table)
    sh("run", "--engine", "slurm", "there.toml")
    out, _ = sh("logs", "@last/aggregate")
    assert bool(re.search(r"job \d+", out)) == (engine == "slurm"), out


def test_a_refusal_has_slurms_words_and_an_exit_code_of_its_own(sh: Shell) -> None:
    """No such partition: nothing is submitted, and the doctor says the same."""
    words = ("--engine", "slurm", "--set", "engine.partition=nowhere", "there.toml")
    _, err = sh("run", *words, code=8)
    assert "the slurm engine refuses this: invalid partition specified: nowhere" in err.lower()
    assert re.search("to check .engine.: .*doctor FILE --engine slurm$", err, re.MULTILINE)
    (sh.path / "bad.toml").write_text(FILE.replace("debug", "nowhere"))
    out, err = sh("doctor", "--engine", "slurm", "bad.toml", code=1)
    assert re.search(r"^problem .*nowhere", out, re.MULTILINE)
    assert "cannot be used like that" in err
    assert "can be used" in sh("doctor", "--engine", "slurm", "there.toml")[1]
