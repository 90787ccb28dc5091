"""What a takeover does with each process, and why, in words for people."""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from typing import Literal

import attrs

from holdfast.attempts.looking import Gone, Look, Running, Unbegun, Undecided, listed
from holdfast.attempts.names import AttemptName
from holdfast.attempts.surviving import halted
from holdfast.lifecycle.apply import ending
from holdfast.lifecycle.events import ProcessExited
from holdfast.lifecycle.processes import ProcessProgress
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.known import Entrusted
from holdfast.orchestration.surveying import Survey
from holdfast.status import ProcessStatus

__all__ = ["Action", "Decision", "alone", "decide", "goes_on", "left_alone", "others_words"]

Action = Literal["run", "skip", "reuse", "adopt", "hold", "blocked"]


@attrs.frozen
class Decision:
    """What a takeover does with one process, and why, as the end of a sentence.

    Attributes:
        completed: Whether the process is completed once the takeover is recorded.
    """

    action: Action
    why: str
    completed: bool = False


def decide(
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
        made = decide(index, before, state, found, (index,), at, held=False, force=force)
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
            # Not how far it is: what is recorded of that is as old as the last owner's last look.
            return Decision("adopt", f"{attempt} is with {found.words}: to be taken over")
        if force:
            words = f"{attempt} is with {found.words}, and is taken for dead (--force)"
            return Decision("run", words)
        return Decision("blocked", f"{attempt}: {others_words(found)}")
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


def goes_on(found: Look | Entrusted) -> bool:
    """Whether the attempt is watched from now on."""
    return isinstance(found, Running) or (isinstance(found, Entrusted) and found.ours)


def left_alone(left: Mapping[AttemptName, int], found: Survey) -> dict[AttemptName, Entrusted]:
    """The attempts that are not ours to judge, and whose they are."""
    looks = {name: found.looks[index] for name, index in left.items()}
    return {
        name: seen for name, seen in looks.items() if isinstance(seen, Entrusted) and not seen.ours
    }


def alone(left: Mapping[AttemptName, Entrusted]) -> list[str]:
    """What to say of attempts that other engines have: a line for each of these."""
    by_engine: dict[str, list[AttemptName]] = {}
    for name, whose in left.items():
        by_engine.setdefault(whose.engine, []).append(name)
    return [
        f"{engine} has {_attempts(names)}: `resume --engine {engine}` takes "
        f"{'it' if len(names) == 1 else 'them'} up"
        for engine, names in by_engine.items()
    ]


def _attempts(names: Sequence[AttemptName]) -> str:
    return f"attempt {names[0]}" if len(names) == 1 else f"{len(names):,} attempts"


def others_words(whose: Entrusted) -> str:
    """Why an attempt of another engine is left alone, and what takes it up."""
    return f"{whose.words} has it: `resume --engine {whose.engine}` takes it up"
