"""An experiment as it stands while others drive it: looked at again and again, at little cost."""

import contextlib
import signal
import time
from typing import Final

import attrs

from holdfast import liveness
from holdfast.attempts.family import holds, send
from holdfast.attempts.names import names
from holdfast.attempts.surviving import Survivor, survivors
from holdfast.errors import HoldfastError, StateReadError
from holdfast.identity import ProcessIdentity, Verdict
from holdfast.lifecycle.records import ExperimentState
from holdfast.liveness import Observer
from holdfast.store import journal, locking, owners
from holdfast.store.catalog import scanning
from holdfast.store.directory import StateDirectory
from holdfast.store.following import Follower
from holdfast.store.place import JOURNALS, LOCK, Place
from holdfast.store.requests import StopRequest, publish
from holdfast.store.uninterrupted import whole

__all__ = ["Lookout", "Standing", "is_driven"]

#: A change within the same tick of a file system's clock leaves no trace in a file's times.
_LOAD_EVERY_S: Final = 2.0
#: For so long, a disk that cannot be read is waited for.
_UNREAD_WITHIN_S: Final = 30.0
_HIGHEST_PID: Final = 1 << 31


@attrs.frozen(kw_only=True)
class Standing:
    """What was seen of one experiment at one moment.

    Attributes:
        verdict: Whether its last owner lives.
        owned: Whether somebody drives it, or may.
        survivors: Attempts that are not proven to be over. Nobody asks as long as it is owned.
        halted: Whether its owner is proven to be stopped (SIGSTOP), so that it does nothing.
    """

    state: ExperimentState
    verdict: Verdict
    owned: bool
    survivors: tuple[Survivor, ...] = ()
    halted: bool = False

    @property
    def idle(self) -> bool:
        """Whether nobody drives it and nothing of it runs."""
        return not self.owned and not self.survivors


class Lookout:
    """Looks at one experiment."""

    def __init__(self, directory: StateDirectory, experiment_id: str) -> None:
        """Look into *directory*."""
        self._directory = directory
        self.experiment_id = experiment_id
        self._state: ExperimentState | None = None
        self._stamp: tuple[int, ...] = ()
        self._loaded_at = 0.0
        self._follower = Follower()
        self._seen: Standing | None = None
        self._seen_at = 0.0

    def look_again(self, *, fresh: bool = True) -> Standing:
        """As `look`, or what was seen last, where its attempts could not be read for a moment.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError, StateReadError: As for
                `look`.
        """
        now = time.monotonic()
        try:
            self._seen, self._seen_at = self.look(fresh=fresh), now
        except StateReadError:
            if self._seen is None or now - self._seen_at > _UNREAD_WITHIN_S:
                raise
        return self._seen

    @whole
    def look(self, *, fresh: bool = True) -> Standing:
        """How it stands now.

        Args:
            fresh: With every recorded step. Else the state may be an older one of the same owner,
                as long as that drives it: who only waits for its end need not read its journal.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for a load.
            StateReadError: Its attempts cannot be looked at at this moment.
        """
        with self._directory.existing(self.experiment_id) as place:
            state = self._load(place, fresh=fresh)
            while (lock := locking.lock_state(place)) != "held":
                # Its owner may have recorded the end, and have let go, after our look at the state.
                before, state = state, self._load(place, anew=True)
                if (before.epoch, before.revision) == (state.epoch, state.revision):
                    break
            verdict = owners.judged(state, lock)
            if owners.may_be_owned(state, lock):
                owner = state.owner
                halted = owner is not None and not owner.released and liveness.is_stopped(owner)
                return Standing(state=state, verdict=verdict, owned=True, halted=halted)
            left: tuple[Survivor, ...] = ()
            if names(place.folder, self.experiment_id):
                left = tuple(survivors(place.folder, self.experiment_id))
            return Standing(state=state, verdict=verdict, owned=False, survivors=left)

    def _load(self, place: Place, *, anew: bool = False, fresh: bool = True) -> ExperimentState:
        stamp, now = _stamp(place), time.monotonic()
        changed = stamp != self._stamp or now - self._loaded_at >= _LOAD_EVERY_S
        if not fresh:
            changed = stamp[:1] != self._stamp[:1]  # the epoch, and with it perhaps the owner
        if anew or changed or self._state is None or not stamp:
            truth = self._follower.look(place)
            if truth is None or truth.deleted:
                truth = scanning.read(place, self.experiment_id)
                self._follower.begin(place, truth)
            self._state = truth.state
            self._stamp, self._loaded_at = stamp, now
        return self._state

    @whole
    def ask(self, request: StopRequest) -> int:
        """Ask whoever owns it at this moment; the epoch that the request is for.

        Raises:
            ExperimentNotFoundError: It was deleted.
            StateWriteError: The file system refused.
        """
        with self._directory.existing(self.experiment_id) as place:
            return publish(place, request)

    @whole
    def wake(self) -> str:
        """Have its owner go on, if it is stopped: proven to be who holds the lock of its folder.

        Returns:
            Why it could not be done; empty if it was.
        """
        with self._directory.existing(self.experiment_id) as place:
            owner = scanning.lookup(place, self.experiment_id).owner
            pid = None if owner is None else owner.pid
            if owner is None or pid is None or not 1 < pid < _HIGHEST_PID:
                return "who owns it is not recorded"
            doubt = ""

            def still_it() -> bool:
                nonlocal doubt
                doubt = _doubt(place, owner, pid)
                return not doubt

            return send(pid, signal.SIGCONT, still_it) or doubt


def is_driven(lookout: Lookout) -> bool:
    """Whether somebody drives it, or may; not what is gone or cannot be read."""
    try:
        return lookout.look().owned
    except HoldfastError:
        return False


def _doubt(place: Place, owner: ProcessIdentity, pid: int) -> str:
    """Why *pid*, which cannot change its owner now, is not proven to own the experiment."""
    verdict = liveness.judge(owner)
    if verdict.kind != "alive":
        return str(verdict)
    with contextlib.suppress(OSError):
        info = place.files.stat(f"{place.stem}/{LOCK}", place.dir_fd)
        if holds(pid, (info.st_dev, info.st_ino), place.folder, Observer.here()):
            return ""
    return f"pid {pid} does not hold the lock of {place.folder}"


def _stamp(place: Place) -> tuple[int, ...]:
    """What changes with every recorded line, mostly; empty where nothing tells."""
    folder = place.open_folder()
    if folder is None:
        return ()
    with folder, contextlib.suppress(OSError), folder.open_dir(JOURNALS) as journals:
        epochs = journal.epochs(journals.names())
        if epochs:
            info = place.files.stat(journal.file_name(epochs[-1]), journals.fd)
            return (epochs[-1], info.st_ino, info.st_size, info.st_mtime_ns)
    return ()
