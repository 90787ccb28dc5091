"""The cgroups of attempts, seen from outside: where they can be made, and who is in them.

A process can leave its parents, its session and its environment behind, but not its cgroup: an
empty one proves that nothing of a dead shim is left. `holdfast.engines.local.cgroup` makes them and
belongs to who is inside. What cannot be seen from here proves nothing, and is None.
"""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from holdfast.attempts.records import CgroupAddress

__all__ = ["Cgroup", "Subtree", "of_mark", "own", "subtree"]

_MOUNTS: Final = Path("/proc/self/mountinfo")
_OURS: Final = Path("/proc/self/cgroup")
_NAMESPACE: Final = Path("/proc/self/ns/cgroup")
_PREFIX: Final = "holdfast."
_MARK: Final = re.compile(r"[0-9a-f]{32}\.[0-9]+\.[a-z0-9]+\.[0-9]+")
#: Without these an attempt's cgroup proves nothing. `cgroup.kill` is there since Linux 5.14.
_NEEDED: Final = ("cgroup.procs", "cgroup.kill", "cgroup.events")
_FRESH_S: Final = 60.0
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen
class Subtree:
    """Where cgroups of attempts can be made.

    Attributes:
        directory: In a mounted cgroup v2 hierarchy.
        address: How the kernel names it, and seen from where.
    """

    directory: Path
    address: CgroupAddress

    def sweep(self) -> None:
        """Remove what is empty and nobody came to remove: its shim and its starter were killed."""
        with contextlib.suppress(OSError):
            for path in self.directory.glob(f"{_PREFIX}*"):
                if not _MARK.fullmatch(path.name.removeprefix(_PREFIX)):
                    continue
                # A fresh one may be about to get its shim.
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > _FRESH_S:
                        path.rmdir()


def own() -> Subtree | None:
    """Where this process may make cgroups: in its own one; None where that is refused."""
    path = _own_path()
    for root, point in _mounts():
        below = None if path is None else _below(root, path)
        found = None if below is None else subtree(point / below)
        if found is not None:
            return found
    return None


def subtree(directory: Path) -> Subtree | None:
    """*directory*, if cgroups of attempts can be made there: one is made, and removed again."""
    address = _address(directory)
    if address is None or not os.access(directory / "cgroup.procs", os.W_OK):
        return None
    try:
        # Only the root of all has no type. With controllers for its children a cgroup may not have
        # members, but ours has us; a threaded one has no `cgroup.kill`.
        kind = directory / "cgroup.type"
        if kind.exists() and kind.read_text("ascii") != "domain\n":
            return None
        probe = directory / f"{_PREFIX}{secrets.token_hex(16)}"
        probe.mkdir()
        try:
            able = all((probe / name).exists() for name in _NEEDED)
            able = able and os.access(probe / "cgroup.procs", os.W_OK)
        finally:
            probe.rmdir()
    except OSError:
        return None
    return Subtree(directory, address) if able else None


def _address(directory: Path) -> CgroupAddress | None:
    with contextlib.suppress(OSError):
        namespace = str(_NAMESPACE.readlink())
        real = Path(os.path.realpath(directory))
        for root, point in _mounts():
            if ".." in root.split("/"):
                continue  # outside of our cgroup namespace: it has no path from here
            if real.is_relative_to(point) and real.stat().st_dev == point.stat().st_dev:
                # Paths in a file are in one form only: without `.` and doubled slashes.
                path = os.path.normpath(f"{root}/{real.relative_to(point)}")
                return CgroupAddress("/" + path.lstrip("/"), namespace)
    return None


def _own_path() -> str | None:
    with contextlib.suppress(OSError):
        for line in _OURS.read_text("utf-8", "surrogateescape").splitlines():
            if line.startswith("0::/"):
                return line[3:]
    return None


def _mounts() -> Iterator[tuple[str, Path]]:
    """Where the v2 hierarchy is mounted: which cgroup is seen there, and the directory."""
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if not right.startswith("cgroup2 ") or len(fields) < 5:
            continue
        point = Path(_plain(fields[4]))
        with contextlib.suppress(OSError):
            device = point.stat().st_dev
            # Something else may be mounted upon it by now.
            if fields[2] == f"{os.major(device)}:{os.minor(device)}":
                yield _plain(fields[3]), point


def _plain(text: str) -> str:
    # The kernel writes spaces and the like as three octal digits.
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _below(root: str, path: str) -> str | None:
    """*path* as seen from *root*; None if it is not below that."""
    # A cgroup outside of our cgroup namespace has a path that begins with `/..`.
    if ".." in path.split("/") or ".." in root.split("/"):
        return None
    if root != "/" and path != root and not path.startswith(f"{root}/"):
        return None
    return path[len(root.rstrip("/")) :].strip("/")


@attrs.frozen
class Cgroup:
    """The cgroup of an attempt.

    Attributes:
        directory: Where it is, or was: None once it has been removed, which only an empty one is.
    """

    directory: Path | None

    def populated(self) -> bool | None:
        """Whether anything lives in it, or in one below; None if unknown."""
        if self.directory is None:
            return False
        try:
            words = (self.directory / "cgroup.events").read_text("ascii").split()
        except FileNotFoundError:
            return False
        except OSError:
            # It was removed between the open and the read, or cannot be read.
            return None if self.directory.exists() else False
        return dict(zip(words[::2], words[1::2], strict=False)).get("populated") != "0"

    def pids(self) -> list[int]:
        """Who is in it, or in one below, as far as they have a number in our pid namespace."""
        return sorted(self._read() - {0, os.getpid()})

    def unseen(self) -> bool:
        """Whether somebody is in it who has no such number."""
        return 0 in self._read()

    def _read(self) -> set[int]:
        found: set[int] = set()
        for where, _, _ in os.walk(self.directory or "/nowhere", followlinks=False):
            with contextlib.suppress(OSError):
                found |= set(map(int, (Path(where) / "cgroup.procs").read_text("ascii").split()))
        return found

    def release(self, pid: int) -> None:
        """Have *pid* move out, to where it is no part of the attempt."""
        if self.directory is not None:
            _write(self.directory.parent / "cgroup.procs", pid)

    def kill(self) -> bool:
        """End everything in it, in one blow; False if that is refused."""
        return self.directory is not None and _write(self.directory / "cgroup.kill", 1)

    def remove(self) -> None:
        """Remove it and what was made in it, if nothing lives there."""
        for where, _, _ in os.walk(self.directory or "/nowhere", topdown=False, followlinks=False):
            with contextlib.suppress(OSError):
                Path(where).rmdir()


def of_mark(address: CgroupAddress | None, mark: str | None) -> Cgroup | None:
    """The cgroup of the attempt with *mark*; None where it had none, or it cannot be seen.

    The address is read from a file, which can be forged: what is not named by that mark is none.
    """
    if address is None or mark is None or not _MARK.fullmatch(mark):
        return None
    names = address.path.split("/")
    if names[0] or names[-1] != _PREFIX + mark or {"", ".", ".."} & set(names[1:]):
        return None
    try:
        # From elsewhere the same path may be another cgroup's, or nobody's.
        if str(_NAMESPACE.readlink()) != address.namespace:
            return None
    except OSError:
        return None
    for root, point in _mounts():
        below = _below(root, address.path)
        if below:
            with contextlib.suppress(OSError):
                return Cgroup(_found(point, below))
    return None


def _found(point: Path, below: str) -> Path | None:
    """The directory; None if there is none. No link, and nothing mounted upon it, is followed.

    Raises:
        OSError: It cannot be told.
    """
    fd = os.open(point, _DIRECTORY)
    try:
        device = os.fstat(fd).st_dev
        for name in below.split("/"):
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                return None
            os.close(fd)
            fd = inner
            if os.fstat(fd).st_dev != device:
                return None
    finally:
        os.close(fd)
    return point / below


def _write(path: Path, number: int) -> bool:
    try:
        # The kernel takes a number as one write, and refuses to make what is not there.
        with path.open("wb", buffering=0) as file:
            file.write(b"%d" % number)
    except OSError:
        return False
    return True
