"""An engine, whichever, whose stops the user is told of."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from holdfast.attempts.files import requested
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.engines.contract import Engine, EngineWord, Handle
from holdfast.reading import text
from holdfast.status import Reason

__all__ = ["Announcing"]


class Announcing:
    """An engine, with a word to the user when it is asked to stop what runs.

    What is said follows from the handles, and from the requests that were made beside them.
    """

    def __init__(self, engine: Engine, say: Callable[[str], None]) -> None:
        """Be *engine*; *say* is called with the words."""
        self._engine = engine
        self._say = say
        self._signals = 0
        self._stalled: set[AttemptName] = set()

    @property
    def name(self) -> str:
        """As the engine's."""
        return self._engine.name

    @property
    def outlives(self) -> bool:
        """As the engine's."""
        return self._engine.outlives

    @property
    def shares_files(self) -> bool:
        """As the engine's."""
        return self._engine.shares_files

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        """As the engine's."""
        return self._engine.check(attempts)

    def room(self) -> int | None:
        """As the engine's."""
        return self._engine.room()

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        """As the engine's."""
        return self._engine.submit(experiment_id, attempts)

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        """As the engine's."""
        return self._engine.find(experiment_id, folder)

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        """As the engine's."""
        return self._engine.poll(handles)

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        """As the engine's; what could not be reached is named."""
        unreached = self._engine.cancel(handles, force=force)
        words = self._words(handles, force=force)
        if words is not None:
            self._say(words)
        return unreached

    def wait(self, timeout_s: float) -> None:
        """As the engine's."""
        self._engine.wait(timeout_s)

    def wake(self) -> None:
        """Called from the signal handler, or another thread: no more than a mark here."""
        self._signals += threading.current_thread() is threading.main_thread()
        self._engine.wake()

    def close(self) -> None:
        """As the engine's."""
        self._engine.close()

    def _words(self, handles: Sequence[Handle], *, force: bool) -> str | None:
        why = {each.name: requested(each.folder, each.name) for each in handles}
        # Asked to stop for the first time since they stalled, they are no end of the run.
        stalled = {name for name, reason in why.items() if reason is Reason.STALL} - self._stalled
        self._stalled |= stalled
        if len(stalled) == len(handles):
            return None
        # A launcher has several of them, and is one to the engine.
        launchers = any(each.name.is_launcher for each in handles)
        number = text.count(len(handles), "launcher" if launchers else "process")
        if force or all(requested(e.folder, e.name, force=True) for e in handles):
            return f"killing {number}"
        if self._signals:
            return f"stopping {number}; once more (Ctrl-C) kills them at once"
        if set(why.values()) == {Reason.DEADLINE}:
            return f"limits.deadline has passed: stopping {number}"
        if Reason.USER in why.values():
            return f"stopping {number}"
        return f"a process failed: stopping the other {number}"
