"""What is wrong with the work itself: its file, its engine, its results."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from holdfast.errors.base import HoldfastError, Spell, flat

__all__ = [
    "AggregationError",
    "CodeChangedError",
    "ConfigError",
    "ConfigProblem",
    "EngineError",
    "EngineRefusedError",
    "NotInstalledError",
    "ResultInvalidError",
    "ResultLostError",
    "WorkerError",
    "WorkingDirectoryGoneError",
]


class ConfigProblem(NamedTuple):
    """One thing that is wrong in an experiment file: where, what, and what may have been meant."""

    where: str
    what: str
    suggestion: str = ""

    def __str__(self) -> str:
        hint = f" ({self.suggestion})" if self.suggestion else ""
        return f"{self.where}: {self.what}{hint}"


class ConfigError(HoldfastError):
    """An experiment file that cannot be used, with all its problems at once."""

    path: str
    problems: Sequence[ConfigProblem]

    def _message(self) -> str:
        return "\n".join([f"{flat(self.path)}:", *(f"  {problem}" for problem in self.problems)])


class WorkingDirectoryGoneError(ConfigError):
    """The directory that an experiment's processes run in is gone.

    Attributes:
        gone: Which.
        file: The name of the experiment file in it, where it is known.
    """

    gone: Path
    file: str | None = None

    def _step(self, command: Spell, again: str | None) -> str:
        fresh = command("run", "--fresh", f"NEW/{self.file or 'FILE'}")
        return (
            f"to go on: move it back, or link it: ln -s NEW {shlex.quote(str(self.gone))}\n"
            f"  or begin anew in its new place: {fresh}"
        )


class CodeChangedError(HoldfastError):
    """Finished work ran with other code than there is now, and nobody said what to make of it.

    Attributes:
        changed: What became of which files, as in `train.py changed`.
        ran: How many of the *total* processes ran with other code; 0 if only the aggregation did.
        file: The experiment file, where that was given; else the experiment was.
        reuse: Whether they are those of other experiments that would be reused.
    """

    experiment_id: str
    changed: str
    ran: int
    total: int
    file: str | None = None
    reuse: bool = False

    def _message(self) -> str:
        what = f"{flat(self.changed)} since {self.ran:,} of {self.total:,}"
        if self.reuse:
            return f"{what} were finished in {flat(self.experiment_id)}; nothing was started"
        since = f"{what} ran"
        if not self.ran:
            since = f"{flat(self.changed)} since it was aggregated"
        return f"{flat(self.experiment_id)} is finished, and {since}; nothing was started"

    def _step(self, command: Spell, again: str | None) -> str:
        words = ("resume", self.experiment_id) if self.file is None else ("run", self.file)
        if self.reuse and self.file is None:
            words = ("run", "FILE")
        keep = command(words[0], "--keep-results", words[1])
        rerun = command(words[0], "--rerun-changed", words[1])
        kept = "to reuse them all the same" if self.reuse else "to keep its results as they are"
        return (
            f"{kept}: {keep}\n"
            f"  to run anew what changed, in a new experiment that reuses the rest: {rerun}"
        )


class EngineError(HoldfastError):
    """An engine could not do what was asked of it; what already runs goes on."""

    engine: str
    problem: str
    _says = "{engine} engine: {problem}"


class EngineRefusedError(EngineError):
    """An engine refused what it will go on refusing: there is no such partition, account, quota.

    *problem* is what it said itself.
    """

    _says = "the {engine} engine refuses this: {problem}"

    def _step(self, command: Spell, again: str | None) -> str:
        if self.engine not in ("slurm", "dask"):
            return ""
        return f"to check [engine]: {command('doctor', 'FILE', '--engine', self.engine)}"


class WorkerError(HoldfastError):
    """A process cannot say which rank it is, or what it asks of holdfast cannot be done."""

    problem: str
    advice: str = ""

    def _message(self) -> str:
        return flat(self.problem)

    def _step(self, command: Spell, again: str | None) -> str:
        return self.advice


class ResultLostError(HoldfastError):
    """A recorded result, or a declared output, is missing or altered.

    Attributes:
        aggregated: Whether its experiment is, which runs no process again.
        file: The experiment file, where it is known.
        what: Which of both: `result` or `output`.
    """

    experiment_id: str
    process: int
    path: str
    problem: str
    aggregated: bool = False
    file: str | None = None
    what: str = "result"
    _says = "{experiment_id}/{process}: {what} {path} {problem}"

    def _step(self, command: Spell, again: str | None) -> str:
        if not self.aggregated:
            return f"`{command('resume', self.experiment_id)}` runs this process again"
        return (
            f"no process of an aggregated experiment runs again: make a new one: "
            f"{command('run', '--fresh', self.file or 'FILE')}\n"
            f"  or delete this one: {command('rm', self.experiment_id)}"
        )


class ResultInvalidError(HoldfastError):
    """A process wrote a result that cannot be accepted, or lacks an output that it declares.

    Its attempt failed. Files stay as they are.

    Attributes:
        output: Which, as it is declared; None if it is about a result.
    """

    path: Path
    problem: str
    output: str | None = None

    def _message(self) -> str:
        what = f"result {self.path.name}" if self.output is None else f"output {flat(self.output)}"
        return f"{what} {self.problem}"


class NotInstalledError(HoldfastError, ImportError):
    """A package is needed that holdfast does not require; one of its extras brings it.

    Attributes:
        package: Which package.
        extra: The extra of holdfast that installs it.
    """

    package: str
    extra: str
    _says = "{package} is not installed"

    def _step(self, command: Spell, again: str | None) -> str:
        return f"pip install 'holdfast[{self.extra}]'"


class AggregationError(HoldfastError):
    """The aggregation did not come to a result; the processes' results are untouched."""

    experiment_id: str
    problem: str
    _says = "{experiment_id}: aggregation failed: {problem}"

    def _step(self, command: Spell, again: str | None) -> str:
        return f"`{command('aggregate', self.experiment_id)}` repeats it without running processes"
