"""The configuration hash: what counts as the same, and what JSON cannot hold."""

import json
import math
from datetime import date
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.config.hashing import canonical_json, compute_config_hash

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
CONFIGS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def shuffled(value):
    """The same value with every mapping the other way round and every list a tuple."""
    if isinstance(value, dict):
        return {key: shuffled(inner) for key, inner in reversed(value.items())}
    if isinstance(value, list):
        return tuple(shuffled(inner) for inner in value)
    return value


def test_the_hash_is_the_sha256_of_canonical_json():
    """Other tools can compute it, and it never changes between releases."""
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,2.5,null]}'
    assert compute_config_hash({}) == (
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )


@given(CONFIGS)
def test_order_and_tuples_do_not_matter(config):
    """Who wrote the same configuration how is no difference."""
    assert compute_config_hash(shuffled(config)) == compute_config_hash(config)
    assert compute_config_hash(MappingProxyType(config)) == compute_config_hash(config)


@given(CONFIGS)
def test_storing_a_configuration_keeps_its_hash(config):
    """What comes back from JSON is found again by its hash."""
    assert compute_config_hash(json.loads(json.dumps(config))) == compute_config_hash(config)


@given(CONFIGS, CONFIGS)
def test_different_configurations_differ(one, other):
    """Two configurations share a hash only if their canonical JSON is the same."""
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))
    assert compute_config_hash(one) != compute_config_hash(other)


def test_types_matter():
    """On a command line 1, 1.0, "1" and true are four different words."""
    values = [1, 1.0, "1", True, None, [1], {"1": 1}, 0, False, "", [], {}]
    assert len({compute_config_hash({"x": value}) for value in values}) == len(values)


def test_volatile_keys_do_not_matter():
    """Declared paths are left out with all that is below, also within lists."""
    base = {"lr": 0.1, "limits": {"jobs": 1}, "runs": [{"seed": 1, "host": "a"}]}
    other = {"lr": 0.1, "limits": {"jobs": 8}, "runs": [{"seed": 1, "host": "b"}], "note": [1, {}]}
    volatile = ["limits.jobs", "runs.host", "note", "not.there"]
    assert compute_config_hash(base) != compute_config_hash(other)
    assert compute_config_hash(base, volatile) == compute_config_hash(other, volatile)
    without = {"lr": 0.1, "limits": {}, "runs": [{"seed": 1}]}
    assert compute_config_hash(base, volatile) == compute_config_hash(without)


def test_a_volatile_key_that_json_lacks_is_no_error():
    """What is left out is not looked at."""
    assert compute_config_hash({"a": 1, "log": Path("x")}, ["log"]) == compute_config_hash({"a": 1})


@pytest.mark.parametrize(
    ("config", "error", "where"),
    [
        ({"a": {"b": [1, math.nan]}}, ValueError, r"a\.b\[1\]: nan"),
        ({"a": math.inf}, ValueError, "a: inf"),
        ({"a": [10**5_000]}, ValueError, r"a\[0\]: the integer is too long"),
        ({"a": {"when": date(2024, 1, 15)}}, TypeError, r"a\.when: datetime\.date"),
        ({"a": [Path("x")]}, TypeError, r"a\[0\]: pathlib"),
        ({"a": {1, 2}}, TypeError, r"a: builtins\.set"),
        ({"a": b"x"}, TypeError, r"a: builtins\.bytes"),
        ({"a": {1: 2}}, TypeError, "a: key 1 is a int"),
        ({1: 2}, TypeError, "the configuration: key 1"),
        ([1], TypeError, "a configuration is a mapping, not list"),
        ("x", TypeError, "a configuration is a mapping, not str"),
    ],
)
def test_what_json_lacks_is_named_by_its_path(config, error, where):
    """Silently hashing `str(value)` would make equal what is not, or differ from run to run."""
    with pytest.raises(error, match=where):
        compute_config_hash(config)


def test_a_configuration_that_contains_itself_is_refused():
    """Instead of running out of stack."""
    config = {}
    config["self"] = config
    with pytest.raises(ValueError, match="nested more than"):
        compute_config_hash(config)


def test_one_string_is_no_collection_of_paths():
    """`volatile="seed"` would otherwise mean the keys s, e and d."""
    with pytest.raises(TypeError, match="collection"):
        compute_config_hash({"seed": 1}, "seed")
