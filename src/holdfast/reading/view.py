"""An experiment that goes on, as a screen of lines: what a terminal and a notebook show of it.

What to say stands here; where it is drawn is for who asks. A look takes no lock of the store, and
costs about the same however many processes there are.
"""

import contextlib
import math
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from holdfast.attempts.reports import output_of
from holdfast.errors import HoldfastError
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import grouping, reasons, text
from holdfast.reading.contention import slots_words
from holdfast.reading.ended import Ended, Kind
from holdfast.reading.engines import HandedOver, being_submitted, handed_over, queue_lines
from holdfast.reading.evidence import Params, params_words, tail
from holdfast.reading.progress import LOOK_EVERY_S, Estimate
from holdfast.reading.running import Line, Running
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.attempted import attempt_of

__all__ = ["Line", "View"]

_MOST_NOTES: Final = 3
#: Failures of the past whose logs are looked into.
_MOST_READ: Final = 200
_LOG_LINES: Final = 3
#: Rows of what runs that failures leave to it, and of kinds that are shown.
_LEAST_RUNNING, _MOST_KINDS = 4, 8
_WIDEST_BAR: Final = 30


class View:
    """One experiment, by states that come one after the other.

    Attributes:
        params: The parameters of its processes; whoever knows them sets them.
        held: Processes that are not to be started: nobody waits for them.
        stopping: That processes are asked to stop, or a hook is told, in words; None if not.
        noted: What else is to be known.
        having: What an engine has of it, where somebody looked; else it is as recorded.
        driven: Whether it goes on; without that, nobody knows how long it takes.
        ended: What ended badly.
    """

    def __init__(
        self, folder: Callable[[str], Path], *, look_every_s: float = LOOK_EVERY_S
    ) -> None:
        """Know nothing yet.

        Args:
            folder: That of an experiment, by its id.
            look_every_s: How much time passes between two looks at the disk, however many frames
                are drawn; 0 if each frame is to look.
        """
        self.params: Params = None
        self.held: Collection[int] = ()
        self.stopping: str | None = None
        self.noted: list[str] = []
        self.having: HandedOver | None = None
        self.driven = True
        self.ended = Ended()
        self.state: ExperimentState | None = None
        self._folder = folder
        self._estimate = Estimate()
        self._look_every_s = look_every_s
        self._running = Running(look_every_s=look_every_s)
        self._had: tuple[int, HandedOver | None] = (-1, None)
        self._submitting: frozenset[int] = frozenset()
        self._waited: list[str] = []
        self._waited_at = -math.inf
        self._again: tuple[object, int] = (None, 0)

    def update(self, state: ExperimentState) -> None:
        """*state* is how it stands now."""
        before, self.state = self.state, state
        if before is None:
            for index in state.processes.indices(ProcessStatus.COMPLETED):
                self._estimate.ended(state.processes[index])
            return
        for index in state.processes.changed_since(before.processes):
            process, was = state.processes[index], before.processes[index].status
            if process.status is was:
                continue
            if process.status is ProcessStatus.COMPLETED:
                self._estimate.ended(process)
            if was is ProcessStatus.FAILED:
                self.ended.reopen(index)

    def look_back(self, state: ExperimentState) -> None:
        """Take in what had failed before *state* was seen first."""
        folder = self._folder(state.experiment_id)
        failed = state.processes.indices(ProcessStatus.FAILED)
        found = {
            index: reasons.failure(folder, state, index, look=number < _MOST_READ)
            for number, index in enumerate(failed)
        }
        for group in grouping.groups(found):
            self.failed(state, group.indices, found[group.indices[-1]], again=False)
        for each in grouping.interruptions(state):
            words = f"{each.reason}" if each.reason is not None else "earlier, see show --events"
            self.ended.add(
                (each.reason, "before"), each.indices, verb="interrupted", charged=False,
                why=f"{words}; not charged", sample=self.which(each.indices[-1:]),
            )  # fmt: skip

    def failed(
        self,
        state: ExperimentState,
        indices: Collection[int],
        found: reasons.Failure,
        *,
        again: bool,
        by: str = "",
    ) -> None:
        """The last attempts of *indices* failed alike; *again*: they will be tried again."""
        last = max(indices)
        path = output_of(self._folder(state.experiment_id), attempt_of(state, last), last, "err")
        if not again:
            for index in indices:
                self.ended.reopen(index, final=False)
        self.ended.add(
            (*found.kind, again), sorted(indices), verb="failed", why=f"{found}{by}", charged=True,
            final=not again, sample=self.which([last]), log=tail(path, _LOG_LINES, plain=True),
        )  # fmt: skip

    def which(self, indices: Collection[int]) -> str:
        """`process 3 (lr=1)`, `processes 0-3 (lr=1)`."""
        words = params_words(self.params, min(indices))
        many = "" if len(indices) == 1 else "es"
        return f"process{many} {text.ranges(indices)}" + (f" ({words})" if words else "")

    # -- in words ---------------------------------------------------------------------------------

    @property
    def fraction(self) -> float:
        """How much of it is completed, from 0 to 1."""
        state = self.state
        if state is None or not state.num_processes:
            return 0.0
        return state.processes_completed / state.num_processes

    def counts(self, state: ExperimentState, now: datetime | None = None) -> str:
        """`12 of 20 completed, 1 failed, 2 running, about 3m 05s left`."""
        return ", ".join(self._counts(state, now or datetime.now(UTC)))

    def _counts(self, state: ExperimentState, now: datetime) -> list[str]:
        parts = [f"{state.processes_completed:,} of {state.num_processes:,} completed"]
        held = sum(state.processes[i].status is ProcessStatus.PENDING for i in self.held)
        running, queue = self._phases(state)
        for number, word in (
            (state.processes_failed, "failed"),
            (running, "running"),
            *queue,
            (self._waiting(state), "to be tried again"),
            (held, "held back"),
        ):
            if number:
                parts.append(f"{number:,} {word}")
        if state.status is ExperimentStatus.COMPLETED:
            parts.append("aggregating")
        elif self.stopping is None and self.driven:
            standing = self._running.stand(state, self._folder(state.experiment_id), now)
            left_s = self._estimate.left_s(state, now, standing, held)
            if left_s is not None and left_s > 0:
                # How long a queue takes, nobody knows.
                aside = " (without queueing)" if any(number for number, _ in queue) else ""
                parts.append(f"about {text.duration(left_s)} left{aside}")
        return parts

    def lines(self, columns: int, rows: int, now: datetime | None = None) -> list[Line]:
        """No more than *rows* lines, none wider than *columns*: what counts most in the least."""
        state = self.state
        if state is None or rows < 1:
            return []
        now = now or datetime.now(UTC)
        lines = self._bar(state, columns, now)
        if self.stopping is not None:
            lines.append((self.stopping, "yellow"))
        notes: list[Line] = [(words, "dim") for words in self.noted[:_MOST_NOTES]]
        notes += [(words, "yellow") for words in self._waits(state)]
        having, indices = self._queue(state), state.processes.indices(ProcessStatus.RUNNING)
        queue: list[Line] = []
        if having is not None:
            queue = [(words, "dim") for words in queue_lines(state, having, now)]
        if having is not None or self._submitting:
            others = {*self._submitting, *(having.waits | having.over if having else ())}
            indices = [index for index in indices if index not in others]
        room = rows - len(lines)
        notes = notes[: max(room // 4, 1)] if room > 0 else []
        queue = queue[: max(room // 4, 1)] if room > 0 else []
        room -= len(notes) + len(queue)
        ended = self.badly(max(room - min(len(indices) + 1, max(_LEAST_RUNNING, room // 2)), 1))
        lines += ended + notes
        lines += self._running.lines(
            state, self._folder(state.experiment_id), self.params, indices, now,
            columns=columns, room=rows - len(lines) - len(queue),
        )  # fmt: skip
        lines = (lines + queue)[:rows]
        return [(text.cut(text.one_line(words), columns), style) for words, style in lines]

    def _bar(self, state: ExperimentState, columns: int, now: datetime) -> list[Line]:
        parts = self._counts(state, now)
        counts = ", ".join(parts)
        room = min(columns - text.width(counts) - 2, _WIDEST_BAR)
        if room >= 10 and state.num_processes:
            done = int(room * self.fraction)
            return [(f"{'█' * done}{'░' * (room - done)}  {counts}", "bold")]
        lines = [parts[0]]
        for part in parts[1:]:
            if text.width(lines[-1]) + len(part) + 3 <= columns:
                lines[-1] += f", {part}"
            else:
                lines[-1] += ","
                lines.append(f"  {part}")
        return [(line, "bold") for line in lines]

    def badly(self, room: int) -> list[Line]:
        """Failures by their reason, the most frequent first, and interruptions apart from them."""
        failures, interruptions = self.ended.failures(), self.ended.interruptions()
        kinds: list[tuple[Kind, text.Style]] = [(kind, "red") for kind in failures]
        kinds += [(kind, "yellow") for kind in interruptions]
        if not kinds or room < 1:
            return []
        if room == 1:
            return [(kinds[0][0].head(), kinds[0][1])]
        most = min(room if len(kinds) <= room else room - 1, _MOST_KINDS)
        # One kind of interruption is shown, whatever else there is.
        shown = kinds[:most]
        if interruptions and most > 1 and len(failures) >= most:
            shown[-1] = kinds[len(failures)]
        spare = room - len(shown) - (len(kinds) > len(shown))
        lines: list[Line] = []
        for kind, style in shown:
            lines.append((kind.head(), style))
            if spare > 0 and (which := kind.which()):
                lines.append((f"  {which}", None))
                spare -= 1
            log = list(kind.log)[: max(spare, 0)]
            lines += [(f"  | {line}", "dim") for line in log]
            spare -= len(log)
        if rest := [kind for kind, _ in kinds if all(kind is not each for each, _ in shown)]:
            number = text.count(sum(kind.size for kind in rest), "process")
            lines.append((f"… and {len(rest):,} more of these ({number}): see show", "dim"))
        return lines

    def _waits(self, state: ExperimentState) -> list[str]:
        """Who has the slots that it waits for, by now or at the last look."""
        if time.monotonic() >= self._waited_at + self._look_every_s:
            self._waited_at = time.monotonic()
            with contextlib.suppress(HoldfastError, OSError):
                self._waited = slots_words(state, self._folder(state.experiment_id))
        return self._waited

    def _queue(self, state: ExperimentState) -> HandedOver | None:
        # Frames are many, and so may be processes.
        if self._had[0] != state.revision:
            self._had = state.revision, handed_over(state)
            self._submitting = frozenset(being_submitted(state))
        # Without an owner, nobody records what has begun and ended since.
        return self._had[1] if self.having is None else self.having

    def _phases(self, state: ExperimentState) -> tuple[int, list[tuple[int, str]]]:
        """How many run, and what becomes of the others that an engine has."""
        having, running = self._queue(state), state.processes_running
        found = [(len(self._submitting), "being submitted")]
        if having is not None:
            counts = having.counts
            found += [(counts["queued"], "queued"), (counts["held"], "held in the queue")]
            found.append((having.ended, "ended since"))
        return running - sum(number for number, _ in found), found

    def _waiting(self, state: ExperimentState) -> int:
        """Processes that failed and wait for their next attempt."""
        if not state.processes_pending:
            return 0
        key = state.revision, id(self.held)
        if self._again[0] != key:
            number = sum(
                state.processes[index].failures > 0 and index not in self.held
                for index in state.processes.indices(ProcessStatus.PENDING)
            )
            self._again = key, number
        return self._again[1]
