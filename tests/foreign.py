"""Whether a reader that knows only the guide's page on storage agrees with holdfast's own."""

import json
import os
from pathlib import Path
from typing import Any, Final

import foreign_reader
from holdfast.errors import HoldfastError
from holdfast.store import history
from holdfast.store.catalog import scanning
from holdfast.store.encoding import state_to_json
from holdfast.store.files import Files
from holdfast.store.place import JOURNALS, Opened, Place

__all__ = ["disagreements", "state_directories"]

REFUSED: Final = "refused"
NOTHING: Final = (None, [])
_MANY: Final = 100


def disagreements(top: Path) -> list[str]:
    """In what the two differ over the experiments of the state directory *top*."""
    found = []
    with Opened.at(Files(), top) as opened:
        ours, theirs = scanning.stems(opened), foreign_reader.stems(top)
        for stem in sorted({*ours, *theirs}):
            place = Place(opened, stem)
            one = _ours(place) if stem in ours else NOTHING
            other = _theirs(top, stem) if stem in theirs else NOTHING
            if one != other and one == _ours(place):  # nobody is writing
                found.append(f"{stem}: holdfast reads\n  {one!r}\nthe page\n  {other!r}")
    return found


def _ours(place: Place) -> Any:
    """The state, None if there is none, and the history; or that it is refused."""
    entry = scanning.read_entry(place)
    if entry is not None and entry.state is None:
        return REFUSED
    plain = None
    if entry is not None and entry.state is not None:
        plain = json.loads(json.dumps(state_to_json(entry.state)))
        progress = plain["process_progress"].items()
        plain["process_progress"] = {int(i): foreign_reader.PROCESS | each for i, each in progress}
    try:
        return plain, _history(place)
    except (HoldfastError, OSError):
        return REFUSED


def _history(place: Place) -> list[tuple[Any, ...]]:
    folder = place.open_folder()
    if folder is None:
        return []
    with folder:
        steps = history.read(folder) if JOURNALS in folder.names() else ()
        return [(s.at.isoformat(), s.index, s.event, s.source, s.target) for s in steps]


def _theirs(top: Path, stem: str) -> Any:
    try:
        return foreign_reader.load(top, stem), foreign_reader.history(top, stem)
    # A reader that falls over something does not believe it either.
    except (foreign_reader.RefusedError, AttributeError, LookupError, OSError, RecursionError):
        return REFUSED
    except (TypeError, ValueError):
        return REFUSED


def state_directories(below: Path) -> list[Path]:
    """Where a few experiments are; thousands, made to be many, are all alike.

    Not where a link leads: what lies there is looked at where it lies.
    """
    views = {path.parent for path in below.glob("**/.experiment_state/*.json")}
    journals = {path.parents[2] for path in below.glob("**/journal/*.jsonl")}
    found = [each for each in views | journals if not each.is_symlink()]
    return sorted(each for each in found if len(os.listdir(each)) <= _MANY)
