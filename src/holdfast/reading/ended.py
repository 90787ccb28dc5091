"""What ended badly while somebody watched, the same together: for a view that goes on."""

from collections.abc import Sequence
from typing import Final

import attrs

from holdfast.reading import text

__all__ = ["Ended", "Kind"]

#: Processes of one kind that are named; of more there is their number.
_MOST_NAMED: Final = 2_000


@attrs.define(kw_only=True)
class Kind:
    """Processes of which an attempt ended in the same way.

    Attributes:
        verb: `failed`; of interruptions `lost`, `stopped` and so on.
        why: Why the last of them did.
        charged: Whether it failed; what was interrupted is charged to nobody.
        final: Whether it is not tried again by itself.
        number: How many attempts ended so.
        attempts: How many of each process did.
        sample: The last of them, with its parameters.
        log: The end of its log.
    """

    verb: str
    why: str
    charged: bool
    final: bool = False
    number: int = 0
    attempts: dict[int, int] = attrs.field(factory=dict)
    sample: str = ""
    log: Sequence[str] = ()

    @property
    def size(self) -> int:
        """How many processes."""
        return len(self.attempts)

    def head(self) -> str:
        """`failed process 3 (lr=1): exit code 1`, `failed 21 processes, 30 times: exit code 1`."""
        number = self.size
        which = self.sample if number == 1 else text.count(number, "process")
        which += f", {self.number:,} times" if self.number > number else ""
        which += ", tried again" if self.charged and not self.final else ""
        return f"{self.verb} {which}: {self.why}"

    def which(self) -> str:
        """`last: process 7 (lr=1); all: 1, 4-7`; empty where the head says it."""
        if self.size == 1:
            return ""
        named = text.ranges(sorted(self.attempts)[:_MOST_NAMED])
        return f"last: {self.sample}; all: {named}"


class Ended:
    """All kinds, by what makes them one."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._kinds: dict[tuple[object, ...], Kind] = {}
        # Kinds can be as many as processes: who is tried again must not be looked for in all.
        self._of: dict[int, set[tuple[object, ...]]] = {}

    def add(
        self,
        kind: tuple[object, ...],
        indices: Sequence[int],
        *,
        verb: str,
        why: str,
        sample: str,
        charged: bool,
        final: bool = False,
        log: Sequence[str] = (),
    ) -> None:
        """Attempts of *indices* ended, of the same *kind*; as `Kind`."""
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = Kind(verb=verb, why=why, charged=charged, final=final)
        found.verb, found.why, found.sample, found.log = verb, why, sample, log or found.log
        found.number += len(indices)
        for index in indices:
            found.attempts[index] = found.attempts.get(index, 0) + 1
            self._of.setdefault(index, set()).add(kind)

    def reopen(self, index: int, *, final: bool = True) -> None:
        """Process *index*, which had failed for good, is tried again; or the other way round."""
        keys = self._of.get(index, set())
        for key in list(keys):
            kind = self._kinds[key]
            if kind.charged and kind.final is final:
                keys.remove(key)
                kind.number -= kind.attempts.pop(index)
                if not kind.attempts:
                    del self._kinds[key]

    def failures(self) -> list[Kind]:
        """What failed, the most frequent first."""
        return self._sorted(charged=True)

    def interruptions(self) -> list[Kind]:
        """What was interrupted, the most frequent first."""
        return self._sorted(charged=False)

    def _sorted(self, *, charged: bool) -> list[Kind]:
        # Another thread may add to it.
        found = [kind for kind in list(self._kinds.values()) if kind.charged is charged]
        return sorted(found, key=lambda kind: (-kind.size, -kind.number))
