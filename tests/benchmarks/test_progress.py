"""What it costs the orchestrating process that its processes report how far they are."""

import os
import select
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shell import Shell, Terminal

PROCESSES, LINES_A_SECOND = 8, 1_000
_WINDOW_S = 8.0

#: Reports at its share of the pace, if it is to, until `go` is there.
WORKER = """
import json, os, sys, time
each_s = float(sys.argv[1])
index = os.environ["HOLDFAST_INDEX"]
open(f"began.{index}", "w").close()
step, due = 0, time.monotonic()
with open(os.environ["HOLDFAST_PROGRESS"], "a", buffering=1) as file:
    while not os.path.exists("go"):
        if each_s:
            step += 1
            said = {"step": step, "total": 100_000, "loss": 1 / step, "time": time.time()}
            file.write(json.dumps(said) + "\\n")
        due += each_s or 0.1
        time.sleep(max(0.0, due - time.monotonic()))
"""


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    (tmp_path / "work.py").write_text(WORKER)
    yield shell
    (tmp_path / "go").touch()
    for process in shell.started:
        process.wait(60)


def of_a_core(sh: Shell, each_s: float) -> float:
    """CPU seconds in a second of the process that runs them in a terminal, with its live view."""
    for path in sh.path.glob("began.*"):
        path.unlink()
    (sh.path / "go").unlink(missing_ok=True)
    (sh.path / "e.toml").write_text(
        f'command = ["python", "work.py", "{each_s}"]\nprocesses = {PROCESSES}\n'
        f'limits = {{jobs = {PROCESSES}, stall = "1h"}}\n'
    )
    terminal = Terminal(sh, "run", "--fresh", "e.toml", columns=150)
    while len(list(sh.path.glob("began.*"))) < PROCESSES:
        _drain(terminal, 0.1)
    _drain(terminal, 2.0)
    began, spent = time.monotonic(), _cpu_s(terminal.process.pid)
    _drain(terminal, _WINDOW_S)
    share = (_cpu_s(terminal.process.pid) - spent) / (time.monotonic() - began)
    (sh.path / "go").touch()
    assert terminal.exit_code() == 0
    return share


def _drain(terminal: Terminal, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        if select.select([terminal.fd], [], [], left_s)[0]:
            os.read(terminal.fd, 1 << 16)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_lines_of_progress(sh: Shell, contest: Callable[..., float]) -> None:
    """1,000 a second from 8 processes, against as many that say nothing, with a live view."""
    shares: dict[float, list[float]] = {PROCESSES / LINES_A_SECOND: [], 0.0: []}

    def measured(each_s: float) -> Callable[[], None]:
        return lambda: shares[each_s].append(100 * of_a_core(sh, each_s))

    def show(_: float, __: float) -> tuple[str, str, bool]:
        reporting, silent = map(statistics.median, shares.values())
        return f"{reporting:.1f} % of a core ({silent:.1f} % without)", "< 5 %", reporting < 5

    what = f"{LINES_A_SECOND:,} lines of progress a second, live view"
    ours, silent = map(measured, shares)
    contest(what, 0, ours, silent, rounds=2, show=show)
