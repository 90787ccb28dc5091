"""How a run ended: for people, for shells, and what to type next."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus

__all__ = ["Outcome", "aggregated", "shown", "unfinished"]

#: Exit codes: everything done; ended with failed processes (or a failed aggregation).
_DONE: Final = 0
_FAILED: Final = 3

_DEFAULT_STATE_DIR: Final = Path(".experiment_state")


@attrs.frozen(kw_only=True)
class Outcome:
    """How a run, resume or aggregation ended.

    Attributes:
        aggregate: What `aggregate.json` holds; None if it did not come to that.
        exit_code: 0 done or nothing to do, 3 something failed, 130 SIGINT, 143 SIGTERM.
        message: One sentence for people.
        next_command: What to type to go on; None if nothing is left to do.
        skipped: Processes that were completed before and were not run again.
        adopted: Outcomes and running processes taken over from an orchestrator that died.
        already_done: Whether everything was aggregated before this call.
    """

    state: ExperimentState
    aggregate: Mapping[str, Any] | None = None
    exit_code: int = _DONE
    message: str
    next_command: str | None = None
    skipped: int = 0
    adopted: int = 0
    already_done: bool = False


def aggregated(
    state: ExperimentState, aggregate: Mapping[str, Any], *, skipped: int, adopted: int
) -> Outcome:
    """The end that everything is done for."""
    return Outcome(
        state=state,
        aggregate=aggregate,
        message=f"{state.experiment_id}: {_processes(state)} completed and aggregated",
        skipped=skipped,
        adopted=adopted,
    )


def shown(state: ExperimentState, aggregate: Mapping[str, Any] | None, state_dir: Path) -> Outcome:
    """The result of an experiment that was aggregated before."""
    told, again = "nothing to do", None
    if aggregate is None:
        told = "but aggregate.json is missing"
        again = _command(state_dir, "aggregate", state.experiment_id)
    return Outcome(
        state=state,
        aggregate=aggregate,
        message=f"{state.experiment_id}: aggregated already, {told}",
        next_command=again,
        skipped=state.processes_completed,
        already_done=True,
    )


def unfinished(
    state: ExperimentState, signalled: int, state_dir: Path, *, skipped: int, adopted: int
) -> Outcome:
    """An end that leaves something to do.

    Args:
        signalled: The exit code of the signal that ended it; 0 if none did.
    """
    verb, exit_code = "resume", signalled
    count = f"{state.processes_completed:,} of {_processes(state)} completed"
    if state.status is ExperimentStatus.COMPLETED:
        verb = "aggregate"
        message = f"{count}, not aggregated"
    elif state.status is ExperimentStatus.FAILED:
        # Nothing is wrong with the processes: only the aggregation is to be tried again.
        verb = "aggregate" if state.can_aggregate() else "resume"
        exit_code = signalled or _FAILED
        message = f"failed: {state.error_message}"
    else:
        message = f"interrupted; {count}"
    return Outcome(
        state=state,
        exit_code=exit_code,
        message=f"{state.experiment_id}: {message}",
        next_command=_command(state_dir, verb, state.experiment_id),
        skipped=skipped,
        adopted=adopted,
    )


def _command(state_dir: Path, verb: str, experiment_id: str) -> str:
    where = [] if state_dir == _DEFAULT_STATE_DIR else ["-C", str(state_dir)]
    return shlex.join(["holdfast", *where, verb, experiment_id])


def _processes(state: ExperimentState) -> str:
    return f"{state.num_processes:,} process" + ("" if state.num_processes == 1 else "es")
