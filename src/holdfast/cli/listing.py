"""`holdfast ls`: the experiments of a state directory, all or some, however many there are."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from holdfast.cli.app import in_state_dir, json_option
from holdfast.cli.failures import UNREADABLE, say_if_absent, told
from holdfast.cli.selecting import selecting, unknown
from holdfast.cli.where import Where
from holdfast.encoding import spoken
from holdfast.errors import HoldfastError
from holdfast.identity import Verdict
from holdfast.reading import forms, text
from holdfast.reading.glyphs import STYLES
from holdfast.status import ExperimentStatus
from holdfast.store.catalog.summary import Summary
from holdfast.store.manager import StateManager
from holdfast.store.strictjson import strict

if TYPE_CHECKING:
    from holdfast.reading.engines import HandedOver
    from holdfast.reading.progress import Sums
    from holdfast.reading.selection import Selection
    from holdfast.store.annotations import Annotated, Annotations

__all__ = ["ls", "meant", "say_unreadable"]

SCHEMA: Final = "holdfast.experiments/1"

#: Processes whose reports one listing looks for.
_MOST_LOOKS: Final = 500

#: What nobody drives, but for what was left running.
_LEFT: Final = (ExperimentStatus.INTERRUPTED, ExperimentStatus.FAILED)

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class Listed(NamedTuple):
    """One experiment of the listing."""

    state: Summary
    #: Its owner's verdict, where it is running.
    living: Verdict | None
    #: Attempts of which something runs, or may, although nobody owns the experiment.
    alive: int
    said: "Annotations"
    #: What it is sorted by; None if it has nothing of that name, or the order is that of age.
    value: Any = None
    #: What its running processes report, where they do.
    sums: "Sums | None" = None
    #: What an engine with a queue has of it.
    having: "HandedOver | None" = None


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
@json_option
@in_state_dir
def ls(
    where: Where,
    selection: "Selection | None",
    key: str | None,
    limit: int | None,
    as_json: bool,
) -> int:
    """List the experiments, the newest last.

    DONE counts completed processes, REUSED those that another experiment had completed before.
    What goes on in an engine's queue or on its nodes, without an owner, is `submitted`.
    Checks whether the owner of each running experiment is alive, and whether processes run on that
    nobody owns. PROG, ETA and BEAT are what running processes report: steps, time left, age of the
    newest report. Files that cannot be read are named, and the exit code is 6 then.

    NAME is a parameter, a value of the results as tables have it (`metrics.f1`), or of the
    experiment itself: id, name, status, reason, processes, done, failed, running, pending, reused,
    created, started, finished, updated, duration. Numbers are compared with numbers, texts with
    texts. Experiments are sorted by the mean of their processes.
    """
    manager = where.manager()
    listing, annotated = manager.listing(), manager.annotated()
    unreadable = [*listing.unreadable, *annotated.unreadable]
    states = meant(manager, listing.experiments, annotated, selection)
    chosen = _chosen(manager, states, None if key is None else spoken(key), limit)
    found = [_listed(manager, state, value, annotated) for state, value in chosen]
    found = _with_sums(manager, found)
    if as_json:
        forms.print_json(
            SCHEMA,
            {
                "experiments": [_form(each, key) for each in found],
                "unreadable": forms.unreadable(unreadable),
            },
        )
    elif found:
        text.emit(_lines(found, key, where.command("ls", "--json")))
    elif selection is not None and listing.experiments:
        among = text.count(len(listing.experiments), "experiment")
        text.say(f"none matches, of {among} in {text.one_line(where.state_dir)}")
    elif not unreadable:
        text.say(f"no experiments in {text.one_line(where.state_dir)}")
        say_if_absent(where.state_dir)
    text.flush()
    if not as_json:
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


def _form(each: Listed, key: str | None) -> dict[str, Any]:
    return {
        **forms.experiment(each.state, each.living),
        **each.said._asdict(),
        "attempts_alive": each.alive,
        "progress": None if each.sums is None else each.sums.form(),
        "handed_over": None if each.having is None else each.having.form(),
        **({} if key is None else {"sort": _sort_form(each.value)}),
    }


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
    having = None if living is not None and living.kind == "alive" else _having(manager, state)
    return Listed(state, living, _alive(manager, state), said, value, having=having)


def _having(manager: StateManager, state: Summary) -> "HandedOver | None":
    """What an engine has of an experiment that nobody is seen to drive."""
    if not state.processes_running:
        return None
    from holdfast.reading.engines import handed_over

    try:
        found = manager.load(state.experiment_id)
        return handed_over(found, manager.folder(state.experiment_id))
    except HoldfastError:  # deleted since, or damaged
        return None


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
        from holdfast.reading.progress import sums

        left -= most
        experiment_id = found[at].state.experiment_id
        with contextlib.suppress(HoldfastError):  # deleted since, or damaged
            state, folder = manager.load(experiment_id), manager.folder(experiment_id)
            having = handed_over(state, folder)
            summed = sums(
                state, folder, now, most=most, waits=None if having is None else having.waits
            )
            found[at] = found[at]._replace(sums=summed, having=having)
    return found


def _status(each: Listed) -> str:
    from holdfast.reading.engines import is_left

    words = forms.status_words(each.state, each.living, each.having)
    if each.having is not None:
        left = each.living is None or is_left(each.state, each.living)
        return ", ".join(filter(None, (words, str(each.having) if left else each.having.waiting)))
    return f"{words}, {each.alive} run on" if each.alive else words


def _value(value: Any, name: str, now: datetime) -> str:
    from holdfast.reading.cells import cell

    if isinstance(value, datetime):
        return text.age(value, now)
    return text.duration(value) if name == "duration" and value is not None else cell(value)


def _sort_form(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else strict(value)


#: Columns that may be left out, the first to go first.
_GIVE_WAY: Final = ("UPDATED", "FAILED", "REUSED", "TAGS", "NAME")
#: What the listing says anyway, and needs no column of its own to be sorted by.
_COLUMNS: Final = frozenset({"id", "name", "status", "done", "failed", "reused", "updated"})


def _lines(found: list[Listed], key: str | None, more: str) -> list[str]:
    now = datetime.now(UTC)
    columns = [
        ("ID", [text.one_line(each.state.experiment_id) for each in found]),
        ("STATUS", [_status(each) for each in found]),
        ("DONE", [f"{s.processes_completed}/{s.num_processes}" for s, *_ in found]),
        ("REUSED", [str(s.processes_reused or "") for s, *_ in found]),
        ("FAILED", [str(s.processes_failed or "") for s, *_ in found]),
    ]
    if any(each.sums is not None for each in found):
        from holdfast.reading.progress import HEADER, cells

        reports = zip(*(cells(each.sums) for each in found), strict=True)
        columns += zip(HEADER, map(list, reports), strict=True)
    numbers = {header for header, _ in columns[2:]}
    columns.append(("UPDATED", [text.age(s.last_updated, now) for s, *_ in found]))
    name = "" if key is None else key.removeprefix("-")
    if name and name not in _COLUMNS:
        values = [_value(each.value, name, now) for each in found]
        columns.append((text.short(name, 40), values))
        if all(isinstance(each.value, int | float) for each in found if each.value is not None):
            numbers.add(columns[-1][0])
    columns.append(("TAGS", [" ".join(each.said.tags) for each in found]))
    columns.append(("NAME", [text.one_line(s.name or "") for s, *_ in found]))
    # Most listings have nothing to say in these.
    columns = [each for each in columns if each[0] not in ("REUSED", "TAGS") or any(each[1])]
    header = [each for each, _ in columns]
    return text.aligned(
        [[header, *cells] for header, cells in columns],
        right=[at for at, each in enumerate(header) if each in numbers],
        styles=STYLES,
        give_way=[header.index(each) for each in _GIVE_WAY if each in header],
        more=more,
    )


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
    stale = [each.state for each in dead if each.having is None]
    if len(stale) == 1:
        command = where.command("resume", stale[0].experiment_id)
        text.say(f"the owner of {text.one_line(stale[0].experiment_id)} is dead; go on: {command}")
    elif stale:
        text.say(
            f"the owners of {len(stale)} running experiments are dead; "
            f"mark them as interrupted: {where.command('cleanup')}"
        )
