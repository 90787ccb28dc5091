"""Attempts over time, one line for each process: what waited, ran, failed, was interrupted."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from holdfast.lifecycle.records import ExperimentState
from holdfast.plot import canvas
from holdfast.reading import spans, text, times
from holdfast.reading.engines import handed_over
from holdfast.reading.outliving import outlived
from holdfast.store.experiments import Experiments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["timeline"]

_UNITS: Final = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_HATCHES: Final = {"queued": "////", "interrupted": "xx", "running": ".."}
_BAR: Final = 0.8
#: Failed attempts that are few enough to be marked large.
_FEW: Final = 50


def timeline(
    manager: Experiments, experiment: str | ExperimentState, *, ax: "Axes | None" = None
) -> "Axes":
    """Plot all attempts over time: one row per process, coloured and hatched by how they ended.

    Time in a queue is hatched. What runs goes on to this moment, or to where it was last heard of
    if nobody drives it; what another experiment did is a mark.

    Args:
        experiment: Its id or its state.
        ax: Where to draw; None for a figure of its own.

    Raises:
        NotInstalledError: matplotlib is not installed.
        ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `manager.load`.
    """
    ax = canvas.axes_or_new(ax)
    from matplotlib.ticker import MaxNLocator

    state = canvas.loaded(manager, experiment)
    found = spans.spans(state, manager.folder(state.experiment_id))
    until = _until(manager, state)
    bars = [bar for span in found for bar in _bars(span, until)]
    if not bars:
        canvas.title(ax, state)
        canvas.nothing(ax, "no attempt has begun")
        return ax
    begin = min(start for _, _, start, _ in bars)
    end = max(end for _, _, _, end in bars)
    unit, unit_name = _unit((end - begin).total_seconds())
    for outcome in canvas.COLOURS:
        own = [
            (index, (start - begin).total_seconds() / unit, (stop - begin).total_seconds() / unit)
            for index, kind, start, stop in bars
            if kind == outcome
        ]
        if own:
            _draw(ax, outcome, own)
    span = (end - begin).total_seconds() / unit or 1.0
    ax.set_xlim(-0.01 * span, 1.01 * span)
    ax.set_ylim(state.num_processes - 0.5, -0.5)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("process")
    canvas.title(ax, state)
    without = state.num_processes - len({span.index for span in found})
    since = f"{unit_name} since {begin.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    missing = f"{text.count(without, 'process')} without an attempt" if without else ""
    canvas.below(ax, since, missing)
    ax.legend(fontsize="small", title="attempts", loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def _until(manager: Experiments, state: ExperimentState) -> datetime:
    """Where attempts without an end are drawn to."""
    now = datetime.now(UTC)
    on, left = False, None
    if state.status == "running":
        folder = manager.folder(state.experiment_id)
        having = handed_over(state, folder)
        living = manager.liveness(state.experiment_id)
        on = times.goes_on(state, living, having)
        left = outlived(state, folder, living, having, now)
    return times.known_until(state, now, on=on, left=left)


def _bars(span: spans.Span, until: datetime) -> list[tuple[int, str, datetime, datetime]]:
    """What a span looks like: its time in a queue, and what came of it."""
    found = []
    began = span.started_at
    if span.submitted_at is not None:
        waited_until = began or span.ended_at or max(until, span.submitted_at)
        found.append((span.index, "queued", span.submitted_at, waited_until))
    if span.outcome == "queued":
        return found
    start = began or span.ended_at
    if start is not None:
        found.append((span.index, str(span.outcome), start, span.ended_at or max(until, start)))
    return found


def _unit(seconds: float) -> tuple[float, str]:
    return next(((size, name) for size, name in _UNITS if seconds >= 2 * size), _UNITS[-1])


def _draw(ax: Any, outcome: str, bars: Sequence[tuple[int, float, float]]) -> None:
    from matplotlib.collections import PolyCollection

    low, high = -_BAR / 2, _BAR / 2
    corners = [
        [(start, index + low), (stop, index + low), (stop, index + high), (start, index + high)]
        for index, start, stop in bars
    ]
    # One collection: ten thousand bars of their own take a minute to draw.
    ax.add_collection(
        PolyCollection(
            corners,
            facecolor=canvas.COLOURS[outcome],
            edgecolor="black" if outcome in _HATCHES else canvas.COLOURS[outcome],
            hatch=_HATCHES.get(outcome),
            linewidth=0.3,
            label=f"{outcome} ({len(bars):,})",
        )
    )
    if outcome == "failed":
        # Colour is not all that tells it, and among thousands a bar is thinner than a pixel.
        ends = [(stop, index) for index, _, stop in bars]
        size = 14 if len(ends) <= _FEW else 3
        ax.scatter(*zip(*ends, strict=True), marker="x", s=size, linewidths=0.8, color="black")
