"""`holdfast note` and `holdfast tag`: what people say about experiments."""

import sys
from collections import Counter
from collections.abc import Sequence

import click

from holdfast.cli.addressing import named, resolve
from holdfast.cli.app import (
    experiment_argument,
    in_state_dir,
    some_experiments_argument,
    tag_option,
)
from holdfast.cli.failures import say_if_absent, told
from holdfast.cli.listing import say_unreadable
from holdfast.cli.where import Where
from holdfast.encoding import spoken
from holdfast.errors import StateCorruptError, printable
from holdfast.reading import text
from holdfast.store.annotations import NONE, Annotations
from holdfast.store.manager import StateManager

__all__ = ["note", "said_about", "tag"]


@click.command()
@click.option("--clear", is_flag=True, help="Remove the note.")
@experiment_argument
@click.argument("words", metavar="[TEXT]...", nargs=-1)
@in_state_dir
def note(where: Where, query: str, words: tuple[str, ...], clear: bool) -> int:
    """Write a note about an experiment, or print it.

    TEXT takes the place of the note that there is; - reads it from stdin. Nobody who runs the
    experiment is disturbed.
    """
    if words and clear:
        raise click.UsageError("--clear removes the note, TEXT replaces it: not both")
    manager = where.manager()
    experiment_id = resolve(manager, query)
    if not words and not clear:
        said = manager.annotations(experiment_id).note
        if said is None:
            text.say(f"nothing is noted about {text.one_line(experiment_id)}")
        else:
            text.emit([printable(said)])
        return 0
    new = sys.stdin.read() if words == ("-",) else " ".join(map(spoken, words))
    if not clear and not new.strip():
        raise click.UsageError("an empty note; --clear removes the one that there is")
    _annotate(manager, experiment_id, note="" if clear else new)
    who = text.one_line(experiment_id)
    text.say(f"nothing is noted about {who} any more" if clear else f"noted about {who}")
    return 0


@click.command()
@tag_option("-a", "--add", about="Add this tag")
@tag_option("-r", "--remove", about="Remove this tag")
@some_experiments_argument
@in_state_dir
def tag(where: Where, queries: tuple[str, ...], add: list[str], remove: list[str]) -> int:
    """Tag experiments, or print their tags; without an ID, every tag that is in use.

    A tag is one word: letters, digits and . _ : / @ + = -. If one ID is wrong, nothing is changed.
    Nobody who runs an experiment is disturbed.
    """
    if both := sorted({*add} & {*remove}):
        raise click.UsageError(f"{both[0]} is to be added and removed")
    manager = where.manager()
    if not queries:
        if add or remove:
            raise click.UsageError("an ID is missing: which experiments are meant?")
        return _all_tags(where, manager)
    found, code = named(where, queries)
    if code:
        if add or remove:
            text.say("nothing was changed")
        return code
    lines = []
    for each in found:
        if add or remove:
            _annotate(manager, each, add=add, remove=remove)
        words = " ".join(manager.annotations(each).tags)
        lines.append(f"{text.one_line(each)}  {words}".rstrip())
    text.emit(lines)
    return 0


def _all_tags(where: Where, manager: StateManager) -> int:
    annotated = manager.annotated()
    there = {each.experiment_id: each for each in manager.listing().experiments}
    counts: Counter[str] = Counter()
    for about, said in annotated.found.items():
        state = there.get(about.experiment_id)
        if state is not None and state.created_at == about.created_at:
            counts.update(said.tags)
    if counts:
        rows = [(each, f"{number:,}") for each, number in sorted(counts.items())]
        text.emit(text.table(("TAG", "EXPERIMENTS"), rows, right=(1,)))
    elif not annotated.unreadable:
        text.say(f"no experiment in {text.one_line(where.state_dir)} has a tag")
        say_if_absent(where.state_dir)
    return say_unreadable(where, annotated.unreadable)


def said_about(where: Where, experiment_id: str) -> Annotations:
    """The tags and the note of an experiment; a warning where they cannot be read."""
    try:
        return where.manager().annotations(experiment_id)
    except StateCorruptError as err:
        text.say(told(err, where), "warning")
        return NONE


def _annotate(
    manager: StateManager,
    experiment_id: str,
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    note: str | None = None,
) -> None:
    try:
        manager.annotate(experiment_id, add=add, remove=remove, note=note)
    except ValueError as err:
        raise click.UsageError(f"{text.one_line(experiment_id)}: {err}") from None
