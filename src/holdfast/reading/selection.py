"""Which experiments are meant, and in which order: by status, age, tags, and what their processes
have.

What a listing knows already is asked first; of what is left, processes are read one experiment at
a time, and none is kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from holdfast.errors import ExperimentNotFoundError
from holdfast.reading.conditions import MISSING, Condition, Kind
from holdfast.status import Reason
from holdfast.store.catalog.summary import Summary
from holdfast.store.manager import StateManager

if TYPE_CHECKING:
    from holdfast.reading.facts import Facts
    from holdfast.store.annotations import Annotated

__all__ = ["BUILT_IN", "Selection", "UnknownNameError", "choose", "select", "tell"]

#: Experiments, and names in each, that are looked through for what a wrong name was meant for.
_MOST_LOOKS: Final = 200
_MOST_NAMES: Final = 1000
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class _BuiltIn(NamedTuple):
    """What every experiment has."""

    of: Callable[[Summary], Any]
    kind: Kind = "any"


def _duration(state: Summary) -> Any:
    if state.started_at is None or state.finished_at is None or state.reason is Reason.STALE:
        return MISSING  # of one whose owner died, `finished_at` is when somebody found out
    return (state.finished_at - state.started_at).total_seconds()


def _or_missing(field: str) -> Callable[[Summary], Any]:
    def of(state: Summary) -> Any:
        found = getattr(state, field)
        return MISSING if found is None else str(found) if isinstance(found, str) else found

    return of


#: What a condition or an order may name besides parameters and results.
BUILT_IN: Final = {
    "id": _BuiltIn(_or_missing("experiment_id")),
    "name": _BuiltIn(_or_missing("name")),
    "status": _BuiltIn(_or_missing("status"), "status"),
    "reason": _BuiltIn(_or_missing("reason")),
    "processes": _BuiltIn(_or_missing("num_processes")),
    "done": _BuiltIn(_or_missing("processes_completed")),
    "failed": _BuiltIn(_or_missing("processes_failed")),
    "running": _BuiltIn(_or_missing("processes_running")),
    "pending": _BuiltIn(_or_missing("processes_pending")),
    "reused": _BuiltIn(_or_missing("processes_reused")),
    "created": _BuiltIn(_or_missing("created_at"), "time"),
    "started": _BuiltIn(_or_missing("started_at"), "time"),
    "finished": _BuiltIn(_or_missing("finished_at"), "time"),
    "updated": _BuiltIn(_or_missing("last_updated"), "time"),
    "duration": _BuiltIn(_duration, "duration"),
}


class UnknownNameError(Exception):
    """No experiment that was looked at has something of this name.

    Attributes:
        looked: How many were looked at.
        close: Names that it may have been meant for.
    """

    def __init__(self, name: str, looked: int, close: Sequence[str]) -> None:
        super().__init__(name)
        self.name = name
        self.looked = looked
        self.close = close


@attrs.frozen(kw_only=True)
class Selection:
    """What experiments have to be like; without anything, all are meant.

    Attributes:
        statuses: One of these.
        tags: Has all of these.
        since: Created at that time, or later.
        before: Not changed since that time.
        conditions: One process of it satisfies all of them.
    """

    statuses: Sequence[str] = ()
    tags: Sequence[str] = ()
    since: datetime | None = None
    before: datetime | None = None
    conditions: Sequence[Condition] = ()

    def __bool__(self) -> bool:
        return self != Selection()

    def admits(self, state: Summary, annotated: "Annotated") -> bool:
        """Whether *state* is meant as far as can be told without its processes."""
        if self.statuses and state.status not in self.statuses:
            return False
        if self.since is not None and (state.created_at or _LONG_AGO) < self.since:
            return False
        if self.before is not None:
            changed = state.last_updated or state.created_at
            if changed is None or changed >= self.before:
                return False
        if self.tags and not set(self.tags).issubset(annotated.of(state).tags):
            return False
        built_in = (each for each in self.conditions if each.name in BUILT_IN)
        return all(each.holds(BUILT_IN[each.name].of(state)) for each in built_in)

    @property
    def of_processes(self) -> list[Condition]:
        """The conditions that only processes can satisfy."""
        return [each for each in self.conditions if each.name not in BUILT_IN]


class _Reader:
    """Reads the processes of experiments, and remembers which names it was asked for and met."""

    def __init__(self, manager: StateManager) -> None:
        self._manager = manager
        #: Names that a process had, and that not every process was asked for.
        self._met: set[str] = set()
        self._passed_over: set[str] = set()
        #: What else there is, as far as was looked.
        self._seen: dict[str, None] = dict.fromkeys(BUILT_IN)
        self._looks = _MOST_LOOKS

    def facts(self, state: Summary) -> "Facts | None":
        """Those of one experiment; None if it is gone."""
        from holdfast.reading.facts import facts  # 30 ms, which most listings never need

        manager, experiment_id = self._manager, state.experiment_id
        try:
            return facts(
                lambda: manager.load(experiment_id), state.status, manager.folder(experiment_id)
            )
        except ExperimentNotFoundError:
            return None

    def satisfied(self, state: Summary, conditions: Sequence[Condition]) -> bool:
        """Whether one process satisfies all of *conditions*."""
        found = self.facts(state)
        if found is None:
            return False
        for process in found.processes:
            for at, each in enumerate(conditions):
                value = process.value(each.name)
                if value is not MISSING:
                    self._met.add(each.name)
                if not each.holds(value):
                    self._passed_over.update(later.name for later in conditions[at + 1 :])
                    break
            else:
                return True
        self._look_around(found)
        return False

    def typical(self, state: Summary, name: str) -> Any:
        """What stands for *name* of all processes."""
        found = self.facts(state)
        return MISSING if found is None else self._typical(found, name)

    def all_typical(self, state: Summary, names: Sequence[str]) -> dict[str, Any]:
        """What stands for each of *names*: if its processes disagree, all that they have."""
        found = self.facts(state)
        if found is None:
            return dict.fromkeys(names)
        values = {}
        for name in names:
            value = self._typical(found, name)
            values[name] = (found.different(name) or None) if value is MISSING else value
        return values

    def _typical(self, found: "Facts", name: str) -> Any:
        value = found.typical(name)
        if value is not MISSING or found.different(name):
            self._met.add(name)
        else:
            self._look_around(found)
        return value

    def _look_around(self, found: "Facts") -> None:
        if self._looks:
            self._looks -= 1
            self._seen.update(dict.fromkeys(islice(found.names(), _MOST_NAMES)))

    def refuse_unknown(self, names: Iterable[str], states: Sequence[Summary]) -> None:
        """Raise UnknownNameError if none of *states*, which were all read, has one of *names*."""
        unmet = {name: None for name in names if name not in self._met}
        if not states:
            return
        for state in states if self._passed_over & unmet.keys() else ():
            found = self.facts(state)
            for process in () if found is None else found.processes:
                for name in [each for each in unmet if process.value(each) is not MISSING]:
                    del unmet[name]
            if not unmet:
                return
        for name in unmet:
            import difflib  # only a mistake needs it

            close = difflib.get_close_matches(name, self._seen, n=3)
            raise UnknownNameError(name, len(states), close)


def select(
    manager: StateManager, states: Iterable[Summary], annotated: "Annotated", selection: Selection
) -> list[Summary]:
    """Those of *states* that are meant.

    Raises:
        UnknownNameError: A condition names what none of them has.
    """
    admitted = [state for state in states if selection.admits(state, annotated)]
    conditions = selection.of_processes
    if not conditions:
        return admitted
    reader = _Reader(manager)
    found = [state for state in admitted if reader.satisfied(state, conditions)]
    if not found:
        reader.refuse_unknown((each.name for each in conditions), admitted)
    return found


def choose(
    manager: StateManager, states: Sequence[Summary], key: str
) -> Sequence[tuple[Summary, Any]]:
    """*states* in the order of *key*, and in that of their age where it does not tell.

    Args:
        key: `duration`, `accuracy`, `-accuracy`: a built-in name or one of processes, from the
            smallest or from the largest. What has no such value comes last.

    Returns:
        Each with what it is sorted by; None if it has nothing.

    Raises:
        UnknownNameError: None of them has what the key names.
    """
    name = key.removeprefix("-")
    if name in BUILT_IN:
        valued = [(state, BUILT_IN[name].of(state)) for state in states]
    else:
        reader = _Reader(manager)
        valued = [(state, reader.typical(state, name)) for state in states]
        if all(value is MISSING for _, value in valued):
            reader.refuse_unknown([name], states)
    return list(_sorted(valued, backwards=key != name))


_Valued = tuple[Summary, Any]


def tell(
    manager: StateManager, states: Sequence[Summary], names: Sequence[str]
) -> list[dict[str, Any]]:
    """What each of *states* has of *names*, parameters and results, as `choose` sorts by them.

    Raises:
        UnknownNameError: None of them has one of *names*.
    """
    reader = _Reader(manager)
    found = [reader.all_typical(state, names) for state in states]
    lacking = [name for name in names if all(each[name] is None for each in found)]
    reader.refuse_unknown(lacking, states)
    return found


def _sorted(valued: list[_Valued], *, backwards: bool) -> Iterator[_Valued]:
    """Numbers and times, then everything else as text, then what has nothing."""
    kinds: dict[str, list[_Valued]] = {"number": [], "other": [], "nothing": []}
    for state, value in valued:
        if value is MISSING or value is None:
            kinds["nothing"].append((state, None))
        else:
            numeric = isinstance(value, int | float | datetime) and value == value
            kinds["number" if numeric else "other"].append((state, value))
    yield from sorted(kinds["number"], key=lambda each: each[1], reverse=backwards)
    yield from sorted(kinds["other"], key=lambda each: str(each[1]), reverse=backwards)
    yield from kinds["nothing"]
