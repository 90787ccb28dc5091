"""Lengths of time as people write them: "2h", "1h30m", "500ms", or a number of seconds."""

import math
import re
from typing import Any, Final

__all__ = ["LONGEST_S", "parse_duration", "written"]

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|d|h|m|s)\s*", re.ASCII)
_EXPECTED: Final = 'a duration such as "2h", "1h30m", "30s", "500ms", or a number of seconds'

# `threading` and `select` overflow on more than about 292 years; a century is a mistake too.
LONGEST_S: Final = 100 * 365 * 86400.0


def parse_duration(value: Any) -> float:
    """*value* in seconds: a number of seconds, or parts with units from large to small.

    Raises:
        ValueError: Anything else: no unit, a negative, infinite or endlessly long time.
    """
    if isinstance(value, str):
        seconds = _sum_of_parts(value)
    # True would be one second.
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= LONGEST_S else math.inf
    else:
        found = "none" if value is None else type(value).__name__
        raise ValueError(f"expected {_EXPECTED}, found {found}")
    if seconds < 0 or math.isnan(seconds):
        raise ValueError(f"a duration cannot be {value!r}")
    if seconds > LONGEST_S:
        raise ValueError("longer than 100 years")
    return seconds


def written(seconds: float) -> str:
    """*seconds* as it can be written, to the millisecond: `1h30m`, `0.5s`."""
    rest = round(seconds * 1000)
    found = ""
    for unit in ("d", "h", "m"):
        number, rest = divmod(rest, round(_UNITS[unit] * 1000))
        found += f"{number}{unit}" if number else ""
    return found + f"{rest / 1000:.10g}s" if rest or not found else found


def _sum_of_parts(text: str) -> float:
    rest = text.strip()
    seconds = 0.0
    smaller_than = math.inf
    while part := _PART.match(rest):
        unit = _UNITS[part[2]]
        # "30m2h" and "1m1m" are typing errors more often than sums.
        if unit >= smaller_than:
            break
        seconds += float(part[1]) * unit
        smaller_than = unit
        rest = rest[part.end() :]
    if rest or smaller_than == math.inf:
        raise ValueError(f"expected {_EXPECTED}, found {text[:40]!r}")
    return seconds
