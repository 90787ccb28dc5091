"""The view: `<id>.json`, whole and valid at any moment, for people and `jq`; made from the truth.

It is the truth only until the first claim, when there is no journal yet.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from holdfast.errors import (
    ExperimentExistsError,
    SchemaTooNewError,
    StateCorruptError,
    StateWriteError,
    cause,
)
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import decoding, encoding, strictjson
from holdfast.store.place import Opened, Place

__all__ = [
    "Refresher",
    "create",
    "is_file",
    "put",
    "read",
    "replace",
    "temporary_name",
    "write_new",
]

#: 100,000 processes with all their fields are about 50 MB.
SIZE_LIMIT: Final = 512 << 20
_AGE_S: Final = 1.0
#: A view of 100,000 processes takes a second to write: that is to be a tenth of the time at most.
_PAUSES: Final = 10.0
_OLDEST_S: Final = 60.0


def temporary_name() -> str:
    """A random name, so that no two writers and no leftover share one; never a view's."""
    return f".tmp-{os.urandom(8).hex()}"


def read(place: Place) -> ExperimentState | None:
    """The state in the view; None if there is no such file.

    Raises:
        StateCorruptError: Not a regular file, too large, or no valid state.
        SchemaTooNewError: Written by a newer holdfast.
    """
    files, path = place.files, place.view_path
    try:
        fd = files.open_read(path.name, place.dir_fd)
    except OSError as err:
        if err.errno == errno.ENOENT:
            return None
        if err.errno == errno.ELOOP:
            raise StateCorruptError(path, "is a symbolic link, which is never followed") from err
        if err.errno in (errno.ENXIO, errno.EACCES, errno.EPERM, errno.EIO):
            raise StateCorruptError(path, f"cannot be opened: {cause(err)}") from err
        raise
    try:
        data = files.read_whole(fd, SIZE_LIMIT)
    except OSError as err:
        raise StateCorruptError(path, f"cannot be read: {cause(err)}") from err
    except ValueError as err:
        raise StateCorruptError(path, str(err)) from err
    finally:
        files.close(fd)
    return _untried(data, path) or _state(data, path)


def _state(data: bytes, path: Path) -> ExperimentState:
    try:
        plain = strictjson.loads(data)
    except ValueError as err:
        raise StateCorruptError(path, f"is not valid JSON: {err}") from err
    return decoding.state_from_json(plain, path)


#: How the processes of a view begin and end, as we write them, where the first was never tried.
_BEGIN: Final = b'\n  "process_progress": {\n    "0": {"status":"pending"}'
_END: Final = b"\n  },\n"


def _untried(data: bytes, path: Path) -> ExperimentState | None:
    """The state in *data* if none of its processes was ever tried, in a fifth of the time; or None.

    Every experiment is claimed so. What is read without the processes is believed only if it would
    be written as these very bytes.
    """
    begin = data.find(_BEGIN)
    end = data.find(_END, begin)
    if begin < 0 or end < 0:
        return None
    with contextlib.suppress(StateCorruptError, SchemaTooNewError):
        rest = data[:begin] + b'\n  "process_progress": {},\n' + data[end + len(_END) :]
        state = _state(rest, path)
        if encoding.view(state) == data:
            return state
    return None


def write_new(directory: Opened, name: str, data: bytes) -> None:
    """Make a file *name* with *data* on the disk, all of it or none; its name is not durable yet.

    Raises:
        OSError: It cannot be made, or is there.
    """
    files = directory.files
    fd = files.open_append(name, directory.fd, exclusive=True)
    try:
        files.write_all(fd, data)
        files.fsync(fd)
    except BaseException:
        # Half of it on a full disk would be taken for the whole.
        with contextlib.suppress(OSError):
            files.unlink(name, directory.fd)
        raise
    finally:
        files.close(fd)


def _temporary(top: Opened, data: bytes) -> str:
    name = temporary_name()
    write_new(top, name, data)
    return name


def put(directory: Opened, name: str, data: bytes) -> None:
    """Make *data* the whole content of the file *name*; durable once it returns.

    Raises:
        OSError: What was there is there, or *data* whole.
    """
    files = directory.files
    temporary = _temporary(directory, data)
    try:
        files.rename(temporary, name, directory.fd)
    except BaseException:
        with contextlib.suppress(OSError):
            files.unlink(temporary, directory.fd)
        raise
    # The directory too: after a power cut the rename can be lost although the file itself survived.
    files.fsync(directory.fd)


def replace(place: Place, state: ExperimentState) -> None:
    """Make *state* the whole content of the view; durable once it returns. Raises OSError."""
    put(place.top, place.view_name, encoding.view(state))


def create(place: Place, state: ExperimentState) -> os.stat_result:
    """Make the view of a new experiment, which only one of any number of callers can.

    Returns:
        What tells it from every other file.

    Raises:
        ExperimentExistsError: The name is taken.
        StateWriteError: The file system refused.
    """
    files, dir_fd, path = place.files, place.dir_fd, place.view_path
    with contextlib.suppress(OSError):
        # The link below decides; this only spares a taken name the writing.
        files.stat(path.name, dir_fd)
        raise ExperimentExistsError(state.experiment_id, place.state_dir)
    try:
        name = _temporary(place.top, encoding.view(state))
    except OSError as err:
        raise StateWriteError.of(path, "writing", err) from err
    stored = "old"
    try:
        made = files.stat(name, dir_fd)
        try:
            files.link(name, path.name, dir_fd)
        except FileExistsError:
            # On NFS the answer to a link that succeeded can be lost and the link be tried again.
            if not is_file(place, made):
                raise ExperimentExistsError(state.experiment_id, place.state_dir) from None
        stored = "unknown"
        files.unlink(name, dir_fd)
        files.fsync(dir_fd)
    except OSError as err:
        with contextlib.suppress(OSError):
            files.unlink(name, dir_fd)
        raise StateWriteError.of(path, "creating", err, stored=stored) from err
    except ExperimentExistsError:
        with contextlib.suppress(OSError):
            files.unlink(name, dir_fd)
        raise
    return made


def is_file(place: Place, known: os.stat_result) -> bool:
    """Whether the view is the file that was *known*."""
    try:
        return os.path.samestat(place.files.stat(place.view_name, place.dir_fd), known)
    except FileNotFoundError:
        return False


class Refresher:
    """Keeps the view of an owned experiment at the latest a second behind its journal; ten times as
    long as it takes to write, if that is more.

    Attributes:
        problem: Why the last refresh failed; None if it did not.
    """

    def __init__(
        self,
        place: Place,
        is_newest: Callable[[], bool],
        now: Callable[[], datetime],
        written: int | None,
    ) -> None:
        """Start from a view of the revision *written*, None if nobody knows its revision."""
        self._place = place
        self._is_newest = is_newest
        self._now = now
        self._at = now()
        self._age_s = _AGE_S
        self._revision = written
        self.problem: OSError | None = None

    def is_old(self) -> bool:
        """Whether the last refresh is long enough ago."""
        age = (self._now() - self._at).total_seconds()
        # A clock that was set back must not silence the view for hours.
        return not 0 <= age < self._age_s

    def lacks(self, state: ExperimentState) -> bool:
        """Whether the view is of another revision than *state*."""
        return self._revision != state.revision

    def refresh(self, state: ExperimentState, *, final: bool = False) -> None:
        """Write *state*, unless the view has its revision and more is to come; never raises."""
        if not final and not self.lacks(state):
            return
        self._at = self._now()
        try:
            # Without locks a newer owner may write the view by now, or a forced delete have taken
            # it away: an old one would bring back what is gone.
            if not self._is_newest():
                return
            replace(self._place, state)
        except OSError as err:
            # The journal is the truth: a full disk must not stop what can still be recorded.
            self.problem = err
        else:
            self._revision, self.problem = state.revision, None
        finally:
            took_s = (self._now() - self._at).total_seconds()
            self._age_s = max(_AGE_S, min(_PAUSES * took_s, _OLDEST_S))
