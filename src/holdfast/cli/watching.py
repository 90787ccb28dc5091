"""`holdfast watch`: what experiments do that others drive, shown while they go. It only reads."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.abroad import Abroad
from holdfast.cli.addressing import named
from holdfast.cli.app import in_state_dir, some_experiments_argument
from holdfast.cli.failures import report
from holdfast.cli.jsonlog import Transitions, is_on, log_json_option, of_end
from holdfast.cli.live import Progress
from holdfast.cli.screen import Screen
from holdfast.cli.waiting import code_of, is_over, pause
from holdfast.cli.where import Where
from holdfast.errors import HoldfastError
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import forms, glyphs, text
from holdfast.reading.engines import HandedOver
from holdfast.reading.evidence import parameters
from holdfast.reading.view import Line, View
from holdfast.status import ExperimentStatus

if TYPE_CHECKING:
    from holdfast.store.manager import StateManager
    from holdfast.store.standing import Lookout

__all__ = ["Shown", "watch"]

_LOOK_EVERY_S: Final = 1.0
#: Of one experiment among many: its name, its counts, one that runs.
_LEAST_ROWS: Final = 3
#: Of what failed, once all is over.
_LAST_ROWS: Final = 8


@click.command()
@log_json_option
@some_experiments_argument
@in_state_dir
def watch(where: Where, queries: tuple[str, ...]) -> int:
    """Show how experiments go, whoever runs them, until they are over; without an ID, all that run.

    Ctrl-C ends the watching alone: they go on.
    """
    found, code = named(where, queries) if queries else (_running(where), 0)
    if code:
        return code
    if not found:
        text.say("nothing runs")
        return 0
    manager = where.manager()
    shown = {each: Shown(each, manager.folder) for each in found}
    pending = {each: manager.lookout(each) for each in found}
    there = {each: Abroad(manager, each) for each in found}
    code = 0
    with _Display(shown) as display:
        try:
            while True:
                began = time.monotonic()
                code = max(code, _look(where, pending, shown, there))
                if not pending:
                    break
                display.show()
                pause(max(0.0, began + _LOOK_EVERY_S - time.monotonic()))
        except KeyboardInterrupt:
            pass
    for each in shown.values():
        each.leave(where)
    for abroad in there.values():
        abroad.close()
    return code


def _running(where: Where) -> list[str]:
    """Whatever somebody drives, or may."""
    manager = where.manager()
    running = [
        each.experiment_id
        for each in manager.listing().experiments
        if each.status in (ExperimentStatus.RUNNING, ExperimentStatus.COMPLETED)
    ]
    return [each for each in running if _goes_on(manager, each)]


def _goes_on(manager: "StateManager", experiment_id: str) -> bool:
    """Whether somebody drives it, or may, or an engine has some of it."""
    try:
        seen = manager.lookout(experiment_id).look()
    except HoldfastError:
        return False
    return seen.owned or bool(Abroad(manager, experiment_id).look(seen))


def _look(
    where: Where,
    pending: "dict[str, Lookout]",
    shown: "dict[str, Shown]",
    there: dict[str, Abroad],
) -> int:
    """Look at what is not over; the exit code if one cannot be looked at any more."""
    code = 0
    for each, lookout in list(pending.items()):
        try:
            seen = lookout.look_again()
        except HoldfastError as err:
            code = max(code, report(err, where))
            del pending[each], shown[each]
            continue
        left = there[each].look(seen)
        shown[each].driven, shown[each].having = seen.owned, there[each].having
        shown[each].view.having = there[each].having
        shown[each].view.driven = seen.owned or bool(left)
        if is_on():
            shown[each].transitions.look(seen.state)
        shown[each].step(seen.state, ())
        if is_over(seen) and not left:
            shown[each].over, shown[each].code = True, code_of(seen)
            del pending[each]
    return code


class Shown(Progress):
    """One experiment, by states that are read now and then.

    Attributes:
        driven: Whether somebody drives it.
        having: What an engine has of it, if nobody does.
        over: Whether it is not looked at any more.
        code: What `run` would have ended with, once it is over.
    """

    def __init__(self, experiment_id: str, folder: Callable[[str], Path]) -> None:
        super().__init__(folder, parameters, lambda _: [])
        # Frames are as far apart as looks. With a least time between looks, too, a frame that is
        # early by a millisecond would show what the one before has shown.
        self.view = View(folder, look_every_s=0.0)
        self.experiment_id = experiment_id
        self.driven = True
        self.having: HandedOver | None = None
        self.over = False
        self.code = 0
        self.transitions = Transitions()
        self._counted: tuple[object, ...] = ()

    def join(self) -> None:
        """Be part of a display: nothing is said beside it."""
        self._displayed = True

    def step(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        """As it is now: where no display shows it, tell what changed."""
        if self._state is None or self._state.revision != state.revision:
            super().step(state, changes)
        counted = (
            state.status, state.processes_completed, state.processes_failed,
            state.processes_running, self.driven, self.having,
        )  # fmt: skip
        if not self._displayed and counted != self._counted:
            alone = self._alone(state, "; ")
            facts = {"experiment_id": self.experiment_id}
            text.say(f"{self._title(state)}: {self.counts(state)}{alone}", facts=facts)
        self._counted = counted

    def _tell(self, words: str) -> None:
        super()._tell(f"{text.one_line(self.experiment_id)}: {words}")

    def _begin(self, state: ExperimentState) -> None:
        self.view.params = self._parameters(state)
        if self._displayed:
            self.view.look_back(state)

    def _title(self, state: ExperimentState) -> str:
        named = state.name and state.name != self.experiment_id
        name = f" ({text.one_line(state.name)})" if named else ""
        return f"{text.one_line(state.experiment_id)}{name}"

    def _alone(self, state: ExperimentState, before: str) -> str:
        """That its owner died, behind *before*; nothing of what was recorded to its end."""
        recorded = state.status not in (ExperimentStatus.RUNNING, ExperimentStatus.COMPLETED)
        if self.having is not None:
            return f"{before}left to {self.having.title}: {self.having}"
        return "" if self.driven or recorded else f"{before}nobody drives it"

    def leave(self, where: Where) -> None:
        """Say how it stands once nobody watches any more."""
        if self._state is None:
            return
        how = f"{forms.brief(self._state)}{self._alone(self._state, '; ')}"
        how = f": {how}" if self.over else f" goes on: {how}"
        which, columns = self._title(self._state), text.terminal_width(sys.stderr)
        if columns is not None and text.width(which + how) > columns:
            # The name gives way, and never the id.
            which = text.one_line(self.experiment_id)
            if text.width(which + how) > columns:
                which, how = f"{which}\n", text.cut(how.lstrip(": "), columns)
        facts = of_end(self._state, self.code) if self.over else None
        text.say(which + how, facts=facts)
        if not self.over:
            return
        if columns is not None:
            for words, style in self.view.badly(_LAST_ROWS):
                words = text.paint(text.cut(words, columns), style, text.coloured(sys.stderr))
                text.say(words, painted=True)
        command = forms.next_words(self._state, None)
        if command is not None:
            text.say(f"next: {where.command(*command)}")

    def lines(self, columns: int, rows: int) -> list[Line]:
        """It and what it is called, in no more than *rows* lines."""
        state = self._state
        if state is None or rows < 1:
            return []
        which, status = text.one_line(self.experiment_id), glyphs.status(state.status, signs=True)
        since = "" if state.started_at is None else f", started {text.age(state.started_at)}"
        alone = self._alone(state, "; ")
        style: text.Style = "yellow" if alone else "bold"
        titles = [
            f"{self._title(state)}  {status}{alone or since}",
            f"{which}  {status}{alone or since}",
            f"{which}  {status}",
        ]
        head: list[Line] = []
        head += [(each, style) for each in titles if text.width(each) <= columns][:1]
        # An id is shown whole, whatever gives way.
        head = head or [(which, style), (status, style)]
        head += [(alone[2:], style)] if alone and head[0][0] == titles[-1] else []
        return head + self.view.lines(columns, rows - len(head))


class _Display:
    """Context: the experiments below each other on a terminal; nothing off one."""

    def __init__(self, shown: "dict[str, Shown]") -> None:
        self._shown = shown
        self._screen: Screen | None = None

    def __enter__(self) -> "_Display":
        if text.is_terminal(sys.stderr):
            self._screen = Screen(sys.stderr)
            for each in self._shown.values():
                each.join()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen is not None:
            self._screen.clear()

    def show(self) -> None:
        """Show it as it is now."""
        if self._screen is not None:
            self._screen.draw(self._lines)

    def _lines(self, columns: int, rows: int) -> list[Line]:
        going_on = sorted(self._shown.values(), key=lambda each: each.over)
        share = max((rows - 1) // max(len(going_on), 1), _LEAST_ROWS)
        fitting = max((rows - 1) // share, 1)
        lines: list[Line] = []
        for number, each in enumerate(going_on[:fitting], 1):
            # What one does not need is left to the next.
            lines += each.lines(columns, (rows - 1) * number // fitting - len(lines))
        if len(going_on) > fitting:
            lines.append((f"… and {len(going_on) - fitting:,} more", "dim"))
        return lines
