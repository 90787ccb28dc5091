"""The attempts that are asked to stop: by files, which a shim finds, and by their engine."""

import contextlib
import functools
from collections.abc import Callable, Container, Sequence
from typing import Final, Literal

from holdfast.attempts import files
from holdfast.attempts.names import AttemptName
from holdfast.errors import ClaimClosedError, DiskError, OwnershipLostError, StateWriteError
from holdfast.orchestration.watched import Watched
from holdfast.status import Reason

__all__ = ["Asking"]

#: How long after its grace period an attempt may take to vanish before the run ends without it.
_STOPPED_WITHIN_S: Final = 10.0
#: Beyond that, how long an engine may take to hear of an end that comes to pass elsewhere.
_HEARD_WITHIN_S: Final = 60.0


class Asking:
    """Of all that one experiment has running.

    Attributes:
        asked: When attempts were asked to stop.
        unreached: Those that cannot be reached now, and why.
        everything: Whether all of them were asked.
        killing: Whether they are to be killed.
        orders: What was asked of attempts that settled, should one of them turn out to run.
        to_cancel: What the engine is yet to be told of.
    """

    def __init__(self, watch: Watched) -> None:
        """Ask what *watch* watches."""
        self._watch = watch
        self.asked: dict[AttemptName, float] = {}
        self.unreached: dict[AttemptName, str] = {}
        self.everything = False
        self.killing = False
        self.orders: dict[AttemptName, Callable[[], None]] = {}
        self.to_cancel: dict[AttemptName, None] = {}
        self._taken_away = False

    def stop(self, *, force: bool, why: Reason, grace_s: float | None = None) -> None:
        """Ask everything that runs to stop, within *grace_s* if that is given; *force* kills.

        Raises:
            OwnershipLostError, ClaimClosedError: A newer owner runs it; nothing was stopped.
        """
        watch = self._watch
        self._fence()
        self.everything, self.killing = True, self.killing or force
        self._settle_unsubmitted(list(watch.unsubmitted))
        everything = [*watch.handles, *watch.blocked, *watch.settling]
        self.ask(everything, force=force, why=why, grace_s=grace_s)

    def stop_some(
        self,
        firsts: Container[int],
        but: set[AttemptName],
        *,
        force: bool,
        grace_s: float | None,
    ) -> None:
        """As `stop`, on behalf of a user, of the commands whose first processes these are.

        Args:
            but: Attempts that were asked to before; those that are asked now are added.
        """
        watch = self._watch
        there = [
            *watch.unsubmitted,
            *watch.handles,
            *watch.blocked,
            *watch.settling,
        ]
        some = [name for name in there if name.index in firsts and name not in but]
        if not some:
            return
        self._fence()
        but.update(some)
        self._settle_unsubmitted([name for name in some if name in watch.unsubmitted])
        self.ask(some, force=force, why=Reason.USER, grace_s=grace_s)

    def _settle_unsubmitted(self, names: Sequence[AttemptName]) -> None:
        watch = self._watch
        for name in names:
            # The engine may have started it before it failed.
            watch.settle(name, None)
            watch.unsubmitted.pop(name)

    def _fence(self) -> None:
        try:
            self._watch.fence()
        except DiskError:
            pass  # a disk that cannot be asked must not keep a user from stopping what runs
        except ClaimClosedError:
            if not self._taken_away:
                raise
        except OwnershipLostError as err:
            if err.newer_epoch:
                raise
            # The folder was taken away, and nobody else is there to stop what runs.
            self._taken_away = True

    def ask(
        self,
        names: Sequence[AttemptName],
        *,
        force: bool,
        why: Reason,
        grace_s: float | None = None,
    ) -> None:
        """Ask these attempts to stop, within *grace_s* if that is given; *force* kills them."""
        watch = self._watch
        for name in names:
            self.asked[name] = watch.monotonic()
            if grace_s is not None or force:
                watch.graces[name] = 0.0 if force else grace_s or 0.0
            if name in watch.settling:
                watch.settling[name].grace_s = watch.grace_s(name)
                self.orders[name] = functools.partial(
                    self.ask, [name], force=force, why=why, grace_s=grace_s
                )
                continue
            if name in watch.elsewhere or not watch.hearing.waits(name):
                self._request(name, force=force, why=why, grace_s=grace_s)
        there = (name for name in names if name in watch.handles or name in watch.kept)
        self.to_cancel.update(dict.fromkeys(there))
        self.cancel()
        # What waits in a queue that cannot be reached finds these when it begins.
        for name in self.to_cancel:
            if watch.hearing.waits(name):
                self._request(name, force=force, why=why, grace_s=grace_s)

    def _request(
        self, name: AttemptName, *, force: bool, why: Reason, grace_s: float | None
    ) -> None:
        # Where the disk takes no request, the engine has ways of its own.
        with contextlib.suppress(StateWriteError):
            what: Literal["stop", "kill"] = "kill" if force else "stop"
            files.request(self._watch.launcher.folder, name, what, why, grace_s=grace_s)

    def cancel(self) -> None:
        """Have the engine cancel what it was not told of yet."""
        watch = self._watch
        with watch.reached():
            known = {**watch.kept, **watch.handles}
            handles = [known[name] for name in self.to_cancel if name in known]
            if handles:
                self.unreached.update(watch.engine.cancel(handles, force=self.killing))
            self.to_cancel.clear()

    def give_up(self) -> None:
        """Leave to the next resume what was asked to stop long ago and does not end."""
        watch = self._watch
        now = watch.monotonic()
        for name, since in self.asked.items():
            lasted = now - since
            waited_for = name in watch.handles or name in watch.settling
            if lasted < _STOPPED_WITHIN_S or not waited_for:
                continue
            grace_s = 0.0 if self.killing else watch.grace_s(name)
            if not watch.hearing.is_local:
                grace_s += _HEARD_WITHIN_S + watch.hearing.grace_s
            if lasted < grace_s + _STOPPED_WITHIN_S:
                continue
            why = self.unreached.get(name)
            asked = f"it was asked to stop {lasted:.0f} s ago and has not ended"
            watch.forget(name)
            watch.settling.pop(name, None)
            watch.blocked[name] = f"{asked}: {why}" if why else asked
