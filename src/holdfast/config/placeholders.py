"""`{key}` in a command: finding them, saying what is wrong with them, filling them in.

Braces that are meant as such are doubled. There is no shell and no format language: `{level:>3}`
and `{a.b}` are errors, not features.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from holdfast.config import values

__all__ = ["as_text", "fill", "problems"]

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def as_text(value: Any) -> str:
    """A parameter as a command line shows it: true and false in lower case, as in TOML and JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def fill(word: str, known: Mapping[str, Any]) -> str:
    """*word* with its placeholders replaced and its doubled braces single.

    Raises:
        KeyError: A placeholder that *known* lacks.
        ValueError: A brace that is neither doubled nor part of a placeholder.
    """

    def replace(piece: re.Match[str]) -> str:
        if piece[0] in ("{{", "}}"):
            return piece[0][0]
        if piece[1] is None:
            raise ValueError(f"single {piece[0]!r} in {word!r}")
        return as_text(known[piece[1]])

    return _PIECE.sub(replace, word)


def problems(word: str, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """What is wrong in *word*, and what may have been meant, where only *known* keys exist."""
    for piece in _PIECE.finditer(word):
        key = piece[1]
        if piece[0] in ("{{", "}}") or key in known:
            continue
        if key is None:
            yield f"single {piece[0]!r}", f"write {piece[0] * 2!r} for a brace"
            continue
        close = values.closest(key, known)
        if close is not None:
            yield f"unknown placeholder {{{key}}}", f"did you mean {{{close}}}?"
        elif key.isidentifier():
            yield f"unknown placeholder {{{key}}}", f"there are {_listed(known)}"
        else:
            yield f"unknown placeholder {{{key}}}", "write {{ and }} for braces"


def _listed(known: Collection[str]) -> str:
    return ", ".join(f"{{{key}}}" for key in sorted(known))
