"""`holdfast drill`: an experiment is killed and resumed, and whether that shows is told."""

import contextlib
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from holdfast.cli.app import in_state_dir, json_option
from holdfast.cli.failures import DONE, FAILED
from holdfast.cli.run import set_option, settings_of
from holdfast.cli.where import Where
from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.drill import Drill, Verdict

__all__ = ["drill"]


@click.command()
@click.option(
    "--kills",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="How often it is killed, all in all.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=1_000_000_000),
    metavar="S",
    help="What is killed, and when: the same again; default: another one each time.",
)
@click.option("--sweeps", is_flag=True, help="TERM and Ctrl-C to all of its processes, too.")
@click.option(
    "--compare",
    metavar="KEYS",
    multiple=True,
    help="Results that must be equal, e.g. loss,acc; default: all that are without kills.",
)
@click.option(
    "--ignore",
    metavar="PATTERN",
    multiple=True,
    help="Files that may differ, e.g. 'logs/**'; may be repeated.",
)
@set_option
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="How many commands at a time."
)
@click.option("--in-place", is_flag=True, help="Run it where it lies, not in a copy.")
@click.option("--keep", is_flag=True, help="Keep the copy, with states and logs, in any case.")
@json_option
@click.argument("file", metavar="FILE")
@in_state_dir
def drill(
    where: Where,
    file: str,
    kills: int,
    seed: int | None,
    sweeps: bool,
    compare: tuple[str, ...],
    ignore: tuple[str, ...],
    settings: tuple[str, ...],
    jobs: int | None,
    in_place: bool,
    keep: bool,
    as_json: bool,
) -> int:
    """Does the experiment in FILE survive? Kill it at random, resume it, compare.

    In a copy of its folder: twice undisturbed, then with kills of its orchestrator, of shims, of
    its processes, of all at once, at random instants, each time resumed to the end. Equal means
    the same completed processes, each once, the same outputs and files, and the same values as
    undisturbed. Exits with 0 only if so, with 3 if not.
    """
    from holdfast.config.experiment_file import load_config
    from holdfast.drill import Drill, copying, tree

    experiment = load_config(Path(file), settings_of(settings))
    if not tree.adopt():
        raise click.UsageError("a drill needs Linux: what a kill leaves alive is seen in its /proc")
    survey = None
    if not in_place:
        survey = copying.survey(experiment.cwd)
        _refuse(copying.leading_out(experiment), experiment.cwd)
    room = Path(tempfile.mkdtemp(prefix="holdfast-drill-")).resolve()
    made = Drill(
        experiment=experiment,
        room=room,
        survey=survey,
        kills=kills,
        seed=secrets.randbelow(100_000) if seed is None else seed,
        sweeps=sweeps,
        options=() if jobs is None else (f"--jobs={jobs}",),
        # A pause between attempts, of minutes maybe, is nothing that a kill could meet.
        settings=("retry.backoff=0", *settings),
        ignore=ignore,
        compare=[key for word in compare for key in word.split(",")] if compare else None,
        tell=text.say,
    )
    clean = False
    try:
        with _stoppable() as made.check:
            _announce(made)
            made.prepare()
            verdict = made.run()
        clean = verdict == "equal"
        _print(made, verdict, where, file)
    except _StoppedError as stopped:
        clean = True
        text.say("stopped; nothing of it runs any more")
        return 128 + stopped.number
    finally:
        if keep or not clean:
            text.say(f"kept: {room}")
        else:
            shutil.rmtree(room, ignore_errors=True)
    return DONE if clean else FAILED


class _StoppedError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Have signals end the drill where it can end, with nothing left alive."""
    got: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        got.append(number)

    def check() -> None:
        if got:
            raise _StoppedError(got[0])

    heard = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse(found: list[str], folder: Path) -> None:
    if found:
        raise click.UsageError(
            "in a copy it would still write outside of it:\n  "
            + "\n  ".join(map(text.one_line, found[:10]))
            + f"\n  use relative paths, or --in-place to run it in {text.one_line(folder)} itself"
        )


def _announce(made: "Drill") -> None:
    if made.survey is None:
        text.say(f"in {made.folder} itself: its files are written to, again and again")
    else:
        text.say(f"in a copy of {made.experiment.cwd}: {text.count(made.survey.files, 'file')}")


def _print(made: "Drill", verdict: "Verdict", where: Where, file: str) -> None:
    for each in made.rounds:
        for found in each.found:
            text.emit([f"{found.kind}: {found.about} {found.says} (kill {found.kills})"])
    text.emit([verdict])
    text.emit(made.said)
