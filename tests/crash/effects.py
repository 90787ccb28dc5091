"""The vocabulary of the crash laboratory: what a program did to a directory, one effect at a time.

A *trace* is the list of effects that a real program had on one directory, in the order in which
its system calls returned, with *marks* in between: what the program had been promised by then.
`recording` makes traces from system calls, `watching` makes them from `holdfast.store.files.Files`,
`models` asks which of the effects may have reached the disk, and `Disk` replays a choice of them.

Everything is told by inode, never by path: whether a byte is durable depends on the inode that was
synced, whether a name is durable depends on the directory that was synced, and a file may have
several names or none.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import attrs

__all__ = ["ROOT", "Data", "Disk", "Effect", "Entries", "Mark", "Size", "Sync", "Trace", "Tree"]

#: The inode of the directory that a trace is about. It exists before the trace begins.
ROOT = 0


@attrs.frozen
class Entries:
    """Names of one directory change, all of them in one step.

    A creation, a link, a `mkdir` set one name; `unlink` and `rmdir` clear one; a rename clears one
    and sets another. Making a rename one step is the one thing that every crash-safe program
    assumes of its file system, and that every journalling file system gives.

    Attributes:
        changes: `(name, inode or None)`.
        makes: What the inode is, when this effect brought it into being.
    """

    directory: int
    changes: tuple[tuple[str, int | None], ...]
    makes: Literal["file", "directory", None] = None


@attrs.frozen
class Data:
    """Bytes written into a file at an offset."""

    inode: int
    offset: int
    data: bytes


@attrs.frozen
class Size:
    """A file cut or grown (with zeros) to a size."""

    inode: int
    size: int


@attrs.frozen
class Sync:
    """A returned fsync or fdatasync: everything before it on this inode is on the disk."""

    inode: int


@attrs.frozen
class Mark:
    """Something the program said after a call had returned to it: an acknowledgement."""

    text: str


Effect = Entries | Data | Size | Sync | Mark


class Tree:
    """A directory's whole content, to be compared, counted and rebuilt.

    Attributes:
        paths: `{relative path: None for a directory, else a file's inode}`: two names of one
            file stay one file when it is rebuilt.
        content: `{inode: bytes}`.
    """

    def __init__(self, paths: dict[str, int | None], content: dict[int, bytes]) -> None:
        self.paths = dict(sorted(paths.items()))
        self.content = content

    @property
    def digest(self) -> str:
        """Equal for equal directories: names, kinds, contents and which names share a file."""
        first: dict[int, str] = {}
        sha = hashlib.sha256()
        for path, inode in self.paths.items():
            if inode is None:
                sha.update(f"d {path}\n".encode())
                continue
            twin = first.setdefault(inode, path)
            data = self.content[inode]
            sha.update(f"f {path} {twin} {len(data)}\n".encode())
            sha.update(data)
        return sha.hexdigest()

    def rebuild(self, root: Path) -> None:
        """Make *root*, which must not exist, this directory."""
        os.mkdir(root)
        first: dict[int, str] = {}
        for path, inode in self.paths.items():  # sorted: a directory comes before what is in it
            where = os.path.join(root, path)
            if inode is None:
                os.mkdir(where)
            elif inode in first:
                os.link(first[inode], where)
            else:
                first[inode] = where
                fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                if self.content[inode]:
                    os.write(fd, self.content[inode])
                os.close(fd)

    @classmethod
    def scan(cls, root: Path) -> "Tree":
        """What is in the real directory *root* now."""
        paths: dict[str, int | None] = {}
        content: dict[int, bytes] = {}
        for folder, folders, files in os.walk(root):
            for name in folders:
                paths[os.path.relpath(os.path.join(folder, name), root)] = None
            for name in files:
                where = Path(folder, name)
                inode = where.lstat().st_ino
                paths[os.path.relpath(where, root)] = inode
                content[inode] = where.read_bytes()
        return cls(paths, content)

    def describe(self) -> str:
        """One line a name, for the report of a failure."""
        return "\n".join(
            f"  {path}/" if inode is None else f"  {path} ({len(self.content[inode])} bytes)"
            for path, inode in self.paths.items()
        )


class Disk:
    """Inodes as they would be after some effects: directories are name tables, files are bytes."""

    def __init__(self, initial: Tree | None = None) -> None:
        self.directories: dict[int, dict[str, int]] = {ROOT: {}}
        self.files: dict[int, bytes] = {}
        self._next = 1
        if initial is not None:
            self._load(initial)

    def _load(self, tree: Tree) -> None:
        known: dict[int, int] = {}
        for path, inode in tree.paths.items():
            parent, _, name = path.rpartition("/")
            where = ROOT if not parent else self.lookup(ROOT, parent)
            assert where is not None
            if inode is None:
                mine = self.fresh()
                self.directories[mine] = {}
            elif inode in known:
                mine = known[inode]
            else:
                mine = known[inode] = self.fresh()
                self.files[mine] = tree.content[inode]
            self.directories[where][name] = mine

    def fresh(self) -> int:
        """A number for an inode that is about to be made."""
        self._next += 1
        return self._next

    def copy(self) -> "Disk":
        """An independent copy."""
        new = Disk()
        new.directories = {inode: dict(names) for inode, names in self.directories.items()}
        new.files = dict(self.files)
        new._next = self._next
        return new

    def only(self, inode: int) -> "Disk":
        """A disk with nothing but what is in that directory or file."""
        new = Disk()
        new.take(inode, self)
        return new

    def take(self, inode: int, other: "Disk") -> None:
        """Have in that directory or file what *other* has in it."""
        if inode in other.directories:
            self.directories[inode] = dict(other.directories[inode])
        if inode in other.files:
            self.files[inode] = other.files[inode]

    def apply(self, effect: Effect) -> None:
        """Let *effect* reach the disk."""
        if isinstance(effect, Entries):
            table = self.directories.setdefault(effect.directory, {})
            for name, inode in effect.changes:
                if inode is None:
                    table.pop(name, None)
                    continue
                table[name] = inode
                if effect.makes == "directory":
                    self.directories.setdefault(inode, {})
                elif effect.makes == "file":
                    self.files.setdefault(inode, b"")
        elif isinstance(effect, Data):
            old = self.files.get(effect.inode, b"")
            head = old[: effect.offset].ljust(effect.offset, b"\0")
            self.files[effect.inode] = head + effect.data + old[effect.offset + len(effect.data) :]
        elif isinstance(effect, Size):
            old = self.files.get(effect.inode, b"")
            self.files[effect.inode] = old[: effect.size].ljust(effect.size, b"\0")

    def lookup(self, directory: int, path: str) -> int | None:
        """The inode of *path* below *directory*; None where there is none."""
        here: int | None = directory
        for name in path.split("/"):
            if name in ("", "."):
                continue
            here = None if here is None else self.directories.get(here, {}).get(name)
        return here

    def tree(self, directory: int = ROOT) -> Tree:
        """What somebody who lists the disk would see: what no name leads to is gone."""
        paths: dict[str, int | None] = {}
        content: dict[int, bytes] = {}
        stack = [("", directory)]
        while stack:
            prefix, where = stack.pop()
            for name, inode in self.directories.get(where, {}).items():
                path = prefix + name
                if inode in self.directories:
                    # A lost unlink of the old name must not turn a moved directory into a cycle.
                    paths[path] = None
                    if path.count("/") < 20:
                        stack.append((path + "/", inode))
                else:
                    paths[path] = inode
                    content[inode] = self.files.get(inode, b"")
        return Tree(paths, content)


@attrs.frozen
class Trace:
    """What a program did to one directory that began as *initial*, which was durable.

    Attributes:
        notes: For every effect, the words of the system call, for the report of a failure.
    """

    initial: Tree
    effects: tuple[Effect, ...]
    notes: tuple[str, ...] = ()

    def disk(self) -> Disk:
        """The disk before the first effect."""
        disk = Disk(self.initial)
        for effect in self.effects:
            # What an inode is stays true although the effect that first named it may be lost.
            if isinstance(effect, Entries) and effect.makes == "directory":
                disk.directories.update({inode: {} for _, inode in effect.changes if inode})
        return disk

    def end(self) -> Tree:
        """The directory if every effect reached the disk; equals the real one after the program."""
        disk = self.disk()
        for effect in self.effects:
            disk.apply(effect)
        return disk.tree()

    def without(self, index: int) -> "Trace":
        """The same trace with one effect removed: the mutant that forgot this step."""
        return self._picked(i for i in range(len(self.effects)) if i != index)

    def moved(self, index: int, to: int) -> "Trace":
        """The same trace with one effect done at another time: the mutant that swapped steps."""
        order = list(range(len(self.effects)))
        order.insert(to if to < index else to - 1, order.pop(index))
        return self._picked(order)

    def _picked(self, order: Iterable[int]) -> "Trace":
        order = list(order)
        notes = self.notes or ("",) * len(self.effects)
        return Trace(
            self.initial, tuple(self.effects[i] for i in order), tuple(notes[i] for i in order)
        )

    def marks(self) -> list[tuple[int, str]]:
        """`(index, text)` of every mark."""
        return [(i, e.text) for i, e in enumerate(self.effects) if isinstance(e, Mark)]
