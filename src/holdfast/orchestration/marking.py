"""What an attempt is known by later: the identity of its work, and the code that it ran with."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import attrs

from holdfast.config.experiment_file import Experiment
from holdfast.config.work import of_nobody
from holdfast.errors import ConfigError, StateReadError
from holdfast.lifecycle.apply import ending
from holdfast.lifecycle.events import Event, ProcessExited
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.reuse import Search
from holdfast.provenance import code, git
from holdfast.provenance.code import Code
from holdfast.provenance.digests import Digests
from holdfast.provenance.interpreter import python_version
from holdfast.provenance.naming import Namer
from holdfast.store.manager import StateManager

__all__ = ["Marks", "digests_of", "works"]

#: How often declared files are looked at: what is edited meanwhile, the next attempts run with.
_LOOKED_AT_EVERY_S: Final = 1.0
_GIT_WITHIN_S: Final = 2.0


def digests_of(state_dir: Path) -> Digests:
    """The digests that are kept in *state_dir*: a large file is read once for all its runs."""
    return Digests(state_dir / ".digests" / "cache")


def works(experiment: Experiment, state_dir: Path, digests: Digests) -> tuple[str, ...]:
    """The identity of what each process does, with the declared files as they are now.

    Raises:
        ConfigError: A declared file is not there, or cannot be read.
    """
    return experiment.identities(state_dir, digests.sha256)


class Marks:
    """The marks of one experiment's attempts, as they are begun and as they end."""

    def __init__(
        self,
        experiment: Experiment,
        state_dir: Path,
        folder: Path,
        digests: Digests,
        monotonic: Callable[[], float],
        works: Sequence[str] | None = None,
    ) -> None:
        """Mark attempts of *experiment*, whose code records are kept in *folder*.

        Args:
            works: The identities, if they have been computed a moment ago.
        """
        self.digests = digests
        self.experiment = experiment
        self._state_dir = state_dir
        self._folder = folder
        self._monotonic = monotonic
        self._works = works
        self._looked_at = monotonic()
        self._git: git.Git | None = None
        self._namer: Namer | None = None
        self._pythons: dict[str, str | None] = {}
        self._names: dict[object, str] = {}
        self._codes: dict[str, Code | None] = {}

    def search(self, manager: StateManager, policy: str, own: str) -> Search:
        """Where the experiment *own* looks for what others have done of its work."""
        return Search(manager, self.experiment, self.works, self.digests, policy=policy, own=own)

    @property
    def works(self) -> Sequence[str]:
        """The identity of what each process does. Raises ConfigError."""
        now = self._monotonic()
        declares = bool(self.experiment.identity.files)
        if self._works is None or (declares and now - self._looked_at > _LOOKED_AT_EVERY_S):
            self._looked_at = now
            try:
                self._works = works(self.experiment, self._state_dir, self.digests)
            except ConfigError:
                if self._works is None:
                    raise
                # Gone while attempts run: the next one says what it misses.
        return self._works

    def start(self, state: ExperimentState, index: int) -> dict[str, object]:
        """The facts that the start of process *index* records. Raises ConfigError."""
        return {"work": self.works[index], "code": self._code(state.started_at, index)}

    def ended(self, state: ExperimentState, facts: Sequence[Event]) -> list[Event]:
        """*facts*, where attempts completed with the code that is left of what they ran with.

        A file that the command names and the attempt wrote is no code. Where a declared file is not
        as it was, nobody knows which content was read, and so it is nobody's work.
        """
        return [
            self._left(state, self._unsure(state, fact))
            if isinstance(fact, ProcessExited)
            else fact
            for fact in facts
        ]

    def _unsure(self, state: ExperimentState, fact: ProcessExited) -> ProcessExited:
        process = state.process_progress.get(fact.process)
        if not self.experiment.identity.files or process is None or process.work is None:
            return fact
        if ending(fact) != "complete":
            return fact
        with contextlib.suppress(ConfigError):  # gone: what it read is not known either
            now = self.experiment.identity_of(fact.process, self._state_dir, self.digests.sha256)
            if now == process.work:
                return fact
        words = "declared files are not as they were when it started: its result is not reused"
        evidence = words if fact.evidence is None else f"{fact.evidence}; {words}"
        return attrs.evolve(fact, work=of_nobody(process.work), evidence=evidence)

    def _left(self, state: ExperimentState, fact: ProcessExited) -> ProcessExited:
        process = state.process_progress.get(fact.process)
        if process is None or process.code is None or ending(fact) != "complete":
            return fact
        if process.code not in self._codes:
            self._codes[process.code] = code.read(self._folder, process.code)
        ran = self._codes[process.code]
        if ran is None:
            return fact
        cwd, began = self.experiment.cwd, state.started_at
        left = code.without_written(ran, cwd, self.digests, began)
        if left == ran:
            return fact
        return attrs.evolve(fact, code=self._kept(left))

    def of_command(self, state: ExperimentState, argv: Sequence[str]) -> Code:
        """What code *argv*, which is no process of the experiment *state*, would run with now."""
        return self._look(state.started_at, argv, ())

    def _code(self, began: datetime | None, index: int) -> str:
        argv = self.experiment.argv(index)
        try:
            return self._kept(
                self._look(began, argv, self.experiment.declared(index, self._state_dir))
            )
        except (ConfigError, StateReadError):
            # Gone while attempts run.
            return self._kept(self._look(began, argv, ()))

    def _look(self, began: datetime | None, argv: Sequence[str], declared: Iterable[str]) -> Code:
        if self._namer is None:
            self._namer = Namer(self.experiment.cwd, before=began)
            self._git = git.look(self.experiment.cwd, _GIT_WITHIN_S)
        if argv[0] not in self._pythons:
            self._pythons[argv[0]] = python_version(argv, self.experiment.cwd)
        return code.look(
            self._namer.files(argv),
            self.experiment.cwd,
            self.digests,
            declared=declared,
            git=self._git,
            python=self._pythons[argv[0]],
        )

    def _kept(self, found: Code) -> str:
        files, declared = (tuple(each.items()) for each in (found.files, found.declared))
        key = files, declared, found.git, found.python
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = code.write(self._folder, found)
            self._codes[name] = found
        return name
