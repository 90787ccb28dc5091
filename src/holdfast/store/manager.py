"""The durable store of experiments: create, load, claim, find, delete.

Owns the promises towards its callers (guide: promises); how they are kept is in `ownership`,
`claim`, `journal`, `view` and `deletion`. It knows no engine and starts no process.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from holdfast.config.hashing import canonical_json, compute_config_hash
from holdfast.errors import (
    AlreadyOwnedError,
    AmbiguousExperimentError,
    AttemptNotOverError,
    ExperimentExistsError,
    ExperimentNotFoundError,
    HoldfastError,
    InvalidIdError,
    NoLocksWarning,
    StaleStateError,
    StateCorruptError,
    StateReadError,
    StateWriteError,
    UnreadableStateWarning,
    cause,
)
from holdfast.identity import Verdict
from holdfast.ids import candidates, sanitize_experiment_id
from holdfast.lifecycle.records import ExperimentState
from holdfast.status import SETTLED, ExperimentStatus, ProcessStatus, Reason
from holdfast.store import loading, uninterrupted, view
from holdfast.store.catalog import finding, scanning
from holdfast.store.catalog.finding import Listing
from holdfast.store.catalog.summary import Summary
from holdfast.store.directory import StateDirectory
from holdfast.store.files import Files
from holdfast.store.place import STATE_DIR, Opened, Place
from holdfast.store.uninterrupted import whole

if TYPE_CHECKING:
    # What claims, deletes or judges is imported where it is used: a listing, which a shell prompt
    # may ask for, takes a fifth less without it.
    from holdfast.attempts.names import AttemptName
    from holdfast.store.claim import Claim
    from holdfast.store.history import Transition
    from holdfast.store.observing import Observer

__all__ = ["StateManager", "utc_now"]


def utc_now() -> datetime:
    """Now, aware, UTC."""
    return datetime.now(UTC)


class StateManager:
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
        self.state_dir = Path(state_dir)
        self._clock = clock
        self._files = Files() if files is None else files
        self._directory = StateDirectory(self._files, self.state_dir)
        self._unreadable: list[tuple[Path, HoldfastError]] = []

    # -- one experiment ---------------------------------------------------------------------------

    @whole
    def create(
        self,
        experiment_id: str | None = None,
        *,
        num_processes: int | None = None,
        total_runs: int | None = None,
        config: Mapping[str, Any] | None = None,
        config_hash: str | None = None,
        config_path: Path | str | None = None,
        name: str | None = None,
        cwd: Path | str | None = None,
    ) -> ExperimentState:
        """Store a new experiment with pending processes; durable once it returns.

        Args:
            experiment_id: Made from the time if None, and unique however many are made at once.
            num_processes: How many processes; *total_runs* is another word for it. Default 1.
            config: What is to be done, JSON-like.
            config_hash: Over what defines the work; over all of *config* if None.
            config_path: The file that *config* came from.
            name: For people.
            cwd: Where the processes run.

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
    def load(self, experiment_id: str) -> ExperimentState:
        """The experiment's state: what its journals tell, else its view. Takes no lock.

        Warns:
            UnreadableStateWarning: The view disagrees with the journals, which count, or somebody
                removed the journals.

        Raises:
            ExperimentNotFoundError: There is none; it names close matches.
            StateCorruptError: It cannot be read; the file is left as it is.
            SchemaTooNewError: A newer holdfast wrote it.
        """
        with self._directory.existing(experiment_id) as place:
            state, orphaned = scanning.find(place, experiment_id)
            if orphaned:
                name = place.view_name
                lost = f"{name} is all there is: its journals, with what came after it, are gone"
                warnings.warn(lost, UnreadableStateWarning, stacklevel=3)
                return state
            while (problem := self._view_problem(place, state)) is not None:
                # An owner may have recorded, refreshed and let go between our looks. Only a view
                # that disagrees with what was the truth before and after is a stray one.
                before = state
                state = scanning.lookup(place, experiment_id)
                if state == before:
                    warnings.warn(problem, UnreadableStateWarning, stacklevel=3)
                    break
            return state

    def _view_problem(self, place: Place, state: ExperimentState) -> str | None:
        if not state.epoch:
            return None
        problem = loading.view_problem(place, state, replay=False)
        if problem is None or self._may_refresh(place, state):
            return None
        # Once more, now that there is no owner who could be about to refresh it.
        problem = loading.view_problem(place, state, replay=True)
        if problem is None:
            return None
        return (
            f"{place.view_name} {problem}; the journal counts, and the next claim rewrites the file"
        )

    def _may_refresh(self, place: Place, state: ExperimentState) -> bool:
        """Whether there is an owner, whose view may lie a second behind."""
        from holdfast import liveness
        from holdfast.store import locking

        lock = locking.lock_state(place)
        if lock is not None or state.owner is None or state.owner.released:
            return lock == "held"
        return liveness.judge(state.owner).kind != "dead"

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
                    self._revoke_unbegun(claim)
                    self.refuse_survivors(experiment_id, force=force)
                    deletion.remove(place, claim)
            except ExperimentNotFoundError:
                # Its delete may have been interrupted once it was decided: this one finishes it.
                if not self._finish_delete(place):
                    raise
            deletion.sweep(place.top)

    def _finish_delete(self, place: Place) -> bool:
        from holdfast.store import deletion

        # What is there but not to be deleted (a copy under a wrong name) was not found either.
        with contextlib.suppress(ExperimentExistsError):
            try:
                return deletion.finish_interrupted(place)
            except OSError as err:
                raise StateWriteError.of(place.folder, "deleting", err) from err
        return False

    def _revoke_unbegun(self, claim: "Claim") -> None:
        """What was submitted and has no files yet could begin while they are removed."""
        from holdfast.attempts.files import revoke
        from holdfast.attempts.looking import Unbegun, look
        from holdfast.attempts.names import AttemptName, next_aggregation

        state, folder = claim.state, claim.folder
        submitted = [
            AttemptName.of_process(state.experiment_id, index, state.processes[index].attempt)
            for index in state.processes.indices(ProcessStatus.RUNNING)
        ]
        if state.status in SETTLED:
            submitted.append(next_aggregation(folder, state.experiment_id))
        for name in submitted:
            if isinstance(look(folder, name), Unbegun):
                revoke(folder, name)

    def refuse_survivors(self, experiment_id: str, *, force: bool = False) -> None:
        """Make sure that no attempt, and nothing that one left, outlived its owner.

        Args:
            experiment_id: Which experiment.
            force: Take what cannot be told for dead.

        Raises:
            AttemptNotOverError: Something runs; or that cannot be told, and not *force*.
            StateReadError: It cannot be looked at this moment.
        """
        for name, verdict in self.survivors(experiment_id):
            if verdict.kind == "alive" or not force:
                raise AttemptNotOverError(f"{experiment_id}/{name}", None, None, verdict)

    @whole
    def survivors(
        self, experiment_id: str, *, aggregation_only: bool = False
    ) -> "list[tuple[AttemptName, Verdict]]":
        """The attempts of which something is alive, or may be, each with the evidence.

        A shim that runs on without an owner, and what a dead one left. Only looks.

        Raises:
            StateReadError: That cannot be told at this moment.
        """
        from holdfast.attempts.names import names

        folder = self.folder(experiment_id)
        if not names(folder, experiment_id):
            return []
        from holdfast.attempts import surviving  # 20 ms, which a listing rarely needs

        found = surviving.survivors(folder, experiment_id, aggregation_only=aggregation_only)
        return [(each.name, each.verdict) for each in found]

    @whole
    def history(self, experiment_id: str) -> "list[Transition]":
        """Every recorded step, oldest first.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `load`.
        """
        from holdfast.store import history

        with self._directory.existing(experiment_id) as place:
            while True:
                scanning.lookup(place, experiment_id)
                folder = place.open_folder()
                if folder is None:
                    return []
                with folder:
                    try:
                        return list(history.read(folder))
                    except (FileNotFoundError, StateCorruptError) as err:
                        # A delete takes journal after journal away from under a reader.
                        if not place.is_at(folder):
                            continue
                        if isinstance(err, StateCorruptError):
                            raise
                        return []

    @whole
    def liveness(self, experiment_id: str) -> Verdict:
        """Whether the experiment's owner lives, by its lock and its identity, with the evidence.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `load`.
        """
        with self._directory.existing(experiment_id) as place:
            return self._verdict(place, scanning.lookup(place, experiment_id))

    def _verdict(self, place: Place, state: ExperimentState) -> Verdict:
        from holdfast import liveness
        from holdfast.store import locking

        lock = locking.lock_state(place)
        if lock != "held" and state.owner is None and state.subprocess_pid is not None:
            return liveness.judge_legacy_pid(state.subprocess_pid)
        if state.owner is not None and state.owner.released:
            return liveness.judge_released(state.owner, lock=lock)
        return liveness.judge(state.owner, lock=lock)

    def folder(self, experiment_id: str) -> Path:
        """The folder of the experiment's journals, attempts and results, there or not."""
        return self.state_dir / sanitize_experiment_id(experiment_id)

    # -- all of them ------------------------------------------------------------------------------

    def states(self) -> Iterator[ExperimentState]:
        """Every readable experiment in the order of its file name.

        Warns:
            UnreadableStateWarning: Files were passed over; `unreadable()` names them.
        """
        self._unreadable = []
        with self._listed() as top:
            if top is None:
                return
            for entry in scanning.entries(top):
                if entry.state is not None:
                    yield entry.state
                elif entry.error is not None:
                    self._unreadable.append((entry.path, entry.error))
        self._warn_of(self._unreadable)

    def unreadable(self) -> list[tuple[Path, HoldfastError]]:
        """Every file that should hold a state and cannot be read, each with its error."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreadableStateWarning)
            for _ in self.states():
                pass
        return list(self._unreadable)

    def listing(self) -> Listing:
        """Every experiment in brief, and what cannot be read; quick with 100,000 of them."""
        with self._listed() as top:
            if top is None:
                return Listing([], [])
            return finding.list_all(top)

    def list_experiments(self) -> list[str]:
        """The ids of all readable experiments, sorted. Warns as `states`."""
        with self._listed() as top:
            if top is None:
                return []
            found, unreadable = finding.ids(top)
        self._warn_of(unreadable)
        return found

    def find_incomplete(self) -> list[ExperimentState]:
        """Every experiment that is not aggregated, in the order of its file name.

        Warns as `states`.
        """
        with self._listed() as top:
            if top is None:
                return []
            found = finding.incomplete(top)
        self._warn_of(found.unreadable)
        return found.states

    def find_by_config_hash(
        self, config_hash: str | Collection[str], *, include_finished: bool = False
    ) -> ExperimentState | None:
        """The experiment that was made for this work; None if there is none.

        Args:
            config_hash: From `compute_config_hash`; several if the work is known by several.
            include_finished: Look at aggregated ones too.

        Warns:
            UnreadableStateWarning: As `states`.

        Raises:
            AmbiguousExperimentError: More than one fits; it names them.
        """
        hashes = {config_hash} if isinstance(config_hash, str) else {*config_hash}
        with self._listed() as top:
            if top is None:
                return None
            found = finding.of_hash(top, hashes, include_finished=include_finished)
        self._warn_of(found.unreadable)
        if len(found.states) > 1:
            raise AmbiguousExperimentError(
                f"config hash {found.states[0].config_hash or '':.12}",
                tuple(state.experiment_id for state in found.states),
            )
        return found.states[0] if found.states else None

    def resolve(self, query: str) -> str:
        """The id that *query* names: itself, a unique prefix of it, or `@last`, the newest.

        Raises:
            ExperimentNotFoundError, AmbiguousExperimentError: None or several.
        """
        if query != "@last":
            with contextlib.suppress(ExperimentNotFoundError, InvalidIdError):
                return self._named(query)
            return scanning.resolve(self.list_experiments(), query, self.state_dir)
        listing = self.listing()
        self._warn_of(listing.unreadable)
        newest = max(listing.experiments, key=_created, default=None)
        if newest is None:
            raise ExperimentNotFoundError(query, self.state_dir)
        return newest.experiment_id

    @whole
    def _named(self, experiment_id: str) -> str:
        with self._directory.existing(experiment_id) as place:
            return scanning.lookup(place, experiment_id).experiment_id

    @contextlib.contextmanager
    def _listed(self) -> Iterator[Opened | None]:
        """The state directory, open; None if there is none yet."""
        top = self._look()
        with contextlib.nullcontext() if top is None else top, uninterrupted.held():
            try:
                yield top
            except OSError as err:
                raise StateCorruptError(self.state_dir, f"cannot be read: {cause(err)}") from err

    @whole
    def _look(self) -> Opened | None:
        return self._directory.look()

    def _warn_of(self, unreadable: list[tuple[Path, HoldfastError]]) -> None:
        if unreadable:
            warnings.warn(
                f"{len(unreadable)} unreadable in {self.state_dir}: "
                + ", ".join(os.path.relpath(path, self.state_dir) for path, _ in unreadable[:5]),
                UnreadableStateWarning,
                stacklevel=3,
            )

    def cleanup_stale(self, *, dry_run: bool = False, force: bool = False) -> list[str]:
        """Mark running experiments whose owner is proven dead as interrupted, with the evidence.

        Leaves alone what is alive or unknown. Attempts of their processes are judged at resume.

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
            if not running or claim.previous != state.owner:
                return False
            claim.record("interrupt", reason=Reason.STALE, evidence=str(verdict))
            return True
        return False

    @contextlib.contextmanager
    def run_lock(self, *, wait_s: float = 60.0) -> Iterator[None]:
        """Hold `.run.lock`, from the look-up of a config hash to the claim of what it led to.

        Two runs of one file, started at once, cannot both create an experiment then.

        Raises:
            StateWriteError: It cannot be had, or not within *wait_s* seconds.
        """
        with self._directory.run_lock(wait_s):
            yield


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


def _created(summary: Summary) -> datetime:
    return summary.created_at or datetime.min.replace(tzinfo=UTC)
