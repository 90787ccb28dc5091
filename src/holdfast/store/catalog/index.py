"""A cache of what the finished experiments are, so that finding can skip them (guide: storage).

It knows experiments that are aggregated and let go by their owner, and only as long as view and
folder are the very files that they were. Whoever changes such an experiment has to claim it first,
which replaces the view. Everything else is loaded from its journal by the caller.

Files in the folder `.index` (in the state directory itself, each write would change the
directory whose changes are watched):

- `head`: what the directory looked like, which stems have to be loaded, and the latest changes
  against
- `rows-…`: one line for every column of the table of finished experiments. Never changed; a new
  one is written when the changes have become many.
- `works-…`: which works they completed (`works`), which a query for works alone reads.

Every line is under a checksum, every file is replaced whole, nothing is locked and nothing is
synced: what a crash, a race or a flipped bit leaves is either right or not believed. A row proves
itself against the files, so that even an old index is never wrong, only slower. Nothing here
raises for the index's own sake: without one, everything is loaded.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from holdfast.status import ExperimentStatus, Reason
from holdfast.store import uninterrupted
from holdfast.store.catalog import columns
from holdfast.store.catalog.columns import Columns, DamagedIndexError, Rows
from holdfast.store.catalog.summary import Summary
from holdfast.store.catalog.works import Doer, Works, age
from holdfast.store.lines import decode, encode
from holdfast.store.place import Opened
from holdfast.store.view import temporary_name

__all__ = ["FOLDER", "DamagedIndexError", "Index"]

FOLDER: Final = ".index"
_HEAD: Final = "head"
_CLOCK: Final = "clock"
_FORMAT: Final = 5

#: Fewer finished experiments are loaded sooner than a folder is made for them.
SMALLEST: Final = 200
#: A file changed twice within the resolution of its times looks changed once (2 s on FAT). What
#: was touched this shortly before a look is looked at again the next time.
RACY_NS: Final = 2_500_000_000
#: There, attributes are cached for up to a minute: an unchanged directory may have changed.
_REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "fuse.sshfs"}
)

#: Changes against the rows that the head takes before new rows are written: this many, or this
#: part of the rows.
_CHANGES: Final = 1000
_CHANGES_PART: Final = 20
_LIMIT: Final = 1 << 30

# Times as whole numbers take a third of the memory of their text.
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

#: inode, size, mtime, ctime of the view, inode of the folder (0 without one).
Signature = tuple[int, int, int, int, int]
_SIGNATURE: Final = ("inodes", "sizes", "mtimes", "ctimes", "folders")
_SUMMARY: Final = (
    *("ids", "names", "reasons", "errors", "hashes", "processes", "reused"),
    *("created", "started", "finished", "updated"),
)
_COLUMNS: Final = ("stems", *_SIGNATURE, *_SUMMARY)


class Index:
    """One look at the state directory *top*, and what its index knows about it.

    Attributes:
        fresh: The stems that have to be loaded, sorted. A folder without a view is among them
            whether it is an experiment or not.
    """

    @uninterrupted.whole
    def __init__(self, top: Opened, *, believe: bool = True) -> None:
        """Look. Unless the directory is unchanged, that takes one stat for every view.

        Raises:
            OSError: The directory cannot be listed.
        """
        self.fresh: list[str] = []
        self._files = files = top.files
        self._top = top
        self._folder: Opened | None = None
        self._rows: Rows | None = None
        self._dropped: set[str] = set()
        self._added: Columns = _no_rows()
        self._works = Works(files)
        self._learnt: Columns = _no_rows()
        self._signatures: dict[str, Signature] = {}
        self._clock: int | None = None
        self._changed = False
        self._remote: bool | None = None
        with contextlib.suppress(OSError):
            self._folder = top.open_dir(FOLDER)
        try:
            head = self._read_head() if believe else None
            self._directory = _directory(files.fstat(top.fd))
            self._current = head is not None and head["directory"] == self._directory
            if head is not None and self._current:
                self.fresh = head["fresh"]
            else:
                self._scan()
        except BaseException:
            self.close()
            raise

    @uninterrupted.whole
    def close(self) -> None:
        """Let go of the descriptors."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _folder_fd(self) -> int:
        return -1 if self._folder is None else self._folder.fd

    # -- what is known ----------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """The ids of the finished experiments that are known, in no order.

        Raises:
            DamagedIndexError: The index is.
        """
        return [experiment_id or stem for stem, experiment_id in self._table("stems", "ids")]

    def names(self) -> list[tuple[str, str | None]]:
        """The ids of the finished experiments that are known, with their names. Raises as `ids`."""
        return [(found or stem, name) for stem, found, name in self._table("stems", "ids", "names")]

    def stems_of(self, config_hashes: Collection[str]) -> list[str]:
        """The known finished experiments with one of these hashes. Raises as `ids`."""
        return [stem for stem, found in self._table("stems", "hashes") if found in config_hashes]

    def summaries(self) -> Iterator[tuple[str, Summary]]:
        """The known finished experiments by stem, in no order. Raises as `ids`."""
        return ((row[0], _summary(row)) for row in self._table("stems", *_SUMMARY))

    def doers(self, works: Collection[str], limit: int) -> dict[str, list[Doer]]:
        """Who completed each of *works*, at least the *limit* newest. Raises as `ids`."""
        return self._works.doers(works, limit, self._folder_fd)

    def _table(self, *names: str) -> list[tuple[Any, ...]]:
        """The wanted columns of every known row, `stems` first."""
        rows = self._rows
        found: list[tuple[Any, ...]] = []
        if rows is not None:
            found = list(zip(*(rows.column(name) for name in names), strict=True))
            if self._dropped:
                found = [row for row in found if row[0] not in self._dropped]
        return found + list(zip(*(self._added[name] for name in names), strict=True))

    # -- what is learnt ---------------------------------------------------------------------------

    def learn(
        self,
        stem: str,
        summary: Summary,
        works: Callable[[], Collection[str]],
        *,
        released: bool | None,
    ) -> None:
        """Remember *summary* of an experiment in `fresh`, if it may be skipped from now on.

        Args:
            stem: Which one.
            summary: As loaded after the look began.
            works: Tells what its processes completed.
            released: Its last owner let it go; None if it never had one. Whoever owns it could
                change it without touching the view; and a file that never had an owner belongs to
                another tool or to a person, who write into it as it lies there, which no time of
                the directory tells.
        """
        seen = self._signatures.pop(stem, None)
        if seen is None or summary.status is not ExperimentStatus.AGGREGATED or not released:
            return
        row = (
            stem,
            *seen,
            None if summary.experiment_id == stem else summary.experiment_id,
            summary.name,
            summary.reason,
            summary.error_message,
            summary.config_hash,
            summary.num_processes,
            summary.processes_reused or None,
            *(None if at is None else (at - _EPOCH) // _MICROSECOND for at in summary.times),
        )
        for name, value in zip(_COLUMNS, row, strict=True):
            self._learnt[name].append(value)
        self._works.learn(stem, summary.experiment_id, age(summary.created_at), works())

    @uninterrupted.whole
    def store(self) -> None:
        """Keep what was learnt for the next look, if that is possible and worth it.

        Raises:
            DamagedIndexError: What is known already cannot be written again. It must not stay so.
        """
        if self._current or self._clock is None:
            return
        if not self._worthwhile():
            return
        # The cache is for speed: a full or read-only disk must not stop a listing.
        with contextlib.suppress(OSError):
            self._write()

    def _worthwhile(self) -> bool:
        changed = bool(self._learnt["stems"]) or self._changed
        finished = len(self._added["stems"]) + len(self._learnt["stems"])
        if self._rows is not None:
            finished += self._rows.count - len(self._dropped)
        return finished >= SMALLEST and (changed or self._directory is not None)

    def _write(self) -> None:
        learnt = set(self._learnt["stems"])
        added = {name: self._added[name] + self._learnt[name] for name in _COLUMNS}
        count = 0 if self._rows is None else self._rows.count
        rows: dict[str, Any] | None = None if self._rows is None else self._rows.where
        dropped = sorted(self._dropped)
        if len(added["stems"]) + len(dropped) > max(_CHANGES, count // _CHANGES_PART):
            rows = self._write_rows(added)
            added, dropped = _no_rows(), []
        head = {
            "format": _FORMAT,
            "directory": self._directory,
            "fresh": [stem for stem in self.fresh if stem not in learnt],
            "rows": rows,
            "dropped": dropped,
            "added": added,
            "works": self._works.store(lambda parts: self._new("works", parts), self._folder_fd),
        }
        # Another writer may have replaced these files since we looked: raise, write no head.
        self._works.check(self._folder_fd)
        if rows is not None:
            self._files.stat(rows["file"], self._folder_fd)
        self._replace(_HEAD, [encode(head)])
        kept = {_HEAD, _CLOCK, rows["file"] if rows else None, *self._works.names}
        for name in self._files.names(self._folder_fd):
            # Another writer's temporary file, gone before it was renamed: its head is not
            # written then, which costs it no more than another look.
            if name not in kept:
                with contextlib.suppress(OSError):
                    self._files.unlink(name, self._folder_fd)

    def _write_rows(self, added: Columns) -> dict[str, Any]:
        rows = self._rows
        stems = [] if rows is None else rows.column("stems")
        keep = [position for position, stem in enumerate(stems) if stem not in self._dropped]
        values = added
        if rows is not None and keep:
            values = {
                name: [rows.column(name)[position] for position in keep] + added[name]
                for name in _COLUMNS
            }
        content, where = columns.encode_all(values)
        return {"file": self._new("rows", content), **where}

    def _new(self, kind: str, content: Iterable[bytes | bytearray]) -> str:
        # A name of its own: it never has another content, whoever else writes at this moment.
        file = f"{kind}-{temporary_name()[5:]}"
        self._replace(file, content)
        return file

    def _replace(self, name: str, content: Iterable[bytes | bytearray]) -> None:
        temporary = temporary_name()
        fd = self._files.open_append(temporary, self._folder_fd, exclusive=True)
        try:
            for part in content:
                self._files.write_all(fd, part)
            self._files.rename(temporary, name, self._folder_fd)
        except OSError:
            with contextlib.suppress(OSError):
                self._files.unlink(temporary, self._folder_fd)
            raise
        finally:
            self._files.close(fd)

    # -- looking ----------------------------------------------------------------------------------

    def _read_head(self) -> dict[str, Any] | None:
        if self._folder_fd < 0 or self._is_remote():
            return None
        try:
            fd = self._files.open_read(_HEAD, self._folder_fd)
            try:
                head = decode(self._files.read_all(fd, _LIMIT).removesuffix(b"\n"))
            finally:
                self._files.close(fd)
            if head is None or head.get("format") != _FORMAT:
                return None
            works = Works(self._files, head["works"])
            works.check(self._folder_fd)
            if head["rows"] is not None:
                # Gone if another writer has replaced it since.
                self._rows = Rows(self._files, head["rows"], self._folder_fd)
        except OSError:
            return None
        self._dropped, self._added, self._works = set(head["dropped"]), head["added"], works
        return head

    def _scan(self) -> None:
        """Compare every view with what is known of it, and drop what does not fit."""
        known = self._known()
        # Before the looks whose freshness it is to judge: whatever is changed after them gets a
        # later time than this.
        self._clock = self._tick()
        self._directory = _directory(self._files.fstat(self._top.fd))
        views: list[os.DirEntry[str]] = []
        others: dict[str, os.DirEntry[str]] = {}
        with self._files.scan(self._top.fd) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".json"):
                    if name[0] != ".":
                        views.append(entry)
                elif name[0] != ".":
                    others[name] = entry
        if self._clock is None and len(views) >= SMALLEST:
            self._clock = self._tick(make=True)
        before = 0 if self._clock is None else self._clock - RACY_NS
        fresh, signatures = self.fresh, self._signatures
        # Popped, since an entry keeps the stat that was asked of it.
        while views:
            entry = views.pop()
            stem = entry.name[:-5]
            folder = others.pop(stem, None)
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:
                fresh.append(stem)  # replaced or removed at this moment, or unreadable
                continue
            seen = (
                info.st_ino,
                info.st_size,
                info.st_mtime_ns,
                info.st_ctime_ns,
                0 if folder is None else folder.inode(),
            )
            if known and known.pop(stem, None) == seen:
                continue
            fresh.append(stem)
            if info.st_mtime_ns < before and info.st_ctime_ns < before:
                signatures[stem] = seen
        # A folder is an experiment if it has a journal, even if somebody removed its view. A link
        # may lead to one.
        fresh += [name for name, entry in others.items() if not entry.is_file()]
        fresh.sort()
        self._forget(known.keys() | set(fresh))
        if self._directory is not None and max(self._directory[2:]) >= before:
            self._directory = None

    def _known(self) -> dict[str, Signature]:
        rows, added = self._rows, self._added
        known: dict[str, Signature] = {}
        try:
            if rows is not None:
                signatures = zip(*map(rows.column, _SIGNATURE), strict=True)
                known = dict(zip(rows.column("stems"), signatures, strict=True))
        except DamagedIndexError:
            if rows is not None:
                rows.close()
            self._rows, self._dropped, self._added = None, set(), _no_rows()
            self._works = Works(self._files)
            return {}
        for stem in self._dropped:
            known.pop(stem, None)
        signatures = zip(*(added[name] for name in _SIGNATURE), strict=True)
        known.update(zip(added["stems"], signatures, strict=True))
        return known

    def _forget(self, stems: set[str]) -> None:
        """Drop what is known of *stems*: they are gone or have to be loaded."""
        before = len(self._dropped), len(self._added["stems"])
        self._works.forget(stems.intersection(self._added["stems"]))
        keep = [at for at, stem in enumerate(self._added["stems"]) if stem not in stems]
        if len(keep) < before[1]:
            self._added = {
                name: [values[at] for at in keep] for name, values in self._added.items()
            }
        if self._rows is not None and stems:
            dropped = stems.intersection(self._rows.column("stems")) - self._dropped
            self._works.forget(dropped)
            self._dropped |= dropped
        self._changed = before != (len(self._dropped), len(self._added["stems"]))

    def _tick(self, *, make: bool = False) -> int | None:
        """What time it is on the file system's own clock; None if nothing can be written there."""
        if (self._folder_fd < 0 and not make) or self._is_remote():
            return None
        try:
            if self._folder_fd < 0:
                with contextlib.suppress(FileExistsError):
                    self._files.mkdir(FOLDER, self._top.fd)
                self._folder = self._top.open_dir(FOLDER)
            fd = self._files.open_append(_CLOCK, self._folder_fd)
            try:
                self._files.touch(fd)
                return self._files.fstat(fd).st_mtime_ns
            finally:
                self._files.close(fd)
        except OSError:
            return None

    def _is_remote(self) -> bool:
        """Whether another host can change the directory while our kernel shows it as it was."""
        if self._remote is None:
            device = self._files.fstat(self._top.fd).st_dev
            self._remote = _kind_of_file_system(device) in _REMOTE
        return self._remote


def _kind_of_file_system(device: int) -> str | None:
    """Its name, like `ext4`; None where the platform does not tell."""
    where = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError), Path("/proc/self/mountinfo").open() as mounts:
        for line in mounts:
            # 36 35 98:0 /root /mount/point rw,noatime - ext4 /dev/root rw
            fields = line.split()
            if fields[2] == where:
                return fields[fields.index("-") + 1]
    return None


def _directory(info: os.stat_result) -> list[int] | None:
    if not stat.S_ISDIR(info.st_mode):
        return None
    return [info.st_dev, info.st_ino, info.st_mtime_ns, info.st_ctime_ns]


def _no_rows() -> Columns:
    return {name: [] for name in _COLUMNS}


def _summary(row: Sequence[Any]) -> Summary:
    """The summary in *row*, whose columns are all but `signatures`."""
    stem, experiment_id, name, reason, error, config_hash, number, reused, *times = row
    return Summary.aggregated(
        experiment_id or stem,
        name,
        None if reason is None else Reason(reason),
        error,
        config_hash,
        number,
        reused or 0,
        [None if at is None else _EPOCH + at * _MICROSECOND for at in times],
    )
