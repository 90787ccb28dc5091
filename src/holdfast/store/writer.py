"""The writer of a journal: appends lines durably, and knows when it must not any more.

Its own lifecycle is a small declared machine. What it cannot vouch for, it does not write: after a
failed fsync, after a newer owner was seen, after its folder was taken away. Above it, a claim keeps
the state that the lines lead to.
"""

import contextlib
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Final, NoReturn

from holdfast.errors import ClaimClosedError, OwnershipLostError, StateWriteError, cause
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import journal, ownership
from holdfast.store.ownership import Owned
from holdfast.store.place import Opened, Place

__all__ = ["JournalWriter", "WriterStatus"]

#: The owner moves to a fresh journal beyond the larger of these, so that load time stays bounded.
COMPACT_BYTES: Final = 1 << 20
COMPACT_BASES: Final = 4


class WriterStatus(StrEnum):
    """Where a writer stands. Only an open one writes, and only `open` and `writing` are left."""

    OPEN = "open"
    #: Between the first byte of a line and the state that it leads to. An exception out of a signal
    #: handler in between would else have the next line continue another state than the disk's.
    WRITING = "writing"
    POISONED = "poisoned"
    SUPERSEDED = "superseded"
    DELETED = "deleted"
    RELEASED = "released"


#: What may happen to a writer: `{event: (from, to)}`. Nothing else may. A table, since an event of
#: python-statemachine takes longer than all else that a transition does, the disk aside.
MOVES: Final[dict[str, tuple[frozenset[WriterStatus], WriterStatus]]] = {
    "begin": (frozenset({WriterStatus.OPEN}), WriterStatus.WRITING),
    "finish": (frozenset({WriterStatus.WRITING}), WriterStatus.OPEN),
    "take_back": (frozenset({WriterStatus.WRITING}), WriterStatus.OPEN),
    "poison": (frozenset({WriterStatus.WRITING}), WriterStatus.POISONED),
    "supersede": (frozenset({WriterStatus.OPEN, WriterStatus.WRITING}), WriterStatus.SUPERSEDED),
    "delete": (frozenset({WriterStatus.WRITING}), WriterStatus.DELETED),
    "release": (frozenset({WriterStatus.OPEN}), WriterStatus.RELEASED),
}

_WHY: Final = {
    WriterStatus.POISONED: "its disk failed",
    WriterStatus.SUPERSEDED: "a newer owner took over",
    WriterStatus.WRITING: "it was interrupted while it wrote",
    WriterStatus.DELETED: "the experiment is deleted",
    WriterStatus.RELEASED: "it was released",
}


class JournalWriter:
    """Appends to the journal of one epoch, and to its successors.

    Attributes:
        status: Where it stands, and *why*, where the status alone does not say it.
        epoch: Of the journal that it writes.
    """

    def __init__(self, place: Place, owned: Owned) -> None:
        """Take the journal of *owned* over, which whoever holds the claim closes (`held`)."""
        self._place = place
        self._files = place.files
        self._experiment_id = owned.state.experiment_id
        self._folder = owned.folder
        self._journals = owned.journals
        self._tail = owned.tail
        self._base_size = owned.base_size
        self.epoch = owned.epoch
        #: The names among which its epoch was the highest: mostly they are the same again.
        self._seen: list[str] | None = None
        self.status = WriterStatus.OPEN
        self.why = ""

    def _move(self, event: str, why: str = "") -> None:
        sources, target = MOVES[event]
        assert self.status in sources, f"{event} of a writer that is {self.status}"
        self.status, self.why = target, why

    # -- what it refuses --------------------------------------------------------------------------

    def check(self) -> None:
        """Make sure that it can write.

        Raises:
            ClaimClosedError: It cannot, and why.
        """
        if self.status is not WriterStatus.OPEN:
            raise ClaimClosedError(self._experiment_id, self.why or _WHY[self.status])

    def fence(self) -> None:
        """Make sure that nobody took over: acknowledge nothing that a newer owner may not have.

        Raises:
            OwnershipLostError: Somebody did. It writes no more.
            StateWriteError: It cannot be told.
        """
        try:
            names = self._journals.names()
            found = self.epoch if names == self._seen else max(journal.epochs(names), default=0)
            # In another place than where others look for it, we would own it alone.
            if found == self.epoch and not self._place.is_at(self._folder):
                found = 0
        except OSError as err:
            path = self._tail.file.path
            raise StateWriteError.of(path, "looking at", err, stored="unknown") from err
        if found != self.epoch:
            why = f"epoch {found} superseded it" if found else "its folder was taken away"
            self._move("supersede", why)
            raise OwnershipLostError(self._experiment_id, self.epoch, found)
        self._seen = names

    # -- what it writes ---------------------------------------------------------------------------

    def begin(self) -> None:
        """A line is about to be written; until `finish`, nothing else is."""
        self._move("begin")

    def finish(self) -> None:
        """The state that the line leads to is in its place."""
        self._move("finish")

    def append(self, line: bytes) -> None:
        """Have *line* on the disk, and nobody else's beside it, once this returns.

        Raises:
            StateWriteError: The file system refused; it says which state is stored. The writer is
                as good as before, or writes no more.
            OwnershipLostError: A newer owner took over.
        """
        file = self._tail.file
        try:
            end = self._tail.write(line)
        except OSError as err:
            self._take_back(err)
        try:
            self._files.fdatasync(file.fd)
        except OSError as err:
            # The kernel may have dropped the pages and call the next fsync clean: never ask twice.
            self._move("poison", f"fdatasync failed: {cause(err)}")
            raise StateWriteError.of(file.path, "fdatasync", err, stored="unknown") from err
        self._tail.size = end
        try:
            self.fence()
        except StateWriteError as err:
            self._move("poison", f"its folder cannot be looked at: {err.cause}")
            raise

    def _take_back(self, err: OSError) -> NoReturn:
        """Cut off what a failed write left, or give up."""
        old = "old"
        file = self._tail.file
        try:
            self._tail.cut()
            # Durably: of what is torn later, no part may be of another line than the last.
            self._files.fdatasync(file.fd)
        except OSError as second:
            self._move("poison", f"a failed write could not be taken back: {cause(second)}")
            old = "unknown"
        else:
            self._move("take_back")
        raise StateWriteError.of(file.path, "writing", err, stored=old) from err

    def delete(self, line: bytes) -> None:
        """Append *line* as the last: from its first byte on, nothing may follow it."""
        # After an exception in between, a farewell behind it would have listings take the
        # experiment for one that was let go.
        self.begin()
        self.append(line)
        self._move("delete")

    def compacted(
        self, state: ExperimentState, now: Callable[[], datetime]
    ) -> ExperimentState | None:
        """*state* in a fresh journal, if the present one has grown long; else None."""
        size = self._tail.size
        if size <= max(COMPACT_BYTES, COMPACT_BASES * self._base_size):
            return None
        try:
            moved = ownership.successor(self._journals, state, self.epoch, size, now())
        except OSError:
            # Nothing is lost: the present journal goes on, and the next line tries again. If the
            # new one was published all the same, the fence of that line sees it.
            return None
        if moved is None:
            # A newer owner, which came after the line that was just acknowledged and so has it.
            # The fence of the next line says so.
            return None
        self._give_room_back()
        with contextlib.suppress(OSError):
            self._tail.file.close()
        self._tail, self._base_size, state = moved
        self.epoch += 1
        self._seen = None  # a list without its own journal must be parsed
        return state

    def is_newest(self) -> bool:
        """Whether its epoch is still the highest. Raises OSError."""
        return journal.epochs(self._journals.names())[-1:] == [self.epoch]

    # -- its end ----------------------------------------------------------------------------------

    @property
    def held(self) -> tuple[Opened, Opened]:
        """What is open as long as it is."""
        return self._tail.file, self._journals

    def release(self) -> None:
        """It writes no more, whatever it was."""
        if self.status is WriterStatus.OPEN:
            self._move("release")
            self._give_room_back()

    def _give_room_back(self) -> None:
        """Have the journal, which is complete, take no more space than its lines do.

        Nothing is lost if that is refused, or by a power cut, so that it waits for no disk: zeros
        behind the last line count for nothing.
        """
        if self._tail.room > self._tail.size:
            with contextlib.suppress(OSError):
                self._tail.cut()
