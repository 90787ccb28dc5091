"""What happened when, for a page: attempts and steps, the oldest left out where they are many."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from holdfast.reading.spans import Span
from holdfast.report import columns
from holdfast.report.columns import packed, seconds
from holdfast.store.history import Transition

__all__ = ["events", "spans"]

_MOST_EVENTS: Final = 300
_EVIDENCE: Final = 160
#: Bytes of all events, and more for each process.
_BYTES, _OF_A_PROCESS = 3_500, 60
_MOST_BYTES: Final = 40_000
#: Attempts beyond the last of each process.
_MOST_EARLIER, _EARLIER_OF_EACH = 1_000, 2
_CHARS: Final = {
    "completed": "c", "failed": "f", "interrupted": "i", "running": "r", "queued": "q",
    "reused": "u",
}  # fmt: skip


def spans(
    found: Sequence[Span], size: int, t0: datetime | None, left_out: list[str]
) -> dict[str, Any]:
    """The attempts by column, those of a process side by side; times in seconds since *t0*."""
    most = size + _MOST_EARLIER + _EARLIER_OF_EACH * size
    if len(found) > most:
        last = {each.index: each for each in found}
        earlier = [each for each in found if last[each.index] is not each]
        kept = {id(each) for each in (*last.values(), *earlier[-(most - len(last)) :])}
        left_out.append(f"{len(found) - len(kept):,} earlier attempts have no bar")
        found = [each for each in found if id(each) in kept]
    # What never began waited until it was taken out of its queue.
    begins = [each.started_at or each.ended_at or each.submitted_at for each in found]
    queued = [
        seconds(begin, each.submitted_at) if each.submitted_at is not None else 0
        for begin, each in zip(begins, found, strict=True)
    ]
    return {
        "index": [each.index for each in found],
        "attempt": packed([each.attempt for each in found]),
        "queued": packed([max(each or 0, 0) for each in queued]),
        "start": [seconds(begin, t0) for begin in begins],
        "end": packed([seconds(each.ended_at, t0) for each in found]),
        "outcome": "".join(_CHARS[each.outcome] for each in found),
        "reason": packed([None if each.reason is None else str(each.reason) for each in found]),
    }


def events(
    history: Sequence[Transition], t0: datetime | None, size: int, left_out: list[str]
) -> dict[str, Any]:
    """The last steps by column, oldest first: all of the experiment's own before any other."""
    own = [at for at, each in enumerate(history) if each.index is None]
    others = [at for at, each in enumerate(history) if each.index is not None]
    chosen = own[-_MOST_EVENTS:]
    chosen += others[len(others) - max(_MOST_EVENTS - len(chosen), 0) :]
    budget = min(_BYTES + _OF_A_PROCESS * size, _MOST_BYTES)
    kept: list[tuple[int, list[Any]]] = []
    # The experiment's own come first, and the newest of each kind.
    for at in sorted(chosen, key=lambda at: (history[at].index is not None, -at)):
        row = _row(history[at], t0)
        budget -= columns.bytes_of(row)
        if budget < 0:
            break
        kept.append((at, row))
    if len(kept) < len(history):
        more = len(history) - len(kept)
        left_out.append(f"{more:,} earlier events are not here: `holdfast show --events` has all")
    listed = [row for _, row in sorted(kept)]
    names = (
        *("at", "entity", "index", "event", "source", "target", "actor", "reason", "evidence"),
    )
    return {name: [row[at] for row in listed] for at, name in enumerate(names)}


def _row(each: Transition, t0: datetime | None) -> list[Any]:
    return [
        seconds(each.at, t0),
        each.entity,
        each.index,
        columns.cut(each.event, 40),
        columns.cut(each.source, 40),
        columns.cut(each.target, 40),
        columns.cut(each.actor, 80),
        None if each.reason is None else str(each.reason),
        None if each.evidence is None else columns.cut(each.evidence, _EVIDENCE),
    ]
