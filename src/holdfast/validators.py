"""What the fields of records and events must be: what a reader refuses must not get in.

A state that was acknowledged and cannot be read again would be a loss like any other.
"""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

import attrs

__all__ = [
    "all_of",
    "aware",
    "mapping",
    "not_negative",
    "number",
    "optional",
    "optional_number",
    "optional_text",
    "quantities",
    "replaced_limits",
    "some_text",
    "text",
]

_Attribute: TypeAlias = "attrs.Attribute[Any]"


def text(_: object, attribute: _Attribute, value: str) -> None:
    """Text. Raises TypeError."""
    _of(str, attribute, value)


#: Text or None.
optional_text: Final = attrs.validators.optional(text)


def some_text(_: object, attribute: _Attribute, value: str) -> None:
    """Text that is not empty. Raises TypeError, ValueError."""
    _of(str, attribute, value)
    if not value:
        raise ValueError(f"{attribute.name} must not be empty")


def mapping(_: object, attribute: _Attribute, value: Mapping[str, Any]) -> None:
    """A mapping. Raises TypeError."""
    _of(Mapping, attribute, value)


def number(_: object, attribute: _Attribute, value: int) -> None:
    """An integer. bool is one to Python, not to a reader of JSON. Raises TypeError."""
    if type(value) is not int:
        raise TypeError(f"{attribute.name} must be an integer, got {value!r:.80}")


def not_negative(_: object, attribute: _Attribute, value: int) -> None:
    """An integer from 0. Raises TypeError, ValueError."""
    number(_, attribute, value)
    if value < 0:
        raise ValueError(f"{attribute.name} must be 0 or more, got {value}")


#: An integer or None.
optional_number: Final = attrs.validators.optional(number)


def optional(kind: type) -> Callable[[Any, _Attribute, Any], Any]:
    """A *kind* or None. The validator raises TypeError."""

    def validate(_: object, attribute: _Attribute, value: Any) -> None:
        if value is not None:
            _of(kind, attribute, value)

    return validate


def all_of(kind: type) -> Callable[[Any, _Attribute, Any], Any]:
    """A tuple of nothing but *kind*. The validator raises TypeError."""

    def validate(_: object, attribute: _Attribute, value: Any) -> None:
        if type(value) is not tuple or not all(isinstance(each, kind) for each in value):
            what = f"a tuple of {kind.__name__}"
            raise TypeError(f"{attribute.name} must be {what}, got {value!r:.80}")

    return validate


def replaced_limits(_: object, attribute: _Attribute, value: Any) -> None:
    """Limits by name, each `{"from": number or None, "to": number}`. Raises TypeError."""
    _of(Mapping, attribute, value)
    for name, each in value.items():
        if type(name) is not str or not isinstance(each, Mapping) or each.keys() != {"from", "to"}:
            raise TypeError(f"{attribute.name} must say from and to of each, got {value!r:.80}")
        if not _is_quantity(each["to"]) or not (each["from"] is None or _is_quantity(each["from"])):
            raise TypeError(f"{attribute.name} must be numbers from 0, got {each!r:.80}")


def quantities(_: object, attribute: _Attribute, value: Any) -> None:
    """Numbers from 0 by name. Raises TypeError."""
    _of(Mapping, attribute, value)
    for name, each in value.items():
        if type(name) is not str or not _is_quantity(each):
            raise TypeError(f"{attribute.name} must be numbers from 0, got {value!r:.80}")


def _is_quantity(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _of(kind: Any, attribute: _Attribute, value: Any) -> None:
    if not isinstance(value, kind):
        raise TypeError(
            f"{attribute.name} must be {_WORDS.get(kind, kind.__name__)}, got {value!r:.80}"
        )


_WORDS: Final = {str: "text", Mapping: "a mapping"}


def aware(_: object, attribute: _Attribute, value: datetime | None) -> None:
    """A time with its zone, or None. Raises TypeError, and ValueError for a naive time."""
    if value is None:
        return
    if not isinstance(value, datetime):
        raise TypeError(f"{attribute.name} must be a datetime, got {value!r:.80}")
    if value.tzinfo is None:
        raise ValueError(f"{attribute.name} must be timezone-aware, got {value.isoformat()}")
