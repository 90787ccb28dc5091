"""What can be read of the experiments under one directory, of one or of all; `manager` writes.

What judges or looks at attempts is imported where it is used: a listing, which a shell prompt may
ask for, takes a fifth less without it.
"""

import contextlib
import os
import warnings
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import (
    AmbiguousExperimentError,
    AttemptNotOverError,
    ExperimentNotFoundError,
    HoldfastError,
    InvalidIdError,
    StateCorruptError,
    UnreadableStateWarning,
    cause,
)
from holdfast.identity import Verdict
from holdfast.ids import sanitize_experiment_id
from holdfast.lifecycle.handed import handed_over, whereabouts
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import handing, uninterrupted
from holdfast.store.catalog import finding, scanning
from holdfast.store.catalog.finding import Listing
from holdfast.store.catalog.summary import Summary
from holdfast.store.directory import StateDirectory
from holdfast.store.files import Files
from holdfast.store.place import Opened
from holdfast.store.uninterrupted import whole

if TYPE_CHECKING:
    import pandas
    import polars

    from holdfast.attempts.names import AttemptName
    from holdfast.store.annotations import Annotated, Annotations
    from holdfast.store.history import History
    from holdfast.store.standing import Lookout

__all__ = ["Experiments"]


class Experiments:
    """The experiments under one directory, to be read. Nothing is kept between calls."""

    def __init__(self, state_dir: Path, files: Files) -> None:
        """Look into *state_dir*, there or not, through *files*."""
        self.state_dir = state_dir
        self._directory = StateDirectory(files, state_dir)
        self._unreadable: list[tuple[Path, HoldfastError]] = []

    # -- one of them ------------------------------------------------------------------------------

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
        from holdfast.store import owners

        with self._directory.existing(experiment_id) as place:
            state, orphaned = scanning.find(place, experiment_id)
            if orphaned:
                name = place.view_name
                lost = f"{name} is all there is: its journals, with what came after it, are gone"
                warnings.warn(lost, UnreadableStateWarning, stacklevel=3)
                return state
            while (problem := owners.stray_view(place, state)) is not None:
                # An owner may have recorded, refreshed and let go between our looks. Only a view
                # that disagrees with what was the truth before and after is a stray one.
                before = state
                state = scanning.lookup(place, experiment_id)
                if state == before:
                    warnings.warn(problem, UnreadableStateWarning, stacklevel=3)
                    break
            return state

    def refuse_survivors(self, experiment_id: str, *, force: bool = False) -> None:
        """Make sure that no attempt, and nothing that one left, outlived its owner, and that no
        engine is to begin one, as far as is recorded.

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
        if not force:
            self._refuse_handed_over(experiment_id)

    def _refuse_handed_over(self, experiment_id: str) -> None:
        from holdfast import liveness
        from holdfast.attempts.names import file_path
        from holdfast.store.attempted import attempt_of

        with self._directory.existing(experiment_id) as place:
            state = scanning.lookup(place, experiment_id)
            for index in handed_over(state):
                process = state.processes[index]
                name = attempt_of(state, index)
                if process.handle is None or file_path(place.folder, name, "exit").exists():
                    continue
                verdict = Verdict(
                    kind="unknown",
                    method="none",
                    compared=f"{whereabouts(process.handle)} has it",
                    observer=str(liveness.me()),
                )
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
    def history(self, experiment_id: str) -> "History":
        """Every recorded step, oldest first: a list, which a notebook shows as a table.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `load`.
        """
        from holdfast.store import history

        with self._directory.existing(experiment_id) as place:
            while True:
                scanning.lookup(place, experiment_id)
                folder = place.open_folder()
                if folder is None:
                    return history.History()
                with folder:
                    try:
                        return history.History(history.read(folder))
                    except (FileNotFoundError, StateCorruptError) as err:
                        # A delete takes journal after journal away from under a reader.
                        if not place.is_at(folder):
                            continue
                        if isinstance(err, StateCorruptError):
                            raise
                        return history.History()

    @whole
    def liveness(self, experiment_id: str) -> Verdict:
        """Whether the experiment's owner lives, by its lock and its identity, with the evidence.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `load`.
        """
        from holdfast.store import owners

        with self._directory.existing(experiment_id) as place:
            return owners.verdict(place, scanning.lookup(place, experiment_id))

    def lookout(self, experiment_id: str) -> "Lookout":
        """What looks at the experiment, there or not, while others drive it."""
        from holdfast.store.standing import Lookout

        return Lookout(self._directory, experiment_id)

    def request_stop(
        self,
        experiment_id: str,
        *,
        grace_s: float | None = None,
        only: Collection[int] | None = None,
        force: bool = False,
    ) -> None:
        """Ask whoever runs the experiment to stop it: here or elsewhere, within half a second.

        Returns at once. Where nobody runs it, nothing happens.

        Args:
            experiment_id: Which one.
            grace_s: Instead of the grace period that was configured.
            only: Only these processes, which stay pending until the next resume.
            force: Whether what runs is killed at once.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `load`.
            StateWriteError: The file system refused.
        """
        from holdfast.store.requests import StopRequest

        self.named(experiment_id)
        some = None if only is None else tuple(sorted(only))
        level: Literal["stop", "kill"] = "kill" if force else "stop"
        request = StopRequest(level=level, grace_s=grace_s, only=some)
        self.lookout(experiment_id).ask(request)

    @whole
    def annotations(self, experiment_id: str) -> "Annotations":
        """What people say about the experiment: its tags and its note.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `load`; also if
                what they say cannot be read.
        """
        from holdfast.store import annotations

        with self._directory.existing(experiment_id) as place:
            state = scanning.lookup(place, experiment_id)
            return annotations.of(place, annotations.about(state))

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

    def annotated(self) -> "Annotated":
        """What people say about any experiment, and the files of it that cannot be read.

        One small file is read for each experiment that somebody said something about, and nothing
        for the others.
        """
        from holdfast.store import annotations

        with self._listed() as top:
            return annotations.Annotated({}, []) if top is None else annotations.all_of(top)

    def list_experiments(self) -> list[str]:
        """The ids of all readable experiments, sorted. Warns as `states`."""
        with self._listed() as top:
            if top is None:
                return []
            found, unreadable = finding.ids(top)
        self._warn_of(unreadable)
        return found

    def offered(self, most: int = 100) -> list[tuple[str, str | None]]:
        """Ids and names for a shell that completes: quick, and of very many not quite exact.

        Args:
            most: How many of those that are not finished are loaded.
        """
        with self._listed() as top:
            return [] if top is None else finding.offered(top, most)

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

    def doers(self, works: Collection[str], *, limit: int = 8) -> dict[str, tuple[str, ...]]:
        """The ids of the experiments in which a process completed each of *works*, newest first.

        A work that nobody completed is not among the keys. What an experiment says of its works may
        have changed by the time it is loaded: whoever relies on it looks again.

        Args:
            works: As `ProcessProgress.work` has them.
            limit: At most so many ids for each.

        Warns:
            UnreadableStateWarning: As `states`.
        """
        with self._listed() as top:
            if top is None or not works:
                return {}
            found, unreadable = finding.doers(top, works, limit)
        self._warn_of(unreadable)
        return found

    def resolve(self, query: str) -> str:
        """The id that *query* names: itself, a unique prefix of it, or `@last`, the newest.

        Raises:
            ExperimentNotFoundError, AmbiguousExperimentError: None or several.
        """
        if query != "@last":
            with contextlib.suppress(ExperimentNotFoundError, InvalidIdError):
                return self.named(query)
            return scanning.resolve(self.list_experiments(), query, self.state_dir)
        listing = self.listing()
        self._warn_of(listing.unreadable)
        newest = max(listing.experiments, key=_created, default=None)
        if newest is None:
            raise ExperimentNotFoundError(query, self.state_dir)
        return newest.experiment_id

    @whole
    def named(self, experiment_id: str) -> str:
        """The id of the experiment that *experiment_id* names in full. Raises as `load`."""
        with self._directory.existing(experiment_id) as place:
            return scanning.lookup(place, experiment_id).experiment_id

    # -- for other tools --------------------------------------------------------------------------

    def to_records(self, experiment: str | ExperimentState | None = None) -> list[dict[str, Any]]:
        """One flat record per process of *experiment*; of all there are, one per experiment.

        Parameters are `params.lr`, nested results `result.metrics.f1`. Every record has all keys:
        None where nothing is known. Times are aware and UTC, durations seconds; a number that JSON
        cannot say is a float. Every result is verified while it is read; `error` says what is wrong
        with one.

        Args:
            experiment: Its id, or a state that was loaded before.

        Warns:
            UnreadableStateWarning: Files were passed over.

        Raises:
            ExperimentNotFoundError, StateCorruptError, SchemaTooNewError: As for `load`.
        """
        made: list[dict[str, Any]] = handing.handed(self, experiment, "records")
        return made

    def to_pandas(self, experiment: str | ExperimentState | None = None) -> "pandas.DataFrame":
        """What `to_records` gives as a data frame, in the same dtypes whatever there is.

        `Int64`, `Float64`, `boolean`, `string`, `datetime64[us, UTC]`; all can be missing, which
        NaN is not. A column in which values of several kinds meet holds them as JSON.

        Raises:
            NotInstalledError: pandas is not installed.
        """
        return handing.handed(self, experiment, "pandas")

    def to_polars(self, experiment: str | ExperimentState | None = None) -> "polars.DataFrame":
        """What `to_records` gives as a data frame of polars, in dtypes as `to_pandas` has them.

        Raises:
            NotInstalledError: polars is not installed.
        """
        return handing.handed(self, experiment, "polars")

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


def _created(summary: Summary) -> datetime:
    return summary.created_at or datetime.min.replace(tzinfo=UTC)
