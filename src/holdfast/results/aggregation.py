"""From the results of all processes to one: the table, its statistics, and the user's own command.

Owns `aggregate.json` and the input of the user's command. Running that command is the
orchestrator's, as for every attempt.
"""

import contextlib
import errno
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from holdfast.attempts import environment
from holdfast.attempts.names import AttemptName
from holdfast.errors import (
    AggregationError,
    ResultInvalidError,
    ResultLostError,
    StateCorruptError,
    StateWriteError,
    cause,
)
from holdfast.lifecycle.records import ExperimentState, ProcessProgress, ResultRef
from holdfast.results import acceptance, aggregate_file, rows, spending
from holdfast.results.averages import Statistics
from holdfast.results.going_on import GoingOn, always, check
from holdfast.status import ProcessStatus
from holdfast.store import strictjson
from holdfast.store.files import Files

__all__ = [
    "FILE_NAME",
    "SCHEMA",
    "build",
    "finish",
    "made_from",
    "partial_of",
    "prepare_inputs",
    "read",
    "remove_inputs",
    "table",
    "write",
]

SCHEMA: Final = "holdfast.aggregate/1"
FILE_NAME: Final = "aggregate.json"
_TABLE: Final = "table.json"

#: What is written at once.
_PART: Final = 1 << 20


def _rank(state: ExperimentState, index: int) -> dict[str, int]:
    return {} if state.ranks is None else {"rank": index % state.ranks.count}


def table(
    state: ExperimentState,
    folder: Path,
    params: Sequence[Mapping[str, Any]] = (),
    *,
    each: Callable[[Any], None] = lambda _: None,
    missing: list[dict[str, Any]] | None = None,
    only: int | None = None,
) -> Sequence[dict[str, Any]]:
    """One row per process, by index: parameters, attempts, host, durations and result.

    `duration_s` is that of the last attempt, `attempts_duration_s` of all of them together, None
    where the journals do not tell it. Every result is verified while it is read. `result` is None
    where a process wrote none. What is no finite number is None in it, and `nonfinite` says beside
    it what it was: `{"loss": "NaN"}`. Large results are read again when their row is asked for.

    Args:
        state: Whose processes.
        folder: The experiment's folder.
        params: The parameters of each process; none if it is shorter than its index.
        each: Called with every result as it was written, or its outline if it is large.
        missing: Where to put what there is of the processes that have no row: those that are not
            completed, and those whose results are lost. Without it, all are expected to be.
        only: The one process that is asked for; default all of them.

    Raises:
        ResultLostError: A recorded result is missing or altered.
        MemoryError: There is not enough memory to look at one.
    """
    made: list[Any] = []
    spent = spending.attempts_duration_s(state, folder)
    kept = 0
    for index, process in state.process_progress.items():
        if only not in (None, index):
            continue
        head = {
            "index": index,
            **_rank(state, index),
            "params": dict(params[index]) if index < len(params) else {},
            "attempts": process.attempt,
            "host": process.host,
            "duration_s": spending.duration_s(process),
            "attempts_duration_s": spent.get(index),
        }
        if missing is not None and process.status is not ProcessStatus.COMPLETED:
            missing.append(_missing(head, process, _why(process), lost=False))
            continue
        ref = process.result
        if ref is None:
            made.append(rows.make(head, None))
            each(None)
            continue
        large = ref.size >= acceptance.LARGE or kept + ref.size > rows.MOST_KEPT
        read = acceptance.outlined if large else acceptance.load
        again = partial(_read, read, state, folder, index)
        try:
            found = again()
        except ResultLostError as err:
            if missing is None:
                raise
            missing.append(_missing(head, process, f"its result {err.problem}", lost=True))
            continue
        if large:
            made.append(rows.of_outline(head, found, again))
            each(found.value)
        else:
            kept += ref.size
            made.append(rows.make(head, found))
            each(found)
    return made if all(type(row) is dict for row in made) else rows.Rows(made)


def _missing(
    head: dict[str, Any], process: ProcessProgress, why: str, *, lost: bool
) -> dict[str, Any]:
    return {
        "index": head["index"],
        "status": str(process.status),
        "why": why,
        "lost": lost,
        "row": head,
    }


def _why(process: ProcessProgress) -> str:
    if process.status is not ProcessStatus.FAILED:
        return "not completed yet" if process.attempt else "not begun"
    if process.error_message is not None:
        return process.error_message
    if process.signal is not None:
        return f"killed by signal {process.signal}"
    return f"exit code {process.exit_code}"


def _read(
    read: Callable[[Path, ResultRef], Any], state: ExperimentState, folder: Path, index: int
) -> Any:
    ref = state.process_progress[index].result
    assert ref is not None
    try:
        return read(folder, ref)
    except ResultInvalidError as err:
        raise ResultLostError(state.experiment_id, index, ref.path, err.problem) from err


def build(
    state: ExperimentState,
    folder: Path,
    params: Sequence[Mapping[str, Any]] = (),
    going_on: GoingOn = always,
) -> dict[str, Any]:
    """The built-in aggregate: rows and statistics, in the schema `holdfast.aggregate/1`.

    Nothing in it depends on when or where it is built, so that building it again after a crash
    gives the same. `value` is None; `finish` puts there what the user's command made.

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
    return _document(state, made, statistics)


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
    """As `build`, of the processes that are completed by now; nothing is stored of it.

    `partial` says whether some are missing, and `missing` which and why.

    Args:
        only: The one process that is asked for; default all of them.
    """
    statistics = Statistics()
    missing: list[dict[str, Any]] = []
    made = table(state, folder, params, each=statistics.add, missing=missing, only=only)
    return _document(state, made, statistics, partial=bool(missing), missing=missing)


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
            file.writelines(_json(aggregate, going_on))
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
            same = all(file.read(len(part)) == part for part in _json(aggregate, going_on))
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

    A command that wrote nothing leaves `value` None: it may have made
    files of its own.

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


def write(
    folder: Path,
    aggregate: Mapping[str, Any],
    going_on: GoingOn = always,
    *,
    files: Files | None = None,
) -> Path:
    """Make *aggregate* the whole content of `aggregate.json`; durable once it returns.

    Raises:
        StateWriteError: The file system refused. An older one is still there.
        GaveUpError: It was not to go on; likewise.
    """
    files = files or Files()
    path = folder / FILE_NAME
    now = "old"
    try:
        name = f".tmp-{secrets.token_hex(8)}"
        with files.directory(folder) as parent:
            try:
                fd = files.open_append(name, parent, exclusive=True)
                try:
                    for part in _json(aggregate, going_on):
                        files.write_all(fd, part)
                    files.fsync(fd)
                finally:
                    files.close(fd)
                files.rename(name, FILE_NAME, parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    files.unlink(name, parent)
                raise
            now = "unknown"
            # The directory too: a power cut could take the rename back.
            files.fsync(parent)
    except OSError as err:
        raise StateWriteError.of(path, "writing", err, stored=now) from err
    return path


def read(folder: Path) -> Mapping[str, Any] | None:
    """The stored aggregate; None if there is none yet.

    Raises:
        StateCorruptError: The file does not hold one.
    """
    path = folder / FILE_NAME
    remake = ("aggregate", folder.name)
    try:
        with Files().directory(folder) as parent:
            fd = Files().open_read(FILE_NAME, parent)
            try:
                value = aggregate_file.read(path, fd)
            finally:
                Files().close(fd)
    except FileNotFoundError:
        return None
    except OSError as err:
        # What may not be looked at, or not now, is not to be removed for that.
        wrong = err.errno not in (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE)
        problem = f"cannot be read: {cause(err)}"
        raise StateCorruptError(path, problem, remake if wrong else ()) from err
    except aggregate_file.NotJsonError as err:
        raise StateCorruptError(path, f"is not valid JSON: {err}", remake) from err
    except ValueError as err:
        raise StateCorruptError(path, str(err), remake) from err
    if not isinstance(value, Mapping) or value.get("schema") != SCHEMA:
        raise StateCorruptError(path, f"is not an aggregate in schema {SCHEMA}", remake)
    return value


def _json(aggregate: Mapping[str, Any], going_on: GoingOn) -> Iterator[bytes]:
    """The aggregate as JSON, in parts of about a megabyte."""
    held: list[bytes] = []
    size = 0
    for text in _texts(aggregate):
        held.append(text.encode("utf-8", "surrogatepass"))
        size += len(held[-1])
        if size >= _PART:
            check(going_on)
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _texts(aggregate: Mapping[str, Any]) -> Iterator[str]:
    # A row per line: for people and `grep`, and ten times faster than json's own indenting.
    encode = json.JSONEncoder(allow_nan=False).encode
    before = "{\n"
    for key in aggregate:
        yield f"{before} {encode(key)}: "
        before = ",\n"
        if key == "rows" and aggregate[key]:
            comma = "[\n  "
            for row in rows.encoded(aggregate[key]):
                yield comma
                yield row
                comma = ",\n  "
            yield "\n ]"
        elif key == "statistics" and aggregate[key]:
            numbers = aggregate[key].items()
            fields = (f"{encode(field)}: {encode(each)}" for field, each in numbers)
            yield "{\n  " + ",\n  ".join(fields) + "\n }"
        else:
            yield rows.encoded_member(aggregate, key)
    yield "\n}\n"
