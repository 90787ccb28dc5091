"""The end of a journal that grows: where its next line goes, and the room that was made for it.

A line that makes the file longer has the file system commit the new size as well. One that is
written over zeros which are on the disk already costs only itself. So a line that does not fit
brings zeros for the next ones along, where that helps.
"""

from typing import Final, Self

import attrs

from holdfast.store.place import Opened

__all__ = ["LARGEST", "Tail"]

#: One block costs as much as any part of it.
_SMALLEST: Final = 1 << 12
#: Room is made in powers of two up to this: about as much as there is already, so that a journal of
#: a few lines stays small.
LARGEST: Final = 1 << 16


@attrs.define(eq=False)
class Tail:
    """The end of the journal *file*, which has one writer.

    Attributes:
        makes_room: Whether lines bring zeros along.
        size: Bytes of the lines that count: where the next one goes. Whoever writes one moves it on
            once the line is on the disk.
        room: Bytes of the file. Behind the lines there are zeros.
    """

    file: Opened
    makes_room: bool
    size: int = 0
    room: int = 0

    @classmethod
    def of(cls, file: Opened) -> Self:
        """That of an empty *file*. Raises OSError."""
        return cls(file, file.files.overwrites_cheaply(file.fd))

    def write(self, line: bytes) -> int:
        """Write *line* behind the others, and return where it ends.

        Raises:
            OSError: Not all of it is written: `cut` what there is before anything else is.
        """
        write_at, fd, start = self.file.files.write_at, self.file.fd, self.size
        end = start + len(line)
        zeros = 0
        if end > self.room and self.makes_room:
            zeros = -end % max(_SMALLEST, min(1 << end.bit_length(), LARGEST))
        done = 0
        while done < len(line):
            data = line + bytes(zeros) if zeros else line
            try:
                done += write_at(fd, memoryview(data)[done:] if done else data, start + done)
            except OSError:
                if not zeros:
                    raise
                zeros = 0  # on a disk that is full the line alone may fit into its last block
        self.room = max(self.room, start + done)
        return end

    def cut(self) -> None:
        """Have the file end with its last line. Raises OSError."""
        self.file.files.truncate(self.file.fd, self.size)
        self.room = self.size
