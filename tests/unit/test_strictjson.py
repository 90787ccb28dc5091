"""Large documents are read another way than small ones, and mean the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.store import strictjson

PADDING = "x" * (1 << 17)
TEXT = st.text(st.sampled_from('ab":\\ \t{},'), max_size=4)
VALUES = st.recursive(
    TEXT | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@given(value=VALUES, separator=st.sampled_from([":", " :", "\n: ", ": "]))
def test_a_large_document_has_the_value_that_json_gives(value: Any, separator: str) -> None:
    """Whatever colons and quotes stand in its strings."""
    text = json.dumps({"padding": PADDING, "value": value}, separators=(",", separator))
    assert strictjson.loads(text.encode())["value"] == value


@given(
    value=VALUES,
    more=st.dictionaries(TEXT, TEXT, max_size=3),
    separator=st.sampled_from([":", " :", "\t:"]),
)
def test_a_duplicate_key_in_a_large_document_is_refused(
    value: Any, more: dict[str, str], separator: str
) -> None:
    """Also where strings look like keys, and colons stand apart."""
    inner = json.dumps(more, separators=(",", separator))[1:-1]
    twice = f'{{"k"{separator}1,{inner + "," if inner else ""}"k":2}}'
    text = f'{{"padding":"{PADDING}","value":{json.dumps(value)},"twice":{twice}}}'
    with pytest.raises(ValueError, match="duplicate key"):
        strictjson.loads(text.encode())
