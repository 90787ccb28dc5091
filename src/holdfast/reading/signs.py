"""Whether a stream shows more than ASCII: its encoding and the locale have to agree on that."""

import os
import sys
from typing import Final, TextIO

__all__ = ["has_signs"]

#: What we write of our own that is not ASCII.
_SIGNS: Final = "○·◌●✓Σ✗‖…–"
#: Locales that Python takes for UTF-8 although they are not: it sets `LC_CTYPE` to the second.
_POSIX: Final = frozenset({"", "C", "POSIX"})
_COERCED: Final = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})


def has_signs(stream: TextIO | None = None) -> bool:
    """Whether *stream*, by default stdout, shows other signs than ASCII, by encoding and locale."""
    encoding = getattr(sys.stdout if stream is None else stream, "encoding", None) or "ascii"
    try:
        _SIGNS.encode(encoding)
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
