"""A result against a parameter: every process, and the mean where several have the same."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import InvalidRequestError
from holdfast.lifecycle.records import ExperimentState
from holdfast.plot import canvas
from holdfast.reading import records, text
from holdfast.reading.records import Column, Kind, Record
from holdfast.store.experiments import Experiments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["results"]

_NUMBERS: Final = frozenset[Kind]({"integer", "number", "duration"})
#: More values of a text than that are no axis.
_MOST_NAMES: Final = 40
_MOST_UPRIGHT: Final = 4
_UNITS: Final = {"duration": "s"}


def results(
    manager: Experiments,
    experiment: str | ExperimentState,
    x: str | None = None,
    y: str | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Plot a result against a parameter: one point per process, mean and spread over repeats.

    Processes that failed are marked at the lower edge, at their parameter; a note says what else is
    missing. A parameter that spans two decades or more has a logarithmic axis.

    Args:
        experiment: Its id or its state.
        x: A parameter, or any column of `manager.to_records`; None for the first parameter that
            varies, and the index if none does.
        y: A result, or any column of numbers; None for the first result that is a number.
        ax: Where to draw; None for a figure of its own, which is `.figure` of what is returned.

    Example:
        >>> holdfast.plot.results(manager, "exp_7", x="lr", y="accuracy").figure.savefig("a.png")

    Raises:
        NotInstalledError: matplotlib is not installed.
        InvalidRequestError: There is no such column, or *y* is none of numbers; says which are.
        ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `manager.load`.
    """
    ax = canvas.axes_or_new(ax)
    state = canvas.loaded(manager, experiment)
    found = records.table(state, manager.folder(state.experiment_id))
    rows = [record for record, _ in found.parted()]
    kinds = dict(found.columns)
    across = _column("x", x, found.columns, "params") if x else _first_swept(kinds, rows)
    up = _column("y", y, found.columns, "result") if y else _first_number(kinds)
    if kinds[up] not in _NUMBERS:
        raise InvalidRequestError("y", f"{up} is no number: {_numbers(kinds)}")
    at = _positions(ax, across, kinds[across], rows)
    shown = [
        (place, float(row[up]))
        for place, row in zip(at, rows, strict=True)
        if place is not None and canvas.drawable(row[up])
    ]
    if shown:
        _draw(ax, shown, in_line=kinds[across] in _NUMBERS)
    failed = [row["status"] == "failed" for row in rows]
    marks = [place for place, lost in zip(at, failed, strict=True) if lost and place is not None]
    if marks:
        _mark_failed(ax, marks)
    ax.set_ylabel(_label(up, kinds[up]))
    canvas.title(ax, state)
    rest = len(rows) - len(shown) - sum(failed)
    canvas.below(
        ax,
        _label(across, kinds[across]),
        f"{sum(failed):,} of {text.count(len(rows), 'process')} failed" if any(failed) else "",
        f"{rest:,} without {canvas.words(_short(up))}" if rest > 0 else "",
    )
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small")
    return ax


def _draw(ax: Any, shown: Sequence[tuple[float, float]], *, in_line: bool) -> None:
    by_place: dict[float, list[float]] = {}
    for place, value in shown:
        by_place.setdefault(place, []).append(value)
    repeated = any(len(values) > 1 for values in by_place.values())
    ax.scatter(
        *zip(*shown, strict=True),
        s=18,
        color=canvas.COLOURS["running"],
        alpha=0.45 if repeated else 0.9,
        linewidths=0,
        label="process",
        zorder=3,
    )
    if not repeated:
        return
    places = sorted(by_place)
    means = [fmean(by_place[place]) for place in places]
    spread = [stdev(by_place[place]) if len(by_place[place]) > 1 else 0.0 for place in places]
    ax.errorbar(
        places,
        means,
        yerr=spread,
        color="black",
        marker="o",
        markersize=4,
        # Names have no order that a line could follow.
        linestyle="-" if in_line else "none",
        linewidth=1.2,
        capsize=3,
        label="mean ± standard deviation",
        zorder=4,
    )


def _mark_failed(ax: Any, places: Sequence[float]) -> None:
    ax.plot(
        places,
        [0.02] * len(places),
        linestyle="none",
        marker="x",
        color=canvas.COLOURS["failed"],
        transform=ax.get_xaxis_transform(),
        label="failed",
        clip_on=False,
    )


def _positions(ax: Any, name: str, kind: Kind, rows: Sequence[Record]) -> list[float | None]:
    """Where each row is along x; sets up that axis."""
    values = [row[name] for row in rows]
    if kind in _NUMBERS:
        numbers = [float(each) if canvas.drawable(each) else None for each in values]
        there = [each for each in numbers if each is not None]
        if there and min(there) > 0 and max(there) / min(there) >= 100:
            ax.set_xscale("log")
        return numbers
    if kind == "time":
        from matplotlib.dates import date2num

        ax.xaxis_date()
        return [None if each is None else float(date2num(each)) for each in values]
    spelt = [None if each is None else _name(each) for each in values]
    names = list(dict.fromkeys(each for each in spelt if each is not None))
    if len(names) > _MOST_NAMES:
        problem = f"{name} has {len(names):,} values that are no numbers; {_MOST_NAMES} have room"
        raise InvalidRequestError("x", problem)
    slanted = {"rotation": 30, "ha": "right"} if len(names) > _MOST_UPRIGHT else {}
    ax.set_xticks(range(len(names)), names, **slanted)
    return [None if each is None else float(names.index(each)) for each in spelt]


def _name(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return canvas.words(text.cut(str(value), 30))


def _first_swept(kinds: Mapping[str, Kind], rows: Sequence[Record]) -> str:
    swept = [
        name
        for name in kinds
        if name.startswith("params.") and len({repr(row[name]) for row in rows}) > 1
    ]
    # Seeds vary most and say least.
    swept.sort(key=lambda name: (kinds[name] not in _NUMBERS, name.endswith("seed")))
    return swept[0] if swept else "index"


def _first_number(kinds: Mapping[str, Kind]) -> str:
    for name, kind in kinds.items():
        if name.startswith("result.") and kind in _NUMBERS:
            return name
    raise InvalidRequestError("y", f"has no choice, as no result is a number: {_numbers(kinds)}")


def _column(which: str, asked: str, columns: Sequence[Column], first: str) -> str:
    """The column that *asked* names, with or without its prefix."""
    names = [column.name for column in columns]
    other = "result" if first == "params" else "params"
    for name in (f"{first}.{asked}", asked, f"{other}.{asked}"):
        if name in names:
            return name
    short = {_short(name): name for name in names}
    close = difflib.get_close_matches(asked, list(dict.fromkeys([*short, *names])), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
    raise InvalidRequestError(
        which, text.cut(f"is {asked!r:.80}, which is no column; {hint}", 1000)
    )


def _numbers(kinds: Mapping[str, Kind]) -> str:
    return _listed(name for name, kind in kinds.items() if kind in _NUMBERS)


def _listed(names: Iterable[str]) -> str:
    return text.cut(f"numbers are {', '.join(names)}", 1000)


def _short(name: str) -> str:
    return name.removeprefix("params.").removeprefix("result.")


def _label(name: str, kind: Kind) -> str:
    unit = _UNITS.get(kind) or ("bytes" if name.endswith("_bytes") else "")
    short = _short(name)
    if unit:
        short = short.removesuffix("_s").removesuffix("_bytes")
    return canvas.words(short) + (f" [{unit}]" if unit else "")
