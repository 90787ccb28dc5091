"""`holdfast doctor`: everything in a state directory looked at, and mended where nothing is lost.

Asks the declared machines about every recorded step, compares every view with its journals and
every result with what was recorded of it, names what cannot be read and what was left over, and
examines the file system. Repairs go through the store's own protocol (a claim rewrites a view, an
interrupted delete is finished); an unreadable file is never touched.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from holdfast import aggregation, judgement
from holdfast import results as results_module
from holdfast.doctor import absence, legality, views, volume
from holdfast.doctor.findings import Finding, Kind, Site, problem
from holdfast.doctor.legality import readable
from holdfast.errors import HoldfastError, StateCorruptError
from holdfast.records import ExperimentState
from holdfast.status import ExperimentStatus
from holdfast.store import catalog, deletion, journal, ownership, stored
from holdfast.store.files import Files
from holdfast.store.journal import cause

__all__ = ["Finding", "Kind", "examine"]

#: No write of a temporary file takes this long; a younger one may be somebody's at this moment.
MARGIN_S: Final = 3600.0


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
                yield problem("unreadable", entry.path, what, repair)
            if folder_fd is not None:
                for finding in self._journals(stem, folder_fd):
                    # The journal that the state could not be read from is named once.
                    if entry.error is None or finding.path != entry.path:
                        yield finding
                yield from self._temporaries(stem, folder_fd, dir_fd)
            if entry.state is not None:
                if entry.state.epoch:
                    site = Site(
                        files=self.files, state_dir=self.state_dir, dir_fd=dir_fd, fix=self.fix
                    )
                    missing = list(absence.examine(site, stem))
                    yield from missing or views.examine(site, stem, entry.state)
                yield from self._results(stem, entry.state)
        finally:
            if folder_fd is not None:
                self.files.close(folder_fd)

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
                yield problem("illegal", violation.path, violation.what)
        except HoldfastError as err:
            where = getattr(err, "path", path)
            what = readable(err, where)
            yield problem("unreadable", where, what, "the history cannot be told")
        except OSError as err:
            yield problem("unreadable", path / "journal", cause(err))

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
                lost = results_module.verify(folder, process.result, files=self.files)
            except OSError as err:
                lost = f"cannot be read: {cause(err)}"
            if lost is not None:
                path = folder / process.result.path
                repair = "resume runs its process again, unless the experiment is aggregated"
                yield problem("result", path, f"process {index}: {lost}", repair)
        if state.status is ExperimentStatus.AGGREGATED:
            path = folder / aggregation.FILE_NAME
            repair = f"`holdfast aggregate {state.experiment_id}` makes a missing one again"
            try:
                # Who aggregates with the library alone need not have one.
                if aggregation.read(folder) is None and state.config.get("command"):
                    yield problem("result", path, "is missing", repair)
            except StateCorruptError as err:
                yield problem("result", path, readable(err, path), repair)
