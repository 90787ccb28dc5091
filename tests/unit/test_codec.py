"""Records to JSON and back: nothing is lost, and what is no record is refused by name."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import SchemaTooNewError, StateCorruptError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle import records
from holdfast.lifecycle.events import Change
from holdfast.lifecycle.processes import PHASES
from holdfast.lifecycle.records import (
    REUSE_POLICIES,
    ExperimentState,
    Origin,
    ProcessProgress,
    ProcessTable,
    Ranks,
    ResultRef,
)
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus, Reason
from holdfast.store import decoding, encoding, explaining, view
from holdfast.store.files import Files
from holdfast.store.place import Opened, Place

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas"
PATH = Path("somewhere/exp_7.json")
#: What parses times and processes, also for the explanation.
PARSERS = decoding._maybe_time, decoding._table

texts = st.text(max_size=12)
counts = st.integers(0, 2**40)
moments = st.datetimes(
    min_value=datetime(1971, 1, 1),  # noqa: DTZ001
    max_value=datetime(9000, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
identities = st.builds(
    ProcessIdentity,
    host=texts,
    machine_id=st.none() | texts,
    boot_id=st.none() | texts,
    pid_namespace=st.none() | texts,
    pid=st.none() | st.integers(),
    start_ticks=st.none() | counts,
    locked=st.booleans(),
    released=st.booleans(),
)
results = st.builds(ResultRef, path=texts, size=counts, sha256=texts)
outputs = st.lists(results, max_size=3).map(tuple)
origins = st.builds(
    Origin,
    experiment_id=st.text(min_size=1, max_size=12),
    process=counts,
    attempt=counts,
    via=st.none() | texts,
)
seconds = st.floats(0, 1e9)
limits = st.dictionaries(
    texts, st.fixed_dictionaries({"from": st.none() | seconds, "to": seconds}), max_size=2
)
reasons = st.none() | st.sampled_from(Reason)
usage = st.dictionaries(texts, seconds, max_size=3)
handles = st.fixed_dictionaries(
    {"engine": texts, "data": st.dictionaries(texts, json_values, max_size=2)}
)
#: Every field of a process. One that a record gets is to be added: else a test fails.
PROCESS: dict[str, st.SearchStrategy[Any]] = {
    "status": st.sampled_from(ProcessStatus),
    "attempt": counts,
    "failures": counts,
    "interruptions": counts,
    "exit_code": st.none() | st.integers(0, 255),
    "signal": st.none() | st.integers(1, 64),
    "reason": reasons,
    "error_message": st.none() | texts,
    "phase": st.none() | st.sampled_from(PHASES),
    "submitted_at": st.none() | moments,
    "started_at": st.none() | moments,
    "completed_at": st.none() | moments,
    "host": st.none() | texts,
    "identity": st.none() | identities,
    "handle": st.none() | handles,
    "usage": st.none() | usage,
    "result": st.none() | results,
    "outputs": outputs,
    "work": st.none() | texts,
    "code": st.none() | texts,
    "origin": st.none() | origins,
    "not_before": st.none() | moments,
    "limits": st.none() | limits,
}
processes = st.builds(ProcessProgress, **PROCESS)
states = st.builds(
    ExperimentState,
    experiment_id=st.text(min_size=1, max_size=12),
    name=st.none() | texts,
    status=st.sampled_from([each for each in ExperimentStatus if each not in SETTLED]),
    reason=reasons,
    error_message=st.none() | texts,
    config=st.dictionaries(texts, json_values, max_size=3),
    config_hash=st.none() | texts,
    config_path=st.none() | texts,
    cwd=st.none() | texts,
    process_progress=st.lists(processes | st.just(ProcessTable.UNTRIED), max_size=4).map(
        lambda entries: dict(enumerate(entries))
    ),
    owner=st.none() | identities,
    subprocess_pid=st.none() | st.integers(),
    ranks=st.none() | st.builds(Ranks, count=st.just(1), independent=st.booleans()),
    reuse=st.none() | st.sampled_from(REUSE_POLICIES),
    epoch=counts,
    revision=counts,
    created_at=st.none() | moments,
    started_at=st.none() | moments,
    finished_at=st.none() | moments,
    last_updated=st.none() | moments,
    extra=st.dictionaries(texts.map("x-".__add__), json_values, max_size=2),
)


def test_every_field_of_a_process_is_tried() -> None:
    """A field that nobody parses would come back as text."""
    assert PROCESS.keys() == attrs.fields_dict(ProcessProgress).keys()


@given(states)
def test_a_state_survives_its_view(state: ExperimentState) -> None:
    """decode∘encode is the identity, through the very bytes that the view holds."""
    data = encoding.view(state)
    assert data.isascii()
    assert decoding.state_from_json(json.loads(data), PATH) == state


@given(states)
def test_a_state_survives_a_journal_line(state: ExperimentState) -> None:
    """The compact form of a base line tells the same as the view."""
    text = encoding.state_to_text(state)
    assert text == encoding.dumps(json.loads(encoding.view(state)))
    assert decoding.state_from_json(json.loads(text), PATH) == state


_EXPERIMENT_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "status": st.sampled_from(ExperimentStatus),
    "reason": reasons,
    "error_message": st.none() | texts,
    "started_at": st.none() | moments,
    "finished_at": st.none() | moments,
    "owner": st.none() | identities,
}


def changes(process: int | None) -> st.SearchStrategy[Change]:
    known = _EXPERIMENT_FIELDS if process is None else PROCESS
    return st.builds(
        Change,
        entity=st.just("experiment" if process is None else "process"),
        process=st.just(process),
        event=texts,
        source=texts,
        target=texts,
        at=moments,
        reason=reasons,
        evidence=st.none() | texts,
        fields=st.fixed_dictionaries({}, optional=known),
    )


@given(changes(None) | changes(3), moments)
def test_a_change_survives_its_line(change: Change, at: datetime) -> None:
    """decode∘encode is the identity for a change, whether or not its time is that of the line."""
    plain = json.loads(encoding.change_to_text(change, at))
    back = decoding.change_from_json(plain, at)
    assert back == change
    assert {name: type(value) for name, value in back.fields.items()} == {
        name: type(value) for name, value in change.fields.items()
    }


@given(identities)
def test_an_identity_survives_its_claim(identity: ProcessIdentity) -> None:
    """What a claim line says of its owner is everything that liveness needs."""
    plain = json.loads(encoding.dumps(encoding.identity_to_json(identity)))
    assert decoding.identity_from_json(plain) == identity


def read(name: str) -> ExperimentState:
    with Opened.at(Files(), SCHEMAS) as top:
        state = view.read(Place(top, name.removesuffix(".json")))
    assert state is not None
    return state


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", [ProcessStatus.PENDING] * 3),
        (
            '"1": {"status":"pending"}',
            '"1": {"status":"running"}',
            [ProcessStatus.PENDING, ProcessStatus.RUNNING, ProcessStatus.PENDING],
        ),
        (',\n    "2": {"status":"pending"}', "", [ProcessStatus.PENDING] * 3),
        ('"1": {"status":"pending"}', '"0": {"status":"pending"}', "duplicate key"),
        ('"2": {"status":"pending"}', '"3": {"status":"pending"}', "index 3"),
        ('"2": {"status":"pending"}', '"2": {"status":"pending"},', "not valid JSON"),
        ('"1": {"status":"pending"}', '"1": 7', "process 1"),
    ],
)
def test_an_untried_view_is_read_as_it_stands(
    tmp_path: Path, old: str, new: str, expected: list[ProcessStatus] | str
) -> None:
    """The short way for views of new experiments believes none that somebody touched."""
    written = encoding.view(ExperimentState(experiment_id="exp_7", num_processes=3)).decode()
    assert old in written
    (tmp_path / "exp_7.json").write_text(written.replace(old, new) if old else written)
    with Opened.at(Files(), tmp_path) as top:
        if isinstance(expected, str):
            with pytest.raises(StateCorruptError, match=expected):
                view.read(Place(top, "exp_7"))
        else:
            state = view.read(Place(top, "exp_7"))
            assert state is not None
            assert [each.status for each in state.processes.values()] == expected


def test_every_released_schema_has_a_file_here() -> None:
    """A schema that is released without a file in `tests/data/schemas` can break unseen."""
    found = {int(path.name.split("_")[1].split(".")[0]) for path in SCHEMAS.iterdir()}
    assert found == set(range(records.SCHEMA_VERSION + 1))


@pytest.mark.parametrize("path", sorted(SCHEMAS.iterdir()), ids=lambda path: path.name)
def test_every_released_schema_can_be_read(path: Path) -> None:
    """A file of any release is read, and what is written from it is today's schema."""
    state = read(path.name)
    again = decoding.state_from_json(json.loads(encoding.view(state)), path)
    assert again == state
    assert again.schema_version == records.SCHEMA_VERSION


def test_schema_0_total_runs_stands_in_for_num_processes() -> None:
    """Four planned runs of which two are told of: the other two are pending."""
    state = read("schema_0_total_runs.json")
    assert state.num_processes == 4
    assert [process.status for process in state.processes.values()] == [
        ProcessStatus.COMPLETED,
        ProcessStatus.PENDING,
        ProcessStatus.FAILED,
        ProcessStatus.PENDING,
    ]
    assert state.process_progress[2].error_message == "out of luck"
    assert state.subprocess_pid == 4194304


def test_schema_0_times_are_local_unless_they_say_otherwise() -> None:
    """A naive time means the clock on the wall of whoever wrote it; all become UTC."""
    state = read("schema_0_total_runs.json")
    assert state.created_at == datetime(2024, 1, 15, 12, 34, 56).astimezone(UTC)
    assert state.started_at == datetime(2024, 1, 15, 11, 35, 0, 250000, tzinfo=UTC)
    assert state.process_progress[0].completed_at == datetime(2024, 1, 15, 12, 36, tzinfo=UTC)
    assert state.created_at is not None
    assert state.created_at.tzinfo is UTC


def test_schema_0_keeps_unknown_keys() -> None:
    """What an older tool wrote and holdfast does not know is not thrown away."""
    assert read("schema_0_total_runs.json").extra == {
        "seed": 42,
        "notes": ["made by an older tool", {"nested": True}],
    }


def test_schema_0_keeps_unknown_keys_of_its_processes() -> None:
    """A process has no place for them, so that they are kept with the experiment."""
    value = {
        "process_progress": {
            "0": {"status": "completed", "output": "x.csv", "seconds": 3},
            "1": {"status": "pending"},
        },
        "extra": {"note": "kept"},
    }
    state = decoding.state_from_json(value, PATH)
    strange = {"0": {"output": "x.csv", "seconds": 3}}
    assert state.extra == {"process_progress": strange, "note": "kept"}
    assert decoding.state_from_json(json.loads(encoding.view(state)), PATH) == state


def test_schema_0_takes_null_for_absent() -> None:
    """`null` for the number of processes or their progress means that it is not there."""
    state = read("schema_0_nulls.json")
    assert state.num_processes == 2
    assert state.processes_pending == 2
    assert state.config == {"lr": 0.1}


def test_schema_0_counts_processes_where_no_number_is_given() -> None:
    """A finished experiment made by hand has as many processes as it tells of."""
    state = read("schema_0_aggregated.json")
    assert (state.num_processes, state.status) == (2, ExperimentStatus.AGGREGATED)


def test_schema_0_without_an_id_is_named_after_its_file() -> None:
    """A hand-made file may leave its id to its name, but must speak of an experiment."""
    assert decoding.state_from_json({"status": "running"}, PATH).experiment_id == "exp_7"
    for strange in ({}, {"notes": "of somebody"}):
        with pytest.raises(StateCorruptError, match="none of the keys"):
            decoding.state_from_json(strange, PATH)


def test_schema_1_keeps_everything() -> None:
    """Every field of a real view of schema 1 arrives typed."""
    state = read("schema_1.json")
    assert state.owner is not None
    assert state.owner.released
    assert state.epoch == 2
    assert state.process_progress[1].reason is Reason.EXIT
    assert state.process_progress[0].result is not None


def test_a_newer_schema_names_both_versions() -> None:
    """A file of a later holdfast is refused with what it is and what can be read."""
    with pytest.raises(SchemaTooNewError) as caught:
        decoding.state_from_json({"schema_version": 7, "experiment_id": "x"}, PATH)
    assert (caught.value.found, caught.value.supported) == (7, records.SCHEMA_VERSION)
    assert str(PATH) in str(caught.value)


def plain(**changed: Any) -> dict[str, Any]:
    state = ExperimentState(experiment_id="exp_7", num_processes=2)
    return json.loads(encoding.dumps(encoding.state_to_json(state))) | changed


def progress(**changed: Any) -> dict[str, Any]:
    return plain(process_progress={"0": {"status": "pending", **changed}})


@pytest.mark.parametrize(
    ("value", "names"),
    [
        pytest.param([], "object", id="a list"),
        pytest.param("state", "object", id="a string"),
        pytest.param(None, "object", id="null"),
        pytest.param(plain(schema_version="1"), "schema_version", id="schema as text"),
        pytest.param(plain(schema_version=True), "schema_version", id="schema true"),
        pytest.param(plain(schema_version=-1), "schema_version", id="negative schema"),
        pytest.param(plain(schema_version=1.0), "schema_version", id="schema as float"),
        pytest.param(plain(experiment_id=7), "experiment_id", id="id as number"),
        pytest.param(plain(experiment_id=""), "experiment_id", id="empty id"),
        pytest.param(plain(experiment_id=None), "experiment_id", id="null id"),
        pytest.param(plain(status="done"), "status", id="unknown status"),
        pytest.param(plain(status=None), "status", id="null status"),
        pytest.param(plain(status=["running"]), "status", id="status as list"),
        pytest.param(plain(reason="bored"), "reason", id="unknown reason"),
        pytest.param(plain(num_processes="2"), "num_processes", id="number as text"),
        pytest.param(plain(num_processes=2.0), "num_processes", id="number as float"),
        pytest.param(plain(num_processes=True), "num_processes", id="number as bool"),
        pytest.param(plain(num_processes=-2), "num_processes", id="negative number"),
        pytest.param(plain(revision=-1), "revision", id="negative revision"),
        pytest.param(plain(epoch=None), "epoch", id="null epoch"),
        pytest.param(plain(created_at=1705322096), "created_at", id="time as number"),
        pytest.param(plain(created_at="yesterday"), "created_at", id="no time"),
        pytest.param(plain(config=[1]), "config", id="config as list"),
        pytest.param(plain(extra="more"), "extra", id="extra as text"),
        pytest.param(plain(extra=[], unknown=1), "extra", id="extra as list, unknown key"),
        pytest.param(plain(owner="me"), "owner", id="owner as text"),
        pytest.param(plain(owner={"pid": "7"}), "pid", id="owner's pid as text"),
        pytest.param(plain(subprocess_pid="7"), "subprocess_pid", id="pid as text"),
        pytest.param(plain(ranks=2), "ranks", id="ranks as number"),
        pytest.param(plain(ranks={"count": 0}), "count", id="no ranks"),
        pytest.param(plain(ranks={"count": True}), "count", id="ranks as bool"),
        pytest.param(plain(ranks={"count": 3}), "gangs of 3", id="half a gang"),
        pytest.param(plain(reuse="some"), "reuse", id="unknown policy of reuse"),
        pytest.param(plain(reuse=True), "reuse", id="policy of reuse as bool"),
        pytest.param(plain(process_progress=[]), "process_progress", id="progress as list"),
        pytest.param(plain(process_progress={"a": {}}), "'a'", id="index a word"),
        pytest.param(plain(process_progress={"-1": {}}), "'-1'", id="negative index"),
        pytest.param(plain(process_progress={"01": {}}), "'01'", id="index with zero"),
        pytest.param(plain(process_progress={" 1": {}}), "' 1'", id="index with space"),
        pytest.param(plain(process_progress={"1_0": {}}), "'1_0'", id="index with underscore"),
        pytest.param(plain(process_progress={"\u0661": {}}), "index", id="index in Arabic digits"),
        pytest.param(plain(process_progress={"9": {}}), "index 9", id="index beyond the number"),
        pytest.param(plain(process_progress={"9" * 5000: {}}), "index", id="huge index"),
        pytest.param(plain(process_progress={"0": None}), "process 0", id="null process"),
        pytest.param(plain(process_progress={"0": []}), "process 0", id="process as list"),
        pytest.param(progress(status="initialised"), "process 0", id="experiment's status"),
        pytest.param(progress(attempt=-1), "attempt", id="negative attempt"),
        pytest.param(progress(attempt="1"), "attempt", id="attempt as text"),
        pytest.param(progress(exit_code=False), "exit_code", id="exit code as bool"),
        pytest.param(progress(completed_at={}), "completed_at", id="time as object"),
        pytest.param(progress(result={"path": "x"}), "size", id="result without size"),
        pytest.param(progress(result=3), "result", id="result as number"),
        pytest.param(progress(outputs={"path": "x"}), "outputs", id="outputs as object"),
        pytest.param(progress(outputs="x"), "outputs", id="outputs as text"),
        pytest.param(progress(outputs=None), "outputs", id="null outputs"),
        pytest.param(progress(outputs=["model.pt"]), "outputs", id="an output as text"),
        pytest.param(
            progress(outputs=[{"path": "x", "size": -1, "sha256": ""}]),
            "size",
            id="negative output",
        ),
        pytest.param(progress(work=7), "work", id="work as number"),
        pytest.param(progress(code=["train.py"]), "code", id="code as list"),
        pytest.param(progress(origin="exp_6"), "origin", id="origin as text"),
        pytest.param(
            progress(origin={"experiment_id": "a", "process": 1}), "attempt", id="half an origin"
        ),
        pytest.param(
            progress(origin={"experiment_id": "", "process": 1, "attempt": 1}),
            "experiment_id",
            id="origin without a name",
        ),
        pytest.param(
            progress(origin={"experiment_id": "a", "process": -1, "attempt": 1}),
            "process",
            id="origin of no process",
        ),
    ],
)
def test_what_is_no_state_is_refused_by_file_and_key(value: Any, names: str) -> None:
    """A wrong type, an unknown word or a stray index is told with the file and the key."""
    with pytest.raises(StateCorruptError) as caught:
        decoding.state_from_json(value, PATH)
    assert str(PATH) in str(caught.value)
    assert names in caught.value.problem


_KEYS = [
    *(("state", name) for name in attrs.fields_dict(ExperimentState)),
    *(("process", name) for name in attrs.fields_dict(ProcessProgress)),
    *(("identity", name) for name in attrs.fields_dict(ProcessIdentity)),
    *(("result", name) for name in attrs.fields_dict(ResultRef)),
    *(("output", name) for name in attrs.fields_dict(ResultRef)),
    *(("origin", name) for name in attrs.fields_dict(Origin)),
]
_FILES = st.fixed_dictionaries({"path": texts, "size": st.integers(), "sha256": texts})
_VALUES = (
    json_values
    | st.sampled_from([*ExperimentStatus, *ProcessStatus, *Reason]).map(str)
    | st.sampled_from(["2024-01-15", "2024-01-15T13:00:00+05:30"])
    | _FILES
    | st.lists(_FILES, max_size=2)
    | st.fixed_dictionaries({"experiment_id": texts, "process": counts, "attempt": counts})
)


@given(st.sampled_from(_KEYS), _VALUES)
def test_the_codec_takes_what_cattrs_takes(key: tuple[str, str], value: Any) -> None:
    """Written by hand for its speed, it judges every field as the records' own validators do."""
    kind, name = key
    process: dict[str, Any] = {
        "status": "running",
        "identity": {"host": "a", "pid": 7},
        "result": {"path": "a", "size": 1, "sha256": "b"},
        "outputs": [{"path": "c", "size": 1, "sha256": "d"}],
        "origin": {"experiment_id": "e", "process": 1, "attempt": 1},
    }
    whole = plain(process_progress={"0": process})
    inner = {"state": whole, "process": process, "output": process["outputs"][0]}.get(kind)
    inner = process[kind] if inner is None else inner
    inner[name] = value
    if name == "schema_version":
        return  # judged before anything else
    why = explaining.why(LookupError("nothing"), ExperimentState, whole, *PARSERS)
    found = "nothing"
    try:
        decoding.state_from_json(whole, PATH)
    except StateCorruptError as err:
        found = err.problem
    if "which the machine does not allow" not in found:  # what no field says alone
        assert found == why


@pytest.mark.parametrize("status", sorted(each.value for each in SETTLED))
@pytest.mark.parametrize("process", ["pending", "running", "failed"])
def test_what_the_machines_cannot_reach_is_refused(status: str, process: str) -> None:
    """A completed or aggregated experiment with a process that is not completed is no state."""
    value = plain(
        status=status,
        process_progress={"0": {"status": "completed"}, "1": {"status": process}},
    )
    with pytest.raises(StateCorruptError, match="1 of 2 processes are completed"):
        decoding.state_from_json(value, PATH)


def test_unknown_keys_of_today_s_schema_are_kept_too() -> None:
    """A key that somebody added by hand does not vanish at the next write."""
    state = decoding.state_from_json(plain(comment="keep me"), PATH)
    assert state.extra == {"comment": "keep me"}
    assert decoding.state_from_json(json.loads(encoding.view(state)), PATH) == state


def test_times_of_other_zones_become_utc() -> None:
    """Two files that mean the same instant are equal."""
    elsewhere = datetime(2024, 1, 15, 13, 0, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    state = decoding.state_from_json(plain(created_at=elsewhere.isoformat()), PATH)
    assert state.created_at == elsewhere
    assert state.created_at is not None
    assert state.created_at.utcoffset() == timedelta(0)


def test_nan_cannot_be_written() -> None:
    """What other parsers refuse never gets into a file."""
    state = ExperimentState(experiment_id="exp_7", config={"lr": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        encoding.view(state)


def test_the_view_has_a_line_for_every_process() -> None:
    """`grep` and `diff` work on a view."""
    state = ExperimentState(experiment_id="exp_7", num_processes=3)
    lines = encoding.view(state).decode("ascii").splitlines()
    assert sum('"status":"pending"' in line for line in lines) == 3


@pytest.mark.parametrize(
    "value",
    [
        plain(num_processes=10**12),
        plain(num_processes=0, process_progress={"999999999": {"status": "pending"}}),
    ],
)
def test_a_number_in_a_file_cannot_take_all_memory(value: dict[str, Any]) -> None:
    """A typo of nine zeros is an error, not a table of a trillion entries."""
    with pytest.raises(StateCorruptError, match="more than the limit of 1,000,000"):
        decoding.state_from_json(value, PATH)
