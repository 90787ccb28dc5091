"""What is known of the processes of one experiment by name: parameters, and values of results.

Read when it is asked for, and no more than is asked for: where an experiment is aggregated, one
file has it all; of any other, each result is read where no parameter answers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError, ResultInvalidError
from holdfast.lifecycle.records import ExperimentState, ResultRef
from holdfast.reading.cells import flat
from holdfast.reading.conditions import MISSING
from holdfast.reading.evidence import parameters
from holdfast.results import acceptance, aggregation, rows
from holdfast.results.averages import BARE, statistics_of
from holdfast.results.outline import Elided
from holdfast.status import ExperimentStatus

__all__ = ["Facts", "Process", "facts"]


class Process:
    """One process: its parameters, and what its result has, by the names that tables give them."""

    def __init__(self, params: Mapping[str, Any], result: Callable[[], Mapping[str, Any]]) -> None:
        self.params = params
        self._result = result

    @cached_property
    def result(self) -> Mapping[str, Any]:
        """Empty where there is none, or none that can be read."""
        return self._result()

    def value(self, name: str) -> Any:
        """What *name* is: a parameter, else a value of the result; MISSING if it is neither.

        `params.NAME` and `result.NAME` say which of both is meant.
        """
        found: Any = self.params.get(name, MISSING)
        if found is MISSING and name.startswith("params."):
            found = self.params.get(name.removeprefix("params."), MISSING)
        if found is MISSING:
            found = self.result.get(name, MISSING)
        if found is MISSING and name.startswith("result."):
            found = self.result.get(name.removeprefix("result."), MISSING)
        # Of a long text or list only the beginning is at hand.
        return MISSING if isinstance(found, Elided) else found


class Facts:
    """All processes of one experiment."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self.processes = processes

    def typical(self, name: str) -> Any:
        """What stands for *name* of all processes: the mean of its numbers that are finite.

        Without a number, what all that have it agree on; else MISSING.
        """
        found = [value for each in self.processes if (value := each.value(name)) is not MISSING]
        numbers = [each for each in found if type(each) in (int, float)]
        if numbers:
            mean = statistics_of(numbers).get(BARE, {}).get("mean")
            return numbers[0] if mean is None else mean
        first = next(iter(found), MISSING)
        return first if all(each == first for each in found) else MISSING

    def different(self, name: str) -> list[Any]:
        """All that processes have of *name*, each once, in the order of the processes."""
        found: list[Any] = []
        known: set[str] = set()
        for each in self.processes:
            value = each.value(name)
            if value is not MISSING and (as_key := f"{type(value)} {value}") not in known:
                known.add(as_key)
                found.append(value)
        return found

    def names(self) -> Iterator[str]:
        """What there is to ask for; several times what several processes have."""
        for each in self.processes:
            yield from each.params
            yield from each.result


def facts(load: Callable[[], ExperimentState], status: ExperimentStatus, folder: Path) -> Facts:
    """What there is of an experiment of that *status*.

    Args:
        load: Its whole state, which is not needed where an aggregate tells everything.

    Raises:
        HoldfastError: It cannot be read, or is no more.
    """
    if status is ExperimentStatus.AGGREGATED:
        try:
            aggregate = aggregation.read(folder)
        except HoldfastError:
            aggregate = None  # the results themselves are there
        if aggregate is not None:
            return Facts([_of_row(row) for row in rows.outlines(aggregate.get("rows"))])
    state = load()
    params = parameters(state) or [{}] * state.num_processes
    return Facts(
        [
            Process(params[index], partial(_read, folder, process.result))
            for index, process in state.process_progress.items()
        ]
    )


def _of_row(row: Mapping[str, Any]) -> Process:
    params = row.get("params")
    return Process(params if isinstance(params, Mapping) else {}, partial(_fields, row))


def _read(folder: Path, ref: ResultRef | None) -> Mapping[str, Any]:
    if ref is None:
        return {}
    try:
        if ref.size < acceptance.LARGE:
            return flat({"result": acceptance.load(folder, ref)})
        return flat({"result": acceptance.outlined(folder, ref).value})
    except (ResultInvalidError, ValueError):
        return {}  # lost, altered, or never valid, which the doctor tells


def _fields(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result in a row of an aggregate, in which null stands for what is not finite."""
    found = flat(row)
    named = row.get("nonfinite")
    for name, word in named.items() if isinstance(named, Mapping) else ():
        if name in found and word in ("NaN", "Infinity", "-Infinity"):
            found[name] = float(word)
    return found
