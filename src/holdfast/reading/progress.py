"""How far the running processes are, as every listing shows it, and when an experiment is done.

From what they report, for eyes only: looks are bounded, and decide nothing. Here the wall's clock
says how old a report is; what acts on a stall, `holdfast.orchestration.stalls`, has one of its own.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.attempts.progress import Progress, Sources
from holdfast.config.durations import parse_duration
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading import text
from holdfast.reading.schedule import done_in_s
from holdfast.status import ProcessStatus
from holdfast.store.attempted import attempt_of

__all__ = [
    "HEADER",
    "LOOK_EVERY_S",
    "MOST",
    "Estimate",
    "Looks",
    "Standing",
    "Sums",
    "alike",
    "cells",
    "form",
    "remaining_s",
    "said",
    "standings",
    "sums",
]

#: What heads the three cells of a report.
HEADER: Final = ("PROG", "ETA", "BEAT")

#: Processes of an experiment whose reports are looked for: more than any table shows.
MOST: Final = 200
#: Between two looks, for who draws more often than that.
LOOK_EVERY_S: Final = 1.0
#: Within which a slot that a process has left is taken by the next.
_HAND_OVER: Final = timedelta(seconds=2)
#: Processes that take their turn in a look, besides those that are shown.
_A_TURN: Final = 50


@attrs.frozen(kw_only=True)
class Standing:
    """Where a running process stands, by its own reports.

    Attributes:
        age_s: Since its last report: its heartbeat.
        remaining_s: Until it is done, at its pace so far; None if that cannot be told.
        stalled: Whether it has been silent for longer than `limits.stall`.
    """

    progress: Progress
    age_s: float
    remaining_s: float | None
    stalled: bool

    def aged(self, now: datetime) -> "Standing":
        """The same report, as old as it is by *now*."""
        return attrs.evolve(self, age_s=self.progress.age_s(now))


def standings(
    state: ExperimentState,
    folder: Path,
    now: datetime,
    *,
    only: int | None = None,
    most: int = MOST,
    waits: Container[int] | None = None,
) -> dict[int, Standing]:
    """Of the running processes those that report, by index.

    Args:
        only: The one process that is asked for.
        most: How many processes to look at, the first.
        waits: Those that have not begun, and report nothing; None for those of which it is not
            recorded that they have.
    """
    running = [
        index
        for index in state.processes.indices(ProcessStatus.RUNNING)
        if (only is None or index == only)
        and not (state.processes[index].waits if waits is None else index in waits)
    ]
    return _looked(state, running[:most], now, Sources(folder), brief=True)


def _looked(
    state: ExperimentState,
    indices: Iterable[int],
    now: datetime,
    sources: Sources,
    *,
    brief: bool = False,
) -> dict[int, Standing]:
    """Of the processes *indices*, which run, those that report."""
    found = {}
    limit_s = _stall_s(state)
    # What one launcher started stands side by side, and its folder is listed once for all of them.
    for name, members in groupby(indices, lambda index: attempt_of(state, index)):
        for index, progress in sources.looks(name, members, brief=brief).items():
            age_s = progress.age_s(now)
            stalled = limit_s is not None and age_s >= limit_s
            began = state.processes[index].started_at
            left_s = None if stalled else progress.remaining_s(now, began)
            found[index] = Standing(
                progress=progress, age_s=age_s, remaining_s=left_s, stalled=stalled
            )
    return found


def _stall_s(state: ExperimentState) -> float | None:
    """`limits.stall` as stored. Not all of the configuration: a matrix may take a second."""
    limits = state.config.get("limits")
    stall = limits.get("stall") if isinstance(limits, Mapping) else None
    try:
        return None if stall is None else parse_duration(stall)
    except ValueError:
        return None  # made by hand, or through the library


class Looks:
    """The standings of a state that is shown again and again, looked for once in a while.

    What is shown is looked at each time. The others take turns, so that a look costs the same
    however many run.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, *, every_s: float = LOOK_EVERY_S
    ) -> None:
        """Look at nothing yet.

        Args:
            monotonic: Says when *every_s* are over.
            every_s: Between two looks at least; 0 for who draws no more often than it wants to
                look: each frame is a look then.
        """
        self._monotonic = monotonic
        self._every_s = every_s
        self._sources: Sources | None = None
        self._followed: set[AttemptName] = set()
        self._found: dict[int, Standing] = {}
        self._turn = 0
        self._at = -math.inf
        self._frame: datetime | None = None

    def at(
        self, state: ExperimentState, folder: Path, now: datetime, shown: Collection[int] = ()
    ) -> Mapping[int, Standing]:
        """Where the running processes of *state* stand; of those *shown*, `every_s` ago at most.

        Whoever asks again with the same *now* draws the same frame, and gets the same answer.
        """
        if now != self._frame and self._monotonic() - self._at >= self._every_s:
            self._at, self._frame = self._monotonic(), now
            if self._sources is None:
                self._sources = Sources(folder)
            indices = state.processes.indices(ProcessStatus.RUNNING)
            running = [index for index in indices if not state.processes[index].waits]
            names = {attempt_of(state, index) for index in running}
            for name in self._followed - names:
                self._sources.forget(name)
            self._followed = names
            looked_at = sorted({*shown, *self._turns(running)}.intersection(running))
            others = set(running).difference(looked_at)
            found = {index: each for index, each in self._found.items() if index in others}
            self._found = found | _looked(state, looked_at, now, self._sources)
        return self._found

    def _turns(self, running: Sequence[int]) -> Sequence[int]:
        """Whose turn it is, the first ones at first."""
        start = bisect_left(running, self._turn)
        chosen = [*running[start : start + _A_TURN]]
        chosen += running[: min(_A_TURN - len(chosen), start)]
        if chosen:
            self._turn = chosen[-1] + 1
        return chosen


# -- in words, and as JSON ------------------------------------------------------------------------


def cells(standing: "Standing | Sums | None") -> tuple[str, str, str]:
    """`3/90 3%`, `2m 10s`, `1.2 s`: steps, time left, age of the last report."""
    if standing is None:
        return "", "", ""
    if isinstance(standing, Sums):
        steps = _steps(standing.step, standing.total)
        stalled = f", {standing.stalled:,} stalled" if standing.stalled else ""
    else:
        steps = _steps(standing.progress.step, standing.progress.total)
        stalled = ", stalled" if standing.stalled else ""
    left = "" if standing.remaining_s is None else text.duration(standing.remaining_s)
    return steps, left, text.duration(standing.age_s) + stalled


def _steps(step: int | float | None, total: int | float | None) -> str:
    if step is None:
        return "" if total is None else f"?/{_number(total)}"
    if total is None:
        return _number(step)
    # Rounded down: 100% is what is done.
    share = f" {int(100 * min(max(step / total, 0.0), 1.0))}%" if total > 0 else ""
    return f"{_number(step)}/{_number(total)}{share}"


def _number(value: int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def said(progress: Progress) -> str:
    """Its message and its last values: `warming up loss=0.25`."""
    from holdfast.reading.cells import cell  # loads what reads results, which a listing never needs

    values = (f"{text.short(key, 40)}={cell(each)}" for key, each in progress.values.items())
    return text.short(" ".join(filter(None, (progress.message, *values))))


def form(standing: Standing | None) -> dict[str, Any] | None:
    """What `--json` has of a process that reports; what JSON lacks, such as NaN, is None."""
    if standing is None:
        return None
    progress = standing.progress
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in progress.values.items()
    }
    return {
        "step": progress.step,
        "total": progress.total,
        "message": progress.message,
        "values": values,
        "heartbeat_age_s": round(standing.age_s, 3),
        "stalled": standing.stalled,
    }


def alike(
    state: ExperimentState, rows: Iterable[tuple[int, Sequence[str]]]
) -> list[tuple[list[int], Sequence[str]]]:
    """*rows* by process; ranks of one launcher that have the same share one."""

    def key(item: tuple[int, Sequence[str]]) -> tuple[object, ...]:
        index, row = item
        return (index if state.ranks is None else state.gang(index).start, *row)

    groups = ([*group] for _, group in groupby(rows, key))
    return [([index for index, _ in group], group[0][1]) for group in groups]


# -- of a whole experiment ------------------------------------------------------------------------


class Estimate:
    """When an experiment will be done, from how long its processes took, or say that they take."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._ended = 0
        self._widest = 1

    def ended(self, process: ProcessProgress) -> None:
        """A process completed."""
        if process.started_at is not None and process.completed_at is not None:
            self._seconds += max(0.0, (process.completed_at - process.started_at).total_seconds())
            self._ended += 1

    def ran_at_once(self, number: int) -> None:
        """So many ran at the same time: there are as many slots."""
        self._widest = max(self._widest, number)

    def left_s(
        self,
        state: ExperimentState,
        now: datetime,
        standing: Mapping[int, Standing] | None = None,
        held: int = 0,
    ) -> float | None:
        """Seconds left if as many run at once as did; None before anything is known.

        Args:
            held: Pending processes that are not to be started.
        """
        lasted, waiting = {}, 0
        for index in state.processes.indices(ProcessStatus.RUNNING):
            process = state.processes[index]
            if process.waits:
                waiting += 1
                continue
            since = process.started_at
            lasted[index] = 0.0 if since is None else (now - since).total_seconds()
        self.ran_at_once(len(lasted))
        reported = {
            index: each.remaining_s
            for index, each in (standing or {}).items()
            if each.remaining_s is not None and index in lasted
        }
        if self._ended:
            mean = self._seconds / self._ended
        elif reported:
            mean = sum(lasted[index] + left for index, left in reported.items()) / len(reported)
        else:
            return None
        left = [reported.get(index, max(mean - s, 0.0)) for index, s in lasted.items()]
        if waiting and not lasted:
            return None  # nobody knows how long a queue takes
        free = left + [0.0] * (self._widest - len(left))
        return done_in_s(free, state.processes_pending - held + waiting, mean)


def remaining_s(
    state: ExperimentState, now: datetime, found: Mapping[int, Standing] | None = None
) -> float | None:
    """Seconds until *state* is done, as `Estimate` tells from all of its processes at once."""
    estimate, before = Estimate(), now - _HAND_OVER
    wide = 0
    for index in state.processes.indices(ProcessStatus.COMPLETED):
        process = state.processes[index]
        estimate.ended(process)
        wide += _ran_at(process, before)
    for index in state.processes.indices(ProcessStatus.RUNNING):
        wide += _ran_at(state.processes[index], before)
    # Slots that were just left are about to be taken again: without them, the end of a wave would
    # look like a single slot that all the others wait for.
    estimate.ran_at_once(wide)
    return estimate.left_s(state, now, found)


def _ran_at(process: ProcessProgress, at: datetime) -> bool:
    began, ended = process.started_at, process.completed_at
    return began is not None and began <= at and (ended is None or ended > at)


@attrs.frozen(kw_only=True)
class Sums:
    """What the running processes of an experiment report, together.

    Attributes:
        step: Of those that tell theirs.
        total: None if one that has steps does not say of how many.
        age_s: Since the newest report.
        remaining_s: Until the experiment is done; None if that cannot be told.
        stalled: How many have been silent for longer than `limits.stall`.
    """

    step: float | None
    total: float | None
    age_s: float
    remaining_s: float | None
    stalled: int

    def form(self) -> dict[str, Any]:
        """What `ls --json` has of it."""
        eta_s = None if self.remaining_s is None else round(self.remaining_s, 3)
        return {
            "step": self.step,
            "total": self.total,
            "heartbeat_age_s": round(self.age_s, 3),
            "stalled": self.stalled,
            "eta_s": eta_s,
        }


def sums(
    state: ExperimentState,
    folder: Path,
    now: datetime,
    *,
    most: int = MOST,
    waits: Container[int] | None = None,
) -> Sums | None:
    """The sums of what is reported in *state*; None if nothing is. See `standings`."""
    found = standings(state, folder, now, most=most, waits=waits)
    if not found:
        return None
    reports = [each.progress for each in found.values()]
    stepping = [each for each in reports if each.step is not None]
    totals = [each.total for each in stepping if each.total is not None]
    return Sums(
        step=sum(each.step for each in stepping if each.step is not None) if stepping else None,
        total=sum(totals) if stepping and len(totals) == len(stepping) else None,
        age_s=min(each.age_s for each in found.values()),
        remaining_s=remaining_s(state, now, found),
        stalled=sum(each.stalled for each in found.values()),
    )
