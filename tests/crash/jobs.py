"""Jobs of a batch system swept by TERM: a node, its shims and their commands, in every order.

The commands are those of `sweeps`, without an orchestrator: there is none on a node. What the exit
records say is compared with what the commands wrote.
"""

import json
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.engines import node, tasks
from holdfast.engines.waves import token, write

from .checking import scratch
from .sweeps import HANGS_AFTER_S, OLD_S, SCRIPTS, SLOWEST_S, SPREAD_S, Swept, write_scripts
from .trees import ORDERS, Order, belonging, send, sweep, tree

__all__ = ["swept_jobs"]

#: For a job that is swept at any moment, also before its commands have begun.
_EARLY_S: Final = 0.4


@attrs.define
class _Job:
    """A task of as many attempts as there are scripts, and its one sweep."""

    where: Path
    seed: str
    order: Order
    early: bool
    found: Swept = attrs.field(factory=Swept)
    rng: random.Random = attrs.field(init=False)
    fair: bool = True

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        write_scripts(self.where)
        self.folder.mkdir()

    @property
    def folder(self) -> Path:
        return self.where / "exp"

    def problem(self, kind: str, text: str) -> None:
        setattr(self.found, kind, getattr(self.found, kind) + 1)
        told = (self.where / "node.log").read_text()[-400:]
        self.found.problems.append(f"{self.seed}: {kind}: {text}\n{told}")

    def log(self, word: str) -> set[int]:
        lines = [line.split() for line in (self.where / "log").read_text().splitlines()]
        return {int(index) for what, index, _ in lines if what == word}

    def attempt(self, index: int) -> Attempt:
        return Attempt(
            name=AttemptName("exp", str(index), 1),
            argv=("sh", "script.sh"),
            env={
                "HOLDFAST_STATE_DIR": str(self.where),
                "HOLDFAST_INDEX": str(index),
                "HOLDFAST_ATTEMPT": "1",
            },
            cwd=self.where,
            folder=self.folder,
            grace_s=0.3,
        )

    def run(self) -> Swept:
        wave = write(
            self.folder,
            engine="slurm",
            token=token(self.folder),
            tasks=[[self.attempt(index) for index in range(len(SCRIPTS))]],
            made_at=datetime.now(UTC),
        )
        words = [sys.executable, node.__file__, str(self.folder), wave.name, "0"]
        with (self.where / "node.log").open("ab") as log:
            job = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=log, process_group=0)
        try:
            self._sweep(job)
        finally:
            job.kill()
            job.wait()
            for pid, _ in belonging(self.where):
                send(pid, signal.SIGKILL)
        return self.found

    def _sweep(self, job: "subprocess.Popen[bytes]") -> None:
        if self.early:
            time.sleep(self.rng.uniform(0.0, _EARLY_S))
        elif not self._all_began(job):
            return self.problem("hangs", "not all began")
        members = tree(job.pid)
        # Sometimes to all but the node, which hears it from nobody then.
        members = members[self.rng.choice((0, 0, 0, 1)) :]
        spread_s = self.rng.choice((0.0, self.rng.uniform(0.0, SPREAD_S), SPREAD_S))
        took_s = sweep(members, self.order, spread_s, self.rng)
        self.found.sweeps += 1
        self.found.signals += len(members)
        if took_s > SLOWEST_S:
            self.found.slow += 1
            self.fair = False
        # What was started since is not swept: at a time limit everything is killed in the end.
        if self.early:
            sweep(tree(job.pid), "root first", 0.0, self.rng)
        return self._judge(job)

    def _all_began(self, job: "subprocess.Popen[bytes]") -> bool:
        deadline = time.monotonic() + HANGS_AFTER_S
        while time.monotonic() < deadline and job.poll() is None:
            if len(self.log("began")) == len(SCRIPTS):
                time.sleep(OLD_S)
                return True
            time.sleep(0.02)
        return False

    def _judge(self, job: "subprocess.Popen[bytes]") -> None:
        try:
            code = job.wait(HANGS_AFTER_S)
        except subprocess.TimeoutExpired:
            return self.problem("hangs", f"the node is there after {HANGS_AFTER_S} s")
        left = list(belonging(self.where))
        if left:
            self.problem("strays", f"{left[:2]}")
        # TERM ends a node only before it has started anything.
        if code == -15 and self.early and not list(self.folder.glob("attempts/*.live")):
            return None
        if code not in (tasks.SUCCEEDED, tasks.FAILED):
            self.problem("codes", f"the node exited with {code}")
        for index, kind in enumerate(SCRIPTS):
            self._judge_end(index, kind)
        self.found.went_on += len(self.log("on"))
        self.found.saved += len(self.log("saved"))
        return None

    def _judge_end(self, index: int, kind: str) -> None:
        path = self.folder / f"attempts/{index}.1.exit"
        if not path.exists():
            return self.problem("unfinished", f"{kind}: no exit record")
        end: dict[str, Any] = json.loads(path.read_text())
        if end["interrupted_by"] is not None:
            self.found.interrupted += 1
        # Of younger ones that catch the signal, nothing is promised.
        elif self.fair and not (self.early and kind.startswith("catches")):
            word = "false" if end["exit_code"] == 0 else "charged"
            self.problem(word, f"{kind}: {end}")
        return None


def _job(seed: str, order: Order, early: bool) -> Swept:
    with scratch() as where:
        return _Job(where, seed, order, early).run()


def swept_jobs(number: int, *, seed: int = 0, at_a_time: int = 6) -> Swept:
    """*number* jobs swept in each order, every fourth of them at any moment of its start."""
    wanted = [
        (f"{seed}/{order}/{each}", order, each % 4 == 3)
        for order in ORDERS
        for each in range(number)
    ]
    found = Swept()
    with ThreadPoolExecutor(at_a_time) as pool:
        for each in pool.map(_job, *zip(*wanted, strict=True)):
            found.add(each)
    return found
