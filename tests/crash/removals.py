"""Our own protocol with one change left out while it runs: every such mutant must be noticed.

What the store does next depends on what it has changed, so here a mutant runs for real: a hook
answers the operation of one line of the store's source as if it had been carried out. The lines are
found by running the workloads, as for `mutants`.

It is noticed if a call fails that should not; if what is there is not what was promised; if
`holdfast doctor` finds something left over; if it does not get over a disk that is full after half
of a line; or if claimants, readers and deleters that are interleaved see each other.

Left alone is the index, which is only a cache.
"""

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import attrs

from holdfast.store import journal

from . import schedules
from .bench import Bench
from .boundaries import Reference, inside, left_over, problems_after
from .watching import HALF, WRITES, Hook, Operation, WatchedFiles, asker
from .workloads import workload

__all__ = ["Removal", "noticed", "steps"]

_CHANGES = frozenset({*WRITES, "truncate", "link", "rename", "unlink", "rmdir", "mkdir", "flock"})
#: Nobody needs that many operations: beyond it, a workload spins.
_MOST = 20_000
_SEEDS = 30


class SpinsError(BaseException):
    """A mutant does the same over and over. Not an Exception: no `except` may survive it."""


@attrs.frozen(order=True)
class Removal:
    """A line of the store whose operation is answered and not carried out."""

    operation: str
    line: str

    def __str__(self) -> str:
        return f"{self.operation} of {self.line}"

    def hook(self) -> Hook:
        """Leaves it out."""
        done = 0

        def leave_out(operation: Operation, call: Callable[[], Any]) -> Any:
            nonlocal done
            done += 1
            if done > _MOST:
                raise SpinsError
            if operation.name != self.operation or asker() != self.line:
                return call()
            return len(operation.args[1]) if operation.name in WRITES else None

        return leave_out


def steps(references: Sequence[Reference], where: Path) -> list[Removal]:
    """Every line of the store that changes something, undisturbed or while disks fill up."""
    found: set[Removal] = set()

    def note(operation: Operation, call: Callable[[], Any]) -> Any:
        if operation.name in _CHANGES:
            found.add(Removal(operation.name, asker()))
        return call()

    for ref in references:
        _run(ref, where, note)
        for at in _first_writes(ref):
            inside(ref, at, HALF, where, hooks=[note])
    return sorted(
        step
        for step in found
        if step.line != "elsewhere" and "store.catalog.index." not in step.line
    )


def _first_writes(ref: Reference) -> list[int]:
    return [at for at, call in enumerate(ref.calls) if call in WRITES][:8]


def noticed(step: Removal, references: Sequence[Reference], where: Path) -> str | None:
    """What gives it away first, in words; None if nothing does."""
    for ref in references:
        if wrong := _run(ref, where, step.hook()):
            return f"{ref.name}: {wrong[0]}"
    for ref in references:
        for at in _first_writes(ref):
            if wrong := inside(ref, at, HALF, where, hooks=[step.hook()]):
                return wrong[0]
    for setting in get_args(schedules.Setting):
        for seed in range(_SEEDS):
            played = schedules.run(seed, setting, where, cuts=0, sabotage=step.hook())
            if played.problems:
                return played.problems[0]
    return None


def room_left(root: Path) -> list[str]:
    """Journals that their owners let go, or went on from, and that end with no line."""
    states = root / ".experiment_state"
    wrong = []
    for path in states.glob("*/journal/*.jsonl"):
        *lines, rest = path.read_bytes().split(b"\n")
        successor = path.with_name(journal.file_name(int(path.stem) + 1))
        over = b'"event":"released"' in lines[-1] or (
            successor.exists() and b'"compacts"' in successor.read_bytes().split(b"\n")[0]
        )
        if over and rest:
            wrong.append(f"{path} takes {len(rest)} bytes more than its lines")
    return wrong


def _run(ref: Reference, where: Path, hook: Hook) -> list[str]:
    """What is wrong after a workload that nothing but *hook* disturbed."""
    root = where / "removed"
    root.mkdir()
    promised: list[str] = []
    files = WatchedFiles(hook)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            workload(ref.name)(Bench(root, promised.append, files))
        wrong = left_over(root) + room_left(root)
        if len(promised) != len(ref.marks):
            wrong.append("not everything was done")
        return wrong + problems_after(ref, root, promised, None, ref.name)
    except (Exception, SpinsError) as err:
        return [f"{type(err).__name__}: {err}"]
    finally:
        files.die()
        shutil.rmtree(root)
