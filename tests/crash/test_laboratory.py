"""The laboratory proves itself: what must be caught is caught, and nothing else."""

import itertools
import random
from pathlib import Path

import pytest

from .checking import scratch, survey
from .effects import ROOT, Data, Entries, Mark, Sync, Trace, Tree
from .models import cuts, ext4_states, posix_states
from .naive import MISTAKES, Mistake, NaiveStore, recorded
from .watching import uncovered

_EMPTY = Tree({}, {})


def _states(model: object, trace: Trace) -> set[tuple[tuple[str, bytes | None], ...]]:
    found = set()
    for cut in cuts(trace):
        for state in model(trace, cut, random.Random(0)):  # type: ignore[operator]
            tree = state.tree
            found.add(
                tuple((p, None if i is None else tree.content[i]) for p, i in tree.paths.items())
            )
    return found


def test_posix_allows_a_name_without_data_and_data_without_a_name() -> None:
    """A file that was written and not synced may be absent, empty, torn, zero or whole."""
    trace = Trace(_EMPTY, (Entries(ROOT, (("a", 7),), "file"), Data(7, 0, b"1234")))
    assert _states(posix_states, trace) == {
        (),
        (("a", b""),),
        (("a", b"12"),),
        (("a", b"123"),),
        (("a", b"12\0\0"),),
        (("a", b"\0\x0034"),),
        (("a", b"\0\0\0\0"),),
        (("a", b"1234"),),
    }


def test_sectors_of_what_replaces_older_data_reach_the_disk_in_any_combination() -> None:
    """The others hold what was there before, and the file is as long as it was."""
    old, new = b"-" * 1536, b"x" * 1300
    trace = Trace(Tree({"a": 7}, {7: old}), (Data(2, 100, new),))
    ((inode, _),) = trace.disk().files.items()
    trace = Trace(trace.initial, (Data(inode, 100, new),))
    found = {dict(each)["a"] for each in _states(posix_states, trace)}
    ends = (100, 512, 1024, 1400)
    for kept in itertools.product((True, False), repeat=3):
        left = bytearray(old)
        for start, end, keep in zip(ends, ends[1:], kept, strict=False):
            left[start:end] = b"x" * (end - start) if keep else left[start:end]
        assert bytes(left) in found
    assert {len(each or b"") for each in found} == {1536}


def test_a_size_may_be_there_without_its_data_and_data_without_its_room() -> None:
    """Growth is a size and data, and either may be lost alone."""
    trace = Trace(_EMPTY, (Entries(ROOT, (("a", 7),), "file"), Sync(ROOT), Data(7, 0, b"12\0\0")))
    found = {dict(each).get("a") for each in _states(posix_states, trace)}
    assert {b"", b"12", b"1", b"\0\0\0\0", b"1\0\0\0", b"12\0\0"} <= found


def test_only_what_makes_a_file_longer_commits_other_names_on_ext4() -> None:
    """The fdatasync of data that replaces older data has no metadata to write."""
    for data, commits in ((b"1234", False), (b"12345", True)):
        initial = Tree({"a": 7}, {7: b"----"})
        ((inode, _),) = Trace(initial, ()).disk().files.items()
        effects = (Entries(ROOT, (("b", 9),), "file"), Data(inode, 0, data), Sync(inode))
        states = ext4_states(Trace(initial, effects), len(effects), random.Random(0))
        assert all("b" in each.tree.paths for each in states) == commits


def test_what_was_synced_is_there_in_every_state() -> None:
    """Data after its file's fsync and names after their directory's fsync cannot be lost."""
    effects = (
        Entries(ROOT, (("a", 7),), "file"),
        Data(7, 0, b"1234"),
        Sync(7),
        Sync(ROOT),
        Mark("x"),
    )
    trace = Trace(_EMPTY, effects)
    for model in (posix_states, ext4_states):
        states = {s.tree.digest for s in model(trace, len(effects), random.Random(0))}
        assert states == {trace.end().digest}


def test_a_files_fsync_does_not_make_its_name_durable_under_posix_but_does_on_ext4() -> None:
    """The difference between the two models that programs trip over most."""
    effects = (Entries(ROOT, (("a", 7),), "file"), Data(7, 0, b"1234"), Sync(7))
    trace = Trace(_EMPTY, effects)
    after = [s.tree.paths for s in posix_states(trace, 3, random.Random(0))]
    assert {} in after
    after = [s.tree.paths for s in ext4_states(trace, 3, random.Random(0))]
    assert {} not in after


def test_ext4_keeps_the_order_of_names_and_may_leave_the_famous_empty_file() -> None:
    """Create, write, rename without fsync: never the data's loss without its model saying so."""
    effects = (
        Entries(ROOT, (("tmp", 7),), "file"),
        Data(7, 0, b"1234"),
        Entries(ROOT, (("tmp", None), ("a", 7))),
        Entries(ROOT, (("b", 8),), "file"),
    )
    found = _states(ext4_states, Trace(_EMPTY, effects))
    assert (("a", b""),) in found
    assert (("b", b""),) not in found, "b came after a"
    assert (("b", b""),) in _states(posix_states, Trace(_EMPTY, effects))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_naive_store_is_caught(mistake: Mistake) -> None:
    """No fsync, no directory fsync, in place, in the wrong order: the judge finds a loss."""
    with scratch() as where:
        trace = recorded(NaiveStore(mistake), where / "life").trace()
        found = survey(mistake, trace, NaiveStore(mistake), where)
    assert found.losses, f"{mistake} got away with it in {found.judged} states"


def test_a_careful_store_passes() -> None:
    """The same store without a mistake loses nothing: the judge does not cry wolf."""
    with scratch() as where:
        trace = recorded(NaiveStore("none"), where / "life").trace()
        found = survey("careful", trace, NaiveStore("none"), where)
    assert not found.losses, found.problems[0]
    assert found.judged > 30


def test_a_rebuilt_directory_is_the_directory(tmp_path: Path) -> None:
    """Rebuilding keeps names, contents and which names share a file."""
    with scratch() as where:
        recorder = recorded(NaiveStore("none"), where / "life")
        end = recorder.trace().end()
        assert end.digest == Tree.scan(where / "life").digest
    end.rebuild(tmp_path / "again")
    assert Tree.scan(tmp_path / "again").digest == end.digest


def test_no_operation_of_the_store_goes_unwatched() -> None:
    """Every public method of `Files` is hooked or made of hooked ones."""
    assert not uncovered()
