"""Having an experiment driven to its end, shown while it goes, and told after."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from holdfast.cli import jsonlog
from holdfast.cli.engines import Engines
from holdfast.cli.failures import code_of, told
from holdfast.cli.loading import quietly
from holdfast.cli.where import Where
from holdfast.engine_options import ENGINES, EngineName
from holdfast.engines.contract import LOCAL
from holdfast.errors import HoldfastError
from holdfast.reading import forms, text
from holdfast.reading.engines import TITLES, engine_of
from holdfast.status import ExperimentStatus, ProcessStatus

if TYPE_CHECKING:
    from holdfast.lifecycle.changes import Change
    from holdfast.lifecycle.records import ExperimentState
    from holdfast.orchestration.orchestrator import Orchestrator, Outcome

__all__ = ["conduct"]


def conduct(
    where: Where,
    drive: Callable[["Orchestrator", bool], "Outcome"],
    engines: Engines,
    *,
    force: bool,
    as_json: bool,
    notes: "Callable[[ExperimentState], list[str]]" = lambda _: [],
    detach: bool = False,
    tags: Sequence[str] = (),
) -> int:
    """Have *drive* run an experiment, show how it goes, and print its end.

    Args:
        drive: Called with what drives it, and whether that leaves it once all is submitted.
        engines: What runs it.
        detach: In a child that the terminal does not hold; returns once it has begun. What an
            engine has that outlives us needs no child: it is submitted, and left.
        tags: What the experiment is tagged with, as soon as it is known which one it is.
    """
    from holdfast.engines.making import make

    on_begin, engine = None, make(engines.processes)
    leave = detach and engine.outlives
    if detach and not leave:
        from holdfast.cli import detached

        engine.close()  # what it has opened is no child's
        child = detached.detach(where, as_json=as_json)
        if isinstance(child, int):
            return child
        on_begin, as_json, engine = child.begun, False, make(engines.processes)
    with quietly():
        from holdfast.cli.announcing import Announcing
        from holdfast.cli.live import Progress
        from holdfast.orchestration.orchestrator import Orchestrator
        from holdfast.reading.evidence import parameters

    manager, said = where.manager(), jsonlog.Transitions()
    with (
        closing(engine),
        Progress(manager.folder, parameters, notes) as progress,
    ):

        def step(state: "ExperimentState", changes: "Sequence[Change]") -> None:
            if progress.first is None:
                jsonlog.about(state.experiment_id)
                if engine.name == LOCAL:
                    _say_interpreter(state)
                _tag(where, state, tags)
            progress.step(state, changes)
            if jsonlog.is_on():
                said.step(state, changes)

        def aggregation_engine() -> Announcing:
            return Announcing(make(engines.aggregation), progress.stopping)

        orchestrator = Orchestrator(
            manager,
            Announcing(engine, progress.stopping),
            on_step=step,
            on_note=progress.note,
            on_hold=progress.hold,
            on_begin=on_begin,
            force=force,
            gone_grace_s=None if engine.name == LOCAL else engines.processes.grace_s,
            aggregation_engine=None if engines.local else aggregation_engine,
        )
        outcome = drive(orchestrator, leave)
    if progress.first is None:  # nothing was to be done
        _tag(where, outcome.state, tags)
    _print_end(where, outcome, _taken_up(outcome, progress.first), as_json=as_json)
    from holdfast.cli import summary

    summary.append(where, outcome.state, outcome.message)
    if leave and outcome.left and not as_json:
        text.emit([outcome.state.experiment_id])  # as of what runs in a child
    return code_of(outcome)


def _tag(where: Where, state: "ExperimentState", tags: Sequence[str]) -> None:
    if not tags:
        return
    try:
        where.manager().annotate(state.experiment_id, add=tags)
    except (HoldfastError, ValueError) as err:
        # The processes are what counts: they are not stopped for want of a tag.
        why = told(err, where) if isinstance(err, HoldfastError) else str(err)
        text.say(f"{text.one_line(state.experiment_id)} is not tagged: {why}", "warning")


def _say_interpreter(state: "ExperimentState") -> None:
    """Say that `python3` is not the one on PATH, before anything runs."""
    from holdfast.encoding import local
    from holdfast.engines.local.interpreter import stands_in

    command, env = state.config.get("command"), state.config.get("env") or {}
    if command and stands_in(str(command[0]), local(state.cwd or "."), env):
        text.say(f"{command[0]} is holdfast's own, {text.one_line(sys.executable)}")


def _taken_up(outcome: "Outcome", first: "ExperimentState | None") -> list[str]:
    """What this run did not begin, in the numbers with which it was announced.

    *first* is the experiment as it was found, with what had ended by then; None if it is new.
    """
    if first is None:
        return []
    completed, running = first.processes_completed, outcome.inherited.running
    unwatched = max(completed - outcome.skipped, 0)
    others = max(outcome.adopted - unwatched - running, 0)
    notes = []
    some = completed < first.num_processes  # of all of them the message tells already
    if unwatched and (unwatched == completed or not some):
        again = ", not run again" if some else ""
        notes.append(f"{text.count(unwatched, 'process')} completed while nobody watched{again}")
    elif completed and some:
        of_them = f", {unwatched:,} of them while nobody watched" if unwatched else ""
        words = text.count(completed, "process")
        notes.append(f"{words} completed before, not run again{of_them}")
    if others:
        notes.append(f"{text.count(others, 'process')} ended otherwise while nobody watched")
    if outcome.reused and outcome.reused < first.num_processes:
        notes.append(f"{text.count(outcome.reused, 'process')} reused, not run again")
    if running:
        notes.append(f"{text.count(running, 'process')} taken over")
    return notes


def _print_end(where: Where, outcome: "Outcome", notes: list[str], *, as_json: bool) -> None:
    state = outcome.state
    words = forms.next_words(state, None)
    if outcome.lost:
        words = forms.anew(state)
    elif outcome.already_done and outcome.aggregate is None:
        words = ("aggregate", state.experiment_id)
    command = None if words is None else where.command(*words)
    if as_json:
        forms.print_json(
            "holdfast.outcome/1",
            {
                "experiment": forms.experiment(state, None),
                "exit_code": code_of(outcome),
                **forms.plain(outcome, "message", "skipped", "adopted", "reused", "already_done"),
                **forms.plain(outcome, "left", "engine"),
                "held": list(outcome.held),
                "blocked": dict(outcome.blocked),
                "next_command": command,
                "aggregate": outcome.aggregate,
            },
        )
    else:
        from holdfast.cli.aggregates import aggregate_lines
        from holdfast.cli.aggregates import notes as odd
        from holdfast.reading.evidence import failures, parameters

        folder = where.manager().folder(state.experiment_id)
        held = outcome.inherited.held
        lines = failures(where.command, state, folder, parameters(state), sys.stderr, held)
        if lines and not outcome.idle:
            text.say("\n".join(["failed:", *lines]), painted=True)
        if outcome.aggregate is not None:
            _print_table(aggregate_lines(outcome.aggregate, where))
        for note in [] if outcome.already_done or outcome.idle else odd(state, outcome.aggregate):
            text.say(note)
    told = text.one_line(outcome.message)
    facts = jsonlog.of_end(state, code_of(outcome))
    text.say(told + (f" ({'; '.join(notes)})" if notes else ""), facts=facts)
    if outcome.left:
        _say_left(where, outcome)
    elif command is not None:
        text.say(f"next: {command}")
    if again := _again(outcome):
        text.say(f"or only what this was about: {where.command(*again)}")
    elsewhere = _elsewhere(outcome)
    for engine in elsewhere:
        other = where.command("resume", "--engine", engine, state.experiment_id)
        text.say(f"or, to take over what {TITLES[engine]} has: {other}")
    if outcome.blocked and not elsewhere:
        sure = where.command("resume", "--force", state.experiment_id)
        text.say(f"or, once you are sure that nothing of what was left as it is runs: {sure}")
    if outcome.lost:
        text.say(f"or delete it: {where.command('rm', state.experiment_id)}")


def _say_left(where: Where, outcome: "Outcome") -> None:
    """What goes on without us, what does not, and how to meet it again."""
    experiment_id, limits = outcome.state.experiment_id, outcome.state.config.get("limits")
    waits = ["retries"]
    if isinstance(limits, Mapping) and limits.get("fail_fast"):
        waits.append("fail_fast")
    waits = [*waits, "the aggregation"]
    them = "it goes" if outcome.left == 1 else "they go"
    rest = f"{', '.join(waits[:-1])} and {waits[-1]}"
    text.say(f"  {them} on without this program; {rest} wait for a resume")
    for what, verb in (("go on", "resume"), *((each, each) for each in ("watch", "wait"))):
        text.say(f"  to {what}: {where.command(verb, experiment_id)}")
    text.say(
        f"  to stop {'it' if outcome.left == 1 else 'them'}: {where.command('stop', experiment_id)}"
    )


def _elsewhere(outcome: "Outcome") -> list[EngineName]:
    """Other engines that have what was left as it is."""
    processes = outcome.state.processes
    having = (
        {engine_of(processes[index]) for index in processes.indices(ProcessStatus.RUNNING)}
        if outcome.blocked
        else set()
    )
    return [each for each in ENGINES if each in having and each != outcome.engine]


def _again(outcome: "Outcome") -> tuple[str, ...]:
    """What goes on with a part of an experiment that was interrupted; empty if it is done."""
    if not outcome.held or outcome.state.status is not ExperimentStatus.INTERRUPTED:
        return ()
    held = set(outcome.held)
    open_ones = outcome.state.processes.indices(ProcessStatus.PENDING, ProcessStatus.FAILED)
    left = [index for index in open_ones if index not in held]
    if not left:
        return ()
    only = text.ranges(left).replace(" ", "")
    verb, *rest = forms.next_words(outcome.state, None) or ("resume", outcome.state.experiment_id)
    return (verb, "--only", only, *rest)


def _print_table(lines: list[str]) -> None:
    try:
        text.emit(lines)
        text.flush()
    except BrokenPipeError:
        # `holdfast run … | head`: the run is over, and its exit code is what counts.
        from holdfast.cli.failures import silence

        silence(sys.stdout)
