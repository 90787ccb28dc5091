"""Work that takes seconds and decides nothing, in a thread beside the loop, which hears meanwhile.

Large results are read, checked and synchronised here. Nothing of it touches the claim: what comes
of it, the loop records.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

__all__ = ["Beside", "Task"]

T = TypeVar("T")


class Task(Generic[T]):
    """Something that is done in another thread.

    Attributes:
        over: Set once `result` has an answer.
        wanted: Whether it is to be begun, if it is not yet.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        """Call *work*, once somebody comes to it."""
        self._work: Callable[[], T] | None = work
        self._value: Any = None
        self._error: BaseException | None = None
        self.over: Final = threading.Event()
        self.wanted = True

    def do(self) -> None:
        """Call the work."""
        assert self._work is not None
        try:
            if self.wanted:
                self._value = self._work()
        except BaseException as err:
            self._error = err
        self._work = None
        self.over.set()

    def result(self) -> T:
        """What the work returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value


class Beside:
    """One task after the other, so that no two large results are in memory at a time."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """*wake* is called when something is done; from the thread that did it."""
        self._wake = wake
        self._guard = threading.Lock()
        self._waiting: deque[Task[Any]] = deque()
        self._working = False

    def begin(self, work: Callable[[], T]) -> Task[T]:
        """Have *work* done once everything before it is."""
        task = Task(work)
        with self._guard:
            self._waiting.append(task)
            if self._working:
                return task
            self._working = True
        # A daemon: it changes nothing that an interpreter would have to wait for.
        threading.Thread(target=self._go, name="holdfast results", daemon=True).start()
        return task

    def _go(self) -> None:
        while True:
            with self._guard:
                if not self._waiting:
                    self._working = False
                    return
                task = self._waiting.popleft()
            task.do()
            # What it made is not to live as long as the next one.
            del task
            self._wake()
