"""A cgroup for each attempt, where some can be made: nothing of an attempt can leave it unseen.

A shim is born in the cgroup of its attempt, and with it all that it starts: to move a process takes
the kernel some 10 ms, to have it born there nothing. It stays until it has to leave: its outcome
does not wait for it. Whatever fails here, the attempt goes on, and is known by descent and marks.
Like the shim, the standard library only and little of it.
"""

import contextlib
import errno
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.engines.local import system
else:
    import system
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Before the mark, in the name of every cgroup of an attempt.
PREFIX = "holdfast."
_CLONE3 = 435  # of almost every architecture; others say ENOSYS or EINVAL
_CLONE_INTO_CGROUP = 0x200000000
_ARGUMENTS = (
    "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
    "set_tid", "set_tid_size", "cgroup",
)  # fmt: skip
_MOST_NESTED = 32
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Cgroup:
    """The cgroup of one attempt, as its shim has it.

    Attributes:
        name: In the directory where all of them are made.
        address: Where others find it: `path` as the kernel names it, seen from the cgroup
            `namespace`.
    """

    def __init__(self, base: int, name: str, address: "dict[str, str]", procs: int = -1) -> None:
        """*base*: descriptor of the directory where it was made; *procs*: of its list of pids."""
        self._base = base
        self._procs = procs
        self.name = name
        self.address = address
        self._inside = True

    def alone(self) -> bool:
        """Whether nobody but us is in it; those that were made in it are not looked into."""
        # As little as can be: it is asked at the end of every attempt.
        try:
            return os.pread(self._procs, 64, 0) == b"%d\n" % os.getpid()
        except OSError:
            return False

    def others(self) -> "list[int]":
        """Who is in it, or in one that was made in it, but us."""
        found = self._members(self.name, _MOST_NESTED)
        with contextlib.suppress(ValueError):
            found.remove(os.getpid())
        return found

    def _members(self, where: str, deep: int) -> "list[int]":
        found: list[int] = []
        with contextlib.suppress(OSError):
            fd = os.open(f"{where}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._base)
            try:
                while part := os.read(fd, 65536):
                    # The kernel ends every part with a whole line; 0 is a pid that we cannot see.
                    found += [pid for pid in map(int, part.split()) if pid]
            finally:
                os.close(fd)
        for inner in self._nested(where) if deep else ():
            found += self._members(inner, deep - 1)
        return found

    def _nested(self, where: str) -> "list[str]":
        try:
            # As in most file systems, a directory has a link for each that is in it.
            if os.stat(where, dir_fd=self._base).st_nlink == 2:
                return []
            fd = os.open(where, _DIRECTORY, dir_fd=self._base)
        except OSError:
            return []
        try:
            with os.scandir(fd) as entries:
                return [f"{where}/{each.name}" for each in entries if each.is_dir()]
        except OSError:
            return []
        finally:
            os.close(fd)

    def let_go(self, pid: int) -> None:
        """Have *pid* move out of it: it is released."""
        self._write("cgroup.procs", pid)

    def kill(self) -> None:
        """End everything in it, in one blow that nothing can fork away from."""
        self.leave()
        if not self._inside:
            self._write(f"{self.name}/cgroup.kill", 1)

    def leave(self) -> None:
        """Move out of it ourselves."""
        if self._inside:
            self._inside = not self._write("cgroup.procs", 0)

    def remove(self) -> None:
        """Remove it, if nothing is in it."""
        remove(self._base, self.name)

    def memory_kills(self) -> int:
        """How many in it the kernel has killed for want of memory; 0 where it does not count."""
        return system.counted_kills(f"{self.name}/memory.events", self._base) or 0

    def _write(self, path: str, number: int) -> bool:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._base)
        except OSError:
            return False
        try:
            os.write(fd, b"%d" % number)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True


def remove(base: int, name: str) -> None:
    """Remove the cgroup *name* in *base*, a descriptor, and those below, if nothing is in them."""
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=base)
        return
    for inner in Cgroup(base, name, {})._nested(name):
        remove(base, inner)
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=base)


class Cgroups:
    """Where the cgroups of attempts are made, and the fork that puts a shim into one.

    Args:
        subtree: `dir`, in bytes as Latin-1, and its `path` and `namespace`, as in `Cgroup`; None if
            there are to be none.
    """

    def __init__(self, subtree: "dict[str, Any] | None") -> None:
        self._base = -1
        self._path = self._namespace = ""
        self._clone = cloning() if subtree is not None else None
        if subtree is not None and self._clone is not None:
            with contextlib.suppress(OSError):
                self._base = os.open(subtree["dir"].encode("latin-1"), _DIRECTORY)
                self._path = subtree["path"].rstrip("/")
                self._namespace = subtree["namespace"]

    def fork(self, mark: str) -> "tuple[int, Cgroup | None]":
        """Fork, into a cgroup named by *mark* where one can be made.

        Returns:
            The pid, 0 in the child, and the cgroup that the child is in.

        Raises:
            OSError: There can be no other process now.
        """
        if self._clone is None or self._base < 0:
            return os.fork(), None
        name = PREFIX + mark
        opened: list[int] = []
        try:
            os.mkdir(name, dir_fd=self._base)
            opened.append(os.open(name, _DIRECTORY, dir_fd=self._base))
            # Here, and not in the shim, to which everything is new and costs more.
            path = f"{name}/cgroup.procs"
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._base))
            address = {"path": f"{self._path}/{name}", "namespace": self._namespace}
            group = Cgroup(self._base, name, address, opened[1])
            pid = self._clone(opened[0])
        except OSError:
            for fd in opened:
                os.close(fd)
            self.remove(mark)
            return os.fork(), None
        if pid:
            for fd in opened:
                os.close(fd)
        return pid, group

    def remove(self, mark: str) -> None:
        """Remove the cgroup named by *mark*, if there is one and nothing is in it."""
        if self._base >= 0:
            remove(self._base, PREFIX + mark)


def cloning() -> "Callable[[int], int] | None":
    """A fork whose child is born in the cgroup of a descriptor; None where there is no such thing.

    For processes with one thread. Called once: loading ctypes takes some milliseconds.
    """
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        # Called with the interpreter's lock, so that the child has it.
        call = ctypes.PyDLL(None, use_errno=True).syscall
        before, child, parent = (
            getattr(ctypes.pythonapi, f"PyOS_{when}")
            for when in ("BeforeFork", "AfterFork_Child", "AfterFork_Parent")
        )
    except (ImportError, OSError, AttributeError):
        return None
    call.restype = ctypes.c_long
    number = ctypes.c_long(_CLONE3)
    size = ctypes.c_size_t(len(_ARGUMENTS) * 8)
    # Arguments that are too short: the answer tells whether it is there and not filtered.
    if call(number, None, ctypes.c_size_t(0)) != -1 or ctypes.get_errno() != errno.EINVAL:
        return None
    arguments = (ctypes.c_uint64 * len(_ARGUMENTS))()
    arguments[_ARGUMENTS.index("flags")] = _CLONE_INTO_CGROUP
    arguments[_ARGUMENTS.index("exit_signal")] = signal.SIGCHLD

    def clone(fd: int) -> int:
        arguments[_ARGUMENTS.index("cgroup")] = fd
        before()
        pid = int(call(number, arguments, size))
        if pid == 0:
            child()
            return 0
        code = ctypes.get_errno()
        parent()
        if pid < 0:
            raise OSError(code, os.strerror(code))
        return pid

    return clone
