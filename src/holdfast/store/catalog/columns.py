"""A table in a file, column by column: who needs the names of 100,000 rows reads only those.

One line for every column, under a checksum of its own. Where each stands is kept elsewhere.
"""

from pathlib import Path
from typing import Any

from holdfast.store.files import Files
from holdfast.store.lines import decode, encode
from holdfast.store.place import Opened

__all__ = ["Columns", "DamagedIndexError", "Rows", "encode_all"]

Columns = dict[str, list[Any]]


class DamagedIndexError(Exception):
    """The index cannot be believed. Look again with `Index(…, believe=False)`."""


def encode_all(columns: Columns) -> tuple[list[bytes], dict[str, Any]]:
    """A file of *columns*, all of one length, and what `Rows` has to know of it."""
    parts: list[bytes] = []
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    count = 0
    for name, values in columns.items():
        count = len(values)
        # Most columns of most tables say nothing: nobody gave names, nothing failed.
        if values.count(None) < count:
            line = encode({name: values})
            places[name] = offset, len(line)
            parts.append(line)
            offset += len(line)
    return parts, {"count": count, "columns": places}


class Rows:
    """The columns of a file, each read and checked when it is asked for.

    Attributes:
        where: What says where they are: `file`, and what `encode_all` returned.
        count: Number of rows.
    """

    def __init__(self, files: Files, where: dict[str, Any], folder_fd: int) -> None:
        """Open the file that *where* tells of. Raises OSError."""
        self.where = where
        self.count: int = where["count"]
        self._files = files
        fd = files.open_read(where["file"], folder_fd)
        self._file = Opened(files, Path(where["file"]), fd)
        self._columns: Columns = {}

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def column(self, name: str) -> list[Any]:
        """The values of a column. Raises DamagedIndexError."""
        if name not in self._columns:
            self._columns[name] = self._decode(name)
        return self._columns[name]

    def _decode(self, name: str) -> list[Any]:
        if name not in self.where["columns"]:
            return [None] * self.count
        offset, size = self.where["columns"][name]
        try:
            plain = decode(self._files.read(self._file.fd, size, offset).removesuffix(b"\n"))
        except OSError as err:
            raise DamagedIndexError(name) from err
        if plain is None or len(plain.get(name, ())) != self.count:
            raise DamagedIndexError(name)
        values: list[Any] = plain[name]
        return values
