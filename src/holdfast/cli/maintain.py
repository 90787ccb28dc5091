"""What keeps a state directory in order, runs no process of an experiment, and the diagrams."""

import contextlib
from typing import TYPE_CHECKING

import click

from holdfast.cli.addressing import resolve
from holdfast.cli.app import (
    experiment_argument,
    force_option,
    in_state_dir,
    json_option,
)
from holdfast.cli.engines import stored_engines
from holdfast.cli.failures import OWNED, exit_code, report, say_if_absent, told
from holdfast.cli.jsonlog import log_json_option
from holdfast.cli.listing import say_unreadable
from holdfast.cli.where import Where
from holdfast.errors import (
    AlreadyOwnedError,
    ExperimentNotFoundError,
    HoldfastError,
    InvalidTransitionError,
)
from holdfast.identity import Verdict
from holdfast.reading import forms, text
from holdfast.status import ExperimentStatus

if TYPE_CHECKING:
    from holdfast.reading.engines import HandedOver
    from holdfast.store.manager import StateManager

__all__ = ["aggregate", "cleanup", "diagram"]


@click.command()
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be marked.")
@force_option
@json_option
@in_state_dir
def cleanup(where: Where, dry_run: bool, force: bool, as_json: bool) -> int:
    """Mark running experiments whose owner is proven dead as interrupted, with the evidence.

    Those of a living owner are left alone. Those whose owner may be alive are named, and the exit
    code is 5, unless --force. Those that an engine still has are named, too: they are not stale.
    """
    manager = where.manager()
    listing = manager.listing()
    unreadable = listing.unreadable
    verdicts: dict[str, Verdict] = {}
    for state in listing.experiments:
        if state.status is ExperimentStatus.RUNNING:
            try:
                verdicts[state.experiment_id] = manager.liveness(state.experiment_id)
            except ExperimentNotFoundError:
                continue
    submitted = _submitted(manager, verdicts)
    marked = _marked(where, dry_run=dry_run, force=force) if verdicts else []
    unknown = [each for each, living in verdicts.items() if living.kind == "unknown" and not force]
    doubtful = [each for each in unknown if each not in submitted]
    refused: dict[str, HoldfastError] = {}
    if not dry_run:
        left = [each for each in verdicts if each not in (*marked, *doubtful, *submitted)]
        reasons = ((each, _why_left(manager, each, force=force)) for each in left)
        refused = {each: why for each, why in reasons if why is not None}
    if as_json:
        content = _document(verdicts, marked, refused, submitted, dry_run=dry_run)
        forms.print_json(
            "holdfast.cleanup/1", {**content, "unreadable": forms.unreadable(unreadable)}
        )
    else:
        text.emit(
            line
            for each in marked
            for line in _cleaned(where, each, verdicts.get(each), dry_run=dry_run)
        )
        for each, having in submitted.items():
            text.say(
                f"{text.one_line(each)} is not stale: {having.title} has {having}\n"
                f"  to go on with it: {where.command('resume', each)}\n"
                f"  to stop it: {where.command('stop', each)}"
            )
        if not marked and not refused:
            text.say("nothing to clean up")
            say_if_absent(where.state_dir)
    for each in doubtful:
        text.say(
            f"{text.one_line(each)}: cannot prove that its owner is dead: {verdicts[each]}\n"
            f"  make sure that it is, then: {where.command('cleanup', '--force')}",
            "error",
        )
    for each, why in refused.items():
        text.say(f"{text.one_line(each)} is left as it is: {told(why, where)}", "error")
    failed = max(map(exit_code, refused.values()), default=0)
    return say_unreadable(where, unreadable) or failed or (OWNED if doubtful else 0)


def _submitted(manager: "StateManager", verdicts: dict[str, Verdict]) -> "dict[str, HandedOver]":
    """What goes on although nobody is proven to drive it, since an engine has some of it."""
    from holdfast.reading.engines import handed_over

    found = {}
    for each, living in verdicts.items():
        if living.kind == "alive":
            continue
        with contextlib.suppress(HoldfastError):  # deleted since, or damaged
            having = handed_over(manager.load(each), manager.folder(each))
            if having is not None:
                found[each] = having
    return found


def _document(
    verdicts: dict[str, Verdict],
    marked: list[str],
    refused: dict[str, HoldfastError],
    submitted: "dict[str, HandedOver]",
    *,
    dry_run: bool,
) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "interrupted": [
            {"experiment_id": each, "liveness": forms.verdict(verdicts.get(each))}
            for each in marked
        ],
        "left": [
            {
                "experiment_id": each,
                "liveness": forms.verdict(living),
                "error": str(refused[each]) if each in refused else None,
                "handed_over": submitted[each].form() if each in submitted else None,
            }
            for each, living in verdicts.items()
            if each not in marked
        ],
    }


def _why_left(manager: "StateManager", experiment_id: str, *, force: bool) -> HoldfastError | None:
    """Why an experiment whose owner is dead could not be marked; None if it need not be."""
    try:
        state = manager.load(experiment_id)
        stale = manager.liveness(experiment_id).kind != "alive"
        if state.status is ExperimentStatus.RUNNING and stale:
            # The marking only warned, and with words: what refuses a claim refused it, too.
            manager.claim(experiment_id, force=force).release()
    except (ExperimentNotFoundError, AlreadyOwnedError):
        return None  # deleted or taken up meanwhile
    except HoldfastError as err:
        return err
    return None


def _marked(where: Where, *, dry_run: bool, force: bool) -> list[str]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # named by us already
        return where.manager().cleanup_stale(dry_run=dry_run, force=force)


def _cleaned(
    where: Where, experiment_id: str, living: Verdict | None, *, dry_run: bool
) -> list[str]:
    would = "would be interrupted" if dry_run else "interrupted"
    who = text.one_line(experiment_id)
    lines = [f"{who}  {would}: owner {text.one_line(living or 'dead')}"]
    left = where.manager().survivors(experiment_id)
    lines += [f"  attempt {name} is not over: {text.one_line(verdict)}" for name, verdict in left]
    if left:
        lines.append(f"  to stop it: {where.command('stop', experiment_id)}")
        lines.append(f"  to take it over: {where.command('resume', experiment_id)}")
    return lines


@click.command()
@click.option(
    "--partial",
    is_flag=True,
    help="Show the table of what is completed by now, and what is missing; change nothing.",
)
@force_option
@log_json_option
@json_option
@experiment_argument
@in_state_dir
def aggregate(where: Where, query: str, partial: bool, force: bool, as_json: bool) -> int:
    """Aggregate an experiment whose processes are all completed; run none of them."""
    from holdfast.cli.conduct import conduct

    experiment_id = resolve(where.manager(), query)
    if partial:
        from holdfast.cli.partial import print_partial

        return print_partial(where, experiment_id, as_json=as_json)
    try:
        return conduct(
            where,
            lambda orchestrator, _: orchestrator.aggregate(experiment_id),
            stored_engines(where.manager(), experiment_id),
            force=force,
            as_json=as_json,
        )
    except InvalidTransitionError as err:
        code = report(err, where)
        text.say(f"  to run what is missing: {where.command('resume', experiment_id)}")
        some = where.command("aggregate", "--partial", experiment_id)
        text.say(f"  to see what is completed: {some}")
        return code


@click.command()
@click.argument(
    "machine", type=click.Choice(["experiment", "process"]), default="experiment", required=False
)
@click.option(
    "--format",
    "notation",
    type=click.Choice(["mermaid", "dot", "svg", "markdown"]),
    default="mermaid",
    show_default=True,
    help="markdown: the diagram with tables of transitions and guards.",
)
def diagram(machine: str, notation: str) -> int:
    """Print one of the two state machines, as it is declared."""
    from holdfast import diagrams

    text.emit([diagrams.render("process" if machine == "process" else "experiment", notation)[:-1]])
    return 0
