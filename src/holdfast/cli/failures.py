"""From errors to exit codes and messages on stderr: the only place that knows either."""

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from holdfast import errors
from holdfast.cli import quietly
from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.cli.app import Where
    from holdfast.orchestration.outcomes import Outcome

__all__ = [
    "EXIT_CODES",
    "INTERRUPTED",
    "OWNED",
    "UNREADABLE",
    "code_of",
    "exit_code",
    "guarded",
    "report",
    "say_if_absent",
    "silence",
    "told",
]

DONE, ERROR, USAGE, FAILED, UNKNOWN, OWNED, UNREADABLE = range(7)
#: As a shell reports a program that a signal ended.
HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143

#: What each means: its first words, up to a semicolon, in the help, the rest in the guide.
EXIT_CODES: Final = {
    DONE: "done, or nothing to do",
    ERROR: "an error of holdfast's own; the disk, permissions, a refused transition",
    USAGE: "usage, or the experiment file",
    FAILED: "failed processes; a failed aggregation, lost results, a process that was interrupted "
    "from outside again and again",
    UNKNOWN: "experiment unknown or ambiguous",
    OWNED: "owned by a living orchestrator, or by one not proven dead; `--force` takes the latter "
    "over; also of `run -n`. Or an attempt that cannot be judged was left as it is, and everything "
    "else is done",
    UNREADABLE: "unreadable state",
    HUNG_UP: "the terminal was closed; SIGHUP ends `holdfast run`, not its processes",
    INTERRUPTED: "interrupted by Ctrl-C; holdfast dies of the signal itself, so that a shell ends "
    "the loop around it, too",
    TERMINATED: "stopped by SIGTERM",
}

#: As a shell reports a program that the signal of a closed pipe ended.
_CLOSED_PIPE: Final = 141

#: The first that fits; everything else is 1.
_CODES: Final[tuple[tuple[type[errors.HoldfastError], int], ...]] = (
    (errors.ConfigError, USAGE),
    (errors.AggregationError, FAILED),
    (errors.ExperimentNotFoundError, UNKNOWN),
    (errors.AmbiguousExperimentError, UNKNOWN),
    (errors.InvalidIdError, UNKNOWN),
    (errors.AlreadyOwnedError, OWNED),
    (errors.StateCorruptError, UNREADABLE),
    (errors.SchemaTooNewError, UNREADABLE),
)


_warned: Final[set[str]] = set()


def code_of(outcome: "Outcome") -> int:
    """How a shell is told of *outcome*."""
    if outcome.signal is not None:
        return 128 + outcome.signal
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


def guarded(args: list[str]) -> int:
    """Run the command line *args*; whatever happens, end with a message and an exit code."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A name that the locale cannot show must not end a listing half way.
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", errors.UnreadableStateWarning)
    warnings.simplefilter("once", errors.NoLocksWarning)
    for kind in (
        errors.AttemptWarning,
        errors.ConfigWarning,
        errors.DiskWarning,
        errors.EngineWarning,
        errors.ObserverWarning,
    ):
        warnings.simplefilter("always", kind)
    with quietly():
        from holdfast.cli.app import Where

    where = Where()
    try:
        code = _invoke(args, where)
        text.flush()
    except BrokenPipeError:
        silence(sys.stdout)
        return _CLOSED_PIPE
    except KeyboardInterrupt:
        text.say("interrupted")
        return INTERRUPTED
    except errors.HoldfastError as err:
        return _flushed(report(err, where))
    except MemoryError:
        verb = f", then repeat `{where.verb}`" if where.verb is not None else ""
        text.say(f"not enough memory\n  free some, or raise its limit (ulimit -v){verb}", "error")
        return _flushed(1)
    except OSError as err:
        what = f"{text.one_line(err.filename)}: " if err.filename else ""
        text.say(f"{what}{err.strerror or err}{_remedy(err, where)}", "error")
        if err.filename == text.STDOUT:
            silence(sys.stdout)
        return _flushed(1)
    return code


def _remedy(error: OSError, where: "Where") -> str:
    if error.filename in (None, text.STDOUT) or where.verb is None:
        return ""
    return f"\n  {errors.remedy(error.errno)}, then repeat `{where.verb}`"


def _open_standard_streams() -> None:
    # Started with `>&-`, the next file that is opened would be descriptor 1 or 2: a journal, into
    # which anything that writes to "stderr" would then write.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _invoke(args: list[str], where: "Where") -> int:
    with quietly():
        import click

        from holdfast.cli.app import ClosedPipe, app

    try:
        code: Any = app.main(args, prog_name="holdfast", standalone_mode=False, obj=where)
    except ClosedPipe as err:
        raise BrokenPipeError from err
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except click.Abort:
        text.say("interrupted")
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _flushed(code: int) -> int:
    """*code*, with what was printed before the error delivered, if it can be."""
    try:
        sys.stdout.flush()
    except OSError:
        silence(sys.stdout)
    return code


def silence(stream: TextIO) -> None:
    """Let *stream*, which nobody reads any more, go to nowhere."""
    # The interpreter flushes at its end, and would complain about the closed pipe once more.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        return


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Where in our source it was raised means nothing to whoever typed the command; nor does it
    # help to be told again by the next look at the same file.
    words = text.one_line(message)
    if words not in _warned:
        _warned.add(words)
        text.say(words, "warning")
