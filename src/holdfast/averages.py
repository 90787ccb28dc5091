"""Count, mean, sample standard deviation, minimum and maximum of every numeric result field.

Formulas: mean = Σx / n; sd = √(Σ(x − mean)² / (n − 1)), the sample standard deviation with
Bessel's correction, as `statistics.stdev` and R's `sd` have it. Both sums are exact (`math.fsum`,
after Shewchuk 1997) and the deviation is computed in two passes (Chan, Golub and LeVeque 1983),
so that results that differ little from each other lose no digits.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

__all__ = ["BARE", "describe", "numeric_fields", "statistics_of"]

#: The field of results that are no objects but one bare number.
BARE: Final = "value"


def statistics_of(results: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The statistics of every field that is a number in at least one result.

    Fields inside objects have dotted names; elements of lists are not fields. A result that lacks
    a field, or has something else there (true and false are no numbers), does not count for it.
    """
    columns: dict[str, list[int | float]] = {}
    for result in results:
        if isinstance(result, Mapping):
            for field, number in numeric_fields(result):
                columns.setdefault(field, []).append(number)
        elif _is_number(result):
            columns.setdefault(BARE, []).append(result)
    return {field: describe(numbers) for field, numbers in columns.items()}


def numeric_fields(result: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """The numbers of one result with their dotted names, in order."""
    for key, value in result.items():
        # Quoted as in TOML, because `{"a.b": 1}` is not `{"a": {"b": 1}}`.
        name = json.dumps(key) if not key or "." in key or '"' in key else key
        if isinstance(value, Mapping):
            for inner, number in numeric_fields(value):
                yield f"{name}.{inner}", number
        elif _is_number(value):
            yield name, value


def _is_number(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    # JSON has integers beyond every float, of which no mean can be taken.
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def describe(numbers: Sequence[int | float]) -> dict[str, Any]:
    """The statistics of at least one number; `sd` is None for a single one."""
    low, high = min(numbers), max(numbers)
    # A power of two loses no digit, and keeps the squares of 1e300 and of 1e-300 within range.
    _, exponent = math.frexp(max(abs(float(low)), abs(float(high))))
    scaled = [math.ldexp(float(number), -exponent) for number in numbers]
    count = len(scaled)
    mean = math.fsum(scaled) / count
    sd = None
    if count > 1:
        squares = math.fsum((number - mean) ** 2 for number in scaled)
        sd = _unscaled(math.sqrt(squares / (count - 1)), exponent)
    # Rounding could leave the mean of equal numbers one digit below all of them.
    within = min(max(_unscaled(mean, exponent), float(low)), float(high))
    return {"count": count, "mean": within, "sd": sd, "min": low, "max": high}


def _unscaled(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        # Only the deviation of numbers near both ends of what a float holds gets here.
        return math.copysign(float.fromhex("0x1.fffffffffffffp+1023"), value)
