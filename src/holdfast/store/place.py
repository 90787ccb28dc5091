"""Where an experiment lies: its names, its paths, and the descriptors that lead to it.

Names, opens and looks, and changes nothing: what changes or syncs something stands, in its order,
in the protocol's own lines, which the crash laboratory leaves out one by one.
"""

import errno
import os
import weakref
from pathlib import Path
from typing import Final, NamedTuple, Self

import attrs

from holdfast.ids import sanitize_experiment_id
from holdfast.store.files import Files
from holdfast.store.uninterrupted import whole

__all__ = ["JOURNALS", "LOCK", "STATE_DIR", "Opened", "Place"]

#: Where experiments live unless somebody says otherwise.
STATE_DIR: Final = Path(".experiment_state")

#: What a folder holds: the lock of its owner, and the directory of its journals.
LOCK: Final = "lock"
JOURNALS: Final = "journal"

#: No descriptor. Not -1, which `os.listdir` takes for the working directory.
_CLOSED: Final = -2


# An exception out of a signal handler can strike between a file's opening and the `with` that
# closes it. Such a descriptor is closed at the next opening. Not by `__del__`, in which Ctrl-C
# would be swallowed, but by a list that the interpreter appends to without a line of Python.
_open: Final[dict["weakref.ref[Opened]", tuple[Files, int]]] = {}
_dropped: Final[list["weakref.ref[Opened]"]] = []


def _close_dropped() -> None:
    while _dropped:
        left = _open.pop(_dropped.pop(), None)
        if left is not None:
            files, fd = left
            files.close(fd)


@attrs.define(eq=False)
class Opened:
    """A file or directory that is open, until `close` or the end of a `with`.

    Attributes:
        path: For messages only: whatever is done goes through *fd*, even if the path leads
            elsewhere by now.
        fd: None that there can be once it is closed, so that no late call meets another file
            under the same number.
    """

    files: Files
    path: Path
    fd: int
    _me: "weakref.ref[Opened] | None" = attrs.field(init=False, repr=False, default=None)
    _identity: os.stat_result | None = attrs.field(init=False, repr=False, default=None)

    def __attrs_post_init__(self) -> None:
        if _dropped:
            _close_dropped()
        self._me = weakref.ref(self, _dropped.append)
        _open[self._me] = self.files, self.fd

    @classmethod
    @whole
    def at(cls, files: Files, path: Path) -> Self:
        """Open the directory *path*. Raises OSError."""
        return cls(files, path, files.open_dir(path))

    @whole
    def open_dir(self, name: str) -> "Opened":
        """Open the directory *name* in this one. Raises OSError."""
        fd = self.files.open_dir(name, self.fd)
        return Opened(self.files, self.path / name, fd)

    @whole
    def open_read(self, name: str) -> "Opened":
        """Open the file *name* in this directory for reading. Raises OSError."""
        fd = self.files.open_read(name, self.fd)
        return Opened(self.files, self.path / name, fd)

    @property
    def closed(self) -> bool:
        """Whether its descriptor was given back."""
        return self.fd == _CLOSED

    @whole
    def duplicate(self) -> "Opened":
        """The same once more, to be closed on its own. Raises OSError."""
        return Opened(self.files, self.path, os.dup(self.fd))

    def is_same(self, other: os.stat_result) -> bool:
        """Whether *other* is of this very file. Raises OSError."""
        # Asked once: what is open stays what it is.
        if self._identity is None:
            self._identity = self.files.fstat(self.fd)
        return os.path.samestat(self._identity, other)

    def names(self) -> list[str]:
        """What is in this directory, in no order. Raises OSError."""
        return self.files.names(self.fd)

    @whole
    def close(self) -> None:
        """Give the descriptor back; repeating it is fine."""
        fd, self.fd = self.fd, _CLOSED
        if self._me is not None:
            _open.pop(self._me, None)
            self._me = None
        if fd != _CLOSED:
            self.files.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Place(NamedTuple):
    """Where one experiment lies in an open state directory, be it there or not.

    Attributes:
        top: The state directory.
        stem: The name of the experiment's folder and, before `.json`, of its view.
    """

    top: Opened
    stem: str

    @classmethod
    def of(cls, top: Opened, experiment_id: str) -> Self:
        """The place of the experiment in *top*. Raises InvalidIdError."""
        return cls(top, sanitize_experiment_id(experiment_id))

    @property
    def files(self) -> Files:
        """The door to the file system."""
        return self.top.files

    @property
    def dir_fd(self) -> int:
        """The descriptor of the state directory."""
        return self.top.fd

    @property
    def state_dir(self) -> Path:
        """The path of the state directory."""
        return self.top.path

    @property
    def folder(self) -> Path:
        """The path of the experiment's folder."""
        return self.top.path / self.stem

    @property
    def view_name(self) -> str:
        """The name of the view in the state directory."""
        return f"{self.stem}.json"

    @property
    def view_path(self) -> Path:
        """The path of the view."""
        return self.top.path / self.view_name

    def open_folder(self) -> Opened | None:
        """The experiment's folder; None if there is none. Raises OSError."""
        try:
            return self.top.open_dir(self.stem)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise

    def is_at(self, folder: Opened) -> bool:
        """Whether *folder* is still the experiment's: a delete moves it away. Raises OSError."""
        try:
            return folder.is_same(self.files.stat(self.stem, self.dir_fd))
        except FileNotFoundError:
            return False
