"""The statistics of an aggregate are right, whatever the results look like."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.results.averages import statistics_of


def test_every_numeric_field_has_its_statistics():
    """Count, mean, sample standard deviation, least and greatest, field by field."""
    found = statistics_of([{"x": 1, "y": 2.0}, {"x": 3}, None, {"x": 5, "y": "no number"}])
    assert found == {
        "x": {"count": 3, "mean": 3.0, "sd": 2.0, "min": 1, "max": 5},
        "y": {"count": 1, "mean": 2.0, "sd": None, "min": 2.0, "max": 2.0},
    }


def test_fields_inside_objects_are_named_by_their_path():
    """A nested number is `outer.inner`, a bare one `value`."""
    assert list(statistics_of([{"time": {"wall_s": 1.5}}, 7])) == ["time.wall_s", "value"]


def test_truth_values_lists_and_texts_are_no_numbers():
    """Averaging them would be an answer to a question that nobody asked."""
    assert statistics_of([{"ok": True, "all": [1, 2], "text": "3", "none": None}]) == {}


def test_numbers_too_large_for_a_float_do_not_break_the_aggregate():
    """A result of 400 digits is legal JSON, and counts for nothing."""
    (found,) = statistics_of([{"n": 10**400}, {"n": 1}]).values()
    assert found == {"count": 1, "mean": 1.0, "sd": None, "min": 1, "max": 1}


# Squares of numbers that differ by less than 1e-150 vanish; no measurement is that close.
@given(st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 6)), min_size=2))
def test_the_statistics_agree_with_the_standard_library(values):
    """Mean and standard deviation are those of `statistics`, and all of it is JSON."""
    (found,) = statistics_of([{"v": value} for value in values]).values()
    scale = max(map(abs, values)) or 1.0
    assert found["mean"] == pytest.approx(statistics.fmean(values), abs=1e-9 * scale)
    assert found["sd"] == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-9 * scale)
    json.dumps(found, allow_nan=False)
