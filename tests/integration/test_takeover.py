"""Taking up what was left: what a dry run says is what a run does, whatever had happened.

Histories are drawn from seeds; their files, processes and locks are real, and so is the journal.
Only the engine is one of the test's own: it carries every attempt out at once, successfully.
"""

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from holdfast import liveness
from holdfast.attempts import environment
from holdfast.attempts.family import Census
from holdfast.attempts.names import AttemptName, attempts_dir, reports_dir
from holdfast.cli.failures import code_of
from holdfast.config.experiment_file import Experiment, load_config
from holdfast.lifecycle.records import ExperimentState, Ranks, ResultRef
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.results import acceptance
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager
from instant import InstantEngine, files_below, foretold, put
from shims import mark_of
from waiting import until

HISTORIES = 500
AT_A_TIME = 25

ENDS: Mapping[str, dict[str, Any]] = {
    "exit 0": {"exit_code": 0},
    "exit 0, result": {"exit_code": 0, "result": "7"},
    "exit 0, invalid result": {"exit_code": 0, "result": "{"},
    "exit 3": {"exit_code": 3},
    "killed": {"signal": 9},
    "timeout": {"signal": 15, "timed_out": True},
    "timeout, exit 0": {"exit_code": 0, "timed_out": True},
    "asked to stop, exit 0": {"exit_code": 0, "stop_requested": "user"},
    "swept, exit 0": {"exit_code": 0, "interrupted_by": 15},
    "swept": {"signal": 15, "interrupted_by": 15},
    "swept after its timeout": {"exit_code": 0, "timed_out": True, "interrupted_by": 15},
    "not launched": {"error": "no such program"},
    "garbage": {},
}
LEFT = ("never began", "revoked", "dead", "torn", "elsewhere", "runs", "leftovers")


class History:
    """One experiment with a past, drawn from a seed."""

    def __init__(self, path: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.path = path
        path.mkdir()
        self.manager = StateManager(path / "states")
        self.engine = InstantEngine()
        self.started: list[subprocess.Popen[bytes]] = []
        self.kinds: list[str] = []
        size = self.draw.randint(1, 6)
        # A third of them have ranks, half of those independent ones.
        count = self.draw.choice((0, 0, 0, 0, 2, 3))
        independent = self.draw.random() < 0.5
        ranks = f"{{count = {count}, independent = {str(independent).lower()}}}"
        (path / "e.toml").write_text(
            f'command = ["true", "{{index}}"]\nprocesses = {size}\n'
            f"{f'ranks = {ranks}' if count else ''}\n"
            f"[limits]\njobs = {self.draw.randint(1, 4)}\n"
            f"fail_fast = {str(self.draw.random() < 0.4).lower()}\n"
            f'grace = "0s"\n'
            f'[retry]\nmax_attempts = {self.draw.randint(1, 3)}\nbackoff = "0s"\n'
        )
        self.experiment: Experiment = load_config(path / "e.toml")
        state = self.manager.create(
            "exp",
            num_processes=size * (count or 1),
            ranks=Ranks(count=count, independent=independent) if count else None,
            config=self.experiment.to_config(),
            config_hash=self.experiment.config_hash(self.manager.state_dir),
            config_path=path / "e.toml",
            cwd=path,
        )
        self.folder = self.manager.folder("exp")
        if self.draw.random() < 0.95:
            with self.manager.claim("exp") as claim:
                self.live(claim, state)

    def live(self, claim: Claim, state: ExperimentState) -> None:
        """What the orchestrator recorded before it was gone, and what it left."""
        claim.record("start")
        unfinished = self.draw.random() < 0.85
        for first in range(0, state.num_processes, state.rank_count or 1):
            self.command(claim, first, unfinished=unfinished)
        state = claim.state
        if state.processes_completed == state.num_processes:
            self.settle(claim)
        elif self.draw.random() < 0.3:
            claim.record("interrupt", reason="user")
        elif state.processes_failed and self.draw.random() < 0.7:
            claim.record("fail", reason="exit")
        for index in state.processes.indices(ProcessStatus.COMPLETED):
            self.lose(state, index)

    def command(self, claim: Claim, first: int, *, unfinished: bool) -> None:
        """A process, or a launcher with all its ranks."""
        ranks = list(claim.state.gang(first))

        def move(event: str, **facts: Any) -> None:
            claim.record_many([(event, index, facts) for index in ranks])

        past = self.draw.choice(("pending", "failed", "running", "completed"))
        if not unfinished:
            past = "completed"
        if past == "pending":
            return
        move("start")
        for _ in range(self.draw.choice((0, 0, 1))):
            move("fail", exit_code=1, reason="exit")
            move("requeue", max_attempts=9)
            move("start")
        attempt = claim.state.processes[first].attempt
        name = AttemptName.of_process("exp", first, attempt, ranks=claim.state.rank_count)
        if past == "failed":
            move("fail", exit_code=1, reason="exit")
        elif past == "completed":
            claim.record_many(
                [
                    ("complete", index, {"exit_code": 0, "result": self.result(name, index)})
                    for index in ranks
                ]
            )
        else:
            if not claim.state.has_gangs and len(ranks) > 1 and self.draw.random() < 0.3:
                claim.record("complete", first, exit_code=0, result=self.result(name, first))
            self.leave(name)
            # What the ranks of one that runs will yet say, nobody can foretell.
            if name.is_launcher and self.kinds[-1] != "runs":
                for index in ranks:
                    self.report(name, index)

    def result(self, name: AttemptName, index: int) -> ResultRef | None:
        """What the process wrote in that attempt, if it did."""
        if self.draw.random() < 0.4:
            return None
        rank = acceptance.of_rank(index, name.attempt, "0-9-9-h")
        written = rank if name.is_launcher else name
        acceptance.prepare(self.folder)
        acceptance.path_of(self.folder, written).write_text("[1]")
        return acceptance.accept(self.folder, written)

    def report(self, name: AttemptName, index: int) -> None:
        """What a rank said of itself before everything ended."""
        said = self.draw.choice((None, {"completed": True}, {"stopped": True}, {"error": {}}))
        if said is not None:
            self.kinds.append(f"said {next(iter(said))}")
            folder = reports_dir(self.folder, name)
            folder.mkdir(exist_ok=True)
            (folder / f"{index}.0-9-9-h.said").write_text(json.dumps(said))
            if self.draw.random() < 0.5:
                acceptance.prepare(self.folder)
                rank = acceptance.of_rank(index, name.attempt, "0-9-9-h")
                value = "{" if self.draw.random() < 0.2 else "[1]"
                acceptance.path_of(self.folder, rank).write_text(value)

    def leave(self, name: AttemptName) -> None:
        """An attempt that nobody watched to its end."""
        kind = self.draw.choice((*ENDS, *LEFT))
        self.kinds.append(kind)
        if kind == "garbage":
            put(self.folder, name, "exit", "{")
        elif kind in ENDS:
            record = dict(ENDS[kind])
            if "result" in record:
                acceptance.prepare(self.folder)
                acceptance.path_of(self.folder, name).write_text(record.pop("result"))
            put(self.folder, name, "exit", record)
        else:
            self.leave_without_outcome(name, kind)

    def leave_without_outcome(self, name: AttemptName, kind: str) -> None:
        me = attrs.asdict(attrs.evolve(liveness.me(), locked=True))
        gone = me | {"pid": 2**22 + 1}
        mark = mark_of(self.folder, name, f"{self.draw.getrandbits(128):032x}")
        if kind == "revoked":
            put(self.folder, name, "live", me | {"revoked": True})
        elif kind == "dead":
            put(self.folder, name, "live", gone | {"mark": mark})
        elif kind == "torn":
            put(self.folder, name, "live", "")
        elif kind == "elsewhere":
            put(self.folder, name, "live", me | {"host": "node7", "boot_id": "another"})
        elif kind == "runs":
            path = put(self.folder, name, "live", me | {"mark": mark})
            fd = os.open(path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            at_home = os.open(attempts_dir(self.folder), os.O_RDONLY)
            self.engine.locks |= {name: fd, AttemptName("exp", name.unit, 0): at_home}
            self.engine.running.add(name)
        elif kind == "leftovers":
            put(self.folder, name, "live", gone | {"mark": mark})
            env = {**os.environ, environment.SESSION: mark}
            self.started.append(subprocess.Popen(["sleep", "600"], env=env))
            until(lambda: Census().marked(mark))

    def settle(self, claim: Claim) -> None:
        if self.draw.random() < 0.7:
            claim.record("complete")
            if self.draw.random() < 0.3:
                claim.record("aggregate")

    def lose(self, state: ExperimentState, index: int) -> None:
        ref = state.processes[index].result
        if ref is not None and self.draw.random() < 0.3:
            path = self.folder / ref.path
            path.unlink() if self.draw.random() < 0.5 else path.write_text("[2]")

    def close(self) -> None:
        self.engine.close()
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def history(path: Path, seed: int) -> Iterator[History]:
    made = History(path, seed)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("first", range(0, HISTORIES, AT_A_TIME))
def test_what_a_dry_run_says_is_what_a_run_does(memory: Path, first: int) -> None:
    """Started, left alone, taken over, blocked: for every process, and it touches nothing."""
    for seed in range(first, first + AT_A_TIME):
        with history(memory / str(seed), seed) as made:
            before = files_below(made.folder)
            said, code = foretold(made.manager.state_dir, made.path / "e.toml")
            assert files_below(made.folder) == before, f"seed {seed}: the dry run wrote something"
            assert code == 0
            known = len(made.manager.history("exp"))
            with contextlib.suppress(Warning):
                outcome = run(made)
            told = f"seed {seed}, {made.kinds}: {said['processes']}"
            steps = made.manager.history("exp")[known:]
            starts = {
                step.index for step in steps if step.event == "start" and step.index is not None
            }
            state = made.manager.load("exp")
            for process in said["processes"]:
                index, action = process["index"], process["action"]
                assert (index in starts) == (action == "run"), f"{told}: {process} {starts}"
                done = state.processes[index].status is ProcessStatus.COMPLETED
                assert done or action in ("skip", "blocked"), told
                if action == "blocked":
                    assert state.processes[index].status is ProcessStatus.RUNNING, told
            blocked = any(each["action"] == "blocked" for each in said["processes"])
            assert (outcome == 5) == blocked, told
            if said["aggregates"]:
                assert not starts, told
                assert state.status is ExperimentStatus.AGGREGATED, told


def run(made: History) -> int:
    engine, began = made.engine, time.monotonic()

    def passed_s() -> float:
        # What was really started takes real time to go: for it, five seconds pass in one.
        return 5 * (time.monotonic() - began) if made.started else engine.now

    orchestrator = Orchestrator(made.manager, engine, monotonic=passed_s, gone_grace_s=0.0)
    with pytest.warns() if "elsewhere" in made.kinds else contextlib.nullcontext():
        return code_of(orchestrator.run(made.experiment))


def test_every_kind_of_past_is_among_the_histories(memory: Path) -> None:
    """The property above is asked of all that can be left, and of every status."""
    kinds: set[str] = set()
    statuses: set[str] = set()
    for seed in range(0, HISTORIES, 2):
        with history(memory / str(seed), seed) as made:
            kinds.update(made.kinds)
            statuses.add(str(made.manager.load("exp").status))
    assert kinds == {*ENDS, *LEFT, "said completed", "said stopped", "said error"}
    assert statuses == set(ExperimentStatus)
