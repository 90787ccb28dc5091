"""What an engine has of an experiment that nobody drives: whether it is to be waited for."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from holdfast.cli.engines import options_of
from holdfast.engines.contract import LOCAL, Engine, EngineWord, Handle
from holdfast.errors import EngineError
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.orchestration.words import meaning
from holdfast.reading.engines import HandedOver, engine_of, handed_over, is_left
from holdfast.store.attempted import attempt_of

if TYPE_CHECKING:
    from holdfast.store.manager import StateManager
    from holdfast.store.standing import Standing

__all__ = ["Abroad", "is_over"]

#: How often the engine is asked: what ends tells it by its exit record, but for what was cancelled.
_ASK_EVERY_S: Final = 10.0


class Abroad:
    """One experiment, by its exit records and, now and then, by its engine's word.

    Attributes:
        having: What the engine had when it was looked last; None if nothing.
        left: How many of these processes have not ended, or may not have.
    """

    def __init__(self, manager: "StateManager", experiment_id: str) -> None:
        """Ask nothing yet."""
        self._folder = manager.folder(experiment_id)
        self._engine: Engine | None = None
        self._asked_at = float("-inf")
        self._gone: set[int] = set()
        self.having: HandedOver | None = None
        self.left = 0

    def look(self, seen: "Standing") -> int:
        """How many are to be waited for by now."""
        self.having, self.left = None, 0
        if not seen.owned and is_left(seen.state, seen.verdict):
            self.having = handed_over(seen.state, self._folder)
        if self.having is not None:
            out = self.having.indices - self.having.over
            self._ask(seen.state, out)
            self.left = len(out - self._gone)
        return self.left

    def close(self) -> None:
        """Let go of the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _ask(self, state: ExperimentState, out: frozenset[int]) -> None:
        """What of *out* the engine says is over: it was cancelled, say, and leaves no record."""
        if not out or time.monotonic() < self._asked_at + _ASK_EVERY_S:
            return
        self._asked_at = time.monotonic()
        from holdfast.engines.making import make

        handles = {
            index: Handle.from_record(
                attempt_of(state, index), self._folder, state.processes[index].handle
            )
            for index in sorted(out)
        }
        # Who cannot be asked now is asked again, and all of it is waited for.
        with suppress(EngineError):
            self._engine = self._engine or make(options_of(state))
            words = self._engine.poll(list(handles.values()))
            self._gone = {
                index
                for index, word in zip(handles, words, strict=True)
                if is_over(word, state.processes[index])
            }


def is_over(word: EngineWord, process: ProcessProgress) -> bool:
    """Whether an attempt without an exit record has ended: what a failed node ran may live on."""
    engine = engine_of(process) or LOCAL
    return meaning(word, None, process.started_at, engine=engine).kind == "over"
