"""What processes that died left behind, known by the exact names that only holdfast makes.

A user's own `.tmp-notes` or `.2.1.json.tmp` is not ours to judge, however old it is.
"""

import contextlib
import re
import stat
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Final

from holdfast.attempts import looking
from holdfast.doctor.findings import Finding, Site
from holdfast.errors import HoldfastError
from holdfast.store import deletion, journal, ownership, stored
from holdfast.store.files import Files

__all__ = ["SHIMS", "TEMPORARY", "at_the_top", "folder", "temporaries"]

TEMPORARY: Final = re.compile(r"\.tmp-[0-9a-f]{16}")
#: Of shims, in `attempts/`.
SHIMS: Final = re.compile(r"\.[0-9a-f]{16}\.tmp")


def at_the_top(site: Site) -> Iterator[Finding]:
    """Trash of interrupted deletes, and temporaries of views."""
    for name in sorted(site.files.names(site.dir_fd)):
        if deletion.TRASH.fullmatch(name) and _is(stat.S_ISDIR, site.files, name, site.dir_fd):
            if site.fix:
                deletion.sweep(site.files, site.dir_fd)
            what = "of an experiment whose delete was interrupted"
            yield _leftover(site, site.state_dir / name, what, name, site.dir_fd)
    yield from _removed(site, TEMPORARY, site.dir_fd, site.state_dir)


def temporaries(site: Site, stem: str, folder_fd: int, closed: Container[str]) -> Iterator[Finding]:
    """Temporaries of claimants and shims, which only the living can still be writing.

    `results/` has none: what is hidden there is of the user's own programs.

    Args:
        closed: The directories that may not be looked into.
    """
    if ownership.lock_state(site.files, stem, site.dir_fd) == "held":
        return
    path = site.state_dir / stem
    yield from _removed(site, TEMPORARY, folder_fd, path)
    for below, form in (("journal", TEMPORARY), ("attempts", SHIMS)):
        if below in closed:
            continue
        # A shim keeps the space of its exit record reserved as long as its command runs.
        if below == "attempts" and next(looking.survivors(path, stem), None) is not None:
            continue
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            site.files.directory(below, folder_fd) as fd,
        ):
            yield from _removed(site, form, fd, path / below)


def folder(site: Site, stem: str) -> Iterator[Finding]:
    """A folder without view and state: its delete was decided and not finished, or what not."""
    if not _is(stat.S_ISDIR, site.files, stem, site.dir_fd):
        return
    decided = False
    with contextlib.suppress(HoldfastError, OSError):
        decided = _is_deleted(site, stem)
    if not decided:
        yield Finding(
            kind="leftover",
            severity="hint",
            path=site.state_dir / stem,
            what="neither a view nor a valid journal",
            repair="bring its view back from a backup, or remove the folder",
        )
        return
    if site.fix:
        with contextlib.suppress(HoldfastError, OSError):
            deletion.finish_interrupted(site.files, stem, site.dir_fd, site.state_dir)
    what = "its delete was interrupted"
    yield _leftover(site, site.state_dir / stem, what, stem, site.dir_fd)


def _is_deleted(site: Site, stem: str) -> bool:
    folder_fd = stored.open_folder(site.files, stem, site.dir_fd)
    if folder_fd is None:
        return False
    try:
        truth = journal.read_truth(site.files, folder_fd, site.state_dir / stem)
    finally:
        site.files.close(folder_fd)
    return truth is not None and truth.deleted


def _removed(site: Site, form: re.Pattern[str], dir_fd: int, directory: Path) -> Iterator[Finding]:
    """The temporaries of this form in *directory* that nobody can be writing any more."""
    for name in sorted(site.files.names(dir_fd)):
        if form.fullmatch(name) and _old(site, name, dir_fd):
            if site.fix:
                with contextlib.suppress(OSError):
                    site.files.unlink(name, dir_fd)
            what = "temporary file of a writer that died"
            yield _leftover(site, directory / name, what, name, dir_fd)


def _old(site: Site, name: str, dir_fd: int) -> bool:
    if site.oldest is None:
        return False
    try:
        info = site.files.stat(name, dir_fd)
    except OSError:
        return False  # gone: it was somebody's after all
    return stat.S_ISREG(info.st_mode) and info.st_mtime < site.oldest


def _is(kind: Callable[[int], bool], files: Files, name: str, dir_fd: int) -> bool:
    try:
        return kind(files.stat(name, dir_fd).st_mode)
    except OSError:
        return False


def _leftover(site: Site, path: Path, what: str, name: str, dir_fd: int) -> Finding:
    fixed = False
    if site.fix:
        try:
            site.files.stat(name, dir_fd)
        except FileNotFoundError:
            fixed = True
    return Finding(
        kind="leftover",
        severity="hint",
        path=path,
        what=what,
        repair="remove it",
        fixable=True,
        fixed=fixed,
    )
