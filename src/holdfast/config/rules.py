"""`[[retry.rule]]`: what a retry does otherwise than `[retry]` says, by how the attempt ended.

Owns the shape of a rule, which limits one can set, and what no two rules may say together. What a
rule makes of a process is decided in `holdfast.orchestration.rules`.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NewType

import attrs

from holdfast.config import engine, values
from holdfast.config.durations import LONGEST_S, written
from holdfast.errors import ConfigProblem
from holdfast.status import Reason

__all__ = [
    "FAILURES",
    "INTERRUPTIONS",
    "NO_RULES",
    "SETTABLE",
    "Rule",
    "Rules",
    "Setting",
    "amount",
    "in_force",
    "problems",
    "structure",
]

#: Ends that a rule can be for: what is charged to the process, and what is not.
FAILURES: Final = (
    *(Reason.TIMEOUT, Reason.OUT_OF_MEMORY, Reason.PERHAPS_MEMORY, Reason.SIGNAL, Reason.EXIT),
)
INTERRUPTIONS: Final = (Reason.STALL, Reason.LOST, Reason.PREEMPTED, Reason.TIME_LIMIT)
_WORDS: Final = {str(word): word for word in (*FAILURES, *INTERRUPTIONS)}

#: What a rule can set, and the attribute of `Limits` that it is.
SETTABLE: Final[Mapping[str, str]] = {
    "limits.timeout": "timeout_s",
    "limits.grace": "grace_s",
    "limits.stall": "stall_s",
    "engine.time": "time_s",
    "engine.memory": "memory_bytes",
}
#: The one that is no time.
_SIZE: Final = "memory_bytes"

Causes = NewType("Causes", tuple[Reason, ...])
Codes = NewType("Codes", tuple[int, ...])
Settings = NewType("Settings", "tuple[Setting, ...]")
_NOTHING: Final = Settings(())


@attrs.frozen(kw_only=True)
class Setting:
    """One limit that a rule sets for the next attempts of a process.

    Attributes:
        key: As in the file.
        factor: By what the limit of the attempt that ended is multiplied; None if a *value* is
            given instead.
        value: Seconds; of `engine.memory`, bytes.
    """

    key: str
    factor: float | None = None
    value: float | None = None

    @property
    def name(self) -> str:
        """The attribute of `Limits`."""
        return SETTABLE[self.key]

    def of(self, now: float | None) -> float | None:
        """The limit that follows *now*; None for no limit."""
        if self.factor is None:
            return self.value
        most = engine.LARGEST if self.name == _SIZE else LONGEST_S
        return None if now is None else min(now * self.factor, most)

    def told(self, value: float | None) -> str:
        """A *value* of this limit, as it may stand in a file."""
        return amount(self.name, value)

    def __str__(self) -> str:
        return f"x{self.factor:g}" if self.factor is not None else self.told(self.value)


def amount(name: str, value: float | None) -> str:
    """A *value* of the limit *name* of `Limits`, as it may stand in a file."""
    if value is None:
        return "none"
    return engine.size_written(value) if name == _SIZE else written(value)


def in_force(
    limits: object, replaced: Mapping[str, Mapping[str, float | None]] | None
) -> dict[str, Mapping[str, float | None]]:
    """What rules have set for the next attempts of a process, as far as it counts.

    A limit that was configured otherwise since counts as it is configured in *limits*.
    """
    return {
        name: each
        for name, each in (replaced or {}).items()
        if getattr(limits, name, _UNKNOWN) == each["from"]
    }


#: What no limit is, of a name that a newer version may have written.
_UNKNOWN: Final = object()


@attrs.frozen(kw_only=True)
class Rule:
    """What is done after an attempt that ended in a certain way, where `[retry]` is too coarse. The
    first rule that fits decides alone, and what it leaves out is as `[retry]` says.

    Attributes:
        when: How the attempt ended, a word or a list of them: `timeout`, `out_of_memory`,
            `perhaps_memory` (killed while the kernel was killing for want of memory), `signal`
            (which `perhaps_memory` is, too), `exit` (which a result that cannot be used is, too);
            `stall`, `lost`, `preempted`, `time_limit` (of a scheduler, as of Slurm). Required.
        codes: Of `exit`, only these exit codes; without it, all.
        max_attempts: Failed attempts after which a process stays failed; of `stall`, `lost`,
            `preempted` and `time_limit`, interruptions after which it is left for another run.
            Neither counts for the other.
        backoff_s: Pause before the next attempt, give or take a quarter; doubled with each failure,
            or each interruption (then up to an hour).
        settings: What the next attempts of the process get: `"limits.timeout"`, `"limits.grace"`,
            `"limits.stall"` and `"engine.time"`, as a duration or as a multiple such as `"x2"` of
            what the last attempt had; `"engine.memory"`, as a size or a multiple. It counts until
            that limit itself gets another value.
    """

    when: Causes
    codes: Codes = Codes(())
    max_attempts: int | None = None
    backoff_s: float | None = None
    settings: Settings = _NOTHING

    def fits(self, reason: Reason | None, exit_code: int | None) -> bool:
        """Whether it is for an attempt that ended so."""
        if reason is Reason.EXIT:
            return reason in self.when and (not self.codes or exit_code in self.codes)
        killed = reason is Reason.PERHAPS_MEMORY and Reason.SIGNAL in self.when
        return reason in self.when or killed


Rules = NewType("Rules", tuple[Rule, ...])
NO_RULES: Final = Rules(())

_KEYS: Final = ("when", "codes", "max_attempts", "backoff", "set")


def structure(value: Any, _: Any = None) -> tuple[Rule, ...]:
    """The rules in *value*, the list of tables of the file. Raises ValueError, for all mistakes."""
    if not isinstance(value, list | tuple):
        what = f"expected a list of tables, found {values.kind_of(value)}"
        raise values.SuggestingError(what, "write [[retry.rule]] above each")
    problems, found = values.Problems(), []
    for number, table in enumerate(value, 1):
        with problems.at(_where(number)):
            found.append(_rule(number, table))
    problems.tell()
    return tuple(found)


def _where(number: int, key: str = "") -> str:
    return f"retry.rule {number}" + (f".{key}" if key else "")


def _rule(number: int, table: Any) -> Rule:
    if not isinstance(table, Mapping):
        raise ValueError(f"expected a table, found {values.kind_of(table)}")
    problems, found = values.Problems(), dict[str, Any]()
    for key in table:
        if key not in _KEYS:
            where = _where(number, str(key))
            problems.append(ConfigProblem(where, "unknown key", _meant(str(key))))
    for key, (name, parse) in _PARSERS.items():
        if key in table:
            with problems.at(_where(number, key)):
                found[name] = parse(table[key], _where(number, key))
    if "when" not in table:
        what = f"is missing: how an attempt ended, one or more of {', '.join(_WORDS)}"
        problems.append(ConfigProblem(_where(number, "when"), what))
    elif "codes" in found and "when" in found and Reason.EXIT not in found["when"]:
        hint = 'add "exit" to when, or leave codes out'
        what = f"only exit has codes, and when is {', '.join(found['when'])}"
        problems.append(ConfigProblem(_where(number, "codes"), what, hint))
    problems.tell()
    return Rule(**found)


def _meant(key: str) -> str:
    for full in SETTABLE:
        if key in (full, full.rpartition(".")[2]):
            return f'write set = {{"{full}" = …}}'
    return values.suggest(key, _KEYS)


def _when(value: Any, where: str) -> Causes:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        raise ValueError(f"expected a word or a list of words, found {values.kind_of(value)}")
    if not words:
        raise ValueError(f"is empty; it can be {', '.join(_WORDS)}")
    problems, found = values.Problems(), dict[Reason, None]()
    for word in words:
        with problems.at(where):
            found[_word(word)] = None
    problems.tell()
    return Causes(tuple(found))


def _word(word: Any) -> Reason:
    if not isinstance(word, str):
        raise ValueError(f"expected words, found {values.kind_of(word)}")
    if word not in _WORDS:
        hint = _OTHERS.get(word) or values.suggest(word, _WORDS)
        what = f"{word[:40]!r} is no way in which an attempt ends"
        raise values.SuggestingError(what, hint or f"it can be {', '.join(_WORDS)}")
    return _WORDS[word]


#: What is meant by what people call it, or by reasons that no rule is for.
_OTHERS: Final = {
    "oom": "did you mean out_of_memory?",
    "memory": "did you mean out_of_memory?",
    "killed": "did you mean signal?",
    "walltime": "did you mean time_limit?",
    "user": "what a person stops goes on with the next resume",
    "launch_error": "what could not be started is tried again as [retry] says",
}


def _codes(value: Any, _: str) -> Codes:
    listed = [value] if type(value) is int else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ValueError(f"expected a list of exit codes, found {values.kind_of(value)}")
    for code in listed:
        if type(code) is not int:
            raise ValueError(f"expected exit codes, found {values.kind_of(code)}")
        if not 1 <= code <= 255:
            raise ValueError(f"an exit code of a failure is 1 to 255, found {code}")
    return Codes(tuple(dict.fromkeys(listed)))


def _settings(value: Any, where: str) -> Settings:
    if not isinstance(value, Mapping):
        what = f"expected a table, found {values.kind_of(value)}"
        raise values.SuggestingError(what, 'write set = {"limits.timeout" = "x2"}')
    problems, found = values.Problems(), []
    for key, inner in _flat(value):
        with problems.at(f"{where}.{key}"):
            found.append(_setting(key, inner))
    problems.tell()
    return Settings(tuple(found))


def _flat(table: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of *table*: without quotes, TOML makes tables of them."""
    for key, value in table.items():
        if isinstance(value, Mapping) and not above:
            yield from _flat(value, f"{key}.")
        else:
            yield f"{above}{key}", value


_FACTOR: Final = re.compile(r"x([0-9]+(?:\.[0-9]+)?)", re.ASCII)
_AS_PEOPLE_WRITE: Final = re.compile(r"[*×]\s*([0-9.]+)|([0-9.]+)\s*[x*×]", re.ASCII)
_LARGEST_FACTOR: Final = 1000.0


def _setting(key: str, value: Any) -> Setting:
    if key not in SETTABLE:
        hint = values.suggest(key, SETTABLE) or f"it can be {', '.join(SETTABLE)}"
        raise values.SuggestingError("no rule can set this", hint)
    text = value.strip() if isinstance(value, str) else ""
    if (times := _FACTOR.fullmatch(text)) is not None:
        factor = float(times[1])
        if not 0 < factor <= _LARGEST_FACTOR or factor == 1:
            what = "a multiple is more than 0, at most x1000, and not x1"
            raise ValueError(f"{what}; found {text[:40]}")
        return Setting(key=key, factor=factor)
    if (meant := _AS_PEOPLE_WRITE.fullmatch(text)) is not None:
        kind = "size" if SETTABLE[key] == _SIZE else "duration"
        what = f"expected a {kind} or a multiple, found {text[:40]!r}"
        raise values.SuggestingError(what, f'write "x{meant[1] or meant[2]}"')
    if SETTABLE[key] == _SIZE:
        return Setting(key=key, value=engine.size(value))
    seconds = values.duration(value)
    if seconds == 0 and key != "limits.grace":
        raise ValueError("must be more than 0")
    return Setting(key=key, value=seconds)


_PARSERS: Final[Mapping[str, Any]] = {
    "when": ("when", _when),
    "codes": ("codes", _codes),
    "max_attempts": ("max_attempts", values.whole),
    "backoff": ("backoff_s", values.duration),
    "set": ("settings", _settings),
}


def problems(
    rules: Sequence[Rule], limited: Container[str], on_stall: str
) -> Iterator[ConfigProblem]:
    """What *rules* say that can never be, beside each other and the limits of the file.

    Args:
        limited: The attributes of `[limits]` that have a limit.
    """
    set_somewhere = {each.name for rule in rules for each in rule.settings if each.factor is None}
    for number, rule in enumerate(rules, 1):
        for word in rule.when:
            earlier = _decided(word, rule.codes, rules[: number - 1])
            if earlier is not None:
                codes = rule.codes if word is Reason.EXIT else ()
                end = " ".join([word, ", ".join(map(str, codes))]).strip()
                what = f"rule {earlier} already decides on {end}, so this one never would"
                hint = f"put it before rule {earlier}, or leave {word} out"
                yield ConfigProblem(_where(number, "when"), what, hint)
        if Reason.STALL in rule.when and on_stall != "restart":
            hint = 'write limits.on_stall = "restart", or leave stall out'
            what = f'no attempt ends by a stall: limits.on_stall is "{on_stall}"'
            yield ConfigProblem(_where(number, "when"), what, hint)
        for each in rule.settings:
            there = each.name in limited or each.name in set_somewhere
            if each.factor is not None and not there:
                what = f"there is no {each.key} that {each} could be a multiple of"
                hint = f"give a {each.key}, or write a duration"
                yield ConfigProblem(_where(number, f"set.{each.key}"), what, hint)


def _decided(word: Reason, codes: Iterable[int], earlier: Sequence[Rule]) -> int | None:
    """Which of the *earlier* rules decides on all that end by *word*; None if none does."""
    left = set(codes)
    for number, rule in enumerate(earlier, 1):
        if word is not Reason.EXIT:
            if rule.fits(word, None):
                return number
        elif word in rule.when:
            left -= set(rule.codes)
            if not rule.codes or (codes and not left):
                return number
    return None
