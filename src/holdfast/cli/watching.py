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
from holdfast.cli.live import Progress
from holdfast.cli.waiting import is_over, pause
from holdfast.cli.where import Where
from holdfast.errors import HoldfastError
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import forms, text
from holdfast.reading.engines import HandedOver
from holdfast.reading.evidence import parameters
from holdfast.status import ExperimentStatus

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

    from holdfast.store.manager import StateManager
    from holdfast.store.standing import Lookout

__all__ = ["watch"]

_LOOK_EVERY_S: Final = 1.0
#: Of one experiment among many: its name, its counts, one that runs.
_LEAST_ROWS: Final = 3


@click.command()
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
    shown = {each: _Shown(each, manager.folder) for each in found}
    pending = {each: manager.lookout(each) for each in found}
    there = {each: Abroad(manager, each) for each in found}
    code = 0
    with _Display(list(shown.values())) as display:
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
    shown: "dict[str, _Shown]",
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
        shown[each].step(seen.state, ())
        if is_over(seen) and not left:
            shown[each].over = True
            del pending[each]
    return code


class _Shown(Progress):
    """One experiment, by states that are read now and then.

    Attributes:
        driven: Whether somebody drives it.
        having: What an engine has of it, if nobody does.
        over: Whether it is not looked at any more.
    """

    def __init__(self, experiment_id: str, folder: Callable[[str], Path]) -> None:
        super().__init__(folder, parameters, lambda _: [])
        self.experiment_id = experiment_id
        self.driven = True
        self.having: HandedOver | None = None
        self.over = False
        self._counted: tuple[object, ...] = ()

    def join(self, live: "Live") -> None:
        """Be part of a display: nothing is said beside it."""
        self._live = live

    def step(self, state: ExperimentState, changes: Sequence[Change]) -> None:
        """As it is now: where no display shows it, tell what changed."""
        if self._state is None or self._state.revision != state.revision:
            super().step(state, changes)
        counted = (
            state.status, state.processes_completed, state.processes_failed,
            state.processes_running, self.driven, self.having,
        )  # fmt: skip
        if self._live is None and counted != self._counted:
            alone = self._alone(state, "; ")
            text.say(f"{self._title(state)}: {self.counts(state)}{alone}")
        self._counted = counted

    def _queue(self, state: ExperimentState) -> HandedOver | None:
        # Without an owner, nobody records what has begun and ended since.
        return super()._queue(state) if self.having is None else self.having

    def _tell(self, words: str) -> None:
        super()._tell(f"{text.one_line(self.experiment_id)}: {words}")

    def _begin(self, state: ExperimentState) -> None:
        self._params = self._parameters(state)

    def _title(self, state: ExperimentState) -> str:
        name = f" ({text.one_line(state.name)})" if state.name else ""
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
        if not self.over:
            text.say(f"{self._title(self._state)} goes on: {how}")
            return
        text.say(f"{self._title(self._state)}: {how}")
        command = forms.next_words(self._state, None)
        if command is not None:
            text.say(f"next: {where.command(*command)}")

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        if self._state is None:
            return
        alone = self._alone(self._state, ": ")
        yield Text(f"{self._title(self._state)}{alone}", style="bold", no_wrap=True)
        yield from super().__rich_console__(console, options)


class _Display:
    """Context: the experiments below each other on a terminal; nothing off one."""

    def __init__(self, shown: list[_Shown]) -> None:
        self._shown = shown
        self._live: Live | None = None

    def __enter__(self) -> "_Display":
        if text.is_terminal(sys.stderr):
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False, no_color=not text.coloured(sys.stderr))
            self._live = Live(
                self,
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            for each in self._shown:
                each.join(self._live)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        """Show it as it is now."""
        if self._live is not None:
            self._live.refresh()

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        going_on = sorted(self._shown, key=lambda each: each.over)
        room = max(options.max_height - 2, 1)
        rows = max(room // max(len(going_on), 1), _LEAST_ROWS)
        fitting = max(room // rows, 1)
        for each in going_on[:fitting]:
            yield from each.__rich_console__(console, options.update(height=rows))
        if len(going_on) > fitting:
            yield Text(f"… and {len(going_on) - fitting:,} more", style="dim")
