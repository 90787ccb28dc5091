"""`[outputs] files`: patterns filled in for each process, and that no two processes write one file.

Two patterns that can match a common path are a conflict: whether they will is known only once hours
were spent, and then each of the two processes takes the file of the other for its own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Final

from holdfast import globs
from holdfast.config.overlaps import Owned, UndecidedError, overlap
from holdfast.config.placeholders import as_text, fill, is_plain, keys
from holdfast.errors import ConfigProblem

__all__ = ["filled", "problems"]

_WHERE: Final = "outputs.files"
#: What `PurePosixPath` leaves out.
_NEEDLESS: Final = re.compile(r"(?:^|/)\.?(?:/|$)")


def filled(patterns: tuple[str, ...], known: Mapping[str, Any]) -> tuple[str, ...]:
    """*patterns* of a process whose parameters are *known*, in which values match themselves."""
    return tuple(text for _, text in _filled(patterns, known))


def _filled(patterns: tuple[str, ...], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    values = {key: _escaped(known[key]) for key in _named(patterns) if key in known}
    for pattern in patterns:
        text = fill(pattern, values)
        if text is not None:
            yield pattern, _normal(text)


def _escaped(value: Any) -> Any:
    return value if isinstance(value, bool) else globs.escaped(as_text(value))


@cache
def _named(patterns: tuple[str, ...]) -> frozenset[str]:
    return frozenset(key for pattern in patterns for key in keys(pattern))


def _normal(text: str) -> str:
    return str(PurePosixPath(text)) if _NEEDLESS.search(text) else text


def problems(
    patterns: tuple[str, ...], makers: Sequence[Mapping[str, Any]]
) -> Iterator[ConfigProblem]:
    """What is wrong with *patterns*, where each of *makers* is what is known of a process."""
    made: list[Owned] = []
    misplaced: dict[str, ConfigProblem] = {}
    for owner, known in enumerate(makers):
        for pattern, text in _filled(patterns, known):
            made.append(Owned(text, owner))
            wrong = _misplaced(text)
            if wrong is not None and pattern not in misplaced:
                which = "" if is_plain(pattern) else f"process {known['index']}: "
                misplaced[pattern] = ConfigProblem(_WHERE, which + wrong)
    yield from misplaced.values()
    if misplaced or len(makers) == 1:
        return
    try:
        found = _same(made) or (overlap(made) if any(map(globs.is_searched, patterns)) else None)
    except UndecidedError:
        what = "too many patterns that might match one file"
        yield ConfigProblem(_WHERE, what, "give each process a folder of its own, {index}/ say")
        return
    if found is not None:
        yield _told(*found, patterns, makers)


def _misplaced(text: str) -> str | None:
    if text.startswith("/") or (".." in text and ".." in text.split("/")):
        return f"{globs.plain(text)} must lie below the experiment's folder"
    if text == ".":
        return "an entry names no file"
    return None


def _same(made: Sequence[Owned]) -> tuple[Owned, Owned] | None:
    first: dict[str, Owned] = {}
    for each in made:
        other = first.setdefault(each.pattern, each)
        if other.owner != each.owner:
            return other, each
    return None


def _told(
    one: Owned, other: Owned, patterns: tuple[str, ...], makers: Sequence[Mapping[str, Any]]
) -> ConfigProblem:
    one, other = sorted((one, other), key=lambda each: each.owner)
    mine, its = makers[one.owner], makers[other.owner]
    shown = dict.fromkeys(globs.plain(each.pattern) for each in (one, other))
    what = f"processes {mine['index']} and {its['index']} would both write {' and '.join(shown)}"
    named = _named(patterns)
    apart = [
        key
        for key in (*mine, *its)
        if key not in named and repr(mine.get(key)) != repr(its.get(key))
    ]
    if not apart:
        return ConfigProblem(_WHERE, what, "give each a folder of its own, {index}/ say")
    all_of_them = "" if apart[0] == "index" else ", {index} all processes"
    return ConfigProblem(_WHERE, what, f"{{{apart[0]}}} in it tells these apart{all_of_them}")
