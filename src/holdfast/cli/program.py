"""The program around a command: its streams, its warnings, and an exit code whatever happens."""

import os
import sys
import warnings
from typing import Any, Final

import click

from holdfast import errors
from holdfast.cli import jsonlog
from holdfast.cli.app import ClosedPipe, app
from holdfast.cli.failures import INTERRUPTED, report, silence
from holdfast.cli.where import Where
from holdfast.reading import text

__all__ = ["guarded"]

#: As a shell reports a program that the signal of a closed pipe ended.
_CLOSED_PIPE: Final = 141

_warned: Final[set[str]] = set()


def guarded(args: list[str]) -> int:
    """Run the command line *args*; whatever happens, end with a message and an exit code."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A name that the locale cannot show must not end a listing half way.
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", UserWarning)  # ours; none is said twice
    where = Where()
    jsonlog.begin(args)
    try:
        code = _invoke(args, where)
        text.flush()
    except BrokenPipeError:
        silence(sys.stdout)
        return _CLOSED_PIPE
    except (KeyboardInterrupt, click.Abort):
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


def _remedy(error: OSError, where: Where) -> str:
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


def _invoke(args: list[str], where: Where) -> int:
    try:
        code: Any = app.main(args, prog_name="holdfast", standalone_mode=False, obj=where)
    except ClosedPipe as err:
        raise BrokenPipeError from err
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as err:
        if jsonlog.is_on():
            text.say(err.format_message(), "error")
        else:
            err.show()
        return err.exit_code
    return code if isinstance(code, int) else 0


def _flushed(code: int) -> int:
    """*code*, with what was printed before the error delivered, if it can be."""
    try:
        sys.stdout.flush()
    except OSError:
        silence(sys.stdout)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    # Where in our source it was raised means nothing to whoever typed the command; nor does it
    # help to be told again by the next look at the same file.
    words = text.one_line(message)
    if words not in _warned:
        _warned.add(words)
        text.say(words, "warning")
