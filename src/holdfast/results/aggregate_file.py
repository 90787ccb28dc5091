"""`aggregate.json`: written durably, read as a whole if it is small, else a row at a time."""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import attrs

from holdfast.errors import StateCorruptError, StateWriteError, cause
from holdfast.results import acceptance, rows
from holdfast.results.going_on import GoingOn, always, check
from holdfast.results.outline import Outline, outline
from holdfast.store import strictjson
from holdfast.store.files import Files

__all__ = ["FILE_NAME", "SCHEMA", "encoded", "read", "write"]

SCHEMA: Final = "holdfast.aggregate/1"
FILE_NAME: Final = "aggregate.json"
#: What is written at once.
_PART: Final = 1 << 20

#: Read as a whole up to here.
_SMALL: Final = 16 << 20
_BLOCK: Final = 4096
#: What is not written in lines as we do it is read as a whole up to here.
_SIZE_LIMIT: Final = 512 << 20

_BEGIN: Final = b' "rows": [\n'
_END: Final = (b" ],\n", b" ]\n")
_VALUE: Final = b' "value": '

# A result may be as deep as any JSON; in the aggregate it is three levels further down.
_DEPTH: Final = strictjson.MAX_DEPTH + 3


def write(
    folder: Path,
    aggregate: Mapping[str, Any],
    going_on: GoingOn = always,
    *,
    files: Files | None = None,
) -> Path:
    """Make *aggregate* the whole content of `aggregate.json`; durable once it returns.

    Raises:
        StateWriteError: The file system refused. An older one is still there.
        GaveUpError: It was not to go on; likewise.
    """
    files = files or Files()
    path = folder / FILE_NAME
    now = "old"
    try:
        name = f".tmp-{secrets.token_hex(8)}"
        with files.directory(folder) as parent:
            try:
                fd = files.open_append(name, parent, exclusive=True)
                try:
                    for part in encoded(aggregate, going_on):
                        files.write_all(fd, part)
                    files.fsync(fd)
                finally:
                    files.close(fd)
                files.rename(name, FILE_NAME, parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    files.unlink(name, parent)
                raise
            now = "unknown"
            # The directory too: a power cut could take the rename back.
            files.fsync(parent)
    except OSError as err:
        raise StateWriteError.of(path, "writing", err, stored=now) from err
    return path


def read(folder: Path) -> Mapping[str, Any] | None:
    """The stored aggregate; None if there is none yet.

    Raises:
        StateCorruptError: The file does not hold one.
    """
    path = folder / FILE_NAME
    remake = ("aggregate", folder.name)
    try:
        with Files().directory(folder) as parent:
            fd = Files().open_read(FILE_NAME, parent)
            try:
                value = _value(path, fd)
            finally:
                Files().close(fd)
    except FileNotFoundError:
        return None
    except OSError as err:
        # What may not be looked at, or not now, is not to be removed for that.
        wrong = err.errno not in (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE)
        problem = f"cannot be read: {cause(err)}"
        raise StateCorruptError(path, problem, remake if wrong else ()) from err
    except ValueError as err:
        raise StateCorruptError(path, str(err), remake) from err
    if not isinstance(value, Mapping) or value.get("schema") != SCHEMA:
        raise StateCorruptError(path, f"is not an aggregate in schema {SCHEMA}", remake)
    return value


def encoded(aggregate: Mapping[str, Any], going_on: GoingOn) -> Iterator[bytes]:
    """The aggregate as JSON, in parts of about a megabyte."""
    held: list[bytes] = []
    size = 0
    for text in _texts(aggregate):
        held.append(text.encode("utf-8", "surrogatepass"))
        size += len(held[-1])
        if size >= _PART:
            check(going_on)
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _texts(aggregate: Mapping[str, Any]) -> Iterator[str]:
    # A row per line: for people and `grep`, and ten times faster than json's own indenting.
    encode = json.JSONEncoder(allow_nan=False).encode
    before = "{\n"
    for key in aggregate:
        yield f"{before} {encode(key)}: "
        before = ",\n"
        if key == "rows" and aggregate[key]:
            comma = "[\n  "
            for row in rows.encoded(aggregate[key]):
                yield comma
                yield row
                comma = ",\n  "
            yield "\n ]"
        elif key == "statistics" and aggregate[key]:
            numbers = aggregate[key].items()
            fields = (f"{encode(field)}: {encode(each)}" for field, each in numbers)
            yield "{\n  " + ",\n  ".join(fields) + "\n }"
        else:
            yield rows.encoded_member(aggregate, key)
    yield "\n}\n"


def _value(path: Path, fd: int) -> Any:
    """The value in the file *fd*. Raises OSError, or ValueError with the end of a sentence."""
    if os.fstat(fd).st_size > _SMALL:
        # A gigabyte of something else is not read to the end to be told so.
        if not os.pread(fd, _BLOCK, 0).lstrip().startswith(b"{"):
            raise ValueError("does not begin with a JSON object")
        with os.fdopen(os.dup(fd), "rb") as file:
            found = _by_line(path, file)
        if found is not None:
            return found
    data = Files().read_whole(fd, _SIZE_LIMIT)
    try:
        return strictjson.loads(data, max_depth=_DEPTH)
    except ValueError as err:
        raise ValueError(f"is not valid JSON: {err}") from err


def _by_line(path: Path, file: IO[bytes]) -> Mapping[str, Any] | None:
    """The aggregate, with rows and a value that are read again when they are asked for.

    None if it is not written in lines as we do it.
    """
    rest: list[bytes] = []
    made: list[Any] = []
    kept = 0
    value: tuple[Outline, Callable[[], str]] | None = None
    while line := file.readline():
        rest.append(line)
        if line.startswith(_VALUE) and len(line) >= acceptance.LARGE:
            text = line.removeprefix(_VALUE).strip().removesuffix(b",")
            at = file.tell() - len(line) + len(_VALUE)
            try:
                seen = outline(text, max_depth=_DEPTH)
            except ValueError as err:
                raise ValueError(f"is not valid JSON: value: {err}") from err
            again = _again(path, os.fstat(file.fileno()).st_ino, at, len(text))
            value = attrs.evolve(seen, text=""), again
            rest[-1] = _VALUE + b"null" + line[len(_VALUE) :].strip()[len(text) :]
        if line != _BEGIN:
            continue
        rest[-1] = line[:-1]
        while (line := file.readline()) and line not in _END:
            row = line.strip().removesuffix(b",")
            if not row.startswith(b"{"):
                return None
            try:
                if len(line) < acceptance.LARGE and kept + len(line) <= rows.MOST_KEPT:
                    kept += len(line)
                    made.append(strictjson.loads(row, max_depth=_DEPTH))
                else:
                    at = file.tell() - len(line)
                    again = _again(path, os.fstat(file.fileno()).st_ino, at, len(line))
                    made.append(rows.stored(outline(row, max_depth=_DEPTH), again))
            except ValueError as err:
                raise ValueError(f"is not valid JSON: row {len(made)}: {err}") from err
        rest.append(line)
    try:
        found = strictjson.loads(b"".join(rest), max_depth=_DEPTH)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("rows") != []:
        return None
    found["rows"] = rows.Rows(made)
    return found if value is None else rows.with_value(found, value[0], rows.reading(*value))


def _again(path: Path, inode: int, at: int, size: int) -> Callable[[], str]:
    def read_again() -> str:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_ino != inode:
                raise OSError(f"{path} was written anew while it was read")
            file.seek(at)
            return file.read(size).decode().strip().removesuffix(",")

    return read_again
