"""What the ranks of an attempt, or its program, say of themselves: evidence, never an outcome.

Everyone writes files of its own, `<index>.<incarnation>.<suffix>` in the folder of their attempt:
`holdfast.worker` and `holdfast rank` do, this reads. Whatever else is there harms nobody.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from holdfast.attempts.names import AttemptName, file_path, reports_dir
from holdfast.errors import StateReadError

__all__ = [
    "TORCHELASTIC",
    "Report",
    "newest_files",
    "newest_of_all",
    "output_of",
    "reported",
    "torchelastic_error",
]

#: Where a launcher of torch's leaves why its first rank failed.
TORCHELASTIC: Final = "torchelastic.json"

#: `<restart>-<pid>-<start>-<host>`: no two runs of a rank write to the same file.
_FILE: Final = re.compile(r"([0-9]{1,9})\.(([0-9]{1,9})-[A-Za-z0-9_-]{1,200})\.([a-z]{1,10})")

_MOST_BYTES: Final = 64 * 1024
_MOST_CHARACTERS: Final = 1_000


@attrs.frozen(kw_only=True)
class Report:
    """What is known of one rank from the newest of its incarnations.

    Attributes:
        index: The process that it is.
        incarnation: Tells it from the same rank before a restart within the attempt.
        begun: Whether its program said that it began, and so says how it ends.
        wrapped: Whether `holdfast rank` runs it, and so outlives whatever ends its command alone.
        said: What its program said at its end; None if it did not come to that.
        error: What went wrong, in its own words.
        why: Why it stopped by itself.
        saved: Whether it had saved a checkpoint when it did.
        asked: The signal that asked it to stop, whether it heeded it or not.
        exit_code: How its command ended under `holdfast rank`; None if it did not end so.
        signal: The signal that ended it there.
    """

    index: int
    incarnation: str
    begun: bool = False
    wrapped: bool = False
    said: Literal["completed", "stopped", "error"] | None = None
    error: str | None = None
    why: str | None = None
    saved: bool = False
    asked: int | None = None
    exit_code: int | None = None
    signal: int | None = None

    @property
    def completed(self) -> bool:
        """Whether it proves that the rank did all that it had to do."""
        if self.said is not None:
            return self.said == "completed"
        return self.exit_code == 0 and self.asked is None

    @property
    def stopped(self) -> bool:
        """Whether it ended in order before it was done: its exit code 0 proves nothing."""
        if self.said is not None:
            return self.said == "stopped"
        return self.asked is not None and self.exit_code in (0, None)

    @property
    def unsaid(self) -> str | None:
        """What is to be said of one that began and never said how it ended; None if it did.

        Where its launcher failed, too, that is no news. One that exits with 0 may be a shell that
        waits for its ranks and looks at none of their exit codes.
        """
        if self._ended or not self.begun:
            return None
        return "it began and never said how it ended, as if killed; its launcher exited with 0"

    @property
    def cut_off(self) -> bool:
        """Whether `holdfast rank` itself was killed, as launchers do in a hurry with the others
        when one has failed: whatever its command did, it would have been said.
        """
        return self.wrapped and not self._ended

    @property
    def _ended(self) -> bool:
        return self.said is not None or self.exit_code is not None or self.signal is not None

    @property
    def failure(self) -> str | None:
        """What went wrong with it, as the end of a sentence; None if nothing is known to have."""
        if self.error is not None:
            return self.error
        if self.completed or self.stopped:
            return None
        if self.signal is not None:
            return f"killed by signal {self.signal}"
        return None if self.exit_code is None else f"exit code {self.exit_code}"


def reported(folder: Path, name: AttemptName) -> dict[int, Report]:
    """What every rank that reports has said, by its index.

    Raises:
        StateReadError: They cannot be listed at this moment.
    """
    path = reports_dir(folder, name)
    return {
        index: _report(path, index, _by_age(path, index, incarnations))
        for index, incarnations in _incarnations(path).items()
    }


def _incarnations(path: Path, only: int | None = None) -> dict[int, dict[str, set[str]]]:
    """The suffixes of the files of each incarnation, by the index of its process."""
    try:
        found = [entry.name for entry in os.scandir(path)]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as err:
        raise StateReadError.of(path, "listing", err) from err
    kinds: dict[int, dict[str, set[str]]] = {}
    for file in found:
        match = _FILE.fullmatch(file)
        if match is not None and only in (None, int(match[1])):
            incarnations = kinds.setdefault(int(match[1]), {})
            incarnations.setdefault(match[2], set()).add(match[4])
    return kinds


def _by_age(path: Path, index: int, incarnations: Iterable[str]) -> list[str]:
    """The incarnations of a rank, the newest first.

    One of which nothing can be read is somebody's garbage, and older than all that said anything.
    """

    def age(incarnation: str) -> tuple[bool, int, float]:
        restart = int(incarnation.partition("-")[0])
        begun = _read(path / f"{index}.{incarnation}.begun")
        real = begun or any(
            _read(path / f"{index}.{incarnation}.{suffix}") for suffix in ("said", "exit")
        )
        return bool(real), restart, _at(begun)

    found = list(incarnations)
    return found if len(found) == 1 else sorted(found, key=age, reverse=True)


def _at(plain: Mapping[str, Any]) -> float:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return datetime.fromisoformat(str(plain.get("at"))).timestamp()
    return 0.0


def _report(path: Path, index: int, incarnations: Sequence[str]) -> Report:
    incarnation = incarnations[0]
    stem = f"{index}.{incarnation}"
    said, ended = _read(path / f"{stem}.said"), _read(path / f"{stem}.exit")
    for other in incarnations[1:]:
        # `holdfast rank -- sh -c "python …"`: its end is that of the program within, if it came
        # after that had begun.
        wrapper = _read(path / f"{index}.{other}.exit")
        if not ended and wrapper and _at(wrapper) >= _at(_read(path / f"{stem}.begun")):
            ended = wrapper
    kind: Literal["completed", "stopped", "error"] | None = None
    error = said.get("error")
    if isinstance(error, dict):
        kind = "error"
    elif said.get("stopped") is True:
        kind = "stopped"
    elif said.get("completed") is True:
        kind = "completed"
    return Report(
        index=index,
        incarnation=incarnation,
        begun=_number(_read(path / f"{stem}.begun").get("pid")) is not None,
        wrapped=(path / f"{stem}.out").exists(),
        said=kind,
        error=_error(error) if isinstance(error, dict) else _unstarted(ended),
        why=_text(said.get("why")),
        saved=said.get("saved") is True,
        asked=_number(said.get("signal")) or _number(ended.get("asked")),
        exit_code=_number(ended.get("exit_code")),
        signal=_number(ended.get("signal")),
    )


def _error(plain: Mapping[str, Any]) -> str:
    kind, message = _text(plain.get("type")), _text(plain.get("message"))
    return ": ".join(filter(None, (kind, message))) or "an error without a name"


def _unstarted(ended: Mapping[str, Any]) -> str | None:
    """Why the command of a rank could not be started."""
    return None if _number(ended.get("exit_code")) is None else _text(ended.get("error"))


def _text(value: Any) -> str | None:
    return value[:_MOST_CHARACTERS] if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 31 else None


def _read(path: Path) -> Mapping[str, Any]:
    """What a report says; nothing if it is not there, not whole, or not one."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        # A FIFO or a link put here by somebody must neither block nor lead elsewhere.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                plain = json.loads(os.read(fd, _MOST_BYTES))
                return plain if isinstance(plain, dict) else {}
        finally:
            os.close(fd)
    return {}


def newest_files(folder: Path, name: AttemptName, index: int, suffix: str) -> list[Path]:
    """The newest file with *suffix* of process *index* in the attempt: one, or none."""
    return list(newest_of_all(folder, name, suffix, only=index).values())


def newest_of_all(
    folder: Path, name: AttemptName, suffix: str, *, only: int | None = None
) -> dict[int, Path]:
    """The newest file with *suffix* of every process in the attempt that has one, by its index."""
    path = reports_dir(folder, name)
    found: dict[int, Path] = {}
    with contextlib.suppress(StateReadError):
        for index, incarnations in _incarnations(path, only).items():
            for each in _by_age(path, index, incarnations):
                if suffix in incarnations[each]:
                    found.setdefault(index, path / f"{index}.{each}.{suffix}")
    return found


def output_of(
    folder: Path, name: AttemptName, index: int | None, kind: Literal["out", "err"]
) -> Path:
    """What process *index* wrote in attempt *name*: into a file of its own, or of its launcher."""
    own: list[Path] = []
    if name.is_launcher and index is not None:
        own = newest_files(folder, name, index, kind)
    return own[0] if own else file_path(folder, name, kind)


def said_last(folder: Path, name: AttemptName, index: int | None) -> Path | None:
    """Where process *index* said its last words: on stderr, on stdout where that is empty.

    None if it said nothing. What is no file, or cannot be looked at, is for its reader to name.
    """
    kinds: tuple[Literal["err", "out"], ...] = ("err", "out")
    for kind in kinds:
        path = output_of(folder, name, index, kind)
        try:
            info = path.lstat()
        except FileNotFoundError:
            continue
        except OSError:
            return path
        if info.st_size or not stat.S_ISREG(info.st_mode):
            return path
    return None


def torchelastic_error(folder: Path, name: AttemptName) -> str | None:
    """Why the first rank failed, where torch's launcher has left it; else None.

    See torch.distributed.elastic.multiprocessing.errors, *ErrorHandler*.
    """
    said = _read(reports_dir(folder, name) / TORCHELASTIC).get("message")
    if isinstance(said, dict):
        said = said.get("message")
    words = _text(said)
    return None if words is None else words.strip().partition("\n")[0]
