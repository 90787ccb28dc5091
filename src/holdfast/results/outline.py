"""A large JSON document, checked and looked at without being built.

The value of sixty megabytes of JSON can take two gigabytes. Here the parser is given a window at a
time and what it makes is dropped at once. What is left is an outline: objects and scalars as they
are, but the beginning of each list and long text. As strict as `strictjson`.
"""

import json
import re
from typing import Any, Final

import attrs

from holdfast.store import strictjson
from holdfast.store.strictjson import MAX_DEPTH, Path, field_name

__all__ = ["MOST_FIELDS", "Elided", "Outline", "outline"]

#: Members of an object that an outline keeps; what has more is a table, not a summary.
MOST_FIELDS: Final = 10_000

_WINDOW: Final = 1 << 16
_SMALL: Final = 1 << 10
_PREVIEW: Final = 200

_SPACE: Final = re.compile(r"[ \t\n\r]*").match
_ENDS: Final = {"{": "},", "[": "],"}
#: Strings, and what may be no finite number.
_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|-?Infinity|NaN|-?[0-9][0-9.eE+-]*')


class Elided(str):
    """Stands in an outline for a long list or text: its beginning, as JSON has it.

    Attributes:
        at: Where the whole of it begins in the document's text, and where it ends.
        members: Whether it is members of an object, without its braces.
        is_text: Whether it is a text.
    """

    __slots__ = ("at", "is_text", "members")

    at: tuple[int, int]
    members: bool
    is_text: bool

    def __new__(
        cls, words: str, begin: int, end: int, *, members: bool = False, is_text: bool = False
    ) -> "Elided":
        """*words* in place of what is between *begin* and *end*."""
        made = super().__new__(cls, words)
        made.at, made.members, made.is_text = (begin, end), members, is_text
        return made


@attrs.frozen
class Outline:
    """What there is to see of a document.

    Attributes:
        value: The value, with `Elided` for lists and long texts.
        nonfinite: As `strictjson.nonfinite` gives it.
        text: The document.
    """

    value: Any
    nonfinite: dict[str, str]
    text: str

    def strict(self) -> str:
        """The document in one line, with null for what is no finite number."""
        return self._strict(self.text.strip(" \t\r\n"))

    def whole(self, value: Any) -> Any:
        """What *value* stands for, if it is an `Elided` of this outline: a text, or else JSON."""
        if not isinstance(value, Elided):
            return value
        begin, end = value.at
        text = self.text[begin:end]
        if value.is_text:
            return strictjson.scan(text, 0)[0]
        return f"{{{self._strict(text)}}}" if value.members else self._strict(text)

    def _strict(self, text: str) -> str:
        if self.nonfinite:
            text = _TOKENS.sub(_finite, text)
        # Inside of strings, JSON has no line breaks.
        return text.replace("\n", " ").replace("\r", " ")


def _finite(token: re.Match[str]) -> str:
    word = token[0]
    if word[0] == '"':
        return word
    return word if strictjson.is_finite(float(word)) else "null"


def outline(data: bytes, *, max_depth: int = MAX_DEPTH) -> Outline:
    """The outline of *data*, in which NaN and Infinity may stand. Raises as `strictjson.loads`."""
    text = strictjson.decoded(data)
    scanner = _Scanner(text, max_depth, strictjson.may_be_nonfinite(data))
    try:
        end, value = scanner.value(_skip(text, 0), 1, (), shown=True)
    except RecursionError:
        raise ValueError(strictjson.too_deep(max_depth)) from None
    except json.JSONDecodeError:
        raise
    except ValueError as err:
        raise ValueError(strictjson.explained(err, text)) from None
    end = _skip(text, end)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return Outline(value, scanner.found.named(), text)


def _skip(text: str, at: int) -> int:
    space = _SPACE(text, at)
    assert space is not None
    return space.end()


def _expect(delimiter: str, text: str, at: int) -> None:
    if text[at : at + 1] != delimiter:
        raise json.JSONDecodeError(f"Expecting {delimiter!r} delimiter", text, at)


class _Scanner:
    def __init__(self, text: str, max_depth: int, suspicious: bool) -> None:
        self._text = text
        self._max_depth = max_depth
        self._suspicious = suspicious
        self._scan = strictjson.scan
        self.found = strictjson.Nonfinite()

    def value(self, at: int, depth: int, path: Path, *, shown: bool) -> tuple[int, Any]:
        """The end of the value at *at*, and its outline if it is *shown*."""
        text = self._text
        first = text[at : at + 1]
        if first in ("{", "["):
            self._check_depth(depth)
            if not shown:
                end = self._small(at, depth, path)
                if end is not None:
                    return end, None
            if first == "{":
                return self._object(at, depth, path, shown=shown)
            end, number = self._array(at, depth, path)
            return end, self._list(at, end, number) if shown else None
        value, end = self._scan(text, at)
        if self._suspicious:
            self.found.look(value, path)
        if isinstance(value, str) and len(value) > _PREVIEW:
            words = f"{value[:_PREVIEW]}… ({len(value):,} characters)"
            value = Elided(words, at, end, is_text=True)
        return end, value

    def _list(self, at: int, end: int, number: int) -> Elided:
        if end - at <= _PREVIEW:
            return Elided(self._text[at:end], at, end)
        return Elided(f"{self._text[at : at + _PREVIEW]}… ({number:,} items)", at, end)

    def _small(self, at: int, depth: int, path: Path) -> int | None:
        """The end of the object or list at *at*, if it is a small one."""
        window = self._text[at : at + _SMALL]
        try:
            value, end = self._scan(window, 0)
        except ValueError:
            return None  # not small, or not valid: `value` says where
        # Every level needs a bracket of its own, so that most need no closer look.
        brackets = window.count("[") + window.count("{")
        levels = strictjson.depth_of(value) if brackets > self._max_depth - depth else 1
        self._check(value, levels, depth, path)
        return at + int(end)

    def _check(self, value: Any, levels: int, depth: int, path: Path, first: int = 0) -> None:
        """Check what was parsed in one go before it is dropped: *levels* deep, on level *depth*.

        A part of a list begins with item *first*.
        """
        self._check_depth(depth - 1 + levels)
        if not self._suspicious:
            return
        if isinstance(value, list):
            for at, each in enumerate(value, first):
                self.found.look(each, (*path, at))
        else:
            self.found.look(value, path)

    def _check_depth(self, depth: int) -> None:
        if depth > self._max_depth:
            raise ValueError(strictjson.too_deep(self._max_depth))

    def _object(self, at: int, depth: int, path: Path, *, shown: bool) -> tuple[int, Any]:
        text = self._text
        seen: set[str] = set()
        kept: dict[str, Any] = {}
        at = _skip(text, at + 1)
        if text[at : at + 1] == "}":
            return at + 1, kept
        stepping = rest = 0
        while True:
            if len(seen) == len(kept):
                rest = at  # where what is not kept begins
            if len(seen) >= MOST_FIELDS and at >= stepping:
                end = self._members(at, depth, path, seen)
                if end > at:
                    at = _skip(text, end + 1)
                    continue
                stepping = at + _WINDOW
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError(
                    "Expecting property name enclosed in double quotes", text, at
                )
            key, at = self._scan(text, at)
            if key in seen:
                raise ValueError(strictjson.duplicate(key))
            seen.add(key)
            at = _skip(text, at)
            _expect(":", text, at)
            keep = shown and len(kept) < MOST_FIELDS
            inner = (*path, field_name(key)) if self._suspicious else path
            at, value = self.value(_skip(text, at + 1), depth + 1, inner, shown=keep)
            if keep:
                kept[key] = value
            at = _skip(text, at)
            if text[at : at + 1] == "}":
                break
            _expect(",", text, at)
            at = _skip(text, at + 1)
        if shown and len(seen) > len(kept):
            kept["…"] = Elided(f"{len(seen) - len(kept):,} more", rest, at, members=True)
        return at + 1, kept

    def _members(self, at: int, depth: int, path: Path, seen: set[str]) -> int:
        """Members of an object in one go: the comma behind them; *at* if that cannot be."""
        window = self._text[at : at + _WINDOW]
        cut = window.rfind(",")
        close = window.find("}")
        if 0 <= close < cut:
            cut = window.rfind(",", 0, close)
        if cut < 1:
            return at
        whole = f"{{{window[:cut]}}}"
        try:
            value, levels = strictjson.parsed(whole)
        except ValueError:
            return at
        if not seen.isdisjoint(value):
            return at
        self._check(value, levels, depth, path)
        seen.update(value)
        return at + cut

    def _array(self, at: int, depth: int, path: Path) -> tuple[int, int]:
        """The end of the list at *at*, and how many items it has."""
        text = self._text
        number = 0
        at = _skip(text, at + 1)
        if text[at : at + 1] == "]":
            return at + 1, 0
        stepping = 0
        while True:
            if at >= stepping:
                end, count = self._many(at, depth, path, number)
                number += count
                if count:
                    at = _skip(text, end + 1)
                    continue
                # Not again before this window is passed: a try costs as much as all of it.
                stepping = at + _WINDOW
            at, _ = self.value(at, depth + 1, (*path, number), shown=False)
            number += 1
            at = _skip(text, at)
            if text[at : at + 1] == "]":
                return at + 1, number
            _expect(",", text, at)
            at = _skip(text, at + 1)

    def _many(self, at: int, depth: int, path: Path, number: int) -> tuple[int, int]:
        """Items in one go: the comma behind them, and how many; 0 if that cannot be."""
        window = self._text[at : at + _WINDOW]
        # One item may take all of the window, or more; a list may end long before it.
        end = _ENDS.get(window[:1], ",")
        cut = window.rfind(end) + len(end) - 1
        close = window.find("]") if end == "," else -1
        if 0 <= close < cut:
            cut = window.rfind(",", 0, close)
        if cut < len(end):
            return at, 0
        whole = f"[{window[:cut]}]"
        try:
            value, levels = strictjson.parsed(whole)
        except ValueError:
            return at, 0
        self._check(value, levels, depth, path, number)
        return at + cut, len(value)
