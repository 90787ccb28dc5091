"""One task of a wave, run on a node: a shim for each of its attempts, and signals passed on.

Never a session of its own: a batch script's `exec` makes this the process by which the scheduler
knows the job. It ends last: whatever the scheduler takes for the end of the job is the end of all
its attempts, as far as anything here can see. The standard library only.
"""

import contextlib
import gc
import math
import os
import signal
import sys
import time

from holdfast import host
from holdfast.engines import tasks
from holdfast.engines.local import children, descendants, hearing, jobs, shim, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Task"]

#: What batch systems send ahead of a stop; a program that asks finds it by the file of a warning.
_WARNINGS = frozenset(
    int(getattr(signal, name))
    for name in ("SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGPWR")
    if hasattr(signal, name)
)
_LOOK_EVERY_S, _PAUSE_S = 1.0, 0.05
_VISIBLE_WITHIN_S, _LOOK_AGAIN_S = 3.0, 0.2


class Task:
    """One task, from its line in the file of its wave to the end of the last of its attempts.

    Args:
        folder: The experiment's folder, as it is called here.
        wave: Its name.
        number: Which task of it.
    """

    def __init__(self, folder: str, wave: str, number: int) -> None:
        self._folder = os.path.abspath(folder)
        self._wave, self._number = wave, number
        self._facts = host.facts()
        self._jobs: dict[int, dict[str, Any]] = {}
        self._told: set[int] = set()
        self._skipped: set[str] = set()
        self._broken = self._anothers = False
        self._left: _Left | None = None

    def run(self) -> int:
        """Run it and return the exit status; every signal is blocked already."""
        # A parent may have left it ignored: then nobody could wait for a shim.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._keep_to_itself()
        try:
            ready = self._read_once_visible()
        except (tasks.BadWaveError, OSError) as err:
            self._say(f"task {self._number} of {self._wave} cannot be run: {err}")
            return tasks.BROKEN
        try:
            self._launch(ready)
            self._watch()
        except Exception:
            # A fault of ours. Our end would still be taken for that of all attempts.
            import traceback

            self._say(traceback.format_exc())
            self._outlast()
            return tasks.BROKEN
        return self._status([job["name"] for job in ready])

    def _outlast(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _keep_to_itself(self) -> None:
        """Have no shim inherit a stream or a directory that somebody waits for."""
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._log = os.dup(2)
        except OSError:
            self._log = os.dup(self._null)
        for fd in range(3):
            os.dup2(self._null, fd)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._log, os.fsencode(f"holdfast node: {text}\n"))

    def _read_once_visible(self) -> "list[dict[str, Any]]":
        """As `_read`: what this host missed before, its file system may miss for a while."""
        give_up_at = math.inf
        while True:
            try:
                return self._read()
            except FileNotFoundError as err:
                if give_up_at == math.inf:
                    self._say(f"{err.filename!r} is not there yet")
                    give_up_at = time.monotonic() + _VISIBLE_WITHIN_S
                if time.monotonic() >= give_up_at or hearing.wait(_LOOK_AGAIN_S) in hearing.STOPS:
                    raise
            for below in ("..", "", tasks.WAVES):
                with contextlib.suppress(OSError):
                    os.listdir(os.path.join(self._folder, below))  # it asks the server again

    def _read(self) -> "list[dict[str, Any]]":
        """The jobs of the task, with what only this host knows."""
        waves = tasks.open_waves(self._folder)
        try:
            experiment, found = tasks.read_task(waves, self._wave, self._number)
            self._say_begun(waves)
        finally:
            os.close(waves)
        place = os.path.join(self._folder, "attempts")
        self._attempts = os.open(place, tasks.DIRECTORY)
        ready = [jobs.settled(job, experiment, place) for job in found]
        os.chdir("/")  # not to keep a file system busy that somebody wants to unmount
        return ready

    def _say_begun(self, waves: int) -> None:
        """Leave word of where it runs: of an attempt without output, nobody else would know."""
        said = {
            **{key: value for key, value in self._facts.items() if value is not None},
            "pid": os.getpid(),
            "start_ticks": system.start_ticks("self"),
            "python": sys.executable,
            "started_at": system.timestamp(time.time()),
        }
        if "SLURMD_NODENAME" in os.environ:
            # What its scheduler calls this host, which can be another name.
            said["node"] = os.environ["SLURMD_NODENAME"]
        name = tasks.node_file(self._wave, self._number)
        try:
            tasks.publish(waves, name, tasks.encoded(said), durable=False)
        except OSError as err:
            self._say(f"{name}: {err}")  # for eyes only: the commands may need nothing of that disk

    def _launch(self, ready: "list[dict[str, Any]]") -> None:
        gc.disable()
        proc = host.has_proc(os.getpid())
        self._children = children.Children(
            self._facts,
            proc=proc,
            subtree=None,  # a scheduler has cgroups of its own, and wants them empty at the end
            completing=self._null,
            close=(self._log, self._attempts),
        )
        adopt = self._children.shared.adopt
        if proc and adopt is not None and adopt():
            self._left = _Left()
        # What is frozen is never touched by a collector, so its memory stays shared with every
        # shim.
        gc.freeze()
        for job in ready:
            pid, _, error = self._children.fork(job)
            if isinstance(pid, int):
                self._jobs[pid] = job
            else:
                self._say(f"attempt {job['name']} cannot be forked: {error}")
                self._broken = True

    def _watch(self) -> None:
        """Until all shims have ended, and nothing is left of those that were killed."""
        shims = self._children.slots
        for number in self._children.heard:
            self._hear(number)
        while True:
            for pid, status in self._children.reap():
                self._ended(self._jobs[pid], status)
            left = self._left is not None and self._left.anything(set(shims))
            if not shims and not left:
                return
            self._hear(hearing.wait(_PAUSE_S if left else _LOOK_EVERY_S))

    def _hear(self, number: int) -> None:
        """Pass on what is meant for the commands; their shims know what to make of it."""
        if number in hearing.STOPS and number not in self._told:
            self._told.add(number)
            self._children.signal(number)
        elif number in hearing.WARNINGS:
            if number in _WARNINGS:
                self._warn(number)
            self._children.signal(number)

    def _warn(self, number: int) -> None:
        """Have programs that ask see that they should stop: below a launcher none gets a signal."""
        for pid in self._children.slots:
            name = self._jobs[pid]["name"]
            said = {"attempt": name, "signal": number, "at": system.timestamp(time.time())}
            line = tasks.encoded(said)
            try:
                tasks.publish(self._attempts, f"{name}.warn", line, durable=False)
            except OSError as err:
                self._say(f"{name}.warn: {err}")

    def _ended(self, job: "dict[str, Any]", status: int) -> None:
        name = job["name"]
        if status == shim.DONE:
            return
        if status != shim.NOT_FIRST:
            self._say(f"the shim of attempt {name} ended with {status}")
            self._broken = self._broken or status == shim.BROKEN
            if self._left is not None:
                self._left.expect(job["grace_s"])
            return
        live = self._published(f"{name}.live") or {}
        self._skipped.add(name)
        if live.get("revoked") is not True:
            self._say(f"attempt {name} is another's: {live.get('host', 'nobody says where')}")
            self._anothers = True

    def _status(self, names: "list[str]") -> int:
        if self._anothers or (self._left is not None and self._left.gave_up):
            return tasks.ANOTHERS
        if self._broken:
            return tasks.BROKEN
        ends = [self._published(f"{name}.exit") for name in names if name not in self._skipped]
        fine = all(end is not None and end.get("exit_code") == 0 for end in ends)
        return tasks.SUCCEEDED if fine else tasks.FAILED

    def _published(self, name: str) -> "dict[str, Any] | None":
        try:
            return tasks.read_small(self._attempts, name)
        except OSError:
            return None


class _Left:
    """What shims that were killed have left to us, since nobody else answers for it.

    Attributes:
        gave_up: Whether something of it could not be stopped.
    """

    def __init__(self) -> None:
        self._family = descendants.Family(adopts=True)
        # What a batch script has started before its `exec` is the scheduler's to end.
        self._others = {member[0] for member in self._family.living() or ()}
        self._expected = False
        self._grace_s = 0.0
        self._told: set[tuple[int, int]] = set()
        self._kill_at = self._give_up_at = math.inf
        self.gave_up = False

    def expect(self, grace_s: float) -> None:
        """A shim was killed: its command is given that long."""
        self._expected, self._grace_s = True, max(self._grace_s, grace_s)

    def anything(self, shims: "set[int]") -> bool:
        """Stop what is neither one of *shims* nor answered for by one; whether any is left."""
        if self.gave_up or (shims and not self._expected):
            return False
        self._family.apart = shims | self._others
        # Looked at twice: a process that forks and ends meanwhile can hide its child once.
        if not (self._family.living() or self._family.living()):
            self._expected = False
            self._kill_at = self._give_up_at = math.inf
            return False
        now = time.monotonic()
        if self._kill_at == math.inf:
            self._kill_at = now + self._grace_s
            self._give_up_at = self._kill_at + descendants.KILLED_WITHIN_S
        if now < self._kill_at:
            self._family.signal(signal.SIGTERM, self._told)
        else:
            self._family.signal(signal.SIGKILL, set())
        self.gave_up = now >= self._give_up_at
        return not self.gave_up
