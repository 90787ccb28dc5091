"""What a Dask worker runs for the engine, called there by name."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import attrs

from holdfast.attempts import looking
from holdfast.attempts.family import Census
from holdfast.attempts.names import AttemptName
from holdfast.attempts.parcels import Parcel
from holdfast.engines import carrying, station
from holdfast.errors import DiskError
from holdfast.identity import ProcessIdentity

__all__ = ["TOPIC", "attempt", "judge", "look", "running", "stop", "version"]

#: Under which all engines hear what happens on all workers. One for all, because a scheduler keeps
#: the last thousand events of every topic for as long as it lives.
TOPIC: Final = "holdfast"


def attempt(wanted: carrying.Order) -> Parcel | None:
    """Run an attempt to its certain end."""
    from distributed import get_worker, secede

    worker = get_worker()

    def say(**more: Any) -> None:
        said = {"token": wanted.token, "attempt": str(wanted.attempt.name), **more}
        worker.log_event(TOPIC, {**said, "worker": worker.address})

    def started(identity: ProcessIdentity | None) -> None:
        say(at=time.time(), identity=None if identity is None else attrs.asdict(identity))

    def completing(clean: bool) -> None:
        # Nothing of it runs any more, and its outcome is about to come: another may have its place.
        say(clean=clean)
        secede()

    return carrying.carry_out(wanted, started, completing)


def stop(folder: str, names: Sequence[str], force: bool) -> list[str]:
    """Ask those to stop that run here, and let none of the others begin here."""
    return station.stop(Path(folder), names, force=force)


def running(folder: str) -> dict[str, dict[str, Any] | None]:
    """Which attempts of an experiment run here, each with the identity of its shim."""
    found = station.running(Path(folder))
    return {name: None if each is None else attrs.asdict(each) for name, each in found.items()}


def judge(folder: str, names: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What can be told from this host of attempts that cannot be judged from elsewhere.

    Args:
        folder: That of their experiment.
        names: Each as text, with the id of its experiment.

    Returns:
        `running` or `gone`, and why; nothing of those that cannot be judged from here either.
    """
    found, census = {}, Census()
    for text, experiment_id in names.items():
        name = AttemptName.parse(experiment_id, text)
        if name is None:
            continue
        with contextlib.suppress(DiskError, OSError):
            seen = looking.look(Path(folder), name, census=census)
            if isinstance(seen, looking.Running):
                found[text] = ("running", str(seen.verdict))
            elif isinstance(seen, looking.Gone) and not seen.leftovers:
                found[text] = ("gone", seen.evidence)
    return found


def look(file: str) -> tuple[str, bool]:
    """Which holdfast is here, and whether *file* can be seen."""
    path = Path(file)
    try:
        # A listing, so that a network file system asks its server again.
        return version(), path.name in (each.name for each in path.parent.iterdir())
    except OSError:
        return version(), False


def version() -> str:
    """Which holdfast this is: what is asked and answered is not the same in all of them."""
    try:
        return metadata.version("holdfast")
    except metadata.PackageNotFoundError:
        return "from a directory"
