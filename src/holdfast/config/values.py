"""The values that an experiment file may hold: what is accepted, and how a mistake is explained.

Every function takes what TOML or JSON gave and returns it checked, or raises ValueError; one that
looks at several things raises `SeveralError` with all their problems.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from holdfast.config.durations import parse_duration
from holdfast.errors import ConfigProblem

__all__ = [
    "Problems",
    "SeveralError",
    "SuggestingError",
    "argv",
    "check_text",
    "closest",
    "duration",
    "env",
    "kind_of",
    "parameter",
    "patterns",
    "problems_of",
    "strict",
    "suggest",
    "whole",
]

# Where JavaScript and `jq` begin to round; the parameters are handed out as JSON.
_LARGEST_INT: Final = 2**53
#: What is stored must be readable again, and whoever nests deeper has mixed up something.
_DEEPEST: Final = 16
_NAMES: Final[Mapping[type, str]] = {str: "text", int: "an integer", bool: "true or false"}


class SuggestingError(ValueError):
    """A mistake that comes with what to write instead."""

    def __init__(self, what: str, suggestion: str) -> None:
        super().__init__(what)
        self.suggestion = suggestion


class SeveralError(ValueError):
    """Several mistakes in one table, each with its own key."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def problems_of(where: str, err: Exception) -> list[ConfigProblem]:
    """The problems that *err*, raised by a function of this module, stands for."""
    if isinstance(err, SeveralError):
        return list(err.problems)
    return [ConfigProblem(where, str(err), getattr(err, "suggestion", ""))]


class Problems(list[ConfigProblem]):
    """The mistakes of one table, all of which are to be told."""

    @contextlib.contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Note a mistake that is raised here as one of the key *where*, and go on."""
        try:
            yield
        except ValueError as err:
            self += problems_of(where, err)

    def tell(self) -> None:
        """Raise SeveralError if there are any."""
        if self:
            raise SeveralError(self)


def closest(key: str, known: Collection[str]) -> str | None:
    """What of *known* is most like *key*; None if nothing is."""
    import difflib  # only a mistake needs it

    alike = difflib.get_close_matches(key, known, 1)
    # `environment` and `env` are one word to whoever types them, of few common letters.
    alike += [each for each in known if len(each) > 2 and key.startswith(each)]
    return next(iter(alike), None)


def suggest(key: str, known: Collection[str]) -> str:
    """What *key* may have been meant to be, as a question; empty if nothing is like it."""
    close = closest(key, known)
    return "" if close is None else f"did you mean {close}?"


def kind_of(value: Any) -> str:
    """What *value* is, in the words of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, int | float):
        return f"the number {str(value)[:40]}"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "a table"
    return f"a {type(value).__name__}"


def strict(kind: type) -> Callable[[Any, Any], Any]:
    """A function that lets only values of exactly *kind* through."""

    def structure(value: Any, _: Any = None) -> Any:
        # `int("5")` and `bool("no")` would hide mistakes, and true is an int to Python.
        if type(value) is not kind:
            raise ValueError(f"expected {_NAMES[kind]}, found {kind_of(value)}")
        return value

    return structure


def whole(value: Any, _: Any = None) -> int:
    """An integer, 1 or more."""
    if type(value) is not int:
        raise ValueError(f"expected an integer, found {kind_of(value)}")
    if value < 1:
        raise ValueError(f"must be 1 or more, found {value}")
    if value > _LARGEST_INT:
        raise ValueError(f"{str(value)[:20]}… is too much")
    return value


def duration(value: Any, _: Any = None) -> float:
    """Seconds, 0 or more."""
    try:
        return parse_duration(value)
    except ValueError as err:
        if isinstance(value, str) and _is_number(value):
            raise SuggestingError(str(err), f'write "{value.strip()}s"') from err
        raise


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False


def argv(value: Any, _: Any = None) -> tuple[str, ...]:
    """A command without a shell: a list of texts, the program first."""
    if isinstance(value, str):
        hint = ", ".join(f'"{word}"' for word in value.split())
        raise SuggestingError("expected a list of words (no shell)", f"write [{hint}]")
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of words, found {kind_of(value)}")
    if not value:
        raise ValueError("is empty; its first word is the program")
    for i, word in enumerate(value):
        if not isinstance(word, str):
            raise SuggestingError(
                f"word {i + 1} is {kind_of(word)}, not text", f'write "{str(word)[:40]}"'
            )
        check_text(word, f"word {i + 1}")
    if not value[0]:
        raise ValueError("its first word, the program, is empty")
    return tuple(value)


def patterns(value: Any, _: Any = None) -> tuple[str, ...]:
    """A list of paths, which may have placeholders and wildcards."""
    if not isinstance(value, list | tuple):
        hint = f"write [{value!r}]" if isinstance(value, str) else ""
        raise SuggestingError(f"expected a list of paths, found {kind_of(value)}", hint)
    found = []
    for number, pattern in enumerate(value, 1):
        if not isinstance(pattern, str):
            raise ValueError(f"entry {number}: expected a path, found {kind_of(pattern)}")
        check_text(pattern, f"entry {number}")
        if not pattern.strip():
            raise ValueError(f"entry {number}: is empty")
        found.append(pattern)
    return tuple(found)


def check_text(text: str, what: str) -> None:
    """Raise ValueError if *text* cannot be handed to a program, or not be stored."""
    if "\0" in text:
        raise ValueError(f"{what} contains a NUL character, which no program can be given")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is not valid Unicode, and could not be stored") from None


def parameter(value: Any, _: Any = None, depth: int = 0) -> Any:
    """A parameter: text, a finite number, true or false, or a list or table of such."""
    if isinstance(value, list | tuple | Mapping):
        if depth >= _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} levels deep")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise ValueError(f"the key {key!r} is not text")
                check_text(key, "a key")
        for inner in value.values() if isinstance(value, Mapping) else value:
            parameter(inner, depth=depth + 1)
        return value
    if type(value) is str:
        check_text(value, "the text")
        return value
    if type(value) is bool:
        return value
    if type(value) is int:
        if abs(value) > _LARGEST_INT:
            raise SuggestingError("beyond 2^53, where JSON readers round", f'write "{value}"')
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise SuggestingError(f"{value} has no place in JSON", f'write "{value}"')
        return value
    expected = "text, a number, true or false, a list or a table"
    raise ValueError(f"expected {expected}, found {kind_of(value)}")


def env(value: Any, _: Any = None) -> dict[str, str]:
    """Environment variables; an integer is taken for its digits."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a table, found {kind_of(value)}")
    problems = Problems()
    found = {}
    for name, text in value.items():
        with problems.at(f"env.{name}"):
            found[name] = _variable(name, text)
    problems.tell()
    return found


def _variable(name: Any, text: Any) -> str:
    if not isinstance(name, str) or not name or "=" in name or "\0" in name:
        raise ValueError("not the name of a variable")
    if name.startswith("HOLDFAST_"):
        raise ValueError("names that begin with HOLDFAST_ are set by holdfast")
    if type(text) is int:
        return str(text)
    if type(text) is not str:
        # 1e3 would become "1000.0", and true "True" or "true": only the user knows.
        raise SuggestingError(f"expected text, found {kind_of(text)}", "write it in quotes")
    check_text(text, "the text")
    return text
