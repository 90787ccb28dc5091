"""Taking up an experiment that somebody left: what it was made with, what became of its attempts,
what is missing, and the events that open it again (DESIGN §6).
"""

from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import attrs

from holdfast import attempts, judgement, results
from holdfast.attempts import AttemptName
from holdfast.config.experiment_file import Experiment
from holdfast.errors import (
    ConfigError,
    ConfigProblem,
    StateCorruptError,
    StateWriteError,
    UnknownLivenessError,
)
from holdfast.events import Event, ProcessExited, ProcessLost, Requested
from holdfast.identity import ProcessIdentity, Verdict
from holdfast.judgement import Dead, Exited, Judgement, Running, Undecided
from holdfast.lifecycle import apply_many
from holdfast.orchestration import outcomes
from holdfast.records import ExperimentState
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus, Reason

__all__ = [
    "Found",
    "check_number",
    "configuration",
    "inspect",
    "judge",
    "lost_results",
    "reopening",
]


@attrs.frozen(kw_only=True)
class Found:
    """What became of the attempts that are recorded as running.

    Attributes:
        facts: Those that ended, or are proven dead.
        running: Those that run: they are adopted, never started again.
    """

    facts: tuple[Event, ...]
    running: tuple[AttemptName, ...]

    @property
    def adopted(self) -> int:
        """How many outcomes and running processes are taken over instead of being run again."""
        return len(self.running) + sum(isinstance(fact, ProcessExited) for fact in self.facts)


def configuration(state: ExperimentState, state_dir: Path) -> Experiment:
    """What *state* was made with, in the folder where that lies now.

    Raises:
        ConfigError: It was made without a configuration that can be run.
    """
    if not state.config.get("command"):
        problem = ConfigProblem("command", "it was made without one, so nothing can be run")
        raise ConfigError(state.experiment_id, [problem])
    cwd = Path.cwd() if state.cwd is None else Path(state.cwd)
    experiment = Experiment.from_config(state.config, cwd, state.config_path)
    check_number(state, experiment, "its configuration")
    return experiment.moved_with(state_dir, state.config_hash)


def check_number(state: ExperimentState, experiment: Experiment, whose: str) -> None:
    """Make sure that *experiment* has a command for every process of *state*, and no more.

    Equal hashes do not prove it: whoever makes a state through the library gives both.

    Raises:
        ConfigError: It has not.
    """
    if experiment.num_processes != state.num_processes:
        words = f"it has {state.num_processes:,}, but {whose} makes {experiment.num_processes:,}"
        raise ConfigError(state.experiment_id, [ConfigProblem("processes", words)])


def judge(
    folder: Path,
    name: AttemptName,
    *,
    grace_s: float,
    force: bool,
    fence: Callable[[], None],
    shim: ProcessIdentity | None = None,
    since: datetime | None = None,
) -> Exited | Running | Dead:
    """What became of an attempt that nobody watched. May stop what a dead shim left running.

    Args:
        fence: Raises if a newer owner took over: what is left is then for that one to judge.
        shim: Who was recorded as its shim.

    Raises:
        OwnershipLostError, ClaimClosedError: Out of *fence*; nothing was stopped or revoked.
        UnknownLivenessError: That cannot be told from here, and not *force*.
        StateWriteError: An attempt that never began could not be revoked, or it could not be
            looked at.
    """
    found: Judgement
    try:
        found = judgement.judge(folder, name, grace_s=grace_s, shim=shim, before_acting=fence)
    except StateCorruptError:
        record = outcomes.read(folder, name)
        assert record is not None
        return Exited(record)
    except OSError as err:
        # No descriptors left, say, to look at its processes with: nothing is decided.
        path = attempts.attempts_dir(folder) / str(name)
        raise StateWriteError(path, "judging", err.strerror or str(err)) from err
    if not isinstance(found, Undecided):
        return found
    if force:
        return Dead(f"taken for dead by --force: {found.evidence}")
    live = attempts.live_state(folder, name)
    # A revoked one names who revoked it.
    identity = shim if live.kind == "revoked" else live.identity
    verdict = found.verdict or Verdict(
        kind="unknown", method="none", compared=found.evidence, observer="this process"
    )
    raise UnknownLivenessError(f"{name.experiment_id}/{name.index}", identity, since, verdict)


def inspect(
    state: ExperimentState,
    folder: Path,
    at: datetime,
    *,
    known: Container[AttemptName],
    grace_s: float,
    force: bool,
    fence: Callable[[], None],
) -> Found:
    """Judge every process that is recorded as running.

    Args:
        known: Attempts that the engine has queued or running. It is asked first: what waits in a
            scheduler's queue has no files yet, and must not be revoked for that.

    Raises:
        UnknownLivenessError, StateWriteError, OwnershipLostError: As for `judge`; nothing is
            decided then.
    """
    facts: list[Event] = []
    running: list[AttemptName] = []
    if state.status in SETTLED:
        return Found(facts=(), running=())
    for index in state.processes.indices(ProcessStatus.RUNNING):
        process = state.processes[index]
        name = AttemptName(state.experiment_id, index, process.attempt)
        if name in known and outcomes.read(folder, name) is None:
            running.append(name)
            continue
        found = judge(
            folder,
            name,
            grace_s=grace_s,
            force=force,
            fence=fence,
            shim=process.identity,
            since=process.started_at,
        )
        if isinstance(found, Exited):
            facts.append(outcomes.exited(folder, name, found.record, at, None))
        elif isinstance(found, Running):
            running.append(name)
        else:
            facts.append(
                ProcessLost(process=index, attempt=process.attempt, at=at, evidence=found.evidence)
            )
    return Found(facts=tuple(facts), running=tuple(running))


def lost_results(state: ExperimentState, folder: Path) -> dict[int, str]:
    """Completed processes whose recorded result is missing or altered, and in what way.

    Raises:
        StateWriteError: A result could not be read, so that nobody can tell.
    """
    if state.status is ExperimentStatus.AGGREGATED:
        return {}
    found = {}
    for index in state.processes.indices(ProcessStatus.COMPLETED):
        result = state.processes[index].result
        if result is None:
            continue
        try:
            problem = results.verify(folder, result)
        except OSError as err:
            # An I/O error proves nothing about the result.
            cause = err.strerror or str(err)
            raise StateWriteError(folder / result.path, "reading", cause) from err
        if problem is not None:
            found[index] = problem
    return found


def reopening(
    state: ExperimentState,
    facts: Sequence[Event],
    lost: Mapping[int, str],
    at: datetime,
    *,
    evidence: str,
    fail_fast: bool = False,
) -> list[Event]:
    """*facts*, and the events that make the experiment run again, to be recorded as one line.

    A completed experiment stays as it is unless a result is *lost*: then it must not be aggregated.

    Args:
        evidence: What proves that a recorded owner is gone.
        fail_fast: Whether one failed process ends the experiment. It had then failed in all but
            name when it was left, and whoever resumes it wants that process tried again.
    """
    events: list[Event] = list(facts)
    state = apply_many(state, facts).state

    def ask(event: str, **more: object) -> None:
        events.append(Requested(entity="experiment", event=event, at=at, **more))  # type: ignore[arg-type]

    def requeue(index: int, evidence: str | None, **why: object) -> None:
        request = Requested(
            entity="process",
            event="requeue",
            at=at,
            process=index,
            evidence=evidence,
            facts=why,
        )
        events.append(request)

    open_again = state.status is ExperimentStatus.FAILED or (
        fail_fast and state.status not in SETTLED
    )
    if state.status is ExperimentStatus.INITIALISED:
        ask("start")
    elif state.status is ExperimentStatus.RUNNING:
        ask("interrupt", reason=Reason.STALE, evidence=evidence)
        ask("resume")
    elif state.status is ExperimentStatus.INTERRUPTED:
        ask("resume")
    elif state.status is ExperimentStatus.FAILED:
        ask("retry")
    elif state.status is ExperimentStatus.COMPLETED and lost:
        count = f"{len(lost):,} recorded results are lost"
        ask("fail", reason=Reason.RESULT_LOST, error_message=count)
        ask("retry")
    if open_again:
        # Whoever resumes what failed wants it tried again, whatever the budget was.
        for index in state.processes.indices(ProcessStatus.FAILED):
            requeue(index, None, requested_by_user=True)
    for index, problem in lost.items():
        result = state.processes[index].result
        requeue(index, f"{result.path if result else 'its result'} {problem}", result_lost=True)
    return events
