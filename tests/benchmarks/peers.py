"""What holdfast and its peers do when their orchestrator is killed, and when it is started twice.

    python tests/benchmarks/peers.py [PEER ...] [--environments DIR]

Four processes, two at a time, in three stories:

killed
    `kill -9` of the orchestrator alone. What it had started still runs when the work is resumed.
absent
    The same, but what it had started has ended by then.
twice
    The command is given again while the first one runs.

A table is printed, in Markdown: how often a process was started (4 is right), how many copies of
one process ran at a time (1 is right), and how many commands were typed after the kill. Every peer
is installed from PyPI into an environment of its own, at the version that stands here, except
make, which is the system's. holdfast is the one that this Python has.

Time decides nothing but how long a peer may look around before the processes go on (`LOOK_S`):
they run until they are let go.
"""

import argparse
import contextlib
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import psutil

import holdfast

PROCESSES: Final = 4
JOBS: Final = 2
#: How long a second orchestrator may look around while what the first one started still runs.
LOOK_S: Final = 10.0
#: After which a peer hangs.
HANGS_S: Final = 120.0
#: In the environment of everything that a story starts; whatever has it is stopped at the end.
MARK: Final = "PEERS_MARK"

# The copies of a process count each other by locks, which the kernel takes from the dead.
PROCESS = """
import fcntl, os, sys, time

def held(path):
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False

index = sys.argv[1]
output = sys.argv[2] if len(sys.argv) > 2 else os.environ["HOLDFAST_RESULT"]
mine = open(f"alive/{index}.{os.getpid()}", "w")
fcntl.flock(mine, fcntl.LOCK_EX)
copies = sum(held(f"alive/{name}") for name in os.listdir("alive") if name.startswith(f"{index}."))
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
os.write(log, f"start {index} {copies}\\n".encode())
while not os.path.exists("go"):
    time.sleep(0.01)
partial = f"{output}.{os.getpid()}"
with open(partial, "w") as file:
    file.write("{}")
os.rename(partial, output)
os.write(log, f"end {index} 0\\n".encode())
"""
COMMAND: Final = f"{sys.executable} -I -S process.py"


class Peer(NamedTuple):
    """How one tool is told to run the four processes, as its own documentation does it."""

    name: str
    #: What pip installs; None where there is nothing to install.
    requirement: str | None
    files: Mapping[str, str]
    #: The command that starts the work.
    first: Sequence[str]
    #: The commands that resume it after a kill, in the order in which they are typed.
    resume: Sequence[Sequence[str]]
    #: The command of whoever comes second while the first one runs; the same one, if empty.
    second: Sequence[str] = ()
    #: What prints the version, where no requirement tells it.
    version: Sequence[str] = ()
    environment: Mapping[str, str] = {}


# "Run make again" is its way to resume. Targets appear whole (the process renames its output),
# and .DELETE_ON_ERROR is what the manual recommends:
# https://www.gnu.org/software/make/manual/html_node/Errors.html
MAKEFILE = f"""\
.DELETE_ON_ERROR:
all: {" ".join(f"out.{index}" for index in range(PROCESSES))}
out.%:
\t{COMMAND} $* $@
"""
MAKE = Peer(
    "GNU make",
    None,
    {"Makefile": MAKEFILE},
    ("make", "-s", f"-j{JOBS}"),
    [("make", "-s", f"-j{JOBS}")],
    version=("make", "--version"),
)

# One word more, as in flock(1): the recipes inherit the lock, so whoever comes second waits for
# them, also after the death of make.
LOCKED_MAKE = MAKE._replace(
    name="flock + GNU make",
    first=("flock", "--no-fork", "lock", *MAKE.first),
    resume=[("flock", "--no-fork", "lock", *MAKE.first)],
)

# A stale lock is taken away by --unlock, and what was being written is made again by
# --rerun-incomplete; without it, incomplete outputs are an error:
# https://snakemake.readthedocs.io/en/stable/project_info/faq.html ("How does Snakemake lock …")
# https://snakemake.readthedocs.io/en/stable/executing/cli.html
SNAKEFILE = f"""\
rule all:
    input: expand("out.{{index}}", index=range({PROCESSES}))
rule process:
    output: "out.{{index}}"
    shell: "{COMMAND} {{wildcards.index}} {{output}}"
"""
SNAKEMAKE = Peer(
    "Snakemake",
    "snakemake==9.27.1",
    {"Snakefile": SNAKEFILE},
    ("snakemake", "--cores", f"{JOBS}"),
    [
        ("snakemake", "--unlock"),
        ("snakemake", "--cores", f"{JOBS}", "--rerun-incomplete"),
    ],
)

# Shell commands are `script` tasks with files as outputs, and the same command runs what has no
# recorded result yet: https://insitro.github.io/redun/tasks.html,
# https://insitro.github.io/redun/scheduler.html. The local executor has max_workers:
# https://insitro.github.io/redun/config.html
REDUN_WORKFLOW = f"""\
from redun import File, script, task

redun_namespace = "peers"

@task()
def process(index: int) -> File:
    output = f"out.{{index}}"
    return script(f"{COMMAND} {{index}} {{output}}", outputs=File(output))

@task()
def main() -> list[File]:
    return [process(index) for index in range({PROCESSES})]
"""
REDUN = Peer(
    "redun",
    "redun==0.44.1",
    {
        "workflow.py": REDUN_WORKFLOW,
        ".redun/redun.ini": f"[executors.default]\ntype = local\nmax_workers = {JOBS}\n",
    },
    ("redun", "run", "workflow.py", "main"),
    [("redun", "run", "workflow.py", "main")],
)

# A single server: the same program again recovers what was pending at its launch. The workflow has
# an ID, so that it exists once; each process is a workflow of a queue with its command as a step.
# https://docs.dbos.dev/production/workflow-recovery ("Recovery On A Single Server")
# https://docs.dbos.dev/python/tutorials/queue-tutorial
# https://docs.dbos.dev/python/tutorials/workflow-tutorial (idempotency by workflow ID)
# SQLite is what it takes without a server; it advises Postgres for production.
DBOS_PROGRAM = f"""\
import subprocess
from dbos import DBOS, SetWorkflowID

DBOS(config={{
    "name": "peers",
    "system_database_url": "sqlite:///dbos.sqlite",
    "run_admin_server": False,
}})

@DBOS.step()
def command(index: int) -> None:
    subprocess.run([*"{COMMAND}".split(), str(index), f"out.{{index}}"], check=True)

@DBOS.workflow()
def process(index: int) -> None:
    command(index)

@DBOS.workflow()
def experiment() -> None:
    handles = [DBOS.enqueue_workflow("processes", process, index) for index in range({PROCESSES})]
    for handle in handles:
        handle.get_result()

DBOS.launch()
DBOS.register_queue("processes", global_concurrency={JOBS})
with SetWorkflowID("experiment"):
    handle = DBOS.start_workflow(experiment)
handle.get_result()
"""
DBOS = Peer(
    "DBOS",
    "dbos==3.4.0",
    {"program.py": DBOS_PROGRAM},
    ("python", "program.py"),
    [("python", "program.py")],
)

# As for several servers: whoever runs has an executor ID, and recovers what is pending of that one.
# https://docs.dbos.dev/production/workflow-recovery ("Recovery in a Distributed Setting")
DBOS_IDS = DBOS._replace(
    name="DBOS with executor IDs",
    first=("env", "DBOS__VMID=one", "python", "program.py"),
    resume=[("env", "DBOS__VMID=one", "python", "program.py")],
    second=("env", "DBOS__VMID=two", "python", "program.py"),
)

# `holdfast guide tutorial`
EXPERIMENT = f"""\
command = ["{sys.executable}", "-I", "-S", "process.py", "{{index}}"]
processes = {PROCESSES}
[limits]
jobs = {JOBS}
"""
HOLDFAST = Peer(
    "holdfast",
    None,
    {"experiment.toml": EXPERIMENT},
    (sys.executable, "-m", "holdfast", "run", "experiment.toml"),
    [(sys.executable, "-m", "holdfast", "resume", "@last")],
    environment={"PYTHONPATH": str(Path(holdfast.__file__).parents[1])},
)

PEERS: Final = (MAKE, LOCKED_MAKE, SNAKEMAKE, REDUN, DBOS, DBOS_IDS, HOLDFAST)


class Outcome(NamedTuple):
    """What became of the four processes in one story."""

    starts: int
    #: The most copies of one process that ran at the same time.
    at_a_time: int
    #: Whether each process ended, and the orchestrator with exit code 0.
    ended_well: bool
    #: Typed after the kill; None in a story without one.
    commands: int | None
    #: The exit code of the one that was started second, in the story of two.
    second: int | None = None

    def __str__(self) -> str:
        told = [f"{self.starts} / {self.at_a_time}"]
        if self.commands is not None:
            told[0] += f" / {self.commands}"
        if self.second:
            told.append(f"second exits with {self.second}")
        if not self.ended_well:
            told.append("does not end well")
        return ", ".join(told)


class Stage:
    """A folder in which one peer lives through one story.

    Args:
        enough: Says by the folder that a second orchestrator has looked around enough.
        binaries: Where the peer is installed; None if it is on the PATH.
    """

    def __init__(
        self,
        peer: Peer,
        folder: Path,
        enough: Callable[[Path], bool],
        binaries: Path | None,
    ) -> None:
        self.peer, self.folder, self.enough = peer, folder, enough
        self._mark = secrets.token_hex(16)
        self._started: list[subprocess.Popen[bytes]] = []
        path = os.pathsep.join(filter(None, [str(binaries or ""), os.environ["PATH"]]))
        # What peers leave in caches and temporary files goes with the folder.
        places = {name: str(folder / "tmp") for name in ("TMPDIR", "XDG_CACHE_HOME")}
        self._env = {**os.environ, **places, "PATH": path, MARK: self._mark, **peer.environment}
        for name in ("alive", "tmp"):
            (folder / name).mkdir(parents=True)
        for name, text in {**peer.files, "process.py": PROCESS}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    def start(self, argv: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Type a command. What it prints goes into a file of its own."""
        with (self.folder / f"said.{len(self._started)}").open("wb") as said:
            process = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def start_and_kill(self) -> None:
        """The orchestrator dies while two processes run."""
        first = self.start(self.peer.first)
        self.both_run()
        first.kill()
        first.wait()

    def both_run(self) -> None:
        """Wait until as many processes run as may run at a time."""
        running = wait_for(lambda: len(self._log("start")) >= JOBS)
        assert running, f"{self.peer.name} starts nothing:\n{self.said()}"

    def resume(self) -> "subprocess.Popen[bytes]":
        """Type what resumes the work: the last of these commands, which runs."""
        *before, last = self.peer.resume
        for argv in before:
            exit_code(self.start(argv))
        return self.start(last)

    def look_around(self, process: "subprocess.Popen[bytes]") -> None:
        """Give *process* time for all that it does while the first two processes still run."""
        wait_for(lambda: process.poll() is not None or self.enough(self.folder), LOOK_S)

    def let_go(self) -> None:
        """Each process ends as soon as it can, from now on."""
        (self.folder / "go").touch()

    def alone(self) -> None:
        """Wait until nothing of the story is left alive."""
        wait_for(lambda: not any(self._alive()))

    def outcome(
        self, last: "subprocess.Popen[bytes]", *, commands: int | None, second: int | None = None
    ) -> Outcome:
        """Wait for *last*, and tell what the processes have written down."""
        code = exit_code(last)
        self.alone()
        starts = self._log("start")
        return Outcome(
            starts=len(starts),
            at_a_time=max(copies for _, copies in starts),
            ended_well=code == 0 and len({index for index, _ in self._log("end")}) == PROCESSES,
            commands=commands,
            second=second,
        )

    def said(self) -> str:
        """Everything that was printed."""
        paths = sorted(self.folder.glob("said.*"))
        return "\n".join(path.read_text(errors="replace").strip() for path in paths)

    def stop(self) -> None:
        """Kill everything that the story has started, however deep."""
        while left := list(self._alive()):
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.01)
        for command in self._started:
            command.wait()

    def _log(self, word: str) -> list[tuple[str, int]]:
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        events = (line.split() for line in lines)
        return [(index, int(copies)) for event, index, copies in events if event == word]

    def _alive(self) -> Iterator[psutil.Process]:
        # None where it belongs to others or is a zombie.
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get(MARK) == self._mark:
                yield process


def wait_for(condition: Callable[[], bool], at_most_s: float = HANGS_S) -> bool:
    """Whether *condition* comes true in time."""
    deadline = time.monotonic() + at_most_s
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def exit_code(process: "subprocess.Popen[bytes]") -> int | None:
    """How *process* ends; None if it hangs."""
    return process.returncode if wait_for(lambda: process.poll() is not None) else None


def killed(stage: Stage) -> Outcome:
    """Resumed while what the dead orchestrator had started still runs."""
    stage.start_and_kill()
    resumed = stage.resume()
    stage.look_around(resumed)
    stage.let_go()
    return stage.outcome(resumed, commands=len(stage.peer.resume))


def absent(stage: Stage) -> Outcome:
    """Resumed after what the dead orchestrator had started has ended."""
    stage.start_and_kill()
    stage.let_go()
    stage.alone()
    return stage.outcome(stage.resume(), commands=len(stage.peer.resume))


def twice(stage: Stage) -> Outcome:
    """Started again while the first one runs."""
    first = stage.start(stage.peer.first)
    stage.both_run()
    second = stage.start(stage.peer.second or stage.peer.first)
    stage.look_around(second)
    stage.let_go()
    return stage.outcome(first, commands=None, second=exit_code(second))


STORIES: Final = {"killed": killed, "absent": absent, "twice": twice}
HEADER: Final = (
    f"| starts / copies at a time / commands | {' | '.join(STORIES)} |\n"
    f"|---|{'---|' * len(STORIES)}"
)


def row(name: str, cells: Sequence[object]) -> str:
    """One line of the table."""
    return f"| {name} | {' | '.join(map(str, cells))} |"


def tell(
    peer: Peer,
    story: Callable[[Stage], Outcome],
    folder: Path,
    enough: Callable[[Path], bool] = lambda folder: False,
    binaries: Path | None = None,
) -> tuple[Outcome, str]:
    """Run *story* with *peer*: the outcome, and what was printed. Nothing of it is left alive."""
    stage = Stage(peer, folder, enough, binaries)
    try:
        return story(stage), stage.said()
    finally:
        stage.stop()


def install(peer: Peer, environments: Path) -> Path | None:
    """Where the programs of *peer* are, in an environment of its own.

    Raises:
        subprocess.CalledProcessError: It cannot be installed; its `stderr` says why.
    """
    if peer.requirement is None:
        return None
    folder = environments / peer.requirement.partition("==")[0]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", peer.requirement]
    for argv in ([sys.executable, "-m", "venv", str(folder)], pip):
        subprocess.run(argv, check=True, capture_output=True, text=True)
    return folder / "bin"


def versioned(peer: Peer) -> str:
    """The name of *peer* with its version, if it has one."""
    if peer.requirement is not None:
        return f"{peer.name} {peer.requirement.partition('==')[2]}"
    if not peer.version:
        return peer.name
    said = subprocess.run(peer.version, check=True, capture_output=True, text=True).stdout
    return f"{peer.name} {said.splitlines()[0].split()[-1]}"


def machine() -> str:
    """On what, and when, this was measured."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.release()}, "
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )


def measured(peer: Peer, environments: Path, verbose: bool) -> str:
    """The line of *peer* in the table."""
    try:
        name, binaries = versioned(peer), install(peer, environments)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        print(f"{peer.name}: {said.strip().splitlines()[-1]}", file=sys.stderr)
        return row(peer.name, ["could not be installed"] * len(STORIES))
    cells = []
    for what, story in STORIES.items():
        with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as folder:
            outcome, said = tell(peer, story, Path(folder, "stage"), binaries=binaries)
        print(f"{name}, {what}: {outcome}", file=sys.stderr)
        if verbose:
            print(said, file=sys.stderr)
        cells.append(outcome)
    return row(name, cells)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="PEER", help="all, if none is named")
    parser.add_argument("--environments", type=Path, help="where peers are installed, and stay")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what they print")
    given = parser.parse_args()
    if unknown := set(given.peers) - {peer.name for peer in PEERS}:
        parser.error(f"no such peer: {', '.join(unknown)}; there are {[p.name for p in PEERS]}")
    # As Ctrl-C, so that nothing is left alive.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    chosen = [peer for peer in PEERS if peer.name in given.peers or not given.peers]
    with tempfile.TemporaryDirectory(prefix="peers-environments-") as temporary:
        environments = (given.environments or Path(temporary)).absolute()
        rows = [measured(peer, environments, given.verbose) for peer in chosen]
    print(machine(), HEADER, *rows, sep="\n")


if __name__ == "__main__":
    main()
