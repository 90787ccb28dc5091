"""`holdfast drill`: an experiment is killed and resumed, and whether that shows is told."""

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from holdfast.attempts import environment
from holdfast.cli.app import complete_file, in_state_dir, json_option
from holdfast.cli.run import set_option, settings_of
from holdfast.cli.verdict import CODES, lines, print_json
from holdfast.cli.where import Where, quoted
from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.drill import Drill

__all__ = ["drill"]

#: Things in a list that are named.
_NAMED: Final = 5


@click.command()
@click.option(
    "--kills",
    type=click.IntRange(min=1),
    default=20,
    metavar="N",
    help="How often it is killed, all in all; default: 20.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="S",
    help="Kill as a drill with this seed did; default: another one each time.",
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
@click.option(
    "--daemons", is_flag=True, help="What was released (an empty HOLDFAST_SESSION) may stay alive."
)
@click.option("--in-place", is_flag=True, help="Run it where it lies, not in a copy.")
@click.option("--keep", is_flag=True, help="Keep the copy, with states and logs, in any case.")
@json_option
@click.argument("file", metavar="FILE", shell_complete=complete_file)
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
    daemons: bool,
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
    from holdfast.drill.folders import Folders

    experiment = load_config(Path(file), settings_of(settings))
    if not tree.adopt():
        raise click.UsageError("a drill needs Linux: what a kill leaves alive is seen in its /proc")
    seed = secrets.randbelow(100_000) if seed is None else seed
    text.say(f"drill of {experiment.path}: {text.count(kills, 'kill')}, seed {seed}")
    survey = None
    if not in_place:
        named = where.option or os.environ.get(environment.STATE_DIR)
        survey = copying.survey(experiment.cwd, () if not named else (Path(named).absolute(),))
        _refuse(copying.leading_out(experiment), experiment.cwd)
    room = Path(tempfile.mkdtemp(prefix="holdfast-drill-")).resolve()
    kept = keep
    try:
        with _stoppable() as check:
            made = Drill(
                experiment=experiment,
                folders=Folders(experiment=experiment, room=room, survey=survey, check=check),
                kills=kills,
                seed=seed,
                sweeps=sweeps,
                options=() if jobs is None else (f"--jobs={jobs}",),
                # A pause between attempts, of minutes maybe, is nothing that a kill could meet.
                settings=("retry.backoff=0", *settings),
                ignore=ignore,
                compare=[key for each in compare for key in each.split(",")] if compare else None,
                daemons=daemons,
                tell=text.say,
            )
            _announce(made)
            made.folders.prepare()
            verdict = made.run()
        kept = keep or verdict in ("not equal", "does not run")
    except _StoppedError as stopped:
        text.say("stopped; nothing of it runs any more")
        return 128 + stopped.number
    finally:
        if not kept:
            shutil.rmtree(room, ignore_errors=True)
    again = ["drill", f"--kills={max(made.struck, 1)}", f"--seed={made.seed}"]
    flags = {"sweeps": sweeps, "daemons": daemons, "in-place": in_place}
    again += [f"--{name}" for name, on in flags.items() if on]
    repeated = {"compare": compare, "ignore": ignore, "set": settings}
    again += [f"--{name}={word}" for name, words in repeated.items() for word in words]
    again += [] if jobs is None else [f"--jobs={jobs}"]
    command = where.command(*again, file)
    if as_json:
        print_json(made, verdict, command, room if kept else None)
        return CODES[verdict]
    text.emit(lines(made, verdict))
    if kept:
        _say_kept(made, room)
    if verdict == "not equal" and made.struck:
        text.say(f"to see it again: {command}")
    return CODES[verdict]


def _say_kept(made: "Drill", room: Path) -> None:
    text.say(f"kept, with the logs of all runs: {room}")
    if (room / "undisturbed").exists() and made.struck:
        killed = room / "killed" if (room / "killed").exists() else made.folders.home
        both = " ".join(quoted(str(each)) for each in (room / "undisturbed", killed))
        text.say(f"to compare: diff -r -x .experiment_state {both}")


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
            "a run of a copy would write outside of it:\n  "
            + "\n  ".join(map(text.one_line, found[:_NAMED]))
            + f"\n  use relative paths; or run it in {text.one_line(folder)} itself: --in-place"
        )


def _announce(made: "Drill") -> None:
    from holdfast.drill import copying

    room, survey = made.folders.room, made.folders.survey
    if survey is None:
        text.say("in place: its own files are written to, in every run")
        return
    size = text.size(survey.size)
    text.say(f"copies {text.count(survey.files, 'file')}, {size}, twice to {room}")
    for path in copying.shared(made.experiment, survey)[:_NAMED]:
        text.say(f"shared with the original, not copied: {path}")
    free = shutil.disk_usage(room).free
    if free < 2 * survey.size:
        raise click.UsageError(
            f"{room.parent} has {text.size(free)} left; TMPDIR names another place"
        )
