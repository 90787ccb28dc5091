"""What a process does, as one text: equal for equal work, wherever in a matrix it stands.

What is hashed is documented in the guide (storage, *Work*), so that a foreign program can, too.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Final

from holdfast import globs
from holdfast.config import values
from holdfast.encoding import local, portable
from holdfast.errors import ConfigError, ConfigProblem, DiskError, cause

__all__ = ["Declared", "canonical", "digest", "listed", "of_nobody"]

_FORMAT: Final = "1"
#: Hex digits: enough that no two of all the world's processes are taken for one.
_DIGITS: Final = 32
#: Problems that are told of a file with thousands.
_MOST_TOLD: Final = 20

#: JSON with sorted keys and no spaces, ASCII.
canonical: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
).encode


def listed(words: Iterable[str | None]) -> str:
    """Those of *words* that are there, as a canonical list; in a tenth of the time."""
    return f"[{','.join([encode_basestring_ascii(word) for word in words if word is not None])}]"


def digest(work: Mapping[str, str]) -> str:
    """The identity of *work*, each of whose values is `canonical` already: many share most."""
    parts = sorted({"format": _FORMAT, **work}.items())
    text = ",".join([f'"{key}":{value}' for key, value in parts])
    return hashlib.sha256(f"{{{text}}}".encode("ascii")).hexdigest()[:_DIGITS]


def of_nobody(work: str) -> str:
    """What is recorded instead of *work* by who cannot say that it did just that: no identity."""
    return digest({"not": canonical(work)})


class Declared:
    """The files that patterns of `[identity] files` match, each looked for and read once.

    Args:
        cwd: What paths are relative to.
        apart: Paths, relative to *cwd*, that no wildcard matches, nor what is below them.
    """

    def __init__(self, cwd: Path, apart: Sequence[str] = ()) -> None:
        self._cwd = cwd
        self._apart = apart
        self._matched: dict[str, tuple[str, ...]] = {}
        self._digests: dict[str, str] = {}
        self._texts: dict[tuple[str, ...], str] = {}
        self._problems: dict[str, ConfigProblem] = {}

    def paths(self, patterns: Sequence[str], of: str = "") -> tuple[str, ...]:
        """The files that *patterns*, filled in, match, sorted; what is wrong is told by `check`.

        Args:
            of: The process that they are filled in for, to be named.
        """
        for pattern in patterns:
            if pattern not in self._matched:
                self._matched[pattern] = tuple(self._look(pattern, of))
        return tuple(sorted({path for each in patterns for path in self._matched[each]}))

    def text(self, patterns: tuple[str, ...], sha256: Callable[[Path], str], of: str = "") -> str:
        """Each of the files with its digest, canonical; what is wrong is told by `check`."""
        if patterns not in self._texts:
            paths = self.paths(patterns, of)
            for path in paths:
                if path not in self._digests:
                    self._digests[path] = self._read(path, sha256, of)
            self._texts[patterns] = canonical({path: self._digests[path] for path in paths})
        return self._texts[patterns]

    def check(self, title: str) -> None:
        """Raise ConfigError with all that was wrong; *title* names the experiment's file."""
        told = list(self._problems.values())
        if len(told) > _MOST_TOLD:
            more = ConfigProblem(_WHERE, f"and {len(told) - _MOST_TOLD:,} more")
            told = [*told[:_MOST_TOLD], more]
        if told:
            raise ConfigError(title, told)

    def _look(self, pattern: str, of: str) -> Iterator[str]:
        searched = globs.is_searched(pattern)
        try:
            found = globs.matched(self._cwd, pattern)
        except (OSError, ValueError) as err:
            what = cause(err) if isinstance(err, OSError) else str(err)
            self._note(pattern, f"cannot be looked for: {what}", "", of)
            return
        # A link to a folder is one; through it, a wildcard would not go either.
        found_paths = [
            portable(path)
            for path in found
            if not searched or not (self._is_apart(path) or (self._cwd / path).is_dir())
        ]
        if not found_paths:
            what = "matches no file" if searched else "is not there"
            self._note(pattern, f"{what} in {self._cwd}", self._meant(pattern), of)
        yield from found_paths

    def _is_apart(self, path: str) -> bool:
        path = os.path.normpath(path)
        return any(path == each or path.startswith(f"{each}/") for each in self._apart)

    def _meant(self, pattern: str) -> str:
        path = Path(local(globs.plain(pattern)))
        try:
            close = values.closest(path.name, [p.name for p in (self._cwd / path.parent).iterdir()])
        except (OSError, ValueError):
            close = None
        if close is None or globs.is_searched(pattern):
            return "make it before it is run, or take it out"
        return f"did you mean {portable(str(path.with_name(close)))}?"

    def _read(self, path: str, sha256: Callable[[Path], str], of: str) -> str:
        try:
            return sha256(self._cwd / local(path))
        except DiskError as err:
            what = err.cause
        except OSError as err:
            what = cause(err)
        hint = "name its files: data/*" if what and (self._cwd / local(path)).is_dir() else ""
        self._note(path, f"cannot be read: {what}", hint.replace("data", path), of)
        return ""

    def _note(self, pattern: str, what: str, hint: str, of: str) -> None:
        problem = ConfigProblem(_WHERE, f"{of}{globs.plain(pattern)} {what}", hint)
        self._problems.setdefault(pattern, problem)


_WHERE: Final = "identity.files"
