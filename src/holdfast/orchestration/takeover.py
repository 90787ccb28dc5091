"""Taking up an experiment that somebody left: look, plan, events.

`survey` looks and touches nothing, `plan` says what follows from what was seen: for `run` and
`resume`, which record it, and for a dry run and `show`, which only tell it. There is no other
opinion on what a takeover does.
"""

from collections.abc import Container, Mapping
from datetime import datetime
from pathlib import Path

import attrs

from holdfast.attempts.looking import Ended
from holdfast.attempts.names import AttemptName
from holdfast.config.experiment_file import Limits, Retry
from holdfast.config.limiting import NewLimits
from holdfast.lifecycle.apply import apply_many
from holdfast.lifecycle.events import Event, Requested
from holdfast.lifecycle.handed import handed_over
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.fates import Decision, decide, goes_on, left_alone
from holdfast.orchestration.known import Entrusted
from holdfast.orchestration.rules import Rules
from holdfast.orchestration.selecting import EVERYTHING, Selection
from holdfast.orchestration.surveying import Survey, survey
from holdfast.orchestration.taking import Lost, Taking
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus, Reason
from holdfast.store.attempted import attempt_of

__all__ = ["Takeover", "foresee", "plan"]


@attrs.frozen(kw_only=True)
class Takeover:
    """What follows from a survey.

    Attributes:
        facts: What ended while nobody watched.
        events: To be recorded as one line: these, and what opens the experiment again.
        state: What the experiment is afterwards.
        adopt: Attempts that run and are watched from now on.
        settle: Attempts to be brought to a certain end, beside everything else that goes on.
        alone: Attempts that another engine has.
        decisions: What is done with each process.
        held: Processes that are not to be started, whatever becomes of them.
        skipped: How many processes were completed before, and stay so.
        adopted: How many outcomes and running processes are taken over instead of being run again.
        running: How many of these run.
    """

    facts: tuple[Event, ...]
    events: tuple[Event, ...]
    state: ExperimentState
    adopt: tuple[AttemptName, ...]
    settle: tuple[AttemptName, ...]
    alone: Mapping[AttemptName, Entrusted] = attrs.field(factory=dict)
    decisions: tuple[Decision, ...]
    held: frozenset[int] = frozenset()
    skipped: int
    adopted: int
    running: int

    @property
    def starts(self) -> bool:
        """Whether anything is to be run, now or once what is left of it has come to its end."""
        return any(each.action == "run" for each in self.decisions)


def plan(
    state: ExperimentState,
    found: Survey,
    at: datetime,
    limits: Limits,
    retry: Retry,
    *,
    selection: Selection = EVERYTHING,
    changed: NewLimits | None = None,
    evidence: str = "",
    force: bool = False,
) -> Takeover:
    """What taking up *state* does, as it was *found*.

    A completed experiment stays as it is unless a result or output is lost: it must not be
    aggregated then.

    Args:
        limits: As it is to be run: they, and *retry*, may be others than what it was made with.
        selection: What is to be started; what runs is taken over all the same.
        changed: The limits that are recorded with the event that opens it.
        evidence: What proves that a recorded owner is gone.
        force: Whether what cannot be judged is taken for dead.
    """
    rules = Rules(limits=limits, retry=retry)
    step = apply_many(state, found.facts.values())
    events, _ = rules.followed(step.state, found.facts.values(), step.changes, at)
    ended = step.state
    held, named = selection.held(ended, found.lost), selection.named(state)
    open_again = not selection.is_everything or limits.fail_fast
    events += _reopening(
        ended,
        found.lost,
        at,
        evidence,
        held,
        changed,
        open_again=open_again,
        went_on=bool(handed_over(state)),
    )
    after = apply_many(state, events).state
    left = {attempt_of(state, i): i for i in found.looks if i not in found.facts}
    foreseen = apply_many(after, found.said.values()).state
    failed = foreseen.processes.indices(ProcessStatus.FAILED)
    again = {request.process for request in rules.retries(foreseen, failed, at)}
    running = {name for name, index in left.items() if goes_on(found.looks[index])}
    alone = {} if force else left_alone(left, found)
    return Takeover(
        facts=tuple(found.facts.values()),
        events=tuple(events),
        state=after,
        adopt=tuple(name for name in left if name in running),
        settle=tuple(name for name in left if name not in running and name not in alone),
        alone=alone,
        decisions=tuple(
            decide(
                *(index, state.processes[index], foreseen, found, again, at),
                held=index in held,
                waits=index not in named,
                force=force,
            )
            for index in foreseen.process_progress
        ),
        held=held,
        skipped=state.processes_completed - len(found.lost),
        adopted=sum(isinstance(each, Ended) or goes_on(each) for each in found.looks.values()),
        running=sum(goes_on(each) for each in found.looks.values()),
    )


def foresee(
    state: ExperimentState,
    folder: Path,
    at: datetime,
    limits: Limits,
    retry: Retry,
    *,
    take: Taking,
    selection: Selection = EVERYTHING,
    verify: bool = True,
    force: bool = False,
) -> Takeover:
    """What a run or resume would do now. Touches nothing.

    Args:
        take: Knows what processes declare; here it only looks.
        verify: Whether to read every recorded result and output: else none is taken for lost.

    Raises:
        StateReadError: A recorded result or output could not be read.
    """
    found = survey(state, folder, at, take=attrs.evolve(take, durably=False), verify=verify)
    return plan(state, found, at, limits, retry, selection=selection, force=force)


def _reopening(
    state: ExperimentState,
    lost: Mapping[int, Lost],
    at: datetime,
    evidence: str,
    held: Container[int],
    changed: NewLimits | None,
    *,
    open_again: bool,
    went_on: bool,
) -> list[Event]:
    """The events that make an experiment run again.

    Args:
        open_again: Whether failed processes are tried again although the experiment has not failed.
            Under `fail_fast` it had failed in all but name when it was left, and a resume means
            that process, too; and whoever names some means those.
        went_on: Whether an engine had attempts of it, which need no owner.
    """
    events: list[Event] = []

    def ask(event: str, **more: object) -> None:
        events.append(Requested(entity="experiment", event=event, at=at, **more))  # type: ignore[arg-type]

    def opened_by(event: str) -> None:
        if changed:
            ask(event, evidence=changed.words, facts=changed.facts)
        else:
            ask(event)

    def requeue(index: int, evidence: str | None, **why: object) -> None:
        request = Requested(
            entity="process", event="requeue", at=at, process=index, evidence=evidence, facts=why
        )
        events.append(request)

    open_again = state.status is ExperimentStatus.FAILED or (
        open_again and state.status not in SETTLED
    )
    if state.status is ExperimentStatus.INITIALISED:
        opened_by("start")
    elif state.status is ExperimentStatus.RUNNING:
        # An engine has gone on with it: only what is changed needs an event.
        if changed or not went_on:
            ask("interrupt", reason=Reason.STALE, evidence=evidence)
            opened_by("resume")
    elif state.status is ExperimentStatus.INTERRUPTED:
        opened_by("resume")
    elif state.status is ExperimentStatus.FAILED:
        opened_by("retry")
    elif state.status is ExperimentStatus.COMPLETED and lost:
        kinds = " and ".join(f"{kind}s" for kind in sorted({each.kind for each in lost.values()}))
        whose = "1 process" if len(lost) == 1 else f"{len(lost):,} processes"
        count = f"recorded {kinds} of {whose} are lost"
        ask("fail", reason=Reason.RESULT_LOST, error_message=count)
        opened_by("retry")
    if open_again:
        # A resume tries what failed again, whatever the budget was.
        for index in state.processes.indices(ProcessStatus.FAILED):
            if index not in held:
                requeue(index, None, requested_by_user=True)
    for index, each in lost.items():
        requeue(index, str(each), result_lost=True)
    return events
