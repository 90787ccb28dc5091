"""The files that processes declare under `[outputs]`: proven as they complete, and from then on.

They lie where the processes put them, below the directory that these run in. holdfast reads them
and makes them durable; it never moves, removes or rewrites one.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

from holdfast import globs
from holdfast.encoding import local, portable
from holdfast.errors import DiskError, ResultInvalidError, StateReadError, StateWriteError, cause
from holdfast.lifecycle.records import ResultRef
from holdfast.provenance.digests import Digests
from holdfast.results.going_on import GoingOn, always, check
from holdfast.store.files import Files

__all__ = ["inspect", "lost", "matching", "take", "unmatched", "verify", "weight"]

#: Reading 16 KiB takes less than making a file durable.
_LIGHTEST: Final = 16 << 10
#: Entries of folders that are looked at in half a millisecond.
_FEW: Final = 256
#: The weight of what has to be searched for among more of them: there may be a million.
_MUCH: Final = 1 << 40

_REFUSED: Final = (errno.EACCES, errno.EPERM)


def take(
    cwd: Path, patterns: Sequence[str], digests: Digests, *, files: Files | None = None
) -> tuple[ResultRef, ...]:
    """What *patterns*, filled in, match below *cwd*, sorted by path, and made durable.

    `*` and `?` match within one name, `**` any number of folders; none of them matches a leading
    dot, and a pattern matches files, not folders. Each has to match at least one.

    Only once this has returned may the process be recorded as completed: from then on the files and
    their names survive a power cut, and their digests give away any change.

    Raises:
        ResultInvalidError: One is missing, unreadable or no regular file: fail the attempt.
        DiskError: The disk could not be read, or made durable: not the attempt's fault.
    """
    found = tuple(_recorded(cwd, path, digests) for path in _found(cwd, patterns))
    _make_durable(cwd, [local(ref.path) for ref in found], files or Files())
    return found


def inspect(cwd: Path, patterns: Sequence[str]) -> None:
    """Raise what `take` would, without reading what may be large, or making it durable."""
    for path in _found(cwd, patterns):
        try:
            with (cwd / path).open("rb"):
                pass
        except OSError as err:
            _refuse_unreadable(cwd, path, StateReadError.of(cwd / path, "reading", err))


def weight(cwd: Path, patterns: Iterable[str]) -> int:
    """How much work `take` is, in bytes that are to be hashed; very many if the search alone is.

    0 for what cannot be told now: `take` says what is wrong with it.
    """
    total, scan = 0, _few(_FEW)
    for pattern in patterns:
        try:
            for path in globs.below(cwd, pattern, scan):
                total += max(_LIGHTEST, (cwd / path).lstat().st_size)
        except _ManyError:
            return _MUCH
        except OSError:
            continue
    return total


def verify(cwd: Path, refs: Iterable[ResultRef], digests: Digests) -> str | None:
    """What is wrong with the first of *refs* that is not as it was recorded, as a clause.

    Raises:
        OSError: The disk could not be read: whether it is lost is not known.
    """
    found = lost(cwd, refs, digests)
    return None if found is None else f"output {found[0].path} {found[1]}"


def lost(
    cwd: Path, refs: Iterable[ResultRef], digests: Digests, going_on: GoingOn = always
) -> tuple[ResultRef, str] | None:
    """The first of *refs* that is missing or altered, and in what way; None if there is none.

    Raises:
        OSError: The disk could not be read, or *cwd* itself is gone: nothing is proven.
        GaveUpError: It was not to go on.
    """
    refs = tuple(refs)
    if refs:
        try:
            cwd.stat()  # a disk that is not mounted has lost nothing
        except ValueError as err:  # nor has a path that there cannot be
            raise OSError(errno.EINVAL, str(err)) from err
    for ref in refs:
        problem = _problem(cwd, ref, digests, going_on)
        if problem is not None:
            return ref, problem
    return None


def unmatched(patterns: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Those of *patterns*, filled in, that match none of the recorded *paths*."""
    names = list(paths)
    return [each for each in patterns if not any(globs.fits(each, path) for path in names)]


def matching(patterns: Sequence[str], refs: Iterable[ResultRef]) -> tuple[ResultRef, ...]:
    """Those of *refs* that *patterns*, filled in, match."""
    return tuple(ref for ref in refs if any(globs.fits(each, ref.path) for each in patterns))


# -- what a pattern matches -----------------------------------------------------------------------


def _found(cwd: Path, patterns: Sequence[str]) -> list[str]:
    """The paths of all that *patterns* match, sorted. Raises as `take`."""
    paths: set[str] = set()
    faults: dict[str, str] = {}
    for pattern in patterns:
        try:
            modes = globs.matched(cwd, pattern, _look)
        except OSError as err:
            if err.errno not in _REFUSED:
                raise StateReadError.of(cwd / pattern, "looking for outputs", err) from err
            faults[pattern] = f"cannot be looked for: {cause(err)}"
            continue
        if not modes:
            faults[pattern] = "matches no file" if globs.is_searched(pattern) else "is missing"
        paths |= modes.keys()
        kinds = ((portable(path), _kind(mode)) for path, mode in modes.items())
        faults |= {path: kind for path, kind in kinds if kind is not None}
    _refuse(cwd, faults)
    return sorted(paths)


def _kind(mode: int) -> str | None:
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISLNK(mode):
        return "is a symbolic link, which is never followed"
    return "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"


class _ManyError(Exception):
    """There is more to look at than was meant to be."""


def _few(most: int) -> globs.Scan:
    """As `globs.entries`, for at most so many in all folders. What that gives raises _ManyError."""
    left = most

    def scan(folder: Path) -> Iterator[os.DirEntry[str]]:
        nonlocal left
        for entry in globs.entries(folder):
            left -= 1
            if left < 0:
                raise _ManyError
            yield entry

    return scan


# -- what is recorded of it -----------------------------------------------------------------------


def _refuse(cwd: Path, faults: dict[str, str]) -> None:
    """Raise ResultInvalidError with all that is wrong: the next attempt may take hours, too."""
    if faults:
        (first, problem), *others = faults.items()
        more = "".join(f"; output {output} {what}" for output, what in others[:3])
        more += f"; and {len(others) - 3:,} more" if len(others) > 3 else ""
        raise ResultInvalidError(cwd / first, problem + more, output=first)


def _recorded(cwd: Path, path: str, digests: Digests) -> ResultRef:
    try:
        found = digests.of(cwd / path)
    except DiskError as err:
        _refuse_unreadable(cwd, path, err)
    assert found.sha256 is not None
    return ResultRef(path=portable(path), size=found.size, sha256=found.sha256)


def _refuse_unreadable(cwd: Path, path: str, err: DiskError) -> NoReturn:
    if err.errno in _REFUSED:
        _refuse(cwd, {portable(path): f"cannot be read: {err.cause}"})
    raise err


def _make_durable(cwd: Path, paths: Iterable[str], files: Files) -> None:
    by_folder: dict[Path, list[str]] = {}
    for path in paths:
        folder = Path(path).parent
        by_folder.setdefault(folder, []).append(Path(path).name)
        for above in folder.parents:  # an attempt may have made these, too
            by_folder.setdefault(above, [])
    # The lowest first: what a name leads to is there before it.
    for folder in sorted(by_folder, key=lambda folder: -len(folder.parts)):
        try:
            with files.directory(cwd / folder) as fd:
                for name in by_folder[folder]:
                    _sync(files, name, fd)
                files.fsync(fd)
        except OSError as err:
            raise StateWriteError.of(cwd / folder, "making outputs durable", err) from err


def _sync(files: Files, name: str, folder: int) -> None:
    fd = files.open_read(name, folder)
    try:
        files.fsync(fd)
    finally:
        files.close(fd)


def _look(path: Path, *, opened: bool = False) -> os.stat_result:
    """What is at *path*, and not what NFS remembers of it: for that, things are opened."""
    files = Files()
    with files.directory(path.parent) as folder:
        info = files.stat(path.name, folder)
        if not opened or not stat.S_ISREG(info.st_mode):
            return info
        fd = files.open_read(path.name, folder)
        try:
            return files.fstat(fd)
        finally:
            files.close(fd)


def _problem(cwd: Path, ref: ResultRef, digests: Digests, going_on: GoingOn) -> str | None:
    path = PurePosixPath(ref.path)
    # References come from files; one that was tampered with must not lead out of the folder.
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return "is recorded under a path outside of its directory"
    try:
        here = cwd / local(ref.path)
        info = _look(here, opened=True)
    except ValueError as err:  # a NUL, a surrogate that stands for no byte
        return f"is recorded under a path that there cannot be: {err}"
    except OSError as err:
        if err.errno in globs.ABSENT:
            return "is missing"
        raise
    if (kind := _kind(info.st_mode)) is not None:
        return kind
    if info.st_size != ref.size:
        return f"was altered: it has {info.st_size:,} bytes, recorded are {ref.size:,}"
    try:
        found = digests.of(here, between=lambda: check(going_on))
    except DiskError as err:
        if err.errno == errno.ENOENT:
            return "is missing"
        raise OSError(err.errno or errno.EIO, err.cause) from err
    if found.sha256 != ref.sha256:
        return "was altered: its SHA-256 is not the recorded one"
    return None
