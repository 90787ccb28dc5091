"""What a process tells while it works: one line now and then, for eyes only.

Owns the form of a line, and how often one is written. A program may report as often as it likes.
"""

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.worker.files import Lines

__all__ = ["Reporter", "line_of"]

#: At most one line in this time.
EVERY_S = 0.5

_LONGEST_MESSAGE = 500
_LONGEST_VALUE = 200
_MOST_VALUES = 100

_monotonic = time.monotonic


class Reporter:
    """Collects what is reported, and writes the last of it once in `EVERY_S`.

    Not safe for threads by itself.

    Attributes:
        step, total: The last ones reported.
    """

    def __init__(self, lines: "Lines") -> None:
        self._lines = lines
        self._due = 0.0
        self._news = False
        self._values: dict[str, object] = {}
        self._message: object = None
        self.step: object = None
        self.total: object = None

    def report(
        self, step: object, total: object, message: object, values: "Mapping[str, object]"
    ) -> None:
        """Take it in, and write it if the time has come."""
        if step is not None:
            self.step = step
        if total is not None:
            self.total = total
        if message is not None:
            self._message = message
        if values:
            self._values.update(values)
        self._news = True
        if _monotonic() >= self._due:
            self.flush()
        elif values:
            for name, value in values.items():
                # A tensor would keep the graph that it comes from, and all memory of that.
                if (detach := getattr(value, "detach", None)) is not None:
                    self._values[name] = _tried(detach)

    def flush(self) -> None:
        """Write what has not been written yet."""
        if not self._news:
            return
        self._due = _monotonic() + EVERY_S
        told = line_of(self.step, self.total, self._message, self._values)
        if self._lines.append(told):
            self._news = False
            self._values.clear()

    def close(self) -> None:
        """Write what has not been written, and let the file go."""
        self.flush()
        self._lines.close()


def line_of(step: object, total: object, message: object, values: "Mapping[str, object]") -> bytes:
    """One line of progress, without its end; what cannot be told is left out."""
    import json

    told: dict[str, object] = {}
    for name, value in list(values.items())[:_MOST_VALUES]:
        if (plain := _plain(value)) is not None:
            told[str(name)[:_LONGEST_VALUE]] = plain
    for name, value in (("step", step), ("total", total)):
        plain = _plain(value)
        if isinstance(plain, int | float):
            told[name] = plain
    if message is not None:
        told["message"] = _text(message)[:_LONGEST_MESSAGE]
    told["time"] = time.time()
    return json.dumps(told).encode("ascii")


def _plain(value: object) -> "int | float | str | None":
    """*value* as JSON has it: a number of any library's, or a short text."""
    if isinstance(value, str):
        return value[:_LONGEST_VALUE]
    if type(value) is int and value.bit_length() > 1024:
        return None  # longer than Python writes
    if isinstance(value, int | float):
        return value
    if value is None:
        return None
    item = getattr(value, "item", None)
    found = _tried(item) if item is not None else None
    if found is None and hasattr(type(value), "__float__"):
        found = _tried(lambda: float(value))  # type: ignore[arg-type]
    return found if isinstance(found, int | float) else None


def _tried(convert: object) -> object:
    """What *convert* makes; None if it makes nothing: a report never ends a program."""
    try:
        return convert()  # type: ignore[operator]
    except Exception:
        return None


def _text(message: object) -> str:
    try:
        return str(message)
    except Exception:
        return f"<{type(message).__name__}>"
