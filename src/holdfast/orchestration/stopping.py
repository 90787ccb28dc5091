"""Stopping an experiment from outside: who drives it is asked; what nobody drives is taken over.

Step by step and without waiting, so that any number of experiments can be asked before one of them
is waited for.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import attrs

from holdfast.attempts import files
from holdfast.attempts.names import AttemptName
from holdfast.attempts.surviving import Survivor, survivors
from holdfast.engines.contract import Engine, Handle
from holdfast.errors import (
    AlreadyOwnedError,
    ConfigError,
    DiskError,
    EngineError,
    UnknownLivenessError,
)
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.handed import handed_over
from holdfast.lifecycle.records import ExperimentState, summarise
from holdfast.orchestration.configured import configuration
from holdfast.orchestration.orchestrator import Orchestrator
from holdfast.orchestration.requests import processes
from holdfast.orchestration.rules import limits_of
from holdfast.orchestration.selecting import commands_of, select
from holdfast.status import ExperimentStatus, ProcessStatus, Reason
from holdfast.store.attempted import attempt_of
from holdfast.store.manager import StateManager
from holdfast.store.requests import StopRequest
from holdfast.store.standing import Lookout, Standing

__all__ = ["Stopped", "Stopping"]

#: Beyond its grace period: for the request to be heard, and for what was killed to vanish.
_BEYOND_S: Final = 12.0
#: When an owner that lives has looked for requests for certain.
_HEARD_WITHIN_S: Final = 1.5
#: How often who does not seem to hear is looked at.
_DEAF_EVERY_S: Final = 1.0
#: Of an experiment that was made without a configuration.
_GRACE_S: Final = 30.0


@attrs.frozen(kw_only=True)
class Stopped:
    """How it ended, or why it did not.

    Attributes:
        kind: `nothing`: nothing ran. `stopped`: nothing runs any more. `partly`: what was asked for
            does not, the rest goes on. `again`: it was stopped, and somebody has taken it up since.
            `unproven`: nothing that can be seen runs, and whether its owner lives is unknown.
            `running`: it runs on, or something of it may.
        only: The processes that were meant, if not all.
        words: What is to be said besides, one sentence each.
    """

    kind: Literal["nothing", "stopped", "partly", "again", "unproven", "running"]
    state: ExperimentState
    only: Sequence[int] | None = None
    words: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether it is as it was asked for."""
        return self.kind not in ("unproven", "running")


@attrs.define(kw_only=True)
class Stopping:
    """One experiment that is to be stopped.

    Attributes:
        request: What is asked for.
        say: Called with what people want to know while they wait.
        force: Take an owner for dead whose life cannot be told.
    """

    manager: StateManager
    engine: Engine
    experiment_id: str
    request: StopRequest
    say: Callable[[str], None]
    force: bool = False
    monotonic: Callable[[], float] = time.monotonic
    _epoch: int | None = None
    _owner: ProcessIdentity | None = None
    _asked_at: float = 0.0
    _asleep_at: float = float("-inf")
    _grace_s: float = _GRACE_S
    _deaf_at: float = 0.0
    _only: tuple[int, ...] | None = None
    _told: set[str] = attrs.field(factory=set)
    _asked: set[str] = attrs.field(factory=set)
    #: What is meant, and waits in a queue.
    _queued: dict[AttemptName, Handle] = attrs.field(factory=dict)

    _lookout: Lookout = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._lookout = self.manager.lookout(self.experiment_id)

    # -- asking -----------------------------------------------------------------------------------

    def ask(self) -> Stopped | None:
        """Ask whoever can stop it; at once how it stands if there is nothing to stop.

        Raises:
            InvalidRequestError: There is no such process.
            StateWriteError: The request cannot be written.
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for a load.
        """
        seen = self._lookout.look()
        selection = select(seen.state, self.request.only)
        if selection.only is not None:
            self._only = tuple(sorted(commands_of(seen.state, selection.only)))
        self._asked_at = self.monotonic()
        self._deaf_at = self._asked_at + _DEAF_EVERY_S
        self._grace_s = self._grace_of(seen.state)
        if self._is_driven(seen):
            self._epoch = self._lookout.ask(self.request)
            self._owner = seen.state.owner
            return None
        if self._only is not None and self._find_queued(seen.state):
            return self._wait_for_shims(seen)
        if seen.survivors or self._is_handed_over(seen.state):
            if meant := self._meant(seen):
                self._tell("left", _left(meant))
            self._ask_shims(seen)
            return None
        if seen.state.status is ExperimentStatus.RUNNING and self.request.only is None:
            return self._take_over(seen)  # nothing runs: that is but a record
        return Stopped(kind="nothing", state=seen.state)

    def _grace_of(self, state: ExperimentState) -> float:
        if self.request.force:
            return 0.0
        if self.request.grace_s is not None:
            return self.request.grace_s
        try:
            limits = configuration(state, self.manager.state_dir).limits
        except ConfigError:
            return _GRACE_S
        running = state.processes.indices(ProcessStatus.RUNNING)
        # A rule may have given some of them longer.
        graces = (limits_of(limits, state.processes[index]).grace_s for index in running)
        return max(graces, default=limits.grace_s)

    def _ask_shims(self, seen: Standing) -> None:
        """Have the shims stop what they run: with no owner, or with one that does not hear."""
        folder = self.manager.folder(self.experiment_id)
        wanted = [each.name for each in self._meant(seen) if str(each.name) not in self._asked]
        for name in wanted:
            self._asked.add(str(name))
            # What takes no file is reached by the engine, on this host.
            with contextlib.suppress(DiskError):
                grace_s = self.request.grace_s
                files.request(folder, name, self.request.level, Reason.USER, grace_s=grace_s)
        with contextlib.suppress(EngineError):
            kept = {attempt_of(seen.state, i): i for i in handed_over(seen.state)}
            handles = [
                Handle.from_record(name, folder, seen.state.processes[kept[name]].handle)
                if name in kept
                else Handle(name=name, folder=folder)
                for name in wanted
            ]
            self.engine.cancel(handles, force=self.request.force)

    def _is_handed_over(self, state: ExperimentState) -> bool:
        """Whether all of it is to stop, and an engine has some: who takes it over ends that."""
        return self.request.only is None and bool(handed_over(state))

    def _find_queued(self, state: ExperimentState) -> bool:
        """Whether some of the processes that are meant wait in a queue: no file tells of them."""
        folder = self.manager.folder(self.experiment_id)
        for index in handed_over(state):
            name, process = attempt_of(state, index), state.processes[index]
            if name.index in (self._only or ()) and files.live_state(folder, name).kind == "absent":
                self._queued[name] = Handle.from_record(name, folder, process.handle)
                # One that begins all the same hears it at once.
                files.request(folder, name, self.request.level, Reason.USER)
        return bool(self._queued)

    def _take_out(self) -> str:
        """Take them out of their queue; why some cannot be, empty if all were."""
        why: Mapping[AttemptName, str] = {}
        for name, handle in list(self._queued.items()):
            if files.live_state(handle.folder, name).kind != "absent":
                del self._queued[name]  # it has begun since, and is seen by that
        try:
            handles = list(self._queued.values())
            why = self.engine.cancel(handles, force=self.request.force) if handles else {}
        except EngineError as err:
            why = dict.fromkeys(self._queued, err.problem)
        for name, handle in list(self._queued.items()):
            # None of it has begun if this succeeds, and none of it ever will.
            if (name not in why or self._late) and files.revoke(handle.folder, name):
                del self._queued[name]
        return next(iter(why.values()), "")

    def _meant(self, seen: Standing) -> list[Survivor]:
        """The attempts among those that survive which are to stop."""
        if self._only is None:
            return list(seen.survivors)
        return [each for each in seen.survivors if each.name.index in self._only]

    @property
    def driven(self) -> bool:
        """Whether somebody drives it who was asked, and will record how it ends."""
        return self._epoch is not None

    # -- waiting ----------------------------------------------------------------------------------

    @property
    def _late(self) -> bool:
        return self.monotonic() - self._asked_at > self._grace_s + _BEYOND_S

    def step(self) -> Stopped | None:
        """How it stands if it has come to an end, or is not to be waited for any longer.

        What nobody drives is taken over, stopped and recorded, which takes as long as that takes.

        Raises:
            StateWriteError: The file system refused.
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for a load.
        """
        seen = self._lookout.look_again(fresh=self.request.only is not None)
        if self._is_driven(seen):
            if self._epoch is None:
                # Taken up since it was asked for, by a resume or another `stop`: still in time.
                return self.ask()
            if self._is_addressee(seen.state):
                return self._wait_for_owner(seen)
            return Stopped(kind="again", state=seen.state)
        if self.request.only is not None:
            return self._wait_for_shims(seen)
        goes_on = seen.survivors or self._is_handed_over(seen.state)
        if goes_on or seen.state.status is ExperimentStatus.RUNNING:
            if self._epoch is not None and seen.survivors:
                self._tell("left", f"{self._owner} has died: {_left(seen.survivors)}")
            return self._take_over(seen)
        return Stopped(kind="stopped", state=seen.state)

    def _is_driven(self, seen: Standing) -> bool:
        return seen.owned and not (self.force and seen.verdict.kind == "unknown")

    def _is_addressee(self, state: ExperimentState) -> bool:
        """Whether it is still driven by who was asked, who begins new epochs now and then, too."""
        if self._epoch is not None and state.epoch <= self._epoch:
            self._owner = state.owner
        owner = state.owner
        # Who lets go says so first, and holds the lock a moment yet.
        return owner is self._owner or (owner is not None and owner.is_same(self._owner))

    def _wait_for_owner(self, seen: Standing) -> Stopped | None:
        now, state = self.monotonic(), seen.state
        self._tell("asked", self._whom(seen))
        if seen.halted:
            self._asleep_at = now
        heard = now - max(self._asked_at, self._asleep_at) >= _HEARD_WITHIN_S
        if self._only is not None and heard and not any(_runs(state, i) for i in self._only):
            return Stopped(kind="partly", state=state, only=self._only)
        if now >= self._deaf_at:
            self._deaf_at = now + _DEAF_EVERY_S
            if seen.halted:
                self._wake()
            if seen.halted or seen.verdict.kind == "unknown":
                # It hears as soon as it can, if it can. What runs need not wait for that.
                self._ask_shims(self._with_survivors(seen))
        if not self._late:
            return None
        return self._too_late(seen)

    def _wake(self) -> None:
        owner = self._owner
        refused = self._lookout.wake()
        if refused:
            self._tell("wake", f"{owner} is stopped (SIGSTOP) and cannot be woken: {refused}")
        else:
            self._tell("wake", f"{owner} was stopped (SIGSTOP, Ctrl-Z); it was woken to hear this")

    def _whom(self, seen: Standing) -> str:
        what = "it"
        if self._only is not None:
            what = f"{processes(len(self._only))} {summarise(list(self._only))}"
        how = f"to stop {what} within {self._grace_s:g} s"
        if self.request.force:
            how = f"to kill {what}"
        who = seen.state.owner or "whoever drives it"
        but = "" if seen.verdict.kind == "alive" else f" (it may be dead: {seen.verdict.compared})"
        return f"asked {who} {how}{but}"

    def _with_survivors(self, seen: Standing) -> Standing:
        folder = self.manager.folder(self.experiment_id)
        return attrs.evolve(seen, survivors=tuple(survivors(folder, self.experiment_id)))

    def _too_late(self, seen: Standing) -> Stopped:
        left = self._meant(self._with_survivors(seen))
        if not left and seen.verdict.kind == "unknown":
            return Stopped(kind="unproven", state=seen.state, words=[str(seen.verdict)])
        words = [f"{self._owner} did not stop it: {seen.verdict}"]
        words += [f"attempt {each.name} is not over: {each.verdict}" for each in left]
        return Stopped(kind="running", state=seen.state, words=words)

    def _wait_for_shims(self, seen: Standing) -> Stopped | None:
        """Until the processes that are meant do not run; nobody drives the others either."""
        self._ask_shims(seen)
        why = self._take_out()
        left = self._meant(seen)
        if not left and not self._queued:
            words = ["nobody drives the rest"] if seen.survivors else []
            if why:
                words.append(f"what stays in the queue will run nothing: {why}")
            return Stopped(kind="partly", state=seen.state, only=self._only, words=words)
        if not self._late:
            return None
        words = [f"attempt {each.name} is not over: {each.verdict}" for each in left]
        return Stopped(kind="running", state=seen.state, words=words)

    def _take_over(self, seen: Standing) -> Stopped | None:
        try:
            outcome = Orchestrator(self.manager, self.engine, force=self.force).stop(
                self.experiment_id, grace_s=self.request.grace_s, force=self.request.force
            )
        except AlreadyOwnedError as err:
            if isinstance(err, UnknownLivenessError):
                return self._unproven(seen, err)
            return Stopped(kind="again", state=seen.state) if self._late else None
        except ConfigError:
            return self._mark(seen)
        if outcome.blocked:
            words = [f"attempt {name} is not over: {why}" for name, why in outcome.blocked.items()]
            return Stopped(kind="running", state=outcome.state, words=words)
        return Stopped(kind="stopped", state=outcome.state)

    def _unproven(self, seen: Standing, error: UnknownLivenessError) -> Stopped | None:
        self._ask_shims(seen)
        if seen.survivors and not self._late:
            return None
        if seen.survivors:
            return self._too_late(seen)
        return Stopped(kind="unproven", state=seen.state, words=[str(error)])

    def _mark(self, seen: Standing) -> Stopped | None:
        """Without a configuration there is nothing to take over: only the mark is missing."""
        self._ask_shims(seen)
        if seen.survivors:
            return self._too_late(seen) if self._late else None
        with self.manager.claim(self.experiment_id, wait_s=1.0, force=self.force) as claim:
            if claim.state.status is ExperimentStatus.RUNNING:
                evidence = f"asked by {claim.state.owner}; {claim.verdict or 'nobody drove it'}"
                claim.record("interrupt", reason=Reason.USER, evidence=evidence)
            return Stopped(kind="stopped", state=claim.state)

    def _tell(self, what: str, words: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.say(f"{self.experiment_id}: {words}")


def _left(survivors: Sequence[Survivor]) -> str:
    count = len(survivors)
    what = "1 attempt runs" if count == 1 else f"{count:,} attempts run"
    return f"nobody drives it, and {what} on: asking {'it' if count == 1 else 'them'} to stop"


def _runs(state: ExperimentState, index: int) -> bool:
    return state.processes[index].status is ProcessStatus.RUNNING
