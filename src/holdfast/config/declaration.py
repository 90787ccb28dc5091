"""What an experiment file may say: every key, its type and its limits, all checked at once.

Owns the schema. The values are checked in `values` and `matrix` beside this file; what no single
value can say (placeholders, matrix or processes) is checked here on what is well-formed.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, NewType, TypedDict, get_args

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from holdfast.config import engine, hooks, matrix, outputs, rules, slots, values
from holdfast.config.matrix import MAX_PROCESSES, Matrix, Params
from holdfast.config.placeholders import may_go
from holdfast.config.placeholders import problems as placeholder_problems
from holdfast.config.rules import NO_RULES, Rules
from holdfast.config.slots import Needs, Slots
from holdfast.engine_options import EngineName, EngineOptions
from holdfast.errors import ConfigProblem

__all__ = [
    "KEYS",
    "TOP_LEVEL",
    "Aggregation",
    "Argv",
    "Count",
    "Declaration",
    "EngineName",
    "EngineOptions",
    "Hooks",
    "Identity",
    "Limits",
    "LimitsTable",
    "Needs",
    "OnStall",
    "Outputs",
    "Patterns",
    "Ranks",
    "Retry",
    "Seconds",
    "Slots",
    "SomeSeconds",
    "Store",
    "Written",
    "check",
    "check_limits",
]

Argv = NewType("Argv", tuple[str, ...])
Count = NewType("Count", int)
Seconds = NewType("Seconds", float)
SomeSeconds = NewType("SomeSeconds", float)
Patterns = NewType("Patterns", tuple[str, ...])
OnStall = Literal["tell", "restart"]


@attrs.frozen(kw_only=True)
class LimitsTable:
    """How much at a time, and how long.

    Attributes:
        jobs: Commands at a time: processes, or launchers of `ranks`; None for as many processes as
            affinity and cgroup leave CPUs, at least one command, and for all on Slurm and Dask,
            whose own limits count.
        timeout_s: Of one attempt; None for no limit.
        grace_s: Time between asking a process to stop (TERM) and killing it (KILL).
        fail_fast: Whether the first failure stops the others.
        stall_s: How long an attempt that has reported progress may report none; None for no limit.
        on_stall: Whether a stall is only told, or its attempt stopped and tried again.
        deadline_s: Of the whole experiment, from its first start, pauses and resumes included: then
            what runs is stopped, and it is left `interrupted`; None for no limit.
    """

    jobs: Count | None = None
    timeout_s: SomeSeconds | None = None
    grace_s: Seconds = Seconds(30.0)
    fail_fast: bool = False
    stall_s: SomeSeconds | None = None
    on_stall: OnStall = "tell"
    deadline_s: SomeSeconds | None = None


@attrs.frozen(kw_only=True)
class Limits(LimitsTable):
    """`[limits]`, and what else bounds an attempt and can be set by a rule.

    Attributes:
        time_s: `engine.time`; None for no limit, or the engine's own.
        memory_bytes: `engine.memory`; None as above.
    """

    time_s: float | None = None
    memory_bytes: float | None = None

    @classmethod
    def of(cls, table: LimitsTable, options: EngineOptions) -> "Limits":
        """Those of both tables together."""
        given = attrs.asdict(table) | {
            "time_s": options.time_s,
            "memory_bytes": options.memory_bytes,
        }
        return cls(**given)


@attrs.frozen(kw_only=True)
class Retry:
    """What happens to a process that failed, or that something outside stopped.

    Attributes:
        max_attempts: Failed attempts after which a process stays failed.
        backoff_s: Pause before the second attempt; doubled before each further one.
        max_interruptions: Attempts of a process in a row that may be interrupted from outside
            before the experiment is left `interrupted`; counted apart by what they were for
            (`preempted`, `lost`, `time_limit`).
        rules: What is done otherwise after certain ends; see *[[retry.rule]]*.
    """

    max_attempts: Count = Count(1)
    backoff_s: Seconds = Seconds(10.0)
    max_interruptions: Count = Count(10)
    rules: Rules = NO_RULES


@attrs.frozen(kw_only=True)
class Aggregation:
    """How results become one.

    Attributes:
        command: Argv, without placeholders, that combines the results in `HOLDFAST_RESULTS`; None
            for the built-in table and statistics alone.
        engine: Where that runs: here, or where the processes do.
    """

    command: Argv | None = None
    engine: EngineName = "local"


@attrs.frozen(kw_only=True)
class Ranks:
    """One command that starts several processes, its ranks: `torchrun`, `mpirun`, a script.

    Attributes:
        count: Ranks that the command starts; each is a process of the experiment. Required.
        independent: Whether each rank completes for itself, and only the others are run again. Else
            they are a gang: all complete, or all are run again.
    """

    count: Count
    independent: bool = False


@attrs.frozen(kw_only=True)
class Identity:
    """What else a process is known by: equal work is not done twice.

    Attributes:
        files: Files whose content belongs to what a process does, with placeholders, relative to
            the experiment's folder; `*`, `?`, `[…]` and `**` as in a shell, not through links to
            folders. They match neither the experiment file nor what lies in the state directory;
            both can be named. What is not there when a run starts is an error.
        index: Whether its index does, too: for a program of a matrix that reads `HOLDFAST_INDEX`.
    """

    files: Patterns = Patterns(())
    index: bool = False


@attrs.frozen(kw_only=True)
class Outputs:
    """The files that a process leaves behind, besides its result.

    Attributes:
        files: Each is recorded with size and SHA-256 before its process is completed, and verified
            before it is relied on; patterns with placeholders, as above, below the experiment's
            folder. It is an error if those of two processes can match one path.
    """

    files: Patterns = Patterns(())


@attrs.frozen(kw_only=True)
class Store:
    """How results are kept.

    Attributes:
        link: Whether a result that is reused may be a hard link to the one that it was, which saves
            space; then whoever edits one of them edits both.
    """

    link: bool = False


@attrs.frozen(kw_only=True)
class Hooks:
    """Commands that are told how the experiment ended; see *Hooks*.

    Attributes:
        on_finish: Argv, no shell, run at every end that nobody asked for.
        on_failure: The same, before it, if the experiment failed or was interrupted.
    """

    on_finish: Argv | None = None
    on_failure: Argv | None = None


@attrs.frozen(kw_only=True)
class Declaration:
    """A checked experiment file; *source* is its JSON form."""

    name: str | None = None
    command: tuple[str, ...]
    params: tuple[Params, ...]
    ranks: Ranks | None = None
    matrix: Matrix | None = attrs.field(default=None, repr=False)
    env: Mapping[str, str]
    limits: Limits
    retry: Retry
    aggregate: Aggregation
    engine: EngineOptions = attrs.field(factory=EngineOptions)
    identity: Identity = Identity()
    output: Outputs = Outputs()
    store: Store = Store()
    hooks: Hooks = Hooks()
    slots: Slots = attrs.field(factory=lambda: Slots({}))
    needs: Needs = attrs.field(factory=lambda: Needs({}))
    source: Mapping[str, Any] = attrs.field(repr=False)


class Written(TypedDict, total=False):
    """An experiment file.

    Attributes:
        name: What listings call it; None for the file's name.
        command: Argv, no shell; see *Placeholders*. Required.
        processes: Number of identical processes, instead of a matrix; None for 1.
        ranks: How many processes each command starts by itself, a number or see *[ranks]*; None for
            commands that are one process each.
        matrix: Lists of values, of which every combination is a process; see *The matrix*.
        env: Variables added to the environment of every process, with placeholders as in `command`.
            An integer stands for its digits; names that begin with `HOLDFAST_` are not yours.
        limits: See *[limits]*.
        retry: See *[retry]*.
        aggregate: See *[aggregate]*.
        engine: See *[engine]*.
        identity: See *[identity]*.
        outputs: See *[outputs]*.
        store: See *[store]*.
        hooks: See *[hooks]*.
        slots: Lists of names, by kind, of what only one process of this machine can use at a time,
            or `"auto"` for the GPUs that its driver lists; see *Slots*.
        needs: How many slots of each kind a command holds as long as it runs.
    """

    name: str
    command: Argv
    processes: Count
    ranks: Ranks
    matrix: Matrix
    env: dict[str, str]
    limits: LimitsTable
    retry: Retry
    aggregate: Aggregation
    engine: EngineOptions
    identity: Identity
    outputs: Outputs
    store: Store
    hooks: Hooks
    slots: Slots
    needs: Needs


_TYPES: Final[Mapping[str, Any]] = Written.__annotations__
#: Every key that a file may have at its top.
TOP_LEVEL: Final = tuple(_TYPES)

_TABLES: Final[Mapping[str, Any]] = {
    key: kind
    for key, kind in _TYPES.items()
    if attrs.has(kind) and kind not in (Matrix, EngineOptions)
}

#: Attributes carry their unit, keys do not: their values do.
KEYS: Final = {
    **{"timeout_s": "timeout", "grace_s": "grace", "backoff_s": "backoff", "stall_s": "stall"},
    **{"deadline_s": "deadline", "rules": "rule"},
}


def _some_seconds(value: Any, _: Any) -> float:
    seconds = values.duration(value)
    if seconds == 0:
        raise ValueError("must be more than 0; leave it out for no limit")
    return seconds


def _on_stall(value: Any, _: Any) -> str:
    if value not in get_args(OnStall):
        raise ValueError(f'must be "tell" or "restart", found {value!r:.40}')
    return str(value)


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(str, values.strict(str))
    converter.register_structure_hook(bool, values.strict(bool))
    converter.register_structure_hook(Argv, values.argv)
    converter.register_structure_hook(Patterns, values.patterns)
    converter.register_structure_hook(Count, values.whole)
    converter.register_structure_hook(Seconds, values.duration)
    converter.register_structure_hook(SomeSeconds, _some_seconds)
    converter.register_structure_hook(Matrix, matrix.structure)
    converter.register_structure_hook(Rules, rules.structure)
    converter.register_structure_hook(Slots, slots.slots)
    converter.register_structure_hook(Needs, slots.needs)
    converter.register_structure_hook(EngineOptions, engine.structure)
    converter.register_structure_hook_func(lambda kind: kind == OnStall, _on_stall)
    converter.register_structure_hook_func(lambda kind: kind == EngineName, engine.name)
    converter.register_structure_hook_func(lambda kind: kind == dict[str, str], values.env)
    for record in _TABLES.values():
        renamed = {
            field.name: override(rename=KEYS[field.name])
            for field in attrs.fields(record)
            if field.name in KEYS
        }
        # mypy takes the overrides for the function's own keywords.
        hook = make_dict_structure_fn(record, converter, **renamed)  # type: ignore[arg-type]
        converter.register_structure_hook(record, hook)
    return converter


def check(
    config: Mapping[str, Any], *, again: bool = False
) -> tuple[Declaration | None, list[ConfigProblem]]:
    """The declaration in *config*, in the shape of the file, or everything that is wrong with it.

    Keys whose value is None count as left out, so that mappings made by hand need no care.

    Args:
        again: Whether it is stored already: limits that were changed since may leave a rule without
            a meaning, which must keep nobody from going on.
    """
    if not isinstance(config, Mapping):
        return None, [ConfigProblem("file", f"expected a table, found {values.kind_of(config)}")]
    given = {key: value for key, value in config.items() if value is not None}
    problems = [
        ConfigProblem(str(key), "unknown key", _meant(str(key), TOP_LEVEL, given.get("matrix")))
        for key in given
        if key not in _TYPES
    ]
    found: dict[str, Any] = {}
    for key, kind in _TYPES.items():
        if key in given:
            try:
                found[key] = _structure(given[key], kind)
            except Exception as err:
                problems.extend(_explained(key, err))
    if "command" not in given:
        problems.append(ConfigProblem("command", "is missing: the argv that every process runs"))
    params, wrong = _params(given, found)
    problems.extend(wrong)
    if params is not None and "ranks" in found:
        problems.extend(_too_many(found["ranks"].count * len(params)))
    options = found.get("engine", EngineOptions())
    limits = Limits.of(found.get("limits", LimitsTable()), options)
    if not again and "retry" in found and all(_is_well(e, given, found) for e in _LIMITING):
        problems.extend(_rules(found["retry"], limits))
    if not again and "engine" in found:
        problems.extend(engine.problems(given["engine"], options))
    words = _words(found)
    held = _held(given, found)
    if params is not None:
        problems.extend(_placeholders(words, params, held))
    else:
        problems.extend(_doubtless(words, given.get("matrix", {}), held))
    problems.extend(_slots(given, found))
    problems.extend(hooks.problems(attrs.asdict(found.get("hooks", Hooks()))))
    if "command" in found and may_go(found["command"][0]):
        what = "word 1: the program cannot be left out, as a ? says"
        problems.append(ConfigProblem("command", what))
    if params is not None and not problems and "outputs" in found:
        makers = _makers(params, found.get("ranks", Ranks(count=Count(1))))
        problems.extend(outputs.problems(found["outputs"].files, makers))
    if problems:
        return None, problems
    assert params is not None
    return Declaration(
        name=found.get("name"),
        command=found["command"],
        params=params,
        ranks=found.get("ranks"),
        matrix=found.get("matrix"),
        env=found.get("env", {}),
        limits=limits,
        retry=found.get("retry", Retry()),
        aggregate=found.get("aggregate", Aggregation()),
        engine=options,
        identity=found.get("identity", Identity()),
        output=found.get("outputs", Outputs()),
        store=found.get("store", Store()),
        hooks=found.get("hooks", Hooks()),
        slots=found.get("slots", Slots({})),
        needs=found.get("needs", Needs({})),
        source={key: _plain(given[key]) for key in TOP_LEVEL if key in given},
    ), []


#: The tables of what a rule can set.
_LIMITING: Final = ("limits", "engine")


def _is_well(key: str, given: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return key in found or key not in given


def check_limits(table: Mapping[str, Any]) -> tuple[LimitsTable | None, list[ConfigProblem]]:
    """The limits in *table*, in the shape of the file, or everything that is wrong with it."""
    try:
        found: LimitsTable = _structure(table, LimitsTable)
    except Exception as err:
        return None, list(_explained("limits", err))
    return found, []


def _rules(retry: Retry, limits: Limits) -> Iterator[ConfigProblem]:
    limited = [name for name, limit in attrs.asdict(limits).items() if limit is not None]
    return rules.problems(retry.rules, limited, limits.on_stall)


def _makers(params: Sequence[Params], ranks: Ranks) -> list[Params]:
    """What is known of each that has outputs of its own: a process, a gang, an independent rank."""
    return [
        {**each, "index": number * ranks.count + rank, "count": len(params) * ranks.count}
        for number, each in enumerate(params)
        for rank in range(ranks.count if ranks.independent else 1)
    ]


def _structure(value: Any, kind: Any) -> Any:
    if kind is Ranks and not isinstance(value, Mapping):
        return Ranks(count=Count(values.whole(value, int)))
    # cattrs would say "'str' object has no attribute 'get'", or worse: find the keys of a list.
    if kind in _TABLES.values() and not isinstance(value, Mapping):
        raise ValueError(f"expected a table, found {values.kind_of(value)}")
    found = _converter().structure(value, kind)
    if kind is str:
        values.check_text(found, "the text")
    return found


def _explained(where: str, err: Exception) -> Iterator[ConfigProblem]:
    if isinstance(err, ForbiddenExtraKeysError):
        known = [KEYS.get(field.name, field.name) for field in attrs.fields(err.cl)]
        for key in sorted(map(str, err.extra_fields)):
            yield ConfigProblem(f"{where}.{key}", "unknown key", _meant(key, known))
    elif isinstance(err, cattrs.BaseValidationError):
        for inner in err.exceptions:
            # cattrs notes on each error which attribute it was about.
            notes = [note.name for note in getattr(inner, "__notes__", ()) if hasattr(note, "name")]
            below = f"{where}.{KEYS.get(notes[0], notes[0])}" if notes else where
            if isinstance(inner, KeyError):
                yield ConfigProblem(below, "is missing")
            else:
                yield from _explained(below, inner)
    elif isinstance(err, ValueError):
        yield from values.problems_of(where, err)
    else:
        raise err


def _meant(key: str, known: Collection[str], matrix_table: Any = None) -> str:
    if hint := values.suggest(key, known):
        return hint
    if key in TOP_LEVEL:
        return f"{key} belongs above the first [table]"
    # A right key in the wrong place: `timeout` at the top, say after another table's header.
    for section, table in _TABLES.items():
        for field in attrs.fields(table):
            if key == KEYS.get(field.name, field.name):
                return f"did you mean {section}.{key}?"
    if key in engine.KEYS:
        return f"did you mean engine.{key}?"
    if isinstance(matrix_table, Mapping) and (
        hint := values.suggest(key, [each for each in matrix_table if isinstance(each, str)])
    ):
        return hint.replace("did you mean ", "did you mean matrix.")
    return ""


def _params(
    given: Mapping[str, Any], found: Mapping[str, Any]
) -> tuple[tuple[Params, ...] | None, list[ConfigProblem]]:
    if "matrix" in given and "processes" in given:
        return None, [ConfigProblem("processes", "there is a [matrix] too; keep one of the two")]
    if "matrix" not in given:
        count = found.get("processes", 1)
        if wrong := _too_many(count):
            return None, wrong
        return (({},) * count if "processes" in found or "processes" not in given else None), []
    if "matrix" not in found:
        return None, []
    params = found["matrix"].params()
    if not params:
        return None, [ConfigProblem("matrix.exclude", "leaves no process at all")]
    return params, []


def _too_many(count: int) -> list[ConfigProblem]:
    if count <= MAX_PROCESSES:
        return []
    what = f"{count:,} are too many; the limit is {MAX_PROCESSES:,}"
    return [ConfigProblem("processes", what)]


def _words(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every text that may have placeholders: the key that it stands under, which one, itself."""
    command = enumerate(found.get("command", ()), 1)
    listed = [
        (f"{table}.files", f"entry {number}: ", pattern)
        for table in ("identity", "outputs")
        if table in found
        for number, pattern in enumerate(found[table].files, 1)
    ]
    return [
        *(("command", f"word {number}: ", word) for number, word in command),
        *((f"env.{name}", "", text) for name, text in found.get("env", {}).items()),
        *listed,
    ]


def _held(given: Mapping[str, Any], found: Mapping[str, Any]) -> set[str]:
    """The placeholders of slots: also of a table in which something else is wrong."""
    needed = found.get("needs", given.get("needs"))
    return slots.kinds(needed) if isinstance(needed, Mapping) else set()


def _slots(given: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    if all(_is_well(key, given, found) for key in ("slots", "needs")):
        there, mentioned = found.get("slots", Slots({})), given.get("needs", {})
        yield from slots.problems(there, found.get("needs", Needs({})), found.get("env", {}))
        yield from slots.unneeded(there, mentioned)


def _placeholders(
    words: Iterable[tuple[str, str, str]], params: tuple[Params, ...], held: set[str]
) -> Iterator[ConfigProblem]:
    everywhere = set(params[0]).intersection(*params[1:])
    somewhere = set().union(*params) - everywhere
    for where, which, word in words:
        known = {*everywhere, "index", "count", *(held if _is_run(where) else ())}
        for what, hint in placeholder_problems(word, known, somewhere):
            partial = next((key for key in somewhere if what.endswith(f"{{{key}}}")), None)
            if partial is not None:
                lacking = next(i for i, each in enumerate(params) if partial not in each)
                what = f"process {lacking} has no {{{partial}}}"
                hint = f"give it to all, in the lists or by include, or write {{{partial}?}}"
            if not _is_run(where) and what.startswith("unknown placeholder {slot."):
                hint = "which slots a process holds is for its command and [env] only"
            yield ConfigProblem(where, which + what, hint)


def _is_run(where: str) -> bool:
    """Whether what stands there is filled in for each attempt, whose slots are known then."""
    return where == "command" or where.startswith("env.")


def _doubtless(
    words: Iterable[tuple[str, str, str]], table: Any, held: set[str]
) -> Iterator[ConfigProblem]:
    """What is wrong with placeholders whatever becomes of the *table* of the matrix.

    It is not well-formed: only a key that stands nowhere in it is unknown for certain.
    """
    known = {"index", "count"}
    if isinstance(table, Mapping):
        entries = table.get("include")
        tables = [table, *(entries if isinstance(entries, list | tuple) else ())]
        keys = (key for each in tables if isinstance(each, Mapping) for key in each)
        known.update(key for key in keys if isinstance(key, str))
        known -= {"include", "exclude"}
    for where, which, word in words:
        for what, hint in placeholder_problems(word, known | (held if _is_run(where) else set())):
            if isinstance(table, Mapping) or not what.startswith("unknown placeholder"):
                yield ConfigProblem(where, which + what, hint)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
