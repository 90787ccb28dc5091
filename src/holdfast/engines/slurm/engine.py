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
from holdfast.engines import waves
from holdfast.engines.bell import Bell
from holdfast.engines.contract import ALIVE, EngineWord, Handle, WordKind
from holdfast.engines.options import EngineOptions
from holdfast.engines.slurm import batch, cancelling, examining
from holdfast.engines.slurm.asking import Answer, Asking, place
from holdfast.engines.slurm.batch import Asked, Marks
from holdfast.engines.slurm.client import SLURM, Client, LimitReached
from holdfast.engines.slurm.folders import Folder
from holdfast.engines.slurm.limits import Limits
from holdfast.engines.slurm.looking import Looking
from holdfast.engines.slurm.sending import Sending, Sent
from holdfast.errors import DiskError, EngineError, EngineRefusedError

__all__ = ["SlurmEngine"]

_LONGEST_WAIT_S: Final = 3600.0
_SHORTEST_TURN_S: Final = 0.1
#: Between two attempts to reach a controller that has never answered.
_SHORTEST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 30.0
#: After which it is asked again whether the controller is there before it is told anything.
_TRUSTED_S: Final = 5.0


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
        self._limits: Limits | None = None
        self._asked: Asking | None = None
        self._heard_at = self._again_at = float("-inf")
        self._pause_s = _SHORTEST_PAUSE_S
        self._sending = Sending(self._client, self._wanted, self._clock)
        self._sent: dict[Marks, Sent] = {}
        self._folders: dict[Path, Folder] = {}
        self._known: dict[str, Path] = {}
        self._by_name: dict[Path, Mapping[AttemptName, Handle]] = {}
        self._looking = Looking(self._client, self._clock)
        self._watched: tuple[Path, ...] = ()
        self._worded: Answer | None = None
        self._words: dict[AttemptName, tuple[EngineWord, Mapping[str, Any]]] = {}
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
        return None if self._limits is None else self._limits.room(self._wanted.per_job)

    def _reached(self) -> Limits:
        """The limits of the cluster, whose controller answers. Raises EngineError."""
        if self._closed:
            raise EngineError(SLURM, "it is closed")
        if self._monotonic() - self._heard_at > _TRUSTED_S:
            self._client.ping()
            self._heard_at = self._monotonic()
        if self._limits is None:
            config = self._client.config()
            self._limits = Limits.of(config, self._client.preemption_grace_s(config))
        return self._limits

    @property
    def _asking(self) -> Asking:
        if self._asked is None:
            if self._limits is None:
                # Which cluster it is, its controller must have said once.
                self._reached()
            assert self._limits is not None
            self._asked = Asking(self._client, place(self._limits.cluster), self._clock)
        return self._asked

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
                    handles |= _handles(sent, limits, asked.requested)
        with contextlib.suppress(EngineError):
            self._asking.hurry()
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
        self._sent[sent.marks] = sent
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
        for handle in self._named(folder):
            if handle.name.experiment_id == experiment_id:
                found[handle.name] = handle  # of two waves with one name, the later
        words = self.poll(list(found.values()))
        may_live = {*ALIVE, "unknown"}
        return {
            word.name: word.handle or found[word.name] for word in words if word.kind in may_live
        }

    def _named(self, folder: Path) -> Iterator[Handle]:
        """Whatever the waves of *folder* itself name, oldest first."""
        token = waves.token(folder) if (folder / "waves").exists() else ""
        for wave in waves.waves(folder):
            if wave.engine == SLURM and wave.token == token:
                sent = self._sent.setdefault(Marks(wave.token, wave.name), Sent.of(wave))
                yield from _handles(sent, self._limits, {}).values()

    def poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        """See `Engine.poll`."""
        self._watched = tuple(_folders(handles))
        self._by_name.clear()
        for path in self._watched:
            self._folder(path).refresh()
        self._refresh()
        answer = None if self._asked is None else self._asked.answer
        if answer is not self._worded:
            self._worded = answer
            self._words.clear()
        fresh = {path: self._folder(path).news for path in self._watched}
        words = [self._word(handle, answer, fresh) for handle in handles]
        for news in fresh.values():
            news.clear()
        if self._looking.wants_answer and self._asked is not None:
            self._asked.hurry()
        self._looking.wants_answer = False
        return words

    def _word(
        self, handle: Handle, answer: Answer | None, fresh: Mapping[Path, set[str]]
    ) -> EngineWord:
        """The word for an attempt, the last one as long as nothing has changed.

        The loop asks for all of ten thousand whenever one of them ends.
        """
        kept = self._words.get(handle.name)
        known = str(handle.name) not in fresh[handle.folder]
        if kept is not None and known and kept[1] == handle.data:
            return kept[0]
        folder = self._folder(handle.folder)
        located = self._located(handle)
        if located is None:
            return EngineWord(handle.name, *_never(folder, handle))
        word = self._looking.word(handle, *located, folder, answer, self._limits)
        sent, task = located
        if task in sent.left or (sent.number is None and word.kind == "unknown"):
            return attrs.evolve(word, taken=False if sent.full else None)
        # By Slurm's own times: it holds until its files or the next answer say something else.
        if word.kind in ALIVE and word.at is not None:
            self._words[handle.name] = (word, handle.data)
        else:
            self._words.pop(handle.name, None)
        return word

    def _located(self, handle: Handle) -> tuple[Sent, int] | None:
        """The wave and the task of an attempt; None where none of this folder names it."""
        data = handle.data
        marks = Marks(str(data.get("token")), str(data.get("wave")))
        task = data.get("task")
        for again in (False, True):
            sent = self._sent.get(marks)
            if sent is None and not again:
                named = self._all_named(handle.folder)
                if "wave" not in data and handle.name in named:
                    return self._located(named[handle.name])
                continue
            if sent is not None and type(task) is int and 0 <= task < len(sent.tasks):
                return sent, task
        return None

    def _all_named(self, folder: Path) -> Mapping[AttemptName, Handle]:
        """What the waves of *folder* name, read once for all that are asked for at a time."""
        if folder not in self._by_name:
            self._by_name[folder] = {}
            with contextlib.suppress(DiskError):
                self._by_name[folder] = {each.name: each for each in self._named(folder)}
        return self._by_name[folder]

    def _folder(self, path: Path) -> Folder:
        found = self._folders.get(path)
        if found is None:
            found = self._folders[path] = Folder(path, self._monotonic)
        return found

    def _refresh(self) -> bool:
        """Ask the controller if it is time to, go on with what waits; whether anything is new."""
        if self._asked is None and self._monotonic() < self._again_at:
            return False
        try:
            asking = self._asking
        except EngineError as err:
            self._again_at = self._monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 1.5, _LONGEST_PAUSE_S)
            return self._looking.silent(err.problem)
        changed = asking.refresh()
        if self._limits is not None and self._sending.go_on(asking.answer, self._limits):
            asking.hurry()
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
        self._by_name.clear()
        located = {handle.name: self._located(handle) for handle in handles}
        found = [
            (handle, *place) for handle in handles if (place := located[handle.name]) is not None
        ]
        for folder in {handle.folder for handle in handles}:
            self._folder(folder).refresh(at_once=True)
        asking: Asking | None = None
        with contextlib.suppress(EngineError):
            asking = self._asking
        unreached = cancelling.cancel(
            found, self._folder, asking, self._client, self._looking, force=force
        )
        if asking is not None:
            asking.hurry()
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
                    self._due_in_s(),
                ]
            )
            if self._bell.wait(max(pause_s, min(_SHORTEST_TURN_S, left_s))):
                return
            listed = [folder.refresh() for folder in folders]
            if any(listed) or self._refresh():
                return

    def _due_in_s(self) -> float:
        """When the controller may be asked again."""
        if self._asked is None:
            return max(self._again_at - self._monotonic(), 0.0)
        return self._asked.due_in_s()

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


def _handles(
    sent: Sent, limits: Limits | None, requested: Mapping[str, float]
) -> dict[AttemptName, Handle]:
    """How the attempts of a wave are found again."""
    found, waits = {}, set(sent.left)
    for task, names in enumerate(sent.tasks):
        data: dict[str, Any] = {"token": sent.marks.token, "wave": sent.marks.wave, "task": task}
        if limits is not None:
            data["cluster"] = limits.cluster
        if sent.number is not None and task not in waits:
            data["job"] = f"{sent.number}_{task}"
        for name in names:
            found[name] = Handle(
                name=name, folder=sent.folder, engine=SLURM, data=data, requested=requested
            )
    return found


def _never(folder: Folder, handle: Handle) -> tuple[WordKind, str]:
    """The word for an attempt that no wave of its folder names."""
    if str(handle.name) in folder.ended:
        return "gone", "its outcome is recorded"
    begun = folder.live(handle.name)
    if begun is not None and not begun.revoked:
        return "unknown", "it has begun, and no wave of this folder names it"
    return "gone", "it was never submitted"
