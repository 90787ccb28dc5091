"""Becoming the owner of an experiment: the lock, the next epoch, the state taken over (DESIGN §4).

Owns the order of these steps; `holdfast.store.claim` records with what comes out.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import attrs

from holdfast import liveness
from holdfast.errors import (
    AlreadyOwnedError,
    ExperimentNotFoundError,
    OwnershipLostError,
    StateCorruptError,
    StateWriteError,
    UnknownLivenessError,
)
from holdfast.identity import LockState, ProcessIdentity, Verdict
from holdfast.records import ExperimentState
from holdfast.store import codec, journal, view
from holdfast.store.files import NO_LOCKS, Files
from holdfast.store.journal import Truth, cause
from holdfast.store.stored import exists, misnamed, open_folder, read, same_folder

__all__ = ["Owned", "acquire", "lock_state", "publish_epoch", "successor", "try_lock"]

_RETRY_S: Final = 0.002


@attrs.frozen(kw_only=True)
class Owned:
    """What a claim holds: descriptors, its epoch, and the state it took over.

    Attributes:
        locked: False where the file system has no locks: then epochs alone protect.
        previous: The owner before, and *verdict* what was known of it.
        base_size: Bytes of the journal's base line.
        inherited: Whether there was a claim before; until the first one the view is the truth.
    """

    state: ExperimentState
    folder_fd: int
    lock_fd: int
    locked: bool
    journal_fd: int
    file_fd: int
    epoch: int
    size: int
    base_size: int
    previous: ProcessIdentity | None
    verdict: Verdict | None
    inherited: bool


def _flock(files: Files, fd: int, operation: int) -> bool | None:
    """Whether the lock was had; None where the file system has no locks."""
    try:
        files.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        if errno.errorcode.get(err.errno or 0) in NO_LOCKS:
            return None
        raise
    return True


def try_lock(files: Files, fd: int) -> bool | None:
    """Take the exclusive lock if it is free; None where the file system has no locks."""
    return _flock(files, fd, fcntl.LOCK_EX)


def lock_state(files: Files, stem: str, dir_fd: int) -> LockState | None:
    """Whether somebody holds the experiment's lock; None if that cannot be told.

    Looks with a shared lock for a moment; claimants know a look from an owner.
    """
    with contextlib.ExitStack() as opened:
        folder_fd = open_folder(files, stem, dir_fd)
        if folder_fd is None:
            return None
        opened.callback(files.close, folder_fd)
        try:
            fd = files.open_read("lock", folder_fd)
        except OSError:
            return None
        opened.callback(files.close, fd)
        try:
            had = _flock(files, fd, fcntl.LOCK_SH)
        except OSError:
            return None
        return None if had is None else "free" if had else "held"


def _lock(files: Files, fd: int, deadline: float, clock: Callable[[], float]) -> bool | None:
    """Get the exclusive lock until *deadline*: True, False (an owner holds it), None (no locks)."""
    looks = 50
    while True:
        had = _flock(files, fd, fcntl.LOCK_EX)
        if had is not False:
            return had
        # Readers look with a shared lock for microseconds. If one is to be had, no owner is
        # there, and giving up would refuse a claim because somebody typed `holdfast ls`.
        shared = _flock(files, fd, fcntl.LOCK_SH)
        if shared:
            files.flock(fd, fcntl.LOCK_UN)
            looks -= 1
        if clock() >= deadline and (not shared or looks <= 0):
            return False
        # Random, so that two claimants that look at each other do not go on in step.
        time.sleep(_RETRY_S * (0.5 + os.urandom(1)[0] / 256))


def acquire(
    files: Files,
    stem: str,
    dir_fd: int,
    state_dir: Path,
    experiment_id: str,
    *,
    now: Callable[[], datetime],
    wait_s: float,
    force: bool,
) -> Owned:
    """Own the experiment, or say why not.

    Raises:
        ExperimentNotFoundError: There is none.
        AlreadyOwnedError: Its owner lives: the lock says so or, where there are none, its pid.
        UnknownLivenessError: Its owner cannot be proven dead, and not *force*.
        StateCorruptError, SchemaTooNewError: Its state cannot be read.
        StateWriteError: The file system refused.
    """
    path = state_dir / stem
    deadline = time.monotonic() + wait_s
    while True:
        # Nothing is made for an experiment that does not exist.
        if not exists(files, stem, dir_fd):
            raise ExperimentNotFoundError(experiment_id, state_dir)
        with contextlib.ExitStack() as opened:
            try:
                folder_fd, lock_fd, made = _open_lock(files, stem, dir_fd, opened)
            except FileNotFoundError:
                continue  # deleted between two of our steps: look again
            except NotADirectoryError as err:
                raise StateCorruptError(path, journal.NO_DIRECTORY) from err
            except OSError as err:
                raise StateWriteError(path / "lock", "opening", cause(err)) from err
            locked = _lock(files, lock_fd, deadline, time.monotonic)
            if locked is False:
                raise _owned(files, stem, dir_fd, folder_fd, state_dir, experiment_id)
            # The folder may have been moved away by a delete while we waited for its lock.
            if not _still_there(files, stem, dir_fd, folder_fd, lock_fd):
                continue
            # Of a claim that comes to nothing, nothing stays behind. Only now that the lock in
            # there is ours: the file that another owner holds must keep its name.
            opened.callback(_remove_if_unused, files, stem, dir_fd, folder_fd)
            owned = _take_over(
                files,
                stem,
                dir_fd,
                state_dir,
                experiment_id,
                folder_fd,
                lock_fd,
                locked=locked is True,
                made=made,
                now=now,
                force=force,
                opened=opened,
            )
            opened.pop_all()
            return owned


def _open_lock(
    files: Files, stem: str, dir_fd: int, opened: contextlib.ExitStack
) -> tuple[int, int, bool]:
    """Descriptors of the folder and its lock, and whether the lock was made only now."""
    with contextlib.suppress(FileExistsError):
        files.mkdir(stem, dir_fd)
    # The parent too: a folder that a power cut takes back would take the claim in it along. Even
    # if the folder was there: who made it may have been killed before this step.
    files.fsync(dir_fd)
    folder_fd = files.open_dir(stem, dir_fd)
    opened.callback(files.close, folder_fd)
    try:
        files.stat("lock", folder_fd)
        made = False
    except FileNotFoundError:
        made = True
    lock_fd = files.open_append("lock", folder_fd)
    opened.callback(files.close, lock_fd)
    return folder_fd, lock_fd, made


def _remove_if_unused(files: Files, stem: str, dir_fd: int, folder_fd: int) -> None:
    with contextlib.suppress(OSError):
        if files.names(folder_fd) == ["lock"]:
            files.unlink("lock", folder_fd)
            files.rmdir(stem, dir_fd)


def _still_there(files: Files, stem: str, dir_fd: int, folder_fd: int, lock_fd: int) -> bool:
    try:
        named = files.stat("lock", folder_fd)
    except FileNotFoundError:
        return False
    same = os.path.samestat(named, files.fstat(lock_fd))
    return same and same_folder(files, stem, dir_fd, folder_fd)


def _owned(
    files: Files, stem: str, dir_fd: int, folder_fd: int, state_dir: Path, experiment_id: str
) -> AlreadyOwnedError:
    owner, since = _newest_claim(files, folder_fd, state_dir / stem)
    return AlreadyOwnedError(experiment_id, owner, since, liveness.judge(owner, lock="held"))


def _newest_claim(
    files: Files, folder_fd: int, path: Path
) -> tuple[ProcessIdentity | None, datetime | None]:
    """Who owned it last, since when: from the newest claim, even one without a base yet."""
    owner, since = None, None
    with contextlib.suppress(OSError), files.directory("journal", folder_fd) as journal_fd:
        for epoch in reversed(journal.epochs(files.names(journal_fd))):
            found = journal.read_journal(files, journal_fd, epoch, path / "journal")
            if found.claim is not None:
                owner = codec.identity_from_json(found.claim["owner"])
                since = datetime.fromisoformat(found.claim["at"])
                # An owner that only began a fresh journal has owned it for longer.
                if "compacts" not in found.claim:
                    break
    return owner, since


def _take_over(
    files: Files,
    stem: str,
    dir_fd: int,
    state_dir: Path,
    experiment_id: str,
    folder_fd: int,
    lock_fd: int,
    *,
    locked: bool,
    made: bool,
    now: Callable[[], datetime],
    force: bool,
    opened: contextlib.ExitStack,
) -> Owned:
    path = state_dir / stem
    truth = read(files, stem, dir_fd, state_dir)
    if truth is not None and (problem := misnamed(truth.state, stem)) is not None:
        raise StateCorruptError(state_dir / view.file_name(stem), problem)
    # Deleted before we had the lock; or of another id that led to the same name.
    if truth is None or truth.state.experiment_id != experiment_id:
        raise ExperimentNotFoundError(experiment_id, state_dir)
    # Somebody removed the lock that an owner held, who may hold it still: ours proves nothing.
    removed = made and truth.state.epoch > 0
    previous, verdict = _judge_previous(truth.state, locked=locked and not removed)
    if verdict is not None and verdict.kind != "dead" and not force:
        if removed:
            with contextlib.suppress(OSError):
                files.unlink("lock", folder_fd)  # the next look would take it for the true one
        _, since = _newest_claim(files, folder_fd, path)
        if verdict.kind == "alive":
            raise AlreadyOwnedError(experiment_id, previous, since, verdict)
        raise UnknownLivenessError(experiment_id, previous, since, verdict)

    me = attrs.evolve(liveness.me(), locked=locked)
    at = now()
    try:
        with contextlib.suppress(FileExistsError):
            files.mkdir("journal", folder_fd)
        files.fsync(folder_fd)  # also if another made it, who may have been killed before this
        journal_fd = files.open_dir("journal", folder_fd)
        opened.callback(files.close, journal_fd)
        claim_line = _claim_line(me, at)
        while True:
            existing = journal.epochs(files.names(journal_fd))
            # Never back, even if somebody removed the journals: an owner of one may still live.
            epoch = max(existing[-1] if existing else 0, truth.state.epoch) + 1
            file_fd = publish_epoch(files, journal_fd, epoch, claim_line)
            if file_fd is not None:
                break
            # Where there is no lock, somebody else may have been first. Theirs is the experiment.
            if not locked:
                raise AlreadyOwnedError(experiment_id, None, at, None)
        opened.callback(files.close, file_fd)
        # Only now, when every older owner is fenced, is what they wrote complete.
        if not _unchanged(files, journal_fd, epoch, truth):
            newer = read(files, stem, dir_fd, state_dir, below=epoch)
            if newer is None:  # deleted since: our epoch without a base changes nothing
                raise ExperimentNotFoundError(experiment_id, state_dir)
            truth = newer
        if truth.epoch:
            # Its last line may only be visible yet, if it was killed before its fdatasync: our base
            # would survive a power cut that takes that line out of the history.
            with _reading(files, journal.file_name(truth.epoch), journal_fd) as older:
                files.fdatasync(older)
        state = attrs.evolve(truth.state, owner=me, epoch=epoch)
        base_line = _base_line(state, truth, at)
        files.write_all(file_fd, base_line)
        files.fdatasync(file_fd)
        newest = max(journal.epochs(files.names(journal_fd)), default=0)
        if newest != epoch:
            raise OwnershipLostError(experiment_id, epoch, newest)
        if not locked and not _still_there(files, stem, dir_fd, folder_fd, lock_fd):
            raise ExperimentNotFoundError(experiment_id, state_dir)
    except FileNotFoundError as err:
        # Where there are no locks, a forced delete can take the folder away under our feet.
        raise ExperimentNotFoundError(experiment_id, state_dir) from err
    except OSError as err:
        raise StateWriteError(path, "claiming", cause(err)) from err
    return Owned(
        state=state,
        folder_fd=folder_fd,
        lock_fd=lock_fd,
        locked=locked,
        journal_fd=journal_fd,
        file_fd=file_fd,
        epoch=epoch,
        size=len(claim_line) + len(base_line),
        base_size=len(base_line),
        previous=previous,
        verdict=verdict,
        inherited=truth.state.epoch > 0,
    )


@contextlib.contextmanager
def _reading(files: Files, name: str, dir_fd: int) -> Iterator[int]:
    fd = files.open_read(name, dir_fd)
    try:
        yield fd
    finally:
        files.close(fd)


def _unchanged(files: Files, journal_fd: int, epoch: int, truth: Truth) -> bool:
    """Whether *truth*, read before the epoch was ours, is still all that the predecessor wrote.

    Journals only grow; one that is cut back had a torn tail when it was read.
    """
    older = [each for each in journal.epochs(files.names(journal_fd)) if each < epoch]
    if not older:
        return truth.epoch == 0
    if older[-1] != truth.epoch or truth.torn:
        return False
    return files.stat(journal.file_name(truth.epoch), journal_fd).st_size == truth.offset


def _judge_previous(
    state: ExperimentState, *, locked: bool
) -> tuple[ProcessIdentity | None, Verdict | None]:
    """Who owned it before, and whether that is over; no verdict where nobody can be in the way.

    An owner that let go is not in the way, however alive its process is.
    """
    lock: LockState | None = "free" if locked else None
    if state.owner is not None:
        if state.owner.released:
            return state.owner, None
        return state.owner, liveness.judge(state.owner, lock=lock)
    if state.subprocess_pid is not None:
        return None, liveness.judge_legacy_pid(state.subprocess_pid)
    if state.status.value == "running":
        return None, liveness.judge(None, lock=lock)
    return None, None


def _claim_line(me: ProcessIdentity, at: datetime, *, compacts: int | None = None) -> bytes:
    line: codec.Json = {"kind": "claim", "at": at.isoformat(), "owner": codec.identity_to_json(me)}
    if compacts is not None:
        line["compacts"] = compacts
    return journal.encode(line)


def _base_line(state: ExperimentState, folded: Truth | None, at: datetime) -> bytes:
    source = None
    if folded is not None and folded.epoch:
        # History ends the predecessor's journal here: a late line behind it counts for nothing.
        source = {"epoch": folded.epoch, "offset": folded.offset}
    return journal.encode(
        {
            "kind": "base",
            "at": at.isoformat(),
            "from": source,
            "state": codec.state_to_json(state),
        }
    )


def publish_epoch(files: Files, journal_fd: int, epoch: int, content: bytes) -> int | None:
    """Make the journal of *epoch* with *content*; its descriptor, or None if another was first.

    Durable once it returns. Raises OSError.
    """
    temporary = view.temporary_name()
    fd = files.open_append(temporary, journal_fd, exclusive=True)
    try:
        files.write_all(fd, content)
        files.fsync(fd)
        won = True
        try:
            files.link(temporary, journal.file_name(epoch), journal_fd)
        except FileExistsError:
            # The answer to a link that succeeded can be lost on NFS: the inode tells.
            target = files.stat(journal.file_name(epoch), journal_fd)
            won = os.path.samestat(files.fstat(fd), target)
        files.unlink(temporary, journal_fd)
        if not won:
            files.close(fd)
            return None
        files.fsync(journal_fd)
    except OSError:
        with contextlib.suppress(OSError):
            files.unlink(temporary, journal_fd)
        files.close(fd)
        raise
    return fd


def successor(
    files: Files, journal_fd: int, state: ExperimentState, epoch: int, offset: int, at: datetime
) -> tuple[int, int, int, ExperimentState] | None:
    """The owner's own next epoch, in one step, since nobody else writes.

    Returns its descriptor, size, the size of its base, and the state; None if another owner has
    been first. Raises OSError.
    """
    assert state.owner is not None
    moved = attrs.evolve(state, epoch=epoch + 1)
    claim_line = _claim_line(state.owner, at, compacts=epoch)
    base_line = _base_line(moved, Truth(state, epoch, offset, deleted=False), at)
    fd = publish_epoch(files, journal_fd, epoch + 1, claim_line + base_line)
    if fd is None:
        return None
    return fd, len(claim_line) + len(base_line), len(base_line), moved
