"""Records from JSON: knows every schema that was ever released, and judges every field.

By hand, since cattrs takes several times as long; why something is no record, cattrs explains.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.errors import SchemaTooNewError, StateCorruptError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.drafts import reader
from holdfast.lifecycle.processes import PHASES
from holdfast.lifecycle.records import (
    SCHEMA_VERSION,
    ExperimentState,
    Origin,
    ProcessProgress,
    ProcessTable,
    Ranks,
    ResultRef,
)
from holdfast.status import SETTLED, Entity, ExperimentStatus, ProcessStatus, Reason
from holdfast.store.encoding import Json, keys_of

__all__ = ["change_from_json", "identity_from_json", "state_from_json"]

Parser = Callable[[Any], Any]


def _maybe_time(value: Any) -> datetime | None:
    if value is None:
        return None
    if type(value) is not str:
        raise ValueError(f"expected a time in ISO 8601, found {type(value).__name__}")
    time = datetime.fromisoformat(value)
    # A naive time was written by hand or by a tool that did not care: local, as such tools mean it.
    return time if time.tzinfo is UTC else time.astimezone(UTC)


def _of(*kinds: type) -> Parser:
    def parse(value: Any) -> Any:
        # bool is an int to Python, not to a reader of JSON.
        if type(value) not in kinds:
            raise ValueError(f"expected {kinds[0].__name__}, found {value!r:.40}")
        return value

    return parse


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a number from 0, found {value!r:.40}")
    return value


def _some_text(value: Any) -> str:
    if type(value) is not str or not value:
        raise ValueError(f"expected a text that is not empty, found {value!r:.40}")
    return value


def _maybe(parse: Parser) -> Parser:
    return lambda value: None if value is None else parse(value)


_text: Final = _of(str)
_maybe_text: Final = _of(str, type(None))
_maybe_number: Final = _of(int, type(None))
# Calling an enum costs ten times as much as a look-up.
_statuses: Final = {str(word): word for word in ProcessStatus}
_reasons: Final[dict[Any, Reason | None]] = {None: None, **{str(word): word for word in Reason}}
_identity: Final = reader(
    ProcessIdentity,
    {
        **dict.fromkeys(("machine_id", "boot_id", "pid_namespace"), _maybe_text),
        **dict.fromkeys(("pid", "start_ticks"), _maybe_number),
        **dict.fromkeys(("locked", "released"), _of(bool)),
        "host": _text,
    },
)
_result: Final = reader(ResultRef, {"path": _text, "size": _count, "sha256": _text})
_origin: Final = reader(
    Origin,
    {
        **dict.fromkeys(("process", "attempt"), _count),
        "experiment_id": _some_text,
        "via": _maybe_text,
    },
)


def _outputs(value: Any) -> tuple[ResultRef, ...]:
    if type(value) is not list:
        raise ValueError(f"expected a list, found {type(value).__name__}")
    return tuple(map(_result, value))


def _limits(value: Any) -> Any:
    # Few have any: the record itself may judge.
    return ProcessProgress(limits=value).limits


def _usage(value: Any) -> Any:
    return ProcessProgress(usage=value).usage


def _phase(value: Any) -> str | None:
    if value is not None and value not in PHASES:
        raise ValueError(f"expected one of {', '.join(PHASES)}, found {value!r:.40}")
    return value  # type: ignore[no-any-return]


_ranks: Final = reader(Ranks, {"count": _of(int), "independent": _of(bool)})
_progress: Final = reader(
    ProcessProgress,
    {
        **dict.fromkeys(("attempt", "failures", "interruptions"), _count),
        **dict.fromkeys(("exit_code", "signal"), _maybe_number),
        **dict.fromkeys(("error_message", "host", "work", "code"), _maybe_text),
        **dict.fromkeys(("started_at", "completed_at"), _maybe_time),
        "status": _statuses.__getitem__,
        "reason": _reasons.__getitem__,
        "identity": _maybe(_identity),
        "result": _maybe(_result),
        "outputs": _outputs,
        "origin": _maybe(_origin),
        **dict.fromkeys(("not_before", "submitted_at"), _maybe_time),
        "phase": _phase,
        "handle": _maybe(_of(dict)),
        "limits": _limits,
        "usage": _usage,
    },
)

# Most entries of a large experiment say no more than this.
_PENDING: Final = {"status": "pending"}


def _table(value: Any) -> Mapping[int, ProcessProgress]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object of processes, found {type(value).__name__}")
    untried, found = ProcessTable.UNTRIED, list(value.values())
    # As we write them ourselves: all of them, in their order.
    ordered = tuple(value) == keys_of(len(value))
    if ordered and found.count(_PENDING) == len(found):
        return ProcessTable.pending(len(found))
    try:
        entries = [untried if entry == _PENDING else _progress(entry) for entry in found]
    except Exception:
        for key, entry in value.items():
            _judge(key, entry)
        raise
    return ProcessTable(entries) if ordered else dict(zip(map(_index, value), entries, strict=True))


def _judge(key: str, entry: Any) -> None:
    """Say what is wrong with the *entry* of the process *key*, if anything is."""
    if not isinstance(entry, dict):
        raise ValueError(f"process {key:.40}: expected an object, found {type(entry).__name__}")
    try:
        _progress(entry)
    except Exception as err:
        raise ValueError(f"process {key:.40}: {_why(err, ProcessProgress, entry)}") from err


def _index(key: str) -> int:
    # int() also takes " 1", "1_0" and other scripts' digits: two names of one process.
    if not (key.isascii() and key.isdigit()) or (len(key) > 1 and key[0] == "0"):
        raise ValueError(f"process_progress has {key[:40]!r} for an index")
    if len(key) > 9:
        raise ValueError(f"process_progress has the index {key[:40]}")
    return int(key)


#: What of an experiment its own converters and validators do not take from JSON.
_PARSERS: Final[Mapping[str, Parser]] = {
    **dict.fromkeys(("created_at", "started_at", "finished_at", "last_updated"), _maybe_time),
    "owner": _maybe(_identity),
    "ranks": _maybe(lambda plain: attrs.evolve(_ranks(plain))),
    "process_progress": _table,
}


def _state(value: Json) -> ExperimentState:
    return ExperimentState(
        **{
            name: _PARSERS[name](found) if name in _PARSERS else found
            for name, found in value.items()
        }
    )


def _why(err: Exception, kind: type, value: Any) -> str:
    from holdfast.store import explaining  # 10 ms, for what cannot be read

    return explaining.why(err, kind, value, _maybe_time, _table)


def identity_from_json(plain: Json) -> ProcessIdentity:
    """The identity in *plain*. Raises ValueError."""
    try:
        return _identity(plain)
    except Exception as err:
        raise ValueError(f"no process identity: {_why(err, ProcessIdentity, plain)}") from err


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
        state = _state(value)
    except Exception as err:
        raise StateCorruptError(path, _why(err, ExperimentState, value)) from err
    if state.status in SETTLED and not state.can_aggregate():
        raise StateCorruptError(
            path,
            f"status is {state.status}, but only {state.processes_completed} of "
            f"{state.num_processes} processes are completed, which the machine does not allow",
        )
    return state


_FIELDS: Final = attrs.fields_dict(ExperimentState).keys()
_PROCESS_FIELDS: Final = attrs.fields_dict(ProcessProgress).keys()


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


@cache
def _change_parsers(entity: Entity) -> dict[str, Parser]:
    """What parses the fields that a change names, where it is no type of JSON."""
    return {
        **dict.fromkeys(
            (
                *("started_at", "completed_at", "finished_at", "created_at", "last_updated"),
                *("not_before", "submitted_at"),
            ),
            _maybe_time,
        ),
        "status": ProcessStatus if entity == "process" else ExperimentStatus,
        "reason": Reason,
        "identity": _identity,
        "owner": _identity,
        "result": _result,
        "outputs": _outputs,
        "origin": _origin,
    }


def change_from_json(plain: Json, at: datetime) -> Change:
    """The change in *plain*, of a line of time *at* whose checksum was right: types are trusted."""
    process = plain.get("process")
    entity: Entity = "experiment" if process is None else "process"
    parsers = _change_parsers(entity)
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
