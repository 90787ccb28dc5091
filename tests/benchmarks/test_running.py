"""Processes through the orchestrator, and what it and the shims hold in memory."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from holdfast import LocalEngine, Orchestrator, StateManager
from holdfast.cli.failures import code_of
from waiting import until

Contest = Callable[..., float]
PROCESSES, MANY = 200, 2_000


def spawn_two_at_a_time() -> None:
    """The bare loop: `/bin/true` by posix_spawn, two at a time."""
    running = 0
    for _ in range(PROCESSES):
        if running == 2:
            os.wait()
            running -= 1
        os.posix_spawn("/bin/true", ["true"], {})
        running += 1
    while running:
        os.wait()
        running -= 1


def test_no_op_processes(tmp_path: Path, contest: Contest) -> None:
    """200 times `/bin/true`, two at a time, every step durable, results proven."""

    def ours() -> None:
        orchestrated(tmp_path, PROCESSES)

    def show(mine: float, other: float) -> tuple[str, str, bool]:
        each = (mine - other) / PROCESSES * 1e3
        return f"{each:.2f} ms each over bare", "≤ 5 ms", each <= 5

    contest(f"{PROCESSES} no-op processes", 0, ours, spawn_two_at_a_time, rounds=5, show=show)


def orchestrated(folder: Path, processes: int) -> None:
    """So many no-op processes through the orchestrator, in a new place in *folder*."""
    manager = StateManager(folder / f"states{next(_numbers)}")
    with LocalEngine() as engine:
        outcome = Orchestrator(manager, engine).run(
            {"command": ["/bin/true"], "processes": processes}, jobs=2
        )
    assert code_of(outcome) == 0


def parallel(folder: Path, processes: int) -> None:
    """The same through GNU parallel with a job log, which is not durable."""
    subprocess.run(
        ["parallel", "-j2", "-N0", "--joblog", f"{folder}/{next(_numbers)}", "/bin/true"],
        input="\n".join(map(str, range(processes))), text=True, check=True,
    )  # fmt: skip


_numbers = count()
needs_parallel = pytest.mark.skipif(
    shutil.which("parallel") is None, reason="GNU parallel is not installed"
)


@needs_parallel
def test_no_op_processes_against_gnu_parallel(tmp_path: Path, contest: Contest) -> None:
    """200 of them, what either needs to begin and to end included."""
    contest(
        f"{PROCESSES} no-op processes, GNU parallel --joblog",
        1,
        lambda: orchestrated(tmp_path, PROCESSES),
        lambda: parallel(tmp_path, PROCESSES),
        rounds=5,
    )


@needs_parallel
def test_no_op_slope_against_gnu_parallel(tmp_path: Path, contest: Contest) -> None:
    """What one more costs either, from 200 to 2,000: nothing of beginning and end is in it."""
    more = MANY - PROCESSES
    slopes: dict[Callable[..., None], list[float]] = {orchestrated: [], parallel: []}

    def measured(work: Callable[[Path, int], None]) -> None:
        took = []
        for processes in (PROCESSES, MANY):
            started = time.perf_counter()
            work(tmp_path, processes)
            took.append(time.perf_counter() - started)
        slopes[work].append((took[1] - took[0]) / more)

    def show(_: float, __: float) -> tuple[str, str, bool]:
        ratio = statistics.median(
            mine / its for mine, its in zip(slopes[orchestrated], slopes[parallel], strict=True)
        )
        each = statistics.median(slopes[orchestrated]) * 1e3
        return f"{ratio:.2f} × ({each:.2f} ms)", "≤ 0.9 ×", ratio <= 0.9

    contest(
        f"no-op slope {PROCESSES} -> {MANY:,}, GNU parallel --joblog",
        0,
        lambda: measured(orchestrated),
        lambda: measured(parallel),
        rounds=3,
        show=show,
    )


ORCHESTRATE = """
import sys
from holdfast import LocalEngine, Orchestrator, StateManager
with LocalEngine() as engine:
    Orchestrator(StateManager(sys.argv[1]), engine).run(
        {"command": ["sleep", "1000"], "processes": 10000}, jobs=64, experiment_id=sys.argv[2]
    )
"""


def memory_kb(pid: int, *keys: str) -> int:
    """What *pid* holds, the sum of *keys* of its smaps."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in keys)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory(tmp_path: Path, contest: Contest) -> None:
    """10,000 processes of which 64 run: the orchestrator whole, each shim what is its own."""
    manager = StateManager(tmp_path / "states")
    peak: list[int] = []
    shims: list[int] = []

    numbers = count()

    def work() -> None:
        name = f"e{next(numbers)}"
        orchestrator = subprocess.Popen(
            [sys.executable, "-c", ORCHESTRATE, str(manager.state_dir), name]
        )
        try:
            folder = manager.folder(name) / "attempts"
            until(lambda: len(list(folder.glob("*.live"))) == 64, 60)
            peak.append(memory_kb(orchestrator.pid, "Rss"))
            for pid in until(lambda: _shims(folder)):
                shims.append(memory_kb(pid, "Private_Clean", "Private_Dirty"))
        finally:
            orchestrator.send_signal(signal.SIGTERM)
            orchestrator.wait()

    def show(_: float, __: float) -> tuple[str, str, bool]:
        mine, each = max(peak) / 1024, max(shims) / 1024
        met = mine < 150 and each < 3
        return f"{mine:.0f} MB, {each:.1f} MB each shim", "< 150 MB, < 3 MB", met

    contest("memory, 10,000 processes, 64 running", 0, work, lambda: None, rounds=1, show=show)


def _shims(attempts: Path) -> list[int]:
    found = []
    for path in attempts.glob("*.live"):
        try:
            plain = json.loads(path.read_bytes())
        except ValueError:
            return []
        found.append(plain.get("pid") or plain["identity"]["pid"])
    return found
