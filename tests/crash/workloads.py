"""What is done to the store while the laboratory watches: every mutating call, for real.

A workload is a function that gets a `Bench` and calls the public API of `StateManager`. After each
call that returned it tells what it was promised: a *mark*, with what every later reader must find
at least. The same functions run under strace, in processes of their own
(`python -m tests.crash.workloads NAME ROOT MARKS`), and in-process on watched files.
"""

import contextlib
import importlib
import itertools
import json
import os
import pkgutil
import random
import resource
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

import holdfast
from holdfast.attempts.names import AttemptName
from holdfast.errors import StateReadError, StateWriteError, UnreadableStateWarning
from holdfast.lifecycle.events import ProcessExited, Requested
from holdfast.lifecycle.records import ExperimentState, Origin, ProcessProgress, Ranks
from holdfast.lifecycle.reuse import Proof
from holdfast.results import acceptance, aggregation, reusing
from holdfast.store.claim import Claim

from .bench import Bench, Ticking, legal_step, speaker

__all__ = ["MODULE", "WORKLOADS", "argv", "warm_up", "workload"]


#: This module, by whatever name the package was imported.
MODULE = f"{__package__}.workloads"


def _create(bench: Bench) -> None:
    """Three experiments, one with an id of its own making, two with the same beginning."""
    manager = bench.manager()
    bench.promised(manager.create("exp", num_processes=3, config={"a": 1}), 0, "create")
    bench.promised(manager.create(num_processes=1), 0, "create")
    bench.promised(manager.create("a/b", total_runs=2, name="twin"), 0, "create")


def _claim(bench: Bench) -> None:
    """Claimed, let go, claimed again, with nothing recorded in between."""
    bench.promised(bench.manager().create("exp", num_processes=2), 0, "create")
    for _ in range(3):
        with bench.manager().claim("exp") as claim:
            state = claim.state
        bench.promised(state, 0, "claim")


def _record(bench: Bench) -> None:
    """A whole life, step by step, with a failure, a retry and an interruption."""
    bench.promised(bench.manager().create("exp", num_processes=2), 0, "create")
    with bench.manager().claim("exp") as claim:
        bench.record(claim, "start")
        bench.record(claim, "start", 0)
        bench.record(claim, "start", 1)
        bench.record(claim, "fail", 1, exit_code=3, error_message="three")
        bench.record(claim, "requeue", 1, max_attempts=2)
        bench.record(claim, "interrupt", reason="user")
    with bench.manager().claim("exp") as claim:
        bench.record(claim, "resume")
        bench.record(claim, "complete", 0, exit_code=0)
        bench.record(claim, "start", 1)
        bench.record(claim, "complete", 1, exit_code=0)
        bench.record(claim, "complete")


def _record_many(bench: Bench) -> None:
    """Batches: all of a line or nothing of it."""
    bench.promised(bench.manager().create("exp", num_processes=6), 0, "create")
    with bench.manager().claim("exp") as claim:
        bench.record(claim, "start")
        for batch in ((0, 1, 2), (3, 4, 5)):
            at = bench.clock()
            starts = [Requested(entity="process", event="start", process=i, at=at) for i in batch]
            bench.promised(claim.record_many(starts).state, len(starts), "record_many")
            exits = [ProcessExited(process=i, attempt=1, at=at, exit_code=0) for i in batch]
            bench.promised(claim.record_many(exits).state, len(exits), "record_many")


def _gang(bench: Bench) -> None:
    """Two launchers of three ranks: a line holds a whole gang, or nothing of it."""
    manager = bench.manager()
    bench.promised(manager.create("exp", num_processes=6, ranks=Ranks(count=3)), 0, "create")
    with bench.manager().claim("exp") as claim:
        bench.record(claim, "start")
        acceptance.prepare(claim.folder, files=bench.files)
        _of_gang(bench, claim, 0, "start")
        _of_gang(bench, claim, 3, "start")
        _of_gang(bench, claim, 0, "fail", exit_code=1)
        _of_gang(bench, claim, 0, "requeue", max_attempts=2)
    with bench.manager().claim("exp") as claim:
        at, exits = bench.clock(), []
        for index in (3, 4, 5):
            name = acceptance.of_rank(index, 1, "0-9-9-here")
            _compute(bench, acceptance.path_of(claim.folder, name))
            ref = acceptance.accept(claim.folder, name, files=bench.files)
            exits.append(ProcessExited(process=index, attempt=1, at=at, exit_code=0, result=ref))
        bench.promised(claim.record_many(exits).state, len(exits), "record_many")
        _of_gang(bench, claim, 3, "requeue", result_lost=True)


def _of_gang(bench: Bench, claim: Claim, first: int, event: str, **facts: object) -> None:
    at = bench.clock()
    asked = [
        Requested(entity="process", event=event, process=index, at=at, facts=facts)
        for index in claim.state.gang(first)
    ]
    bench.promised(claim.record_many(asked).state, len(asked), event)


def _save(bench: Bench) -> None:
    """Changed by hand, loaded and saved."""
    state = bench.manager().create("exp", num_processes=2)
    bench.promised(state, 0, "create")
    state = bench.manager().save(attrs.evolve(state, name="renamed"))
    bench.promised(state, 0, "save")
    state = bench.manager().save(attrs.evolve(state, status="running"))
    bench.promised(state, 1, "save")
    table = state.processes.replace(
        {0: attrs.evolve(state.processes[0], status="running", attempt=1)}
    )
    state = bench.manager().save(attrs.evolve(state, process_progress=table))
    bench.promised(state, 1, "save")


def _view(bench: Bench) -> None:
    """View after view: the clock runs so fast that every line is followed by a refresh."""
    bench.clock = Ticking(1.5)
    bench.promised(bench.manager().create("exp", num_processes=4), 0, "create")
    with bench.manager().claim("exp") as claim:
        bench.record(claim, "start")
        for index in range(4):
            bench.record(claim, "start", index)
            claim.tick()


def _compaction(bench: Bench) -> None:
    """The journal outgrows its limit again and again, and the owner moves to the next."""
    from holdfast.store import writer as module

    # The limit is a constant of 1 MiB: the same code, sooner.
    limits = module.COMPACT_BYTES, module.COMPACT_BASES
    module.COMPACT_BYTES, module.COMPACT_BASES = 1500, 1  # type: ignore[misc]
    try:
        bench.promised(bench.manager().create("exp", num_processes=1), 0, "create")
        with bench.manager().claim("exp") as claim:
            bench.record(claim, "start")
            for _ in range(6):
                bench.record(claim, "start", 0)
                bench.record(claim, "fail", 0, exit_code=1, error_message="x" * 200)
                bench.record(claim, "requeue", 0, requested_by_user=True)
    finally:
        module.COMPACT_BYTES, module.COMPACT_BASES = limits  # type: ignore[misc]


def _adopt(bench: Bench) -> None:
    """An owner that vanishes without a word, and its successor, who goes on."""
    bench.promised(bench.manager().create("exp", num_processes=2), 0, "create")
    claim = bench.manager().claim("exp")
    bench.record(claim, "start")
    bench.record(claim, "start", 0)
    bench.record(claim, "start", 1)
    claim._close()  # as the kernel does at a kill: no farewell line, no view, no lock
    if bench.manager().cleanup_stale() != ["exp"]:
        return  # an injected fault kept it from reading the experiment, which it warned about
    bench.promised(bench.manager().load("exp"), 1, "cleanup_stale")
    with bench.manager().claim("exp") as claim:
        bench.record(claim, "resume")
        bench.record(claim, "requeue", 0, proven_dead=True, reason="lost")
        at = bench.clock()
        exited = ProcessExited(process=1, attempt=1, at=at, exit_code=0)
        bench.promised(claim.record_many([exited]).state, 1, "adopt")


def _aggregate(bench: Bench) -> None:
    """To the end: results that nobody synced are accepted, aggregated, and that is recorded."""
    state = bench.manager().create("exp", num_processes=2)
    bench.promised(state, 0, "create")
    with bench.manager().claim("exp") as claim:
        bench.record(claim, "start")
        acceptance.prepare(claim.folder, files=bench.files)
        for index in range(2):
            bench.record(claim, "start", index)
            name = AttemptName.of_process("exp", index, 1)
            _compute(bench, acceptance.path_of(claim.folder, name))
            ref = acceptance.accept(claim.folder, name, files=bench.files)
            bench.record(claim, "complete", index, exit_code=0, result=ref)
        bench.record(claim, "complete")
        try:
            made = aggregation.build(claim.state, claim.folder)
        except OSError as err:  # as `concluding` tells it
            raise StateWriteError(claim.folder / "results", "reading", str(err)) from err
        aggregation.write(claim.folder, made, files=bench.files)
        bench.record(claim, "aggregate")


def _reuse(bench: Bench) -> None:
    """Results are taken from an ancestor, one of them twice, and outlive it."""
    bench.promised(bench.manager().create("old", num_processes=2), 0, "create")
    with bench.manager().claim("old") as claim:
        old = claim.folder
        bench.record(claim, "start")
        acceptance.prepare(claim.folder, files=bench.files)
        for index in range(2):
            bench.record(claim, "start", index, work=f"{index:032x}")
            name = AttemptName.of_process("old", index, 1)
            _compute(bench, acceptance.path_of(claim.folder, name))
            ref = acceptance.accept(claim.folder, name, files=bench.files)
            bench.record(claim, "complete", index, exit_code=0, result=ref)
        ancestors = [claim.state.processes[index] for index in range(2)]
    bench.promised(bench.manager().create("exp", num_processes=3, reuse="all"), 0, "create")
    with bench.manager().claim("exp") as claim:
        bench.record(claim, "start")
        acceptance.prepare(claim.folder, files=bench.files)
        bench.promised(_taken(bench, claim, old, ancestors, (0, 1)), 2, "reuse")
        bench.record(claim, "requeue", 1, result_lost=True)
        bench.promised(_taken(bench, claim, old, ancestors, (1,)), 1, "reuse again")
        bench.manager().delete("old")
        bench.gone("old")
        bench.record(claim, "start", 2)


def _taken(
    bench: Bench,
    claim: Claim,
    old: Path,
    ancestors: Sequence[ProcessProgress],
    indices: Sequence[int],
) -> ExperimentState:
    events, taken = [], []
    for index in indices:
        done = ancestors[index]
        assert done.result is not None
        fence = claim.check_fence
        try:
            result = reusing.take(
                *(claim.folder, index, old, done.result), fence=fence, files=bench.files
            )
        except StateReadError as err:  # as a run, which asks the next ancestor then
            raise StateWriteError(err.path, err.operation, err.cause) from err
        taken.append(result)
        origin = Origin(experiment_id="old", process=index, attempt=done.attempt)
        proof = Proof(origin=origin, work=done.work, status=done.status)
        facts = {"proof": proof, "work": f"{index:032x}", "result": result}
        asked = Requested(
            entity="process", event="reuse", process=index, at=bench.clock(), facts=facts
        )
        events.append(asked)
    reusing.settle(claim.folder, taken, files=bench.files)
    return claim.record_many(events).state


def _compute(bench: Bench, path: Path) -> None:
    """What a user's process does: write its result as one writes a file, and end."""
    try:
        with bench.files.directory(path.parent) as folder:
            fd = bench.files.open_append(path.name, folder)
            bench.files.write_all(fd, json.dumps({"path": path.name, "x": 1.5}).encode())
            bench.files.close(fd)
    except OSError as err:  # an injected fault met the user's process, not the store
        raise StateWriteError(path, "computing", str(err)) from err


def _refused(bench: Bench) -> None:
    """A long line that the disk has no room for, and a short one over what it left.

    The short line ends on the first byte of a sector, and the piece of the long one just there: a
    power cut between the two could leave one that lacks nothing but its end.
    """
    bench.promised(bench.manager().create("exp", num_processes=1), 0, "create")
    with bench.manager().claim("exp") as claim:
        path = claim.folder / "journal" / "00000001.jsonl"

        def size() -> int:
            with _not_the_stores(path):
                return len(path.read_bytes().rstrip(b"\0"))

        bench.record(claim, "start")
        sizes = [size()]
        bench.record(claim, "start", 0, evidence="-")
        sizes.append(size())
        bench.record(claim, "requeue", 0, proven_dead=True)
        sizes.append(size())
        starts, short = (b - a for a, b in itertools.pairwise(sizes))
        more = (1 - sizes[-1] - starts - short) % 512
        bench.record(claim, "start", 0, evidence="-" * (1 + more))
        before = size()
        assert (before + short) % 512 == 1
        with _full_at(before + short):
            try:
                claim.record("fail", 0, exit_code=1, error_message="x" * 700)
            except StateWriteError as err:
                if err.stored != "old":
                    raise
            else:
                raise AssertionError("the disk was not full")
        with _not_the_stores(path):
            left = path.stat().st_size - before
        assert not left, f"{left} bytes of what was refused were not taken back"
        bench.record(claim, "requeue", 0, proven_dead=True)
        assert size() == before + short


@contextlib.contextmanager
def _full_at(size: int) -> Iterator[None]:
    """No file of this process can be written to beyond *size*, as on a disk that is full there."""
    path = Path("RLIMIT_FSIZE")
    with _not_the_stores(path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        with _not_the_stores(path):
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def _not_the_stores(path: Path) -> Iterator[None]:
    """An injected fault may meet what only the workload does."""
    try:
        yield
    except OSError as err:
        raise StateWriteError(path, "looking at", str(err)) from err


def _delete(bench: Bench) -> None:
    """Deleted with its folder, made again under the same name; one that was never claimed too."""
    manager = bench.manager()
    bench.promised(manager.create("other", num_processes=1), 0, "create")
    bench.promised(manager.create("exp", num_processes=2), 0, "create")
    with manager.claim("exp") as claim:
        bench.record(claim, "start")
        bench.record(claim, "start", 0)
        bench.record(claim, "start", 1)
        bench.record(claim, "fail", 0, exit_code=2)
        bench.record(claim, "fail", 1, exit_code=2)
    manager.delete("exp")
    bench.gone("exp")
    bench.promised(manager.create("exp", num_processes=1), 0, "create")
    with manager.claim("exp") as claim:
        bench.record(claim, "start")
    manager.delete("other")
    bench.gone("other")


def _index(bench: Bench) -> None:
    """Finished experiments, listed and found through the index, one of them deleted again."""
    from holdfast.store.catalog import index as module

    smallest, module.SMALLEST = module.SMALLEST, 1  # type: ignore[misc]
    try:
        for name in ("done", "gone", "open"):
            manager = bench.manager()
            state = manager.create(name, num_processes=1, config={"name": name})
            bench.promised(state, 0, "create")
            with manager.claim(name) as claim:
                for event, index in (("start", None), ("start", 0), ("complete", 0)):
                    bench.record(
                        claim, event, index, **({"exit_code": 0} if event == "complete" else {})
                    )
                if name != "open":
                    bench.record(claim, "complete")
                    bench.record(claim, "aggregate")
            bench.manager().list_experiments()
            bench.manager().find_incomplete()
        bench.manager().delete("gone")
        bench.gone("gone")
        bench.manager().list_experiments()
    finally:
        module.SMALLEST = smallest  # type: ignore[misc]


def _random_life(seed: int) -> Callable[[Bench], None]:
    def life(bench: Bench) -> None:
        """Thirty legal steps drawn by a seed, with claims, vanishing owners and deletes between."""
        rng = random.Random(seed)
        bench.clock = Ticking(rng.choice((0.01, 0.2, 0.7)))
        ids = ["exp", "b"]
        claim: Claim | None = None
        for _ in range(30):
            name = rng.choice(ids)
            manager = bench.manager()
            if name not in bench.manager().list_experiments():
                number = rng.randint(1, 3)
                # Some of them are gangs, some of those of a single rank.
                ranks = rng.choice((None, None, Ranks(count=1), Ranks(count=number)))
                made = manager.create(name, num_processes=number, ranks=ranks)
                bench.promised(made, 0, "create")
                bench.events[name] = 0
            if rng.random() < 0.08:
                manager.delete(name, force=True)
                bench.gone(name)
                continue
            claim = manager.claim(name)
            for _ in range(rng.randint(1, 6)):
                events = legal_step(claim, bench.clock(), rng)
                if not events:
                    break
                bench.promised(claim.record_many(events).state, len(events), "record_many")
            if rng.random() < 0.4:
                claim._close()
            else:
                claim.release()

    return life


WORKLOADS: dict[str, Callable[[Bench], None]] = {
    "create": _create,
    "claim": _claim,
    "record": _record,
    "record_many": _record_many,
    "gang": _gang,
    "save": _save,
    "view": _view,
    "compaction": _compaction,
    "adopt": _adopt,
    "aggregate": _aggregate,
    "reuse": _reuse,
    "delete": _delete,
    "index": _index,
    "refused": _refused,
}


def workload(name: str) -> Callable[[Bench], None]:
    """One of `WORKLOADS`, or `random-<seed>`."""
    if name.startswith("random-"):
        return _random_life(int(name.removeprefix("random-")))
    return WORKLOADS[name]


def argv(name: str, root: Path, marks: Path) -> tuple[list[str], dict[str, str]]:
    """The command and environment that run a workload in a process of its own."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return [sys.executable, "-m", MODULE, name, str(root), str(marks)], env


def main(name: str, root: str, marks: str) -> None:
    """Run a workload in this process, its marks going to the file *marks*."""
    warnings.simplefilter("ignore", UnreadableStateWarning)
    warm_up()
    workload(name)(Bench(Path(root), speaker(marks)))


def warm_up() -> None:
    """Import what the store imports late, so that a trace has the store's calls only."""
    for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from holdfast import liveness
    from holdfast.lifecycle import edges

    edges.table("experiment")
    edges.table("process")
    liveness.me()


if __name__ == "__main__":
    main(*sys.argv[1:])
