"""Checkpoints of one process or rank: `step-<n>`, whole and on the disk, or not there at all.

Owns their names, how many are kept, and on which one ranks that belong together agree. *n* is the
step to go on with. What is in one is the program's.
"""

import os

from holdfast.worker import files
from holdfast.worker.saying import OnDisk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["Checkpoints"]

_NAME = "step-"
_DRAFT = ".step-"
_FORMER = f".former{files.TEMPORARY}"
_KEPT = 2


class Checkpoints:
    """The checkpoints of one process, and those of the ranks that restart with it.

    Args:
        own: Its folder.
        parent: The folder that has one for each of *ranks*, called by its index; None for a process
            of its own.
        incarnation: What makes a draft of this process's different from another's.
    """

    def __init__(
        self, own: str, parent: "str | None", ranks: "Iterable[int]", incarnation: str
    ) -> None:
        self._own = own
        self._folders = [own] if parent is None else [os.path.join(parent, str(r)) for r in ranks]
        self._incarnation = incarnation

    def tidy(self) -> None:
        """Remove what earlier processes of this index did not finish."""
        kept = _steps(self._own).values()
        for name in files.leftovers(self._own, _DRAFT):
            if name not in kept:
                files.remove(os.path.join(self._own, name))

    def agreed(self) -> "int | None":
        """The newest step that all ranks have which have any; None if there is none."""
        found = [set(steps) for steps in map(_steps, self._folders) if steps]
        return max(set.intersection(*found), default=None) if found else None

    def path(self) -> "str | None":
        """The checkpoint of the agreed step: its own, else that of the first that has one."""
        step = self.agreed()
        if step is None:
            return None
        for folder in (self._own, *self._folders):
            if (name := _steps(folder).get(step)) is not None:
                return os.path.join(folder, name)
        return None

    def save(self, step: int, save: "Callable[[Path], object]") -> None:
        """Have *save* write one to the path that it is given, as a file or a folder, and keep it.

        Raises:
            WorkerError: It wrote nothing there.
            DiskError: It is not certain to be on the disk; the ones before it are.
        """
        from pathlib import Path  # a third of what all of this may cost at its import

        draft = os.path.join(self._own, f"{_DRAFT}{step}-{self._incarnation}{files.TEMPORARY}")
        try:
            with OnDisk(self._own, "making the directory"):
                files.make_folder(os.path.dirname(self._own))
                files.make_folder(self._own)
            files.remove(draft)
            save(Path(draft))
            if not os.path.lexists(draft):
                raise _nothing(draft)
            with OnDisk(self._own, "keeping the checkpoint"):
                files.sync_tree(draft)
                self._keep(draft, step)
        except BaseException:
            files.remove(draft)
            raise
        self._drop(step)

    def _keep(self, draft: str, step: int) -> None:
        target = os.path.join(self._own, f"{_NAME}{step}")
        if os.path.lexists(target) and (os.path.isdir(target) or os.path.isdir(draft)):
            # No rename replaces a folder. In between, the one before counts by this name.
            files.remove(former := os.path.join(self._own, f"{_DRAFT}{step}{_FORMER}"))
            os.rename(target, former)
        os.replace(draft, target)
        files.sync_folder(self._own)

    def _drop(self, step: int) -> None:
        """Remove all but the newest; those ahead of it are of a past that was given up.

        One more stays of ranks that restart together: the newest that all of them have, or the
        first until they have one, since a slower rank may be far behind.
        """
        steps = _steps(self._own)
        past = sorted(each for each in steps if each <= step)
        common = set(past).intersection(*(set(_steps(folder)) for folder in self._folders))
        kept = [*past[-_KEPT:], max(common, default=past[0])]
        for each, name in steps.items():
            if each not in kept:
                self._discard(os.path.join(self._own, name))
        files.remove(os.path.join(self._own, f"{_DRAFT}{step}{_FORMER}"))

    def _discard(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            # First under a name that nobody takes for whole: the removal may be cut short.
            aside = f"{_DRAFT}{os.urandom(8).hex()}{files.TEMPORARY}"
            try:
                os.rename(path, path := os.path.join(self._own, aside))
                files.sync_folder(self._own)
            except OSError:
                return
        files.remove(path)


def _steps(folder: str) -> dict[int, str]:
    """The steps that there are, each with the name of its checkpoint."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    found: dict[int, str] = {}
    # Those under their own names last, because they count.
    for name in sorted(names):
        if name.startswith(_NAME):
            number = name.removeprefix(_NAME)
        elif name.startswith(_DRAFT) and name.endswith(_FORMER):
            number = name.removeprefix(_DRAFT).removesuffix(_FORMER)
        else:
            continue
        if number.isascii() and number.isdigit() and str(int(number[:18])) == number:
            found[int(number)] = name
    return found


def _nothing(draft: str) -> Exception:
    from holdfast.errors import WorkerError

    return WorkerError(
        f"no checkpoint was written to {draft}",
        "`save` has to make a file or a folder of exactly the name that it is given",
    )
