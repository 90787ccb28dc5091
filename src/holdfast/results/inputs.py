"""What results were made from: the code that each process ran with, and the hosts."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from holdfast.lifecycle.records import ExperimentState
from holdfast.provenance import code as records
from holdfast.provenance.code import Code
from holdfast.status import ProcessStatus

__all__ = ["MOST_FILES", "form", "of_state", "origin"]

#: Files that an aggregate tells of, together: every process may have a configuration of its own.
MOST_FILES: Final = 2_000


def of_state(
    state: ExperimentState,
    folder: Path,
    *,
    without: Collection[int] = (),
    aggregation: Code | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The member `inputs` of an aggregate: what its rows were made from, as JSON.

    Args:
        without: Completed processes that have no row.
        aggregation: The code of the aggregation's own command, if it has one.
        command: That command.
    """
    codes: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    unrecorded = reused = 0
    for index in state.processes.indices(ProcessStatus.COMPLETED):
        if index in without:
            continue
        process = state.processes[index]
        if process.host is not None:
            hosts[process.host] += 1
        if process.code is None:
            unrecorded += 1
        else:
            codes[process.code] += 1
        reused += process.origin is not None
    left = MOST_FILES
    told: dict[str, dict[str, Any]] = {}
    for name, number in codes.items():
        # Each record is a file: those that would not be told are not read.
        found = records.read(folder, name) if left > 0 else None
        told[name] = {"processes": number, **form(found, left)}
        left -= 0 if found is None else len(found.files) + len(found.declared)
    return {
        "code": told,
        "unrecorded": unrecorded,
        "hosts": dict(sorted(hosts.items())),
        "reused": reused,
        "aggregation": None if aggregation is None else form(aggregation),
        "command": None if command is None else list(command),
    }


def form(code: Code | None, most: int = MOST_FILES) -> dict[str, Any]:
    """A code record as JSON, without its file names where it has more than *most*; {} for None."""
    if code is None:
        return {}
    found: dict[str, Any] = json.loads(code.encoded())
    del found["format"]
    number = len(code.files) + len(code.declared)
    if number > most:
        found |= {"files": {}, "declared": {}, "left_out": number}
    return found


def origin(state: ExperimentState, index: int) -> Mapping[str, Any] | None:
    """Where the result of a process was reused from, as JSON; None if it ran here."""
    found = state.processes[index].origin
    if found is None:
        return None
    told = {
        "experiment_id": found.experiment_id,
        "process": found.process,
        "attempt": found.attempt,
    }
    return told if found.via is None else {**told, "via": found.via}
