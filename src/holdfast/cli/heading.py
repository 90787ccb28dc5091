"""What `holdfast show` says of a whole experiment: how it stands, and what it was told."""

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.encoding import local
from holdfast.errors import ConfigError
from holdfast.identity import Verdict
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import forms, glyphs, text
from holdfast.reading.engines import HandedOver, is_left
from holdfast.reading.times import began, elapsed_s, goes_on
from holdfast.status import ProcessStatus, Reason

if TYPE_CHECKING:
    from holdfast.reading.outliving import Outlived
    from holdfast.store.annotations import Annotations

__all__ = ["about", "heading"]

#: What of the file is shown as it stands there.
_TABLES: Final = (
    *("matrix", "env", "limits", "retry", "aggregate", "engine", "identity", "outputs"),
    *("store", "slots", "needs", "hooks"),
)
#: Processes that are named as soon as they are counted, and columns of their numbers.
_NAMED: Final = (ProcessStatus.RUNNING, ProcessStatus.FAILED)
_FEW: Final = 40
#: Columns of what stands alone in a line.
_LONG: Final = 500


def heading(
    state: ExperimentState,
    living: Verdict,
    having: HandedOver | None,
    annotations: "Annotations",
    remaining_s: float | None,
    left: "Outlived | None",
) -> list[str]:
    """Where it stands: status and why, how many of what, for how long, and who drives it."""
    title = text.one_line(state.experiment_id)
    if state.name and state.name != state.experiment_id:
        title += f"  {text.short(state.name, _LONG)}"
    words = "submitted" if having is not None and is_left(state, living) else str(state.status)
    coloured = text.coloured(sys.stdout)
    status = text.paint(glyphs.status(words), glyphs.style(words), coloured)
    if state.reason is not None:
        status += f" ({state.reason})"
    else:
        status += forms.status_words(state, living, having).removeprefix(words)
    if state.error_message:
        status += f": {text.short(state.error_message, _LONG)}"
    rows = [
        ("status", status),
        ("processes", _counts(state, having)),
        *([] if having is None else [(having.title, str(having))]),
        ("time", _time(state, living, having, remaining_s, left)),
        ("tags", text.one_line(" ".join(annotations.tags))),
        ("note", text.short(annotations.note or "", _LONG)),
        ("owner", _owner(state, living)),
    ]
    return [text.bold(title), *_rows(rows)]


def about(state: ExperimentState, folder: Path, state_dir: Path) -> list[str]:
    """What it was told to be, and where it is."""
    rows = [
        ("created", _moment(state.created_at)),
        ("started", _moment(state.started_at)),
        ("finished", _moment(state.finished_at)),
        *_config(state, state_dir),
        ("folder", text.one_line(folder)),
    ]
    return _rows(rows)


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{label:<10} {words}" for label, words in rows if words]


def _counts(state: ExperimentState, having: HandedOver | None) -> str:
    """`8: 2 pending, 3 with Slurm, 2 completed (1 reused), 1 failed (4)`."""
    found = {str(status): state.processes.count(status) for status in ProcessStatus}
    if having is not None:
        # Whether they wait, run or have ended is for the engine's own line to say.
        found["running"] -= having.number
        found = {"pending": found.pop("pending"), f"with {having.title}": having.number, **found}
    named = _NAMED if having is None else (ProcessStatus.FAILED,)
    more = {str(each): _which(state, each) for each in named if found[each]}
    if reused := state.processes_reused:
        more["completed"] = f" ({reused:,} reused)"
    counts = ", ".join(
        f"{number:,} {what}{more.get(what, '')}" for what, number in found.items() if number
    )
    return f"{state.num_processes:,}" + (f": {counts}" if counts else "")


def _which(state: ExperimentState, status: ProcessStatus) -> str:
    return f" ({text.short(text.ranges(state.processes.indices(status)), _FEW)})"


def _time(
    state: ExperimentState,
    living: Verdict,
    having: HandedOver | None,
    remaining_s: float | None,
    left: "Outlived | None",
) -> str:
    """`1h 06m so far, about 1h 03m left`; of what is over, how long it took."""
    on = goes_on(state, living, having)
    lasted = elapsed_s(began(state), state, datetime.now(UTC), on=on, left=left)
    if lasted is None and state.reason is Reason.STALE:
        return f"{glyphs.unknown()} (nobody saw when its owner died)"
    if lasted is None:
        return ""
    if not on:
        # What pending processes wait for, nobody knows: attempts run on, but nobody starts any.
        return text.duration(lasted) + (" so far" if left is not None and left.seen else "")
    to_go = "" if not remaining_s else f", about {text.duration(remaining_s)} left"
    return f"{text.duration(lasted)} so far{to_go}"


def _owner(state: ExperimentState, living: Verdict) -> str:
    if state.owner is None and state.subprocess_pid is None:
        return ""
    who = str(state.owner) if state.owner is not None else f"pid {state.subprocess_pid}"
    if state.owner is not None and state.owner.released:
        return f"none; the last was {text.one_line(who)}, which let it go"
    return text.one_line(f"{who}: {living}")


def _config(state: ExperimentState, state_dir: Path) -> list[tuple[str, str]]:
    config = state.config
    rows: list[tuple[str, str]] = []
    command = config.get("command")
    if isinstance(command, list):
        import shlex

        rows.append(("command", text.short(shlex.join(map(str, command)), _LONG)))
    if state.ranks is not None:
        together = "each for itself" if state.ranks.independent else "a gang"
        launchers = text.count(state.num_processes // state.ranks.count, "launcher")
        rows.append(("ranks", f"{state.ranks.count} of each command, {together}; {launchers}"))
    for key in _TABLES:
        part = config.get(key)
        if isinstance(part, Mapping) and part:
            rules = part.get("rule") if key == "retry" else None
            listed = [each for each in rules or () if isinstance(each, Mapping)]
            rest = {name: each for name, each in part.items() if not listed or name != "rule"}
            rows.append((key, _written(rest)))
            # The history calls them by their numbers.
            rows += [(f"rule {at}", _written(each)) for at, each in enumerate(listed, 1)]
    if state.config_path is not None:
        rows.append(("file", text.short(state.config_path, _LONG) + _changed(state, state_dir)))
    if state.cwd is not None:
        rows.append(("runs in", text.short(state.cwd, _LONG)))
    if state.config_hash is not None:
        rows.append(("hash", text.one_line(state.config_hash[:16])))
    return rows


def _written(table: Mapping[str, object]) -> str:
    """*table* as it may stand in the file; what a terminal cannot show is escaped."""
    values = {
        name: "none" if each is None else json.dumps(each, ensure_ascii=False)
        for name, each in table.items()
    }
    return text.short(", ".join(f"{name} = {each}" for name, each in values.items()), _LONG)


def _changed(state: ExperimentState, state_dir: Path) -> str:
    """In which limits the experiment's file differs by now from what is stored, and shown."""
    from holdfast.config.experiment_file import load_config

    try:
        # A pipe (`run <(make_file)`) would be waited for.
        path = Path(local(state.config_path or ""))
        if not path.is_file():
            return ""
        now = load_config(path)
        if state.config_hash not in now.config_hashes(state_dir):
            return ""  # changed, moved, or run with --set: another experiment's by now
    except (ConfigError, OSError, ValueError):
        return ""
    other = " and ".join(now.differs_in(state.config))
    return f" (has other {other} by now: `run` uses those, `resume` these)" if other else ""


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{text.when(at)} ({text.age(at)})"
