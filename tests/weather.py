"""What happens on a cluster on paper, and how often."""

import math
import random
from typing import Literal

import attrs

__all__ = ["Weather"]


@attrs.frozen(kw_only=True)
class Weather:
    """How often something happens: shares of calls, words, or attempts, unless said otherwise.

    Attributes:
        jobs: How many attempts the engine takes at a time; None for no limit.
        locks: Whether a lock on a node is seen here; many a shared file system keeps them apart.
        outlives: As of an engine.
        errors: Calls that fail, before, amid or after they had their effect.
        unknown: Words that say nothing.
        stale: Words that were true a while ago.
        lag_s: How far behind words may be, for all of an attempt's life.
        missed: Attempts that `find` does not see at first.
        late_s: How long an exit record may take to be seen.
        completing_s: How long an end may be called `completing`.
        memory_s: How long ends are remembered, before they are `gone`.
        queue_s: How long attempts wait, on average.
        run_s: How long commands run, on average.
        held: Attempts that are held for long before they may begin.
        forgotten: Attempts that are accepted and forgotten; half of them begin all the same.
        twice: Attempts that the engine starts a second time.
        fails: Commands that fail.
        shims: Attempts whose shim is killed, so that they leave no exit record.
        limits: Attempts that meet the time limit, are preempted or cancelled by somebody.
        memory: Attempts that are killed because they grew too large.
        nodes_s: How far apart failures of nodes are, on average; infinite for none.
        away_s: How far apart the times are in which nothing is known of any job.
        crashes: How many steps an orchestrator lives for, on average; infinite for no crash.
        asks_s: How far apart requests to stop, and signals, are.
        refuses: Submissions that the engine refuses for good.
        leaves: Orchestrators that submit and leave.
        poll_s: How far apart an engine's looks at its scheduler are at least.
    """

    jobs: int | None = None
    locks: Literal["seen", "unseen", "none"] = "seen"
    outlives: bool = True
    errors: float = 0.0
    unknown: float = 0.0
    stale: float = 0.0
    lag_s: float = 0.0
    missed: float = 0.0
    late_s: float = 0.0
    completing_s: float = 0.0
    memory_s: float = math.inf
    queue_s: float = 1.0
    run_s: float = 20.0
    held: float = 0.0
    forgotten: float = 0.0
    twice: float = 0.0
    fails: float = 0.0
    shims: float = 0.0
    limits: float = 0.0
    memory: float = 0.0
    nodes_s: float = math.inf
    away_s: float = math.inf
    crashes: float = math.inf
    asks_s: float = math.inf
    refuses: float = 0.0
    leaves: float = 0.0
    poll_s: float = 0.0

    @classmethod
    def of(cls, chance: random.Random) -> "Weather":
        """Some of everything, and mostly not everything at once."""

        def perhaps(value: float, otherwise: float = 0.0, share: float = 0.4) -> float:
            return value if chance.random() < share else otherwise

        return cls(
            jobs=chance.choice([None, None, 2, 5]),
            locks=chance.choice(["seen", "unseen", "none"]),
            outlives=chance.random() < 0.7,
            errors=perhaps(0.1),
            unknown=perhaps(0.2),
            stale=perhaps(0.1),
            lag_s=perhaps(20.0),
            missed=perhaps(0.3),
            late_s=perhaps(25.0),
            completing_s=perhaps(90.0),
            memory_s=perhaps(100.0, math.inf),
            queue_s=chance.choice([0.1, 5.0, 20.0]),
            run_s=chance.choice([1.0, 10.0, 40.0]),
            held=perhaps(0.1),
            forgotten=perhaps(0.1),
            twice=perhaps(0.2),
            fails=perhaps(0.2),
            shims=perhaps(0.1),
            limits=perhaps(0.2),
            memory=perhaps(0.05),
            nodes_s=perhaps(100.0, math.inf),
            away_s=perhaps(150.0, math.inf),
            crashes=perhaps(chance.choice([60.0, 300.0]), math.inf, 0.7),
            asks_s=perhaps(100.0, math.inf, 0.3),
            refuses=perhaps(0.1, share=0.1),
            leaves=perhaps(0.5, share=0.2),
            poll_s=chance.choice([0.0, 0.0, 2.0]),
        )
