"""What `holdfast rm` says and asks before it deletes anything."""

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from holdfast.cli.failures import report
from holdfast.cli.where import Where
from holdfast.errors import AlreadyOwnedError, HoldfastError
from holdfast.reading import seen, text
from holdfast.store.manager import StateManager

__all__ = ["agreed", "foretell"]


def agreed(manager: StateManager, experiment_ids: Iterable[str]) -> bool:
    """Whether these may go: only results that nobody can have seen are asked about.

    Off a terminal there is nobody to ask: a script means what it says.
    """
    if not (sys.stdin.isatty() and text.is_terminal(sys.stderr)):
        return True
    lost = []
    for experiment_id in experiment_ids:
        with contextlib.suppress(HoldfastError):  # `rm` itself says what is wrong
            state = manager.load(experiment_id)
            number = seen.unseen(state, manager.folder(experiment_id))
            if number:
                which = text.short(experiment_id)
                results = text.count(number, "result")
                lost.append(f"{which}: {results} never shown nor aggregated")
    if not lost:
        return True
    return click.confirm("\n".join([*lost, "Delete?"]), err=True)


def foretell(where: Where, experiment_id: str, *, force: bool) -> int:
    """Say what `rm` would delete, or why it would not; the exit code that it would have."""
    manager = where.manager()
    try:
        state = manager.load(experiment_id)
        verdict = manager.liveness(experiment_id)
        if verdict.kind == "alive" or (verdict.kind == "unknown" and not force):
            raise AlreadyOwnedError(experiment_id, state.owner, None, verdict)
        manager.refuse_survivors(experiment_id, force=force)
    except HoldfastError as err:
        return report(err, where)
    folder = manager.folder(experiment_id)
    results = sum(process.result is not None for process in state.process_progress.values())
    facts = [
        text.count(state.num_processes, "process"),
        text.count(results, "result"),
        f"{_bytes(folder) / 1e6:,.1f} MB",
    ]
    unseen = seen.unseen(state, folder)
    if unseen:
        facts.append(f"{unseen:,} never shown nor aggregated")
    text.emit([f"{text.short(experiment_id)} would be deleted: {', '.join(facts)}"])
    return 0


def _bytes(folder: Path) -> int:
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(at) / name).lstat().st_size
    return total
