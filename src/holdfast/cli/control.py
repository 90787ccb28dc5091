"""`holdfast stop`: experiments that others drive, asked to stop, and waited for."""

import contextlib
import functools
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.addressing import named, resolve_unit
from holdfast.cli.app import experiments_argument, force_option, in_state_dir, json_option
from holdfast.cli.durations import duration
from holdfast.cli.engines import stored_engines
from holdfast.cli.failures import OWNED, report
from holdfast.cli.indices import only_option, selected
from holdfast.cli.waiting import pause
from holdfast.cli.where import Where
from holdfast.errors import ExperimentNotFoundError, HoldfastError
from holdfast.reading import forms, text
from holdfast.status import ExperimentStatus, ProcessStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.engines.contract import Engine
    from holdfast.lifecycle.records import ExperimentState
    from holdfast.orchestration.stopping import Stopped, Stopping
    from holdfast.store.manager import StateManager

__all__ = ["stop"]

_LOOK_EVERY_S: Final = 0.1


@click.command()
@click.option("--grace", metavar="TIME", callback=duration, help="Instead of `limits.grace`.")
@click.option("--kill", is_flag=True, help="Kill everything at once, without a grace period.")
@only_option("Stop these alone, e.g. 3,7 or 0-4,9; they wait for the next resume.")
@click.option("--no-wait", is_flag=True, help="Only ask; do not wait until it has stopped.")
@force_option
@json_option
@experiments_argument
@in_state_dir
def stop(
    where: Where,
    queries: tuple[str, ...],
    grace: float | None,
    kill: bool,
    only: tuple[int, ...] | None,
    no_wait: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Stop experiments, whoever runs them and wherever; `resume` goes on.

    What runs gets TERM, and KILL when its grace period is over. What nobody runs any more, but a
    dead orchestrator left, is stopped, too. An experiment that is stopped already stays as it is.
    ID/INDEX is that process alone.
    """
    if kill and grace is not None:
        raise click.UsageError("--kill leaves no time for --grace")
    if only is not None and len(queries) > 1:
        raise click.UsageError("--only is about the processes of one experiment")
    from holdfast.orchestration.stopping import Stopping
    from holdfast.store.requests import StopRequest

    manager = where.manager()
    if len(queries) == 1:
        which, unit = resolve_unit(manager, queries[0])
        found, code = [which], 0
        if unit is not None and only is not None:
            raise click.UsageError(f"{queries[0]} is one process; --only goes with an experiment")
        only = only if unit is None else (int(unit),)
    else:
        found, code = named(where, queries, refused=functools.partial(_refused, where, manager))
    if code:
        if len(queries) > 1:
            text.say("nothing was stopped")
        return code
    if only is not None:
        selected(manager, found[0], only)
    request = StopRequest(level="kill" if kill else "stop", grace_s=grace, only=only)
    ending = _Ending(where)
    with contextlib.ExitStack() as engines:
        for each in found:
            engine = _engine_of(where, each, engines, ending)
            if engine is None:
                continue
            # All are asked before one is waited for: their grace periods run beside each other.
            ending.ask(
                Stopping(
                    manager=manager,
                    engine=engine,
                    experiment_id=each,
                    request=request,
                    say=text.say,
                    force=force,
                )
            )
        if no_wait:
            for stopping in ending.pending.values():
                text.say(_asked(where, stopping))
        else:
            ending.wait()
    if as_json:
        ended = [_form(each) for each in ending.ended.values()]
        forms.print_json("holdfast.stop/1", {"experiments": ended})
    return ending.code


def _refused(where: Where, manager: "StateManager", error: HoldfastError) -> int:
    """Say what is wrong with one of several that are to stop."""
    if isinstance(error, ExperimentNotFoundError):
        with contextlib.suppress(HoldfastError):
            if resolve_unit(manager, error.experiment_id)[1] is not None:
                raise click.UsageError(f"{error.experiment_id} is one process, and goes alone")
    return report(error, where)


def _engine_of(
    where: Where, experiment_id: str, engines: contextlib.ExitStack, ending: "_Ending"
) -> "Engine | None":
    """The engine that has its attempts, closed with *engines*; None if there is none to be had."""
    from holdfast.engines.making import make

    try:
        engine = make(stored_engines(where.manager(), experiment_id).processes)
    except HoldfastError as err:
        ending.refuse(err)
        return None
    engines.callback(engine.close)
    return engine


class _Ending:
    """Experiments that come to their end.

    Attributes:
        pending: Those that were asked.
        ended: How the others ended.
        code: The exit code.
    """

    def __init__(self, where: Where) -> None:
        self._where = where
        self.pending: dict[str, Stopping] = {}
        self.ended: dict[str, Stopped] = {}
        self.code = 0

    def refuse(self, err: HoldfastError) -> None:
        """One cannot even be asked."""
        self.code = max(self.code, report(err, self._where))

    def ask(self, stopping: "Stopping") -> None:
        """Ask one more."""
        self.pending[stopping.experiment_id] = stopping
        self._settle(stopping.experiment_id, stopping.ask)

    def wait(self) -> None:
        """Until none is pending."""
        while self.pending:
            for each, stopping in list(self.pending.items()):
                self._settle(each, stopping.step)
            if self.pending:
                pause(_LOOK_EVERY_S)

    def _settle(self, experiment_id: str, step: "Callable[[], Stopped | None]") -> None:
        try:
            stopped = step()
        except HoldfastError as err:
            self.refuse(err)
            del self.pending[experiment_id]
            return
        if stopped is not None:
            del self.pending[experiment_id]
            self.ended[experiment_id] = stopped
            self.code = max(self.code, 0 if stopped.ok else OWNED)
            _tell(self._where, experiment_id, stopped)


def _asked(where: Where, stopping: "Stopping") -> str:
    experiment_id = stopping.experiment_id
    then = f"to wait for it: {where.command('wait', experiment_id)}"
    if not stopping.driven:
        then = f"to have its end recorded: {where.command('stop', experiment_id)}"
    return f"{text.one_line(experiment_id)}: asked to stop\n  {then}"


def _form(stopped: "Stopped") -> dict[str, object]:
    return {
        "experiment": forms.experiment(stopped.state, None),
        "outcome": stopped.kind,
        "ok": stopped.ok,
        "notes": list(stopped.words),
    }


def _part(state: "ExperimentState", only: "Sequence[int]") -> str:
    """What became of some processes that were to stop."""
    became: dict[tuple[str, str], list[int]] = {}
    for index in only:
        kind = _BECAME.get(state.processes[index].status, _HELD_BACK)
        became.setdefault(kind, []).append(index)
    words = []
    for kind in (_HELD_BACK, *_BECAME.values()):
        if found := became.get(kind):
            one = len(found) == 1
            which = f"process{'' if one else 'es'} {text.ranges(found)}"
            words.append(f"{which} {kind[0] if one else kind[1]}")
    return "; ".join(words)


#: Of one process, and of several: they may end by themselves before the request is heard.
_HELD_BACK: Final = ("waits for the next resume", "wait for the next resume")
_BECAME: Final = {
    ProcessStatus.COMPLETED: ("is completed", "are completed"),
    ProcessStatus.FAILED: ("has failed", "have failed"),
}


def _tell(where: Where, experiment_id: str, stopped: "Stopped") -> None:
    who, state = text.one_line(experiment_id), stopped.state
    how = forms.brief(state)
    command = forms.next_words(state, None)
    if stopped.kind == "nothing":
        dead = "; its orchestrator died" if state.status is ExperimentStatus.RUNNING else ""
        how = f"nothing is running{dead}: {how}"
    elif stopped.kind == "partly":
        how = f"{_part(state, stopped.only or ())}; the experiment: {how}"
        command = command if stopped.words else None
    elif stopped.kind == "again":
        owner = state.owner
        how = f"it was stopped, and {owner} has taken it up since"
        command = ("stop", experiment_id)
    elif stopped.kind == "unproven":
        how = "nothing is seen running, but its owner cannot be proven dead"
        command = ("stop", "--force", experiment_id)
    elif stopped.kind == "running":
        how = f"it has not stopped: {how}"
        command = ("stop", "--kill", experiment_id)
    text.say(f"{who}: {how}", None if stopped.ok else "error")
    for words in stopped.words:
        text.say(f"  {text.one_line(words)}")
    if command is not None:
        text.say(f"next: {where.command(*command)}")
