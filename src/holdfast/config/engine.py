"""`[engine]`: what runs the attempts, and what is asked of it.

Owns which key belongs to which engine, and what each may say. What an engine does with it is its
own affair; the record itself is `holdfast.engine_options`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import attrs

from holdfast.config import values
from holdfast.engine_options import ENGINES, EngineName, EngineOptions, is_own
from holdfast.errors import ConfigProblem

__all__ = [
    "KEYS",
    "LARGEST",
    "is_local",
    "is_named",
    "name",
    "named",
    "of",
    "of_aggregation",
    "problems",
    "size",
    "size_written",
    "structure",
]

_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT])(?:i?B)?", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
#: Bytes that no machine has.
LARGEST: Final = 1 << 60
_SIZE: Final = 'a size such as "4G" or "500M"'

#: Options of `sbatch` that have a key of their own.
_HAVE_KEYS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("-p", "--partition"), "partition"),
    **dict.fromkeys(("-A", "--account"), "account"),
    **dict.fromkeys(("-t", "--time"), "time"),
    **dict.fromkeys(("-c", "--cpus-per-task"), "cpus"),
    **dict.fromkeys(("--mem", "--mem-per-cpu"), "memory"),
    **dict.fromkeys(("-G", "--gpus"), "gpus"),
    **dict.fromkeys(("-N", "--nodes"), "nodes"),
}


def name(value: Any, _: Any = None) -> str:
    """The name of an engine."""
    if value not in ENGINES:
        what = f"must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, found {value!r:.40}"
        hint = values.suggest(value, ENGINES) if isinstance(value, str) else ""
        raise values.SuggestingError(what, hint)
    return str(value)


def _word(value: Any) -> str:
    """A text that is an argument of a command by itself, and none of its options."""
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {values.kind_of(value)}")
    values.check_text(value, "the text")
    if not value or value.split() != [value] or value.startswith("-"):
        raise ValueError(f"expected one word, found {value[:40]!r}")
    return value


def _program(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected the path of a Python, found {values.kind_of(value)}")
    values.check_text(value, "the path")
    return value


def _time(value: Any) -> float:
    seconds = values.duration(value)
    if seconds == 0:
        raise ValueError("must be more than 0; leave it out for the partition's default")
    return seconds


def size(value: Any) -> int:
    """Bytes, from a number with a unit."""
    text = value.strip() if isinstance(value, str) else ""
    part = _PART.fullmatch(text)
    if part is None:
        # Slurm would take a bare number for megabytes, most people for bytes or gigabytes.
        number = text.isdigit() if text else type(value) is int and value > 0
        hint = f'write "{text or value}G" or "{text or value}M"' if number else ""
        raise values.SuggestingError(f"expected {_SIZE}, found {values.kind_of(value)}", hint)
    found = float(part[1]) * _UNITS[part[2].upper()]
    if not 1 <= found <= LARGEST:
        raise ValueError(f"expected {_SIZE}, found {text[:40]!r}")
    return int(found)


def size_written(size: float) -> str:
    """*size*, in bytes, as it can be written: `1.5G`."""
    unit = next((each for each in "TGM" if size >= _UNITS[each]), "K")
    return f"{size / _UNITS[unit]:.4g}{unit}"


def _extra(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        hint = ", ".join(f'"{word}"' for word in value.split()) if isinstance(value, str) else ""
        what = f"expected a list of options, found {values.kind_of(value)}"
        raise values.SuggestingError(what, f"write [{hint}]" if hint else "")
    problems, found = values.Problems(), []
    for number, each in enumerate(value, 1):
        with problems.at("engine.extra"):
            found.append(_option(f"entry {number}: ", each))
    problems.tell()
    return tuple(found)


def _option(which: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{which}expected an option, found {values.kind_of(value)}")
    values.check_text(value, f"{which}the text")
    words = value.split()
    if not value.startswith("-") or len(words) != 1:
        hint = f'write "{words[0]}={words[1]}"' if len(words) == 2 and value[:2] == "--" else ""
        what = f"{which}expected one option of sbatch in one word, found {value[:40]!r}"
        raise values.SuggestingError(what, hint)
    flag = value.partition("=")[0] if value.startswith("--") else value[:2]
    if is_own(value):
        raise ValueError(f"{which}{flag} is holdfast's own")
    if flag in _HAVE_KEYS:
        what = f"{which}{flag} has a key of its own"
        raise values.SuggestingError(what, f"write engine.{_HAVE_KEYS[flag]}")
    return value


def _address(value: Any) -> str:
    found = _word(value)
    if "://" not in found:
        raise values.SuggestingError(
            f"expected the address of a scheduler, found {found[:40]!r}", f'write "tcp://{found}"'
        )
    return found


def _resources(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a table of numbers, found {values.kind_of(value)}")
    problems, found = values.Problems(), {}
    for name, number in value.items():
        with problems.at(f"engine.resources.{name}"):
            if type(number) not in (int, float) or not 0 < number < float("inf"):
                raise ValueError(f"expected a number above 0, found {values.kind_of(number)}")
            found[str(name)] = float(number)
    problems.tell()
    return found


class Key(NamedTuple):
    """One key of the table.

    Attributes:
        name: The attribute of `EngineOptions` that it is.
        kind: What it may be, for the guide.
        engines: Whose it is.
    """

    name: str
    kind: str
    parse: Callable[[Any], Any]
    engines: tuple[str, ...] = ("slurm",)


_NUMBER: Final = "an integer from 1"

KEYS: Final[Mapping[str, Key]] = {
    "name": Key("name", "text", name, ENGINES),
    "partition": Key("partition", "text", _word),
    "account": Key("account", "text", _word),
    "time": Key("time_s", "a duration", _time),
    "cpus": Key("cpus", _NUMBER, values.whole),
    "memory": Key("memory_bytes", 'a size such as `"4G"`', size),
    "gpus": Key("gpus", _NUMBER, values.whole),
    "nodes": Key("nodes", _NUMBER, values.whole),
    "per_job": Key("per_job", _NUMBER, values.whole),
    "extra": Key("extra", "a list of texts", _extra),
    "python": Key("python", "text", _program),
    "grace": Key("grace_s", "a duration", values.duration, ("slurm", "dask")),
    "address": Key("address", "text", _address, ("dask",)),
    "resources": Key("resources", "a table of numbers", _resources, ("dask",)),
}


def structure(value: Any, _: Any = None) -> EngineOptions:
    """The options in *value*, the table of the file. Raises ValueError, for all mistakes."""
    if not isinstance(value, Mapping):
        hint = f'write engine.name = "{value}"' if value in ENGINES else ""
        raise values.SuggestingError(f"expected a table, found {values.kind_of(value)}", hint)
    found, wrong = dict[str, Any](), values.Problems()
    for key, given in value.items():
        if given is None:
            continue
        if key not in KEYS:
            hint = _MEANT.get(key) or values.suggest(str(key), KEYS)
            wrong.append(ConfigProblem(f"engine.{key}", "unknown key", hint))
            continue
        with wrong.at(f"engine.{key}"):
            found[KEYS[key].name] = KEYS[key].parse(given)
    wrong.tell()
    return EngineOptions(**found)


#: What Slurm, or people, call it.
_MEANT: Final = {
    **dict.fromkeys(("mem", "ram"), "did you mean engine.memory?"),
    **dict.fromkeys(("walltime", "time_limit", "timeout"), "did you mean engine.time?"),
    **dict.fromkeys(("queue",), "did you mean engine.partition?"),
    **dict.fromkeys(("cores", "cpus_per_task", "threads"), "did you mean engine.cpus?"),
    **dict.fromkeys(("gres",), "did you mean engine.gpus?"),
    **dict.fromkeys(("qos", "constraint", "reservation"), 'write extra = ["--…=…"]'),
    **dict.fromkeys(("scheduler",), "did you mean engine.address?"),
    **dict.fromkeys(("jobs",), "did you mean limits.jobs?"),
}


def problems(table: Any, options: EngineOptions) -> Iterator[ConfigProblem]:
    """What does not fit together in *options*, of that *table*.

    Without a name, a table holds what counts as soon as `--engine` gives one.
    """
    for key in table if is_named({"engine": table}) else ():
        if key in KEYS and options.name not in KEYS[key].engines:
            whose = " and ".join(KEYS[key].engines)
            what = f"is for {whose} only, and the engine is {options.name}"
            hint = "leave name out, and give it by --engine" if options.name == "local" else ""
            yield ConfigProblem(f"engine.{key}", what, hint)
    if options.nodes is not None and options.nodes > 1 and options.per_job > 1:
        what = f"{options.per_job} commands cannot share a job of {options.nodes} nodes"
        yield ConfigProblem("engine.per_job", what, "leave one of them out")


def of(config: Mapping[str, Any]) -> EngineOptions:
    """The options in a stored *config*; those of the local engine where it has none to be used."""
    try:
        return structure(config.get("engine") or {})
    except ValueError:
        return EngineOptions()  # made by hand, or by another version


def of_aggregation(config: Mapping[str, Any]) -> EngineName:
    """The engine of the aggregation's command in a stored *config*."""
    table = config.get("aggregate")
    chosen = table.get("engine") if isinstance(table, Mapping) else None
    return next((each for each in ENGINES if each == chosen), ENGINES[0])


def is_local(config: Mapping[str, Any]) -> bool:
    """Whether a stored *config* is for this machine."""
    return of(config).name == ENGINES[0]


def is_named(config: Mapping[str, Any]) -> bool:
    """Whether *config* says which engine it is for."""
    table = config.get("engine")
    return isinstance(table, Mapping) and table.get("name") is not None


def named(options: EngineOptions, chosen: EngineName | None) -> EngineOptions:
    """*options* for the engine that is *chosen* by `--engine`; as they are without one."""
    return options if chosen is None else attrs.evolve(options, name=chosen)
