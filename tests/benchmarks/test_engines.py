"""The same sweep on every engine, against what each does by itself; and a long one on paper.

pytest tests/benchmarks/test_engines.py --benchmark-enable -m "slurm or dask or not long" -q
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import dask_servers
import slurm_mini
from simulated import Lives
from weather import Weather

Contest = Callable[..., float]
PROCESSES, AT_A_TIME = 200, 8
COMMAND = ["sleep", "1"]
ROUNDS = 3

_numbers = count()
pytestmark = pytest.mark.timeout(1800)


def swept(folder: Path, table: str, *options: str, command: Sequence[str] = COMMAND) -> None:
    """The sweep by the command line, in a new directory; a scheduler limits it by its own CPUs."""
    place = folder / f"sweep{next(_numbers)}"
    place.mkdir()
    (place / "e.toml").write_text(
        f"command = {list(command)}\nprocesses = {PROCESSES}\n[engine]\n{table}\n"
    )
    subprocess.run(
        [sys.executable, "-m", "holdfast", "run", *options, "e.toml"],
        cwd=place,
        check=True,
        capture_output=True,
    )


def test_a_sweep_on_this_machine(tmp_path: Path, contest: Contest) -> None:
    """Against a loop that starts the same commands, as many at a time."""

    def bare() -> None:
        running = 0
        for _ in range(PROCESSES):
            if running == AT_A_TIME:
                os.wait()
                running -= 1
            os.posix_spawnp(COMMAND[0], COMMAND, os.environ)
            running += 1
        while running:
            os.wait()
            running -= 1

    contest(
        f"{PROCESSES} × {' '.join(COMMAND)}, local, against a bare loop",
        1.1,
        lambda: swept(tmp_path, 'name = "local"', "--jobs", str(AT_A_TIME)),
        bare,
        rounds=ROUNDS,
    )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[slurm_mini.Cluster]:
    """Two nodes, on which as many jobs run at a time as everywhere else here."""
    if lacking := slurm_mini.missing():
        pytest.skip(lacking)
    with slurm_mini.a_cluster(nodes=2, cpus=AT_A_TIME // 2) as found:
        monkeypatch.setenv("SLURM_CONF", str(found.conf))
        yield found


@pytest.mark.slurm
@pytest.mark.parametrize("seconds", [1, 3])
def test_a_sweep_on_slurm(
    tmp_path: Path, cluster: slurm_mini.Cluster, contest: Contest, seconds: int
) -> None:
    """Against an array of the same commands, and a look at the queue until it is empty.

    A job of ours lasts half a second longer than its command: an exit code of 0 is believed once
    no signal has come that may have caused it. So the shortest commands pay the most.
    """
    command = ["sleep", str(seconds)]

    def bare() -> None:
        array, wrap = f"--array=0-{PROCESSES - 1}", f"--wrap={' '.join(command)}"
        cluster.run("sbatch", array, wrap, "--output=/dev/null")
        while cluster.run("squeue", "-h", "-o", "%i").strip():
            time.sleep(0.2)

    contest(
        f"{PROCESSES} × {' '.join(command)}, Slurm, against `sbatch --array`",
        1.3,
        lambda: swept(tmp_path, 'name = "slurm"\ncpus = 1', command=command),
        bare,
        rounds=ROUNDS // seconds,
    )


@pytest.mark.dask
def test_a_sweep_on_dask(tmp_path: Path, contest: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a map of a function that runs the same command."""
    if lacking := dask_servers.missing():
        pytest.skip(lacking)
    import distributed

    with dask_servers.a_cluster(tmp_path, slots=AT_A_TIME // 2) as cluster:

        def bare() -> None:
            with distributed.Client(cluster.address) as client:
                done = client.map(subprocess.call, [COMMAND] * PROCESSES, pure=False)
                assert client.gather(done) == [0] * PROCESSES

        contest(
            f"{PROCESSES} × {' '.join(COMMAND)}, Dask, against `Client.map`",
            1.5,
            lambda: swept(tmp_path, f'name = "dask"\naddress = "{cluster.address}"'),
            bare,
            rounds=ROUNDS,
        )


# -- ten thousand on paper ------------------------------------------------------------------------

MANY = 10_000
_FAIR = Weather(
    jobs=1000, locks="none", queue_s=0.5, run_s=1.0, poll_s=0.5, stale=0.02, unknown=0.02
)  # fmt: skip


@pytest.fixture(scope="module")
def growth() -> list[tuple[float, int]]:
    """CPU time and blocks of memory for 1,000 ends, early and late in a run of `MANY`."""
    seen: list[tuple[float, int]] = []

    def on_change(state: Any) -> None:
        while state.processes_completed >= len(seen) * 1000:
            seen.append((time.process_time(), sys.getallocatedblocks()))

    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        limits = {"jobs": 1000}
        lives = Lives(
            1, Path(folder), weather=_FAIR, processes=MANY, limits=limits, on_change=on_change
        )
        # Whatever is done as often as time passes would else be done for nothing here.
        began = time.process_time()
        lives.cluster.worked_s = lambda: time.process_time() - began
        lives.run()
        lives.cluster.close()
    # The first thousand is started in one go, and the last ends while nothing starts any more.
    return [
        (seen[after + 1][0] - seen[after][0], seen[after + 1][1] - seen[after][1])
        for after in (1, 8)
    ]


def test_time_per_event_over_ten_thousand_processes(
    growth: list[tuple[float, int]], contest: Contest
) -> None:
    """CPU time of orchestrator and paper for the ends 8,000 to 9,000, against 1,000 to 2,000."""
    (early, _), (late, _) = growth

    def show(_: float, __: float) -> tuple[str, str, bool]:
        return f"{late / early:.2f} × ({late * 1e3:.0f} µs each)", "≤ 1.5 ×", late <= 1.5 * early

    contest(f"time per end of {MANY:,}", 0, lambda: None, lambda: None, rounds=1, show=show)


def test_memory_per_event_over_ten_thousand_processes(
    growth: list[tuple[float, int]], contest: Contest
) -> None:
    """What the same thousands of ends leave in memory: each as much as any."""
    (_, early), (_, late) = growth

    def show(_: float, __: float) -> tuple[str, str, bool]:
        share = late / max(early, 1)
        return f"{share:.2f} × ({late / 1000:.0f} blocks each)", "≤ 1.5 ×", share <= 1.5

    contest(f"memory per end of {MANY:,}", 0, lambda: None, lambda: None, rounds=1, show=show)
