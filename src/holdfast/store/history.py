"""What happened to an experiment, oldest first, from all its journals."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import attrs

from holdfast.errors import StateCorruptError, printable
from holdfast.lifecycle import display
from holdfast.lifecycle.changes import Change
from holdfast.status import Entity, ProcessStatus, Reason
from holdfast.store import journal
from holdfast.store.lines import Deleted, Saved
from holdfast.store.place import JOURNALS, Opened

__all__ = ["History", "Spell", "Transition", "chain", "read", "spells"]

#: Steps of a history that are told in words.
_MOST_LINES: Final = 20


@attrs.frozen(kw_only=True)
class Transition:
    """One step that was recorded.

    Attributes:
        index: The process; None for the experiment.
        event: The machine's, or one of none: `claimed`, `released`, and `launched` of 0.1.
        actor: Who recorded it: `pid N on HOST`.
        evidence: What proved it, e.g. why an owner was known to be dead.
    """

    at: datetime
    entity: Entity
    index: int | None
    event: str
    source: str
    target: str
    actor: str
    reason: Reason | None = None
    evidence: str | None = None

    def __str__(self) -> str:
        """`2026-11-26 12:00:00 process 3: fail, running → failed (exit)`, in one line."""
        what = self.entity if self.index is None else f"process {self.index}"
        moved = "" if self.source == self.target else f", {self.source} → {self.target}"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.at:%Y-%m-%d %H:%M:%S} {what}: {self.event}{moved}{why}"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return display.shown(self, str(self))

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_()["text/html"]


class History(list[Transition]):
    """Steps, oldest first: a list that a notebook shows as a table."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return History(found) if isinstance(at, slice) else found

    def __str__(self) -> str:
        shown = [printable(each) for each in self[-_MOST_LINES:]]
        before = len(self) - len(shown)
        return "\n".join([*([f"{before:,} steps before these"] if before else []), *shown])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        number = f"{len(self):,} step{'' if len(self) == 1 else 's'}"
        bundle = display.shown(self, number)
        return {**bundle, "text/plain": str(self) or number}

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # IPython has its own way with every list, and asks here before it goes it.
        printer.text(str(self))

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_()["text/html"]


@attrs.frozen
class Spell:
    """One attempt of a process that ended, from its start to its end.

    Attributes:
        ended_at: By the attempt's own clock, where it told its end; else when that was recorded.
        watched: Whether one owner recorded both: else it may have ended long before.
        outcome: What the process became: `pending` if its attempt was interrupted.
        reason: Why it ended, as far as that was recorded.
        submitted_at: When an engine with a queue was given it; else None.
        began: Whether it did: else it was taken out of a queue, and *started_at* is its end.
    """

    process: int
    attempt: int
    started_at: datetime
    ended_at: datetime
    watched: bool
    outcome: ProcessStatus
    reason: Reason | None = None
    host: str | None = None
    submitted_at: datetime | None = None
    began: bool = True


@attrs.define
class _Open:
    """An attempt that has not ended; it began at None as long as it waits in a queue."""

    attempt: int
    began: datetime | None
    owner: int
    host: str | None = None
    submitted_at: datetime | None = None


def read(folder: Opened) -> Iterator[Transition]:
    """Every acknowledged step in the journals of *folder*, oldest first.

    A journal ends where its successor's base says that it was folded: a line behind that was
    written by an owner that had been fenced. A base that no successor folded was late itself.

    Raises:
        StateCorruptError: A journal is damaged.
    """
    with folder.open_dir(JOURNALS) as journals:
        found = chain(journals)
    for each, until in found:
        yield from _transitions(each, until)


def spells(folder: Opened) -> Iterator[Spell]:
    """Every attempt in the journals of *folder* that ended, in the order of their ends.

    Raises:
        StateCorruptError: A journal is damaged.
    """
    with folder.open_dir(JOURNALS) as journals:
        found = chain(journals)
    running: dict[int, _Open] = {}
    owner = 0
    for each, until in found:
        owner += each.claim is None or not each.claim.compacts
        for _, step in each.steps(until):
            for change in step.changes:
                if (ended := _ended(change, owner, running)) is not None:
                    yield ended


def chain(journals: Opened) -> list[tuple[journal.Journal, int | None]]:
    """The *journals* that count, oldest first, each with the offset up to which it does.

    Raises:
        StateCorruptError: One is damaged, or a base continues what is not there.
    """
    # The newest is read first: what a base continues was on the disk before that base, so that
    # claimants who go on meanwhile cannot make it look missing.
    based = {
        found.epoch: found
        for epoch in reversed(journal.epochs(journals.names()))
        if (found := journal.read_journal(journals, epoch)).base is not None
    }
    counted: list[tuple[journal.Journal, int | None]] = []
    current = based[max(based)] if based else None
    until: int | None = None
    while current is not None and current.base is not None:
        counted.append((current, until))
        source = current.base.source
        if source is None:
            break
        epoch, until = source
        if epoch >= current.epoch:
            raise StateCorruptError(current.path, "its base does not say what it continues")
        if epoch not in based:
            raise StateCorruptError(current.path, f"epoch {epoch}, which it continues, is missing")
        current = based[epoch]
    return counted[::-1]


def _ended(change: Change, owner: int, running: dict[int, _Open]) -> Spell | None:
    """The attempt that *change* ended; what is *running* is kept up to date."""
    process, fields = change.process, change.fields
    if process is None:
        return None
    if change.source == change.target:
        if (known := running.get(process)) is not None:
            known.began = fields.get("started_at", known.began)
            known.host = fields.get("host") or known.host
            known.submitted_at = fields.get("submitted_at") or known.submitted_at
        return None
    if change.target == ProcessStatus.RUNNING:
        running[process] = _Open(fields.get("attempt", 0), change.at, owner)
    if change.source != ProcessStatus.RUNNING or process not in running:
        return None
    known = running.pop(process)
    end = fields.get("completed_at") or change.at
    began = fields.get("started_at") or known.began
    return Spell(
        process=process,
        attempt=known.attempt,
        started_at=began or end,
        ended_at=end,
        watched=fields.get("completed_at") is not None or owner == known.owner,
        outcome=ProcessStatus(change.target),
        reason=change.reason,
        host=fields.get("host") or known.host,
        submitted_at=known.submitted_at,
        began=began is not None,
    )


def _transitions(found: journal.Journal, until: int | None) -> Iterator[Transition]:
    claim, base = found.claim, found.base
    assert claim is not None
    assert base is not None
    actor, status = str(claim.owner), base.status
    # A journal that its owner began to keep the one before short is no new claim.
    if not claim.compacts:
        yield _of_experiment(claim.at, "claimed", status, actor)
    for _, step in found.steps(until):
        changes = step.changes
        for change in changes:
            yield Transition(
                at=change.at,
                entity=change.entity,
                index=change.process,
                event=change.event,
                source=change.source,
                target=change.target,
                actor=actor,
                reason=change.reason,
                evidence=change.evidence,
            )
        if not changes and isinstance(step, Saved | Deleted):
            yield _of_experiment(step.at, step.kind, status, actor)


def _of_experiment(at: datetime, event: str, status: str, actor: str) -> Transition:
    """A step of the experiment that moves nothing."""
    return Transition(
        at=at,
        entity="experiment",
        index=None,
        event=event,
        source=status,
        target=status,
        actor=actor,
    )
