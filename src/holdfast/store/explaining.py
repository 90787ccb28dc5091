"""Why JSON is no record: cattrs looks again at what was refused, and names the keys."""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

import cattrs
from cattrs.gen import make_dict_structure_fn, override

from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.records import ExperimentState, Origin, Ranks, ResultRef
from holdfast.status import ExperimentStatus, ProcessStatus, Reason

__all__ = ["why"]

Parser = Callable[[Any], Any]


def why(err: Exception, kind: type, value: Any, time: Parser, table: Parser) -> str:
    """The causes of *err*, which *value* gave, each with the path of the key that it is about.

    Args:
        time: What parses a time, and *table* the processes of an experiment; both raise ValueError.
    """
    try:
        _converter(time, table).structure(value, kind)
    except Exception as detailed:
        found = cattrs.transform_error(detailed, path="", format_exception=_sentence)
        # What a validator of the whole record says names the key itself, and has no path.
        return "; ".join(text.removesuffix(" @ ").replace(" @ .", " at ") for text in found)
    return str(err)


def _sentence(err: BaseException, _: type | None) -> str:
    return f"{err} is missing" if isinstance(err, KeyError) else str(err)


@cache
def _converter(time: Parser, table: Parser) -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    for kind in (int, str, bool):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook(datetime, lambda value, _: time(value))
    for words in (ExperimentStatus, ProcessStatus, Reason):
        converter.register_structure_hook(words, _word(words))
    for record in (ProcessIdentity, ResultRef, Ranks, Origin):
        converter.register_structure_hook(record, _record(record, converter))
    converter.register_structure_hook_func(
        lambda kind: kind == tuple[ResultRef, ...],
        lambda value, _: tuple(converter.structure(_array(value), list[ResultRef])),
    )
    converter.register_structure_hook_func(
        # What is in them their validators judge.
        lambda kind: getattr(kind, "__origin__", None) is Mapping,
        lambda value, _: _object(value),
    )
    converter.register_structure_hook(
        ExperimentState,
        make_dict_structure_fn(
            ExperimentState,
            converter,
            process_progress=override(struct_hook=lambda value, _: table(value)),
            config=override(struct_hook=_object),
            extra=override(struct_hook=_object),
        ),
    )
    return converter


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
    # The generated code asks `"pid" in value`, which a string answers, too.
    return lambda value, _: inner(_object(value), kind)


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {type(value).__name__}")
    return value


def _object(value: Any, _: Any = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value
