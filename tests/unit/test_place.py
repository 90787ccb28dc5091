"""Where an experiment lies, and what is open there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import InvalidIdError
from holdfast.ids import sanitize_experiment_id
from holdfast.store.files import Files
from holdfast.store.place import Opened, Place


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Opened]:
    with Opened.at(Files(), tmp_path) as top:
        yield top


def test_a_place_names_the_view_beside_the_folder(top: Opened, tmp_path: Path) -> None:
    """An id that can be no file name leads to the same stem in both."""
    stem = sanitize_experiment_id("a/b")
    place = Place.of(top, "a/b")
    assert place == Place(top, stem)
    assert place.folder == tmp_path / stem
    assert place.view_path == tmp_path / place.view_name == tmp_path / f"{stem}.json"
    with pytest.raises(InvalidIdError):
        Place.of(top, "")


@pytest.mark.parametrize("other", ["nothing", "a file", "a link"])
def test_what_is_no_directory_is_no_folder(top: Opened, tmp_path: Path, other: str) -> None:
    """Nothing is ever read through what stands in the place of a folder."""
    place = Place(top, "exp")
    (tmp_path / "elsewhere").mkdir()
    if other == "a file":
        place.folder.touch()
    elif other == "a link":
        place.folder.symlink_to("elsewhere")
    assert place.open_folder() is None


def test_a_folder_that_was_moved_away_is_not_the_experiments(top: Opened, tmp_path: Path) -> None:
    """Not even if another one stands in its place by now."""
    place = Place(top, "exp")
    place.folder.mkdir()
    folder = place.open_folder()
    assert folder is not None
    with folder:
        assert place.is_at(folder)
        place.folder.rename(tmp_path / ".trash-0123456789abcdef")
        assert not place.is_at(folder)
        place.folder.mkdir()
        assert not place.is_at(folder)


def test_closed_is_closed(top: Opened, tmp_path: Path) -> None:
    """Whoever comes late is refused, and meets no other file under the same number."""
    (tmp_path / "below").mkdir()
    below = top.open_dir("below")
    number = below.fd
    below.close()
    with top.duplicate() as other:
        assert other.fd == number
        with pytest.raises(OSError, match="Bad file descriptor"):
            below.names()
        below.close()
        os.fstat(other.fd)
    assert below.path == tmp_path / "below"
