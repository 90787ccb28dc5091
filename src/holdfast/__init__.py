"""holdfast: crash-proof experiment lifecycles.

It runs the processes of an experiment, records every step of theirs so that no crash can lose one,
and picks up exactly where it stopped. Names are imported when they are first used: a reader of
states never pays for the machines, and nobody for the terminal.
"""

from holdfast.lifecycle import display
from holdfast.store import handing

# Type checkers know this name; importing it would cost `typing`, more than all the rest here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from holdfast import plot
    from holdfast.config.experiment_file import Experiment, load_config
    from holdfast.config.hashing import compute_config_hash
    from holdfast.diagrams import diagram
    from holdfast.engines.executor import ExecutorEngine
    from holdfast.engines.local.engine import LocalEngine
    from holdfast.errors import (
        AggregationError,
        AlreadyOwnedError,
        AmbiguousExperimentError,
        AttemptNotOverError,
        AttemptWarning,
        ClaimBusyError,
        ClaimClosedError,
        CodeChangedError,
        ConfigError,
        ConfigProblem,
        ConfigWarning,
        DiskError,
        DiskWarning,
        EngineError,
        EngineRefusedError,
        EngineWarning,
        ExperimentExistsError,
        ExperimentNotFoundError,
        HoldfastError,
        InvalidIdError,
        InvalidRequestError,
        InvalidTransitionError,
        NoLocksWarning,
        NotInstalledError,
        ObserverWarning,
        OwnershipLostError,
        Refusal,
        ResultInvalidError,
        ResultLostError,
        SchemaTooNewError,
        SlotWarning,
        StaleStateError,
        StateCorruptError,
        StateReadError,
        StateWriteError,
        UnknownLivenessError,
        UnreadableStateWarning,
        UnsupportedPlatformError,
        UntrustedPlaceError,
        WorkerError,
        WorkingDirectoryGoneError,
    )
    from holdfast.identity import ProcessIdentity, Verdict
    from holdfast.ids import sanitize_experiment_id
    from holdfast.lifecycle.events import Requested
    from holdfast.lifecycle.machines import ExperimentMachine, ProcessMachine
    from holdfast.lifecycle.records import ExperimentState, ProcessProgress
    from holdfast.orchestration.orchestrator import Orchestrator, Outcome
    from holdfast.status import ExperimentStatus, ProcessStatus, Reason
    from holdfast.store.claim import Claim
    from holdfast.store.history import Transition
    from holdfast.store.manager import StateManager
    from holdfast.worker import process

__all__ = [
    "AggregationError",
    "AlreadyOwnedError",
    "AmbiguousExperimentError",
    "AttemptNotOverError",
    "AttemptWarning",
    "Claim",
    "ClaimBusyError",
    "ClaimClosedError",
    "CodeChangedError",
    "ConfigError",
    "ConfigProblem",
    "ConfigWarning",
    "DiskError",
    "DiskWarning",
    "EngineError",
    "EngineRefusedError",
    "EngineWarning",
    "ExecutorEngine",
    "Experiment",
    "ExperimentExistsError",
    "ExperimentMachine",
    "ExperimentNotFoundError",
    "ExperimentState",
    "ExperimentStatus",
    "HoldfastError",
    "InvalidIdError",
    "InvalidRequestError",
    "InvalidTransitionError",
    "LocalEngine",
    "NoLocksWarning",
    "NotInstalledError",
    "ObserverWarning",
    "Orchestrator",
    "Outcome",
    "OwnershipLostError",
    "ProcessIdentity",
    "ProcessMachine",
    "ProcessProgress",
    "ProcessStatus",
    "Reason",
    "Refusal",
    "Requested",
    "ResultInvalidError",
    "ResultLostError",
    "SchemaTooNewError",
    "SlotWarning",
    "StaleStateError",
    "StateCorruptError",
    "StateManager",
    "StateReadError",
    "StateWriteError",
    "Transition",
    "UnknownLivenessError",
    "UnreadableStateWarning",
    "UnsupportedPlatformError",
    "UntrustedPlaceError",
    "Verdict",
    "WorkerError",
    "WorkingDirectoryGoneError",
    "__version__",
    "compute_config_hash",
    "diagram",
    "load_config",
    "plot",
    "process",
    "sanitize_experiment_id",
]

__version__ = "0.1.0"

# Everything that is not here is an error and lives in `holdfast.errors`.
_HOMES = {
    "Claim": "store.claim",
    "ExecutorEngine": "engines.executor",
    "Experiment": "config.experiment_file",
    "ExperimentMachine": "lifecycle.machines",
    "ExperimentState": "lifecycle.records",
    "ExperimentStatus": "status",
    "LocalEngine": "engines.local.engine",
    "Orchestrator": "orchestration.orchestrator",
    "Outcome": "orchestration.orchestrator",
    "ProcessIdentity": "identity",
    "ProcessMachine": "lifecycle.machines",
    "ProcessProgress": "lifecycle.records",
    "ProcessStatus": "status",
    "Reason": "status",
    "Requested": "lifecycle.events",
    "StateManager": "store.manager",
    "Transition": "store.history",
    "Verdict": "identity",
    "compute_config_hash": "config.hashing",
    "diagram": "diagrams",
    "load_config": "config.experiment_file",
    "process": "worker",
    "sanitize_experiment_id": "ids",
}


def _paint(entity: "Any", words: str, aggregate: "Any", folder: "Any") -> dict[str, str]:
    from html import escape

    from holdfast import diagrams  # whoever only reads pays for no picture
    from holdfast.reading import shown

    details = shown.details(entity, aggregate, folder)
    if not diagrams.can_draw(entity):
        return {"text/html": f"<p>{escape(words)}</p>{details}"}
    return {
        "text/html": diagrams.html(entity, words, details),
        "image/svg+xml": diagrams.diagram(entity),
    }


def _follow(look: "Any", folder: "Any", *, whole: bool) -> "Any":
    from sys import modules

    if "IPython" not in modules:
        from contextlib import nullcontext

        return nullcontext()
    from holdfast.reading import kernel

    return kernel.following(look, folder, whole=whole)


def _hand_over(manager: "Any", experiment: "Any", form: str) -> "Any":
    from holdfast.reading import frames

    return frames.made(manager, experiment, form)


display.painter = _paint
display.follower = _follow
handing.maker = _hand_over


if not TYPE_CHECKING:  # A checker would take every misspelt import for an object.

    def __getattr__(name: str) -> object:
        # Tools probe for dunder names (`__path__`, `__wrapped__`); those must not load anything.
        if name.startswith("_") or name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        if name == "plot":
            # A room of its own, and its attribute from now on.
            return import_module("holdfast.plot")
        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
