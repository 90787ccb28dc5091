"""Text and the bytes that the operating system gets for it, whatever the locale.

Python encodes words and paths by the locale, and refuses what that lacks: under `LC_ALL=C` an "é"
from an experiment file could not even be handed to a program. UTF-8 is what such a file is written
in, and what everything else on the machine expects.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # a node has no other use for it, and it is most of what that would load
    from typing import Final

__all__ = ["local", "portable", "spoken", "to_bytes"]

_UTF8: "Final" = sys.getfilesystemencoding().replace("-", "").lower() == "utf8"


def to_bytes(text: str) -> bytes:
    """*text* as a program or a file name gets it: by the locale, else as UTF-8.

    Raises:
        UnicodeEncodeError: It has a surrogate that stands for no byte.
    """
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def portable(path: str) -> str:
    """*path*, as this locale reads it, as UTF-8 reads it: one directory has one name in states."""
    return path if _UTF8 or path.isascii() else to_bytes(path).decode("utf-8", "surrogateescape")


def spoken(word: str) -> str:
    """A *word* of the command line, as whoever typed it meant it: UTF-8 where the locale has no
    such characters.
    """
    try:
        word.encode()
    except UnicodeEncodeError:
        return portable(word)
    return word


def local(path: str) -> str:
    """A *path* from a state, as this locale reads it: what Python opens then is what was meant."""
    if _UTF8 or path.isascii():
        return path
    return os.fsdecode(path.encode("utf-8", "surrogateescape"))
