"""Makes sure that an unwatched attempt is over: revoked, or its leftovers stopped.

`holdfast.attempts.looking` looks, this acts, one step at a time and without ever waiting: many
attempts settle beside each other and beside a loop that goes on.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.family import Census, is_stuck, release, send_to_confined, send_to_marked
from holdfast.attempts.files import revoke
from holdfast.attempts.looking import Ended, Gone, Look, Running, Unbegun, Undecided, listed, look
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import Process
from holdfast.identity import ProcessIdentity, Verdict
from holdfast.liveness import Observer

__all__ = ["Lost", "Settling"]

#: What is not clear at first may be in a moment: a process that ends lets go of its locks and
#: files one after the other, and shows no environment in the midst of `exec`.
_CLEAR_WITHIN_S: Final = 2.0
_KILLED_WITHIN_S: Final = 5.0


@attrs.frozen
class Lost:
    """The attempt is proven dead without an outcome, and nothing of it is left.

    Attributes:
        began: Whether it may have begun: not one that was revoked before.
    """

    evidence: str
    began: bool = True


@attrs.define(kw_only=True)
class Settling:
    """One attempt, to be brought to a proven end. Does nothing before its first step.

    Attributes:
        shim: Who was recorded as its shim.
        grace_s: Seconds between TERM and KILL for what it left.
        force: Take it for dead if that is unknown.
        proof: Why it is over, in the words of the engine that ran it: what is only too far away to
            be judged from here is. Who holds its lock, or can be seen to run, lives all the same.
        fence: Called before anything is done; what it raises keeps it from being done.
        began: When it was begun with, in seconds of a monotonic clock.
    """

    folder: Path
    name: AttemptName
    shim: ProcessIdentity | None
    grace_s: float
    force: bool
    fence: Callable[[], None]
    began: float
    proof: str | None = None
    _revoked: bool = False
    _term_at: float | None = None
    _kill_at: float | None = None
    _stopped: dict[int, Process] = attrs.field(factory=dict)
    _refused: dict[int, str] = attrs.field(factory=dict)

    def step(self, now: float, census: Census, *, kill: bool = False) -> Look | Lost | None:
        """Look once more, and do what is due.

        Args:
            census: All processes as they are by now.
            kill: Whether the grace period is over, whatever is left of it.

        Returns:
            None while it is not over. Else `Ended`, `Running` (it lives after all), `Lost`, or
            `Undecided`.

        Raises:
            DiskError: Its files cannot be read or written at this moment: step again.
        """
        found = look(self.folder, self.name, shim=self.shim, census=census)
        while isinstance(found, Unbegun):
            self.fence()
            self._revoked = revoke(self.folder, self.name) or self._revoked
            # A shim may have been first: only what is there now counts.
            found = look(self.folder, self.name, shim=self.shim, census=census)
        if isinstance(found, Ended | Running):
            return found
        if isinstance(found, Undecided):
            if found.distant and self.proof is not None:
                self.fence()
                return self._proven(found, self.proof)
            if now - self.began < _CLEAR_WITHIN_S:
                return None
            return Lost(f"taken for dead by --force: {found.evidence}") if self.force else found
        if found.leftovers and found.mark is not None:
            return self._stop(found, found.mark, now, kill=kill)
        if found.cgroup is not None and found.cgroup.directory is not None:
            self.fence()
            release(found.cgroup, Observer.here())
            found.cgroup.remove()
        evidence = found.evidence
        if self._revoked:
            evidence = "it never began, and was revoked"
        if self._stopped:
            evidence += f"; processes it left were stopped: {listed(self._stopped.values())}"
        return Lost(evidence, began=not self._revoked)

    def _proven(self, found: Undecided, proof: str) -> Look | Lost:
        if found.ended is not None:
            return Ended(found.ended)
        return Lost(f"{proof}; from here: {found.evidence}")

    def _stop(self, found: Gone, mark: str, now: float, *, kill: bool) -> Look | Lost | None:
        self.fence()
        if self._term_at is None:
            self._term_at = now
        if self._kill_at is None and (kill or now - self._term_at >= self.grace_s):
            self._kill_at = now
        number = signal.SIGTERM if self._kill_at is None else signal.SIGKILL
        cgroup = found.cgroup
        if number == signal.SIGKILL and cgroup is not None and release(cgroup, Observer.here()):
            cgroup.kill()
        for member in found.leftovers:
            # KILL again and again: what is stopped may still fork in the meantime.
            if number == signal.SIGKILL or member.pid not in self._stopped:
                if cgroup is not None and member.pid in cgroup.pids():
                    self._refused[member.pid] = send_to_confined(member, cgroup, number)
                else:
                    self._refused[member.pid] = send_to_marked(member, mark, number)
                self._stopped[member.pid] = member
        if self._kill_at is None or now - self._kill_at < _KILLED_WITHIN_S:
            return None
        left = [attrs.evolve(each, why=self._why(each.pid)) for each in found.leftovers]
        words = f"{found.evidence}; but processes it left cannot be stopped: {listed(left)}"
        observer = str(Observer.here())
        # Not even --force: what is proven to live is not run beside.
        return Undecided(Verdict(kind="alive", method="mark", compared=words, observer=observer))

    def _why(self, pid: int) -> str:
        if self._refused.get(pid):
            return self._refused[pid]
        if is_stuck(pid, Observer.here()):
            return "it is stuck in the kernel"
        return "it does not end"
