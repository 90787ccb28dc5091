"""`holdfast logs`: what processes wrote, and on as they write it."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Literal

import attrs
import click

from holdfast.attempts.files import open_output
from holdfast.attempts.looking import look
from holdfast.attempts.names import AGGREGATE, AttemptName, file_path, names
from holdfast.attempts.reports import newest_files, output_of
from holdfast.attempts.surviving import life
from holdfast.cli.addressing import resolve_unit
from holdfast.cli.app import complete_id, in_state_dir
from holdfast.cli.failures import UNREADABLE, told
from holdfast.cli.pouring import Pattern, Poured
from holdfast.cli.where import Where
from holdfast.encoding import spoken
from holdfast.errors import DiskError, StateCorruptError
from holdfast.reading import text
from holdfast.status import ExperimentStatus, ProcessStatus

__all__ = ["logs"]

_LOOK_S: Final = 0.1
_LOOK_FOR_NEWS_S: Final = 1.0
_CHUNK: Final = 256 * 1024
_SUFFIXES: Final[Mapping[str, Literal["out", "err"]]] = {"stdout": "out", "stderr": "err"}


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
@click.option("--grep", "wanted", metavar="REGEX", help="Only lines in which that is found.")
@click.option("--raw", is_flag=True, help="Byte for byte: every state of a bar, colours, controls.")
@click.argument("query", metavar="ID[/INDEX]", shell_complete=complete_id)
@in_state_dir
def logs(
    where: Where,
    query: str,
    follow: bool,
    only_out: bool,
    only_err: bool,
    lines: int | None,
    attempt: int | None,
    wanted: str | None,
    raw: bool,
) -> int:
    """Print what a process (or all of them) wrote to stdout and stderr.

    INDEX is a process's number, or `aggregate` for the aggregation's command. If there are several
    files, each begins with a line `==> 2.1 stderr <==`: process 2, attempt 1. Of a progress bar,
    the last state is printed; while it is followed, a terminal shows it once per second. -f goes on
    with the next attempt, and says so.
    """
    if raw and wanted is not None:
        raise click.UsageError("--grep looks for lines, of which --raw knows nothing")
    pattern = None if wanted is None else Pattern(spoken(wanted))
    subject = _Subject(where, query)
    if attempt is not None:
        subject.check(attempt)
    both = only_out == only_err
    kinds = [kind for kind in _SUFFIXES if both or only_out == (kind == "stdout")]
    titled = subject.unit is None or len(kinds) > 1
    poured = Poured(titled=titled, raw=raw, pattern=pattern, live=follow)
    known: dict[Path, _Log] = {}

    def pour(logs: Iterable[_Log], *, over: bool) -> None:
        with text.delivering():
            for log in logs:
                poured.write(log)
            poured.settle(list(logs), over=over)

    def end(logs: Sequence[_Log]) -> None:
        with text.delivering():
            for log in logs:
                poured.write(log)
            poured.end(logs)

    ended, looked = False, -math.inf
    while True:
        if time.monotonic() - looked > _LOOK_FOR_NEWS_S:
            if looked > -math.inf:
                subject.reload()
                # One more round: the last words were written before the end was recorded.
                ended = subject.is_over(attempt)
            looked = time.monotonic()
            found = subject.logs(attempt, kinds)
            if attempt is None and (again := subject.begun_again()):
                # First what the attempts before wrote last.
                newest = {log.path for log in found}
                end([log for path, log in known.items() if path not in newest])
                poured.clear()
                text.say("\n".join(again))
            for log in found:
                if log.path not in known:
                    known[log.path] = log
                    if lines is not None:
                        log.skip_to(lines)
        pour(known.values(), over=ended or not follow)
        text.flush()
        if not follow or ended:
            break
        # Polled: nothing says everywhere that a file grew (inotify is Linux's, and blind on NFS).
        time.sleep(_LOOK_S)
    if any(log.unreadable for log in known.values()):
        return UNREADABLE
    if not poured.anything:
        text.say("no line has it" if poured.read_anything else subject.silence())
    if ended:
        subject.say_if_abandoned()
    return 0


class _Subject:
    """An experiment, or the one unit of it, whose logs are printed."""

    def __init__(self, where: Where, query: str) -> None:
        self._where = where
        self._manager = where.manager()
        self._id, self.unit = resolve_unit(self._manager, query, AGGREGATE)
        self._folder = self._manager.folder(self._id)
        self._attempts: dict[str, int] = {}
        self.reload()

    def reload(self) -> None:
        """See how the experiment stands by now."""
        self._state = self._manager.load(self._id)

    def check(self, attempt: int) -> None:
        """Raise UsageError if no unit has had that many attempts."""
        most = max(map(self._last_attempt, self._wanted()), default=0)
        if attempt > most:
            who = text.one_line(self._id) + ("" if self.unit is None else f"/{self.unit}")
            had = f"had {text.count(most, 'attempt')}" if most else "not been tried yet"
            raise click.UsageError(f"{who} has {had}, so that there is no attempt {attempt}")

    def logs(self, attempt: int | None, kinds: list[str]) -> list[_Log]:
        """The logs that there may be, in the order of their processes."""
        found: dict[Path, _Log] = {}
        for unit in self._wanted():
            number = attempt or self._last_attempt(unit)
            for kind in kinds if number else ():
                name = self._attempt(unit, number)
                path, title = file_path(self._folder, name, _SUFFIXES[kind]), str(name)
                # Ranks share their launcher's, shown once. It is told with those of all, and of
                # one that has written nothing: there may be why.
                if not name.is_launcher or self.unit is None or not self._wrote(name, unit):
                    found.setdefault(path, _Log(self._where, path, f"{title} {kind}"))
                if name.is_launcher:
                    path = output_of(self._folder, name, int(unit), _SUFFIXES[kind])
                    found.setdefault(path, _Log(self._where, path, f"{unit}.{number} {kind}"))
            if number and len(kinds) == len(_SUFFIXES) and self._attempt(unit, number).is_launcher:
                # What a rank writes to `process.log`, where it has no output of its own.
                name = self._attempt(unit, number)
                for path in newest_files(self._folder, name, int(unit), "log"):
                    found.setdefault(path, _Log(self._where, path, f"{unit}.{number} log"))
        return list(found.values())

    def begun_again(self) -> list[str]:
        """Of which units another attempt has begun since the last look, in words."""
        before, self._attempts = self._attempts, {u: self._last_attempt(u) for u in self._wanted()}
        found: dict[AttemptName, str] = {}
        for unit, number in self._attempts.items():
            if 0 < before.get(unit, 0) < number:
                name = self._attempt(unit, number)
                who = str(name).rpartition(".")[0] if name.is_launcher else unit
                found[name] = (
                    f"{text.one_line(self._id)}/{who}: attempt {before[unit]} is over; "
                    f"going on with attempt {number}"
                )
        return list(found.values())

    def _wrote(self, name: AttemptName, unit: str) -> bool:
        """Whether a rank has output of its own."""
        own = (newest_files(self._folder, name, int(unit), kind) for kind in ("out", "err"))
        return any(path.stat().st_size for paths in own for path in paths)

    def _attempt(self, unit: str, number: int) -> AttemptName:
        if unit == AGGREGATE:
            return AttemptName(self._id, unit, number)
        ranks = self._state.rank_count
        return AttemptName.of_process(self._id, int(unit), number, ranks=ranks)

    def _wanted(self) -> list[str]:
        every = map(str, range(self._state.num_processes))
        return list(every) if self.unit is None else [self.unit]

    def _last_attempt(self, unit: str) -> int:
        if unit != AGGREGATE:
            return self._state.processes[int(unit)].attempt
        found = names(self._folder, self._id, "out")
        return max((name.attempt for name in found if name.unit == AGGREGATE), default=0)

    def silence(self) -> str:
        """That nothing was written: for good if an attempt was made and is over."""
        ended = any(map(self._last_attempt, self._wanted())) and not self._runs()
        # One that a living owner has begun may be about to come up.
        ended = ended and (not self._running() or self._is_unowned())
        who = text.one_line(self._id)
        who = f"no process of {who}" if self.unit is None else f"{who}/{self.unit}"
        what = "anything" if self.unit is None else "nothing"
        return f"{who} wrote {what}" if ended else f"{who} has written {what} yet"

    def is_over(self, attempt: int | None) -> bool:
        """Whether nothing more will be written, by that attempt or by any."""
        if attempt is not None and all(self._last_attempt(u) != attempt for u in self._wanted()):
            return True  # later ones run
        # Without an owner, too, its processes run on: what they write is what is waited for.
        return not self._runs() and (not self._goes_on() or self._is_unowned())

    def say_if_abandoned(self) -> None:
        """Say so where what is followed ended because nobody is left to go on with it."""
        if self._goes_on() and self._is_unowned():
            can = self.unit == AGGREGATE and self._state.can_aggregate()
            command = self._where.command("aggregate" if can else "resume", self._id)
            text.say(f"the owner of {text.one_line(self._id)} is dead; go on: {command}")

    def _is_unowned(self) -> bool:
        return self._manager.liveness(self._id).kind == "dead"

    def _goes_on(self) -> bool:
        """Whether a living owner would begin more of what is followed."""
        status = self._state.status
        if self.unit == AGGREGATE:
            return status in (ExperimentStatus.RUNNING, ExperimentStatus.COMPLETED)
        # Any that is not completed may be tried again: that attempt's log is printed, too.
        done = self.unit is not None and (
            self._state.processes[int(self.unit)].status is ProcessStatus.COMPLETED
        )
        return status is ExperimentStatus.RUNNING and not done

    def _running(self) -> list[str]:
        """Of the units that are followed, those that are recorded as running."""
        if self.unit == AGGREGATE:
            return [self.unit]
        running = map(str, self._state.processes.indices(ProcessStatus.RUNNING))
        return [each for each in running if self.unit in (None, each)]

    def _runs(self) -> bool:
        """Whether an attempt of what is followed runs, or may."""
        return any(map(self._may_run, self._running()))

    def _may_run(self, unit: str) -> bool:
        attempt = self._last_attempt(unit)
        if not attempt:
            return False
        name = self._attempt(unit, attempt)
        shim = None if name.index is None else self._state.processes[name.index].identity
        try:
            return life(look(self._folder, name, shim=shim)) is not None
        except DiskError:
            return True  # it cannot be told at this moment
