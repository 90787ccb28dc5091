"""`holdfast drill`: an experiment is killed and resumed, and whether that shows is told."""

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from holdfast.attempts import environment
from holdfast.cli.app import in_state_dir, json_option
from holdfast.cli.failures import DONE, FAILED, USAGE
from holdfast.cli.run import set_option, settings_of
from holdfast.cli.where import Where, quoted
from holdfast.reading import forms, text

if TYPE_CHECKING:
    from holdfast.drill import Drill, Verdict

__all__ = ["drill"]

_CODES: Final[dict["Verdict", int]] = {
    "equal": DONE,
    "not equal": FAILED,
    "does not run": FAILED,
    "cannot be compared": FAILED,
    "never hit": FAILED,
    "wrote elsewhere": USAGE,
}
#: Of a line of what a run said.
_COLUMNS: Final = 80
#: Things in a list, and differences, that are printed.
_NAMED: Final = 5
_MOST: Final = 12
_WHOM: Final = {
    "orchestrator": "orchestrator",
    "shim": "shim",
    "process": "process",
    "attempt": "whole attempt",
    "everything": "all at once",
    "TERM": "TERM to all",
    "INT": "INT to all",
}


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
@click.option(
    "--daemons", is_flag=True, help="What was released (an empty HOLDFAST_SESSION) may stay alive."
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

    experiment = load_config(Path(file), settings_of(settings))
    if not tree.adopt():
        raise click.UsageError("a drill needs Linux: what a kill leaves alive is seen in its /proc")
    survey = None
    if not in_place:
        named = where.option or os.environ.get(environment.STATE_DIR)
        survey = copying.survey(experiment.cwd, () if not named else (Path(named).absolute(),))
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
        daemons=daemons,
        tell=text.say,
    )
    kept = keep
    try:
        with _stoppable() as made.check:
            _announce(made)
            made.prepare()
            verdict = made.run()
        kept = keep or verdict in ("not equal", "does not run")
    except _StoppedError as stopped:
        text.say("stopped; nothing of it runs any more")
        return 128 + stopped.number
    finally:
        if not kept:
            shutil.rmtree(room, ignore_errors=True)
    words = ["drill", f"--kills={max(made.struck, 1)}", f"--seed={made.seed}"]
    words += [f"--{name}" for name, on in _flags(sweeps, daemons, in_place).items() if on]
    words += [
        f"--{name}={word}"
        for name, each in (("compare", compare), ("ignore", ignore), ("set", settings))
        for word in each
    ]
    words += [] if jobs is None else [f"--jobs={jobs}"]
    again = where.command(*words, file)
    if as_json:
        _print_json(made, verdict, again, room if kept else None)
    else:
        text.emit(_lines(made, verdict))
        if kept:
            text.say(f"kept, with the logs of all runs: {room}")
            if (room / "undisturbed").exists() and made.struck:
                killed = room / "killed" if (room / "killed").exists() else made.folder
                there = quoted(str(killed.relative_to(room)))
                text.say("compare, there: diff -r -x .experiment_state undisturbed " + there)
        if verdict == "not equal" and made.struck:
            text.say(f"see it again: {again}")
    return _CODES[verdict]


def _flags(sweeps: bool, daemons: bool, in_place: bool) -> dict[str, bool]:
    return {"sweeps": sweeps, "daemons": daemons, "in-place": in_place}


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
    kills = text.count(made.kills, "kill")
    text.say(f"drill of {made.experiment.path}: {kills}, seed {made.seed}")
    if made.survey is None:
        text.say("in place: its own files are written to, in every run")
        return
    size = _size(made.survey.size)
    text.say(f"copies {text.count(made.survey.files, 'file')}, {size}, twice to {made.room}")
    from holdfast.drill import copying

    for path in copying.shared(made.experiment, made.survey)[:_NAMED]:
        text.say(f"not copied, written to where it is: {path}")
    free = shutil.disk_usage(made.room).free
    if free < 2 * made.survey.size:
        raise click.UsageError(
            f"{made.room.parent} has {_size(free)} left; TMPDIR names another place"
        )


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# -- what came of it ------------------------------------------------------------------------------


def _lines(made: "Drill", verdict: "Verdict") -> list[str]:
    if verdict == "equal":
        return _equal(made)
    if verdict == "not equal":
        return _unequal(made)
    if verdict == "cannot be compared":
        return _incomparable(made)
    if verdict == "wrote elsewhere":
        names = [f"  {text.one_line(path)}" for path in made.elsewhere[:_NAMED]]
        return [
            "not killed: while it ran in a copy, this changed outside of it:",
            *names,
            "  the experiment did that, or somebody else; in the first case use --in-place",
        ]
    if verdict == "never hit":
        return ["nothing was killed: it is over too soon to be hit"]
    lines = [f"it does not run undisturbed: exit code {made.code}", *_said(made, "  ")]
    if made.survey is not None:
        folder = text.one_line(made.experiment.cwd)
        lines.append(f"the copy has nothing but {folder}; --in-place runs it there")
    return lines


def _equal(made: "Drill") -> list[str]:
    kills = [kill for each in made.rounds for kill in each.kills]
    counts = Counter(_WHOM[kill.target] for kill in kills)
    rounds = text.count(len(made.rounds), "round")
    repeated = sum(each.repeated for each in made.rounds)
    lines = [
        f"equal after {text.count(len(kills), 'kill')} in {rounds}",
        f"  killed: {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}",
        f"  repeated: {text.count(repeated, 'attempt')}, of what was killed; no harm by itself",
    ]
    besides = sorted({path for each in made.rounds for path in each.besides})
    if besides:
        more = f" and {len(besides) - _NAMED} more" if len(besides) > _NAMED else ""
        names = ", ".join(map(text.short, besides[:_NAMED]))
        lines.append(f"  left by what was killed, not counted: {names}{more}")
    if made.dropped:
        lines.append(f"  different without kills, too: {', '.join(made.dropped[:_NAMED])}")
    return lines


def _unequal(made: "Drill") -> list[str]:
    found = [*made.left, *(each for done in made.rounds for each in done.found)]
    after = text.count(made.struck, "kill") if made.struck else "runs without any kill"
    lines = [f"not equal after {after}:"]
    for each in found[:_MOST]:
        lines.append(f"  {each.kind}: {text.one_line(each.about)} {text.one_line(each.says)}")
        if each.kills:
            lines.append(f"    by kill {_either(each.kills)}")
    if len(found) > _MOST:
        lines.append(f"  and {len(found) - _MOST} more; --json has all")
    named = {number for each in found for number in each.kills}
    kills = [kill for done in made.rounds for kill in done.kills if kill.number in named]
    lines += [f"  {kill}" for kill in kills]
    if made.said:
        lines += ["  the last run said:", *_said(made, "    ")]
    return lines


def _said(made: "Drill", indent: str) -> list[str]:
    return [text.cut(f"{indent}{text.one_line(line)}", _COLUMNS) for line in made.said]


def _either(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


def _incomparable(made: "Drill") -> list[str]:
    assert made.agreed is not None
    assert made.compare is not None
    lines = []
    for key in sorted({*made.compare} - made.agreed.keys):
        if key in made.agreed.unequal_keys:
            lines.append(f"not killed: {key} differs without any kill; it cannot be compared")
        else:
            known = ", ".join(sorted({*made.agreed.keys, *made.agreed.unequal_keys})) or "none"
            lines.append(f"not killed: no result has {key}; there are {known}")
    return lines


def _print_json(made: "Drill", verdict: "Verdict", again: str, room: Path | None) -> None:
    agreed = made.agreed
    forms.print_json(
        "holdfast.drill/1",
        {
            "verdict": verdict,
            "exit_code": _CODES[verdict],
            "seed": made.seed,
            "kills": [
                {
                    "number": kill.number,
                    "seed": each.seed,
                    "at_s": round(kill.at_s, 3),
                    "target": kill.target,
                    "attempts": list(map(str, kill.hit)),
                    "running": list(map(str, kill.running)),
                    "processes": kill.processes,
                    "at_write": kill.at_write,
                }
                for each in made.rounds
                for kill in each.kills
            ],
            "differences": [
                {
                    "kind": each.kind,
                    "about": each.about,
                    "says": each.says,
                    "processes": sorted(each.processes),
                    "kills": list(each.kills),
                }
                for each in [*made.left, *(each for done in made.rounds for each in done.found)]
            ],
            "repeated_attempts": sum(each.repeated for each in made.rounds),
            "left_besides": sorted({path for each in made.rounds for path in each.besides}),
            "compared": None
            if agreed is None
            else {
                "keys": sorted(made.keys),
                "files": {path: str(level) for path, level in sorted(agreed.levels.items())},
            },
            "not_compared": None if agreed is None else list(agreed.unequal_keys),
            "elsewhere": made.elsewhere,
            "said": made.said,
            "kept": None if room is None else str(room),
            "again": again,
        },
    )
