"""Progress while an experiment runs: a live display on a terminal, a few lines off it.

It observes the steps that are recorded, in a thread of its own, and only ever reads them. A display
that cannot be written (the terminal is gone, or held) never stops an experiment, or slows it down.
"""

import contextlib
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from holdfast.attempts.files import live_state, read_exit
from holdfast.attempts.reports import output_of
from holdfast.attempts.surviving import halted_shim
from holdfast.config.engine import is_local
from holdfast.errors import HoldfastError
from holdfast.lifecycle.changes import Change, replay_many
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.endings import describe
from holdfast.reading import reasons, text
from holdfast.reading.contention import slots_words
from holdfast.reading.engines import HandedOver, being_submitted, handed_over, queue_lines
from holdfast.reading.evidence import Params, last_words, params_words, tail
from holdfast.reading.progress import HEADER, MOST, Estimate, Looks, Standing, alike, cells, said
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store.attempted import attempt_of

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

__all__ = ["Progress"]

#: Off a terminal: a log wants to know that it goes on, not every step.
_LINE_EVERY_S: Final = 10.0
_FRAMES_PER_S: Final = 4
_MOST_FAILURES: Final = 3
_WAITED_EVERY_S: Final = 1.0
_MOST_LINES: Final = 50
#: Columns of process, time, steps, time left and heartbeat; what has words for them takes more.
_LEAST: Final = (5, 7, 0, 0, 0, 1)


#: What ended an attempt that was interrupted, where its own end does not say it.
_STOPPED: Final = {
    Reason.STALL: " had stalled",
    Reason.TIME_LIMIT: " reached the time limit of its job",
}


class Progress:
    """Context around a run: shows every state that `step` is given.

    Args:
        folder: The experiment's folder, by its id; for the logs of what failed.
        parameters: The parameters of each process of a state.
        notes: What else to say about an experiment that is resumed.
    """

    def __init__(
        self,
        folder: Callable[[str], Path],
        parameters: Callable[[ExperimentState], Params],
        notes: Callable[[ExperimentState], list[str]],
    ) -> None:
        self._notes = notes
        self._folder = folder
        self._parameters = parameters
        self._params: Params = None
        self._began = datetime.now(UTC)
        self._state: ExperimentState | None = None
        #: What the first change told: how the experiment was found, and what ended unwatched.
        self.first: ExperimentState | None = None
        self._estimate = Estimate()
        self._looks = Looks()
        self._standing: Mapping[int, Standing] = {}
        #: What those say, or have printed last, that run.
        self._says: dict[int, str] = {}
        #: By their kind: how many before, the last, why it failed, and its last words.
        self._failures: dict[tuple[object, ...], tuple[int, str, str, list[str]]] = {}
        self._told: Counter[tuple[object, ...]] = Counter()
        #: What is to be known of this run; it stays when the display goes.
        self._noted: list[str] = []
        self._held: Collection[int] = ()
        self._stopping: str | None = None
        self._had: tuple[int, HandedOver | None] = (-1, None)
        self._submitting: frozenset[int] = frozenset()
        self._waited: list[str] = []
        self._waited_at = -math.inf
        self._live: Live | None = None
        self._line_at = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()
            self._live = None
            for words in self._noted:
                text.say(words)

    # -- what the orchestrator says ---------------------------------------------------------------

    def step(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        """A step is recorded: tell of what it changed."""
        if self._state is None:
            self.first = state
            self._begin(state)
        else:
            self._compare(self._state, state, changes)
        self._state = state
        if self._live is None and time.monotonic() > self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            text.say(self.counts(state))

    def note(self, words: str) -> None:
        """Something to know before anything is started: say so."""
        # Whoever runs the experiment calls this, and must not wait for a terminal that is held.
        self._noted.append(words)
        self._tell(words)

    def hold(self, processes: Collection[int]) -> None:
        """These are not to be started: nobody waits for them."""
        self._held = processes

    def stopping(self, words: str) -> None:
        """Processes are asked to stop: say so."""
        self._stopping = words
        self._tell(words)

    def _begin(self, state: ExperimentState) -> None:
        self._params = self._parameters(state)
        which = text.one_line(state.experiment_id)
        if state.name:
            which += f" ({text.one_line(state.name)})"
        if state.can_aggregate():
            text.say(f"aggregating {which}: {text.count(state.num_processes, 'process')}")
        elif state.created_at is not None and state.created_at < self._began:
            having = handed_over(state, self._folder(state.experiment_id))
            runs = f", {state.processes_running:,} running" if state.processes_running else ""
            if having is not None:
                runs = f", {having.title} has {having}"
            text.say(
                f"resuming {which}, made {text.age(state.created_at)}: "
                f"{state.processes_completed:,} of "
                f"{text.count(state.num_processes, 'process')} completed so far{runs}"
            )
            for note in self._notes(state):
                text.say(note)

        else:
            text.say(f"running {which}: {text.count(state.num_processes, 'process')}")
        if text.is_terminal(sys.stderr):
            self._start_display()

    def _compare(
        self, older: ExperimentState, state: ExperimentState, changes: Sequence[Change]
    ) -> None:
        # A next start in the same line takes the reason of an end out of the record.
        ended = state
        if state.revision == older.revision + 1:  # else steps were missed: the states tell
            ended = replay_many(older, [each for each in changes if each.event != "start"])
        requeues = {each.process: each for each in changes if each.event == "requeue"}
        groups: defaultdict[tuple[int, object, bool], list[int]] = defaultdict(list)
        failures: dict[int, reasons.Failure] = {}
        for index in ended.processes.changed_since(older.processes):
            before, now = older.processes[index], ended.processes[index]
            launcher = index if state.ranks is None else state.gang(index).start
            if now.status is ProcessStatus.COMPLETED and before.status is not now.status:
                self._estimate.ended(now)
            if now.failures > before.failures:
                found = failures[index] = reasons.failure(
                    self._folder(state.experiment_id), ended, index
                )
                # One that failed for good is failed; any other was requeued in the same step.
                again = state.processes[index].status is not ProcessStatus.FAILED
                groups[launcher, found.kind, again].append(index)
            elif now.interruptions > before.interruptions and self._stopping is None:
                if index not in requeues:
                    continue  # in a step that was missed
                groups[launcher, None, True].append(index)
        for (_, kind, again), indices in groups.items():
            first = indices[0]
            if kind is None:
                self._begins_anew(ended, indices, requeues[first])
            else:
                # If a rule decided, that is all it says.
                rule = requeues[first].evidence if again and first in requeues else None
                self._failed(ended, indices, failures[first], again=again, rule=rule)

    def _failed(
        self,
        state: ExperimentState,
        indices: list[int],
        found: reasons.Failure,
        *,
        again: bool,
        rule: str | None,
    ) -> None:
        which = f"failed {self._which(indices)}"
        by = "" if rule is None else f", by {rule}"
        why = f"{found}; will be tried again{by}" if again else str(found)
        self._tell(f"{which}: {why}")
        words: list[str] = []
        if self._live is not None:
            name = attempt_of(state, indices[0])
            folder = self._folder(state.experiment_id)
            words = tail(output_of(folder, name, indices[0], "err"), lines=3)
        self._remember((*found.kind, again), len(indices), which, why, words)

    def _begins_anew(self, state: ExperimentState, indices: list[int], change: Change) -> None:
        """Something from outside ended it: nothing failed, yet it begins anew, which takes time."""
        name, folder = attempt_of(state, indices[0]), self._folder(state.experiment_id)
        what, how = "lost", " was killed with its shim"
        with contextlib.suppress(HoldfastError):
            record = read_exit(folder, name)
            if record is not None:
                foreign = record.interrupted_by is not None or record.stop_requested is not None
                what, how = "interrupted", f": {change.evidence or describe(record)}"
                if change.reason in _STOPPED:
                    what, how = "stopped", _STOPPED[change.reason]
                elif foreign:
                    how = f" was {describe(record)}"
            elif live_state(folder, name).kind in ("absent", "revoked"):
                what, how = "restarting", " never began"
                if change.evidence and not is_local(state.config):
                    how = f": {change.evidence}"
        which = f"{what} {self._which(indices)}"
        why = f"attempt {name.attempt}{how}; not charged to its retries"
        self._tell(f"{which}: {why}")
        self._remember((why,), len(indices), which, why, [])

    def _remember(
        self, kind: tuple[object, ...], number: int, which: str, why: str, words: list[str]
    ) -> None:
        # Taken out first, so that the newest stands last.
        self._failures.pop(kind, None)
        self._failures[kind] = self._told[kind], which, why, words
        self._told[kind] += number

    def _which(self, indices: list[int]) -> str:
        words = params_words(self._params, indices[0])
        many = "" if len(indices) == 1 else "es"
        return f"process{many} {text.ranges(indices)}" + (f" ({words})" if words else "")

    def _tell(self, words: str) -> None:
        if self._live is None:
            text.say(words)

    # -- what is seen -----------------------------------------------------------------------------

    def counts(self, state: ExperimentState) -> str:
        """`12 of 20 completed, 1 failed, 2 running, about 3m 05s left`."""
        parts = [f"{state.processes_completed:,} of {state.num_processes:,} completed"]
        held = sum(state.processes[i].status is ProcessStatus.PENDING for i in self._held)
        running, queue = self._phases(state)
        for number, word in (
            (state.processes_failed, "failed"),
            (running, "running"),
            *queue,
            (_waiting(state, self._held), "to be tried again"),
            (held, "held back"),
        ):
            if number:
                parts.append(f"{number:,} {word}")
        if state.status is ExperimentStatus.COMPLETED:
            parts.append("aggregating")
        elif self._stopping is None:
            now = datetime.now(UTC)
            left_s = self._estimate.left_s(state, now, self._stand(state, now), held)
            if left_s is not None and left_s > 0:
                parts.append(f"about {text.duration(left_s)} left")
        return ", ".join(parts)

    def _start_display(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False, no_color=not text.coloured(sys.stderr))
        self._live = Live(
            self,
            console=console,
            refresh_per_second=_FRAMES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with contextlib.suppress(OSError):
            self._live.start()
            # It hides the cursor, and would leave it hidden if we are killed.
            console.show_cursor(True)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        state = self._state
        if state is None:
            return
        height = min(options.max_height, _MOST_LINES)
        lines: list[tuple[str, str]] = []
        for count, which, why, words in list(self._failures.values())[-_MOST_FAILURES:]:
            more = f", and {text.count(count, 'process')} before" if count else ""
            lines.append((f"{which}{more}: {why}", "red"))
            lines += [(f"  | {line}", "dim") for line in words]
        # Nothing may push away the counts: a small window shows less of what failed.
        lines = lines[: max(height - 4, 0)]
        lines.append((self._bar(state, options.max_width), "bold"))
        if self._stopping is not None:
            lines.append((self._stopping, "yellow"))
        lines += [(text.one_line(words), "dim") for words in self._noted[:_MOST_FAILURES]]
        lines += [(text.one_line(words), "yellow") for words in self._waits(state)]
        lines += self._running(state, height - len(lines))
        for line, style in lines:
            yield Text(line, style=style, no_wrap=True, overflow="ellipsis")

    def _waits(self, state: ExperimentState) -> list[str]:
        """Who has the slots that it waits for, by now or a second ago."""
        if time.monotonic() >= self._waited_at + _WAITED_EVERY_S:
            self._waited_at = time.monotonic()
            with contextlib.suppress(HoldfastError, OSError):
                self._waited = slots_words(state, self._folder(state.experiment_id))
        return self._waited

    def _bar(self, state: ExperimentState, columns: int) -> str:
        counts = self.counts(state)
        room = columns - len(counts) - 2
        if room < 10 or not state.num_processes:
            return counts
        room = min(room, 30)
        done = room * state.processes_completed // state.num_processes
        speaks_unicode = (sys.stderr.encoding or "").lower().startswith("utf")
        full, empty = "█░" if speaks_unicode else "#-"
        return f"{full * done}{empty * (room - done)}  {counts}"

    def _running(self, state: ExperimentState, room: int) -> list[tuple[str, str]]:
        indices = state.processes.indices(ProcessStatus.RUNNING)
        if not indices or room < 1:
            return []
        now = datetime.now(UTC)
        queue: list[tuple[str, str]] = []
        if (having := self._queue(state)) is not None:
            queue = [(words, "dim") for words in queue_lines(state, having, now)]
            room -= len(queue)
        if having is not None or self._submitting:
            others = {*self._submitting, *(having.waits | having.over if having else ())}
            indices = [index for index in indices if index not in others]
        reported = bool(indices and self._stand(state, now))
        found = alike(state, ((i, self._row(state, i, now)) for i in indices[:MOST]))
        shown = found if len(found) <= room - reported else found[: max(room - 1 - reported, 0)]
        rows = [(text.ranges(group), *row) for group, row in shown]
        header = ("", "", *HEADER, "") if reported else ("",) * 6
        columns = zip(header, *rows, strict=True)
        widths = [max(least, *map(len, each)) for least, each in zip(_LEAST, columns, strict=True)]
        lines = [(_aligned(header, widths), "dim")] if reported else []
        for (group, _), row in zip(shown, rows, strict=True):
            lines.append((_aligned(row, widths), "cyan"))
            halt = halted_shim(state.processes[group[0]].identity)
            if halt is not None:
                lines.append((f"         {halt}", "yellow"))
        left = len(indices) - sum(len(group) for group, _ in shown)
        if left:
            lines.append((f"  … and {left:,} more running", "cyan"))
        return [*lines[: max(room, 0)], *queue]

    def _queue(self, state: ExperimentState) -> HandedOver | None:
        # Frames are many, and so may be processes.
        if self._had[0] != state.revision:
            self._had = state.revision, handed_over(state)
            self._submitting = frozenset(being_submitted(state))
        return self._had[1]

    def _phases(self, state: ExperimentState) -> tuple[int, list[tuple[int, str]]]:
        """How many run, and what becomes of the others that an engine has."""
        having, running = self._queue(state), state.processes_running
        found = [(len(self._submitting), "being submitted")]
        if having is not None:
            counts = having.counts
            found += [(counts["queued"], "queued"), (counts["held"], "held in the queue")]
            found.append((having.ended, "ended since"))
        return running - sum(number for number, _ in found), found

    def _row(self, state: ExperimentState, index: int, now: datetime) -> tuple[str, ...]:
        process = state.processes[index]
        since = process.started_at
        lasted = "" if since is None else text.duration((now - since).total_seconds())
        attempt = f"attempt {process.attempt}" if process.attempt > 1 else ""
        words = (params_words(self._params, index), attempt, self._says.get(index, ""))
        return lasted, *cells(self._standing.get(index)), "  ".join(filter(None, words))

    def _stand(self, state: ExperimentState, now: datetime) -> Mapping[int, Standing]:
        """Where the running processes stand by now, or did a second ago."""
        folder = self._folder(state.experiment_id)
        found = self._looks.at(state, folder, now)
        if found is not self._standing and self._live is not None:
            self._says = {
                index: said(found[index].progress)
                if index in found
                else last_words(state, folder, index)
                for index in state.processes.indices(ProcessStatus.RUNNING)[:_MOST_LINES]
            }
        self._standing = found
        return found


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """A line of the running: numbers to the right, words to the left, no columns without any."""
    cells = [word.rjust(width) for word, width in zip(row, widths, strict=True) if width]
    return f"  {'  '.join(cells[:-1])}  {row[-1]}".rstrip()


def _waiting(state: ExperimentState, held: Collection[int]) -> int:
    """Processes that failed and wait for their next attempt."""
    if not state.processes_pending:
        return 0
    return sum(
        each.status is ProcessStatus.PENDING and each.failures > 0 and index not in held
        for index, each in enumerate(state.processes.values())
    )
