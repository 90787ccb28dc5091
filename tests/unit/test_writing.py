"""Files that a command makes where the user says."""

import pytest

from holdfast.cli.writing import write_file
from holdfast.errors import DiskError


def test_what_cannot_be_made_whole_leaves_the_old_file(tmp_path):
    """And nothing beside it."""
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def parts():
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match="No space left"):
        write_file(path, parts())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_stays(tmp_path):
    """What it leads to is replaced."""
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    write_file(link, [b"a", b"b"])
    assert link.is_symlink()
    assert target.read_bytes() == b"ab"


def test_links_that_lead_to_each_other_are_an_error_of_ours(tmp_path):
    """Which names the file."""
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(DiskError, match="link"):
        write_file(link, [b"a"])
