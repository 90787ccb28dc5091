"""What is known of single processes, in words: parameters and failures.

Reads the logs of attempts, and judges nothing.
"""

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from holdfast.attempts.files import open_output
from holdfast.attempts.names import AttemptName, error_path, names, output_path
from holdfast.cli import forms, text
from holdfast.cli.app import Place
from holdfast.config.placeholders import as_text
from holdfast.errors import ConfigError, HoldfastError, printable
from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus, ProcessStatus

__all__ = ["Params", "failures", "parameters", "params_words", "tail"]

_TAIL_LINES: Final = 5
_TAIL_BYTES: Final = 16 * 1024
_MOST_GROUPS: Final = 20

#: The parameters of every process; None where there are none to be known.
Params = Sequence[Mapping[str, Any]] | None


def parameters(state: ExperimentState) -> Params:
    """The parameters of each process; None if the stored configuration has none."""
    if not state.config:
        return None
    from holdfast.config.experiment_file import Experiment

    try:
        found = Experiment.from_config(state.config, Path(state.cwd or ".")).params
    except (ConfigError, TypeError, ValueError):
        return None  # made by hand or through the library: any JSON is allowed there
    return found if len(found) == state.num_processes else None


def params_words(params: Params, index: int) -> str:
    """`codec=lzma level=9`."""
    if params is None:
        return ""
    words = (f"{key}={as_text(value)}" for key, value in params[index].items())
    return text.one_line(" ".join(words))


def failures(
    where: Place,
    state: ExperimentState,
    folder: Path,
    params: Params,
    stream: TextIO,
) -> list[str]:
    """What failed and why, the same reasons together, each with the end of one stderr.

    Lines to be written to *stream*.
    """
    groups: dict[str, list[int]] = {}
    for index in state.processes.indices(ProcessStatus.FAILED):
        groups.setdefault(forms.why_failed(state.processes[index]), []).append(index)
    lines: list[str] = []
    for why, indices in list(groups.items())[:_MOST_GROUPS]:
        first = indices[0]
        progress = state.processes[first]
        which = f"process {first}"
        if len(indices) > 1:
            which = f"{len(indices):,} processes: {text.ranges(indices)}"
        if words := params_words(params, first):
            which += f" ({words if len(indices) == 1 else f'{first}: {words}'})"
        attempt = f", attempt {progress.attempt}" if progress.attempt > 1 else ""
        lines.append(f"  {text.paint(why, 'red', text.coloured(stream))}{attempt}: {which}")
        name = AttemptName.of_process(state.experiment_id, first, progress.attempt)
        lines += [f"    | {line}" for line in tail(error_path(folder, name))]
        # A command that could not be launched wrote nothing: its log would say less than this.
        if _wrote(folder, name):
            lines.append(f"    {where.command('logs', f'{state.experiment_id}/{first}')}")
    if state.status is ExperimentStatus.FAILED and state.can_aggregate():
        lines += _aggregation(where, state, folder, stream)
    if len(groups) > _MOST_GROUPS:
        lines.append(f"  … and {len(groups) - _MOST_GROUPS:,} more kinds of failure: see --json")
    return lines


def _aggregation(where: Place, state: ExperimentState, folder: Path, stream: TextIO) -> list[str]:
    """Why the aggregation failed, with the end of its command's stderr if it had one."""
    why = text.one_line(state.error_message or "the aggregation failed")
    lines = [f"  {text.paint(why, 'red', text.coloured(stream))}"]
    found = names(folder, state.experiment_id, "err")
    own = [name for name in found if name.index is None]
    if own:
        lines += [f"    | {line}" for line in tail(error_path(folder, max(own)))]
        if _wrote(folder, max(own)):
            lines.append(f"    {where.command('logs', f'{state.experiment_id}/aggregate')}")
    return lines


def _wrote(folder: Path, name: AttemptName) -> bool:
    """Whether there is anything in the logs of an attempt, or anything wrong with them."""
    for path in (output_path(folder, name), error_path(folder, name)):
        try:
            info = path.lstat()
        except FileNotFoundError:
            continue
        except OSError:
            return True
        if info.st_size or not stat.S_ISREG(info.st_mode):
            return True
    return False


def tail(path: Path, lines: int = _TAIL_LINES) -> list[str]:
    """The last *lines* of a log, harmless to a terminal; none if there is no such file."""
    try:
        opened = open_output(path)
        if opened is None:
            return []
        with opened as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            data = file.read(_TAIL_BYTES)
    except HoldfastError as err:
        return [text.one_line(err)]
    except OSError:
        return []
    found = data.decode(errors="replace").replace("\r\n", "\n").splitlines()
    return [printable(line.expandtabs()) for line in found if line.strip()][-lines:]
