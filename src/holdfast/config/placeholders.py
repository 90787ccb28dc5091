"""`{key}` in a command or in `[env]`: finding them, naming what is wrong, filling them in.

`{key?}` is the value, too, but the whole word goes if the key is false or absent; `{key?--flag}` is
the text behind the `?` as long as it is neither. Braces that are meant as such are doubled. There
is no shell and no format language: `{level:>3}` and `{a.b}` are errors, not features.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from holdfast.config import values

__all__ = ["as_text", "escape", "fill", "is_plain", "keys", "may_go", "problems"]

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def as_text(value: Any) -> str:
    """A parameter as a command line shows it: true and false in lower case, as in TOML and JSON;
    a list or a table as JSON.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def fill(word: str, known: Mapping[str, Any]) -> str | None:
    """*word* with its placeholders replaced and its doubled braces single; None if it goes.

    Raises:
        KeyError: A placeholder that *known* lacks.
        ValueError: A brace that is neither doubled nor part of a placeholder.
    """
    goes = False

    def replace(piece: re.Match[str]) -> str:
        nonlocal goes
        if piece[0] in ("{{", "}}"):
            return piece[0][0]
        if piece[1] is None:
            raise ValueError(f"single {piece[0]!r} in {word!r}")
        key, optional, instead = piece[1].partition("?")
        if optional and known.get(key, False) is False:
            goes = True
            return ""
        return instead or as_text(known[key])

    filled = _PIECE.sub(replace, word)
    return None if goes else filled


def may_go(word: str) -> bool:
    """Whether *word* is left out where a key of it is false or absent."""
    return any(piece[1] is not None and "?" in piece[1] for piece in _PIECE.finditer(word))


def is_plain(word: str) -> bool:
    """Whether nothing in *word* depends on the process."""
    return all(piece[1] is None for piece in _PIECE.finditer(word))


def keys(word: str) -> frozenset[str]:
    """The parameters that *word* names."""
    pieces = (piece[1] for piece in _PIECE.finditer(word))
    return frozenset(piece.partition("?")[0] for piece in pieces if piece is not None)


def escape(text: str) -> str:
    """The word that is filled in as *text*, whatever braces it has."""
    return text.replace("{", "{{").replace("}", "}}")


def problems(
    word: str, known: Collection[str], sometimes: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """What is wrong in *word*, and what may have been meant, where only *known* keys exist.

    Args:
        sometimes: Keys that some processes have: `{key?}` may name them.
    """
    for piece in _PIECE.finditer(word):
        if piece[0] in ("{{", "}}"):
            continue
        if piece[1] is None:
            yield f"single {piece[0]!r}", f"write {piece[0] * 2!r} for a brace"
            continue
        key, optional, _ = piece[1].partition("?")
        if key in known or (optional and key in sometimes):
            continue
        if key.startswith("slot."):
            hint = f"write [needs] {key[5:]} = 1" if key[5:].isidentifier() else ""
            yield f"unknown placeholder {{{key}}}", hint
            continue
        close = values.closest(key, [*known, *(sometimes if optional else ())])
        if close is not None:
            yield f"unknown placeholder {{{key}}}", f"did you mean {{{close}}}?"
        elif key.isidentifier() and word[: piece.start()].endswith("$"):
            hint = f"a shell's variable is written ${{{{{key}}}}}, and needs a shell"
            yield f"unknown placeholder {{{key}}}", hint
        elif key.isidentifier():
            listed = ", ".join(f"{{{each}}}" for each in sorted(known))
            yield f"unknown placeholder {{{key}}}", f"there are {listed}"
        else:
            yield f"unknown placeholder {{{key}}}", "write {{ and }} for braces"
