"""Tags and the note of an experiment: what people say about it, which is no part of its record.

Anybody may set them while somebody else owns the experiment: one small file for each annotated one,
`.annotations/<stem>.json`, replaced whole under a lock that all writers share, and removed with the
experiment. A file says which experiment it is about and when that was created, so that a later one
of the same name has none of its tags, whatever a crash or a power cut leaves.
"""

import contextlib
import json
import re
import time
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.errors import HoldfastError, StateCorruptError, StateWriteError, cause
from holdfast.ids import sanitize_experiment_id
from holdfast.lifecycle.records import ExperimentState
from holdfast.store import strictjson
from holdfast.store.catalog.summary import Summary
from holdfast.store.place import Opened, Place
from holdfast.store.view import put

__all__ = [
    "FOLDER",
    "LOCK_NAME",
    "NONE",
    "About",
    "Annotated",
    "Annotations",
    "about",
    "all_of",
    "change",
    "checked_tag",
    "locked",
    "of",
    "remove",
]

FOLDER: Final = ".annotations"
LOCK_NAME: Final = ".lock"
SCHEMA: Final = "holdfast.annotations/1"

MOST_TAGS: Final = 100
LONGEST_NOTE: Final = 10_000
# Every tag and a note of the longest, escaped, are shorter.
_LIMIT: Final = 1 << 18
_PATIENCE_S: Final = 10.0

#: Words that no shell, table or comma-separated list takes apart.
_TAG: Final = r"[^\W_][\w.:/@+=-]{0,63}"


class Annotations(NamedTuple):
    """What people say about one experiment.

    Attributes:
        tags: Sorted; each once.
        note: None if there is none.
    """

    tags: tuple[str, ...] = ()
    note: str | None = None


NONE: Final = Annotations()


class About(NamedTuple):
    """Which experiment is meant: its id and when it was created tell it from former ones."""

    experiment_id: str
    created_at: datetime | None


def about(state: ExperimentState | Summary) -> About:
    """Which experiment *state* is of."""
    return About(state.experiment_id, state.created_at)


class Annotated(NamedTuple):
    """What is said about all experiments.

    Attributes:
        found: By whom it is about; only those that something is said about.
        unreadable: Files of which that cannot be told, each with its error.
    """

    found: Mapping[About, Annotations]
    unreadable: Sequence[tuple[Path, HoldfastError]]

    def of(self, state: ExperimentState | Summary) -> Annotations:
        """What is said about the experiment that *state* is of."""
        if not self.found:
            return NONE
        return self.found.get(About(state.experiment_id, state.created_at), NONE)


def checked_tag(tag: str) -> str:
    """*tag* as it is stored. Raises ValueError: it can be none."""
    composed = unicodedata.normalize("NFC", tag)
    if re.fullmatch(_TAG, composed) is None:
        raise ValueError(
            f"{tag!r} is not a tag: write up to 64 letters, digits and . _ : / @ + = - without "
            f"spaces, a letter or digit first"
        )
    return composed


# -- reading --------------------------------------------------------------------------------------


def of(place: Place, whom: About) -> Annotations:
    """What is said about the experiment there, if it is *whom*.

    Raises:
        StateCorruptError: The file cannot be read, or is none of ours; it is left as it is.
    """
    folder = _folder(place.top)
    if folder is None:
        return NONE
    with folder:
        found = _read(folder, place.view_name)
    return found[1] if found is not None and found[0] == whom else NONE


def all_of(top: Opened) -> Annotated:
    """What is said about any experiment: a small file for each that something is said about."""
    found: dict[About, Annotations] = {}
    unreadable: list[tuple[Path, HoldfastError]] = []
    try:
        folder = _folder(top)
        if folder is None:
            return Annotated(found, unreadable)
        with folder:
            for name in sorted(folder.names()):
                if name.startswith(".") or not name.endswith(".json"):
                    continue
                try:
                    one = _read(folder, name)
                    found.update([one] if one is not None else [])
                except StateCorruptError as err:
                    unreadable.append((err.path, err))
    except StateCorruptError as err:
        unreadable.append((err.path, err))
    except OSError as err:
        path = top.path / FOLDER
        unreadable.append((path, StateCorruptError(path, f"cannot be read: {cause(err)}")))
    return Annotated(found, unreadable)


def _folder(top: Opened) -> Opened | None:
    """The folder of all annotations; None if there is none. Raises StateCorruptError."""
    try:
        return top.open_dir(FOLDER)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise StateCorruptError(top.path / FOLDER, f"cannot be opened: {cause(err)}") from err


def _read(folder: Opened, name: str) -> tuple[About, Annotations] | None:
    """What the file *name* says, and about whom; None if it is gone. Raises StateCorruptError."""
    path = folder.path / name
    try:
        opened = folder.open_read(name)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise StateCorruptError(path, f"cannot be opened: {cause(err)}") from err
    with opened:
        try:
            plain = strictjson.loads(folder.files.read_whole(opened.fd, _LIMIT), max_depth=3)
            whom, said = _understood(plain)
            if f"{sanitize_experiment_id(whom.experiment_id)}.json" != name:
                raise ValueError(f"is about another experiment, {whom.experiment_id!r}")
        except OSError as err:
            raise StateCorruptError(path, f"cannot be read: {cause(err)}") from err
        except (ValueError, HoldfastError) as err:
            raise StateCorruptError(path, f"holds no annotations: {err}") from err
    return whom, said


def _understood(plain: object) -> tuple[About, Annotations]:
    """Raises ValueError: what is wrong with it."""
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    experiment_id, created, tags, note = map(
        plain.get, ("experiment_id", "created_at", "tags", "note")
    )
    if not isinstance(experiment_id, str) or not isinstance(created, str | None):
        raise ValueError("it does not say what it is about")
    if not isinstance(tags, list) or not isinstance(note, str | None):
        raise ValueError("tags are a list, and the note is a text")
    if len(tags) > MOST_TAGS or any(
        not isinstance(tag, str) or checked_tag(tag) != tag for tag in tags
    ):
        raise ValueError("not all of its tags can be tags")
    at = None if created is None else datetime.fromisoformat(created)
    if at is not None and at.tzinfo is None:
        raise ValueError("created_at has no time zone")
    return About(experiment_id, at), Annotations(tuple(sorted(set(tags))), note or None)


# -- writing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(top: Opened) -> Iterator[Opened]:
    """The folder of all annotations, made if missing, while nobody else changes any.

    Where the file system has no locks, the later of two writers at one moment counts.

    Raises:
        StateWriteError: It cannot be made, or somebody else keeps it for very long.
    """
    from holdfast.store import locking

    path = top.path / FOLDER
    with contextlib.ExitStack() as opened:
        try:
            with contextlib.suppress(FileExistsError):
                top.files.mkdir(FOLDER, top.fd)
            # Even if it was there: who made it may have been killed before this step.
            top.files.fsync(top.fd)
            folder = opened.enter_context(top.open_dir(FOLDER))
            lock = opened.enter_context(locking.open_shared_lock(folder, LOCK_NAME))
            deadline = time.monotonic() + _PATIENCE_S
            while locking.try_lock(lock) is False:
                if time.monotonic() > deadline:
                    held = f"somebody else held it for more than {_PATIENCE_S:.0f} s"
                    raise StateWriteError(path / LOCK_NAME, "locking", held, advice="wait for it")
                locking.pause()
        except OSError as err:
            raise StateWriteError.of(path, "opening", err) from err
        yield folder


def change(
    folder: Opened,
    stem: str,
    whom: About,
    *,
    add: Iterable[str] = (),
    remove: Collection[str] = (),
    note: str | None = None,
) -> Annotations:
    """Change what is said about the experiment *whom*, under the lock; durable once it returns.

    Args:
        stem: The name of its folder.
        note: None leaves it as it is, an empty text removes it.

    Raises:
        StateCorruptError: What is there cannot be read; it is left as it is.
        StateWriteError: The file system refused; what was there is there.
        ValueError: Too many tags, one that can be none, or too long a note.
    """
    name = f"{stem}.json"
    found = _read(folder, name)
    before = found[1] if found is not None and found[0] == whom else NONE
    tags = {*before.tags, *map(checked_tag, add)} - {*map(checked_tag, remove)}
    after = Annotations(tuple(sorted(tags)), before.note if note is None else _checked(note))
    if len(tags) > MOST_TAGS:
        raise ValueError(f"no more than {MOST_TAGS} tags")
    try:
        if after == NONE:
            with contextlib.suppress(FileNotFoundError):
                folder.files.unlink(name, folder.fd)
                folder.files.fsync(folder.fd)
        elif found is None or found != (whom, after):
            put(folder, name, _content(whom, after))
    except OSError as err:
        raise StateWriteError.of(folder.path / name, "writing", err) from err
    return after


def _checked(note: str) -> str | None:
    if len(note) > LONGEST_NOTE:
        raise ValueError(f"a note of {len(note):,} characters; at most {LONGEST_NOTE:,}")
    return note.strip() or None


def _content(whom: About, said: Annotations) -> bytes:
    created = None if whom.created_at is None else whom.created_at.astimezone(UTC).isoformat()
    plain = {
        "schema": SCHEMA,
        "experiment_id": whom.experiment_id,
        "created_at": created,
        "tags": said.tags,
        "note": said.note,
    }
    return json.dumps(plain, indent=1).encode() + b"\n"


def remove(place: Place) -> None:
    """Let what is said about the experiment there go with it. Never fails.

    What stays after all is about an experiment that is no more, which nobody takes for another.
    """
    with contextlib.suppress(OSError), place.top.open_dir(FOLDER) as folder:
        place.files.unlink(place.view_name, folder.fd)
