"""Whole trees of real processes: who is in one, who belongs to an experiment, how to sweep them."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import attrs

import holdfast

__all__ = ["ORDERS", "Member", "Order", "belonging", "child_pids", "cli", "send", "sweep", "tree"]

Order = Literal["leaf first", "root first", "random"]
ORDERS: tuple[Order, ...] = ("leaf first", "root first", "random")


@attrs.frozen
class Member:
    """A process of a tree, *depth* below its root."""

    pid: int
    depth: int


def cli(folder: Path, *words: str, log: Path) -> "subprocess.Popen[bytes]":
    """`holdfast` *words* in *folder*, as a batch script runs it; what it says goes to *log*."""
    paths = [str(Path(holdfast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "holdfast", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


def child_pids(pid: int) -> list[int]:
    """Its children, also those of its threads; none if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            told = Path(f"/proc/{pid}/task/{task}/children").read_text()
            found += map(int, told.split())
    return found


def tree(root: int) -> list[Member]:
    """*root* and everything below it, the root first."""
    found, level, depth = [Member(root, 0)], [root], 0
    while level:
        depth += 1
        level = [child for pid in level for child in child_pids(pid)]
        found += [Member(pid, depth) for pid in level]
    return found


def send(pid: int, number: int) -> bool:
    """Whether the process was there to be signalled."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def sweep(
    members: Sequence[Member],
    order: Order,
    spread_s: float,
    rng: random.Random,
    number: int = signal.SIGTERM,
) -> float:
    """Signal every one of *members*, as a batch system does at its time limit.

    Returns:
        How long it took: on a loaded machine longer than *spread_s*.
    """
    ordered = list(members)
    rng.shuffle(ordered)
    if order != "random":
        ordered.sort(key=lambda member: member.depth, reverse=order == "leaf first")
    # Some at once and then a long nothing, or evenly: both are seen.
    moments = sorted(rng.uniform(0.0, spread_s) for _ in ordered)
    began = first = time.monotonic()
    for position, (member, moment) in enumerate(zip(ordered, moments, strict=True)):
        left = began + moment - time.monotonic()
        if left > 0:
            time.sleep(left)
        if not position:
            first = time.monotonic()
        send(member.pid, number)
    return time.monotonic() - first


def belonging(state_dir: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Every living process that an attempt of an experiment there started, and its environment.

    Not shims, which have none of it: theirs is the orchestrator's.
    """
    wanted = b"HOLDFAST_STATE_DIR=" + os.fsencode(state_dir)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # Empty for a zombie, and for one on its way there: neither does anything any more.
            entries = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in entries:
            pairs = (os.fsdecode(each).partition("=") for each in entries if b"=" in each)
            yield int(name), {key: value for key, _, value in pairs}
