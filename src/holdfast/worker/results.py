"""What a process delivers: its result, as JSON that is accepted.

Owns what is refused here already, so that a program learns of it where it can do something about
it. The same is refused of any result when it is accepted.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["encoded"]

_MAX_DEPTH = 100
_SIZE_LIMIT = 64 << 20


def encoded(value: object) -> bytes:
    """*value* as JSON, with NaN and Infinity where Python has them.

    Numbers and arrays of other libraries are what their `tolist()` says.

    Raises:
        TypeError: Something in it is nothing that JSON has.
        ValueError: It is too large, nested too deep or within itself, or two of its keys are one.
    """
    import json

    try:
        text = json.dumps(value, default=_converted)
    except RecursionError:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep") from None
    _check(value)
    data = text.encode("ascii")
    if len(data) > _SIZE_LIMIT:
        raise ValueError(
            f"{len(data):,} bytes are more than {_SIZE_LIMIT:,}: name large files in it instead"
        )
    return data


def _converted(value: "Any") -> object:
    if not isinstance(value, type) and callable(getattr(value, "tolist", None)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def _check(value: object) -> None:
    """Refuse what makes a text that means something else to another reader.

    Raises:
        ValueError: Two keys of an object are written alike, or it is nested too deep.
    """
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list | tuple)]:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                written = {_key(key) for key in each}
                if len(written) < len(each):
                    raise ValueError("two keys of an object are written alike")
                inner += each.values()
            else:
                inner += each
        level = inner


def _key(key: object) -> str:
    """How JSON has *key*, which is a text always."""
    if isinstance(key, str):
        return key
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return float.__repr__(key) if isinstance(key, float) else int.__repr__(key)
