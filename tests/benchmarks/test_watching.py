"""What it costs a core to watch an experiment in a terminal, by how many of its processes run."""

import fcntl
import json
import os
import select
import statistics
import struct
import termios
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import experiments
from holdfast.attempts.names import progress_path
from holdfast.lifecycle.events import Requested
from holdfast.store.attempted import attempt_of
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager
from shell import Shell, Terminal

RUNNING, STEPS_A_SECOND = 1_000, 5
_WINDOW_S = 15.0


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    for process in shell.started:
        process.kill()
        process.wait()


class _Life:
    """An experiment in which *running* processes report each second, and five a second end."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._step = 0

    def second(self) -> None:
        """A second of it."""
        state, self._step = self._claim.state, self._step + 1
        running = [i for i, each in state.process_progress.items() if each.status == "running"]
        said = {"step": self._step, "total": 1_000, "loss": 1 / self._step, "time": time.time()}
        line = (json.dumps(said) + "\n").encode()
        for index in running:
            path = progress_path(self._claim.folder, attempt_of(state, index))
            with path.open("ab") as file:
                file.write(line)
        now = datetime.now(UTC)
        pending = [i for i, each in state.process_progress.items() if each.status == "pending"]
        for ends, begins in zip(running[:STEPS_A_SECOND], pending, strict=False):
            self._claim.record("complete", ends, exit_code=0)
            self._claim.record_many(
                [Requested(entity="process", event="start", process=begins, at=now)]
            )
        self._claim.tick()


def of_a_core(sh: Shell, running: int) -> float:
    """CPU seconds in a second of `watch`."""
    manager = StateManager(sh.states)
    name = f"e{len(manager.list_experiments())}"
    n = 2 * running + 200
    wanted = {"running": running, "pending": n // 2 - running // 2}
    with experiments.going_on(manager, n, experiment_id=name, failures=10, **wanted) as claim:
        life = _Life(claim)
        life.second()
        terminal = Terminal(sh, "watch", name)
        fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        _live(terminal, life, 4.0)
        began, spent = time.monotonic(), _cpu_s(terminal.process.pid)
        _live(terminal, life, _WINDOW_S)
        share = (_cpu_s(terminal.process.pid) - spent) / (time.monotonic() - began)
        os.write(terminal.fd, b"\x03")
        assert terminal.exit_code() == 0
    return share


def _live(terminal: Terminal, life: _Life, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        life.second()
        while (left_s := began + 1 - time.monotonic()) > 0:
            if select.select([terminal.fd], [], [], left_s)[0]:
                os.read(terminal.fd, 1 << 16)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_watching_a_thousand(sh: Shell, contest: Callable[..., float]) -> None:
    """1,000 running processes that report each second, against one that does."""
    shares: dict[int, list[float]] = {RUNNING: [], 1: []}

    def measured(running: int) -> Callable[[], None]:
        return lambda: shares[running].append(100 * of_a_core(sh, running))

    def show(_: float, __: float) -> tuple[str, str, bool]:
        many, one = map(statistics.median, shares.values())
        return f"{many:.1f} % of a core ({one:.1f} % with one)", "≤ 3 %", many <= 3

    ours, one = map(measured, shares)
    contest(f"watch, {RUNNING:,} running", 0, ours, one, rounds=2, show=show)
