"""The engine's end of its starter: one process, one socket, started when first needed."""

import contextlib
import os
import select
import signal
import socket
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import attrs

from holdfast import liveness
from holdfast.attempts import environment
from holdfast.attempts.cgroups import Subtree
from holdfast.attempts.names import attempts_dir
from holdfast.attempts.records import Attempt
from holdfast.engines.local.hearing import ALL, KILL, STOP
from holdfast.engines.local.jobs import job_of, settled, text_of
from holdfast.engines.local.shim import DONE, GAVE_UP, NOT_FIRST
from holdfast.engines.local.starter import MOST_AT_ONCE, receive, send
from holdfast.errors import EngineError

__all__ = ["BOOT", "Ended", "Launched", "Starter", "places"]

#: What a starter runs, and every shim that it forks.
BOOT: Final = "import sys; sys.path += sys.argv[2:]; import starter; starter.main(int(sys.argv[1]))"
_REPLY_WITHIN_S: Final = 60.0


class Launched(NamedTuple):
    """What became of one attempt that was asked for; `pid` is None if it could not be forked."""

    pid: int | None
    start_ticks: int | None
    error: str | None


class Ended(NamedTuple):
    """A shim that ended, with its own exit code or minus the signal that killed it."""

    pid: int
    status: int


class Starter:
    """A running starter process.

    Attributes:
        alive: False once it is known to be gone; then nothing can be asked of it.

    Args:
        cgroups: Where the cgroups of attempts are made; None for nowhere.

    Raises:
        EngineError: It cannot be started.
    """

    def __init__(self, cgroups: Subtree | None) -> None:
        import subprocess  # only who runs something pays for it

        if not sys.executable:
            raise EngineError("local", "this Python does not know its own executable")
        self._socket, theirs = socket.socketpair()
        with theirs, _nothing_heard():
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", BOOT, str(theirs.fileno()), *places()],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    # Shims would keep our terminal or pipe open, and `| tee` would never end.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,  # a terminal's Ctrl-C is for the orchestrator to handle
                )
            except OSError as err:
                self._socket.close()
                raise EngineError("local", f"cannot start {sys.executable}: {err}") from err
        self._poller = select.poll()
        self._poller.register(self.fileno(), select.POLLIN)
        self.alive = True
        self._ended: list[Ended] = []
        self._completing: list[tuple[int, bool]] = []
        _living.add(self)
        observer = liveness.Observer.here()
        facts = {
            "host": observer.host,
            "machine_id": observer.machine_id,
            "boot_id": observer.boot_id,
            "pid_namespace": observer.pid_namespace,
        }
        hello = {"facts": facts, "proc": observer.proc is not None, "cgroup": _place(cgroups)}
        send(self.fileno(), hello)

    def fileno(self) -> int:
        """What is readable when the starter has something to say, or is gone."""
        return self._socket.fileno()

    def launch(self, wanted: Sequence[Attempt]) -> list[Launched] | None:
        """Fork a shim for each of *wanted*; None if the starter died, nobody knows how far on.

        Raises:
            EngineError: It does not answer.
        """
        send(self.fileno(), {"launch": [_job(attempt) for attempt in wanted]})
        for attempt in wanted:
            if attempt.slots:
                self._hand_over([slot.fd for slot in attempt.slots])
        while self.alive:
            if not self._readable(_REPLY_WITHIN_S):
                self.close()
                raise EngineError("local", f"the starter is silent for {_REPLY_WITHIN_S:.0f} s")
            message = self._receive()
            if "launched" in message:
                return [Launched(*entry) for entry in message["launched"]]
        return None

    def _hand_over(self, descriptors: Sequence[int]) -> None:
        """Behind the message with its job, give the starter what an attempt is to inherit."""
        try:
            for at in range(0, len(descriptors), MOST_AT_ONCE):
                socket.send_fds(self._socket, [b"\0"], descriptors[at : at + MOST_AT_ONCE])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is gone, which is noticed where its answer is waited for
        except OSError as err:
            # It waits for what does not come: another one is asked.
            self.close()
            raise EngineError("local", f"slots cannot be handed to the starter: {err}") from err

    def stop(self, pids: Iterable[int], *, force: bool) -> None:
        """Ask those shims to stop their commands, *force*: to kill them. It needs no disk."""
        level = KILL if force else STOP
        send(self.fileno(), {"stop": [[pid, level] for pid in pids]})

    def ended(self) -> list[Ended]:
        """The shims that ended since the last call; `alive` is up to date afterwards."""
        while self.alive and self._readable(0):
            self._receive()
        ended, self._ended = self._ended, []
        return ended

    def completing(self) -> list[tuple[int, bool]]:
        """The shims that said since the last call that nothing of their attempt runs any more, each
        with whether its command ended with exit code 0.
        """
        completing, self._completing = self._completing, []
        return completing

    @staticmethod
    def describe(status: int) -> str | None:
        """What went wrong with a shim itself, None if nothing did."""
        if status < 0:
            return f"its shim was killed by signal {-status}"
        if status == GAVE_UP:
            return "its shim was told not to wait for room on the disk any longer"
        if status in (DONE, NOT_FIRST):
            return None
        return f"its shim failed with status {status}"

    def close(self) -> None:
        """End it; shims run on."""
        self.alive = False
        _living.discard(self)
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _receive(self) -> dict[str, Any]:
        message = receive(self.fileno())
        if message is None:
            self.close()
            return {}
        self._ended += [Ended(*entry) for entry in message.get("ended", ())]
        self._completing += [(pid, bool(clean)) for pid, clean in message.get("completing", ())]
        return message

    def _readable(self, timeout_s: float) -> bool:
        return bool(self._poller.poll(timeout_s * 1000))

    def _let_go(self) -> None:
        # In a fork: an open socket there would keep the starter alive after its orchestrator.
        self.alive = False
        self._socket.close()
        self._process.returncode = 0  # not ours to wait for


_living: "weakref.WeakSet[Starter]" = weakref.WeakSet()


def _in_fork() -> None:
    for starter in list(_living):
        starter._let_go()
    _living.clear()


os.register_at_fork(after_in_child=_in_fork)


@contextlib.contextmanager
def _nothing_heard() -> Iterator[None]:
    """Block all signals, also for the starter, which would die of them until it has begun."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def places() -> list[str]:
    """Where what the starter loads is."""
    return [os.path.dirname(os.path.abspath(each)) for each in (__file__, environment.__file__)]


def _place(cgroups: Subtree | None) -> dict[str, str] | None:
    if cgroups is None:
        return None
    return {"dir": text_of(str(cgroups.directory)), **attrs.asdict(cgroups.address)}


def _job(attempt: Attempt) -> dict[str, Any]:
    experiment, attempts = attempt.name.experiment_id, str(attempts_dir(attempt.folder))
    job = settled(job_of(attempt), experiment, attempts)
    return {**job, "slots": len(attempt.slots)} if attempt.slots else job
