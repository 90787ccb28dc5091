"""`holdfast rank`: runs one rank's command, and speaks for it, whatever program it is.

Owns the relaying of signals and the end: the wrapper ends as its command did, so that a launcher
sees no difference. Imported by the command line only.
"""

import os
import resource
import signal
import sys
import time

from holdfast.attempts import environment
from holdfast.worker import files, saying
from holdfast.worker.whoami import Who, who_am_i

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["code_of", "run"]

#: Those that ask a program to stop.
_STOPS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

#: What is not passed on: what a program does to itself, and what its terminal and children do.
_OWN = frozenset(
    int(getattr(signal, name))
    for name in (
        "SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT",
        "SIGSYS", "SIGPIPE", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGTTIN", "SIGTTOU", "SIGCHLD",
        "SIGURG", "SIGIO", "SIGXFSZ", "SIGEMT", "SIGINFO",
    )
    if hasattr(signal, name)
)  # fmt: skip

#: A stop that comes so soon after an end may have caused it: a shell goes on past a killed child.
_WINDOW_S = 0.5

#: `siginfo` of what a terminal sends, to everything in its foreground.
_FROM_KERNEL = 0x80

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def run(argv: list[str], rank: "int | None") -> int:
    """Run the command *argv* as the rank that this is, or as *rank*; its exit code.

    Of a signal that ended the command, this process dies, too. Without declared ranks, the command
    takes the place of this process; an independent rank that is completed, or has failed for good,
    is not run again.

    Raises:
        WorkerError: No launcher says which rank this is, or it is one too many.
        DiskError: How it ended cannot be recorded.
        OSError: The command cannot be started.
    """
    env = dict(os.environ)
    if rank is not None:
        env = {**env, "RANK": str(rank)}
    who = who_am_i(env)
    saying.refuse_wrong(who)
    if who.launcher is None or who.wrapped or who.helps:
        if who.inside and who.launcher is None:
            saying.tell("no ranks are declared (`ranks = N`): nothing is kept for this one")
        _become(argv)
    if who.over:
        # Its launcher starts all of its ranks; whoever waits for this one sees a clean end.
        saying.tell(f"rank {who.rank} is over, and is not run again")
        return 0
    return _Wrapper(who).run(argv)


def code_of(err: OSError) -> int:
    """The exit code by which a shell says that a command could not be started."""
    return _NOT_FOUND if isinstance(err, FileNotFoundError) else _NOT_EXECUTABLE


class _Wrapper:
    """The command of one rank, from its start to its end.

    Attributes:
        asked: The first signal that asked it to stop.
    """

    def __init__(self, who: Who) -> None:
        self._who = who
        self.asked: int | None = None
        self._heard = frozenset(signal.valid_signals()) - _OWN | {signal.SIGCHLD}

    def run(self, argv: list[str]) -> int:
        # Ignored, it would leave no status of the command.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Blocked before the command exists: none is lost, and none ends us without it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._heard)
        saying.announce(self._who)
        pid = self._start(argv, mask)
        status = self._attend(pid)
        code = os.waitstatus_to_exitcode(status)
        self._hear_the_last(code)
        self._tell_of(code)
        if code < 0:
            _die_of(-code)
        return code

    def _tell_of(self, code: int, error: "str | None" = None) -> None:
        exit_code, number = (code, None) if code >= 0 else (None, -code)
        ended = {"exit_code": exit_code, "signal": number, "asked": self.asked, "error": error}
        try:
            saying.publish(self._who, "exit", ended)
        except Exception as err:
            if code == 0:
                raise  # who began and says no more did not complete
            saying.tell(str(err))

    def _start(self, argv: list[str], mask: "set[int | signal.Signals]") -> int:
        outputs = [self._output(suffix) for suffix in ("out", "err")]
        actions = [
            (os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(outputs, 1) if fd is not None
        ]
        try:
            return os.posix_spawn(
                _found(argv[0]),
                argv,
                self._environment(),
                file_actions=actions,
                setsigmask=mask,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
            )
        except OSError as err:
            self._tell_of(code_of(err), f"{argv[0]}: {err.strerror or err}")
            raise
        finally:
            for fd in outputs:
                if fd is not None:
                    os.close(fd)

    def _output(self, suffix: str) -> "int | None":
        path = self._who.file(suffix)
        try:
            return None if path is None else files.open_lines(path)
        except OSError:
            return None  # it stays the launcher's

    def _environment(self) -> "dict[str, str]":
        who = self._who
        own = {
            environment.INDEX: str(who.index),
            environment.INCARNATION: who.incarnation,
            environment.RESULT: who.result,
            environment.PROGRESS: who.file("progress"),
            environment.CHECKPOINT_DIR: who.own_checkpoints,
        }
        if who.own_checkpoints is not None:
            with saying.OnDisk(who.own_checkpoints, "making the directory"):
                files.make_folder(os.path.dirname(who.own_checkpoints))
                files.make_folder(who.own_checkpoints)
        return {**os.environ, **{name: value for name, value in own.items() if value is not None}}

    def _attend(self, pid: int) -> int:
        """Pass on what is heard until the command has ended; its status."""
        while True:
            number, from_terminal = _wait(self._heard)
            if number == signal.SIGCHLD:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    return status
                continue
            self._note(number)
            # The command got that itself. It is not waited for yet, so that its pid is its own.
            if not from_terminal:
                os.kill(pid, number)

    def _hear_the_last(self, code: int) -> None:
        """Take in what came with the end, and what comes so soon that it may be its cause."""
        patient = code == 0 and self._who.independent
        until = time.monotonic() + (_WINDOW_S if patient else 0.0)
        while self.asked is None and (number := _next(_STOPS, until - time.monotonic())):
            self._note(number)

    def _note(self, number: int) -> None:
        if self.asked is None and number in _STOPS:
            self.asked = number


def _become(argv: list[str]) -> "NoReturn":
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # which Python ignores
    os.execve(_found(argv[0]), argv, os.environ)  # noqa: S606 (no shell is meant)


def _found(word: str) -> str:
    """The program that a shell would run for *word*; `python` is always to be had.

    Raises:
        OSError: There is none.
    """
    import errno
    import shutil

    if "/" in word:
        return word
    found = shutil.which(word)
    if found is not None:
        return found
    if word == "python":
        return sys.executable
    raise FileNotFoundError(errno.ENOENT, "command not found", word)


def _wait(heard: "frozenset[signal.Signals]") -> "tuple[int, bool]":
    """The next signal, and whether a terminal sent it."""
    if sys.platform == "darwin":
        return int(signal.sigwait(heard)), False
    info = signal.sigwaitinfo(heard)
    return info.si_signo, info.si_code == _FROM_KERNEL


def _next(heard: "frozenset[signal.Signals]", seconds: float) -> int:
    """The next signal within *seconds*; 0 if none comes."""
    if sys.platform == "darwin":
        return int(signal.sigwait(heard)) if signal.sigpending() & heard else 0
    info = signal.sigtimedwait(heard, max(seconds, 0.0))
    return 0 if info is None else info.si_signo


def _die_of(number: int) -> None:
    """End as the command did; return where that signal ends nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has left its own
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
