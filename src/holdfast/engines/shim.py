"""The shim: outlives a dead orchestrator, runs one attempt, and owns the truth about it.

A fork of `starter.py`, in an interpreter without site-packages: the standard library only, and few
modules of it, because every attempt has one of these in memory for as long as it runs. It never
reads what others wrote; `holdfast.attempts` reads what it writes. `system` asks the kernel.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.engines import system
else:  # in the starter, where there is no package
    import system
if TYPE_CHECKING:  # importing typing would double what a shim holds in memory
    from collections.abc import Callable
    from typing import Any

#: What a shim waits for. Blocked from before its birth, so that no request to stop can be missed.
WATCHED = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGCHLD,
    signal.SIGALRM,
}
_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

# Exit statuses of the shim itself, for the engine's text only.
DONE, NOT_FIRST, GAVE_UP, BROKEN = 0, 3, 4, 70

_RESERVED_BYTES = 4096
_ERROR_CHARACTERS = 250  # in ASCII JSON at most twelve bytes each: an outcome fits its reserve
_RETRY_S = 1.0
_KILLED_WITHIN_S = 5.0
_FOREVER_S = 1e8
# What passes: a full disk or quota, a moment without memory, processes or descriptors.
_PASSES = {errno.ENOSPC, errno.EDQUOT, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
# What an administrator mends, while files are waiting to be written.
_MENDED = _PASSES | {errno.EIO, errno.EROFS}
# What nothing mends: the experiment's folder was removed.
_HOPELESS = {errno.ENOENT, errno.ENOTDIR}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class Shim:
    """One attempt, from the right to run it to its published outcome.

    Args:
        job: `name`, `experiment`, `dir`, `argv`, `env`, `cwd`, `timeout_s`, `grace_s`, `python`;
            what the operating system gets is in bytes.
        facts: What does not differ between the shims of one starter: host, machine_id, boot_id,
            pid_namespace.
        memory_events: From `memory_events`, which need not be looked up for every attempt.
    """

    def __init__(
        self, job: "dict[str, Any]", facts: "dict[str, Any]", memory_events: str | None
    ) -> None:
        self.job = job
        self.memory_events = memory_events
        self.grace_s = max(0.0, float(job["grace_s"]))
        self.asked: str | None = None
        self.timed_out = False
        self.kill_now = False
        self.began = False
        self.began_at = 0.0
        self.pid = 0
        self.reserved: str | None = None
        self.reserved_fd = -1
        self.synced = False
        self.identity = {
            **{key: value for key, value in facts.items() if value is not None},
            "pid": os.getpid(),
            "start_ticks": system.start_ticks("self"),
            "locked": True,
        }
        self.mark = f"{self.identity['pid']}.{self.identity['start_ticks']}"

    def main(self) -> int:
        """Run it and return the shim's exit status; signals in `WATCHED` are blocked already."""
        os.setsid()
        self.dir = os.open(self.job["dir"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not self._patiently(self._become_live):
            return NOT_FIRST
        # Before the command runs: an outcome that finds no room would be lost with the shim.
        if not self._patiently(self._reserve):
            return GAVE_UP
        content = json.dumps(self._execute()).encode("ascii")
        return DONE if self._patiently(self._publish, content) else GAVE_UP

    # --- the right to run

    def _temporary(self) -> tuple[str, int]:
        name = f".{os.urandom(8).hex()}.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return name, os.open(name, flags, 0o666, dir_fd=self.dir)

    def _link(self, temporary: str, fd: int, target: str) -> bool:
        try:
            os.link(temporary, target, src_dir_fd=self.dir, dst_dir_fd=self.dir)
        except FileExistsError:
            # The answer to a link that succeeded can be lost on NFS: the inode tells.
            there = os.stat(target, dir_fd=self.dir, follow_symlinks=False)
            mine = os.fstat(fd)
            return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
        return True

    def _become_live(self) -> bool:
        temporary, fd = self._temporary()
        try:
            # Locked before it is visible: whoever sees it free knows that its shim is dead.
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as err:
                if err.errno not in _NO_LOCKS:
                    raise
                self.identity["locked"] = False
            live = {
                **self.identity,
                "attempt": self.job["name"],
                "experiment": self.job["experiment"][:_ERROR_CHARACTERS],
                "started_at": system.timestamp(time.time()),
            }
            content = json.dumps(live).encode("ascii")
            _whole(os.write(fd, content), content)
            # The descriptor stays open, and with it the lock, until this process ends.
            return self._link(temporary, fd, f"{self.job['name']}.live")
        except OSError:
            os.close(fd)
            raise
        finally:
            os.unlink(temporary, dir_fd=self.dir)

    # --- the command

    def _execute(self) -> "dict[str, Any]":
        killed_before = system.oom_kills(self.memory_events)
        outcome: dict[str, Any] = {}
        if signal.sigpending() & (_STOP | {signal.SIGUSR1}):
            self.asked = "user"
        try:
            # Asked to stop before it began: there is nothing to stop, and nothing is started.
            started = self.asked is None and self._patiently(self._spawn, waited=_PASSES)
        except (OSError, ValueError) as err:
            outcome["error"] = system.explain(err, self.job)[:_ERROR_CHARACTERS]
        else:
            if started:
                outcome = self._supervise(self.pid)
                killed = outcome["signal"] == signal.SIGKILL or outcome["exit_code"] == 137
                unasked = self.asked is None and not self.timed_out
                outcome["out_of_memory"] = (
                    killed and unasked and system.oom_kills(self.memory_events) > killed_before
                )
            else:
                self.asked = "user"
        self.began = True
        return {
            "exit_code": None,
            "signal": None,
            "error": None,
            "out_of_memory": False,
            **outcome,
            "stop_requested": self.asked,
            "timed_out": self.timed_out,
            "started_at": system.timestamp(self.began_at or time.time()),
            "ended_at": system.timestamp(time.time()),
            "host": self.identity.get("host"),
            "identity": self.identity,
        }

    def _spawn(self) -> bool:
        job = self.job
        env = {**system.INHERITED, **job["env"], b"HOLDFAST_SESSION": self.mark.encode("ascii")}
        result = env.get(b"HOLDFAST_RESULT")
        # What is there already is no result of this attempt: it would be accepted as one, or be a
        # FIFO that waits for ever, or a link to what must not be overwritten.
        if result is not None and os.path.lexists(result):
            raise ValueError(f"{os.fsdecode(result)} is there already: move it away")
        if job["cwd"] is not None:
            os.chdir(job["cwd"])
        program = system.find_program(
            job["argv"][0], env.get(b"PATH", os.defpath.encode()), job["python"]
        )
        # A Python that is called by a name it cannot find on PATH does not know its environment.
        argv = [program if program == job["python"] else job["argv"][0], *job["argv"][1:]]
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        append |= os.O_NONBLOCK  # a FIFO would wait for its reader for ever
        opened = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
        try:
            for suffix in ("out", "err"):
                opened.append(os.open(f"{job['name']}.{suffix}", append, 0o666, dir_fd=self.dir))
                if not stat.S_ISREG(os.fstat(opened[-1]).st_mode):
                    raise ValueError(f"{job['name']}.{suffix} is not a regular file")
                # Shared with whatever inherits it: proof that something of this attempt still runs,
                # for those who see the file but not its processes (another container).
                with contextlib.suppress(OSError):
                    fcntl.flock(opened[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
            began_at = time.time()
            self.pid = os.posix_spawn(
                program,
                argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(opened)],
                setpgroup=0,
                setsigmask=(),
                setsigdef=system.DEFAULTED,
            )
            self.began, self.began_at = True, began_at
            return True
        finally:
            for fd in opened:
                os.close(fd)
            os.chdir("/")  # not to keep a file system busy that somebody wants to unmount

    def _supervise(self, pid: int) -> "dict[str, Any]":
        if self.job["timeout_s"] is not None:
            signal.setitimer(signal.ITIMER_REAL, min(max(self.job["timeout_s"], 1e-3), _FOREVER_S))
        stopping = False
        while True:
            got = signal.sigwait(WATCHED)
            if got == signal.SIGCHLD:
                done, status, usage = os.wait4(pid, os.WNOHANG)
                if done:
                    break
                continue
            if got == signal.SIGALRM and not stopping:
                self.timed_out = True
            elif got != signal.SIGALRM and not self.timed_out:
                self.asked = "user"
            # A second request to stop does not shorten the grace period; SIGUSR1 does.
            if got == signal.SIGUSR1 or (got == signal.SIGALRM and stopping) or not self.grace_s:
                self.kill_now = self.kill_now or got == signal.SIGUSR1
                system.signal_session(pid, signal.SIGKILL)
            elif not stopping:
                system.signal_session(pid, signal.SIGTERM)
                signal.setitimer(signal.ITIMER_REAL, self.grace_s)
            stopping = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._clear_session(pid)
        code = os.waitstatus_to_exitcode(status)
        return {
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "max_rss_bytes": usage.ru_maxrss * system.RSS_UNIT,
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 6),
        }

    def _clear_session(self, pgid: int) -> None:
        """Whoever sees the outcome may start the next attempt: nothing of this one may be left."""
        grace = 0.0 if self.kill_now else self.grace_s
        for number, patience_s in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILLED_WITHIN_S)):
            deadline = time.monotonic() + patience_s
            told: set[int] = set()
            wait_s = 0.002
            # Again and again: what is stopped may still fork in the meantime.
            while left := system.session_members(pgid):
                for pid in left:
                    if pid not in told or number == signal.SIGKILL:
                        system.signal_member(pid, number)
                told.update(left)
                if time.monotonic() >= deadline or (self.kill_now and number == signal.SIGTERM):
                    break
                self._pause(wait_s)
                wait_s = min(wait_s * 1.5, 0.1)
            else:
                return

    def _pause(self, seconds: float) -> None:
        """Let time pass, but hear who asks to stop what has not begun, or for no more patience."""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            got = signal.sigwait(WATCHED)
            if got == signal.SIGUSR1:
                self.kill_now = True
            elif got in _STOP and not self.began:
                self.asked = "user"
            if got != signal.SIGCHLD:
                break
        signal.setitimer(signal.ITIMER_REAL, 0)

    # --- the outcome

    def _patiently(
        self, step: "Callable[..., bool]", *args: bytes, waited: "set[int]" = _MENDED
    ) -> bool:
        """Do *step* as often as it takes for the disk to be well; False once told to give up.

        Before the command has begun, errors that are not *waited* for are raised, and a request to
        stop is one to give up. Afterwards, its outcome is worth waiting for until somebody asks to
        kill, or has asked: nobody would be left to end that wait.
        """
        while True:
            try:
                return step(*args)
            except OSError as err:
                if err.errno in _HOPELESS if self.began else err.errno not in waited:
                    raise
            # `.live` stays locked meanwhile: nobody can take the attempt for lost.
            if not self.kill_now:
                self._pause(_RETRY_S)
            if self.kill_now or (self.asked and not self.began):
                return False

    def _reserve(self) -> bool:
        temporary, fd = self._temporary()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, _RESERVED_BYTES)
            else:
                os.write(fd, bytes(_RESERVED_BYTES))
        except OSError:
            os.close(fd)
            os.unlink(temporary, dir_fd=self.dir)
            raise
        self.reserved, self.reserved_fd, self.synced = temporary, fd, False
        return True

    def _publish(self, content: bytes) -> bool:
        if self.reserved is None:
            self._reserve()
        assert self.reserved is not None
        if not self.synced:
            try:
                _whole(os.pwrite(self.reserved_fd, content, 0), content)
                os.ftruncate(self.reserved_fd, len(content))
                system.sync(self.reserved_fd)
            except OSError:
                # After a failed fsync a file may look written and not be: it is not used again.
                temporary, self.reserved = self.reserved, None
                os.close(self.reserved_fd)
                os.unlink(temporary, dir_fd=self.dir)
                raise
            self.synced = True
        # A link that finds no room is tried again, with the file that is safely on the disk.
        self._link(self.reserved, self.reserved_fd, f"{self.job['name']}.exit")
        with contextlib.suppress(OSError):
            os.unlink(self.reserved, dir_fd=self.dir)
        # It is seen from now on, and whoever takes it over makes that durable; a second fsync after
        # a failed one would prove nothing.
        with contextlib.suppress(OSError):
            system.sync(self.dir)
        return True


def _whole(written: int, content: bytes) -> None:
    if written != len(content):
        raise OSError(errno.ENOSPC, "short write")  # a disk about to be full writes short first
