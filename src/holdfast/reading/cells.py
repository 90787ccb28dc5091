"""Values as a table has them: short, in one line, nested objects as columns of dotted names."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from holdfast.reading import text
from holdfast.results.outline import Elided
from holdfast.store.strictjson import field_name, spelt

__all__ = ["cell", "flat", "numeric"]

#: Items of a list that its cell begins with, if they have room.
_FIRST: Final = 8
_BARE: Final = "value"


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The result of *row* by dotted names; {"value": …} if it is no object.

    What was no finite number to JSON is there in words.
    """
    result = row.get("result")
    named = row.get("nonfinite")
    if isinstance(result, Mapping):
        found = dict(_fields(result, ""))
    else:
        found = {} if result is None and not named else {_BARE: result}
    if isinstance(named, Mapping):
        # Elements of lists have names, too, but no columns.
        found.update((name, str(word)) for name, word in named.items() if name in found)
    return found


def _fields(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        name = prefix + field_name(key)
        if isinstance(inner, Mapping) and inner:
            yield from _fields(inner, f"{name}.")
        else:
            yield name, inner


def cell(value: Any) -> str:
    """*value* for a table: whole if it is short, else how it begins and how long it is."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value - value != 0.0:
            return spelt(value)
        # Six digits; an exponent only where there is no other way to say it.
        return f"{value:.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, str | int):
        return text.short(value)
    return text.short(_begin(value))


def _begin(value: Any) -> str:
    """The beginning of a list or object, without a look at the rest of it."""
    if isinstance(value, Elided):
        return str(value)
    if isinstance(value, list):
        if len(value) <= _FIRST:
            return f"[{', '.join(map(_item, value))}]"
        return f"{len(value):,} items: [{', '.join(map(_item, value[:_FIRST]))}, …"
    if isinstance(value, Mapping):
        first = list(value.items())[:_FIRST]
        rest = ", …" if len(value) > _FIRST else ""
        return "{" + ", ".join(f"{json.dumps(k)}: {_item(v)}" for k, v in first) + rest + "}"
    return text.short(value)


def _item(value: Any) -> str:
    if isinstance(value, list | Mapping):
        return _begin(value)
    if isinstance(value, str):
        return json.dumps(text.short(value), ensure_ascii=False)
    return "null" if value is None else cell(value)


def numeric(column: Iterable[str]) -> bool:
    """Whether everything in a column of cells is a number, or nothing."""
    return all(map(_is_number, column))


def _is_number(word: str) -> bool:
    if not word:
        return True
    try:
        float(word)
    except ValueError:
        return False
    return True
