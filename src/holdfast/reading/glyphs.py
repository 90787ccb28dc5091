"""One sign per status, beside its word: what a column of them says at a glance, without colours.

Each is one column wide in every terminal; none has a picture of its own in an emoji font, which
would take two. Where the locale is not UTF-8, all of them are ASCII.
"""

from collections.abc import Mapping
from typing import Final

from holdfast.reading import text
from holdfast.reading.signs import has_signs

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


def unknown(*, signs: bool | None = None) -> str:
    """What stands for what nobody knows."""
    return "–" if (has_signs() if signs is None else signs) else "-"
