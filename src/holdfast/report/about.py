"""What a page says besides numbers: failures with the ends of their logs, configuration, code."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from holdfast.attempts.reports import said_last
from holdfast.errors import Spell
from holdfast.lifecycle.records import ExperimentState
from holdfast.provenance import code as records
from holdfast.reading import grouping, text
from holdfast.reading.engines import HandedOver, engine_of, place
from holdfast.reading.evidence import tail
from holdfast.report.columns import bytes_of, cut
from holdfast.store.attempted import attempt_of

__all__ = ["MOST_GROUPS", "code", "config", "environment", "groups"]

MOST_GROUPS: Final = 50
_LINES: Final = 20
#: Bytes of a log, and of what is said besides it.
_LOG_BYTES: Final = 2_000
_LONGEST: Final = 300
#: Bytes of one section of texts.
_SECTION_BYTES: Final = 2_500
_MOST_CODES, _MOST_FILES = 3, 12
_DIGITS: Final = 12

Pairs = list[list[str]]


def groups(
    state: ExperimentState, folder: Path, found: Sequence[grouping.Group], command: Spell
) -> list[dict[str, Any]]:
    """Why processes failed, each with the end of one log."""
    return [
        {
            "words": cut(each.words, _LONGEST),
            "reason": None if each.reason is None else str(each.reason),
            "count": len(each.indices),
            "indices": cut(text.ranges(each.indices), _LONGEST),
            "sample": _sample(state, folder, each.sample_index, command),
        }
        for each in found[:MOST_GROUPS]
    ]


def _sample(state: ExperimentState, folder: Path, index: int, command: Spell) -> dict[str, Any]:
    name = attempt_of(state, index)
    path = said_last(folder, name, index)
    log = [] if path is None else tail(path, _LINES)
    while bytes_of(log) > _LOG_BYTES:
        log = log[1:] if len(log) > 1 else [cut(log[0], 300)]
    return {
        "index": index,
        "attempt": name.attempt,
        "log": log,
        "command": cut(command("logs", f"{state.experiment_id}/{index}"), _LONGEST),
    }


def config(state: ExperimentState) -> Pairs:
    """What was asked for, as it may stand in a file: `limits.timeout`, `"1h"`."""
    return _bounded(_settings(state.config, ""))


def _settings(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for key, value in table.items():
        name = f"{prefix}{key}"
        if name == "command" and isinstance(value, list):
            yield name, shlex.join(map(str, value[:200]))
        elif isinstance(value, Mapping) and value and not prefix:
            yield from _settings(value, f"{name}.")
        else:
            yield name, json.dumps(value, ensure_ascii=False, default=str)


def code(state: ExperimentState, folder: Path) -> Pairs:
    """What the last attempts ran with, the most frequent first; empty where none is recorded."""
    counts = Counter(each.code for each in state.processes.values() if each.code is not None)
    pairs: list[tuple[str, str]] = []
    for name, number in counts.most_common(_MOST_CODES):
        found = records.read(folder, name)
        if found is None:
            continue
        if len(counts) > 1:
            pairs.append(("ran with it", text.count(number, "process")))
        if found.git is not None and found.git.revision is not None:
            dirty = " with changes that are not committed" if found.git.dirty else ""
            pairs.append(("git revision", f"{found.git.revision}{dirty}"))
        if found.python is not None:
            pairs.append(("Python", found.python))
        files = {**found.files, **found.declared}
        for path, digest in list(files.items())[:_MOST_FILES]:
            what = f"sha256 {digest.sha256[:_DIGITS]}, " if digest.sha256 else ""
            pairs.append((path, f"{what}{text.size(digest.size)}"))
        if len(files) > _MOST_FILES:
            pairs.append(("…", f"{len(files) - _MOST_FILES:,} more files"))
    if len(counts) > _MOST_CODES:
        pairs.append(("…", f"{len(counts) - _MOST_CODES:,} more versions of the code"))
    return _bounded(pairs)


def environment(state: ExperimentState, folder: Path, having: HandedOver | None) -> Pairs:
    """Where it ran."""
    hosts = Counter(each.host for each in state.processes.values() if each.host is not None)
    named = ", ".join(f"{host} ({number:,})" for host, number in hosts.most_common(10))
    if len(hosts) > 10:
        named += f", … {len(hosts) - 10:,} more"
    engines = Counter(filter(None, map(engine_of, state.processes.values())))
    pairs = [
        ("hosts", named),
        ("engine", ", ".join(engines) if having is None else f"{having.title}: {having}"),
        ("jobs", place(state.processes[min(having.indices)]) if having is not None else ""),
        ("owner", "" if state.owner is None else str(state.owner)),
        ("runs in", state.cwd or ""),
        ("file", state.config_path or ""),
        ("folder", str(folder)),
        ("created", text.when(state.created_at)),
        ("started", text.when(state.started_at)),
        ("finished", text.when(state.finished_at)),
        ("configuration", (state.config_hash or "")[:16]),
    ]
    return _bounded((name, words) for name, words in pairs if words)


def _bounded(pairs: Iterable[tuple[str, str]]) -> Pairs:
    kept: Pairs = []
    budget, left = _SECTION_BYTES, 0
    for name, words in pairs:
        pair = [cut(name, 80), cut(words, 400)]
        budget -= bytes_of(pair)
        if budget < 0:
            left += 1
        else:
            kept.append(pair)
    return [*kept, ["…", f"{left:,} more"]] if left else kept
