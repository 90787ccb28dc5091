"""What `holdfast doctor` says is to be done can be done, here and in these words."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import LocalEngine, Orchestrator
from holdfast.cli.failures import code_of
from holdfast.config.experiment_file import load_config
from holdfast.store.manager import StateManager
from processes import python, run
from waiting import PATIENCE_S

_COMMAND = "import sys; from holdfast.cli import main; sys.exit(main())"
_BOTH = "import sys; sys.stderr = sys.stdout; from holdfast.cli import main; sys.exit(main())"


def ask(state_dir: Path, *words: str) -> list[str]:
    """What the doctor prints, without what it says of the machine's own disk."""
    with python(_BOTH, "-C", state_dir, "doctor", *words) as process:
        out, _ = process.communicate(timeout=PATIENCE_S)
    lines = out.splitlines()
    disk = {at for at, line in enumerate(lines) if f"  {state_dir}: " in line.replace("\t", " ")}
    skipped = disk | {at + 1 for at in disk}
    return [line for at, line in enumerate(lines) if at not in skipped]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Beside a state directory, an experiment of two processes that was aggregated."""
    (tmp_path / "exp.toml").write_text(
        "processes = 2\n"
        f"command = [{sys.executable!r}, '-c', "
        '\'import os; open(os.environ["HOLDFAST_RESULT"], "w").write("1")\']\n'
    )
    manager = StateManager(tmp_path / "states")
    with LocalEngine() as engine:
        outcome = Orchestrator(manager, engine).run(
            load_config(tmp_path / "exp.toml"), experiment_id="done"
        )
    assert code_of(outcome) == 0
    return tmp_path


def follow(home: Path, advice: str) -> subprocess.CompletedProcess[str]:
    """Type the holdfast command at the end of a line of advice."""
    words = shlex.split(advice[advice.index("-C ") :])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *words],
        cwd=home,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_lost_result_of_an_aggregated_experiment_is_only_made_again_afresh(home: Path) -> None:
    """No resume runs anything of it; the command that does names directory and file."""
    (home / "states" / "done" / "results" / "0.1.json").unlink()
    what, advice, *_ = ask(home / "states")
    assert what.endswith("process 0: is missing")
    assert "backup" in advice
    assert f"-C {home / 'states'} run --fresh {home / 'exp.toml'}" in advice
    assert follow(home, advice).returncode == 0
    assert len(StateManager(home / "states").list_experiments()) == 2


def test_a_lost_result_of_any_other_experiment_is_made_again_by_resume(home: Path) -> None:
    """Exactly that process runs again."""
    manager = StateManager(home / "states")
    with LocalEngine() as engine:
        Orchestrator(manager, engine).run(
            load_config(home / "exp.toml"), experiment_id="open", fresh=True, aggregate=False
        )
    assert manager.load("open").status == "completed"
    (manager.folder("open") / "results" / "1.1.json").unlink()
    what, advice, *_ = ask(home / "states")
    assert what.endswith("process 1: is missing")
    assert advice.endswith(f"-C {home / 'states'} resume open")
    assert follow(home, advice).returncode == 0
    assert not [line for line in ask(home / "states") if "to do" in line]


@pytest.mark.parametrize("garbage", [None, b"{", b"[]"])
def test_a_lost_aggregate_is_made_again_once_nothing_is_in_its_way(
    home: Path, garbage: bytes | None
) -> None:
    """`aggregate` writes over nothing that it cannot read: that is to be moved away first."""
    path = home / "states" / "done" / "aggregate.json"
    before = path.read_bytes()
    path.unlink()
    if garbage is not None:
        path.write_bytes(garbage)
    _, advice, *_ = ask(home / "states")
    assert ("move it away" in advice) == (garbage is not None)
    assert advice.endswith(f"-C {home / 'states'} aggregate done")
    path.unlink(missing_ok=True)
    assert follow(home, advice).returncode == 0
    assert path.read_bytes() == before


def test_a_name_with_a_line_feed_is_told_in_one_line_with_the_reason(state_dir: Path) -> None:
    """Where the line feed is can be seen, and what is wrong is not cut off."""
    state_dir.mkdir()
    (state_dir / "we\nird name.json").write_text("{")
    (line, *_) = ask(state_dir)
    assert "we\\nird name.json: is not valid JSON" in line


def test_the_doctor_never_sends_anybody_to_the_doctor(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is there already is told what else there is to do."""
    states = home / "states"
    (states / "cut.json").write_text("{")
    (states / "done.json").write_text("{")
    (states / "done" / "aggregate.json").write_text("{")
    (states / "newer.json").write_text('{"experiment_id": "newer", "schema_version": 99}')
    lines = ask(states)
    assert sum(line.startswith("  to do: ") for line in lines) == 4
    assert not [line for line in lines if "`holdfast doctor" in line]
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(states / "cut.json"))
    with python(_BOTH, "doctor") as process:
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert f"{states / 'cut.json'}, which HOLDFAST_STATE_DIR names, is no directory" in out
    assert "`holdfast doctor" not in out
    assert "-C DIR" in out


def test_commands_are_in_the_json_as_they_are_to_be_typed(home: Path) -> None:
    """With the directory, quoted for a shell."""
    (home / "states" / "done" / "aggregate.json").unlink()
    out = run(_COMMAND, "-C", home / "states", "doctor", "--json", exit_code=1)
    (found,) = [each for each in json.loads(out)["findings"] if each["kind"] == "result"]
    assert shlex.split(found["command"])[-4:] == ["-C", str(home / "states"), "aggregate", "done"]
