"""`holdfast run`, `resume`, `demo`: which experiment, driven to its end, and how that is told."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import forms, text
from holdfast.cli.app import (
    Place,
    experiment_argument,
    json_option,
    place,
    state_dir_option,
)
from holdfast.cli.maintain import force_option
from holdfast.errors import AmbiguousExperimentError

if TYPE_CHECKING:
    from holdfast.attempts import Attempt, AttemptName
    from holdfast.cli.live import Progress
    from holdfast.engines import Engine, EngineWord, Handle
    from holdfast.experiment_file import Experiment
    from holdfast.orchestrator import Orchestrator, Outcome

__all__ = ["conduct", "demo", "resume", "run"]

_jobs_option = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many processes at a time; default: as configured, else one per CPU.",
)
_no_aggregate_option = click.option(
    "--no-aggregate", is_flag=True, help="Stop before the aggregation."
)


@click.command()
@click.option("--resume", "resumed", metavar="ID", help="Go on with this one; FILE is optional.")
@click.option("--fresh", is_flag=True, help="Make a new experiment, whatever there is already.")
@_jobs_option
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a key of the file, e.g. limits.timeout=1h or level=[1,9]; may be repeated.",
)
@click.option(
    "--procs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Without a FILE: N processes of the command behind `--`.",
)
@_no_aggregate_option
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be run, and why.")
@force_option
@json_option
@state_dir_option
@click.argument("words", metavar="FILE | -- COMMAND...", nargs=-1)
@click.pass_context
def run(
    context: click.Context,
    words: tuple[str, ...],
    resumed: str | None,
    fresh: bool,
    jobs: int | None,
    settings: tuple[str, ...],
    procs: int | None,
    no_aggregate: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Run the experiment in FILE, or go on with it where it stopped.

    A file whose work matches an unfinished experiment resumes it; one that is finished shows its
    result. `holdfast run --procs 8 -- ./simulate --seed {index}` needs no file.
    """
    if resumed is not None and fresh:
        raise click.UsageError("--resume goes on with an experiment, --fresh makes a new one")
    experiment = _experiment(words, procs, _settings(settings), resumed=resumed)
    where = place(context)
    manager = where.manager()
    if resumed is not None:
        resumed = manager.resolve(resumed)
        if experiment is not None:
            from holdfast.cli.plan import refuse_other_work

            refuse_other_work(where, manager.load(resumed), experiment, file=str(words[0]))

    def drive(orchestrator: "Orchestrator") -> "Outcome":
        aggregate = not no_aggregate
        if experiment is None:
            assert resumed is not None
            return orchestrator.resume(resumed, jobs=jobs, aggregate=aggregate)
        return orchestrator.run(
            experiment, experiment_id=resumed, fresh=fresh, jobs=jobs, aggregate=aggregate
        )

    try:
        if dry_run:
            from holdfast.cli.plan import print_plan

            return print_plan(where, experiment, resumed, fresh=fresh, as_json=as_json)
        return conduct(where, drive, force=force, as_json=as_json)
    except AmbiguousExperimentError as err:
        if resumed is None:
            newest = where.command("run", *words[:1], "--resume", err.matches[-1])
            text.say(f"which one of these {len(err.matches)}? e.g. {newest}; or --fresh")
        raise


def _experiment(
    words: Sequence[str], procs: int | None, settings: Mapping[str, str], *, resumed: str | None
) -> "Experiment | None":
    """What is to be run; None if only an id says it."""
    from holdfast.experiment_file import Experiment, load_config

    if procs is not None:
        if not words:
            raise click.UsageError("--procs needs a command: holdfast run --procs 4 -- CMD...")
        return Experiment.from_command(words, procs, cwd=Path.cwd(), overrides=settings)
    if len(words) > 1:
        raise click.UsageError(
            f"one FILE, not {len(words)}; to run a command: holdfast run --procs N -- CMD..."
        )
    if words:
        return load_config(Path(words[0]), settings)
    if resumed is None:
        raise click.UsageError("an experiment FILE, --resume ID, or --procs N -- CMD...")
    if settings:
        raise click.UsageError(
            "--set changes a FILE; an experiment is resumed as it was configured"
        )
    return None


def _settings(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise click.UsageError(f"--set needs KEY=VALUE, not {word!r}")
        found[key.strip()] = value
    return found


@click.command()
@_jobs_option
@_no_aggregate_option
@force_option
@json_option
@state_dir_option
@experiment_argument
@click.pass_context
def resume(
    context: click.Context,
    query: str,
    jobs: int | None,
    no_aggregate: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Go on with an experiment, with the configuration that it was made with.

    Completed processes are not run again; running ones are taken over; failed ones are tried
    again.
    """
    where = place(context)
    experiment_id = where.manager().resolve(query)
    return conduct(
        where,
        lambda orchestrator: orchestrator.resume(
            experiment_id, jobs=jobs, aggregate=not no_aggregate
        ),
        force=force,
        as_json=as_json,
    )


@click.command()
@click.option("--fresh", is_flag=True, help="Run it again although it was run before.")
@_jobs_option
@state_dir_option
@click.pass_context
def demo(context: click.Context, fresh: bool, jobs: int | None) -> int:
    """Which of Python's codecs packs the standard library best, and how fast? In under a minute.

    Leaves experiment.toml and its script in ./holdfast-demo: change them, run them again, kill
    them half way.
    """
    from holdfast.demo import write_demo
    from holdfast.experiment_file import load_config

    files = write_demo()
    path = files.experiment
    where = place(context)
    for kept in files.kept:
        text.say(f"{kept} is yours by now and stays as it is")
    for codec in files.missing:
        text.say(f"this Python was built without {codec}: its processes will fail, the others run")
    experiment = load_config(path)
    text.say(f"the experiment is in {path}; kill it half way if you like (Ctrl-C, or kill -9)")
    code = conduct(
        where,
        lambda orchestrator: orchestrator.run(experiment, fresh=fresh, jobs=jobs),
        force=False,
        as_json=False,
    )
    if code == 0:
        text.say(
            f"\nNow edit {path.parent}, or see it survive: start\n"
            f"  {where.command('run', str(path), '--fresh')}\n"
            f"kill it half way, and go on with\n"
            f"  {where.command('resume', '@last')}"
        )
    return code


def conduct(
    where: Place,
    drive: Callable[["Orchestrator"], "Outcome"],
    *,
    force: bool,
    as_json: bool,
) -> int:
    """Have *drive* run an experiment on this machine, show how it goes, and print its end."""
    from holdfast.cli.evidence import parameters
    from holdfast.cli.live import Progress
    from holdfast.engines.local import LocalEngine
    from holdfast.orchestrator import Orchestrator

    manager = where.manager()
    with Progress(manager.folder, parameters) as progress, LocalEngine() as local:
        engine = _Announcing(local, progress)
        orchestrator = Orchestrator(manager, engine, on_change=progress.change, force=force)
        outcome = drive(orchestrator)
    _print_end(where, outcome, as_json=as_json)
    return outcome.exit_code


def _print_end(where: Place, outcome: "Outcome", *, as_json: bool) -> None:
    state = outcome.state
    words = forms.next_words(state, None)
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
