"""Where an experiment is drilled: laid out as it was before every life, and what shows a change."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from holdfast.config.experiment_file import Experiment
from holdfast.drill import copying
from holdfast.drill.copying import Survey
from holdfast.drill.eyes import IGNORED
from holdfast.drill.looks import line_counts
from holdfast.store.place import STATE_DIR

__all__ = ["Folders"]

#: Bytes of files that are kept to be compared with.
_SMALL: Final = 256 << 20


@attrs.define(kw_only=True)
class Folders:
    """The experiment's folder, or copies of it.

    Attributes:
        experiment: What is drilled.
        room: A folder of our own.
        survey: What the experiment's folder contains; None to run in that folder itself.
        check: Raises if the drill is to end.
    """

    experiment: Experiment
    room: Path
    survey: Survey | None
    check: Callable[[], None] = lambda: None
    _lives: int = 0
    _original: Survey | None = None
    _made: copying.Made = attrs.field(factory=dict)

    @property
    def home(self) -> Path:
        """Where the experiment lies when it runs; in one place always, so that paths are equal."""
        if self.survey is None:
            return self.experiment.cwd
        return self.room / "copy" / (self.experiment.cwd.name or "root")

    @property
    def log(self) -> Path:
        """What the runs of this life say."""
        return self.room / f"life-{self._lives}.log"

    @property
    def state_dir(self) -> Path:
        """Where the state of this life goes."""
        if self.survey is None:
            return self.room / f"state-{self._lives}"
        return self.home / STATE_DIR

    def prepare(self) -> None:
        """Copy the folder, once: it may change while the drill runs.

        Raises:
            StateReadError, StateWriteError: The disk refused.
        """
        if self.survey is not None:
            copying.copy(self.survey, self.room / "original", self.check)
            self._original = copying.survey(self.room / "original")

    def lay_out(self) -> None:
        """Begin a new life: everything as it was.

        Raises:
            StateReadError, StateWriteError: The disk refused.
        """
        self._lives += 1
        if self._original is None:
            return
        if self.home.exists():
            copying.undo(self._original, self.home, self._made)
        self._made = copying.copy(self._original, self.home, self.check)

    def keep(self, name: str, size: int = 0) -> None:
        """Put the copy as it is now aside, as *name*, if its *size* allows that."""
        if self._original is not None and size < _SMALL:
            self.home.rename(self.room / name)

    def drop(self, name: str) -> None:
        """Remove what was put aside."""
        shutil.rmtree(self.room / name, ignore_errors=True)

    def lines(self) -> dict[str, int] | None:
        """How many lines there are in each file by now; None in a copy, which begins anew."""
        if self._original is not None:
            return None
        return line_counts(self.home, self.state_dir, self.elsewhere)

    @property
    def elsewhere(self) -> tuple[Path, ...]:
        """What else is compared: in place, it may write to whatever it names."""
        if self.survey is not None:
            return ()
        paths = copying.named(self.experiment)
        return tuple(path for path in paths if path.exists() and not copying.is_everybodys(path))

    @property
    def known(self) -> dict[str, tuple[int, int]]:
        """Size and time of what was copied, by path."""
        if self._original is None:
            return {}
        signs = self._original.signs.items()
        return {path: (each[1], each[2]) for path, each in signs if each[1:]}

    def outside(self) -> Mapping[str, tuple[int, ...]]:
        """What gives away that a run in the copy has changed something outside of it, by path."""
        if self.survey is None:
            return {}
        found: dict[str, tuple[int, ...]] = {}
        original = self.survey.folder
        for path, signs in copying.survey(original, self.survey.apart).signs.items():
            # An editor, or a prompt, looks at the repository and thereby changes it.
            if IGNORED.isdisjoint(path.split("/")):
                found[str(original / path)] = signs
        for each in copying.shared(self.experiment, self.survey):
            info = each.stat()
            found[str(each)] = (info.st_mtime_ns, info.st_size)
        return found
