"""Patterns of paths: what they mean, and what they match in a folder.

`*` and `?` match within one name, `[…]` one character, `**` any number of folders; none of them
matches a leading dot, and a pattern matches files, not folders. Brackets take the meaning from the
character in them: `[*]` is a star. Patterns are relative, with `/` between names.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

from holdfast.encoding import local

__all__ = [
    "ABSENT",
    "below",
    "entries",
    "escaped",
    "fits",
    "is_searched",
    "matched",
    "plain",
]

#: What says that there is no such file, or folder on the way to it.
ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_ESCAPED: Final = re.compile(r"\[([*?[])\]")
_MAGIC: Final = re.compile(r"[*?[]")


def escaped(text: str) -> str:
    """The pattern that matches *text* alone."""
    return _MAGIC.sub(r"[\g<0>]", text)


@cache
def plain(pattern: str) -> str:
    """*pattern* without the brackets that take the meaning from `*`, `?` and `[`."""
    return _ESCAPED.sub(r"\1", pattern)


@cache
def is_searched(pattern: str) -> bool:
    """Whether *pattern* is to be looked for, and not just a path."""
    return _MAGIC.search(_ESCAPED.sub("", pattern)) is not None


def fits(pattern: str, path: str) -> bool:
    """Whether *pattern* matches *path*, whatever is there."""
    return _fits(PurePosixPath(pattern).parts, PurePosixPath(path).parts)


def _fits(parts: Sequence[str], names: Sequence[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        if _fits(parts[1:] or ("*",), names):
            return True
        return len(names) > 1 and not names[0].startswith(".") and _fits(parts, names[1:])
    return bool(names) and _suits(names[0], parts[0]) and _fits(parts[1:], names[1:])


def _suits(name: str, part: str) -> bool:
    if not is_searched(part):
        return name == plain(part)
    return (part.startswith(".") or not name.startswith(".")) and fnmatchcase(name, part)


# -- in a folder ----------------------------------------------------------------------------------

#: Gives what is in a folder.
Scan = Callable[[Path], Iterator[os.DirEntry[str]]]


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in *folder*; nothing if it is none. Raises OSError."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as err:
        if err.errno not in ABSENT:
            raise


def below(folder: Path, pattern: str, scan: Scan = entries) -> Iterator[Path]:
    """What may be there below *folder* of what *pattern* matches, as paths relative to it.

    Raises:
        OSError: A folder cannot be searched; or what *scan* raises.
    """
    return _below(folder, Path(), [local(part) for part in PurePosixPath(pattern).parts], scan)


def _below(folder: Path, at: Path, parts: Sequence[str], scan: Scan) -> Iterator[Path]:
    if not parts:
        yield at
    elif parts[0] == "**":
        yield from _below(folder, at, parts[1:] or ("*",), scan)
        for entry in scan(folder / at):
            # Not through links: they can lead back to where they are.
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield from _below(folder, at / entry.name, parts, scan)
    elif is_searched(parts[0]):
        for entry in scan(folder / at):
            if _suits(entry.name, parts[0]):
                yield from _below(folder, at / entry.name, parts[1:], scan)
    else:
        yield from _below(folder, at / plain(parts[0]), parts[1:], scan)


def matched(
    folder: Path, pattern: str, look: Callable[[Path], os.stat_result] = Path.lstat
) -> dict[str, int]:
    """The paths that *pattern* matches below *folder*, each with its mode, links as what they are.

    Folders that a wildcard matches are left out: `plots/*` means the plots in it.

    Raises:
        OSError: A folder cannot be searched.
    """
    found: dict[str, int] = {}
    for path in below(folder, pattern):
        try:
            mode = look(folder / path).st_mode
        except OSError as err:
            if err.errno in ABSENT:
                continue
            raise
        if not (stat.S_ISDIR(mode) and is_searched(PurePosixPath(pattern).name)):
            found[str(path)] = mode
    return found
