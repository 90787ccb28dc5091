"""Count, mean, sample standard deviation, minimum and maximum of every numeric result field.

Formulas: mean = Σx / n; sd = √(Σ(x − mean)² / (n − 1)), the sample standard deviation with
Bessel's correction, as `statistics.stdev` and R's `sd` have it. Both sums are exact (`math.fsum`,
after Shewchuk 1997) and the deviation is computed in two passes (Chan, Golub and LeVeque 1983),
so that results that differ little from each other lose no digits.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from holdfast.store.strictjson import field_name

__all__ = ["BARE", "Statistics", "describe", "numeric_fields", "statistics_of"]

#: The field of results that are no objects but one bare number.
BARE: Final = "value"


def statistics_of(results: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The statistics of every field that is a number in at least one result.

    Fields inside objects have dotted names; elements of lists are not fields. A result that lacks
    a field, or has something else there (true and false are no numbers), does not count for it.
    NaN and the infinities are counted apart, as `nonfinite`, which is there only if there are any.
    """
    found = Statistics()
    for result in results:
        found.add(result)
    return found.described()


class Statistics:
    """`statistics_of` results that come one by one, of which only the numbers are kept."""

    def __init__(self) -> None:
        self._columns: dict[str, list[int | float]] = {}
        self._apart: dict[str, int] = {}

    def add(self, result: Any) -> None:
        """Count one more result."""
        if isinstance(result, Mapping):
            for field, number in numeric_fields(result):
                self._count(field, number)
        elif _is_number(result):
            self._count(BARE, result)

    def _count(self, field: str, number: int | float) -> None:
        column = self._columns.setdefault(field, [])
        if type(number) is int or math.isfinite(number):
            column.append(number)
        else:
            self._apart[field] = self._apart.get(field, 0) + 1

    def described(self) -> dict[str, dict[str, Any]]:
        """The statistics of every field."""
        apart = self._apart
        return {
            field: describe(numbers) | ({"nonfinite": apart[field]} if field in apart else {})
            for field, numbers in self._columns.items()
        }


def numeric_fields(result: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """The numbers of one result with their dotted names, in order; NaN and infinities, too."""
    for key, value in result.items():
        name = field_name(key)
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
        float(value)
    except OverflowError:
        return False
    return True


def describe(numbers: Sequence[int | float]) -> dict[str, Any]:
    """The statistics of finite *numbers*: of none all are None, of a single one its `sd` is."""
    if not numbers:
        return {"count": 0, "mean": None, "sd": None, "min": None, "max": None}
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
