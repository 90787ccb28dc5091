"""How a run ended: the facts, and one sentence for people."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Any, Final

import attrs

from holdfast.lifecycle import display
from holdfast.lifecycle.records import ExperimentState, summarise
from holdfast.orchestration.selecting import Selection
from holdfast.status import ENGINE_TITLES, ExperimentStatus, ProcessStatus, Reason

__all__ = [
    "NOTHING_INHERITED",
    "Inherited",
    "Outcome",
    "aggregated",
    "idle",
    "shown",
    "unfinished",
]


@attrs.frozen(kw_only=True)
class Inherited:
    """What of an experiment was not begun by the call that ended it.

    Attributes:
        skipped: Processes that were completed before and were not run again.
        adopted: Outcomes and running processes taken over from an orchestrator that died.
        running: How many of these ran.
        reused: Processes that were completed by what other experiments did.
        held: Processes that it was not to start, and that are not completed.
    """

    skipped: int = 0
    adopted: int = 0
    running: int = 0
    reused: int = 0
    held: frozenset[int] = frozenset()


NOTHING_INHERITED: Final = Inherited()


@attrs.frozen(kw_only=True)
class Outcome:
    """How a run, resume or aggregation ended.

    Attributes:
        aggregate: What `aggregate.json` holds; None if it did not come to that.
        signal: What ended it, SIGINT or SIGTERM; None if neither did.
        stopped: Whether a request ended it, or part of it.
        message: One sentence for people.
        inherited: What was not begun by this call.
        already_done: Whether everything was aggregated before this call.
        idle: Whether nothing was left to do of what it was asked for: the experiment was not
            touched.
        blocked: Attempts that were left as they are, each with the reason.
        left: How many attempts are left to the engine, which goes on without this program: the
            experiment is still `running`.
        engine: Whose they are.
        lost: Processes whose results are lost, of an experiment whose aggregate is missing, too:
            nothing but a new run makes them again.
        folder: The experiment's, where a notebook finds what failed processes said; None if this
            call had nothing to run.
    """

    state: ExperimentState
    aggregate: Mapping[str, Any] | None = None
    signal: Signals | None = None
    stopped: bool = False
    message: str
    inherited: Inherited = NOTHING_INHERITED
    already_done: bool = False
    idle: bool = False
    blocked: Mapping[str, str] = attrs.field(factory=dict)
    left: int = 0
    engine: str = "local"
    lost: tuple[int, ...] = ()
    folder: Path | None = attrs.field(default=None, eq=False, repr=False)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return display.shown(self.state, self.message, self.aggregate, self.folder)

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_()["text/html"]

    @property
    def failed(self) -> bool:
        """Whether something went wrong that nobody asked for, and was not done in the end."""
        state = self.state
        if self.idle:
            return False
        if state.status is ExperimentStatus.FAILED:
            return not _was_left_failed(state, self.inherited.held)
        # What somebody held back was not to be done.
        unasked = state.error_message and state.reason is not Reason.USER
        return bool(self.lost or (state.status is ExperimentStatus.INTERRUPTED and unasked))

    @property
    def ok(self) -> bool:
        """Whether nothing failed, was left as it is, or was ended by a signal or a request."""
        return not (self.failed or self.blocked or self.signal or self.stopped)

    @property
    def skipped(self) -> int:
        """Processes that were completed before and were not run again."""
        return self.inherited.skipped

    @property
    def adopted(self) -> int:
        """Outcomes and running processes taken over from an orchestrator that died."""
        return self.inherited.adopted

    @property
    def reused(self) -> int:
        """Processes that were completed by what other experiments had finished."""
        return self.inherited.reused

    @property
    def held(self) -> tuple[int, ...]:
        """Processes that were held back, and are not completed; ascending."""
        table = self.state.processes
        done = set(table.indices(ProcessStatus.COMPLETED)) if self.inherited.held else set()
        return tuple(sorted(self.inherited.held - done))


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
    state: ExperimentState, aggregate: Mapping[str, Any] | None, lost: Sequence[int] = ()
) -> Outcome:
    """The result of an experiment that was aggregated before.

    Args:
        lost: Where there is no *aggregate*: the processes whose results are gone, too.
    """
    told = "nothing to do"
    if lost:
        count = f"{len(lost):,} of {_results(state)}"
        told = f"but aggregate.json is missing, and {count} are lost ({summarise(list(lost))})"
    elif aggregate is None:
        told = "but aggregate.json is missing"
    return Outcome(
        state=state,
        aggregate=aggregate,
        message=f"{state.experiment_id}: aggregated already, {told}",
        inherited=Inherited(skipped=state.processes_completed),
        already_done=True,
        lost=tuple(lost),
    )


def idle(state: ExperimentState, selection: Selection) -> Outcome:
    """Nothing of what was selected is left to do."""
    failed = state.processes.indices(ProcessStatus.FAILED)
    named = sorted(selection.only or ())
    if not selection.failed_only:
        what = f"{_named(named)} {'is' if len(named) == 1 else 'are'} completed"
    elif failed:
        has, others = ("has" if len(each) == 1 else "have" for each in (named, failed))
        what = f"{_named(named)} {has} not failed ({_named(failed)} {others})"
    elif state.status is ExperimentStatus.FAILED:
        what = f"no process has failed ({state.error_message})"
    else:
        what = f"no process has failed{_waiting(state)}"
    message = f"{state.experiment_id}: nothing to do: {what}; {_completed(state)}"
    return Outcome(state=state, message=message, idle=True)


def unfinished(
    state: ExperimentState,
    signalled: Signals | None,
    inherited: Inherited,
    *,
    blocked: Mapping[str, str],
    stopped: bool = False,
    left: int = 0,
    untaken: int = 0,
    engine: str = "local",
) -> Outcome:
    """An end that leaves something to do.

    Args:
        signalled: The signal that ended it.
        stopped: Whether a request did.
        blocked: Attempts that cannot be judged, and why.
        left: How many attempts are left to *engine*.
        untaken: How many it was given, and its scheduler may not have.
    """
    count = _completed(state)
    if left or untaken:
        message = f"{_left(state, left, untaken, engine)}; {count}"
    elif state.status is ExperimentStatus.COMPLETED:
        message = f"{count}, not aggregated"
    elif state.status is ExperimentStatus.FAILED:
        message = f"failed: {state.error_message}"
        if _was_left_failed(state, inherited.held):
            failed = state.processes.indices(ProcessStatus.FAILED)
            message = f"{count}; failed before, and held back: {_named(failed)}"
    else:
        why = f": {state.error_message}" if state.error_message else ""
        never = state.status is ExperimentStatus.INITIALISED
        message = f"{'ended before it started' if never else 'interrupted'}{why}; {count}"
    return Outcome(
        state=state,
        signal=signalled,
        stopped=stopped,
        message=f"{state.experiment_id}: {message}",
        inherited=inherited,
        blocked=blocked,
        left=left,
        engine=engine,
    )


def _left(state: ExperimentState, left: int, untaken: int, engine: str) -> str:
    attempts = "1 attempt is" if left == 1 else f"{left:,} attempts are"
    waits = state.processes_pending
    rest = (
        f", and {waits:,} {'waits' if waits == 1 else 'wait'} for the next resume" if waits else ""
    )
    if untaken:
        rest = f", and {untaken:,} {'is' if untaken == 1 else 'are'} not known to be{rest}"
    return f"{attempts} left to {ENGINE_TITLES.get(engine, engine)}{rest}"


def _waiting(state: ExperimentState) -> str:
    """What has failed, and is pending again."""
    pending = state.processes.indices(ProcessStatus.PENDING)
    found = [i for i in pending if state.processes[i].not_before is not None]
    if not found:
        return ""
    verb = "waits" if len(found) == 1 else "wait"
    return f" for good ({_named(found)} {verb} for another attempt; `resume --only` starts it now)"


def _results(state: ExperimentState) -> str:
    count = sum(process.result is not None for process in state.process_progress.values())
    return f"its {count:,} result" + ("" if count == 1 else "s")


def _was_left_failed(state: ExperimentState, held: Container[int]) -> bool:
    """Whether it is failed only by what was not to be tried again."""
    failed = state.processes.indices(ProcessStatus.FAILED)
    return bool(failed) and all(index in held for index in failed)


def _named(indices: list[int]) -> str:
    return f"process{'' if len(indices) == 1 else 'es'} {summarise(indices)}"


def _completed(state: ExperimentState) -> str:
    return f"{state.processes_completed:,} of {_processes(state)} completed"


def _processes(state: ExperimentState) -> str:
    return f"{state.num_processes:,} process" + ("" if state.num_processes == 1 else "es")
