"""The process that a program is, as it sees itself: who it is, what it reports, when to stop.

Owns what the end of the `with` block means. A forked child (a data loader) never writes anything:
its parent speaks for it. A program that is started from within the block may report and deliver,
too, but how it ends says nothing of the process: of that, who started it decides.
"""

import os
import sys
from _thread import RLock

from holdfast.attempts import environment
from holdfast.worker import files, saying
from holdfast.worker.checkpoints import Checkpoints
from holdfast.worker.progress import Reporter
from holdfast.worker.saying import OnDisk
from holdfast.worker.stopping import Stop
from holdfast.worker.tracking import Tracking
from holdfast.worker.whoami import Who, who_am_i

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self, TextIO, TypeVar

    T = TypeVar("T")

__all__ = ["Process", "process"]

#: The block that this program is in: there is one, whoever asks for it.
_current: "Process | None" = None


def process() -> "Process":
    """The process or rank of an experiment that this program is; for a `with` block.

    Without an experiment it does next to nothing, so that the same script runs alone.

    Raises:
        WorkerError: This is a rank of a launcher that does not say which, or that starts another
            number of ranks than declared.
    """
    if _current is not None:
        return _current  # a fork gets its parent's, too, which is mute there
    who = who_am_i(os.environ)
    saying.refuse_wrong(who)
    return Process(who)


class Process:
    """One process or rank of an experiment; or a program of its own, for which all this is quiet.

    Attributes:
        index: Which process of the experiment it is, from 0.
        rank: Which of *world_size* ranks of one launcher it is, from 0.
        attempt: How often the process has been started, this time included.
        completed: Whether it completed in an earlier attempt already: an independent rank that is
            run again for the sake of others may return at once.
    """

    def __init__(self, who: Who) -> None:
        self._who = who
        self.index, self.rank, self.world_size = who.index, who.rank, who.world_size
        self.attempt, self.completed = who.attempt, who.completed
        self._pid = os.getpid()
        self._writes = who.inside and who.writes
        # Both are taken again by what a signal handler does in the midst of them.
        self._reporting, self._delivering = RLock(), RLock()
        self._reporter: Reporter | None = None
        if self._writes and (lines := who.file("progress")) is not None:
            self._reporter = Reporter(files.Lines(lines))
        self._checkpoints: Checkpoints | None = None
        if who.own_checkpoints is not None:
            self._checkpoints = Checkpoints(
                who.own_checkpoints, who.checkpoints, who.ranks, who.incarnation
            )
        self._tracking = Tracking()
        self._stop = Stop(who.requests(), who.stop_at, who.warning())
        self._stop_seen = self._saved = False
        self._depth = 0
        self._params: dict[str, Any] | None = None
        self._log: TextIO | None = None
        self._result: str | None = None
        self._environment: dict[str, str | None] = {}

    def __repr__(self) -> str:
        what = f"process {self.index}" if self._who.inside else "no process of an experiment"
        return f"<{what}, rank {self.rank} of {self.world_size}>"

    # --- who it is

    @property
    def params(self) -> "dict[str, Any]":
        """Its parameters; empty without an experiment.

        Raises:
            OSError: Their file cannot be read.
        """
        if self._params is None:
            import json

            text, path = self._who.params, self._who.params_file
            if text is None and path is not None:
                with open(path, encoding="utf-8") as file:
                    text = file.read()
            self._params = dict(json.loads(text)) if text else {}
        return self._params

    @property
    def log(self) -> "TextIO":
        """Where to print what is for the log of this rank alone.

        That of a rank is a file of its own; elsewhere it is stderr, which has a file already.
        """
        who = self._who
        path = who.file("log")
        if path is None or who.launcher is None or who.wrapped or not self._speaks():
            return sys.stderr
        with self._reporting:
            if self._log is None or self._log.closed:
                try:
                    fd = files.open_lines(path)
                except OSError:
                    return sys.stderr
                self._log = open(  # noqa: SIM115 (open until the block ends)
                    fd, "a", buffering=1, encoding="utf-8", errors="backslashreplace"
                )
            return self._log

    # --- what it reports

    def report(
        self,
        *,
        step: "Any" = None,
        total: "Any" = None,
        message: "Any" = None,
        **values: "Any",
    ) -> None:
        """Tell how far it is, for whoever watches: cheap, as often as you like, from any thread.

        At most two lines a second are written, and the last one is always, at the end of the block.
        What cannot be written is lost: nothing depends on it, and nothing is raised.

        Args:
            step: The step that it is at, and *total*, how many there are.
            message: A few words.
            values: Numbers of any library, or short texts.
        """
        if step is not None:
            self._tracking.at(step)
        reporter = self._reporter
        if reporter is not None and os.getpid() == self._pid:
            with self._reporting:
                reporter.report(step, total, message, values)

    def track(self, iterable: "Iterable[T]", total: "int | None" = None) -> "Iterator[T]":
        """Iterate over *iterable* and report each step.

        The items of a range are the steps, and its stop is the total; of anything else, the steps
        count from 0. Of loops within each other that are tracked, the outermost says the step.

        Args:
            total: How many steps there are, where `len()` does not say it.
        """
        return self._tracking.over(iterable, total, self.report)

    # --- when to stop, and where to go on

    @property
    def should_stop(self) -> bool:
        """Whether to save a checkpoint and end now; once true, it stays so.

        True after TERM or a warning signal of a batch system, when holdfast wants the attempt to
        stop, and when its time limit is ahead. A program that asks is not ended by TERM any more.
        """
        if not self._stop.look():
            return False
        if not self._stop_seen:
            self._stop_seen = True
            self._flush()
        return True

    def checkpoint(
        self, save: "Callable[[Path], object]", *, next_step: "int | None" = None
    ) -> None:
        """Have *save* write a checkpoint, which is whole and on the disk once this returns.

        Call it when the work of the current step is done. The last two are kept,
        and of ranks that belong together the newest one that all have.

        Args:
            save: Called with a path that is not there, to write a file or make a folder there.
            next_step: The step to go on with; without it, the one after the step that is tracked or
                was reported last.

        Raises:
            WorkerError: *save* wrote nothing there.
            DiskError: It is not certain to be on the disk; the one before it is.
            Exception: Whatever *save* raises.
        """
        checkpoints = self._checkpoints
        if checkpoints is None or not self._speaks():
            return
        with self._delivering:
            self._flush()
            step = self._tracking.next if next_step is None else next_step
            checkpoints.save((checkpoints.agreed() or 0) + 1 if step is None else step, save)
            self._saved = True

    @property
    def last_checkpoint(self) -> "Path | None":
        """The checkpoint of `resume_step`; for a rank that has none, that of the first that has."""
        path = None if self._checkpoints is None else self._checkpoints.path()
        if path is None:
            return None
        from pathlib import Path

        return Path(path)

    def resume_step(self, default: int = 0) -> int:
        """The step to go on with: that of the newest checkpoint, or *default* if there is none.

        Of ranks that belong together, it is the newest that all have which have any: one that never
        saved counts as one that leaves it to others.
        """
        step = None if self._checkpoints is None else self._checkpoints.agreed()
        return default if step is None else step

    # --- what comes of it

    def result(self, value: "Any") -> None:
        """Deliver the result, any JSON; called again, the last one counts.

        Once this returns, it is on the disk. NaN and Infinity are accepted; numbers and arrays of
        other libraries are what their `tolist()` says.

        Raises:
            InvalidRequestError: It is no JSON.
            DiskError: It is not certain to be on the disk.
        """
        from holdfast.worker.results import encoded

        try:
            data = encoded(value)
        except (TypeError, ValueError) as err:
            from holdfast.errors import InvalidRequestError

            raise InvalidRequestError("the result", f"is not JSON: {err}") from err
        path = self._who.result
        if path is None or not self._speaks():
            return
        with self._delivering:
            self._flush()
            with OnDisk(path, "writing the result"):
                files.publish(path, data)
            self._result = os.path.basename(path)

    # --- the block

    def __enter__(self) -> "Self":
        global _current
        self._depth += 1
        if self._depth > 1 or not self._is_ours():
            return self
        _current = self
        self._tracking = Tracking()
        self._stop_seen = False
        self._stop = Stop(self._who.requests(), self._who.stop_at, self._who.warning())
        if not self._who.inside:
            return self
        self._stop.install()
        if not self._writes:
            saying.tell(
                f"rank {self.rank} writes nothing, because `ranks = {self.world_size}` is not "
                f"declared: rank 0 speaks for all"
            )
            return self
        if self._who.helps:
            return self
        if self._checkpoints is not None:
            self._checkpoints.tidy()
        if not self._who.wrapped:
            saying.announce(self._who)
        told = {environment.SPEAKER: str(self._pid), environment.INCARNATION: self._who.incarnation}
        self._environment = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        global _current
        self._depth -= 1
        if self._depth or not self._is_ours():
            return
        _current = None
        try:
            if self._writes:
                self._conclude(error)
        finally:
            self._stop.restore()

    def _conclude(self, error: "BaseException | None") -> None:
        with self._reporting:
            if self._reporter is not None:
                self._reporter.close()
            if self._log is not None:
                self._log.close()
        for name, before in self._environment.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        told = None if self._who.helps else self._ending(error)
        if told is None:
            return
        if self._stop.heard is not None:
            told["signal"] = self._stop.heard
        if self._result is not None:
            told["result"] = self._result
        try:
            with self._delivering:
                saying.publish(self._who, "said", told)
        except Exception as err:
            # Exit code 0 must not say what was not meant; of a process of its own that completed,
            # it says the same.
            if saying.is_success(error) and ("stopped" in told or self._who.launcher is not None):
                raise
            saying.tell(str(err))

    def _ending(self, error: "BaseException | None") -> "dict[str, object] | None":
        if error is None or saying.is_success(error):
            # Who has a handler of its own for TERM may have ended for it, and needs not ask.
            stopped = self._stop_seen or (self._stop.handled and self._stop.look())
            if stopped and not self._tracking.ran_to_its_end:
                return {"stopped": True, "why": self._stop.why, "saved": self._saved}
            return {"completed": True}
        if isinstance(error, KeyboardInterrupt):
            return {"stopped": True, "why": self._stop.why or "SIGINT"}
        return saying.of_error(error, self.rank)

    # --- itself

    def _is_ours(self) -> bool:
        """Whether this is the process that made it, not a fork."""
        return os.getpid() == self._pid

    def _speaks(self) -> bool:
        return self._writes and self._is_ours()

    def _flush(self) -> None:
        if self._reporter is not None and self._is_ours():
            with self._reporting:
                self._reporter.flush()
