"""Writers killed at random, for minutes: nothing acknowledged is lost, nothing is there twice.

Several experiments have two writers each, which compete for the claim, record batches of
transitions, and tell of every batch that was acknowledged in a file of their own, outside the
state directory. Somebody is killed every few milliseconds, wherever it is, and replaced. In the end
the history of every experiment must hold each acknowledged batch once and whole, what was not
acknowledged once and whole or not at all, and the batches of each writer in their order.

Every transition carries its tag, `writer.batch`, as its evidence. `powercut` uses the same writers
on file systems that it cuts off.
"""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs

from holdfast.errors import (
    AlreadyOwnedError,
    HoldfastError,
    UnreadableStateWarning,
)
from holdfast.lifecycle.events import Requested
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager, utc_now

from .watching import RoomyFiles
from .workloads import warm_up

__all__ = ["BATCH", "Hammered", "acknowledged", "hammer", "judge", "write_until_killed"]

#: Transitions in a line.
BATCH = 20


def write_until_killed(state_dir: Path, name: str, writer: str, marks: Path) -> None:
    """Claim, record batches, let go, again and again. Ends by a signal or with the file system."""
    rng = random.Random(writer)
    manager = StateManager(state_dir, files=RoomyFiles())
    fd = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    number = 0
    while True:
        try:
            with manager.claim(name, wait_s=5) as claim:
                for _ in range(rng.randint(1, 60)):
                    _batch(claim, f"{writer}.{number}")
                    # One small write: a kill leaves it whole or absent.
                    os.write(fd, f"{writer}.{number} {time.monotonic_ns()}\n".encode())
                    number += 1
        except AlreadyOwnedError:
            continue


def _batch(claim: Claim, tag: str) -> None:
    status = str(claim.state.status)
    if status != "running":
        event = {"initialised": "start", "interrupted": "resume"}[status]
        claim.record(event)
    pending = claim.state.processes_pending
    event = "start" if pending else "requeue"
    facts = {} if pending else {"proven_dead": True}
    at = utc_now()
    claim.record_many(
        [
            Requested(
                entity="process", event=event, process=index, at=at, evidence=tag, facts=facts
            )
            for index in range(BATCH)
        ]
    )


def acknowledged(folder: Path, name: str, *, before_ns: int | None = None) -> list[str]:
    """The tags that the writers of *name* were told of, each writer's in its order."""
    tags: list[str] = []
    for path in sorted(folder.glob(f"{name}--*.marks")):
        # A last line without its end was being written when its writer died: it counts for nothing.
        for line in path.read_text().split("\n")[:-1]:
            tag, at = line.split(" ")
            if before_ns is None or int(at) < before_ns:
                tags.append(tag)
    return tags


def judge(state_dir: Path, name: str, promised: Sequence[str]) -> list[str]:
    """What is wrong with the experiment *name*, whose writers were promised these batches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableStateWarning)
        manager = StateManager(state_dir, files=RoomyFiles())
        try:
            manager.load(name)
            history = [each.evidence for each in manager.history(name) if each.evidence]
            with manager.claim(name, wait_s=5) as claim:
                _batch(claim, "judge.0")
        except (HoldfastError, OSError) as err:
            return [f"{name}: {type(err).__name__}: {err}"]
    # The owner's own records bring evidence too; tags have exactly one dot and no space.
    counts = Counter(each for each in history if " " not in each and each.count(".") == 1)
    problems = [f"{name}: {tag} is lost" for tag in promised if not counts[tag]]
    problems += [
        f"{name}: of {tag} there are {count} transitions, a batch has {BATCH}"
        for tag, count in counts.items()
        if count != BATCH
    ]
    order: dict[str, int] = {}
    for tag in counts:  # in the order of the history
        writer, _, number = tag.partition(".")
        if int(number) <= order.get(writer, -1):
            problems.append(f"{name}: {tag} comes after {writer}.{order[writer]}")
        order[writer] = int(number)
    return problems


@attrs.define
class Hammered:
    """What came out.

    Attributes:
        acknowledged: Transitions (not lines).
    """

    acknowledged: int = 0
    kills: int = 0
    seconds: float = 0.0
    problems: list[str] = attrs.field(factory=list)


def hammer(root: Path, target: int, *, seed: int = 0, round_: int = 40_000) -> Hammered:
    """Kill writers until *target* transitions were acknowledged; judge after every *round_*.

    Runs in a process of its own, since it forks.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    module = f"{__package__}.hammer"
    arguments = [sys.executable, "-m", module, str(root), str(target), str(seed), str(round_)]
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Hammered(**json.loads(done.stdout))


def _main(root: Path, target: int, seed: int, round_: int) -> None:
    warm_up()
    warnings.simplefilter("ignore", UnreadableStateWarning)
    began = time.monotonic()
    total = Hammered()
    number = 0
    while total.acknowledged < target:
        folder = root / f"round-{number}"
        folder.mkdir()
        _round(
            folder,
            min(round_, target - total.acknowledged),
            random.Random(f"{seed} {number}"),
            total,
        )
        shutil.rmtree(folder)
        number += 1
    total.seconds = time.monotonic() - began
    print(json.dumps(attrs.asdict(total)))


def _round(folder: Path, target: int, rng: random.Random, total: Hammered) -> None:
    names = ["one", "two"]
    manager = StateManager(folder / "states", files=RoomyFiles())
    for name in names:
        manager.create(name, num_processes=BATCH)
    running: dict[int, str] = {}
    born = 0
    done = 0
    while done < target:
        for name in names:
            while sum(1 for each in running.values() if each == name) < 2:
                born += 1
                marks = folder / f"{name}--{born}.marks"
                running[_fork(folder / "states", name, f"w{born}", marks)] = name
        select.select([], [], [], rng.expovariate(1 / 0.01))  # how long until the next one dies
        victim = rng.choice(sorted(running))
        os.kill(victim, signal.SIGKILL)
        _, status = os.waitpid(victim, 0)
        del running[victim]
        total.kills += 1
        if not os.WIFSIGNALED(status):
            total.problems.append(f"a writer ended by itself, status {status}")
        done = BATCH * sum(each.stat().st_size // 20 for each in folder.glob("*.marks"))
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        total.kills += 1
    for name in names:
        promised = acknowledged(folder, name)
        total.acknowledged += BATCH * len(promised)
        total.problems += judge(folder / "states", name, promised)


def _fork(state_dir: Path, name: str, writer: str, marks: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        write_until_killed(state_dir, name, writer, marks)
    except Exception as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
    finally:
        os._exit(1)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
