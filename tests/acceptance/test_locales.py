"""Locales that lack characters, and Python's buffers: nothing that a user has to know of."""

import json
import os
import subprocess
import sys

import pytest

from shell import Shell
from waiting import PATIENCE_S, until

#: Python's own remedies switched off: what old clusters have, or a service manager's environment.
BARE = {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}

FILE = """
name = "étude λ"
command = ["sh", "-c", "printf %s \\"$0\\"; printf %s \\"$WORD\\" >&2", "{w}"]
[matrix]
w = ["plain", "é", "λ"]
[env]
WORD = "ü"
"""


@pytest.fixture
def bare(sh: Shell) -> Shell:
    sh.env.update(BARE)
    (sh.path / "e.toml").write_text(FILE, "utf-8")
    return sh


def test_what_the_locale_lacks_reaches_programs_as_utf8(bare: Shell) -> None:
    """Parameters, environment and names of an experiment file, under LC_ALL=C."""
    bare("run", "e.toml")
    found = bare.json("show", "@last")
    folder = bare.states / str(found["experiment"]["experiment_id"]) / "attempts"  # type: ignore[index]
    written = [(folder / f"{i}.1.out").read_bytes() for i in range(3)]
    assert written == [b"plain", b"\xc3\xa9", b"\xce\xbb"]
    assert (folder / "2.1.err").read_bytes() == b"\xc3\xbc"
    for command in ("ls", "show", "logs", "doctor"):
        bare(command, *(["@last"] if command in ("show", "logs") else []))


def test_words_on_the_command_line_are_utf8_too(bare: Shell) -> None:
    """A command behind `--` and a `--set` keep their characters."""
    bare("run", "--procs", "1", "--", "echo", "λ")
    assert bare.json("show", "@last")["experiment"]["config"]["command"] == ["echo", "λ"]  # type: ignore[index]
    bare("run", "e.toml", "--set", "w=ß")
    assert bare.json("show", "@last")["processes"][0]["params"] == {"w": "ß"}  # type: ignore[index]


def test_a_folder_whose_name_the_locale_lacks_is_one_folder(bare: Shell) -> None:
    """Run under UTF-8, found, shown and resumed under C, and the other way round."""
    folder = bare.path / "Größe"
    folder.mkdir()
    (folder / "e.toml").write_text(FILE, "utf-8")
    utf8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    name = "Größe/e.toml".encode()
    for env in (utf8, {}):
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", "run", name],
            cwd=bare.path,
            env={**bare.env, **env},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert len(json.loads(bare("ls", "--json")[0])["experiments"]) == 1
    bare("run", "--set", "w=once", "--fresh", os.fsdecode(name), env=utf8)
    bare("resume", "@last")


def test_python_prints_at_once(sh: Shell) -> None:
    """Output of a Python process is in its log while it runs; an own setting is kept."""
    (sh.path / "t.py").write_text(
        "import os, time\nprint('epoch 1', repr(os.environ.get('PYTHONUNBUFFERED')))\n"
        "open('printed', 'w').close()\n"
        "while os.path.exists('hold'): time.sleep(0.01)\n"
    )
    (sh.path / "e.toml").write_text('command = ["python", "t.py"]')
    sh.env.pop("PYTHONUNBUFFERED", None)
    sh.hold()
    process = sh.start("run", "e.toml")
    until((sh.path / "printed").exists)
    assert "epoch 1 '1'" in sh("logs", "-o", "@last")[0]
    sh.let_go()
    assert process.wait(PATIENCE_S) == 0
    sh("run", "e.toml", "--set", "env.PYTHONUNBUFFERED=")
    assert "epoch 1 ''" in sh("logs", "-o", "@last")[0]
    sh("run", "e.toml", "--fresh", env={"PYTHONUNBUFFERED": ""})
    assert "epoch 1 ''" in sh("logs", "-o", "@last")[0]
