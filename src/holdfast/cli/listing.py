"""`holdfast ls`: the experiments of a state directory, all or some, however many there are."""

import contextlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from holdfast.cli.app import in_state_dir
from holdfast.cli.columns import NAMES, Listed, column_of, columns, value_of
from holdfast.cli.failures import UNREADABLE, say_if_absent, told
from holdfast.cli.formats import Format, format_option, write_lines, write_rows
from holdfast.cli.selecting import selecting, unknown
from holdfast.cli.where import Where
from holdfast.encoding import spoken
from holdfast.errors import HoldfastError
from holdfast.identity import Verdict
from holdfast.reading import forms, text
from holdfast.reading.tables import laid_out, left_out_words
from holdfast.status import ExperimentStatus
from holdfast.store.catalog.summary import Summary
from holdfast.store.manager import StateManager
from holdfast.store.strictjson import strict

if TYPE_CHECKING:
    from holdfast.reading.engines import HandedOver
    from holdfast.reading.outliving import Outlived
    from holdfast.reading.selection import Selection
    from holdfast.store.annotations import Annotated

__all__ = ["ls", "meant", "say_unreadable"]

SCHEMA: Final = "holdfast.experiments/1"

#: Processes whose reports one listing looks for.
_MOST_LOOKS: Final = 500

#: What nobody drives, but for what was left running.
_LEFT: Final = (ExperimentStatus.INTERRUPTED, ExperimentStatus.FAILED)

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@click.command()
@selecting
@click.option(
    "--sort",
    "key",
    metavar="NAME",
    help="Sort by this, e.g. created, duration, a parameter or a result; -NAME sorts downwards.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the newest N or, with --sort, the first N.",
)
@click.option(
    "--columns",
    "wanted",
    metavar="A,B,C",
    help="These columns, parameters and results among them, e.g. id,state,lr,accuracy.",
)
@format_option
@in_state_dir
def ls(
    where: Where,
    selection: "Selection | None",
    key: str | None,
    limit: int | None,
    wanted: str | None,
    output: Format,
) -> int:
    """List the experiments, the newest last.

    DONE counts completed processes, FAIL failed ones, REUSED those that another experiment had
    completed before. What goes on in an engine's queue or on its nodes, without an owner, is
    `submitted`. Checks whether the owner of each running experiment is alive, and whether processes
    run on that nobody owns. PROG and BEAT are what running processes report: steps, age of the
    newest report. ELAPSED and ETA leave out what waits in a queue before anything has begun. A dash
    stands for what cannot be told. Files that cannot be read are named; the exit code is 6 then.

    A narrow terminal has fewer columns; no id is cut. Besides those there are reason, owner,
    processes, running, pending, reused, total, tags, note, created, started, finished, updated.
    Other formats than the table have all of them, whole: times in ISO 8601, durations in seconds.

    NAME is a parameter, a value of the results as tables have it (`metrics.f1`), or of the
    experiment itself: id, name, status, reason, processes, done, failed, running, pending, reused,
    created, started, finished, updated, duration. Numbers are compared with numbers, texts with
    texts. Experiments are sorted by the mean of their processes.
    """
    manager = where.manager()
    listing, annotated = manager.listing(), manager.annotated()
    unreadable = [*listing.unreadable, *annotated.unreadable]
    names = None if wanted is None else _names(wanted)
    key = None if key is None else spoken(key)
    states = meant(manager, listing.experiments, annotated, selection)
    chosen = _chosen(manager, states, key, limit)
    found = [_listed(manager, state, value, annotated) for state, value in chosen]
    found = _with_facts(manager, _with_sums(manager, found), names, key)
    if output == "json":
        forms.print_json(
            SCHEMA,
            {
                "experiments": [_form(each, names, key) for each in found],
                "unreadable": forms.unreadable(unreadable),
            },
        )
    elif output != "table":
        _write(found, names, output)
    elif found:
        text.emit(_lines(found, names, key, where.command("ls", "-o", "json")))
    elif selection is not None and listing.experiments:
        among = text.count(len(listing.experiments), "experiment")
        text.say(f"none matches, of {among} in {text.one_line(where.state_dir)}")
    elif not unreadable:
        text.say(f"no experiments in {text.one_line(where.state_dir)}")
        say_if_absent(where.state_dir)
    text.flush()
    if output == "table":
        if len(found) < len(states):
            text.say(f"{len(found):,} of {len(states):,} shown; all without --limit")
        _say_what_to_do(where, found)
    return say_unreadable(where, unreadable)


def meant(
    manager: StateManager,
    states: Sequence[Summary],
    annotated: "Annotated",
    selection: "Selection | None",
) -> Sequence[Summary]:
    """Those of *states* that a selection means. Raises click.UsageError."""
    if selection is None:
        return states
    from holdfast.reading.selection import UnknownNameError, select

    try:
        return select(manager, states, annotated, selection)
    except UnknownNameError as err:
        raise unknown(err, "--where") from None


def _chosen(
    manager: StateManager, states: Sequence[Summary], key: str | None, limit: int | None
) -> Sequence[tuple[Summary, Any]]:
    """Those that are listed, in order, each with what it is sorted by."""
    ordered = sorted(states, key=_age)
    if key is None:
        newest = ordered if limit is None else ordered[max(len(ordered) - limit, 0) :]
        return [(state, None) for state in newest]
    from holdfast.reading.selection import UnknownNameError, choose

    try:
        return choose(manager, ordered, key)[:limit]
    except UnknownNameError as err:
        raise unknown(err, "--sort") from None


def _age(state: Summary) -> tuple[datetime, str]:
    return state.created_at or _LONG_AGO, state.experiment_id


def _form(each: Listed, names: Sequence[str] | None, key: str | None) -> dict[str, Any]:
    now = datetime.now(UTC)
    if names is not None:
        return {name: _sort_form(value_of(each, name, now)) for name in names}
    return {
        **forms.experiment(each.state, each.living),
        **each.said._asdict(),
        "attempts_alive": each.alive,
        "progress": None if each.sums is None else each.sums.form(),
        "elapsed_s": value_of(each, "elapsed", now),
        "eta_s": value_of(each, "eta", now),
        "handed_over": None if each.having is None else each.having.form(),
        **({} if key is None else {"sort": _sort_form(each.value)}),
    }


def _sort_form(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else strict(value)


def say_unreadable(where: Where, unreadable: Sequence[tuple[Path, HoldfastError]]) -> int:
    """Name the files that could not be read, on stderr; the exit code."""
    for _, error in unreadable:
        text.say(told(error, where), "error")
    return UNREADABLE if unreadable else 0


def _listed(manager: StateManager, state: Summary, value: Any, annotated: "Annotated") -> Listed:
    said = annotated.of(state)
    if state.status is ExperimentStatus.AGGREGATED:
        return Listed(state, None, 0, said, value)  # most are, and need no look
    living = _owner(manager, state)
    if living is not None and living.kind == "alive":
        return Listed(state, living, 0, said, value)
    having, left = _unowned(manager, state, living)
    alive = _alive(manager, state) if left is None else left.attempts
    return Listed(state, living, alive, said, value, having=having, left=left)


def _unowned(
    manager: StateManager, state: Summary, living: Verdict | None
) -> "tuple[HandedOver | None, Outlived | None]":
    """What an engine has of an experiment that nobody is seen to drive, and what outlived him."""
    if not state.processes_running:
        return None, None
    from holdfast.reading.engines import handed_over
    from holdfast.reading.outliving import outlived

    try:
        found, folder = manager.load(state.experiment_id), manager.folder(state.experiment_id)
        having = handed_over(found, folder)
        return having, outlived(found, folder, living, having, datetime.now(UTC))
    except HoldfastError:  # deleted since, or damaged
        return None, None


def _owner(manager: StateManager, state: Summary) -> Verdict | None:
    if state.status is not ExperimentStatus.RUNNING:
        return None
    try:
        return manager.liveness(state.experiment_id)
    except HoldfastError:  # deleted since
        return None


def _alive(manager: StateManager, state: Summary) -> int:
    stands = state.status in _LEFT
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
        from holdfast.reading.engines import handed_over
        from holdfast.reading.progress import remaining_s, sums
        from holdfast.reading.times import began

        left -= most
        experiment_id = found[at].state.experiment_id
        with contextlib.suppress(HoldfastError):  # deleted since, or damaged
            state, folder = manager.load(experiment_id), manager.folder(experiment_id)
            having = handed_over(state, folder)
            summed = sums(
                state, folder, now, most=most, waits=None if having is None else having.waits
            )
            left_s = remaining_s(state, now) if summed is None else summed.remaining_s
            found[at] = found[at]._replace(
                sums=summed,
                having=having,
                began=began(state),
                remaining_s=left_s if found[at].goes_on else None,
            )
    return found


def _names(wanted: str) -> list[str]:
    """The columns that somebody asked for, each once; what is no column is a parameter's name."""
    words = [word for each in spoken(wanted).split(",") if (word := each.strip())]
    if not words:
        raise click.UsageError("--columns: no column is named")
    return list(dict.fromkeys(column_of(word) or word for word in words))


def _with_facts(
    manager: StateManager, found: list[Listed], names: Sequence[str] | None, key: str | None
) -> list[Listed]:
    """*found* with the parameters and results that are shown."""
    name = None if key is None else key.removeprefix("-")
    if name is not None and column_of(name) is None:
        found = [each._replace(facts={name: each.value}) for each in found]
    told = [name for name in names or () if column_of(name) is None]
    if not told:
        return found
    from holdfast.reading.selection import UnknownNameError, tell

    try:
        values = tell(manager, [each.state for each in found], told)
    except UnknownNameError as err:
        raise unknown(err, "--columns", NAMES) from None
    return [each._replace(facts=facts) for each, facts in zip(found, values, strict=True)]


def _write(found: list[Listed], names: Sequence[str] | None, output: Format) -> None:
    """Everything about *found* for other programs, row by row."""
    now = datetime.now(UTC)
    shown = NAMES if names is None else names
    if output in ("tsv", "csv"):
        rows = ([value_of(each, name, now) for name in shown] for each in found)
        write_rows("tsv" if output == "tsv" else "csv", shown, rows)
    else:
        write_lines(_form(each, names, None) for each in found)


def _lines(
    found: list[Listed], names: Sequence[str] | None, key: str | None, more: str
) -> list[str]:
    room = text.terminal_width(sys.stdout)
    made = columns(found, names, None if key is None else key.removeprefix("-"))
    lines, left_out = laid_out(made, room, coloured=text.coloured(sys.stdout))
    return [*lines, *left_out_words(left_out, room, more)]


def _say_what_to_do(where: Where, found: list[Listed]) -> None:
    from holdfast.reading.engines import is_left

    for each in found:
        state, alive = each.state, each.alive
        if each.having is not None and each.living is None:
            text.say(
                f"{each.having.title} has {each.having} of {text.one_line(state.experiment_id)}; "
                f"stop it: {where.command('stop', state.experiment_id)}\n"
                f"  or take it over: {where.command('resume', state.experiment_id)}"
            )
        elif alive:
            number = text.count(alive, "attempt")
            text.say(
                f"{number} of {text.one_line(state.experiment_id)} may run on without an owner; "
                f"stop what runs: {where.command('stop', state.experiment_id)}\n"
                f"  or take it over: {where.command('resume', state.experiment_id)}"
            )
    unowned = [each for each in found if is_left(each.state, each.living)]
    for each in unowned:
        if each.having is not None and each.having.ended:
            who = each.state.experiment_id
            text.say(
                f"{each.having.ended:,} of the {each.having.number:,} that {each.having.title} ran "
                f"of {text.one_line(who)} have ended; collect them: {where.command('resume', who)}"
            )
    dead = [each for each in unowned if each.living is not None and each.living.kind == "dead"]
    # Of what runs on, it is said above.
    stale = [each.state for each in dead if each.having is None and not each.alive]
    if len(stale) == 1:
        command = where.command("resume", stale[0].experiment_id)
        text.say(f"the owner of {text.one_line(stale[0].experiment_id)} is dead; go on: {command}")
    elif stale:
        text.say(
            f"the owners of {len(stale)} running experiments are dead; "
            f"mark them as interrupted: {where.command('cleanup')}"
        )
