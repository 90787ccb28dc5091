"""What `holdfast show` says of what runs, and of what waits for its next attempt."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.attempts.files import live_state
from holdfast.attempts.looking import glance
from holdfast.attempts.names import AttemptName
from holdfast.attempts.surviving import halted
from holdfast.errors import ConfigError, HoldfastError
from holdfast.identity import Verdict
from holdfast.lifecycle.processes import RUNS
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import text, waiting
from holdfast.reading.engines import HandedOver, began, place
from holdfast.reading.evidence import Params, last_words, params_words
from holdfast.reading.progress import HEADER, MOST, Standing, alike, cells, said
from holdfast.status import ProcessStatus
from holdfast.store.attempted import attempt_of
from holdfast.store.history import Transition

if TYPE_CHECKING:
    from holdfast.orchestration.fates import Decision

__all__ = ["decided", "running_lines", "waiting_lines"]

#: Processes in the table of what runs.
_MOST_RUNNING: Final = 200


def running_lines(
    state: ExperimentState,
    folder: Path,
    living: Verdict,
    params: Params,
    having: HandedOver | None,
    reported: Mapping[int, Standing],
    history: Sequence[Transition],
) -> list[str]:
    """The section of what runs: since when, how far, where, and what it said last."""
    indices = state.processes.indices(ProcessStatus.RUNNING)
    if not indices:
        return []
    phases = {} if having is None else having.phases
    # What runs or has ended, then what is held: a queue can be long, and tells the same of each.
    order = {RUNS: 0, "held": 1, "queued": 2}
    indices = sorted(indices, key=lambda index: (order[phases.get(index, RUNS)], index))
    left, indices = indices[_MOST_RUNNING:], indices[:_MOST_RUNNING]
    now = datetime.now(UTC)
    watched = living.kind == "alive"
    fates = () if watched else decided(state, folder, now)
    said_why = {each.index: each.evidence for each in history if each.event == "phase"}
    said_why = {index: why for index, why in said_why.items() if why}
    rows, stopped = [], []
    for number, index in enumerate(indices):
        progress = state.processes[index]
        name, phase = attempt_of(state, index), phases.get(index, RUNS)
        since = progress.started_at or (
            progress.submitted_at if phase != RUNS else began(folder, name)
        )
        lasted = "" if since is None else text.duration((now - since).total_seconds())
        who = "" if progress.identity is None else str(progress.identity)
        what = who if watched else fates[index].why
        what = text.short(what.removeprefix(f"attempt {progress.attempt} "))  # a column of its own
        if having is not None and index in having.over and _is_revoked(folder, name):
            what = "taken out of the queue before it began"
        elif (there := place(progress)) and (having is None or index not in having.over):
            what = f"{phase}: {there}"
            if phase != RUNS and index in said_why:
                what += f" ({text.short(said_why[index])})"
        with contextlib.suppress(HoldfastError, OSError):  # nobody can tell at this moment
            if (halt := halted(glance(folder, name))) is not None:
                stopped.append(f"  process {index}: {halt}")
        standing = reported.get(index)
        says = "" if standing is None else said(standing.progress)
        if standing is None and number < MOST and phase == RUNS:
            says = last_words(state, folder, index)
        if name.is_launcher:
            what = f"{name.unit}: {what}" if what else name.unit
        words = what, params_words(params, index), text.short(says)
        rows.append((index, (str(progress.attempt), lasted, *cells(standing), *words)))
    title = "running" if watched else "running when the owner was last heard of, and now"
    if having is not None:
        title = f"what {having.title} has"
    where = "WHERE" if having is not None else "SHIM" if watched else "NOW"
    last = (where, "PARAMETERS", "SAYS")
    header = ("PROCESS", "ATTEMPT", "SINCE", *HEADER, *last)
    table = [(text.ranges(group), *row) for group, row in alike(state, rows)]
    lines = ["", text.bold(title), *_table(header, table), *stopped]
    if left:
        more = sum(phases.get(index, RUNS) != RUNS for index in left)
        kind = "waiting" if more == len(left) else "running or waiting" if more else "running"
        lines.append(f"  … and {len(left):,} more {kind}: see --json")
    return lines


def _is_revoked(folder: Path, name: AttemptName) -> bool:
    with contextlib.suppress(HoldfastError, OSError):  # nobody can tell at this moment
        return live_state(folder, name).kind == "revoked"
    return False


def waiting_lines(state: ExperimentState, folder: Path, params: Params) -> list[str]:
    """The section of what failed, and is to be tried again."""
    now = datetime.now(UTC)
    rows = [
        (
            index,
            (
                *(text.when(each.until), text.duration((each.until - now).total_seconds())),
                *(params_words(params, index), text.short(each.why), each.limits),
            ),
        )
        for index, each in waiting.waits(state, folder, now).items()
    ]
    if not rows:
        return []
    header = ("PROCESS", "NOT BEFORE", "IN", "PARAMETERS", "AFTER", "LIMITS")
    table = [(text.ranges(group), *row) for group, row in alike(state, rows)]
    return ["", text.bold("waiting for the next attempt"), *_table(header, table, numbers=3)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 5) -> list[str]:
    """*rows* without the columns in which none says anything, the first of which are numbers."""
    kept = [i for i, cells in enumerate(zip(*rows, strict=True)) if i < 3 or any(cells)]
    columns = [[row[i] for i in kept] for row in rows]
    right = [at for at, i in enumerate(kept) if i < numbers]
    return text.table([header[i] for i in kept], columns, right=right, indent="  ")


def decided(state: ExperimentState, folder: Path, now: datetime) -> "Sequence[Decision]":
    """What a resume would do with each process, as far as single attempts decide it."""
    from holdfast.config.experiment_file import Limits, Retry
    from holdfast.orchestration.configured import configuration
    from holdfast.orchestration.takeover import foresee
    from holdfast.orchestration.taking import Taking

    limits, retry, take = Limits(), Retry(), Taking()
    with contextlib.suppress(ConfigError):  # made by hand, or through the library
        experiment = configuration(state, folder.parent)
        limits, retry, take = experiment.limits, experiment.retry, Taking(experiment=experiment)
    return foresee(state, folder, now, limits, retry, take=take, verify=False).decisions
