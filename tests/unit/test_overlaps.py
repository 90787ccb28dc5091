"""Which patterns of different owners can match one path, among few and among thousands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import globs
from holdfast.config import overlaps
from holdfast.config.overlaps import Owned, UndecidedError, overlap

LETTERS = "ab.*[]!^"
PARTS = (
    *("a", "b", "ab", "?", "*", "a*", "*b", "a*b", "[ab]", "[!a]", "[*]", "a[*]", "[[]a]", "[a"),
    *("[]", "[!]", "[]a]", "[^]a]", "[a-b]", "[b-a]", "**", "***"),
)
patterns = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join)
paths = st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=3).map("/".join)


def meet(one: str, other: str) -> bool:
    return overlap([Owned(one, 0), Owned(other, 1)]) is not None


@st.composite
def matched(draw: st.DrawFn) -> tuple[str, str]:
    """A pattern, and a path that it is likely to match."""
    pattern = draw(patterns)
    names = []
    for part in pattern.split("/"):
        if part == "**":
            names += draw(st.lists(st.sampled_from(["a", "b"]), max_size=2))
            continue
        name = part
        for magic in ("*", "?"):
            name = name.replace(magic, draw(st.sampled_from(["a", "b", "ab"])))
        names.append(draw(st.sampled_from([name, globs.plain(part), "a", "b"])))
    return pattern, "/".join(names) or "a"


@given(matched(), patterns)
def test_two_patterns_that_match_one_path_are_found(found: tuple[str, str], other: str) -> None:
    """Never missed, whatever is in brackets."""
    one, path = found
    if globs.fits(one, path):
        assert meet(one, globs.escaped(path))
        if globs.fits(other, path):
            assert meet(one, other)
            assert meet(other, one)


@given(patterns, paths)
def test_a_path_meets_what_matches_it_and_nothing_else(pattern: str, path: str) -> None:
    """Exact, but for a leading dot, which is not looked at."""
    path = "/".join(name.lstrip(".") or "a" for name in path.split("/"))
    assert meet(pattern, globs.escaped(path)) is globs.fits(pattern, path)


@given(st.lists(st.tuples(patterns, st.integers(0, 2)), max_size=6))
def test_many_are_judged_as_two_are(given_patterns: list[tuple[str, int]]) -> None:
    """Somewhere among them are two that meet, if and only if something is found."""
    owned = [Owned(*each) for each in given_patterns]
    found = overlap(owned)
    pairs = [(a, b) for a in owned for b in owned if a.owner < b.owner]
    assert (found is not None) is any(meet(a.pattern, b.pattern) for a, b in pairs)
    if found is not None:
        assert found[0].owner != found[1].owner
        assert meet(found[0].pattern, found[1].pattern)


@given(patterns, patterns)
def test_backwards_is_the_same(one: str, other: str) -> None:
    """What is too much in one direction is tried in the other."""
    tokens = [(Owned(each, i), overlaps._tokens(each)) for i, each in enumerate((one, other))]
    backwards = overlaps._search(overlaps._Place([(each, read[::-1]) for each, read in tokens]))
    assert (backwards is not None) is meet(one, other)


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a/*.png", "b/*.png", False),
        ("*.png", "*.pt", False),
        ("*.png", "m*", True),
        ("**/*.png", "a/b/c.png", True),
        ("**/*.png", "a/b/c.pt", False),
        ("**/1.png", "**/11.png", False),
        ("**/a/*", "b/**/c", True),
        ("a/**", "a/b", True),
        ("a/**", "a", False),
        ("[*]", "*", True),
        ("[*]", "a", False),
        ("?", "ab", False),
        ("[ab]x", "[cd]x", False),
        ("[!ab]x", "[bc]x", True),
        ("[!ab]", "[ab]", False),
        ("[!a]", "[!b]", True),
        ("[é]", "[!a]", True),
        ("a/*/c", "a/b", False),
        ("*1*", "*2*", True),
        ("x" * 5000 + "*", "x" * 5000 + "y", True),
        ("/".join(["**", "a"] * 30), "/".join(["**", "b"] * 30), False),
    ],
)
def test_which_patterns_meet(one: str, other: str, meets: bool) -> None:
    """Examples, both ways round."""
    assert meet(one, other) is meets
    assert meet(other, one) is meets


@pytest.mark.parametrize(
    "pattern",
    [
        "runs/*/{}/*.png",
        "**/{}/*.png",
        "*-{}.pt",
        "r?-{}-?",
        "{}-*",
        "*/{}/**/*.csv",
        "[a-f]*-{}/x*y",
    ],
)
def test_thousands_that_differ_are_told_apart(pattern: str) -> None:
    """Wherever in the pattern it is that they differ, and one more that does not is found."""
    many = [Owned(pattern.format(i), i) for i in range(3000)]
    assert overlap(many) is None
    twice = Owned(pattern.format(1234), 3000)
    assert overlap([*many, twice]) in ((many[1234], twice), (twice, many[1234]))


def test_what_cannot_be_told_in_time_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two of these meet, but nearly every beginning does with every other, and every end."""
    monkeypatch.setattr(overlaps, "_MOST_PAIRS", 10_000)
    many = [Owned(f"*-{i}-*/{i}/*-{i}-*", i) for i in range(300)]
    with pytest.raises(UndecidedError):
        overlap(many)
    assert overlap(many[:10]) is None
