"""One life of an experiment: run, killed as planned, resumed until it has come to its end."""

import os
import random
import signal
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.files import live_state
from holdfast.attempts.names import AttemptName
from holdfast.drill import tree
from holdfast.drill.aiming import IN_ATTEMPTS, SOON_S, Aim, unit_of
from holdfast.drill.eyes import Began, Ended, Event, Eyes
from holdfast.drill.kills import Kill, Stray
from holdfast.drill.runs import Runs
from holdfast.drill.strikes import Measured, Strike
from holdfast.drill.tree import Member
from holdfast.reading import text

__all__ = ["Life"]

#: Exit codes of a run that says how it ended: nothing of the experiment runs any more.
_SAYS_SO: Final = (0, 3, 130, 143)
#: Runs in a row that nobody disturbed and that did not get to the end, before it is given up.
_MOST_CALM: Final = 3
_LOOK_S: Final = 0.25
#: What was killed is gone after that, or nothing is made up.
_GONE_WITHIN_S: Final = 1.0
#: Whose death tears what is being written.
_WRITERS: Final = ("attempt", "process", "everything")
_HEARTBEAT_S: Final = 30.0


@attrs.define(kw_only=True)
class Life:
    """What happens to one experiment in its folder.

    Attributes:
        runs: What runs it.
        eyes: What sees it.
        tell: Where lines of progress go.
        check: Raises if the drill is to end.
        before: Our descendants that are no part of it.
        daemons: Whether what was released may stay alive.
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
    daemons: bool = False
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
    _aim: Aim | None = None
    _ready: dict[AttemptName | None, list[Member]] = attrs.field(factory=dict)
    _ran: tuple[AttemptName, ...] = ()
    _torn: tuple[Path, int] | None = None
    _struck: tuple[int, list[AttemptName], str, float] | None = None

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
        self._aim = Aim.at(strikes, measured, rng)
        while True:
            now = time.monotonic()
            if resume_at is not None:
                if now >= resume_at:
                    resume_at = None
                    self._go_on(rng)
                else:
                    self._watch(min(resume_at - now, _LOOK_S))
                continue
            # First: who was struck at a write has ended by that, and not by itself.
            if self._struck is not None or (
                self._aim is not None and self.runs.running and self._aim.due(now, self._live())
            ):
                assert self._aim is not None
                if self._strike(self._aim, number + len(self.kills)) is None:
                    self._watch(SOON_S)
                    continue
                calm = 0
                if not self.runs.running:
                    resume_at = now + self._aim.strike.pause_s(measured)
                self._aim = Aim.at(strikes, measured, rng)
            elif (code := self.runs.ended()) is not None:
                if self._over(code):
                    return
                if calm >= _MOST_CALM:
                    self.gave_up = f"{calm} runs in a row ended undisturbed with exit code {code}"
                    return
                calm += 1
                self._go_on(rng)
            elif now > self._heard + measured.quiet_s:
                self.gave_up = f"nothing happened for {measured.quiet_s:.0f} s"
                return
            else:
                self._wait(now)

    def _wait(self, now: float) -> None:
        if self._aim is None:
            self._watch(_LOOK_S)
            return
        if self._aim.armed:
            self._choose(self._aim)
            self.eyes.at_write = self._pounce
        self._watch(self._aim.wait_s(now, _LOOK_S))
        self.eyes.at_write = None

    def _begin(self) -> None:
        self._began = self._told = time.monotonic()
        self._start(resume=False)

    def _go_on(self, rng: random.Random) -> None:
        # A person would do either; before there is an experiment, only one of them.
        self._start(resume=rng.random() < 0.5 and self.runs.has_begun)

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
        tree.reap(self._own)
        now = time.monotonic()
        if now > self._told + _HEARTBEAT_S:
            self._told = now
            ended = text.count(self._ended, "attempt")
            after = text.duration(self.age_s)
            self.tell(f"  after {after}: {ended} ended, {len(self._live())} running")

    @property
    def _own(self) -> tuple[int, ...]:
        """Whose end `runs` waits for."""
        return () if self.runs.program is None else (self.runs.program.pid,)

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
                if (
                    member.lives
                    and not tree.is_dying(member)
                    and not (self.daemons and tree.is_released(member))
                ):
                    self._stray(member, of, f"when {name} began")

    def _live(self) -> dict[AttemptName, float]:
        """The attempts that run, and when each began."""
        for name in [name for name, (shim, _) in self._shims.items() if not shim.lives]:
            del self._shims[name]
        return {name: began for name, (_, began) in self._shims.items()}

    def _look_for_strays(self) -> None:
        """See what is alive although the run has said how it ended: it does once nothing is."""
        for member in tree.below(os.getpid()):
            if member in self.before or tree.is_own(member) or tree.is_dying(member):
                continue
            if not (self.daemons and tree.is_released(member)):
                self._stray(member, self._left.get(member), "after the run had ended")
        self._left.clear()

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

    def _choose(self, aim: Aim) -> None:
        """Have ready who is to be struck, as far as that can be known before the instant."""
        live = self._live()
        target = aim.strike.target
        self._ready, self._ran = {}, tuple(live)
        if target in IN_ATTEMPTS:
            for name in live:
                shim, _ = self._shims[name]
                # The last come first: who writes is most often one that was started by others.
                self._ready[name] = [*tree.below(shim.pid)[::-1], shim]
        elif target == "orchestrator":
            program = None if self.runs.program is None else self.runs.program.pid
            member = None if program is None else tree.member_of(program)
            self._ready[None] = [] if member is None else [member]
        else:
            found = [each for each in tree.below(os.getpid()) if each not in self.before]
            # At a write the last come first here, too.
            late = aim.strike.moment == "write"
            self._ready[None] = found[::-1] if late else aim.rng.sample(found, len(found))

    def _pounce(self, path: str, file: Path, size: int | None) -> None:
        """Strike now: *path*, a *file* of that *size* before, is being written."""
        aim = self._aim
        if aim is None or not aim.armed:
            return
        aim.wrote = path
        if size and path in self.eyes.emptied and aim.strike.target in _WRITERS:
            self._torn = file, size
            self.eyes.since.clear()
            self.runs.hold()
        self._hit(aim)

    def _hit(self, aim: Aim) -> None:
        """Signal who was chosen; `_struck` says what came of it."""
        self.eyes.at_write = None
        target, number = aim.strike.target, signal.SIGKILL
        names: list[AttemptName] = []
        members = self._ready.get(None, [])
        if target in IN_ATTEMPTS:
            names = aim.victims([name for name in self._ready if name is not None])
            members = [each for name in names for each in aim.of(self._ready[name])]
        elif target in ("TERM", "INT"):
            number = signal.SIGTERM if target == "TERM" else signal.SIGINT
        words = tree.words(members[0]) if target == "process" and members else ""
        at_s = self.age_s
        struck = tree.strike(members, number)
        if target == "everything":
            struck += tree.end(self.before, aim.rng, self._own)
        self._struck = struck, names, words, at_s

    def _strike(self, aim: Aim, number: int) -> Kill | None:
        """Do it, unless it was done at the instant of a write; None if nobody was hit."""
        if self._struck is None:
            self._choose(aim)
            self._hit(aim)
        assert self._struck is not None
        (processes, names, words, at_s), self._struck = self._struck, None
        emptied = bool(processes) and self._empty(aim, names)
        self._torn = None
        self.runs.release()
        if not processes:
            aim.again()
            return None
        target = aim.strike.target
        if target == "shim":
            for name in names:
                self._left.update(dict.fromkeys(self._ready.get(name, [])[:-1], name))
        if target in ("orchestrator", "everything"):
            self.runs.killed()
        everyone = target not in (*IN_ATTEMPTS, "orchestrator")
        kill = Kill(
            number=number,
            at_s=at_s,
            target=target,
            hit=self._ran if everyone else tuple(names),
            running=self._ran,
            processes=processes,
            words=words,
            at_write=aim.wrote,
            emptied=emptied,
            wrote=frozenset(self._wrote),
        )
        self.kills.append(kill)
        self.tell(f"  {kill}")
        self._wrote.clear()
        return kill

    def _empty(self, aim: Aim, names: list[AttemptName]) -> bool:
        """Have the file that was being written as it was an instant before: empty; whether it is.

        Its writer has emptied it to write it anew, which takes less time than a kill. That it was
        killed in between is made up, but nothing else is: nothing was written since, whoever could
        have written is dead, and nobody has begun the next attempt.
        """
        if self._torn is None or aim.wrote is None:
            return False
        file, size = self._torn
        unit = unit_of(aim.wrote)
        spared = {
            member
            for name, (shim, _) in self._shims.items()
            if unit is not None and name not in names
            for member in tree.below(shim.pid)
        }
        until = time.monotonic() + _GONE_WITHIN_S
        while self._is_any_alive(spared):
            if time.monotonic() > until:
                return False
            self._watch(SOON_S)
        self._watch(0)
        others = {path for path in self.eyes.since if path != aim.wrote}
        # What another process writes of its own meanwhile makes no difference to this one.
        if any(unit is None or unit_of(path) in (None, unit) for path in others):
            return False
        try:
            if not 0 < file.lstat().st_size <= size:
                return False
            os.truncate(file, 0)
        except OSError:
            return False
        return True

    def _is_any_alive(self, spared: Collection[Member]) -> bool:
        """Whether a process of an attempt is, but for those *spared*."""
        apart = {*self.before, *spared}
        return any(
            member not in apart
            and member.pid not in self._own
            and not tree.is_own(member)
            and not tree.is_dying(member)
            for member in tree.below(os.getpid())
        )
