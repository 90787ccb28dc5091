"""Whether everything in the place of one of our files is of its kind, and what lies there besides.

A link, a FIFO or a directory under one of our names makes the commands that need the file fail.
Regular files and directories of the user's own are welcome; nothing here is ever touched.
"""

import errno
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from holdfast.doctor.findings import Finding, Site, kind_of, problem, to_read
from holdfast.doctor.leftovers import SHIMS, TEMPORARY
from holdfast.store import deletion, view
from holdfast.store.journal import cause

__all__ = ["at_the_top", "closed", "in_folder"]

_NO_DIRECTORY: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_FILE: Final = frozenset({stat.S_IFREG})
_DIRECTORY: Final = frozenset({stat.S_IFDIR})
_Forms = tuple[tuple[re.Pattern[str], frozenset[int]], ...]

_TOP: Final[_Forms] = (
    (re.compile(r"\.run\.lock"), _FILE),
    (re.compile(r"\.index"), _DIRECTORY),
    (TEMPORARY, _FILE),
    (deletion.TRASH, _DIRECTORY),
)
#: `{directory: its names}`, the experiment's own folder first.
_FOLDER: Final[dict[str, _Forms]] = {
    ".": (
        (re.compile(r"lock|aggregate\.json|view-replaced-[0-9a-f]{8}"), _FILE),
        (re.compile(r"journal|attempts|results|aggregation\.[0-9]+"), _DIRECTORY),
        # The user's: it may well lead to a larger disk.
        (re.compile(r"checkpoints"), _DIRECTORY | {stat.S_IFLNK}),
        (TEMPORARY, _FILE),
    ),
    "journal": ((re.compile(r"[0-9]+\.jsonl"), _FILE), (TEMPORARY, _FILE)),
    "attempts": (
        (re.compile(r"([0-9]+|aggregate)\.[0-9]+\.(live|exit|out|err)"), _FILE),
        (SHIMS, _FILE),
    ),
    "results": ((re.compile(r"([0-9]+|aggregate)\.[0-9]+\.json"), _FILE),),
}


def closed(site: Site, stem: str) -> dict[str, Finding]:
    """The directories of an experiment that may not be looked into, by name, `.` for its folder."""
    found: dict[str, Finding] = {}
    path = site.state_dir / stem
    try:
        with site.files.directory(stem, site.dir_fd) as folder_fd:
            for below in ("journal", "attempts", "results"):
                try:
                    with site.files.directory(below, folder_fd) as fd:
                        site.files.stat(".", fd)  # what can be listed need not be entered
                except OSError as err:
                    if err.errno not in _NO_DIRECTORY:
                        found[below] = _closed(path / below, err)
    except OSError as err:
        if err.errno not in _NO_DIRECTORY:
            found["."] = _closed(path, err)
    return found


def _closed(path: Path, err: OSError) -> Finding:
    return problem("unreadable", path, f"cannot be looked into: {cause(err)}", to_read(err))


def at_the_top(site: Site) -> Iterator[Finding]:
    """What lies beside the experiments. Views and their folders are looked at one by one."""
    names = set(site.files.names(site.dir_fd))
    for finding in _strange(site, site.dir_fd, site.state_dir, _TOP):
        name = finding.path.name
        if name.startswith(".") or not (name.endswith(".json") or view.file_name(name) in names):
            yield finding


def in_folder(site: Site, stem: str) -> Iterator[Finding]:
    """What lies in the folder of an experiment, itself first; `checkpoints/` is not looked into."""
    path = site.state_dir / stem
    try:
        mode = site.files.stat(stem, site.dir_fd).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        if view.file_name(stem) in site.files.names(site.dir_fd):
            yield _in_our_place(path, mode)
        return  # without a view it was seen beside the experiments
    with site.files.directory(stem, site.dir_fd) as folder_fd:
        for below, forms in _FOLDER.items():
            try:
                with site.files.directory(below, folder_fd) as fd:
                    yield from _strange(site, fd, path / below, forms)
            except OSError:
                continue  # none there, or named already


def _strange(site: Site, dir_fd: int, path: Path, forms: _Forms) -> Iterator[Finding]:
    with site.files.scan(dir_fd) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        allowed = next((kinds for form, kinds in forms if form.fullmatch(entry.name)), None)
        if entry.is_file(follow_symlinks=False) and allowed in (None, _FILE):
            continue  # without a stat: there may be 100,000 of them
        try:
            mode = site.files.stat(entry.name, dir_fd).st_mode
        except FileNotFoundError:
            continue
        if allowed is not None and stat.S_IFMT(mode) not in allowed:
            yield _in_our_place(path / entry.name, mode)
        elif allowed is None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            yield Finding(
                kind="foreign",
                severity="hint",
                path=path / entry.name,
                what=f"is {kind_of(mode)}; holdfast makes none",
                repair="never followed, read or removed: move it away if nobody needs it",
            )


def _in_our_place(path: Path, mode: int) -> Finding:
    what = f"is {kind_of(mode)}, and has the name of something that holdfast makes"
    return problem("foreign", path, what, "move it away; it is never followed, read or replaced")
