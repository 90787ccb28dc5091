"""Conditions such as `lr > 0.1`, as people type them: compared by type, never evaluated."""

import json
import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from holdfast.config.durations import parse_duration
from holdfast.status import ExperimentStatus

__all__ = ["MISSING", "Condition", "Kind", "condition", "moment"]

#: A name as tables have it, of which a part may be quoted as in TOML; how to compare; with what.
_FORM: Final = re.compile(
    r'\s*((?:"(?:[^"\\]|\\.)*"|[^"<>=!])+?)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*', re.DOTALL
)
_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
#: Python writes these, and people type them, in any case; JSON has no word for them.
_WORDS: Final = {"true": True, "false": False, "null": None, "none": None} | {
    word: float(word) for word in ("nan", "inf", "-inf", "infinity", "-infinity")
}

#: Stands for a value where there is none: no condition holds for it.
MISSING: Final = object()

#: What words are compared as: by the type of the value, or as a time, a duration or a status.
Kind = Literal["any", "time", "duration", "status"]


class Condition(NamedTuple):
    """One thing that has to hold.

    Attributes:
        name: Of what, as it was typed.
        compare: One of `= != < <= > >=`.
        text: What it is compared with, as text.
        value: The same as a number, true, false, null, a list or an object; else MISSING.
    """

    name: str
    compare: str
    text: str
    value: Any

    def holds(self, found: Any) -> bool:
        """Whether it holds for what was *found*, whose type decides how it is compared.

        Numbers have an order, texts and times have one. What is of another type is unequal, and
        neither more nor less; what looks like a number is equal to a text that looks the same.
        """
        if found is MISSING:
            return False
        kind = _kind(found)
        other = self.value
        # `x > 0.1` asks for numbers: that "n/a" is a text beyond "0.1" is by accident.
        if kind == "text" and (other is MISSING or self.compare in ("=", "!=")):
            other = self.text
        if kind != _kind(other):
            return self.compare == "!="
        if self.compare in ("=", "!="):
            both_nan = kind == "number" and found != found and other != other
            same = both_nan or bool(found == other)
            return same == (self.compare == "=")
        return kind in _ORDERED and _OPERATORS[self.compare](found, other)

    def of_kind(self, kind: Kind, now: datetime) -> "Condition":
        """The same for what is of that *kind*. Raises ValueError: it is compared with none."""
        if kind == "time":
            return self._replace(value=moment(self.text, now))
        if kind == "any":
            return self
        if kind == "status":
            if self.text not in list(ExperimentStatus):
                raise ValueError(
                    f"{self.text!r} is no status; one of {', '.join(ExperimentStatus)}"
                )
            return self
        is_number = _kind(self.value) == "number"  # of seconds
        return self._replace(value=parse_duration(self.value if is_number else self.text))


_ORDERED: Final = frozenset({"number", "text", "time"})


def _kind(value: Any) -> str:
    if isinstance(value, bool):  # which is an int to Python
        return "truth"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, datetime):
        return "time"
    return "text" if isinstance(value, str) else type(value).__name__


def condition(words: str) -> Condition:
    """The condition that somebody typed. Raises ValueError: it is none."""
    found = _FORM.fullmatch(words)
    if found is None:
        raise ValueError(
            f"{words!r} is no condition; one is NAME OP VALUE, such as 'lr > 0.1', where OP is one "
            f"of = != < <= > >="
        )
    name, compare, typed = found.groups()
    if not typed:
        raise ValueError(f'{words!r} compares with nothing; the empty text is ""')
    text, value = _read(typed)
    return Condition(name, compare.replace("==", "="), text, value)


def _read(typed: str) -> tuple[str, Any]:
    """The two readings of a word: as text, and as what JSON or Python take it for."""
    if typed[0] == typed[-1] == "'" and len(typed) > 1:
        return typed[1:-1], MISSING
    if typed.lower() in _WORDS:
        return typed, _WORDS[typed.lower()]
    try:
        value = json.loads(typed)
    except (ValueError, RecursionError):
        return typed, MISSING
    return (value, MISSING) if isinstance(value, str) else (typed, value)


def moment(words: str, now: datetime) -> datetime:
    """A date, a time, or how long ago. Raises ValueError.

    What does not say its time zone is meant by the clock on the wall.
    """
    try:
        return now - timedelta(seconds=parse_duration(words))
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.fromisoformat(words.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{words!r} is neither how long ago, such as 2d or 1h30m, nor a date such as 2026-11-01"
        ) from None
