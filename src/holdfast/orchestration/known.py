"""What an engine has of an experiment that somebody left, and what it says of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.engines.contract import LOCAL, Engine, EngineWord, Handle
from holdfast.lifecycle.handed import whereabouts
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.status import SETTLED, ProcessStatus
from holdfast.store.attempted import attempt_of

__all__ = [
    "NOBODY",
    "Entrusted",
    "Known",
    "ask",
    "recorded_as_running",
    "together",
]


@attrs.frozen
class Entrusted:
    """An attempt whose engine says what becomes of it: what can be seen from here does not.

    Attributes:
        engine: Its name.
        words: Who has it, `Slurm (job 12_3)`.
        ours: Whether that engine takes it over. Another's attempts are left alone.
    """

    engine: str
    words: str
    ours: bool


@attrs.frozen(kw_only=True)
class Known:
    """What there is to know of attempts beside their files.

    Attributes:
        engine: Who takes the experiment over; None where nobody was asked yet, and every engine
            may.
        handles: What it has queued or running.
        words: What it says of these, and of those that are recorded as its own. Nothing of the
            local engine: the files of its attempts say it all.
    """

    engine: str | None
    handles: Mapping[AttemptName, Handle] = attrs.field(factory=dict)
    words: Mapping[AttemptName, EngineWord] = attrs.field(factory=dict)

    def entrusted(
        self, name: AttemptName, process: ProcessProgress, *, begun: bool = False
    ) -> Entrusted | None:
        """Whose the attempt *name* is, beside this machine's.

        Args:
            process: As it is recorded.
            begun: Whether it is seen to have begun: what nobody has and never did is to be revoked.
        """
        handle = process.handle
        if handle is not None and self.engine not in (None, handle.get("engine")):
            return _entrusted(handle, ours=False)
        if handle is None and name in self.handles and self.engine != LOCAL:
            handle = self.handles[name].record
        if handle is None:
            told = begun and self.engine is not None and name in self.words
            engine = str(self.engine)
            return Entrusted(engine, engine, ours=True) if told else None
        return _entrusted(handle, ours=True)

    def handle(self, name: AttemptName, folder: Path, process: ProcessProgress) -> Handle:
        """How the engine finds the attempt *name* again."""
        recorded = Handle.from_record(name, folder, process.handle, process.identity)
        found = self.handles.get(name)
        return recorded if found is None else together(recorded, found)


def together(before: Handle, now: Handle) -> Handle:
    """*now*, with what only *before* says: who finds an attempt again need not know all of it."""
    if before.engine != now.engine:
        return now
    return attrs.evolve(
        now,
        identity=now.identity or before.identity,
        data={**before.data, **now.data},
        requested={**before.requested, **now.requested},
    )


def _entrusted(handle: Mapping[str, Any], *, ours: bool) -> Entrusted:
    return Entrusted(str(handle.get("engine")), whereabouts(handle), ours)


NOBODY: Final = Known(engine=None)


def ask(engine: Engine, folder: Path, state: ExperimentState) -> Known:
    """What *engine* knows of what *state* has running.

    Raises:
        EngineError: It cannot be reached.
    """
    found = Known(engine=engine.name, handles=engine.find(state.experiment_id, folder))
    if engine.name == LOCAL:
        return found
    wanted = dict(found.handles)
    for name, ranks in recorded_as_running(state).items():
        process = state.processes[ranks[0]]
        others = found.entrusted(name, process)
        if others is None or others.ours:
            wanted[name] = found.handle(name, folder, process)
    words = engine.poll(list(wanted.values()))
    return attrs.evolve(found, words={each.name: each for each in words})


def recorded_as_running(state: ExperimentState) -> dict[AttemptName, list[int]]:
    """The attempts that may run, with the processes that each of them does."""
    found: dict[AttemptName, list[int]] = {}
    if state.status not in SETTLED:
        for index in state.processes.indices(ProcessStatus.RUNNING):
            found.setdefault(attempt_of(state, index), []).append(index)
    return found
