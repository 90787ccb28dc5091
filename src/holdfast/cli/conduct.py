"""Having an experiment driven to its end on this machine, shown while it goes, and told after."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli import quietly
from holdfast.cli.failures import code_of
from holdfast.cli.where import Where
from holdfast.reading import forms, text

if TYPE_CHECKING:
    from holdfast.attempts.names import AttemptName
    from holdfast.attempts.records import Attempt
    from holdfast.cli.live import Progress
    from holdfast.engines import Engine, EngineWord, Handle
    from holdfast.lifecycle.events import Change
    from holdfast.lifecycle.records import ExperimentState
    from holdfast.orchestration.orchestrator import Orchestrator, Outcome

__all__ = ["conduct"]


def conduct(
    where: Where,
    drive: Callable[["Orchestrator"], "Outcome"],
    *,
    force: bool,
    as_json: bool,
    notes: "Callable[[ExperimentState], list[str]]" = lambda _: [],
) -> int:
    """Have *drive* run an experiment on this machine, show how it goes, and print its end."""
    with quietly():
        from holdfast.cli.live import Progress
        from holdfast.engines.local.engine import LocalEngine
        from holdfast.orchestration.orchestrator import Orchestrator
        from holdfast.reading.evidence import parameters

    manager = where.manager()
    with Progress(manager.folder, parameters, notes) as progress, LocalEngine() as local:
        engine = _Announcing(local, progress)

        def step(state: "ExperimentState", changes: "Sequence[Change]") -> None:
            if progress.first is None:
                _say_interpreter(state)
            progress.step(state, changes)

        orchestrator = Orchestrator(manager, engine, on_step=step, force=force)
        outcome = drive(orchestrator)
    _print_end(where, outcome, _taken_up(outcome, progress.first), as_json=as_json)
    return code_of(outcome)


def _say_interpreter(state: "ExperimentState") -> None:
    """Say that `python3` is not the one on PATH; once, before anything runs."""
    from holdfast.encoding import local
    from holdfast.engines.local.interpreter import stands_in

    command, env = state.config.get("command"), state.config.get("env") or {}
    if command and stands_in(str(command[0]), local(state.cwd or "."), env):
        text.say(f"{command[0]} is holdfast's own, {text.one_line(sys.executable)}")


def _taken_up(outcome: "Outcome", first: "ExperimentState | None") -> list[str]:
    """What was not begun by this run, in the numbers with which it was announced.

    Args:
        first: The experiment as it was found, with what had ended by then; None if it was not
            gone on with.
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
                "message": outcome.message,
                "skipped": outcome.skipped,
                "adopted": outcome.adopted,
                "already_done": outcome.already_done,
                "blocked": dict(outcome.blocked),
                "next_command": command,
                "aggregate": outcome.aggregate,
            },
        )
    else:
        from holdfast.cli.report import aggregate_lines, failure_lines
        from holdfast.cli.report import notes as odd

        lines = failure_lines(where, where.manager(), state)
        if lines:
            text.say("\n".join(["failed:", *lines]), painted=True)
        if outcome.aggregate is not None:
            _print_table(aggregate_lines(outcome.aggregate, where))
        for note in [] if outcome.already_done else odd(state, outcome.aggregate):
            text.say(note)
    told = text.one_line(outcome.message)
    text.say(told + (f" ({'; '.join(notes)})" if notes else ""))
    if command is not None:
        text.say(f"next: {command}")
    if outcome.blocked:
        sure = where.command("resume", "--force", state.experiment_id)
        text.say(f"or, once you are sure that nothing of what was left as it is runs: {sure}")
    if outcome.lost:
        text.say(f"or be rid of it: {where.command('rm', state.experiment_id)}")


def _print_table(lines: list[str]) -> None:
    try:
        text.emit(lines)
        text.flush()
    except BrokenPipeError:
        # `holdfast run … | head`: the run is over, and its exit code is what counts.
        from holdfast.cli.failures import silence

        silence(sys.stdout)


class _Announcing:
    """The engine, with a word to the user when it is asked to stop what runs."""

    def __init__(self, engine: "Engine", progress: "Progress") -> None:
        self._engine = engine
        self._progress = progress
        self._signals = 0

    def submit(self, experiment_id: str, attempts: "Sequence[Attempt]") -> "list[Handle]":
        return self._engine.submit(experiment_id, attempts)

    def find(
        self, experiment_id: str, folder: Path | None = None
    ) -> "Mapping[AttemptName, Handle]":
        return self._engine.find(experiment_id, folder)

    def poll(self, handles: "Sequence[Handle]") -> "list[EngineWord]":
        return self._engine.poll(handles)

    def cancel(
        self, handles: "Sequence[Handle]", *, force: bool = False
    ) -> "Mapping[AttemptName, str]":
        unreached = self._engine.cancel(handles, force=force)
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

    def wait(self, timeout_s: float) -> None:
        self._engine.wait(timeout_s)

    def wake(self) -> None:
        # Called from the signal handler: no more than a mark here.
        self._signals += 1
        self._engine.wake()

    def close(self) -> None:
        self._engine.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
