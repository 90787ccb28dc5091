"""`holdfast run`, `demo`: which experiment, driven to its end, and how that is told."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from holdfast.cli.addressing import resolve
from holdfast.cli.app import (
    complete_file,
    complete_id,
    force_option,
    in_state_dir,
    json_option,
    tag_option,
)
from holdfast.cli.conduct import conduct
from holdfast.cli.detached import NOTHING_TO_DETACH, detach_option
from holdfast.cli.engines import (
    Engines,
    engine_of_work,
    engine_option,
    stored_engines,
    unused,
)
from holdfast.cli.jsonlog import log_json_option
from holdfast.cli.where import Where
from holdfast.encoding import spoken
from holdfast.reading import text

if TYPE_CHECKING:
    from holdfast.config.experiment_file import Experiment
    from holdfast.engine_options import EngineName
    from holdfast.lifecycle.records import ExperimentState
    from holdfast.orchestration.intent import Choice
    from holdfast.orchestration.orchestrator import Orchestrator, Outcome

__all__ = [
    "choice",
    "code_options",
    "demo",
    "jobs_option",
    "no_aggregate_option",
    "run",
    "run_tag_option",
    "set_option",
    "settings_of",
]

_COMMAND: Final = "holdfast.cli.run.command"

jobs_option = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many commands at a time; default: as configured, else one CPU for each process, or "
    "as many as the engine takes.",
)
no_aggregate_option = click.option(
    "--no-aggregate", is_flag=True, help="Stop before the aggregation."
)
run_tag_option = tag_option("--tag", "tags", about="Tag the experiment so")

_C = TypeVar("_C", bound=Callable[..., Any])


def code_options(command: _C) -> _C:
    """What becomes of finished work whose code has changed; see `choice`."""
    rerun = click.option(
        "--rerun-changed",
        is_flag=True,
        help="Run what finished with other code anew, in a new experiment that reuses the rest.",
    )
    keep = click.option(
        "--keep-results",
        is_flag=True,
        help="Keep finished results although their code has changed.",
    )
    return keep(rerun(command))


def choice(keep_results: bool, rerun_changed: bool) -> "Choice | None":
    """What was chosen of both; None if neither."""
    if keep_results and rerun_changed:
        raise click.UsageError("--keep-results and --rerun-changed exclude each other")
    return "keep" if keep_results else "rerun" if rerun_changed else None


set_option = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a key of the file, e.g. limits.timeout=1h or level=[1,9]; may be repeated.",
)


class _Run(click.Command):
    """Keeps what stands behind `--` apart: it is a command, and no word of it is for us."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command(cls=_Run)
@click.option(
    "--resume",
    "resumed",
    metavar="ID",
    shell_complete=complete_id,
    help="Go on with this one; FILE is optional.",
)
@click.option("--fresh", is_flag=True, help="Make a new experiment, and run all of it.")
@code_options
@jobs_option
@set_option
@click.option(
    "--procs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Without a FILE: N processes of the command behind `--`.",
)
@click.option(
    "--ranks",
    type=click.IntRange(min=1),
    metavar="N",
    help="Without a FILE: the command starts N processes itself (torchrun, mpirun).",
)
@no_aggregate_option
@run_tag_option
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be run, and why.")
@engine_option("Where it runs, instead of what the file says: local, slurm or dask.")
@detach_option
@force_option
@log_json_option
@json_option
@click.argument("words", metavar="FILE | -- COMMAND...", nargs=-1, shell_complete=complete_file)
@click.pass_context
@in_state_dir
def run(
    where: Where,
    context: click.Context,
    words: tuple[str, ...],
    resumed: str | None,
    fresh: bool,
    keep_results: bool,
    rerun_changed: bool,
    jobs: int | None,
    settings: tuple[str, ...],
    procs: int | None,
    ranks: int | None,
    no_aggregate: bool,
    tags: list[str],
    dry_run: bool,
    chosen: "EngineName | None",
    detach: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Run the experiment in FILE, or go on with it where it stopped.

    A file whose work matches an unfinished experiment resumes it; one that is finished shows its
    result. A new one reuses what others have finished of the same work. `holdfast run --procs 8 --
    ./simulate --seed {index}` needs no file.
    """
    if resumed is not None and fresh:
        raise click.UsageError("--resume goes on with an experiment, --fresh makes a new one")
    code = choice(keep_results, rerun_changed)
    if resumed is not None and code == "rerun":
        raise click.UsageError(
            "--resume goes on with an experiment, --rerun-changed makes a new one"
        )
    if fresh and code is not None:
        raise click.UsageError("--fresh runs everything anew, whatever has changed")
    command: tuple[str, ...] | None = context.meta.get(_COMMAND)
    named = () if chosen is None else (f"engine.name={chosen}",)
    where.fresh, where.settings = fresh, (*settings, *named)
    experiment = _experiment(
        where, words, command, procs, ranks, settings_of(settings), resumed=resumed
    )
    if experiment is not None and resumed is None:
        where.settle(experiment)
    manager = where.manager()
    if resumed is not None:
        resumed = resolve(manager, resumed)
        if experiment is not None:
            from holdfast.cli.plan import refuse_other_work

            refuse_other_work(
                where, manager.load(resumed), experiment, file=words[0] if words else "the command"
            )
    if experiment is None:
        assert resumed is not None
        engines = stored_engines(manager, resumed, chosen)
    else:
        if chosen is None and not fresh:
            chosen = engine_of_work(manager, experiment, resumed)
        experiment = experiment.on(chosen)
        engines = Engines.of(experiment.engine, experiment.aggregate.engine)

    def drive(orchestrator: "Orchestrator", leave: bool) -> "Outcome":
        aggregate = not no_aggregate
        if experiment is None:
            assert resumed is not None
            return orchestrator.resume(
                resumed, code=code, jobs=jobs, aggregate=aggregate, leave=leave
            )
        return orchestrator.run(
            experiment,
            experiment_id=resumed,
            fresh=fresh,
            code=code,
            jobs=jobs,
            aggregate=aggregate,
            leave=leave,
        )

    if dry_run and detach:
        raise click.UsageError(NOTHING_TO_DETACH)
    if dry_run:
        from holdfast.cli.plan import plan, print_plan

        made = plan(where, experiment, resumed, fresh=fresh, code=code, force=force)
        return print_plan(where, made, as_json=as_json)

    def unlike(state: "ExperimentState") -> list[str]:
        # The file may have other limits than the experiment; they count for this run only.
        other = " and ".join([] if experiment is None else experiment.differs_in(state.config))
        words = (
            f"{other} as given now, for this run; `resume` uses what the experiment was made with"
        )
        return [words] if other else []

    if experiment is not None and (ignored := unused(experiment, engines)):
        text.say(ignored)

    return conduct(
        *(where, drive, engines),
        force=force,
        as_json=as_json,
        notes=unlike,
        detach=detach,
        tags=tags,
    )


def _experiment(
    where: Where,
    words: Sequence[str],
    command: Sequence[str] | None,
    procs: int | None,
    ranks: int | None,
    settings: Mapping[str, str],
    *,
    resumed: str | None,
) -> "Experiment | None":
    """What is to be run; None if only an id says it."""
    from holdfast.config.experiment_file import Experiment, load_config

    if command is not None or procs is not None or ranks is not None:
        counted = ("--procs", str(procs or 1)) if ranks is None else ("--ranks", str(ranks))
        if words and command is None:
            raise click.UsageError(
                f"a command stands behind --: {where.command('run', *counted, '--', *words)}"
            )
        if words:
            raise click.UsageError(
                f"a FILE or a command behind --, not both; {words[0]!r} stands before the --"
            )
        if not command:
            example = where.command("run", *counted, "--", "CMD")
            raise click.UsageError(f"a command is missing: {example}...")
        argv = [spoken(word) for word in command]
        return Experiment.from_command(
            argv, procs or 1, ranks=ranks, cwd=Path.cwd(), overrides=settings
        )
    if len(words) > 1:
        raise click.UsageError(
            f"one FILE, not {len(words)}; if it is a command: "
            f"{where.command('run', '--procs', '1', '--', *words)}"
        )
    if words:
        return load_config(Path(words[0]), settings)
    if resumed is None:
        raise click.UsageError("an experiment FILE, --resume ID, or --procs N -- CMD...")
    if settings:
        raise click.UsageError(
            "--set changes a FILE; limits of an experiment that goes on are changed by "
            f"`{where.command('resume', '--set', 'limits.KEY=VALUE', resumed)}`"
        )
    return None


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """The keys and values that `--set` was given."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise click.UsageError(f"--set needs KEY=VALUE, not {word!r}")
        found[spoken(key.strip())] = spoken(value)
    return found


@click.command()
@click.option("--fresh", is_flag=True, help="Run it again although it was run before.")
@jobs_option
@in_state_dir
def demo(where: Where, fresh: bool, jobs: int | None) -> int:
    """Which of Python's codecs packs the standard library best, and how fast? In under a minute.

    Leaves experiment.toml and its script in ./holdfast-demo: change them, run them again, kill
    them half way.
    """
    from holdfast.config.experiment_file import load_config
    from holdfast.demo import write_demo

    where.fresh = fresh
    files = write_demo()
    path = files.experiment
    for kept in files.kept:
        text.say(f"{kept} is yours by now and stays as it is")
    for codec in files.missing:
        text.say(f"this Python was built without {codec}: its processes will fail, the others run")
    experiment = load_config(path)
    where.settle(experiment)
    text.say(f"the experiment is in {path}; kill it half way if you like (Ctrl-C, or kill -9)")
    code = conduct(
        where,
        lambda orchestrator, _: orchestrator.run(experiment, fresh=fresh, jobs=jobs),
        Engines.of(experiment.engine, experiment.aggregate.engine),
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
