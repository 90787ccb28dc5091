"""The controller of a cluster, as one engine reaches it: what it allows, and what it said last."""

from collections.abc import Callable
from typing import Final

from holdfast.engines.slurm.asking import Answer, Asking, place
from holdfast.engines.slurm.client import Client
from holdfast.engines.slurm.limits import Limits
from holdfast.errors import EngineError

__all__ = ["Controller"]

#: Between two attempts to reach a controller that has never answered.
_SHORTEST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 30.0
#: After which it is asked again whether it is there before it is told anything.
_TRUSTED_S: Final = 5.0


class Controller:
    """Reaches the controller, and waits longer and longer before it tries again.

    Attributes:
        limits: What the cluster allows; None before its controller has said so once.
        problem: Why it has never answered; empty if it has.
    """

    def __init__(
        self, client: Client, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._client = client
        self._clock = clock
        self._monotonic = monotonic
        self._asking: Asking | None = None
        self._heard_at = self._again_at = float("-inf")
        self._pause_s = _SHORTEST_PAUSE_S
        self.limits: Limits | None = None
        self.problem = ""

    @property
    def answer(self) -> Answer | None:
        """What it said last of all jobs; None if it was never asked."""
        return None if self._asking is None else self._asking.answer

    def reach(self) -> Limits:
        """The limits of the cluster, whose controller answers. Raises EngineError."""
        if self._monotonic() - self._heard_at > _TRUSTED_S:
            self._client.ping()
            self._heard_at = self._monotonic()
        if self.limits is None:
            config = self._client.config()
            self.limits = Limits.of(config, self._client.preemption_grace_s(config))
        return self.limits

    def asking(self) -> Asking:
        """Who asks it of jobs, for all of the user's. Raises EngineError."""
        if self._asking is None:
            # Which cluster it is, it must have said once.
            limits = self.limits or self.reach()
            self._asking = Asking(self._client, place(limits.cluster), self._clock)
            self.problem = ""
        return self._asking

    def refresh(self) -> bool:
        """Ask of jobs if it is time to; whether there is another answer."""
        if self._asking is None and self._monotonic() < self._again_at:
            return False
        try:
            return self.asking().refresh()
        except EngineError as err:
            self._again_at = self._monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 1.5, _LONGEST_PAUSE_S)
            before, self.problem = self.problem, err.problem
            return before != err.problem

    def hurry(self) -> None:
        """Something has happened of which its last answer cannot know."""
        if self._asking is not None:
            self._asking.hurry()

    def due_in_s(self) -> float:
        """When it may be asked again."""
        if self._asking is None:
            return max(self._again_at - self._monotonic(), 0.0)
        return self._asking.due_in_s()
