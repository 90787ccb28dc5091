"""Every experiment of a state directory: listing, finding, and what could not be read."""

import errno
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from holdfast.errors import (
    AmbiguousExperimentError,
    ExperimentNotFoundError,
    HoldfastError,
    StateCorruptError,
    cause,
)
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import loading, uninterrupted
from holdfast.store.journal import Truth
from holdfast.store.place import JOURNALS, Opened, Place

__all__ = ["Entry", "entries", "find", "lookup", "read", "resolve", "stems"]


class Entry(NamedTuple):
    """One experiment of a listing: its state, or why it could not be read.

    Attributes:
        orphaned: The state is that of a view whose journals are gone.
        truth: Where in its journal the state was read; None with an error.
    """

    stem: str
    path: Path
    state: ExperimentState | None
    error: HoldfastError | None
    orphaned: bool = False
    truth: Truth | None = None


def stems(top: Opened) -> list[str]:
    """The file stems of all experiments, sorted: those with a view, and folders that lack one."""
    names = top.names()
    found = {name[:-5] for name in names if name.endswith(".json") and not name.startswith(".")}
    for name in names:
        # A folder is an experiment if it has a journal, even if somebody removed its view.
        if name.startswith(".") or name in found or name.endswith(".json"):
            continue
        try:
            if stat.S_ISDIR(top.files.stat(f"{name}/{JOURNALS}", top.fd).st_mode):
                found.add(name)
        except OSError as err:
            # One that may not be looked into is not hidden: reading it says why.
            if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                found.add(name)
    return sorted(found)


@uninterrupted.whole
def read_entry(place: Place) -> Entry | None:
    """The experiment there; None if it is gone."""
    stem, path = place.stem, place.view_path
    try:
        truth = loading.read(place)
    except HoldfastError as err:
        return Entry(stem, getattr(err, "path", path), None, err)
    except OSError as err:
        return Entry(stem, path, None, StateCorruptError(path, f"cannot be read: {cause(err)}"))
    if truth is None:
        return None
    problem = loading.misnamed(truth.state, stem)
    if problem is not None:
        return Entry(stem, path, None, StateCorruptError(path, problem))
    orphaned = truth.epoch < truth.state.epoch
    return Entry(stem, path, truth.state, None, orphaned=orphaned, truth=truth)


def entries(top: Opened) -> Iterator[Entry]:
    """Every experiment in the order of its name; unreadable ones come with their error."""
    for stem in stems(top):
        entry = read_entry(Place(top, stem))
        if entry is not None:
            yield entry


def lookup(place: Place, experiment_id: str) -> ExperimentState:
    """The state of the experiment there. Raises as `find`."""
    return find(place, experiment_id)[0]


def find(place: Place, experiment_id: str) -> tuple[ExperimentState, bool]:
    """Its state, and whether it is *orphaned*: of a view whose journals are gone.

    Raises as `read`.
    """
    truth = read(place, experiment_id)
    return truth.state, truth.epoch < truth.state.epoch


def read(place: Place, experiment_id: str) -> Truth:
    """Its state, and where in its journal that was read.

    Raises:
        ExperimentNotFoundError: There is none; with the ids that look like it.
        StateCorruptError, SchemaTooNewError: It cannot be read.
    """
    entry = read_entry(place)
    if entry is not None and entry.error is not None:
        raise entry.error
    truth = None if entry is None else entry.truth
    if truth is None or truth.state.experiment_id != experiment_id:
        close = close_matches(place.top, experiment_id)
        raise ExperimentNotFoundError(experiment_id, place.state_dir, close)
    return truth


def close_matches(top: Opened, experiment_id: str) -> tuple[str, ...]:
    """Up to three ids that *experiment_id* may have been meant for."""
    import difflib  # only a mistake needs it

    found = difflib.get_close_matches(experiment_id, stems(top), n=3, cutoff=0.6)
    return tuple(found)


def resolve(ids: list[str], query: str, state_dir: Path) -> str:
    """The one id that *query* is, or is a prefix of.

    Raises:
        AmbiguousExperimentError: It is a prefix of several.
        ExperimentNotFoundError: Of none.
    """
    if query in ids:
        return query
    matches = [each for each in ids if query and each.startswith(query)]
    if len(matches) > 1:
        raise AmbiguousExperimentError(f"the prefix {query!r}", tuple(matches))
    if not matches:
        import difflib  # only a mistake needs it

        close = tuple(difflib.get_close_matches(query, ids, n=3, cutoff=0.6))
        raise ExperimentNotFoundError(query, state_dir, close)
    return matches[0]
