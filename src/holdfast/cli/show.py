"""`holdfast show`: one experiment, read at 2 a.m.: what failed and why, what runs, what to do."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.attempts.files import live_state
from holdfast.attempts.looking import glance
from holdfast.attempts.names import AttemptName
from holdfast.attempts.surviving import halted
from holdfast.cli.addressing import resolve_unit
from holdfast.cli.annotating import said_about
from holdfast.cli.app import experiment_argument, in_state_dir, json_option
from holdfast.cli.failures import told
from holdfast.cli.results import found, process_page, remaking, result_lines
from holdfast.cli.where import Where
from holdfast.encoding import local
from holdfast.errors import ConfigError, HoldfastError
from holdfast.identity import Verdict
from holdfast.lifecycle.processes import RUNS
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import codes, forms, reasons, text, waiting
from holdfast.reading.contention import slots_words
from holdfast.reading.engines import HandedOver, began, handed_over, is_left, place
from holdfast.reading.evidence import Params, failures, last_words, parameters, params_words
from holdfast.reading.glyphs import STYLES
from holdfast.reading.progress import HEADER, MOST, alike, cells, form, said, standings
from holdfast.results.changed import Changed, of_state
from holdfast.results.spending import attempts_duration_s
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus
from holdfast.store.attempted import attempt_of
from holdfast.store.history import Transition

if TYPE_CHECKING:
    from holdfast.orchestration.fates import Decision
    from holdfast.store.annotations import Annotations

__all__ = ["show"]

SCHEMA: Final = "holdfast.experiment/1"

_RECENT: Final = 8

#: What of the file is shown as it stands there.
_TABLES: Final = (
    *("matrix", "env", "limits", "retry", "aggregate", "engine", "identity", "outputs"),
    *("store", "slots", "needs"),
)
#: Columns of what stands alone in a line.
_LONG: Final = 500

#: What `--json` has of each step.
_STEP: Final = (
    "at", "entity", "index", "event", "source", "target", "actor", "reason", "evidence",
)  # fmt: skip
#: What a reader of the history does not look for: who came and went.
_QUIET: Final = frozenset({"launched", "phase"})
#: Processes in the table of what runs.
_MOST_RUNNING: Final = 200
#: Events that say their usual reason.
_PLAIN: Final = frozenset({("complete", "exit"), ("reuse", "reused")})


@click.command()
@click.option("--history", "whole", is_flag=True, help="The whole history, not only its end.")
@json_option
@experiment_argument
@in_state_dir
def show(where: Where, query: str, whole: bool, as_json: bool) -> int:
    """Show one experiment: status, owner, what failed and why, what runs, history, what to do.

    If it is not finished, the results are those of what is completed so far. ID/INDEX shows one
    process.
    """
    manager = where.manager()
    experiment_id, unit = resolve_unit(manager, query)
    state = manager.load(experiment_id)
    folder = manager.folder(experiment_id)
    if unit is not None:
        process_page(where, state, folder, int(unit), as_json=as_json)
        return 0
    living = manager.liveness(experiment_id)
    params = parameters(state)
    annotations = said_about(where, experiment_id)
    history: list[Transition] = []
    problem = None
    try:
        history = manager.history(experiment_id)
    except HoldfastError as err:
        problem = err  # the rest of the page must not go with it
    if as_json:
        _print_json(where, state, folder, living, params, history, annotations)
    else:
        changed = _outdated(state, folder)
        having = handed_over(state, folder)
        lines = _head(state, living, having, folder, manager.state_dir, annotations)
        lines += _code(state, changed)
        failed = failures(where.command, state, folder, params, sys.stdout)
        lines += ["", text.bold("failed"), *failed] if failed else []
        lines += _running(state, folder, living, params, having, history)
        lines += _waiting(state, folder, params)
        lines += ["", *waits] if (waits := slots_words(state, folder)) else []
        lines += result_lines(where, state, folder)
        lines += _recent(history, whole)
        words = forms.next_words(state, living)
        if words is None and state.status is ExperimentStatus.AGGREGATED:
            words = remaking(state, folder)
        if words is not None and words[0] == "aggregate" and manager.survivors(experiment_id):
            # An aggregation is refused as long as something runs; a resume stops it first.
            words = "resume", experiment_id
        if words is not None:
            lines += ["", f"next: {where.command(*words)}"]
        elif changed and state.status in SETTLED:
            again = where.command("resume", "--rerun-changed", experiment_id)
            lines += ["", f"to run anew what changed, in a new experiment: {again}"]
        text.emit(lines)
    if problem is not None:
        raise problem
    return 0


def _outdated(state: ExperimentState, folder: Path) -> Changed | None:
    """What changed since it was run and aggregated; None where that cannot be told."""
    if all(process.code is None for process in state.process_progress.values()):
        return None
    from holdfast.orchestration.configured import configuration
    from holdfast.orchestration.marking import digests_of

    try:
        made = configuration(state, folder.parent)
        if not made.cwd.is_dir():
            return None
        with digests_of(folder.parent) as digests:
            command = made.aggregate.command
            return of_state(state, folder, made.cwd, digests, command=command, declared=True)
    except (ConfigError, OSError, ValueError):
        return None


def _code(state: ExperimentState, changed: Changed | None) -> list[str]:
    if not changed:
        return []
    outdated = "outdated: " if state.status in SETTLED else ""
    words = text.short(changed.since(state.num_processes), _LONG)
    return [f"{'code':<10} {outdated}{words}"]


def _print_json(
    where: Where,
    state: ExperimentState,
    folder: Path,
    living: Verdict,
    params: Params,
    history: list[Transition],
    annotations: "Annotations",
) -> None:
    failed = reasons.failures(folder, state)
    try:
        aggregate = found(state, folder)
    except HoldfastError as err:
        text.say(told(err, where), "warning")
        aggregate = None
    having = handed_over(state, folder)
    spent = attempts_duration_s(state, folder)
    waits = None if having is None else having.waits
    now, most = datetime.now(UTC), state.processes_running
    reported = standings(state, folder, now, most=most, waits=waits)
    words = forms.next_words(state, living)
    changed = _outdated(state, folder)
    forms.print_json(
        SCHEMA,
        {
            "experiment": {
                **forms.experiment(state, living),
                **annotations._asdict(),
                **forms.plain(state, "config_path", "cwd", "revision", "epoch", "config", "extra"),
            },
            "processes": [
                forms.process(
                    index,
                    progress,
                    None if params is None else params[index],
                    failed[index].error if index in failed else None,
                    spent.get(index),
                    form(reported.get(index)),
                )
                for index, progress in state.process_progress.items()
            ],
            "history": [forms.plain(each, *_STEP) for each in history],
            "aggregate": aggregate,
            "code": {
                "changed": {**changed.files, **changed.aggregation} if changed else {},
                "changed_since": list(changed.processes) if changed else [],
                "mixed": list(codes.marks(aggregate).sentences),
            },
            "waits": slots_words(state, folder),
            "handed_over": None if having is None else having.form(),
            "next_command": None if words is None else where.command(*words),
        },
    )


def _head(
    state: ExperimentState,
    living: Verdict,
    having: HandedOver | None,
    folder: Path,
    state_dir: Path,
    annotations: "Annotations",
) -> list[str]:
    title = text.one_line(state.experiment_id)
    if state.name:
        title += f"  {text.short(state.name, _LONG)}"
    words = "submitted" if having is not None and is_left(state, living) else state.status
    status = text.paint(words, STYLES[state.status], text.coloured(sys.stdout))
    if state.reason is not None:
        status += f" ({state.reason})"
    if state.error_message:
        status += f": {text.short(state.error_message, _LONG)}"
    counts = ", ".join(
        f"{number:,} {status}"
        for status in ProcessStatus
        if (number := state.processes.count(status))
    )
    if reused := state.processes_reused:
        counts += f" ({reused:,} reused)"
    rows = [
        ("status", status),
        ("tags", text.one_line(" ".join(annotations.tags))),
        ("note", text.short(annotations.note or "", _LONG)),
        ("owner", _owner(state, living)),
        ("processes", f"{state.num_processes:,}" + (f": {counts}" if counts else "")),
        *([] if having is None else [(having.engine, str(having))]),
        ("created", _moment(state.created_at)),
        ("started", _moment(state.started_at)),
        ("finished", _moment(state.finished_at)),
        *_config(state, state_dir),
        ("folder", text.one_line(folder)),
    ]
    return [text.bold(title), *(f"{label:<10} {words}" for label, words in rows if words)]


def _owner(state: ExperimentState, living: Verdict) -> str:
    if state.owner is None and state.subprocess_pid is None:
        return ""
    who = str(state.owner) if state.owner is not None else f"pid {state.subprocess_pid}"
    if state.owner is not None and state.owner.released:
        return f"none; the last was {text.one_line(who)}, which let it go"
    return text.one_line(f"{who}: {living}")


def _config(state: ExperimentState, state_dir: Path) -> list[tuple[str, str]]:
    config = state.config
    rows: list[tuple[str, str]] = []
    command = config.get("command")
    if isinstance(command, list):
        import shlex

        rows.append(("command", text.short(shlex.join(map(str, command)), _LONG)))
    if state.ranks is not None:
        together = "each for itself" if state.ranks.independent else "a gang"
        launchers = text.count(state.num_processes // state.ranks.count, "launcher")
        rows.append(("ranks", f"{state.ranks.count} of each command, {together}; {launchers}"))
    for key in _TABLES:
        part = config.get(key)
        if isinstance(part, Mapping) and part:
            rules = part.get("rule") if key == "retry" else None
            listed = [each for each in rules or () if isinstance(each, Mapping)]
            rest = {name: each for name, each in part.items() if not listed or name != "rule"}
            rows.append((key, _written(rest)))
            # The history calls them by their numbers.
            rows += [(f"rule {at}", _written(each)) for at, each in enumerate(listed, 1)]
    if state.config_path is not None:
        rows.append(("file", text.short(state.config_path, _LONG) + _changed(state, state_dir)))
    if state.cwd is not None:
        rows.append(("runs in", text.short(state.cwd, _LONG)))
    if state.config_hash is not None:
        rows.append(("hash", text.one_line(state.config_hash[:16])))
    return rows


def _written(table: Mapping[str, object]) -> str:
    """*table* as it may stand in the file; what a terminal cannot show is escaped."""
    values = {
        name: "none" if each is None else json.dumps(each, ensure_ascii=False)
        for name, each in table.items()
    }
    return text.short(", ".join(f"{name} = {each}" for name, each in values.items()), _LONG)


def _changed(state: ExperimentState, state_dir: Path) -> str:
    """In which limits the experiment's file differs by now from what is stored, and shown."""
    from holdfast.config.experiment_file import load_config

    try:
        # A pipe (`run <(make_file)`) would be waited for.
        path = Path(local(state.config_path or ""))
        if not path.is_file():
            return ""
        now = load_config(path)
        if state.config_hash not in now.config_hashes(state_dir):
            return ""  # changed, moved, or run with --set: another experiment's by now
    except (ConfigError, OSError, ValueError):
        return ""
    other = " and ".join(now.differs_in(state.config))
    return f" (has other {other} by now: `run` uses those, `resume` these)" if other else ""


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{text.when(at)} ({text.age(at)})"


def _running(
    state: ExperimentState,
    folder: Path,
    living: Verdict,
    params: Params,
    having: HandedOver | None,
    history: Sequence[Transition],
) -> list[str]:
    indices = state.processes.indices(ProcessStatus.RUNNING)
    if not indices:
        return []
    phases = {} if having is None else having.phases
    # What runs or has ended, then what is held: a queue can be long, and tells the same of each.
    order = {RUNS: 0, "held": 1, "queued": 2}
    indices = sorted(indices, key=lambda index: (order[phases.get(index, RUNS)], index))
    left, indices = indices[_MOST_RUNNING:], indices[:_MOST_RUNNING]
    now = datetime.now(UTC)
    watched = living.kind == "alive"
    decided = () if watched else _decided(state, folder, now)
    reported = standings(state, folder, now, waits=None if having is None else having.waits)
    said_why = {each.index: each.evidence for each in history if each.event == "phase"}
    said_why = {index: why for index, why in said_why.items() if why}
    rows, stopped = [], []
    for number, index in enumerate(indices):
        progress = state.processes[index]
        name, phase = attempt_of(state, index), phases.get(index, RUNS)
        since = progress.started_at or (
            progress.submitted_at if phase != RUNS else began(folder, name)
        )
        lasted = "" if since is None else text.duration((now - since).total_seconds())
        who = "" if progress.identity is None else str(progress.identity)
        what = who if watched else decided[index].why
        what = text.short(what.removeprefix(f"attempt {progress.attempt} "))  # a column of its own
        if having is not None and index in having.over and _is_revoked(folder, name):
            what = "taken out of the queue before it began"
        elif (there := place(progress)) and (having is None or index not in having.over):
            what = f"{phase}: {there}"
            if phase != RUNS and index in said_why:
                what += f" ({text.short(said_why[index])})"
        with contextlib.suppress(HoldfastError, OSError):  # nobody can tell at this moment
            if (halt := halted(glance(folder, name))) is not None:
                stopped.append(f"  process {index}: {halt}")
        standing = reported.get(index)
        says = "" if standing is None else said(standing.progress)
        if standing is None and number < MOST and phase == RUNS:
            says = last_words(state, folder, index)
        if name.is_launcher:
            what = f"{name.unit}: {what}" if what else name.unit
        words = what, params_words(params, index), text.short(says)
        rows.append((index, (str(progress.attempt), lasted, *cells(standing), *words)))
    title = "running" if watched else "running when the owner was last heard of, and now"
    if having is not None:
        title = f"what {having.title} has"
    where = "WHERE" if having is not None else "SHIM" if watched else "NOW"
    last = (where, "PARAMETERS", "SAYS")
    header = ("PROCESS", "ATTEMPT", "SINCE", *HEADER, *last)
    table = [(text.ranges(group), *row) for group, row in alike(state, rows)]
    lines = ["", text.bold(title), *_table(header, table), *stopped]
    if left:
        more = sum(phases.get(index, RUNS) != RUNS for index in left)
        kind = "waiting" if more == len(left) else "running or waiting" if more else "running"
        lines.append(f"  … and {len(left):,} more {kind}: see --json")
    return lines


def _is_revoked(folder: Path, name: AttemptName) -> bool:
    with contextlib.suppress(HoldfastError, OSError):  # nobody can tell at this moment
        return live_state(folder, name).kind == "revoked"
    return False


def _waiting(state: ExperimentState, folder: Path, params: Params) -> list[str]:
    now = datetime.now(UTC)
    rows = [
        (
            index,
            (
                *(text.when(each.until), text.duration((each.until - now).total_seconds())),
                *(params_words(params, index), text.short(each.why), each.limits),
            ),
        )
        for index, each in waiting.waits(state, folder, now).items()
    ]
    if not rows:
        return []
    header = ("PROCESS", "NOT BEFORE", "IN", "PARAMETERS", "AFTER", "LIMITS")
    table = [(text.ranges(group), *row) for group, row in alike(state, rows)]
    return ["", text.bold("waiting for the next attempt"), *_table(header, table, numbers=3)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 5) -> list[str]:
    """*rows* without the columns in which none says anything, the first of which are numbers."""
    kept = [i for i, cells in enumerate(zip(*rows, strict=True)) if i < 3 or any(cells)]
    columns = [[row[i] for i in kept] for row in rows]
    right = [at for at, i in enumerate(kept) if i < numbers]
    return text.table([header[i] for i in kept], columns, right=right, indent="  ")


def _decided(state: ExperimentState, folder: Path, now: datetime) -> "Sequence[Decision]":
    """What a resume would do with each process, as far as single attempts decide it."""
    from holdfast.config.experiment_file import Limits, Retry
    from holdfast.orchestration.configured import configuration
    from holdfast.orchestration.takeover import foresee
    from holdfast.orchestration.taking import Taking

    limits, retry, take = Limits(), Retry(), Taking()
    with contextlib.suppress(ConfigError):  # made by hand, or through the library
        experiment = configuration(state, folder.parent)
        limits, retry, take = experiment.limits, experiment.retry, Taking(experiment=experiment)
    return foresee(state, folder, now, limits, retry, take=take, verify=False).decisions


def _recent(history: list[Transition], whole: bool) -> list[str]:
    wanted: list[Transition | str] = list(history)
    if not whole:
        wanted = list(_together([each for each in history if each.event not in _QUIET]))
    shown = wanted if whole else wanted[-_RECENT:]
    if not shown:
        return []
    title = "history"
    if len(shown) < len(history):
        title += f" (last {len(shown)} of {len(history):,}; all of it: --history)"
    lines = ["", text.bold(title)]
    for each in shown:
        if isinstance(each, str):
            lines.append(each)
            continue
        who = "experiment" if each.index is None else f"process {each.index}"
        # Words of a file: whether the machine has them is the doctor's question.
        event, source, target = map(text.one_line, (each.event, each.source, each.target))
        move = "" if source == target else f": {source} -> {target}"
        said = each.reason is None or (each.event, each.reason) in _PLAIN
        why = "" if said else f" ({each.reason})"
        lines.append(f"  {text.clock(each.at)}  {who} {event}{move}{why}")
        if whole and each.index is None:
            lines[-1] += f", by {text.one_line(each.actor)}"
        if each.evidence:
            lines.append(f"    {text.short(each.evidence, _LONG)}")
    return lines


def _together(history: list[Transition]) -> Iterator[Transition | str]:
    """*history*, what was reused at once in one line."""
    for reuse, group in groupby(history, lambda each: each.event == "reuse"):
        steps = list(group)
        if not reuse or len(steps) == 1:
            yield from steps
            continue
        which = text.ranges(sorted(each.index for each in steps if each.index is not None))
        number = text.count(len(steps), "process")
        yield f"  {text.clock(steps[-1].at)}  {number} reused: {text.short(which, _LONG)}"
