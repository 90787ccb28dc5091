"""One experiment of eight processes that count themselves, on any engine, by the command line."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

import holdfast
from holdfast import doctor
from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName, names
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus
from holdfast.store.history import Transition
from holdfast.store.manager import StateManager
from waiting import until

__all__ = ["PROCESSES", "Kind", "Site", "sweep"]

PROCESSES = 8

#: Says when it starts and ends; waits while `hold` is there, or `hold.INDEX`. With `bad`, process 1
#: fails and process 2 is killed. One that begins while another attempt runs says `overlap`.
WORKER = """
import fcntl, os, signal, sys, time
index, attempt = os.environ["HOLDFAST_INDEX"], os.environ["HOLDFAST_ATTEMPT"]
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
lock = os.open(f"lock.{index}", os.O_RDWR | os.O_CREAT, 0o666)
def say(what):
    os.write(log, f"{what} {index} {attempt} {os.getpid()}\\n".encode())
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    say("overlap")
    sys.exit(9)
say("start")
if os.path.exists("bad") and index == "1":
    sys.exit(7)
if os.path.exists("bad") and index == "2":
    os.kill(os.getpid(), signal.SIGKILL)
while os.path.exists("hold") or os.path.exists(f"hold.{index}"):
    time.sleep(0.02)
time.sleep(float(os.environ.get("LASTS", "0")))
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    file.write('{"value": %s}' % index)
say("end")
"""

#: The command line, in whose engine something is to happen.
PROGRAM = """
import os, signal, sys
kind, when = sys.argv[1:3]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
if when:
    module, _, name = kind.partition(":")
    engine = getattr(__import__(module, fromlist=[name]), name)
    submit, poll, left = engine.submit, engine.poll, [3]
    def submitting(self, *args):
        if when == "before submit":
            die()
        submit(self, *args)
        die()
    def polling(self, handles):
        left[0] -= 1
        return die() if left[0] == 0 else poll(self, handles)
    if when == "polling":
        engine.poll = polling
    else:
        engine.submit = submitting
if kind.endswith(":ExecutorEngine"):
    from concurrent.futures import ThreadPoolExecutor
    from holdfast.engines import making
    from holdfast.engines.executor import ExecutorEngine
    making.make = lambda options: ExecutorEngine(ThreadPoolExecutor(8))
from holdfast.console import main
sys.argv = ["holdfast", *sys.argv[3:]]
sys.exit(main())
"""


@attrs.frozen
class Kind:
    """An engine, as a scenario needs to know it.

    Attributes:
        where: Its module and class.
        table: The lines of its `[engine]`.
        servers: The fixture that has its servers up; None where there are none.
    """

    name: str
    where: str
    table: str = ""
    servers: str | None = None


class Site:
    """A directory with the experiment file, and the command line to be called there."""

    def __init__(self, kind: Kind, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.states = path / ".experiment_state"
        (path / "work.py").write_text(WORKER)
        self.write()
        source = str(Path(holdfast.__file__).parents[1])
        self.env = {**os.environ, "PYTHONPATH": source, "HOME": str(path)}
        self.started: list[subprocess.Popen[str]] = []

    def write(self, engine: str = "", **limits: str) -> None:
        """Make the experiment file, with these lines more in `[engine]` and `[limits]`."""
        lines = [
            'name = "eight"',
            f'command = ["{sys.executable}", "-I", "-S", "work.py"]',
            f"processes = {PROCESSES}",
            "[limits]",
            f'jobs = {PROCESSES}\ngrace = "2s"',
            *(f"{key} = {value}" for key, value in limits.items()),
        ]
        if self.kind.table or engine:
            lines += ["[engine]", self.kind.table, engine]
        (self.path / "e.toml").write_text("\n".join(lines) + "\n")

    # -- the command line

    def start(
        self, *args: str, when: str = "", env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """`holdfast *args*`; *when* it is to be killed by itself."""
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.kind.where, when, *args],
            cwd=self.path,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(program)
        return program

    def __call__(self, *args: str, code: int | None = 0, when: str = "") -> tuple[str, str]:
        """What it wrote; it must exit with *code*."""
        program = self.start(*args, when=when)
        out, err = program.communicate(timeout=300)
        assert code in (None, program.returncode), f"exit {program.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return out, err

    def run(self, *args: str, code: int | None = 0, when: str = "") -> tuple[str, str]:
        """`holdfast run` of the experiment."""
        return self("run", "e.toml", *args, code=code, when=when)

    def start_run(self, *args: str, when: str = "") -> "subprocess.Popen[str]":
        return self.start("run", "e.toml", *args, when=when)

    def resume(self, *args: str, code: int | None = 0) -> tuple[str, str]:
        return self("resume", self.id, *args, code=code)

    # -- what the processes say

    def hold(self, *indices: int) -> None:
        """Have every process wait until it is let go, or these alone."""
        for name in [f"hold.{index}" for index in indices] or ["hold"]:
            (self.path / name).touch()

    def let_go(self) -> None:
        for path in self.path.glob("hold*"):
            path.unlink()

    def said(self, what: str) -> list[tuple[int, int]]:
        """Index and attempt of everything that said so, in order of time."""
        path = self.path / "log"
        words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(int(index), int(number)) for word, index, number, _ in words if word == what]

    def began(self, count: int = PROCESSES, timeout_s: float = 180.0) -> None:
        until(lambda: len(self.said("start")) >= count, timeout_s)

    def pid(self, index: int) -> int:
        """The last that this process said it is."""
        lines = [line.split() for line in (self.path / "log").read_text().splitlines()]
        *_, last = [pid for word, which, _, pid in lines if (word, which) == ("start", str(index))]
        return int(last)

    def shim(self, index: int, attempt: int = 1) -> int:
        name = AttemptName.of_process(self.id, index, attempt)
        identity = live_state(self.states / self.id, name).identity
        assert identity is not None
        assert identity.pid is not None
        return identity.pid

    def shims(self) -> list[int]:
        """Those that live on this machine."""
        found = []
        for each in StateManager(self.states).list_experiments():
            folder = self.states / each
            for live in [live_state(folder, name) for name in names(folder, each)]:
                identity = live.identity
                if live.kind == "held" and identity is not None and identity.pid is not None:
                    found.append(identity.pid)
        return found

    # -- how it stands

    @property
    def id(self) -> str:
        [found] = StateManager(self.states).list_experiments()
        return found

    def state(self) -> ExperimentState:
        return StateManager(self.states).load(self.id)

    def history(self) -> list[Transition]:
        return StateManager(self.states).history(self.id)

    def each(self, what: str = "status") -> list[object]:
        """A field of every process; none while the experiment is not there yet."""
        if not StateManager(self.states).list_experiments():
            return []
        return [getattr(process, what) for process in self.state().processes.values()]

    def runs(self) -> Counter[int]:
        """How often each process began."""
        return Counter(index for index, _ in self.said("start"))

    def is_consistent(self) -> None:
        """No two attempts at a time, nothing alive, every recorded step legal."""
        assert self.said("overlap") == []
        until(lambda: not self.shims())  # one that has published its end is gone in a moment
        assert [one for one in doctor.examine(self.states) if one.severity == "problem"] == []

    def is_done_once(self, *, runs: Mapping[int, int] | None = None) -> None:
        """All are completed, each by the one attempt that said so; *runs*: those that began more
        often, for a reason.
        """
        state = self.state()
        assert state.status is ExperimentStatus.AGGREGATED, state
        ends = self.said("end")
        assert sorted(index for index, _ in ends) == list(range(PROCESSES))
        assert self.runs() == dict.fromkeys(range(PROCESSES), 1) | dict(runs or {})
        for index, attempt in ends:
            assert state.processes[index].attempt == attempt
        self.is_consistent()

    def end(self) -> None:
        """Leave nothing alive."""
        self.let_go()
        for program in self.started:
            if program.poll() is None:
                program.kill()
            program.communicate()
        for pid in self.shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def sweep(pids: Sequence[int], number: int) -> None:
    """Send *number* to all at once, as a host that goes down: none can act before the last has it.

    Else, on a busy machine, a shim would see its command end of it long before it hears it itself.
    """
    for each in (signal.SIGSTOP, number, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, each)
