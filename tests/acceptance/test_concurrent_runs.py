"""Several orchestrators want the same work at the same instant: one experiment, one owner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import holdfast
from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager
from processes import hear
from waiting import PATIENCE_S, until

WORKER = """
import os, time
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
os.write(log, os.environ["HOLDFAST_INDEX"].encode() + b"\\n")
while not os.path.exists("go"):
    time.sleep(0.005)
"""

ORCHESTRATOR = """
import json, os, sys, time
from pathlib import Path
from holdfast.engines.local.engine import LocalEngine
from holdfast.cli.failures import code_of
from holdfast.errors import AlreadyOwnedError
from holdfast.store.manager import StateManager
from holdfast.orchestration.orchestrator import Orchestrator
orchestrator = Orchestrator(StateManager(Path(sys.argv[1])), LocalEngine(), wait_s=0.2)
print(os.getpid(), flush=True)
sys.stdin.read()
try:
    outcome = orchestrator.run(json.loads(sys.argv[2]), jobs=2)
except AlreadyOwnedError as err:
    print(json.dumps({"owner": err.owner.pid, "host": err.owner.host, "since": str(err.since)}))
    sys.exit(5)
sys.exit(code_of(outcome))
"""


def test_three_runs_of_one_file_make_one_experiment(tmp_path: Path, state_dir: Path) -> None:
    """One runs it; the others are told who owns it, where and since when."""
    (tmp_path / "worker.py").write_text(WORKER)
    config = {"command": [sys.executable, "-I", "-S", "worker.py"], "processes": 2}
    paths = [str(Path(holdfast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", ORCHESTRATOR, str(state_dir), json.dumps(config)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for program in programs:
        assert program.stdout is not None
        hear(program.stdout, f"{program.pid}")
    # Loaded and waiting: all of them begin at one instant.
    for program in programs:
        assert program.stdin is not None
        program.stdin.close()
    try:
        until(lambda: sum(program.poll() is not None for program in programs) == 2)
    finally:
        (tmp_path / "go").touch()
    [owner] = [program for program in programs if program.poll() is None]
    assert owner.wait(PATIENCE_S) == 0
    [state] = StateManager(state_dir).states()
    assert state.status is ExperimentStatus.AGGREGATED
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1"]
    for program in programs:
        assert program.stdout is not None
        with program.stdout as output:
            told = output.read()
        if program is not owner:
            assert program.returncode == 5
            assert json.loads(told)["owner"] == owner.pid
            assert json.loads(told)["since"] != "None"
