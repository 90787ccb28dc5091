"""What programs in any language run within an attempt: `rank`, `progress`, `result`."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import click

from holdfast.attempts import environment
from holdfast.errors import DiskError, ResultInvalidError
from holdfast.reading import text
from holdfast.results import acceptance
from holdfast.worker import files
from holdfast.worker.progress import line_of
from holdfast.worker.whoami import rank_told

__all__ = ["progress", "rank", "result"]

_TO_THE_COMMAND: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}

#: Names of a line of progress that have options of their own.
_OPTIONS: Final = ("step", "total", "message")


@click.command(context_settings=_TO_THE_COMMAND)
@click.option(
    "--rank",
    "number",
    type=click.IntRange(min=0),
    help="Which rank it is, where no launcher says so.",
)
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def rank(number: int | None, command: tuple[str, ...]) -> int:
    """Run COMMAND as one rank, with a result, progress, checkpoints and logs of its own.

    Between a launcher and a program that knows nothing of holdfast: mpirun -np 4 holdfast rank --
    ./simulate. Signals are passed on, and it ends as COMMAND does. Outside an experiment, COMMAND
    is run, and nothing else.
    """
    from holdfast.worker import wrapping

    text.flush()
    try:
        return wrapping.run(list(command), number)
    except OSError as err:
        text.say(f"{text.one_line(command[0])}: {err.strerror or err}", "error")
        return wrapping.code_of(err)


@click.command()
@click.option("--step", type=float, help="The step that it is at.")
@click.option("--total", type=float, help="How many steps there are.")
@click.option("--message", metavar="TEXT", help="A few words.")
@click.argument("values", metavar="[NAME=VALUE...]", nargs=-1)
def progress(
    step: float | None, total: float | None, message: str | None, values: tuple[str, ...]
) -> int:
    """Tell how far this process is: one line, for whoever watches the experiment.

    It never fails for what cannot be written: nothing depends on it.
    """
    told: dict[str, Any] = dict(map(_value, values))
    path = os.environ.get(environment.PROGRESS)
    if not path:
        text.say("no process of an experiment runs this: nothing was recorded")
        return 0
    if environment.INDEX not in os.environ and (which := rank_told(os.environ)) is not None:
        told["rank"] = which[0]
    lines = files.Lines(path)
    if not lines.append(line_of(_whole(step), _whole(total), message, told)):
        text.say(f"{text.one_line(path)} cannot be written: nothing was recorded")
    lines.close()
    return 0


def _value(word: str) -> tuple[str, float | str]:
    name, equals, value = word.partition("=")
    if not (name and equals):
        raise click.UsageError(f"{word!r} is no NAME=VALUE")
    if name in _OPTIONS:
        raise click.UsageError(f"{name} has an option: --{name} {value}")
    try:
        return name, _whole(float(value)) or 0
    except ValueError:
        return name, value


def _whole(number: float | None) -> float | None:
    return int(number) if number is not None and number.is_integer() else number


@click.command()
@click.argument("file", metavar="FILE|-")
def result(file: str) -> int:
    """Deliver FILE, or what comes through the pipe (`-`), as the result: any JSON.

    Once it returns, the result is on the disk; called again, the last one counts. Outside an
    experiment it is checked, and nothing else.
    """
    data = _read(file)
    acceptance.check(Path(file), data)
    path = os.environ.get(environment.RESULT)
    if not path:
        text.say("no process of an experiment runs this: the result is valid, and not recorded")
        return 0
    try:
        files.publish(path, data)
    except OSError as err:
        raise DiskError.of(Path(path), "writing the result", err) from err
    return 0


def _read(file: str) -> bytes:
    """All of it.

    Raises:
        ResultInvalidError: It cannot be read, or is too large.
    """
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as opened:
            data = opened.read(acceptance.SIZE_LIMIT + 1)
    except OSError as err:
        raise ResultInvalidError(Path(file), f"cannot be read: {err.strerror or err}") from err
    if len(data) > acceptance.SIZE_LIMIT:
        raise ResultInvalidError(
            Path(file), f"is too large: more than {acceptance.SIZE_LIMIT:,} bytes"
        )
    return data
