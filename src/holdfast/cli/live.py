"""Progress while an experiment runs: a live display on a terminal, a few lines off it.

It observes the steps that are recorded, in a thread of its own, and only ever reads them. A display
that cannot be written (the terminal is gone, or held) never stops an experiment, or slows it down.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from holdfast.attempts.files import read_exit
from holdfast.attempts.names import AttemptName
from holdfast.attempts.reports import output_of
from holdfast.attempts.surviving import halted_shim
from holdfast.engines import Handle
from holdfast.engines.local.engine import LocalEngine
from holdfast.errors import HoldfastError
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.orchestration.exits import describe
from holdfast.reading import reasons, text
from holdfast.reading.evidence import Params, params_words, tail
from holdfast.status import ExperimentStatus, ProcessStatus

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

    from holdfast.lifecycle.events import Change

__all__ = ["Announcing", "Estimate", "Progress"]

#: Off a terminal: a log wants to know that it goes on, not every step.
_LINE_EVERY_S: Final = 10.0
_FRAMES_PER_S: Final = 4
_MOST_FAILURES: Final = 3
_MOST_LINES: Final = 50


class Estimate:
    """When it will be done, from how long the processes that ended took."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._ended = 0
        self._widest = 1

    def ended(self, process: ProcessProgress) -> None:
        """A process completed."""
        if process.started_at is not None and process.completed_at is not None:
            self._seconds += max(0.0, (process.completed_at - process.started_at).total_seconds())
            self._ended += 1

    def left_s(self, state: ExperimentState, now: datetime) -> float | None:
        """Seconds left; None before anything is known."""
        self._widest = max(self._widest, state.processes_running)
        if not self._ended:
            return None
        mean = self._seconds / self._ended
        work = mean * state.processes_pending
        for index in state.processes.indices(ProcessStatus.RUNNING):
            since = state.processes[index].started_at
            done = 0.0 if since is None else (now - since).total_seconds()
            work += max(mean - done, 0.0)
        return work / max(self._widest, 1)


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
        #: By their kind: how many, the last one, why it failed, and its last words.
        self._failures: dict[tuple[object, ...], tuple[int, str, str, list[str]]] = {}
        self._stopping: str | None = None
        self._live: Live | None = None
        self._line_at = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()
            self._live = None

    # -- what the orchestrator says ---------------------------------------------------------------

    def step(self, state: ExperimentState, changes: "Sequence[Change]") -> None:
        """A step is recorded. What it changed is read off the states, some of which are missed."""
        if self._state is None:
            self.first = state
            self._begin(state)
        else:
            self._compare(self._state, state)
        self._state = state
        if self._live is None and time.monotonic() > self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            text.say(self.counts(state))

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
            runs = f", {state.processes_running:,} running" if state.processes_running else ""
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

    def _compare(self, older: ExperimentState, state: ExperimentState) -> None:
        for index in state.processes.changed_since(older.processes):
            before, now = older.processes[index], state.processes[index]
            if now.status is ProcessStatus.COMPLETED and before.status is not now.status:
                self._estimate.ended(now)
            if now.failures > before.failures:
                self._failed(state, index, now)
            elif now.interruptions > before.interruptions and self._stopping is None:
                self._begins_anew(state, index, before)

    def _failed(self, state: ExperimentState, index: int, process: ProcessProgress) -> None:
        which = self._which(index)
        # One that failed for good is failed; any other was requeued in the same step.
        again = "" if process.status is ProcessStatus.FAILED else "; will be tried again"
        folder = self._folder(state.experiment_id)
        found = reasons.failure(folder, state, index)
        why = f"{found}{again}"
        self._tell(f"failed {which}: {why}")
        last_words: list[str] = []
        if self._live is not None:
            name = AttemptName.of_process(
                state.experiment_id, index, process.attempt, ranks=state.rank_count
            )
            last_words = tail(output_of(folder, name, index, "err"), lines=3)
        self._remember((*found.kind, again), f"failed {which}", why, last_words)

    def _begins_anew(self, state: ExperimentState, index: int, process: ProcessProgress) -> None:
        """Something from outside ended it: nothing failed, yet it begins anew, which takes time."""
        what, how = "lost", "killed with its shim"
        name = AttemptName.of_process(
            state.experiment_id, index, process.attempt, ranks=state.rank_count
        )
        with contextlib.suppress(HoldfastError):
            record = read_exit(self._folder(state.experiment_id), name)
            if record is not None:
                what, how = "interrupted", describe(record)
        which = f"{what} {self._which(index)}"
        why = f"attempt {process.attempt} was {how}; not charged to its retries"
        self._tell(f"{which}: {why}")
        self._remember((why,), which, why, [])

    def _remember(
        self, kind: tuple[object, ...], which: str, why: str, last_words: list[str]
    ) -> None:
        # Taken out first, so that the newest stands last.
        count, *_ = self._failures.pop(kind, (0, "", "", []))
        self._failures[kind] = count + 1, which, why, last_words

    def _which(self, index: int) -> str:
        words = params_words(self._params, index)
        return f"process {index}" + (f" ({words})" if words else "")

    def _tell(self, words: str) -> None:
        if self._live is None:
            text.say(words)

    # -- what is seen -----------------------------------------------------------------------------

    def counts(self, state: ExperimentState) -> str:
        """`12 of 20 completed, 1 failed, 2 running, about 3m 05s left`."""
        parts = [f"{state.processes_completed:,} of {state.num_processes:,} completed"]
        for number, word in (
            (state.processes_failed, "failed"),
            (state.processes_running, "running"),
            (_waiting(state), "to be tried again"),
        ):
            if number:
                parts.append(f"{number:,} {word}")
        if state.status is ExperimentStatus.COMPLETED:
            parts.append("aggregating")
        elif self._stopping is None:
            left_s = self._estimate.left_s(state, datetime.now(UTC))
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
        for count, which, why, last_words in list(self._failures.values())[-_MOST_FAILURES:]:
            more = f", and {text.count(count - 1, 'process')} before" if count > 1 else ""
            lines.append((f"{which}{more}: {why}", "red"))
            lines += [(f"  | {line}", "dim") for line in last_words]
        # Nothing may push away the counts: a small window shows less of what failed.
        lines = lines[: max(height - 4, 0)]
        lines.append((self._bar(state, options.max_width), "bold"))
        if self._stopping is not None:
            lines.append((self._stopping, "yellow"))
        lines += self._running(state, height - len(lines))
        for words, style in lines:
            yield Text(words, style=style, no_wrap=True, overflow="ellipsis")

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
        shown = indices if len(indices) <= room else indices[: max(room - 1, 0)]
        lines = []
        for index in shown:
            process = state.processes[index]
            since = process.started_at
            lasted = "" if since is None else text.duration((now - since).total_seconds())
            attempt = f"  attempt {process.attempt}" if process.attempt > 1 else ""
            words = params_words(self._params, index)
            lines.append((f"  {index:>5}  {lasted:>7}  {words}{attempt}".rstrip(), "cyan"))
            halt = halted_shim(process.identity)
            if halt is not None:
                lines.append((f"         {halt}", "yellow"))
        if len(shown) < len(indices):
            lines.append((f"  … and {len(indices) - len(shown):,} more running", "cyan"))
        return lines[:room]


class Announcing(LocalEngine):
    """The local engine, with a word to the user when it is asked to stop what runs."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._signals = 0

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        """As the engine's; what could not be reached is named."""
        unreached = super().cancel(handles, force=force)
        number = text.count(len(handles), "process")
        if force:
            words = f"killing {number}"
        elif self._signals:
            words = f"stopping {number}; once more (Ctrl-C) kills them at once"
        else:
            words = f"a process failed: stopping the other {number}"
        if handles:
            self._progress.stopping(words)
        return unreached

    def wake(self) -> None:
        """Called from the signal handler: no more than a mark here."""
        self._signals += 1
        super().wake()


def _waiting(state: ExperimentState) -> int:
    """Processes that failed and wait for their next attempt."""
    if not state.processes_pending:
        return 0
    pending = (each for each in state.processes.values() if each.status is ProcessStatus.PENDING)
    return sum(each.failures > 0 for each in pending)
