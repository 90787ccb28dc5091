"""JSON as others wrote it, read without surprises: what is accepted means one thing only.

Owns which JSON is acceptable in states and results; file access and size limits are the caller's.
Imports next to nothing, because every reader of a state pays for it.
"""

import gc
import json
import re
from typing import Any, Final

__all__ = ["MAX_DEPTH", "decode_blindly", "loads"]

#: Deeper than any sane state or result, and far from where recursive code overflows its stack.
MAX_DEPTH: Final = 100

# Characters from which on it pays to keep the garbage collector out.
_LARGE: Final = 1 << 17

_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"\[\]{},:]+')


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # Parsers differ in which of two values they keep: one file would be two states.
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {_short(json.dumps(key))}")
            seen.add(key)
    return found


class _NotFiniteError(ValueError):
    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token


def _constant(token: str) -> Any:
    raise _NotFiniteError(token)


def _float(token: str) -> float:
    value = float(token)
    # 1e999 is valid JSON, but would be Infinity from here on, which is none.
    if value - value != 0.0:
        raise _NotFiniteError(token)
    return value


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
).decode

#: Three times as fast, but blind for duplicate keys: for what a checksum proves to be our own.
#: Raises ValueError, or RecursionError.
decode_blindly: Final = json.JSONDecoder(parse_constant=_constant, parse_float=_float).decode


def loads(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value in *data*: one JSON document in UTF-8, exactly as RFC 8259 means it.

    Refused beyond what `json.loads` refuses: duplicate keys, NaN and Infinity (also as 1e999),
    more than *max_depth* levels of nesting, a byte order mark, any encoding but UTF-8. Escaped
    lone surrogates are accepted: Python's own writers make them from file names that are no text.

    Raises:
        ValueError: What is wrong, and where (line and column, or the key).
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        text = data.decode()
    except UnicodeDecodeError as err:
        raise ValueError(f"not UTF-8: byte 0x{data[err.start]:02x} at offset {err.start}") from None
    if text[0] == "\ufeff":
        raise ValueError("begins with a byte order mark, which JSON does not have")
    try:
        if len(data) < _LARGE:
            value = _decode(text)
            # Every level needs a bracket of its own, so that most need no second look.
            brackets = data.count(b"[") + data.count(b"{")
            depth = 0 if brackets <= max_depth else _shape(value)[1]
        else:
            value, depth = _without_collector(data, text)
    except _NotFiniteError as err:
        what = f"{_short(err.token)} is not a number that JSON can hold"
        raise ValueError(f"{what}: {_position(text, err.token)}") from None
    except RecursionError:
        raise ValueError(_too_deep(max_depth)) from None
    except json.JSONDecodeError:
        raise
    except ValueError as err:
        if "integer string conversion" in str(err):
            raise ValueError(_huge_integer(text)) from None
        raise
    if depth > max_depth:
        raise ValueError(_too_deep(max_depth))
    return value


def _without_collector(data: bytes, text: str) -> tuple[Any, int]:
    # A parser makes no garbage cycles, but so many objects that the collector, looking at all of
    # them again and again, takes as long as the parsing itself.
    enabled = gc.isenabled()
    gc.disable()
    try:
        return _large(data, text)
    finally:
        if enabled:
            gc.enable()


def _large(data: bytes, text: str) -> tuple[Any, int]:
    """The value and its depth."""
    value = decode_blindly(text)
    keys, depth = _shape(value)
    # Where no colon has a space before it, every key ends in `":`. If there are no more of these
    # than keys, no key was lost to another; if there are, they may stand in strings: look closely.
    spaced = any(space in data for space in (b" :", b"\t:", b"\r:", b"\n:"))
    if spaced or data.count(b'":') != keys:
        value = _decode(text)
    return value, depth


def _shape(value: Any) -> tuple[int, int]:
    """How many keys it has in all, and how many levels."""
    # Level by level: recursion would fail on exactly the documents that this is about.
    keys = depth = 0
    level = [value] if type(value) in (dict, list) else []
    while level:
        depth += 1
        keys += sum(len(each) for each in level if type(each) is dict)
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    return keys, depth


def _too_deep(limit: int) -> str:
    return f"nested more than {limit} levels deep"


def _position(text: str, token: str) -> str:
    at = next((m.start() for m in _TOKENS.finditer(text) if m.group() == token), 0)
    return f"line {text.count(chr(10), 0, at) + 1} column {at - text.rfind(chr(10), 0, at)}"


def _huge_integer(text: str) -> str:
    for match in _TOKENS.finditer(text):
        digits = match.group().removeprefix("-")
        if digits.isdigit():
            try:
                int(digits)
            except ValueError:
                where = _position(text, match.group())
                return f"an integer of {len(digits):,} digits is too long: {where}"
    return "an integer is too long"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"
