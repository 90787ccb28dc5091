"""`holdfast rm`: what it means, says and asks before it deletes anything."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.cli.addressing import how_to_remove, named
from holdfast.cli.app import force_option, in_state_dir, some_experiments_argument
from holdfast.cli.failures import report, say_if_absent
from holdfast.cli.listing import meant, say_unreadable
from holdfast.cli.selecting import selecting
from holdfast.cli.where import Where
from holdfast.errors import AlreadyOwnedError, ExperimentNotFoundError, HoldfastError
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import seen, text
from holdfast.status import ExperimentStatus
from holdfast.store.catalog.summary import Summary
from holdfast.store.manager import StateManager

if TYPE_CHECKING:
    from holdfast.reading.selection import Selection

__all__ = ["rm"]


@click.command()
@selecting
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@force_option
@some_experiments_argument
@in_state_dir
def rm(
    where: Where,
    queries: tuple[str, ...],
    selection: "Selection | None",
    dry_run: bool,
    yes: bool,
    force: bool,
) -> int:
    """Delete experiments with everything that is theirs: results, logs, history.

    Refuses while the owner or a process is alive. If one ID is wrong, nothing is deleted. On a
    terminal, asks first if results were never shown or aggregated.

    Instead of IDs, the options of `holdfast ls` say which: `rm --older-than 30d --state aggregated
    -n` shows what would go. On a terminal that is always asked about. One that runs is never meant
    by them, and one that changes before its turn is left alone.
    """
    manager = where.manager()
    if (selection is None) == (not queries):
        raise click.UsageError(
            "IDs, or options that say which experiments: not both"
            if queries
            else "which ones? IDs, or --state, --tag, --older-than, …; `ls` lists them"
        )
    if selection is not None:
        return _remove_selected(where, manager, selection, dry_run=dry_run, yes=yes, force=force)
    found, code = named(where, queries, lambda err: _refused(where, err))
    if code:
        # Whoever mistyped one of them may have meant another by the rest.
        if len(queries) > 1:
            text.say("nothing was deleted")
        return code
    if dry_run:
        return max([_foretell(where, each, force=force)[0] for each in found], default=0)
    if not yes and not _agreed(manager, found):
        text.say("nothing was deleted")
        return 1
    for experiment_id in found:
        refused = _delete(where, manager, experiment_id, force=force)
        code = code or refused
    return code


# -- what is selected -----------------------------------------------------------------------------


def _remove_selected(
    where: Where,
    manager: StateManager,
    selection: "Selection",
    *,
    dry_run: bool,
    yes: bool,
    force: bool,
) -> int:
    listing, annotated = manager.listing(), manager.annotated()
    states = meant(manager, listing.experiments, annotated, selection)
    running = [each for each in states if each.status is ExperimentStatus.RUNNING]
    left = [each for each in states if each.status is not ExperimentStatus.RUNNING]
    unreadable = say_unreadable(where, [*listing.unreadable, *annotated.unreadable])
    if running:
        text.say(f"{_some(running)} left alone: running, or so it is recorded")
    if not left:
        among = text.count(len(listing.experiments), "experiment")
        text.say(f"nothing to delete: none matches, of {among} in {text.one_line(where.state_dir)}")
        say_if_absent(where.state_dir)
        return unreadable
    asks = _is_watched() and not yes
    code = 0
    if dry_run or asks:
        foretold = [_foretell(where, each.experiment_id, force=force) for each in left]
        code = next((refused for refused, _ in foretold if refused), 0)
        would = [size for refused, size in foretold if not refused]
        text.say(
            f"{text.count(len(would), 'experiment')} would be deleted, {text.size(sum(would))}"
        )
        if dry_run:
            return code or unreadable
        text.flush()
        if not would or not click.confirm("Delete?", err=True):
            text.say("nothing was deleted")
            return code or 1
        left = [each for each, (refused, _) in zip(left, foretold, strict=True) if not refused]
    for each in left:
        refused = _delete_unchanged(where, manager, each, selection, force=force)
        code = code or refused
    return code or unreadable


def _some(states: Sequence[Summary]) -> str:
    names = [text.one_line(each.experiment_id) for each in states[:5]]
    return ", ".join(names) + (f" and {len(states) - 5:,} more" if len(states) > 5 else "")


def _delete_unchanged(
    where: Where, manager: StateManager, state: Summary, selection: "Selection", *, force: bool
) -> int:
    """Delete what is as it was when it was selected, if it still is; the exit code."""
    try:
        now = Summary.of(manager.load(state.experiment_id))
        tags = manager.annotations(state.experiment_id).tags if selection.tags else ()
    except ExperimentNotFoundError:
        return 0  # somebody else deleted it
    except HoldfastError as err:
        return _refused(where, err)
    same = (now.created_at, now.last_updated) == (state.created_at, state.last_updated)
    if not same or not {*selection.tags}.issubset(tags):
        text.say(f"{text.one_line(state.experiment_id)} left alone: it changed meanwhile")
        return 0
    return _delete(where, manager, state.experiment_id, force=force)


# -- one of them ----------------------------------------------------------------------------------


def _delete(where: Where, manager: StateManager, experiment_id: str, *, force: bool) -> int:
    """Delete one, and say so or why not; the exit code."""
    try:
        manager.delete(experiment_id, force=force, wait_s=2.0)
    except HoldfastError as err:
        return _refused(where, err)
    text.emit([f"{text.one_line(experiment_id)} deleted"])
    return 0


def _refused(where: Where, error: HoldfastError) -> int:
    """Tell why something is not deleted, and how else to delete it; the exit code."""
    code = report(error, where)
    command = how_to_remove(where.manager(), error)
    if command is not None:
        text.say(f"  to remove it, once you are sure that nothing of it runs: {command}")
    return code


def _is_watched() -> bool:
    """Whether somebody sits there who can be asked; a script means what it says."""
    return sys.stdin.isatty() and text.is_terminal(sys.stderr)


def _agreed(manager: StateManager, experiment_ids: Iterable[str]) -> bool:
    """Whether these may go: only results that nobody can have seen are asked about."""
    if not _is_watched():
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


def _foretell(where: Where, experiment_id: str, *, force: bool) -> tuple[int, int]:
    """Say what would be deleted, or why not; the exit code that it would have, and its bytes."""
    manager = where.manager()
    try:
        state = manager.load(experiment_id)
        verdict = manager.liveness(experiment_id)
        if verdict.kind == "alive" or (verdict.kind == "unknown" and not force and _begun(state)):
            raise AlreadyOwnedError(experiment_id, state.owner, None, verdict)
        manager.refuse_survivors(experiment_id, force=force)
    except HoldfastError as err:
        return report(err, where), 0
    folder = manager.folder(experiment_id)
    results = sum(process.result is not None for process in state.process_progress.values())
    size = sum(_sizes(folder))
    facts = [
        text.count(state.num_processes, "process"),
        text.count(results, "result"),
        text.size(size),
    ]
    unseen = seen.unseen(state, folder)
    if unseen:
        facts.append(f"{unseen:,} never shown nor aggregated")
    text.emit([f"{text.short(experiment_id)} would be deleted: {', '.join(facts)}"])
    return 0, size


def _begun(state: ExperimentState) -> bool:
    """Whether anybody ever owned it, of whom it could not be told that he is gone."""
    running = state.status is ExperimentStatus.RUNNING
    return running or state.owner is not None or state.subprocess_pid is not None


def _sizes(folder: Path) -> Iterator[int]:
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                yield (Path(at) / name).lstat().st_size
