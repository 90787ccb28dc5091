"""`holdfast export`: everything about the processes of an experiment, as a file for other tools."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from holdfast.cli.addressing import resolve_unit
from holdfast.cli.annotating import said_about
from holdfast.cli.app import experiment_argument, in_state_dir
from holdfast.cli.formats import field, plain
from holdfast.cli.where import Where
from holdfast.cli.writing import write_file
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import frames, records, seen, text
from holdfast.store.annotations import Annotations

__all__ = ["export"]

_encode: Final = json.JSONEncoder(allow_nan=False).encode


@click.command()
@click.option("--csv", "as_csv", is_flag=True, help="CSV (the default).")
@click.option("--jsonl", "as_lines", is_flag=True, help="A JSON object in each line.")
@click.option("--parquet", "as_parquet", is_flag=True, help="Parquet, in fixed types.")
@click.option(
    "-O",
    "--output",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Where to write it, whole or not at all; default - for stdout.",
)
@experiment_argument
@in_state_dir
def export(
    where: Where,
    query: str,
    as_csv: bool,
    as_lines: bool,
    as_parquet: bool,
    output: str | None,
) -> int:
    """Print one row per process with everything: status, attempts, times, parameters, result.

    Results are whole. In CSV and Parquet, parameters are in columns `params.lr`, nested results in
    `result.metrics.f1`; lists are JSON, and so is what a large result has beyond 10,000 members, in
    `result.…`. ID/INDEX prints one process.

    Parquet needs `pip install 'holdfast[parquet]'`. Its types follow from the values: times are
    UTC, a column in which values of several kinds meet is JSON.
    """
    if as_csv + as_lines + as_parquet > 1:
        raise click.UsageError("choose one of --csv, --jsonl and --parquet")
    path = None if output in (None, "-") else Path(str(output))
    if path is not None and path.is_dir():
        raise click.UsageError(f"{text.one_line(path)} is a directory; -O FILE names a file")
    if as_parquet:
        frames.library("parquet")
        if path is None and sys.stdout.isatty():
            raise click.UsageError("Parquet is not for a terminal; -O FILE writes a file")
    manager = where.manager()
    experiment_id, unit = resolve_unit(manager, query)
    state = manager.load(experiment_id)
    folder = manager.folder(experiment_id)
    said = said_about(where, experiment_id)
    only = None if unit is None else int(unit)
    found = records.table(state, folder, said, only=only)
    if as_parquet:
        about = {"experiment_id": state.experiment_id}
        parts: Iterable[bytes] = [frames.parquet(found.columns, found.records(), about)]
    else:
        lines = _lines(state, found, said) if as_lines else _csv(found)
        parts = (line.encode("utf-8", "backslashreplace") for line in lines)
    if path is not None:
        write_file(path, parts)
    elif as_parquet:
        with text.delivering():
            sys.stdout.flush()
            sys.stdout.buffer.writelines(parts)
    else:
        with text.delivering():
            sys.stdout.writelines(lines)
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
        more = _encode({name: plain(each) for name, each in about.items()})
        yield f"{row[:-1]}, {more[1:]}\n"


class _Line:
    """What a `csv.writer` writes to, which hands back what it is given."""

    def write(self, line: str) -> str:
        return line


def _csv(found: records.Table) -> Iterator[str]:
    # Outlines tell which columns there are; the values come one at a time, and are never built.
    line: Callable[[list[Any]], Any] = csv.writer(_Line(), lineterminator="\n").writerow
    yield line([column.name for column in found.columns])
    for record, part in found.parted():
        yield line([field(part(value)) for value in record.values()])
