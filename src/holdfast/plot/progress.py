"""What processes reported while they ran: one line for each, over their own steps or time."""

import math
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import InvalidRequestError
from holdfast.lifecycle.records import ExperimentState
from holdfast.plot import canvas
from holdfast.reading import curves, text
from holdfast.reading.curves import Curve
from holdfast.store.experiments import Experiments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["progress"]

#: Lines beyond that have no label of their own.
_MOST_LABELS: Final = 10
_AXES: Final = {"step": "step", "s": "time since the first report [s]", "report": "report"}


def progress(
    manager: Experiments,
    experiment: str | ExperimentState,
    y: str | None = None,
    *,
    most: int = 100,
    ax: "Axes | None" = None,
) -> "Axes":
    """Plot a value that processes reported over their steps; a failed process has a dashed line.

    Works while they run. Long reports have been cut down on the disk, and are thinned out here.

    Args:
        experiment: Its id or its state.
        y: The value; None for the one that most processes reported.
        most: At most so many processes.
        ax: Where to draw; None for a figure of its own.

    Raises:
        NotInstalledError: matplotlib is not installed.
        InvalidRequestError: Nobody reported *y*; says what they did.
        ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `manager.load`.
    """
    ax = canvas.axes_or_new(ax)
    state = canvas.loaded(manager, experiment)
    found = curves.curves(state, manager.folder(state.experiment_id), most=most)
    name = _value(found, y)
    shown = {index: curve for index, curve in found.items() if name in curve.lines}
    if not shown:
        canvas.title(ax, state)
        canvas.nothing(ax, "no process reported a number while it ran")
        return ax
    for index, curve in shown.items():
        _draw(ax, state, index, curve, name)
    scales = sorted({curve.x for curve in shown.values()})
    ax.set_ylabel(canvas.words(name))
    canvas.title(ax, state)
    left = state.num_processes - len(shown)
    trimmed = sum(curve.trimmed for curve in shown.values())
    every = text.count(state.num_processes, "process")
    canvas.below(
        ax,
        " or ".join(_AXES.get(each, each) for each in scales),
        f"{left:,} of {every} {'not shown' if len(found) >= most else 'reported none'}"
        if left
        else "",
        f"the beginning of {trimmed:,} may be missing" if trimmed else "",
    )
    if 1 < len(shown) <= _MOST_LABELS:
        ax.legend(title="process", fontsize="small")
    return ax


def _value(found: dict[int, Curve], asked: str | None) -> str:
    numbers: dict[str, int] = {}
    for curve in found.values():
        for name in curve.lines:
            numbers[name] = numbers.get(name, 0) + 1
    if asked is None:
        return max(numbers, key=lambda name: numbers[name], default="")
    if asked not in numbers:
        there = f"reported was {', '.join(numbers)}" if numbers else "nothing was reported"
        problem = f"is {asked!r:.80}, which nobody reported; {there}"
        raise InvalidRequestError("y", text.cut(problem, 1000))
    return asked


def _draw(ax: Any, state: ExperimentState, index: int, curve: Curve, name: str) -> None:
    # A line has a gap where its value is no number.
    points = [
        (x, y if canvas.drawable(y) else math.nan)
        for x, y in curve.lines[name]
        if canvas.drawable(x)
    ]
    if not points:
        return
    failed = state.processes[index].status == "failed"
    ax.plot(
        *zip(*points, strict=True),
        linestyle="--" if failed else "-",
        marker="." if len(points) < 3 else None,
        linewidth=1.0,
        color=canvas.COLOURS["failed"] if failed else None,
        label=f"{index} (failed)" if failed else str(index),
    )
