"""Turns attempts that are over into facts for the lifecycle: at once, or beside the loop.

A result of a few kilobytes is taken at once. What takes longer is over, as far as its slot is
concerned, and its fact comes when its result and its outputs are durable.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import attrs

from holdfast.attempts.looking import Ended
from holdfast.errors import AttemptWarning, DiskError
from holdfast.lifecycle.events import Event
from holdfast.lifecycle.records import ExperimentState
from holdfast.orchestration import exits
from holdfast.orchestration.beside import Beside, Task
from holdfast.orchestration.taking import Taking
from holdfast.orchestration.watch import Learnt, Watch
from holdfast.status import Reason

__all__ = ["Accepting"]

#: How long after a request to stop what is being accepted may take, if nothing else runs.
_FINISHED_WITHIN_S: Final = 0.1


class Accepting:
    """The outcomes of one experiment on their way into its record."""

    def __init__(
        self, watch: Watch, beside: Beside, state: Callable[[], ExperimentState], take: Taking
    ) -> None:
        """Take what *watch* learns in *state*; what is large *beside* the loop."""
        self._watch = watch
        self._state = state
        self._beside = beside
        self._taking = take
        self._begun: list[tuple[Learnt, Task[Sequence[Event]]]] = []

    def facts(self, found: Iterable[Learnt], stopping: Reason | None) -> list[Event]:
        """The facts of the attempts *found*, and of earlier ones whose results are checked by now.

        Args:
            stopping: Why attempts are asked to stop, where they are.
        """
        facts: list[Event] = []
        for learnt in found:
            if learnt.name.index is None:
                continue  # an aggregation of an earlier life; nobody waits for it any more
            work = self._work(learnt, stopping)
            if self._takes_long(learnt):
                self._watch.completing.add(learnt.name)
                self._begun.append((learnt, self._beside.begin(work)))
            else:
                self._take(learnt, work, facts)
        for each in [each for each in self._begun if each[1].over.is_set()]:
            self._begun.remove(each)
            self._watch.completing.discard(each[0].name)
            self._take(each[0], partial(self._now, each[1]), facts)
        return facts

    def _takes_long(self, learnt: Learnt) -> bool:
        ended, folder = learnt.found, self._watch.launcher.folder
        return isinstance(ended, Ended) and exits.takes_long(
            folder, learnt.name, ended.record, self._taking
        )

    def _now(self, task: Task[Sequence[Event]]) -> list[Event]:
        # Not when its checking began: what is recorded is in the order of its times.
        at = self._watch.clock()
        return [attrs.evolve(fact, at=at) for fact in task.result()]

    def _take(
        self, learnt: Learnt, work: Callable[[], Sequence[Event]], facts: list[Event]
    ) -> None:
        try:
            facts += work()
        except DiskError as err:
            self._watch.put_back(learnt, err)

    def _work(self, learnt: Learnt, stopping: Reason | None) -> Callable[[], Sequence[Event]]:
        name, found, watch, state = learnt.name, learnt.found, self._watch, self._state()
        folder, take = watch.launcher.folder, self._taking
        if isinstance(found, Ended):
            asked = name in watch.asking.asked
            return lambda: exits.exited(
                *(state, folder, name, found.record, watch.clock()),
                stopping=stopping,
                asked=asked,
                means=learnt.means,
                take=take,
            )
        evidence = found.evidence
        if learnt.text and learnt.text not in evidence:
            evidence = f"the engine says: {learnt.text}; {evidence}"
        means = learnt.means if found.began else attrs.evolve(learnt.means, fails=False)
        return lambda: exits.lost(
            *(state, folder, name, watch.clock(), evidence, take),
            means=means,
            stopping=stopping if name in watch.asking.asked else None,
        )

    def give_up(self, stopped_at: float, *, now: bool) -> None:
        """Leave to the next resume what is not through yet and would be all that is waited for.

        Args:
            stopped_at: When everything was asked to stop.
            now: Whether it was asked again.
        """
        watch = self._watch
        lasted = watch.monotonic() - stopped_at
        others = watch.handles or watch.settling
        if not self._begun or not (now or (not others and lasted >= _FINISHED_WITHIN_S)):
            return
        for learnt, task in self._begun:
            task.wanted = False
            watch.completing.discard(learnt.name)
            watch.left.add(learnt.name)
            warnings.warn(
                f"what attempt {learnt.name} left was still being checked; the next resume takes "
                f"it up",
                AttemptWarning,
                stacklevel=4,
            )
        self._begun.clear()
