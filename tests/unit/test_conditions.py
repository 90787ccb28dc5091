"""Conditions as people type them: what holds for what."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.reading.conditions import MISSING, condition, moment

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("lr > 0.1", ("lr", ">", "0.1", 0.1)),
        ("lr>=1e-3", ("lr", ">=", "1e-3", 0.001)),
        ("  model  ==  resnet  50 ", ("model", "=", "resnet  50", MISSING)),
        ("metrics.f1!=1", ("metrics.f1", "!=", "1", 1)),
        ('"a = b".c = "x = y"', ('"a = b".c', "=", "x = y", MISSING)),
        ("model = 'resnet'", ("model", "=", "resnet", MISSING)),
        ("amp = True", ("amp", "=", "True", True)),
        ("best = null", ("best", "=", "null", None)),
        ("layers = [64, 32]", ("layers", "=", "[64, 32]", [64, 32])),
        ("x <= -inf", ("x", "<=", "-inf", -math.inf)),
        ("name = 50% of <all>", ("name", "=", "50% of <all>", MISSING)),
        ('name = ""', ("name", "=", "", MISSING)),
    ],
)
def test_a_condition_is_a_name_an_operator_and_a_value(typed: str, parts: tuple[object, ...]):
    """Without quotes, a value is whatever it looks like; with quotes it is a text."""
    assert condition(typed) == parts


@pytest.mark.parametrize("typed", ["", "lr", "> 1", "lr >", "lr ~ 1", "=", '"lr > 1'])
def test_what_is_no_condition_is_refused_with_an_example(typed: str):
    """Nobody guesses what was meant."""
    with pytest.raises(ValueError, match=r"is no condition|compares with nothing"):
        condition(typed)


@pytest.mark.parametrize(
    ("typed", "value", "holds"),
    [
        ("x > 0.1", 0.2, True),
        ("x > 0.1", 0.1, False),
        ("x >= 1", 1, True),
        ("x = 1", 1.0, True),
        ("x = 10", "10", True),
        ("x > 9", "10", False),
        ("x > '9'", "95", True),
        ("x = '10'", 10, False),
        ("x > 0.1", "n/a", False),
        ("x <= 0.1", "n/a", False),
        ("x != 0.1", "n/a", True),
        ("x = 1", True, False),
        ("x = true", True, True),
        ("x = true", 1, False),
        ("x = true", "true", True),
        ("x != true", False, True),
        ("x < true", False, False),
        ("x = nan", math.nan, True),
        ("x != nan", math.nan, False),
        ("x > 0", math.nan, False),
        ("x = 0", math.nan, False),
        ("x < inf", 1e308, True),
        ("x = null", None, True),
        ("x != null", 0, True),
        ("x < null", None, False),
        ("x = [1, 2]", [1, 2], True),
        ("x < [1, 2]", [1, 1], False),
        ("x >= b", "c", True),
        ("x = 100000000000000000000000000000000000001", 10**38 + 1, True),
        ("x < 1e300", 10**400, False),
    ],
)
def test_the_type_of_what_is_found_decides_how_it_is_compared(
    typed: str, value: object, holds: bool
):
    """A result of mixed types raises nothing, and matches nothing by accident."""
    assert condition(typed).holds(value) is holds


@pytest.mark.parametrize("compare", ["=", "!=", "<", "<=", ">", ">="])
def test_nothing_holds_for_what_is_not_there(compare: str):
    """A process without a result is neither better nor worse, nor different."""
    assert not condition(f"x {compare} 1").holds(MISSING)


_VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
)


@given(_VALUES, st.text())
def test_equal_and_unequal_divide_all_values(value: object, words: str):
    """Of both, exactly one holds, and no comparison of anything raises."""
    word = words.strip() or "0"
    same, other = (condition(f"x {each} {word}") for each in ("=", "!="))
    assert same.holds(value) != other.holds(value)
    for each in ("<", "<=", ">", ">="):
        condition(f"x {each} {word}").holds(value)


def test_a_moment_is_how_long_ago_or_a_date():
    """A date without a zone is one of the wall clock."""
    assert moment("2d", NOW) == NOW - timedelta(days=2)
    assert moment("1h30m", NOW) == NOW - timedelta(minutes=90)
    assert moment("2026-11-01T10:00:00+02:00", NOW) == datetime(2026, 11, 1, 8, tzinfo=UTC)
    assert moment("2026-11-01", NOW) == datetime(2026, 11, 1).astimezone()
    assert moment("2026-11-01T10:00Z", NOW) == datetime(2026, 11, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize("words", ["", "2x", "yesterday", "30", "2026-13-01", "-2d", "1000000d"])
def test_what_is_no_moment_is_refused(words: str):
    """With an example of each."""
    with pytest.raises(ValueError, match="neither how long ago, such as 2d"):
        moment(words, NOW)


@pytest.mark.parametrize(
    ("typed", "value", "holds"),
    [("created > 2d", NOW, True), ("created < 2026-11-01", NOW, False)],
)
def test_times_are_compared_with_moments(typed: str, value: datetime, holds: bool):
    """`created > 2d`: later than two days ago."""
    assert condition(typed).of_kind("time", NOW).holds(value) is holds


def test_durations_are_compared_with_durations():
    """`duration > 2h`, and a number of seconds."""
    assert condition("duration > 2h").of_kind("duration", NOW).holds(7201.0)
    assert not condition("duration > 2h").of_kind("duration", NOW).holds(7199.0)
    assert condition("duration > 20").of_kind("duration", NOW).holds(21.0)
    with pytest.raises(ValueError, match="a duration"):
        condition("duration > long").of_kind("duration", NOW)
