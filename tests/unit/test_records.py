"""What records and events take is what can be read again."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidRequestError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.events import PhaseReported, ProcessExited, ProcessLost, Requested
from holdfast.lifecycle.records import ExperimentState, Origin, ProcessProgress, ResultRef
from holdfast.lifecycle.reuse import Proof
from holdfast.status import ProcessStatus
from holdfast.store import decoding, encoding

NOW = datetime(2026, 1, 1, tzinfo=UTC)

_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.sampled_from(["", "running", "user", "2", "a\ud800\0"]),
    st.just([]),
    st.just({}),
    st.just(b"bytes"),
    st.just(NOW),
    st.just(NOW.replace(tzinfo=None)),
    st.just(Path("results")),
    st.builds(ProcessIdentity, pid=st.integers(1, 9)),
    st.just(ResultRef(path="results/0.1.json", size=1, sha256="0")),
    st.just((ResultRef(path="model.pt", size=1, sha256="0"),)),
    st.just(Origin(experiment_id="exp_6", process=0, attempt=1)),
)
_FREE = {"epoch", "schema_version", "process_progress", "num_processes"}


def _again(state: ExperimentState) -> ExperimentState:
    text = encoding.dumps(encoding.state_to_json(state))
    return decoding.state_from_json(json.loads(text), Path("exp.json"))


def _fields(record: type) -> list[str]:
    return [field.name for field in attrs.fields(record) if field.name not in _FREE]


@given(st.sampled_from(_fields(ExperimentState)), _values)
def test_what_an_experiment_takes_is_what_is_read_again(name: str, value: Any) -> None:
    """A value of another kind is refused before anything is stored, not when it is loaded."""
    try:
        state = ExperimentState(**{"experiment_id": "exp", name: value})
    except (TypeError, ValueError):
        return
    assert _again(state) == state


@given(st.sampled_from(_fields(ProcessProgress)), _values)
def test_what_a_process_takes_is_what_is_read_again(name: str, value: Any) -> None:
    """As for experiments."""
    try:
        entry = ProcessProgress(**{name: value})
    except (TypeError, ValueError):
        return
    state = ExperimentState(experiment_id="exp", process_progress={0: entry})
    assert _again(state) == state


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (make, field.name)
        for make in (Requested, PhaseReported, ProcessExited, ProcessLost)
        for field in attrs.fields(make)
        if field.name in ("error_message", "evidence", "host", "exit_code", "signal", "attempt")
        or field.name
        in ("identity", "result", "result_error", "started_at", "ended_at", "outputs", "code")
    ],
)
def test_an_event_of_a_wrong_kind_is_refused_by_its_name(make: type, name: str) -> None:
    """What it brings ends up in a journal."""
    needed: dict[str, Any] = {"at": NOW, "process": 0}
    more = {"entity": "process", "event": "start"} if make is Requested else {"attempt": 1}
    more |= {"evidence": "gone"} if make is ProcessLost else {}
    more |= {"identity": None} if make is PhaseReported else {}
    make(**needed, **more)
    for wrong in (1.5, [], b"bytes"):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            make(**needed, **{**more, name: wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": {"experiment_id": "exp_6"}},
        {"work": 7},
        {"status": "done"},
        {"problem": False},
    ],
)
def test_a_proof_of_a_wrong_kind_is_none(wrong: dict[str, Any]) -> None:
    """What it proves would be recorded as it is."""
    right: dict[str, Any] = {
        "origin": Origin(experiment_id="exp_6", process=0, attempt=1),
        "work": "0" * 32,
        "status": "completed",
    }
    assert Proof(**right).status is ProcessStatus.COMPLETED
    with pytest.raises((TypeError, ValueError)):
        Proof(**right | wrong)


@pytest.mark.parametrize("wrong", ["model.pt", ["model.pt"], ("model.pt",), 7])
def test_outputs_that_are_no_files_are_refused(wrong: Any) -> None:
    """Of a request as of a fact: they would be stored, and never read again."""
    with pytest.raises(InvalidRequestError, match=r"fact outputs must be a tuple of ResultRef"):
        Requested(entity="process", process=0, event="complete", at=NOW, facts={"outputs": wrong})
