"""Which experiment an ID on the command line names, be it readable or not."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import click

from holdfast.cli.failures import report
from holdfast.cli.where import Where, quoted
from holdfast.encoding import spoken
from holdfast.errors import (
    AmbiguousExperimentError,
    ExperimentNotFoundError,
    HoldfastError,
    InvalidIdError,
    SchemaTooNewError,
    StateCorruptError,
)
from holdfast.reading import text
from holdfast.store.manager import StateManager

__all__ = ["how_to_remove", "named", "resolve", "resolve_unit"]

_NEWEST: Final = "@last"


def resolve(manager: StateManager, query: str) -> str:
    """The id that *query* names: as `StateManager.resolve`, or a name that only one experiment has.

    A file that cannot be read counts, too: `ls` names it, and `rm` must not take the beginning of
    its name for that of another experiment.

    Raises:
        ExperimentNotFoundError, AmbiguousExperimentError: None or several.
        StateCorruptError, SchemaTooNewError: The one that is named cannot be read.
    """
    query = spoken(query)
    found: tuple[str, ...] = ()
    unknown = None
    try:
        found = (manager.resolve(query),)
    except AmbiguousExperimentError as err:
        found = err.matches
    except ExperimentNotFoundError as err:
        unknown = err
    if query not in (*found, _NEWEST, ""):
        listing = manager.listing()
        named = [each.experiment_id for each in listing.experiments if each.name == query]
        if len({*found, *named}) > 1:
            what = f"the prefix {query!r}" if not named else f"the name {query!r}"
            if named and found:
                what = f"{query!r}, a name and the beginning of ids,"
            raise AmbiguousExperimentError(what, tuple(dict.fromkeys((*found, *named))))
        found = found or tuple(named)
        errors = {
            stem: error
            for path, error in listing.unreadable
            if (stem := _stem(manager, path)) is not None and stem.startswith(query)
        }
        if len(found) + len(errors) > 1:
            raise AmbiguousExperimentError(f"the prefix {query!r}", (*found, *errors))
        for error in errors.values():
            raise error
    if unknown is not None and not found:
        close = unknown.close_matches or _meant(manager, query)
        raise ExperimentNotFoundError(query, manager.state_dir, close)
    return found[0]


def named(
    where: Where,
    queries: Iterable[str],
    refused: Callable[[HoldfastError], int] | None = None,
) -> tuple[list[str], int]:
    """The ids that *queries* name, each once, and the exit code if one of them is wrong.

    Args:
        refused: Tells of one that is wrong; its exit code. Default: as of any error.
    """
    found: dict[str, None] = {}
    code = 0
    for query in queries:
        try:
            found[resolve(where.manager(), query)] = None
        except HoldfastError as err:
            code = max(code, report(err, where) if refused is None else refused(err))
    return list(found), code


def resolve_unit(manager: StateManager, query: str, *named: str) -> tuple[str, str | None]:
    """As `resolve`, of an ID or ID/UNIT; the unit as text, None if there is none.

    Args:
        named: What a unit may be besides the number of a process.

    Raises:
        click.UsageError: The experiment has no such unit.
    """
    head, slash, last = query.rpartition("/")
    is_number = last.isascii() and last.isdigit() and len(last) < 10
    if slash and (is_number or last in named):
        # An experiment may be called `sweep/3`; one called `sweep/30` is not meant by it.
        with contextlib.suppress(ExperimentNotFoundError, InvalidIdError):
            return manager.named(spoken(query)), None
        with contextlib.suppress(ExperimentNotFoundError):
            found = resolve(manager, head)
            if not found.startswith(spoken(query)):
                return found, _unit_of(manager, found, last, named)
    try:
        return resolve(manager, query), None
    except ExperimentNotFoundError:
        if not slash or not (is_number or named):
            raise
        found = resolve(manager, head)  # where there is none, that is what is wrong
    return found, _unit_of(manager, found, last, named)


def _unit_of(manager: StateManager, found: str, last: str, named: tuple[str, ...]) -> str:
    is_number = last.isascii() and last.isdigit() and len(last) < 10
    if last in named:
        return last
    who = text.one_line(found)
    if not is_number:
        names = " nor ".join(f"`{each}`" for each in named)
        raise click.UsageError(
            f"{who} is there; {text.one_line(last)!r} is neither a process's number nor {names}"
        )
    number = manager.load(found).num_processes
    if int(last) >= number:
        raise click.UsageError(f"{who} has processes 0 to {number - 1}, no {int(last)}")
    return str(int(last))


def _meant(manager: StateManager, query: str) -> tuple[str, ...]:
    """What no id is like may be a misspelt `@last`, or be a process where an experiment is due."""
    head, _, index = query.rpartition("/")
    if head and index.isdigit():
        try:
            return (resolve(manager, head),)
        except HoldfastError:
            return ()
    import difflib  # only a mistake needs it

    return (_NEWEST,) if query != _NEWEST and difflib.get_close_matches(query, [_NEWEST]) else ()


def how_to_remove(manager: StateManager, error: HoldfastError) -> str | None:
    """The command that removes what *error* says cannot be read; None if it is no experiment."""
    if not isinstance(error, StateCorruptError | SchemaTooNewError):
        return None
    stem = _stem(manager, error.path)
    if stem is None:
        return None
    # The view first: what is left after an interruption is still found by its journal.
    both = (manager.state_dir / f"{stem}.json", manager.state_dir / stem)
    there = [quoted(str(path)) for path in both if path.exists() or path.is_symlink()]
    return " ".join(["rm -r --", *there]) if there else None


def _stem(manager: StateManager, path: Path) -> str | None:
    """The name of the experiment that a file belongs to: its view, or one in its folder."""
    try:
        first, *_ = path.relative_to(manager.state_dir).parts
    except ValueError:
        return None
    return first.removesuffix(".json")
