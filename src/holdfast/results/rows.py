"""Rows of an aggregate: of any number and size, in as much memory as is looked at.

A row with a large result keeps an outline and knows where its result is. Whoever asks for it as a
member of the list gets it whole; who shows it asks for outlines, who writes it for JSON.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, overload

import attrs

from holdfast.results.outline import Outline
from holdfast.store.strictjson import loads, nonfinite, strict

__all__ = [
    "Aggregate",
    "Row",
    "Rows",
    "encoded",
    "encoded_member",
    "make",
    "of_outline",
    "outlines",
    "parted",
    "reading",
    "shown_member",
    "with_value",
]

Row = Mapping[str, Any]

#: Characters of results that one list of rows keeps in memory.
MOST_KEPT: Final = 64 << 20

# That of a result, and what stands around it.
_DEPTH: Final = 200

_encode: Final = json.JSONEncoder(allow_nan=False).encode


@attrs.frozen
class _Large:
    """A row, or a value, that is made when it is asked for.

    Attributes:
        outline: What there is to see of it.
        document: Reads its result again, or all of it where there is no *head*.
        head: The row without its result.
    """

    outline: Any
    document: Callable[[], Outline]
    head: Row | None = None

    def value(self) -> Any:
        """The row as a member of the list is."""
        return loads(self.text().encode(), max_depth=_DEPTH)

    def text(self) -> str:
        """The row as JSON in one line."""
        found = self.document()
        if self.head is None:
            return found.strict()
        more = f', "nonfinite": {_encode(found.nonfinite)}' if found.nonfinite else ""
        begin = _encode(self.head)[:-1]
        return f'{begin}{", " if self.head else ""}"result": {found.strict()}{more}}}'


class Rows(Sequence[dict[str, Any]]):
    """Rows of which some are made when they are asked for."""

    def __init__(self, entries: Iterable["dict[str, Any] | _Large"]) -> None:
        self._entries = list(entries)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> "Rows": ...
    def __getitem__(self, at: int | slice) -> "dict[str, Any] | Rows":
        if isinstance(at, slice):
            return Rows(self._entries[at])
        entry = self._entries[at]
        if not isinstance(entry, _Large):
            return entry
        whole: dict[str, Any] = entry.value()
        return whole

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def outlines(self) -> Iterator[Row]:
        """Each row, of large results an outline."""
        return (each.outline if isinstance(each, _Large) else each for each in self._entries)

    def parted(self) -> Iterator[tuple[Row, Callable[[Any], Any]]]:
        """Each row as `outlines` has it, and what makes the whole of a part that is elided."""
        for each in self._entries:
            if isinstance(each, _Large):
                yield each.outline, each.document().whole
            else:
                yield each, _as_it_is

    def encoded(self) -> Iterator[str]:
        """Each row whole, as JSON in one line."""
        return (
            each.text() if isinstance(each, _Large) else _encode(each) for each in self._entries
        )


class Aggregate(Mapping[str, Any]):
    """An aggregate of which one large member, its `value`, is made when it is asked for."""

    def __init__(self, small: Mapping[str, Any], value: _Large) -> None:
        self._small = small
        self._value = value

    def __getitem__(self, key: str) -> Any:
        return self._value.value() if key == "value" else self._small[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._small)

    def __len__(self) -> int:
        return len(self._small)

    def value_outline(self) -> Any:
        """What there is to see of the value."""
        return self._value.outline

    def value_text(self) -> str:
        """The value as JSON in one line."""
        return self._value.text()


def with_value(small: Mapping[str, Any], found: Outline, again: Callable[[], Outline]) -> Aggregate:
    """*small*, which has None there, with a large `value`; *again* reads its outline once more."""
    return Aggregate(small, _Large(strict(found.value), again))


def encoded_member(aggregate: Mapping[str, Any], key: str) -> str:
    """A member of an aggregate as JSON in one line."""
    if isinstance(aggregate, Aggregate) and key == "value":
        return aggregate.value_text()
    return _encode(aggregate[key])


def shown_member(aggregate: Mapping[str, Any], key: str) -> Any:
    """A member of an aggregate, or its outline if it is large."""
    if isinstance(aggregate, Aggregate) and key == "value":
        return aggregate.value_outline()
    return aggregate.get(key)


def outlines(rows: Any) -> Iterator[Row]:
    """What there is to see of each of *rows*; what a file holds in the place of one is left out."""
    found = rows.outlines() if isinstance(rows, Rows) else rows if isinstance(rows, list) else ()
    return (row for row in found if isinstance(row, Mapping))


def parted(rows: Iterable[Row]) -> Iterator[tuple[Row, Callable[[Any], Any]]]:
    """Each of *rows* with what makes the whole of a part of it, a large part at a time."""
    return rows.parted() if isinstance(rows, Rows) else ((row, _as_it_is) for row in rows)


def _as_it_is(value: Any) -> Any:
    return value


def encoded(rows: Iterable[Any]) -> Iterator[str]:
    """Each of *rows* as JSON in one line."""
    return rows.encoded() if isinstance(rows, Rows) else iter(map(_encode, rows))


def make(head: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """A row: *head*, the result with null for what is not finite, and what that was."""
    named = nonfinite(result)
    if not named:
        return {**head, "result": result}
    return {**head, "result": strict(result), "nonfinite": named}


def of_outline(head: Mapping[str, Any], found: Outline, again: Callable[[], Outline]) -> _Large:
    """As `make`, of a large result; *again* gives the outline with its text once more."""
    more = {"nonfinite": found.nonfinite} if found.nonfinite else {}
    return _Large({**head, "result": strict(found.value), **more}, again, head)


def stored(line: Outline, again: Callable[[], str]) -> _Large:
    """A large row as a file has it; *again* reads its line once more."""
    return _Large(line.value, reading(line, again))


def reading(found: Outline, again: Callable[[], str]) -> Callable[[], Outline]:
    """What gives *found* with its text once more, which is not kept."""
    bare = attrs.evolve(found, text="")
    return lambda: attrs.evolve(bare, text=again())
