"""What is known of single processes, in words: parameters, failures, what nobody watched.

Reads the files of attempts, and judges nothing.
"""

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from holdfast import attempts, liveness
from holdfast.attempts import AttemptName, error_path
from holdfast.cli import forms, text
from holdfast.cli.app import Where
from holdfast.config.placeholders import as_text
from holdfast.errors import ConfigError, HoldfastError, StateCorruptError, printable
from holdfast.identity import ProcessIdentity
from holdfast.orchestration import outcomes
from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus, ProcessStatus

__all__ = ["Now", "Params", "failures", "parameters", "params_words", "tail", "unwatched"]

_TAIL_LINES: Final = 5
_TAIL_BYTES: Final = 16 * 1024
_MOST_GROUPS: Final = 20

Now = Literal["completed", "failed", "lost", "runs", "unknown"]

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
    where: Where,
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
        name = AttemptName(state.experiment_id, first, progress.attempt)
        lines += [f"    | {line}" for line in tail(error_path(folder, name))]
        # A command that could not be launched wrote nothing: its log would say less than this.
        if _wrote(folder, name):
            lines.append(f"    {where.command('logs', f'{state.experiment_id}/{first}')}")
    if state.status is ExperimentStatus.FAILED and state.can_aggregate():
        lines += _aggregation(where, state, folder, stream)
    if len(groups) > _MOST_GROUPS:
        lines.append(f"  … and {len(groups) - _MOST_GROUPS:,} more kinds of failure: see --json")
    return lines


def _aggregation(where: Where, state: ExperimentState, folder: Path, stream: TextIO) -> list[str]:
    """Why the aggregation failed, with the end of its command's stderr if it had one."""
    why = text.one_line(state.error_message or "the aggregation failed")
    lines = [f"  {text.paint(why, 'red', text.coloured(stream))}"]
    found = attempts.names(folder, state.experiment_id, ".err")
    own = [name for name in found if name.index == attempts.AGGREGATE]
    if own:
        lines += [f"    | {line}" for line in tail(error_path(folder, max(own)))]
        if _wrote(folder, max(own)):
            lines.append(f"    {where.command('logs', f'{state.experiment_id}/aggregate')}")
    return lines


def _wrote(folder: Path, name: AttemptName) -> bool:
    """Whether there is anything in the logs of an attempt, or anything wrong with them."""
    for path in (attempts.output_path(folder, name), error_path(folder, name)):
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
        opened = attempts.open_output(path)
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


def unwatched(folder: Path, name: AttemptName, shim: ProcessIdentity | None) -> tuple[Now, str]:
    """What became of an attempt that is recorded as running and that nobody watches.

    Looks only: a resume judges, stops leftovers, and may know better.

    Args:
        shim: Who was recorded as its shim.
    """
    try:
        record = attempts.read_exit(folder, name)
        live = attempts.live_state(folder, name)
    except StateCorruptError as err:
        return "failed", text.one_line(err)
    except HoldfastError as err:
        return "unknown", text.one_line(err)
    if record is not None:
        ended = f"while nobody watched ({outcomes.describe(record)})"
        if record.stop_reason is not None:
            return "lost", f"was stopped {ended}"
        if record.exit_code == 0:
            return "completed", f"completed {ended}"
        return "failed", f"failed {ended}"
    if live.kind in ("absent", "revoked"):
        if shim is not None and liveness.judge(shim).kind == "alive":
            return "unknown", f"its files are gone, yet {shim} runs; --force runs it again"
        return "lost", "never began"
    # By the shim's identity, where there are no locks; and where its lock is free although it runs.
    verdict = liveness.judge(live.identity)
    if live.kind == "held" or (live.kind == "unknown" and verdict.kind == "alive"):
        return "runs", f"runs ({live.identity}): to be taken over"
    if live.kind == "free" and verdict.kind == "alive":
        return "unknown", (
            f"its lock is free, yet {live.identity} runs: is this a copy of a running experiment? "
            f"--force runs it again"
        )
    if live.kind == "unknown" and verdict.kind != "dead":
        return "unknown", "cannot be told from here; --force runs it again"
    return "lost", "died"
