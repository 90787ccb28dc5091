"""Patterns of paths: what they mean, and what they match."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import globs

NAMES = ("a", "b", "ab", ".a", "a.b", "a*", "[a]")
PATTERNS = ("a", "?", "*", "a*", "*b", "[ab]", "[!a]", "[*]", "a[*]", "**", ".*", "[[]a]")
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
patterns = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map("/".join)


@given(paths)
def test_an_escaped_path_matches_itself_alone(path: str) -> None:
    """Whatever it holds, and nothing has to be searched for."""
    pattern = globs.escaped(path)
    assert globs.fits(pattern, path)
    assert not globs.is_searched(pattern)
    assert globs.plain(pattern) == path
    others = ("/".join(names) for names in itertools.product(NAMES, repeat=1))
    assert not any(globs.fits(pattern, other) for other in others if other != path)


@given(patterns)
def test_what_is_found_in_a_folder_is_what_fits(pattern: str) -> None:
    """Searching and comparing agree."""
    there = {path for path in _tree() if globs.fits(pattern, path)}
    assert set(globs.matched(_ROOT, pattern)) == there


def _tree() -> set[str]:
    return {
        os.path.relpath(os.path.join(folder, name), _ROOT)
        for folder, _, files in os.walk(_ROOT)
        for name in files
    }


_ROOT = Path()


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _ROOT  # Hypothesis and fixtures of functions do not go together
    _ROOT = tmp_path_factory.mktemp("globs")
    for path in ("a", "b", "ab", ".a", "a*", "[a]", "d/a", "d/b", "d/.a", "d/e/ab", ".h/a"):
        file = _ROOT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    """One that leads back would never end."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").touch()
    (tmp_path / "d" / "back").symlink_to(tmp_path)
    assert set(globs.matched(tmp_path, "**/x")) == {"d/x"}
