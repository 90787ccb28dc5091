"""The Slurm engine: attempts run as jobs, which need neither this program nor this host.

What is matched is a job's marks, user and time of submission, never its number alone: a controller
that lost its memory gives the numbers of ours to strangers.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Attempt
from holdfast.engine_options import EngineOptions
from holdfast.engines import waves
from holdfast.engines.bell import Bell
from holdfast.engines.contract import ALIVE, EngineWord, Handle, WordKind
from holdfast.engines.slurm import batch, cancelling, examining
from holdfast.engines.slurm.asking import Answer, Asking
from holdfast.engines.slurm.batch import Asked
from holdfast.engines.slurm.client import SLURM, Client, LimitReached
from holdfast.engines.slurm.controller import Controller
from holdfast.engines.slurm.finding import Finding, handles_of
from holdfast.engines.slurm.folders import Folder
from holdfast.engines.slurm.limits import Limits
from holdfast.engines.slurm.looking import Looking
from holdfast.engines.slurm.sending import Sending, Sent
from holdfast.errors import EngineError, EngineRefusedError

__all__ = ["SlurmEngine"]

_LONGEST_WAIT_S: Final = 3600.0
_SHORTEST_TURN_S: Final = 0.1


class SlurmEngine:
    """Runs attempts as elements of job arrays, on nodes that share the experiment's folder.

    They run on when the engine is closed and when its process is killed; another `SlurmEngine`
    finds them again. One thread uses it at a time.

    Args:
        options: What the jobs ask for; None for what the site gives.
        clock: The time, aware of its zone.
        monotonic: Seconds that only ever grow.
    """

    name: Final = SLURM
    outlives: Final = True
    shares_files: Final = True

    def __init__(
        self,
        options: EngineOptions | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = options or EngineOptions(name="slurm")
        self._now = clock
        self._monotonic = monotonic
        self._client = Client()
        self._controller = Controller(self._client, self._clock, monotonic)
        self._sending = Sending(self._client, self._wanted, self._clock)
        self._finding = Finding()
        self._folders: dict[Path, Folder] = {}
        self._known: dict[str, Path] = {}
        self._looking = Looking(self._client, self._clock, self._controller)
        self._watched: tuple[Path, ...] = ()
        self._worded: Answer | None = None
        self._words: dict[Path, dict[str, tuple[EngineWord, Mapping[str, Any]]]] = {}
        self._bell = Bell()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def calls(self) -> int:
        """How many of Slurm's commands it has run."""
        return self._client.calls

    def _clock(self) -> float:
        return self._now().timestamp()

    # --- before anything is submitted

    def check(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        """See `Engine.check`: `sbatch --test-only`, with the options that they will have.

        Raises:
            EngineRefusedError: In Slurm's own words.
            EngineError: The controller does not answer.
        """
        if any(attempt.slots for attempt in attempts):
            raise EngineRefusedError(
                SLURM, "slots are this host's; ask for GPUs with `gpus` in `[engine]`"
            )
        limits = self._reached()
        notes = []
        longest_s = max((attempt.grace_s for attempt in attempts), default=0.0)
        grace_s = limits.grace_s(longest_s)
        if grace_s < longest_s:
            notes.append(
                f"Slurm kills {limits.kill_wait_s:g} s after it asks a job to stop (KillWait): "
                f"the grace period is {grace_s:g} s here, not {longest_s:g} s"
            )
        for asked, some in self._by_needs(attempts).items():
            words = self._options(asked, some, limits)
            with contextlib.suppress(LimitReached):  # it will wait
                self._client.could(words, batch.script(self._wanted, some[0].folder, "w"))
        return notes

    def room(self) -> int | None:
        """See `Engine.room`: a share of what the controller keeps."""
        self._refresh()
        limits = self._controller.limits
        return None if limits is None else limits.room(self._wanted.per_job)

    def _reached(self) -> Limits:
        """The limits of the cluster, whose controller answers. Raises EngineError."""
        if self._closed:
            raise EngineError(SLURM, "it is closed")
        return self._controller.reach()

    def _by_needs(self, attempts: Iterable[Attempt]) -> dict[Asked, list[Attempt]]:
        found: dict[Asked, list[Attempt]] = {}
        for attempt in attempts:
            found.setdefault(Asked.of(self._wanted, attempt.resources), []).append(attempt)
        return found

    def _options(self, asked: Asked, attempts: Sequence[Attempt], limits: Limits) -> list[str]:
        return batch.options(
            self._wanted,
            asked,
            folder=attempts[0].folder.absolute(),
            grace_s=max(limits.grace_s(attempt.grace_s) for attempt in attempts),
            commands=min(self._wanted.per_job, len(attempts)),
        )

    # --- submitting

    def submit(self, experiment_id: str, attempts: Sequence[Attempt]) -> list[Handle]:
        """See `Engine.submit`. What a submit limit keeps out waits, and is `queued` all the same.

        Raises:
            EngineRefusedError: In Slurm's own words.
            EngineError: The controller does not answer; nothing was submitted.
            StateWriteError: What is to be submitted cannot be written down.
        """
        if not attempts:
            return []
        limits = self._reached()
        handles: dict[AttemptName, Handle] = {}
        for folder, some in _by_folder(attempts).items():
            self._known[experiment_id] = folder
            for asked, alike in self._by_needs(some).items():
                for part in self._waves(alike, limits):
                    sent = self._send(folder, asked, part, limits)
                    handles |= handles_of(sent, limits.cluster, asked.requested)
        with contextlib.suppress(EngineError):
            self._controller.asking().hurry()
        return [handles[attempt.name] for attempt in attempts]

    def _waves(self, attempts: Sequence[Attempt], limits: Limits) -> Iterator[list[Attempt]]:
        """*attempts*, each once, in parts that are an array each."""
        each = list({attempt.name: attempt for attempt in attempts}.values())
        size = max(limits.most_tasks, 1) * self._wanted.per_job
        yield from (each[at : at + size] for at in range(0, len(each), size))

    def _send(
        self, folder: Path, asked: Asked, attempts: Sequence[Attempt], limits: Limits
    ) -> Sent:
        fitting = [
            attrs.evolve(attempt, grace_s=limits.grace_s(attempt.grace_s)) for attempt in attempts
        ]
        size = self._wanted.per_job
        wave = waves.write(
            folder,
            engine=SLURM,
            token=waves.token(folder),
            tasks=[fitting[at : at + size] for at in range(0, len(fitting), size)],
            made_at=self._now(),
        )
        sent = Sent.of(wave)
        sent.options = self._options(asked, attempts, limits)
        sent.script = batch.script(self._wanted, folder, wave.name)
        sent.left = list(range(len(wave.tasks)))
        self._finding.add(sent)
        self._sending.send(sent, limits)
        return sent

    # --- looking

    def find(self, experiment_id: str, folder: Path | None = None) -> Mapping[AttemptName, Handle]:
        """See `Engine.find`: what its waves name, and Slurm has or may have.

        Raises:
            StateReadError: The waves cannot be read at this moment.
        """
        folder = folder or self._known.get(experiment_id)
        if folder is None:
            return {}
        folder = folder.absolute()
        self._known[experiment_id] = folder
        found = {}
        limits = self._controller.limits
        for handle in self._finding.named(folder, None if limits is None else limits.cluster):
            if handle.name.experiment_id == experiment_id:
                found[handle.name] = handle  # of two waves with one name, the later
        words = self.poll(list(found.values()))
        may_live = {*ALIVE, "unknown"}
        return {
            word.name: word.handle or found[word.name] for word in words if word.kind in may_live
        }

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        """See `Engine.poll`."""
        self._watched = tuple(_folders(handles))
        self._finding.forget()
        for path in self._watched:
            self._folder(path).refresh()
        self._refresh()
        answer = self._controller.answer
        if answer is not self._worded:
            self._worded = answer
            self._words.clear()
        for path in self._watched:
            kept, news = self._words.setdefault(path, {}), self._folder(path).news
            for name in news:
                kept.pop(name, None)
            news.clear()
        words = [self._word(handle, answer) for handle in handles]
        if self._looking.wants_answer:
            self._controller.hurry()
        self._looking.wants_answer = False
        return words

    def _word(self, handle: Handle, answer: Answer | None) -> EngineWord:
        """The word for an attempt, the last one as long as nothing has changed.

        The loop asks for all of ten thousand whenever one of them ends.
        """
        words, name = self._words[handle.folder], str(handle.name)
        kept = words.get(name)
        if kept is not None and kept[1] == handle.data:
            return kept[0]
        folder, place = self._folder(handle.folder), self._finding.place(handle)
        if place is None:
            return EngineWord(handle.name, *_never(folder, handle))
        word = self._looking.word(handle, *place, folder, answer)
        sent, task = place
        if sent.keeps(task) or (sent.number is None and word.kind == "unknown"):
            return attrs.evolve(word, taken=False if sent.full else None)
        # By Slurm's own times: it holds until its files or the next answer say something else.
        if word.kind in ALIVE and word.at is not None:
            words[name] = (word, handle.data)
        else:
            words.pop(name, None)
        return word

    def _folder(self, path: Path) -> Folder:
        found = self._folders.get(path)
        if found is None:
            found = self._folders[path] = Folder(path, self._monotonic)
        return found

    def _refresh(self) -> bool:
        """Ask the controller if it is time to, go on with what waits; whether anything is new."""
        changed = self._controller.refresh()
        limits, answer = self._controller.limits, self._controller.answer
        if limits is not None and answer is not None and self._sending.go_on(answer, limits):
            self._controller.hurry()
            changed = True
        return changed

    # --- stopping

    def cancel(
        self, handles: Sequence[Handle], *, force: bool = False
    ) -> Mapping[AttemptName, str]:
        """See `Engine.cancel`.

        What runs is asked by its files, which its shim hears within a second, and not by Slurm,
        which would kill the shim, too. What waits is taken out of the queue, if Slurm says at this
        moment that it is ours.
        """
        self._finding.forget()
        found = [
            (handle, *place)
            for handle in handles
            if (place := self._finding.place(handle)) is not None
        ]
        for folder in {handle.folder for handle in handles}:
            self._folder(folder).refresh(at_once=True)
        asking: Asking | None = None
        with contextlib.suppress(EngineError):
            asking = self._controller.asking()
        unreached = cancelling.cancel(
            found, self._folder, asking, self._client, self._looking, force=force
        )
        if asking is not None:
            asking.hurry()
        self._words.clear()  # of what has left the queue by now
        return unreached

    # --- waiting

    def wait(self, timeout_s: float) -> None:
        """See `Engine.wait`."""
        deadline = self._monotonic() + min(timeout_s, _LONGEST_WAIT_S)
        while (left_s := deadline - self._monotonic()) > 0:
            folders = [self._folder(path) for path in self._watched]
            pause_s = min(
                [
                    left_s,
                    self._sending.due_in_s(),
                    *(folder.due_in_s() for folder in folders),
                    self._controller.due_in_s(),
                ]
            )
            if self._bell.wait(max(pause_s, min(_SHORTEST_TURN_S, left_s))):
                return
            listed = [folder.refresh() for folder in folders]
            if any(listed) or self._refresh():
                return

    def wake(self) -> None:
        """See `Engine.wake`."""
        self._bell.ring()

    def close(self) -> None:
        """Forget everything; jobs run on. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._bell.close()

    def examine(self) -> Iterator[tuple[str, str]]:
        """What a doctor says of the cluster: `ok`, `warning` or `problem`, and in words."""
        return examining.examine(self._client, self._wanted, self._now)


def _folders(handles: Iterable[Handle]) -> Iterator[Path]:
    """Where their files are, each once; most are in one folder."""
    last, seen = None, set()
    for handle in handles:
        if handle.folder is not last:
            last = handle.folder
            if last not in seen:
                seen.add(last)
                yield last


def _by_folder(attempts: Iterable[Attempt]) -> dict[Path, list[Attempt]]:
    found: dict[Path, list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault(attempt.folder.absolute(), []).append(attempt)
    return found


def _never(folder: Folder, handle: Handle) -> tuple[WordKind, str]:
    """The word for an attempt that no wave of its folder names."""
    if str(handle.name) in folder.ended:
        return "gone", "its outcome is recorded"
    begun = folder.live(handle.name)
    if begun is not None and not begun.revoked:
        return "unknown", "it has begun, and no wave of this folder names it"
    return "gone", "it was never submitted"
