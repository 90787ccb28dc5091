"""When a run ends and leaves its attempts to their engine, which goes on without it."""

import attrs

from holdfast.orchestration.interrupts import Interrupts
from holdfast.orchestration.scheduling import Plan
from holdfast.orchestration.watch import Watch

__all__ = ["Leaving"]


@attrs.define
class Leaving:
    """Of one run.

    Attributes:
        wanted: Whether it only submits.
    """

    _watch: Watch
    _interrupts: Interrupts
    wanted: bool = False
    _learnt: bool = False

    @property
    def by_signal(self) -> bool:
        """Whether a signal has come that is for this program alone.

        A request stops everything, and so does a signal where attempts are of this machine.
        """
        return self._watch.engine.outlives and self._interrupts.first is not None

    def is_due(self, plan: Plan, *, stopping: bool) -> bool:
        """Whether the run ends now; *plan* is recorded and carried out.

        Args:
            stopping: Whether attempts were asked to stop, for the failure of another.
        """
        watch = self._watch
        if self.by_signal:
            return True
        # Every engine is asked once, for what has ended already. Where nothing is left to an
        # engine, nobody would go on with what waits for its next attempt.
        learnt, self._learnt = self._learnt, True
        if not self.wanted or stopping or not learnt or not watch.handles or plan.starts:
            return False
        busy = watch.unsubmitted or watch.settling or watch.completing
        # Whatever may be submitted is, or nobody would know whether it will be.
        known = all(watch.untaken.values())
        return (
            known and not busy and not watch.hearing.in_doubt and watch.engine_trouble.error is None
        )
