"""Taking up an experiment that somebody left: look, plan, events.

`survey` looks and touches nothing, `plan` says what follows from what was seen: for `run` and
`resume`, which record it, and for a dry run and `show`, which only tell it. There is no other
opinion on what a takeover does.
"""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import attrs

from holdfast.attempts.family import Census
from holdfast.attempts.looking import Ended, Gone, Look, Running, Unbegun, Undecided, listed, look
from holdfast.attempts.names import AttemptName
from holdfast.attempts.surviving import halted
from holdfast.config.experiment_file import Limits, Retry
from holdfast.config.limiting import NewLimits
from holdfast.errors import DiskError, StateReadError
from holdfast.identity import Verdict
from holdfast.lifecycle.apply import apply_many, ending
from holdfast.lifecycle.events import Event, ProcessExited, Requested
from holdfast.lifecycle.handed import handed_over
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, ResultRef
from holdfast.orchestration import exits
from holdfast.orchestration.known import (
    NOBODY,
    Entrusted,
    Known,
    attempt_of,
    recorded_as_running,
)
from holdfast.orchestration.rules import Rules
from holdfast.orchestration.selecting import EVERYTHING, Selection
from holdfast.orchestration.taking import Lost, Taking
from holdfast.orchestration.words import LOST, meaning
from holdfast.results import acceptance
from holdfast.results.going_on import GaveUpError, GoingOn, always
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus, Reason

__all__ = [
    "Action",
    "Decision",
    "Survey",
    "Takeover",
    "alone",
    "foresee",
    "lost_results",
    "others_words",
    "plan",
    "survey",
]

Action = Literal["run", "skip", "reuse", "adopt", "hold", "blocked"]


@attrs.frozen(kw_only=True)
class Survey:
    """How an experiment was found.

    Attributes:
        looks: What became of every process that is recorded as running.
        facts: Of those that ended, the fact for the lifecycle.
        said: The facts that will come, once nothing of their launchers is left, of independent
            ranks that had said that they completed.
        lost: Completed processes whose recorded result, or an output, is missing or altered.
    """

    looks: Mapping[int, Look | Entrusted]
    facts: Mapping[int, ProcessExited]
    said: Mapping[int, ProcessExited]
    lost: Mapping[int, Lost]


@attrs.frozen
class Decision:
    """What a takeover does with one process, and why, as the end of a sentence.

    Attributes:
        completed: Whether the process is completed once the takeover is recorded.
    """

    action: Action
    why: str
    completed: bool = False


@attrs.frozen(kw_only=True)
class Takeover:
    """What follows from a survey.

    Attributes:
        facts: What ended while nobody watched.
        events: To be recorded as one line: these, and what opens the experiment again.
        state: What the experiment is afterwards.
        adopt: Attempts that run and are watched from now on.
        settle: Attempts to be brought to a certain end, beside everything else that goes on.
        alone: Attempts that another engine has, and who that is.
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
    alone: Mapping[AttemptName, str] = attrs.field(factory=dict)
    decisions: tuple[Decision, ...]
    held: frozenset[int] = frozenset()
    skipped: int
    adopted: int
    running: int

    @property
    def starts(self) -> bool:
        """Whether anything is to be run, now or once what is left of it has come to its end."""
        return any(each.action == "run" for each in self.decisions)


def survey(
    state: ExperimentState,
    folder: Path,
    at: datetime,
    *,
    known: Known = NOBODY,
    take: Taking,
    later: exits.Later = exits.never,
    verify: bool = True,
    going_on: GoingOn = always,
) -> Survey:
    """Look at everything that a takeover depends on. Touches nothing, unless *take* does.

    Args:
        at: Now.
        known: What the engine has: what waits in a scheduler's queue has no files yet, and is not
            taken for one that never began.
        verify: Whether to read every recorded result and output.

    Raises:
        StateReadError: A recorded result or output could not be read.
    """
    looks: dict[int, Look | Entrusted] = {}
    facts: dict[int, ProcessExited] = {}
    said: dict[int, ProcessExited] = {}
    census = Census()
    for name, ranks in recorded_as_running(state).items():
        process = state.processes[ranks[0]]
        shim, means = process.identity, LOST
        found: Look | Entrusted
        try:
            found = look(folder, name, shim=shim, census=census)
            if isinstance(found, Unbegun) and name in known.handles:
                found = Running(shim, _unclear("alive", "the engine has it"))
            whose = known.entrusted(name, process, begun=not isinstance(found, Unbegun))
            if whose is not None and not isinstance(found, Ended):
                found = whose
            elif whose is not None and isinstance(found, Ended) and name in known.words:
                word = known.words[name]
                means = meaning(word, found.record, None, engine=str(known.engine))
                found = whose if means.kind == "ending" else found
            if (
                isinstance(found, Ended)
                and going_on()
                and not later(folder, name, found.record, take)
            ):
                told = exits.exited(state, folder, name, found.record, at, means=means, take=take)
                facts.update({fact.process: fact for fact in told})
            elif isinstance(found, Gone | Unbegun):
                fates = exits.lost(state, folder, name, at, "", attrs.evolve(take, durably=False))
                said |= {each.process: each for each in fates if isinstance(each, ProcessExited)}
        except (DiskError, OSError) as err:
            # It may hold a success, and what it is about may even run: the loop looks again.
            found = Undecided(_unclear("unknown", str(err).splitlines()[0]), shim)
        looks.update(dict.fromkeys(ranks, found))
    # Nobody asks for the results of one that is aggregated.
    verify = verify and state.status is not ExperimentStatus.AGGREGATED
    lost = lost_results(state, folder, going_on, take) if verify else {}
    return Survey(looks=looks, facts=facts, said=said, lost=lost)


def _unclear(kind: Literal["alive", "unknown"], words: str) -> Verdict:
    return Verdict(kind=kind, method="none", compared=words, observer="this process")


def lost_results(
    state: ExperimentState,
    folder: Path,
    going_on: GoingOn = always,
    take: Taking | None = None,
) -> dict[int, Lost]:
    """Completed processes of which something recorded is missing or altered, ascending, and what.

    Args:
        going_on: Once it is False, the rest is skipped.
        take: Looks at outputs, too; without it, only results are looked at.

    Raises:
        StateReadError: A result or output could not be read.
    """
    found = {}
    for index in state.processes.indices(ProcessStatus.COMPLETED):
        process = state.processes[index]
        if process.result is None and not process.outputs:
            continue
        if not going_on():
            break
        lost = _lost_result(folder, process.result)
        if lost is None and take is not None:
            try:
                lost = take.lost(process, going_on)
            except GaveUpError:
                break
        if lost is not None:
            found[index] = lost
    return _with_gangs(state, found) if state.has_gangs else found


def _lost_result(folder: Path, result: ResultRef | None) -> Lost | None:
    if result is None:
        return None
    try:
        problem = acceptance.verify(folder, result)
    except OSError as err:
        # An I/O error proves nothing about the result.
        raise StateReadError.of(folder / result.path, "reading", err) from err
    return None if problem is None else Lost("result", result.path, problem)


def _with_gangs(state: ExperimentState, lost: Mapping[int, Lost]) -> dict[int, Lost]:
    """*lost*, with all the ranks of a gang of which one is lost."""
    found: dict[int, Lost] = {}
    for index, own in lost.items():
        if index in found:
            continue
        for rank in state.gang(index):
            result = state.processes[rank].result
            path = "of which nothing is recorded" if result is None else result.path
            theirs = f"{own.kind} {own.path} of process {index}, of the same gang, {own.problem}"
            found[rank] = lost.get(rank) or Lost("result", path, f"is as it was, but {theirs}")
    return found


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
    running = {name for name, index in left.items() if _goes_on(found.looks[index])}
    alone = {} if force else _alone(left, found)
    return Takeover(
        facts=tuple(found.facts.values()),
        events=tuple(events),
        state=after,
        adopt=tuple(name for name in left if name in running),
        settle=tuple(name for name in left if name not in running and name not in alone),
        alone=alone,
        decisions=tuple(
            _decide(
                *(index, state.processes[index], foreseen, found, again, at),
                held=index in held,
                waits=index not in named,
                force=force,
            )
            for index in foreseen.process_progress
        ),
        held=held,
        skipped=state.processes_completed - len(found.lost),
        adopted=sum(isinstance(each, Ended) or _goes_on(each) for each in found.looks.values()),
        running=sum(_goes_on(each) for each in found.looks.values()),
    )


def _goes_on(found: Look | Entrusted) -> bool:
    return isinstance(found, Running) or (isinstance(found, Entrusted) and found.ours)


def _alone(left: Mapping[AttemptName, int], found: Survey) -> dict[AttemptName, str]:
    """The attempts that are not ours to judge, and why not."""
    looks = {name: found.looks[index] for name, index in left.items()}
    return {
        name: others_words(seen.words)
        for name, seen in looks.items()
        if isinstance(seen, Entrusted) and not seen.ours
    }


def alone(left: Mapping[AttemptName, str]) -> list[str]:
    """What people are told of attempts that other engines have: a line for each of these."""
    by_engine: dict[str, list[AttemptName]] = {}
    for name, words in left.items():
        by_engine.setdefault(words.partition(" ")[0], []).append(name)
    return [
        f"{engine} has {_attempts(names)}: `resume --engine {engine}` takes "
        f"{'it' if len(names) == 1 else 'them'} up"
        for engine, names in by_engine.items()
    ]


def _attempts(names: Sequence[AttemptName]) -> str:
    return f"attempt {names[0]}" if len(names) == 1 else f"{len(names):,} attempts"


def others_words(whose: str) -> str:
    """Why an attempt of another engine is left alone, and what takes it up."""
    engine = whose.partition(" ")[0]
    return f"{whose} has it: `resume --engine {engine}` takes it up"


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


def _decide(
    index: int,
    before: ProcessProgress,
    state: ExperimentState,
    found: Survey,
    again: Container[int | None],
    at: datetime,
    *,
    held: bool,
    waits: bool = True,
    force: bool,
) -> Decision:
    """What becomes of a process, which was *before* as recorded.

    Args:
        state: As is foreseen.
        again: What of it failed and is tried again.
        waits: Whether it waits for what is left of a pause.
    """
    if held:
        made = _decide(index, before, state, found, (index,), at, held=False, force=force)
        if made.action != "run":
            return made
        return Decision("hold", f"{made.why}; held back")
    now = state.processes[index]
    if index in found.lost:
        lost = found.lost[index]
        return Decision("run", f"its {lost.kind} {lost.path} is lost: {lost.problem}")
    if index in found.looks and index not in {**found.facts, **found.said}:
        return _of_look(before, found.looks[index], force=force)
    why = _history(before, now, found.facts.get(index) or found.said.get(index))
    if now.status is ProcessStatus.COMPLETED:
        return Decision("skip", why, completed=True)
    if now.status is ProcessStatus.FAILED and index not in again:
        return Decision("skip", f"{why}; no attempt left")
    if waits and now.not_before is not None and now.not_before > at:
        why = f"{why}; not before {now.not_before:%Y-%m-%d %H:%M:%S}Z"
    return Decision("run", why)


def _of_look(process: ProcessProgress, found: Look | Entrusted, *, force: bool) -> Decision:
    attempt = f"attempt {process.attempt}"
    if isinstance(found, Entrusted):
        if found.ours:
            phase = "" if found.phase is None else f", {found.phase}"
            return Decision("adopt", f"{attempt} is with {found.words}{phase}: to be taken over")
        if force:
            words = f"{attempt} is with {found.words}, and is taken for dead (--force)"
            return Decision("run", words)
        return Decision("blocked", f"{attempt}: {others_words(found.words)}")
    if isinstance(found, Running):
        who = "" if found.identity is None else f" ({found.identity})"
        halt = halted(found)
        but = "" if halt is None else f"; {halt}"
        return Decision("adopt", f"{attempt} runs{who}: to be taken over{but}")
    if isinstance(found, Undecided):
        if force and found.verdict.kind != "alive":
            return Decision("run", f"{attempt} cannot be judged, and is taken for dead (--force)")
        return Decision("blocked", f"{attempt} cannot be judged: {found.evidence}")
    if isinstance(found, Gone) and found.leftovers:
        pids = listed(found.leftovers)
        return Decision("run", f"{attempt} died; what it left is stopped first: {pids}")
    if isinstance(found, Unbegun):
        return Decision("run", f"{attempt} never began")
    return Decision("run", f"{attempt} died")


def _history(before: ProcessProgress, now: ProcessProgress, fact: ProcessExited | None) -> str:
    """Why a process stands where it does *now*."""
    attempt = f"attempt {before.attempt}"
    if fact is not None:
        return f"{attempt} {_ended_words(fact)}"
    if now.status is ProcessStatus.COMPLETED:
        return f"completed in {attempt}" if now.origin is None else f"reused from {now.origin}"
    # One that failed keeps its end while it waits for the next attempt.
    waits = before.status is ProcessStatus.PENDING and before.completed_at is not None
    if before.status is ProcessStatus.FAILED or waits:
        return f"failed: {before.error_message or f'exit code {before.exit_code}'}"
    if before.attempt == 0:
        return "never tried"
    reason = f" ({before.reason})" if before.reason is not None else ""
    return f"{attempt} did not complete{reason}"


def _ended_words(fact: ProcessExited) -> str:
    how = fact.result_error or fact.error_message or "exit code 0"
    words = {"complete": "completed", "requeue": "was stopped", "fail": "failed"}[ending(fact)]
    return f"{words} while nobody watched ({how})"
