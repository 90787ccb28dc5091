"""Asks the controller for all experiments of a user at once, and as seldom as will do.

Whoever finds the last answer old asks and leaves the next one in a file that all orchestrators of
the user read. How often is limited for all of them together, whatever happens to their jobs.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.engines.slurm import parsing
from holdfast.engines.slurm.batch import Marks, marks
from holdfast.engines.slurm.client import SLURM, Client
from holdfast.engines.slurm.parsing import Job
from holdfast.errors import EngineError

__all__ = ["Answer", "Asking", "place"]

_SHORTEST_S: Final = 2.0
_GROWS: Final = 1.5
_LONGEST_S: Final = 60.0
#: Questions in store, and how long each takes to come back: at most 90 in an hour, each a `ping`
#: and a `squeue`.
_MOST_QUESTIONS: Final = 30.0
_QUESTION_EVERY_S: Final = 60.0
#: By which the clocks of two hosts of one user may differ.
_SKEW_S: Final = 60.0
#: After which nobody can still be asking who was to ask.
_OVERDUE_S: Final = 2 * _LONGEST_S
_MOST_BYTES: Final = 1 << 28
#: Seconds since 1970 that no clock shows.
_NO_TIME: Final = float(1 << 36)


@attrs.frozen(kw_only=True)
class Answer:
    """What the controller said last.

    Attributes:
        asked_at: When it was asked, seconds since 1970; what was submitted later is not in it.
        problem: Why it has not answered since; empty if it has.
        jobs: Ours, by their marks.
        since: When *problem* began.
    """

    asked_at: float = float("-inf")
    problem: str = ""
    since: float = float("-inf")
    jobs: Mapping[Marks, tuple[Job, ...]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class _Shared:
    """What the file says."""

    asked_at: float
    tried_at: float
    pause_s: float
    questions: float
    problem: str
    since: float
    lines: str

    def left(self, now: float) -> float:
        """How many questions there are by now."""
        passed_s = max(now - self.tried_at, 0.0)
        return min(self.questions + passed_s / _QUESTION_EVERY_S, _MOST_QUESTIONS)


_NEVER: Final = _Shared(
    asked_at=float("-inf"), tried_at=float("-inf"), pause_s=0.0, questions=_MOST_QUESTIONS,
    problem="", since=float("-inf"), lines="",
)  # fmt: skip


class Asking:
    """The answer that all orchestrators of a user share.

    Args:
        client: Asks.
        directory: Where the answer is; None to keep it to ourselves.
        clock: Seconds since 1970.

    Attributes:
        answer: The last one; another object where anything has changed.
    """

    def __init__(self, client: Client, directory: Path | None, clock: Callable[[], float]) -> None:
        self._client = client
        self._directory = directory
        self._clock = clock
        self._shared = _NEVER
        self._seen: tuple[int, int, int] | None = None
        self._wanted_at = float("-inf")
        self.answer = Answer()

    def hurry(self) -> None:
        """Something has happened of which the last answer cannot know."""
        self._wanted_at = self._clock()

    def due_in_s(self) -> float:
        """How long the answer holds."""
        now, shared = self._clock(), self._shared
        if shared.tried_at > now + _SKEW_S:
            return 0.0  # of a clock that has been set back
        pause_s = shared.pause_s
        if self._wanted_at >= shared.asked_at:
            pause_s = min(pause_s, _SHORTEST_S)
        short_s = (1.0 - shared.left(now)) * _QUESTION_EVERY_S
        return max(shared.tried_at + pause_s - now, short_s, 0.0)

    def refresh(self) -> bool:
        """Read what others have asked, ask if it is time to; whether there is another answer."""
        before = self.answer
        self._read()
        if self.due_in_s() <= 0:
            with self._alone() as alone:
                # Whoever has begun to ask may be asleep, or his host dead.
                if alone or self._clock() - self._shared.tried_at > _OVERDUE_S:
                    self._read()
                    if self.due_in_s() <= 0:
                        self._ask()
        return self.answer is not before

    def now(self) -> Answer:
        """Ask at once, whoever has asked before: what follows must not touch a stranger.

        Raises:
            EngineError: The controller does not answer.
        """
        self._read()
        # Not what a clock ahead of ours has asked, or what knows nothing of the last submission.
        fresh = 0 <= self._clock() - self._shared.tried_at < 1.0
        if not fresh or self._shared.problem or self._wanted_at >= self._shared.asked_at:
            self._ask()
        if self.answer.problem:
            raise EngineError(SLURM, self.answer.problem)
        return self.answer

    def _ask(self) -> None:
        before, now = self._shared, self._clock()
        lines, problem = before.lines, ""
        try:
            self._client.ping()
            lines = "".join(_ours(self._client.queue()))
        except EngineError as err:
            problem = err.problem
        changed = lines != before.lines or bool(problem) != bool(before.problem)
        pause_s = min(max(before.pause_s * _GROWS, _SHORTEST_S), _LONGEST_S)
        self._take(
            _Shared(
                asked_at=before.asked_at if problem else now,
                tried_at=now,
                pause_s=_SHORTEST_S if changed else pause_s,
                questions=max(before.left(now) - 1.0, 0.0),
                problem=problem,
                since=before.since if problem and before.problem else now,
                lines=lines,
            )
        )
        self._write()

    def _take(self, shared: _Shared) -> None:
        same = shared.lines == self._shared.lines and self.answer.asked_at > float("-inf")
        jobs = self.answer.jobs if same else _by_marks(shared.lines)
        self._shared = shared
        self.answer = Answer(
            asked_at=shared.asked_at, problem=shared.problem, since=shared.since, jobs=jobs
        )

    # --- the file

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether nobody else is asking; True where that cannot be known."""
        import fcntl

        if self._directory is None:
            yield True
            return
        fd = -1
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._directory / "lock", flags, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        except OSError:
            alone = True
        try:
            yield alone
        finally:
            if fd >= 0:
                os.close(fd)

    def _read(self) -> None:
        if self._directory is None:
            return
        try:
            fd = os.open(
                self._directory / "poll.json",
                os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
            )
        except OSError:
            return
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            seen = (info.st_ino, info.st_mtime_ns, info.st_size)
            if seen == self._seen or info.st_uid != os.getuid() or info.st_size > _MOST_BYTES:
                return
            self._seen = seen
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
                shared = _parse(json.loads(file.read(_MOST_BYTES)))
                if shared.tried_at > self._shared.tried_at or self._shared.tried_at > self._clock():
                    self._take(shared)

    def _write(self) -> None:
        if self._directory is None:
            return
        path = self._directory / "poll.json"
        temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
                json.dump(attrs.asdict(self._shared), file)
            info = temporary.stat()
            temporary.replace(path)
            self._seen = (info.st_ino, info.st_mtime_ns, info.st_size)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()  # a disk that is full: others ask for themselves


def _parse(plain: Any) -> _Shared:
    """What the file says. Raises TypeError, KeyError or ValueError if that is none such."""
    values = {field.name: plain[field.name] for field in attrs.fields(_Shared)}
    for name, value in values.items():
        if type(value) is not (str if name in ("problem", "lines") else float):
            raise TypeError(name)
    found = _Shared(**values)
    sane = found.asked_at <= found.tried_at < _NO_TIME and 0 <= found.pause_s <= _LONGEST_S
    if not (sane and 0 <= found.since < _NO_TIME and 0 <= found.questions <= _MOST_QUESTIONS):
        raise ValueError("it would keep everybody from asking, or from hearing")
    return found


def _ours(output: str) -> Iterator[str]:
    """The lines of jobs of holdfast."""
    for line in output.splitlines():
        parts = line.split("|", 12)
        if len(parts) == 13 and marks(parts[11], parts[12]) is not None:
            yield f"{line}\n"


def _by_marks(lines: str) -> dict[Marks, tuple[Job, ...]]:
    found: dict[Marks, list[Job]] = {}
    for job in parsing.jobs(lines):
        mark = marks(job.name, job.comment)
        if mark is not None and job.user == os.getuid():
            found.setdefault(mark, []).append(job)
    return {mark: tuple(some) for mark, some in found.items()}


def place(cluster: str) -> Path | None:
    """Where the answers of a cluster are kept; None where the user has no such place."""
    home = Path(os.environ.get("XDG_STATE_HOME") or "")
    if not home.is_absolute():
        home = Path(os.path.expanduser("~"), ".local", "state")
    if not home.is_absolute():
        return None
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in cluster)
    return home / "holdfast" / "slurm" / (safe or "cluster")
