"""`holdfast export`: everything about the processes of an experiment, as a file for other tools."""

import csv
import json
import math
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import click

from holdfast.cli.addressing import resolve_unit
from holdfast.cli.annotating import said_about
from holdfast.cli.app import experiment_argument, in_state_dir
from holdfast.cli.where import Where
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import records, seen, text
from holdfast.store.annotations import Annotations
from holdfast.store.strictjson import spelt

__all__ = ["export"]

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
    found = records.table(state, folder, said, only=only)
    with text.delivering():
        if as_lines:
            for line in _lines(state, found, said):
                sys.stdout.write(line)
                sys.stdout.write("\n")
        else:
            _write_csv(found)
    if found.made and (only is None or state.num_processes == 1):
        seen.mark(folder)
    for lost in found.missing:
        if lost["lost"]:
            text.say(f"process {lost['index']}: {lost['why']}", "warning")
    return 0


def _lines(state: ExperimentState, found: records.Table, said: Annotations) -> Iterator[str]:
    """Every row with all there is as JSON, of which large results are never built."""
    for index, row, lacking in found.encoded():
        about = {**records.about(state, index), "error": lacking, **said._asdict()}
        yield f"{row[:-1]}, {_encode({name: _plain(each) for name, each in about.items()})[1:]}"


def _write_csv(found: records.Table) -> None:
    # Outlines tell which columns there are; the values come one at a time, and are never built.
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([column.name for column in found.columns])
    for record, part in found.parted():
        writer.writerow([_field(part(value)) for value in record.values()])


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _field(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else spelt(value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    return "" if value is None else _encode(_plain(value))
