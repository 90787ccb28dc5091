"""What others ask of the owner of an experiment: files beside its journals, which it looks for.

`stop.<epoch>`, then `stop.<epoch>.2` and so on: whoever comes next takes the next number, and
nobody rewrites or removes one. Void for a later owner. Not synced: a power cut ends the run, too.
"""

import contextlib
import math
import os
import re
from datetime import UTC, datetime
from typing import Any, Final, Literal

import attrs

from holdfast import liveness
from holdfast.errors import StateWriteError
from holdfast.identity import ProcessIdentity
from holdfast.store import journal, strictjson
from holdfast.store.decoding import identity_from_json
from holdfast.store.encoding import dumps, identity_to_json
from holdfast.store.place import JOURNALS, Opened, Place
from holdfast.store.view import temporary_name

__all__ = ["NAME", "Inbox", "StopRequest", "publish", "read"]

#: Of a request: the epoch of the owner that it is for, and its number where it is not the first.
NAME: Final = re.compile(r"stop\.([0-9]{1,12})(?:\.([0-9]{1,6}))?")

#: Of a file that somebody else may have put there.
_MOST_BYTES: Final = 1 << 20
_LONGEST_S: Final = 100 * 365 * 86_400.0
_LONGEST_NAME: Final = 300
_MOST_PROCESSES: Final = 1 << 24


@attrs.frozen(kw_only=True)
class StopRequest:
    """Somebody wants what runs of an experiment to stop.

    Attributes:
        level: Within the grace period, or at once.
        grace_s: Instead of the grace period that was configured; None leaves it.
        only: Of these processes, which stay pending then; None for all that there is.
        by: Who asks.
        at: When.
    """

    level: Literal["stop", "kill"] = "stop"
    grace_s: float | None = None
    only: tuple[int, ...] | None = None
    by: ProcessIdentity = attrs.field(factory=ProcessIdentity)
    at: datetime | None = None

    @property
    def force(self) -> bool:
        """Whether nothing is to be waited for."""
        return self.level == "kill"


def publish(place: Place, request: StopRequest) -> int:
    """Ask the owner that there is at this moment; its epoch, 0 where nobody has ever claimed it.

    Raises:
        StateWriteError: The file system refused.
    """
    path = place.folder / "stop"
    try:
        with place.top.open_dir(place.stem) as folder:
            with folder.open_dir(JOURNALS) as journals:
                # Also of one that is about to be the owner and has no base yet.
                epoch = max(journal.epochs(journals.names()), default=0)
            path = folder.path / f"stop.{epoch}"
            _link(folder, path.name, _encoded(request))
    except FileNotFoundError:
        return 0  # another tool's, or by hand: who owns that looks for no request
    except OSError as err:
        raise StateWriteError.of(path, "asking its owner", err) from err
    return epoch


def _encoded(request: StopRequest) -> bytes:
    content = {
        "level": request.level,
        "grace_s": request.grace_s,
        "only": None if request.only is None else list(request.only),
        "by": identity_to_json(liveness.me()),
        "at": datetime.now(UTC).isoformat(),
    }
    return dumps(content).encode("ascii")


def _link(folder: Opened, first: str, content: bytes) -> None:
    """Make *content* the file *first*, or the next that is free. Raises OSError."""
    files, temporary = folder.files, temporary_name()
    fd = files.open_new(temporary, folder.fd)
    try:
        files.write_all(fd, content)
        number, name = 1, first
        while True:
            try:
                files.link(temporary, name, folder.fd)
            except FileExistsError:
                # The answer to a link that succeeded can be lost on NFS: the inode tells.
                if os.path.samestat(files.fstat(fd), files.stat(name, folder.fd)):
                    return
                number += 1
                name = f"{first}.{number}"
            else:
                return
    finally:
        files.close(fd)
        with contextlib.suppress(OSError):
            files.unlink(temporary, folder.fd)


def read(folder: Opened, name: str) -> StopRequest:
    """The request in the file *name*.

    Raises:
        OSError: It cannot be read at this moment, or is no file.
        ValueError: It holds no request; as the end of a sentence.
    """
    with folder.open_read(name) as file:
        data = folder.files.read_whole(file.fd, _MOST_BYTES)
    plain = strictjson.loads(data)
    if not isinstance(plain, dict):
        raise ValueError("holds no request")
    level, only, at = plain.get("level"), plain.get("only"), plain.get("at")
    if level not in ("stop", "kill"):
        raise ValueError("asks for neither `stop` nor `kill`")
    return StopRequest(
        level=level,
        grace_s=_grace(plain.get("grace_s")),
        only=None if only is None else tuple(map(_index, only if type(only) is list else [only])),
        by=_who(plain.get("by")),
        at=None if at is None else _time(at),
    )


def _grace(plain: Any) -> float | None:
    if plain is None:
        return None
    if type(plain) not in (int, float) or not 0 <= plain <= _LONGEST_S or math.isnan(plain):
        raise ValueError("has a grace period that is none")
    return float(plain)


def _index(plain: Any) -> int:
    if type(plain) is not int or not 0 <= plain < _MOST_PROCESSES:
        raise ValueError("names processes that can be none")
    return plain


def _who(plain: Any) -> ProcessIdentity:
    found = identity_from_json(plain or {})
    # It is shown, and recorded.
    if len(str(found)) > _LONGEST_NAME:
        raise ValueError("names nobody")
    return found


def _time(plain: Any) -> datetime:
    found = datetime.fromisoformat(plain) if isinstance(plain, str) else None
    if found is None or found.tzinfo is None:
        raise ValueError("says no time")
    return found


class Inbox:
    """The requests to one owner, each given out once."""

    def __init__(self, folder: Opened, epoch: int) -> None:
        """Look into *folder* for what is meant for the owner that claimed *epoch* at first."""
        self._folder = folder
        self._since = epoch
        self._seen: set[str] = set()

    def look(self) -> list[StopRequest]:
        """What came since the last look, in the order of the files; garbage is passed over.

        Raises:
            OSError: The folder cannot be looked into at this moment.
        """
        files = self._folder.files
        # Opened anew: that makes a client of NFS ask the server what is there by now.
        with files.directory(".", self._folder.fd) as fd:
            names = files.names(fd)
        found = []
        for name in names:
            if name.startswith("stop.") and name not in self._seen:
                parts = NAME.fullmatch(name)
                # An owner begins new epochs itself when its journal grows: they mean it, too.
                if parts is None or int(parts[1]) < self._since:
                    self._seen.add(name)
                else:
                    found.append((int(parts[1]), int(parts[2] or 1), name))
        return [request for *_, name in sorted(found) if (request := self._taken(name)) is not None]

    def _taken(self, name: str) -> StopRequest | None:
        request = None
        try:
            with contextlib.suppress(ValueError):
                request = read(self._folder, name)
        except OSError:
            return None  # tried again at the next look
        self._seen.add(name)
        return request
