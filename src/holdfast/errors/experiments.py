"""What was refused about one experiment: its name, its owner, its machine, its claim."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdfast.errors.base import HoldfastError, Spell, flat

# attrs takes 20 ms, which nobody pays to catch an error.
if TYPE_CHECKING:
    from datetime import datetime

    from holdfast.identity import ProcessIdentity, Verdict
    from holdfast.status import Entity

__all__ = [
    "AlreadyOwnedError",
    "AmbiguousExperimentError",
    "AttemptNotOverError",
    "ClaimBusyError",
    "ClaimClosedError",
    "ExperimentExistsError",
    "ExperimentNotFoundError",
    "InvalidIdError",
    "InvalidRequestError",
    "InvalidTransitionError",
    "OwnershipLostError",
    "Refusal",
    "StaleStateError",
    "UnknownLivenessError",
]


class Refusal(NamedTuple):
    """One guard that refused, and why."""

    guard: str
    why: str


class InvalidTransitionError(HoldfastError):
    """An event was refused; nothing was changed.

    Attributes:
        exists: Whether the machine has this event from this status at all.
        refusals: The guards that refused, with their reasons.
        allowed: The events that would be accepted now.
    """

    entity: "Entity"
    experiment_id: str
    process: int | None
    event: str
    source: str
    exists: bool
    refusals: tuple[Refusal, ...]
    allowed: tuple[str, ...]
    possible_from: tuple[str, ...] = ()

    def _message(self) -> str:
        who = flat(self.experiment_id)
        if self.process is not None:
            who = f"{who}/{self.process}" if who else f"process {self.process}"
        who = who or f"a {self.entity}" if self.entity == "process" else who or "an experiment"
        why = [refusal.why for refusal in self.refusals]
        if not self.exists:
            only = f"only possible from {' or '.join(self.possible_from)}"
            why.insert(0, only if self.possible_from else f"no such {self.entity} event")
        return f"{who}: cannot {self.event} while {self.source}: {'; '.join(why)}"

    def _step(self, command: Spell, again: str | None) -> str:
        final = not (self.exists or self.refusals)
        nothing = f"nothing, {self.source} is final" if final else "nothing else"
        return f"allowed now: {', '.join(self.allowed) or nothing}"


class InvalidRequestError(HoldfastError, TypeError, ValueError):
    """A request that cannot be one: an unknown fact, or something of the wrong kind.

    Nothing was changed.

    Attributes:
        subject: What is wrong: `process`, `fact exit_code`.
    """

    subject: str
    problem: str

    def _message(self) -> str:
        return f"{flat(self.subject)} {flat(self.problem)}"


class InvalidIdError(HoldfastError, ValueError):
    """A name that cannot name an experiment."""

    value: str
    why: str

    def _message(self) -> str:
        shown = self.value if len(self.value) <= 60 else self.value[:60] + "…"
        return f"{shown!r} cannot be an experiment id: {self.why}"


class ExperimentNotFoundError(HoldfastError, LookupError):
    """No experiment of that id in that directory."""

    experiment_id: str
    state_dir: Path
    close_matches: tuple[str, ...] = ()

    def _message(self) -> str:
        return f"no experiment {self.experiment_id!r} in {flat(self.state_dir)}"

    def _step(self, command: Spell, again: str | None) -> str:
        if self.close_matches:
            return f"did you mean: {', '.join(map(flat, self.close_matches))}"
        return f"`{command('ls')}` lists those that are there"


class ExperimentExistsError(HoldfastError):
    """That id is taken."""

    experiment_id: str
    state_dir: Path
    detail: str = ""
    _next = "resume it, choose another id, or delete it first"

    def _message(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        where = flat(self.state_dir)
        return f"experiment {self.experiment_id!r} exists already in {where}{detail}"


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
        listed = ", ".join(map(flat, self.matches[:10]))
        listed += ", …" if len(self.matches) > 10 else ""
        if self.same_work:
            return f"{len(self.matches):,} unfinished experiments do this work: {listed}"
        return f"{flat(self.query)} fits {len(self.matches):,} experiments: {listed}"

    def _step(self, command: Spell, again: str | None) -> str:
        if not self.same_work:
            return "name one of them"
        newest = self.matches[-1]
        return (
            f"go on with one of them: {command('resume', newest)}\n"
            f"  make another: `run` with --fresh\n"
            f"  delete one: {command('rm', newest)}"
        )


class StaleStateError(HoldfastError):
    """A state was saved that somebody else has changed since it was loaded; nothing was written."""

    experiment_id: str
    given_revision: int
    stored_revision: int
    _says = (
        "{experiment_id}: the given state is revision {given_revision}, "
        "stored is revision {stored_revision}; nothing was written"
    )
    _next = "load it again and repeat the change"


class AlreadyOwnedError(HoldfastError):
    """Somebody else owns the experiment.

    Attributes:
        owner: Who, where known.
        since: Since when, UTC.
        verdict: What is known of the owner's life.
    """

    experiment_id: str
    owner: "ProcessIdentity | None" = None
    since: "datetime | None" = None
    verdict: "Verdict | None" = None

    def _message(self) -> str:
        text = f"{flat(self.experiment_id)} is owned by {self.owner or 'another process'}"
        if self.since is not None:
            text += f" since {self.since:%Y-%m-%d %H:%M:%S}Z"
        return text if self.verdict is None else f"{text}: {self.verdict}"

    def _step(self, command: Spell, again: str | None) -> str:
        wait, stop = (command(each, self.experiment_id) for each in ("wait", "stop"))
        return f"wait for it: {wait}\n  or stop it first: {stop}"


class UnknownLivenessError(AlreadyOwnedError):
    """Whether the last owner still lives cannot be proven from here; only `force` goes on."""

    def _message(self) -> str:
        who = self.owner or "not recorded"
        which = f"{flat(self.experiment_id)}: cannot prove that its last owner ({who}) is dead"
        return f"{which}: {self.verdict}"

    def _step(self, command: Spell, again: str | None) -> str:
        return "make sure that it is, then repeat with --force"


class AttemptNotOverError(AlreadyOwnedError):
    """Something of an attempt runs without an owner, or may: its shim, or what a dead one left.

    Attributes:
        experiment_id: Which attempt, `exp_7/3.1`.
    """

    def _message(self) -> str:
        return f"{flat(self.experiment_id)} is not over: {self.verdict}"

    def _step(self, command: Spell, again: str | None) -> str:
        if self.verdict is not None and self.verdict.kind == "alive":
            stop = command("stop", self.experiment_id.rpartition("/")[0])
            return f"to stop it: {stop}\n  `resume` takes it over instead"
        return "make sure that nothing of it runs, then repeat with --force"


class OwnershipLostError(HoldfastError):
    """A newer owner took over (a fencing token was seen), or the folder with the journal was taken
    away, which is epoch 0: this claim can change nothing more.
    """

    experiment_id: str
    epoch: int
    newer_epoch: int

    def _message(self) -> str:
        claim = f"this claim (epoch {self.epoch})"
        if not self.newer_epoch:
            what = f"its folder was removed or moved away while {claim} owned it; "
            what += "the last change is not recorded"
        else:
            what = f"{claim} was superseded by epoch {self.newer_epoch}; the last change is not "
            what += "acknowledged, and counts only if that owner found it"
        return f"{flat(self.experiment_id)}: {what}"

    def _step(self, command: Spell, again: str | None) -> str:
        if self.newer_epoch:
            return "stop here: the newer owner goes on"
        return "what it started may run on: `ps` shows it, nothing else knows of it any more"


class ClaimClosedError(HoldfastError):
    """The claim cannot record any more: released, poisoned by a failed write, or in a fork."""

    experiment_id: str
    why: str
    _says = "{experiment_id}: this claim cannot record: {why}"
    _next = "claim it again"


class ClaimBusyError(HoldfastError):
    """A claim was called in the middle of another call of the same thread; nothing was changed.

    By a signal handler, a finalizer, a clock or a warning filter. What was interrupted goes on.
    """

    experiment_id: str
    _says = (
        "{experiment_id}: this claim is in the middle of another call, which this one "
        "interrupted; nothing was changed"
    )
    _next = "let the handler leave a mark, and record once that call has returned"
