"""Finding experiments in a state directory of any size: listings, incomplete ones, equal work.

What is finished is taken from the index, or from the view where the end of the journal confirms
it; everything else is loaded from its journal (guide: storage, *Finding*).
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from holdfast.errors import HoldfastError
from holdfast.ids import is_slug, sanitize_experiment_id
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store import encoding, journal, lines, uninterrupted
from holdfast.store.catalog import scanning
from holdfast.store.catalog.index import DamagedIndexError, Index
from holdfast.store.catalog.summary import TIMES, Summary
from holdfast.store.catalog.works import age
from holdfast.store.place import JOURNALS, Opened, Place

__all__ = ["Found", "Listing", "doers", "ids", "incomplete", "list_all", "of_hash", "offered"]

T = TypeVar("T")
Unreadable = list[tuple[Path, HoldfastError]]

#: A claim and the beginning of a base, as well as the last line of a journal whose owner let go,
#: are shorter than this; most journals of finished experiments are, too.
_END: Final = 8192


class Listing(NamedTuple):
    """Every experiment of a directory.

    Attributes:
        experiments: In the order of their file names.
        unreadable: Files that should hold a state and cannot be read, each with its error.
    """

    experiments: list[Summary]
    unreadable: Unreadable


class Found(NamedTuple):
    """Experiments that were looked for, loaded, in the order of their file names."""

    states: list[ExperimentState]
    unreadable: Unreadable


class Unindexed(NamedTuple):
    """An experiment that the index does not know; without a state what is finished all the same."""

    stem: str
    summary: Summary
    state: ExperimentState | None
    told: set[str]

    def works(self) -> set[str]:
        """What its processes completed."""
        if self.state is None:
            return self.told
        done = ProcessStatus.COMPLETED
        all_of_them = self.state.processes.values()
        return {each.work for each in all_of_them if each.status is done and each.work is not None}


class _Look:
    """One look at all experiments; what has to be loaded is loaded when it is iterated over."""

    def __init__(self, top: Opened, index: Index) -> None:
        self._top = top
        self.index = index
        self.unreadable: Unreadable = []

    @uninterrupted.whole
    def load(self, stem: str) -> ExperimentState | None:
        """The state of *stem*; None if it is gone or unreadable, which is noted."""
        entry = scanning.read_entry(Place(self._top, stem))
        if entry is None:
            return None
        if entry.error is not None:
            self.unreadable.append((entry.path, entry.error))
        return entry.state

    def not_indexed(self) -> Iterator["Unindexed"]:
        """What the index does not know."""
        for stem in self.index.fresh:
            seen = glance(Place(self._top, stem))
            if seen is not None:
                found = Unindexed(stem, seen[0], None, seen[1])
                self.index.learn(stem, found.summary, found.works, released=True)
                yield found
                continue
            state = self.load(stem)
            if state is not None:
                found = Unindexed(stem, Summary.of(state), state, set())
                released = None if state.owner is None else state.owner.released
                self.index.learn(stem, found.summary, found.works, released=released)
                yield found


def _look(top: Opened, work: Callable[[_Look], T]) -> T:
    # Once more as it is now: another look may have replaced what this one was to read.
    for _ in range(2):
        with contextlib.suppress(DamagedIndexError), Index(top) as index:
            result = work(_Look(top, index))
            index.store()
            return result
    with Index(top, believe=False) as index:
        result = work(_Look(top, index))
        index.store()
        return result


def list_all(top: Opened) -> Listing:
    """Every experiment, in brief."""

    def work(look: _Look) -> Listing:
        found = [(stem, summary) for stem, summary, *_ in look.not_indexed()]
        found += look.index.summaries()
        found.sort()
        return Listing([summary for _, summary in found], look.unreadable)

    return _look(top, work)


def ids(top: Opened) -> tuple[list[str], Unreadable]:
    """The ids of all readable experiments, sorted, and what could not be read."""

    def work(look: _Look) -> tuple[list[str], Unreadable]:
        found = [summary.experiment_id for _, summary, *_ in look.not_indexed()]
        return sorted(found + look.index.ids()), look.unreadable

    return _look(top, work)


def offered(top: Opened, most: int) -> list[tuple[str, str | None]]:
    """Ids and names for a shell that completes, in no order, while somebody waits for the key.

    Of what the index does not know, only the last *most* are loaded. The others have their files'
    names here, as almost every id is its own; and what is found out is not kept.
    """
    for believe in (True, False):
        with contextlib.suppress(DamagedIndexError), Index(top, believe=believe) as index:
            found = index.names()
            look = _Look(top, index)
            late = max(len(index.fresh) - most, 0)
            states = (look.load(stem) for stem in index.fresh[late:])
            found += [(each.experiment_id, each.name) for each in states if each is not None]
            return found + [(stem, None) for stem in index.fresh[:late] if not is_slug(stem)]
    return []


def incomplete(top: Opened) -> Found:
    """Every experiment that is not aggregated."""

    def work(look: _Look) -> Found:
        states = [
            state
            for _, summary, state, _ in look.not_indexed()
            if state is not None and summary.status is not ExperimentStatus.AGGREGATED
        ]
        return Found(states, look.unreadable)

    return _look(top, work)


def of_hash(top: Opened, config_hashes: Collection[str], *, include_finished: bool) -> Found:
    """The experiments that were made for the work of any of *config_hashes*."""

    def work(look: _Look) -> Found:
        stems: list[str] = []
        states: dict[str, ExperimentState] = {}
        for stem, summary, state, _ in look.not_indexed():
            over = summary.status is ExperimentStatus.AGGREGATED
            if summary.config_hash in config_hashes and (include_finished or not over):
                stems.append(stem)
                if state is not None:
                    states[stem] = state
        if include_finished:
            stems += look.index.stems_of(config_hashes)
        found = [states.get(stem) or look.load(stem) for stem in sorted(stems)]
        return Found([state for state in found if state is not None], look.unreadable)

    return _look(top, work)


def doers(
    top: Opened, works: Collection[str], limit: int
) -> tuple[dict[str, tuple[str, ...]], Unreadable]:
    """The ids of the *limit* newest that completed each of *works*; without what nobody did."""

    def work(look: _Look) -> tuple[dict[str, tuple[str, ...]], Unreadable]:
        # First, before another look can replace what the index consists of.
        found = look.index.doers({*works}, limit)
        for each in look.not_indexed():
            for one in each.works().intersection(found):
                found[one].append((age(each.summary.created_at), each.summary.experiment_id))
        newest = {
            each: tuple(experiment_id for _, experiment_id in sorted(those)[:limit])
            for each, those in found.items()
            if those
        }
        return newest, look.unreadable

    return _look(top, work)


@uninterrupted.whole
def glance(place: Place) -> tuple[Summary, set[str]] | None:
    """Summary and works of what is certainly finished; None if that takes more than a glance.

    The view says what it was. That this is still the truth is proven by the last line of the last
    journal: the owner that wrote this view, and had aggregated the experiment, let it go there.
    """
    files = place.files
    try:
        with ExitStack() as opened:
            fd = files.open_read(place.view_name, place.dir_fd)
            opened.callback(files.close, fd)
            # Not more than is sensible to look at twice: a larger one is loaded.
            data = files.read(fd, 1 << 20, 0)
            if b'"status": "aggregated"' not in data:
                return None
            plain = json.loads(data)
            folder_fd = files.open_dir(place.stem, place.dir_fd)
            opened.callback(files.close, folder_fd)
            journal_fd = files.open_dir(JOURNALS, folder_fd)
            opened.callback(files.close, journal_fd)
            epoch = journal.epochs(files.names(journal_fd))[-1]
            fd = files.open_read(journal.file_name(epoch), journal_fd)
            opened.callback(files.close, fd)
            head = files.read(fd, _END, 0)
            size = files.fstat(fd).st_size
            tail = head if size <= _END else files.read(fd, _END, size - _END)
        # A folder that was moved here from elsewhere is another experiment's.
        if (
            f'"state":{{"experiment_id":{encoding.dumps(plain["experiment_id"])},'.encode()
            not in head
        ):
            return None
        said = lines.decode(tail[tail.rindex(b"\n", 0, -1) + 1 : -1])
        if tail[-1:] != b"\n" or said is None or plain["epoch"] != epoch:
            return None
        last = lines.parse(said, place.folder)
        if not isinstance(last, lines.Changed) or last.revision != plain["revision"]:
            return None
        (change,) = last.changes
        if (change.event, change.target) != ("released", ExperimentStatus.AGGREGATED):
            return None
        summary = _summary(plain)
        if sanitize_experiment_id(summary.experiment_id) != place.stem:
            return None
        return summary, _works(plain["process_progress"].values())
    except (
        *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError),
        HoldfastError,
    ):
        return None


def _summary(plain: dict[str, Any]) -> Summary:
    texts = [plain[name] for name in ("experiment_id", "name", "error_message", "config_hash")]
    experiment_id, name, error_message, config_hash = texts
    number = plain["num_processes"]
    if type(experiment_id) is not str or type(number) is not int or plain["schema_version"] != 1:
        raise TypeError(experiment_id)
    if any(type(text) not in (str, type(None)) for text in texts):
        raise TypeError(experiment_id)
    reason = plain["reason"]
    return Summary.aggregated(
        experiment_id,
        name,
        None if reason is None else Reason(reason),
        error_message,
        config_hash,
        number,
        sum(each.get("origin") is not None for each in plain["process_progress"].values()),
        [_time(plain[name]) for name in TIMES],
    )


def _works(processes: Collection[dict[str, Any]]) -> set[str]:
    done = [each for each in processes if each["status"] == "completed" and "work" in each]
    works = {each["work"] for each in done}
    if any(type(work) is not str for work in works):
        raise TypeError(works)
    return works


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(text)
    return time
