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
        indices: The processes.
        sample: The last of them, with its parameters.
        log: The end of its log.
    """

    verb: str
    why: str
    charged: bool
    final: bool = False
    number: int = 0
    indices: set[int] = attrs.field(factory=set)
    sample: str = ""
    log: Sequence[str] = ()

    def head(self) -> str:
        """`failed process 3 (lr=1): exit code 1`, `failed 21 processes, 30 times: exit code 1`."""
        number = len(self.indices)
        which = self.sample if number == 1 else text.count(number, "process")
        which += f", {self.number:,} times" if self.number > number else ""
        which += ", tried again" if self.charged and not self.final else ""
        return f"{self.verb} {which}: {self.why}"

    def which(self) -> str:
        """`last: process 7 (lr=1); all: 1, 4-7`; empty where the head says it."""
        if len(self.indices) == 1:
            return ""
        return f"last: {self.sample}; all: {text.ranges(sorted(self.indices)[:_MOST_NAMED])}"


class Ended:
    """All kinds, by what makes them one."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._kinds: dict[tuple[object, ...], Kind] = {}

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
        found.indices.update(indices)

    def reopen(self, index: int, *, final: bool = True) -> None:
        """Process *index*, which had failed for good, is tried again; or the other way round."""
        for key, kind in list(self._kinds.items()):
            if kind.charged and kind.final is final and index in kind.indices:
                kind.indices.remove(index)
                kind.number -= 1
                if not kind.indices:
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
        return sorted(found, key=lambda kind: (-len(kind.indices), -kind.number))
