"""Records as JSON: what views and journals hold of them.

ASCII, so that no locale and no terminal can break it. What a record has by default is left out of
processes, which are many, and kept in experiments, which people read.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import attrs

from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.records import (
    ExperimentState,
    Origin,
    ProcessProgress,
    ProcessTable,
    Ranks,
    ResultRef,
)

__all__ = [
    "change_to_text",
    "dumps",
    "identity_to_json",
    "keys_of",
    "state_to_json",
    "state_to_text",
    "view",
]

Json = dict[str, Any]


def _plain(value: Any) -> Any:
    if isinstance(value, ProcessIdentity | ResultRef | Ranks | Origin):
        fields = attrs.fields(type(value))
        found = {field.name: (getattr(value, field.name), field.default) for field in fields}
        return {name: own for name, (own, default) in found.items() if own != default}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


#: Compact, ASCII, and no NaN: what other languages' parsers refuse must not get in.
dumps: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain).encode


@lru_cache(maxsize=4)
def keys_of(count: int) -> tuple[str, ...]:
    """The keys of so many processes."""
    return tuple(map(str, range(count)))


def identity_to_json(identity: ProcessIdentity) -> Json:
    """*identity* as JSON types."""
    plain: Json = _plain(identity)
    return plain


def state_to_json(state: ExperimentState) -> Json:
    """*state* as JSON types."""
    plain: Json = json.loads(state_to_text(state))
    return plain


def state_to_text(state: ExperimentState) -> str:
    """*state* as compact JSON, for a line."""
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
    for name in attrs.fields_dict(ExperimentState):
        if name == "process_progress":
            inner = _processes(state.processes, between, colon)
            yield name, f"{begin}{inner}{end}" if inner else "{}"
        else:
            yield name, _to_text(getattr(state, name))


def _processes(table: ProcessTable, between: str, colon: str) -> str:
    numbers, untried = keys_of(len(table)), ProcessTable.UNTRIED
    if numbers and table.is_untried():  # as every experiment begins
        said = f'"{colon}{_PENDING}'
        return '"' + f'{said}{between}"'.join(numbers) + said
    return between.join(
        [
            f'"{number}"{colon}{_PENDING if entry is untried else _progress_to_text(entry)}'
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


_PENDING: Final = '{"status":"pending"}'

#: What is left out of a process that has not got it; `status` comes first and is never left out.
_DEFAULTS: Final = [
    (field.name, field.default) for field in attrs.fields(ProcessProgress) if field.name != "status"
]
_values: Final = attrgetter(*(name for name, _ in _DEFAULTS))


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
    return dumps(value)


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
