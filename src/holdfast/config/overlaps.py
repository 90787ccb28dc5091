"""Whether two patterns can match one path, among many of them at once.

All patterns are read together, character by character, in two copies: what one copy and the other
can both go on with is followed, and the rest is never looked at. Patterns that begin alike are
one, so that ten thousand which differ early cost little more than one.
"""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Final, NamedTuple

__all__ = ["Owned", "UndecidedError", "overlap"]

#: Pairs of places that are looked at before the other direction is tried: a second or two.
_MOST_PAIRS: Final = 400_000

# Tokens of one character are that character. These, and sets such as `[ab]`, are longer.
_STAR: Final = "star"
_DEEP: Final = "deep"
_ONE: Final = "[!/]"

_SHARED: Final = -1


class UndecidedError(Exception):
    """There are too many ways in which the patterns could meet."""


class Owned(NamedTuple):
    """A pattern, relative and without `.` or empty names, and whose it is (a number from 0)."""

    pattern: str
    owner: int


def overlap(patterns: Iterable[Owned]) -> tuple[Owned, Owned] | None:
    """Two of *patterns*, of different owners, that can match one path; None if there are none.

    None is missed. That a wildcard leaves out a leading dot is not considered: `*` and `.a` meet.

    Raises:
        UndecidedError: It would take too long to tell.
    """
    read = [(each, _tokens(each.pattern)) for each in patterns]
    for order in (1, -1):
        try:
            return _search(_Place([(each, tokens[::order]) for each, tokens in read]))
        except UndecidedError:
            if order == -1:
                raise
    return None


def _tokens(pattern: str) -> Sequence[str]:
    """What *pattern* consists of, from a slash in front on: so it reads the same backwards."""
    if not any(magic in pattern for magic in "*?["):
        return "/" + pattern
    found: list[str] = []
    parts = pattern.split("/")
    for at, part in enumerate(parts):
        if part != "**":
            found += ["/", *_pieces(part)]
        elif found[-1:] != [_DEEP]:
            found += ["/", _DEEP]
        if part == "**" and at == len(parts) - 1:
            found += ["/", _STAR]
    return found


@cache
def _pieces(part: str) -> Sequence[str]:
    """The tokens of one name, as `fnmatch` reads it."""
    found: list[str] = []
    at = 0
    while at < len(part):
        piece = part[at]
        if piece == "[":
            inner = at + 2 if part[at + 1 : at + 2] == "!" else at + 1
            # A bracket that comes first is one of the set.
            end = part.find("]", inner + 1)
            piece = part[at : end + 1] if end > 0 else piece
        at += len(piece)
        if piece == "*":
            if found[-1:] != [_STAR]:
                found.append(_STAR)
        elif piece == "?":
            found.append(_ONE)
        else:
            found.append(piece[1] if len(piece) == 3 else piece)
    return found


class _Place:
    """Where patterns that began with the same tokens go on, found out once somebody asks."""

    __slots__ = ("_depth", "_items", "_read", "chars", "ends", "loop", "owner", "sets", "skips")

    def __init__(
        self, items: list[tuple[Owned, Sequence[str]]], depth: int = 0, loop: str = ""
    ) -> None:
        self._items, self._depth, self._read = items, depth, False
        #: What may be read any number of times without leaving.
        self.loop = loop
        owners = {each.owner for each, _ in items}
        self.owner = owners.pop() if len(owners) == 1 else _SHARED

    def read(self) -> "_Place":
        if self._read:
            return self
        self._read = True
        self.ends: list[Owned] = []
        self.chars: dict[str, _Place] = {}
        self.sets: list[tuple[str, _Place]] = []
        self.skips: list[_Place] = []
        following: dict[str, list[tuple[Owned, Sequence[str]]]] = {}
        for each, tokens in self._items:
            if len(tokens) == self._depth:
                self.ends.append(each)
            else:
                following.setdefault(tokens[self._depth], []).append((each, tokens))
        self._items = []
        for token, items in following.items():
            place = _Place(items, self._depth + 1, token if token in (_STAR, _DEEP) else "")
            if len(token) == 1:
                self.chars[token] = place
            elif token == _STAR:
                self.skips.append(place)
            elif token == _DEEP:
                # No folder at all, or any text up to a slash.
                self.skips += [place, place.read().chars["/"]]
            else:
                self.sets.append((token, place))
        return self


def _search(start: _Place) -> tuple[Owned, Owned] | None:
    stack = [(start, start)]
    seen = {(id(start), id(start))}
    while stack:
        one, other = stack.pop()
        one.read()
        other.read()
        for end in one.ends:
            for other_end in other.ends:
                if end.owner != other_end.owner:
                    return end, other_end
        for pair in (*_steps(one, other), *((b, a) for a, b in _steps(other, one))):
            first, second = pair
            # Patterns of one owner may overlap.
            if first.owner == second.owner != _SHARED:
                continue
            key = (id(first), id(second)) if id(first) < id(second) else (id(second), id(first))
            if key not in seen:
                seen.add(key)
                stack.append(pair)
        if len(seen) > _MOST_PAIRS:
            raise UndecidedError
    return None


def _steps(one: _Place, other: _Place) -> Iterator[tuple[_Place, _Place]]:
    """Where both are after *one* skipped something, or both read what *other* goes on with."""
    for place in one.skips:
        yield place, other
    if len(one.chars) <= len(other.chars):
        for char, place in one.chars.items():
            if char in other.chars:
                yield place, other.chars[char]
    if one.loop:
        for char, place in other.chars.items():
            if char != "/" or one.loop == _DEEP:
                yield one, place
        for _, place in other.sets:
            yield one, place
    for some, place in one.sets:
        for char, after in other.chars.items():
            if fnmatchcase(char, some) and char != "/":
                yield place, after
        for others, after in other.sets:
            if _sets_meet(some, others):
                yield place, after


@cache
def _sets_meet(one: str, other: str) -> bool:
    negated = one.startswith("[!") and other.startswith("[!")
    if negated or not (one + other).isascii():
        return True
    return any(fnmatchcase(c, one) and fnmatchcase(c, other) for c in map(chr, range(128)))
