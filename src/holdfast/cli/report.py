"""`holdfast report`: one file to look at, keep and send, that shows what happened and why."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from holdfast.cli.addressing import named
from holdfast.cli.app import experiments_argument, in_state_dir
from holdfast.cli.where import Where
from holdfast.cli.writing import write_file
from holdfast.reading import text

__all__ = ["report"]

_MOST: Final = 8
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")
#: Where a page says that it is one of ours.
_BEGIN_BYTES: Final = 4096


@click.command()
@click.option(
    "-O",
    "--output",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Where to write it; - for stdout. Default: ID.html here, of several report.html.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE though it is no report.")
@experiments_argument
@in_state_dir
def report(where: Where, queries: tuple[str, ...], output: str | None, force: bool) -> int:
    """Make one page (HTML) of an experiment: what happened, why, and the results with plots.

    The file is all there is: it loads nothing when it is opened, so it can be kept and sent. It may
    be made while the experiment runs. Several IDs are compared.
    """
    from holdfast.report.document import document
    from holdfast.report.rendering import page

    found, code = named(where, queries)
    if code:
        return code
    if len(found) > _MOST:
        raise click.UsageError(f"{len(found)} experiments; a page compares {_MOST} at the most")
    path = None if output == "-" else Path(output or _name(found))
    if path is not None:
        _check(path, force)
    manager = where.manager()
    made = page(document(manager, found, datetime.now(UTC), command=where.command))
    if path is None:
        with text.delivering():
            sys.stdout.flush()
            sys.stdout.buffer.write(made)
        return 0
    write_file(path, [made])
    text.emit([text.one_line(path)])
    return 0


def _name(found: list[str]) -> str:
    if len(found) > 1:
        return "report.html"
    return f"{_ODD.sub('-', found[0]).strip('.-')[:100] or 'report'}.html"


def _check(path: Path, force: bool) -> None:
    """Raises click.UsageError: something of the user's has that name."""
    from holdfast.report.rendering import GENERATOR

    which = text.one_line(path)
    if path.is_dir():
        raise click.UsageError(f"{which} is a directory; -O FILE names a file")
    if force or not path.is_file():
        return
    with path.open("rb") as file:
        begin = file.read(_BEGIN_BYTES)
    if begin.strip() and GENERATOR.encode() not in begin:
        raise click.UsageError(f"{which} is there, and is no report; --force overwrites it")
