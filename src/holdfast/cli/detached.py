"""`--detach`: a run that the terminal does not hold, begun by one that waits until it has begun.

The child is a fork in a session of its own. What it says before it owns the experiment, refusals
above all, and the exit code of these, are the command's; what it says afterwards is in a log.
"""

import contextlib
import json
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from holdfast.cli.failures import DONE
from holdfast.cli.where import Where
from holdfast.reading import forms, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from holdfast.store.claim import Claim

__all__ = ["NOTHING_TO_DETACH", "Detached", "detach", "detach_option"]

_C = TypeVar("_C", bound="Callable[..., Any]")

#: What is wrong with --detach and --dry-run.
NOTHING_TO_DETACH: Final = "--dry-run starts nothing that could be detached"

_CHUNK: Final = 1 << 16

_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM)


def detach_option(command: _C) -> _C:
    """`--detach`."""
    about = (
        "Return once it runs; it goes on without the terminal, and writes to a log. On Slurm: "
        "return once everything is submitted."
    )
    return click.option("--detach", is_flag=True, help=about)(command)


class Detached:
    """The child's end."""

    def __init__(self, told: int) -> None:
        """*told* is the pipe on which the command waits for a word."""
        self._told = told

    def begun(self, claim: "Claim") -> None:
        """The experiment is ours, and nothing speaks against it: turn away from the terminal.

        Raises:
            OSError: The log cannot be made.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        name = f"detached.{claim.epoch}.log"
        try:
            log = os.open(name, flags, 0o666, dir_fd=claim.dir_fd)
        except OSError as err:
            err.filename = str(claim.folder / name)
            raise
        for stream in (sys.stdout, sys.stderr):
            # The command may have been ended with its terminal: then this is for the log, too.
            with contextlib.suppress(OSError):
                stream.flush()
            os.dup2(log, stream.fileno())
        os.close(log)
        word = {
            "experiment_id": claim.state.experiment_id,
            "pid": os.getpid(),
            "log": str((claim.folder / name).absolute()),
        }
        with contextlib.suppress(BrokenPipeError):
            os.write(self._told, json.dumps(word).encode())
        os.close(self._told)


def detach(where: Where, *, as_json: bool) -> Detached | int:
    """Go on as a child that no terminal holds, which gets its end; the command gets its exit code.

    That is the child's own, unless it has begun.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = [os.pipe() for _ in range(3)]
    # Until each of the two hears them in its own way.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        child = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if child == 0:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with open(os.devnull, "rb") as null:  # noqa: PTH123
            os.dup2(null.fileno(), 0)
        for (_, writing), stream in zip(pipes, (sys.stdout, sys.stderr), strict=False):
            os.dup2(writing, stream.fileno())
        for fd in [fd for pipe in pipes for fd in pipe if fd != pipes[2][1]]:
            os.close(fd)
        return Detached(pipes[2][1])
    for _, writing in pipes:
        os.close(writing)
    out, err, told = (reading for reading, _ in pipes)
    with _passing_on(child, before) as passed_on:
        word = _listen({out: sys.stdout, err: sys.stderr}, told)
        if word is None:
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        _tell(where, json.loads(word), as_json=as_json)
    if passed_on:
        # It had begun by then.
        text.say(f"it was asked to stop by {signal.Signals(passed_on[0]).name}")
        return 128 + passed_on[0]
    return DONE


@contextlib.contextmanager
def _passing_on(child: int, mask: "set[int | signal.Signals]") -> "Iterator[list[int]]":
    """The child hears what is to end the command, until it is told what runs: it yields these.

    The child has a session of its own, where no Ctrl-C comes. *mask* is what was blocked before.
    """
    passed_on: list[int] = []

    def pass_on(number: int, frame: "FrameType | None") -> None:
        passed_on.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    handlers = {}
    if threading.current_thread() is threading.main_thread():  # no signal interrupts another
        for number in _PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                handlers[number] = signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield passed_on
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _listen(streams: "dict[int, Any]", told: int) -> bytes | None:
    """Pass on what the child says until it gives the word, which is returned; None if it ended."""
    poller = select.poll()
    for fd in (*streams, told):
        poller.register(fd, select.POLLIN)
    open_ends = {*streams, told}
    while open_ends:
        ready = [fd for fd, _ in poller.poll()]
        # The word last: what was said before it is shown before it.
        for fd in sorted(ready, key=lambda fd: fd == told):
            data = os.read(fd, _CHUNK)
            if fd == told and data:
                return data
            if not data:
                poller.unregister(fd)
                open_ends.discard(fd)
            else:
                stream = streams[fd]
                stream.write(data.decode(stream.encoding or "utf-8", "backslashreplace"))
                stream.flush()
    return None


def _tell(where: Where, word: dict[str, Any], *, as_json: bool) -> None:
    experiment_id = word["experiment_id"]
    commands = {each: where.command(each, experiment_id) for each in ("watch", "wait", "stop")}
    if as_json:
        forms.print_json("holdfast.detached/1", {**word, "commands": commands})
        return
    who = text.one_line(experiment_id)
    text.say(f"{who} runs without this terminal, as pid {word['pid']}")
    for each, command in commands.items():
        text.say(f"  to {each}: {command}")
    text.say(f"  log: {text.one_line(word['log'])}")
    text.emit([experiment_id])  # last: where stdout is closed or full, it runs all the same
