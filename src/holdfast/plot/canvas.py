"""What every plot is drawn on, and in: axes, colours, words that are harmless to matplotlib."""

from collections.abc import Mapping
from typing import Any, Final

from holdfast.errors import printable
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import text
from holdfast.reading.frames import library
from holdfast.reading.kernel import in_notebook
from holdfast.store.experiments import Experiments

__all__ = ["COLOURS", "axes_or_new", "below", "drawable", "loaded", "nothing", "title", "words"]

#: Okabe and Ito's, which colour-blind people can tell from each other; by outcome.
COLOURS: Final[Mapping[str, str]] = {
    "completed": "#009E73",
    "failed": "#D55E00",
    "interrupted": "#E69F00",
    "running": "#0072B2",
    "queued": "#BBBBBB",
    "reused": "#56B4E9",
}

_LONGEST: Final = 60
#: Beyond that, matplotlib's own arithmetic overflows.
_MOST: Final = 1e100


def axes_or_new(ax: Any | None) -> Any:
    """*ax*, or the axes of a new figure.

    In a notebook that figure is one of pyplot's, which the notebook shows. Elsewhere nobody but the
    axes knows it: a script that makes a thousand plots keeps none of them.

    Raises:
        NotInstalledError: matplotlib is not installed.
    """
    library("plot")
    if ax is not None:
        return ax
    if in_notebook():
        from matplotlib import pyplot

        return pyplot.figure(layout="constrained").add_subplot()
    from matplotlib.figure import Figure

    return Figure(layout="constrained").add_subplot()


def loaded(manager: Experiments, experiment: str | ExperimentState) -> ExperimentState:
    """The state of *experiment*: its own, or that of this id."""
    return experiment if isinstance(experiment, ExperimentState) else manager.load(experiment)


def drawable(value: float | None) -> bool:
    """Whether *value* is a number that has a place on an axis."""
    return value is not None and -_MOST < value < _MOST


def words(label: object) -> str:
    """*label* as matplotlib writes it: a `$` begins a formula there."""
    return text.cut(printable(label).replace("\n", " "), _LONGEST).replace("$", r"\$")


def title(ax: Any, state: ExperimentState) -> None:
    """Name the experiment above *ax*."""
    name = state.name or state.experiment_id
    own = name if name == state.experiment_id else f"{name} ({state.experiment_id})"
    ax.set_title(words(own), fontsize="medium")


def nothing(ax: Any, sentence: str) -> None:
    """Say in the middle of *ax* why there is nothing in it."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(0.5, 0.5, sentence, ha="center", va="center", transform=ax.transAxes, color="0.35")


def below(ax: Any, label: str, *sentences: str) -> None:
    """Name the x axis of *ax* and say under it what is not shown, as far as there is anything."""
    said = "; ".join(each for each in sentences if each)
    ax.set_xlabel(f"{label}\n{said}" if said else label)
