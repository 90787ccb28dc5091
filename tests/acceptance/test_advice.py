"""What is advised where something is refused: it fits the refusal, and what was asked for."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.store.manager import StateManager
from processes import owner
from shell import Shell
from waiting import PATIENCE_S


def refused(sh: Shell, *words: str, bound: bool = False) -> str:
    """What `holdfast *words*` says that exits 1; *bound* by permissions even if root asks."""
    lead = []
    if bound and os.geteuid() == 0:
        if (setpriv := shutil.which("setpriv")) is None:
            pytest.skip("not run: setpriv is missing")
        lead = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*lead, sys.executable, "-m", "holdfast", *words],
        cwd=sh.path,
        env=sh.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "disk is well" not in done.stderr
    return done.stderr


@pytest.fixture
def closed(sh: Shell) -> Iterator[Shell]:
    """A directory that may be looked into and not written to, with an experiment in it."""
    StateManager(sh.states).create("exp")
    with owner(sh.states, "exp"):
        pass
    for path in (sh.path, *sh.path.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield sh
    for path in (sh.path, *sh.path.rglob("*")):
        path.chmod(0o755)


@pytest.mark.parametrize("words", [["rm", "exp"], ["run", "e.toml"], ["run", "e.toml", "--fresh"]])
def test_a_directory_of_somebody_else_is_not_called_an_ill_disk(
    closed: Shell, words: list[str]
) -> None:
    """EACCES: who may write there is what has to change, and then the same is asked again."""
    err = refused(closed, *words, bound=True)
    assert "Permission denied" in err
    assert f"make sure that you may read and write there, then repeat `{words[0]}`" in err


def test_a_cleanup_that_may_not_write_names_what_it_left_and_why(closed: Shell) -> None:
    """It is not true that there was nothing to clean up; as a dry run tells."""
    assert "exp  would be interrupted" in closed("cleanup", "-n")[0]
    err = refused(closed, "cleanup", bound=True)
    assert "exp is left as it is: " in err
    assert "Permission denied" in err
    assert "then repeat `cleanup`" in err
    assert "nothing to clean up" not in err


def test_a_demo_that_cannot_be_written_made_nothing(closed: Shell) -> None:
    """There is no state that could be stored, nor anything to resume."""
    err = refused(closed, "demo", bound=True)
    assert "nothing was made; make sure that you may read and write there" in err
    assert "then repeat `demo`" in err
    assert "resume" not in err


def test_a_file_where_a_directory_should_be_is_to_be_moved_away(sh: Shell) -> None:
    """ENOTDIR."""
    (sh.path / "file").touch()
    err = refused(sh, "run", "e.toml", "-C", "file/states")
    assert "something else is in its place, or on the way to it: move that away" in err
    assert "then repeat `run`" in err


def test_a_limit_of_open_files_is_named(sh: Shell) -> None:
    """EMFILE, wherever it strikes: `ulimit -n` is what helps."""
    told = []
    for number in range(8, 24):
        StateManager(sh.states).create(f"exp_{number}")
        code = (
            "import resource, sys, holdfast.cli, holdfast.cli.removal, holdfast.store.deletion; "
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({number}, {number})); "
            f"sys.exit(holdfast.cli.main(['rm', 'exp_{number}']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=sh.path,
            env=sh.env,
            capture_output=True,
            text=True,
            check=False,
        )
        told += [done.stderr] * ("StateWriteError" in done.stderr or "failed: " in done.stderr)
    assert told
    assert all("ulimit -n" in err and "then repeat" in err for err in told), told


def test_commands_in_errors_are_spelt_as_they_are_typed(sh: Shell) -> None:
    """With `-C` and the program, as `next:` has them: they can be pasted."""
    called = f"{Path(sys.executable).name} -m holdfast -C x"
    StateManager(sh.path / "x").create("exp")
    assert f"`{called} ls` lists those" in sh("-C", "x", "show", "zzz", code=4)[1]
    (sh.path / "x" / "torn.json").write_text("{")
    assert f"`{called} doctor` looks at" in sh("ls", "-C", "x", code=6)[1]


def test_an_aggregate_that_is_none_is_to_be_removed_and_made_again(sh: Shell) -> None:
    """Garbage, or a FIFO: the two commands that are told do it."""
    sh("run", "e.toml")
    path = sh.states / sh.only_id() / "aggregate.json"
    for make in (lambda: path.write_text("garbage"), lambda: (path.unlink(), os.mkfifo(path))):
        make()
        for command in (["aggregate", "@last"], ["run", "e.toml"], ["resume", "@last"]):
            _, err = sh(*command, code=6)
            assert f"remove it first: rm -r -- {path}" in err
        [again] = re.findall("then make it again: (.*)", err)
        path.unlink()
        name = Path(sys.executable).name
        assert sh.shell(again.replace(f"{name} -m holdfast", "holdfast")).returncode == 0
        assert path.is_file()


def test_a_full_standard_output_is_named(sh: Shell) -> None:
    """A bare `No space left on device` sends people to the disk of the states."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    sh("run", "e.toml")
    for command in ("ls", "show @last", "logs @last", "ls --json", "--help"):
        done = sh.shell(f"holdfast {command} >/dev/full")
        assert done.returncode == 1
        assert "standard output: No space left on device" in done.stderr


def test_names_of_two_lines_are_printed_in_one(sh: Shell) -> None:
    """A listing has a line for each, whatever somebody called a file."""
    StateManager(sh.states).create("good")
    (sh.states / "two\nlines.json").write_text("{")
    for command in ("ls", "cleanup"):
        _, err = sh(command, code=6)
        assert "two\\nlines.json: " in err
        assert not any(line.startswith("lines") for line in err.splitlines())
    assert "two\nlines" not in sh("-C", "two\nlines", "ls", code=2)[1]
