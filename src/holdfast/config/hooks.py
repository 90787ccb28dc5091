"""`[hooks]`: commands that are told how an experiment ended, and the placeholders in them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from holdfast.config.placeholders import fill, may_go
from holdfast.config.placeholders import problems as placeholder_problems
from holdfast.errors import ConfigProblem

__all__ = ["PLACEHOLDERS", "filled", "problems"]

#: What a hook is told, by the names of its placeholders.
PLACEHOLDERS: Final = (
    *("id", "name", "status", "reason", "message"),
    *("completed", "failed", "total", "elapsed"),
)


def problems(hooks: Mapping[str, Sequence[str] | None]) -> Iterator[ConfigProblem]:
    """What is wrong in the words of the *hooks*, by the name of each."""
    for name, argv in hooks.items():
        for number, word in enumerate(argv or (), 1):
            where, which = f"hooks.{name}", f"word {number}: "
            if may_go(word):
                yield ConfigProblem(where, f"{which}no word of a hook can be left out, as a ? says")
                continue
            for what, hint in placeholder_problems(word, PLACEHOLDERS):
                yield ConfigProblem(where, which + what, hint)


def filled(argv: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """The words of a hook that was checked, with what is *known* of an end."""
    return [word for each in argv if (word := fill(each, known)) is not None]
