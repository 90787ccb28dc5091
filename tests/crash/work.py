"""What experiments in chaos run: processes of all kinds that log themselves, and look for others.

Every line of the log is one write of one living process: `what unit attempt pid nanoseconds text`.
A process that begins looks for anything of its experiment that must be over by then.
"""

import json
import random
import sys
from pathlib import Path

import attrs

__all__ = ["KINDS", "Experiment", "Line", "read_log"]

#: Which kind a process is follows from the seed and its index.
KINDS = (
    "plain", "plain", "plain", "deaf", "gang", "deaf gang", "daemon", "deaf daemon", "leaves",
    "stops itself", "stops for ever", "fails once", "hangs once",
)  # fmt: skip

_PROGRAM = """
import json, os, signal, sys, time

kinds = {KINDS}
seed, mean_s = int(sys.argv[1]), float(sys.argv[2])
unit = os.environ.get("HOLDFAST_INDEX", "aggregate")
attempt = int(os.environ["HOLDFAST_ATTEMPT"])
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def say(what, text=""):
    line = f"{what} {unit} {attempt} {os.getpid()} {time.monotonic_ns()} {text}\\n"
    os.write(log, line.encode())


def others():
    ours = b"HOLDFAST_STATE_DIR=" + os.environb[b"HOLDFAST_STATE_DIR"]
    index = b"HOLDFAST_INDEX=" + unit.encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                entries = file.read().split(b"\\0")
        except OSError:
            continue
        if ours in entries and (unit == "aggregate" or index in entries):
            yield pid, next(e for e in entries if e.startswith(b"HOLDFAST_ATTEMPT=")).decode()


def live(seconds, what="beat"):
    until = time.monotonic() + seconds
    while True:
        say(what)
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.05))


def orphaned(parent):
    # A rank without its launcher waits for the others for ever, and half of all commands outlive
    # their shim: whoever starts the next attempt meets them.
    if os.getppid() != parent:
        live(600)
        os._exit(1)


def ranks(seconds, number=3):
    launcher = os.getpid()
    pids = []
    for _ in range(number):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if "deaf" in kind:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            live(seconds)
            orphaned(launcher)
            os._exit(0)
        pids.append(pid)
    return pids


shim = os.getppid()
say("start")
for pid, which in others():
    say("overlap", f"{pid} {which}")

number = (int(unit) + 1) * 2654435761 + seed * 40503 if unit != "aggregate" else 0
number = (number ^ number >> 13) & 0xFFFF
kind = kinds[number % len(kinds)] if unit != "aggregate" else "plain"
lasts_s = mean_s * (0.4 + number / 0xFFFF * 1.2)
if kind == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "daemon" in kind and os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    if "deaf" in kind:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for fd in (0, 1, 2):
        os.close(fd)
    live(600)
    os._exit(0)
if kind == "leaves":
    ranks(600, 1)
if kind == "stops itself":
    me = os.getpid()
    if os.fork() == 0:
        time.sleep(lasts_s)
        os.kill(me, signal.SIGCONT)
        os._exit(0)
    os.kill(me, signal.SIGSTOP)
if kind == "stops for ever" and attempt == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
if kind == "fails once" and attempt == 1:
    live(lasts_s / 2)
    sys.exit(3)
if kind == "hangs once" and attempt == 1:
    live(600)
if "gang" in kind:
    for pid in ranks(lasts_s):
        if os.waitpid(pid, 0)[1]:
            sys.exit(1)  # as launchers do, whatever the rank's own code was
else:
    live(lasts_s)
if number % 2:
    orphaned(shim)
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"value": len(os.listdir(os.environ["HOLDFAST_RESULTS"]))}
              if unit == "aggregate" else {"value": int(unit)}, file)
say("end")
os._exit(0)
"""


@attrs.frozen
class Experiment:
    """One experiment of the chaos, as its seed has it."""

    processes: int
    own_aggregate: bool
    fail_fast: bool
    max_attempts: int

    @classmethod
    def drawn(cls, rng: random.Random, processes: tuple[int, int]) -> "Experiment":
        fail_fast = rng.random() < 0.3
        return cls(
            rng.randint(*processes),
            rng.random() < 0.5,
            fail_fast,
            2 if fail_fast else rng.choice((1, 3)),
        )

    def write(self, folder: Path, seed: int, work_s: float) -> None:
        """Its file and its program; *work_s* is about how long it takes undisturbed."""
        jobs = 8
        mean_s = round(work_s * jobs / self.processes, 3)
        (folder / "work.py").write_text(_PROGRAM.replace("{KINDS}", str(KINDS)))
        argv = [sys.executable, "-I", "-S", "work.py", str(seed), str(mean_s)]
        text = (
            f'name = "chaos"\ncommand = {json.dumps(argv)}\nprocesses = {self.processes}\n'
            f"[limits]\njobs = {jobs}\ngrace = 0.3\ntimeout = {max(2.0, 4 * mean_s)}\n"
            f"fail_fast = {str(self.fail_fast).lower()}\n"
            f"[retry]\nmax_attempts = {self.max_attempts}\nbackoff = 0.1\n"
        )
        if self.own_aggregate:
            text += f"[aggregate]\ncommand = {json.dumps([*argv[:-1], '0.5'])}\n"
        (folder / "e.toml").write_text(text)


@attrs.frozen
class Line:
    """One line of the log: a sign of life."""

    what: str
    unit: str
    attempt: int
    pid: int
    at: int
    text: str


def read_log(folder: Path) -> list[Line]:
    try:
        lines = (folder / "log").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        what, unit, attempt, pid, at, text = line.split(" ", 5)
        found.append(Line(what, unit, int(attempt), int(pid), int(at), text))
    return found
