"""The loops of a program that are tracked: at which step it is, and whether they ran to their end.

Several may be within each other; the outermost says the step. Owns what the next step is.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["Tracking"]


class Tracking:
    """The loops of one block.

    Attributes:
        next: The step to go on with once the current one is done; None if none is known.
    """

    def __init__(self) -> None:
        self._open = 0
        self._ended = self._broken = False
        self.next: int | None = None

    @property
    def ran_to_its_end(self) -> bool:
        """Whether there was a loop, and none was left before its end."""
        return self._ended and not self._broken and not self._open

    def at(self, step: object) -> None:
        """The program itself says at which step it is; a loop knows better."""
        if not self._open and isinstance(step, int):
            self.next = step + 1

    def over(
        self, iterable: "Iterable[T]", total: "int | None", report: "Callable[..., None]"
    ) -> "Iterator[T]":
        """Iterate over *iterable*, and *report* the steps."""
        if isinstance(iterable, range) and iterable.step > 0:
            first, by = iterable.start, iterable.step
            total = iterable.stop if total is None else total
        else:
            first, by = 0, 1
            total = _length(iterable) if total is None else total
        outermost = not self._open
        if outermost:
            self.next = first
        self._open += 1
        step, ended = first, False
        try:
            for item in iterable:
                if outermost:
                    self.next = step + by
                    report(step=step, total=total)
                else:
                    report()
                yield item
                step += by
            ended = True
            if outermost:
                report(step=step if total is None else min(step, total), total=total)
        finally:
            self._open -= 1
            self._ended = self._ended or ended
            self._broken = self._broken or not ended


def _length(iterable: "Iterable[object]") -> "int | None":
    try:
        return len(iterable)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None  # a stream
