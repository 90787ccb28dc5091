"""Columns of the data in a page: short, typed, and nothing in them that a script misreads."""

import json
import math
import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from holdfast.errors import printable
from holdfast.reading.cells import cell as cell_words
from holdfast.results.outline import Elided
from holdfast.store.strictjson import spelt

__all__ = [
    "Cell",
    "bytes_of",
    "cell",
    "cut",
    "digits",
    "kind",
    "packed",
    "rounded",
    "seconds",
    "table",
]

#: Beyond it, a script would round an integer.
_MOST_EXACT: Final = 2**53
_LONGEST_NAME: Final = 60
_MARKUP: Final = re.compile("[<>&']")
#: How many more bytes than one stand for it then, at the most.
_ESCAPED: Final = 5

Cell = str | int | float | bool | None

_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def bytes_of(value: Any) -> int:
    """Bytes that *value* takes in a page, at the most: markup in it is escaped."""
    encoded = _encode(value)
    return len(encoded.encode(errors="surrogatepass")) + _ESCAPED * len(_MARKUP.findall(encoded))


def cut(words: object, most: int) -> str:
    """*words*, harmless and in one line; of a longer text the beginning, and how long it is.

    What is escaped in a page counts as much as what then stands for it.
    """
    found = str(words)
    if len(found) <= most and found.isprintable():
        whole = found
    else:
        whole = " ".join(printable(found[: 4 * most]).split())
    begin = _beginning(whole, most)
    if len(found) <= most and begin == whole:
        return begin
    return f"{begin}… ({len(found):,} characters)"


def _beginning(words: str, most: int) -> str:
    if len(words) * (1 + _ESCAPED) <= most:
        return words
    words = words[:most]
    over = len(words) - most + _ESCAPED * len(_MARKUP.findall(words))
    while over > 0:
        over -= 1 + _ESCAPED * bool(_MARKUP.match(words[-1]))
        words = words[:-1]
    return words


def cell(value: Any, most: int) -> Cell:
    """One value of a parameter or a result: a number, true or false, null, or text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) <= _MOST_EXACT:
            return value
        # A script would round it as well; a parameter cannot be one.
        return float(value) if abs(value) <= sys.float_info.max else cut(value, most)
    if isinstance(value, float):
        return value if math.isfinite(value) else spelt(value)
    if isinstance(value, Elided) or not isinstance(value, str):
        return cut(cell_words(value), most)
    return cut(value, most)


def kind(values: Iterable[Cell]) -> str:
    """What a column holds besides null: number, boolean, text, or mixed."""
    kinds = {
        "boolean" if isinstance(each, bool) else "text" if isinstance(each, str) else "number"
        for each in values
        if each is not None
    }
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "text"


def packed(values: Sequence[Cell]) -> Sequence[Cell] | Cell:
    """*values*, or the one that all of them are."""
    if not values:
        return None
    first = values[0]
    if all(each is first or (type(each) is type(first) and each == first) for each in values):
        return first
    return values


def table(
    rows: Sequence[Mapping[str, Any]], most: int, budget: int, columns: int
) -> tuple[dict[str, list[Cell]], list[str]]:
    """*rows* by column, and the names of the columns for which there was no room.

    Columns of numbers come first where not all fit: texts can be read elsewhere, plots cannot.

    Args:
        most: Characters of a text; fewer where they would take more than *budget* bytes.
        budget: Bytes of all columns, about.
        columns: How many there may be.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    made: dict[str, list[Cell]] = {}
    for name in names[: 20 * columns]:
        made[_unique(cut(name, _LONGEST_NAME), made)] = [cell(row.get(name), most) for row in rows]
    order = sorted(made, key=lambda name: kind(made[name]) not in ("number", "boolean"))
    kept: set[str] = set()
    left = budget
    for name in order[:columns]:
        size = bytes_of(made[name])
        for shorter in (60, 24):
            if size <= max(left, 0) or kind(made[name]) not in ("text", "mixed"):
                break
            made[name] = [cut(v, shorter) if isinstance(v, str) else v for v in made[name]]
            size = bytes_of(made[name])
        if size <= left:
            kept.add(name)
            left -= size
    left_out = [name for name in made if name not in kept]
    return (
        {name: made[name] for name in made if name in kept},
        [*left_out, *(cut(name, _LONGEST_NAME) for name in names[20 * columns :])],
    )


def _unique(name: str, taken: Container[str]) -> str:
    """*name*, or one like it: two long ones may begin alike."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def rounded(value: float | None, digits: int = 3) -> float | int | None:
    """*value* with no more digits than an eye has use for."""
    if value is None or not math.isfinite(value):
        return None
    found = round(value, digits)
    return int(found) if found == int(found) else found


def digits(value: float) -> float | int:
    """*value* of a point in a plot: five digits."""
    found = float(f"{value:.5g}")
    return int(found) if abs(found) < _MOST_EXACT and found == int(found) else found


def seconds(at: datetime | None, since: datetime | None) -> float | int | None:
    """From *since* to *at*; None where one of both is not known."""
    return None if at is None or since is None else rounded((at - since).total_seconds())
