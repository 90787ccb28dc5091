"""Experiments that contend for slots while orchestrators, starters, shims, commands and ranks die.

Judged by the locks that the processes themselves take: each holds one for every slot that it was
told, and what it starts inherits that lock, also what has closed every other descriptor. One that
finds it held says `overlap`. In the end everything is completed and every slot is to be had again.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import attrs

from holdfast.slots import listing, places
from holdfast.status import ExperimentStatus
from holdfast.store.manager import StateManager

from .trees import belonging, cli, send

__all__ = ["Contention", "contend"]

#: A command that may start a rank, which may let go of everything but the proof, and outlive it.
_WORKER = """
import fcntl, os, random, sys, time
who = os.environ["HOLDFAST_EXPERIMENT_ID"], os.environ["HOLDFAST_INDEX"]
who = " ".join((*who, os.environ["HOLDFAST_ATTEMPT"], os.environ["HOLDFAST_SLOT_GPU"]))
log = os.open(sys.argv[1] + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
rng = random.Random(f"{who} {os.getpid()}")
assert sys.argv[2] == os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["HOLDFAST_SLOT_GPU"]
proofs = []
for slot in os.environ["HOLDFAST_SLOT_GPU"].split(","):
    proof = os.open(f"{sys.argv[1]}/proof.{slot}", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(proof, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.write(log, f"overlap {who}\\n".encode())
        sys.exit(9)
    proofs.append(proof)
os.write(log, f"start {who}\\n".encode())
rank = None
if rng.random() < 0.6:
    rank = os.fork()
    if not rank:
        what = rng.random()
        if what < 0.5:
            for name in os.listdir("/proc/self/fd"):
                if int(name) not in proofs:
                    try:
                        os.close(int(name))
                    except OSError:
                        pass
        if what < 0.2:
            time.sleep(30)
        time.sleep(rng.uniform(0.0, 1.0))
        os._exit(0)
time.sleep(rng.uniform(0.1, 0.8))
if rank and rng.random() < 0.5:
    os.kill(rank, 9)
os.write(log, f"end {who}\\n".encode())
"""

_TARGETS = {
    "orchestrator": 2, "starter": 2, "shim": 6, "command": 3, "rank": 3,
    "shim and orchestrator": 3, "shim and starter": 1, "everything of ours": 1,
}  # fmt: skip
#: Of an orchestrator that has just begun, nothing else is there to be killed yet.
_THERE_WITHIN_S = 0.5
_ENDS_WITHIN_S = 240.0


@attrs.define
class Contention:
    """What was done, and what came of it."""

    kills: Counter[str] = attrs.field(factory=Counter)
    codes: Counter[int] = attrs.field(factory=Counter)
    experiments: int = 0
    starts: int = 0
    overlaps: int = 0
    #: Slots that cannot be had once everything is over, and why.
    lost: list[str] = attrs.field(factory=list)
    unfinished: list[str] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)


@attrs.define
class _Contender:
    """One experiment after the other, of one user in one folder."""

    folder: Path
    proofs: Path
    slots: int
    needs: int
    processes: int
    number: int = 0
    runs: int = 0
    counted: int = 0
    program: "subprocess.Popen[bytes] | None" = None

    def __attrs_post_init__(self) -> None:
        # There, so that no other above it is found.
        self.states.mkdir(parents=True)
        (self.folder / "worker.py").write_text(_WORKER)
        names = ", ".join(f'"{each}"' for each in range(self.slots))
        (self.folder / "e.toml").write_text(
            f'command = ["python", "-I", "-S", "worker.py", "{self.proofs}", "{{slot.gpu}}"]\n'
            f"processes = {self.processes}\n"
            f"[slots]\ngpu = [{names}]\n[needs]\ngpu = {self.needs}\n"
            f"[limits]\njobs = 3\ngrace = 0.2\n"
            f"[retry]\nmax_attempts = 1000\nbackoff = 0\nmax_interruptions = 1000\n"
        )

    @property
    def states(self) -> Path:
        return self.folder / ".experiment_state"

    def go_on(self, found: Contention, *, again: bool) -> bool:
        """Have it run, if it does not: what was killed is resumed, what is over begins *again*."""
        if self.program is not None:
            code = self.program.poll()
            if code is None:
                return True
            found.codes[code] += self.counted < self.runs
            self.counted = self.runs
        over = self.program is None or code == 0
        if over and not again:
            return False
        if over:
            self.number += 1
            found.experiments += 1
        words = ("run", "--fresh", "e.toml") if over else ("resume", "@last")
        if not over and not self._exists():
            words = ("run", "--fresh", "e.toml")
        self.runs += 1
        self.program = cli(self.folder, *words, log=self.folder / "holdfast.log")
        return True

    def _exists(self) -> bool:
        # Killed before it was made: the last one is an older one, which is over.
        found = StateManager(self.states).list_experiments() if self.states.is_dir() else []
        return len(found) >= self.number

    def victims(self) -> dict[str, list[int]]:
        """What of it there is to be killed."""
        assert self.program is not None
        found: dict[str, list[int]] = {"orchestrator": [self.program.pid]}
        marked = {pid for pid, _ in belonging(self.states)}
        for pid in marked:
            parent = _parent(pid)
            kind = "rank" if parent in marked else "command"
            found.setdefault(kind, []).append(pid)
            if kind == "command" and parent is not None and _is_shim(parent):
                found.setdefault("shim", []).append(parent)
                if (starter := _parent(parent)) is not None and _is_shim(starter):
                    found.setdefault("starter", []).append(starter)
        return found


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat[stat.rindex(")") + 2 :].split()[1])
    return None


def _is_shim(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"starter.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def contend(
    where: Path,
    *,
    seconds: float,
    kills: int,
    experiments: int,
    slots: int,
    seed: int,
    greedy: bool = False,
) -> Contention:
    """Have *experiments* contend for *slots* in *where*, and kill parts of them for *seconds*.

    The locks are where XDG_STATE_HOME says.

    Args:
        kills: How many there are to be at least, however long that takes.
        greedy: Whether the last of them needs two slots for each process.
    """
    rng, found = random.Random(seed), Contention()
    where = where.resolve()
    contenders = [
        _Contender(
            folder=where / f"e{number}",
            proofs=where,
            slots=slots,
            needs=2 if greedy and number == experiments - 1 else 1,
            processes=6,
        )
        for number in range(experiments)
    ]
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline or found.kills.total() < kills:
            for each in contenders:
                each.go_on(found, again=True)
            time.sleep(rng.uniform(0.02, 0.4))
            _strike(rng.choice(contenders), rng, found)
        over = time.monotonic() + _ENDS_WITHIN_S
        going = contenders
        while going and time.monotonic() < over:
            going = [each for each in contenders if each.go_on(found, again=False)]
            time.sleep(0.05)
        _judge(where, contenders, found)
    finally:
        for each in contenders:
            if each.program is not None:
                each.program.kill()
                each.program.wait()
            for pid, _ in belonging(each.states):
                send(pid, signal.SIGKILL)
    return found


def _strike(contender: _Contender, rng: random.Random, found: Contention) -> None:
    kind = rng.choices([*_TARGETS], [*_TARGETS.values()])[0]
    patient = time.monotonic() + _THERE_WITHIN_S
    while True:
        victims = contender.victims()
        kinds = [*victims] if kind == "everything of ours" else kind.split(" and ")
        if all(victims.get(each) for each in kinds):
            break
        if time.monotonic() > patient:
            return
        time.sleep(0.02)
    found.kills[kind] += 1
    for each in kinds:
        chosen = victims[each] if kind == "everything of ours" else [rng.choice(victims[each])]
        for pid in chosen:
            send(pid, signal.SIGKILL)


def _judge(where: Path, contenders: list[_Contender], found: Contention) -> None:
    lines = (where / "log").read_text().splitlines()
    found.starts = sum(line.startswith("start ") for line in lines)
    found.problems = [line for line in lines if line.startswith("overlap ")]
    found.overlaps = len(found.problems)
    for each in contenders:
        for summary in StateManager(each.states).listing().experiments:
            if summary.status is not ExperimentStatus.AGGREGATED:
                found.unfinished.append(f"{each.folder.name} {summary.experiment_id}")
    for standing in listing.listing()[0]:
        fd = places.lock(standing.slot)
        if fd is not None:
            os.close(fd)
        if fd is None or standing.kind != "free":
            found.lost.append(f"{standing.slot.kind} {standing}: {standing.why}")
