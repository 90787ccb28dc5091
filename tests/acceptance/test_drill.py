"""`holdfast drill`: good experiments are told from bad ones, by real kills of real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import holdfast
from drilled import BAD, CHECKPOINTS, GANG, written

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a drill needs Linux's /proc")


class Drills:
    """A folder with an experiment, and drills of it."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.rooms = path / "rooms"
        self.rooms.mkdir()
        self.env = {
            **os.environ,
            "PYTHONPATH": str(Path(holdfast.__file__).parents[1]),
            "TMPDIR": str(self.rooms),
            "COLUMNS": "80",
        }
        self.started: list[subprocess.Popen[str]] = []

    def write(self, files: dict[str, str]) -> None:
        written(self.home, files, sys.executable)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        program = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "drill", "e.toml", *words],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(program)
        return program

    def __call__(self, *words: str, code: int = 0) -> str:
        """What a drill prints that ends with that *code*, all of it."""
        out, err = self.start(*words).communicate(timeout=280)
        assert self.started[-1].returncode == code, f"{out}\n{err}"
        assert "Traceback" not in err, err
        return out + err

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        out, err = self.start("--json", *words).communicate(timeout=280)
        assert self.started[-1].returncode == code, f"{out}\n{err}"
        return dict(json.loads(out))

    def alive(self) -> list[str]:
        """The command lines of all that runs in one of their folders."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/cwd").startswith(str(self.rooms)):
                    found.append(Path(f"/proc/{pid}/cmdline").read_text())
            except OSError:
                continue
        return found


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Drills]:
    made = Drills(tmp_path)
    yield made
    for program in made.started:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("files", [CHECKPOINTS, GANG], ids=["checkpoints", "gang"])
def test_an_experiment_that_survives_is_equal(drill: Drills, files: dict[str, str]):
    """Killed attempts are run again, which is told and changes nothing; nothing is left."""
    drill.write(files)
    before = sorted(path.name for path in drill.home.iterdir())
    told = drill("--kills=6", "--seed=1")
    assert "equal after 6 kills" in told
    assert "different without kills, not compared: ended" in told
    assert sorted(path.name for path in drill.home.iterdir()) == before
    assert list(drill.rooms.iterdir()) == []
    assert drill.alive() == []


@pytest.mark.parametrize("fault", BAD)
def test_what_is_wrong_is_found(drill: Drills, fault: str):
    """Within twenty kills, with the kill that did it and the command that shows it again."""
    drill.write(BAD[fault])
    found = drill.json("--seed=1", code=3)
    assert found["verdict"] == "not equal"
    assert len(found["kills"]) <= 20
    assert found["differences"]
    assert f"--kills={len(found['kills'])} --seed=1" in found["again"]
    assert all(each["kills"] for each in found["differences"])
    assert drill.alive() == []
