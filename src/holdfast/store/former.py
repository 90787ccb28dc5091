"""What an experiment's journals held before: is a view that lies behind them one of their states?

A view is refreshed up to a second after its journal, so that after a death an older one is normal.
What no journal held was written by somebody else.
"""

from collections.abc import Iterator

import attrs

from holdfast.lifecycle.records import ExperimentState
from holdfast.store import history, journal
from holdfast.store.place import JOURNALS, Place

__all__ = ["left_by_a_death", "states"]


def states(place: Place, epoch: int, revision: int) -> Iterator[ExperimentState]:
    """What a view of that epoch and revision told, if the journals of *place* ever got there.

    Mostly one: letting an experiment go moves no revision.

    Raises:
        OSError, LookupError: There is no such journal.
        StateCorruptError: It is damaged.
    """
    with place.top.open_dir(place.stem) as folder, folder.open_dir(JOURNALS) as journals:
        found = journal.read_journal(journals, epoch) if epoch else history.chain(journals)[0][0]
    if found.base is None:
        return
    if not epoch:
        # What the first owner took over had neither an owner nor an epoch.
        base = journal.fold(found, until=found.lines[1][0]).state
        if base.revision == revision:
            yield attrs.evolve(base, epoch=0, owner=None)
        return
    ends = [found.lines[1][0], *(end for end, step in found.steps() if step.revision == revision)]
    for end in ends:
        state = journal.fold(found, until=end).state
        if state.revision == revision:
            yield state


def left_by_a_death(epoch: int, revision: int, truth: ExperimentState) -> bool:
    """Whether a death explains that a view lies behind *truth*, which nobody owns.

    An owner that let go had refreshed its view, unless it died between the two: a view of an
    earlier epoch was brought back then, from a backup or by an owner that had been superseded.
    """
    if truth.owner is None or not truth.owner.released:
        return (epoch, revision) < (truth.epoch, truth.revision)
    # Letting go moves no revision, and a first owner does not write its view before it records.
    return epoch == truth.epoch or (epoch < truth.epoch and revision == truth.revision)
