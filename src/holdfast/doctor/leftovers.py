"""What processes that died left behind, known by the exact names that only holdfast makes.

A user's own `.tmp-notes` or `.2.1.json.tmp` is not ours to judge, however old it is.
"""

import contextlib
import re
import stat
from collections.abc import Callable, Container, Iterator
from typing import Final

import attrs

from holdfast.attempts.names import ATTEMPTS
from holdfast.doctor.findings import Finding, Site, hint
from holdfast.errors import HoldfastError
from holdfast.provenance import code
from holdfast.store import annotations, deletion, journal, locking
from holdfast.store.place import JOURNALS, Opened, Place

__all__ = ["SHIMS", "TEMPORARY", "at_the_top", "folder", "temporaries"]

TEMPORARY: Final = re.compile(r"\.tmp-[0-9a-f]{16}")
#: Of shims, in `attempts/`.
SHIMS: Final = re.compile(r"\.[0-9a-f]{16}\.tmp")


def at_the_top(site: Site) -> Iterator[Finding]:
    """Trash of interrupted deletes, and temporaries of views."""
    for name in sorted(site.top.names()):
        if deletion.TRASH.fullmatch(name) and _is(stat.S_ISDIR, site.top, name):
            if site.fix:
                deletion.sweep(site.top)
            yield _leftover(site, site.top, name, "of an experiment whose delete was interrupted")
    yield from _removed(site, TEMPORARY, site.top)
    with contextlib.suppress(OSError), site.top.open_dir(annotations.FOLDER) as folder:
        yield from _removed(site, TEMPORARY, folder)


def temporaries(
    site: Site, place: Place, folder: Opened, closed: Container[str], *, alive: bool
) -> Iterator[Finding]:
    """Temporaries of claimants and shims, which only the living can still be writing.

    `results/` has none: what is hidden there is of the user's own programs.

    Args:
        closed: The directories that may not be looked into.
        alive: Whether an attempt is alive, or may be.
    """
    if locking.lock_state(place) == "held":
        return
    yield from _removed(site, TEMPORARY, folder)
    for below, form in ((JOURNALS, TEMPORARY), (code.FOLDER, TEMPORARY), (ATTEMPTS, SHIMS)):
        if below in closed:
            continue
        # A shim keeps the space of its exit record reserved as long as its command runs.
        if below == ATTEMPTS and alive:
            continue
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            folder.open_dir(below) as directory,
        ):
            yield from _removed(site, form, directory)


def folder(site: Site, place: Place) -> Iterator[Finding]:
    """A folder without view and state: its delete was decided and not finished, or what not."""
    if not _is(stat.S_ISDIR, place.top, place.stem):
        return
    decided = False
    with contextlib.suppress(HoldfastError, OSError):
        decided = _is_deleted(place)
    if not decided:
        repair = "bring its view back from a backup, or remove the folder"
        yield hint("leftover", place.folder, "neither a view nor a valid journal", repair)
        return
    if site.fix:
        with contextlib.suppress(HoldfastError, OSError):
            deletion.finish_interrupted(place)
    yield _leftover(site, place.top, place.stem, "its delete was interrupted")


def _is_deleted(place: Place) -> bool:
    folder = place.open_folder()
    if folder is None:
        return False
    with folder:
        truth = journal.read_truth(folder)
    return truth is not None and truth.deleted


def _removed(site: Site, form: re.Pattern[str], directory: Opened) -> Iterator[Finding]:
    """The temporaries of this form in *directory* that nobody can be writing any more."""
    for name in sorted(directory.names()):
        if form.fullmatch(name) and _old(site, directory, name):
            if site.fix:
                with contextlib.suppress(OSError):
                    site.files.unlink(name, directory.fd)
            yield _leftover(site, directory, name, "temporary file of a writer that died")


def _old(site: Site, directory: Opened, name: str) -> bool:
    if site.oldest is None:
        return False
    try:
        info = site.files.stat(name, directory.fd)
    except OSError:
        return False  # gone: it was somebody's after all
    return stat.S_ISREG(info.st_mode) and info.st_mtime < site.oldest


def _is(kind: Callable[[int], bool], directory: Opened, name: str) -> bool:
    try:
        return kind(directory.files.stat(name, directory.fd).st_mode)
    except OSError:
        return False


def _leftover(site: Site, directory: Opened, name: str, what: str) -> Finding:
    fixed = False
    if site.fix:
        try:
            site.files.stat(name, directory.fd)
        except FileNotFoundError:
            fixed = True
    found = hint("leftover", directory.path / name, what, "remove it")
    return attrs.evolve(found, fixable=True, fixed=fixed)
