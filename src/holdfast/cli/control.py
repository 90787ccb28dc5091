"""`holdfast stop`: experiments that others drive, asked to stop, and waited for."""

from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.addressing import named
from holdfast.cli.app import experiments_argument, force_option, in_state_dir, json_option
from holdfast.cli.durations import duration
from holdfast.cli.failures import OWNED, report
from holdfast.cli.indices import only_option
from holdfast.cli.waiting import pause
from holdfast.cli.where import Where
from holdfast.errors import HoldfastError
from holdfast.reading import forms, text

if TYPE_CHECKING:
    from holdfast.orchestration.stopping import Stopped

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
    """
    if kill and grace is not None:
        raise click.UsageError("--kill leaves no time for --grace")
    if only is not None and len(queries) > 1:
        raise click.UsageError("--only is about the processes of one experiment")
    from holdfast.engines.local.engine import LocalEngine
    from holdfast.orchestration.stopping import Stopping
    from holdfast.store.requests import StopRequest

    manager = where.manager()
    found, code = named(where, queries)
    if code:
        if len(queries) > 1:
            text.say("nothing was stopped")
        return code
    request = StopRequest(level="kill" if kill else "stop", grace_s=grace, only=only)
    ended: dict[str, Stopped] = {}
    with LocalEngine() as engine:
        pending: dict[str, Stopping] = {}
        for each in found:
            stopping = Stopping(
                manager=manager,
                engine=engine,
                experiment_id=each,
                request=request,
                say=text.say,
                force=force,
            )
            try:
                nothing = stopping.ask()
            except HoldfastError as err:
                code = max(code, report(err, where))
                continue
            if nothing is None:
                pending[each] = stopping
            else:
                ended[each] = nothing
                _tell(where, each, nothing, as_json=as_json)
        if no_wait:
            for each in pending:
                text.say(f"{text.one_line(each)}: asked to stop; {_to_wait(where, each)}")
            pending.clear()
        while pending:
            for each in list(pending):
                try:
                    stopped = pending[each].step()
                except HoldfastError as err:
                    code = max(code, report(err, where))
                    del pending[each]
                    continue
                if stopped is not None:
                    del pending[each]
                    ended[each] = stopped
                    _tell(where, each, stopped, as_json=as_json)
            if pending:
                pause(_LOOK_EVERY_S)
    if as_json:
        forms.print_json("holdfast.stop/1", {"experiments": [_form(e) for e in ended.values()]})
    return code or max((0 if each.ok else OWNED for each in ended.values()), default=0)


def _to_wait(where: Where, experiment_id: str) -> str:
    return f"to wait for it: {where.command('wait', experiment_id)}"


def _form(stopped: "Stopped") -> dict[str, object]:
    return {
        "experiment": forms.experiment(stopped.state, None),
        "outcome": stopped.kind,
        "ok": stopped.ok,
        "notes": list(stopped.words),
    }


def _tell(where: Where, experiment_id: str, stopped: "Stopped", *, as_json: bool) -> None:
    who, state = text.one_line(experiment_id), stopped.state
    how = forms.brief(state)
    command = forms.next_words(state, None)
    if stopped.kind == "nothing":
        how = f"nothing of it runs: {how}"
    elif stopped.kind == "partly":
        how = f"what was asked for does not run, and waits for the next resume; all of it: {how}"
        command = None
    elif stopped.kind == "again":
        owner = state.owner
        how = f"it was stopped, and {owner} has taken it up since"
        command = ("stop", experiment_id)
    elif stopped.kind == "unproven":
        how = "nothing of it runs that can be seen, but its owner cannot be proven dead"
        command = ("stop", "--force", experiment_id)
    elif stopped.kind == "running":
        how = f"it has not stopped: {how}"
        command = ("stop", "--kill", experiment_id)
    text.say(f"{who}: {how}", None if stopped.ok else "error")
    for words in stopped.words:
        text.say(f"  {text.one_line(words)}")
    if command is not None:
        text.say(f"next: {where.command(*command)}")
