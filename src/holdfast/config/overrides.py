"""`--set key=value`: changes to an experiment file's content before it is checked.

The checks are those of `experiment_file`, the same for what was set and what was written. What only
the change itself shows is checked here: that a list of numbers did not become one of texts.
"""

import copy
import datetime
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from holdfast.errors import ConfigProblem

__all__ = ["apply_overrides"]

#: Numbers as C, Python and people write them, of which TOML reads only some.
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORDS: Final = {"True": True, "False": False, "TRUE": True, "FALSE": False}

#: Characters of a list that a message shows.
_MOST_SHOWN: Final = 60


def apply_overrides(
    document: Mapping[str, Any], overrides: Mapping[str, str], top_level: Collection[str]
) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """*document* with every dotted key of *overrides* set, and what made no sense.

    A key that is none of *top_level* but a key of the matrix means that one: `level=9` is
    `matrix.level=[9]`. Values are TOML, or what people write for it (`.5`, `1.e-3`, `True`,
    `[a, b]`, `none` for no limit), else text; where the document has only texts in that place
    (`env`, `name`, a matrix of strings), text.
    """
    result = copy.deepcopy(dict(document))
    problems: list[ConfigProblem] = []
    for key, text in overrides.items():
        path = key.split(".")
        matrix = result.get("matrix")
        if len(path) == 1 and key not in top_level and isinstance(matrix, dict) and key in matrix:
            path = ["matrix", key]
        if not all(path):
            problems.append(ConfigProblem(key, "not a key: a part between dots is empty"))
            continue
        table = result
        for i, part in enumerate(path[:-1]):
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                where = ".".join(path[: i + 1])
                problems.append(ConfigProblem(key, f"cannot be set: {where} is no table"))
                break
            table = inner
        else:
            before = table.get(path[-1])
            table[path[-1]] = _value(path, text, before)
            if _is_axis(path):
                problems += _of_another_type(key, before, table[path[-1]])
    return result, problems


def _is_axis(path: list[str]) -> bool:
    return path[0] == "matrix" and len(path) == 2 and path[1] not in ("include", "exclude")


def _value(path: list[str], text: str, before: Any) -> Any:
    of_texts = isinstance(before, list) and before and all(isinstance(each, str) for each in before)
    value = _parsed(text, bare_words_only=bool(of_texts))
    if path[0] in ("limits", "engine") and text.strip() == "none":
        return None  # TOML has no word for it, and whoever has a limit may want to be rid of it
    if path[0] == "env" or path == ["name"]:
        # What looks like a number is still text there: 0x10 must not become 16.
        return value if isinstance(value, str) else text
    if _is_axis(path):
        if isinstance(value, list):
            return value
        return [text if of_texts and not isinstance(value, str) else value]
    return value


def _of_another_type(key: str, before: Any, after: Sequence[Any]) -> list[ConfigProblem]:
    """A whole list that became one of other values: `--set lr=0.O1` is no text that was meant."""
    if not isinstance(before, list) or not before or not after:
        return []
    were, are = ({_kind(each) for each in values} for values in (before, after))
    if were & are:
        return []
    made, was = (" and ".join(sorted(kinds)) for kinds in (are, were))
    what = f"would make {made} of {was}: {_shown(after)} instead of {_shown(before)}"
    hint = "write it as the file does, or change the file"
    if were == {"lists"}:
        hint = f"a list of lists is written {_shown([after])}"
    elif len(after) == 1 and isinstance(after[0], str) and "," in after[0]:
        several = _parsed(f"[{after[0]}]")
        if isinstance(several, list) and {_kind(each) for each in several} <= were:
            hint = f"several values are written {key}=[{after[0]}]"
    return [ConfigProblem(key, what, hint)]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "booleans"
    if isinstance(value, int | float):
        return "numbers"
    if isinstance(value, str):
        return "texts"
    return "lists" if isinstance(value, list | tuple) else "tables"


def _shown(values: Any) -> str:
    words = json.dumps(values, ensure_ascii=False, default=str)
    return words if len(words) <= _MOST_SHOWN else words[:_MOST_SHOWN] + "…"


def _parsed(text: str, bare_words_only: bool = False) -> Any:
    import tomllib  # 10 ms; resuming sets nothing

    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return _as_people_write(text, bare_words_only)
    value = parsed["value"]
    # A line break in the text could smuggle in a second key; dates and NaN have no place in JSON.
    if len(parsed) != 1 or isinstance(value, datetime.date | datetime.time):
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text
    return value


def _as_people_write(text: str, bare_words_only: bool = False) -> Any:
    """What TOML does not read: `.5`, `10.e-6`, `True`, and lists of bare words.

    With *bare_words_only*, every word of such a list is text: in `[67217e15, abc]` both are hashes.
    """
    word = text.strip()
    if word in _WORDS:
        return _WORDS[word]
    # 007 is a name more often than a number.
    if _NUMBER.fullmatch(word) and not re.match(r"[+-]?0[0-9]", word):
        number = float(word)
        return number if math.isfinite(number) else text
    inner = word[1:-1]
    if word[:1] + word[-1:] == "[]" and inner.strip() and not re.search(r"[\[\]{}\"'\n]", inner):
        words = [each.strip() for each in inner.rstrip(", ").split(",")]
        return words if bare_words_only else [_parsed(each) for each in words]
    return text
