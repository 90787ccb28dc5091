"""Which engine a command works with: what was chosen, what has its attempts, what is stored."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

import attrs
import click

from holdfast.config import engine
from holdfast.engine_options import ENGINES, EngineName, EngineOptions
from holdfast.engines.contract import LOCAL
from holdfast.errors import HoldfastError, UnreadableStateWarning
from holdfast.reading.engines import handed_over

if TYPE_CHECKING:
    from holdfast.config.experiment_file import Experiment
    from holdfast.lifecycle.records import ExperimentState
    from holdfast.store.manager import StateManager

__all__ = ["Engines", "engine_of_work", "engine_option", "options_of", "stored_engines", "unused"]

_C = TypeVar("_C", bound=Callable[..., Any])


class Engines(NamedTuple):
    """What runs an experiment.

    Attributes:
        processes: The engine of its processes, and what is asked of that.
        aggregation: The same for the command of its aggregation.
    """

    processes: EngineOptions
    aggregation: EngineOptions

    @property
    def local(self) -> bool:
        """Whether this machine does both, by one engine."""
        return self.processes.name == LOCAL == self.aggregation.name

    @classmethod
    def of(cls, processes: EngineOptions, aggregates_on: EngineName) -> Self:
        """Both, with what is configured of either."""
        return cls(processes, engine.named(processes, aggregates_on))


def engine_option(about: str) -> Callable[[_C], _C]:
    """`--engine`, as `chosen`."""
    return click.option(
        "--engine", "chosen", type=click.Choice(ENGINES), metavar="NAME", help=about
    )


def unused(experiment: "Experiment", engines: Engines) -> str | None:
    """What to say of a file that says what to ask of an engine, and of none which one it is."""
    asked = (experiment.source.get("engine") or {}).keys() - _OF_THIS_MACHINE
    if not asked or engines.processes.name != LOCAL:
        return None
    listed = " and ".join(sorted(asked))
    return f"[engine] names no engine: this machine runs it, without regard to {listed}"


#: What may be said of an engine without a name, and counts here.
_OF_THIS_MACHINE: Final = frozenset({"name", "grace", "python"})


def options_of(state: "ExperimentState", chosen: EngineName | None = None) -> EngineOptions:
    """What goes on with *state*: what was *chosen*, else what has its attempts, else as stored."""
    options = engine.of(state.config)
    if chosen is None:
        having = handed_over(state)
        chosen = next((each for each in ENGINES if having and each == having.engine), None)
    return engine.named(options, chosen)


def stored_engines(
    manager: "StateManager",
    experiment_id: str,
    chosen: EngineName | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Engines:
    """What goes on with an experiment, as `options_of` has it.

    Args:
        changes: What changes of `[engine]`; what is wrong with it, its resume says.
    """
    with _quietly():
        state = manager.load(experiment_id)
    if changes:
        table = {**(state.config.get("engine") or {}), **changes}
        state = attrs.evolve(state, config={**state.config, "engine": table})
    return Engines.of(options_of(state, chosen), engine.of_aggregation(state.config))


def engine_of_work(
    manager: "StateManager", experiment: "Experiment", named: str | None
) -> EngineName | None:
    """The engine of what a run of *experiment* goes on with, where its file names none.

    Args:
        named: The id of that, where it was given.
    """
    if engine.is_named(experiment.source):
        return None
    from holdfast.orchestration.intent import of_work

    # What keeps it from being found, the run itself will tell, and better.
    with _quietly(), contextlib.suppress(HoldfastError):
        if named is not None:
            return stored_engines(manager, named).processes.name
        state = of_work(manager, experiment.config_hashes(manager.state_dir))
        return None if state is None else options_of(state).name
    return None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        # A view that lags behind is rewritten by who goes on with it.
        warnings.simplefilter("ignore", UnreadableStateWarning)
        yield
