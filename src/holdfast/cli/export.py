"""`holdfast export`: everything about the processes of an experiment, as a file for other tools."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import click

from holdfast.cli.addressing import resolve_unit
from holdfast.cli.annotating import said_about
from holdfast.cli.app import experiment_argument, in_state_dir
from holdfast.cli.where import Where
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import forms, seen, text
from holdfast.reading.cells import flat
from holdfast.reading.codes import reused_from
from holdfast.reading.evidence import parameters
from holdfast.results import aggregation, rows
from holdfast.store.annotations import Annotations

__all__ = ["export"]

_ABOUT: Final = (
    "index", "status", "reason", "attempts", "exit_code", "signal", "host", "started_at",
    "completed_at", "duration_s", "attempts_duration_s", "max_rss_bytes", "cpu_s", "work", "code",
    "reused_from", "error", "tags", "note",
)  # fmt: skip
#: Of an engine with a queue.
_OF_A_QUEUE: Final = (
    "phase", "submitted_at", "queued_s", "requested_cpus", "requested_memory_bytes",
)  # fmt: skip
_USED: Final = ("max_rss_bytes", "cpu_s", *_OF_A_QUEUE[2:])

_encode: Final = json.JSONEncoder(allow_nan=False).encode


@click.command()
@click.option("--csv", "as_csv", is_flag=True, help="CSV (the default).")
@click.option("--jsonl", "as_lines", is_flag=True, help="A JSON object in each line.")
@experiment_argument
@in_state_dir
def export(where: Where, query: str, as_csv: bool, as_lines: bool) -> int:
    """Print one row per process with everything: status, attempts, times, parameters, result.

    Results are whole. In CSV, parameters are in columns `params.lr`, nested results in
    `result.metrics.f1`; lists are JSON, and so is what a large result has beyond 10,000 members, in
    `result.…`. ID/INDEX prints one process.
    """
    if as_csv and as_lines:
        raise click.UsageError("--csv or --jsonl, not both")
    manager = where.manager()
    experiment_id, unit = resolve_unit(manager, query)
    state = manager.load(experiment_id)
    folder = manager.folder(experiment_id)
    said = said_about(where, experiment_id)
    only = None if unit is None else int(unit)
    found = aggregation.partial_of(state, folder, parameters(state) or (), only=only)
    with text.delivering():
        if as_lines:
            for line in _lines(state, found, said):
                sys.stdout.write(line)
                sys.stdout.write("\n")
        else:
            _write_csv(state, found, said)
    if found["rows"] and (only is None or state.num_processes == 1):
        seen.mark(folder)
    for lost in found["missing"]:
        if lost["lost"]:
            text.say(f"process {lost['index']}: {lost['why']}", "warning")
    return 0


_T = TypeVar("_T")


def _by_index(
    found: Mapping[str, Any], whole: Iterator[_T]
) -> Iterator[tuple[int, _T | None, Mapping[str, Any] | None]]:
    """Every process in order: its index, and what *whole* has of its row, or why there is none."""
    missing = {each["index"]: each for each in found["missing"]}
    indices = {row["index"] for row in rows.outlines(found["rows"])}
    # Rows are in the order of their indices.
    for index in sorted({*indices, *missing}):
        yield index, next(whole) if index in indices else None, missing.get(index)


def _lines(state: ExperimentState, found: Mapping[str, Any], said: Annotations) -> Iterator[str]:
    """Every row with all there is as JSON, of which large results are never built."""
    for index, row, lacking in _by_index(found, rows.encoded(found["rows"])):
        if row is None:
            assert lacking is not None
            row = _encode({**lacking["row"], "result": None})
        about = _about(state, index, None if lacking is None else lacking["why"])
        yield f"{row[:-1]}, {_encode({**about, **said._asdict()})[1:]}"


def _about(state: ExperimentState, index: int, why: str | None) -> dict[str, Any]:
    names = ("status", "reason", "exit_code", "signal", "started_at", "completed_at", "work")
    process = state.processes[index]
    used = {name: (process.usage or {}).get(name) for name in _USED}
    return {**forms.plain(process, *names, *_OF_A_QUEUE[:2]), **used, "error": why}


def _parted(
    state: ExperimentState, found: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Callable[[Any], Any]]]:
    """Every row with all there is, long parts elided, and what makes such a part whole."""
    for index, row, lacking in _by_index(found, rows.parted(found["rows"])):
        if row is not None:
            yield {**row[0], **_about(state, index, None)}, row[1]
        elif lacking is not None:
            yield {**lacking["row"], **_about(state, index, lacking["why"])}, lambda value: value


def _write_csv(state: ExperimentState, found: Mapping[str, Any], said: Annotations) -> None:
    # Outlines tell which columns there are; the values come one at a time, and are never built.
    about: tuple[str, ...] = _ABOUT
    if state.ranks is not None:
        about = ("index", "rank", *_ABOUT[1:])
    if any(each.submitted_at is not None for each in state.processes.values()):
        about += _OF_A_QUEUE
    params: dict[str, None] = {}
    fields: dict[str, None] = {}
    for row in rows.outlines(found["rows"]):
        params.update(dict.fromkeys(row["params"]))
        fields.update(dict.fromkeys(flat(row)))
    for each in found["missing"]:
        params.update(dict.fromkeys(each["row"]["params"]))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        [*about, *(f"params.{each}" for each in params), *(f"result.{each}" for each in fields)]
    )
    for row, part in _parted(state, found):
        values = flat(row)
        words = {"tags": " ".join(said.tags), "note": said.note}
        about_it = {**row, "reused_from": reused_from(row), **words}
        writer.writerow(
            [
                *(_field(about_it[name]) for name in about),
                *(_field(row["params"].get(name)) for name in params),
                *(_field(part(values.get(name))) for name in fields),
            ]
        )


def _field(value: Any) -> Any:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return "" if value is None else _encode(value)
