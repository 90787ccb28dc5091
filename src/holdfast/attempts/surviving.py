"""Which attempts are not over, and which of those go unwatched because their shim is stopped."""

from collections.abc import Container, Iterator
from pathlib import Path

import attrs

from holdfast import liveness
from holdfast.attempts.family import Census
from holdfast.attempts.looking import Gone, Look, Running, Undecided, listed, look
from holdfast.attempts.names import AttemptName, names
from holdfast.identity import ProcessIdentity, Verdict
from holdfast.liveness import Observer

__all__ = ["Halted", "Survivor", "halted", "halted_shim", "life", "survivors"]


@attrs.frozen
class Halted:
    """A shim that lives and does nothing. It blocks every stop but SIGSTOP, so it was that."""

    pid: int

    @property
    def what(self) -> str:
        """What is wrong, without the remedy."""
        means = "its timeout is not enforced, and its end not recorded"
        return f"shim {self.pid} is stopped (SIGSTOP): {means}"

    @property
    def remedy(self) -> str:
        """What lets it go on, as it is typed."""
        return f"kill -CONT {self.pid}"

    def __str__(self) -> str:
        return f"{self.what}; to let it go on: {self.remedy}"


@attrs.frozen
class Survivor:
    """An attempt of which something lives, or may: it is not proven to be over."""

    name: AttemptName
    verdict: Verdict
    halted: Halted | None = None


def halted(seen: Look) -> Halted | None:
    """What `look` or `glance` has *seen*, if it runs under a shim that is stopped."""
    return halted_shim(seen.identity) if isinstance(seen, Running) else None


def halted_shim(shim: ProcessIdentity | None) -> Halted | None:
    """The stopped *shim*; None if it is not proven to be stopped."""
    if shim is None or shim.pid is None or not liveness.is_stopped(shim):
        return None
    return Halted(shim.pid)


def survivors(
    folder: Path,
    experiment_id: str,
    *,
    aggregation_only: bool = False,
    only: Container[AttemptName] | None = None,
) -> Iterator[Survivor]:
    """The attempts that are not proven to be over, ascending.

    Args:
        folder: The experiment's folder.
        experiment_id: Its id.
        aggregation_only: Leave out the attempts of its processes.
        only: Leave out all but these; None for all.

    Raises:
        StateReadError: The files cannot be read at this moment.
    """
    census = Census()
    for name in names(folder, experiment_id):
        if aggregation_only and name.index is not None:
            continue
        if only is not None and name not in only:
            continue
        found = look(folder, name, census=census)
        verdict = life(found)
        if verdict is not None:
            yield Survivor(name, verdict, halted(found))


def life(found: Look) -> Verdict | None:
    """What speaks for something of the attempt being alive; None if it is over, or never began."""
    if isinstance(found, Running | Undecided):
        return found.verdict
    if isinstance(found, Gone) and found.leftovers:
        words = f"its shim is dead, and these processes of it run on: {listed(found.leftovers)}"
        observer = str(Observer.here())
        return Verdict(kind="alive", method="mark", compared=words, observer=observer)
    return None
