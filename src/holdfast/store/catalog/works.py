"""Who completed which work: an index of the works of finished experiments, a part of `index`.

Segments, files that never change, each with what some looks learnt. A segment has

- its records, sorted, all of one width: 8 bytes of the work, the age of its experiment (newest
  first), where the name of the experiment stands; in blocks;
- the names, each under a checksum;
- its fences: the first work of every block, then the checksum of every block.

A query reads the fences and a block or two for every work, and checks what it reads. Small segments
are merged with what is learnt next, so that there are never many.
"""

import struct
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from holdfast.store.catalog.columns import DamagedIndexError
from holdfast.store.files import Files
from holdfast.store.place import Opened

__all__ = ["Doer", "Works", "age"]

#: How old an experiment is, for sorting, and its id.
Doer = tuple[int, str]

_RECORD: Final = struct.Struct(">QQI")
_NAME: Final = struct.Struct(">II")
#: The first work of a block, and its checksum.
_FENCE_SIZE: Final = 8 + 4
_PLACE: Final = struct.Struct(">I")
_WIDTH: Final = _RECORD.size
_BLOCK: Final = 256 * _WIDTH
_PARTS: Final = 16
#: One read gets the name of nearly every experiment.
_NAME_SIZE: Final = 256

#: A segment takes those before it in that have at most so many times its records.
_GROWTH: Final = 4
#: No merge makes more records than this, which takes a second: more segments are quicker then.
_LARGEST: Final = 1 << 20
#: So many forgotten experiments are kept in mind before the segments are written without them.
_FORGOTTEN: Final = 1000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MASK: Final = (1 << 64) - 1


def age(created_at: datetime | None) -> int:
    """The less, the newer; what has no time is the oldest."""
    if created_at is None:
        return _MASK
    return (1 << 63) - (created_at - _EPOCH) // _MICROSECOND


def _key(work: str) -> int:
    try:
        if len(work) != 32:
            raise ValueError(work)
        number = int(work, 16)
    except ValueError:
        # By hand. The longer ones must not all look like their ends.
        number = int.from_bytes(work.encode("utf-8", "surrogatepass"), "big") % ((1 << 127) - 1)
    # Works made by hand may begin, or end, with the same digits: all of them count.
    return (number * 0x9E3779B97F4A7C15F39CC0605CEDC835 >> 64) & _MASK


class _Learnt:
    """Records and names that are not written yet; a place is that of the name."""

    def __init__(self) -> None:
        self.names = bytearray()
        # By the first bits of the work: sorted part by part, a million take 20 MB and not 100.
        self.parts = [bytearray() for _ in range(_PARTS)]

    def __len__(self) -> int:
        """Bytes of all records."""
        return sum(map(len, self.parts))

    def add(self, stem: str, experiment_id: str, created: int, works: Iterable[str]) -> None:
        text = stem if experiment_id == stem else f"{stem}\0{experiment_id}"
        data = text.encode("utf-8", "surrogatepass")
        at = len(self.names)
        self.names += _NAME.pack(zlib.crc32(data), len(data)) + data
        for work in works:
            key = _key(work)
            self.parts[key * _PARTS >> 64] += _RECORD.pack(key, created, at)

    def take(self, segment: "_Segment", void: dict[str, int]) -> None:
        """Add what *segment* has, but what is *void* there."""
        moved: dict[bytes, bytes] = {}
        for at, stem, entry in segment.names():
            if void.get(stem, 0) < segment.age:
                moved[_PLACE.pack(at)] = _PLACE.pack(len(self.names))
                self.names += entry
        for block in segment.blocks():
            for record in _split(block):
                place = moved.get(record[-_PLACE.size :])
                if place is not None:
                    self.parts[record[0] * _PARTS >> 8] += record[: -_PLACE.size] + place

    def encode(self) -> tuple[list[bytes | bytearray], dict[str, Any]]:
        """A file of it, and what `_Segment` has to know of that."""
        records = bytearray()
        for part in self.parts:
            records += b"".join(sorted(_split(bytes(part))))
        starts = range(0, len(records), _BLOCK)
        fences = b"".join(records[at : at + 8] for at in starts)
        checksums = [zlib.crc32(records[at : at + _BLOCK]) for at in starts]
        fences += struct.pack(f">{len(starts)}I", *checksums)
        where = {
            "records": len(records),
            "names": len(self.names),
            "fences": len(fences),
            "checksum": zlib.crc32(fences),
        }
        return [records, self.names, fences], where


def _split(records: bytes) -> list[bytes]:
    return [records[at : at + _WIDTH] for at in range(0, len(records), _WIDTH)]


class _Segment:
    """A segment that is open. Whatever reads raises DamagedIndexError."""

    def __init__(self, files: Files, where: dict[str, Any], folder_fd: int) -> None:
        """Open the file that *where* tells of. Raises OSError: it is gone, replaced maybe."""
        self.age: int = where["age"]
        self._where = where
        self._files = files
        fd = files.open_read(where["file"], folder_fd)
        self._file = Opened(files, Path(where["file"]), fd)
        self._blocks: dict[int, bytes] = {}
        self._names: dict[int, tuple[str, str]] = {}
        try:
            start = where["records"] + where["names"]
            fences = self._read(start, where["fences"], where["checksum"])
        except DamagedIndexError:
            self._file.close()
            raise
        count = len(fences) // _FENCE_SIZE
        # Many times quicker to bisect than what `struct` makes of them.
        self._firsts = array("Q", fences[: 8 * count])
        if sys.byteorder == "little":
            self._firsts.byteswap()
        self._checksums = fences[8 * count :]

    def __enter__(self) -> "_Segment":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def doers(self, key: int, limit: int, void: dict[str, int]) -> list[Doer]:
        """Who did the work of *key*: the *limit* newest, and those as old as the last of them."""
        found: list[Doer] = []
        for created, at in self._matches(key):
            if len(found) >= limit and created != found[-1][0]:
                break
            stem, experiment_id = self._name(at)
            if void.get(stem, 0) < self.age:
                found.append((created, experiment_id))
        return found

    def blocks(self) -> Iterator[bytes]:
        """All records."""
        for at in range(len(self._firsts)):
            yield self._block(at)
            del self._blocks[at]

    def names(self) -> Iterator[tuple[int, str, bytes]]:
        """Where each stands, whose it is, and the whole entry."""
        data = self._bytes(self._where["records"], self._where["names"])
        at = 0
        while at < len(data):
            size = _NAME.size + _NAME.unpack_from(data, at)[1] if at + 8 <= len(data) else 0
            entry = data[at : at + size]
            yield at, _decoded(entry)[0], entry
            at += size

    def _matches(self, key: int) -> Iterator[tuple[int, int]]:
        firsts, wanted = self._firsts, key.to_bytes(8, "big")
        at = max(0, bisect_left(firsts, key) - 1)
        while at < len(firsts) and firsts[at] <= key:
            data = self._block(at)
            row = data.find(wanted)
            while row >= 0:
                # Not what looks like it somewhere between two records.
                if row % _WIDTH == 0:
                    yield _RECORD.unpack_from(data, row)[1:]
                row = data.find(wanted, row + 1)
            at += 1

    def _block(self, at: int) -> bytes:
        if at not in self._blocks:
            checksum = int.from_bytes(self._checksums[4 * at : 4 * at + 4], "big")
            size = min(_BLOCK, self._where["records"] - at * _BLOCK)
            self._blocks[at] = self._read(at * _BLOCK, size, checksum)
        return self._blocks[at]

    def _name(self, at: int) -> tuple[str, str]:
        if at not in self._names:
            size = self._where["names"]
            offset = self._where["records"] + at
            data = self._bytes(offset, min(_NAME_SIZE, size - at))
            length = _NAME.size + _NAME.unpack_from(data)[1] if len(data) >= _NAME.size else 0
            if _NAME_SIZE < length <= size - at:
                data = self._bytes(offset, length)
            self._names[at] = _decoded(data[:length])
        return self._names[at]

    def _read(self, offset: int, size: int, checksum: int) -> bytes:
        data = self._bytes(offset, size)
        if zlib.crc32(data) != checksum:
            raise DamagedIndexError(self._where["file"])
        return data

    def _bytes(self, offset: int, size: int) -> bytes:
        try:
            data = self._files.read(self._file.fd, size, offset)
        except OSError as err:
            raise DamagedIndexError(self._where["file"]) from err
        if len(data) != size:
            raise DamagedIndexError(self._where["file"])
        return data


def _decoded(entry: bytes) -> tuple[str, str]:
    data = entry[_NAME.size :]
    if entry[: _NAME.size] != _NAME.pack(zlib.crc32(data), len(data)):
        raise DamagedIndexError("names")
    stem, _, experiment_id = data.decode("utf-8", "surrogatepass").partition("\0")
    return stem, experiment_id or stem


class Works:
    """All segments, and what is void in them: of experiments that were forgotten since.

    What is void is known by age: a segment of the age at which an experiment was forgotten, or of a
    lower one, says nothing of it any more; what is learnt again is in a segment of a higher age.
    """

    def __init__(self, files: Files, plain: dict[str, Any] | None = None) -> None:
        """*plain* is what `store` returned at the last look."""
        self._files = files
        self._segments: list[dict[str, Any]] = [] if plain is None else plain["segments"]
        self._void: dict[str, int] = {} if plain is None else plain["void"]
        self._learnt: list[_Learnt] = []

    @property
    def names(self) -> list[str]:
        """The files of the segments."""
        return [where["file"] for where in self._segments]

    def check(self, folder_fd: int) -> None:
        """Raise OSError unless every segment is there and of its size."""
        for where in self._segments:
            size = self._files.stat(where["file"], folder_fd).st_size
            if size != where["records"] + where["names"] + where["fences"]:
                raise OSError(where["file"])

    def doers(self, works: Collection[str], limit: int, folder_fd: int) -> dict[str, list[Doer]]:
        """Who did each of *works*, at least the *limit* newest. Raises DamagedIndexError."""
        found: dict[str, list[Doer]] = {work: [] for work in works}
        for where in self._segments:
            try:
                segment = _Segment(self._files, where, folder_fd)
            except OSError as err:
                raise DamagedIndexError(where["file"]) from err
            with segment:
                for work, doers in found.items():
                    doers += segment.doers(_key(work), limit, self._void)
        return found

    def learn(self, stem: str, experiment_id: str, created: int, works: Collection[str]) -> None:
        """Remember that the experiment did *works*."""
        if works:
            if not self._learnt or len(self._learnt[-1]) > _LARGEST * _WIDTH:
                self._learnt.append(_Learnt())
            self._learnt[-1].add(stem, experiment_id, created, works)

    def forget(self, stems: Iterable[str]) -> None:
        """Believe nothing of *stems* any more but what is learnt from now on."""
        if self._segments:
            self._void.update(dict.fromkeys(stems, self._newest))

    @property
    def _newest(self) -> int:
        return max((where["age"] for where in self._segments), default=0)

    def store(
        self, write: Callable[[Iterable[bytes | bytearray]], str], folder_fd: int
    ) -> dict[str, Any]:
        """Write what was learnt by *write*, which returns the name of a new file.

        Raises OSError, DamagedIndexError.
        """
        newest = self._newest + 1
        kept = list(self._segments)
        merged: list[tuple[list[dict[str, Any]], _Learnt]]
        merged = [([], learnt) for learnt in self._learnt]
        if len(self._void) > _FORGOTTEN:
            merged = [([where], _Learnt()) for where in kept] + merged
            kept = []
        elif merged:
            taken, learnt = merged[0]
            size = len(learnt)
            while kept and kept[-1]["records"] <= min(size * _GROWTH, _LARGEST * _WIDTH - size):
                taken.append(kept.pop())
                size += taken[-1]["records"]
        for sources, learnt in merged:
            for where in sources:
                with _Segment(self._files, where, folder_fd) as segment:
                    learnt.take(segment, self._void)
            if len(learnt):
                parts, where = learnt.encode()
                kept.append({"file": write(parts), "age": newest, **where})
        self._segments, self._learnt = kept, []
        oldest = min((where["age"] for where in kept), default=newest)
        self._void = {stem: at for stem, at in self._void.items() if at >= oldest}
        return {"segments": self._segments, "void": self._void}
