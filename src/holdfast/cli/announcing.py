"""The local engine, whose stops the user is told of."""

import threading
from collections.abc import Callable, Mapping, Sequence

from holdfast.attempts.files import requested
from holdfast.attempts.names import AttemptName
from holdfast.engines.contract import Handle
from holdfast.engines.local.engine import LocalEngine
from holdfast.reading import text
from holdfast.status import Reason

__all__ = ["Announcing"]


class Announcing(LocalEngine):
    """The local engine, with a word to the user when it is asked to stop what runs."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """*say* is called with the words."""
        super().__init__()
        self._say = say
        self._signals = 0
        self._stalled: set[AttemptName] = set()

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        """As the engine's; what could not be reached is named."""
        unreached = super().cancel(handles, force=force)
        why = {each.name: requested(each.folder, each.name) for each in handles}
        # Asked to stop for the first time since they stalled, they are no end of the run.
        stalled = {name for name, reason in why.items() if reason is Reason.STALL} - self._stalled
        self._stalled |= stalled
        if len(stalled) == len(handles):
            return unreached
        # A launcher has several of them, and is one to the engine.
        launchers = any(each.name.is_launcher for each in handles)
        number = text.count(len(handles), "launcher" if launchers else "process")
        if force or all(requested(e.folder, e.name, force=True) for e in handles):
            words = f"killing {number}"
        elif self._signals:
            words = f"stopping {number}; once more (Ctrl-C) kills them at once"
        elif set(why.values()) == {Reason.DEADLINE}:
            words = f"limits.deadline has passed: stopping {number}"
        elif Reason.USER in why.values():
            words = f"stopping {number}"
        else:
            words = f"a process failed: stopping the other {number}"
        self._say(words)
        return unreached

    def wake(self) -> None:
        """Called from the signal handler, or another thread: no more than a mark here."""
        self._signals += threading.current_thread() is threading.main_thread()
        super().wake()
