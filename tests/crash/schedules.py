"""Claimants, a reader and a deleter, interleaved operation by operation, reproducible from a seed.

Every actor runs the store's real code in a thread of its own on its own watched files. Only one
thread runs at a time: before each operation an actor hands the baton back, and the seed says who
goes on, for how many operations, and at which operation somebody dies. No schedule depends on the
machine; a number reproduces it.

Four settings:

- `locks`: the file system has locks. Claimants that meet are refused; owners die and are succeeded.
- `no_locks`: `flock` fails with ENOLCK, and both claimants use force, as a user does who believes
  that the other host is dead while it is not. Epochs alone protect: here fencing is proved.
- `deletes`: a third actor deletes the experiment and makes it again under the same name.
- `lawless`: no locks and deletes, with force all round. While a forced delete is under way, a power
  cut may leave the experiment with or without its history (guide: promises, *Not promised*); it
  must be readable all the same, and somebody must be able to go on.

What must hold: an acknowledged step is in the history exactly once, before every step that was
begun later; none is there twice; a reader never meets anything unreadable and never goes back
behind what was acknowledged before it looked; with locks nobody records while somebody else owns;
and all of it once more after a power cut at a random instant of the schedule.
"""

import errno
import json
import os
import random
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs

from holdfast.errors import (
    AlreadyOwnedError,
    ClaimClosedError,
    ExperimentExistsError,
    ExperimentNotFoundError,
    HoldfastError,
    OwnershipLostError,
)
from holdfast.store.claim import Claim
from holdfast.store.manager import StateManager

from .bench import Ticking
from .models import crash_states
from .watching import Killed, Operation, Recorder, RoomyFiles, WatchedFiles

__all__ = ["Outcome", "Setting", "run"]

Setting = Literal["locks", "no_locks", "deletes", "lawless"]
Sabotage = Callable[[Operation, Callable[[], Any]], Any]

#: Nobody in a schedule needs that many operations: beyond it, somebody spins.
_MOST = 20_000


@attrs.define
class Outcome:
    """How a schedule went.

    Attributes:
        order: Who did which operation: equal for equal seeds.
    """

    acknowledged: int = 0
    refused: int = 0
    fenced: int = 0
    operations: int = 0
    power_cuts: int = 0
    order: list[str] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)


class _Baton:
    """Lets one actor run at a time, an operation long."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.back = threading.Semaphore(0)
        self.turns: dict[str, threading.Semaphore] = {}
        self.waiting: dict[str, Operation | None] = {}
        self.order: list[str] = []
        self.burst = 0
        self.current = ""

    def wait(self, name: str, operation: Operation | None) -> None:
        """Hand the baton back and wait for the next turn."""
        self.waiting[name] = operation
        self.back.release()
        self.turns[name].acquire()

    def leave(self, name: str) -> None:
        """The actor is done."""
        del self.turns[name]
        self.back.release()

    def conduct(self) -> None:
        """Until all are done, give turns: in bursts, since single steps alone rarely get far."""
        while self.turns:
            if self.burst <= 0 or self.current not in self.turns:
                self.current = self.rng.choice(sorted(self.turns))
                self.burst = self.rng.choice((1, 1, 2, 3, 5, 12, 40, 150))
            self.burst -= 1
            self.order.append(f"{self.current} {_brief(self.waiting[self.current])}")
            if len(self.order) > _MOST:
                raise AssertionError("an actor spins")
            self.turns[self.current].release()
            self.back.acquire()


def _brief(operation: Operation | None) -> str:
    """Without descriptors and random names, which differ from run to run."""
    return "begins" if operation is None else operation.name


class _Actor(threading.Thread):
    """Runs *play* on watched files, an operation a turn; may die before one of them."""

    def __init__(
        self,
        name: str,
        stage: "_Stage",
        play: Callable[["_Actor"], None],
        *,
        dies_at: int | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.stage, self.play, self.dies_at = stage, play, dies_at
        self.done = 0
        self.files = WatchedFiles(self._take_turns, *stage.hooks)
        self.rng = random.Random(f"{stage.seed} {name}")
        self.error: BaseException | None = None

    def _take_turns(self, operation: Operation, call: Callable[[], Any]) -> Any:
        if self.dies_at is not None and self.done >= self.dies_at:
            raise Killed
        self.stage.baton.wait(self.name, operation)
        self.done += 1
        return call()

    def manager(self) -> StateManager:
        """A new one on this actor's files."""
        return StateManager(self.stage.state_dir, clock=self.stage.clock, files=self.files)

    def run(self) -> None:
        """See `threading.Thread`."""
        self.stage.baton.wait(self.name, None)
        try:
            self.play(self)
        except Killed:
            pass
        except BaseException as err:
            self.error = err
        finally:
            self.files.die()
            self.stage.owners.discard(self.name)
            self.stage.baton.leave(self.name)


class _Stage:
    """What the actors share: the directory, the clock, the list of acknowledgements."""

    def __init__(self, root: Path, seed: int, setting: Setting, sabotage: Sabotage | None) -> None:
        self.root, self.seed, self.setting = root, seed, setting
        self.forced = setting in ("no_locks", "lawless")
        self.deletes = setting in ("deletes", "lawless")
        self.state_dir = root / ".experiment_state"
        self.rng = random.Random(f"{seed} {setting}")
        self.clock = Ticking(self.rng.choice((0.01, 0.4)))
        self.baton = _Baton(self.rng)
        self.recorder = Recorder(root)
        self.hooks: list[Any] = [self.recorder]
        if setting in ("no_locks", "lawless"):
            self.hooks.insert(0, _no_locks)
        if sabotage is not None:
            self.hooks.insert(0, sabotage)
        self.owners: set[str] = set()
        self.outcome = Outcome()
        # One list per incarnation of the experiment: a delete makes what was before void.
        self.acknowledged: list[tuple[int, str]] = []
        # What had been acknowledged when a step was begun: that must come before it. Two steps that
        # overlap in time may come in either order.
        self.before: dict[str, list[str]] = {}
        self.incarnation = 0

    def acknowledge(self, incarnation: int, tag: str) -> None:
        """A call returned: what it did must be there from now on."""
        self.acknowledged.append((incarnation, tag))
        self.recorder.mark(json.dumps([incarnation, tag]))
        self.outcome.acknowledged += 1

    def deleting(self, begun: bool) -> None:
        """A delete begins, or was refused; `acknowledge` tells of one that is done."""
        self.recorder.mark(json.dumps([self.incarnation, "deleting" if begun else "kept"]))

    def problem(self, text: str) -> None:
        """Something that must not happen did."""
        self.outcome.problems.append(text)


def _no_locks(operation: Operation, call: Callable[[], Any]) -> Any:
    if operation.name == "flock":
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    return call()


#: What the deleter tells; what else is told are the tags of steps.
_DELETES = ("deleting", "kept", "deleted", "unsure")

_EVENTS = {
    "initialised": "start", "running": "interrupt", "interrupted": "resume", "failed": "retry"
}  # fmt: skip


def _step(claim: Claim, tag: str, rng: random.Random) -> None:
    """One legal transition that carries *tag* into the history."""
    state = claim.state
    process = state.process_progress[0]
    if str(state.status) == "running" and rng.random() < 0.8:
        if str(process.status) == "pending":
            claim.record("start", 0, evidence=tag)
        else:
            claim.record("requeue", 0, evidence=tag, proven_dead=True)
        return
    claim.record(_EVENTS[str(state.status)], evidence=tag)


def _claimant(actor: _Actor) -> None:
    stage, rng = actor.stage, actor.rng
    for round_ in range(3):
        try:
            claim = actor.manager().claim("exp", force=stage.forced)
        except AlreadyOwnedError:
            stage.outcome.refused += 1
            continue
        except (ExperimentNotFoundError, OwnershipLostError):
            continue
        incarnation = stage.incarnation
        if not stage.forced and stage.owners:
            stage.problem(f"{actor.name} claimed while {stage.owners} owned")
        stage.owners.add(actor.name)
        try:
            for number in range(rng.randint(1, 4)):
                tag = f"{actor.name}.{round_}.{number}"
                stage.before[tag] = [each for _, each in stage.acknowledged]
                _step(claim, tag, rng)
                stage.acknowledge(incarnation, tag)
        except (OwnershipLostError, ClaimClosedError):
            stage.outcome.fenced += 1
        stage.owners.discard(actor.name)
        claim.release()


def _reader(actor: _Actor) -> None:
    stage = actor.stage
    for _ in range(6):
        incarnation, before = stage.incarnation, list(stage.acknowledged)
        mine = [tag for when, tag in before if when == incarnation]
        manager = actor.manager()
        try:
            manager.load("exp")
            seen = [each.evidence for each in manager.history("exp")]
            listed = manager.list_experiments()
            manager.liveness("exp")
        except ExperimentNotFoundError:
            if not stage.deletes:
                stage.problem("the reader did not find the experiment")
            continue
        if stage.deletes:
            continue  # what it saw may have been deleted and made again between two looks
        if listed != ["exp"]:
            stage.problem(f"the reader's listing was {listed}")
        missing = [tag for tag in mine if tag not in seen]
        if missing:
            stage.problem(f"the reader missed {missing}, acknowledged before it looked")


def _deleter(actor: _Actor) -> None:
    stage = actor.stage
    for _ in range(3):
        manager = actor.manager()
        stage.deleting(begun=True)
        try:
            manager.delete("exp", force=stage.forced)
        except AlreadyOwnedError:
            stage.outcome.refused += 1
            stage.deleting(begun=False)
            continue
        except OwnershipLostError:
            # Fenced while it wrote: as with every step, it may or may not have happened.
            stage.outcome.fenced += 1
            stage.incarnation += 1
            stage.acknowledge(stage.incarnation, "unsure")
            continue
        except ExperimentNotFoundError:
            if not any(tag == "unsure" for _, tag in stage.acknowledged):
                stage.problem("the deleter did not find the experiment, which only it deletes")
                continue
        stage.incarnation += 1
        stage.acknowledge(stage.incarnation, "deleted")
        try:
            manager.create("exp", num_processes=1)
        except ExperimentExistsError as err:
            # By force and without locks, nothing can keep the old owner from refreshing its view
            # between our steps: the one thing that is not promised.
            if not stage.forced:
                stage.problem(f"deleted and still there: {err}")
            continue
        stage.acknowledge(stage.incarnation, "created")


def run(
    seed: int, setting: Setting, where: Path, *, cuts: int = 2, sabotage: Sabotage | None = None
) -> Outcome:
    """One schedule.

    Args:
        seed: Which one.
        where: A directory to work in.
        cuts: How many power cuts are tried on what happened.
        sabotage: A hook that breaks the protocol, to prove that this would be noticed.
    """
    root = where / f"stage-{seed}"
    root.mkdir()
    stage = _Stage(root, seed, setting, sabotage)
    StateManager(stage.state_dir, clock=stage.clock, files=WatchedFiles(stage.recorder)).create(
        "exp", num_processes=1
    )
    plays: list[tuple[str, Callable[[_Actor], None]]] = [("a", _claimant), ("b", _claimant)]
    plays.append(("deleter", _deleter) if stage.deletes else ("reader", _reader))
    if stage.deletes:
        plays.append(("reader", _reader))
    victim = stage.rng.choice(("a", "b", None))
    when = stage.rng.randrange(5, 200)
    actors = [
        _Actor(name, stage, play, dies_at=when if name == victim else None) for name, play in plays
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for actor in actors:
            stage.baton.turns[actor.name] = threading.Semaphore(0)
            actor.start()
            stage.baton.back.acquire()
        stage.baton.conduct()
        for actor in actors:
            actor.join(10)
            if actor.error is not None:
                stage.problem(f"{actor.name} met {type(actor.error).__name__}: {actor.error}")
        _finally(stage, cuts)
    shutil.rmtree(root, ignore_errors=True)
    outcome = stage.outcome
    outcome.order, outcome.operations = stage.baton.order, len(stage.baton.order)
    outcome.problems = [f"{setting}, seed {seed}: {each}" for each in outcome.problems]
    return outcome


def _finally(stage: _Stage, cuts: int) -> None:
    """Everybody is gone: is everything there, and after a power cut too?"""
    for text in _missing(stage, stage.state_dir, stage.acknowledged):
        stage.problem(text)
    trace = stage.recorder.trace()
    marks = [(at, json.loads(text)) for at, text in trace.marks()]
    deletes = [(at, tag) for at, (_, tag) in marks if tag in _DELETES]
    marks = [(at, mark) for at, mark in marks if mark[1] not in ("deleting", "kept")]
    for _ in range(cuts):
        cut = stage.rng.randrange(len(trace.effects) + 1)
        if not marks or cut < 12:
            continue  # before the experiment was there
        states = list(crash_states(trace, seed=stage.seed, limit=6, only=[cut]))
        _, state = stage.rng.choice(states)
        again = stage.root / f"cut-{cut}"
        state.tree.rebuild(again)
        promised = [(when, tag) for at, (when, tag) in marks if at < cut]
        under_way = next(((when, tag) for at, (when, tag) in marks if at >= cut), None)
        stage.outcome.power_cuts += 1
        # With locks, a delete that is under way has everybody else refused until it has happened or
        # not. By force and without them, an owner goes on beside it.
        begun = [tag for at, tag in deletes if at < cut]
        lawless = stage.forced and begun[-1:] == ["deleting"]
        for text in _missing(
            stage, again / ".experiment_state", [] if lawless else promised, under_way, gone=lawless
        ):
            stage.problem(f"power cut at effect {cut} ({'; '.join(state.lost)}): {text}")
        shutil.rmtree(again)


def _missing(
    stage: _Stage,
    state_dir: Path,
    acknowledged: list[tuple[int, str]],
    under_way: tuple[int, str] | None = None,
    *,
    gone: bool = False,
) -> Iterator[str]:
    """What of *acknowledged* is not in the history exactly once and in order.

    Args:
        under_way: The first promise that was not acknowledged any more.
        gone: Whether the experiment may be gone.
    """
    manager = StateManager(state_dir, clock=stage.clock, files=RoomyFiles())
    newest = max((when for when, _ in acknowledged), default=0)
    tags = [tag for when, tag in acknowledged if when == newest]
    deleted = "deleted" in tags and "created" not in tags
    # A delete that is not acknowledged yet may have happened all the same.
    vanishing = under_way is not None and under_way[0] > newest
    gone = gone or "unsure" in tags
    tags = [tag for tag in tags if tag.count(".") == 2]
    try:
        manager.load("exp")
        history = [each.evidence for each in manager.history("exp") if each.evidence]
        events = [each for each in history if each.count(".") == 2]
    except ExperimentNotFoundError:
        if not deleted and not vanishing and not gone:
            yield "the experiment is gone"
        return
    except HoldfastError as err:
        yield f"{type(err).__name__}: {err}"
        return
    if vanishing and not events:
        return
    if len(set(events)) != len(events):
        yield f"twice in the history: {events}"
    if not set(tags) <= set(events):
        yield f"acknowledged were {tags}, the history has {events}"
    for at, tag in enumerate(events):
        late = set(events[at:]) & set(stage.before[tag])
        if late:
            yield f"{sorted(late)} come after {tag}, which was begun when they were acknowledged"
    try:
        with manager.claim("exp", force=True) as claim:
            _step(claim, "later.0.0", random.Random(0))
    except HoldfastError as err:
        yield f"nobody can go on: {type(err).__name__}: {err}"
