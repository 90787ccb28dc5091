"""What happened to an experiment, oldest first, from all its journals."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import attrs

from holdfast.errors import StateCorruptError
from holdfast.status import Entity, Reason
from holdfast.store import journal
from holdfast.store.codec import Json, change_from_json, identity_from_json
from holdfast.store.place import JOURNALS, Opened

__all__ = ["Spell", "Transition", "chain", "read", "spells"]

_SOURCE: Final = ("epoch", "offset")


@attrs.frozen(kw_only=True)
class Transition:
    """One step that was recorded.

    Attributes:
        index: The process; None for the experiment.
        event: The machine's, or one that moves nothing: `claimed`, `launched`, `released`.
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


@attrs.frozen
class Spell:
    """One attempt of a process that ended, from its start to its end.

    Attributes:
        ended_at: By the attempt's own clock, where it told its end; else when that was recorded.
        watched: Whether one owner recorded both: else it may have ended long before.
    """

    process: int
    attempt: int
    started_at: datetime
    ended_at: datetime
    watched: bool


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
        try:
            yield from _transitions(each, until)
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            raise StateCorruptError(each.path, f"a line is no transition: {err!r}") from err


def spells(folder: Opened) -> Iterator[Spell]:
    """Every attempt in the journals of *folder* that ended, in the order of their ends.

    Raises:
        StateCorruptError: A journal is damaged.
    """
    with folder.open_dir(JOURNALS) as journals:
        found = chain(journals)
    # By process: its attempt, when it was started, and by which owner.
    running: dict[int, tuple[int, datetime, int]] = {}
    owner = 0
    for each, until in found:
        owner += "compacts" not in (each.claim or {})
        try:
            for line in each.steps(until):
                for change in line.get("changes", ()):
                    if (ended := _ended(change, line["at"], owner, running)) is not None:
                        yield ended
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            raise StateCorruptError(each.path, f"a line is no transition: {err!r}") from err


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
        source = current.base.get("from")
        if source is None:
            break
        epoch, until = _folded(current, source)
        if epoch not in based:
            raise StateCorruptError(current.path, f"epoch {epoch}, which it continues, is missing")
        current = based[epoch]
    return counted[::-1]


def _folded(current: journal.Journal, source: Any) -> tuple[int, int]:
    """Which epoch, up to which offset, the base of *current* says that it continues."""
    epoch, until = (source.get(key) if isinstance(source, dict) else None for key in _SOURCE)
    if type(epoch) is not int or type(until) is not int or epoch >= current.epoch:
        raise StateCorruptError(current.path, "its base does not say what it continues")
    return epoch, until


def _ended(
    change: Json, at: str, owner: int, running: dict[int, tuple[int, datetime, int]]
) -> Spell | None:
    """The attempt that *change* ended; what is *running* is kept up to date."""
    process = change.get("process")
    if process is None or change["from"] == change["to"]:
        return None
    fields = change["set"]
    when = datetime.fromisoformat(change.get("at", at))
    if change["to"] == "running":
        running[process] = fields["attempt"], when, owner
    if change["from"] != "running" or process not in running:
        return None
    attempt, began, starter = running.pop(process)
    started_at, ended_at = (fields.get(name) for name in ("started_at", "completed_at"))
    return Spell(
        process,
        attempt,
        began if started_at is None else datetime.fromisoformat(started_at),
        when if ended_at is None else datetime.fromisoformat(ended_at),
        ended_at is not None or owner == starter,
    )


def _transitions(found: journal.Journal, until: int | None) -> Iterator[Transition]:
    claim, base = found.claim, found.base
    assert claim is not None
    assert base is not None
    actor = str(identity_from_json(claim["owner"]))
    status = base["state"]["status"]
    # A journal that its owner began to keep the one before short is no new claim.
    if "compacts" not in claim:
        yield Transition(
            at=datetime.fromisoformat(claim["at"]),
            entity="experiment",
            index=None,
            event="claimed",
            source=status,
            target=status,
            actor=actor,
        )
    for line in found.steps(until):
        yield from _of_line(line, actor, status)


def _of_line(line: Json, actor: str, status: str) -> Iterator[Transition]:
    at = datetime.fromisoformat(line["at"])
    for plain in line.get("changes", ()):
        change = change_from_json(plain, at)
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
    if line["kind"] in ("saved", "deleted") and not line.get("changes"):
        yield Transition(
            at=at,
            entity="experiment",
            index=None,
            event=line["kind"],
            source=status,
            target=status,
            actor=actor,
        )
