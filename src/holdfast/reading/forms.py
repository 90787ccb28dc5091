"""JSON forms of what listings print, and the words that text forms share with them.

Every form names its schema, `holdfast.<what>/<version>`: keys are added, never changed.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from holdfast.config.durations import parse_duration, written
from holdfast.encoding import local
from holdfast.errors import HoldfastError
from holdfast.identity import Verdict
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.reading import text
from holdfast.reading.engines import HandedOver, handed_over, is_left
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store import encoding

if TYPE_CHECKING:
    from holdfast.store.catalog.summary import Summary
    from holdfast.store.manager import StateManager

__all__ = [
    "anew",
    "brief",
    "experiment",
    "next_step",
    "next_words",
    "plain",
    "print_json",
    "process",
    "status_words",
    "unreadable",
    "verdict",
]

Json = dict[str, Any]


def print_json(schema: str, content: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout: `{"schema": schema, …}`, a line for every item."""
    # Not `indent=`: that is Python's own encoder, which takes seconds for 100,000 experiments.
    parts = [f'{{\n  "schema": {_encode(schema)}']
    with text.delivering():
        for key, value in content.items():
            parts.append(f",\n  {_encode(key)}: ")
            if isinstance(value, Mapping) and _has_rows(value):
                for part in _with_rows(value):
                    sys.stdout.write("".join([*parts, part]))
                    parts.clear()
            elif isinstance(value, list) and value:
                inner = ",\n    ".join(map(_encode, value))
                parts.append(f"[\n    {inner}\n  ]")
            else:
                parts.append(_encode(value))
        sys.stdout.write("".join([*parts, "\n}\n"]))


_encode: Final = json.JSONEncoder(allow_nan=False).encode


def _has_rows(value: Mapping[str, Any]) -> bool:
    from holdfast.results.rows import Aggregate, Rows  # 20 ms, which a listing never needs

    return isinstance(value, Aggregate) or isinstance(value.get("rows"), Rows)


def _with_rows(aggregate: Mapping[str, Any]) -> Iterator[str]:
    """An aggregate as JSON, of whose rows one at a time is in memory."""
    from holdfast.results.rows import encoded, encoded_member

    before = "{"
    for key in aggregate:
        yield f"{before}{_encode(key)}: "
        before = ", "
        if key != "rows" or not aggregate[key]:
            yield encoded_member(aggregate, key)
            continue
        comma = "["
        for row in encoded(aggregate[key]):
            yield comma
            yield row
            comma = ", "
        yield "]"
    yield "}"


def plain(record: object, *names: str) -> Json:
    """These fields of *record*; times as text."""
    found = {name: getattr(record, name) for name in names}
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in found.items()}


def verdict(found: Verdict | None) -> Json | None:
    """Whether somebody lives, with the evidence."""
    return None if found is None else plain(found, "kind", "method", "compared", "observer")


def experiment(state: "ExperimentState | Summary", living: Verdict | None) -> Json:
    """One experiment in brief; *living* is its owner's verdict, where that was looked at."""
    return {
        **plain(state, "experiment_id", "name", "status", "reason", "error_message"),
        "num_processes": state.num_processes,
        "processes": {str(s): getattr(state, f"processes_{s}") for s in ProcessStatus},
        "reused": state.processes_reused,
        "owner": None if state.owner is None else encoding.identity_to_json(state.owner),
        "liveness": verdict(living),
        **plain(state, "config_hash", "created_at", "started_at", "finished_at", "last_updated"),
    }


def process(
    index: int,
    progress: ProcessProgress,
    params: Mapping[str, Any] | None,
    error: str | None,
    attempts_duration_s: float | None,
    reported: Json | None,
) -> Json:
    """One process: what the *error* of a failed one said, how long all its attempts took.

    Args:
        reported: How far it says that it is, while it runs; see `holdfast.reading.progress.form`.
    """
    one = ExperimentState(experiment_id="x", num_processes=1, process_progress={0: progress})
    stored: Json = encoding.state_to_json(one)["process_progress"]["0"]
    return {
        "index": index,
        "params": None if params is None else dict(params),
        **stored,
        "error": error,
        "attempts_duration_s": attempts_duration_s,
        "progress": reported,
    }


def unreadable(found: Iterable[tuple[Path, HoldfastError]]) -> list[Json]:
    """The files that hold no state."""
    return [
        {"path": str(path), "error": type(error).__name__, "message": str(error)}
        for path, error in found
    ]


def status_words(
    state: "ExperimentState | Summary", living: Verdict | None, having: HandedOver | None = None
) -> str:
    """`running`, `running (owner dead)`, `submitted`, `interrupted (user)`, `failed (exit)`.

    Args:
        having: What an engine has of it: without an owner, that goes on all the same.
    """
    why = None
    if state.status is ExperimentStatus.RUNNING:
        if having is not None and is_left(state, living):
            return "submitted"
        if living is not None and living.kind != "alive":
            why = f"owner {living.kind}"
    elif state.status in (ExperimentStatus.INTERRUPTED, ExperimentStatus.FAILED):
        why = state.reason
    return str(state.status) if why is None else f"{state.status} ({why})"


def brief(state: ExperimentState, living: Verdict | None = None) -> str:
    """`interrupted (user), 3 of 8 processes completed`; with its owner's verdict, `submitted`."""
    number = text.count(state.num_processes, "process")
    having = None if living is None else handed_over(state)
    words = status_words(state, None if having is None else living, having)
    return f"{words}, {state.processes_completed:,} of {number} completed"


def anew(state: ExperimentState) -> tuple[str, ...]:
    """The words of the command that makes a new experiment of the same work, as far as known."""
    file = None if state.config_path is None else local(state.config_path)
    if file is not None and Path(file).is_file():
        return ("run", "--fresh", file)
    command, number = state.config.get("command"), state.config.get("processes")
    ranks = state.config.get("ranks", 0)
    if (
        isinstance(command, list)
        and isinstance(number, int)
        and isinstance(ranks, int)
        and not state.config.get("env")
    ):
        counted = ("--ranks", str(ranks)) if ranks else ()
        return ("run", "--fresh", "--procs", str(number), *counted, "--", *map(str, command))
    return ("run", "--fresh", "FILE")


def next_words(state: ExperimentState, living: Verdict | None) -> tuple[str, ...] | None:
    """The command that takes the experiment further; None if there is nothing to do."""
    if state.status is ExperimentStatus.AGGREGATED:
        return None
    running = state.status is ExperimentStatus.RUNNING
    if living is not None and living.kind == "alive":
        return ("logs", "-f", state.experiment_id) if running else None
    if running and living is not None and living.kind == "unknown" and not is_left(state, living):
        return ("resume", "--force", state.experiment_id)
    if state.num_processes and state.can_aggregate():
        return "aggregate", state.experiment_id
    return ("resume", *_more_time(state), state.experiment_id)


def next_step(
    manager: "StateManager", state: ExperimentState, living: Verdict | None
) -> tuple[str, ...] | None:
    """As `next_words`, after a look at what outlived its owner.

    Raises:
        StateReadError: That cannot be told at this moment.
    """
    words = next_words(state, living)
    if words is not None and words[0] == "aggregate" and manager.survivors(state.experiment_id):
        # An aggregation is refused as long as something runs; a resume stops it first.
        return "resume", state.experiment_id
    return words


def _more_time(state: ExperimentState) -> tuple[str, ...]:
    """What gives an experiment that its deadline ended as much time again."""
    if state.reason is not Reason.DEADLINE or state.started_at is None:
        return ()
    limits = state.config.get("limits")
    try:
        given_s = parse_duration(limits["deadline"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return ()  # it was given for one run, and is in no record
    gone_s = (datetime.now(UTC) - state.started_at).total_seconds()
    return "--set", f"limits.deadline={written(math.ceil(max(gone_s, given_s) + given_s))}"
