"""The result of a process that another experiment has done: a file of our own, verified as made.

It is `results/<index>.0.json`: attempts are counted from 1. What becomes of the ancestor afterwards
changes nothing here, unless hard links were asked for.
"""

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.names import RESULTS
from holdfast.errors import StateReadError, StateWriteError
from holdfast.lifecycle.records import ResultRef
from holdfast.results import acceptance
from holdfast.store.files import Files

__all__ = ["path_of", "settle", "take"]

#: From here on sharing blocks saves more than a copy costs.
_LARGE: Final = 1 << 20

_READ_ONLY: Final = 0o444


def path_of(index: int) -> str:
    """Where the reused result of process *index* is, relative to its experiment's folder."""
    return f"{RESULTS}/{index}.0.json"


def take(
    folder: Path,
    index: int,
    ancestor: Path,
    ref: ResultRef,
    *,
    link: bool = False,
    fence: Callable[[], None] = lambda: None,
    files: Files | None = None,
) -> ResultRef:
    """Give process *index* of the experiment in *folder* the result *ref* of the one in *ancestor*.

    What was left there by a reuse that was cut short is replaced. It is durable after `settle`.

    Args:
        link: Whether the ancestor's file may get a second name instead of being copied.
        fence: Raises if the experiment has a newer owner, whose file must not be replaced.

    Raises:
        ResultInvalidError: The ancestor's is missing or altered; nothing was made.
        StateReadError: It could not be read.
        StateWriteError: The file system refused.
    """
    files = files or Files()
    own = attrs.evolve(ref, path=path_of(index))
    try:
        data = acceptance.verified(ancestor, ref, files=files)
    except OSError as err:
        raise StateReadError.of(ancestor / ref.path, "reading", err) from err
    path = folder / own.path
    try:
        with _results(ancestor, files) as there, _results(folder, files) as here:
            name = Path(ref.path).name
            _clear(files, path.name, here, fence)
            shares = link and _link(files, name, there, path.name, here)
            if not shares and len(data) >= _LARGE:
                shares = _share(files, name, there, path.name, here, len(data), fence)
            # What shares was not copied from what was verified.
            if shares and acceptance.verify(folder, own, files=files) is not None:
                fence()
                files.unlink(path.name, here)
                shares = False
            if not shares:
                _write(files, path.name, here, data)
    except OSError as err:
        raise StateWriteError.of(path, "copying a result that is reused", err) from err
    return own


def settle(folder: Path, taken: Iterable[ResultRef], *, files: Files | None = None) -> None:
    """Make the results that were *taken* durable, all together: that is several times as fast.

    Only once this has returned may their processes be recorded as completed.

    Raises:
        StateWriteError: The file system refused.
    """
    files = files or Files()
    try:
        with _results(folder, files) as here:
            for ref in taken:
                with _opened(files, files.open_read(Path(ref.path).name, here)) as fd:
                    files.fsync(fd)
            files.fsync(here)
    except OSError as err:
        raise StateWriteError.of(folder / RESULTS, "making results durable", err) from err


@contextlib.contextmanager
def _results(folder: Path, files: Files) -> Iterator[int]:
    with files.directory(folder) as parent, files.directory(RESULTS, parent) as results:
        yield results


def _clear(files: Files, name: str, here: int, fence: Callable[[], None]) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.stat(name, here)
        fence()
        files.unlink(name, here)


def _link(files: Files, source: str, there: int, name: str, here: int) -> bool:
    """Give the ancestor's file a second name; False where that cannot be."""
    try:
        files.link(source, name, here, source_fd=there)
    except OSError as err:
        return _elsewise(err)
    return True


def _share(
    files: Files,
    source: str,
    there: int,
    name: str,
    here: int,
    size: int,
    fence: Callable[[], None],
) -> bool:
    """A copy that shares the blocks of the ancestor's file, if the file system can do that."""
    with (
        _opened(files, files.open_read(source, there)) as original,
        _opened(files, files.open_new(name, here, _READ_ONLY)) as fd,
    ):
        try:
            left = size
            while left > 0 and (done := files.copy_range(original, fd, left)):
                left -= done
            return True
        except OSError as err:
            _elsewise(err)
    fence()
    files.unlink(name, here)
    return False


def _elsewise(err: OSError) -> bool:
    """False where a plain copy may do what was refused. Raises *err* where none would."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        raise err
    return False


def _write(files: Files, name: str, here: int, data: bytes) -> None:
    with _opened(files, files.open_new(name, here, _READ_ONLY)) as fd:
        files.write_all(fd, data)


@contextlib.contextmanager
def _opened(files: Files, fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        files.close(fd)
