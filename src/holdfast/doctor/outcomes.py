"""Whether the results of an experiment, and its aggregate, are still what was recorded."""

from collections.abc import Container, Iterator

from holdfast import aggregation, results
from holdfast.doctor.findings import Finding, Site, problem
from holdfast.doctor.legality import readable
from holdfast.errors import StateCorruptError
from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus
from holdfast.store.journal import cause

__all__ = ["examine"]


def examine(
    site: Site, stem: str, state: ExperimentState, closed: Container[str]
) -> Iterator[Finding]:
    """Recorded results that are missing or altered, then the aggregate.

    Args:
        closed: The directories that may not be looked into.
    """
    if "results" not in closed:
        yield from _results(site, stem, state)
    if state.status is ExperimentStatus.AGGREGATED:
        yield from _aggregate(site, stem, state)


def _results(site: Site, stem: str, state: ExperimentState) -> Iterator[Finding]:
    folder = site.state_dir / stem
    for index, process in state.process_progress.items():
        if process.result is None:
            continue
        try:
            lost = results.verify(folder, process.result, files=site.files)
        except OSError as err:
            lost = f"cannot be read: {cause(err)}"
        if lost is not None:
            path = folder / process.result.path
            repair = "resume runs its process again, unless the experiment is aggregated"
            yield problem("result", path, f"process {index}: {lost}", repair)


def _aggregate(site: Site, stem: str, state: ExperimentState) -> Iterator[Finding]:
    folder = site.state_dir / stem
    path = folder / aggregation.FILE_NAME
    repair = f"`holdfast aggregate {state.experiment_id}` makes a missing one again"
    try:
        # Who aggregates with the library alone need not have one.
        if aggregation.read(folder) is None and state.config.get("command"):
            yield problem("result", path, "is missing", repair)
    except StateCorruptError as err:
        yield problem("result", path, readable(err, path), repair)
