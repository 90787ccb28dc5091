"""The lines of a journal, one typed union: written and read here, and nowhere else.

A line is `crc32 json`. The first is the `Claimed` of its owner, the second the `Base`: the state
that it took over. Every one after them is a `Step`. What a line says is parsed when it is asked
for: most readers need a few of them only.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from holdfast.errors import InvalidRequestError, StateCorruptError
from holdfast.identity import ProcessIdentity
from holdfast.lifecycle.changes import Change
from holdfast.lifecycle.records import ExperimentState
from holdfast.store.decoding import change_from_json, identity_from_json, state_from_json
from holdfast.store.encoding import (
    Json,
    change_to_text,
    dumps,
    identity_to_json,
    state_to_text,
)
from holdfast.store.strictjson import decode_blindly

__all__ = [
    "Base",
    "Changed",
    "Claimed",
    "Deleted",
    "Line",
    "Saved",
    "Step",
    "base",
    "body",
    "changed",
    "claimed",
    "decode",
    "deleted",
    "encode",
    "parse",
    "saved",
]

R = TypeVar("R")


# -- under a checksum -----------------------------------------------------------------------------


def _seal(text: str) -> bytes:
    data = text.encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(data), data)


def encode(payload: Mapping[str, Any]) -> bytes:
    """*payload* as one line under its checksum."""
    return _seal(dumps(payload))


def decode(line: bytes) -> Json | None:
    """What `encode` made *line* of (without its end); None if it made none of it."""
    data = body(line)
    if data is None:
        return None
    try:
        payload = decode_blindly(data.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def body(line: bytes) -> bytes | None:
    """What follows the checksum; None if the checksum says otherwise."""
    data = line[9:]
    return data if line[:9] == b"%08x " % zlib.crc32(data) else None


# -- what is written ------------------------------------------------------------------------------


def claimed(owner: ProcessIdentity, at: datetime, *, compacts: int | None = None) -> bytes:
    """The line of a new *owner*; *compacts*: the epoch that it was the owner of before."""
    line: Json = {"kind": "claim", "at": at.isoformat(), "owner": identity_to_json(owner)}
    if compacts is not None:
        line["compacts"] = compacts
    return encode(line)


def base(state: ExperimentState, at: datetime, *, epoch: int, offset: int) -> bytes:
    """The line of the *state* that was taken over, read off the journal of *epoch* up to *offset*.

    History ends that journal there: a late line behind it counts for nothing. Epoch 0 is the view.
    """
    source = f'{{"epoch":{epoch},"offset":{offset}}}' if epoch else "null"
    said = f'{{"kind":"base","at":"{at.isoformat()}","from":{source}'
    return _seal(f'{said},"state":{state_to_text(state)}}}')


def changed(changes: Sequence[Change], revision: int) -> bytes:
    """The line of *changes* that were made together, which lead to *revision*."""
    at = changes[-1].at
    said = f'{{"kind":"changes","revision":{revision},"at":"{at.isoformat()}"'
    return _seal(f'{said},"changes":[{_told(changes, at)}]}}')


def saved(state: ExperimentState, changes: Sequence[Change], at: datetime) -> bytes:
    """The line of a *state* that was saved whole, and of the transitions in it."""
    said = f'{{"kind":"saved","revision":{state.revision},"at":"{at.isoformat()}"'
    told = _told(changes, at)
    return _seal(f'{said},"changes":[{told}],"state":{state_to_text(state)}}}')


def _told(changes: Sequence[Change], at: datetime) -> str:
    try:
        return ",".join([change_to_text(change, at) for change in changes])
    except (TypeError, ValueError) as err:
        # Before a byte of it is written: whoever records is as good as before.
        raise InvalidRequestError("step", f"cannot be written as JSON: {err}") from err


def deleted(revision: int, at: datetime) -> bytes:
    """The line after which the experiment counts as not found."""
    return encode({"kind": "deleted", "revision": revision, "at": at.isoformat()})


# -- what is read ---------------------------------------------------------------------------------


class Line:
    """One valid line of the journal at *path*. What it should say and does not is an error.

    Raises:
        StateCorruptError: By every property.
    """

    kind: ClassVar[str]
    __slots__ = ("path", "plain")

    def __init__(self, plain: Json, path: Path) -> None:
        """*plain* is what the line says, as JSON types."""
        self.plain = plain
        self.path = path

    def _tell(self, read: Callable[[Json], R]) -> R:
        try:
            return read(self.plain)
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            revision = self.plain.get("revision")
            which = f"{self.kind} line" + ("" if revision is None else f" of revision {revision}")
            raise StateCorruptError(self.path, f"its {which} is damaged: {err!r}") from err

    @property
    def at(self) -> datetime:
        """When it was recorded."""
        return self._tell(lambda plain: datetime.fromisoformat(plain["at"]))


class Claimed(Line):
    """The first: who owns the epoch."""

    kind = "claim"
    __slots__ = ()

    @property
    def owner(self) -> ProcessIdentity:
        """Who made it."""
        return self._tell(lambda plain: identity_from_json(plain["owner"]))

    @property
    def compacts(self) -> bool:
        """Whether its owner owned the epoch before, too, and only went on in a shorter journal."""
        return "compacts" in self.plain


class Base(Line):
    """The second: the state that was taken over."""

    kind = "base"
    __slots__ = ()

    @property
    def state(self) -> ExperimentState:
        """The whole of it."""
        return state_from_json(self.plain.get("state"), self.path)

    @property
    def status(self) -> str:
        """Its status alone."""
        return self._tell(lambda plain: str(plain["state"]["status"]))

    @property
    def source(self) -> tuple[int, int] | None:
        """The epoch that was folded, and up to which offset; None for the view."""
        found = self.plain.get("from")
        if found is None:
            return None
        if isinstance(found, dict):
            epoch, offset = found.get("epoch"), found.get("offset")
            if type(epoch) is int and type(offset) is int:
                return epoch, offset
        raise StateCorruptError(self.path, "its base does not say what it continues")


class Step(Line):
    """One acknowledged step."""

    kind = "unknown"
    __slots__ = ()

    @property
    def name(self) -> str:
        """The kind that it says it is of, whether this version knows that or not."""
        return f"{self.plain.get('kind')!r:.40}"

    @property
    def revision(self) -> Any:
        """The revision that it leads to, judged by whoever folds."""
        return self.plain.get("revision")

    @property
    def changes(self) -> list[Change]:
        """What changed, in its order."""

        def read(plain: Json) -> list[Change]:
            at = datetime.fromisoformat(plain["at"])
            return [change_from_json(change, at) for change in plain.get("changes", ())]

        return self._tell(read)

    def moves(self) -> bool:
        """Whether the revision grows by it."""
        return True


class Changed(Step):
    """Some changes that were made together."""

    kind = "changes"
    __slots__ = ()

    def moves(self) -> bool:
        """Whether it says more than that the owner let go."""
        changes = self.plain.get("changes")
        return not isinstance(changes, list) or not all(
            isinstance(each, dict) and each.get("event") == "released" for each in changes
        )


class Saved(Step):
    """A state that was saved whole, with the changes that lead to it."""

    kind = "saved"
    __slots__ = ()

    @property
    def state(self) -> ExperimentState:
        """The whole of it."""
        return state_from_json(self.plain.get("state"), self.path)


class Deleted(Step):
    """The last one: from here on there is no experiment."""

    kind = "deleted"
    __slots__ = ()

    def moves(self) -> bool:
        """No."""
        return False


_KINDS: Final = {each.kind: each for each in (Claimed, Base, Changed, Saved, Deleted)}


def parse(plain: Json, path: Path) -> Line:
    """The line that says *plain*, a bare `Step` if its kind is unknown; *path* is its journal."""
    kind = plain.get("kind")
    return _KINDS.get(kind if isinstance(kind, str) else "", Step)(plain, path)
