"""Whether what the journals tell is what the declared machines allow.

Loading trusts a line whose checksum is right, since it was judged when it was recorded. This asks
the machines again, step by step, as far as the facts of an event were kept. Only reads.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import attrs

from holdfast import lifecycle
from holdfast.errors import HoldfastError, printable
from holdfast.guards import FROM_RECORD, Facts, refusals
from holdfast.lifecycle import Change
from holdfast.machines import table
from holdfast.records import ExperimentState, ProcessProgress
from holdfast.status import SETTLED
from holdfast.store import history
from holdfast.store.codec import Json, change_from_json, state_from_json
from holdfast.store.files import Files
from holdfast.store.journal import Journal

__all__ = ["Violation", "violations"]

#: Recorded beside the machine's events; they move nothing, and may set these fields only.
_NOTES: Final[Mapping[str, frozenset[str]]] = {
    "launched": frozenset({"identity", "host"}),
    "released": frozenset({"owner"}),
}
#: Guards whose facts are in the change itself; what the others were told was not kept.
_ASKED_AGAIN: Final = FROM_RECORD | {"exited_cleanly"}


@attrs.frozen
class Violation:
    """One thing in a journal that the machines, or the rules between journals, do not allow."""

    path: Path
    what: str


def violations(files: Files, folder_fd: int, path: Path) -> Iterator[Violation]:
    """What is wrong in the journals of the folder *path*, oldest first.

    Raises:
        StateCorruptError, SchemaTooNewError: A journal cannot be read at all.
        OSError: The file system refused.
    """
    try:
        journal_fd = files.open_dir("journal", folder_fd)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        found = history.chain(files, journal_fd, path / "journal")
    finally:
        files.close(journal_fd)
    state: ExperimentState | None = None
    for each, until in found:
        assert each.base is not None
        base = state_from_json(each.base.get("state"), each.path)
        if state is not None and not _continues(state, base):
            yield Violation(each.path, "its base is not the state that the journal before it ends")
        state = base
        for line in each.steps(until):
            step = _Step(each, line)
            yield from step.check(state)
            state = step.state


def _continues(state: ExperimentState, base: ExperimentState) -> bool:
    # The new owner and its epoch are all that a base changes.
    return attrs.evolve(base, owner=state.owner, epoch=state.epoch) == attrs.evolve(state)


class _Step:
    """One line of a journal, and the state behind it."""

    def __init__(self, source: Journal, line: Json) -> None:
        self.path = source.path
        self.line = line
        self.state: ExperimentState

    def check(self, state: ExperimentState) -> Iterator[Violation]:
        self.state = before = state
        for change in self._changes():
            for what in _problems(self.state, change):
                yield Violation(self.path, f"revision {self.line.get('revision')}: {what}")
            try:
                self.state = lifecycle.replay(self.state, change)
            except KeyError:
                return  # named as a problem already
        if self.line.get("kind") == "saved":
            saved = state_from_json(self.line.get("state"), self.path)
            yield from self._unexplained(saved)
            self.state = attrs.evolve(saved, epoch=before.epoch)
        revision = self.line.get("revision")
        if type(revision) is int and revision >= 0:  # loading refuses any other
            self.state = attrs.evolve(self.state, revision=revision)

    def _changes(self) -> list[Change]:
        try:
            at = datetime.fromisoformat(self.line["at"])
            return [change_from_json(plain, at) for plain in self.line.get("changes", ())]
        except (AttributeError, KeyError, TypeError, ValueError):
            return []  # loading refuses such a line, and the doctor reports that

    def _unexplained(self, saved: ExperimentState) -> Iterator[Violation]:
        """A saved state moves by the events that were recorded with it, and by nothing else."""
        moved = [
            index
            for index, process in saved.process_progress.items()
            if process.status is not self.state.process_progress[index].status
        ]
        for index in moved:
            was, now = self.state.process_progress[index].status, saved.process_progress[index]
            yield Violation(self.path, f"process {index} went from {was} to {now.status} unnamed")
        if saved.status is not self.state.status:
            yield Violation(
                self.path, f"the experiment went from {self.state.status} to {saved.status} unnamed"
            )


def _problems(state: ExperimentState, change: Change) -> Iterator[str]:
    """Why the machines would not have allowed *change* in *state*; nothing if they would."""
    record: ExperimentState | ProcessProgress | None = state
    who = "the experiment"
    if change.process is not None:
        who = f"process {change.process}"
        record = state.process_progress.get(change.process)
    if record is None:
        yield f"{change.event} of {who}, which does not exist"
        return
    if change.source != record.status:
        yield f"{change.event} moves {who} from {change.source}, but it was {record.status}"
        return
    if change.event in _NOTES:
        stray = change.fields.keys() - _NOTES[change.event]
        if stray or change.source != change.target:
            yield f"{change.event} of {who} moves or changes it: {', '.join(sorted(stray))}"
        return
    edges = [
        edge
        for edge in table(change.entity).get((change.source, change.event), ())
        if edge.target == change.target
    ]
    if not edges:
        yield (
            f"{change.event} moves {who} from {change.source} to {change.target}, "
            f"which its machine does not have"
        )
        return
    if change.fields.get("status", change.target) != change.target:
        yield f"{change.event} says {change.target} of {who} and stores {change.fields['status']}"
    if change.process is not None and state.status in SETTLED:
        yield f"{change.event} moves {who} of an experiment that is {state.status}"
    facts: Facts = {"exit_code": change.fields.get("exit_code")}
    # A saved state was judged by the exit code in it, which is not in the change.
    known = FROM_RECORD if change.evidence == "saved" else _ASKED_AGAIN
    refused: list[str] = []
    for edge in edges:
        asked = [guard for guard in edge.guards if guard in known]
        found = [refusal.why for refusal in refusals(change.entity, record, asked, facts)]
        if not found:
            return
        refused += found
    yield f"{change.event} of {who} was not allowed: {'; '.join(refused)}"


def readable(error: HoldfastError, path: Path) -> str:
    """What is wrong, by *error*: without the *path* before it and what to do behind it."""
    # The path first: it may have a line feed in it.
    return str(error).removeprefix(printable(f"{path}: ")).partition("\n")[0]
