"""What an attempt is called, and where its files are."""

import contextlib
import os
import stat
from pathlib import Path
from typing import Final, Literal, Self

import attrs

from holdfast.errors import SOMETHING_ELSE, StateReadError, StateWriteError
from holdfast.syncing import sync

__all__ = [
    "AGGREGATE",
    "ATTEMPTS",
    "CHECKPOINTS",
    "LAUNCHER",
    "PARAMS",
    "REPORTS",
    "RESULTS",
    "AttemptName",
    "Suffix",
    "attempts_dir",
    "error_path",
    "file_path",
    "last_aggregation",
    "listed",
    "names",
    "next_aggregation",
    "output_path",
    "prepare",
    "progress_path",
    "reports_dir",
]

#: The folders of what attempts read and write, in the folder of their experiment.
ATTEMPTS: Final = "attempts"
RESULTS: Final = "results"
PARAMS: Final = "params"
CHECKPOINTS: Final = "checkpoints"

#: The unit of the user's own aggregation.
AGGREGATE: Final = "aggregate"

#: What the unit of a launcher begins with; the index of its first rank follows.
LAUNCHER: Final = "launcher-"

#: What the folder of the files that an attempt's ranks write ends with.
REPORTS: Final = "reports"

#: `live` is the shim's lock and identity, `stop` and `kill` are requests to it, `exit` is its
#: word on the end, `out` and `err` are what the command printed.
Suffix = Literal["live", "stop", "kill", "exit", "out", "err"]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _by_number(unit: str) -> tuple[int, int, str]:
    number = unit.removeprefix(LAUNCHER)
    return (1, int(number), unit) if _is_number(number) else (0, 0, unit)


@attrs.frozen(order=True, cache_hash=True)
class AttemptName:
    """What every engine can find an attempt by again. As text, `2.1`: process 2, attempt 1.

    Attributes:
        unit: What is run: the index of a process as text, `launcher-` and the index of its first
            rank, or `AGGREGATE`.
    """

    experiment_id: str
    unit: str = attrs.field(order=_by_number)
    attempt: int

    def __str__(self) -> str:
        return f"{self.unit}.{self.attempt}"

    @property
    def index(self) -> int | None:
        """The process that is run, a launcher's first; None if it is none of the experiment's."""
        return None if self.unit == AGGREGATE else int(self.unit.removeprefix(LAUNCHER))

    @property
    def is_launcher(self) -> bool:
        """Whether it runs several processes, which are its ranks."""
        return self.unit.startswith(LAUNCHER)

    @classmethod
    def of_process(
        cls, experiment_id: str, index: int, attempt: int, *, ranks: int | None = None
    ) -> Self:
        """The name of the attempt that runs process *index*.

        Args:
            ranks: How many processes a launcher starts; None where each has its own command.
        """
        if ranks is None:
            return cls(experiment_id, str(index), attempt)
        return cls(experiment_id, f"{LAUNCHER}{index - index % ranks}", attempt)

    @classmethod
    def parse(cls, experiment_id: str, text: str) -> Self | None:
        """The name that `str()` made *text* of, None if it is none."""
        unit, _, number = text.rpartition(".")
        index = unit.removeprefix(LAUNCHER)
        if not _is_number(number) or (unit != AGGREGATE and not _is_number(index)):
            return None
        if unit != AGGREGATE:
            unit = unit.removesuffix(index) + str(int(index))
        name = cls(experiment_id, unit, int(number))
        return name if str(name) == text else None  # `02.1` is nobody's


def attempts_dir(folder: Path) -> Path:
    """Where the files of all attempts of the experiment in *folder* are."""
    return folder / ATTEMPTS


def file_path(folder: Path, name: AttemptName, suffix: Suffix) -> Path:
    """One file of an attempt, there or not."""
    return folder / f"{ATTEMPTS}/{name}.{suffix}"


def reports_dir(folder: Path, name: AttemptName) -> Path:
    """Where the ranks of an attempt, or its program, say how they fare; there or not."""
    return attempts_dir(folder) / f"{name}.{REPORTS}"


def progress_path(folder: Path, name: AttemptName) -> Path:
    """Where an attempt's program may append how far it is: its `HOLDFAST_PROGRESS`."""
    return attempts_dir(folder) / f"{name}.progress"


def output_path(folder: Path, name: AttemptName) -> Path:
    """What the attempt wrote to its standard output."""
    return file_path(folder, name, "out")


def error_path(folder: Path, name: AttemptName) -> Path:
    """What the attempt wrote to its standard error."""
    return file_path(folder, name, "err")


def prepare(folder: Path) -> None:
    """Make the directory of the attempts, durably.

    Raises:
        StateWriteError: The file system refused, or something else has its name.
    """
    path = attempts_dir(folder)
    try:
        # Looked at first: it is there but for once, and this is done for every attempt.
        try:
            found = path.lstat()
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
            # The parent too: a power cut could take the directory back with every outcome in it.
            fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                sync(fd)
            finally:
                os.close(fd)
            found = path.lstat()
        # Through a link, outcomes and logs would be written to where it leads.
        if not stat.S_ISDIR(found.st_mode):
            raise StateWriteError(
                path, "making it", "something else has its name", advice=SOMETHING_ELSE
            )
    except OSError as err:
        raise StateWriteError.of(path, "making it", err) from err


def names(folder: Path, experiment_id: str, suffix: Suffix = "live") -> list[AttemptName]:
    """Attempts that have a file with *suffix*, ascending.

    Raises:
        StateReadError: They cannot be listed at this moment.
    """
    found = listed(folder)
    ending = f".{suffix}"
    parsed = (
        AttemptName.parse(experiment_id, file[: -len(ending)])
        for file in found
        if file.endswith(ending)
    )
    return sorted(name for name in parsed if name is not None)


def listed(folder: Path) -> list[str]:
    """The names of all files of attempts, in no order; none if there is no directory of them.

    Raises:
        StateReadError: They cannot be listed at this moment.
    """
    path = attempts_dir(folder)
    try:
        return [entry.name for entry in os.scandir(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise StateReadError.of(path, "listing", err) from err


def last_aggregation(folder: Path, experiment_id: str) -> AttemptName | None:
    """The newest attempt of the user's own aggregation that has begun; None if none has.

    Raises:
        StateReadError: They cannot be listed at this moment.
    """
    suffixes: tuple[Suffix, ...] = ("live", "exit")
    found = [name for suffix in suffixes for name in names(folder, experiment_id, suffix)]
    return max((name for name in found if name.index is None), default=None)


def next_aggregation(folder: Path, experiment_id: str) -> AttemptName:
    """The attempt of the user's own aggregation that comes next, or was submitted and not begun.

    No state tells of it: it is numbered by the files of those before it.
    """
    last = last_aggregation(folder, experiment_id)
    return AttemptName(experiment_id, AGGREGATE, 1 if last is None else last.attempt + 1)
