"""What other tools get of an experiment: records and frames in the same dtypes every time."""

import io
import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import holdfast
from experiments import hostile, sweep
from holdfast import StateManager
from holdfast.attempts.names import AttemptName
from holdfast.reading import frames, records
from holdfast.results import acceptance

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def manager(tmp_path: Path) -> StateManager:
    return StateManager(tmp_path / ".experiment_state", clock=lambda: NOW)


def finished(manager: StateManager, results: list[str | None], name: str = "made") -> str:
    """An experiment whose processes wrote *results*, as they are; None: it failed."""
    manager.create(name, num_processes=len(results))
    folder = manager.folder(name)
    with manager.claim(name) as claim:
        claim.record("start")
        for index, text in enumerate(results):
            claim.record("start", index)
            if text is None:
                claim.record("fail", index, exit_code=3, error_message="diverged")
                continue
            attempt = AttemptName(name, index, 1)
            acceptance.prepare(folder)
            acceptance.path_of(folder, attempt).write_text(text)
            claim.record("complete", index, exit_code=0, result=acceptance.accept(folder, attempt))
    return name


def frame_kinds(frame: Any) -> dict[str, str]:
    dtypes = frame.dtypes.items() if isinstance(frame, pd.DataFrame) else frame.schema.items()
    return {name: str(dtype) for name, dtype in dtypes}


def test_every_record_has_every_column(manager: StateManager):
    """Whatever became of a process, the keys are the same; what is not known is None."""
    found = manager.to_records(finished(manager, ['{"loss": 0.5}', None, '{"acc": 1}']))
    assert [each["index"] for each in found] == [0, 1, 2]
    assert len({tuple(each) for each in found}) == 1
    assert [each["result.loss"] for each in found] == [0.5, None, None]
    assert [each["result.acc"] for each in found] == [None, None, 1]
    assert found[1]["error"] == "diverged"
    assert found[0]["started_at"] == NOW


@pytest.mark.parametrize(
    ("results", "kind", "values"),
    [
        (["1", "2"], "integer", [1, 2]),
        (["1", "2.5"], "number", [1, 2.5]),
        (["true", "false"], "boolean", [True, False]),
        (['"a"', '"b"'], "text", ["a", "b"]),
        (["[1, 2]", "[]"], "json", [[1, 2], []]),
        (["1", '"many"'], "json", [1, "many"]),
        (["true", "1"], "json", [True, 1]),
        ([str(2**63), "1"], "json", [2**63, 1]),
        (['{"x": null}', "1"], "integer", None),
    ],
)
def test_a_column_is_of_the_kind_of_all_its_values(manager, results, kind, values):
    """One kind for all, the widest that loses nothing; and any JSON where they do not meet."""
    name = finished(manager, [f'{{"x": {each}}}' if each[0] != "{" else each for each in results])
    found = records.table(manager.load(name), manager.folder(name))
    assert dict(found.columns)["result.x"] == kind
    if values is not None:
        assert [each["result.x"] for each in found.records()] == values


def test_frames_have_fixed_dtypes(manager: StateManager):
    """The two libraries agree, and no value decides what a column of ours is."""
    name = finished(manager, ['{"loss": 0.5, "n": 3, "ok": true, "tags": ["a"]}', None])
    pandas, polars = manager.to_pandas(name), manager.to_polars(name)
    assert list(pandas.columns) == polars.columns == list(manager.to_records(name)[0])
    expected = {
        "index": ("Int64", "Int64"),
        "exit_code": ("Int64", "Int64"),
        "started_at": ("datetime64[us, UTC]", "Datetime(time_unit='us', time_zone='UTC')"),
        "duration_s": ("Float64", "Float64"),
        "status": ("string", "String"),
        "error": ("string", "String"),
        "result.loss": ("Float64", "Float64"),
        "result.n": ("Int64", "Int64"),
        "result.ok": ("boolean", "Boolean"),
        "result.tags": ("string", "String"),
    }
    assert {k: (frame_kinds(pandas)[k], frame_kinds(polars)[k]) for k in expected} == expected
    assert pandas["result.n"].tolist()[0] == 3
    assert pandas["result.n"].isna().tolist() == [False, True]
    assert json.loads(pandas["result.tags"][0]) == ["a"]
    assert polars["started_at"][0] == pandas["started_at"][0] == NOW


def test_an_empty_experiment_has_the_same_dtypes(manager: StateManager):
    """What nobody ran yet, and none at all, concatenates with what was run."""
    manager.create("new", num_processes=2)
    ran = finished(manager, ["{}", None])
    for frame in (manager.to_pandas, manager.to_polars):
        assert frame_kinds(frame("new")) == frame_kinds(frame(ran))
        every = frame_kinds(frame())
        assert StateManager(manager.state_dir.parent / "none").to_records() == []
        assert every["created_at"] == frame_kinds(frame("new"))["started_at"]


def test_a_directory_without_experiments_has_the_columns_of_a_listing(tmp_path, manager):
    """A script that filters by status needs no special case for the first day."""
    manager.create("one", num_processes=2)
    none = StateManager(tmp_path / "none")
    assert frame_kinds(none.to_pandas()) == frame_kinds(manager.to_pandas())
    assert frame_kinds(none.to_polars()) == frame_kinds(manager.to_polars())
    assert [(each["id"], each["processes"]) for each in manager.to_records()] == [("one", 2)]


def test_what_is_no_finite_number_is_not_missing(manager: StateManager):
    """A loss that is NaN was measured: every form tells it from one that was not."""
    name = finished(manager, ['{"loss": NaN}', '{"loss": -Infinity}', '{"loss": 1.5}', "{}"])
    found = [each["result.loss"] for each in manager.to_records(name)]
    assert math.isnan(found[0])
    assert found[1:] == [-math.inf, 1.5, None]
    pandas = manager.to_pandas(name)["result.loss"]
    assert pandas.dtype == "Float64"
    assert math.isnan(pandas.array[0])
    assert pandas.array[3] is pd.NA
    polars = manager.to_polars(name)["result.loss"]
    assert polars.is_nan().to_list() == [True, False, False, None]
    assert polars.to_list()[3] is None


def test_a_state_gives_what_its_id_gives(manager: StateManager):
    """A state that was loaded is taken as it is."""
    name = finished(manager, ["{}"])
    assert manager.to_records(manager.load(name)) == manager.to_records(name)


def test_tags_and_note_are_there(manager: StateManager):
    """What people say is in each record of the experiment."""
    name = finished(manager, ["{}", "{}"])
    manager.annotate(name, add=["paper", "b"], note="table 2")
    assert {(each["tags"], each["note"]) for each in manager.to_records(name)} == {
        ("b paper", "table 2")
    }
    assert manager.to_records()[0]["tags"] == "b paper"


def test_a_lost_result_is_told_and_loses_nothing_else(manager: StateManager):
    """The other records are there, and this one says what is wrong."""
    name = finished(manager, ['{"loss": 1}', '{"loss": 2}'])
    (manager.folder(name) / "results" / "0.1.json").write_text('{"loss": 3}')
    lost, kept = manager.to_records(name)
    assert "its result" in lost["error"]
    assert (lost["result.loss"], kept["result.loss"]) == (None, 2)


def test_a_large_result_is_whole(manager: StateManager):
    """What an outline elides is read again: a list is a list, a text a text."""
    numbers, words = list(range(100_000)), "[not json" * 100_000
    text = json.dumps({"numbers": numbers, "words": words, "x": 1})
    assert len(text) > acceptance.LARGE
    name = finished(manager, [text])
    [found] = manager.to_records(name)
    assert found["result.numbers"] == numbers
    assert found["result.words"] == words
    assert json.loads(manager.to_polars(name)["result.numbers"][0]) == numbers


def test_a_hostile_store_makes_frames(manager: StateManager):
    """Names that are no UTF-8, numbers beyond all types, keys of any kind: text at the worst."""
    state = hostile(manager)
    found = manager.to_records(state)
    assert len(found) == state.num_processes
    assert len(manager.to_pandas(state)) == len(manager.to_polars(state)) == len(found)


def test_every_process_of_a_sweep_is_in_its_frame(manager: StateManager):
    """Failed, retried and interrupted ones among them."""
    state = sweep(manager, 60, failures=7, retries=5, interruptions=2)
    frame = manager.to_pandas(state)
    assert (frame["status"] == "failed").sum() == 7
    assert frame["index"].tolist() == list(range(60))
    assert frame["params.lr"].dtype == "Float64"


def test_parquet_keeps_the_types(manager: StateManager):
    """Both frames read from the file what they are made of directly."""
    name = finished(manager, ['{"loss": 0.5, "n": 3, "mixed": 1}', '{"mixed": "a"}', None])
    found = records.table(manager.load(name), manager.folder(name))
    data = frames.parquet(found.columns, found.records(), {"experiment_id": name})
    read = pq.read_table(io.BytesIO(data))
    assert read.schema.metadata[b"schema"] == b"holdfast.export/1"
    assert read.schema.field("result.mixed").metadata[b"kind"] == b"json"
    assert read.schema.field("started_at").type == pa.timestamp("us", tz="UTC")
    assert pl.read_parquet(io.BytesIO(data)).equals(manager.to_polars(name))
    again = read.to_pandas()
    assert again["result.loss"].tolist()[0] == 0.5


@pytest.mark.parametrize(
    ("form", "package"), [("pandas", "pandas"), ("polars", "polars"), ("parquet", "pyarrow")]
)
def test_a_library_that_is_not_there_is_named(form: str, package: str, tmp_path: Path):
    """An ImportError that says what to type, and nothing is read before."""
    StateManager(tmp_path).create("one")
    script = f"""
import sys
sys.modules[{package!r}] = None
import holdfast
from holdfast.reading import frames
manager = holdfast.StateManager({str(tmp_path)!r})
try:
    frames.library("parquet") if {form!r} == "parquet" else manager.to_{form}("gone")
except ImportError as err:
    print(type(err).__name__, err)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == (
        f"NotInstalledError {package} is not installed\n  pip install 'holdfast[{form}]'\n"
    )


def test_records_load_no_library(tmp_path: Path):
    """Neither does a manager that could give a frame."""
    StateManager(tmp_path).create("one")
    script = f"""
import sys, holdfast
holdfast.StateManager({str(tmp_path)!r}).to_records("one")
print(*({{"pandas", "polars", "pyarrow", "numpy", "matplotlib"}} & sys.modules.keys()))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == "\n"


def test_the_error_is_public():
    """It can be caught as an ImportError, too."""
    assert issubclass(holdfast.NotInstalledError, ImportError)
