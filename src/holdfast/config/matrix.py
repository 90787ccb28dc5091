"""The parameters of every process: a product of lists with `exclude` and `include`.

Owns the semantics, which are those of a GitHub Actions `strategy.matrix`, and the checks of the
table that declares it.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final

import attrs

from holdfast.config import values
from holdfast.errors import ConfigProblem

__all__ = [
    "MAX_PROCESSES",
    "Matrix",
    "Params",
    "combinations",
    "identity",
    "misses",
    "structure",
]

#: Records of more processes do not fit into memory with comfort, and no file system likes them.
MAX_PROCESSES: Final = 1_000_000

_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# What every process has anyway.
_RESERVED: Final = frozenset({"index", "count"})

#: Values of a list that a message shows.
_MOST_VALUES: Final = 8

#: What tells one process of an experiment from the others: names with texts, numbers, booleans, or
#: lists and tables of such.
Params = Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Matrix:
    """The checked `[matrix]` table."""

    axes: Mapping[str, Sequence[Any]]
    include: Sequence[Params] = ()
    exclude: Sequence[Params] = ()

    def params(self, keys: Sequence[str] | None = None) -> tuple[Params, ...]:
        """The parameters of every process, in order: the axes as written, or as in *keys*."""
        axes = self.axes if keys is None else {key: self.axes[key] for key in keys}
        return tuple(combinations(axes, self.include, self.exclude))


def combinations(
    axes: Mapping[str, Sequence[Any]],
    include: Sequence[Params] = (),
    exclude: Sequence[Params] = (),
) -> list[Params]:
    """The combinations in order: the last axis varies fastest, those that `include` adds follow.

    - An `exclude` entry removes every combination that agrees with all of its values.
    - An `include` entry then extends every combination of the product whose own values it would
      not change (later entries may change what earlier ones added). If there is none, it becomes
      a combination of its own, which no later entry extends.
    """
    product_of_axes: list[dict[str, Any]] = []
    if axes:
        for values in product(*axes.values()):
            combination = dict(zip(axes, values, strict=True))
            if not any(_agrees(combination, entry) for entry in exclude):
                product_of_axes.append(combination)
    own: list[Params] = []
    extra: list[dict[str, Any]] = [{} for _ in product_of_axes]
    for entry in include:
        shared = {key: value for key, value in entry.items() if key in axes}
        fits = [i for i, each in enumerate(product_of_axes) if _agrees(each, shared)]
        for i in fits:
            extra[i].update(entry)
        if not fits:
            own.append(dict(entry))
    return [
        *({**each, **added} for each, added in zip(product_of_axes, extra, strict=True)),
        *own,
    ]


def _agrees(combination: Params, entry: Params) -> bool:
    return all(key in combination and _same(combination[key], entry[key]) for key in entry)


def _same(one: Any, other: Any) -> bool:
    # 1, 1.0, "1" and true are four things on a command line; only Python holds some of them equal.
    if isinstance(one, list | tuple | Mapping):
        return identity(one) == identity(other)
    return type(one) is type(other) and bool(one == other)


def identity(value: Any) -> str:
    """A text that two parameters share only if they are the same, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, default=repr)


def structure(table: Any, _: Any = None) -> Matrix:
    """The matrix that *table*, from TOML or JSON, declares.

    Raises:
        SeveralError: Everything that is wrong with it.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"expected a table, found {values.kind_of(table)}")
    problems = values.Problems()
    axes = {}
    for key, listed in table.items():
        if key not in ("include", "exclude"):
            with problems.at(f"matrix.{key}"):
                _check_key(key)
                axes[key] = _axis(f"matrix.{key}", listed)
    entries: dict[str, list[Params]] = {}
    for which, known in (("include", None), ("exclude", table)):
        with problems.at(f"matrix.{which}"):
            entries[which] = _entries(which, table.get(which, []), known)
    planned = math.prod(map(len, axes.values()))
    if planned > MAX_PROCESSES:
        what = f"a product of {planned:,} processes; the limit is {MAX_PROCESSES:,}"
        problems.append(ConfigProblem("matrix", what))
    if not problems and not axes and not entries["include"]:
        what, hint = "is empty", "give it a list, or leave it out and set processes"
        problems.append(ConfigProblem("matrix", what, hint))
    problems.tell()
    return Matrix(axes=axes, **entries)


def misses(table: Any, written: Any) -> list[ConfigProblem]:
    """Entries of `exclude` and `include` that miss what they are about: mostly typing errors.

    An `exclude` entry with a value that its list never had takes nothing out. An `include` entry
    with one that its list lacks extends nothing; it makes a process of its own, which is meant only
    if it gives every key.

    No part of `structure`: what was stored once must stay an experiment. What is not well-formed is
    skipped here and told there.

    Args:
        table: The matrix, with `--set`.
        written: As it stands in the file: `--set level=9` is no reason to change its `exclude`.
    """
    if not isinstance(table, Mapping):
        return []
    before = written if isinstance(written, Mapping) else {}
    axes = {
        key: listed
        for key, listed in table.items()
        if key not in ("include", "exclude") and isinstance(listed, list)
    }
    problems = []
    for where, key, value, _ in _given("exclude", table, axes):
        former = before.get(key)
        known = [*axes[key], *(former if isinstance(former, list) else ())]
        if not any(_same(value, each) for each in known):
            what = f"no combination has {_shown([value])}; there are {_shown(axes[key])}"
            problems.append(ConfigProblem(where, what, _meant(value, axes[key])))
    for where, key, value, entry in _given("include", table, axes):
        lacking = [each for each in axes if each not in entry]
        if lacking and axes[key] and not any(_same(value, each) for each in axes[key]):
            what = (
                f"no combination has {_shown([value])} (there are {_shown(axes[key])}), "
                f"and a process of its own would lack {', '.join(lacking)}"
            )
            problems.append(ConfigProblem(where, what, _meant(value, axes[key])))
    return problems


def _given(
    which: str, table: Mapping[str, Any], axes: Mapping[str, Any]
) -> Iterator[tuple[str, str, Any, Params]]:
    """Every value of an axis in the entries of `exclude` or `include`: where it is, and itself."""
    entries = table.get(which)
    for i, entry in enumerate(entries if isinstance(entries, list | tuple) else ()):
        if isinstance(entry, Mapping):
            for key in filter(axes.__contains__, entry):
                yield f"matrix.{which}[{i}].{key}", key, entry[key], entry


def _shown(listed: Sequence[Any]) -> str:
    """Values as TOML writes them."""
    words = [_word(each) for each in listed[:_MOST_VALUES]]
    return ", ".join(words + ["…"] * (len(listed) > _MOST_VALUES))


def _word(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # a date, or more digits than Python prints
        return "…"


def _meant(value: Any, listed: Sequence[Any]) -> str:
    """What of *listed* may have been meant: the same in another type, or in other letters."""
    alike = [each for each in listed if _word(each).strip('"') == _word(value).strip('"')]
    if not alike and isinstance(value, str):
        texts = [each for each in listed if isinstance(each, str)]
        alike = [each for each in [values.closest(value, texts)] if each is not None]
    return f"did you mean {_shown(alike[:1])}?" if alike else ""


def _check_key(key: Any) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError("not a name: letters, digits, _ and -, and no digit first")
    if key in _RESERVED:
        raise ValueError(f"{{{key}}} is there without being declared; choose another name")


def _axis(where: str, listed: Any) -> list[Any]:
    if not isinstance(listed, list | tuple):
        # Shown as TOML shows it, to be copied.
        hint = f'write ["{listed}"]' if isinstance(listed, str) else f"write [{listed}]"
        what = f"expected a list of values, found {values.kind_of(listed)}"
        raise values.SuggestingError(what, "" if isinstance(listed, Mapping) else hint)
    if not listed:
        raise ValueError("has no values, so that there would be no processes")
    problems = values.Problems()
    seen: set[str] = set()
    for i, value in enumerate(listed):
        with problems.at(f"{where}[{i}]"):
            values.parameter(value)
            if identity(value) in seen:
                hint = "for repetitions add a key, such as repeat = [1, 2, 3]"
                raise values.SuggestingError(f"{values.kind_of(value)} is there twice", hint)
            seen.add(identity(value))
    problems.tell()
    return list(listed)


def _entries(which: str, listed: Any, axes: Mapping[str, Any] | None) -> list[Params]:
    if not isinstance(listed, list | tuple):
        hint = f"write {which} = [{{…}}]" if isinstance(listed, Mapping) else ""
        raise values.SuggestingError(
            f"expected a list of tables, found {values.kind_of(listed)}", hint
        )
    problems = values.Problems()
    for i, entry in enumerate(listed):
        where = f"matrix.{which}[{i}]"
        if not isinstance(entry, Mapping) or not entry:
            what = "an empty table" if isinstance(entry, Mapping) else values.kind_of(entry)
            problems.append(ConfigProblem(where, f"expected key = value, found {what}"))
            continue
        for key, value in entry.items():
            with problems.at(f"{where}.{key}"):
                if axes is not None and (key not in axes or key in ("include", "exclude")):
                    known = [each for each in axes if each not in ("include", "exclude")]
                    hint = values.suggest(str(key), known)
                    raise values.SuggestingError("no such key in the matrix", hint)
                _check_key(key)
                values.parameter(value)
    problems.tell()
    return [dict(entry) for entry in listed]
