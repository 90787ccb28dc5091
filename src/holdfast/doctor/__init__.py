"""`holdfast doctor`: everything in a state directory looked at, and mended where nothing is lost.

Asks the declared machines about every recorded step, compares every view with its journals and
every result with what was recorded of it, names what cannot be read and what was left over, and
examines the file system. Repairs go through the store's own protocol (a claim rewrites a view, an
interrupted delete is finished); an unreadable file is never touched.
"""

import contextlib
import secrets
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import attrs

from holdfast import aggregation, judgement, liveness
from holdfast import results as results_module
from holdfast.doctor import legality, volume
from holdfast.doctor.legality import readable
from holdfast.errors import HoldfastError, StateCorruptError, UnreadableStateWarning
from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus
from holdfast.store import catalog, deletion, journal, ownership, stored, view
from holdfast.store.files import Files
from holdfast.store.journal import cause
from holdfast.store.manager import StateManager

__all__ = ["Finding", "Kind", "examine"]

Kind = Literal[
    "unreadable", "illegal", "view", "result", "leftover", "locks", "durability", "clock"
]

#: No write of a temporary file takes this long; a younger one may be somebody's at this moment.
MARGIN_S: Final = 3600.0


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: `unreadable`: a file that holds no state. `illegal`: a recorded step that the machine
            does not have. `view`: disagrees with its journals. `result`: missing or altered.
            `leftover`: of a process that died. `locks`, `durability`, `clock`: of the file system.
        severity: `problem`, or `hint` where nothing need be wrong.
        repair: What `fix` does about it, or what to do; empty if nothing helps.
        fixable: Whether `fix` can mend it without losing anything.
        fixed: Whether it did.
    """

    kind: Kind
    severity: Literal["problem", "hint"]
    path: Path
    what: str
    repair: str = ""
    fixable: bool = False
    fixed: bool = False


def examine(
    state_dir: Path | str,
    *,
    fix: bool = False,
    margin_s: float = MARGIN_S,
    files: Files | None = None,
) -> list[Finding]:
    """Everything that is wrong below *state_dir*; empty if all is well or nothing is there.

    Args:
        state_dir: Need not exist.
        fix: Repair what can be repaired without losing anything.
        margin_s: How old, in seconds, a temporary file has to be to count as left over.
        files: The operating system.

    Raises:
        StateCorruptError: The directory itself cannot be opened.
    """
    doctor = _Doctor(Path(state_dir), files or Files(), fix, margin_s)
    return list(doctor.findings())


class _Doctor:
    def __init__(self, state_dir: Path, files: Files, fix: bool, margin_s: float) -> None:
        self.state_dir = state_dir
        self.files = files
        self.fix = fix
        self.margin_s = margin_s
        #: Files that were last changed before this are nobody's; none are, as long as it is None.
        self.oldest: float | None = None
        self.manager = StateManager(state_dir, files=files)

    def findings(self) -> Iterator[Finding]:
        if not self.state_dir.exists():
            return
        try:
            dir_fd = self.files.open_dir(self.state_dir)
        except OSError as err:
            raise StateCorruptError(self.state_dir, f"cannot be opened: {cause(err)}") from err
        try:
            yield from self._volume()
            with contextlib.suppress(OSError):
                # By the clock of the file server: by ours, a fresh file could look hours old.
                self.oldest = volume.server_time(self.files, dir_fd) - self.margin_s
            yield from self._top(dir_fd)
            for stem in self._stems(dir_fd):
                yield from self._experiment(stem, dir_fd)
        finally:
            self.files.close(dir_fd)

    def _volume(self) -> Iterator[Finding]:
        try:
            symptoms = volume.examine(self.files, self.state_dir)
        except OSError as err:
            what = f"nothing can be written here: {cause(err)}"
            yield Finding(kind="durability", severity="problem", path=self.state_dir, what=what)
            return
        for symptom in symptoms:
            kind: Kind = "clock"
            if symptom.kind == "locks":
                kind = "locks"
            elif symptom.kind == "durability":
                kind = "durability"
            severity: Literal["problem", "hint"] = "problem" if symptom.certain else "hint"
            yield Finding(kind=kind, severity=severity, path=self.state_dir, what=symptom.what)

    # -- beside the experiments -------------------------------------------------------------------

    def _top(self, dir_fd: int) -> Iterator[Finding]:
        names = sorted(self.files.names(dir_fd))
        trash = [name for name in names if name.startswith(".trash-")]
        if trash and self.fix:
            deletion.sweep(self.files, dir_fd)
        for name in trash:
            yield self._leftover(
                self.state_dir / name,
                "of an experiment whose delete was interrupted",
                fixed=self._gone(name, dir_fd),
            )
        for name in names:
            if name.startswith(".tmp-") and self._old(name, dir_fd):
                yield self._remove(name, dir_fd, self.state_dir)

    def _old(self, name: str, dir_fd: int) -> bool:
        if self.oldest is None:
            return False
        try:
            return self.files.stat(name, dir_fd).st_mtime < self.oldest
        except OSError:
            return False  # gone: it was somebody's after all

    def _remove(self, name: str, dir_fd: int, directory: Path) -> Finding:
        if self.fix:
            with contextlib.suppress(OSError):
                self.files.unlink(name, dir_fd)
        what = "temporary file of a writer that died"
        return self._leftover(directory / name, what, fixed=self._gone(name, dir_fd))

    def _gone(self, name: str, dir_fd: int) -> bool:
        try:
            self.files.stat(name, dir_fd)
        except FileNotFoundError:
            return True
        return False

    def _leftover(self, path: Path, what: str, *, fixed: bool, fixable: bool = True) -> Finding:
        return Finding(
            kind="leftover",
            severity="hint",
            path=path,
            what=what,
            repair="remove it" if fixable else "",
            fixable=fixable,
            fixed=fixed,
        )

    def _stems(self, dir_fd: int) -> list[str]:
        found = set(catalog.stems(self.files, dir_fd))
        for name in self.files.names(dir_fd):
            # A folder with neither view nor journal is no experiment, but may have been one.
            if not name.startswith(".") and name not in found and not name.endswith(".json"):
                with contextlib.suppress(OSError):
                    self.files.stat(f"{name}/lock", dir_fd)
                    found.add(name)
        return sorted(found)

    # -- one experiment ---------------------------------------------------------------------------

    def _experiment(self, stem: str, dir_fd: int) -> Iterator[Finding]:
        entry = catalog.read_entry(self.files, stem, dir_fd, self.state_dir)
        if entry is None:
            yield from self._deleted(stem, dir_fd)
            return
        folder_fd = stored.open_folder(self.files, stem, dir_fd)
        try:
            if entry.error is not None:
                repair = "left as it is: only you can tell what is in it"
                what = readable(entry.error, entry.path)
                yield self._problem("unreadable", entry.path, what, repair)
            if folder_fd is not None:
                for finding in self._journals(stem, folder_fd):
                    # The journal that the state could not be read from is named once.
                    if entry.error is None or finding.path != entry.path:
                        yield finding
                yield from self._temporaries(stem, folder_fd, dir_fd)
            if entry.state is not None:
                yield from self._view(stem, dir_fd, entry.state)
                yield from self._results(stem, entry.state)
        finally:
            if folder_fd is not None:
                self.files.close(folder_fd)

    def _problem(self, kind: Kind, path: Path, what: str, repair: str = "") -> Finding:
        return Finding(kind=kind, severity="problem", path=path, what=what, repair=repair)

    def _deleted(self, stem: str, dir_fd: int) -> Iterator[Finding]:
        """A delete that was decided and not finished; or a folder that never became anything."""
        decided = False
        with contextlib.suppress(HoldfastError, OSError):
            decided = self._is_deleted(stem, dir_fd)
        fixed = False
        if decided and self.fix:
            with contextlib.suppress(HoldfastError, OSError):
                fixed = deletion.finish_interrupted(self.files, stem, dir_fd, self.state_dir)
        what = "its delete was interrupted" if decided else "neither a view nor a valid journal"
        yield self._leftover(self.state_dir / stem, what, fixed=fixed, fixable=decided)

    def _is_deleted(self, stem: str, dir_fd: int) -> bool:
        folder_fd = stored.open_folder(self.files, stem, dir_fd)
        if folder_fd is None:
            return False
        try:
            truth = journal.read_truth(self.files, folder_fd, self.state_dir / stem)
        finally:
            self.files.close(folder_fd)
        return truth is not None and truth.deleted

    def _journals(self, stem: str, folder_fd: int) -> Iterator[Finding]:
        path = self.state_dir / stem
        try:
            for violation in legality.violations(self.files, folder_fd, path):
                yield self._problem("illegal", violation.path, violation.what)
        except HoldfastError as err:
            where = getattr(err, "path", path)
            what = readable(err, where)
            yield self._problem("unreadable", where, what, "the history cannot be told")
        except OSError as err:
            yield self._problem("unreadable", path / "journal", cause(err))

    def _temporaries(self, stem: str, folder_fd: int, dir_fd: int) -> Iterator[Finding]:
        """Temporaries of claimants and shims, which only the living can still be writing."""
        if ownership.lock_state(self.files, stem, dir_fd) == "held":
            return
        path = self.state_dir / stem
        for below in ("journal", "attempts", "results"):
            # A shim keeps the space of its exit record reserved as long as its command runs.
            if below == "attempts" and next(judgement.survivors(path, stem), None) is not None:
                continue
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                self.files.directory(below, folder_fd) as fd,
            ):
                for name in sorted(self.files.names(fd)):
                    hidden = name.startswith(".tmp-") or (name[0] == "." and name.endswith(".tmp"))
                    if hidden and self._old(name, fd):
                        yield self._remove(name, fd, path / below)

    def _results(self, stem: str, state: ExperimentState) -> Iterator[Finding]:
        folder = self.state_dir / stem
        for index, process in state.process_progress.items():
            if process.result is None:
                continue
            try:
                problem = results_module.verify(folder, process.result, files=self.files)
            except OSError as err:
                problem = f"cannot be read: {cause(err)}"
            if problem is not None:
                path = folder / process.result.path
                repair = "resume runs its process again, unless the experiment is aggregated"
                yield self._problem("result", path, f"process {index}: {problem}", repair)
        if state.status is ExperimentStatus.AGGREGATED:
            path = folder / aggregation.FILE_NAME
            repair = f"`holdfast aggregate {state.experiment_id}` makes a missing one again"
            try:
                # Who aggregates with the library alone need not have one.
                if aggregation.read(folder) is None and state.config.get("command"):
                    yield self._problem("result", path, "is missing", repair)
            except StateCorruptError as err:
                yield self._problem("result", path, readable(err, path), repair)

    # -- the view ---------------------------------------------------------------------------------

    def _view(self, stem: str, dir_fd: int, state: ExperimentState) -> Iterator[Finding]:
        """A view beside journals must tell exactly what they do, once its owner has let go."""
        if not state.epoch or self._owned(stem, dir_fd, state):
            return
        path = self.state_dir / view.file_name(stem)
        what, older = self._difference(stem, dir_fd, state)
        again = catalog.read_entry(self.files, stem, dir_fd, self.state_dir)
        if what is None or again is None or again.state != state:
            return  # all is well, or somebody is at work
        fixed = False
        if self.fix:
            # An older truth is in the journals anyway; what somebody wrote in by hand is not.
            kept = older or self._keep(stem, dir_fd)
            fixed = kept and self._rewrite(state.experiment_id)
        yield Finding(
            kind="view",
            severity="hint" if older else "problem",
            path=path,
            what=what,
            repair="rewrite it from the journals, which count",
            fixable=True,
            fixed=fixed,
        )

    def _owned(self, stem: str, dir_fd: int, state: ExperimentState) -> bool:
        lock = ownership.lock_state(self.files, stem, dir_fd)
        if lock is not None or state.owner is None or state.owner.released:
            return lock == "held"
        return liveness.judge(state.owner).kind != "dead"

    def _difference(
        self, stem: str, dir_fd: int, state: ExperimentState
    ) -> tuple[str | None, bool]:
        """In what the view differs, and whether it merely is an older truth."""
        name = view.file_name(stem)
        try:
            seen = view.read(self.files, name, dir_fd, self.state_dir / name)
        except (HoldfastError, OSError) as err:
            return f"cannot be read: {err}".partition("\n")[0], False
        if seen is None:
            return "is missing", True
        if seen == state:
            return None, True
        killed = state.owner is not None and not state.owner.released
        if (seen.epoch, seen.revision) < (state.epoch, state.revision):
            tells = f"tells of revision {seen.revision}, the journal of {state.revision}"
            if killed:
                return f"{tells}: its owner died before it refreshed it", True
            return tells, False
        fields = [
            field.name
            for field in attrs.fields(ExperimentState)
            if getattr(seen, field.name) != getattr(state, field.name)
        ]
        return f"differs from its journal in {', '.join(fields)}", False

    def _keep(self, stem: str, dir_fd: int) -> bool:
        """Keep the view's bytes in the experiment's folder; whether that is done, durably."""
        name = view.file_name(stem)
        try:
            info = self.files.stat(name, dir_fd)
            if not stat.S_ISREG(info.st_mode) or info.st_size > view.SIZE_LIMIT:
                return False
            fd = self.files.open_read(name, dir_fd)
            try:
                data = self.files.read_all(fd, view.SIZE_LIMIT)
            finally:
                self.files.close(fd)
            with self.files.directory(stem, dir_fd) as folder_fd:
                kept = self.files.open_append(
                    f"view-replaced-{secrets.token_hex(4)}", folder_fd, exclusive=True
                )
                try:
                    self.files.write_all(kept, data)
                    self.files.fsync(kept)
                finally:
                    self.files.close(kept)
                self.files.fsync(folder_fd)
        except OSError:
            return False
        return True

    def _rewrite(self, experiment_id: str) -> bool:
        """Claim it, which rewrites the view; not if its owner lives, or may live."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreadableStateWarning)
            try:
                self.manager.claim(experiment_id).release()
            except HoldfastError:
                return False
        return True
