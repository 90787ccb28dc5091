"""What this machine offers to prove that nothing of an attempt is left: information, no finding."""

from pathlib import Path
from typing import Literal

import attrs

from holdfast.attempts import cgroups
from holdfast.engines.local.cgroup import cloning

__all__ = ["Proof", "proof"]


@attrs.frozen
class Proof:
    """By what the processes of an attempt are known.

    Attributes:
        kind: `cgroup`: by one of its own, which nothing leaves unseen. `descent`: by their parents
            while its shim lives, afterwards by their environment, which a process can hide.
        directory: Where the cgroups are made.
    """

    kind: Literal["cgroup", "descent"]
    directory: Path | None = None

    def __str__(self) -> str:
        if self.kind == "cgroup":
            return f"each attempt gets a cgroup in {self.directory}, which nothing leaves unseen"
        return (
            "processes are known by their parents and their environment, as no cgroups can be made"
            " (try: systemd-run --user --scope -p Delegate=yes holdfast run …)"
        )


def proof() -> Proof:
    """The better one of those that this process would have here; a cgroup is made to find out."""
    found = cgroups.own()
    if found is None or cloning() is None:
        return Proof("descent")
    return Proof("cgroup", found.directory)
