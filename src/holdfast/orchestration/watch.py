"""The attempts that an engine runs for us: submitted, watched, stopped, settled when they are gone.

Owns which attempts are whose: *handles* run or are queued, *settling* are gone and on their way to
a certain end, *blocked* cannot be judged. It waits for nothing; `holdfast.orchestration.loop` does.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Final

import attrs

from holdfast.attempts.family import Census
from holdfast.attempts.looking import Ended, Look, Running, Undecided, look
from holdfast.attempts.names import AttemptName, attempts_dir
from holdfast.attempts.settling import Lost
from holdfast.engines.contract import FREES_EARLY, EngineWord, Handle
from holdfast.errors import (
    DiskError,
    StateReadError,
)
from holdfast.orchestration.asking import Asking
from holdfast.orchestration.known import together
from holdfast.orchestration.watched import Watched
from holdfast.orchestration.wondering import COPIED
from holdfast.orchestration.words import LOST, Meaning

__all__ = ["Learnt", "Watch"]

#: How often what settles is checked at least.
_SETTLE_EVERY_S: Final = 0.25
#: Of one turn, so that a thousand of them make nobody deaf.
_STEP_WITHIN_S: Final = 0.2
#: How often what cannot be judged is checked again.
_BLOCKED_EVERY_S: Final = 5.0
#: Not sooner than this is a disk asked again that just refused, and not for longer.
_UNREAD_EVERY_S: Final = 1.0
_UNREAD_WITHIN_S: Final = 30.0


def _nothing() -> None:
    pass


@attrs.frozen
class Learnt:
    """An attempt is over.

    Attributes:
        text: The engine's own word, where it adds something.
        means: What that means beside what was found.
    """

    name: AttemptName
    found: Ended | Lost
    text: str = ""
    means: Meaning = LOST


@attrs.define(kw_only=True)
class Watch(Watched):
    """Learns what becomes of what is watched.

    Attributes:
        unread: Why the last look could not tell how an attempt ended; None if none failed.
        heard: Of an engine with a queue, what it says of those that go on, by attempt, since
            somebody took it from here.
    """

    unread: DiskError | None = None
    heard: dict[AttemptName, EngineWord] = attrs.field(factory=dict)
    _unread_since: dict[AttemptName, float] = attrs.field(factory=dict)
    _again: list[Learnt] = attrs.field(factory=list)
    _blocked_at: float = float("-inf")

    @functools.cached_property
    def asking(self) -> Asking:
        """What is asked to stop."""
        return Asking(self)

    def collect(self) -> list[Learnt]:
        """The attempts that are over since the last look.

        The exit record beats the engine's word, and *unknown* says nothing at all.

        Raises:
            OwnershipLostError, ClaimClosedError: A newer owner took over.
        """
        self.unread = None
        found, self._again = self._again, []
        if self.asking.to_cancel and self.engine_trouble.over(self.monotonic()):
            self.asking.cancel()
        self.submit_again()
        if handles := [*self.handles.values(), *self._doubtful()]:
            self._hear_all(handles, found)
        self._step(found)
        self._look_at_blocked(found)
        return found

    def put_back(self, learnt: Learnt, problem: DiskError) -> None:
        """Have *learnt* be told again: a disk kept it from being taken up at this moment."""
        self._again.append(learnt)
        self.unread = problem

    def _doubtful(self) -> list[Handle]:
        """The handles of what is blocked and the engine may know better by now."""
        if not self.kept or self.asking.everything or not self._is_blocked_due():
            return []
        return [handle for name, handle in self.kept.items() if name in self.blocked]

    def _poll(self, handles: Sequence[Handle]) -> list[EngineWord]:
        if self.engine_trouble.over(self.monotonic()):
            with self.reached():
                return self.engine.poll(handles)
        # Outcomes come all the same.
        return [EngineWord(each.name, "unknown") for each in handles]

    def _hear_all(self, handles: Sequence[Handle], found: list[Learnt]) -> None:
        try:
            self.hearing.begin()
        except DiskError as err:
            self.unread = err
        for word in self._poll(handles):
            try:
                self._hear(word, found)
            except DiskError as err:
                # It may hold a success, and what it is about may even run: every turn looks again.
                self.unread = err

    def _hear(self, word: EngineWord, found: list[Learnt]) -> None:
        name = word.name
        if word.handle is not None:
            kept = self.handles if name in self.handles else self.kept
            kept[name] = together(kept[name], word.handle) if name in kept else word.handle
        if word.taken:
            self.untaken.pop(name, None)
        elif self.engine.outlives:
            self.untaken[name] = word.taken is False
        means, ended = self.hearing.hear(word)
        if means.kind in ("goes_on", "ending"):
            self._go_on(word, means)
        elif means.kind == "counts" and ended is not None:
            found.append(Learnt(name, ended, word.text, means))
            self.forget(name)
        elif means.kind == "doubtful" and not self.engine.shares_files:
            # That nothing of it is here proves nothing either.
            if name in self.handles:
                self.kept[name] = self.handles.pop(name)
            self.blocked[name] = means.words
        elif means.kind == "over" or (means.kind == "doubtful" and name in self.handles):
            handle = self.handles.get(name) or self.kept[name]
            early = self.hearing.is_early(name)
            self.forget(name)
            self.kept[name] = handle
            if early:
                self.early.add(name)
            self.settle(name, handle.identity, word, proof=None if early else means.proof)
        elif word.kind == "unknown" and not self.hearing.is_local:
            self._wonder(word)

    def _wonder(self, word: EngineWord) -> None:
        name = word.name
        if self.engine_trouble.error is not None or name not in self.handles:
            return  # that is told, and says nothing of this one
        lasted_s = self.wondering.about(word)
        handle = self.handles[name]
        # An engine that is away knows better once it is back: --force does not mean its jobs.
        if self.force and not word.passes and lasted_s >= self.hearing.grace_s:
            self.forget(name)
            self.kept[name] = handle
            self.settle(name, handle.identity, word)
        elif not self.force and not lasted_s and self.wondering.is_copied(name):
            self.forget(name)
            self.kept[name], self.blocked[name] = handle, COPIED

    def _go_on(self, word: EngineWord, means: Meaning) -> None:
        name = word.name
        self.wondering.forget(name)
        if name in self.blocked:
            del self.blocked[name]
            self.handles[name] = self.kept.pop(name)
        if not self.hearing.is_local and self.last.get(name) != word:
            self.last[name] = self.heard[name] = word
        if means.kind != "ending" or self.engine.name not in FREES_EARLY:
            return
        # Where the first failure ends all, nothing is begun beside an end that looks like one.
        if word.clean or not self.launcher.experiment.limits.fail_fast:
            self.completing.add(name)

    def take_heard(self) -> list[tuple[EngineWord, Handle]]:
        """What was `heard`, with the handles, of attempts that still go on."""
        found = [
            (word, self.handles[name]) for name, word in self.heard.items() if name in self.handles
        ]
        self.heard.clear()
        return found

    def _step(self, found: list[Learnt]) -> None:
        """Everything that settles, one step each: all are signalled before any is waited for."""
        census, began = Census(), self.monotonic()
        for name, each in list(self.settling.items()):
            if self.monotonic() - began > _STEP_WITHIN_S:
                break
            # Behind the others, so that those come first who have waited for longest.
            self.settling[name] = self.settling.pop(name)
            seen: Look | Lost | None
            try:
                seen = each.step(self.monotonic(), census, kill=self.asking.killing)
            except DiskError as err:
                self._not_now(name, err)
                continue
            except OSError as err:
                # No descriptors left, say, to look at processes with: nothing is decided.
                path = attempts_dir(self.launcher.folder) / str(name)
                self._not_now(name, StateReadError.of(path, "looking at it", err))
                continue
            self._unread_since.pop(name, None)
            if seen is None:
                continue
            del self.settling[name]
            self._settled(name, seen, found)
        self.settle_s = min(self.settle_s * 1.5, _SETTLE_EVERY_S)

    def _not_now(self, name: AttemptName, problem: DiskError) -> None:
        """Its files cannot be read: mostly that passes, but a run must end all the same."""
        self.unread = problem
        now = self.monotonic()
        if now - self._unread_since.setdefault(name, now) >= _UNREAD_WITHIN_S:
            del self.settling[name], self._unread_since[name]
            self.blocked[name] = f"{problem.path}: {problem.operation} failed: {problem.cause}"

    def _settled(self, name: AttemptName, seen: Look | Lost, found: list[Learnt]) -> None:
        word = self.words.pop(name, None)
        if isinstance(seen, Ended | Lost):
            self.kept.pop(name, None)
            record = seen.record if isinstance(seen, Ended) else None
            means = LOST if word is None else self.hearing.mean(word, record)
            found.append(Learnt(name, seen, "" if word is None else word.text, means))
        elif isinstance(seen, Running):
            handle = self.kept.pop(name, None) or Handle(name=name, folder=self.launcher.folder)
            self.handles[name] = attrs.evolve(handle, identity=seen.identity)
            # It began after all, and nothing that could be heard was asked of it yet.
            self.asking.orders.pop(name, _nothing)()
        elif isinstance(seen, Undecided):
            self._left_undecided(name, seen, word)
        else:
            self.settle(name, self.shims.get(name), word)

    def _left_undecided(self, name: AttemptName, seen: Undecided, word: EngineWord | None) -> None:
        if name in self.early and name in self.kept:
            # It began after all. Once its outcome has had its time to be seen, the word counts.
            self.early.discard(name)
            self.handles[name] = self.kept.pop(name)
            self.hearing.doubt(name)
            return
        means = LOST if word is None else self.hearing.mean(word, None)
        self.blocked[name] = means.words if means.kind == "doubtful" else seen.evidence

    def _look_at_blocked(self, found: list[Learnt]) -> None:
        if not self.blocked or self.asking.everything or not self._is_blocked_due():
            return
        self._blocked_at = self.monotonic()
        census = Census()
        for name in list(self.blocked):
            shim = self.shims.get(name)
            with contextlib.suppress(DiskError, OSError):
                seen = look(self.launcher.folder, name, shim=shim, census=census)
                if isinstance(seen, Undecided):
                    continue
                # What can be seen from here says nothing of another's attempts but how they ended.
                theirs = name in self.elsewhere or not self.engine.shares_files
                if theirs and not isinstance(seen, Ended):
                    continue
                del self.blocked[name]
                self._settled(name, seen, found)

    def _is_blocked_due(self) -> bool:
        return self.monotonic() - self._blocked_at >= _BLOCKED_EVERY_S

    def pause_s(self, longest_s: float) -> float:
        """How long to wait for something to happen, *longest_s* at most."""
        now = self.monotonic()
        pauses = [longest_s]
        # What an engine does not answer, no grace period brings to an end.
        pauses.append(max(self.hearing.pause_s(now), self.engine_trouble.left_s(now)))
        if self.settling:
            pauses.append(self.settle_s)
        if self._again or self.unread is not None:
            pauses = [max(min(pauses), _UNREAD_EVERY_S)]
        return min(pauses)
