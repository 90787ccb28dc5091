"""`holdfast show`: one experiment, read at 2 a.m.: what failed and why, what runs, what to do."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.addressing import resolve_unit
from holdfast.cli.annotating import said_about
from holdfast.cli.app import experiment_argument, in_state_dir
from holdfast.cli.events import STEP, print_events, recent
from holdfast.cli.failures import told
from holdfast.cli.formats import Format, format_option, print_processes
from holdfast.cli.heading import about, heading
from holdfast.cli.results import found, process_page, remaking, result_lines
from holdfast.cli.running import running_lines, waiting_lines
from holdfast.cli.where import Where
from holdfast.errors import ConfigError, HoldfastError
from holdfast.identity import Verdict
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import codes, forms, reasons, text
from holdfast.reading.contention import slots_words
from holdfast.reading.engines import handed_over
from holdfast.reading.evidence import Params, failures, parameters
from holdfast.reading.outliving import outlived
from holdfast.reading.progress import form, remaining_s, standings
from holdfast.results.changed import Changed, of_state
from holdfast.results.spending import attempts_duration_s
from holdfast.status import SETTLED, ExperimentStatus
from holdfast.store.history import Transition

if TYPE_CHECKING:
    from holdfast.store.annotations import Annotations

__all__ = ["show"]

SCHEMA: Final = "holdfast.experiment/1"

#: Columns of what stands alone in a line.
_LONG: Final = 500


@click.command()
@click.option("--history", "whole", is_flag=True, help="The whole history, not only its end.")
@click.option(
    "--events",
    "only_events",
    is_flag=True,
    help="Nothing but the history: every transition, when, by whom, why, and what proved it.",
)
@format_option
@experiment_argument
@in_state_dir
def show(where: Where, query: str, whole: bool, only_events: bool, output: Format) -> int:
    """Show one experiment: status, what failed and why, what runs, results, history, what to do.

    If it is not finished, the results are those of what is completed so far. ID/INDEX shows one
    process, or its events. `-o jsonl`, tsv and csv have a row per process, or per event.
    """
    manager = where.manager()
    experiment_id, unit = resolve_unit(manager, query)
    state = manager.load(experiment_id)
    folder = manager.folder(experiment_id)
    index = None if unit is None else int(unit)
    if only_events:
        print_events(experiment_id, index, manager.history(experiment_id), output)
        return 0
    if output in ("jsonl", "tsv", "csv"):
        print_processes(state, folder, said_about(where, experiment_id), index, output)
        return 0
    living = manager.liveness(experiment_id)
    if index is not None:
        process_page(where, state, folder, index, living, as_json=output == "json")
        return 0
    params = parameters(state)
    annotations = said_about(where, experiment_id)
    history: list[Transition] = []
    problem = None
    try:
        history = manager.history(experiment_id)
    except HoldfastError as err:
        problem = err  # the rest of the page must not go with it
    if output == "json":
        _print_json(where, state, folder, living, params, history, annotations)
    else:
        changed = _outdated(state, folder)
        having = handed_over(state, folder)
        now = datetime.now(UTC)
        reported = standings(state, folder, now, waits=None if having is None else having.waits)
        left_s = remaining_s(state, now, reported)
        left = outlived(state, folder, living, having, now)
        lines = heading(state, living, having, annotations, left_s, left)
        lines += _code(state, changed)
        failed = failures(where.command, state, folder, params, sys.stdout)
        lines += ["", text.bold("failed"), *failed] if failed else []
        lines += running_lines(state, folder, living, params, having, reported, history)
        lines += waiting_lines(state, folder, params)
        lines += ["", *waits] if (waits := slots_words(state, folder)) else []
        lines += result_lines(where, state, folder)
        lines += ["", text.bold("about"), *about(state, folder, manager.state_dir)]
        lines += recent(history, whole=whole)
        words = forms.next_step(manager, state, living)
        if words is None and state.status is ExperimentStatus.AGGREGATED:
            words = remaking(state, folder)
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
            "history": [forms.plain(each, *STEP) for each in history],
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
