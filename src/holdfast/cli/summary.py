"""How a run ended, as Markdown for the page of a GitHub Actions job.

Where `GITHUB_STEP_SUMMARY` names a file, every command that waits for an end appends to it. A file
that cannot be written is only warned about.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from holdfast.attempts.reports import said_last
from holdfast.cli.where import Where
from holdfast.errors import HoldfastError
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import forms, glyphs, grouping, reasons, text, times
from holdfast.reading.cells import cell, flat
from holdfast.reading.evidence import Params, parameters, params_words, tail
from holdfast.results import aggregation, rows
from holdfast.status import ProcessStatus
from holdfast.store.attempted import attempt_of

__all__ = ["append"]

_VARIABLE: Final = "GITHUB_STEP_SUMMARY"
#: A job whose page has more than 1 MiB loses all of it; the steps before have written some.
_LIMIT: Final = 900_000
_MOST_GROUPS: Final = 20
_MOST_ROWS: Final = 20
_MOST_COLUMNS: Final = 12
_LOG_LINES: Final = 10
_CELL: Final = 100

_MARKUP: Final = re.compile(r"[\\`*_{}\[\]#|~$]")
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def append(where: Where, state: ExperimentState, message: str) -> None:
    """Append how *state* ended, in one sentence and in tables; nothing where nobody asked for it.

    Args:
        message: The sentence.
    """
    named = os.environ.get(_VARIABLE)
    if not named:
        return
    try:
        path = Path(named)
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no file")  # a FIFO would wait for a reader
        room = _LIMIT - (path.stat().st_size if path.exists() else 0)
        whole = _fitting(_parts(where, state, message), room).encode("utf-8", "replace")
        with path.open("ab") as file:
            file.write(whole)
    except (HoldfastError, OSError, MemoryError, ValueError) as err:
        # The experiment is over and told: nothing here may become its exit code.
        text.say(f"no summary in {text.one_line(named)}: {_why(err)}", "warning")


def _why(err: BaseException) -> str:
    return text.one_line(getattr(err, "strerror", None) or str(err) or "not enough memory")


def _fitting(parts: Iterable[str], room: int) -> str:
    """The *parts* that have room, in their order, and a word of those that have not."""
    left, found = room - 200, []
    for part in parts:
        size = len(part.encode("utf-8", "replace")) + 2
        if size > left:
            found.append("*More is left out: a summary has no room for it.*\n")
            break
        left -= size
        found.append(part)
    whole = "\n".join(found) + "\n"
    return whole if len(whole.encode("utf-8", "replace")) <= max(room, 0) else ""


def _parts(where: Where, state: ExperimentState, message: str) -> Iterator[str]:
    words = glyphs.status(forms.status_words(state, None, None), signs=True)
    yield f"## {_plain(state.name or state.experiment_id)}: {_plain(words)}\n"
    yield f"{_plain(message)}\n"
    yield "\n".join(_numbers(state)) + "\n"
    folder, params = where.manager().folder(state.experiment_id), parameters(state)
    found = grouping.groups(reasons.failures(folder, state))
    if found:
        yield "### Failures\n"
        yield "\n".join(_failures(state, params, found[:_MOST_GROUPS])) + "\n"
        if rest := found[_MOST_GROUPS:]:
            count = text.count(sum(len(each.indices) for each in rest), "process")
            yield f"… and {len(rest):,} more reasons, of {count}.\n"
        for group in found[:_MOST_GROUPS]:
            yield from _log(state, folder, group)
    yield from _results(state, folder, params)
    command = forms.next_words(state, None)
    if command is not None:
        yield f"Next: {_code(where.command(*command))}\n"


def _numbers(state: ExperimentState) -> Iterator[str]:
    interrupted = sum(each.interruptions for each in state.processes.values())
    elapsed = times.elapsed_s(times.began(state), state, datetime.now(UTC), on=False)
    numbers = {
        "completed": f"{state.processes_completed:,}",
        "failed": f"{state.processes_failed:,}",
        "processes": f"{state.num_processes:,}",
        "interruptions": f"{interrupted:,}",
        "elapsed": "–" if elapsed is None else text.duration(elapsed),
    }
    return _table(list(numbers), [list(numbers.values())], right=True)


def _failures(
    state: ExperimentState, params: Params, groups: Sequence[grouping.Group]
) -> Iterator[str]:
    rows_ = []
    for each in groups:
        first = each.sample_index
        example = params_words(params, first)
        which = text.short(text.ranges(list(each.indices)), _CELL)
        rows_.append(
            [
                f"{len(each.indices):,}",
                each.words,
                "–" if each.reason is None else str(each.reason),
                which,
                f"{first}: {example}" if example else str(first),
            ]
        )
    return _table(["count", "why", "reason", "processes", "for example"], rows_)


def _results(state: ExperimentState, folder: Path, params: Params) -> Iterator[str]:
    """What the first processes found that are completed."""
    completed = state.processes.indices(ProcessStatus.COMPLETED)
    first = completed[:_MOST_ROWS]
    made = aggregation.table(state, folder, params or (), missing=[], only=first)
    found = list(rows.outlines(made))
    results = [flat(row) for row in found]
    fields = list(dict.fromkeys(key for each in results for key in each))
    if not fields:
        return
    names = list(dict.fromkeys(key for row in found for key in row.get("params") or {}))
    room = max(_MOST_COLUMNS - min(len(names), _MOST_COLUMNS // 2), 1)
    names, fields = names[: _MOST_COLUMNS - min(len(fields), room)], fields[:room]
    more = len(completed) - len(found)
    yield "### Results\n"
    table = _table(
        ["process", *names, *fields],
        [
            [
                str(row.get("index")),
                *(cell((row.get("params") or {}).get(key)) for key in names),
                *(cell(each.get(key)) for key in fields),
            ]
            for row, each in zip(found, results, strict=True)
        ],
    )
    yield "\n".join(table) + (f"\n\n… and {more:,} more" if more else "") + "\n"


def _log(state: ExperimentState, folder: Path, group: grouping.Group) -> Iterator[str]:
    """The end of one log of a group."""
    index = group.sample_index
    name = attempt_of(state, index)
    path = said_last(folder, name, index)
    lines = [] if path is None else tail(path, _LOG_LINES)
    if not lines:
        return
    # Longer than any run of backticks in it: nothing in a log ends the block.
    runs = [len(each) for line in lines for each in re.findall("`+", line)]
    fence = "`" * max(3, *(number + 1 for number in runs), 3)
    said = f"process {index}, attempt {name.attempt}: {group.words}"
    yield (
        f"<details><summary>{_html(text.short(said))}</summary>\n\n"
        f"{fence}text\n" + "\n".join(lines) + f"\n{fence}\n\n</details>\n"
    )


def _table(
    header: Sequence[str], body: Iterable[Sequence[str]], *, right: bool = False
) -> Iterator[str]:
    yield _row(map(_plain, header))
    yield _row(["---:" if right else "---"] * len(header))
    for each in body:
        yield _row(_plain(text.short(word, _CELL)) for word in each)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _html(words: str) -> str:
    return "".join(_ENTITIES.get(char, char) for char in text.one_line(words))


def _plain(words: str) -> str:
    """*words* as text that shows itself, whatever Markdown would make of them."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", _html(words))


def _code(words: str) -> str:
    fence = "`" * max((len(each) + 1 for each in re.findall("`+", words)), default=1)
    gap = " " if len(fence) > 1 else ""
    return f"{fence}{gap}{text.one_line(words)}{gap}{fence}"
