"""Recording, creating, claiming and loading, against the bare system calls for the same bytes."""

import json
import multiprocessing
import os
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import StateManager
from holdfast.lifecycle.events import Requested
from holdfast.store.claim import Claim

orjson = pytest.importorskip("orjson")

Contest = Callable[..., float]
STEPS = 100
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    yield fd
    os.close(fd)


def back_and_forth(claim: Claim, steps: int = STEPS) -> None:
    """*steps* transitions of process 0, which is running before and after."""
    for _ in range(steps // 2):
        claim.record("requeue", 0, proven_dead=True)
        claim.record("start", 0)


def append(fd: int, line: bytes, times: int = STEPS) -> None:
    for _ in range(times):
        os.write(fd, line)
        os.fdatasync(fd)


class Sqlite:
    """Rows of some length in a database, each in a transaction of its own: WAL, synchronous FULL.

    Attributes:
        took: Seconds of each round.
    """

    def __init__(self, folder: Path, length: int, *, reuses: bool) -> None:
        """With *reuses*, one database whose WAL is written over; else a new one every round."""
        self.folder, self.length, self.reuses = folder, length, reuses
        self.took: list[float] = []
        self.connection: sqlite3.Connection | None = None

    def round(self) -> None:
        if self.connection is not None and not self.reuses:
            self.close()
        if self.connection is None:
            name = f"{self.reuses}-{len(self.took)}.sqlite3"
            self.connection = sqlite3.connect(self.folder / name, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.execute("CREATE TABLE facts (what)")
            if self.reuses:
                self._insert()
        if self.reuses:  # what follows is written from the beginning of the WAL on
            self.connection.execute("PRAGMA wal_checkpoint(RESTART)")
        started = time.perf_counter()
        self._insert()
        self.took.append(time.perf_counter() - started)

    def _insert(self) -> None:
        assert self.connection is not None
        for _ in range(STEPS):
            self.connection.execute("INSERT INTO facts VALUES (?)", ("x" * self.length,))

    def close(self) -> None:
        assert self.connection is not None
        self.connection.close()
        self.connection = None


@pytest.mark.parametrize("processes", [1, 64, 1000, 10_000])
def test_durable_transition(
    manager: StateManager, tmp_path: Path, raw: int, contest: Contest, processes: int
) -> None:
    """One transition at a time, whatever the number of processes; against sqlite, too."""
    manager.create("e", num_processes=processes)
    with manager.claim("e") as claim:
        claim.record("start")
        claim.record("start", 0)
        journal = manager.folder("e") / "journal" / "00000001.jsonl"

        def size() -> int:
            return len(journal.read_bytes().rstrip(b"\0"))

        before = size()
        back_and_forth(claim, 2)
        length = (size() - before) // 2
        others = [Sqlite(tmp_path, length, reuses=False), Sqlite(tmp_path, length, reuses=True)]
        bare: list[float] = []
        ours: list[float] = []

        def measured(took: list[float], work: Callable[[], object]) -> None:
            started = time.perf_counter()
            work()
            took.append(time.perf_counter() - started)

        def round_() -> None:
            measured(bare, lambda: append(raw, b"x" * length))
            measured(ours, lambda: back_and_forth(claim))
            for other in others:
                other.round()

        def show(_: float, __: float) -> tuple[str, str, bool]:
            ratios = [
                statistics.median(mine / its for mine, its in zip(ours, took, strict=True))
                for took in (bare, others[0].took, others[1].took)
            ]
            each = statistics.median(ours) / STEPS * 1e6
            words = " / ".join(f"{ratio:.2f}" for ratio in ratios)
            met = all(ratio <= aim for ratio, aim in zip(ratios, (1.2, 0.8, 1.1), strict=True))
            return f"{words} × ({each:.0f} µs)", "≤ 1.2 / 0.8 / 1.1 ×", met

        what = f"durable transition, {processes:,} processes: append, sqlite new, reused"
        contest(what, 0, round_, lambda: None, rounds=15, show=show)
        for other in others:
            other.close()


def test_group_commit(manager: StateManager, raw: int, contest: Contest) -> None:
    """64 facts that arrive together, against an append and fdatasync for each."""
    manager.create("e", num_processes=64)
    clock = manager._clock

    def events(event: str, **facts: Any) -> list[Requested]:
        return [
            Requested(entity="process", event=event, at=clock(), process=index, facts=facts)
            for index in range(64)
        ]

    with manager.claim("e") as claim:
        claim.record("start")

        def ours() -> None:
            for _ in range(5):
                claim.record_many(events("start"))
                claim.record_many(events("requeue", proven_dead=True))

        contest(
            "64 facts together, each",
            0.12,
            ours,
            lambda: append(raw, b"x" * 170, 640),
            per=640,
        )


@pytest.mark.parametrize(("processes", "aim"), [(8, 6), (1000, 8), (10_000, 8)])
def test_create_and_first_claim(
    manager: StateManager, tmp_path: Path, contest: Contest, processes: int, aim: float
) -> None:
    """From nothing to owned, against writing the view's bytes durably once."""
    manager.create("e", num_processes=processes)
    data = b"x" * (manager.state_dir / "e.json").stat().st_size
    dir_fd = os.open(tmp_path, os.O_RDONLY)
    number = iter(range(10**6))
    claims: list[Claim] = []

    def ours() -> None:
        name = f"n{next(number)}"
        manager.create(name, num_processes=processes)
        claims.append(manager.claim(name))

    def limit() -> None:
        fd = os.open("temporary", os.O_CREAT | os.O_WRONLY | os.O_EXCL, dir_fd=dir_fd)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        os.rename("temporary", "target", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        os.fsync(dir_fd)

    def release() -> None:
        while claims:
            claims.pop().release()

    what = f"create + first claim, {processes:,} processes"
    contest(what, aim, ours, limit, rounds=15, reset=release)
    release()
    os.close(dir_fd)


def orjson_loads(path: Path) -> None:
    with path.open("rb") as file:
        data = file.read()
    if path.suffix == ".jsonl":
        for line in data.splitlines():
            orjson.loads(line[9:])
    else:
        orjson.loads(data)


@pytest.mark.parametrize("processes", [8, 1000, 10_000])
@pytest.mark.parametrize("kind", ["view", "journal"])
def test_load(manager: StateManager, contest: Contest, processes: int, kind: str) -> None:
    """From a view that was never claimed, and from view and journal, all processes tried."""
    manager.create("e", num_processes=processes)
    with manager.claim("e") as claim:
        claim.record("start")
        clock = manager._clock
        for event, facts in (("start", {}), ("complete", {"exit_code": 0})):
            claim.record_many(
                [
                    Requested(entity="process", event=event, at=clock(), process=index, facts=facts)
                    for index in range(processes)
                ]
            )
    with manager.claim("e"):
        pass  # now the base holds what the view holds
    view = manager.state_dir / "e.json"
    paths = [view]
    name = "e"
    if kind == "view":
        name = "f"
        plain = json.loads(view.read_bytes())
        path = manager.state_dir / "f.json"
        path.write_text(json.dumps(plain | {"experiment_id": "f", "epoch": 0}, indent=1))
        paths = [path]
    else:
        paths.append(max((manager.folder("e") / "journal").iterdir()))
    repeat = max(1, 2000 // processes)

    def ours() -> None:
        for _ in range(repeat):
            manager.load(name)

    def limit() -> None:
        for _ in range(repeat):
            for path in paths:
                orjson_loads(path)

    contest(
        f"load, {processes:,} processes ({kind})",
        8 if processes < 1000 else 5,
        ours,
        limit,
        per=repeat,
    )


def test_load_of_a_long_journal(manager: StateManager, contest: Contest) -> None:
    """What each transition in the journal adds to a load."""
    manager.create("short", num_processes=100)
    manager.create("long", num_processes=100)
    steps = 4000
    with manager.claim("short") as claim:
        claim.record("start")
        claim.record("start", 0)
    with manager.claim("long") as claim:
        claim.record("start")
        claim.record("start", 0)
        back_and_forth(claim, steps)

    def show(mine: float, other: float) -> tuple[str, str, bool]:
        each = (mine - other) / steps * 1e6
        return f"{each:.1f} µs each", "≤ 25 µs each", each <= 25

    contest(
        f"load with {steps:,} transitions in the journal",
        0,
        lambda: manager.load("long"),
        lambda: manager.load("short"),
        show=show,
    )


def _in_eight(work: Callable[[int, Any], None]) -> float:
    """Seconds that eight processes took, from the moment that all were ready."""
    ready = FORK.Barrier(9)
    writers = [FORK.Process(target=work, args=(number, ready)) for number in range(8)]
    for writer in writers:
        writer.start()
    ready.wait()
    started = time.perf_counter()
    for writer in writers:
        writer.join()
    assert not any(writer.exitcode for writer in writers)
    return time.perf_counter() - started


def test_eight_writers_in_one_directory(
    manager: StateManager, tmp_path: Path, contest: Contest
) -> None:
    """Eight owners of eight experiments, against eight bare writers and against sqlite."""
    steps = 200
    for number in range(8):
        manager.create(f"e{number}", num_processes=8)
        with manager.claim(f"e{number}") as claim:
            claim.record("start")
            claim.record("start", 0)
    database = tmp_path / "sqlite3"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE facts (who, what)")
    connection.close()

    def ours(number: int, ready: Any) -> None:
        with manager.claim(f"e{number}") as claim:
            ready.wait()
            back_and_forth(claim, steps)

    def bare(number: int, ready: Any) -> None:
        fd = os.open(tmp_path / f"bare{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        ready.wait()
        append(fd, b"x" * 170, steps)

    def sqlite(number: int, ready: Any) -> None:
        connection = sqlite3.connect(database, timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        ready.wait()
        for _ in range(steps):
            connection.execute("INSERT INTO facts VALUES (?, ?)", (number, "x" * 150))

    took: dict[str, list[float]] = {"ours": [], "bare": [], "sqlite": []}

    def round_() -> None:
        for name, work in (("ours", ours), ("bare", bare), ("sqlite", sqlite)):
            took[name].append(_in_eight(work))

    def show(_: float, __: float) -> tuple[str, str, bool]:
        pairs = list(zip(took["ours"], took["bare"], took["sqlite"], strict=True))
        rate = sorted(bare / ours for ours, bare, _ in pairs)[len(pairs) // 2]
        ahead = sorted(other / ours for ours, _, other in pairs)[len(pairs) // 2]
        return (
            f"{rate:.2f} × bare, {ahead:.1f} × sqlite",
            "≥ 0.5 × bare, > 1 × sqlite",
            rate >= 0.5 and ahead > 1,
        )

    contest("8 writers in one directory", 0, round_, lambda: None, rounds=5, show=show)
