"""What `holdfast show` says of results: of all processes, or of one."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from holdfast.cli.aggregates import aggregate_lines, notes
from holdfast.cli.failures import told
from holdfast.cli.partial import missing_lines, title
from holdfast.cli.running import decided
from holdfast.cli.where import Where
from holdfast.errors import HoldfastError
from holdfast.identity import Verdict
from holdfast.lifecycle.records import ExperimentState, ProcessProgress
from holdfast.orchestration.surveying import lost_results
from holdfast.provenance import code as records
from holdfast.reading import forms, glyphs, progress, reasons, seen, text
from holdfast.reading.cells import cell, flat
from holdfast.reading.engines import place, usage_words, waited
from holdfast.reading.evidence import parameters
from holdfast.reading.waiting import limits_words
from holdfast.results import aggregation, rows
from holdfast.status import ExperimentStatus, ProcessStatus

__all__ = ["found", "process_page", "remaking", "result_lines"]

_MOST_FIELDS: Final = 50
#: Digits of an identity that are enough for people.
_SHORT: Final = 12
#: Files of a code record that are named.
_MOST_FILES: Final = 5


def found(state: ExperimentState, folder: Path) -> Mapping[str, Any] | None:
    """The aggregate, or what is completed by now; None if nothing is. Raises StateCorruptError."""
    if state.status is ExperimentStatus.AGGREGATED:
        return aggregation.read(folder)
    if all(process.result is None for process in state.process_progress.values()):
        return None
    return aggregation.partial_of(state, folder, parameters(state) or ())


def result_lines(where: Where, state: ExperimentState, folder: Path) -> list[str]:
    """The section `result` of the page, if there is anything to say."""
    try:
        aggregate = found(state, folder)
    except HoldfastError as err:
        text.say(told(err, where), "warning")
        return []
    if state.status is ExperimentStatus.AGGREGATED:
        if aggregate is None:
            lost = text.ranges(list(lost_results(state, folder)))
            results = f", and the results of processes {lost} are lost" if lost else ""
            return ["", text.bold("result"), f"  aggregate.json is missing{results}"]
        heading, missing = "result", []
    elif aggregate is None:
        return ["", *_odd(state, None)] if state.processes_completed else []
    else:
        heading, missing = f"result ({title(aggregate)})", missing_lines(aggregate)
        seen.mark(folder)
    lines = aggregate_lines(aggregate, where, indent="  ")
    return ["", text.bold(heading), *lines, *missing, *_odd(state, aggregate)]


def _odd(state: ExperimentState, aggregate: Mapping[str, Any] | None) -> list[str]:
    return [f"  {note}" for note in notes(state, aggregate)]


def remaking(state: ExperimentState, folder: Path) -> tuple[str, ...] | None:
    """What makes the result of an aggregated experiment again; None if it is there."""
    if (folder / aggregation.FILE_NAME).exists():
        return None
    return forms.anew(state) if lost_results(state, folder) else ("aggregate", state.experiment_id)


def process_page(
    where: Where,
    state: ExperimentState,
    folder: Path,
    index: int,
    living: Verdict,
    *,
    as_json: bool,
) -> None:
    """Print what there is to know of one process; *living* is the verdict on the owner."""
    process = state.processes[index]
    failed = None
    if process.status is ProcessStatus.FAILED:
        failed = reasons.failure(folder, state, index)
    standing = progress.standings(state, folder, datetime.now(UTC), only=index).get(index)
    aggregate = aggregation.partial_of(state, folder, parameters(state) or (), only=index)
    made = aggregate["rows"]
    name = f"{state.experiment_id}/{index}"
    if as_json:
        params = parameters(state)
        form = forms.process(
            index,
            process,
            None if params is None else params[index],
            None if failed is None else failed.error,
            None,
            progress.form(standing),
        )
        content = {"experiment_id": state.experiment_id, "process": form, "aggregate": aggregate}
        forms.print_json("holdfast.process/1", content)
        return
    row = next(rows.outlines(made), None) or aggregate["missing"][0]["row"]
    facts = [
        ("status", glyphs.status(process.status) + ("" if failed is None else f": {failed}")),
        ("attempts", "" if process.origin and not process.attempt else str(process.attempt)),
        ("reused", "" if process.origin is None else f"from {text.short(process.origin)}"),
        ("now", _now(state, folder, index, living)),
        ("engine", _there(process)),
        ("host", text.short(process.host or "")),
        ("submitted", text.when(process.submitted_at)),
        ("started", text.when(process.started_at)),
        ("ended", text.when(process.completed_at)),
        ("not before", text.when(process.not_before)),
        ("limits", limits_words(state, process)),
        ("used", _used(state, process)),
        ("progress", _progress(standing)),
        ("work", text.short((process.work or "")[:_SHORT])),
        ("code", _code(folder, process.code)),
        ("outputs", text.short(", ".join(each.path for each in process.outputs))),
    ]
    facts += [(text.short(key, 40), cell(each)) for key, each in row["params"].items()]
    lines = [text.bold(text.short(name))]
    lines += [f"{label:<10} {words}" for label, words in facts if words]
    values = list(flat(row).items())
    if values:
        lines += ["", text.bold("result")]
        lines += [
            f"  {text.short(key, 60):<10} {cell(each)}" for key, each in values[:_MOST_FIELDS]
        ]
        lines += ["", f"whole: {where.command('export', '--jsonl', name)}"]
        if state.num_processes == 1:
            seen.mark(folder)
    lines += [f"logs: {where.command('logs', name)}"]
    text.emit(lines)


def _now(state: ExperimentState, folder: Path, index: int, living: Verdict) -> str:
    """What became of what was running when its owner was last heard of."""
    process = state.processes[index]
    if living.kind == "alive" or process.status is not ProcessStatus.RUNNING or process.handle:
        return ""
    return text.short(decided(state, folder, datetime.now(UTC))[index].why)


def _used(state: ExperimentState, process: ProcessProgress) -> str:
    words = usage_words(process)
    return f"{words} (its launcher, with all ranks)" if words and state.rank_count else words


def _there(process: ProcessProgress) -> str:
    """`queued for 5m: Slurm job 12_3`."""
    words = waited(process, datetime.now(UTC)), place(process)
    return ": ".join(filter(None, words))


def _progress(standing: progress.Standing | None) -> str:
    """`3/90 3%, 2m 10s left, last report 1.2 s ago: loss=0.1`."""
    if standing is None:
        return ""
    steps, left, beat = progress.cells(standing)
    age, _, stalled = beat.partition(", ")
    words = [steps, f"{left} left" if left else "", f"last report {age} ago", stalled]
    said = progress.said(standing.progress)
    return ", ".join(filter(None, words)) + (f": {said}" if said else "")


def _code(folder: Path, name: str | None) -> str:
    """`train.py 3f2a91c0d4e5, Python 3.12.1, git 1a2b3c4d5e6f (dirty)`."""
    found = None if name is None else records.read(folder, name)
    if found is None:
        return ""
    words = [
        f"{text.short(path, 60)} {(digest.sha256 or '')[:_SHORT]}".rstrip()
        for path, digest in (*found.files.items(), *found.declared.items())
    ]
    if len(words) > _MOST_FILES:
        words[_MOST_FILES:] = [f"{len(words) - _MOST_FILES:,} more files"]
    if found.python is not None:
        words.append(f"Python {found.python}")
    if found.git is not None:
        dirty = " (dirty)" if found.git.dirty else ""
        words.append(f"git {(found.git.revision or 'without a commit')[:_SHORT]}{dirty}")
    return text.short(", ".join(words), 500)
