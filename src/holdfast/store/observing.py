"""Observers of the steps that a claim records, each in a thread of its own.

Whoever records never waits for who watches: a step is put on a bounded queue, and an observer that
does not keep up misses the oldest ones. What it raises, and how many it missed, is warned of.
"""

import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from holdfast.errors import ObserverWarning
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.records import ExperimentState

__all__ = ["Observer", "Observing"]

#: Called with the state that a recorded line led to, and with what that line changed.
Observer = Callable[[ExperimentState, Sequence[Change]], object]

#: Steps that an observer may lie behind. They share what did not change between them.
_MOST: Final = 1024
#: How long the end of a claim waits for observers to see the last steps.
_PATIENCE_S: Final = 5.0


class _Observing:
    """One observer, its queue and its thread, which ends once it has seen all."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._steps: deque[tuple[ExperimentState, Sequence[Change]]] = deque()
        self._news = threading.Condition(threading.Lock())
        self._over = False
        self._told = False
        self.missed = 0
        self.thread = threading.Thread(target=self._watch, name=f"observer {self}", daemon=True)
        self.thread.start()

    def __str__(self) -> str:
        return getattr(self._observer, "__qualname__", repr(self._observer))

    def tell(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        with self._news:
            if len(self._steps) >= _MOST:
                self._steps.popleft()
                self.missed += 1
            self._steps.append((state, changes))
            self._news.notify()

    def end(self) -> None:
        with self._news:
            self._over = True
            self._news.notify()

    def left(self) -> int:
        """Steps that it will not have seen if nobody waits for it any longer."""
        with self._news:
            return len(self._steps)

    def _watch(self) -> None:
        while True:
            with self._news:
                while not self._steps and not self._over:
                    self._news.wait()
                if not self._steps:
                    return
                state, changes = self._steps.popleft()
            try:
                self._observer(state, changes)
            except Exception as err:  # whatever it is, it is the observer's
                if not self._told:
                    self._told = True
                    _warn(f"observer {self} raised {type(err).__name__}: {err}; it goes on")


class Observing:
    """The observers of one claim."""

    def __init__(self) -> None:
        self._all: tuple[_Observing, ...] = ()

    def add(self, observer: Observer) -> None:
        """Have *observer* called for every step from now on."""
        if not callable(observer):
            raise TypeError(f"an observer is called with (state, changes), got {observer!r:.80}")
        self._all = (*self._all, _Observing(observer))

    def tell(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        """A line is recorded. Never waits, never raises."""
        for each in self._all:
            each.tell(state, changes)

    def close(self) -> None:
        """Wait a moment for them to see what is left, and say what they missed.

        One that hangs is left behind in its thread, which does not keep the interpreter alive.
        """
        observers, self._all = self._all, ()
        deadline = monotonic() + _PATIENCE_S
        for each in observers:
            each.end()
        for each in observers:
            # A claim may be collected in the very thread of its observer.
            if each.thread is not threading.current_thread():
                each.thread.join(max(0.0, deadline - monotonic()))
            left = each.left() if each.thread.is_alive() else 0
            if each.missed or left:
                _warn(
                    f"observer {each} is too slow, and missed {each.missed + left:,} steps; "
                    f"all of them are recorded"
                )
            elif each.thread.is_alive() and each.thread is not threading.current_thread():
                _warn(f"observer {each} does not return from the last step that it was told")


def _warn(words: str) -> None:
    try:
        warnings.warn(words, ObserverWarning, stacklevel=2)
    except Warning:
        # Somebody has warnings raised. Nothing of an observer reaches whoever records.
        return
