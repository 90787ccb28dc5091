"""Whether what the journals tell is what the declared machines allow.

Loading trusts a line whose checksum is right, since it was judged when it was recorded. This asks
the machines again, step by step, as far as the facts of an event were kept, and the lifecycle what
it makes of each. Only reads.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from holdfast.doctor import enactment
from holdfast.errors import HoldfastError, InvalidTransitionError, StateCorruptError
from holdfast.lifecycle import decisions
from holdfast.lifecycle.changes import Change, replay
from holdfast.lifecycle.guards import FROM_RECORD
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.store import history, saving
from holdfast.store.lines import Saved, Step
from holdfast.store.place import JOURNALS, Opened

__all__ = ["Violation", "violations"]

#: Guards whose facts are in the change itself; what the others were told was not kept.
_ASKED_AGAIN: Final = FROM_RECORD | {"exited_cleanly"}
#: When a save was made is not asked again.
_ANY_TIME: Final = datetime.fromtimestamp(0, UTC)


@attrs.frozen
class Violation:
    """One thing in a journal that the machines, or the rules between journals, do not allow."""

    path: Path
    what: str


def violations(folder: Opened) -> Iterator[Violation]:
    """What is wrong in the journals of *folder*, oldest first.

    Raises:
        StateCorruptError, SchemaTooNewError: A journal cannot be read at all.
        OSError: The file system refused.
    """
    try:
        journals = folder.open_dir(JOURNALS)
    except (FileNotFoundError, NotADirectoryError):
        return
    with journals:
        found = history.chain(journals)
    state: ExperimentState | None = None
    for each, until in found:
        assert each.base is not None
        base = each.base.state
        if state is not None and not _continues(state, base):
            yield Violation(each.path, "its base is not the state that the journal before it ends")
        state = base
        for _, line in each.steps(until):
            step = _Judged(line)
            yield from step.check(state)
            state = step.state


def _continues(state: ExperimentState, base: ExperimentState) -> bool:
    # The new owner and its epoch are all that a base changes.
    return attrs.evolve(base, owner=state.owner, epoch=state.epoch) == attrs.evolve(state)


class _Judged:
    """One line of a journal, and the state behind it."""

    def __init__(self, line: Step) -> None:
        self.line = line
        self.state: ExperimentState

    def check(self, state: ExperimentState) -> Iterator[Violation]:
        self.state = state
        if isinstance(self.line, Saved):
            saved = self.line.state
            yield from map(self._violation, _unsaid(state, saved, self._changes()))
            self.state = attrs.evolve(saved, epoch=state.epoch)
        else:
            for change in self._changes():
                yield from map(self._violation, _problems(self.state, change))
                try:
                    self.state = replay(self.state, change)
                except KeyError:
                    return  # named as a problem already
            yield from map(self._violation, _torn_gangs(self.state, self._changes()))
        revision = self.line.revision
        if type(revision) is int and revision >= 0:  # loading refuses any other
            self.state = attrs.evolve(self.state, revision=revision)

    def _changes(self) -> list[Change]:
        try:
            return self.line.changes
        except StateCorruptError:
            return []  # loading refuses such a line, and the doctor reports that

    def _violation(self, what: str) -> Violation:
        return Violation(self.line.path, f"revision {self.line.revision}: {what}")


def _torn_gangs(state: ExperimentState, changes: list[Change]) -> Iterator[str]:
    """Gangs whose ranks a line has not left alike."""
    if not state.has_gangs:
        return
    for ranks in {state.gang(each.process) for each in changes if each.process is not None}:
        if len({(state.processes[i].status, state.processes[i].attempt) for i in ranks}) > 1:
            yield f"processes {ranks.start} to {ranks.stop - 1} are a gang, and it was torn apart"


def _unsaid(before: ExperimentState, saved: ExperimentState, said: list[Change]) -> Iterator[str]:
    """In what a save did not do what it says; it is judged anew, as it was when it was made."""
    try:
        moved = saving.transitions(before, saved, _ANY_TIME)
    except (HoldfastError, TypeError, ValueError) as err:
        yield f"a save that is not allowed: {str(err).partition(chr(10))[0]}"
        return
    if saved.owner != before.owner:
        yield "a save changed the owner, which only a claim does"
    told = [attrs.evolve(change, at=_ANY_TIME) for change in said]
    for change in moved:
        if change not in told:
            yield f"{enactment.who(change)} went from {change.source} to {change.target} unnamed"
    if any(change not in moved for change in told):
        yield "a save names a step that the saved state does not show"


def _problems(state: ExperimentState, change: Change) -> Iterator[str]:
    """Why the machines would not have allowed *change* in *state*; nothing if they would."""
    record: ExperimentState | ProcessProgress | None = state
    if change.process is not None:
        record = state.process_progress.get(change.process)
    who = enactment.who(change)
    if record is None:
        yield f"{change.event} of {who}, which does not exist"
        return
    if change.source != record.status:
        yield f"{change.event} moves {who} from {change.source}, but it was {record.status}"
        return
    if (change.entity, change.event) in enactment.NOTES:
        if change.source != change.target:
            yield f"{change.event} moves {who} from {change.source} to {change.target}"
        yield from enactment.problems(state, change)
        return
    facts = {"exit_code": change.fields.get("exit_code"), "experiment_status": state.status}
    try:
        edge = decisions.decide(
            change.entity,
            record,
            change.event,
            facts,
            experiment_id=state.experiment_id,
            process=change.process,
            only=_ASKED_AGAIN,
        )
    except InvalidTransitionError as err:
        if err.exists:
            refused = "; ".join(refusal.why for refusal in err.refusals)
            yield f"{change.event} of {who} was not allowed: {refused}"
            return
        edge = None
    if edge is None or edge.target != change.target:
        yield (
            f"{change.event} moves {who} from {change.source} to {change.target}, "
            f"which its machine does not have"
        )
        return
    yield from enactment.problems(state, change)
