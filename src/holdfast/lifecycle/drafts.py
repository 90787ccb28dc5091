"""Records made at the speed that ten thousand of them need.

`attrs.evolve` runs every converter and validator again, 10 µs for an experiment, and a frozen
record takes each of its fields by a call. Here a record begins as a draft, an instance of a
subclass whose fields are set like any object's, and gets its own class when it is whole.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import attrs

__all__ = ["reader", "with_fields"]

Record = TypeVar("Record")


@cache
def _draft(kind: type) -> type:
    # Without both of these, CPython takes its slow way through Python for either.
    own = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    return type(kind.__name__, (kind,), {"__slots__": (), **own})


def _compiled(kind: type, body: list[str], scope: dict[str, Any]) -> Callable[[Any], Any]:
    """A function that makes a draft `new` of the `old` that it is given, by the lines of *body*."""
    # Written out, as attrs writes its own methods: a loop takes four times as long.
    source = "\n    ".join(["def made(old):", "new = make(draft)", *body, "return new"])
    scope = {"make": object.__new__, "draft": _draft(kind), "kind": kind, **scope}
    exec(source, scope)  # noqa: S102
    made: Callable[[Any], Any] = scope["made"]
    return made


@cache
def _copier(kind: Any) -> Callable[[Any], Any]:
    names = [field.name for field in attrs.fields(kind)]
    return _compiled(kind, [f"new.{name} = old.{name}" for name in names], {})


def with_fields(record: Record, fields: Mapping[str, Any]) -> Record:
    """*record* with *fields*, whose types and values are known to be right.

    Raises:
        KeyError: It has no such field.
    """
    kind: Any = type(record)
    new: Record = _copier(kind)(record)
    try:
        for name, value in fields.items():
            setattr(new, name, value)
    except AttributeError:
        raise KeyError(name) from None
    new.__class__ = kind
    return new


def reader(
    kind: type[Record], parsers: Mapping[str, Callable[[Any], Any]]
) -> Callable[[Any], Record]:
    """What makes a *kind* of a JSON object: each field by its parser, unknown keys passed over.

    The parsers judge alone, the validators of *kind* are not asked. What is absent has its default.

    The reader raises whatever a parser does, KeyError for a field without a default, and TypeError
    for what is no object.
    """
    body = ["if type(old) is not dict: raise TypeError(old)"]
    scope: dict[str, Any] = {}
    for field in attrs.fields(kind):  # type: ignore[arg-type]
        name, default = field.name, field.default
        scope[f"read_{name}"], scope[f"default_{name}"] = parsers[name], default
        body.append(f"new.{name} = read_{name}(old['{name}'])")
        if default is not attrs.NOTHING:
            body[-1] += f" if '{name}' in old else default_{name}"
    return _compiled(kind, [*body, "new.__class__ = kind"], scope)
