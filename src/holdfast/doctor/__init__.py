"""`holdfast doctor`: everything in a state directory looked at, and mended where nothing is lost.

Asks the declared machines about every recorded step, compares every view with its journals and
every result and output with what was recorded of it, tells of ancestors that were edited since
their results were reused, names what cannot be read and what was left over, and examines the file
system. Repairs go through the store's own protocol (a claim rewrites a view, an
interrupted delete is finished); an unreadable file is never touched.
"""

import contextlib
import errno
import itertools
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from holdfast.doctor import (
    absence,
    asking,
    leftovers,
    legality,
    living,
    provenance,
    results,
    saying,
    shapes,
    views,
    volume,
)
from holdfast.doctor.findings import Finding, Kind, Site, hint, problem, readable, to_read
from holdfast.errors import HoldfastError, SchemaTooNewError, StateCorruptError, cause
from holdfast.lifecycle.records import ExperimentState
from holdfast.store.catalog import scanning
from holdfast.store.files import Files
from holdfast.store.journal import NO_DIRECTORY
from holdfast.store.owners import is_owned
from holdfast.store.place import JOURNALS, LOCK, Opened, Place

__all__ = ["Finding", "Kind", "examine"]

#: No write of a temporary file takes this long; a younger one may be somebody's at this moment.
MARGIN_S: Final = 3600.0


def examine(
    state_dir: Path | str,
    *,
    fix: bool = False,
    margin_s: float = MARGIN_S,
    files: Files | None = None,
) -> list[Finding]:
    """Everything that is wrong below *state_dir*; empty if all is well or nothing is there.

    Args:
        state_dir: Need not exist.
        fix: Repair what can be repaired without losing anything.
        margin_s: How old, in seconds, a temporary file has to be to count as left over.
        files: The operating system.

    Raises:
        StateCorruptError: The directory itself cannot be opened.
    """
    files = files or Files()
    return list(_findings(Path(state_dir), files, fix=fix, margin_s=margin_s))


def _findings(state_dir: Path, files: Files, *, fix: bool, margin_s: float) -> Iterator[Finding]:
    try:
        top = Opened.at(files, state_dir)
    except FileNotFoundError:
        return
    except OSError as err:
        raise StateCorruptError(state_dir, f"cannot be opened: {cause(err)}") from err
    with top:
        try:
            for symptom in volume.examine(files, state_dir):
                kind = problem if symptom.certain else hint
                yield kind(symptom.kind, state_dir, symptom.what, symptom.repair)
        except OSError as err:
            what = f"nothing can be written here: {cause(err)}"
            yield problem("durability", state_dir, what, _to_write(err))
        oldest = None
        with contextlib.suppress(OSError):
            # By the clock of the file server: by ours, a fresh file could look hours old.
            oldest = volume.server_time(top) - margin_s
        site = Site(top=top, fix=fix, oldest=oldest)
        yield from leftovers.at_the_top(site)
        named = set()
        for finding in itertools.chain(shapes.at_the_top(top), saying.examine(site)):
            if finding.path not in named:
                yield finding
            named.add(finding.path)
        for stem in _stems(top):
            yield from _experiment(site, Place(top, stem))


def _to_write(err: OSError) -> str:
    """What to do where nothing can be written."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room, or have the quota raised: what runs waits for it"
    if err.errno == errno.EROFS:
        return "have it mounted writable: until then nothing can be run or mended here"
    if isinstance(err, PermissionError):
        return "ask its owner for permission to write: until then nothing can be run or mended here"
    return "look at the disk, and in the kernel's log: until then nothing can be run or mended here"


def _stems(top: Opened) -> list[str]:
    found = set(scanning.stems(top))
    for name in top.names():
        # A folder with neither view nor journal is no experiment, but may have been one.
        if not name.startswith(".") and name not in found and not name.endswith(".json"):
            with contextlib.suppress(OSError):
                top.files.stat(f"{name}/{LOCK}", top.fd)
                found.add(name)
    return sorted(found)


def _experiment(site: Site, place: Place) -> Iterator[Finding]:
    """Everything about one experiment; whatever cannot be looked at keeps no other from it."""
    named: set[Path] = set()
    try:
        for finding in itertools.chain(_content(site, place), shapes.in_folder(place)):
            # What is wrong with a file is said once, by who knows most about it.
            if finding.path not in named or finding.kind == "illegal":
                yield finding
            named.add(finding.path)
    except FileNotFoundError:
        return  # deleted while it was looked at
    except OSError as err:
        path = place.folder
        if path not in named:
            yield problem("unreadable", path, f"cannot be looked at: {cause(err)}", to_read(err))


def _content(site: Site, place: Place) -> Iterator[Finding]:
    closed = shapes.closed(place)
    yield from closed.values()
    if closed.keys() & {".", JOURNALS}:
        return
    entry = scanning.read_entry(place)
    if entry is None:
        yield from leftovers.folder(site, place)
        return
    if entry.error is not None:
        what = _damage(site.top, entry.error, entry.path)
        yield problem("unreadable", entry.path, what, _to_do(entry.error))
    folder = place.open_folder()
    illegal: list[Finding] = []
    if folder is not None:
        with folder:
            for finding in _journals(site.top, folder, entry.state):
                illegal += [finding] * (finding.kind == "illegal")
                yield finding
            # Before and after: what an owner stops at this moment, or takes over, is seen to.
            owned = entry.state is not None and is_owned(place, entry.state)
            alive = living.found(place, folder, closed)
            yield from leftovers.temporaries(site, place, folder, closed, alive=alive != [])
            yield from asking.examine(folder)
        if alive and entry.state is not None:
            owned = owned or is_owned(place, entry.state)
            yield from living.examine(place.folder, entry.state, alive, owned=owned)
    if entry.state is not None:
        if entry.state.epoch:
            missing = list(absence.examine(place))
            yield from missing or views.examine(site, place, entry.state, trusted=not illegal)
        yield from results.examine(site, place, entry.state, closed)
        yield from provenance.examine(site, place, entry.state, closed)


def _damage(top: Opened, error: HoldfastError, path: Path) -> str:
    """What is wrong with the file *path*, in words for whoever is to look at it."""
    with contextlib.suppress(OSError, ValueError):
        info = top.files.stat(str(path.relative_to(top.path)), top.fd)
        if stat.S_ISREG(info.st_mode) and info.st_size == 0:
            return "is empty"  # what of it could not be understood is a riddle then
    return readable(error)


def _to_do(error: HoldfastError) -> str:
    if isinstance(error, SchemaTooNewError):
        return "left as it is: the holdfast that wrote it can read it"
    if isinstance(error, StateCorruptError) and error.problem == NO_DIRECTORY:
        return "put the directory itself in its place, or bring it back from a backup"
    if isinstance(error.__cause__, OSError):
        return to_read(error.__cause__)
    return "left as it is: only you can tell what is in it, or bring it back from a backup"


def _journals(top: Opened, folder: Opened, state: ExperimentState | None) -> Iterator[Finding]:
    history = () if state is None else ("show", "--history", state.experiment_id)
    try:
        for violation in legality.violations(folder):
            repair = "bring it back from a backup, or start over; trust no step since; to see them"
            yield problem("illegal", violation.path, violation.what, repair, *history)
    except HoldfastError as err:
        where = getattr(err, "path", folder.path)
        repair = "the state is read without it, the history is not: bring it back from a backup"
        what = _damage(top, err, where)
        yield problem("unreadable", where, what, _to_do(err) if state is None else repair)
