"""Becoming an experiment's owner: the lock, the next epoch, the state taken over (guide: storage).

Owns the order of these steps; `holdfast.store.claim` records with what comes out.
"""

import contextlib
import os
import time
from collections.abc import Callable
from datetime import datetime

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
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import journal, lines, locking
from holdfast.store.journal import Truth
from holdfast.store.loading import exists, misnamed, read
from holdfast.store.place import JOURNALS, LOCK, Opened, Place
from holdfast.store.tail import LARGEST, Tail
from holdfast.store.view import temporary_name

__all__ = [
    "Owned",
    "acquire",
    "publish_epoch",
    "successor",
]


@attrs.frozen(kw_only=True)
class Owned:
    """What a claim holds: what it opened, its epoch, and the state it took over.

    Attributes:
        tail: The journal of the epoch, in *journals*.
        locked: False where the file system has no locks: then epochs alone protect.
        previous: The owner before, and *verdict* what was known of it.
        base_size: Bytes of the journal's base line.
        inherited: Whether there was a claim before; until the first one the view is the truth.
    """

    state: ExperimentState
    folder: Opened
    lock: Opened
    locked: bool
    journals: Opened
    tail: Tail
    epoch: int
    base_size: int
    previous: ProcessIdentity | None
    verdict: Verdict | None
    inherited: bool


def acquire(
    place: Place,
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
    deadline = time.monotonic() + wait_s
    while True:
        # Nothing is made for an experiment that does not exist.
        if not exists(place):
            raise ExperimentNotFoundError(experiment_id, place.state_dir)
        with contextlib.ExitStack() as opened:
            try:
                folder, lock, made = _make_folder(place, opened)
            except FileNotFoundError:
                continue  # deleted between two of our steps: look again
            except NotADirectoryError as err:
                raise StateCorruptError(place.folder, journal.NO_DIRECTORY) from err
            except OSError as err:
                raise StateWriteError.of(place.folder / LOCK, "opening", err) from err
            locked = locking.get(lock, deadline)
            if locked is False:
                raise _owned(folder, experiment_id)
            # The folder may have been moved away by a delete while we waited for its lock.
            if not _still_there(place, folder, lock):
                continue
            # Of a claim that comes to nothing, nothing stays behind. Only now that the lock in
            # there is ours: the file that another owner holds must keep its name.
            opened.callback(_remove_if_unused, place, folder)
            owned = _take_over(
                place,
                experiment_id,
                folder,
                lock,
                locked=locked is True,
                made=made,
                now=now,
                force=force,
                opened=opened,
            )
            opened.pop_all()
            return owned


def _make_folder(place: Place, opened: contextlib.ExitStack) -> tuple[Opened, Opened, bool]:
    """The folder and its lock, each made if missing, and whether the lock was made only now."""
    files, dir_fd = place.files, place.dir_fd
    with contextlib.suppress(FileExistsError):
        files.mkdir(place.stem, dir_fd)
    # The parent too: a folder that a power cut takes back would take the claim in it along. Even
    # if the folder was there: who made it may have been killed before this step.
    files.fsync(dir_fd)
    folder = opened.enter_context(place.top.open_dir(place.stem))
    try:
        files.stat(LOCK, folder.fd)
        made = False
    except FileNotFoundError:
        made = True
    return folder, opened.enter_context(locking.open_lock(folder)), made


def _remove_if_unused(place: Place, folder: Opened) -> None:
    with contextlib.suppress(OSError):
        names = folder.names()
        if names == [LOCK]:
            place.files.unlink(LOCK, folder.fd)
        if names in ([], [LOCK]):
            place.files.rmdir(place.stem, place.dir_fd)


def _still_there(place: Place, folder: Opened, lock: Opened) -> bool:
    try:
        named = place.files.stat(LOCK, folder.fd)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, place.files.fstat(lock.fd)) and place.is_at(folder)


def _owned(folder: Opened, experiment_id: str) -> AlreadyOwnedError:
    owner, since = _newest_claim(folder)
    return AlreadyOwnedError(experiment_id, owner, since, liveness.judge(owner, lock="held"))


def _newest_claim(folder: Opened) -> tuple[ProcessIdentity | None, datetime | None]:
    """Who owned it last, since when: from the newest claim, even one without a base yet."""
    owner, since = None, None
    with contextlib.suppress(OSError), folder.open_dir(JOURNALS) as journals:
        for epoch in reversed(journal.epochs(journals.names())):
            found = journal.read_journal(journals, epoch)
            if found.claim is not None:
                owner, since = found.claim.owner, found.claim.at
                # An owner that only began a fresh journal has owned it for longer.
                if not found.claim.compacts:
                    break
    return owner, since


def _take_over(
    place: Place,
    experiment_id: str,
    folder: Opened,
    lock: Opened,
    *,
    locked: bool,
    made: bool,
    now: Callable[[], datetime],
    force: bool,
    opened: contextlib.ExitStack,
) -> Owned:
    files, state_dir = place.files, place.state_dir
    truth = read(place)
    if truth is not None and (problem := misnamed(truth.state, place.stem)) is not None:
        raise StateCorruptError(place.view_path, problem)
    # Deleted before we had the lock; or of another id that led to the same name.
    if truth is None or truth.state.experiment_id != experiment_id:
        raise ExperimentNotFoundError(experiment_id, state_dir)
    # Somebody removed the lock that an owner held, who may hold it still: ours proves nothing.
    removed = made and truth.state.epoch > 0
    previous, verdict = _judge_previous(truth.state, locked=locked and not removed)
    if verdict is not None and verdict.kind != "dead" and not force:
        if removed:
            with contextlib.suppress(OSError):
                files.unlink(LOCK, folder.fd)  # the next look would take it for the true one
        _, since = _newest_claim(folder)
        if verdict.kind == "alive":
            raise AlreadyOwnedError(experiment_id, previous, since, verdict)
        raise UnknownLivenessError(experiment_id, previous, since, verdict)

    me = attrs.evolve(liveness.me(), locked=locked)
    at = now()
    try:
        with contextlib.suppress(FileExistsError):
            files.mkdir(JOURNALS, folder.fd)
        files.fsync(folder.fd)  # also if another made it, who may have been killed before this
        journals = opened.enter_context(folder.open_dir(JOURNALS))
        claim_line = lines.claimed(me, at)
        while True:
            existing = journal.epochs(journals.names())
            # Never back, even if somebody removed the journals: an owner of one may still live.
            epoch = max(existing[-1] if existing else 0, truth.state.epoch) + 1
            tail = publish_epoch(journals, epoch, claim_line)
            if tail is not None:
                break
            # Where there is no lock, somebody else may have been first. Theirs is the experiment.
            if not locked:
                raise AlreadyOwnedError(experiment_id, None, at, None)
        opened.enter_context(tail.file)
        # Only now, when every older owner is fenced, is what they wrote complete.
        if not _unchanged(journals, epoch, truth):
            newer = read(place, below=epoch)
            if newer is None:  # deleted since: our epoch without a base changes nothing
                raise ExperimentNotFoundError(experiment_id, state_dir)
            truth = newer
        if truth.epoch:
            # Its last line may only be visible yet, if it was killed before its fdatasync: our base
            # would survive a power cut that takes that line out of the history.
            with journals.open_read(journal.file_name(truth.epoch)) as older:
                files.fdatasync(older.fd)
        state = attrs.evolve(truth.state, owner=me, epoch=epoch)
        base_line = lines.base(state, at, epoch=truth.epoch, offset=truth.offset)
        end = tail.write(base_line)
        files.fdatasync(tail.file.fd)
        tail.size = end
        newest = max(journal.epochs(journals.names()), default=0)
        if newest != epoch:
            raise OwnershipLostError(experiment_id, epoch, newest)
        if not locked and not _still_there(place, folder, lock):
            raise ExperimentNotFoundError(experiment_id, state_dir)
    except FileNotFoundError as err:
        # Where there are no locks, a forced delete can take the folder away under our feet.
        raise ExperimentNotFoundError(experiment_id, state_dir) from err
    except OSError as err:
        raise StateWriteError.of(place.folder, "claiming", err) from err
    return Owned(
        state=state,
        folder=folder,
        lock=lock,
        locked=locked,
        journals=journals,
        tail=tail,
        epoch=epoch,
        base_size=len(base_line),
        previous=previous,
        verdict=verdict,
        inherited=truth.state.epoch > 0,
    )


def _unchanged(journals: Opened, epoch: int, truth: Truth) -> bool:
    """Whether *truth*, read before the epoch was ours, is still all that the predecessor wrote.

    Lines are only added; one that is cut back was torn when it was read.
    """
    older = [each for each in journal.epochs(journals.names()) if each < epoch]
    if not older:
        return truth.epoch == 0
    if older[-1] != truth.epoch or truth.torn:
        return False
    with journals.open_read(journal.file_name(truth.epoch)) as file:
        behind = journals.files.read(file.fd, LARGEST + 1, truth.offset)
    return len(behind) <= LARGEST and not behind.strip(b"\0")


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


def publish_epoch(journals: Opened, epoch: int, content: bytes) -> Tail | None:
    """Make the journal of *epoch* with *content*; its end, or None if another was first.

    Durable once it returns. Raises OSError.
    """
    files, journal_fd = journals.files, journals.fd
    temporary = temporary_name()
    fd = files.open_new(temporary, journal_fd)
    file = Opened(files, journals.path / journal.file_name(epoch), fd)
    try:
        tail = Tail.of(file)
        end = tail.write(content)
        files.fsync(fd)
        tail.size = end
        won = True
        try:
            files.link(temporary, journal.file_name(epoch), journal_fd)
        except FileExistsError:
            # The answer to a link that succeeded can be lost on NFS: the inode tells.
            target = files.stat(journal.file_name(epoch), journal_fd)
            won = os.path.samestat(files.fstat(fd), target)
        files.unlink(temporary, journal_fd)
        if not won:
            file.close()
            return None
        files.fsync(journal_fd)
    except OSError:
        with contextlib.suppress(OSError):
            files.unlink(temporary, journal_fd)
        file.close()
        raise
    return tail


def successor(
    journals: Opened, state: ExperimentState, epoch: int, offset: int, at: datetime
) -> tuple[Tail, int, ExperimentState] | None:
    """The owner's own next epoch, in one step, since nobody else writes.

    Returns its end, the size of its base, and the state; None if another owner has been first.
    Raises OSError.
    """
    assert state.owner is not None
    moved = attrs.evolve(state, epoch=epoch + 1)
    claim_line = lines.claimed(state.owner, at, compacts=epoch)
    base_line = lines.base(moved, at, epoch=epoch, offset=offset)
    tail = publish_epoch(journals, epoch + 1, claim_line + base_line)
    return None if tail is None else (tail, len(base_line), moved)
