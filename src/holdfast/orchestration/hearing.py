"""What an engine says of attempts, heard with patience: beside what their folder shows.

`holdfast.orchestration.words` says what a word means. Here is when it counts: of what is over
without an exit record, only after a grace period, and once the folder was listed again, since on a
shared file system a file can be seen long after it was made.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts import files
from holdfast.attempts.looking import Ended, glance
from holdfast.attempts.names import AttemptName, listed
from holdfast.attempts.records import ExitRecord
from holdfast.engines.contract import ALIVE, LOCAL, Engine, EngineWord
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.orchestration.words import Meaning, meaning
from holdfast.status import ProcessStatus

__all__ = ["Hearing", "grace_s"]

#: How long an exit record may come after the engine's word that an attempt is over.
_LOCAL_GRACE_S: Final = 2.0
_SHARED_GRACE_S: Final = 30.0
#: How often the folder is listed at most; a listing that takes long, for one part of time in so
#: many.
_LIST_EVERY_S: Final = 1.0
_PART: Final = 20.0

_WAITS: Final = Meaning(kind="nothing")


def grace_s(engine: Engine, given_s: float | None) -> float:
    """How long the exit record of an attempt of *engine* may be late, unless somebody says it."""
    if given_s is not None:
        return given_s
    return _LOCAL_GRACE_S if engine.name == LOCAL else _SHARED_GRACE_S


@attrs.define(kw_only=True)
class Hearing:
    """The words on the attempts of one experiment.

    Attributes:
        grace_s: As `grace_s`.
    """

    engine: Engine
    folder: Path
    experiment_id: str
    state: Callable[[], ExperimentState]
    monotonic: Callable[[], float]
    grace_s: float
    #: Since when nothing has been seen of what is over.
    _over_since: dict[AttemptName, float] = attrs.field(factory=dict)
    _waiting: dict[AttemptName, bool] = attrs.field(factory=dict)
    _tried: set[AttemptName] = attrs.field(factory=set)
    _there: frozenset[str] = frozenset()
    _listed_at: float = float("-inf")
    _list_again_at: float = float("-inf")

    @property
    def is_local(self) -> bool:
        """Whether attempts run on this machine, so that what their files show is all there is."""
        return self.engine.name == LOCAL

    def begin(self) -> None:
        """Before a round of words: see which outcomes have come, at most every second or so.

        Raises:
            DiskError: The folder cannot be listed at this moment.
        """
        now = self.monotonic()
        if self.is_local or now < self._list_again_at:
            return
        # Listed even where nothing is expected: on NFS, that is what makes others' files seen.
        self._there = frozenset(listed(self.folder))
        took_s = self.monotonic() - now
        self._listed_at = now
        self._list_again_at = now + max(_LIST_EVERY_S, _PART * took_s)

    def hear(self, word: EngineWord) -> tuple[Meaning, Ended | None]:
        """What *word* means by now, and the outcome that is there.

        Raises:
            DiskError: The files of the attempt cannot be read at this moment.
        """
        name = word.name
        if word.kind in ALIVE and (word.kind == "completing" or not self._has_ended(name)):
            self._over_since.pop(name, None)
            if not self.is_local:
                self._waiting[name] = word.kind in ("queued", "held")
            return meaning(word, None, None, engine=self.engine.name), None
        ended = self._outcome(name)
        means = self.mean(word, None if ended is None else ended.record)
        if means.kind not in ("over", "doubtful") or self._is_clear(name):
            return means, ended
        if self.waits(name) and name not in self._tried:
            self._tried.add(name)
            return means, None
        return _WAITS, None

    def is_early(self, name: AttemptName) -> bool:
        """Whether it may still have its outcome shown, but waited in a queue when that was last
        recorded: to revoke what never began needs no patience, and what began cannot be revoked.
        """
        return not self._is_due(name)

    def mean(self, word: EngineWord, record: ExitRecord | None) -> Meaning:
        """What *word* means beside *record*."""
        began = None
        if word.kind == "node_fail" and record is None:
            known = [files.began_at(self.folder, word.name), self._recorded(word.name).started_at]
            # The later of two clocks: a node that had just been booted was given it.
            began = max((each for each in known if each is not None), default=None)
        return meaning(word, record, began, engine=self.engine.name)

    def _outcome(self, name: AttemptName) -> Ended | None:
        # A look at each of 10,000 that wait for the end of their grace would be all there is time
        # for.
        if not (self.is_local or self._has_ended(name) or self._is_due(name)):
            return None
        seen = glance(self.folder, name)
        return seen if isinstance(seen, Ended) else None

    def _has_ended(self, name: AttemptName) -> bool:
        return f"{name}.exit" in self._there

    def _is_clear(self, name: AttemptName) -> bool:
        """Whether what is over without an outcome has had its time to show one."""
        self.doubt(name)
        return self._is_due(name)

    def doubt(self, name: AttemptName) -> None:
        """It is over, and its outcome has its time to be seen from now on."""
        self._over_since.setdefault(name, self.monotonic())

    def _is_due(self, name: AttemptName) -> bool:
        since = self._over_since.get(name)
        if since is None:
            return False
        due = since + self.grace_s
        return self.monotonic() >= due and (self.is_local or self._listed_at >= due)

    def waits(self, name: AttemptName) -> bool:
        """Whether it waits in the queue of its engine, as far as was heard, or is recorded."""
        if self.is_local:
            return False
        heard = self._waiting.get(name)
        return self._recorded(name).waits if heard is None else heard

    def _recorded(self, name: AttemptName) -> ProcessProgress:
        state = self.state()
        for index in () if name.index is None else state.gang(name.index):
            process = state.processes[index]
            if process.status is ProcessStatus.RUNNING and process.attempt == name.attempt:
                return process
        return ProcessProgress()

    def forget(self, name: AttemptName) -> None:
        """Its words count no more."""
        self._over_since.pop(name, None)
        self._waiting.pop(name, None)

    @property
    def in_doubt(self) -> bool:
        """Whether anything is over whose outcome may still come."""
        return bool(self._over_since)

    def pause_s(self, now: float) -> float:
        """How long there is nothing to be heard that depends on the time alone."""
        # Whose time is over waits for a word, and not for a time: to ask again and again at once
        # would be all that is done while nobody answers.
        open_ = (since for name, since in self._over_since.items() if not self._is_due(name))
        due = min(open_, default=None)
        if due is None:
            return float("inf")
        again = now if self.is_local else self._list_again_at
        return max(0.0, due + self.grace_s - now, again - now)
