"""The durable store of experiments: create, load, claim, find, delete.

Owns the promises towards its callers (guide: promises); how they are kept is in `ownership`,
`claim`, `journal`, `view` and `deletion`. Whatever only reads is in `experiments`. It knows no
engine and starts no process.
"""

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from holdfast.config.hashing import canonical_json, compute_config_hash
from holdfast.errors import (
    AlreadyOwnedError,
    ExperimentExistsError,
    ExperimentNotFoundError,
    HoldfastError,
    NoLocksWarning,
    StaleStateError,
    StateReadError,
    StateWriteError,
    UnreadableStateWarning,
)
from holdfast.ids import candidates, sanitize_experiment_id
from holdfast.lifecycle.handed import handed_over
from holdfast.lifecycle.records import ExperimentState, Ranks
from holdfast.status import ExperimentStatus, Reason
from holdfast.store import uninterrupted, view
from holdfast.store.catalog import scanning
from holdfast.store.experiments import Experiments
from holdfast.store.files import Files
from holdfast.store.place import STATE_DIR, Place
from holdfast.store.uninterrupted import whole

if TYPE_CHECKING:
    # What claims and deletes is imported where it is used, as in `experiments`.
    from holdfast.store.annotations import Annotations
    from holdfast.store.claim import Claim
    from holdfast.store.observing import Observer

__all__ = ["StateManager", "utc_now"]


def utc_now() -> datetime:
    """Now, aware, UTC."""
    return datetime.now(UTC)


class StateManager(Experiments):
    """The experiments under one directory.

    Nothing is kept in memory between calls, so that any number of managers, processes and hosts
    can share a directory. The directory is made by the first `create`.

    Example:
        >>> manager = StateManager()
        >>> state = manager.create("exp_123", num_processes=4)
        >>> with manager.claim("exp_123") as claim:
        ...     claim.record("start")
    """

    def __init__(
        self,
        state_dir: Path | str = STATE_DIR,
        *,
        clock: Callable[[], datetime] = utc_now,
        files: Files | None = None,
    ) -> None:
        """Look after the experiments under *state_dir*.

        Args:
            state_dir: Made if missing, but only when something is stored.
            clock: Says what time it is, aware.
            files: The operating system, for tests that fail or schedule it.
        """
        super().__init__(Path(state_dir), Files() if files is None else files)
        self._clock = clock

    @whole
    def create(
        self,
        experiment_id: str | None = None,
        *,
        num_processes: int | None = None,
        total_runs: int | None = None,
        ranks: Ranks | None = None,
        config: Mapping[str, Any] | None = None,
        config_hash: str | None = None,
        config_path: Path | str | None = None,
        name: str | None = None,
        cwd: Path | str | None = None,
        reuse: str | None = None,
    ) -> ExperimentState:
        """Store a new experiment with pending processes; durable once it returns.

        Args:
            experiment_id: Made from the time if None, and unique however many are made at once.
            num_processes: How many processes; *total_runs* is another word for it. Default 1.
            ranks: How many of them one launcher starts; None where each has its own command.
            config: What is to be done, JSON-like.
            config_hash: Over what defines the work; over all of *config* if None.
            config_path: The file that *config* came from.
            name: For people.
            cwd: Where the processes run.
            reuse: Whether its processes may be completed by what others did; see `ExperimentState`.

        Raises:
            ExperimentExistsError: The id is taken, be it by a call at the same instant.
            InvalidIdError: The id cannot be one.
            ValueError: The number of processes is not positive, or given twice and different.
            StateWriteError: The file system refused; nothing is stored.
        """
        if experiment_id is not None:
            sanitize_experiment_id(experiment_id)
        state = ExperimentState(
            experiment_id="new" if experiment_id is None else experiment_id,
            name=name,
            config=dict(config or {}),
            config_hash=config_hash or (compute_config_hash(config) if config else None),
            config_path=None if config_path is None else str(config_path),
            cwd=None if cwd is None else str(cwd),
            ranks=ranks,
            reuse=reuse,
            num_processes=_number(num_processes, total_runs),
            created_at=self._clock(),
            last_updated=self._clock(),
        )
        if experiment_id is not None:
            return self._create(state)
        assert state.created_at is not None
        for candidate in candidates(state.created_at):
            with contextlib.suppress(ExperimentExistsError):
                return self._create(attrs.evolve(state, experiment_id=candidate))
        raise AssertionError("candidates never end")

    def _create(self, state: ExperimentState) -> ExperimentState:
        from holdfast.store import deletion

        # Before anything is made: what JSON cannot hold, or not give back, must not get in.
        canonical_json(state.config)
        self._directory.make()
        with self._directory.writable() as top:
            place = Place.of(top, state.experiment_id)
            try:
                deletion.finish_interrupted(place)
            except ExperimentExistsError as err:
                raise ExperimentExistsError(
                    state.experiment_id, self.state_dir, err.detail
                ) from None
            except OSError as err:
                raise StateReadError.of(place.folder, "looking at", err) from err
            try:
                made = view.create(place, state)
                deletion.outlast(place, made, state)
            except ExperimentExistsError:
                raise self._taken(place, state.experiment_id) from None
        return state

    def _taken(self, place: Place, experiment_id: str) -> ExperimentExistsError:
        detail = ""
        with contextlib.suppress(HoldfastError, OSError):
            other = view.read(place)
            # A file system that folds case gives Exp and exp one file.
            if other is not None and other.experiment_id != experiment_id:
                detail = f"its file is that of {other.experiment_id!r}"
        return ExperimentExistsError(experiment_id, self.state_dir, detail)

    @whole
    def claim(
        self,
        experiment_id: str,
        *,
        wait_s: float = 0.0,
        force: bool = False,
        on_step: "Observer | None" = None,
    ) -> "Claim":
        """Become the owner of the experiment until the claim is released or the process ends.

        Args:
            experiment_id: Which one.
            wait_s: How long to wait for another owner to let go.
            force: Take it although its last owner cannot be proven dead. Make sure yourself.
            on_step: Called with `(state, changes)` after every recorded line; see `Claim.on_step`.

        Raises:
            AlreadyOwnedError: Another owner lives; says who, where, since when.
            UnknownLivenessError: Whether it lives cannot be told from here, and not *force*.
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `load`.
            StateWriteError: The file system refused; nothing has changed.

        Warns:
            NoLocksWarning: The file system has no locks.
        """
        from holdfast.store import ownership
        from holdfast.store.claim import Claim

        with self._directory.existing(experiment_id) as place, contextlib.ExitStack() as undo:
            try:
                kept = Place(undo.enter_context(place.top.duplicate()), place.stem)
                owned = ownership.acquire(
                    place, experiment_id, now=self._clock, wait_s=wait_s, force=force
                )
            except ExperimentNotFoundError:
                close = scanning.close_matches(place.top, experiment_id)
                raise ExperimentNotFoundError(experiment_id, self.state_dir, close) from None
            except OSError as err:
                raise StateWriteError.of(place.folder, "claiming", err) from err
            undo.pop_all()
            claim = Claim(kept, owned, now=self._clock, on_step=on_step)
        try:
            uninterrupted.checkpoint()
            if not claim.locked:
                warnings.warn(
                    f"{self.state_dir} is on a file system without locks (flock is refused): two "
                    f"owners are told apart by their epochs alone; `holdfast doctor` says more",
                    NoLocksWarning,
                    stacklevel=3,
                )
        except BaseException:
            claim.release()  # nobody gets it, and so nobody else would
            raise
        return claim

    @whole
    def save(self, state: ExperimentState) -> ExperimentState:
        """Store *state*, changed by hand, if nobody changed it since it was loaded.

        Each status may differ from the stored one by one event that its machine allows.

        Returns:
            The stored state, with the next revision.

        Raises:
            StaleStateError: The stored revision is another one; nothing was written.
            InvalidTransitionError: No single allowed event leads there; nothing was written.
            AlreadyOwnedError, UnknownLivenessError, StateWriteError: As for `claim`.
            ValueError: The id, the number of processes or the time of creation was changed.
        """
        from holdfast.store import saving

        with self.claim(state.experiment_id) as claim:
            current = claim.state
            if state.revision != current.revision:
                raise StaleStateError(state.experiment_id, state.revision, current.revision)
            return claim.record_saved(state, saving.transitions(current, state, self._clock()))

    @whole
    def delete(self, experiment_id: str, *, force: bool = False, wait_s: float = 0.0) -> None:
        """Remove the experiment with everything in its folder: attempts, results, history.

        Args:
            experiment_id: Which one.
            force: Delete it although its owner or an attempt cannot be proven dead.
            wait_s: How long to wait for another owner to let go.

        Raises:
            AlreadyOwnedError: Its owner is alive.
            UnknownLivenessError: That cannot be told, and not *force*.
            AttemptNotOverError: An attempt, or what one left, is alive, or may be, and not *force*.
            ExperimentNotFoundError: There is none.
            StateWriteError: The file system refused; a later delete or create finishes it.
        """
        from holdfast.store import deletion

        with self._directory.existing(experiment_id) as place:
            try:
                # Before the claim, too: a delete that is refused must not pass for an owner.
                if self.liveness(experiment_id).kind != "alive":
                    self.refuse_survivors(experiment_id, force=force)
                with self.claim(experiment_id, wait_s=wait_s, force=force) as claim:
                    deletion.revoke_unbegun(claim)
                    self.refuse_survivors(experiment_id, force=force)
                    deletion.remove(place, claim)
            except ExperimentNotFoundError:
                # Its delete may have been interrupted once it was decided: this one finishes it.
                if not self._finish_delete(place):
                    raise
            deletion.sweep(place.top)

    @whole
    def annotate(
        self,
        experiment_id: str,
        *,
        add: Iterable[str] = (),
        remove: Collection[str] = (),
        note: str | None = None,
    ) -> "Annotations":
        """Change what people say about the experiment, whoever owns it; durable once it returns.

        Two who do so at once lose nothing of each other's.

        Args:
            experiment_id: Which one.
            add: Tags that it gets: words of letters, digits and `. _ : / @ + = -`.
            remove: Tags that it loses, if it has them.
            note: A text in place of the note that there is; an empty one removes it.

        Returns:
            All that is said about it now.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `annotations`.
            StateWriteError: The file system refused; nothing has changed.
            ValueError: What can be no tag; more than 100 of them, or 10,000 characters of a note.
        """
        from holdfast.store import annotations

        with self._directory.existing(experiment_id) as place:
            whom = annotations.about(scanning.lookup(place, experiment_id))
            with annotations.locked(place.top) as folder:
                said = annotations.change(
                    folder, place.stem, whom, add=add, remove=remove, note=note
                )
                try:
                    scanning.lookup(place, experiment_id)
                except ExperimentNotFoundError:
                    annotations.remove(place)  # its delete may have looked for it before
                    raise
        return said

    def _finish_delete(self, place: Place) -> bool:
        from holdfast.store import deletion

        # What is there but not to be deleted (a copy under a wrong name) was not found either.
        with contextlib.suppress(ExperimentExistsError):
            try:
                return deletion.finish_interrupted(place)
            except OSError as err:
                raise StateWriteError.of(place.folder, "deleting", err) from err
        return False

    def cleanup_stale(self, *, dry_run: bool = False, force: bool = False) -> list[str]:
        """Mark running experiments whose owner is proven dead as interrupted, with the evidence.

        Leaves alone what is alive or unknown, and what an engine with a queue has, which goes on
        without an owner. Attempts of their processes are judged at resume.

        Warns:
            UnreadableStateWarning: One could not be read or written; the others were looked at.

        Args:
            dry_run: Only say which ones.
            force: Take *unknown* for dead.

        Returns:
            The ids.
        """
        found = []
        for state in list(self.states()):
            if state.status is not ExperimentStatus.RUNNING:
                continue
            try:
                if self._cleanup(state, dry_run=dry_run, force=force):
                    found.append(state.experiment_id)
            except ExperimentNotFoundError:
                continue
            except HoldfastError as err:
                # One that cannot be written (another user's, say) must not keep the rest stale.
                warnings.warn(
                    f"{state.experiment_id} was left as it is: {err}",
                    UnreadableStateWarning,
                    stacklevel=2,
                )
        return found

    def _cleanup(self, state: ExperimentState, *, dry_run: bool, force: bool) -> bool:
        if handed_over(state):
            return False
        verdict = self.liveness(state.experiment_id)
        if verdict.kind == "alive" or (verdict.kind == "unknown" and not force):
            return False
        if dry_run:
            return True
        # Somebody may resume it between our look and our claim: then it is theirs.
        with (
            contextlib.suppress(AlreadyOwnedError),
            self.claim(state.experiment_id, force=force) as claim,
        ):
            running = claim.state.status is ExperimentStatus.RUNNING
            if not running or claim.previous != state.owner or handed_over(claim.state):
                return False
            claim.record("interrupt", reason=Reason.STALE, evidence=str(verdict))
            return True
        return False

    def run_lock(self, *, wait_s: float = 60.0) -> AbstractContextManager[None]:
        """Hold `.run.lock`, from the look-up of a config hash to the claim of what it led to.

        Two runs of one file, started at once, cannot both create an experiment then.

        Raises:
            StateWriteError: It cannot be had, or not within *wait_s* seconds.
        """
        return self._directory.run_lock(wait_s)


def _number(num_processes: int | None, total_runs: int | None) -> int:
    if num_processes is not None and total_runs is not None and num_processes != total_runs:
        raise ValueError(
            f"num_processes={num_processes} and total_runs={total_runs} mean the same: give one"
        )
    number = num_processes if num_processes is not None else total_runs
    number = 1 if number is None else number
    if type(number) is not int or number < 1:
        raise ValueError(f"an experiment needs at least one process, got {number!r}")
    return number
