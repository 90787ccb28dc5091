"""`holdfast logs`: what processes wrote, byte for byte, and on as they write it."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import attrs
import click

from holdfast.attempts.files import open_output
from holdfast.attempts.looking import look
from holdfast.attempts.names import AGGREGATE, AttemptName, error_path, names, output_path
from holdfast.attempts.surviving import life
from holdfast.cli.addressing import resolve_unit
from holdfast.cli.app import in_state_dir
from holdfast.cli.failures import UNREADABLE, told
from holdfast.cli.where import Where
from holdfast.errors import DiskError, StateCorruptError
from holdfast.lifecycle.records import ExperimentState
from holdfast.reading import text
from holdfast.status import ExperimentStatus, ProcessStatus
from holdfast.store.manager import StateManager

__all__ = ["logs"]

_LOOK_S: Final = 0.1
_LOOK_FOR_NEWS_S: Final = 1.0
_CHUNK: Final = 256 * 1024
_PATHS: Final = {"stdout": output_path, "stderr": error_path}


@attrs.define
class _Log:
    """One file, and how much of it was printed."""

    where: Where
    path: Path
    title: str
    offset: int = 0
    unreadable: bool = False

    def news(self) -> Iterator[bytes]:
        """What was written to it since the last look."""
        opened = self._open()
        if opened is None:
            return
        with opened as file:
            file.seek(self.offset)
            while data := file.read(_CHUNK):
                self.offset += len(data)
                yield data

    def skip_to(self, lines: int) -> None:
        """Leave out all but the last *lines*."""
        opened = self._open()
        if opened is None:
            return
        with opened as file:
            position = file.seek(0, 2)
            found, wanted = 0, lines + 1
            while position > 0:
                step = min(_CHUNK, position)
                position -= step
                file.seek(position)
                data = file.read(step)
                if file.tell() and not found and not data.endswith(b"\n"):
                    wanted = lines
                at = len(data)
                while (at := data.rfind(b"\n", 0, at)) >= 0:
                    found += 1
                    if found == wanted:
                        self.offset = position + at + 1
                        return

    def _open(self) -> BinaryIO | None:
        try:
            return None if self.unreadable else open_output(self.path)
        except StateCorruptError as err:
            self.unreadable = True
            text.say(told(err, self.where), "error")  # once, and the others go on
            return None


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as processes write, until they end.")
@click.option("-o", "--stdout", "only_out", is_flag=True, help="Only what went to stdout.")
@click.option("-e", "--stderr", "only_err", is_flag=True, help="Only what went to stderr.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last lines of each.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; default: the last one.")
@click.argument("query", metavar="ID[/INDEX]")
@in_state_dir
def logs(
    where: Where,
    query: str,
    follow: bool,
    only_out: bool,
    only_err: bool,
    lines: int | None,
    attempt: int | None,
) -> int:
    """Print what a process (or all of them) wrote to stdout and stderr.

    INDEX is a process's number, or `aggregate` for the aggregation's command. If there are several
    files, each begins with a line `==> 2.1 stderr <==`: process 2, attempt 1.
    """
    manager = where.manager()
    experiment_id, unit = resolve_unit(manager, query, AGGREGATE)
    state = manager.load(experiment_id)
    if attempt is not None:
        _check_attempt(manager, state, unit, attempt)
    both = only_out == only_err
    kinds = [kind for kind in _PATHS if both or only_out == (kind == "stdout")]
    shown = _Shown(titled=unit is None or len(kinds) > 1)
    known: dict[Path, _Log] = {}
    ended = False
    looked = time.monotonic()
    while True:
        for log in _logs(where, state, unit, attempt, kinds):
            if log.path not in known:
                known[log.path] = log
                if lines is not None:
                    log.skip_to(lines)
        with text.delivering():
            for log in known.values():
                shown.write(log)
        text.flush()
        if not follow or ended:
            break
        # Polled: nothing says everywhere that a file grew (inotify is Linux's, and blind on NFS).
        time.sleep(_LOOK_S)
        if time.monotonic() - looked > _LOOK_FOR_NEWS_S:
            looked = time.monotonic()
            state = manager.load(experiment_id)
            # One more round: the last words were written before the end was recorded.
            ended = _over(manager, state, unit)
    if any(log.unreadable for log in known.values()):
        return UNREADABLE
    if not shown.anything:
        text.say(_silent(state, unit, ended=_ended(manager, state, unit)))
    if ended:
        _say_if_abandoned(where, manager, state, unit)
    return 0


def _silent(state: ExperimentState, unit: str | None, *, ended: bool) -> str:
    who = text.one_line(state.experiment_id)
    who = f"no process of {who}" if unit is None else f"{who}/{unit}"
    if ended:
        return f"{who} wrote {'anything' if unit is None else 'nothing'}"
    return f"{who} has written {'anything' if unit is None else 'nothing'} yet"


def _ended(manager: StateManager, state: ExperimentState, unit: str | None) -> bool:
    """Whether an attempt was made and is over, so that its silence is final."""
    folder = manager.folder(state.experiment_id)
    if not _most_attempts(state, folder, unit):
        return False
    followed = _followed(state, unit)
    if any(_may_run(state, folder, each) for each in followed):
        return False
    # One that a living owner has begun may be about to come up.
    return not followed or manager.liveness(state.experiment_id).kind == "dead"


def _logs(
    where: Where,
    state: ExperimentState,
    unit: str | None,
    attempt: int | None,
    kinds: list[str],
) -> list[_Log]:
    """The logs that there may be, in the order of their processes."""
    folder = where.manager().folder(state.experiment_id)
    found = []
    for each in _wanted(state, unit):
        number = attempt or _last_attempt(state, folder, each)
        if number:
            found.append(AttemptName(state.experiment_id, each, number))
    return [
        _Log(where, _PATHS[kind](folder, name), f"{name} {kind}")
        for name in found
        for kind in kinds
    ]


def _last_attempt(state: ExperimentState, folder: Path, unit: str) -> int:
    if unit != AGGREGATE:
        return state.processes[int(unit)].attempt
    found = names(folder, state.experiment_id, "out")
    return max((name.attempt for name in found if name.unit == AGGREGATE), default=0)


def _wanted(state: ExperimentState, unit: str | None) -> list[str]:
    return list(map(str, range(state.num_processes))) if unit is None else [unit]


def _most_attempts(state: ExperimentState, folder: Path, unit: str | None) -> int:
    numbers = (_last_attempt(state, folder, each) for each in _wanted(state, unit))
    return max(numbers, default=0)


def _check_attempt(
    manager: StateManager, state: ExperimentState, unit: str | None, attempt: int
) -> None:
    most = _most_attempts(state, manager.folder(state.experiment_id), unit)
    if attempt > most:
        who = text.one_line(state.experiment_id) + ("" if unit is None else f"/{unit}")
        had = f"had {text.count(most, 'attempt')}" if most else "not been tried yet"
        raise click.UsageError(f"{who} has {had}, so that there is no attempt {attempt}")


def _over(manager: StateManager, state: ExperimentState, unit: str | None) -> bool:
    """Whether nothing more will be written."""
    # Without an owner, too, its processes run on: what they write is what is waited for.
    folder = manager.folder(state.experiment_id)
    if any(_may_run(state, folder, each) for each in _followed(state, unit)):
        return False
    if not _goes_on(state, unit):
        return True
    return manager.liveness(state.experiment_id).kind == "dead"


def _goes_on(state: ExperimentState, unit: str | None) -> bool:
    """Whether the experiment stands where a living owner would begin more of what is followed."""
    if unit == AGGREGATE:
        return state.status in (ExperimentStatus.RUNNING, ExperimentStatus.COMPLETED)
    if unit is not None and state.processes[int(unit)].status is ProcessStatus.COMPLETED:
        # Any other may still be tried again: that is a new attempt, and its log is printed, too.
        return False
    return state.status is ExperimentStatus.RUNNING


def _followed(state: ExperimentState, unit: str | None) -> list[str]:
    """Of the processes that are followed, those that are recorded as running."""
    if unit == AGGREGATE:
        return [unit]
    running = map(str, state.processes.indices(ProcessStatus.RUNNING))
    return [each for each in running if unit in (None, each)]


def _may_run(state: ExperimentState, folder: Path, unit: str) -> bool:
    attempt = _last_attempt(state, folder, unit)
    if not attempt:
        return False
    name = AttemptName(state.experiment_id, unit, attempt)
    shim = None if name.index is None else state.processes[name.index].identity
    try:
        return life(look(folder, name, shim=shim)) is not None
    except DiskError:
        return True  # it cannot be told at this moment


def _say_if_abandoned(
    where: Where, manager: StateManager, state: ExperimentState, unit: str | None
) -> None:
    """Say so where what is followed ended because nobody is left to go on with it."""
    if not _goes_on(state, unit) or manager.liveness(state.experiment_id).kind != "dead":
        return
    verb = "aggregate" if unit == AGGREGATE and state.can_aggregate() else "resume"
    who = text.one_line(state.experiment_id)
    text.say(f"the owner of {who} is dead; go on: {where.command(verb, state.experiment_id)}")


class _Shown:
    """Writes logs to stdout; a title where the next bytes are another file's than the last."""

    def __init__(self, *, titled: bool) -> None:
        self.anything = False
        self._titled = titled
        self._last: Path | None = None
        self._line_open = False

    def write(self, log: _Log) -> None:
        for data in log.news():
            if self._titled and self._last != log.path:
                gap = "\n" if self._line_open else ""
                gap += "\n" if self.anything else ""
                sys.stdout.buffer.write(f"{gap}==> {log.title} <==\n".encode())
            self.anything = True
            self._last = log.path
            self._line_open = not data.endswith(b"\n")
            sys.stdout.buffer.write(data)
