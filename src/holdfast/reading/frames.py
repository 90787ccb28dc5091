"""Records as other tools take them: data frames and Arrow tables, in the same dtypes every time.

Owns those dtypes, and the words for a library that is not there; each is imported when it is asked
for.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from holdfast.errors import NotInstalledError, StateCorruptError, UnreadableStateWarning
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import records
from holdfast.reading.records import Column, Record
from holdfast.store.annotations import NONE, Annotations
from holdfast.store.experiments import Experiments
from holdfast.store.strictjson import spelt

__all__ = ["SCHEMA", "arrow", "library", "made", "parquet"]

#: What the metadata of an Arrow table, and so of a Parquet file, names.
SCHEMA: Final = "holdfast.export/1"

#: Where each library stands, if it is not the extra's name.
_MODULES: Final = {"parquet": "pyarrow", "plot": "matplotlib", "report": "jinja2"}

_PANDAS: Final[Mapping[records.Kind, str]] = {
    "integer": "Int64",
    "number": "Float64",
    "duration": "Float64",
    "text": "string",
    "json": "string",
    "boolean": "boolean",
    "time": "datetime64[us, UTC]",
}


def library(name: str) -> ModuleType:
    """The library that the extra *name* stands for.

    Raises:
        NotInstalledError: It is not installed; says how to install it.
    """
    module = _MODULES.get(name, name)
    try:
        return import_module(module)
    except ImportError as err:
        # What is installed and broken says so itself.
        if not isinstance(err, ModuleNotFoundError) or err.name != module:
            raise
        raise NotInstalledError(module, name) from err


def made(manager: Experiments, experiment: str | ExperimentState | None, form: str) -> Any:
    """One record per process of *experiment*, or per experiment if it is None, as *form*.

    Args:
        form: `records`, a list of dictionaries; `pandas` or `polars`, a frame of it.
    """
    if form != "records":
        library(form)  # before minutes of reading
    columns, rows = _read(manager, experiment)
    return _FORMS[form](columns, rows)


def _read(
    manager: Experiments, experiment: str | ExperimentState | None
) -> tuple[Sequence[Column], list[Record]]:
    if experiment is None:
        listing = manager.listing()
        said = manager.annotated()
        paths = [path for path, _ in (*listing.unreadable, *said.unreadable)]
        if paths:
            _warn(f"{len(paths)} unreadable: {', '.join(path.name for path in paths[:5])}")
        return records.OF_AN_EXPERIMENT, records.of_experiments(listing.experiments, said)
    state = experiment if isinstance(experiment, ExperimentState) else manager.load(experiment)
    found = records.table(
        state, manager.folder(state.experiment_id), _said(manager, state.experiment_id)
    )
    return found.columns, found.records()


def _said(manager: Experiments, experiment_id: str) -> Annotations:
    try:
        return manager.annotations(experiment_id)
    except StateCorruptError as err:
        _warn(str(err))
        return NONE


def _warn(words: str) -> None:
    # Seven calls up is who called `to_records`.
    warnings.warn(words, UnreadableStateWarning, stacklevel=8)


def _pandas(columns: Sequence[Column], rows: Sequence[Record]) -> Any:
    import pandas as pd

    return pd.DataFrame({name: _series(pd, kind, rows, name) for name, kind in columns})


def _series(pd: Any, kind: records.Kind, rows: Sequence[Record], name: str) -> Any:
    values = _values(rows, name, kind)
    if _PANDAS[kind] != "Float64":
        return pd.Series(values, dtype=_PANDAS[kind])
    import numpy as np

    # Made by hand: pandas takes NaN for missing, and a loss that is NaN was measured.
    missing = np.array([value is None for value in values], dtype=bool)
    numbers = np.array([0.0 if value is None else value for value in values], dtype="float64")
    return pd.Series(pd.arrays.FloatingArray(numbers, missing))


def _polars(columns: Sequence[Column], rows: Sequence[Record]) -> Any:
    import polars as pl

    dtypes: Mapping[records.Kind, Any] = {
        "integer": pl.Int64(),
        "number": pl.Float64(),
        "duration": pl.Float64(),
        "text": pl.String(),
        "json": pl.String(),
        "boolean": pl.Boolean(),
        "time": pl.Datetime("us", "UTC"),
    }
    values = {name: _values(rows, name, kind) for name, kind in columns}
    return pl.DataFrame(values, schema={name: dtypes[kind] for name, kind in columns})


def arrow(columns: Sequence[Column], rows: Sequence[Record], about: Mapping[str, str]) -> Any:
    """An Arrow table, whose metadata names `SCHEMA` and what it is *about*.

    Each field says its kind: `{"kind": "json"}` is JSON in a text.
    """
    pa = library("parquet")
    dtypes: Mapping[records.Kind, Any] = {
        "integer": pa.int64(),
        "number": pa.float64(),
        "duration": pa.float64(),
        "text": pa.string(),
        "json": pa.string(),
        "boolean": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema(
        [pa.field(name, dtypes[kind], metadata={"kind": kind}) for name, kind in columns],
        metadata={"schema": SCHEMA, **{name: _text(word) for name, word in about.items()}},
    )
    values = [_values(rows, name, kind) for name, kind in columns]
    arrays = [pa.array(each, type=field.type) for each, field in zip(values, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def parquet(columns: Sequence[Column], rows: Sequence[Record], about: Mapping[str, str]) -> bytes:
    """A Parquet file of what `arrow` makes."""
    made = arrow(columns, rows, about)
    from pyarrow import BufferOutputStream
    from pyarrow.parquet import write_table

    buffer = BufferOutputStream()
    write_table(made, buffer)
    whole: bytes = buffer.getvalue().to_pybytes()
    return whole


def _records(_: Sequence[Column], rows: list[Record]) -> list[Record]:
    return rows


_FORMS: Final[Mapping[str, Callable[[Sequence[Column], list[Record]], Any]]] = {
    "records": _records,
    "pandas": _pandas,
    "polars": _polars,
}


def _values(rows: Sequence[Record], name: str, kind: records.Kind) -> list[Any]:
    """A column of values that any library takes for its dtype without a guess."""
    of = _CONVERT.get(kind)
    values = [row[name] for row in rows]
    return values if of is None else [None if each is None else of(each) for each in values]


def _utc(value: Any) -> Any:
    return value.astimezone(UTC)


def _text(value: str) -> str:
    # A name from the file system may hold what no UTF-8 has.
    return value.encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    if isinstance(value, float) and value - value != 0.0:
        return json.dumps(spelt(value))
    return json.dumps(value, allow_nan=False)


_CONVERT: Final[Mapping[records.Kind, Callable[[Any], Any]]] = {
    "number": float,
    "duration": float,
    "text": _text,
    "json": _json,
    "time": _utc,
}
