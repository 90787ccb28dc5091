"""The state directory itself: made durably, opened with clear errors, locked for one run."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from holdfast.errors import (
    ExperimentNotFoundError,
    StateCorruptError,
    StateReadError,
    StateWriteError,
    cause,
)
from holdfast.ids import sanitize_experiment_id
from holdfast.store.files import Files
from holdfast.store.place import Opened, Place
from holdfast.store.uninterrupted import whole

__all__ = ["StateDirectory"]


class StateDirectory:
    """One directory of experiments. Nothing is kept open between calls."""

    def __init__(self, files: Files, path: Path) -> None:
        """Look after *path*, which need not be there yet."""
        self._files = files
        self._path = path

    @contextlib.contextmanager
    def run_lock(self, wait_s: float) -> Iterator[None]:
        """Hold `.run.lock`; as `StateManager.run_lock`, which says what for."""
        from holdfast.store import locking

        self.make()
        path = self._path / ".run.lock"
        with contextlib.ExitStack() as opened:
            try:
                lock = self._open_run_lock(path.name, opened)
                deadline = time.monotonic() + wait_s
                while locking.try_lock(lock) is False:
                    if time.monotonic() > deadline:
                        raise StateWriteError(
                            path,
                            "locking",
                            f"another run held it for more than {wait_s:.0f} s",
                            advice="wait for it",
                        )
                    locking.pause()
            except OSError as err:
                raise StateWriteError.of(path, "locking", err) from err
            yield

    @whole
    def _open_run_lock(self, name: str, opened: contextlib.ExitStack) -> Opened:
        from holdfast.store import locking

        with self.writable() as top:
            return opened.enter_context(locking.open_shared_lock(top, name))

    @contextlib.contextmanager
    def writable(self) -> Iterator[Opened]:
        """The directory, open, which is there. Raises StateReadError."""
        try:
            top = Opened.at(self._files, self._path)
        except OSError as err:
            raise StateReadError.of(self._path, "opening", err) from err
        with top:
            yield top

    def look(self) -> Opened | None:
        """The directory, open; None if there is none yet."""
        try:
            return Opened.at(self._files, self._path)
        except FileNotFoundError:
            return None
        except OSError as err:
            raise StateCorruptError(self._path, f"cannot be opened: {cause(err)}") from err

    @contextlib.contextmanager
    def existing(self, experiment_id: str) -> Iterator[Place]:
        """The place of *experiment_id* in the directory, to look whether it is there.

        Raises:
            InvalidIdError: That can be no id.
            ExperimentNotFoundError: There is not even a directory.
            StateCorruptError: The directory, or what is read in it, refuses to be read.
        """
        stem = sanitize_experiment_id(experiment_id)  # what can be no id is not merely absent
        top = self.look()
        if top is None:
            raise ExperimentNotFoundError(experiment_id, self._path)
        with top:
            try:
                yield Place(top, stem)
            except OSError as err:
                path = self._path / stem
                raise StateCorruptError(path, f"cannot be read: {cause(err)}") from err

    @whole
    def make(self) -> None:
        """Have the directory there for good, with all its parents. Raises StateWriteError."""
        wanted = [self._path, *self._path.parents]
        try:
            there = next(each for each in wanted if each.is_dir())
            # A directory is only there for good once its parent says so on the disk. Also the one
            # that is there already: who made it may have been killed before it came to that.
            with contextlib.suppress(PermissionError):
                self._sync(there.parent)
            for path in reversed(wanted[: wanted.index(there)]):
                with contextlib.suppress(FileExistsError):
                    self._files.mkdir(str(path))
                self._sync(path.parent)
        except OSError as err:
            raise StateWriteError.of(self._path, "making the directory", err) from err

    def _sync(self, directory: Path) -> None:
        with self._files.directory(directory) as fd:
            self._files.fsync(fd)
