"""Ids and the file names they get."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import InvalidIdError
from holdfast.ids import candidates, new_id, sanitize_experiment_id

NOON = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
AWKWARD = st.text(st.sampled_from("aAbB01._-/ .jsonNULé"), min_size=1, max_size=14)


@pytest.mark.parametrize(
    "plain",
    ["exp_20240115_123456", "a", "0", "A.b-c_d", "x" * 100, "v1.2", "null", "com", "com10", "a.b"],
)
def test_a_plain_id_is_its_own_file_name(plain):
    """What `cat` and `ls` see is what the user typed."""
    assert sanitize_experiment_id(plain) == plain


@pytest.mark.parametrize(
    "odd",
    [
        *("a/b", "../etc/passwd", "/etc/passwd", "..", ".", ".hidden", "-rf", "_x", "a b", "größe"),
        *(
            "x" * 101,
            "x" * 10_000,
            "v1.",
            "exp\n",
            "\x1b[31mred",
            "a\\b",
            "C:",
            "exp*",
            "\u202eexp",
        ),
        *("nul", "NUL", "Con", "con.txt", "COM1", "lpt9.a.b", "aux.", "prn"),
        *("exp.json", "exp.JSON", "exp.lock", "exp.tmp", "exp.jsonl", "1.live", "a.json.lock"),
        *(" ", "💥", "~", "日本"),
    ],
)
def test_an_awkward_id_gets_a_slug_and_a_hash(odd):
    """Whatever the id holds, its file name is plain, short and tells it from every other."""
    stem = sanitize_experiment_id(odd)
    assert stem != odd
    assert stem.isascii()
    assert len(stem) <= 77
    assert set(stem) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert stem[0].isalnum()
    assert sanitize_experiment_id(stem) == stem


def test_names_that_look_alike_never_share_a_file():
    """`a/b` and `a_b`, composed and decomposed accents, cases: one file each."""
    names = ["a/b", "a_b", "a-b", "a b", "A/b", "a/B", "a\\b", "é", "e\u0301", "/", "//", "а", "a"]
    stems = [sanitize_experiment_id(name).lower() for name in names]
    assert len(set(stems)) == len(names)


def test_a_file_name_stays_the_same_in_every_release():
    """Another rule would lose the experiments that are on disk already."""
    assert sanitize_experiment_id("a/b") == "a-b-c14cddc033f64b9d"


@pytest.mark.parametrize(
    ("bad", "why"),
    [("", "empty"), ("a\0b", "NUL"), ("\0", "NUL"), ("x\ud800", "surrogate"), ("\udcff", "surrog")],
)
def test_a_name_that_no_file_can_keep_is_refused(bad, why):
    """Empty, NUL and lone surrogates are errors, not silently something else."""
    with pytest.raises(InvalidIdError, match=why) as caught:
        sanitize_experiment_id(bad)
    str(caught.value).encode()


@pytest.mark.parametrize("bad", [None, 7, b"exp"])
def test_an_id_is_a_string(bad):
    """A number would otherwise fail far away from where it was passed."""
    with pytest.raises(TypeError, match="string"):
        sanitize_experiment_id(bad)


@given(st.one_of(NAMES, AWKWARD))
@example("a/b")
def test_a_stem_is_its_own_stem(name):
    """Sanitizing twice is sanitizing once."""
    stem = sanitize_experiment_id(name)
    assert sanitize_experiment_id(stem) == stem


@given(st.lists(st.one_of(NAMES, AWKWARD), unique=True, min_size=2, max_size=8))
def test_two_ids_never_share_a_stem(names):
    """Different ids, different files."""
    assert len({sanitize_experiment_id(name) for name in names}) == len(names)


@given(st.one_of(NAMES, AWKWARD))
def test_no_stem_can_be_mistaken_for_a_file_of_ours(name):
    """No folder of one experiment takes the place of another one's view, lock or temporary file."""
    stem = sanitize_experiment_id(name).lower()
    assert not stem.startswith(".")
    assert not stem.endswith((".json", ".jsonl", ".lock", ".tmp", "."))
    assert "/" not in stem


def test_a_new_id_says_when_it_was_made_in_utc():
    """The same instant gives the same id in every time zone."""
    assert new_id(NOON) == "exp_20240115_123456"
    assert new_id(NOON.astimezone(timezone(timedelta(hours=9)))) == "exp_20240115_123456"


def test_many_experiments_of_one_second_all_find_an_id():
    """First readable numbers, then random ones; every one of them is its own file name."""
    ids = list(islice(candidates(NOON), 2_000))
    assert ids[:3] == ["exp_20240115_123456", "exp_20240115_123456_2", "exp_20240115_123456_3"]
    assert len(set(ids)) == len(ids)
    assert all(sanitize_experiment_id(each) == each for each in ids)
