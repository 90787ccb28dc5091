"""A cluster on paper: nodes, a scheduler, and whatever may happen to both, told by a seed.

No processes, and time passes only when it is told to. What nodes write is really written (`.live`
with its lock, `.exit`, results), and the cluster keeps the truth, with which the record that an
orchestrator made of it is compared. Its scheduler delays, repeats, forgets and contradicts itself,
but it never breaks the contract of engines: what it says to be over is over, unless it says
`node_fail`, which proves nothing.
"""

import contextlib
import fcntl
import heapq
import itertools
import json
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from holdfast.attempts.names import AttemptName, attempts_dir, file_path, prepare
from holdfast.attempts.records import Attempt
from holdfast.engines.contract import ALIVE, EngineWord, Handle, WordKind
from weather import Weather

__all__ = ["START", "Cluster", "Fate"]

START: Final = datetime(2024, 1, 15, 12, tzinfo=UTC)

#: What really became of an attempt. `completed` and `failed`: its command ended by itself, and its
#: exit record says so. `stopped`: it was ended from outside. `lost`: it left no record. `memory`:
#: it grew too large. An attempt that never ran has no fate.
Fate = Literal["completed", "failed", "stopped", "lost", "memory"]

#: A scheduler ends what it ends by TERM, and by KILL so long after it.
KILL_WAIT_S: Final = 20.0


@attrs.define(eq=False)
class Node:
    """A machine of the cluster.

    Attributes:
        known_at: When the scheduler learns of its last boot.
        lost: Whether the scheduler cannot reach it.
    """

    name: str
    booted_at: float = -1e6
    boots: int = 0
    known_at: float = -1e6
    before: float = -1e6
    lost: bool = False
    down: bool = False

    def identity(self, pid: int, *, locked: bool) -> dict[str, Any]:
        return {
            "host": self.name,
            "machine_id": f"machine of {self.name}",
            "boot_id": f"boot {self.boots} of {self.name}",
            "pid_namespace": "pid:[4026531836]",
            "pid": pid,
            "start_ticks": pid * 7,
            "locked": locked,
        }


@attrs.define(eq=False)
class Said:
    """What the scheduler knows of a job from some time on."""

    since: float
    kind: WordKind
    at: float


@attrs.define(eq=False)
class Job:
    """What was submitted of one attempt.

    Attributes:
        said: What the scheduler knew of it, one after the other.
        prompt: Whether it is always told as it is.
        handle: The last that was made of it.
        gone_at: When somebody was told last that it is gone.
        end: How it ended, whoever knows.
        run: Its command, as long as that runs.
    """

    number: int
    attempt: Attempt
    submitted_at: float
    found_at: float
    lag_s: float
    said: list[Said]
    prompt: bool = False
    forgotten: bool = False
    gone_at: float = -math.inf
    over: bool = False
    end: Said | None = None
    node: Node | None = None
    run: "Run | None" = None
    handle: Handle | None = None

    @property
    def name(self) -> AttemptName:
        return self.attempt.name

    def told(self, at: float) -> Said:
        """What was known of it at *at*."""
        return next((each for each in reversed(self.said) if each.since <= at), self.said[0])


@attrs.define(eq=False)
class Run:
    """A command that runs, with its shim."""

    job: Job
    node: Node
    pid: int
    began_at: float
    lock: int | None
    ending: bool = False


class Cluster:
    """Nodes, a scheduler, and the truth about every attempt.

    Attributes:
        now: Seconds since `START`.
        worked_s: How long who looks at the clock has worked, which takes no time here else.
        weather: What happens; calm once `clear_up` was called.
        fates: What really became of each attempt that began.
        alive: The attempts of each process that run at this moment.
        overlaps: Attempts of a process that began while another one ran.
        asked: Attempts that were asked to stop, by files or through the engine.
        strangers: Attempts that were cancelled although nobody had asked for that.
        counts: How often what happened.
        away_until: Until when nobody can say anything about any job.
    """

    def __init__(self, seed: int, weather: Weather | None = None, nodes: int = 3) -> None:
        self.chance = random.Random(seed)
        self.weather = Weather.of(self.chance) if weather is None else weather
        self.now = 0.0
        self.worked_s: Callable[[], float] = lambda: 0.0
        self.nodes = [Node(f"n{number}") for number in range(1, nodes + 1)]
        self.jobs: dict[AttemptName, list[Job]] = {}
        self.running: dict[int, Run] = {}
        self.fates: dict[AttemptName, Fate] = {}
        self.alive: defaultdict[int | None, set[AttemptName]] = defaultdict(set)
        self.overlaps: list[str] = []
        self.asked: set[AttemptName] = set()
        self.asking = False
        self.strangers: list[str] = []
        self.counts: Counter[str] = Counter()
        self.away_until = -math.inf
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._pids = itertools.count(1000)
        if self.weather.away_s < math.inf:
            self.after(self._every(self.weather.away_s), self._go_away)
        if self.weather.nodes_s < math.inf:
            self.after(self._every(self.weather.nodes_s), self._fail_node)

    # -- time -------------------------------------------------------------------------------------

    def clock(self) -> datetime:
        return START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return self.now + self.worked_s()

    def after(self, delay_s: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._numbers), happens))

    def pass_until(self, then: float, *, stop_at_news: bool = False) -> None:
        """Let everything happen that is due until *then*, or the first of it."""
        while self._due and self._due[0][0] <= then:
            self.now, _, happens = heapq.heappop(self._due)
            happens()
            if stop_at_news:
                return
        self.now = max(self.now, then)

    def clear_up(self) -> None:
        """Nothing fails any more, and what failed is mended."""
        before = self.weather
        self.weather = Weather(
            jobs=before.jobs,
            locks=before.locks,
            outlives=before.outlives,
            memory_s=before.memory_s,
            queue_s=before.queue_s,
            run_s=before.run_s,
        )
        for node in self.nodes:
            if node.lost:
                self._reboot(node, known_after_s=0.0)

    def happens(self, share: float, what: str) -> bool:
        if share > 0 and self.chance.random() < share:
            self.counts[what] += 1
            return True
        return False

    def _every(self, mean_s: float) -> float:
        return self.chance.expovariate(1 / mean_s)

    def up_to(self, most_s: float) -> float:
        return self.chance.uniform(0, most_s) if most_s else 0.0

    # -- jobs -------------------------------------------------------------------------------------

    def submit(self, attempt: Attempt) -> Job:
        weather = self.weather
        held = self.happens(weather.held, "held")
        kind: WordKind = "held" if held else "queued"
        job = Job(
            number=next(self._numbers),
            attempt=attempt,
            submitted_at=self.now,
            found_at=self.now + (60 if self.happens(weather.missed, "missed by find") else 0),
            lag_s=self.up_to(weather.lag_s),
            said=[Said(self.now, kind, self.now)],
        )
        self.jobs.setdefault(attempt.name, []).append(job)
        waits_s = self._every(weather.queue_s)
        if self.happens(weather.forgotten, "forgotten"):
            job.forgotten = True
            if self.chance.random() < 0.5:
                return job
            waits_s += self.chance.choice([1.0, 100.0, 400.0])
        if held:
            waits_s += self.chance.choice([20.0, 100.0, 300.0])
        self.after(waits_s, lambda: self._begin(job))
        return job

    def _begin(self, job: Job) -> None:
        """A node starts the job: its shim takes the right to run the attempt, if it is there."""
        if job.over:
            return
        if self.now - job.gone_at < 60.0:
            # By then, who was told that it is gone has revoked it.
            self.after(60.0, lambda: self._begin(job))
            return
        ready = [node for node in self.nodes if not node.down and not node.lost]
        if not ready:
            self.after(10.0, lambda: self._begin(job))
            return
        node = job.node = self.chance.choice(ready)
        pid = next(self._pids)
        self._say(job, "running")
        began, lock = self._become_live(job.attempt, node, pid)
        if not began:
            self.counts["found it taken"] += 1
            self._end_job(job, "failed")
            return
        name = job.name
        if self.alive[name.index]:
            others = ", ".join(map(str, self.alive[name.index]))
            self.overlaps.append(f"{name} began at {self.now:.1f} while {others} ran")
        self.alive[name.index].add(name)
        run = job.run = Run(job, node, pid, self.now, lock)
        self.running[pid] = run
        self.fates[name] = "lost"  # until it has published how it ended
        self._draw_end(job, run)
        if self.happens(self.weather.twice, "started twice"):
            again = attrs.evolve(job, number=next(self._numbers), run=None, node=None)
            again.said = [Said(self.now, "queued", self.now)]
            self.after(self.up_to(60.0), lambda: self._begin(again))

    def _become_live(self, attempt: Attempt, node: Node, pid: int) -> tuple[bool, int | None]:
        locks = self.weather.locks
        prepare(attempt.folder)
        directory = attempts_dir(attempt.folder)
        path = file_path(attempt.folder, attempt.name, "live")
        temporary = path.with_name(f".{pid}.tmp")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        try:
            if locks == "seen":
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = {
                **node.identity(pid, locked=locks != "none"),
                "mark": f"{pid:032x}.{directory.stat().st_ino}.{attempt.name}",
                "attempt": str(attempt.name),
                "experiment": attempt.name.experiment_id,
                "started_at": self.clock().isoformat(),
                "inode": os.fstat(fd).st_ino,
            }
            os.write(fd, json.dumps(content).encode("ascii"))
            os.link(temporary, path)
        except FileExistsError:
            os.close(fd)
            return False, None
        finally:
            temporary.unlink()
        if locks == "seen":
            return True, fd
        os.close(fd)
        return True, None

    # -- ends -------------------------------------------------------------------------------------

    def _draw_end(self, job: Job, run: Run) -> None:
        weather, lasts_s = self.weather, self._every(self.weather.run_s) + 0.01
        limit = job.attempt.timeout_s
        if limit is not None and limit < lasts_s:
            self.after(limit, lambda: self._exit(run, "failed", signal=15, timed_out=True))
        elif not job.forgotten and self.happens(weather.limits, "ended by the engine"):
            kind: WordKind = self.chance.choice(["timeout", "preempted", "cancelled"])
            self.after(lasts_s, lambda: self._end_from_outside(run, kind))
        elif self.happens(weather.shims, "shim killed"):
            self.after(lasts_s, lambda: self._vanish(run, "failed"))
        elif self.happens(weather.memory, "out of memory"):
            self.after(lasts_s, lambda: self._outgrow(run))
        elif self.happens(weather.fails, "failed"):
            self.after(lasts_s, lambda: self._exit(run, "failed", exit_code=1))
        else:
            self.after(lasts_s, lambda: self.complete(run))

    def complete(self, run: Run) -> None:
        """Its command has done what it was to do."""
        if not self._runs(run):
            return
        result = run.job.attempt.env.get("HOLDFAST_RESULT")
        if result is not None:
            Path(result).write_text(json.dumps({"value": run.job.name.index}))
        # Its job may go on with others, and meet the time limit later than two clocks can differ.
        limits = 0.0 if run.job.forgotten else self.weather.limits
        outlived = self.happens(limits, "job met its limit after the end")
        if not outlived:
            self._exit(run, "completed", exit_code=0)
            return
        self._exit(run, "completed", exit_code=0, job_goes_on=True)
        self.after(6.0 + self.up_to(30.0), lambda: self._end_job(run.job, "timeout"))

    def _runs(self, run: Run) -> bool:
        return run.pid in self.running and not run.ending

    def _exit(
        self,
        run: Run,
        fate: Fate,
        *,
        job_goes_on: bool = False,
        outside: bool = False,
        **record: Any,
    ) -> None:
        """The command has ended, and its shim publishes how."""
        if run.pid not in self.running or (run.ending and not outside):
            return
        self._gone(run)
        name, folder = run.job.name, run.job.attempt.folder
        self.fates[name] = fate
        content = {
            "exit_code": None,
            "signal": None,
            **record,
            "started_at": (START + timedelta(seconds=run.began_at)).isoformat(),
            "ended_at": (START + timedelta(seconds=self.now)).isoformat(),
            "host": run.node.name,
            "max_rss_bytes": 1 << 20,
            "cpu_s": 0.5,
            "identity": run.node.identity(run.pid, locked=self.weather.locks != "none"),
        }
        late_s = 0.0 if run.job.prompt else self.up_to(self.weather.late_s)
        self.after(late_s, lambda: _publish(folder, name, content))
        if not job_goes_on:
            self._end_job(run.job, "completed" if record.get("exit_code") == 0 else "failed")

    def _vanish(self, run: Run, kind: WordKind) -> None:
        """It is gone and leaves no record."""
        if self._runs(run):
            self._gone(run)
            self._end_job(run.job, kind)

    def _outgrow(self, run: Run) -> None:
        if not self._runs(run):
            return
        run.job.prompt = True
        if self.chance.random() < 0.5:
            self._exit(run, "memory", signal=9, job_goes_on=True)
        else:
            self._gone(run)
            self.fates[run.job.name] = "memory"
        self._end_job(run.job, "out_of_memory")

    def _end_from_outside(self, run: Run, kind: WordKind) -> None:
        """TERM to everything of the job; whatever a command makes of that proves nothing."""
        if not self._runs(run):
            return
        if run.node.lost:
            self.complete(run)  # no scheduler reaches it
            return
        began = self.now
        run.ending = True
        how = self.chance.choice(["noticed", "unnoticed", "killed"])
        # A shim that did not notice is no proof: then the engine's word is, if it comes in time.
        if how == "unnoticed" and self.weather.memory_s < math.inf:
            how = "noticed"
        self.counts[f"{kind}, {how}"] += 1
        run.job.prompt = how == "unnoticed"
        self._say(run.job, "completing")

        def end() -> None:
            if run.pid not in self.running:
                return
            if how == "killed":
                self._gone(run)
            else:
                ended: dict[str, Any] = self.chance.choice(
                    [{"exit_code": 0}, {"exit_code": 143}, {"signal": 15}]
                )
                noticed = how == "noticed" or run.node.lost
                heard = {"interrupted_by": 15} if noticed else {}
                self._exit(run, "stopped", outside=True, job_goes_on=True, **ended, **heard)
            self._end_job(run.job, kind, at=began)

        self.after(self.up_to(KILL_WAIT_S), end)

    def _gone(self, run: Run) -> None:
        """Nothing of it lives any more."""
        del self.running[run.pid]
        run.job.run = None
        self.alive[run.job.name.index].discard(run.job.name)
        if run.lock is not None:
            os.close(run.lock)

    def _end_job(self, job: Job, kind: WordKind, at: float | None = None) -> None:
        if job.over:
            return
        job.over = True
        job.end = Said(self.now, kind, self.now if at is None else at)
        if job.node is not None and job.node.lost:
            return  # nobody tells the scheduler
        completing_s = 0.0 if job.prompt else self.up_to(self.weather.completing_s)
        if completing_s:
            self._say(job, "completing")
        job.said.append(attrs.evolve(job.end, since=self.now + completing_s))

    def _say(self, job: Job, kind: WordKind) -> None:
        job.said.append(Said(self.now, kind, self.now))

    # -- asked to stop ----------------------------------------------------------------------------

    def cancel(self, name: AttemptName, *, force: bool) -> None:
        if not self.asking and name not in self.asked:
            self.strangers.append(f"{name} was cancelled at {self.now:.1f}")
        for job in self.jobs.get(name, ()):
            if job.over or job.forgotten:
                continue
            if job.run is None:
                if job.node is None:
                    self._end_job(job, "cancelled")
                continue
            self.stop(job.run, force=force, through_engine=True)

    def stop(self, run: Run, *, force: bool, through_engine: bool = False) -> None:
        """Its shim hears that it is to stop."""
        self.asked.add(run.job.name)
        if run.ending and not force:
            return
        run.ending = True
        began = self.now
        if through_engine:
            self._say(run.job, "completing")

        def end() -> None:
            if run.pid in self.running:
                ended: dict[str, Any] = self.chance.choice([{"exit_code": 0}, {"signal": 15}])
                ended = {"signal": 9} if force else ended
                self._exit(
                    run, "stopped", outside=True, stop_requested="user",
                    job_goes_on=through_engine, **ended,
                )  # fmt: skip
                if through_engine:
                    self._end_job(run.job, "cancelled", at=began)

        self.after(0.1 if force else self.up_to(run.job.attempt.grace_s), end)

    def listen(self) -> None:
        """Shims look for requests that were made by file."""
        if not self.asking:
            return
        for run in list(self.running.values()):
            for suffix in ("kill", "stop"):
                path = file_path(run.job.attempt.folder, run.job.name, suffix)  # type: ignore[arg-type]
                if path.exists():
                    self.stop(run, force=suffix == "kill")
                    break

    def _go_away(self) -> None:
        if self.weather.away_s < math.inf:
            self.counts["scheduler away"] += 1
            self.away_until = self.now + self.chance.choice([40.0, 200.0])
            self.after(self._every(self.weather.away_s), self._go_away)

    # -- nodes ------------------------------------------------------------------------------------

    def _fail_node(self) -> None:
        weather = self.weather
        if weather.nodes_s == math.inf:
            return
        self.after(self._every(weather.nodes_s), self._fail_node)
        node = self.chance.choice(self.nodes)
        if node.down or node.lost:
            return
        if self.chance.random() < 0.5:
            self.cut_off(node)
            self.after(self._every(100.0), lambda: self._come_back(node))
            return
        self.counts["node crashed"] += 1
        node.down = True
        for run in self._lose(node):
            self._crash(run)
        known_after_s = self.chance.choice([0.0, 100.0, math.inf])
        self.after(self._every(100.0), lambda: self._reboot(node, known_after_s))

    def cut_off(self, node: Node) -> list[Run]:
        """Nobody reaches the node any more; what runs there goes on, and is returned."""
        self.counts["node cut off"] += 1
        here = self._lose(node)
        for run in here:
            # Whoever waits for its lock gets it, while it runs on.
            if run.lock is not None and self.chance.random() < 0.5:
                os.close(run.lock)
                run.lock = None
        return here

    def _lose(self, node: Node) -> list[Run]:
        node.lost = True
        here = [run for run in self.running.values() if run.node is node]
        for all_of in self.jobs.values():
            for job in all_of:
                if job.node is node and not job.over:
                    self._say(job, "node_fail")
        return here

    def _crash(self, run: Run) -> None:
        self._gone(run)
        run.job.over = True

    def _come_back(self, node: Node) -> None:
        if node.down or not node.lost:
            return
        node.lost = False
        for all_of in self.jobs.values():
            for job in all_of:
                if job.node is node and job.said[-1].kind == "node_fail":
                    if job.run is not None:
                        self._say(job, "running")
                    elif job.end is not None:
                        job.said.append(attrs.evolve(job.end, since=self.now))

    def _reboot(self, node: Node, known_after_s: float) -> None:
        """Nothing that ran there is left; *known_after_s*: when the scheduler learns of it."""
        if not node.lost:
            return
        for run in [run for run in self.running.values() if run.node is node]:
            self._crash(run)
        node.lost = node.down = False
        node.boots += 1
        node.before, node.booted_at = node.booted_at, self.now
        node.known_at = self.now + known_after_s

    def learn_of_boots(self) -> None:
        """Somebody asks every node when it was booted."""
        for node in self.nodes:
            node.known_at = min(node.known_at, self.now)

    # -- what the scheduler says ------------------------------------------------------------------

    def word(self, handle: Handle) -> EngineWord:
        weather, name = self.weather, handle.name
        job = self._job(handle)
        if (job is None or not job.prompt) and self.happens(weather.unknown, "unknown"):
            return EngineWord(name, "unknown", "nobody knows")
        if job is None:
            return EngineWord(name, "gone", "no such job")
        if job.forgotten:
            if job.run is not None or self.now - job.submitted_at < 60.0:
                return EngineWord(name, "unknown", "no such job")
            job.gone_at = self.now
            return EngineWord(name, "gone", "no such job")
        at = self.now if job.prompt else self.now - job.lag_s
        said = job.told(at)
        if not job.prompt and self.happens(weather.stale, "stale"):
            older = [each for each in job.said if each.since <= at and each.kind in ALIVE]
            said = self.chance.choice(older or job.said[:1])
        kind = said.kind
        if kind not in ALIVE and kind != "node_fail" and at - said.since > weather.memory_s:
            kind = "gone"
        self.counts[f"word {kind}"] += 1
        booted_at = None
        if kind == "node_fail" and job.node is not None:
            node = job.node
            known = node.booted_at if node.known_at <= self.now else node.before
            # Some schedulers do not tell of a boot that they did not see.
            told = known > 0 or node is not self.nodes[0]
            booted_at = START + timedelta(seconds=known) if told else None
        return EngineWord(
            name,
            kind,
            f"job {job.number}: {kind}",
            host=None if job.node is None else job.node.name,
            at=None if kind == "gone" else START + timedelta(seconds=said.at),
            booted_at=booted_at,
            handle=None if job.node is None else self.handle(job),
        )

    def is_prompt(self, handle: Handle) -> bool:
        job = self._job(handle)
        return job is not None and job.prompt

    def _job(self, handle: Handle) -> Job | None:
        jobs = self.jobs.get(handle.name)
        return jobs[-1] if jobs else None

    def handle(self, job: Job) -> Handle:
        node = {} if job.node is None else {"node": job.node.name}
        if job.handle is None or len(job.handle.data) == len(node):
            job.handle = Handle(
                name=job.name,
                folder=job.attempt.folder,
                engine="simulated",
                data={"job": str(job.number), **node},
                requested={"cpus": 1.0},
            )
        return job.handle

    def found(self, experiment_id: str) -> Iterator[Job]:
        for name, jobs in self.jobs.items():
            job = jobs[-1]
            if name.experiment_id != experiment_id or job.forgotten or job.found_at > self.now:
                continue
            if job.told(self.now - job.lag_s).kind in ALIVE:
                yield job

    def close(self) -> None:
        for run in list(self.running.values()):
            self._gone(run)


def _publish(folder: Path, name: AttemptName, content: Mapping[str, Any]) -> None:
    path = file_path(folder, name, "exit")
    temporary = path.with_name(f".{name}.tmp")
    temporary.write_text(json.dumps(content))
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
