"""Recorded lives: a workload from beginning to end, or killed on its way and gone on from.

A killed process leaves everything visible and nothing more durable than it was: the kernel still
has what it wrote. Its successor must not build on what it only sees, so a second kind of history
has two deaths in it: the owner is killed before some operation, somebody else goes on, and only
then the power goes.
"""

import contextlib
import random
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from holdfast.errors import UnreadableStateWarning

from .bench import Bench
from .boundaries import Reference
from .checking import Survey, expectations, survey
from .effects import Trace
from .subject import Expected, Holdfast
from .watching import Fault, Killed, Recorder, WatchedFiles
from .workloads import workload

__all__ = ["Life", "killed_life", "killed_then_cut", "lives"]


@attrs.frozen
class Life:
    """A recorded workload, whole or killed and gone on from; *sites* are who asked for syncs."""

    name: str
    trace: Trace
    sites: Mapping[int, str]
    beginning: Expected | None = None
    since: int = 0


def lives(names: Iterable[str], where: Path) -> Iterator[Life]:
    """The workloads *names*, recorded."""
    for name in names:
        root = where / "life"
        root.mkdir()
        recorder = Recorder(root)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreadableStateWarning)
            workload(name)(Bench(root, recorder.mark, WatchedFiles(recorder)))
        shutil.rmtree(root)
        yield Life(name, recorder.trace(), recorder.sites())


def killed_life(ref: Reference, at: int, where: Path) -> Life:
    """A workload killed before operation *at*, and its successor, as one recording."""
    root = where / "killed"
    root.mkdir()
    recorder = Recorder(root)
    first = WatchedFiles(Fault(at, None), recorder)
    promised: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableStateWarning)
        with contextlib.suppress(Killed):
            workload(ref.name)(Bench(root, promised.append, first))
    first.die()
    beginning = expectations(list(enumerate(ref.marks)), len(promised))
    found, _ = Holdfast().look(root, beginning)
    since = len(recorder.effects)
    Holdfast().live_on(root, found, recorder.mark, recorder, random.Random(f"{ref.name} {at}"))
    shutil.rmtree(root)
    name = f"{ref.name}, killed before operation {at}, its successor"
    return Life(name, recorder.trace(), recorder.sites(), beginning, since)


def killed_then_cut(
    ref: Reference,
    at: int,
    where: Path,
    *,
    limit: int = 8,
    per_cut: int | None = None,
    seed: int = 0,
) -> Survey:
    """Judge what a power cut leaves when it strikes the successor of a killed owner."""
    life = killed_life(ref, at, where)
    return survey(
        life.name, life.trace, Holdfast(), where, seed=seed, limit=limit, per_cut=per_cut,
        seconds=0, live_share=0.1, beginning=life.beginning, since=life.since,
    )  # fmt: skip
