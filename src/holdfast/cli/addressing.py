"""Which experiment an ID on the command line names, be it readable or not."""

import difflib
from pathlib import Path

from holdfast.cli.app import quoted
from holdfast.encoding import spoken
from holdfast.errors import (
    AmbiguousExperimentError,
    ExperimentNotFoundError,
    HoldfastError,
    SchemaTooNewError,
    StateCorruptError,
)
from holdfast.store.manager import StateManager

__all__ = ["how_to_remove", "resolve"]


def resolve(manager: StateManager, query: str) -> str:
    """The id that *query* names: as `StateManager.resolve`, but what cannot be read counts, too.

    `ls` names such a file, so the beginning of its name is not unknown. Nor may it be taken for
    that of another experiment, which `rm` would then delete.

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
    if query not in (*found, "@last", ""):
        errors = {
            stem: error
            for path, error in manager.listing().unreadable
            if (stem := _stem(manager, path)) is not None and stem.startswith(query)
        }
        if len(found) + len(errors) > 1:
            raise AmbiguousExperimentError(f"the prefix {query!r}", (*found, *errors))
        for error in errors.values():
            raise error
    if unknown is not None:
        close = unknown.close_matches or _meant(manager, query)
        raise ExperimentNotFoundError(query, manager.state_dir, close)
    return found[0]


def _meant(manager: StateManager, query: str) -> tuple[str, ...]:
    """What no id is like may be a misspelt `@last`, or be a process, which only `logs` takes."""
    head, _, index = query.rpartition("/")
    if head and index.isdigit():
        try:
            return (manager.resolve(head),)
        except HoldfastError:
            return ()
    return ("@last",) if query != "@last" and difflib.get_close_matches(query, ["@last"]) else ()


def how_to_remove(manager: StateManager, error: HoldfastError) -> str | None:
    """The command that removes the experiment that *error* says cannot be read.

    None if it is about no experiment: the state directory itself may be what cannot be read.
    """
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
