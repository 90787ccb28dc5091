"""Where a workload works: a manager on a clock of its own, and somebody who hears the promises.

A *mark* is a promise: what every later reader must find at least, told the moment a call returned.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

from holdfast.errors import ClaimClosedError, StateWriteError
from holdfast.lifecycle.events import ProcessExited, Requested
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import encoding
from holdfast.store.claim import Claim
from holdfast.store.files import Files
from holdfast.store.manager import StateManager

from .watching import RoomyFiles

__all__ = ["ABSENT", "Bench", "Ticking", "digest", "legal_step", "speaker"]

#: The digest of an experiment that is not there.
ABSENT = "absent"


# Who owns it, and how often and when it was written, may differ between a disturbed life and the
# same life undisturbed. (Times are in the lines that also hold the rest, under one checksum.)
_VOLATILE = (
    "owner", "epoch", "revision", "schema_version",
    "last_updated", "created_at", "started_at", "finished_at",
)  # fmt: skip


_VOLATILE_OF_PROCESS = ("started_at", "completed_at")


def digest(state: ExperimentState) -> str:
    """Short text, equal for states that tell the same of the experiment and every process."""
    plain = encoding.state_to_json(state)
    for name in _VOLATILE:
        plain.pop(name, None)
    for process in plain["process_progress"].values():
        for name in _VOLATILE_OF_PROCESS:
            process.pop(name, None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:20]


class Ticking:
    """A clock that goes on by a step at every look: traces do not depend on the machine's speed."""

    def __init__(self, step_s: float = 0.07) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.step = timedelta(seconds=step_s)

    def __call__(self) -> datetime:
        self.now += self.step
        return self.now


@attrs.define
class Bench:
    """Where a workload works: a manager, and somebody who hears the acknowledgements.

    Attributes:
        say: Gets every mark as text.
        events: For every experiment, how many transitions were acknowledged.
        retries: Record once more, with the same claim, what is said to have changed nothing.
    """

    root: Path
    say: Callable[[str], None]
    files: Files = attrs.field(factory=RoomyFiles)
    clock: Callable[[], datetime] = attrs.field(factory=Ticking)
    events: dict[str, int] = attrs.field(factory=dict)
    retries: bool = False

    def manager(self) -> StateManager:
        """A new one: nothing is shared between calls but the disk."""
        return StateManager(self.root / ".experiment_state", clock=self.clock, files=self.files)

    def promised(self, state: ExperimentState, new_events: int, what: str) -> None:
        """A call returned *state*: from here on it must survive anything."""
        count = self.events[state.experiment_id] = (
            self.events.get(state.experiment_id, 0) + new_events
        )
        self._mark(state.experiment_id, digest(state), count, str(state.status), what)

    def gone(self, experiment_id: str) -> None:
        """A delete returned."""
        self.events[experiment_id] = 0
        self._mark(experiment_id, ABSENT, 0, "", "delete")

    def _mark(self, experiment_id: str, found: str, events: int, status: str, what: str) -> None:
        mark = {"id": experiment_id, "digest": found, "events": events, "status": status}
        self.say(json.dumps({**mark, "what": what}))

    def record(self, claim: Claim, event: str, process: int | None = None, **facts: object) -> None:
        """`claim.record`, and the promise."""
        given: dict[str, Any] = facts
        try:
            state = claim.record(event, process, **given)
        except StateWriteError as err:
            # The error says that nothing of it is stored: then the same claim must take it again.
            if not self.retries or err.stored != "old":
                raise
            try:
                state = claim.record(event, process, **given)
            except ClaimClosedError:
                raise err from None  # it could not be taken back for certain, and was given up
        self.promised(state, 1, event)


def legal_step(claim: Claim, at: datetime, rng: random.Random) -> list[Requested | ProcessExited]:
    """One to three events that are legal now, chosen by *rng*; none once it is aggregated."""
    state = claim.state
    status = str(state.status)
    if status != "running":
        event = {"initialised": "start", "interrupted": "resume", "failed": "retry",
                 "completed": "aggregate"}.get(status)  # fmt: skip
        return [] if event is None else [Requested(entity="experiment", event=event, at=at)]
    if state.can_aggregate():
        return [Requested(entity="experiment", event="complete", at=at)]
    if rng.random() < 0.05:
        return [Requested(entity="experiment", event="interrupt", at=at, reason="user")]
    events: list[Requested | ProcessExited] = []
    indices = [i for i, p in state.process_progress.items() if str(p.status) != "completed"]
    chosen = rng.sample(indices, min(len(indices), rng.randint(1, 3)))
    code = rng.choice((0, 0, 1))
    if state.has_gangs:
        chosen = [
            rank for first in {state.gang(i).start for i in chosen} for rank in state.gang(first)
        ]
    for index in chosen:
        process = state.process_progress[index]
        if str(process.status) == "pending":
            events.append(Requested(entity="process", event="start", process=index, at=at))
        elif str(process.status) == "failed":
            facts = {"requested_by_user": True}
            events.append(
                Requested(entity="process", event="requeue", process=index, at=at, facts=facts)
            )
        else:
            code = code if state.has_gangs else rng.choice((0, 0, 1))
            events.append(
                ProcessExited(process=index, attempt=process.attempt, at=at, exit_code=code)
            )
    return events


def speaker(marks: str) -> Callable[[str], None]:
    """Appends marks to a file by `writev`, which the store never calls: faults are put per call."""
    fd = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda text: os.writev(fd, [text.encode() + b"\n"]) and None
