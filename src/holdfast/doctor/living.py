"""Attempts that live and that nobody sees to: nothing is lost by it, but somebody should know."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Final

from holdfast.attempts.names import ATTEMPTS, attempts_dir, file_path
from holdfast.attempts.surviving import Survivor, survivors
from holdfast.doctor.findings import Finding, hint
from holdfast.errors import DiskError
from holdfast.identity import VerdictKind
from holdfast.lifecycle.handed import handed_over
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus
from holdfast.store.place import Opened, Place

__all__ = ["examine", "found"]

_MOST_NAMED: Final = 5


def found(place: Place, folder: Opened, closed: Container[str]) -> list[Survivor] | None:
    """The attempts that are not proven to be over; None if that cannot be told at this moment.

    *closed* are the directories that may not be looked into.
    """
    if ATTEMPTS in closed:
        return None
    try:
        return list(survivors(folder.path, place.stem))
    except DiskError:
        return None  # named by whoever looks at the file itself


def examine(
    folder: Path, state: ExperimentState, alive: Sequence[Survivor], *, owned: bool
) -> Iterator[Finding]:
    """Attempts whose shim is stopped, and those of an experiment that nobody owns."""
    for each in alive:
        if each.halted is not None:
            path, what = file_path(folder, each.name, "live"), each.halted.what
            repair = f"let it go on: {each.halted.remedy}"
            yield hint("attempt", path, f"attempt {each.name}: {what}", repair)
    # What is no file of a shim's is named as that.
    places = [file_path(folder, each.name, "live") for each in alive]
    alive = [a for a, at in zip(alive, places, strict=True) if at.is_file() and not at.is_symlink()]
    # What an engine with a queue has goes on without an owner as a matter of course.
    handed = {(i, state.processes[i].attempt) for i in handed_over(state)}
    alive = [each for each in alive if (each.name.index, each.name.attempt) not in handed]
    if alive and not owned:
        yield _unowned(folder, state, alive)


def _unowned(folder: Path, state: ExperimentState, alive: Sequence[Survivor]) -> Finding:
    what = "; ".join(filter(None, (_told(alive, "alive"), _told(alive, "unknown"))))
    repair = "stop what runs; `resume` takes it over instead"
    if state.status is ExperimentStatus.AGGREGATED:
        repair = "stop it if nobody needs it"
    return hint("attempt", attempts_dir(folder), what, repair, "stop", state.experiment_id)


def _told(alive: Sequence[Survivor], kind: VerdictKind) -> str:
    """`2 attempts run on without an owner: 0.1, 1.1 (0.1: its lock is held)`."""
    those = [each for each in alive if each.verdict.kind == kind]
    if not those:
        return ""
    number = "1 attempt" if len(those) == 1 else f"{len(those):,} attempts"
    does = "may run" if kind == "unknown" else "runs" if len(those) == 1 else "run"
    named = ", ".join(str(each.name) for each in those[:_MOST_NAMED])
    more = ", …" if len(those) > _MOST_NAMED else ""
    first = those[0]
    why = f"{first.name}: {first.verdict.compared}"
    return f"{number} {does} on without an owner: {named}{more} ({why})"
