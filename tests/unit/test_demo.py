"""The demo's files: there for a newcomer, and never taken away again."""

import json
import os
import subprocess
import sys

import pytest

from holdfast.config.experiment_file import load_config
from holdfast.demo import write_demo
from holdfast.errors import StateWriteError


def test_the_demo_is_an_experiment_that_loads(tmp_path):
    """What is written is a valid experiment file and the script that it runs."""
    demo = write_demo(tmp_path / "holdfast-demo")
    assert [path.name for path in demo.written] == ["experiment.toml", "measure.py"]
    assert not demo.kept
    experiment = load_config(demo.experiment)
    assert experiment.num_processes == 11
    assert experiment.argv(0) == ("python", "measure.py", "--codec", "zlib", "--level", "1")
    assert experiment.cwd == tmp_path / "holdfast-demo"


def test_files_that_the_user_changed_are_kept(tmp_path):
    """A second `holdfast demo` must not undo an hour of playing with the first."""
    first = write_demo(tmp_path)
    script = tmp_path / "measure.py"
    script.write_text("print('mine')\n")
    first.experiment.unlink()
    again = write_demo(tmp_path)
    assert again.written == (first.experiment,)
    assert again.kept == (script,)
    assert script.read_text() == "print('mine')\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiment.toml", "measure.py"]


def test_a_dangling_link_is_the_users_too(tmp_path):
    """Nothing is written through it."""
    (tmp_path / "measure.py").symlink_to(tmp_path / "elsewhere.py")
    assert write_demo(tmp_path).kept == (tmp_path / "measure.py",)
    assert not (tmp_path / "elsewhere.py").exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    """A file in the way is named."""
    (tmp_path / "holdfast-demo").write_text("")
    with pytest.raises(StateWriteError, match="holdfast-demo"):
        write_demo(tmp_path / "holdfast-demo")


def test_the_script_measures_and_checks_the_round_trip(tmp_path):
    """Run with nothing but the standard library, it writes its result where it is told to."""
    write_demo(tmp_path)
    result = tmp_path / "result.json"
    subprocess.run(
        [sys.executable, "-I", "measure.py", "--codec", "zlib", "--level", "1"],
        cwd=tmp_path,
        env={"HOLDFAST_RESULT": str(result), "PATH": os.environ["PATH"]},
        check=True,
        timeout=120,
    )
    measured = json.loads(result.read_text())
    assert measured["corpus_bytes"] > 1_000_000
    assert measured["ratio"] > 1
    assert measured["compress_mb_per_s"] > 0
