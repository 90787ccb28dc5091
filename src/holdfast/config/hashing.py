"""The hash of a configuration: equal for what asks for the same work, whoever wrote it how.

Owns what *the same* means for JSON-like data. Which part of an experiment defines its work is
decided in `holdfast.config.experiment_file`.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["canonical_json", "compute_config_hash"]

# What is stored must be readable again: `strictjson` stops at 100, of which a state needs some.
_MAX_DEPTH: Final = 80

# Python itself reads no integer of more than 4,300 digits; this is just below.
_MOST_BITS: Final = 14_000


def compute_config_hash(config: Mapping[str, Any], volatile: Iterable[str] = ()) -> str:
    """The SHA-256, in hex, of *config* without its *volatile* keys.

    The order of keys does not matter, nor does tuple or list. Types do: 1, 1.0, "1" and true are
    four different values, as they are in JSON and on a command line.

    Args:
        config: JSON-like: mappings with string keys, lists, tuples, strings, finite numbers,
            booleans, None.
        volatile: Dotted paths of keys that do not define the work, e.g. `limits.jobs`. A path
            goes through lists into each element, and takes everything below it along; one that
            is not there is no error.

    Raises:
        TypeError: A value or key that JSON does not have; the message names its path.
        ValueError: NaN, infinity, endless digits or nesting; the message names its path.
    """
    import hashlib  # loads OpenSSL, which readers of states never need

    return hashlib.sha256(canonical_json(config, volatile)).hexdigest()


def canonical_json(config: Mapping[str, Any], volatile: Iterable[str] = ()) -> bytes:
    """*config* as the one JSON text that is hashed: sorted keys, no spaces, ASCII.

    Raises as `compute_config_hash`.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"a configuration is a mapping, not {type(config).__name__}")
    # A string is iterable: "seed" would mean the keys s, e and d.
    if isinstance(volatile, str):
        raise TypeError("volatile is a collection of dotted paths, not one string")
    plain = _plain(config, "", "", frozenset(volatile), 1)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _plain(value: Any, path: str, dotted: str, volatile: frozenset[str], depth: int) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise ValueError(f"{_at(path)}: the integer is too long for JSON readers")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{_at(path)}: {value} is not a number that JSON can hold")
        return value
    if depth > _MAX_DEPTH:
        raise ValueError(f"{_at(path[:60])}: nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        plain = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{_at(path)}: key {key!r} is a {type(key).__name__}, not a string")
            name = f"{dotted}.{key}" if dotted else key
            if name not in volatile:
                where = f"{path}.{key}" if path else key
                plain[key] = _plain(inner, where, name, volatile, depth + 1)
        return plain
    if isinstance(value, list | tuple):
        return [
            _plain(inner, f"{path}[{i}]", dotted, volatile, depth + 1)
            for i, inner in enumerate(value)
        ]
    kind = type(value)
    raise TypeError(f"{_at(path)}: {kind.__module__}.{kind.__qualname__} has no place in JSON")


def _at(path: str) -> str:
    return path or "the configuration"
