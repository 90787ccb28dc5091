"""`holdfast explain`: what a run would do with every process, why, and what differs."""

from pathlib import Path

import click

from holdfast.cli.addressing import resolve
from holdfast.cli.app import complete_file_or_id, force_option, in_state_dir, json_option
from holdfast.cli.run import choice, code_options, set_option, settings_of
from holdfast.cli.where import Where
from holdfast.encoding import spoken

__all__ = ["explain"]


@click.command()
@set_option
@code_options
@force_option
@json_option
@click.argument("query", metavar="FILE | ID", shell_complete=complete_file_or_id)
@in_state_dir
def explain(
    where: Where,
    query: str,
    settings: tuple[str, ...],
    keep_results: bool,
    rerun_changed: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Say what `run FILE`, or `resume ID`, would do with each process, and why.

    Each would be run, skipped (it is done), reused (another experiment has done the same work),
    adopted (it runs, or ended while nobody watched) or is blocked. Where one would be run although
    something like it is done, WHY says what differs. Nothing is started or changed; the exit code
    is that of the run where it would start nothing: 2 if finished work ran with other code, 3 if
    its deadline has passed, 5 if somebody else owns it.
    """
    from holdfast.cli.plan import plan, print_plan
    from holdfast.config.experiment_file import load_config

    code = choice(keep_results, rerun_changed)
    where.settings = settings
    experiment, resumed = None, None
    path = Path(query)
    if path.suffix == ".toml" or (path.exists() and not path.is_dir()):
        experiment = load_config(path, settings_of(settings))
        where.settle(experiment)
    elif settings:
        raise click.UsageError(
            "--set changes a FILE; for an experiment that goes on with other limits: "
            f"`{where.command('resume', '-n', '--set', 'limits.KEY=VALUE', query)}`"
        )
    else:
        resumed = resolve(where.manager(), spoken(query))
    made = plan(where, experiment, resumed, fresh=False, code=code, force=force)
    return print_plan(where, made, as_json=as_json)
