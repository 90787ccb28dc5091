"""Records what a real program does to a directory: its system calls, by strace, made effects.

Nothing of the program is trusted, changed or instrumented: what it asked the kernel for is what is
recorded, whichever library asked. A call that could change the directory and that this module does
not understand is an error, never skipped. `Trace.end()` of a recording must equal the real
directory afterwards; every user of this module checks that.

The program speaks to the laboratory through one more file outside the directory: every line that
it writes there is a `Mark`.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from .effects import ROOT, Data, Disk, Effect, Entries, Mark, Size, Sync, Trace, Tree

__all__ = ["STRACE", "UnknownCallError", "parse", "record"]

#: Path of strace, or None where it is missing.
STRACE = shutil.which("strace")

# `?` because not every architecture has every call.
_CALLS = (
    "open openat openat2 creat close dup dup2 dup3 fcntl write pwrite64 writev pwritev pwritev2"
    " ftruncate truncate fallocate link linkat rename renameat renameat2 unlink unlinkat mkdir"
    " mkdirat rmdir fsync fdatasync sync syncfs sync_file_range symlink symlinkat copy_file_range"
    " sendfile splice clone clone3 fork vfork lseek chdir fchdir"
)
_TRACE = ",".join(f"?{name}" for name in _CALLS.split())

_LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_CALL = re.compile(
    r"^(?P<name>\w+)\((?P<args>.*)\) += (?P<result>-?\d+|\?|0x[0-9a-f]+)(?P<why>.*)$"
)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


class UnknownCallError(Exception):
    """A system call that may have changed the directory in a way the laboratory cannot model."""


@attrs.define
class _Open:
    """An open file description: shared by dup and fork, with its offset."""

    inode: int | None  # None: not in our directory
    append: bool = False
    offset: int = 0
    marks: bool = False


def record(
    argv: Sequence[str],
    root: Path,
    marks: Path,
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 240,
    may_fail: bool = False,
) -> Trace:
    """Run *argv* and return what it and its children did to *root*.

    Args:
        root: The directory in question; its present content is taken as durable.
        marks: The file outside *root* into which the program writes its marks.
        may_fail: The program may end with any exit code, by a signal too.

    Raises:
        UnknownCallError: It did something that the laboratory has no model of.
        subprocess.CalledProcessError: It failed.
    """
    assert STRACE is not None, "strace is missing"
    root = root.resolve()
    log = marks.with_suffix(".strace")
    initial = Tree.scan(root)
    command = [STRACE, "-f", "-qq", "-xx", "-s", "33554432", "-e", "signal=none"]
    command += ["-e", f"trace={_TRACE}", "-o", str(log), "--", *argv]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode and not may_fail:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    trace = parse(log.read_text("ascii").splitlines(), root, marks, initial)
    log.unlink()
    return trace


def parse(lines: Sequence[str], root: Path, marks: Path, initial: Tree) -> Trace:
    """The trace in strace's output. Calls of several processes count when they return."""
    parser = _Parser(root, marks, initial)
    unfinished: dict[str, str] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        pid, rest = match["pid"], match["rest"]
        if rest.endswith("<unfinished ...>"):
            unfinished[pid] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if rest.startswith("<... "):
            rest = unfinished.pop(pid, "") + rest.partition(" resumed>")[2]
        call = _CALL.match(rest)
        # "?" is a call that never returned: its process was killed inside it. What it may have
        # done cannot be known, so traces are made of programs that end by themselves.
        if call is not None and call["result"] != "?":
            parser.call(pid, call["name"], call["args"], int(call["result"], 0))
    return Trace(initial, tuple(parser.effects), tuple(parser.notes))


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


class _Parser:
    def __init__(self, root: Path, marks: Path, initial: Tree) -> None:
        self.root, self.marks = str(root), str(marks.resolve())
        self.disk = Disk(initial)
        self.effects: list[Effect] = []
        self.notes: list[str] = []
        self.tables: dict[str, dict[int, _Open]] = {}
        self.half_mark = b""
        self.name = ""

    # -- the plumbing

    def call(self, pid: str, name: str, args: str, result: int) -> None:
        self.name = name
        table = self.tables.setdefault(pid, {})
        if result < 0:
            return
        if name in ("clone", "clone3", "fork", "vfork"):
            # Descriptors of threads are the process's own; those of a child are a copy.
            shared = "CLONE_FILES" in args
            self.tables[str(result)] = table if shared else dict(table)
            return
        strings = [_text(match[1]) for match in _STRING.finditer(args)]
        if any(match[2] for match in _STRING.finditer(args)):
            raise UnknownCallError(f"{name}: strace cut a string short")
        plain = [part.strip() for part in _STRING.sub('""', args).split(",")]
        handler = getattr(self, f"_{name}", None)
        if handler is None:
            self._refuse(table, plain, strings)
        else:
            handler(table, plain, strings, result)

    def _refuse(self, table: dict[int, _Open], plain: list[str], strings: list[bytes]) -> None:
        ours = [
            part
            for part in plain
            if part.isdigit() and int(part) in table and table[int(part)].inode is not None
        ]
        inside = [text for text in strings if text.decode("utf-8", "replace").startswith(self.root)]
        if ours or inside or self.name in ("sync", "syncfs"):
            raise UnknownCallError(f"{self.name}({', '.join(plain)})")

    def _did(self, effect: Effect, note: str) -> None:
        self.disk.apply(effect)
        self.effects.append(effect)
        self.notes.append(f"{self.name} {note}")

    def _path_of(self, inode: int) -> str:
        for path, other in self._walk():
            if other == inode:
                return path
        return f"(unnamed {inode})"

    def _walk(self) -> list[tuple[str, int]]:
        found, stack = [("", ROOT)], [("", ROOT)]
        while stack:
            prefix, where = stack.pop()
            for name, inode in self.disk.directories.get(where, {}).items():
                found.append((prefix + name, inode))
                if inode in self.disk.directories:
                    stack.append((f"{prefix}{name}/", inode))
        return found

    def _place(self, table: dict[int, _Open], at: str, path: bytes) -> tuple[int, str] | None:
        """`(directory, name)` of a path in our directory; None for a path elsewhere."""
        text = path.decode("utf-8", "surrogateescape")
        if text.startswith("/"):
            if text != self.root and not text.startswith(self.root + "/"):
                return None
            where, text = ROOT, text[len(self.root) :].strip("/")
        elif at.startswith("AT_FDCWD"):
            return None  # workloads use absolute paths and never change their directory
        else:
            opened = table.get(int(at))
            if opened is None or opened.inode is None:
                return None
            where = opened.inode
        parent, _, name = text.rpartition("/")
        if parent:
            found = self.disk.lookup(where, parent)
            if found is None:
                raise UnknownCallError(f"{self.name}: no directory {parent!r}")
            where = found
        return where, name

    # -- the calls, as (descriptors, arguments without strings, strings, result)

    def _openat(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], fd: int
    ) -> None:
        place = self._place(table, plain[0], strings[0])
        if place is None:
            is_marks = strings[0].decode("utf-8", "replace") == self.marks
            table[fd] = _Open(None, marks=is_marks)
            return
        flags = plain[2]
        inode = self.disk.lookup(*place) if place[1] else place[0]
        if "O_TMPFILE" in flags:
            raise UnknownCallError("O_TMPFILE")
        if inode is None:
            inode = self.disk.fresh()
            self._did(Entries(place[0], ((place[1], inode),), "file"), f"creates {place[1]}")
        elif "O_TRUNC" in flags and self.disk.files.get(inode):
            self._did(Size(inode, 0), f"cuts {place[1]}")
        table[fd] = _Open(inode, append="O_APPEND" in flags)

    def _open(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], fd: int
    ) -> None:
        self._openat(table, ["AT_FDCWD", *plain], strings, fd)

    def _close(self, table: dict[int, _Open], plain: list[str], _: list[bytes], __: int) -> None:
        table.pop(int(plain[0]), None)

    def _dup(self, table: dict[int, _Open], plain: list[str], _: list[bytes], fd: int) -> None:
        old = table.get(int(plain[0]))
        if old is not None:
            table[fd] = old
        else:
            table.pop(fd, None)

    _dup2 = _dup3 = _dup

    def _fcntl(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], fd: int
    ) -> None:
        if plain[1].startswith("F_DUPFD"):
            self._dup(table, plain, strings, fd)

    def _chdir(self, *_: object) -> None:
        """Relative paths are taken as elsewhere, so that a changed directory must not be ours."""

    _fchdir = _chdir

    def _lseek(self, table: dict[int, _Open], plain: list[str], _: list[bytes], at: int) -> None:
        if int(plain[0]) in table:
            table[int(plain[0])].offset = at

    def _write(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], done: int
    ) -> None:
        opened = table.get(int(plain[0]))
        if opened is None:
            return
        if opened.marks:
            *lines, self.half_mark = (self.half_mark + strings[0][:done]).split(b"\n")
            for line in lines:
                self._did(Mark(line.decode()), line.decode())
        elif opened.inode is not None:
            size = len(self.disk.files[opened.inode])
            at = size if opened.append else opened.offset
            opened.offset = at + done
            self._data(opened.inode, at, strings[0][:done])

    def _pwrite64(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], done: int
    ) -> None:
        opened = table.get(int(plain[0]))
        if opened is not None and opened.inode is not None:
            self._data(opened.inode, int(plain[3]), strings[0][:done])

    def _writev(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], done: int
    ) -> None:
        self._write(table, plain, [b"".join(strings)], done)

    def _data(self, inode: int, at: int, data: bytes) -> None:
        self._did(Data(inode, at, data), f"{len(data)} bytes at {at} of {self._path_of(inode)}")

    def _ftruncate(
        self, table: dict[int, _Open], plain: list[str], _: list[bytes], __: int
    ) -> None:
        opened = table.get(int(plain[0]))
        if opened is not None and opened.inode is not None:
            self._did(Size(opened.inode, int(plain[1])), self._path_of(opened.inode))

    def _fallocate(
        self, table: dict[int, _Open], plain: list[str], _: list[bytes], __: int
    ) -> None:
        opened = table.get(int(plain[0]))
        if opened is not None and opened.inode is not None and plain[1] == "0":
            size = int(plain[2]) + int(plain[3])
            if size > len(self.disk.files[opened.inode]):
                self._did(Size(opened.inode, size), self._path_of(opened.inode))

    def _linkat(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], _: int
    ) -> None:
        source = self._place(table, plain[0], strings[0])
        target = self._place(table, plain[2], strings[1])
        if source is None or target is None:
            return
        inode = self.disk.lookup(*source)
        assert inode is not None
        self._did(Entries(target[0], ((target[1], inode),)), f"{source[1]} -> {target[1]}")

    def _link(
        self, table: dict[int, _Open], _: list[str], strings: list[bytes], result: int
    ) -> None:
        self._linkat(table, ["AT_FDCWD", "", "AT_FDCWD", ""], strings, result)

    def _renameat(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], _: int
    ) -> None:
        source = self._place(table, plain[0], strings[0])
        target = self._place(table, plain[2], strings[1])
        if source is None or target is None:
            if source or target:
                raise UnknownCallError("rename into or out of the directory")
            return
        inode = self.disk.lookup(*source)
        assert inode is not None
        note = f"{source[1]} -> {target[1]}"
        if source[0] == target[0]:
            changes: tuple[tuple[str, int | None], ...] = ((source[1], None), (target[1], inode))
            self._did(Entries(source[0], changes), note)
        else:
            # Between two directories it takes two syncs to make it durable.
            self._did(Entries(target[0], ((target[1], inode),)), note)
            self._did(Entries(source[0], ((source[1], None),)), note)

    def _renameat2(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], result: int
    ) -> None:
        if "EXCHANGE" in plain[4]:
            raise UnknownCallError("RENAME_EXCHANGE")
        self._renameat(table, plain, strings, result)

    def _rename(
        self, table: dict[int, _Open], _: list[str], strings: list[bytes], result: int
    ) -> None:
        self._renameat(table, ["AT_FDCWD", "", "AT_FDCWD", ""], strings, result)

    def _unlinkat(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], _: int
    ) -> None:
        place = self._place(table, plain[0], strings[0])
        if place is not None:
            self._did(Entries(place[0], ((place[1], None),)), place[1])

    def _unlink(
        self, table: dict[int, _Open], _: list[str], strings: list[bytes], result: int
    ) -> None:
        self._unlinkat(table, ["AT_FDCWD"], strings, result)

    _rmdir = _unlink

    def _mkdirat(
        self, table: dict[int, _Open], plain: list[str], strings: list[bytes], _: int
    ) -> None:
        place = self._place(table, plain[0], strings[0])
        if place is not None:
            entry = ((place[1], self.disk.fresh()),)
            self._did(Entries(place[0], entry, "directory"), place[1])

    def _mkdir(
        self, table: dict[int, _Open], _: list[str], strings: list[bytes], result: int
    ) -> None:
        self._mkdirat(table, ["AT_FDCWD"], strings, result)

    def _fsync(self, table: dict[int, _Open], plain: list[str], _: list[bytes], __: int) -> None:
        opened = table.get(int(plain[0]))
        if opened is not None and opened.inode is not None:
            self._did(Sync(opened.inode), self._path_of(opened.inode) or "the directory itself")

    _fdatasync = _fsync
