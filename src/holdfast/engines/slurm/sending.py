"""Hands waves to Slurm: in arrays that it takes, again where it did not, never twice on a guess.

A wave is on shared storage before anything is asked. What a submit limit keeps out waits here; what
became of a submission whose answer was lost is found out by the marks of its job.
"""

import bisect
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.engine_options import EngineOptions
from holdfast.engines import waves
from holdfast.engines.slurm import batch
from holdfast.engines.slurm.asking import Answer
from holdfast.engines.slurm.batch import Marks
from holdfast.engines.slurm.client import SLURM, Client, LimitReached, NobodyKnows
from holdfast.engines.slurm.limits import Limits
from holdfast.engines.slurm.parsing import tasks as spelt
from holdfast.errors import DiskError, EngineError, EngineRefusedError

__all__ = ["KNOWN_WITHIN_S", "Sending", "Sent"]

#: After which a job that was submitted is in the controller's answers, whatever it was busy with.
KNOWN_WITHIN_S: Final = 60.0
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 60.0
_LIMIT_PAUSE_S: Final = 120.0


@attrs.define(kw_only=True, eq=False)
class Sent:
    """A wave, as far as it was handed over.

    Attributes:
        options: Of `sbatch`, for what has yet to be.
        left: Its tasks that have yet to be, ascending.
        number: Of its first job; None where nobody has recorded one.
        sent_at: When it was submitted last; later answers of the controller know of it.
        doubt: Why nobody knows whether it was; empty where that is known.
        waits: Why the rest has to wait; empty if there is none.
        full: Whether it waits for room.
        refused: Why it was refused for good; empty if it was not.
    """

    marks: Marks
    folder: Path
    made_at: float
    tasks: tuple[tuple[AttemptName, ...], ...]
    options: Sequence[str] = ()
    script: str = ""
    left: list[int] = attrs.field(factory=list)
    number: int | None = None
    sent_at: float = float("-inf")
    doubt: str = ""
    waits: str = ""
    full: bool = False
    refused: str = ""
    again_at: float = float("inf")
    pause_s: float = _FIRST_PAUSE_S

    def keeps(self, task: int) -> bool:
        """Whether a task has yet to be handed over; asked for thousands at a time."""
        at = bisect.bisect_left(self.left, task)
        return at < len(self.left) and self.left[at] == task

    @classmethod
    def of(cls, wave: waves.Wave) -> "Sent":
        """A wave of this experiment that somebody else has handed over, or never did."""
        said = wave.submitted or {}
        number, sent_at = said.get("number"), said.get("submitted_at")
        return cls(
            marks=Marks(wave.token, wave.name),
            folder=wave.folder,
            made_at=wave.made_at.timestamp(),
            tasks=wave.tasks,
            number=number if type(number) is int else None,
            sent_at=sent_at if type(sent_at) is float else wave.made_at.timestamp(),
        )


class Sending:
    """Submits, and goes on where it could not."""

    def __init__(self, client: Client, wanted: EngineOptions, clock: Callable[[], float]) -> None:
        self._client = client
        self._wanted = wanted
        self._clock = clock
        self.open: list[Sent] = []

    def send(self, sent: Sent, limits: Limits) -> None:
        """Submit what is left of it, as much as there is room for.

        Raises:
            EngineRefusedError: It will never be taken; then nothing of it was.
        """
        most = len(sent.left)
        while sent.left:
            part, array = sent.left[:most], limits.most_tasks > 0
            now = self._clock()
            try:
                self._submit(sent, part, array)
            except LimitReached as err:
                if len(part) > 1:
                    most = len(part) // 2
                    continue
                self._later(sent, _LIMIT_PAUSE_S, waits=f"waits for the submit limit: {err}")
                sent.full = True
                return
            except NobodyKnows as err:
                # Whether it was is seen in answers to questions asked after it.
                sent.sent_at, sent.doubt = now, str(err)
                self._later(sent, KNOWN_WITHIN_S)
                return
            except EngineRefusedError as err:
                self._forget(sent)
                sent.left, sent.refused, sent.waits = [], err.problem, ""
                raise
            except EngineError as err:
                self._later(sent, sent.pause_s, waits=f"could not be submitted: {err.problem}")
                sent.pause_s = min(sent.pause_s * 1.5, _LONGEST_PAUSE_S)
                return
            del sent.left[: len(part)]
        self._forget(sent)
        sent.waits, sent.pause_s = "", _FIRST_PAUSE_S

    def _submit(self, sent: Sent, part: Sequence[int], array: bool) -> None:
        elements = spelt(list(part)) if array else None
        words = batch.marked(sent.options, sent.marks, sent.folder, elements)
        number = self._client.submit(words, sent.script)
        sent.sent_at = self._clock()
        self.taken(sent, number)

    def taken(self, sent: Sent, number: int) -> None:
        """It has that job, as the controller says."""
        sent.doubt = ""
        if sent.number is None:
            sent.number = number
            data: Mapping[str, Any] = {"number": number, "submitted_at": self._clock()}
            with contextlib.suppress(DiskError):  # it is found by its marks all the same
                waves.record(sent.folder, sent.marks.wave, data)

    def _later(self, sent: Sent, pause_s: float, *, waits: str = "") -> None:
        sent.waits, sent.full = waits, False
        sent.again_at = self._clock() + pause_s
        if sent not in self.open:
            self.open.append(sent)

    def _forget(self, sent: Sent) -> None:
        self.open = [each for each in self.open if each is not sent]

    def due_in_s(self) -> float:
        """When there is something to submit again."""
        return max(min((each.again_at for each in self.open), default=1e9) - self._clock(), 0.0)

    def go_on(self, answer: Answer, limits: Limits) -> bool:
        """Submit what waited long enough; whether anything has changed."""
        changed = False
        now = self._clock()
        for sent in list(self.open):
            if sent.doubt:
                jobs = answer.jobs.get(sent.marks, ())
                numbers = {job.number for job in jobs if set(job) & set(sent.left)}
                if numbers:
                    found = {task for job in jobs for task in job}
                    self.taken(sent, min(numbers))
                    sent.left = [task for task in sent.left if task not in found]
                    sent.again_at, changed = now, True
                elif answer.asked_at < sent.sent_at + KNOWN_WITHIN_S:
                    continue
                else:
                    sent.doubt, sent.again_at = "", now
            if now < sent.again_at or answer.problem:
                continue
            changed = True
            try:
                self.send(sent, limits)
            except EngineRefusedError:
                continue  # said by the word for each of its attempts
        return changed


def refused(sent: Sent) -> str:
    """What is said of an attempt of a wave that was refused after it had been accepted to wait."""
    return f"{SLURM} refused it: {sent.refused}"
