"""Attempts of which an engine says that it does not know: for ever, that decides nothing.

But people are to hear of it, a copy of a running experiment is not to wait for what only the
original has, and `--force` is to get through.
"""

from collections.abc import Mapping
from typing import Final

import attrs

from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName
from holdfast.engines.contract import EngineWord
from holdfast.orchestration.hearing import Hearing

__all__ = ["COPIED", "Wondering"]

#: How long an engine may be at a loss before that is told.
_TOLD_AFTER_S: Final = 60.0

COPIED: Final = (
    "its files are a copy, and the original's attempt is another: resume the original, or, here, "
    "with --force"
)


@attrs.define
class Wondering:
    """Those of one experiment, since when, and in the words of the engine."""

    _hearing: Hearing
    _since: dict[AttemptName, tuple[float, str, bool]] = attrs.field(factory=dict)

    def about(self, word: EngineWord) -> float:
        """Note that the engine says *word*; for how many seconds it has."""
        now = self._hearing.monotonic()
        since, _, passes = self._since.get(word.name, (now, "", word.passes))
        if passes and not word.passes:
            since = now  # it is back, and has not been at a loss for long
        self._since[word.name] = since, word.text, word.passes
        return now - since

    def is_copied(self, name: AttemptName) -> bool:
        """Whether it began elsewhere, under another folder than this."""
        return live_state(self._hearing.folder, name).copied

    def forget(self, name: AttemptName) -> None:
        """Its engine has found it, or it is over."""
        self._since.pop(name, None)

    @property
    def long(self) -> Mapping[AttemptName, str]:
        """Those that it has not known for long."""
        now = self._hearing.monotonic()
        return {
            name: text or "it gives no reason"
            for name, (since, text, _) in self._since.items()
            if now - since >= _TOLD_AFTER_S
        }
