"""What the worker API costs the programs that use it."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from attempting import Attempt
from holdfast.worker.process import Process
from holdfast.worker.whoami import who_am_i

Contest = Callable[..., float]

REPORTS = 100_000
RANKS, RESULTS, TIMES = 8, 25, 7

#: A rank that delivers whenever it is told to, and a writer that does the least that is durable.
DELIVER = """
import sys
import holdfast
with holdfast.process() as process:
    for line in sys.stdin:
        for number in range(int(line)):
            process.result({"number": number, "rank": process.rank, "loss": 0.25})
        print("done", flush=True)
"""
BARE = """
import json, os, sys
place = os.environ["HOLDFAST_RESULT"] + os.environ["RANK"]
for line in sys.stdin:
    for number in range(int(line)):
        with open(place + ".tmp", "w") as file:
            json.dump({"number": number, "rank": 0, "loss": 0.25}, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(place + ".tmp", place)
    print("done", flush=True)
"""


def test_a_report(tmp_path: Path, contest: Contest) -> None:
    """In a loop as fast as it can, with a number, twice a second written."""
    process = Process(who_am_i(Attempt(tmp_path).env))

    def ours() -> None:
        report = process.report
        for step in range(REPORTS):
            report(step=step, loss=0.25)

    def show(mine: float, _: float) -> tuple[str, str, bool]:
        each = mine / REPORTS * 1e6
        return f"{each:.2f} µs", "≤ 20 µs", each <= 20

    contest("process.report()", 0, ours, lambda: None, show=show)


def test_a_report_that_is_written(tmp_path: Path, contest: Contest) -> None:
    """Every one of them, as of a program that reports rarely; against the bare write."""
    process = Process(who_am_i(Attempt(tmp_path).env))
    raw = os.open(tmp_path / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def ours() -> None:
        for step in range(1000):
            process.report(step=step, loss=0.25)
            process._flush()

    def limit() -> None:
        for step in range(1000):
            os.write(raw, json.dumps({"step": step, "loss": 0.25}).encode())

    def show(mine: float, other: float) -> tuple[str, str, bool]:
        return f"{mine * 1e3:.1f} µs, bare {other * 1e3:.1f} µs", "≤ 100 µs", mine * 1e3 <= 100

    contest("process.report(), written", 0, ours, limit, show=show)
    os.close(raw)


def test_eight_ranks_deliver_at_once(tmp_path: Path, contest: Contest) -> None:
    """Acknowledged results a second, against eight writers that write, fsync and rename."""
    made = Attempt(tmp_path, RANKS)

    def writers(code: str) -> list["subprocess.Popen[str]"]:
        return [
            made.start(code, env={"RANK": str(rank)}, stdin=subprocess.PIPE)
            for rank in range(RANKS)
        ]

    def go(processes: list["subprocess.Popen[str]"]) -> None:
        for each in processes:
            assert each.stdin is not None
            each.stdin.write(f"{RESULTS}\n")
            each.stdin.flush()
        for each in processes:
            assert each.stdout is not None
            assert each.stdout.readline() == "done\n"

    ranks, bare = writers(DELIVER), writers(BARE)

    def show(mine: float, other: float) -> tuple[str, str, bool]:
        rate = RANKS * RESULTS / mine
        return f"{other / mine:.2f} × ({rate:,.0f}/s)", "≥ 0.35 ×", other / mine >= 0.35

    try:
        contest(
            "results of 8 ranks at once", 0, lambda: go(ranks), lambda: go(bare), rounds=TIMES,
            show=show,
        )  # fmt: skip
    finally:
        made.end()


def test_importing_it(contest: Contest) -> None:
    """What a program pays that imports it, beyond its interpreter: time of its processor."""
    spent: dict[str, list[float]] = {"pass": [], "import holdfast; holdfast.process": []}

    def interpreter(code: str) -> Callable[[], None]:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

        def run() -> None:
            for _ in range(10):
                pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], env)
                _, status, used = os.wait4(pid, 0)
                assert status == 0
                spent[code].append(used.ru_utime + used.ru_stime)

        return run

    def show(_: float, __: float) -> tuple[str, str, bool]:
        bare, more = (statistics.median(each) * 1e3 for each in spent.values())
        return f"{more - bare:.1f} ms over {bare:.1f} ms", "≤ 5 ms", more - bare <= 5

    bare, ours = map(interpreter, spent)
    contest("import holdfast; holdfast.process", 0, ours, bare, show=show)
