"""A laboratory for killing: an experiment of twenty short processes, run by a program of its own.

Every process appends a line to a log when it starts and when it ends, and holds a lock in between:
one that finds it held says `overlap` instead.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs

import holdfast
from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName, names
from holdfast.provenance.digests import Digests
from holdfast.results import outputs
from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager
from processes import hear

__all__ = ["JOBS", "PROCESSES", "Lab"]

PROCESSES = 20
JOBS = 4

WORKER = """
import fcntl, os, sys, time
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
who = f"{os.environ['HOLDFAST_INDEX']} {os.environ['HOLDFAST_ATTEMPT']}"
lock = os.open(f"lock.{os.environ['HOLDFAST_INDEX']}", os.O_RDWR | os.O_CREAT, 0o666)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    os.write(log, f"overlap {who} 0\\n".encode())
    sys.exit(9)
os.write(log, f"start {who} {time.monotonic_ns()}\\n".encode())
# Lengths that differ, so that ends and starts fall at all kinds of instants.
time.sleep(0.02 + 0.008 * (int(os.environ["HOLDFAST_INDEX"]) * 7 % 20))
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    file.write('{"value": %d}' % int(os.environ["HOLDFAST_INDEX"]))
with open(f"output.{os.environ['HOLDFAST_INDEX']}", "w") as file:
    file.write(who)
os.write(log, f"end {who} {time.monotonic_ns()}\\n".encode())
"""

ORCHESTRATOR = """
import json, sys
from pathlib import Path
from holdfast.engines.local.engine import LocalEngine
from holdfast.store.manager import StateManager
from holdfast.cli.failures import code_of
from holdfast.orchestration.orchestrator import Orchestrator
state_dir, config, jobs = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
print("up", flush=True)
outcome = Orchestrator(StateManager(state_dir), LocalEngine(), gone_grace_s=0.2).run(
    config, experiment_id="exp_k", jobs=jobs
)
print(json.dumps({"adopted": outcome.adopted, "skipped": outcome.skipped}), flush=True)
sys.exit(code_of(outcome))
"""


@attrs.frozen
class Lab:
    """One experiment of twenty short processes, and the program that runs it."""

    folder: Path
    state_dir: Path

    def __attrs_post_init__(self) -> None:
        (self.folder / "worker.py").write_text(WORKER)

    def start(self, *, session: bool = False, combine: str = "") -> "subprocess.Popen[str]":
        config = {
            "command": [sys.executable, "-I", "-S", "worker.py"],
            "processes": PROCESSES,
            "outputs": {"files": ["output.{index}"]},
            "limits": {"grace": 5},
            "aggregate": {"command": [sys.executable, "-I", combine]} if combine else {},
        }
        paths = [str(Path(holdfast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [
                *(sys.executable, "-c", ORCHESTRATOR),
                *(str(self.state_dir), json.dumps(config), str(JOBS)),
            ],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=session,
        )

    def kill_after(self, delay_s: float, *, group: bool = False) -> bool:
        """Run it and kill it that long after it came up; False if it was done before."""
        program = self.start(session=group)
        assert program.stdout is not None
        hear(program.stdout, "up")
        try:
            return program.wait(delay_s) != 0
        except subprocess.TimeoutExpired:
            if group:
                os.killpg(program.pid, signal.SIGKILL)
            else:
                program.kill()
            return program.wait() == -signal.SIGKILL
        finally:
            program.stdout.close()

    def finish(self) -> dict[str, int]:
        program = self.start()
        output, _ = program.communicate(timeout=60)
        assert program.returncode == 0, output
        return dict(json.loads(output.splitlines()[-1]))

    def kill_shims(self, choose: Callable[[AttemptName], bool]) -> int:
        """Kill the shims of running attempts that *choose* says; how many."""
        killed = 0
        for name in self.running():
            identity = live_state(self.state_dir / "exp_k", name).identity
            if identity is not None and identity.pid is not None and choose(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(identity.pid, signal.SIGKILL)
                    killed += 1
        return killed

    def running(self) -> list[AttemptName]:
        """Attempts whose shim lives."""
        folder = self.state_dir / "exp_k"
        return [name for name in names(folder, "exp_k") if live_state(folder, name).kind == "held"]

    def ended(self) -> list[tuple[int, int]]:
        return [(index, attempt) for what, index, attempt, _ in self.log() if what == "end"]

    def log(self) -> list[tuple[str, int, int, int]]:
        try:
            lines = (self.folder / "log").read_text().splitlines()
        except FileNotFoundError:
            return []
        words = [line.split() for line in lines]
        return [(what, int(index), int(attempt), int(at)) for what, index, attempt, at in words]

    def check(self) -> None:
        """Every process ended exactly once, with its output, and no two attempts overlapped."""
        state = StateManager(self.state_dir).load("exp_k")
        assert state.status is ExperimentStatus.AGGREGATED
        ends = sorted(index for index, _ in self.ended())
        assert ends == list(range(PROCESSES))
        inside: dict[int, int] = {}
        for what, index, attempt, _ in sorted(self.log(), key=lambda entry: entry[3]):
            if what == "start":
                assert index not in inside, f"attempts {inside[index]} and {attempt} of {index}"
                inside[index] = attempt
            else:
                assert inside.pop(index) == attempt
        assert inside == {}
        for index, attempt in self.ended():
            process = state.processes[index]
            assert process.attempt == attempt, f"{index} ran in a lost attempt"
            [output] = process.outputs
            assert output.path == f"output.{index}"
            assert outputs.verify(self.folder, [output], Digests()) is None
            assert (self.folder / output.path).read_text() == f"{index} {attempt}"
