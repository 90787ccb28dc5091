"""`holdfast wait`: until experiments that others drive are over; and how such a wait passes."""

import time
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.addressing import named
from holdfast.cli.app import experiments_argument, in_state_dir, json_option
from holdfast.cli.durations import duration
from holdfast.cli.failures import (
    ABANDONED,
    DONE,
    FAILED,
    ON_REQUEST,
    OWNED,
    TERMINATED,
    TIMED_OUT,
    report,
)
from holdfast.cli.jsonlog import Transitions, is_on, log_json_option, of_end
from holdfast.cli.where import Where
from holdfast.errors import HoldfastError
from holdfast.reading import forms, text
from holdfast.status import ExperimentStatus, Reason

if TYPE_CHECKING:
    from holdfast.cli.abroad import Abroad
    from holdfast.store.standing import Standing

__all__ = ["code_of", "is_over", "pause", "wait"]

_LOOK_EVERY_S: Final = 0.25
#: Where all that is waited for is in queues, and may be for days.
_LOOK_ABROAD_EVERY_S: Final = 2.0


def pause(seconds: float) -> None:
    """Let time pass before the next look.

    Polled, since nothing tells across hosts that somebody recorded something.
    """
    time.sleep(seconds)


@click.command()
@click.option(
    "--timeout",
    metavar="TIME",
    callback=duration,
    help="Give up after so long, with exit code 124.",
)
@log_json_option
@json_option
@experiments_argument
@in_state_dir
def wait(where: Where, queries: tuple[str, ...], timeout: float | None, as_json: bool) -> int:
    """Wait until nobody runs the experiments, and nothing of them runs; exit as `run` would have.

    Waits for what was left to an engine, too, until all of it has ended; `resume` collects it. Of
    several, the exit code is the first that is not 0. Ctrl-C ends the waiting alone.
    """
    from holdfast.cli import summary
    from holdfast.cli.abroad import Abroad

    manager = where.manager()
    found, code = named(where, queries)
    if code:
        return code
    deadline = None if timeout is None else time.monotonic() + timeout
    pending = {each: manager.lookout(each) for each in found}
    there = {each: Abroad(manager, each) for each in found}
    seen_by = {each: Transitions() for each in found}
    codes: dict[str, int] = {}
    ended: list[dict[str, object]] = []
    told: set[str] = set()
    while True:
        late = deadline is not None and time.monotonic() >= deadline
        for each, lookout in list(pending.items()):
            try:
                # What is told of those that are late is to be true.
                seen = lookout.look_again(fresh=late)
            except HoldfastError as err:
                codes[each] = report(err, where)
                del pending[each]
                continue
            if is_on():
                seen_by[each].look(seen.state)
            left = there[each].look(seen)
            over = is_over(seen) and not left
            if over or late:
                del pending[each]
                codes[each] = code_of(seen) if over else TIMED_OUT
                ended.append(_form(seen, codes[each]))
                _tell(where, each, seen, there[each], codes[each], late=not over)
                if over:
                    summary.append(where, seen.state, forms.brief(seen.state, seen.verdict))
            elif each not in told:
                told.add(each)
                text.say(f"{text.one_line(each)}: {_waits_for(seen, there[each])}")
        if not pending:
            break
        far = all(there[each].left for each in pending)
        every_s = _LOOK_ABROAD_EVERY_S if far else _LOOK_EVERY_S
        left_s = every_s if deadline is None else deadline - time.monotonic()
        pause(max(0.0, min(every_s, left_s)))
    for abroad in there.values():
        abroad.close()
    if as_json:
        forms.print_json("holdfast.wait/1", {"experiments": ended})
    return next((codes[each] for each in found if codes[each]), DONE)


def is_over(seen: "Standing") -> bool:
    """Whether nothing that is seen from here is to be waited for.

    What nobody drives, and cannot be judged from here, may stay like that for ever; of what an
    engine has, `Abroad` knows more.
    """
    alive = any(each.verdict.kind == "alive" for each in seen.survivors)
    return not seen.owned and not alive


def code_of(seen: "Standing") -> int:
    """How `run` told of this end, as far as it is recorded."""
    state = seen.state
    if seen.survivors:
        return OWNED
    if state.status in (ExperimentStatus.AGGREGATED, ExperimentStatus.COMPLETED):
        return DONE
    if state.status is ExperimentStatus.FAILED:
        return FAILED
    if state.status is not ExperimentStatus.INTERRUPTED or state.reason is Reason.STALE:
        return ABANDONED
    if state.reason is Reason.USER:
        return ON_REQUEST
    if state.reason is Reason.PREEMPTED and not state.error_message:
        return TERMINATED
    # Without a reason it was left, since some of it cannot be judged.
    return OWNED if state.reason is None else FAILED


def _waits_for(seen: "Standing", there: "Abroad") -> str:
    state, count = seen.state, len(seen.survivors)
    if there.having is not None:
        how = forms.brief(state, seen.verdict)
        return f"{how}; waiting for {there.having.title}: {there.having}"
    if not seen.owned:
        what = "1 attempt runs" if count == 1 else f"{count:,} attempts run"
        return f"nobody drives it, and {what} on: waiting for the end of that"
    who = state.owner or "whoever drives it"
    may = "" if seen.verdict.kind == "alive" else f", which may be dead: {seen.verdict}"
    if seen.halted and state.owner is not None:
        may = f", which is stopped (SIGSTOP); to let it go on: kill -CONT {state.owner.pid}"
    return text.one_line(f"{forms.brief(state)}; waiting for {who}{may}")


def _tell(
    where: Where, experiment_id: str, seen: "Standing", there: "Abroad", code: int, *, late: bool
) -> None:
    who, state = text.one_line(experiment_id), seen.state
    words, facts = forms.brief(state, seen.verdict), of_end(state, code)
    if late:
        text.say(f"{who}: not over yet: {words}", facts=facts)
        return
    if there.having is not None:
        words = f"{words}; all that {there.having.title} ran has ended; a resume collects it"
    elif state.status in (ExperimentStatus.RUNNING, ExperimentStatus.INITIALISED):
        why = "was never started" if state.owner is None else f"its orchestrator: {seen.verdict}"
        words = f"{words}; nobody drives it, {text.one_line(why)}"
    text.say(f"{who}: {words}", facts=facts)
    if state.error_message and state.status is not ExperimentStatus.AGGREGATED:
        text.say(f"  {text.one_line(state.error_message)}")
    for each in seen.survivors:
        text.say(f"  attempt {each.name} may run: {text.one_line(each.verdict)}")
    command = forms.next_words(state, None)
    if command is not None:
        text.say(f"next: {where.command(*command)}")


def _form(seen: "Standing", code: int) -> dict[str, object]:
    return {"experiment": forms.experiment(seen.state, seen.verdict), "exit_code": int(code)}
