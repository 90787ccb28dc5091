"""Shims as children: forked, each with its job, asked to stop, waited for.

Whoever has them is small and does next to nothing else, so that a fork costs little: the `starter`
of this machine's engine, or a node. Every signal that a shim must not be ended by is blocked there
already. Like the shim, the standard library only and little of it.
"""

# The parts of `signal` in C: it makes enums of all that are blocked, 0.1 ms for every attempt.
import _signal  # type: ignore[import-not-found]
import contextlib
import mmap
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.engines.local import cgroup, hearing, shim, system
else:  # by file, not by package: importing holdfast would bring its dependencies along
    import cgroup
    import hearing
    import shim
    import system
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_BYTES = ("dir", "cwd", "python")
_SLOTS = 65536


class Children:
    """The shims that have not been waited for, which byte of the shared flags each has, and its
    mark.

    Args:
        facts: About this host, as every shim states them.
        proc: Whether `/proc` tells of our processes.
        subtree: Where cgroups are made, as `cgroup.Cgroups` takes it.
        completing: Descriptor to which shims say that nothing of their attempt runs any more.
        close: Descriptors that no shim may keep.
        unblocked: Signals that are not blocked in us, and must not reach a shim before it is one.

    Attributes:
        heard: The signals that came while all this was made, and are to be passed on.
    """

    def __init__(
        self,
        facts: "dict[str, Any]",
        *,
        proc: bool,
        subtree: "dict[str, Any] | None",
        completing: int,
        close: "tuple[int, ...]",
        unblocked: "tuple[int, ...]" = (),
    ) -> None:
        # A request by way of it needs no disk, which may be full or read-only.
        self.flags = mmap.mmap(-1, _SLOTS)
        self.slots: dict[int, int | None] = {}
        self._marks: dict[int, str] = {}
        self._cgroups = cgroup.Cgroups(subtree)
        self._facts, self._proc, self._close, self._unblocked = facts, proc, close, unblocked
        self.shared = shim.Shared(self.flags, completing)
        self.heard = shim.rehearse(facts, self.shared)
        self._free: list[int] = []
        self._used = 0

    def _slot(self) -> int | None:
        """A byte for the next shim, with nothing in it; None if all are in use."""
        if self._free:
            slot = self._free.pop()
        elif self._used < _SLOTS:
            slot, self._used = self._used, self._used + 1
        else:
            return None
        self.flags[slot] = hearing.NOTHING
        return slot

    def _let_go(self, slot: int | None) -> None:
        """Nobody looks at that byte any more."""
        if slot is not None:
            self._free.append(slot)

    def fork(self, job: "dict[str, Any]", slots: "Sequence[int]" = ()) -> "list[int | str | None]":
        """Fork a shim for *job*.

        Args:
            slots: Descriptors of what it holds.

        Returns:
            Its pid, when it began, and why there is none.
        """
        slot, mark = self._slot(), _mark(job)
        # All that a shim must not be ended by is blocked in us already; the rest, before it is
        # born.
        if self._unblocked:
            _signal.pthread_sigmask(_signal.SIG_BLOCK, self._unblocked)
        try:
            try:
                pid, group = self._cgroups.fork(mark)
            except OSError as err:
                self._let_go(slot)
                return [None, None, str(err)]
            if pid == 0:
                self._become_shim(job, slot, mark, group, slots)
        finally:
            if self._unblocked:
                _signal.pthread_sigmask(_signal.SIG_UNBLOCK, self._unblocked)
        self.slots[pid], self._marks[pid] = slot, mark
        return [pid, system.start_ticks(pid) if self._proc else None, None]

    def _become_shim(
        self,
        job: "dict[str, Any]",
        slot: int | None,
        mark: str,
        group: "cgroup.Cgroup | None",
        slots: "Sequence[int]",
    ) -> None:
        """Never returns."""
        status, parent = shim.BROKEN, os.getppid()
        try:
            signal.set_wakeup_fd(-1)
            for fd in self._close:
                os.close(fd)
            for key in _BYTES:
                job[key] = None if job[key] is None else job[key].encode("latin-1")
            job["argv"] = [word.encode("latin-1") for word in job["argv"]]
            job["env"] = {
                name.encode("latin-1"): value.encode("latin-1")
                for name, value in job["env"].items()
            }
            status = shim.Shim(job, self._facts, self.shared, slot, mark, group, slots).main()
            if group is not None and os.getppid() != parent:
                group.leave()  # nobody is left who would remove it after our end
                group.remove()
        finally:
            # Nothing of its parent may run in its child, whatever happened.
            os._exit(status)

    def stop(self, pid: int, level: int) -> None:
        """Ask a shim to stop."""
        # Our own child that was not waited for: the pid cannot be another's by now.
        if pid not in self.slots:
            return
        slot = self.slots[pid]
        if slot is not None:
            self.flags[slot] = max(self.flags[slot], level)
        for number in (hearing.WAKE, signal.SIGCONT):
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def signal(self, number: int) -> None:
        """Pass a signal of somebody else's on to every shim."""
        for pid in self.slots:
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def reap(self) -> "list[tuple[int, int]]":
        """Those that have ended, with their statuses."""
        ended = []
        while self.slots:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            # Else one that we adopted: nobody asks how that has ended.
            if pid in self.slots:
                self._let_go(self.slots.pop(pid))
                # Not if something is in there: settling the attempt finds it by that.
                self._cgroups.remove(self._marks.pop(pid))
                ended.append((pid, os.waitstatus_to_exitcode(status)))
        return ended


def _mark(job: "dict[str, Any]") -> str:
    """128 random bits, and of which attempt in which directory they are.

    Everything that is started shows it: a file that names it for another attempt is forged, or of a
    copy, and aims at nobody.
    """
    try:
        folder = os.stat(job["dir"].encode("latin-1")).st_ino
    except OSError:
        folder = 0  # it is gone, which its shim finds out
    return f"{os.urandom(16).hex()}.{folder}.{job['name']}"
