"""Which processes ran with other code than there is now, and what of it changed since."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from holdfast.errors import StateCorruptError
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.provenance import code
from holdfast.provenance.code import Code
from holdfast.provenance.digests import Digests, FileDigest
from holdfast.results import aggregate_file
from holdfast.status import ExperimentStatus, ProcessStatus

__all__ = ["Changed", "Comparing", "of_state"]


@attrs.frozen(kw_only=True)
class Changed:
    """What of the code of completed processes is not as it was when they ran.

    Attributes:
        files: What became of each: `changed`, `is gone`.
        processes: Those that ran with another content, ascending.
        aggregation: What became of the files that the command of the aggregation names.
    """

    files: Mapping[str, str]
    processes: tuple[int, ...]
    aggregation: Mapping[str, str] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self.processes or self.aggregation)

    def since(self, total: int) -> str:
        """`train.py changed since 20 of 24 ran`, of *total* processes."""
        ran = f"{len(self.processes):,} of {total:,} ran" if self.processes else "it was aggregated"
        return f"{self} since {ran}"

    def __str__(self) -> str:
        by_fate: dict[str, list[str]] = {}
        for path, fate in {**self.files, **self.aggregation}.items():
            by_fate.setdefault(fate, []).append(path)
        return ", ".join(f"{_listed(paths)} {fate}" for fate, paths in by_fate.items())


class Comparing:
    """Compares code records with the files that there are now, each of them once."""

    def __init__(self, cwd: Path, digests: Digests, *, declared: bool = False) -> None:
        """Compare with what is in *cwd*.

        Args:
            declared: Whether declared files count, too; the size alone of those that are large.
        """
        self._declared = declared
        self._cwd = cwd
        self._digests = digests
        self._known: dict[str, Mapping[str, str]] = {}
        self._files: dict[tuple[str, FileDigest], str | None] = {}

    def fates(self, folder: Path, process: ProcessProgress) -> Mapping[str, str]:
        """What became of the files that *process*, of the experiment in *folder*, ran with.

        Nothing is known, and so nothing is told, of one whose code was not recorded.
        """
        name = process.code
        if name is None:
            return {}
        if name not in self._known:
            ran = code.read(folder, name)
            if ran is None:
                return {}
            self._known[name] = self._of(ran)
        return self._known[name]

    def _of(self, ran: Code) -> Mapping[str, str]:
        # Ten thousand records, one for each configuration, name the same script.
        files = dict(ran.files)
        if self._declared:
            files |= {path: _by_size(then) for path, then in ran.declared.items()}
        new = {path: then for path, then in files.items() if (path, then) not in self._files}
        found = code.changed(attrs.evolve(ran, files=new), self._cwd, self._digests)
        self._files |= {(path, then): found.get(path) for path, then in new.items()}
        fates = {path: self._files[path, then] for path, then in files.items()}
        return {path: fate for path, fate in fates.items() if fate is not None}


def _by_size(then: FileDigest) -> FileDigest:
    return then if then.size <= code.LARGE else FileDigest(size=then.size)


def of_state(
    state: ExperimentState,
    folder: Path,
    cwd: Path,
    digests: Digests,
    *,
    command: Sequence[str] | None,
    declared: bool = False,
) -> Changed:
    """What changed since the processes of *state* that are completed, or running, were started.

    Args:
        command: That of the aggregation: what made an aggregated one its aggregate counts, too, as
            far as that is recorded. None without one.
        declared: As for `Comparing`.
    """
    comparing = Comparing(cwd, digests, declared=declared)
    files: dict[str, str] = {}
    processes = []
    for index in state.processes.indices(ProcessStatus.COMPLETED, ProcessStatus.RUNNING):
        if fates := comparing.fates(folder, state.processes[index]):
            files |= fates
            processes.append(index)
    aggregates = command is not None and state.status is ExperimentStatus.AGGREGATED
    made = _aggregated_with(folder) if aggregates else None
    aggregation = {} if made is None else code.changed(made, cwd, digests)
    return Changed(files=files, processes=tuple(processes), aggregation=aggregation)


def _aggregated_with(folder: Path) -> Code | None:
    aggregate = None
    with contextlib.suppress(StateCorruptError):  # told by whoever shows it
        aggregate = aggregate_file.read(folder)
    inputs = None if aggregate is None else aggregate.get("inputs")
    form = inputs.get("aggregation") if isinstance(inputs, Mapping) else None
    return code.from_form(form) if isinstance(form, Mapping) else None


def _listed(paths: list[str], limit: int = 3) -> str:
    more = f" and {len(paths) - limit} more" if len(paths) > limit else ""
    return ", ".join(sorted(paths)[:limit]) + more
