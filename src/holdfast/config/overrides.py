"""`--set key=value`: changes to an experiment file's content before it is checked.

The checks are those of `experiment_file`, the same for what was set and what was written.
"""

import copy
import datetime
import math
from collections.abc import Collection, Mapping
from typing import Any

from holdfast.errors import ConfigProblem

__all__ = ["apply_overrides"]


def apply_overrides(
    document: Mapping[str, Any], overrides: Mapping[str, str], top_level: Collection[str]
) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """*document* with every dotted key of *overrides* set, and what made no sense.

    A key that is none of *top_level* but a key of the matrix means that one: `level=9` is
    `matrix.level=[9]`. Values are TOML where they are valid TOML, else text; where the document
    has only texts in that place (`env`, `name`, a matrix of strings), text.
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
            table[path[-1]] = _value(path, text, table.get(path[-1]))
    return result, problems


def _value(path: list[str], text: str, before: Any) -> Any:
    value = _parsed(text)
    if path[0] == "env" or path == ["name"]:
        # What looks like a number is still text there: 0x10 must not become 16.
        return value if isinstance(value, str) else text
    if path[0] == "matrix" and len(path) == 2 and path[1] not in ("include", "exclude"):
        values = value if isinstance(value, list) else [value]
        texts = isinstance(before, list) and all(isinstance(each, str) for each in before)
        if texts and before and not isinstance(value, list) and not isinstance(value, str):
            return [text]
        return values
    return value


def _parsed(text: str) -> Any:
    import tomllib  # 10 ms; resuming sets nothing

    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = parsed["value"]
    # A line break in the text could smuggle in a second key; dates and NaN have no place in JSON.
    if len(parsed) != 1 or isinstance(value, datetime.date | datetime.time):
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text
    return value
