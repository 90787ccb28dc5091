"""Records to JSON and back, with cattrs; knows every schema that was ever released.

JSON is ASCII, so that no locale and no terminal can break it. What a record has by default is left
out of processes, which are many, and kept in experiments, which people read.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, cast

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from holdfast.errors import SchemaTooNewError, StateCorruptError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.apply import with_fields
from holdfast.lifecycle.events import Change
from holdfast.lifecycle.records import (
    SCHEMA_VERSION,
    ExperimentState,
    ProcessProgress,
    ProcessTable,
    Ranks,
    ResultRef,
)
from holdfast.status import SETTLED, Entity, ExperimentStatus, ProcessStatus, Reason

__all__ = [
    "change_from_json",
    "change_to_text",
    "dumps",
    "identity_from_json",
    "identity_to_json",
    "state_from_json",
    "state_to_json",
    "state_to_text",
    "view",
]

Json = dict[str, Any]

#: Compact, ASCII, and no NaN: what other languages' parsers refuse must not get in.
dumps: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _strict(kind: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        # bool is an int to Python, not to a reader of JSON; and int("5") would hide a mistake.
        if type(value) is not kind:
            raise ValueError(f"expected {kind.__name__}, found {type(value).__name__}")
        return value

    return structure


def _word(kind: type[StrEnum]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"{value!r:.40} is none of {', '.join(kind)}") from None

    return structure


def _record(kind: type, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    inner: Callable[[Any, Any], Any] = make_dict_structure_fn(kind, converter)

    def structure(value: Any, _: Any) -> Any:
        # The generated code asks `"pid" in value`, which a string answers, too.
        return inner(_object(value, None), kind)

    return structure


def _time(value: Any, _: Any = None) -> datetime:
    if type(value) is not str:
        raise ValueError(f"expected a time in ISO 8601, found {type(value).__name__}")
    time = datetime.fromisoformat(value)
    # A naive time was written by hand or by a tool that did not care: local, as such tools mean it.
    return time if time.tzinfo is UTC else time.astimezone(UTC)


# Most entries of a large experiment say no more than this, or one of a few words: looked up, they
# cost a tenth.
_PENDING: Final = {"status": "pending"}
_PENDING_TEXT: Final = dumps(_PENDING)


def _looked_up(kind: type[StrEnum]) -> Callable[[Any, Any], Any]:
    words = {str(word): word for word in kind}

    def structure(value: Any, _: Any) -> Any:
        return words[value]

    return structure


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a number from 0, found {value!r:.40}")
    return value


def _number(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"expected a number, found {value!r:.40}")
    return value


def _text(value: Any) -> str | None:
    if value is not None and type(value) is not str:
        raise ValueError(f"expected a text, found {value!r:.40}")
    return value


@cache
def _progress_hooks() -> dict[str, Callable[[Any], Any]]:
    """What each field of a process must be. By cattrs, 10,000 processes take twice as long."""

    def optional(kind: Any) -> Callable[[Any], Any]:
        structure = _converter(detailed=False).get_structure_hook(kind)
        return lambda value: None if value is None else structure(value, kind)

    reasons: dict[Any, Reason | None] = {None: None, **{str(word): word for word in Reason}}
    hooks: dict[str, Callable[[Any], Any]] = {
        **dict.fromkeys(("attempt", "failures", "interruptions"), _count),
        **dict.fromkeys(("exit_code", "signal"), _number),
        **dict.fromkeys(("error_message", "host"), _text),
        **dict.fromkeys(("started_at", "completed_at"), optional(datetime)),
        "status": {str(word): word for word in ProcessStatus}.__getitem__,
        "reason": reasons.__getitem__,
        "identity": optional(ProcessIdentity),
        "result": optional(ResultRef),
    }
    assert hooks.keys() == {field.name for field in attrs.fields(ProcessProgress)}
    return hooks


def _table(value: Any, _: Any) -> Mapping[int, ProcessProgress]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object of processes, found {type(value).__name__}")
    untried = ProcessTable.UNTRIED
    entries = [untried if entry == _PENDING else _entry(key, entry) for key, entry in value.items()]
    # As we write them ourselves: all of them, in their order.
    if tuple(value) == _numbers(len(value)):
        return ProcessTable(entries)
    return dict(zip(map(_index, value), entries, strict=True))


def _entry(key: str, entry: Any) -> ProcessProgress:
    if not isinstance(entry, dict):
        raise ValueError(f"process {key:.40}: expected an object, found {type(entry).__name__}")
    hooks = _progress_hooks()
    try:
        fields = {name: hooks[name](found) for name, found in entry.items() if name in hooks}
        return with_fields(ProcessTable.UNTRIED, fields)
    except Exception as err:
        raise ValueError(f"process {key:.40}: {_why(err, ProcessProgress, entry)}") from err


def _index(key: str) -> int:
    # int() also takes " 1", "1_0" and other scripts' digits: two names of one process.
    if not (key.isascii() and key.isdigit()) or (len(key) > 1 and key[0] == "0"):
        raise ValueError(f"process_progress has {key[:40]!r} for an index")
    if len(key) > 9:
        raise ValueError(f"process_progress has the index {key[:40]}")
    return int(key)


@lru_cache(maxsize=4)
def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


@cache
def _converter(*, detailed: bool) -> cattrs.Converter:
    # Without detailed validation it is twice as fast; a failure is repeated with it.
    converter = cattrs.Converter(detailed_validation=detailed)
    for kind in (int, str, bool):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook(datetime, _time)
    converter.register_unstructure_hook(datetime, datetime.isoformat)
    for words in (ExperimentStatus, ProcessStatus, Reason):
        converter.register_structure_hook(words, _word(words) if detailed else _looked_up(words))
    for record in (ProcessIdentity, ResultRef, Ranks):
        converter.register_structure_hook(record, _record(record, converter))
        converter.register_unstructure_hook(
            record, make_dict_unstructure_fn(record, converter, _cattrs_omit_if_default=True)
        )
    converter.register_unstructure_hook(
        ProcessProgress,
        make_dict_unstructure_fn(
            ProcessProgress,
            converter,
            _cattrs_omit_if_default=True,
            status=override(omit_if_default=False),
        ),
    )
    converter.register_structure_hook(
        ExperimentState,
        make_dict_structure_fn(
            ExperimentState,
            converter,
            process_progress=override(struct_hook=_table),
            config=override(struct_hook=_object),
            extra=override(struct_hook=_object),
        ),
    )
    converter.register_unstructure_hook(
        ExperimentState,
        make_dict_unstructure_fn(
            ExperimentState, converter, process_progress=override(unstruct_hook=_table_to_json)
        ),
    )
    return converter


def _object(value: Any, _: Any) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value


def _table_to_json(table: Mapping[int, ProcessProgress]) -> Json:
    unstructure = _converter(detailed=False).get_unstructure_hook(ProcessProgress)
    values = table.values() if isinstance(table, ProcessTable) else dict(table).values()
    return {
        str(index): _PENDING if entry is ProcessTable.UNTRIED else unstructure(entry)
        for index, entry in enumerate(values)
    }


def _why(err: Exception, kind: type, value: Any) -> str:
    """The first causes, each with the path of the key that it is about."""
    try:
        _converter(detailed=True).structure(value, kind)
    except Exception as detailed:
        found = cattrs.transform_error(detailed, path="", format_exception=_sentence)
        # What a validator of the whole record says names the key itself, and has no path.
        return "; ".join(text.removesuffix(" @ ").replace(" @ .", " at ") for text in found)
    return str(err)


def _sentence(err: BaseException, _: type | None) -> str:
    if isinstance(err, KeyError):
        return f"{err} is missing"
    return str(err)


def identity_to_json(identity: ProcessIdentity) -> Json:
    """*identity* as JSON types."""
    return cast(Json, _converter(detailed=False).unstructure(identity))


def identity_from_json(plain: Json) -> ProcessIdentity:
    """The identity in *plain*. Raises ValueError."""
    try:
        return _converter(detailed=False).structure(plain, ProcessIdentity)
    except Exception as err:
        raise ValueError(f"no process identity: {_why(err, ProcessIdentity, plain)}") from err


def state_to_json(state: ExperimentState) -> Json:
    """*state* as JSON types."""
    return cast(Json, _converter(detailed=False).unstructure(state))


def state_to_text(state: ExperimentState) -> str:
    """*state* as compact JSON: `state_to_json` for a line, at a tenth for many processes."""
    fields = (f"{_quoted(name)}:{text}" for name, text in _texts(state, "{", ",", ":", "}"))
    return f"{{{','.join(fields)}}}"


def view(state: ExperimentState) -> bytes:
    """*state* as a file that people read: a line for every field and every process."""
    texts = _texts(state, "{\n    ", ",\n    ", ": ", "\n  }")
    lines = ",\n".join(f"  {_quoted(name)}: {text}" for name, text in texts)
    return f"{{\n{lines}\n}}\n".encode("ascii")


def _texts(
    state: ExperimentState, begin: str, between: str, colon: str, end: str
) -> Iterator[tuple[str, str]]:
    """The fields of *state*, each as JSON; the processes with these signs around them."""
    for name, value in _head()(state).items():
        yield name, dumps(value)
        if name == "num_processes":
            inner = _processes(state.processes, between, colon)
            yield "process_progress", f"{begin}{inner}{end}" if inner else "{}"


@cache
def _head() -> Callable[[ExperimentState], Json]:
    converter = _converter(detailed=False)
    return make_dict_unstructure_fn(
        ExperimentState, converter, process_progress=override(omit=True)
    )


def _processes(table: ProcessTable, between: str, colon: str) -> str:
    numbers, untried = _numbers(len(table)), ProcessTable.UNTRIED
    if not numbers:
        return ""
    if table.count(ProcessStatus.PENDING) == len(numbers) and all(
        entry is untried for entry in table.values()
    ):
        # Every experiment begins so.
        said = f'"{colon}{_PENDING_TEXT}'
        return '"' + f'{said}{between}"'.join(numbers) + said
    return between.join(
        [
            f'"{number}"{colon}{_PENDING_TEXT if entry is untried else _progress_to_text(entry)}'
            for number, entry in zip(numbers, table.values(), strict=True)
        ]
    )


def _progress_to_text(entry: ProcessProgress) -> str:
    told = [f'"status":"{entry.status}"']
    told += [
        f'"{name}":{_to_text(value)}'
        for (name, default), value in zip(_DEFAULTS, _values(entry), strict=True)
        if value != default
    ]
    return f"{{{','.join(told)}}}"


#: What is left out of a process that has not got it; `status` comes first and is never left out.
_DEFAULTS: Final = [
    (field.name, field.default) for field in attrs.fields(ProcessProgress) if field.name != "status"
]
_values: Final = attrgetter(*(name for name, _ in _DEFAULTS))


def state_from_json(value: Any, path: Path) -> ExperimentState:
    """The state in *value*, brought up to today's schema; *path* only names it in errors.

    Raises:
        SchemaTooNewError: A newer holdfast wrote it.
        StateCorruptError: It is no state, or one that the machines do not allow.
    """
    if not isinstance(value, dict):
        raise StateCorruptError(path, f"expected a JSON object, found {type(value).__name__}")
    version = value.get("schema_version", 0)
    if type(version) is not int or version < 0:
        raise StateCorruptError(path, f"schema_version is {version!r:.40}, not a number")
    if version > SCHEMA_VERSION:
        raise SchemaTooNewError(path, version, SCHEMA_VERSION)
    value = _with_extra(_from_schema_0(value, path) if version == 0 else value)
    try:
        state = _converter(detailed=False).structure(value, ExperimentState)
    except Exception as err:
        raise StateCorruptError(path, _why(err, ExperimentState, value)) from err
    if state.status in SETTLED and not state.can_aggregate():
        raise StateCorruptError(
            path,
            f"status is {state.status}, but only {state.processes_completed} of "
            f"{state.num_processes} processes are completed, which the machine does not allow",
        )
    return state


_FIELDS: Final = frozenset(field.name for field in attrs.fields(ExperimentState))
_PROCESS_FIELDS: Final = frozenset(field.name for field in attrs.fields(ProcessProgress))


def _with_extra(value: Json) -> Json:
    unknown = value.keys() - _FIELDS
    if not unknown:
        return value
    known = {key: entry for key, entry in value.items() if key in _FIELDS}
    extra = known.get("extra", {})
    if not isinstance(extra, dict):
        return known  # refused with its key below, as every wrong type is
    return known | {"extra": extra | {key: value[key] for key in sorted(unknown)}}


#: A JSON file with none of these is somebody else's.
_TELLING: Final = frozenset(
    {"experiment_id", "status", "num_processes", "total_runs", "process_progress"}
)


def _from_schema_0(value: Json, path: Path) -> Json:
    """Made by hand or by an older tool: `total_runs` may stand in, progress may be missing."""
    # Such files say null for what they do not know.
    value = {key: entry for key, entry in value.items() if entry is not None}
    if not value.keys() & _TELLING:
        raise StateCorruptError(path, "has none of the keys of an experiment")
    value["schema_version"] = SCHEMA_VERSION
    value.setdefault("experiment_id", path.stem)
    if "num_processes" not in value and "total_runs" in value:
        value["num_processes"] = value.pop("total_runs")
    progress = value.get("process_progress")
    if isinstance(progress, dict):
        # A process has no `extra` of its own: what is not known of it is kept with the experiment.
        strange = {
            index: {key: entry[key] for key in entry if key not in _PROCESS_FIELDS}
            for index, entry in progress.items()
            if isinstance(entry, dict) and not entry.keys() <= _PROCESS_FIELDS
        }
        extra = value.get("extra", {})
        if strange and isinstance(extra, dict):
            value["extra"] = {"process_progress": strange} | extra
    return value


_TIMES: Final = ("started_at", "completed_at", "finished_at", "created_at", "last_updated")


def _kinds(entity: Entity) -> dict[str, Any]:
    """What the fields hold that a change names, where it is no type of JSON."""
    return {
        **dict.fromkeys(_TIMES, datetime),
        "status": ProcessStatus if entity == "process" else ExperimentStatus,
        "reason": Reason,
        "identity": ProcessIdentity,
        "owner": ProcessIdentity,
        "result": ResultRef,
    }


@cache
def _parsers(entity: Entity) -> dict[str, Callable[[Any], Any]]:
    converter = _converter(detailed=False)

    def parser(kind: Any) -> Callable[[Any], Any]:
        if kind is datetime:
            return _time
        return kind if issubclass(kind, str) else partial(converter.structure, cl=kind)

    return {name: parser(kind) for name, kind in _kinds(entity).items()}


_quoted: Final = json.encoder.encode_basestring_ascii


def _to_text(value: Any) -> str:
    """*value*, of a record's field, as compact JSON: without an encoder for each, at a third."""
    if value is None:
        return "null"
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is datetime:
        return f'"{value.isoformat()}"'
    if isinstance(value, str):
        return _quoted(value)
    return dumps(_converter(detailed=False).unstructure(value))


def change_to_text(change: Change, at: datetime) -> str:
    """One recorded change in a line of time *at*, as JSON; what the line says is left out.

    Raises:
        TypeError, ValueError: JSON cannot hold it.
    """
    event, source, target = map(_quoted, (change.event, change.source, change.target))
    told = [f'"event":{event},"from":{source},"to":{target}']
    if change.at != at:
        told.append(f'"at":{_to_text(change.at)}')
    if change.process is not None:
        told.append(f'"process":{change.process}')
    if change.reason is not None:
        told.append(f'"reason":"{change.reason}"')
    if change.evidence is not None:
        told.append(f'"evidence":{_quoted(change.evidence)}')
    fields = ",".join([f'"{name}":{_to_text(value)}' for name, value in change.fields.items()])
    return f'{{{",".join(told)},"set":{{{fields}}}}}'


def change_from_json(plain: Json, at: datetime) -> Change:
    """The change in *plain*, of a line of time *at* whose checksum was right: types are trusted."""
    process = plain.get("process")
    entity: Entity = "experiment" if process is None else "process"
    parsers = _parsers(entity)
    reason = plain.get("reason")
    return Change(
        entity=entity,
        process=process,
        event=plain["event"],
        source=plain["from"],
        target=plain["to"],
        at=datetime.fromisoformat(plain["at"]) if "at" in plain else at,
        reason=None if reason is None else Reason(reason),
        evidence=plain.get("evidence"),
        fields={
            name: parsers[name](value) if value is not None and name in parsers else value
            for name, value in plain["set"].items()
        },
    )
