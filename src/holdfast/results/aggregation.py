"""From the results of all processes to one: the table, its statistics, and the user's own command.

Owns the input of the user's command. Running that command is the orchestrator's, as for every
attempt.
"""

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from holdfast.attempts import environment
from holdfast.attempts.names import AttemptName
from holdfast.errors import (
    AggregationError,
    ResultInvalidError,
    ResultLostError,
    StateWriteError,
)
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, ResultRef
from holdfast.provenance.code import Code
from holdfast.results import acceptance, inputs, rows, spending
from holdfast.results.aggregate_file import FILE_NAME, SCHEMA, encoded, read, write
from holdfast.results.averages import Statistics
from holdfast.results.going_on import GoingOn, always, check
from holdfast.status import ProcessStatus
from holdfast.store import strictjson

__all__ = [
    "FILE_NAME",
    "SCHEMA",
    "build",
    "finish",
    "how_it_ended",
    "made_from",
    "partial_of",
    "prepare_inputs",
    "read",
    "remove_inputs",
    "table",
    "write",
]

_TABLE: Final = "table.json"


def _rank(state: ExperimentState, index: int) -> dict[str, int]:
    return {} if state.ranks is None else {"rank": index % state.ranks.count}


def table(
    state: ExperimentState,
    folder: Path,
    params: Sequence[Mapping[str, Any]] = (),
    *,
    each: Callable[[Any], None] = lambda _: None,
    missing: list[dict[str, Any]] | None = None,
    only: int | Collection[int] | None = None,
) -> Sequence[dict[str, Any]]:
    """One row per process, by index: parameters, attempts, host, code, durations and result.

    `code` names the record of what the last attempt ran with, `reused` says who did the work where
    that was another experiment; how long it took there is not known here. `duration_s` is that of
    the last attempt, `attempts_duration_s` of all of them together, None where the journals do not
    tell it. Every result is verified while it is read. `result` is None where a process wrote none.
    What is no finite number is None in it, and `nonfinite` says beside it what it was: `{"loss":
    "NaN"}`. Large results are read again when their row is asked for.

    Args:
        params: The parameters of each process; none if it is shorter than its index.
        each: Called with every result as it was written, or its outline if it is large.
        missing: Where to put what there is of the processes that have no row: those that are not
            completed, and those whose results are lost. Without it, all are expected to be.
        only: The process, or those, that are asked for; default all of them.

    Raises:
        ResultLostError: A recorded result is missing or altered.
        MemoryError: There is not enough memory to look at one.
    """
    made: list[Any] = []
    only = (only,) if isinstance(only, int) else only
    spent = spending.attempts_duration_s(state, folder)
    kept = 0
    for index, process in state.process_progress.items():
        if only is not None and index not in only:
            continue
        head = {
            "index": index,
            **_rank(state, index),
            "params": dict(params[index]) if index < len(params) else {},
            "attempts": process.attempt,
            "host": process.host,
            "code": process.code,
            "reused": inputs.origin(state, index),
            "duration_s": spending.duration_s(process),
            "attempts_duration_s": spent.get(index),
        }
        if missing is not None and process.status is not ProcessStatus.COMPLETED:
            missing.append(_missing(head, process.status, _why(process), lost=False))
            continue
        ref = process.result
        if ref is None:
            made.append(rows.make(head, None))
            each(None)
            continue
        large = ref.size >= acceptance.LARGE or kept + ref.size > rows.MOST_KEPT
        look = acceptance.outlined if large else acceptance.load
        again = partial(_read, look, state, folder, index)
        try:
            found = again()
        except ResultLostError as err:
            if missing is None:
                raise
            missing.append(_missing(head, process.status, f"its result {err.problem}", lost=True))
            continue
        if large:
            made.append(rows.of_outline(head, found, again))
            each(found.value)
        else:
            kept += ref.size
            made.append(rows.make(head, found))
            each(found)
    return made if all(type(row) is dict for row in made) else rows.Rows(made)


def _missing(head: dict[str, Any], status: str, why: str, *, lost: bool) -> dict[str, Any]:
    return {"index": head["index"], "status": str(status), "why": why, "lost": lost, "row": head}


def _why(process: ProcessProgress) -> str:
    if process.status is ProcessStatus.FAILED:
        return how_it_ended(process)
    return "not completed yet" if process.attempt else "not begun"


def how_it_ended(process: ProcessProgress) -> str:
    """What is recorded of the end of the last attempt of a *process*, in words."""
    if process.error_message:
        return process.error_message
    if process.signal is not None:
        return f"killed by signal {process.signal}"
    if process.exit_code is not None:
        return f"exit code {process.exit_code}"
    return "no reason recorded" if process.reason is None else process.reason.replace("_", " ")


def _read(
    look: Callable[[Path, ResultRef], Any], state: ExperimentState, folder: Path, index: int
) -> Any:
    ref = state.process_progress[index].result
    assert ref is not None
    try:
        return look(folder, ref)
    except ResultInvalidError as err:
        raise ResultLostError(state.experiment_id, index, ref.path, err.problem) from err
    except ValueError as err:
        # Recorded by something that did not check it: a claim of the user's own.
        problem = f"cannot be read: {err}"
        raise ResultLostError(state.experiment_id, index, ref.path, problem) from err


def build(
    state: ExperimentState,
    folder: Path,
    params: Sequence[Mapping[str, Any]] = (),
    going_on: GoingOn = always,
    *,
    code: Code | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The built-in aggregate: rows and statistics, in the schema `holdfast.aggregate/1`.

    Nothing in it depends on when or where it is built, so that building it again after a crash
    gives the same. `value` is None; `finish` puts there what the user's command made.

    Args:
        code: What that command is to run with: one that has run with another is no more taken for
            it, see `made_from`.
        command: That command; None without one.

    Raises:
        ResultLostError: A recorded result is missing or altered.
        MemoryError: There is not enough memory to look at one.
        GaveUpError: It was not to go on.
    """
    statistics = Statistics()

    def each(result: Any) -> None:
        check(going_on)
        statistics.add(result)

    made = table(state, folder, params, each=each)
    return _document(
        state,
        made,
        statistics,
        inputs=inputs.of_state(state, folder, aggregation=code, command=command),
    )


def _document(
    state: ExperimentState, made: Sequence[dict[str, Any]], statistics: Statistics, **more: object
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "experiment_id": state.experiment_id,
        "name": state.name,
        "config_hash": state.config_hash,
        "num_processes": state.num_processes,
        **more,
        "rows": made,
        "statistics": statistics.described(),
        "value": None,
    }


def partial_of(
    state: ExperimentState,
    folder: Path,
    params: Sequence[Mapping[str, Any]] = (),
    *,
    only: int | None = None,
) -> dict[str, Any]:
    """As `build`, of the processes that are completed by now, or *only* of one; nothing is stored.

    `partial` says whether some are missing, and `missing` which and why.
    """
    statistics = Statistics()
    missing: list[dict[str, Any]] = []
    made = table(state, folder, params, each=statistics.add, missing=missing, only=only)
    lost = {each["index"] for each in missing}
    if only is not None:
        lost.update(index for index in state.process_progress if index != only)
    found = inputs.of_state(state, folder, without=lost)
    return _document(state, made, statistics, inputs=found, partial=bool(missing), missing=missing)


def prepare_inputs(
    state: ExperimentState,
    folder: Path,
    aggregate: Mapping[str, Any],
    name: AttemptName,
    going_on: GoingOn = always,
) -> dict[str, str]:
    """Lay out what the user's command needs; the variables that tell it where.

    - `HOLDFAST_RESULTS`: a directory that holds exactly the accepted results, `<index>.json` each.
      What failed attempts wrote stays out. They are copies: a command that edits its inputs must
      not destroy the results of hours.
    - `HOLDFAST_TABLE`: a JSON file, *aggregate* as `build` made it.
    - `HOLDFAST_RESULT`: the file that it may write its own value to.

    Raises:
        StateWriteError: The file system refused.
        GaveUpError: It was not to go on; what is there is removed by the next attempt.
    """
    inputs = _inputs(folder, name)
    try:
        # Left by a crash in the middle of just this; what cannot be removed must not be mixed in.
        if inputs.exists():
            shutil.rmtree(inputs)
        accepted = inputs / "results"
        accepted.mkdir(parents=True)
        for index, process in state.process_progress.items():
            check(going_on)
            if process.result is not None:
                acceptance.copy(folder, process.result, accepted / f"{index}.json")
        listed = inputs / _TABLE
        with listed.open("wb") as file:
            file.writelines(encoded(aggregate, going_on))
    except OSError as err:
        raise StateWriteError.of(inputs, "preparing the aggregation", err) from err
    acceptance.prepare(folder)
    return {
        environment.RESULTS: str(accepted.absolute()),
        environment.TABLE: str(listed.absolute()),
        environment.RESULT: str(acceptance.path_of(folder, name).absolute()),
    }


def made_from(
    folder: Path, aggregate: Mapping[str, Any], name: AttemptName, going_on: GoingOn = always
) -> bool:
    """Whether the attempt *name* of the user's command was given just this *aggregate*.

    Results can be made again after it was, and clocks be set back: only what it was given tells.
    False where that cannot be told; it costs no more than another attempt.
    """
    try:
        with (_inputs(folder, name) / _TABLE).open("rb") as file:
            same = all(file.read(len(part)) == part for part in encoded(aggregate, going_on))
            return same and not file.read(1)
    except (OSError, ValueError):
        return False


def remove_inputs(folder: Path, name: AttemptName) -> None:
    """Remove what the user's command was given, as far as that can be removed.

    Not before the experiment is recorded as aggregated: after a crash, only they tell that the
    outcome of the command can be taken up.
    """
    shutil.rmtree(_inputs(folder, name), ignore_errors=True)


def _inputs(folder: Path, name: AttemptName) -> Path:
    return folder / f"aggregation.{name.attempt}"


def finish(
    state: ExperimentState, folder: Path, aggregate: Mapping[str, Any], name: AttemptName
) -> Mapping[str, Any]:
    """The aggregate with what the user's command wrote, which is durable then.

    A command that wrote nothing leaves `value` None: it may have made files of its own.

    Raises:
        AggregationError: What it wrote is not valid JSON.
        StateWriteError: The file system refused.
    """
    try:
        written = acceptance.accept(folder, name)
        if written is None:
            return {**aggregate, "value": None}
        if written.size >= acceptance.LARGE:
            again = partial(acceptance.outlined, folder, written)
            found = again()
            more = {"nonfinite": found.nonfinite} if found.nonfinite else {}
            return rows.with_value({**aggregate, "value": None, **more}, found, again)
        value = acceptance.load(folder, written)
    except ResultInvalidError as err:
        raise AggregationError(state.experiment_id, str(err)) from err
    whole = {**aggregate, "value": strictjson.strict(value)}
    if named := strictjson.nonfinite(value):
        whole["nonfinite"] = named
    return whole
