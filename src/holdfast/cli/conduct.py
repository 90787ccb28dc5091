"""Having an experiment driven to its end on this machine, shown while it goes, and told after."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli import forms, text
from holdfast.cli.app import Place

if TYPE_CHECKING:
    from holdfast.attempts import Attempt, AttemptName
    from holdfast.cli.live import Progress
    from holdfast.engines import Engine, EngineWord, Handle
    from holdfast.orchestration.orchestrator import Orchestrator, Outcome
    from holdfast.records import ExperimentState

__all__ = ["conduct"]


def conduct(
    where: Place,
    drive: Callable[["Orchestrator"], "Outcome"],
    *,
    force: bool,
    as_json: bool,
    notes: "Callable[[ExperimentState], list[str]]" = lambda _: [],
) -> int:
    """Have *drive* run an experiment on this machine, show how it goes, and print its end."""
    from holdfast.cli.evidence import parameters
    from holdfast.cli.live import Progress
    from holdfast.engines.local import LocalEngine
    from holdfast.orchestration.orchestrator import Orchestrator

    manager = where.manager()
    with Progress(manager.folder, parameters, notes) as progress, LocalEngine() as local:
        engine = _Announcing(local, progress)
        orchestrator = Orchestrator(manager, engine, on_change=progress.change, force=force)
        outcome = drive(orchestrator)
    _print_end(where, outcome, as_json=as_json)
    return outcome.exit_code


def _print_end(where: Place, outcome: "Outcome", *, as_json: bool) -> None:
    state = outcome.state
    words = forms.next_words(state, None)
    if outcome.already_done and outcome.aggregate is None:
        words = ("aggregate", state.experiment_id)
    command = None if words is None else where.command(*words)
    if as_json:
        forms.print_json(
            "holdfast.outcome/1",
            {
                "experiment": forms.experiment(state, None),
                "exit_code": outcome.exit_code,
                "message": outcome.message,
                "skipped": outcome.skipped,
                "adopted": outcome.adopted,
                "already_done": outcome.already_done,
                "next_command": command,
                "aggregate": outcome.aggregate,
            },
        )
    else:
        from holdfast.cli.report import aggregate_lines, failure_lines

        lines = failure_lines(where, where.manager(), state)
        if lines:
            text.say("\n".join(["failed:", *lines]), painted=True)
        if outcome.aggregate is not None:
            more = where.command("aggregate", "--json", state.experiment_id)
            _print_table(aggregate_lines(outcome.aggregate, more))
    told = text.one_line(outcome.message)
    notes = []
    if 0 < outcome.skipped < state.num_processes:
        notes.append(f"{text.count(outcome.skipped, 'process')} completed before, not run again")
    if outcome.adopted:
        notes.append(f"{text.count(outcome.adopted, 'process')} taken over")
    text.say(told + (f" ({'; '.join(notes)})" if notes else ""))
    if command is not None:
        text.say(f"next: {command}")


def _print_table(lines: list[str]) -> None:
    try:
        text.emit(lines)
        sys.stdout.flush()
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

    def cancel(self, handles: "Sequence[Handle]", *, force: bool = False) -> None:
        self._engine.cancel(handles, force=force)
        number = text.count(len(handles), "process")
        if force:
            words = f"killing {number}"
        elif self._signals:
            words = f"stopping {number}; once more (Ctrl-C) kills them at once"
        else:
            words = f"a process failed: stopping the other {number}"
        if handles:
            self._progress.stopping(words)

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
