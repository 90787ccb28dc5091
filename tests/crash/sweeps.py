"""Whole trees swept by TERM, as batch systems do at a time limit: no false word about any end.

The scripts of an experiment wait for ever unless a file `go` is there when they begin. So whatever
is recorded as completed before is a false word, whatever the reason, and their own log tells which
attempts may be recorded so. The orchestrator is a real `holdfast run`, swept with them or not.
"""

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs

from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.manager import StateManager

from .checking import scratch
from .trees import ORDERS, Order, belonging, cli, send, sweep, tree

__all__ = [
    "HANGS_AFTER_S", "OLD_S", "SCRIPTS", "SLOWEST_S", "SPREAD_S", "Swept", "sweeps",
    "write_scripts",
]  # fmt: skip

#: Slurm, systemd and closing containers take less.
SPREAD_S: Final = 0.3
#: A sweep that took longer, on a loaded machine, is not promised anything: the window is 0.5 s.
SLOWEST_S: Final = 0.42
#: How old commands are that catch the signal and exit 0: for younger ones nothing is promised.
OLD_S: Final = 0.55
#: Long, since loaded machines stall, and what hangs does so for ever.
HANGS_AFTER_S: Final = 120.0
#: So many of one experiment; after more, the pauses between its attempts grow.
_IN_A_ROW: Final = 3

_CATCHES: Final = """
import os, signal
log = os.open("log", os.O_WRONLY | os.O_APPEND)
def say(word):
    os.write(log, "{} {HOLDFAST_INDEX} {HOLDFAST_ATTEMPT}\\n".format(word, **os.environ).encode())
def save(*_):
    say("saved")
    os._exit(0)
signal.signal(signal.SIGTERM, save)
say("began")
while True: signal.sigtimedwait([], 0.05)
"""

#: What each process does after `began`, and before `on`, which it writes if it was not killed. The
#: one that catches the signal has begun when it does.
SCRIPTS: Final = {
    "goes on past its killed child": "sleep 600",
    "goes on, and catches the signal itself": "trap : TERM; sleep 600",
    "goes on past a child in a session of its own": "setsid -w sleep 600",
    "goes on past the death of a child's child": "sh -c 'sleep 600; exit 0'",
    "exits 1 when its child dies": "sleep 600 || exit 1",
    "fails when its child dies, late": "sleep 600 || { sleep 0.05; exit 7; }",
    "catches, saves and exits 0": f"exec {sys.executable} -I -S catches.py",
    "is deaf": "trap '' TERM; sleep 600; sleep 600",
}

_SCRIPT: Final = """
say() { echo "$1 $HOLDFAST_INDEX $HOLDFAST_ATTEMPT" >>log; }
if [ -e go ]; then say done; exit 0; fi
case $HOLDFAST_INDEX in
{cases}
esac
say on
exit 0
"""


def write_scripts(folder: Path) -> None:
    """What the processes run in *folder*, and their log."""
    cases = [
        f"{index}) {'' if text.startswith('exec') else 'say began; '}{text} ;;"
        for index, text in enumerate(SCRIPTS.values())
    ]
    (folder / "script.sh").write_text(_SCRIPT.replace("{cases}", "\n".join(cases)))
    (folder / "catches.py").write_text(_CATCHES)
    (folder / "log").touch()


@attrs.define
class Swept:
    """What sweeps have led to, by the experiments' own logs and records."""

    sweeps: int = 0
    slow: int = 0
    signals: int = 0
    went_on: int = 0
    saved: int = 0
    interrupted: int = 0
    false: int = 0
    charged: int = 0
    hangs: int = 0
    codes: int = 0
    strays: int = 0
    unfinished: int = 0
    problems: list[str] = attrs.field(factory=list)

    def add(self, other: "Swept") -> None:
        for field in attrs.fields(Swept):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, mine + theirs)

    @property
    def losses(self) -> int:
        """Everything that must be 0."""
        return self.false + self.charged + self.hangs + self.codes + self.strays + self.unfinished


@attrs.define
class _Chain:
    """One experiment, swept again and again until it may come to its end."""

    folder: Path
    seed: str
    order: Order
    with_orchestrator: bool
    wanted: int
    found: Swept = attrs.field(factory=Swept)
    rng: random.Random = attrs.field(init=False)
    fair: bool = True

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        write_scripts(self.folder)
        (self.folder / "e.toml").write_text(
            f'name = "swept"\ncommand = ["sh", "script.sh"]\nprocesses = {len(SCRIPTS)}\n'
            f"[limits]\njobs = {len(SCRIPTS)}\ngrace = 0.3\n"
            "[retry]\nmax_interruptions = 1000\n"
        )

    # --- what is known

    @property
    def states(self) -> Path:
        return self.folder / ".experiment_state"

    def state(self) -> ExperimentState:
        manager = StateManager(self.states)
        [found] = manager.list_experiments()
        return manager.load(found)

    def log(self, word: str) -> list[tuple[int, int]]:
        lines = (line.split() for line in (self.folder / "log").read_text().splitlines())
        return [(int(index), int(attempt)) for what, index, attempt in lines if what == word]

    def problem(self, kind: str, text: str) -> None:
        setattr(self.found, kind, getattr(self.found, kind) + 1)
        told = (self.folder / "holdfast.log").read_text()[-400:]
        self.found.problems.append(f"{self.seed}: {kind}: {text}\n{told}")

    # --- what is done

    def run(self) -> Swept:
        """Sweep *wanted* times, then let everything come to its end, and judge.

        After a sweep that was too slow nothing is promised, and some may never begin again: it is
        the last one.
        """
        program = self.start("run", "e.toml")
        try:
            self._chain(program)
        finally:
            program.kill()
            for pid, _ in belonging(self.states):
                send(pid, signal.SIGKILL)
        self.found.went_on += len(self.log("on"))
        self.found.saved += len(self.log("saved"))
        return self.found

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        return cli(self.folder, *words, log=self.folder / "holdfast.log")

    def _chain(self, program: "subprocess.Popen[bytes]") -> None:
        for number in range(self.wanted):
            last = number == self.wanted - 1
            if not self.all_began(number + 1, program):
                self.problem("hangs", f"not all began for sweep {number}")
                return self.judge(None)
            if last and not self.with_orchestrator:
                (self.folder / "go").touch()  # those that run do not look any more
            self.sweep(program)
            if not self.fair:
                return self.clear(program)
            if self.with_orchestrator:
                if not self.ended(program, 143):
                    return None
                self.judge(ExperimentStatus.INTERRUPTED)
                if last:
                    (self.folder / "go").touch()
                program = self.start("resume", "@last")
        if self.ended(program, 0):
            self.judge(ExperimentStatus.AGGREGATED)
        return None

    def all_began(self, times: int, program: "subprocess.Popen[bytes]") -> bool:
        """Whether every process has begun so often, and is as old as it is to be when swept."""
        deadline = time.monotonic() + HANGS_AFTER_S
        while time.monotonic() < deadline and program.poll() is None:
            began = [index for index, _ in self.log("began")]
            if all(began.count(index) >= times for index in range(len(SCRIPTS))):
                time.sleep(OLD_S)
                return True
            time.sleep(0.02)
        return False

    def sweep(self, program: "subprocess.Popen[bytes]") -> None:
        members = tree(program.pid)
        # The starter, which survives it, is sometimes spared: not everything is in one job.
        first = 0 if self.with_orchestrator else self.rng.choice((1, 2))
        members = [member for member in members if member.depth >= first]
        spread_s = self.rng.choice((0.0, self.rng.uniform(0.0, SPREAD_S), SPREAD_S))
        took_s = sweep(members, self.order, spread_s, self.rng)
        self.found.sweeps += 1
        self.found.signals += len(members)
        if took_s > SLOWEST_S:
            self.found.slow += 1
            self.fair = False

    def clear(self, program: "subprocess.Popen[bytes]") -> None:
        """Have it come to an end, whatever that is."""
        (self.folder / "go").touch()
        deadline = time.monotonic() + HANGS_AFTER_S
        while program.poll() is None and time.monotonic() < deadline:
            for pid, _ in belonging(self.states):
                send(pid, signal.SIGKILL)
            time.sleep(0.02)

    def ended(self, program: "subprocess.Popen[bytes]", code: int) -> bool:
        try:
            found = program.wait(HANGS_AFTER_S)
        except subprocess.TimeoutExpired:
            self.problem("hangs", f"still there {HANGS_AFTER_S} s after sweep {self.found.sweeps}")
            return False
        left = list(belonging(self.states))
        if left:
            self.problem("strays", f"{left[:2]}")
        if found != code and self.fair:
            self.problem("codes", f"exit code {found}, expected {code}")
        return found == code

    def judge(self, status: ExperimentStatus | None) -> None:
        """Compare what is recorded with what happened."""
        state = self.state()
        if status is not None and state.status is not status:
            self.problem("unfinished", f"{state.status}, expected {status}")
        done = set(self.log("done"))
        for index, process in state.processes.items():
            completed = process.status is ProcessStatus.COMPLETED
            if completed and (index, process.attempt) not in done and self.fair:
                self.problem("false", f"{index}.{process.attempt} is recorded as completed")
            if (process.failures or process.status is ProcessStatus.FAILED) and self.fair:
                kind = list(SCRIPTS)[index]
                self.problem("charged", f"{index}.{process.attempt} ({kind}): {process.reason}")
        self.found.interrupted = max(
            self.found.interrupted, sum(each.interruptions for each in state.processes.values())
        )


def _chain(seed: str, order: Order, with_orchestrator: bool, wanted: int) -> Swept:
    found = Swept()
    while found.sweeps < wanted and not found.losses:
        left, name = wanted - found.sweeps, f"{seed}/{found.sweeps}"
        with scratch() as where:
            found.add(_Chain(where, name, order, with_orchestrator, left).run())
    return found


def sweeps(number: int, *, seed: int = 0, at_a_time: int = 6) -> Swept:
    """*number* sweeps in each order, with the orchestrator and as many without."""
    tasks = []
    for first in range(0, number, _IN_A_ROW):
        for order in ORDERS:
            for with_orchestrator in (True, False):
                name = f"{seed}/{order}/{'with' if with_orchestrator else 'without'}/{first}"
                wanted = min(_IN_A_ROW, number - first)
                tasks.append((name, order, with_orchestrator, wanted))
    found = Swept()
    with ThreadPoolExecutor(at_a_time) as pool:
        for each in pool.map(_chain, *zip(*tasks, strict=True)):
            found.add(each)
    return found
