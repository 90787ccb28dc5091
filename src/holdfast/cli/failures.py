"""From errors and outcomes to exit codes and messages on stderr."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from holdfast import errors
from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.cli.where import Where
    from holdfast.orchestration.outcomes import Outcome

__all__ = [
    "ABANDONED",
    "DONE",
    "EXIT_CODES",
    "FAILED",
    "INTERRUPTED",
    "ON_REQUEST",
    "OWNED",
    "REFUSED",
    "TERMINATED",
    "TIMED_OUT",
    "UNREADABLE",
    "code_of",
    "exit_code",
    "report",
    "say_if_absent",
    "silence",
    "told",
]

DONE, ERROR, USAGE, FAILED, UNKNOWN, OWNED, UNREADABLE, ABANDONED, REFUSED = range(9)
#: As `timeout` says it.
TIMED_OUT: Final = 124
#: As a shell reports a program that a signal ended.
HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143


class _OnRequest(int):
    """An exit code like that of a signal, which this program is not to die of."""


ON_REQUEST: Final = _OnRequest(INTERRUPTED)

#: What each means: its first words, up to a semicolon, in the help, the rest in the guide.
EXIT_CODES: Final = {
    DONE: "done, or nothing to do",
    ERROR: "an error of holdfast's own; the disk, permissions, a refused transition. Of `diff`: "
    "something differs",
    USAGE: "usage, or the experiment file",
    FAILED: "failed processes; those that were held back do not count. A failed aggregation, lost "
    "results, a process that was interrupted from outside again and again, a deadline that has "
    "passed. Of `drill`: kills make a difference, or it does not even run undisturbed",
    UNKNOWN: "experiment unknown or ambiguous",
    OWNED: "owned by a living orchestrator, or by one not proven dead; `--force` takes the latter "
    "over; also of `run -n`. Or an attempt that cannot be judged was left as it is, and everything "
    "else is done",
    UNREADABLE: "unreadable state",
    ABANDONED: "of `wait`: nobody runs it although it is not over; its orchestrator died, or left "
    "it to an engine, where all of it has ended; `resume` goes on",
    REFUSED: "refused by the engine; no such partition, account or quota, in its own words. "
    "What was not submitted is as it was",
    TIMED_OUT: "of `wait`: not over within --timeout",
    HUNG_UP: "the terminal was closed; SIGHUP ends `holdfast run`, not its processes",
    INTERRUPTED: "interrupted by Ctrl-C, or on request; of Ctrl-C holdfast dies itself, so that a "
    "shell ends the loop around it, too. Jobs on Slurm run on",
    TERMINATED: "stopped by SIGTERM",
}

#: The first that fits; everything else is 1.
_CODES: Final[tuple[tuple[type[errors.HoldfastError], int], ...]] = (
    (errors.ConfigError, USAGE),
    (errors.CodeChangedError, USAGE),
    (errors.AggregationError, FAILED),
    (errors.ExperimentNotFoundError, UNKNOWN),
    (errors.AmbiguousExperimentError, UNKNOWN),
    (errors.InvalidIdError, UNKNOWN),
    (errors.AlreadyOwnedError, OWNED),
    (errors.EngineRefusedError, REFUSED),
    (errors.StateCorruptError, UNREADABLE),
    (errors.SchemaTooNewError, UNREADABLE),
)


def code_of(outcome: "Outcome") -> int:
    """How a shell is told of *outcome*."""
    if outcome.signal is not None:
        return 128 + outcome.signal
    if outcome.stopped:
        return ON_REQUEST
    if outcome.blocked:
        return OWNED
    return FAILED if outcome.failed else DONE


def exit_code(error: errors.HoldfastError) -> int:
    """What a program that ended with *error* exits with."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)


def report(error: errors.HoldfastError, where: "Where") -> int:
    """Tell the user, with commands as they are typed for *where*; the exit code."""
    text.say(told(error, where), "error")
    if isinstance(error, errors.ExperimentNotFoundError):
        say_if_absent(error.state_dir, "  ")
    return exit_code(error)


def told(error: errors.HoldfastError, where: "Where") -> str:
    """The message of *error*, with a next step that fits the command that runs."""
    return error.told(where.command, _again(error, where))


def _again(error: errors.HoldfastError, where: "Where") -> str | None:
    """What goes on once the cause is mended: the same again, unless that would begin anew."""
    if not isinstance(error, errors.DiskError) or where.verb is None:
        return None
    if where.fresh and (made := _made(error.path, where.state_dir)) is not None:
        return f"go on: {where.command('resume', made)}"
    return f"repeat `{where.verb}`"


def _made(path: Path, state_dir: Path) -> str | None:
    """The experiment that *path* is of, if there is one."""
    from holdfast.store.place import JOURNALS

    try:
        stem = path.relative_to(state_dir).parts[0].removesuffix(".json")
        made = (state_dir / f"{stem}.json").exists() or (state_dir / stem / JOURNALS).exists()
    except (IndexError, OSError, ValueError):
        return None
    return stem if made else None


def say_if_absent(state_dir: Path, indent: str = "") -> None:
    """Say that *state_dir* is not there: fine before the first run, a wrong place after it."""
    try:
        if state_dir.exists():
            return
        where = state_dir if state_dir.is_absolute() else f"{state_dir} in {Path.cwd()}"
    except OSError:
        return
    absent = f"there is no directory {text.one_line(where)}"
    text.say(f"{indent}{absent}; -C DIR or HOLDFAST_STATE_DIR names another")


def silence(stream: TextIO) -> None:
    """Let *stream*, which nobody reads any more, go to nowhere."""
    # The interpreter flushes at its end, and would complain about the closed pipe once more.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        return
