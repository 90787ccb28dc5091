"""How far attempts are with their engine, as facts: only what is news.

Those of an engine with a queue say how it finds an attempt again. Nothing depends on those of the
local engine.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from holdfast.attempts.names import AttemptName
from holdfast.engines.contract import EngineWord, Handle
from holdfast.lifecycle.events import PhaseReported
from holdfast.lifecycle.processes import PHASES, RUNS, ProcessProgress
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import ProcessStatus

__all__ = ["Phases"]

_Told = tuple[str | None, str | None, Mapping[str, Any] | None]


class Phases:
    """Of the attempts of one experiment."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        """Tell by *clock* when something was learnt."""
        self._clock = clock
        self._told: dict[AttemptName, _Told] = {}

    def promised(
        self, state: ExperimentState, names: Iterable[AttemptName], engine: str
    ) -> Iterator[PhaseReported]:
        """The facts of attempts that *engine* is about to be given.

        Whoever comes after a crash knows of whom to ask what became of them.
        """
        for name in names:
            for index in () if name.index is None else state.gang(name.index):
                yield PhaseReported(
                    process=index,
                    attempt=name.attempt,
                    at=self._clock(),
                    phase="queued",
                    handle={"engine": engine, "data": {}},
                )

    def launched(
        self, state: ExperimentState, handles: Iterable[Handle]
    ) -> Iterator[PhaseReported]:
        """The facts of attempts that an engine has just taken."""
        for handle in handles:
            if handle.name.index is None:
                continue
            phase = RUNS if handle.record is None else "queued"
            if handle.record is not None:
                self._told[handle.name] = (phase, None, handle.record)
            for index in state.gang(handle.name.index):
                yield PhaseReported(
                    process=index,
                    attempt=handle.name.attempt,
                    at=self._clock(),
                    phase=phase,
                    identity=handle.identity,
                    handle=handle.record,
                )

    def heard(
        self, state: ExperimentState, words: Iterable[tuple[EngineWord, Handle]]
    ) -> Iterator[PhaseReported]:
        """The facts in what an engine with a queue says of attempts that go on."""
        for word, handle in words:
            name = word.name
            if word.kind not in PHASES or name.index is None:
                continue
            running = [i for i in state.gang(name.index) if _is_of(state.processes[i], name)]
            if not running:
                continue
            before = self._told.get(name) or _recorded(state.processes[running[0]])
            told = (word.kind, word.host or before[1], handle.record)
            if told == before or (before[0] == RUNS and word.kind != RUNS):
                continue
            self._told[name] = told
            for index in running:
                yield PhaseReported(
                    process=index,
                    attempt=name.attempt,
                    at=self._clock(),
                    phase=word.kind,
                    identity=handle.identity if word.kind == RUNS else None,
                    handle=None if handle.record == before[2] else handle.record,
                    host=word.host,
                    since=word.at if word.kind == RUNS and before[0] != RUNS else None,
                    evidence=(word.text or None) if word.kind != RUNS else None,
                )


def _is_of(process: ProcessProgress, name: AttemptName) -> bool:
    return process.status is ProcessStatus.RUNNING and process.attempt == name.attempt


def _recorded(process: ProcessProgress) -> _Told:
    return process.phase, process.host, process.handle
