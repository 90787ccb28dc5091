"""What is known of single processes, in words: parameters and failures.

Reads the logs of attempts, and judges nothing.
"""

import contextlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from holdfast.attempts.names import AttemptName, names
from holdfast.attempts.reports import newest_files, output_of, said_last
from holdfast.config.placeholders import as_text
from holdfast.errors import ConfigError, HoldfastError, Spell, printable
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import reasons, text
from holdfast.reading.cells import cell
from holdfast.reading.folding import Folded
from holdfast.reading.grouping import groups
from holdfast.status import ExperimentStatus
from holdfast.store.attempted import attempt_of

__all__ = ["Params", "failures", "last_words", "parameters", "params_words", "tail"]

_TAIL_LINES: Final = 5
_TAIL_BYTES: Final = 16 * 1024
_MOST_GROUPS: Final = 20
#: Columns of a line of a log, and of a list of processes.
_LINE: Final = 500

#: The parameters of every process; None where there are none to be known.
Params = Sequence[Mapping[str, Any]] | None


def parameters(state: ExperimentState) -> Params:
    """The parameters of each process; None if the stored configuration has none."""
    if not state.config:
        return None
    from holdfast.config.experiment_file import Experiment

    try:
        found = Experiment.from_stored(state.config, state.cwd).params
    except (ConfigError, TypeError, ValueError):
        return None  # made by hand or through the library: any JSON is allowed there
    return found if len(found) == state.num_processes else None


def params_words(params: Params, index: int) -> str:
    """`codec=lzma level=9`."""
    if params is None:
        return ""
    words = []
    for key, value in params[index].items():
        scalar = value is None or isinstance(value, str | int | float)
        word = as_text(value) if scalar else cell(value)
        words.append(f"{text.short(key, 40)}={text.short(word, 60)}")
    return text.short(" ".join(words))


def failures(
    command: Spell,
    state: ExperimentState,
    folder: Path,
    params: Params,
    stream: TextIO,
    but: Container[int] = (),
) -> list[str]:
    """What failed and why, the same reasons together, each with the end of one log.

    The most frequent comes first. Lines to be written to *stream*; nothing of the processes *but*.
    """
    found = {i: each for i, each in reasons.failures(folder, state).items() if i not in but}
    kinds = groups(found)
    lines: list[str] = []
    for group in kinds[:_MOST_GROUPS]:
        indices, first = group.indices, group.sample_index
        progress = state.processes[first]
        attempt = f", attempt {progress.attempt}" if progress.attempt > 1 else ""
        which = f"process {first}{attempt}"
        if len(indices) > 1:
            which = f"{len(indices):,} processes: {text.short(text.ranges(indices), _LINE)}"
        if words := params_words(params, first):
            which += f" ({words if len(indices) == 1 else f'{first}: {words}'})"
        lines.append(f"  {text.paint(group.words, 'red', text.coloured(stream))}")
        lines.append(f"    {which}")
        lines += _log(command, folder, attempt_of(state, first), first)
    if state.status is ExperimentStatus.FAILED and state.can_aggregate():
        lines += _aggregation(command, state, folder, stream)
    if rest := kinds[_MOST_GROUPS:]:
        number = text.count(sum(len(group.indices) for group in rest), "process")
        kind = "kind" if len(rest) == 1 else "kinds"
        lines.append(f"  … and {len(rest):,} more {kind} of failure ({number}): see --json")
    if len(found) > reasons.MOST_READ:
        lines.append(
            f"  … the errors of the first {reasons.MOST_READ:,} that failed were read; of the "
            f"other {len(found) - reasons.MOST_READ:,} only how they ended"
        )
    return lines


def _aggregation(command: Spell, state: ExperimentState, folder: Path, stream: TextIO) -> list[str]:
    """Why the aggregation failed, with the end of its command's log if it had one."""
    why = text.short(state.error_message or "the aggregation failed", _LINE)
    lines = [f"  {text.paint(why, 'red', text.coloured(stream))}"]
    found = names(folder, state.experiment_id, "err")
    own = [name for name in found if name.index is None]
    return lines + (_log(command, folder, max(own)) if own else [])


def _log(command: Spell, folder: Path, name: AttemptName, index: int | None = None) -> list[str]:
    """The end of what an attempt, or its rank *index*, wrote, and what prints its logs."""
    path = said_last(folder, name, index)
    if path is None:
        # As of a command that could not be launched: its log would say less than this.
        return []
    unit = name.unit if index is None else index
    lines = [f"    | {line}" for line in tail(path)]
    return [*lines, f"    {command('logs', f'{name.experiment_id}/{unit}')}"]


def last_words(state: ExperimentState, folder: Path, index: int) -> str:
    """The last line that the last attempt of process *index* printed, wherever; else nothing."""
    name = attempt_of(state, index)
    found = []
    paths = [output_of(folder, name, index, "out"), output_of(folder, name, index, "err")]
    for path in [*paths, *newest_files(folder, name, index, "log")]:
        with contextlib.suppress(OSError):
            found.append((path.lstat().st_mtime_ns, path))
    lines = (line for _, path in sorted(found, reverse=True) for line in tail(path, 1, plain=True))
    return next(lines, "")


def tail(path: Path, lines: int = _TAIL_LINES, *, plain: bool = False) -> list[str]:
    """The last *lines* of a log, harmless to a terminal; none if there is no such file.

    Args:
        plain: Without its colours, and of a line that was drawn again and again its last state.
    """
    try:
        data = reasons.last_bytes(path, _TAIL_BYTES)
    except HoldfastError as err:
        return [text.one_line(err)]
    if plain:
        folded = Folded()
        done, (held, rest) = folded.feed(data), folded.take()
        data = b"\n".join([*done, *held, rest])
    words = data.decode(errors="replace").replace("\r\n", "\n")
    found = (reasons.COLOURS.sub("", words) if plain else words).splitlines()
    last = [line for line in found if line.strip()][-lines:]
    return [text.cut(printable(line[:_LINE].expandtabs()), _LINE) for line in last]
