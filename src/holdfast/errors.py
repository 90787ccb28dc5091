"""Every error that holdfast raises, under one base, with its facts as attributes.

The message is derived from the facts and says what, where and what to do next. All of them pickle:
they cross process pools and notebooks' kernels.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar, dataclass_transform

import attrs

from holdfast.identity import ProcessIdentity, Verdict
from holdfast.status import Entity

__all__ = [
    "AggregationError",
    "AlreadyOwnedError",
    "AmbiguousExperimentError",
    "ClaimClosedError",
    "ConfigError",
    "ConfigProblem",
    "DiskWarning",
    "EngineError",
    "ExperimentExistsError",
    "ExperimentNotFoundError",
    "HoldfastError",
    "InvalidIdError",
    "InvalidTransitionError",
    "NoLocksWarning",
    "OwnershipLostError",
    "Refusal",
    "ResultInvalidError",
    "ResultLostError",
    "SchemaTooNewError",
    "StaleStateError",
    "StateCorruptError",
    "StateWriteError",
    "UnknownLivenessError",
    "UnreadableStateWarning",
    "UnsupportedPlatformError",
    "printable",
]


def printable(text: object) -> str:
    """*text* without characters that could drive a terminal: names come from files of others."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text))


class HoldfastError(Exception):
    """Base of every error of this package."""

    def __str__(self) -> str:
        return printable(self._message())

    def _message(self) -> str:
        return type(self).__name__


class UnreadableStateWarning(UserWarning):
    """A listing went on past a file that it could not read; `manager.unreadable()` names it."""


_E = TypeVar("_E", bound=HoldfastError)


class NoLocksWarning(UserWarning):
    """The file system has no locks: epochs and the owner's own traces protect, and nothing else."""


class DiskWarning(UserWarning):
    """The disk of a running experiment is full or fails: attempts that end wait to say so."""


# attrs passes the fields to Exception.args, so that pickling and unpickling need no code of ours.
@dataclass_transform(field_specifiers=(attrs.field,))
def _error(cls: type[_E]) -> type[_E]:
    return attrs.define(eq=False, slots=False, str=False)(cls)


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
        who = self.experiment_id
        if self.process is not None:
            who += f"/{self.process}"
        why = [refusal.why for refusal in self.refusals]
        if not self.exists:
            if self.possible_from:
                why.insert(0, f"only possible from {' or '.join(self.possible_from)}")
            else:
                why.insert(0, f"no such {self.entity} event")
        final = "nothing" if self.exists else f"nothing, {self.source} is final"
        allowed = ", ".join(self.allowed) or final
        return (
            f"{who}: cannot {self.event} while {self.source}: {'; '.join(why)}\n"
            f"  allowed now: {allowed}"
        )


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
        text = f"no experiment {self.experiment_id!r} in {self.state_dir}"
        if self.close_matches:
            return f"{text}\n  did you mean: {', '.join(self.close_matches)}"
        return f"{text}\n  `holdfast ls` lists those that are there"


@_error
class ExperimentExistsError(HoldfastError):
    """That id is taken."""

    experiment_id: str
    state_dir: Path
    detail: str = ""

    def _message(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return (
            f"experiment {self.experiment_id!r} exists already in {self.state_dir}{detail}\n"
            f"  resume it, choose another id, or delete it first"
        )


@_error
class AmbiguousExperimentError(HoldfastError):
    """More than one experiment fits, and holdfast does not guess."""

    query: str
    matches: tuple[str, ...]

    def _message(self) -> str:
        # A short prefix can fit thousands.
        more = ", …" if len(self.matches) > 10 else ""
        return (
            f"{self.query} fits {len(self.matches):,} experiments: "
            f"{', '.join(self.matches[:10])}{more}\n"
            f"  name one of them"
        )


@_error
class StateCorruptError(HoldfastError):
    """A file does not hold a state, or no longer does. It is left as it is."""

    path: Path
    problem: str

    def _message(self) -> str:
        return (
            f"{self.path}: {self.problem}\n"
            f"  the file is left as it is; `holdfast doctor` looks at everything around it"
        )


@_error
class SchemaTooNewError(HoldfastError):
    """A newer holdfast wrote this file. It is left as it is."""

    path: Path
    found: int
    supported: int

    def _message(self) -> str:
        return (
            f"{self.path}: written in schema {self.found}, this holdfast reads up to "
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
            f"{self.experiment_id}: the given state is revision {self.given_revision}, stored is "
            f"revision {self.stored_revision}; nothing was written\n"
            f"  load it again and repeat the change"
        )


@_error
class StateWriteError(HoldfastError):
    """The file system refused a write.

    Attributes:
        stored: `old` if the disk is proven to hold the state before, `unknown` if it holds the
            old or the new one (never a mix): load it to learn which.
    """

    path: Path
    operation: str
    cause: str
    stored: str = "old"

    def _message(self) -> str:
        which = {
            "old": "the state before is stored, nothing of the change",
            "new": "the change is stored",
            "unknown": "the state before or the change is stored, whole: load it to learn which",
        }[self.stored]
        return (
            f"{self.path}: {self.operation} failed: {self.cause}\n"
            f"  {which}; once the disk is well again, `holdfast resume` goes on"
        )


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
        text = f"{self.experiment_id} is owned by {self.owner or 'another process'}"
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
            f"{self.experiment_id}: cannot prove that its last owner "
            f"({self.owner or 'not recorded'}) is dead: {self.verdict}\n"
            f"  make sure that it is, then repeat with --force"
        )


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
            f"{self.experiment_id}: this claim (epoch {self.epoch}) was superseded by epoch "
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
        return f"{self.experiment_id}: this claim cannot record: {self.why}\n  claim it again"


@_error
class ResultLostError(HoldfastError):
    """A recorded result is missing or altered."""

    experiment_id: str
    process: int
    path: str
    problem: str

    def _message(self) -> str:
        return (
            f"{self.experiment_id}/{self.process}: result {self.path} {self.problem}\n"
            f"  `holdfast resume {self.experiment_id}` runs this process again"
        )


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
        return "\n".join([f"{self.path}:", *(f"  {problem}" for problem in self.problems)])


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
        return (
            f"{self.experiment_id}: aggregation failed: {self.problem}\n"
            f"  `holdfast aggregate {self.experiment_id}` tries again, without running processes"
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
