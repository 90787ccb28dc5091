"""Other processes for tests: real ones, told what to do in a few lines of Python."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["owner", "python", "run"]

_OWNER = """
import sys
from holdfast import StateManager
claim = StateManager(sys.argv[1]).claim(sys.argv[2])
if claim.state.status == "initialised":
    claim.record("start")
print("owned", flush=True)
sys.stdin.read()
"""


def python(code: str, *args: object) -> subprocess.Popen[str]:
    """Run *code* with *args* in an interpreter that finds what this one finds."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def run(code: str, *args: object, exit_code: int = 0, timeout_s: float = 60) -> str:
    """What *code* printed. Fails unless it ends with *exit_code*, within *timeout_s*."""
    with python(code, *args) as process:
        out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == exit_code, err
    return out


@contextlib.contextmanager
def owner(state_dir: Path, experiment_id: str) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the experiment and has started it; killed at the end, at the latest."""
    with python(_OWNER, state_dir, experiment_id) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if process.stdout.readline() != "owned\n":
                raise AssertionError(process.stderr.read())
            yield process
        finally:
            process.kill()
