"""`[slots]` and `[needs]`: what only one process can use at a time, and how much each needs."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NewType

from holdfast.config import values
from holdfast.errors import ConfigProblem

__all__ = [
    "Needs",
    "Slots",
    "filled",
    "kinds",
    "needs",
    "problems",
    "slots",
    "unfilled",
    "unneeded",
]

#: Names by kind; None for what the driver lists.
Slots = NewType("Slots", dict[str, tuple[str, ...] | None])
Needs = NewType("Needs", dict[str, int])

#: Stands for the list that only the machine knows, and only of its GPUs.
AUTO: Final = "auto"
_GPU: Final = "gpu"
_TAKEN: Final = ("CUDA_VISIBLE_DEVICES",)

_KIND: Final = re.compile(r"[a-z][a-z0-9_]*")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_LONGEST: Final = 100
_MOST: Final = 4096


def slots(value: Any, _: Any = None) -> Slots:
    """`[slots]`: the names of each kind, or `auto`."""
    return Slots(dict(_table("slots", value, _names)))


def needs(value: Any, _: Any = None) -> Needs:
    """`[needs]`: how many of each kind; those of which none are needed are left out."""
    found = _table("needs", value, _number)
    return Needs({kind: number for kind, number in found.items() if number})


def _table(where: str, value: Any, structure: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a table, found {values.kind_of(value)}")
    problems = values.Problems()
    found = {}
    for kind, given in value.items():
        with problems.at(f"{where}.{kind}"):
            if not isinstance(kind, str) or not _KIND.fullmatch(kind) or len(kind) > _LONGEST:
                raise ValueError("not a name: lower-case letters, digits and _, a letter first")
            found[kind] = structure(kind, given)
    problems.tell()
    return found


def _number(_: str, value: Any) -> int:
    return 0 if value == 0 and type(value) is int else values.whole(value)


def _names(kind: str, value: Any) -> tuple[str, ...] | None:
    if value == AUTO:
        if kind != _GPU:
            raise ValueError(f'"{AUTO}" is for {_GPU} only; list the names')
        return None
    if type(value) is int and 1 <= value <= _MOST:
        listed = ", ".join(f'"{each}"' for each in range(min(value, 4)))
        raise values.SuggestingError("expected a list of names", f"write [{listed}]")
    if not isinstance(value, list | tuple):
        hint = f"write [{value!r}]".replace("'", '"') if isinstance(value, str) else ""
        raise values.SuggestingError(
            f"expected a list of names, found {values.kind_of(value)}", hint
        )
    found: dict[str, None] = {}
    for number, each in enumerate(value, 1):
        name = str(each) if type(each) is int else each
        if not isinstance(name, str):
            raise ValueError(f"entry {number}: expected a name, found {values.kind_of(name)}")
        if not _NAME.fullmatch(name) or len(name) > _LONGEST:
            what = "letters, digits and . _ : / - only, a letter or digit first"
            raise ValueError(f"entry {number}: {name!r:.40} is no name: {what}")
        if name in found:
            raise ValueError(f"entry {number}: {name} is there twice")
        found[name] = None
    if not found:
        raise ValueError("is empty: nothing could ever run")
    if len(found) > _MOST:
        raise ValueError(f"{len(found):,} are too many; the limit is {_MOST:,}")
    return tuple(found)


def problems(there: Slots, needed: Needs, env: Collection[str]) -> Iterator[ConfigProblem]:
    """What does not fit together; *env* are the names of variables that are set."""
    for kind, need in needed.items():
        if kind not in there:
            hint = values.suggest(kind, there)
            more = f'name them: [slots] {kind} = ["0", "1"]'
            yield ConfigProblem(f"needs.{kind}", f"there are no slots.{kind}", hint or more)
            continue
        names = there[kind]
        if names is not None and need > len(names):
            what = f"{need} can never be had: slots.{kind} has only {len(names)}"
            yield ConfigProblem(f"needs.{kind}", what)
        for name in _TAKEN if kind == _GPU else ():
            if name in env:
                what = f"is set to the slots that a process holds, as needs.{kind} says"
                yield ConfigProblem(f"env.{name}", what, "take one of them out")


def unneeded(there: Slots, mentioned: Collection[str]) -> Iterator[ConfigProblem]:
    """Slots that no process takes, although the file has them: their GPU would be shared."""
    for kind in there:
        if kind not in mentioned:
            what = "no process needs any"
            yield ConfigProblem(f"slots.{kind}", what, f"write [needs] {kind} = 1, or take it out")


def kinds(needed: Collection[str]) -> set[str]:
    """The placeholders that a command may have."""
    return {f"slot.{kind}" for kind in needed}


def unfilled(needed: Collection[str]) -> dict[str, str]:
    """They stand for themselves where no slot is held: what work is does not depend on it."""
    return {key: f"{{{key}}}" for key in kinds(needed)}


def filled(held: Mapping[str, str]) -> dict[str, str]:
    """And for these, where they are."""
    return {f"slot.{kind}": names for kind, names in held.items()}
