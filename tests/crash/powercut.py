"""Real file systems that lose their power: ext4 and xfs on loop devices, shut down under load.

`FS_IOC_GOINGDOWN` with *no log flush* is the kernel's own way to try a power cut: from that instant
on nothing reaches the device any more, neither data nor journal; every call fails. Unmounted and
mounted again, the file system replays its journal as it would after the lights came back. What it
then holds is decided by real file system code, not by our models of it.

Writers (those of `hammer`) work on the mounted image meanwhile; what they were promised is written
down outside. Only what was acknowledged before the cut began counts: unlike a power cut, a shutdown
takes milliseconds, and an fsync that returns meanwhile may have been told a lie: a bare append and
fdatasync loses its last line in some cuts, on ext4 and on xfs, if that is counted. Needs root and
loop devices; where a machine allows neither, `unavailable` says why.
"""

import fcntl
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from holdfast.errors import UnreadableStateWarning
from holdfast.store.manager import StateManager
from waiting import PATIENCE_S, until

from .hammer import BATCH, acknowledged, judge, write_until_killed
from .workloads import warm_up

__all__ = [
    "FILE_SYSTEMS",
    "WITHOUT_LINKS",
    "PowerCuts",
    "alone",
    "cut_power",
    "mounted",
    "unavailable",
]

#: Name, and how to make it on an image. xfs does not go below 300 MiB.
FILE_SYSTEMS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
#: Those that have no hard links.
WITHOUT_LINKS = {"vfat": ["mkfs.vfat"], "exfat": ["mkfs.exfat"]}
_MAKERS = {**FILE_SYSTEMS, **WITHOUT_LINKS}
_SIZE = 320 << 20

_GOINGDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


def unavailable(kind: str) -> str | None:
    """Why this machine cannot mount a file system of that *kind*; None if it can."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "not root"
    path = os.environ.get("PATH", "") + ":/sbin:/usr/sbin"
    for tool in (_MAKERS[kind][0], "mount", "umount"):
        if shutil.which(tool, path=path) is None:
            return f"{tool} is missing"
    try:
        with tempfile.TemporaryDirectory() as where, mounted(kind, Path(where)):
            return None
    except subprocess.CalledProcessError as err:
        return f"no mounts here: {(err.stderr or '').strip()[:100]}"


def _sh(*command: str) -> None:
    env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/sbin:/usr/sbin"}
    subprocess.run(command, check=True, capture_output=True, text=True, env=env, timeout=PATIENCE_S)


@contextmanager
def alone() -> Iterator[None]:
    """No other test has a loop device meanwhile: FUSE opens its own late."""
    with (Path(tempfile.gettempdir()) / "holdfast-test-loop.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def mounted(kind: str, where: Path) -> Iterator[Path]:
    """A fresh file system of that *kind* below *where*."""
    with alone(), _mounted(kind, where) as point:
        yield point


@contextmanager
def _mounted(kind: str, where: Path) -> Iterator[Path]:
    image, point = where / f"{kind}.img", where / kind
    with image.open("wb") as file:
        file.truncate(_SIZE)
    _sh(*_MAKERS[kind], str(image))
    point.mkdir()
    try:
        _sh("mount", "-o", "loop", str(image), str(point))
    except subprocess.CalledProcessError as err:
        # Not in this kernel; perhaps it is there as a program.
        try:
            _sh("mount", "-t", f"{kind}-fuse", "-o", "loop", str(image), str(point))
        except subprocess.CalledProcessError:
            raise err from None
    try:
        yield point
    finally:
        # What has just ended may be there for a moment.
        umount = ["umount", str(point)]
        until(lambda: not subprocess.run(umount, capture_output=True, check=False).returncode)


def go_down(point: Path) -> None:
    """Cut the power of the file system that is mounted at *point*."""
    fd = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _GOINGDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)


@attrs.define
class PowerCuts:
    """What came out.

    Attributes:
        acknowledged: Transitions (not lines) that had been promised before a cut.
    """

    kind: str
    cuts: int = 0
    acknowledged: int = 0
    seconds: float = 0.0
    problems: list[str] = attrs.field(factory=list)


def cut_power(kind: str, where: Path, cuts: int, *, seed: int = 0) -> PowerCuts:
    """Cut the power of a file system of that *kind* *cuts* times under load.

    Runs in a process of its own, since it forks.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [
        sys.executable,
        "-m",
        f"{__package__}.powercut",
        kind,
        str(where),
        str(cuts),
        str(seed),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return PowerCuts(**json.loads(done.stdout))


def _main(kind: str, where: Path, cuts: int, seed: int) -> None:
    warm_up()
    warnings.simplefilter("ignore", UnreadableStateWarning)
    rng = random.Random(f"{kind} {seed}")
    total = PowerCuts(kind)
    began = time.monotonic()
    with mounted(kind, where) as point:
        for number in range(cuts):
            _one_cut(point, where, number, rng, total)
    total.seconds = time.monotonic() - began
    print(json.dumps(attrs.asdict(total)))


def _one_cut(point: Path, where: Path, number: int, rng: random.Random, total: PowerCuts) -> None:
    image = where / f"{total.kind}.img"
    states, told = point / f"states-{number}", where / f"marks-{number}"
    told.mkdir()
    names = ["one", "two", "three"]
    manager = StateManager(states)
    for name in names:
        manager.create(name, num_processes=BATCH)  # promised: durable once it returns
    pids = [
        _fork(states, name, f"w{i}", told / f"{name}--{i}.marks") for i, name in enumerate(names)
    ]
    (told / "made.marks").touch()
    pids.append(_fork_maker(states, told / "made.marks"))
    if not number:  # once at least, something is promised before
        until(lambda: any(acknowledged(told, name) for name in names))
    select.select([], [], [], rng.uniform(0.01, 0.4))
    began = time.monotonic_ns()
    go_down(point)
    for pid in pids:
        # A writer ends with the file system's error; one that happens to wait is not waited for.
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    _sh("umount", str(point))
    _sh("mount", "-o", "loop", str(image), str(point))
    total.cuts += 1
    for name in names:
        promised = acknowledged(told, name, before_ns=began)
        total.acknowledged += BATCH * len(promised)
        total.problems += [
            f"{total.kind}, cut {number}: {p}" for p in judge(states, name, promised)
        ]
    total.problems += [f"{total.kind}, cut {number}: {p}" for p in _judge_made(states, told, began)]
    shutil.rmtree(states)
    shutil.rmtree(told)


def _fork(states: Path, name: str, writer: str, marks: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        write_until_killed(states, name, writer, marks)
    finally:
        os._exit(1)


def _fork_maker(states: Path, marks: Path) -> int:
    """A process that creates experiments and deletes every third, until the power goes."""
    pid = os.fork()
    if pid:
        return pid
    try:
        fd = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        manager = StateManager(states)
        number = 0
        while True:
            _tell(fd, "?", number)
            manager.create(f"made-{number}", num_processes=1)
            _tell(fd, "+", number)
            if number % 3 == 0:
                _tell(fd, "?", number)
                manager.delete(f"made-{number}")
                _tell(fd, "-", number)
            number += 1
    finally:
        os._exit(1)


def _tell(fd: int, sign: str, number: int) -> None:
    os.write(fd, f"{sign} made-{number} {time.monotonic_ns()}\n".encode())


def _judge_made(states: Path, told: Path, before_ns: int) -> list[str]:
    last: dict[str, str] = {}
    for line in (told / "made.marks").read_text().split("\n")[:-1]:
        sign, name, at = line.split(" ")
        # What was begun before the cut may have happened; what was acknowledged later is in doubt.
        last[name] = sign if int(at) < before_ns else "?"
    manager = StateManager(states)
    there = set(manager.list_experiments())
    problems = [
        f"{name} was created and is gone"
        for name, s in last.items()
        if s == "+" and name not in there
    ]
    problems += [
        f"{name} was deleted and is back" for name, s in last.items() if s == "-" and name in there
    ]
    problems += [f"unreadable: {path}: {err}" for path, err in manager.unreadable()]
    return problems


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
