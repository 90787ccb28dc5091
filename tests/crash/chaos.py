"""Chaos: experiments of all kinds of processes, of which every part is killed, stopped and swept.

Whatever ends is resumed until everything is done. Judged by the log that the processes write and by
what lives: no two attempts of a process at a time, none after a published completion, nothing lost,
and nothing left once a run has said how it ended. What happens follows from a seed, when it does
only roughly.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.files import read_exit
from holdfast.attempts.names import AttemptName, names
from holdfast.lifecycle.records import ExperimentState
from holdfast.liveness import Observer
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.manager import StateManager

from .checking import scratch
from .trees import belonging, cli, send, sweep, tree
from .work import Experiment, Line, read_log

__all__ = ["Havoc", "chaos", "life"]

#: Exit codes of a run that says how it ended: everything done, something failed, SIGINT, SIGTERM.
_SAYS_SO: Final = (0, 3, 130, 143)
#: Those of a run that was killed, or that TERM met before it could listen.
_STRUCK: Final = (-signal.SIGKILL, -signal.SIGTERM)
_HANGS_AFTER_S: Final = 240.0
_STOPPED_S: Final = (0.02, 1.2)
_MOST_RUNS: Final = 120

#: What is done to whom, and how often compared with the others.
_EVENTS: Final = {
    ("orchestrator", "KILL"): 3, ("orchestrator", "TERM"): 1, ("orchestrator", "STOP"): 1,
    ("starter", "KILL"): 2, ("starter", "TERM"): 1, ("starter", "STOP"): 2,
    ("shim", "KILL"): 5, ("shim", "TERM"): 2, ("shim", "STOP"): 3,
    ("command", "KILL"): 3, ("command", "TERM"): 2, ("command", "STOP"): 2,
    ("rank", "KILL"): 3, ("rank", "TERM"): 2, ("rank", "STOP"): 2,
    ("shim and orchestrator", "KILL"): 2, ("everything below", "KILL"): 1,
    ("everything below", "TERM"): 2, ("everything", "TERM"): 2,
}  # fmt: skip


@attrs.define
class Havoc:
    """What was done, and what came of it."""

    experiments: int = 0
    processes: int = 0
    events: Counter[str] = attrs.field(factory=Counter)
    codes: Counter[str] = attrs.field(factory=Counter)
    runs: int = 0
    starts: int = 0
    overlaps: int = 0
    repeats: int = 0
    lost: int = 0
    strays: int = 0
    false: int = 0
    hangs: int = 0
    problems: list[str] = attrs.field(factory=list)
    odd: list[str] = attrs.field(factory=list)

    def add(self, other: "Havoc") -> None:
        for field in attrs.fields(Havoc):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, mine + theirs)

    @property
    def kills(self) -> int:
        """Events but for the CONT that follows every STOP."""
        return sum(count for what, count in self.events.items() if what != "CONT")

    @property
    def losses(self) -> int:
        """Everything that must be 0."""
        return self.overlaps + self.repeats + self.lost + self.strays + self.false + self.hangs


@attrs.define
class _Life:
    """One experiment, from its first run to its end, with *events* on the way."""

    folder: Path
    seed: str
    events: int
    sizes: tuple[int, int]
    work_s: float
    found: Havoc = attrs.field(factory=Havoc)
    rng: random.Random = attrs.field(init=False)
    experiment: Experiment = attrs.field(init=False)
    stopped: list[tuple[float, int, int | None]] = attrs.field(factory=list)
    program: "subprocess.Popen[bytes]" = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.experiment = Experiment.drawn(self.rng, self.sizes)
        self.experiment.write(self.folder, self.rng.randrange(1 << 16), self.work_s)

    @property
    def states(self) -> Path:
        return self.folder / ".experiment_state"

    def problem(self, kind: str, text: str) -> None:
        setattr(self.found, kind, getattr(self.found, kind) + 1)
        self.found.problems.append(f"seed {self.seed} ({self.experiment}): {kind}: {text}")

    def run(self) -> Havoc:
        self.found.experiments, self.found.processes = 1, self.experiment.processes
        self.start()
        try:
            if self._live():
                self._judge()
        finally:
            self._clean_up()
        return self.found

    # --- one run after the other

    def start(self) -> None:
        words = ("run", "e.toml")
        if self._id() is not None and self.rng.random() < 0.7:
            words = ("resume", "@last")
        self.program = cli(self.folder, *words, log=self.folder / "holdfast.log")
        self.found.runs += 1

    def _id(self) -> str | None:
        found = StateManager(self.states).list_experiments() if self.states.is_dir() else []
        return found[0] if found else None

    def _live(self) -> bool:
        """Whether it came to its end."""
        deadline = time.monotonic() + _HANGS_AFTER_S
        while time.monotonic() < deadline and self.found.runs <= _MOST_RUNS:
            ended = self._wait(self.rng.uniform(0.02, 0.6))
            if not ended and self.found.kills < self.events:
                self._strike()
            if not ended:
                continue
            code = self.program.returncode
            self.found.codes[str(code)] += 1
            if code in _SAYS_SO:
                self._look_for_strays(code)
            elif code not in _STRUCK:
                told = (self.folder / "holdfast.log").read_text()[-600:]
                self.found.odd.append(f"seed {self.seed}: exit code {code}\n{told}")
            state = self._state()
            if code == 0 and state is not None and state.status is ExperimentStatus.AGGREGATED:
                return True
            # At once, or only after more has happened to what runs on.
            for _ in range(self.rng.choice((0, 0, 0, 1, 2))):
                self._pause(self.rng.uniform(0.0, 0.3))
                if self.found.kills < self.events:
                    self._strike()
            self.start()
        told = (self.folder / "holdfast.log").read_text()[-600:]
        self.problem("hangs", f"after {self.found.runs} runs: {self._state()!s:.300}\n{told}")
        return False

    def _state(self) -> ExperimentState | None:
        found = self._id()
        return None if found is None else StateManager(self.states).load(found)

    def _wait(self, seconds: float) -> bool:
        """Whether the orchestrator ended, before time was up."""
        self._pause(seconds, lambda: self.program.poll() is not None)
        return self.program.poll() is not None

    def _pause(self, seconds: float, over: Callable[[], bool] = lambda: False) -> None:
        until = time.monotonic() + seconds
        while not over() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.01))
            self._continue(time.monotonic())

    def _continue(self, now: float) -> None:
        for each in [each for each in self.stopped if each[0] <= now]:
            self.stopped.remove(each)
            _, pid, ticks = each
            if _start_ticks(pid) == ticks:
                self.found.events["CONT"] += send(pid, signal.SIGCONT)

    # --- what is done to it

    def _strike(self) -> None:
        # Else most would hit orchestrators that are loading their modules.
        if not self._shims() and self.rng.random() < 0.9:
            return
        for whom, how in self.rng.choices(list(_EVENTS), list(_EVENTS.values()), k=10):
            struck = self._everything(whom, how) if "every" in whom else self._one(whom, how)
            if struck:
                self.found.events[f"{how} {whom}"] += 1
                return

    def _everything(self, whom: str, how: str) -> bool:
        members = tree(self.program.pid)
        if not members[1:]:
            return False
        if whom == "everything below":
            members = members[1:]
        number = getattr(signal, f"SIG{how}")
        order = self.rng.choice(("leaf first", "root first", "random"))
        sweep(members, order, self.rng.choice((0.0, 0.1, 0.3)), self.rng, number)
        return True

    def _one(self, whom: str, how: str) -> bool:
        victims = [self.rng.choice(pids)] if (pids := sorted(self._pids(whom))) else []
        if whom == "shim and orchestrator" and victims:
            victims.append(self.program.pid)
        number, struck = getattr(signal, f"SIG{how}"), False
        for pid in victims:
            ticks = _start_ticks(pid)
            struck = send(pid, number) or struck
            if how == "STOP":
                until = time.monotonic() + self.rng.uniform(*_STOPPED_S)
                self.stopped.append((until, pid, ticks))
        return struck

    def _pids(self, whom: str) -> Iterable[int]:
        if whom == "orchestrator":
            return [self.program.pid] if self.program.poll() is None else []
        if whom == "starter":
            return [member.pid for member in tree(self.program.pid) if member.depth == 1]
        shims = self._shims()
        if whom.startswith("shim"):
            return shims
        running = [pid for pid, _ in belonging(self.states)]
        return [pid for pid in running if (_parent(pid) in shims) == (whom == "command")]

    def _shims(self) -> set[int]:
        """Those whose attempt has no outcome yet, whoever started them."""
        experiment_id = self._id()
        if experiment_id is None:
            return set()
        folder = self.states / experiment_id
        found = set()
        ended = set(names(folder, experiment_id, "exit"))
        for name in set(names(folder, experiment_id)) - ended:
            live = json.loads((folder / "attempts" / f"{name}.live").read_text())
            if live.get("pid") and _start_ticks(live["pid"]) == live["start_ticks"]:
                found.add(live["pid"])
        return found

    # --- what came of it

    def _look_for_strays(self, code: int) -> None:
        state = self._state()
        # Ended so early that it has not even taken over what ran: it has said nothing.
        if state is None or state.status is ExperimentStatus.RUNNING:
            return
        for pid, env in belonging(self.states):
            which = f"{env.get('HOLDFAST_INDEX')}.{env.get('HOLDFAST_ATTEMPT')}"
            told = (self.folder / "holdfast.log").read_text()[-300:]
            self.problem("strays", f"{pid} of {which} after exit code {code}\n{told}")

    def _judge(self) -> None:
        state, log = self._state(), read_log(self.folder)
        assert state is not None
        self.found.starts += sum(line.what == "start" for line in log)
        for line in log:
            if line.what == "overlap":
                self.problem("overlaps", f"{line}")
        by_unit: Callable[[Line], str] = lambda line: line.unit  # noqa: E731
        for unit, lines in groupby(sorted(log, key=by_unit), by_unit):
            self._judge_unit(state, unit, list(lines))
        ends = {(line.unit, line.attempt) for line in log if line.what == "end"}
        for index, process in state.processes.items():
            if process.status is not ProcessStatus.COMPLETED:
                self.problem("lost", f"{index} is {process.status}")
            elif (str(index), process.attempt) not in ends:
                self.problem("false", f"{index}.{process.attempt} never came to its end")

    def _judge_unit(self, state: ExperimentState, unit: str, lines: list[Line]) -> None:
        attempts: dict[int, list[Line]] = {}
        for line in lines:
            attempts.setdefault(line.attempt, []).append(line)
        spans = sorted(
            (min(line.at for line in each), max(line.at for line in each), attempt)
            for attempt, each in attempts.items()
        )
        for (_, last, one), (first, _, other) in pairwise(spans):
            if first <= last:
                self.problem("overlaps", f"{unit}.{one} lived when {unit}.{other} began")
        completed = None
        for attempt in sorted(attempts):
            starts = sum(line.what == "start" for line in attempts[attempt])
            if starts != 1:
                self.problem("repeats", f"{unit}.{attempt} was started {starts} times")
            if completed is not None:
                self.problem("repeats", f"{unit}.{attempt} ran after {unit}.{completed} completed")
            if self._completes(state, unit, attempt):
                completed = attempt

    def _completes(self, state: ExperimentState, unit: str, attempt: int) -> bool:
        name = AttemptName(state.experiment_id, unit, attempt)
        record = read_exit(self.states / state.experiment_id, name)
        return (
            record is not None
            and record.exit_code == 0
            and not any(
                (record.signal, record.timed_out, record.stop_requested, record.interrupted_by)
            )
        )

    def _clean_up(self) -> None:
        keep = os.environ.get("CHAOS_KEEP")
        if keep and (self.found.problems or self.found.odd):
            shutil.copytree(self.folder, Path(keep) / self.seed.replace("/", "-"))
        self.program.kill()
        self.program.wait()
        self._continue(float("inf"))
        for pid in self._shims():
            send(pid, signal.SIGKILL)
        for pid, _ in belonging(self.states):
            send(pid, signal.SIGKILL)


def _start_ticks(pid: int) -> int | None:
    with contextlib.suppress(PermissionError):
        facts = Observer.here().look(pid)
        return None if facts is None or facts.zombie else facts.start_ticks
    return None


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        told = Path(f"/proc/{pid}/stat").read_text()
        return int(told.rpartition(")")[2].split()[1])
    return None


def life(seed: str, events: int, sizes: tuple[int, int], work_s: float) -> Havoc:
    """One experiment, also once more from the seed that a problem has named."""
    with scratch() as where:
        return _Life(where, seed, events, sizes, work_s).run()


def chaos(
    experiments: int,
    events: int,
    *,
    sizes: tuple[int, int] = (40, 200),
    work_s: float = 8.0,
    seed: int = 0,
    at_a_time: int = 3,
) -> Havoc:
    """*experiments* with *events* each; *work_s* is how long one takes about if left alone."""
    found = Havoc()
    tasks = [(f"{seed}/{number}", events, sizes, work_s) for number in range(experiments)]
    with ThreadPoolExecutor(at_a_time) as pool:
        for each in pool.map(life, *zip(*tasks, strict=True)):
            found.add(each)
    return found
