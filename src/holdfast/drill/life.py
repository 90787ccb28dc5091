"""One life of an experiment: run, killed as planned, resumed until it has come to its end."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName
from holdfast.drill import tree
from holdfast.drill.eyes import Began, Ended, Event, Eyes, Wrote
from holdfast.drill.runs import Runs
from holdfast.drill.strikes import Measured, Strike
from holdfast.drill.tree import Member

__all__ = ["Kill", "Life", "Stray"]

#: Exit codes of a run that says how it ended: nothing of the experiment runs any more.
_SAYS_SO: Final = (0, 3, 130, 143)
#: Runs in a row that nobody disturbed and that did not get to the end, before it is given up.
_MOST_CALM: Final = 3
#: What was killed may take so long to be gone.
_GONE_WITHIN_S: Final = 1.0
_LOOK_S: Final = 0.25
_HEARTBEAT_S: Final = 30.0
#: Who needs an attempt to be there.
_IN_ATTEMPTS: Final = ("shim", "process", "attempt")


@attrs.frozen(kw_only=True)
class Kill:
    """One that was done.

    Attributes:
        at_s: Since its round began.
        moment: What it waited for.
        hit: The attempts of which something was killed.
        running: Those that ran.
        processes: How many processes were.
        wrote: Files that were written to since the one before.
    """

    number: int
    at_s: float
    target: str
    moment: str
    hit: tuple[AttemptName, ...]
    running: tuple[AttemptName, ...]
    processes: int
    wrote: frozenset[str]


@attrs.frozen(kw_only=True)
class Stray:
    """A process that should not have been alive any more.

    Attributes:
        of: The attempt that it was part of; None if that is not known.
        when: A clause.
        released: Whether it shows that it wants to be part of no attempt.
    """

    pid: int
    words: str
    of: AttemptName | None
    when: str
    released: bool


@attrs.define(kw_only=True)
class Life:
    """What happens to one experiment in its folder.

    Attributes:
        runs: What runs it.
        eyes: What sees it.
        tell: Where lines of progress go.
        check: Raises if the drill is to end.
        before: Our descendants that are no part of it.
        kills: What was done to it.
        strays: Processes that outlived what they should not have.
        writes: How many were seen.
        gave_up: Why it never came to its end; None if it did.
        code: The exit code of its last run.
    """

    runs: Runs
    eyes: Eyes
    tell: Callable[[str], None]
    check: Callable[[], None]
    before: frozenset[Member] = frozenset()
    kills: list[Kill] = attrs.field(factory=list)
    strays: list[Stray] = attrs.field(factory=list)
    writes: int = 0
    gave_up: str | None = None
    code: int | None = None
    _began: float = 0.0
    _shims: dict[AttemptName, tuple[Member, float]] = attrs.field(factory=dict)
    _ended: int = 0
    _left: dict[Member, AttemptName] = attrs.field(factory=dict)
    _wrote: set[str] = attrs.field(factory=set)
    _told: float = 0.0
    _heard: float = 0.0
    _aim: "_Aim | None" = None

    # -- from its first run to its end

    def undisturbed(self) -> None:
        """Run it once, as it is."""
        self._begin()
        while (code := self.runs.ended()) is None:
            self._watch(_LOOK_S)
        self._over(code)

    def disturbed(
        self, strikes: Iterator[Strike], measured: Measured, rng: random.Random, number: int
    ) -> None:
        """Run it, strike, and resume it until it is done; the first kill has that *number*."""
        self._begin()
        calm = 0
        resume_at: float | None = None
        self._aim = _Aim.at(strikes, measured, self._began)
        while True:
            now = time.monotonic()
            if resume_at is not None:
                if now >= resume_at:
                    resume_at = None
                    self._start(resume=True)
                else:
                    self._watch(min(resume_at - now, _LOOK_S))
                continue
            if (code := self.runs.ended()) is not None:
                if self._over(code):
                    return
                calm += 1
                if calm >= _MOST_CALM:
                    self.gave_up = f"{calm} runs in a row ended with exit code {code}"
                    return
                self._start(resume=True)
            elif self._aim is not None and self._aim.due(now, self._live()):
                if self._strike(self._aim, rng, number + len(self.kills)):
                    calm = -1 if self.runs.program is not None else 0
                    if self.runs.program is None:
                        resume_at = now + self._aim.strike.pause_s(measured)
                    self._aim = _Aim.at(strikes, measured, time.monotonic())
                else:
                    self._watch(0.005)
            elif now > self._heard + measured.quiet_s:
                self.gave_up = f"nothing happened for {measured.quiet_s:.0f} s"
                return
            else:
                self._watch(_LOOK_S if self._aim is None else self._aim.wait_s(now, _LOOK_S))

    def _begin(self) -> None:
        self._began = self._told = time.monotonic()
        self._start(resume=False)

    def _start(self, *, resume: bool) -> None:
        self._heard = time.monotonic()
        self.runs.start(resume=resume)

    def _over(self, code: int) -> bool:
        """Take the end of a run; whether it was the last."""
        self.code = code
        if code in _SAYS_SO:
            self._look_for_strays()
        return code == 0

    @property
    def age_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    # -- what is seen of it

    def _watch(self, within_s: float) -> None:
        self.check()
        fd = self.runs.fd
        for event in self.eyes.look(within_s, *([] if fd is None else [fd])):
            self._hear(event)
        program = self.runs.program
        tree.reap(() if program is None else (program.pid,))
        now = time.monotonic()
        if now > self._told + _HEARTBEAT_S:
            self._told = now
            self.tell(f"  {self._ended} attempts ended, {len(self._live())} running")

    def _hear(self, event: Event) -> None:
        self._heard = time.monotonic()
        if isinstance(event, Began):
            self._attempt_began(event.name)
        elif isinstance(event, Ended):
            self._ended += 1
            self._shims.pop(event.name, None)
        else:
            self.writes += 1
            self._wrote.add(event.path)
        if self._aim is not None:
            self._aim.hear(event)

    def _attempt_began(self, name: AttemptName) -> None:
        identity = live_state(self.runs.state_dir / name.experiment_id, name).identity
        shim = None if identity is None or identity.pid is None else tree.member_of(identity.pid)
        if shim is not None:
            self._shims[name] = shim, time.monotonic()
        # Nothing of an attempt may be alive when the next one of its process begins.
        for member, of in list(self._left.items()):
            if of.unit == name.unit and of.attempt < name.attempt:
                del self._left[member]
                if member.lives:
                    self._stray(member, of, f"when {name} began")

    def _live(self) -> dict[AttemptName, float]:
        """The attempts that run, and when each began."""
        for name in [name for name, (shim, _) in self._shims.items() if not shim.lives]:
            del self._shims[name]
        return {name: began for name, (_, began) in self._shims.items()}

    def _look_for_strays(self) -> None:
        until = time.monotonic() + _GONE_WITHIN_S
        while left := self._descendants():
            if time.monotonic() > until:
                break
            self._watch(0.01)
        for member in left:
            self._stray(member, self._left.get(member), "after a run had ended")
        self._left.clear()

    def _descendants(self) -> list[Member]:
        found = (each for each in tree.below(os.getpid()) if each not in self.before)
        return [each for each in found if not tree.is_own(each)]

    def _stray(self, member: Member, of: AttemptName | None, when: str) -> None:
        stray = Stray(
            pid=member.pid,
            words=tree.words(member),
            of=of,
            when=when,
            released=tree.is_released(member),
        )
        self.strays.append(stray)
        tree.strike([member], signal.SIGKILL)

    # -- what is done to it

    def _strike(self, aim: "_Aim", rng: random.Random, number: int) -> bool:
        """Do it; False if there was nobody to be hit."""
        program, live = self.runs.program, self._live()
        assert program is not None
        target, at_s = aim.strike.target, self.age_s
        hit: list[AttemptName] = list(live)
        processes = 0
        if target in _IN_ATTEMPTS:
            hit = aim.victims(hit, rng)
            for name in hit:
                processes += self._in_attempt(target, name, rng)
        elif target == "orchestrator":
            hit = []
            program.kill()
            processes = 1
        elif target == "everything":
            processes = tree.end(self.before, rng)
        else:
            members = [each for each in tree.below(os.getpid()) if each not in self.before]
            number_of = signal.SIGTERM if target == "TERM" else signal.SIGINT
            processes = tree.strike(rng.sample(members, len(members)), number_of)
        if not processes:
            return False
        if target in ("orchestrator", "everything"):
            self.runs.killed()
        self.kills.append(
            Kill(
                number=number,
                at_s=at_s,
                target=target,
                moment=aim.strike.moment,
                hit=tuple(hit),
                running=tuple(live),
                processes=processes,
                wrote=frozenset(self._wrote),
            )
        )
        self._wrote.clear()
        return True

    def _in_attempt(self, target: str, name: AttemptName, rng: random.Random) -> int:
        shim, _ = self._shims[name]
        # The last come first: who writes is most often one that was started by others.
        members = tree.below(shim.pid)[::-1]
        if target == "process":
            members = [rng.choice(members)] if members else []
        elif target == "shim":
            self._left.update(dict.fromkeys(members, name))
            members = [shim]
        else:
            members.append(shim)
        return tree.strike(members, signal.SIGKILL)


@attrs.define
class _Aim:
    """A strike that waits for its instant."""

    strike: Strike
    measured: Measured
    since: float
    skip: int
    victim: AttemptName | None = None
    wrote: str | None = None

    @classmethod
    def at(cls, strikes: Iterator[Strike], measured: Measured, now: float) -> "_Aim | None":
        strike = next(strikes, None)
        return None if strike is None else cls(strike, measured, now, strike.skip)

    def hear(self, event: Event) -> None:
        moment = self.strike.moment
        if isinstance(event, Began) and moment == "attempt" and self.victim is None:
            self.victim = event.name if self.skip <= 0 else None
            self.skip -= 1
        elif isinstance(event, Wrote) and moment == "write" and self.wrote is None:
            self.wrote = event.path if self.skip <= 0 else None
            self.skip -= 1

    def due(self, now: float, live: dict[AttemptName, float]) -> bool:
        moment = self.strike.moment
        if not live and self.strike.target in _IN_ATTEMPTS:
            self.wrote = None  # whoever wrote has ended
            return False
        if moment == "write":
            return self.wrote is not None
        if moment == "clock":
            return now >= self.since + self.strike.gap_s(self.measured)
        if self.victim is not None and self.victim not in live:
            self.victim = None  # it was shorter this time: the next is as good
        return self.victim is not None and now >= live[self.victim] + self._into_s()

    def _into_s(self) -> float:
        assert self.victim is not None
        return self.strike.share * self.measured.attempts_s.get(self.victim.unit, 0.0)

    def wait_s(self, now: float, most: float) -> float:
        """How long to wait for what happens, before it may be due."""
        if self.strike.moment == "clock":
            return min(most, max(0.001, self.since + self.strike.gap_s(self.measured) - now))
        return 0.01 if self.victim is not None else most

    def victims(self, live: list[AttemptName], rng: random.Random) -> list[AttemptName]:
        """Which of the attempts that run are hit: if possible whose write it was."""
        if self.victim in live:
            return [self.victim]
        if self.wrote is not None:
            parts = self.wrote.split("/")
            wrote = [name for name in live if name.unit in parts or f"{name}.json" in parts]
            if wrote or self.strike.target == "attempt":
                return wrote or live
        return [rng.choice(live)]
