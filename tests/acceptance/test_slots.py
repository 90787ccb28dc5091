"""Slots as they are typed and read: who has which, who waits, and what is to be done."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from processes import hear
from shell import Shell, Terminal
from waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

WORKER = """
import os, time
open(f"began.{os.environ['HOLDFAST_EXPERIMENT_ID']}", "w").close()
while os.path.exists("hold"):
    time.sleep(0.01)
"""

FILE = """
command = ["python", "work.py"]
processes = 2
[slots]
gpu = ["0"]
[needs]
gpu = 1
[limits]
grace = "1s"
"""


@pytest.fixture
def holding(sh: Shell) -> Shell:
    """A shell in which `first` runs, and has the only slot."""
    sh.env["XDG_STATE_HOME"] = str(sh.path / "state")
    (sh.path / "work.py").write_text(WORKER)
    (sh.path / "first.toml").write_text(FILE)
    (sh.path / "second.toml").write_text(FILE.replace("processes = 2", "processes = 1"))
    sh.hold()
    sh.start("run", "first.toml")
    sh.began(1)
    return sh


def slots(sh: Shell) -> list[dict[str, str]]:
    return sh.json("slots")["slots"]  # type: ignore[return-value]


def shim(sh: Shell) -> int:
    return json.loads(json.dumps(slots(sh)[0]["shim"]))["pid"]


def test_nothing_was_ever_held(sh: Shell) -> None:
    """It says where it looked, and an empty list is no error."""
    sh.env["XDG_STATE_HOME"] = str(sh.path / "state")
    out, err = sh("slots")
    assert out == ""
    assert f"no slot was ever held here (in {sh.path}/state/holdfast/slots/" in err
    assert slots(sh) == []
    assert (
        "no slot gpu.0 was ever held here; known: none" in sh("slots", "--free", "gpu.0", code=2)[1]
    )


def test_who_has_a_slot_and_who_waits_for_it(holding: Shell) -> None:
    """In the list, in the waiting run's own words, on its page, and live in its terminal."""
    first = holding.only_id()
    (slot,) = slots(holding)
    assert (slot["kind"], slot["name"], slot["state"]) == ("gpu", "0", "held")
    assert (slot["experiment_id"], slot["attempt"]) == (first, "0.1")
    assert slot["state_dir"] == str(holding.states)
    row = holding("slots")[0].splitlines()[1].split()
    assert row[:4] == ["gpu.0", "held", first, "0.1"]
    with_second = holding.start("run", "second.toml")
    words = f"waits for gpu: gpu.0 is held by {first} 0.1 since "
    hear(with_second.stderr, words)
    assert words in holding("show", "second")[0]
    assert 'slots      gpu = ["0"]\nneeds      gpu = 1\n' in holding("show", "second")[0]
    assert holding.json("show", "second")["waits"][0].startswith(words)  # type: ignore[index]
    # Its own are no news.
    assert "waits for" not in holding("show", "first")[0]
    with_second.send_signal(signal.SIGINT)
    with_second.communicate(timeout=PATIENCE_S)
    terminal = Terminal(holding, "resume", "second", columns=120)
    terminal.read("waits for gpu: gpu.0 is held by ")
    holding.let_go()
    assert terminal.exit_code() == 0


def test_what_a_killed_shim_left_is_named_and_freed_by_the_command_that_is_given(
    holding: Shell,
) -> None:
    """The command that is given is typed as it is, also from another place."""
    first = holding.only_id()
    holding.started[0].kill()
    os.kill(shim(holding), signal.SIGKILL)
    until(lambda: slots(holding)[0]["state"] == "left")
    out, err = holding("slots")
    assert "(python)" in out
    words = ["-C", str(holding.states), "stop", first]
    assert f"stop what is left of {first}: " in err
    assert err.rstrip().endswith(shlex.join(words))
    assert "it is not freed" in holding("slots", "--free", "gpu.0", code=1)[1]
    holding(*words)
    assert slots(holding)[0]["state"] == "free"


def test_what_nobody_can_judge_is_freed_by_hand(holding: Shell) -> None:
    """As after a container was killed: its processes cannot be seen from here."""
    (slot,) = slots(holding)
    path = Path(slot["path"])
    until(path.read_text)
    signed = json.loads(path.read_text())
    holding.let_go()
    assert holding.started[0].wait(PATIENCE_S) == 0
    path.write_text(json.dumps({**signed, "pid_namespace": "pid:[1]"}))
    waiting = holding.start("run", "second.toml")
    until(lambda: len(list(holding.states.glob("exp_*.json"))) == 2)
    until(lambda: "waits for gpu: gpu.0 may be used by" in holding("show", "second")[0])
    _, err = holding("slots")
    assert "gpu.0: once you are sure that nothing uses it: " in err
    assert "slots --free gpu.0" in err
    assert "gpu.0 is free from now on" in holding("slots", "--free", "gpu.0")[1]
    assert waiting.wait(PATIENCE_S) == 0
    assert "gpu.0 is free" in holding("slots", "--free", "gpu.0")[1]


def test_a_dry_run_says_that_there_are_not_so_many(sh: Shell) -> None:
    """As a run would, and it makes nothing: not even the locks."""
    sh.env["XDG_STATE_HOME"] = str(sh.path / "state")
    (sh.path / "first.toml").write_text(FILE)
    env = {"CUDA_VISIBLE_DEVICES": "3"}
    for words in (("run", "-n"), ("explain",), ("run",)):
        _, err = sh(*words, "first.toml", code=2, env=env)
        assert "slots.gpu: 0 is not among those that CUDA_VISIBLE_DEVICES=3 leaves" in err
    sh("run", "-n", "first.toml")
    assert not (sh.path / "state").exists()
    sh("run", "first.toml", "--set", "needs.gpu=0")
    assert not (sh.path / "state").exists()


def test_what_runs_is_taken_over_although_its_slots_are_no_more(holding: Shell) -> None:
    """A need that cannot be met refuses what is to be started, and nothing is."""
    (holding.path / "second.toml").write_text(FILE.replace("2", "1").replace('"0"', '"1"'))
    run = holding.start("run", "second.toml")
    holding.began(2)
    run.kill()
    run.wait()
    env = {"CUDA_VISIBLE_DEVICES": "3"}
    assert "adopt" in holding("resume", "@last", "-n", env=env)[0]
    resumed = holding.start("resume", "@last", env=env)
    hear(resumed.stderr, "completed so far, 1 running")
    holding.let_go()
    _, err = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 0, err
    assert "1 process taken over" in err


def test_one_that_cannot_be_read_hides_no_other(holding: Shell) -> None:
    """It is named, and the exit code tells."""
    found = Path(slots(holding)[0]["path"])
    odd = found.with_name("gpu.1")
    odd.mkdir()
    out, err = holding("slots", code=6)
    assert "gpu.0  held" in out
    assert f"{odd}: opening failed" in err
    told = json.loads(holding("slots", "--json", code=6)[0])
    assert [each["name"] for each in told["slots"]] == ["0"]
    assert [each["path"] for each in told["unreadable"]] == [str(odd)]
