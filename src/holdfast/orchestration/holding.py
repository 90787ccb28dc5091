"""The slots of one experiment's attempts, until an engine has taken these.

They are held by this process from before the start is recorded: killed before it could launch, it
lets them go with its end, and the next run takes others.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Slot
from holdfast.config.experiment_file import Experiment
from holdfast.errors import DiskError
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration.watch import Watch

if TYPE_CHECKING:
    from holdfast.attempts.files import Signature
    from holdfast.slots.allocation import Allocator, Held
    from holdfast.slots.holders import Standing

__all__ = ["Holding", "allocator"]

_Marks = Callable[[ExperimentState, int], Mapping[str, object]]

#: How often it is tried again: nothing tells that another experiment has let one go.
_AGAIN_S: Final = 0.5
#: After so many tries, who has a slot and does not say for whom is told.
_LONG: Final = 10


def allocator(experiment: Experiment) -> "Allocator | None":
    """What takes the slots of processes; None if they need none."""
    if not experiment.needs:
        return None
    # Who needs none does not wait for their import.
    from holdfast.slots.allocation import Allocator
    from holdfast.slots.devices import pool

    title = str(experiment.path or "the experiment")
    there = functools.partial(pool, experiment.slots, experiment.needs, title)
    return Allocator(there, experiment.needs)


class Holding:
    """The slots of what one experiment starts.

    Attributes:
        waits: Whether more could start if there were slots for it.
        problem: Why it could not be told whether there are; None if it could.
    """

    def __init__(self, watch: Watch) -> None:
        """Take what the experiment of *watch* needs, for what that submits."""
        self._watch = watch
        self.waits = False
        self.problem: DiskError | None = None
        self._spare: list[Held] = []
        #: By the first process of the command whose start is being recorded.
        self._promised: dict[int, Held] = {}
        self._launched: dict[AttemptName, Held] = {}
        self._told: set[object] = set()
        self._unsigned: Counter[object] = Counter()

    @functools.cached_property
    def _allocator(self) -> "Allocator | None":
        return allocator(self._watch.launcher.experiment)

    def room(self, wanted: int) -> int:
        """For how many of so many commands there are slots, which are held from now on."""
        if self._allocator is None:
            return wanted
        # Not all that there is room for, if descriptors are wanting: one is better than none.
        for number in (wanted, 1) if wanted > 1 else (wanted,):
            try:
                self._spare += self._allocator.take(number, self._is_over)
                self.problem = None
                break
            except DiskError as err:
                self.problem = err
        self.waits = len(self._spare) < wanted
        return len(self._spare)

    def _is_over(self, holder: "Signature") -> bool:
        """Whether that is an attempt of ours whose end is recorded: say in a container before."""
        watch = self._watch
        if not holder.is_of(watch.launcher.folder):
            return False
        name = AttemptName.parse(watch.launcher.experiment_id, holder.attempt)
        ours = (watch.handles, watch.settling, watch.blocked, watch.left, watch.unsubmitted)
        return name is not None and not any(name in each for each in ours)

    def marked(self, marks: _Marks) -> _Marks:
        """*marks*, and as evidence the slots that the command gets."""
        if self._allocator is None:
            return marks

        def start(state: ExperimentState, index: int) -> Mapping[str, object]:
            first = state.gang(index).start
            if first not in self._promised:
                self._promised[first] = self._spare.pop(0)
            return {**marks(state, index), "evidence": f"slots: {self._promised[first]}"}

        return start

    def of(self, name: AttemptName) -> tuple[Slot, ...]:
        """The slots of an attempt that is being launched."""
        if self._allocator is None:
            return ()
        assert name.index is not None
        held = self._launched[name] = self._promised.pop(name.index)
        return held.slots

    def settle(self) -> None:
        """Let go of what nobody was given, and of what an engine has taken over."""
        for held in (*self._spare, *self._promised.values()):
            held.close()
        self._spare.clear()
        self._promised.clear()
        for name in self._launched.keys() - self._watch.unsubmitted.keys():
            self._launched.pop(name).close()

    def close(self) -> None:
        """Let go of everything that is still held here."""
        self.settle()
        for held in self._launched.values():
            held.close()
        self._launched.clear()

    def _waiting(self) -> Iterator[Slot]:
        """What is held for attempts that no engine takes at this moment."""
        for held in self._launched.values():
            yield from held.slots

    def pause_s(self) -> float:
        """How long to wait before it is tried again; at random, lest two runs go on in step."""
        return _AGAIN_S * (0.75 + os.urandom(1)[0] / 512)

    def news(self) -> Iterator[str]:
        """Who has what is waited for, once of each; what is our own ends, or is told otherwise."""
        if (err := self.problem) is not None and err.cause not in self._told:
            self._told.add(err.cause)
            yield f"waits for slots: {err.path}: {err.operation} failed: {err.cause}"
        taken = () if self._allocator is None else self._allocator.taken
        found = [each for each in taken if self._is_new(each)]
        if not found:
            return
        from holdfast.slots.holders import waits

        yield from waits(found)

    def _is_new(self, standing: "Standing") -> bool:
        holder = standing.holder
        if holder is None:
            if any(slot.path == standing.slot.path for slot in self._waiting()):
                return False
            # Whoever starts something has signed it within a moment, unless it is stopped.
            self._unsigned[standing.slot] += 1
            return self._unsigned[standing.slot] == _LONG
        if standing.kind != "unknown" and holder.is_of(self._watch.launcher.folder):
            return False
        key = standing.slot, standing.kind, holder.experiment_id
        is_new = key not in self._told
        self._told.add(key)
        return is_new
