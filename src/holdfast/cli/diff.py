"""`holdfast diff`: how two experiments differ in configuration, code, environment and results."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import click

from holdfast.cli.addressing import resolve
from holdfast.cli.app import complete_id, in_state_dir, json_option
from holdfast.cli.where import Where
from holdfast.errors import ResultInvalidError, StateReadError
from holdfast.lifecycle.records import ExperimentState
from holdfast.provenance import code as records
from holdfast.reading import forms, text
from holdfast.reading.cells import cell, flat
from holdfast.reading.differences import Difference, between, of_words
from holdfast.results import acceptance, rows
from holdfast.results.outline import Elided
from holdfast.status import ProcessStatus

__all__ = ["diff"]

SCHEMA: Final = "holdfast.diff/1"

#: Rows of results, and lines of any other section, that are shown.
_MOST_ROWS: Final = 50
_MOST_LINES: Final = 50
_MOST_INDICES: Final = 100
_REVISION: Final = 12


@attrs.frozen(kw_only=True)
class _Side:
    """One of both experiments."""

    state: ExperimentState
    folder: Path


@attrs.frozen(kw_only=True)
class _Results:
    """How the results compare.

    Attributes:
        pairs: Processes of the same work, or else of the same index, that both completed.
        differing: Of each pair whose results differ, the fields that do.
        only: Completed processes that have no partner, in A and in B.
    """

    pairs: int
    differing: list[dict[str, Any]]
    only: tuple[list[int], list[int]]


@click.command()
@json_option
@click.argument("a", metavar="A", shell_complete=complete_id)
@click.argument("b", metavar="B", shell_complete=complete_id)
@in_state_dir
def diff(where: Where, a: str, b: str, as_json: bool) -> int:
    """Say what differs between the experiments A and B: configuration, code, environment, results.

    Processes are compared if they did the same work, else if they have the same number; results
    field by field. As of diff(1), the exit code is 0 if nothing differs and 1 if something does;
    when things were run, and for how long, counts for nothing. `--json` has every row.
    """
    manager = where.manager()
    first, second = (
        _Side(state=manager.load(found), folder=manager.folder(found))
        for found in (resolve(manager, a), resolve(manager, b))
    )
    sections = {
        "configuration": list(_configuration(first.state, second.state)),
        "code": list(_code(first, second)),
        "environment": list(_environment(first, second)),
    }
    results = _results(first, second)
    differs = any(sections.values()) or bool(results.differing) or any(results.only)
    if as_json:
        _print_json(first, second, sections, results, differs=differs)
    else:
        text.emit(_lines(where, first, second, sections, results))
        text.flush()
        if not differs:
            text.say("nothing differs")
    return int(differs)


# -- what differs ---------------------------------------------------------------------------------


def _configuration(a: ExperimentState, b: ExperimentState) -> Iterator[Difference]:
    """What was written down, key by key; `[env]` is told with the environment."""
    old, new = (
        {k: v for k, v in each.config.items() if k not in ("env", "command", "format")}
        for each in (a, b)
    )
    before, now = a.config.get("command"), b.config.get("command")
    if isinstance(before, list) and isinstance(now, list):
        yield from of_words(before, now)
    elif before != now:
        yield Difference("command", before, now)
    yield from between(old, new)
    if a.num_processes != b.num_processes:
        yield Difference("number of processes", a.num_processes, b.num_processes)
    if a.cwd != b.cwd:
        yield Difference("runs in", a.cwd, b.cwd)


class _Code:
    """What the completed processes of an experiment ran with, by what it is about."""

    def __init__(self, side: _Side) -> None:
        self.files: dict[str, set[str]] = {}
        self.git: set[str] = set()
        self.python: set[str] = set()
        self.unrecorded = 0
        counts = Counter(each.code for each in _completed(side.state).values())
        for name, number in counts.items():
            found = None if name is None else records.read(side.folder, name)
            if found is None:
                self.unrecorded += number
                continue
            for path, digest in (*found.files.items(), *found.declared.items()):
                content = digest.sha256 or f"{digest.size:,} bytes, modified at {digest.mtime_ns}"
                self.files.setdefault(path, set()).add(content)
            if found.git is not None:
                dirty = " (dirty)" if found.git.dirty else ""
                self.git.add(f"{found.git.revision or 'no commit'}{dirty}")
            if found.python is not None:
                self.python.add(found.python)


def _completed(state: ExperimentState) -> dict[int, Any]:
    return {i: state.processes[i] for i in state.processes.indices(ProcessStatus.COMPLETED)}


def _code(a: _Side, b: _Side) -> Iterator[Difference]:
    old, new = _Code(a), _Code(b)
    for path in dict.fromkeys((*old.files, *new.files)):
        was, now = old.files.get(path, set()), new.files.get(path, set())
        if was != now:
            yield Difference(path, _several(was), _several(now))
    if old.git != new.git:
        yield Difference("git", _several(old.git), _several(new.git))
    if old.unrecorded != new.unrecorded:
        yield Difference("processes of unknown code", old.unrecorded, new.unrecorded)


def _environment(a: _Side, b: _Side) -> Iterator[Difference]:
    before, now = (each.state.config.get("env") for each in (a, b))
    old, new = (each if isinstance(each, Mapping) else {} for each in (before, now))
    yield from between(old, new, "env.")
    pythons = tuple(_several(_Code(each).python) for each in (a, b))
    if pythons[0] != pythons[1]:
        yield Difference("Python", *pythons)
    hosts = tuple(
        _several({each.host for each in _completed(side.state).values() if each.host})
        for side in (a, b)
    )
    if hosts[0] != hosts[1]:
        yield Difference("hosts", *hosts)


def _several(values: Iterable[str]) -> str | None:
    """What is one in most cases: itself, or all of them; None for none."""
    return ", ".join(sorted(values)) or None


def _results(a: _Side, b: _Side) -> _Results:
    pairs, only_a, only_b = _paired(a.state, b.state)
    differing = []
    for old, new in pairs:
        was, now = a.state.processes[old].result, b.state.processes[new].result
        if (was and was.sha256) == (now and now.sha256):
            continue
        fields = list(_fields(_read(a, old), _read(b, new)))
        if fields:
            differing.append({"a": old, "b": new, "fields": fields})
    return _Results(pairs=len(pairs), differing=differing, only=(only_a, only_b))


def _paired(
    a: ExperimentState, b: ExperimentState
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Completed processes that did the same work, one to one; else those of the same index."""
    ours, theirs = _completed(a), _completed(b)
    by_work: dict[str, list[int]] = {}
    for index, process in reversed(theirs.items()):
        if process.work is not None:
            by_work.setdefault(process.work, []).append(index)
    pairs = [
        (index, by_work[process.work].pop())
        for index, process in ours.items()
        if by_work.get(process.work or "")
    ]
    left = ours.keys() - {old for old, _ in pairs}
    free = theirs.keys() - {new for _, new in pairs}
    # Where works are known of both, other work is not the same process.
    unknown = {i for i in left & free if ours[i].work is None or theirs[i].work is None}
    same = unknown if pairs or len(unknown) < len(left & free) else left & free
    if not pairs:
        same = left & free
    pairs += [(index, index) for index in same]
    return sorted(pairs), sorted(left - same), sorted(free - same)


def _read(side: _Side, index: int) -> Mapping[str, Any]:
    """What there is to see of a result, as a row has it; in words where it cannot be read."""
    ref = side.state.processes[index].result
    if ref is None:
        return {"result": None}
    try:
        if ref.size >= acceptance.LARGE:
            return {"result": acceptance.outlined(side.folder, ref).value}
        return rows.make({}, acceptance.load(side.folder, ref))
    except ResultInvalidError as err:
        return {"result": f"({err.problem})"}
    except OSError as err:
        raise StateReadError.of(side.folder / ref.path, "reading", err) from err


def _fields(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    old, new = flat(before), flat(now)
    for name in dict.fromkeys((*old, *new)):
        was, is_now = old.get(name), new.get(name)
        # Two long lists may begin alike, and only their digest tells that they differ.
        long = isinstance(was, Elided) or isinstance(is_now, Elided)
        if was == is_now and type(was) is type(is_now) and not long:
            continue
        found = {"field": name, "a": was, "b": is_now}
        if isinstance(was, int | float) and isinstance(is_now, int | float):
            found["difference"] = is_now - was
        yield found


# -- how it is told -------------------------------------------------------------------------------


def _print_json(
    a: _Side,
    b: _Side,
    sections: Mapping[str, list[Difference]],
    results: _Results,
    *,
    differs: bool,
) -> None:
    forms.print_json(
        SCHEMA,
        {
            "a": a.state.experiment_id,
            "b": b.state.experiment_id,
            "differs": differs,
            **{
                name: [{"what": each.what, "a": each.was, "b": each.now} for each in found]
                for name, found in sections.items()
            },
            "compared": results.pairs,
            "results": results.differing,
            "only_in_a": results.only[0],
            "only_in_b": results.only[1],
        },
    )


def _lines(
    where: Where,
    a: _Side,
    b: _Side,
    sections: Mapping[str, list[Difference]],
    results: _Results,
) -> list[str]:
    lines: list[str] = []
    whole = where.command("diff", "--json", a.state.experiment_id, b.state.experiment_id)
    for name, found in sections.items():
        if not found:
            continue
        lines += ["", text.bold(name)]
        lines += [f"  {_shortened(each)}" for each in found[:_MOST_LINES]]
        if len(found) > _MOST_LINES:
            lines.append(f"  … {len(found) - _MOST_LINES:,} more: {whole}")
    if results.differing or any(results.only):
        lines += ["", text.bold("results")]
        lines += _table(results, whole)
    return lines[1:]


def _shortened(found: Difference) -> Difference:
    """Digests and revisions as long as people compare them."""
    return attrs.evolve(found, was=_digits(found.was), now=_digits(found.now))


def _digits(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    words = value.split(" ")
    hexadecimal = "0123456789abcdef"
    return " ".join(
        w[:_REVISION] if len(w) >= 40 and not w.strip(hexadecimal + ",") else w for w in words
    )


def _table(results: _Results, whole: str) -> list[str]:
    alike = results.pairs - len(results.differing)
    lines = [
        f"  {alike:,} of {text.count(results.pairs, 'process')} that both completed "
        f"{'has' if alike == 1 else 'have'} the same result"
    ]
    cells = (
        (
            str(each["a"]) if each["a"] == each["b"] else f"{each['a']}, {each['b']}",
            text.one_line(field["field"]),
            cell(field["a"]),
            cell(field["b"]),
            f"{field['difference']:+.6g}" if "difference" in field else "",
        )
        for each in results.differing
        for field in each["fields"]
    )
    shown = list(itertools.islice(cells, _MOST_ROWS))
    if shown:
        header = ("PROCESS", "FIELD", "A", "B", "DIFFERENCE")
        table = text.table(header, shown, right=(0, 2, 3, 4), indent="  ", more=whole)
        lines += table
    rest = sum(len(each["fields"]) for each in results.differing) - len(shown)
    if rest:
        lines.append(f"  … {rest:,} more: {whole}")
    for name, indices in zip("AB", results.only, strict=True):
        if indices:
            which = text.short(text.ranges(indices), _MOST_INDICES)
            lines.append(f"  only in {name}: {text.count(len(indices), 'process')} ({which})")
    return lines
