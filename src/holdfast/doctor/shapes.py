"""Whether everything in the place of one of our files is of its kind, and what lies there besides.

A link, a FIFO or a directory under one of our names makes the commands that need the file fail.
Regular files and directories of the user's own are welcome, except among the records of code, where
one could pass for evidence; nothing here is ever touched.
"""

import contextlib
import errno
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from holdfast.attempts.names import ATTEMPTS, CHECKPOINTS, PARAMS, RESULTS
from holdfast.doctor.findings import Finding, hint, kind_of, problem, to_read
from holdfast.doctor.leftovers import SHIMS, TEMPORARY
from holdfast.engines.tasks import WAVES
from holdfast.errors import cause
from holdfast.provenance import code
from holdfast.store import annotations, deletion, requests
from holdfast.store.place import JOURNALS, LOCK, Opened, Place

__all__ = ["at_the_top", "closed", "in_folder"]

_NO_DIRECTORY: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_FILE: Final = frozenset({stat.S_IFREG})
_DIRECTORY: Final = frozenset({stat.S_IFDIR})
_Forms = tuple[tuple[re.Pattern[str], frozenset[int]], ...]

_TOP: Final[_Forms] = (
    (re.compile(r"\.run\.lock"), _FILE),
    (re.compile(rf"\.index|\.digests|{re.escape(annotations.FOLDER)}"), _DIRECTORY),
    (TEMPORARY, _FILE),
    (deletion.TRASH, _DIRECTORY),
)
_ANNOTATIONS: Final[_Forms] = (
    (re.compile(re.escape(annotations.LOCK_NAME)), _FILE),
    (re.compile(r"[^.].*\.json"), _FILE),
    (TEMPORARY, _FILE),
)
#: `{directory: its names}`, the experiment's own folder first.
_FOLDER: Final[dict[str, _Forms]] = {
    ".": (
        (re.compile(rf"{LOCK}|shown|aggregate\.json|view-replaced-[0-9a-f]{{8}}"), _FILE),
        (
            re.compile(rf"{JOURNALS}|{ATTEMPTS}|{RESULTS}|{PARAMS}|{WAVES}|{code.FOLDER}"),
            _DIRECTORY,
        ),
        (re.compile(r"aggregation\.[0-9]+"), _DIRECTORY),
        (requests.NAME, _FILE),
        (re.compile(r"detached\.[0-9]+\.log"), _FILE),
        # The user's: it may well lead to a larger disk.
        (re.compile(CHECKPOINTS), _DIRECTORY | {stat.S_IFLNK}),
        (TEMPORARY, _FILE),
    ),
    JOURNALS: ((re.compile(r"[0-9]+\.jsonl"), _FILE), (TEMPORARY, _FILE)),
    ATTEMPTS: (
        (re.compile(r"([0-9]+|aggregate)\.[0-9]+\.(live|stop|kill|warn|exit|out|err)"), _FILE),
        (SHIMS, _FILE),
    ),
    WAVES: (
        (re.compile(r"w[0-9a-f]{12}\.(tasks|submitted|[0-9]+\.node)|token(\.[0-9]+)?"), _FILE),
        (TEMPORARY, _FILE),
    ),
    PARAMS: ((re.compile(r"[0-9]+\.json"), _FILE),),
    RESULTS: ((re.compile(r"([0-9]+|aggregate)\.[0-9]+\.json"), _FILE),),
    code.FOLDER: ((re.compile(r"[0-9a-f]{32}\.json"), _FILE), (TEMPORARY, _FILE)),
}


def closed(place: Place) -> dict[str, Finding]:
    """The directories of an experiment that may not be looked into, by name, `.` for its folder."""
    found: dict[str, Finding] = {}
    try:
        with place.top.open_dir(place.stem) as folder:
            for below in (JOURNALS, ATTEMPTS, WAVES, RESULTS, code.FOLDER):
                try:
                    with folder.open_dir(below) as directory:
                        # What can be listed need not be entered.
                        place.files.stat(".", directory.fd)
                except OSError as err:
                    if err.errno not in _NO_DIRECTORY:
                        found[below] = _closed(folder.path / below, err)
    except OSError as err:
        if err.errno not in _NO_DIRECTORY:
            found["."] = _closed(place.folder, err)
    return found


def _closed(path: Path, err: OSError) -> Finding:
    return problem("unreadable", path, f"cannot be looked into: {cause(err)}", to_read(err))


def at_the_top(top: Opened) -> Iterator[Finding]:
    """What lies beside the experiments. Views and their folders are looked at one by one."""
    names = set(top.names())
    for finding in _strange(top, _TOP):
        name = finding.path.name
        elsewhere = name.endswith(".json") or Place(top, name).view_name in names
        if name.startswith(".") or not elsewhere:
            yield finding
    with contextlib.suppress(OSError), top.open_dir(annotations.FOLDER) as folder:
        yield from _strange(folder, _ANNOTATIONS)


def in_folder(place: Place) -> Iterator[Finding]:
    """What lies in the folder of an experiment, itself first; `checkpoints/` is not looked into."""
    try:
        mode = place.files.stat(place.stem, place.dir_fd).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        if place.view_name in place.top.names():
            yield _in_our_place(place.folder, mode)
        return  # without a view it was seen beside the experiments
    with place.top.open_dir(place.stem) as folder:
        for below, forms in _FOLDER.items():
            try:
                with folder.open_dir(below) as directory:
                    yield from _strange(directory, forms, alone=below == code.FOLDER)
            except OSError:
                continue  # none there, or named already


def _strange(directory: Opened, forms: _Forms, *, alone: bool = False) -> Iterator[Finding]:
    """What is not of its kind, or of no kind of ours; if we are *alone* there, any other name."""
    with directory.files.scan(directory.fd) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        allowed = next((kinds for form, kinds in forms if form.fullmatch(entry.name)), None)
        fine = (_FILE,) if alone else (None, _FILE)
        if entry.is_file(follow_symlinks=False) and allowed in fine:
            continue  # without a stat: there may be 100,000 of them
        try:
            mode = directory.files.stat(entry.name, directory.fd).st_mode
        except FileNotFoundError:
            continue
        if allowed is not None and stat.S_IFMT(mode) not in allowed:
            yield _in_our_place(directory.path / entry.name, mode)
        elif allowed is None and (alone or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))):
            what = f"is {kind_of(mode)}; holdfast makes none" + " of that name here" * alone
            repair = "never followed, read or removed: move it away if nobody needs it"
            yield hint("foreign", directory.path / entry.name, what, repair)


def _in_our_place(path: Path, mode: int) -> Finding:
    what = f"is {kind_of(mode)}, and has the name of something that holdfast makes"
    return problem("foreign", path, what, "move it away; it is never followed, read or replaced")
