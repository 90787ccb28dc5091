"""From results to an aggregate: the table, the inputs of the user's command, the stored file."""

import json
import os
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from holdfast.attempts.names import AGGREGATE, AttemptName
from holdfast.errors import AggregationError, ResultLostError, StateCorruptError, StateWriteError
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.results import acceptance, aggregation, rows
from holdfast.results.averages import statistics_of
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.files import Files

BEGIN = datetime(2024, 1, 15, 12, tzinfo=UTC)
PARAMS = ({"codec": "zlib"}, {"codec": "bz2"}, {"codec": "lzma"})


def own(attempt):
    """That attempt of the user's own command."""
    return AttemptName("exp", AGGREGATE, attempt)


def of(index, attempt):
    """That attempt of a process."""
    return AttemptName.of_process("exp", index, attempt)


@pytest.fixture
def folder(tmp_path):
    acceptance.prepare(tmp_path)
    return tmp_path


def completed(folder, index, attempt, value=None, **more):
    """A completed process; its result is written and accepted unless *value* is None."""
    ref = None
    if value is not None:
        acceptance.path_of(folder, of(index, attempt)).write_text(json.dumps(value))
        ref = acceptance.accept(folder, of(index, attempt))
    times = {"started_at": BEGIN, "completed_at": BEGIN + timedelta(seconds=1.5)}
    return ProcessProgress(
        status=ProcessStatus.COMPLETED, attempt=attempt, result=ref, host="node1", **(times | more)
    )


@pytest.fixture
def state(folder):
    """Three completed processes; the second needed two attempts, the third wrote no result."""
    acceptance.path_of(folder, of(1, 1)).write_text('{"ratio": 999}')
    return ExperimentState(
        experiment_id="exp",
        name="shootout",
        config_hash="abc",
        status=ExperimentStatus.COMPLETED,
        process_progress={
            0: completed(folder, 0, 1, {"ratio": 3.0, "time": {"wall_s": 1}}),
            1: completed(folder, 1, 2, {"ratio": 5.0, "time": {"wall_s": 2}}),
            2: completed(folder, 2, 1),
        },
    )


def test_the_table_has_one_row_per_process(state, folder):
    """Parameters, attempts, host, duration and result, by index."""
    rows = aggregation.table(state, folder, PARAMS)
    assert rows[1] == {
        "index": 1,
        "params": {"codec": "bz2"},
        "attempts": 2,
        "host": "node1",
        "code": None,
        "reused": None,
        "duration_s": 1.5,
        "attempts_duration_s": None,  # no journal tells of the first
        "result": {"ratio": 5.0, "time": {"wall_s": 2}},
    }
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert rows[2]["result"] is None


def test_the_built_in_aggregate_counts_accepted_results_only(state, folder):
    """What a failed attempt wrote is in no row and no mean."""
    found = aggregation.build(state, folder, PARAMS)
    assert found["statistics"] == statistics_of([row["result"] for row in found["rows"]])
    assert found["statistics"]["ratio"]["max"] == 5.0
    assert found["statistics"]["time.wall_s"]["count"] == 2
    assert {key: found[key] for key in ("schema", "experiment_id", "num_processes", "value")} == {
        "schema": "holdfast.aggregate/1",
        "experiment_id": "exp",
        "num_processes": 3,
        "value": None,
    }
    assert aggregation.build(state, folder, PARAMS) == found


def test_rows_need_neither_parameters_nor_times(folder):
    """A state made by hand aggregates as well."""
    state = ExperimentState(experiment_id="exp", process_progress={0: ProcessProgress()})
    (row,) = aggregation.table(state, folder)
    assert row["params"] == {}
    assert row["duration_s"] is None


def test_a_clock_that_was_set_back_makes_no_negative_duration(folder):
    """A duration is 0 or more whatever the wall clock did."""
    entry = completed(folder, 0, 1, completed_at=BEGIN - timedelta(hours=2))
    state = ExperimentState(experiment_id="exp", process_progress={0: entry})
    assert aggregation.table(state, folder)[0]["duration_s"] == 0.0


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("7")])
def test_a_lost_result_stops_the_aggregation(state, folder, damage):
    """No mean over half of the results, and none over a result that nobody wrote."""
    damage(acceptance.path_of(folder, of(1, 2)))
    with pytest.raises(ResultLostError, match=r"exp/1: result results/1\.2\.json") as caught:
        aggregation.build(state, folder, PARAMS)
    assert caught.value.process == 1


def test_the_stored_aggregate_is_read_back(state, folder):
    """Written whole, replaced whole, nothing else left in the folder."""
    assert aggregation.read(folder) is None
    built = aggregation.build(state, folder, PARAMS)
    for value in (1, 2):
        aggregation.write(folder, {**built, "value": value})
        assert aggregation.read(folder) == {**built, "value": value}
    assert sorted(os.listdir(folder)) == ["aggregate.json", "results"]


def test_a_failed_write_keeps_the_old_aggregate(state, folder):
    """The disk is full at any of the steps: the old file is whole, no temporary one is left."""

    class Full(Files):
        def fsync(self, fd):
            raise OSError(28, "No space left on device")

    built = aggregation.build(state, folder, PARAMS)
    aggregation.write(folder, built)
    with pytest.raises(StateWriteError, match="No space left on device"):
        aggregation.write(folder, {**built, "value": 1}, files=Full())
    assert aggregation.read(folder) == built
    assert sorted(os.listdir(folder)) == ["aggregate.json", "results"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": "other/1"}', b'{"a": NaN}'])
def test_a_file_that_is_no_aggregate_is_refused(folder, content):
    """Named, and left as it is."""
    (folder / "aggregate.json").write_bytes(content)
    with pytest.raises(StateCorruptError, match=r"aggregate\.json"):
        aggregation.read(folder)
    assert (folder / "aggregate.json").read_bytes() == content


def test_a_link_in_place_of_the_aggregate_is_not_followed(folder, tmp_path_factory):
    """It could show the reader any file of the machine."""
    target = tmp_path_factory.mktemp("elsewhere") / "x.json"
    target.write_text('{"schema": "holdfast.aggregate/1"}')
    (folder / "aggregate.json").symlink_to(target)
    with pytest.raises(StateCorruptError, match="cannot be read"):
        aggregation.read(folder)


# -- the user's own command -----------------------------------------------------------------------


def test_the_command_finds_exactly_the_accepted_results(state, folder):
    """One file per process that wrote a result, and the table; nothing of failed attempts."""
    built = aggregation.build(state, folder, PARAMS)
    env = aggregation.prepare_inputs(state, folder, built, own(1))
    assert set(env) == {"HOLDFAST_RESULTS", "HOLDFAST_TABLE", "HOLDFAST_RESULT"}
    assert all(os.path.isabs(path) for path in env.values())
    assert sorted(os.listdir(env["HOLDFAST_RESULTS"])) == ["0.json", "1.json"]
    with open(os.path.join(env["HOLDFAST_RESULTS"], "1.json")) as file:
        assert json.load(file)["ratio"] == 5.0
    with open(env["HOLDFAST_TABLE"]) as file:
        assert json.load(file) == built


def test_a_command_that_edits_its_inputs_destroys_no_result(state, folder):
    """They are copies: normalised or truncated in place, the accepted results stay as they are."""
    env = aggregation.prepare_inputs(state, folder, aggregation.build(state, folder), own(1))
    for name in os.listdir(env["HOLDFAST_RESULTS"]):
        with open(os.path.join(env["HOLDFAST_RESULTS"], name), "r+") as file:
            file.truncate(1)
    for process in state.processes.values():
        assert process.result is None or acceptance.verify(folder, process.result) is None


def test_inputs_are_laid_out_afresh(state, folder):
    """What a crash left in the middle of it does not mix in."""
    built = aggregation.build(state, folder)
    env = aggregation.prepare_inputs(state, folder, built, own(1))
    with open(os.path.join(env["HOLDFAST_RESULTS"], "7.json"), "w") as file:
        file.write("{}")
    again = aggregation.prepare_inputs(state, folder, built, own(1))
    assert again == env
    assert sorted(os.listdir(env["HOLDFAST_RESULTS"])) == ["0.json", "1.json"]


def test_what_the_command_writes_is_the_value(state, folder):
    """It joins the table in `aggregate.json`; its inputs tell what it was made from."""
    built = aggregation.build(state, folder, PARAMS)
    env = aggregation.prepare_inputs(state, folder, built, own(3))
    with open(env["HOLDFAST_RESULT"], "w") as file:
        json.dump({"best": "lzma"}, file)
    whole = aggregation.finish(state, folder, built, own(3))
    aggregation.write(folder, whole)
    assert whole == {**built, "value": {"best": "lzma"}}
    assert aggregation.read(folder) == whole
    assert aggregation.made_from(folder, built, own(3))
    assert not aggregation.made_from(folder, {**built, "rows": built["rows"][1:]}, own(3))
    aggregation.remove_inputs(folder, own(3))
    assert not aggregation.made_from(folder, built, own(3))
    assert sorted(os.listdir(folder)) == ["aggregate.json", "results"]
    assert aggregation.build(state, folder, PARAMS) == built


def test_a_large_value_is_made_when_it_is_asked_for(state, folder):
    """An aggregate with it equals one that holds it, before and after it was stored."""
    built = aggregation.build(state, folder, PARAMS)
    value = {"w": [{"a": n, "b": ["x" * 350]} for n in range(50_000)], "bad": float("inf")}
    env = aggregation.prepare_inputs(state, folder, built, own(1))
    with open(env["HOLDFAST_RESULT"], "w") as file:
        json.dump(value, file)
    whole = aggregation.finish(state, folder, built, own(1))
    wanted = {**built, "value": {**value, "bad": None}, "nonfinite": {"bad": "Infinity"}}
    assert (list(whole), len(whole)) == (list(wanted), len(wanted))
    assert dict(whole) == wanted
    path = aggregation.write(folder, whole)
    assert path.stat().st_size > 16 << 20
    assert json.loads(path.read_text()) == wanted
    read = aggregation.read(folder)
    assert type(read) is rows.Aggregate
    assert read == whole
    path.write_text(path.read_text().replace('"value": {', '"value": {]'))
    with pytest.raises(StateCorruptError, match="is not valid JSON: value: "):
        aggregation.read(folder)


def test_a_command_may_write_nothing(state, folder):
    """It may have made files of its own."""
    built = aggregation.build(state, folder)
    aggregation.prepare_inputs(state, folder, built, own(1))
    assert aggregation.finish(state, folder, built, own(1))["value"] is None


def test_a_command_that_writes_no_json_has_failed(state, folder):
    """The reason is told, and no aggregate is stored."""
    built = aggregation.build(state, folder)
    env = aggregation.prepare_inputs(state, folder, built, own(1))
    with open(env["HOLDFAST_RESULT"], "w") as file:
        file.write("nan")
    with pytest.raises(AggregationError, match=r"aggregate\.1\.json is not valid JSON"):
        aggregation.finish(state, folder, built, own(1))
    assert aggregation.read(folder) is None


def test_a_result_that_is_gone_stops_the_preparation(state, folder):
    """The command must not run over fewer results than were accepted."""
    built = aggregation.build(state, folder)
    acceptance.path_of(folder, of(0, 1)).unlink()
    with pytest.raises(StateWriteError, match="preparing the aggregation"):
        aggregation.prepare_inputs(state, folder, built, own(1))


def test_the_deepest_result_survives_aggregation(folder):
    """What was accepted can be read back from the aggregate, where it lies deeper."""
    deep = json.loads("[" * 100 + "]" * 100)
    entry = completed(folder, 0, 1, deep)
    state = attrs.evolve(
        ExperimentState(experiment_id="exp"), num_processes=1, process_progress={0: entry}
    )
    aggregation.write(folder, aggregation.build(state, folder))
    found = aggregation.read(folder)
    assert found is not None
    assert found["rows"][0]["result"] == deep
