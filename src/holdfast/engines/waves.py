"""Waves: what an engine is given at once, on shared storage before it is submitted.

By a wave's file a node finds what it is to run, and whoever comes after a crash finds the jobs of
this experiment again: they carry its name and the experiment's token. `tasks` owns the layout.
"""

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.names import AttemptName, prepare
from holdfast.attempts.records import Attempt
from holdfast.attempts.tokens import made_here
from holdfast.engines import tasks as files
from holdfast.engines.local.jobs import job_of
from holdfast.errors import SOMETHING_ELSE, StateReadError, StateWriteError

__all__ = ["Wave", "node_of", "record", "token", "waves", "write"]

_MOST_WAVES: Final = 1_000_000
_MOST_TOKENS: Final = 1000


@attrs.frozen(kw_only=True)
class Wave:
    """Attempts that are submitted at once, as tasks, each of which one node runs.

    Attributes:
        name: `w` and twelve hexadecimal digits, random.
        folder: The experiment's folder.
        engine: Whose it is.
        token: Of the folder in which it was made; in a copy of that, another's.
        tasks: The attempts of each.
        submitted: What the engine knew once it was submitted; None if nobody recorded that.
    """

    name: str
    folder: Path = attrs.field(converter=Path)
    engine: str
    token: str
    made_at: datetime
    tasks: tuple[tuple[AttemptName, ...], ...]
    submitted: Mapping[str, Any] | None = None


def write(
    folder: Path,
    *,
    engine: str,
    token: str,
    tasks: Sequence[Sequence[Attempt]],
    made_at: datetime,
) -> Wave:
    """Write down what is about to be submitted; it is on the disk once this returns.

    What each attempt needs but the interpreter and the host comes from here, so that the node asks
    nobody. Slots cannot be handed over: their locks are this host's.

    Args:
        tasks: The attempts of each task, all of one experiment.

    Raises:
        StateWriteError: The file system refused.
        ValueError: Attempts of several experiments, or with slots; or none at all.
    """
    attempts = [attempt for task in tasks for attempt in task]
    experiments = {attempt.name.experiment_id for attempt in attempts}
    if len(experiments) != 1 or not all(tasks):
        raise ValueError("the tasks of a wave are attempts of one experiment")
    if any(attempt.slots for attempt in attempts):
        raise ValueError("slots are this host's and cannot be held elsewhere")
    wave = Wave(
        name=f"w{os.urandom(6).hex()}",
        folder=folder,
        engine=engine,
        token=token,
        made_at=made_at,
        tasks=tuple(tuple(attempt.name for attempt in task) for task in tasks),
    )
    about = {
        "engine": engine,
        "token": token,
        "experiment": experiments.pop(),
        "made_at": made_at.astimezone(UTC).isoformat(),
    }
    content = files.encode(about, [[job_of(attempt) for attempt in task] for task in tasks])
    prepare(folder)
    _publish(folder, files.tasks_file(wave.name), content)
    return wave


def record(folder: Path, wave: str, data: Mapping[str, Any]) -> bool:
    """Say what became of submitting *wave*, durably; the first word counts.

    Args:
        data: JSON: the engine's own job id and so on.

    Returns:
        False if it was said before.

    Raises:
        StateWriteError: The file system refused.
    """
    content = json.dumps(dict(data)).encode("ascii")
    return _publish(folder, f"{wave}.submitted", content)


def waves(folder: Path) -> list[Wave]:
    """The waves of an experiment, oldest first, those of the folder that it is a copy of included.

    What is no file of a wave is passed over.

    Raises:
        StateReadError: They cannot be read at this moment, which says nothing of what runs.
    """
    path = folder / files.WAVES
    try:
        with _opened(folder) as directory:
            if directory is None:
                return []
            names = [name for name in os.listdir(directory) if name.endswith(".tasks")]
            found = [_wave(folder, directory, name[:-6]) for name in names[:_MOST_WAVES]]
    except OSError as err:
        raise StateReadError.of(path, "reading", err) from err
    return sorted(filter(None, found), key=lambda wave: (wave.made_at, wave.name))


def _wave(folder: Path, directory: int, name: str) -> Wave | None:
    try:
        fd = files.open_tasks(directory, name)
    except (files.BadWaveError, FileNotFoundError):
        return None
    try:
        header, start = files.read_header(fd)
        experiment = header["experiment"]
        made_at = datetime.fromisoformat(header["made_at"]).astimezone(UTC)
        tasks = tuple(
            tuple(_name(experiment, text) for text in texts)
            for texts in files.read_names(fd, header, start)
        )
    except (files.BadWaveError, ValueError, OverflowError):
        return None
    finally:
        os.close(fd)
    return Wave(
        name=name,
        folder=folder,
        engine=header["engine"],
        token=header["token"],
        made_at=made_at,
        tasks=tasks,
        submitted=files.read_small(directory, f"{name}.submitted"),
    )


def _name(experiment_id: str, text: str) -> AttemptName:
    name = AttemptName.parse(experiment_id, text)
    if name is None:
        raise ValueError(f"{text} is no name of an attempt")
    return name


def node_of(folder: Path, wave: str, task: int) -> Mapping[str, Any] | None:
    """Which node has begun with a task: `host`, `boot_id`, `pid`, `started_at`; None if none has.

    Raises:
        StateReadError: It cannot be read at this moment.
    """
    name = files.node_file(wave, task)
    try:
        with _opened(folder) as directory:
            return None if directory is None else files.read_small(directory, name)
    except OSError as err:
        raise StateReadError.of(folder / files.WAVES / name, "reading", err) from err


def token(folder: Path) -> str:
    """Twelve characters that tell the jobs of this folder from those of every other.

    Made once, by whoever comes first. It names the folder and the file that it is in: a copy has
    copied another's, and gets its own beside it.

    Raises:
        StateReadError: It cannot be read at this moment.
        StateWriteError: It cannot be made.
    """
    inode = _inode(folder)
    made = base64.b32encode(os.urandom(8)).decode("ascii")[:12].lower()
    for number in range(_MOST_TOKENS):
        name = f"token.{number}" if number else "token"
        # Twice: whoever is overtaken while making it takes what the other has made.
        for _ in range(2):
            found = _token(folder, name, inode)
            if found is not None:
                return found
            if not _publish(folder, name, lambda own: _signed(made, inode, own)):
                continue
            return made
    raise StateWriteError(
        folder / files.WAVES / "token", "making it", "too many are there", advice=SOMETHING_ELSE
    )


def _signed(made: str, folder: int, own: int) -> bytes:
    return json.dumps({"token": made, "folder": folder, "inode": own}).encode("ascii")


def _token(folder: Path, name: str, inode: int) -> str | None:
    """What the file *name* says, if it was made in this folder."""
    try:
        with _opened(folder) as directory:
            if directory is None:
                return None
            said = files.read_small(directory, name)
            own = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino if said else None
    except FileNotFoundError:
        return None
    except OSError as err:
        raise StateReadError.of(folder / files.WAVES / name, "reading", err) from err
    found = made_here(said, inode, own)
    return found if found is not None and files.is_token(found) else None


def _inode(folder: Path) -> int:
    try:
        return os.stat(folder).st_ino
    except OSError as err:
        raise StateReadError.of(folder, "looking at it", err) from err


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """A descriptor of the directory of waves; None if there is none."""
    try:
        directory = files.open_waves(os.fspath(folder))
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        yield directory
    finally:
        os.close(directory)


def _publish(folder: Path, name: str, content: bytes | Callable[[int], bytes]) -> bool:
    path = folder / files.WAVES
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            # The parent too: a power cut could take the directory back, with all that is in it.
            fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.sync_folder(fd)
            finally:
                os.close(fd)
        directory = files.open_waves(os.fspath(folder))
        try:
            return files.publish(directory, name, content)
        finally:
            os.close(directory)
    except OSError as err:
        raise StateWriteError.of(path / name, "linking", err) from err
