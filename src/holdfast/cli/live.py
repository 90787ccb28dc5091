"""Progress while an experiment runs: a live display on a terminal, a few lines off it.

It observes the steps that are recorded, in a thread of its own, and only ever reads them. A display
that cannot be written (the terminal is gone, or held) never stops an experiment, or slows it down.
"""

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from holdfast.attempts.files import live_state, read_exit
from holdfast.cli.screen import Painter, Screen
from holdfast.config.engine import is_local
from holdfast.errors import HoldfastError
from holdfast.lifecycle.changes import Change, replay_many
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.endings import describe
from holdfast.reading import reasons, text
from holdfast.reading.engines import handed_over
from holdfast.reading.evidence import Params
from holdfast.reading.view import View
from holdfast.status import ProcessStatus, Reason
from holdfast.store.attempted import attempt_of

__all__ = ["Progress"]

#: Off a terminal: a log wants to know that it goes on, not every step.
_LINE_EVERY_S: Final = 10.0
_DRAW_EVERY_S: Final = 0.5


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
        self._began = datetime.now(UTC)
        self._state: ExperimentState | None = None
        self.view = View(folder)
        #: What the first change told: how the experiment was found, and what ended unwatched.
        self.first: ExperimentState | None = None
        self._painter: Painter | None = None
        #: Whether a display shows it, so that nothing is said beside it.
        self._displayed = False
        self._line_at = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._painter is not None:
            self._painter.close()
            self._painter, self._displayed = None, False
            for words in self.view.noted:
                text.say(words)

    # -- what the orchestrator says ---------------------------------------------------------------

    def step(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        """A step is recorded: tell of what it changed."""
        if self._state is None:
            self.first = state
            self._begin(state)
        else:
            self._compare(self._state, state, changes)
        self.view.update(state)
        for each in changes:
            if each.event == "hook":  # the run is over, and yet it goes on
                self.view.stopping = f"hook: {text.one_line(each.evidence)}; Ctrl-C ends it"
        if self._state is None and self._painter is not None:
            self._painter.wake()
        self._state = state
        if not self._displayed and time.monotonic() > self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            text.say(self.counts(state))

    def counts(self, state: ExperimentState) -> str:
        """`12 of 20 completed, 1 failed, 2 running, about 3m 05s left`."""
        return self.view.counts(state)

    def note(self, words: str) -> None:
        """Something to know before anything is started: say so."""
        # Whoever runs the experiment calls this, and must not wait for a terminal that is held.
        self.view.noted.append(text.one_line(words))
        self._tell(words)

    def hold(self, processes: Collection[int]) -> None:
        """These are not to be started: nobody waits for them."""
        self.view.held = processes

    def stopping(self, words: str) -> None:
        """Processes are asked to stop: say so."""
        self.view.stopping = text.one_line(words)
        self._tell(words)
        if self._painter is not None:
            self._painter.wake()

    def _begin(self, state: ExperimentState) -> None:
        self.view.params = self._parameters(state)
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
            self.view.look_back(state)
            self._painter = Painter(Screen(sys.stderr), self.view.lines, _DRAW_EVERY_S)
            self._displayed = True

    def _compare(
        self, older: ExperimentState, state: ExperimentState, changes: Sequence[Change]
    ) -> None:
        # A next start in the same line takes the reason of an end out of the record.
        ended = state
        # Without changes somebody looks now and then; if steps were missed, the states tell, too.
        if changes and state.revision == older.revision + 1:
            ended = replay_many(older, [each for each in changes if each.event != "start"])
        requeues = {each.process: each for each in changes if each.event == "requeue"}
        groups: defaultdict[tuple[int, object, bool], list[int]] = defaultdict(list)
        failures: dict[int, reasons.Failure] = {}
        for index in ended.processes.changed_since(older.processes):
            before, now = older.processes[index], ended.processes[index]
            launcher = index if state.ranks is None else state.gang(index).start
            if now.failures > before.failures:
                found = failures[index] = reasons.failure(
                    self._folder(state.experiment_id), ended, index
                )
                # One that failed for good is failed; any other was requeued in the same step.
                again = state.processes[index].status is not ProcessStatus.FAILED
                groups[launcher, found.kind, again].append(index)
            elif now.interruptions > before.interruptions and self.view.stopping is None:
                if index not in requeues and (
                    before.status is not ProcessStatus.RUNNING or now.attempt > before.attempt + 1
                ):
                    continue  # in steps that were missed: which attempt it was, nothing tells
                groups[launcher, None, True].append(index)
        for (_, kind, again), indices in groups.items():
            first = indices[0]
            if kind is None:
                whole = ended if first in requeues else older
                self._begins_anew(whole, indices, requeues.get(first))
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
        by = "" if rule is None else f", by {rule}"
        why = f"{found}; will be tried again{by}" if again else str(found)
        self._tell(f"failed {self.view.which(indices)}: {why}")
        if self._displayed:
            self.view.failed(state, indices, found, again=again, by=by)

    def _begins_anew(
        self, state: ExperimentState, indices: list[int], change: Change | None
    ) -> None:
        """Something from outside ended it: nothing failed, yet it begins anew, which takes time."""
        evidence = None if change is None else change.evidence
        name, folder = attempt_of(state, indices[0]), self._folder(state.experiment_id)
        what, how = "lost", " was killed with its shim"
        with contextlib.suppress(HoldfastError):
            record = read_exit(folder, name)
            if record is not None:
                foreign = record.interrupted_by is not None or record.stop_requested is not None
                what, how = "interrupted", f": {evidence or describe(record)}"
                if change is not None and change.reason in _STOPPED:
                    what, how = "stopped", _STOPPED[change.reason]
                elif foreign:
                    how = f" was {describe(record)}"
            elif live_state(folder, name).kind in ("absent", "revoked"):
                what, how = "restarting", " never began"
                if evidence and not is_local(state.config):
                    how = f": {evidence}"
        which = self.view.which(indices)
        why = f"attempt {name.attempt}{how}; not charged to its retries"
        self._tell(f"{what} {which}: {why}")
        if self._displayed:
            self.view.ended.add(
                (what, how),
                indices,
                verb=what,
                why=why,
                charged=False,
                sample=self.view.which(indices[-1:]),
            )

    def _tell(self, words: str) -> None:
        if not self._displayed:
            text.say(words)
