"""The options that say which experiments a command means, for `ls` and `rm` alike."""

import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from holdfast.cli.app import tag_option
from holdfast.encoding import spoken
from holdfast.reading import text
from holdfast.status import ExperimentStatus

if TYPE_CHECKING:
    from holdfast.reading.selection import Selection, UnknownNameError

__all__ = ["selecting", "unknown"]


def selecting(command: Callable[..., int]) -> Callable[..., int]:
    """A command with the options of a selection, which it gets as `selection`; None of none."""

    @functools.wraps(command)
    def selected(
        *args: object,
        statuses: tuple[str, ...],
        tags: list[str],
        since: str | None,
        older_than: str | None,
        conditions: tuple[str, ...],
        **others: object,
    ) -> int:
        found = None
        if statuses or tags or since is not None or older_than is not None or conditions:
            found = _selection(statuses, tags, since, older_than, conditions)
        return command(*args, selection=found, **others)

    for option in reversed(_OPTIONS):
        selected = option(selected)
    return selected


_OPTIONS = (
    click.option(
        "--state",
        "--status",
        "statuses",
        type=click.Choice([str(status) for status in ExperimentStatus]),
        metavar="STATUS",
        multiple=True,
        help=f"Only of this status: {', '.join(ExperimentStatus)}; may be repeated.",
    ),
    tag_option("--tag", "tags", about="Only with this tag"),
    click.option(
        "--since", metavar="WHEN", help="Only created since: 2d (that long ago), 2026-11-01."
    ),
    click.option("--older-than", metavar="WHEN", help="Only last changed before: 30d, 2026-11-01."),
    click.option(
        "--where",
        "conditions",
        metavar="'NAME OP VALUE'",
        multiple=True,
        help="Only with a process that satisfies it, e.g. 'lr>0.1'; may be repeated.",
    ),
)


def _selection(
    statuses: Sequence[str],
    tags: Sequence[str],
    since: str | None,
    older_than: str | None,
    conditions: Sequence[str],
) -> "Selection":
    from holdfast.reading.conditions import condition, moment
    from holdfast.reading.selection import BUILT_IN, Selection

    now = datetime.now(UTC)
    option = ""
    try:
        option = "--since"
        created = None if since is None else moment(since, now)
        option = "--older-than"
        changed = None if older_than is None else moment(older_than, now)
        option = "--where"
        parsed = [condition(spoken(each)) for each in conditions]
        parsed = [
            each.of_kind(BUILT_IN[each.name].kind, now) if each.name in BUILT_IN else each
            for each in parsed
        ]
    except ValueError as err:
        raise click.UsageError(f"{option}: {err}") from None
    return Selection(statuses=statuses, tags=tags, since=created, before=changed, conditions=parsed)


def unknown(error: "UnknownNameError", option: str, others: Sequence[str] = ()) -> click.UsageError:
    """What to tell whoever named what there is none of, but could have been one of *others*."""
    import difflib  # only a mistake needs it

    near = [*difflib.get_close_matches(error.name.lower(), others, n=2), *error.close]
    close = " or ".join(f"`{text.one_line(each)}`" for each in dict.fromkeys(near))
    meant = f"; did you mean {close}?" if close else ""
    return click.UsageError(
        f"{option}: {error.name!r} is no parameter and in no result of "
        f"{text.count(error.looked, 'experiment')}{meant}"
    )
