"""Which files a command names: those that people would say it runs, and no others."""

import os
import shlex
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.provenance.interpreter import python_version
from holdfast.provenance.naming import Namer, is_program, named_files

NOW = datetime.now(UTC)
#: Younger than this is what attempts have written.
LONG_AGO = NOW - timedelta(days=1000)


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    for name in ("train.py", "conf.yaml", "my script.py", "data.csv", "größe.py", "pkg/run.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (tmp_path / "pkg/tool").mkdir()
    (tmp_path / "pkg/tool/__main__.py").touch()
    sim = tmp_path / "sim"
    sim.write_text("#!/bin/sh\n")
    sim.chmod(0o755)
    return tmp_path


def named(cwd: Path, command: str, before: datetime | None = None) -> list[str]:
    return list(named_files(shlex.split(command), cwd, before=before))


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("python train.py --lr 0.1", ["train.py"]),
        ("python train.py train.py ./train.py", ["train.py", "./train.py"]),
        ("python -u train.py --config conf.yaml", ["train.py", "conf.yaml"]),
        ("python train.py --config=conf.yaml", ["train.py", "conf.yaml"]),
        ("python train.py config=conf.yaml", ["train.py", "conf.yaml"]),
        ("python train.py @conf.yaml", ["train.py", "conf.yaml"]),
        ("python 'my script.py'", ["my script.py"]),
        ("python größe.py", ["größe.py"]),
        ("python -m pkg.run", ["pkg/run.py"]),
        ("python -m pkg.tool --help", ["pkg/tool/__main__.py"]),
        ("torchrun --nproc-per-node 2 -m pkg.run", ["pkg/run.py"]),
        ("python -c 'import train'", []),
        ("./sim 3", ["./sim"]),
        ("pkg/../sim 3", ["pkg/../sim"]),
        ("sim 3", []),  # PATH decides what that is
        ("nice -n 5 ./sim", ["./sim"]),
        ("python nothing.py pkg . / ''", []),
        ("sh train.py", ["train.py"]),
        ("sh -c 'python train.py --lr 0.1 > out'", ["train.py"]),
        ("bash -euo pipefail -c 'python train.py>out;./sim|cat'", ["train.py", "./sim"]),
        ("bash -c \"python 'my script.py' && cat conf.yaml\"", ["my script.py", "conf.yaml"]),
        (r"bash -c 'python my\ script.py'", ["my script.py"]),
        ("bash -c 'A=$(python train.py) B=conf.yaml ./sim'", ["train.py", "conf.yaml", "./sim"]),
        ("env X=1 bash -lc './sim'", ["./sim"]),
        ("sh -c \"sh -c 'sh train.py'\"", ["train.py"]),
        ("sh -c 'echo \"it is'", []),
        ("sh -c 'python train.py \"it'", ["train.py"]),
        ("sh -c", []),
    ],
)
def test_words_name_files(cwd, command, files):
    """As a shell, an interpreter or a launcher would take them."""
    assert named(cwd, command) == files


def test_an_absolute_path_stays_one(cwd):
    """Paths are told as they are written."""
    assert named(cwd, f"python {cwd}/train.py") == [f"{cwd}/train.py"]


def test_installed_programs_are_not_code(cwd, monkeypatch):
    """Those of the system, on PATH, of a venv or of conda: nobody edits them in an experiment."""
    for folder, mark in (("venv", "pyvenv.cfg"), ("conda", "conda-meta"), ("tools", "nothing")):
        (cwd / folder / "bin").mkdir(parents=True)
        (cwd / folder / mark).mkdir()
        for name in ("tool", "script.py"):
            (cwd / folder / "bin" / name).write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"{cwd}/tools/bin:.")
    for word in ("/bin/sh", "venv/bin/tool", f"{cwd}/conda/bin/tool", "tools/bin/tool"):
        assert named(cwd, f"{word} train.py") == ["train.py"]
        assert named(cwd, f"nice {word} train.py") == ["train.py"]
    # Work on PATH is no installed program.
    assert named(cwd, "./sim") == ["./sim"]
    monkeypatch.setenv("PATH", f"{cwd}/tools/bin:{cwd}")
    assert named(cwd, "./sim") == ["./sim"]
    # What is handed to an interpreter is code, wherever it lies.
    assert named(cwd, "python tools/bin/script.py") == ["tools/bin/script.py"]
    assert named(cwd, "tools/bin/script.py") == []


def test_path_may_be_another(cwd):
    """That of the command, which an experiment file can set."""
    (cwd / "own").mkdir()
    (cwd / "own/tool").write_text("#!/bin/sh\n")
    argv = ["own/tool"]
    assert named_files(argv, cwd, before=None) == ("own/tool",)
    assert named_files(argv, cwd, before=None, path=f"{cwd}/own") == ()


def test_what_attempts_have_written_is_not_code(cwd):
    """Data counts as long as it is older than the first start; a program always does."""
    command = "python train.py conf.yaml --data data.csv --sim ./sim"
    assert named(cwd, command) == ["train.py", "conf.yaml", "data.csv", "./sim"]
    assert named(cwd, command, NOW + timedelta(days=1)) == named(cwd, command)
    assert named(cwd, command, LONG_AGO) == ["train.py", "conf.yaml", "./sim"]


def test_only_regular_files_count(cwd):
    """And nobody waits for a FIFO's writer; a link counts by its target."""
    os.mkfifo(cwd / "fifo.py")
    (cwd / "dir.py").mkdir()
    (cwd / "null.py").symlink_to(os.devnull)
    (cwd / "dangling.py").symlink_to("nowhere")
    (cwd / "loop.py").symlink_to("loop.py")
    (cwd / "link.py").symlink_to("train.py")
    command = "python fifo.py dir.py null.py dangling.py loop.py link.py"
    assert named(cwd, command) == ["link.py"]


@pytest.mark.skipif(os.geteuid() == 0, reason="not run: root may read everything")
def test_what_cannot_be_read_does_not_count(cwd):
    """There is no content to record."""
    (cwd / "train.py").chmod(0)
    assert named(cwd, "python train.py") == []


def test_bytes_that_are_no_text_have_a_portable_name(cwd):
    """A name in records leads to the same file in every locale."""
    (cwd / os.fsdecode(b"\xff.py")).touch()
    assert named_files(["python", "\udcff.py"], cwd, before=None) == ("\udcff.py",)
    assert named_files(["python", "\ud800.py", "a\0b", "x" * 10_000], cwd, before=None) == ()


def test_of_one_moment_everything_is_looked_at_once(cwd):
    """A file that appears meanwhile is the next look's."""
    namer = Namer(cwd)
    assert namer.files(["python", "new.py"]) == ()
    (cwd / "new.py").touch()
    assert namer.files(["python", "new.py"]) == ()
    assert Namer(cwd).files(["python", "new.py"]) == ("new.py",)


@pytest.mark.parametrize(
    ("name", "content", "mode", "expected"),
    [
        ("a.py", b"", 0o644, True),
        ("a.R", b"", 0o644, True),
        ("A.F90", b"", 0o644, True),
        ("a.yaml", b"", 0o644, True),
        ("Makefile", b"", 0o644, True),
        ("a", b"#!/bin/sh\n", 0o644, True),
        ("a.out", b"\x7fELF\2", 0o755, True),
        ("a", b"echo\n", 0o755, True),
        ("a", b"echo\n", 0o644, False),
        ("a", b"", 0o644, False),
        ("model.pt", b"PK\3\4", 0o644, False),
        ("model.pt", b"PK\3\4", 0o755, False),  # as on a file system without modes
        ("a.csv", b"1,2\n", 0o644, False),
        ("py", b"", 0o644, False),
        ("d.py/a", b"", 0o644, False),
    ],
)
def test_programs_are_told_from_data(tmp_path, name, content, mode, expected):
    """By suffix, first bytes or mode."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    assert is_program(path) is expected


def test_of_what_is_gone_the_name_tells(tmp_path):
    """An attempt may have removed it."""
    assert is_program(tmp_path / "a.py")
    assert not is_program(tmp_path / "a.pt")


@given(words=st.lists(st.text(max_size=20), max_size=6), text=st.text(max_size=60))
def test_no_command_is_too_strange(tmp_path_factory, words, text):
    """Whatever its words are, they name existing files or none."""
    cwd = tmp_path_factory.getbasetemp()
    for argv in (words, ["sh", "-c", text], ["./sh", *words, "-c", text]):
        for name in named_files(argv, cwd, before=None):
            assert stat.S_ISREG((cwd / name).stat().st_mode)


# -- the version of Python -------------------------------------------------------------------------

OURS = ".".join(map(str, sys.version_info[:3]))


def program(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def test_our_own_interpreter_has_our_version(tmp_path):
    """By its path, through a link, on PATH, as a script's, or where it stands in."""
    (tmp_path / "python").symlink_to(sys.executable)
    script = program(tmp_path / "script", f"#!{sys.executable}\n")
    through_env = program(tmp_path / "other", "#!/usr/bin/env python\n")
    for word in (sys.executable, "./python", "python", str(script), str(through_env)):
        assert python_version([word], tmp_path, path=str(tmp_path)).startswith(OURS)
    assert python_version(["python"], tmp_path, path="").startswith(OURS)
    assert python_version(["python3"], tmp_path, ours=True).startswith(OURS)


def test_an_environment_says_which_python_it_has(tmp_path):
    """A venv in its `pyvenv.cfg`, conda in its list of packages: nothing is run."""
    for name, config in {
        "venv": "home = /usr/bin\nversion = 3.9.2\n",
        "virtualenv": "version_info = 3.9.2.final.0\n",
    }.items():
        program(tmp_path / name / "bin/python", "exit 1")
        (tmp_path / name / "pyvenv.cfg").write_text(config)
        assert python_version([f"{name}/bin/python"], tmp_path) == "3.9.2"
    program(tmp_path / "conda/bin/python3.9", "exit 1")
    (tmp_path / "conda/conda-meta").mkdir()
    (tmp_path / "conda/conda-meta/python-3.9.2-h12_0_cpython.json").touch()
    (tmp_path / "conda/conda-meta/python-dateutil-2.9.0-py_0.json").touch()
    assert python_version(["conda/bin/python3.9"], tmp_path) == "3.9.2"


def test_a_versioned_name_says_its_version(tmp_path):
    """Also at the end of a link; what says nothing is not known."""
    program(tmp_path / "python3.9")
    (tmp_path / "python3").symlink_to("python3.9")
    program(tmp_path / "else/python3")
    program(tmp_path / "else/sim")
    assert python_version(["python3.9"], tmp_path, path=str(tmp_path)) == "3.9"
    assert python_version(["./python3"], tmp_path) == "3.9"
    for word in ("else/python3", "else/sim", "else/nothing", "nothing", "a\0b"):
        assert python_version([word], tmp_path) is None
    assert python_version([], tmp_path) is None
