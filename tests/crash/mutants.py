"""Our own protocol with one step too late, or a sync left out: every such mutant must be caught.

A *step* is a line of the store's source that asks for a sync, or that changes something. Whether
and when the disk has something has no effect on what the program does next, so that a mutant's
trace is the real one without (or with a late) step; nothing has to be patched, and no step can be
forgotten: the steps are found by running the workloads, not by a list. Changes that are left out
altogether do have an effect: see `removals`.

A mutant is first tried on the workloads' own traces. If it survives, its owner is killed before
every operation and a successor goes on before the power goes: some steps are there for that alone.

Left alone, because in another order they leave the same behind or cost nothing but space or speed:
files being made, which nobody could write before; what is tidied away; and the index, which is only
a cache (`tests/integration/test_index.py` kills it at every step).
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from .boundaries import reference
from .checking import Verdict, survey
from .effects import Mark, Sync, Trace
from .lives import Life, killed_life
from .subject import Holdfast

__all__ = ["behind", "caught", "changes", "late", "overtaken", "steps", "without"]

Mutation = Callable[[Trace, set[int]], Trace]


def steps(recorded: Iterable[Life]) -> list[str]:
    """Every line of the store that asked for a sync in one of these lives."""
    return sorted({site for life in recorded for site in life.sites.values() if _is_sync(site)})


def changes(recorded: Iterable[Life]) -> list[str]:
    """Every line of the store that changed what must not come late."""
    found = {site for life in recorded for site in life.sites.values() if not _is_sync(site)}
    return sorted(site for site in found if not any(word in site for word in _LEFT_ALONE))


def _is_sync(site: str) -> bool:
    return site.startswith(("fsync", "fdatasync"))


_LEFT_ALONE = (
    "open_append ", "open_new ", " store.catalog.index.", " elsewhere", "rmdir ",
    "unlink of store.deletion._remove_tree", "unlink of store.ownership.publish_epoch",
    "unlink of store.view.create", "truncate of store.writer._give_room_back",
)  # fmt: skip

#: Every combination of what is left of two torn lines that meet.
_EVERY = 3000


def without(trace: Trace, syncs: set[int]) -> Trace:
    """The mutant that leaves these syncs out."""
    for index in sorted(syncs, reverse=True):
        trace = trace.without(index)
    return trace


def late(trace: Trace, syncs: set[int]) -> Trace:
    """The mutant that does each of these syncs after the next effect instead of before it."""
    return _moved(trace, syncs, Sync, found=False)


def behind(trace: Trace, syncs: set[int]) -> Trace:
    """The mutant that acknowledges first and syncs then."""
    return _moved(trace, syncs, Mark, found=True)


def overtaken(trace: Trace, changed: set[int]) -> Trace:
    """The mutant that changes these only after the next sync."""
    return _moved(trace, changed, Sync, found=True)


def _moved(trace: Trace, syncs: set[int], kind: type, *, found: bool) -> Trace:
    """Move each sync behind the next effect that is (or is not) of *kind*."""
    for index in sorted(syncs, reverse=True):
        after = index + 1
        while after < len(trace.effects) and isinstance(trace.effects[after], kind) != found:
            after += 1
        if after < len(trace.effects):
            trace = trace.moved(index, after + 1)
    return trace


def caught(
    step: str,
    mutation: Mutation,
    recorded: Iterable[Life],
    names: Iterable[str],
    where: Path,
    known: dict[tuple[str, str], Verdict],
) -> str | None:
    """The first loss that this mutant suffers, in words; None if it survives everything.

    Args:
        recorded: The workloads' lives.
        names: Workloads whose owners are killed before every sync, if it survives so far.
        known: Verdicts of all mutants: what they leave behind differs in little.
    """
    for life in recorded:
        found = _loss(step, mutation, life, where, known)
        if found:
            return found
    for name in names:
        ref = reference(name, where)
        for at in ref.before_syncs():
            life = killed_life(ref, at, where)
            found = _loss(step, mutation, life, where, known, limit=4)
            if found:
                return found
    # What shows only where a line was written over another takes a close look, at that line alone.
    for life in recorded:
        at = [index for index, site in life.sites.items() if site == step]
        if life.name == "refused" and at:
            return _loss(step, mutation, attrs.evolve(life, since=at[0]), where, limit=_EVERY)
    return None


def _loss(
    step: str,
    mutation: Mutation,
    life: Life,
    where: Path,
    known: dict[tuple[str, str], Verdict],
    limit: int = 30,
) -> str | None:
    syncs = {index for index, site in life.sites.items() if site == step}
    if not syncs:
        return None
    mutant = mutation(life.trace, syncs)
    done = survey(
        life.name, mutant, Holdfast(), where, limit=limit, seconds=0, live_share=0.0,
        stop_at_first=True, beginning=life.beginning, since=_moved_since(life, syncs, mutant),
        known=known,
    )  # fmt: skip
    return done.problems[0] if done.losses else None


def _moved_since(life: Life, syncs: set[int], mutant: Trace) -> int:
    gone = len(life.trace.effects) - len(mutant.effects)
    return life.since - min(gone, sum(1 for index in syncs if index < life.since))
