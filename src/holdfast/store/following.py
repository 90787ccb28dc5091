"""A journal read on from where the last look ended: what watching costs goes by what was appended.

It is for who looks again and again. Whatever is not plainly more of the same journal is left to
`journal`, which reads all of it: a new epoch, a line that was taken back, damage.
"""

import contextlib
from typing import Final

from holdfast.errors import StateCorruptError
from holdfast.store import journal
from holdfast.store.journal import Truth
from holdfast.store.lines import Changed, Step, decode, parse
from holdfast.store.place import JOURNALS, Opened, Place

__all__ = ["Follower"]

_A_READ: Final = 1 << 16
#: Bytes before the place where a look ended that must still be there: no two lines have the same.
_MARK: Final = 256


class Follower:
    """Follows the journal of one experiment."""

    def __init__(self) -> None:
        """Follow nothing yet."""
        self._truth: Truth | None = None
        self._file: tuple[int, int] = (0, 0)
        self._mark = b""

    def begin(self, place: Place, truth: Truth) -> None:
        """Follow the journal of which all up to *truth* was read."""
        self._truth = None
        if not truth.epoch or truth.deleted:
            return
        with contextlib.suppress(OSError), _opened(place, truth) as file:
            info = file.files.fstat(file.fd)
            self._file = info.st_dev, info.st_ino
            start = max(0, truth.offset - _MARK)
            self._mark = file.files.read(file.fd, truth.offset - start, start)
            if self._mark.endswith(b"\n"):
                self._truth = truth

    def look(self, place: Place) -> Truth | None:
        """What the journal tells by now; None where only reading all of it tells."""
        if self._truth is None:
            return None
        found = None
        with contextlib.suppress(OSError, StateCorruptError):
            found = self._further(place, self._truth)
        self._truth = found
        return found

    def _further(self, place: Place, truth: Truth) -> Truth | None:
        with _opened(place, truth) as file:
            info = file.files.fstat(file.fd)
            start = truth.offset - len(self._mark)
            if (info.st_dev, info.st_ino) != self._file:
                return None
            data = file.files.read(file.fd, _A_READ, start)
            if not data.startswith(self._mark):
                return None
            # Behind the lines there may be zeros, never among them.
            while len(data) % _A_READ == 0 and data and data[-1]:
                more = file.files.read(file.fd, _A_READ, start + len(data))
                if not more:
                    break
                data += more
            added = data[len(self._mark) : data.rfind(b"\n") + 1]
            if added:
                truth = _folded(truth, added, place)
                self._mark = (self._mark + added)[-_MARK:]
        return truth


def _opened(place: Place, truth: Truth) -> Opened:
    """The journal of *truth*, as long as it is the highest. Raises OSError."""
    folder = place.open_folder()
    if folder is None:
        raise FileNotFoundError(place.folder)
    with folder, folder.open_dir(JOURNALS) as journals:
        if journal.epochs(journals.names())[-1:] != [truth.epoch]:
            raise FileNotFoundError(journals.path)
        return journals.open_read(journal.file_name(truth.epoch))


def _folded(truth: Truth, added: bytes, place: Place) -> Truth:
    """*truth* and the lines that were *added* to it.

    Raises:
        StateCorruptError: One of them is none, or is more than changes.
    """
    path = place.folder / JOURNALS / journal.file_name(truth.epoch)
    steps: list[Step] = []
    for line in added.splitlines():
        payload = decode(line)
        step = None if payload is None else parse(payload, path)
        if not isinstance(step, Changed):
            raise StateCorruptError(path, "has a line that is no change")
        steps.append(step)
    return journal.continued(truth, steps, path, truth.offset + len(added))
