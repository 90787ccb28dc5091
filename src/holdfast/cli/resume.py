"""`holdfast resume`, `retry`: going on with an experiment, all of it or a part."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import click

from holdfast.cli.addressing import resolve_unit
from holdfast.cli.app import experiment_argument, force_option, in_state_dir, json_option
from holdfast.cli.conduct import conduct
from holdfast.cli.detached import NOTHING_TO_DETACH, detach_option
from holdfast.cli.engines import engine_option, stored_engines
from holdfast.cli.indices import only_option, selected
from holdfast.cli.jsonlog import log_json_option
from holdfast.cli.run import (
    choice,
    code_options,
    jobs_option,
    no_aggregate_option,
    run_tag_option,
    settings_of,
)
from holdfast.cli.where import Where

if TYPE_CHECKING:
    from holdfast.engine_options import EngineName
    from holdfast.orchestration.intent import Choice

__all__ = ["resume", "retry"]

_C = TypeVar("_C", bound=Callable[..., Any])

_EXAMPLE: Final = "limits.timeout=4h"
#: What can change of an experiment that goes on.
_TABLES: Final = ("limits", "engine")

_engine = engine_option(
    "Where it runs this time; default: the engine that has it, else as configured."
)


def _part_options(command: _C) -> _C:
    """What `resume` and `retry` share."""
    limits = click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help=f"Change a key of limits or engine from now on, e.g. {_EXAMPLE} (or none), "
        "engine.memory=8G; may be repeated.",
    )
    dry_run = click.option(
        "-n", "--dry-run", is_flag=True, help="Only say what would be run, and why."
    )
    options = (
        *(json_option, log_json_option, force_option, detach_option, _engine, dry_run),
        *(run_tag_option, no_aggregate_option, limits, jobs_option),
    )
    for option in options:
        command = option(command)
    return only_option("Start only these, e.g. 3,7 or 0-4,9; hold the others back.")(command)


@click.command()
@_part_options
@code_options
@experiment_argument
@in_state_dir
def resume(
    where: Where, query: str, keep_results: bool, rerun_changed: bool, **options: Any
) -> int:
    """Go on with an experiment, with the configuration that it was made with.

    Completed processes are not run again; running ones are taken over; failed ones are tried
    again. With --only, or of ID/INDEX, the others wait for the next resume.
    """
    code = choice(keep_results, rerun_changed)
    return _go_on(where, query, failed_only=False, code=code, **options)


@click.command()
@_part_options
@experiment_argument
@in_state_dir
def retry(where: Where, query: str, **options: Any) -> int:
    """Try the failed processes of an experiment again, all of them or some, and no others.

    Each has its whole budget of attempts again. What was never tried, or was interrupted, waits
    for the next resume. ID/INDEX is that process alone.
    """
    # What is finished has nothing to be tried again.
    return _go_on(where, query, failed_only=True, code="keep", **options)


def _go_on(
    where: Where,
    query: str,
    *,
    failed_only: bool,
    code: "Choice | None",
    only: Sequence[int] | None,
    settings: Sequence[str],
    jobs: int | None,
    no_aggregate: bool,
    tags: Sequence[str],
    dry_run: bool,
    chosen: "EngineName | None",
    detach: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Go on with what *query* names; all but two are the options that both commands have."""
    changes = _changes_of(settings)
    manager = where.manager()
    experiment_id, unit = resolve_unit(manager, query)
    if unit is not None:
        if only is not None:
            raise click.UsageError(f"{query} is one process; --only goes with an experiment")
        only = (int(unit),)
    if only is not None and code == "rerun":
        raise click.UsageError(
            "--rerun-changed makes a new experiment, of which nothing is held back"
        )
    if dry_run and detach:
        raise click.UsageError(NOTHING_TO_DETACH)
    if only is not None or dry_run:
        selection = selected(manager, experiment_id, only, failed_only=failed_only)
        if dry_run:
            from holdfast.cli.plan import plan, print_plan

            made = plan(
                *(where, None, experiment_id),
                fresh=False,
                code=code,
                force=force,
                selection=selection,
                limits=changes,
            )
            return print_plan(where, made, as_json=as_json)
    return conduct(
        where,
        lambda orchestrator, leave: orchestrator.resume(
            experiment_id,
            only=only,
            failed_only=failed_only,
            limits=changes.get("limits"),
            engine=changes.get("engine"),
            code=code,
            jobs=jobs,
            aggregate=not no_aggregate,
            leave=leave,
        ),
        stored_engines(manager, experiment_id, chosen, changes.get("engine")),
        force=force,
        as_json=as_json,
        detach=detach,
        tags=tags,
    )


def _changes_of(settings: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """What `--set` changes, in the shape of the file."""
    if not settings:
        return {}
    from holdfast.config.overrides import apply_overrides

    given = settings_of(settings)
    for key in given:
        table, _, rest = key.partition(".")
        if table not in _TABLES or not rest:
            raise click.UsageError(
                f"--set changes only limits and engine of an experiment that goes on, not {key}"
                f"{_meant(key)}"
            )
    changed, _ = apply_overrides({}, given, _TABLES)
    return changed


def _meant(key: str) -> str:
    from holdfast.config import engine
    from holdfast.config.declaration import KEYS, LimitsTable

    limits = [KEYS.get(field.name, field.name) for field in attrs.fields(LimitsTable)]
    name = key.rpartition(".")[2]
    for table, names in (("limits", limits), ("engine", engine.KEYS)):
        if name in names:
            return f"; did you mean {table}.{name}?"
    return f" (as in --set {_EXAMPLE})"
