"""Other processes for tests: real ones, told what to do in a few lines of Python."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import warm
from waiting import PATIENCE_S

__all__ = [
    "NOBODY",
    "hear",
    "in_a_fork",
    "killed",
    "memory_group",
    "owner",
    "parent_of",
    "python",
    "run",
]

#: A user who owns nothing here.
NOBODY = 65534

_OWNER = """
import sys
from holdfast import StateManager
claim = StateManager(sys.argv[1]).claim(sys.argv[2])
if claim.state.status == "initialised":
    claim.record("start")
print("owned", flush=True)
sys.stdin.read()
"""

_KILLED = """
import os, sys
from holdfast import StateManager
from holdfast.store import writer as module
from holdfast.store.manager import utc_now
module.COMPACT_BYTES, module.COMPACT_BASES = int(sys.argv[3]), 1
now = utc_now()  # and for ever: however long it takes, the view is not written anew
claim = StateManager(sys.argv[1], clock=lambda: now).claim(sys.argv[2])
for event, *process in eval(sys.argv[4]):
    claim.record(event, *process)
os._exit(9)
"""


def python(code: str, *args: object) -> subprocess.Popen[str]:
    """Run *code* with *args* in an interpreter that finds what this one finds."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run(code: str, *args: object, exit_code: int = 0, timeout_s: float = PATIENCE_S) -> str:
    """What *code* printed. Fails unless it ends with *exit_code*, within *timeout_s*."""
    arguments, env = ["-c", code, *map(str, args)], _environment()
    if warm.can(env):
        done = warm.run(arguments, cwd=Path.cwd(), env=env, timeout_s=timeout_s)
        found, out, err = done.returncode, done.stdout, done.stderr
    else:
        with python(code, *args) as process:
            out, err = process.communicate(timeout=timeout_s)
        found = process.returncode
    assert found == exit_code, err
    return out


def hear(stream: IO[str] | IO[bytes] | None, words: str = "", timeout_s: float = PATIENCE_S) -> str:
    """The first line of *stream*, a pipe of somebody else's, with *words* in it, without its end.

    Nothing behind it is read: `communicate()` still has all the rest.

    Raises:
        AssertionError: It ended, or *timeout_s* seconds passed, without such a line.
    """
    assert stream is not None
    deadline = time.monotonic() + timeout_s
    said, line = "", b""
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([stream], [], [], left_s)[0]:
            raise AssertionError(f"no {words!r} within {timeout_s} s:\n{said}{line!r}")
        if not (byte := os.read(stream.fileno(), 1)):
            raise AssertionError(f"ended without {words!r}:\n{said}{line!r}")
        line += byte
        if byte == b"\n":
            if words in (text := line.decode()):
                return text[:-1]
            said, line = said + text, b""


def in_a_fork(do: Callable[[], object], *, user: int | None = None) -> str:
    """What *do* returns in a fork of this process, as *user*; empty if it raises or takes long."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(PATIENCE_S))
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            os.write(writing, str(do()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def killed(
    state_dir: Path, experiment_id: str, *steps: tuple[object, ...], compact: int = 1 << 20
) -> None:
    """An owner that died after these steps, so that the view lies behind.

    It had compacted the journal whenever that was larger than *compact* bytes.
    """
    run(_KILLED, state_dir, experiment_id, compact, steps, exit_code=9)


@contextlib.contextmanager
def owner(state_dir: Path, experiment_id: str) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the experiment and has started it; killed at the end, at the latest."""
    with python(_OWNER, state_dir, experiment_id) as process:
        try:
            hear(process.stdout, "owned")
            yield process
        finally:
            process.kill()


def memory_group() -> tuple[Path, Path] | None:
    """A new cgroup of 40 MB, and the file that takes pids into it; None if there can be none.

    Whoever asks for it removes it.
    """
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        path = root / f"holdfast-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / limit).write_text(str(40 << 20))
        except OSError:
            path.rmdir()
            continue
        return path, path / "cgroup.procs"
    return None
