"""`holdfast ls`: all experiments of a state directory, however many there are."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from holdfast.cli.app import in_state_dir, json_option
from holdfast.cli.failures import UNREADABLE, say_if_absent, told
from holdfast.cli.where import Where
from holdfast.errors import HoldfastError
from holdfast.identity import Verdict
from holdfast.reading import forms, text
from holdfast.status import ExperimentStatus
from holdfast.store.catalog.summary import Summary
from holdfast.store.manager import StateManager

if TYPE_CHECKING:
    from holdfast.reading.progress import Sums

__all__ = ["STYLES", "ls", "say_unreadable"]

SCHEMA: Final = "holdfast.experiments/1"

STYLES: Final[dict[str, text.Style]] = {
    "initialised": "dim",
    "running": "cyan",
    "completed": "green",
    "aggregated": "green",
    "failed": "red",
    "interrupted": "yellow",
}

#: Processes whose reports one listing looks for.
_MOST_LOOKS: Final = 500

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class Listed(NamedTuple):
    """One experiment of the listing."""

    state: Summary
    #: Its owner's verdict, where it is running.
    living: Verdict | None
    #: Attempts of which something runs, or may, although nobody owns the experiment.
    alive: int
    #: What its running processes report, where they do.
    sums: "Sums | None" = None


@click.command()
@click.option(
    "--status",
    "statuses",
    type=click.Choice([str(status) for status in ExperimentStatus]),
    multiple=True,
    help="Only experiments of this status; may be repeated.",
)
@json_option
@in_state_dir
def ls(where: Where, statuses: tuple[str, ...], as_json: bool) -> int:
    """List the experiments, the newest last.

    DONE counts completed processes. Checks whether the owner of each running experiment is alive,
    and whether processes run on that nobody owns. PROG, ETA and BEAT are what running processes
    report: steps, time left, age of the newest report. Files that cannot be read are named, and the
    exit code is 6 then.
    """
    manager = where.manager()
    listing = manager.listing()
    states, unreadable = listing.experiments, listing.unreadable
    if statuses:
        states = [state for state in states if state.status in statuses]
    found = [
        Listed(state, _owner(manager, state), _alive(manager, state))
        for state in sorted(states, key=_age)
    ]
    found = _with_sums(manager, found)
    if as_json:
        forms.print_json(
            SCHEMA,
            {
                "experiments": [
                    {
                        **forms.experiment(state, living),
                        "attempts_alive": alive,
                        "progress": None if sums is None else sums.form(),
                    }
                    for state, living, alive, sums in found
                ],
                "unreadable": forms.unreadable(unreadable),
            },
        )
    elif found:
        text.emit(_lines(found, where.command("ls", "--json")))
    elif not unreadable:
        which = " of that status" if statuses else ""
        text.say(f"no experiments{which} in {text.one_line(where.state_dir)}")
        say_if_absent(where.state_dir)
    text.flush()
    if not as_json:
        _say_what_to_do(where, found)
    return say_unreadable(where, unreadable)


def say_unreadable(where: Where, unreadable: list[tuple[Path, HoldfastError]]) -> int:
    """Name the files that could not be read, on stderr; the exit code."""
    for _, error in unreadable:
        text.say(told(error, where), "error")
    return UNREADABLE if unreadable else 0


def _owner(manager: StateManager, state: Summary) -> Verdict | None:
    if state.status is not ExperimentStatus.RUNNING:
        return None
    try:
        return manager.liveness(state.experiment_id)
    except HoldfastError:  # deleted since
        return None


def _alive(manager: StateManager, state: Summary) -> int:
    stands = state.status in (ExperimentStatus.INTERRUPTED, ExperimentStatus.FAILED)
    completed = state.status is ExperimentStatus.COMPLETED
    if not completed and not (stands and state.processes_running):
        return 0
    try:
        # Of one that is completed, its own aggregation may have been left.
        left = manager.survivors(state.experiment_id, aggregation_only=completed)
        if completed and left and manager.liveness(state.experiment_id).kind == "alive":
            return 0
        return len(left)
    except HoldfastError:  # deleted since, or it cannot be told
        return 0


def _with_sums(manager: StateManager, found: list[Listed]) -> list[Listed]:
    """*found* with what running processes report: of the newest experiments, so many files."""
    running = [at for at, each in enumerate(found) if each.living is not None]
    left, now = _MOST_LOOKS, datetime.now(UTC)
    for at in reversed(running):
        most = min(left, found[at].state.processes_running)
        if not most:
            continue
        from holdfast.reading.progress import sums

        left -= most
        experiment_id = found[at].state.experiment_id
        with contextlib.suppress(HoldfastError):  # deleted since, or damaged
            state = manager.load(experiment_id)
            summed = sums(state, manager.folder(experiment_id), now, most=most)
            found[at] = found[at]._replace(sums=summed)
    return found


def _age(state: Summary) -> tuple[datetime, str]:
    return state.created_at or _LONG_AGO, state.experiment_id


def _lines(found: list[Listed], more: str) -> list[str]:
    now = datetime.now(UTC)
    reports = any(each.sums is not None for each in found)
    if reports:
        from holdfast.reading.progress import HEADER, cells
    rows = [
        (
            text.one_line(state.experiment_id),
            forms.status_words(state, living) + (f", {alive} run on" if alive else ""),
            f"{state.processes_completed}/{state.num_processes}",
            str(state.processes_failed or ""),
            *(cells(sums) if reports else ()),
            text.age(state.last_updated, now),
            text.one_line(state.name or ""),
        )
        for state, living, alive, sums in found
    ]
    more_columns = HEADER if reports else ()
    header = ("ID", "STATUS", "DONE", "FAILED", *more_columns, "UPDATED", "NAME")
    numbers = range(2, 4 + len(more_columns))
    updated, name = len(header) - 2, len(header) - 1
    give_way = (updated, 3, name)
    return text.table(header, rows, right=numbers, styles=STYLES, give_way=give_way, more=more)


def _say_what_to_do(where: Where, found: list[Listed]) -> None:
    for state, _, alive, _ in found:
        if alive:
            command = where.command("resume", state.experiment_id)
            number = text.count(alive, "attempt")
            text.say(
                f"{number} of {text.one_line(state.experiment_id)} may run on without an owner; "
                f"take over, or stop: {command}"
            )
    stale = [each.state for each in found if each.living is not None and each.living.kind == "dead"]
    if len(stale) == 1:
        command = where.command("resume", stale[0].experiment_id)
        text.say(f"the owner of {text.one_line(stale[0].experiment_id)} is dead; go on: {command}")
    elif stale:
        text.say(
            f"the owners of {len(stale)} running experiments are dead; "
            f"mark them as interrupted: {where.command('cleanup')}"
        )
