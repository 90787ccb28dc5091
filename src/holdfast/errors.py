"""Every error that holdfast raises, under one base, with its facts as attributes.

The message is derived from the facts and says what, where and what to do next. All of them pickle:
they cross process pools and notebooks' kernels.
"""

import errno
import os
import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar, dataclass_transform

import attrs

from holdfast.identity import ProcessIdentity, Verdict
from holdfast.status import Entity

__all__ = [
    "AggregationError",
    "AlreadyOwnedError",
    "AmbiguousExperimentError",
    "AttemptNotOverError",
    "AttemptWarning",
    "ClaimBusyError",
    "ClaimClosedError",
    "ConfigError",
    "ConfigProblem",
    "ConfigWarning",
    "DiskError",
    "DiskWarning",
    "EngineError",
    "EngineWarning",
    "ExperimentExistsError",
    "ExperimentNotFoundError",
    "HoldfastError",
    "InvalidIdError",
    "InvalidRequestError",
    "InvalidTransitionError",
    "NoLocksWarning",
    "ObserverWarning",
    "OwnershipLostError",
    "Refusal",
    "ResultInvalidError",
    "ResultLostError",
    "SchemaTooNewError",
    "StaleStateError",
    "StateCorruptError",
    "StateReadError",
    "StateWriteError",
    "UnknownLivenessError",
    "UnreadableStateWarning",
    "UnsupportedPlatformError",
    "UntrustedPlaceError",
    "WorkerError",
    "WorkingDirectoryGoneError",
    "cause",
    "printable",
]


def printable(text: object) -> str:
    """*text* without characters that could drive a terminal: names come from files of others."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text))


def _flat(fact: object) -> str:
    """*fact* in one line: a file may be called after two."""
    return printable(fact).replace("\n", "\\n")


#: From the words of a command to what is to be typed.
Spell = Callable[..., str]


def _spelt(*words: str) -> str:
    return shlex.join(["holdfast", *words])


class HoldfastError(Exception):
    """Base of every error of this package. Its facts are attributes."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *values: Any, **facts: Any) -> None:
        cls = type(self)
        if not cls._fields:
            super().__init__(*values)
            return
        given = {**dict(zip(cls._fields, values, strict=False)), **facts}
        if len(given) != len(values) + len(facts) or not given.keys() <= set(cls._fields):
            raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
        for name in cls._fields:
            if name not in given and not hasattr(cls, name):
                raise TypeError(f"{cls.__name__} needs {name}")
            setattr(self, name, given[name] if name in given else getattr(cls, name))
        # Pickled and unpickled as any exception is.
        super().__init__(*(getattr(self, name) for name in cls._fields))

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({facts})"

    def __str__(self) -> str:
        return self.told()

    def told(self, command: Spell = _spelt, again: str | None = None) -> str:
        """The message and its next step.

        Args:
            command: Spells the commands in it. Whoever was called by another name than `holdfast`,
                or with `-C`, knows better than the default.
            again: What goes on once the cause is mended, where only the caller knows what it was
                asked to do: "repeat `rm`".
        """
        step = self._step(command, again)
        return printable(self._message() + (f"\n  {step}" if step else ""))

    def _message(self) -> str:
        return type(self).__name__

    def _step(self, command: Spell, again: str | None) -> str:
        return ""


class UnreadableStateWarning(UserWarning):
    """A listing went on past a file that it could not read; `manager.unreadable()` names it."""


_E = TypeVar("_E", bound=HoldfastError)


class NoLocksWarning(UserWarning):
    """The file system has no locks: epochs and the owner's own traces protect, and nothing else."""


class ConfigWarning(UserWarning):
    """An experiment file may not mean what it says; it is run as it is written."""


class DiskWarning(UserWarning):
    """The disk of a running experiment is full or fails: attempts that end wait to record it."""


class EngineWarning(UserWarning):
    """An engine cannot be reached at this moment: it is asked again, and nothing is lost."""


class AttemptWarning(UserWarning):
    """An attempt cannot be judged or does not end: it is left as it is, and the others go on."""


class ObserverWarning(UserWarning):
    """An observer raised, missed steps or does not return; what it watches goes on."""


# Not by attrs, which takes a millisecond for each of them, at the start of every command.
@dataclass_transform()
def _error(cls: type[_E]) -> type[_E]:
    own = [name for name in cls.__annotations__ if name not in cls._fields]
    cls._fields = (*cls._fields, *own)
    return cls


@attrs.frozen
class Refusal:
    """One guard that refused, and why."""

    guard: str
    why: str


@_error
class InvalidTransitionError(HoldfastError):
    """An event was refused; nothing was changed.

    Attributes:
        exists: Whether the machine has this event from this status at all.
        refusals: The guards that refused, with their reasons.
        allowed: The events that would be accepted now.
    """

    entity: Entity
    experiment_id: str
    process: int | None
    event: str
    source: str
    exists: bool
    refusals: tuple[Refusal, ...]
    allowed: tuple[str, ...]
    possible_from: tuple[str, ...] = ()

    def _message(self) -> str:
        who = _flat(self.experiment_id)
        if self.process is not None:
            who = f"{who}/{self.process}" if who else f"process {self.process}"
        who = who or f"a {self.entity}" if self.entity == "process" else who or "an experiment"
        why = [refusal.why for refusal in self.refusals]
        if not self.exists:
            if self.possible_from:
                why.insert(0, f"only possible from {' or '.join(self.possible_from)}")
            else:
                why.insert(0, f"no such {self.entity} event")
        final = "nothing else" if self.exists or why[1:] else f"nothing, {self.source} is final"
        allowed = ", ".join(self.allowed) or final
        return (
            f"{who}: cannot {self.event} while {self.source}: {'; '.join(why)}\n"
            f"  allowed now: {allowed}"
        )


@_error
class InvalidRequestError(HoldfastError, TypeError, ValueError):
    """A request that cannot be one: an unknown fact, or something of the wrong kind.

    Nothing was changed.

    Attributes:
        subject: What is wrong: `process`, `fact exit_code`.
    """

    subject: str
    problem: str

    def _message(self) -> str:
        return f"{_flat(self.subject)} {_flat(self.problem)}"


@_error
class InvalidIdError(HoldfastError, ValueError):
    """A name that cannot name an experiment."""

    value: str
    why: str

    def _message(self) -> str:
        shown = self.value if len(self.value) <= 60 else self.value[:60] + "…"
        return f"{shown!r} cannot be an experiment id: {self.why}"


@_error
class ExperimentNotFoundError(HoldfastError, LookupError):
    """No experiment of that id in that directory."""

    experiment_id: str
    state_dir: Path
    close_matches: tuple[str, ...] = ()

    def _message(self) -> str:
        return f"no experiment {self.experiment_id!r} in {_flat(self.state_dir)}"

    def _step(self, command: Spell, again: str | None) -> str:
        if self.close_matches:
            return f"did you mean: {', '.join(map(_flat, self.close_matches))}"
        return f"`{command('ls')}` lists those that are there"


@_error
class ExperimentExistsError(HoldfastError):
    """That id is taken."""

    experiment_id: str
    state_dir: Path
    detail: str = ""

    def _message(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        where = _flat(self.state_dir)
        return f"experiment {self.experiment_id!r} exists already in {where}{detail}"

    def _step(self, command: Spell, again: str | None) -> str:
        return "resume it, choose another id, or delete it first"


@_error
class AmbiguousExperimentError(HoldfastError):
    """More than one experiment fits, and holdfast does not guess.

    Attributes:
        same_work: Whether they are unfinished experiments of the work that was to be run.
    """

    query: str
    matches: tuple[str, ...]
    same_work: bool = False

    def _message(self) -> str:
        # A short prefix can fit thousands.
        listed = ", ".join(map(_flat, self.matches[:10]))
        listed += ", …" if len(self.matches) > 10 else ""
        if self.same_work:
            return f"{len(self.matches):,} unfinished experiments do this work: {listed}"
        return f"{_flat(self.query)} fits {len(self.matches):,} experiments: {listed}"

    def _step(self, command: Spell, again: str | None) -> str:
        if not self.same_work:
            return "name one of them"
        newest = self.matches[-1]
        return (
            f"go on with one of them: {command('resume', newest)}\n"
            f"  make another: `run` with --fresh\n"
            f"  be rid of one: {command('rm', newest)}"
        )


@_error
class StateCorruptError(HoldfastError):
    """A file does not hold a state, or no longer does. It is left as it is.

    Attributes:
        remake: The words of the command that makes the file again once it is removed; empty where
            nothing can.
    """

    path: Path
    problem: str
    remake: tuple[str, ...] = ()

    def _message(self) -> str:
        return f"{_flat(self.path)}: {self.problem}"

    def _step(self, command: Spell, again: str | None) -> str:
        if self.remake:
            import shlex

            removal = shlex.join(["rm", "-r", "--", str(self.path.absolute())])
            return f"remove it first: {removal}\n  then make it again: {command(*self.remake)}"
        return f"the file is left as it is; `{command('doctor')}` looks at everything around it"


@_error
class SchemaTooNewError(HoldfastError):
    """A newer holdfast wrote this file. It is left as it is."""

    path: Path
    found: int
    supported: int

    def _message(self) -> str:
        return (
            f"{_flat(self.path)}: written in schema {self.found}, this holdfast reads up to "
            f"{self.supported}\n  upgrade holdfast to read it"
        )


@_error
class StaleStateError(HoldfastError):
    """A state was saved that somebody else has changed since it was loaded; nothing was written."""

    experiment_id: str
    given_revision: int
    stored_revision: int

    def _message(self) -> str:
        return (
            f"{_flat(self.experiment_id)}: the given state is revision {self.given_revision}, "
            f"stored is revision {self.stored_revision}; nothing was written\n"
            f"  load it again and repeat the change"
        )


#: Advice where the name of what is to be made is taken.
SOMETHING_ELSE: Final = "something else is in its place, or on the way to it: move that away"
_ANOTHER_DISK: Final = "name a directory on another one, with -C DIR or HOLDFAST_STATE_DIR"
_NOT_YOURS: Final = "make sure that you may read and write there"

#: What to do about a refusal of the file system.
_REMEDIES: Final = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "have the file system made writable",
    errno.EACCES: _NOT_YOURS,
    errno.EPERM: _NOT_YOURS,
    errno.ENOTDIR: SOMETHING_ELSE,
    errno.EISDIR: SOMETHING_ELSE,
    errno.ELOOP: SOMETHING_ELSE,
    errno.EEXIST: SOMETHING_ELSE,
    errno.ENAMETOOLONG: "choose a shorter name or directory",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "have the machine allow more open files",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EIO: "see that the disk is well again",
    errno.ENOMEM: "free some memory, or write smaller results",
}


def remedy(number: int | None) -> str:
    """What to do about a refusal of the file system, by its errno."""
    return _REMEDIES.get(number or 0, "mend that")


#: Operations before there is anything to go on with.
_BEFORE_ALL: Final = frozenset(
    {"creating", "locking", "making the directory", "opening", "writing the demo"}
)


def cause(err: OSError) -> str:
    """What went wrong, like `No space left on device (ENOSPC)`."""
    name = errno.errorcode.get(err.errno or 0, "?")
    if isinstance(err, NoHardLinksError):
        return f"{err.strerror} ({name})"
    return f"{os.strerror(err.errno) if err.errno else err} ({name})"


class NoHardLinksError(OSError):
    """A link was refused by a file system that has none."""


@_error
class DiskError(HoldfastError):
    """The file system refused something.

    Attributes:
        path: What it was about, and *operation*, what was to be done with it.
        cause: Why it was not, in words.
        errno: The number of the refusal; None if it was none of the file system's.
        advice: What to do about it, where the number alone does not say that.
    """

    path: Path
    operation: str
    cause: str
    errno: int | None = None
    advice: str | None = None

    @classmethod
    def of(cls, path: Path, operation: str, err: OSError, **facts: str) -> Self:
        """What *err* was, which was met with *operation* on *path*."""
        if isinstance(err, NoHardLinksError):
            facts["advice"] = _ANOTHER_DISK
        return cls(path, operation, cause(err), err.errno, **facts)

    def _message(self) -> str:
        return f"{_flat(self.path)}: {self.operation} failed: {self.cause}"

    def _step(self, command: Spell, again: str | None) -> str:
        return f"{self._remedy()}, then {again or 'repeat it'}"

    def _remedy(self) -> str:
        return self.advice or remedy(self.errno)


@_error
class StateReadError(DiskError):
    """The file system refused a read: nothing was changed, and what it holds is not known."""


@_error
class StateWriteError(DiskError):
    """The file system refused a write.

    Attributes:
        stored: `old` if the disk is proven to hold the state before, `unknown` if it holds the
            old or the new one (never a mix): load it to learn which.
    """

    stored: str = "old"

    def _step(self, command: Spell, again: str | None) -> str:
        which = {
            "old": "the state before is stored, nothing of the change",
            "new": "the change is stored",
            "unknown": "the state before or the change is stored, whole: load it to learn which",
        }[self.stored]
        before_all = self.operation in _BEFORE_ALL and self.stored == "old"
        if before_all:
            which = "nothing was made"
        if again is None:
            repeat = before_all or self.operation == "deleting"
            again = "repeat it" if repeat else f"`{command('resume')}` goes on"
        return f"{which}; {self._remedy()}, then {again}"


@_error
class AlreadyOwnedError(HoldfastError):
    """Somebody else owns the experiment.

    Attributes:
        owner: Who, where known.
        since: Since when, UTC.
        verdict: What is known of the owner's life.
    """

    experiment_id: str
    owner: ProcessIdentity | None = None
    since: datetime | None = None
    verdict: Verdict | None = None

    def _message(self) -> str:
        text = f"{_flat(self.experiment_id)} is owned by {self.owner or 'another process'}"
        if self.since is not None:
            text += f" since {self.since.isoformat(sep=' ', timespec='seconds')}"
        if self.verdict is not None:
            text += f": {self.verdict}"
        return f"{text}\n  wait for it, or stop it first"


@_error
class UnknownLivenessError(AlreadyOwnedError):
    """Whether the last owner still lives cannot be proven from here; only `force` goes on."""

    def _message(self) -> str:
        return (
            f"{_flat(self.experiment_id)}: cannot prove that its last owner "
            f"({self.owner or 'not recorded'}) is dead: {self.verdict}\n"
            f"  make sure that it is, then repeat with --force"
        )


@_error
class AttemptNotOverError(AlreadyOwnedError):
    """Something of an attempt runs without an owner, or may: its shim, or what a dead one left.

    Attributes:
        experiment_id: Which attempt, `exp_7/3.1`.
    """

    def _message(self) -> str:
        known = self.verdict is not None and self.verdict.kind == "alive"
        step = "make sure that nothing of it runs, then repeat with --force"
        if known:
            step = "resume takes over what runs, and stops what a dead shim left"
        return f"{_flat(self.experiment_id)} is not over: {self.verdict}\n  {step}"


@_error
class OwnershipLostError(HoldfastError):
    """A newer owner took over (a fencing token was seen), or the folder with the journal was taken
    away, which is epoch 0: this claim can change nothing more.
    """

    experiment_id: str
    epoch: int
    newer_epoch: int

    def _message(self) -> str:
        if not self.newer_epoch:
            return (
                f"{self.experiment_id}: its folder was removed or moved away while this claim "
                f"(epoch {self.epoch}) owned it; the last change is not recorded\n"
                f"  what it started may run on: `ps` shows it, nothing else knows of it any more"
            )
        return (
            f"{_flat(self.experiment_id)}: this claim (epoch {self.epoch}) was superseded by epoch "
            f"{self.newer_epoch}; the last change is not acknowledged, and counts only if that "
            f"owner found it\n"
            f"  stop here: the newer owner goes on"
        )


@_error
class ClaimClosedError(HoldfastError):
    """The claim cannot record any more: released, poisoned by a failed write, or in a fork."""

    experiment_id: str
    why: str

    def _message(self) -> str:
        who = _flat(self.experiment_id)
        return f"{who}: this claim cannot record: {self.why}\n  claim it again"


@_error
class ClaimBusyError(HoldfastError):
    """A claim was called in the middle of another call of the same thread; nothing was changed.

    By a signal handler, a finalizer, a clock or a warning filter. What was interrupted goes on.
    """

    experiment_id: str

    def _message(self) -> str:
        return (
            f"{_flat(self.experiment_id)}: this claim is in the middle of another call, which this "
            f"one interrupted; nothing was changed\n"
            f"  let the handler leave a mark, and record once that call has returned"
        )


@_error
class ResultLostError(HoldfastError):
    """A recorded result is missing or altered.

    Attributes:
        aggregated: Whether its experiment is, which runs no process again.
        file: The experiment file, where it is known.
    """

    experiment_id: str
    process: int
    path: str
    problem: str
    aggregated: bool = False
    file: str | None = None

    def _message(self) -> str:
        who = f"{_flat(self.experiment_id)}/{self.process}"
        return f"{who}: result {_flat(self.path)} {self.problem}"

    def _step(self, command: Spell, again: str | None) -> str:
        if self.aggregated:
            return (
                f"no process of an aggregated experiment runs again: make a new one: "
                f"{command('run', '--fresh', self.file or 'FILE')}\n"
                f"  or be rid of this one: {command('rm', self.experiment_id)}"
            )
        return f"`{command('resume', self.experiment_id)}` runs this process again"


@_error
class ResultInvalidError(HoldfastError):
    """A process wrote a result that cannot be accepted; its attempt failed. The file stays."""

    path: Path
    problem: str

    def _message(self) -> str:
        return f"result {self.path.name} {self.problem}"


@attrs.frozen
class ConfigProblem:
    """One thing that is wrong in an experiment file: where, what, and what may have been meant."""

    where: str
    what: str
    suggestion: str = ""

    def __str__(self) -> str:
        hint = f" ({self.suggestion})" if self.suggestion else ""
        return f"{self.where}: {self.what}{hint}"


@_error
class ConfigError(HoldfastError):
    """An experiment file that cannot be used, with all its problems at once."""

    path: str
    problems: Sequence[ConfigProblem]

    def _message(self) -> str:
        return "\n".join([f"{_flat(self.path)}:", *(f"  {problem}" for problem in self.problems)])


@_error
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


@_error
class UntrustedPlaceError(HoldfastError):
    """A state directory was found that others can write into: its commands may be theirs."""

    path: Path
    why: str

    def _message(self) -> str:
        return f"{_flat(self.path)} was found, and is not used: {self.why}"

    def _step(self, command: Spell, again: str | None) -> str:
        return (
            f"if it is the right one: -C {shlex.quote(str(self.path))}; "
            f"-C DIR or HOLDFAST_STATE_DIR names another"
        )


@_error
class WorkerError(HoldfastError):
    """A process cannot say which rank it is, or what it asks of holdfast cannot be done."""

    problem: str
    advice: str = ""

    def _message(self) -> str:
        return _flat(self.problem)

    def _step(self, command: Spell, again: str | None) -> str:
        return self.advice


@_error
class EngineError(HoldfastError):
    """An engine could not do what was asked of it; what already runs goes on."""

    engine: str
    problem: str

    def _message(self) -> str:
        return f"{self.engine} engine: {self.problem}"


@_error
class AggregationError(HoldfastError):
    """The aggregation did not come to a result; the processes' results are untouched."""

    experiment_id: str
    problem: str

    def _message(self) -> str:
        return f"{_flat(self.experiment_id)}: aggregation failed: {self.problem}"

    def _step(self, command: Spell, again: str | None) -> str:
        return (
            f"`{command('aggregate', self.experiment_id)}` tries again, without running processes"
        )


@_error
class UnsupportedPlatformError(HoldfastError):
    """This operating system lacks what crash safety rests on."""

    missing: str

    def _message(self) -> str:
        return (
            f"holdfast needs {self.missing}, which this platform does not have\n"
            f"  use Linux or macOS; on Windows, WSL 2 works"
        )
