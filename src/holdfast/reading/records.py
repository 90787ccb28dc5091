"""The processes of an experiment as flat records: one each, in columns of one kind.

What an export, a data frame and the report page have of them is decided here.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import attrs

from holdfast.lifecycle.records import ExperimentState
from holdfast.reading.cells import flat
from holdfast.reading.codes import reused_from
from holdfast.reading.evidence import parameters
from holdfast.results import aggregation, rows
from holdfast.results.outline import Elided
from holdfast.store import strictjson
from holdfast.store.annotations import NONE, Annotated, Annotations
from holdfast.store.catalog.summary import Summary

__all__ = [
    "OF_AN_EXPERIMENT",
    "Column",
    "Kind",
    "Record",
    "Table",
    "about",
    "columns",
    "kind_of",
    "of_experiments",
    "records",
    "table",
]

#: What a column holds; every value may be missing. A `time` is aware and UTC, a `duration` is
#: seconds, `json` is any JSON, where values of several kinds met.
Kind = Literal["integer", "number", "text", "boolean", "time", "duration", "json"]
Record = dict[str, Any]


class Column(NamedTuple):
    """One column of records."""

    name: str
    kind: Kind


_ABOUT: Final = (
    Column("index", "integer"),
    Column("status", "text"),
    Column("reason", "text"),
    Column("attempts", "integer"),
    Column("exit_code", "integer"),
    Column("signal", "integer"),
    Column("host", "text"),
    Column("started_at", "time"),
    Column("completed_at", "time"),
    Column("duration_s", "duration"),
    Column("attempts_duration_s", "duration"),
    Column("max_rss_bytes", "integer"),
    Column("cpu_s", "duration"),
    Column("work", "text"),
    Column("code", "text"),
    Column("reused_from", "text"),
    Column("error", "text"),
    Column("tags", "text"),
    Column("note", "text"),
)
_RANK: Final = Column("rank", "integer")
#: Of an engine with a queue.
_OF_A_QUEUE: Final = (
    Column("phase", "text"),
    Column("submitted_at", "time"),
    Column("queued_s", "duration"),
    Column("requested_cpus", "number"),
    Column("requested_memory_bytes", "integer"),
)
_USED: Final = ("max_rss_bytes", "cpu_s", "queued_s", "requested_cpus", "requested_memory_bytes")

#: Of a listing of experiments.
OF_AN_EXPERIMENT: Final = (
    Column("id", "text"),
    Column("name", "text"),
    Column("status", "text"),
    Column("reason", "text"),
    Column("error", "text"),
    Column("processes", "integer"),
    Column("completed", "integer"),
    Column("failed", "integer"),
    Column("running", "integer"),
    Column("pending", "integer"),
    Column("reused", "integer"),
    Column("created_at", "time"),
    Column("started_at", "time"),
    Column("finished_at", "time"),
    Column("last_updated", "time"),
    Column("config_hash", "text"),
    Column("tags", "text"),
    Column("note", "text"),
)

_INT64: Final = 1 << 63
_NUMBERS: Final = frozenset[Kind]({"integer", "number"})
_NOTHING_SAID: Final = Annotated({}, [])
Part = Callable[[Any], Any]
_T = TypeVar("_T")
_encode: Final = json.JSONEncoder(allow_nan=False).encode


@attrs.frozen
class Table:
    """The records of one experiment, of which large values are read when they are asked for.

    Attributes:
        columns: Those of processes, then `params.X` and `result.Y` in the order of their first
            appearance.
        missing: Of the processes without a result to show, as `aggregation.table` has them.
        made: Whether any process has one.
    """

    columns: tuple[Column, ...]
    missing: list[dict[str, Any]]
    made: bool
    _state: ExperimentState
    _said: Annotations
    _rows: Any

    def parted(self) -> Iterator[tuple[Record, Part]]:
        """Each record, long values elided, and what makes such a value whole; in order."""
        for index, found, lacking in self._by_index(rows.parted(self._rows)):
            if lacking is not None:
                yield self._record(index, lacking["row"], lacking["why"]), _itself
            elif found is not None:
                yield self._record(index, found[0], None), found[1]

    def outlined(self) -> Iterator[Record]:
        """Each record in order, long values elided: nothing is read again."""
        for index, found, lacking in self._by_index(iter(rows.outlines(self._rows))):
            if lacking is not None:
                yield self._record(index, lacking["row"], lacking["why"])
            elif found is not None:
                yield self._record(index, found, None)

    def encoded(self) -> Iterator[tuple[int, str, str | None]]:
        """Each process in order: its index, its row as JSON, why it has no result."""
        for index, found, lacking in self._by_index(rows.encoded(self._rows)):
            if lacking is not None:
                yield index, _encode({**lacking["row"], "result": None}), lacking["why"]
            elif found is not None:
                yield index, found, None

    def _by_index(
        self, made: Iterator[_T]
    ) -> Iterator[tuple[int, _T | None, Mapping[str, Any] | None]]:
        """Every process in order: its index, and what *made* has of it, or what it lacks."""
        lacking = {each["index"]: each for each in self.missing}
        indices = {row["index"] for row in rows.outlines(self._rows)}
        # Rows are in the order of their indices.
        for index in sorted({*indices, *lacking}):
            yield index, next(made) if index in indices else None, lacking.get(index)

    def records(self) -> list[Record]:
        """Every record, whole."""
        return [
            {name: _built(value, part) for name, value in record.items()}
            for record, part in self.parted()
        ]

    def _record(self, index: int, row: Mapping[str, Any], why: str | None) -> Record:
        whole = {
            **row,
            **about(self._state, index),
            "error": why,
            "reused_from": reused_from(row) or None,
            "tags": " ".join(self._said.tags) or None,
            "note": self._said.note,
            **{f"params.{name}": value for name, value in row["params"].items()},
            **{f"result.{name}": value for name, value in _fields(row)},
        }
        return {name: whole.get(name) for name, _ in self.columns}


def table(
    state: ExperimentState, folder: Path, said: Annotations = NONE, *, only: int | None = None
) -> Table:
    """The records of *state*, or *only* of one process; every result is verified.

    Args:
        said: Its tags and its note, which each record repeats.

    Raises:
        MemoryError: There is not enough memory to look at a result.
    """
    missing: list[dict[str, Any]] = []
    made = aggregation.table(state, folder, parameters(state) or (), missing=missing, only=only)
    outlined = list(rows.outlines(made))
    heads = [*outlined, *(each["row"] for each in missing)]
    heads.sort(key=lambda row: int(row["index"]))
    params = _kinds(row["params"].items() for row in heads)
    fields = _kinds(_fields(row) for row in outlined)
    found = [*_fixed(state)]
    found += [Column(f"params.{name}", kind) for name, kind in params.items()]
    found += [Column(f"result.{name}", kind) for name, kind in fields.items()]
    return Table(tuple(found), missing, bool(outlined), state, said, made)


def columns(state: ExperimentState, folder: Path) -> tuple[Column, ...]:
    """The columns of the records of *state*."""
    return table(state, folder).columns


def records(state: ExperimentState, folder: Path, said: Annotations = NONE) -> list[Record]:
    """One record per process by index, each with every column; None where nothing is known.

    A number that JSON cannot say is a float: NaN or infinite.
    """
    return table(state, folder, said).records()


def about(state: ExperimentState, index: int) -> Record:
    """What is recorded of process *index* itself, without its parameters and its result."""
    process = state.processes[index]
    names = ("exit_code", "signal", "started_at", "completed_at", "work", "phase", "submitted_at")
    usage = process.usage or {}
    return {
        "status": str(process.status),
        "reason": None if process.reason is None else str(process.reason),
        **{name: getattr(process, name) for name in names},
        **{name: usage.get(name) for name in _USED},
    }


def of_experiments(listed: Iterable[Summary], said: Annotated = _NOTHING_SAID) -> list[Record]:
    """One record per experiment, with the columns `OF_AN_EXPERIMENT`."""
    found = []
    for each in listed:
        words = said.of(each)
        reason = None if each.reason is None else str(each.reason)
        values = (
            *(each.experiment_id, each.name, str(each.status), reason, each.error_message),
            *(each.num_processes, each.processes_completed, each.processes_failed),
            *(each.processes_running, each.processes_pending, each.processes_reused),
            *(*each.times, each.config_hash, " ".join(words.tags) or None, words.note),
        )
        names = (name for name, _ in OF_AN_EXPERIMENT)
        found.append(dict(zip(names, values, strict=True)))
    return found


def _fixed(state: ExperimentState) -> tuple[Column, ...]:
    found: tuple[Column, ...] = _ABOUT if state.ranks is None else (_ABOUT[0], _RANK, *_ABOUT[1:])
    if any(each.submitted_at is not None for each in state.processes.values()):
        found += _OF_A_QUEUE
    return found


def _fields(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The result by dotted names; what is no finite number is a float all the same."""
    named = row.get("nonfinite") or {}
    for name, value in flat(row).items():
        yield name, float(value) if name in named else value


def _kinds(parts: Iterable[Iterable[tuple[str, Any]]]) -> dict[str, Kind]:
    """The kind of every name, by all the values that it has."""
    found: dict[str, set[Kind]] = {}
    for part in parts:
        for name, value in part:
            kinds = found.setdefault(name, set())
            if value is not None:
                kinds.add(kind_of(value))
    return {name: _common(kinds) for name, kinds in found.items()}


def _common(kinds: set[Kind]) -> Kind:
    if len(kinds) < 2:
        return next(iter(kinds), "text")
    return "number" if kinds <= _NUMBERS else "json"


def kind_of(value: Any) -> Kind:
    """The kind of one value that is there; a whole number beyond 64 bits is `json`."""
    if isinstance(value, Elided):
        return "text" if value.is_text else "json"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if -_INT64 <= value < _INT64 else "json"
    if isinstance(value, float):
        return "number"
    if isinstance(value, datetime):
        return "time"
    return "text" if isinstance(value, str) else "json"


def _built(value: Any, part: Part) -> Any:
    if not isinstance(value, Elided):
        return value
    whole = part(value)
    return whole if value.is_text else strictjson.loads(whole.encode(), max_depth=1000)


def _itself(value: Any) -> Any:
    return value
