"""One sign per status, beside its word: what a column of them says at a glance, without colours.

Each is one column wide in every terminal; none has a picture of its own in an emoji font, which
would take two. Where the locale is not UTF-8, all of them are ASCII.
"""

import os
import sys
from collections.abc import Mapping
from typing import Final, TextIO

from holdfast.reading import text

__all__ = ["STYLES", "glyph", "has_signs", "status", "style", "unknown"]

#: By the word of a status, or of what stands for one: the sign, and what ASCII has for it.
_GLYPHS: Final[Mapping[str, tuple[str, str]]] = {
    "initialised": ("○", "o"),
    "pending": ("·", "."),
    "queued": ("◌", "~"),
    "held": ("◌", "~"),
    "submitted": ("◌", "~"),
    "running": ("●", ">"),
    "completed": ("✓", "+"),
    "aggregated": ("Σ", "*"),
    "reused": ("✓", "+"),
    "failed": ("✗", "x"),
    "interrupted": ("‖", "="),
}
_UNKNOWN: Final = ("?", "?")
_ALL: Final = "".join(sign for sign, _ in _GLYPHS.values())

STYLES: Final[Mapping[str, text.Style]] = {
    "initialised": "dim",
    "pending": "dim",
    "queued": "dim",
    "held": "yellow",
    "submitted": "cyan",
    "running": "cyan",
    "completed": "green",
    "aggregated": "green",
    "reused": "green",
    "failed": "red",
    "interrupted": "yellow",
}

#: Locales that Python takes for UTF-8 although they are not: it sets `LC_CTYPE` to the second.
_POSIX: Final = frozenset({"", "C", "POSIX"})
_COERCED: Final = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})


def glyph(words: str, *, signs: bool | None = None) -> str:
    """The sign of a status, or of words that begin with one; `?` of none that is known.

    Args:
        signs: Whether it may be other than ASCII; None asks stdout's encoding and the locale.
    """
    found = _GLYPHS.get(words) or _GLYPHS.get(words.partition(" ")[0].rstrip(",:"), _UNKNOWN)
    return found[0 if (has_signs() if signs is None else signs) else 1]


def status(words: str, *, signs: bool | None = None) -> str:
    """`● running`, `✗ failed (exit)`: the sign and the words of a status."""
    return f"{glyph(words, signs=signs)} {words}"


def style(words: str) -> text.Style | None:
    """The colour of a status, or of words that begin with one."""
    return STYLES.get(words) or STYLES.get(words.partition(" ")[0].rstrip(",:"))


def unknown() -> str:
    """What stands for what nobody knows."""
    return "–" if has_signs() else "-"


def has_signs(stream: TextIO | None = None) -> bool:
    """Whether *stream*, by default stdout, shows other signs than ASCII, by encoding and locale."""
    encoding = getattr(sys.stdout if stream is None else stream, "encoding", None) or "ascii"
    try:
        _ALL.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return _locale_has_signs()


def _locale_has_signs() -> bool:
    """False under `LANG=C`, where Python writes UTF-8 all the same (PEP 538, PEP 540)."""
    environ = os.environ
    if environ.get("PYTHONIOENCODING") or environ.get("PYTHONUTF8") == "1":
        return True  # somebody said so
    if (every := environ.get("LC_ALL", "")) != "":
        return every not in _POSIX
    characters, language = environ.get("LC_CTYPE", ""), environ.get("LANG", "")
    if characters in _COERCED and language in _POSIX:
        return False
    return (characters or language) not in _POSIX
