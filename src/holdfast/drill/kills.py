"""What was done to an experiment, and what was alive when nothing should have been."""

from typing import Final

import attrs

from holdfast.attempts.names import AttemptName
from holdfast.drill.strikes import Target
from holdfast.reading import text

__all__ = ["Kill", "Stray"]

#: Names of attempts, and characters of other words, that a line has room for.
_NAMED: Final = 2
_WORDS: Final = 20


@attrs.frozen(kw_only=True)
class Kill:
    """One that was done.

    Attributes:
        at_s: Since its round began.
        hit: The attempts of which something was killed.
        running: Those that ran.
        processes: How many processes were.
        words: The command line of the one that was, if it was one of an attempt's.
        at_write: The file whose writing was the instant; None if that was another.
        emptied: Whether that file was made to be as it was just before: empty.
        wrote: Files that were written to since the one before.
    """

    number: int
    at_s: float
    target: Target
    hit: tuple[AttemptName, ...]
    running: tuple[AttemptName, ...]
    processes: int
    words: str
    at_write: str | None
    emptied: bool
    wrote: frozenset[str]

    def __str__(self) -> str:
        hit, ran = _listed(self.hit), _listed(self.running)
        if self.target == "process":
            what = f"a process of {hit} ({text.short(self.words, _WORDS)})"
        elif self.target == "shim":
            what = f"the shim of {hit}"
        elif self.target == "attempt":
            what = f"all of {hit}"
        elif self.target == "orchestrator":
            what = f"the orchestrator ({ran} ran on)" if ran else "the orchestrator"
        else:
            kind = "all at once" if self.target == "everything" else f"{self.target} to all"
            what = f"{kind} ({ran} ran)" if ran else f"{kind} (no attempt ran)"
        wrote = ""
        if self.at_write is not None:
            how = "emptying" if self.emptied else "writing"
            wrote = f", {how} {_tail(self.at_write)}"
        return f"kill {self.number} at {self.at_s:.2f} s{wrote}: {what}"


def _tail(path: str) -> str:
    """The end of *path*, as much as a line has room for."""
    found = "/".join(path.split("/")[-2:])
    return text.one_line(found if len(found) <= _WORDS else f"…{found[1 - _WORDS :]}")


def _listed(names: tuple[AttemptName, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more


@attrs.frozen(kw_only=True)
class Stray:
    """A process that should not have been alive any more.

    Attributes:
        of: The attempt that it was part of; None if that is not known.
        when: A clause.
        released: Whether it shows that it wants to be part of no attempt.
    """

    pid: int
    words: str
    of: AttemptName | None
    when: str
    released: bool
