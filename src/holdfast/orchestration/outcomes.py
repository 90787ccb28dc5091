"""How a run ended: for people, for shells, and what to type next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.encoding import local
from holdfast.lifecycle.records import ExperimentState, summarise
from holdfast.orchestration.takeover import lost_results as _lost_results
from holdfast.status import ExperimentStatus

__all__ = [
    "NOTHING_INHERITED",
    "Inherited",
    "Outcome",
    "aggregated",
    "anew",
    "lost_results",
    "shown",
    "unfinished",
]

#: Exit codes: everything done; ended with failed processes (or a failed aggregation); something
#: that cannot be judged was left as it is.
_DONE: Final = 0
_FAILED: Final = 3
_BLOCKED: Final = 5

_DEFAULT_STATE_DIR: Final = Path(".experiment_state")


@attrs.frozen(kw_only=True)
class Inherited:
    """What of an experiment was not begun by the call that ended it.

    Attributes:
        skipped: Processes that were completed before and were not run again.
        adopted: Outcomes and running processes taken over from an orchestrator that died.
        running: How many of these ran.
    """

    skipped: int = 0
    adopted: int = 0
    running: int = 0


NOTHING_INHERITED: Final = Inherited()


@attrs.frozen(kw_only=True)
class Outcome:
    """How a run, resume or aggregation ended.

    Attributes:
        aggregate: What `aggregate.json` holds; None if it did not come to that.
        exit_code: 0 done or nothing to do, 3 something failed, 5 attempts that cannot be judged
            were left as they are, 130 SIGINT, 143 SIGTERM.
        message: One sentence for people.
        next_command: What to type to go on; None if nothing is left to do.
        inherited: What was not begun by this call.
        already_done: Whether everything was aggregated before this call.
        blocked: Attempts that were left as they are, each with the reason.
        lost: Processes whose results are lost, of an experiment whose aggregate is missing, too:
            nothing but a new run makes them again.
    """

    state: ExperimentState
    aggregate: Mapping[str, Any] | None = None
    exit_code: int = _DONE
    message: str
    next_command: str | None = None
    inherited: Inherited = NOTHING_INHERITED
    already_done: bool = False
    blocked: Mapping[str, str] = attrs.field(factory=dict)
    lost: tuple[int, ...] = ()

    @property
    def skipped(self) -> int:
        """Processes that were completed before and were not run again."""
        return self.inherited.skipped

    @property
    def adopted(self) -> int:
        """Outcomes and running processes taken over from an orchestrator that died."""
        return self.inherited.adopted


def aggregated(
    state: ExperimentState, aggregate: Mapping[str, Any], inherited: Inherited
) -> Outcome:
    """The end that everything is done for."""
    return Outcome(
        state=state,
        aggregate=aggregate,
        message=f"{state.experiment_id}: {_processes(state)} completed and aggregated",
        inherited=inherited,
    )


def shown(
    state: ExperimentState,
    aggregate: Mapping[str, Any] | None,
    state_dir: Path,
    lost: Sequence[int] = (),
) -> Outcome:
    """The result of an experiment that was aggregated before.

    Args:
        lost: Where there is no *aggregate*: the processes whose results are gone, too.
    """
    told, again, exit_code = "nothing to do", None, _DONE
    if lost:
        count = f"{len(lost):,} of {_results(state)}"
        told = f"but aggregate.json is missing, and {count} are lost ({summarise(list(lost))})"
        again = _command(state_dir, *anew(state))
        exit_code = _FAILED
    elif aggregate is None:
        told = "but aggregate.json is missing"
        again = _command(state_dir, "aggregate", state.experiment_id)
    return Outcome(
        state=state,
        aggregate=aggregate,
        exit_code=exit_code,
        message=f"{state.experiment_id}: aggregated already, {told}",
        next_command=again,
        inherited=Inherited(skipped=state.processes_completed),
        already_done=True,
        lost=tuple(lost),
    )


def anew(state: ExperimentState) -> tuple[str, ...]:
    """The words of the command that makes a new experiment of the same work, as far as known."""
    file = None if state.config_path is None else local(state.config_path)
    if file is not None and Path(file).is_file():
        return ("run", "--fresh", file)
    command, number = state.config.get("command"), state.config.get("processes")
    if isinstance(command, list) and isinstance(number, int) and not state.config.get("env"):
        return ("run", "--fresh", "--procs", str(number), "--", *map(str, command))
    return ("run", "--fresh", "FILE")


def lost_results(state: ExperimentState, folder: Path) -> list[int]:
    """Processes of an aggregated experiment whose recorded results are missing or altered.

    Raises:
        StateReadError: One could not be read, so that nobody can tell.
    """
    # As if it were to be aggregated now: of one that is, nobody asks for its results.
    as_completed = attrs.evolve(state, status=ExperimentStatus.COMPLETED)
    return sorted(_lost_results(as_completed, folder))


def unfinished(
    state: ExperimentState,
    signalled: int,
    state_dir: Path,
    inherited: Inherited,
    *,
    blocked: Mapping[str, str],
) -> Outcome:
    """An end that leaves something to do.

    Args:
        signalled: The exit code of the signal that ended it; 0 if none did.
        blocked: Attempts that cannot be judged, and why.
    """
    verb, exit_code = "resume", signalled or (_BLOCKED if blocked else _DONE)
    count = f"{state.processes_completed:,} of {_processes(state)} completed"
    if state.status is ExperimentStatus.COMPLETED:
        verb = "aggregate"
        message = f"{count}, not aggregated"
    elif state.status is ExperimentStatus.FAILED:
        # Nothing is wrong with the processes: only the aggregation is to be tried again.
        verb = "aggregate" if state.can_aggregate() else "resume"
        exit_code = exit_code or _FAILED
        message = f"failed: {state.error_message}"
    else:
        why = f": {state.error_message}" if state.error_message else ""
        exit_code = exit_code or (_FAILED if why else _DONE)
        message = f"interrupted{why}; {count}"
    return Outcome(
        state=state,
        exit_code=exit_code,
        message=f"{state.experiment_id}: {message}",
        next_command=_command(state_dir, verb, state.experiment_id),
        inherited=inherited,
        blocked=blocked,
    )


def _command(state_dir: Path, *words: str) -> str:
    where = [] if state_dir == _DEFAULT_STATE_DIR else ["-C", str(state_dir)]
    return shlex.join(["holdfast", *where, *words])


def _results(state: ExperimentState) -> str:
    count = sum(process.result is not None for process in state.process_progress.values())
    return f"its {count:,} result" + ("" if count == 1 else "s")


def _processes(state: ExperimentState) -> str:
    return f"{state.num_processes:,} process" + ("" if state.num_processes == 1 else "es")
