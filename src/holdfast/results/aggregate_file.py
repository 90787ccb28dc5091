"""Reading `aggregate.json`: as a whole if it is small, a row at a time if it is not."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import attrs

from holdfast.results import acceptance, rows
from holdfast.results.outline import Outline, outline
from holdfast.store import strictjson
from holdfast.store.files import Files

__all__ = ["NotJsonError", "read"]

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


class NotJsonError(ValueError):
    """What is in the file is no JSON; as the end of a sentence."""


def read(path: Path, fd: int) -> Any:
    """The value in the file *fd*, which lies at *path*.

    Raises:
        NotJsonError: It has none.
        ValueError: It is no regular file, or too large; as the end of a sentence.
        OSError: It cannot be read.
    """
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
        raise NotJsonError(str(err)) from err


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
                raise NotJsonError(f"value: {err}") from err
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
                raise NotJsonError(f"row {len(made)}: {err}") from err
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
