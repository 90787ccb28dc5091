"""JSON as others wrote it, read without surprises: what is accepted means one thing only.

Owns which JSON is acceptable in states and results; file access and size limits are the caller's.
Imports next to nothing, because every reader of a state pays for it.
"""

import contextlib
import gc
import json
import re
from collections.abc import Iterator
from typing import Any, Final

__all__ = [
    "MAX_DEPTH",
    "Nonfinite",
    "Path",
    "collector_paused",
    "decode_blindly",
    "decoded",
    "depth_of",
    "duplicate",
    "explained",
    "field_name",
    "is_finite",
    "loads",
    "may_be_nonfinite",
    "nonfinite",
    "parsed",
    "scan",
    "spelt",
    "strict",
    "too_deep",
]

#: Deeper than any sane state or result, and far from where recursive code overflows its stack.
MAX_DEPTH: Final = 100

# Characters from which on it pays to keep the garbage collector out.
_LARGE: Final = 1 << 17

_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"\[\]{},:]+')


#: Where a value stands: keys, as `field_name` has them, and indices.
Path = tuple[str | int, ...]

#: Names that are listed of what is not finite in one document.
_MOST_NAMED: Final = 1000

_EXPONENT: Final = re.compile(rb"[eE]\+?[0-9]{3}")


def duplicate(key: str) -> str:
    """What is wrong with a document that has *key* twice in an object."""
    return f"duplicate key {_short(json.dumps(key))}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # Parsers differ in which of two values they keep: one file would be two states.
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(duplicate(key))
            seen.add(key)
    return found


class _NotFiniteError(ValueError):
    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token


def _constant(token: str) -> Any:
    raise _NotFiniteError(token)


def is_finite(value: float) -> bool:
    """Whether it is a number that JSON can hold."""
    return value - value == 0.0


def _float(token: str) -> float:
    value = float(token)
    # 1e999 is valid JSON, but would be Infinity from here on, which is none.
    if not is_finite(value):
        raise _NotFiniteError(token)
    return value


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
).decode

#: Three times as fast, but blind for duplicate keys: for what a checksum proves to be our own.
#: Raises ValueError, or RecursionError.
decode_blindly: Final = json.JSONDecoder(parse_constant=_constant, parse_float=_float).decode

_LENIENT: Final = json.JSONDecoder(object_pairs_hook=_object)

_BLIND: Final = json.JSONDecoder()
_SPACED: Final = re.compile(r"[ \t\r\n]:")


def parsed(text: str) -> tuple[Any, int]:
    """The value of a small document of much the same, and its depth; as `scan` has it.

    Raises:
        ValueError: It is not valid.
    """
    value = _BLIND.decode(text)
    keys, depth = shape(value)
    # As in `_large`: no key was lost to another if there are no more of them in the text.
    if keys and (text.count('":') != keys or _SPACED.search(text) is not None):
        value = _LENIENT.decode(text)
    return value, depth


#: The value that begins at an index of a text, and its end. Accepts NaN and Infinity; refuses
#: duplicate keys.
scan: Final = _LENIENT.raw_decode


def field_name(key: str) -> str:
    """*key* as one part of a dotted name."""
    # Quoted as in TOML, because `{"a.b": 1}` is not `{"a": {"b": 1}}`.
    return json.dumps(key) if not key or "." in key or '"' in key else key


def may_be_nonfinite(data: bytes) -> bool:
    """False if the JSON in *data* certainly has no NaN, Infinity or number beyond a float."""
    if b"NaN" in data or b"Infinity" in data:
        return True
    if (b"e" in data or b"E" in data) and _EXPONENT.search(data) is not None:
        return True
    # As many digits as a float cannot have fill one of these pieces, wherever they begin.
    return any(data[at : at + 154].isdigit() for at in range(0, len(data), 154))


class Nonfinite:
    """Collects where in a document what stands that is no finite number."""

    def __init__(self) -> None:
        self._found: dict[Path, str] = {}
        self._more = 0

    def look(self, value: Any, path: Path) -> None:
        """Look for it in *value*, which stands at *path*."""
        kind = type(value)
        if kind is float:
            if not is_finite(value):
                self._add(path, value)
        elif kind is dict:
            for key, inner in value.items():
                if type(inner) in (float, dict, list):
                    self.look(inner, (*path, field_name(key)))
        elif kind is list:
            for index, inner in enumerate(value):
                if type(inner) in (float, dict, list):
                    self.look(inner, (*path, index))

    def _add(self, path: Path, value: float) -> None:
        if len(self._found) == _MOST_NAMED:
            self._more += 1
            return
        self._found[path] = spelt(value)

    def named(self) -> dict[str, str]:
        """`{"loss": "NaN", "curve[3]": "-Infinity"}`; a bare number has the name `value`."""
        named = {_name(path): spelling for path, spelling in self._found.items()}
        if self._more:
            named["…"] = f"{self._more:,} more"
        return named


def nonfinite(value: Any) -> dict[str, str]:
    """Where in *value* what stands that is no finite number."""
    found = Nonfinite()
    found.look(value, ())
    return found.named()


def spelt(value: float) -> str:
    """NaN and the infinities as Python and JavaScript write them."""
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _name(path: Path) -> str:
    parts = [f"[{each}]" if isinstance(each, int) else f".{each}" for each in path]
    return "".join(parts).removeprefix(".") or "value"


def strict(value: Any) -> Any:
    """*value* with None in place of what is no finite number."""
    if type(value) is float:
        return value if is_finite(value) else None
    if type(value) is dict:
        return {key: strict(inner) for key, inner in value.items()}
    if type(value) is list:
        return [strict(inner) for inner in value]
    return value


def decoded(data: bytes) -> str:
    """The text of a JSON document.

    Raises:
        ValueError: It is no UTF-8, or empty.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        text = data.decode()
    except UnicodeDecodeError as err:
        raise ValueError(f"not UTF-8: byte 0x{data[err.start]:02x} at offset {err.start}") from None
    if text[0] == "\ufeff":
        raise ValueError("begins with a byte order mark, which JSON does not have")
    return text


def loads(data: bytes, *, max_depth: int = MAX_DEPTH, finite: bool = True) -> Any:
    """The value in *data*: one JSON document in UTF-8, exactly as RFC 8259 means it.

    Refused beyond what `json.loads` refuses: duplicate keys, NaN and Infinity (also as 1e999),
    more than *max_depth* levels of nesting, a byte order mark, any encoding but UTF-8. Escaped
    lone surrogates are accepted: Python's own writers make them from file names that are no text.

    Args:
        finite: Refuse NaN and Infinity. Python writes them, and no result is worth losing for it.

    Raises:
        ValueError: What is wrong, and where (line and column, or the key).
    """
    text = decoded(data)
    try:
        if not finite and may_be_nonfinite(data):
            value = _LENIENT.decode(text)
            depth = depth_of(value)
        elif len(data) < _LARGE:
            value = _decode(text)
            # Every level needs a bracket of its own, so that most need no second look.
            brackets = data.count(b"[") + data.count(b"{")
            depth = 0 if brackets <= max_depth else shape(value)[1]
        else:
            with collector_paused():
                value, depth = _large(data, text, max_depth)
    except _NotFiniteError as err:
        what = f"{_short(err.token)} is not a number that JSON can hold"
        raise ValueError(f"{what}: {_position(text, err.token)}") from None
    except RecursionError:
        raise ValueError(too_deep(max_depth)) from None
    except json.JSONDecodeError:
        raise
    except ValueError as err:
        raise ValueError(explained(err, text)) from None
    if depth > max_depth:
        raise ValueError(too_deep(max_depth))
    return value


def explained(err: ValueError, text: str) -> str:
    """What a parser's *err* about *text* means."""
    return _huge_integer(text) if "integer string conversion" in str(err) else str(err)


def depth_of(value: Any) -> int:
    """How many levels of nesting it has."""
    return shape(value)[1]


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector out of what makes no cycles, but very many objects.

    It would look at all of them again and again, which takes as long as making them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _large(data: bytes, text: str, max_depth: int) -> tuple[Any, int]:
    """The value, and its depth as far as *max_depth* asks for it."""
    value = decode_blindly(text)
    # Without white space, every key ends in `":`. If there are no more of these than keys, no key
    # was lost to another; if there are, they may stand in strings: look closely.
    dense = data.translate(None, b" \t\r\n")
    keys, depth = shape(value, dense.count(b"{"), dense.count(b"["), max_depth)
    if dense.count(b'":') != keys:
        value = _decode(text)
    return value, depth


def shape(
    value: Any, objects: int = -1, lists: int = 0, max_depth: int = MAX_DEPTH
) -> tuple[int, int]:
    """How many keys it has in all, and how many levels.

    Args:
        objects: How many objects open in its text, and *lists* how many lists, those in strings
            among them. Where no more objects can follow, and the lists that may cannot go beyond
            *max_depth*, the many values of the last level need no look; each such list then counts
            as a level.
    """
    # Level by level: recursion would fail on exactly the documents that this is about.
    keys = depth = 0
    level = [value] if type(value) in (dict, list) else []
    while level:
        depth += 1
        sizes = [len(each) for each in level if type(each) is dict]
        keys += sum(sizes)
        objects -= len(sizes)
        lists -= len(level) - len(sizes)
        if objects == 0 and depth + lists <= max_depth:
            return keys, depth + lists
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    return keys, depth


def too_deep(limit: int) -> str:
    """What is wrong with a document that is nested too deep."""
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
