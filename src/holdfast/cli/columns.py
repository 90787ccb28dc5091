"""The columns of `holdfast ls`: what each says to people, and its whole value for programs."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from holdfast.identity import Verdict
from holdfast.reading import forms, glyphs, text
from holdfast.reading.engines import is_left
from holdfast.reading.signs import has_signs
from holdfast.reading.tables import Column
from holdfast.reading.times import elapsed_s, goes_on
from holdfast.status import ExperimentStatus, Reason
from holdfast.store.catalog.summary import Summary

if TYPE_CHECKING:
    from holdfast.reading.engines import HandedOver
    from holdfast.reading.outliving import Outlived
    from holdfast.reading.progress import Sums
    from holdfast.store.annotations import Annotations

__all__ = ["DEFAULT", "NAMES", "Listed", "column_of", "columns", "value_of"]


class Listed(NamedTuple):
    """One experiment of the listing."""

    state: Summary
    #: Its owner's verdict, where it is running.
    living: Verdict | None
    #: Attempts of which something runs, or may, although nobody owns the experiment.
    alive: int
    said: "Annotations"
    #: What it is sorted by; None if it has nothing of that name, or the order is that of age.
    value: Any = None
    #: What its running processes report, where they do.
    sums: "Sums | None" = None
    #: What an engine with a queue has of it.
    having: "HandedOver | None" = None
    #: What outlived its owner, of a running one.
    left: "Outlived | None" = None
    #: When its first process began, of a running one; None if none has, or it was not looked.
    began: datetime | None = None
    #: Until it is done, where that can be told.
    remaining_s: float | None = None
    #: What further columns say, by their names.
    facts: dict[str, Any] | None = None

    @property
    def goes_on(self) -> bool:
        """Whether something runs, or may."""
        if self.state.status is not ExperimentStatus.RUNNING:
            return False
        return goes_on(self.state, self.living, self.having)

    def elapsed_s(self, now: datetime) -> float | None:
        """Seconds since it began."""
        if self.state.status is not ExperimentStatus.RUNNING:
            return elapsed_s(self.state.started_at, self.state, now, on=False)
        return elapsed_s(self.began, self.state, now, on=self.goes_on, left=self.left)


class _Look(NamedTuple):
    """When and where a listing is looked at."""

    now: datetime
    #: Whether signs other than ASCII can be shown.
    signs: bool


class _Known(NamedTuple):
    """A column that every listing can have.

    Attributes:
        value: Whole, for programs.
        words: For people; default: the value as a cell.
        running: Whether only what runs has any.
    """

    heading: str
    value: Callable[[Listed, datetime], Any]
    words: Callable[[Listed, _Look], str] | None = None
    number: bool = False
    running: bool = False


def _status(each: Listed) -> str:
    words = forms.status_words(each.state, each.living, each.having)
    if each.having is not None:
        left = each.living is None or is_left(each.state, each.living)
        return ", ".join(filter(None, (words, str(each.having) if left else each.having.waiting)))
    return f"{words}, {each.alive} run on" if each.alive else words


def _progress(each: Listed) -> tuple[str, str, str]:
    if each.sums is None:
        return "", "", ""  # most do not run, and need nothing that would be loaded here
    from holdfast.reading.progress import cells

    return cells(each.sums)


def _unknown(each: Listed, words: str, look: _Look) -> str:
    """*words*; of what runs and does not say, a dash; nothing of what is over."""
    return words or (glyphs.unknown(signs=look.signs) if each.goes_on else "")


def _seconds(found: float | None) -> float | None:
    return None if found is None else round(found, 3)


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else text.duration(seconds)


def _lasted(each: Listed, look: _Look) -> str:
    if words := _duration(each.elapsed_s(look.now)):
        return words
    # Nobody knows when an owner died.
    stale = each.state.reason is Reason.STALE
    return glyphs.unknown(signs=look.signs) if stale else _unknown(each, "", look)


def _count(field: str, *, zero: str = "0") -> tuple[Any, Any]:
    def words(each: Listed, _: _Look) -> str:
        return str(getattr(each.state, field) or zero)

    return lambda each, _: getattr(each.state, field), words


def _time(heading: str, field: str) -> _Known:
    return _Known(
        heading,
        lambda each, _: getattr(each.state, field),
        lambda each, look: text.age(getattr(each.state, field), look.now),
        number=True,
    )


#: By the names that `--columns` has for them.
_KNOWN: Final[dict[str, _Known]] = {
    "id": _Known("ID", lambda each, _: each.state.experiment_id),
    "name": _Known("NAME", lambda each, _: each.state.name),
    "state": _Known(
        "STATE",
        lambda each, _: str(each.state.status),
        lambda each, look: glyphs.status(_status(each), signs=look.signs),
    ),
    "reason": _Known("REASON", lambda each, _: each.state.reason),
    "owner": _Known("OWNER", lambda each, _: None if each.living is None else each.living.kind),
    "processes": _Known("PROCESSES", *_count("num_processes"), number=True),
    "done": _Known(
        "DONE",
        lambda each, _: each.state.processes_completed,
        lambda each, _: f"{each.state.processes_completed}/{each.state.num_processes}",
        number=True,
    ),
    "fail": _Known("FAIL", *_count("processes_failed", zero=""), number=True),
    "running": _Known("RUNNING", *_count("processes_running"), number=True),
    "pending": _Known("PENDING", *_count("processes_pending"), number=True),
    "reused": _Known("REUSED", *_count("processes_reused", zero=""), number=True),
    "prog": _Known(
        "PROG",
        lambda each, _: None if each.sums is None else each.sums.step,
        lambda each, look: _unknown(each, _progress(each)[0], look),
        number=True,
        running=True,
    ),
    "total": _Known("TOTAL", lambda each, _: None if each.sums is None else each.sums.total),
    "elapsed": _Known(
        "ELAPSED",
        lambda each, now: _seconds(each.elapsed_s(now)),
        _lasted,
        number=True,
    ),
    "eta": _Known(
        "ETA",
        lambda each, _: _seconds(each.remaining_s),
        lambda each, look: _unknown(each, _duration(each.remaining_s or None), look),
        number=True,
        running=True,
    ),
    "beat": _Known(
        "BEAT",
        lambda each, _: None if each.sums is None else _seconds(each.sums.age_s),
        lambda each, look: _unknown(each, _progress(each)[2], look),
        number=True,
        running=True,
    ),
    "tags": _Known("TAGS", lambda each, _: " ".join(each.said.tags)),
    "note": _Known("NOTE", lambda each, _: each.said.note),
    "created": _time("CREATED", "created_at"),
    "started": _time("STARTED", "started_at"),
    "finished": _time("FINISHED", "finished_at"),
    "updated": _time("UPDATED", "last_updated"),
}
#: Names that other places have for them.
_ALSO: Final = {
    "status": "state", "failed": "fail", "completed": "done", "duration": "elapsed",
    "progress": "prog", "heartbeat": "beat", "experiment_id": "id",
}  # fmt: skip

NAMES: Final = tuple(_KNOWN)
#: What a listing has unless it is asked for others.
DEFAULT: Final = ("id", "name", "state", "done", "fail", "prog", "elapsed", "eta", "beat")
#: What it has besides where there is something to say, and room.
_OPTIONAL: Final = ("reused", "tags", "updated")

#: Which of them goes first where room lacks: the one with the highest number.
_RANKS: Final = {
    "done": 0, "state": 0, "fail": 0, "eta": 2, "elapsed": 3, "beat": 4, "name": 5, "prog": 6,
    "tags": 7, "reused": 8, "updated": 9,
}  # fmt: skip
#: Columns of what may be cut: a name, tags, a text.
_LEAST: Final = 12


def column_of(word: str) -> str | None:
    """The name of the column that *word* means, as somebody typed it; None if none is known."""
    name = word.lower()
    name = _ALSO.get(name, name)
    return name if name in _KNOWN else None


def value_of(each: Listed, name: str, now: datetime) -> Any:
    """What a column has of an experiment, whole; times as such, durations in seconds."""
    if name in _KNOWN:
        return _KNOWN[name].value(each, now)
    return (each.facts or {}).get(name)


def columns(found: Sequence[Listed], names: Sequence[str] | None, key: str | None) -> list[Column]:
    """The table's columns, for people.

    Args:
        names: Those that were asked for; None for the usual ones.
        key: What the experiments are sorted by, of which there is a column, too.
    """
    look = _Look(datetime.now(UTC), has_signs())
    made = []
    if names is None:
        chosen = [*DEFAULT, *_OPTIONAL]
        if key is not None and (column_of(key) or key) not in chosen:
            chosen[4:4] = [column_of(key) or key]
        for name in chosen:
            column = _column(found, name, look, _RANKS.get(name, 1))
            if name in _OPTIONAL:
                if not any(column.cells):
                    continue
                column = column._replace(optional=True)
            made.append(column)
        return made
    # What was asked for first goes last.
    return [_column(found, name, look, at) for at, name in enumerate(names)]


def _column(found: Sequence[Listed], name: str, look: _Look, rank: int) -> Column:
    known = _KNOWN.get(name)
    if known is None:
        values = [(each.facts or {}).get(name) for each in found]
        numbers = all(isinstance(each, int | float) for each in values if each is not None)
        return Column(
            heading=text.short(name, 40),
            cells=[_cell(each) for each in values],
            right=numbers,
            least=None if numbers else _LEAST,
            rank=rank,
        )
    words = known.words
    if words is not None and known.running:
        runs = ExperimentStatus.RUNNING
        cells = [words(each, look) if each.state.status is runs else "" for each in found]
    elif words is not None:
        cells = [words(each, look) for each in found]
    else:
        cells = [_cell(known.value(each, look.now)) for each in found]
    least: int | None = _LEAST
    if known.number or name == "id":
        least = None
    elif name == "state":  # its word is never cut, what is said besides may be
        least = max(
            (text.width(each.split(" (")[0].split(",")[0]) for each in set(cells)), default=0
        )
    return Column(
        heading=known.heading,
        cells=cells,
        right=known.number,
        least=least,
        rank=rank,
        style=_style if name == "state" else None,
    )


def _style(cell: str) -> text.Style | None:
    return glyphs.style(cell.partition(" ")[2])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # Most are as short as they look, and there may be 100,000 of them.
        return value if len(value) < 40 and value.isprintable() else text.short(value)
    if isinstance(value, datetime):
        return text.age(value)
    from holdfast.reading.cells import cell  # loads what reads results

    return cell(value)
