"""What a long life costs: memory over many transitions, and loads beside a writer that compacts."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import StateManager
from holdfast.store.claim import Claim

Contest = Callable[..., float]
FORK = multiprocessing.get_context("fork")
PROCESSES = 64


def back_and_forth(claim: Claim, events: tuple[str, ...] = ("start", "requeue")) -> None:
    """Two lines, in which every process starts and is requeued."""
    for event in events:
        facts = {"proven_dead": True} if event == "requeue" else {}
        claim.record_many([(event, index, facts) for index in range(PROCESSES)])


LONG_LIFE = """
import resource, sys
sys.path.insert(0, sys.argv[3])
from holdfast import StateManager
from test_lasting import PROCESSES, back_and_forth
with StateManager(sys.argv[1]).claim("e") as claim:
    claim.record("start")
    for number in range(int(sys.argv[2]) // (2 * PROCESSES)):
        back_and_forth(claim)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_memory_over_many_transitions(manager: StateManager, contest: Contest) -> None:
    """The peak of a process that records 200,000, against one that records 20,000.

    Both compact: journals are left behind, and nothing of them may stay in memory.
    """
    peaks: dict[int, int] = {}

    def live(transitions: int) -> None:
        manager.create("e", num_processes=PROCESSES)
        words = (str(manager.state_dir), str(transitions), str(Path(__file__).parent))
        peaks[transitions] = int(subprocess.check_output([sys.executable, "-c", LONG_LIFE, *words]))
        assert manager.load("e").epoch > 2, "nothing was compacted"
        manager.delete("e")

    def show(_: float, __: float) -> tuple[str, str, bool]:
        before, after = peaks[20_000], peaks[200_000]
        return f"{after / before:.2f} × ({after / 1024:.0f} MB)", "≤ 1.1 ×", after <= 1.1 * before

    contest(
        "memory over 200,000 transitions, against 20,000",
        0,
        lambda: live(200_000),
        lambda: live(20_000),
        rounds=1,
        show=show,
    )


@pytest.fixture
def beside(manager: StateManager) -> Iterator[Any]:
    """While it is set, another process records transitions of `busy` and compacts its journal."""
    manager.create("busy", num_processes=PROCESSES)
    going, over, ready = FORK.Event(), FORK.Event(), FORK.Event()

    def write() -> None:
        with manager.claim("busy") as claim:
            claim.record("start")
            ready.set()
            while going.wait() and not over.is_set():
                back_and_forth(claim)

    writer = FORK.Process(target=write)
    writer.start()
    assert ready.wait(60)
    yield going
    over.set()
    going.set()
    writer.join()
    assert writer.exitcode == 0


def test_load_under_compaction(manager: StateManager, contest: Contest, beside: Any) -> None:
    """Beside a writer that never pauses, against one at rest whose journal is half as long as it
    gets: what is read over and over until a compaction.
    """
    manager.create("rest", num_processes=PROCESSES)
    with manager.claim("rest") as claim:
        claim.record("start")
        journal = manager.folder("rest") / "journal" / "00000001.jsonl"
        while len(journal.read_bytes().rstrip(b"\0")) < 1 << 19:
            back_and_forth(claim)
        loads = 20

        def ours() -> None:
            beside.set()
            for _ in range(loads):
                manager.load("busy")
            beside.clear()

        def limit() -> None:
            for _ in range(loads):
                manager.load("rest")

        contest("load under compaction, against one at rest", 2, ours, limit, per=loads)
    assert manager.load("busy").epoch > 2, "nothing was compacted"
