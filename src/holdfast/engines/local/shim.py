"""The shim: outlives a dead orchestrator, runs one attempt, and owns the truth about it.

A fork of the starter, in an interpreter without site-packages: the standard library only, and few
modules of it, because every attempt has one of these in memory for as long as it runs. Of what
others wrote it reads one number, a grace period; `holdfast.attempts` reads what it writes.
`hearing` listens, `descendants` knows what the command started, `system` asks the kernel.
"""

import contextlib
import errno
import json
import math
import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.engines.local import (
        descendants,
        hearing,
        holding,
        publishing,
        spawning,
        system,
    )
else:  # in the starter, where there is no package
    import descendants
    import hearing
    import holding
    import publishing
    import spawning
    import system
if TYPE_CHECKING:  # importing typing would double what a shim holds in memory
    from collections.abc import Callable, Sequence
    from mmap import mmap
    from typing import Any

    from holdfast.engines.local import cgroup

# Exit statuses of the shim itself, for the engine's text only.
DONE, NOT_FIRST, GAVE_UP, BROKEN = 0, 3, 4, 70

_ERROR_CHARACTERS = 250  # in ASCII JSON at most twelve bytes each: an outcome fits its reserve
_RETRY_S = 1.0
_REHEARSALS = 10  # by then, Python has specialised what it runs

#: A stop by others that comes so soon after an end may have caused it: then the end proves nothing.
WINDOW_S = 0.5
# What is about to end by itself (`> >(tee log)`) is given a moment to do so. What a shell has just
# forked shows only after its exec that it is released.
_ENDS_WITHIN_S, _EXEC_WITHIN_S = 0.05, 0.5
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1
# What passes: a full disk or quota, a moment without memory, processes or descriptors.
_PASSES = {errno.ENOSPC, errno.EDQUOT, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
# What an administrator mends, while files are waiting to be written.
_MENDED = _PASSES | {errno.EIO, errno.EROFS}
# What nothing mends: the experiment's folder was removed.
_HOPELESS = {errno.ENOENT, errno.ENOTDIR}


class Shim:
    """One attempt, from the right to run it to its published outcome.

    Args:
        job: `name`, `experiment`, `dir`, `argv`, `env`, `cwd`, `timeout_s`, `grace_s`, `python`;
            what the operating system gets is in bytes.
        facts: What does not differ between the shims of one starter: host, machine_id, boot_id,
            pid_namespace.
        shared: What the starter has made once for all its shims.
        slot: Which byte of the shared flags is ours; None if there were too many shims.
        mark: Carried by everything that it starts; names the attempt.
        group: The cgroup that we were born in, and nothing but us yet; None where there is none.
        slots: Descriptors of the slots that it holds.
    """

    def __init__(
        self,
        job: "dict[str, Any]",
        facts: "dict[str, Any]",
        shared: "Shared",
        slot: int | None,
        mark: str,
        group: "cgroup.Cgroup | None" = None,
        slots: "Sequence[int]" = (),
    ) -> None:
        self.job = job
        self.shared = shared
        self.grace_s = max(0.0, float(job["grace_s"]))
        self.dir = os.open(job["dir"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.hearing = hearing.Hearing(self.dir, job["name"], shared.flags, slot)
        self.publisher = publishing.Publisher(self.dir, job["name"])
        adopts = shared.adopt is not None and shared.adopt()
        self.family = descendants.Family(adopts=adopts, group=group)
        self.mark = mark
        self.group = group
        self.slots = slots
        self.identity = {
            **{key: value for key, value in facts.items() if value is not None},
            "pid": os.getpid(),
            "start_ticks": system.start_ticks("self"),
            "locked": True,
        }
        # What is known of the end.
        self.error: str | None = None
        self.asked: str | None = None
        self.interrupted_by: int | None = None
        self.timed_out = False
        self.out_of_memory = self.perhaps_memory = False
        self.killed_since = 0.0
        self.stopped: list[list[int | str]] = []
        self.left: list[list[int | str | None]] = []
        # Times: wall clock for people, monotonic for decisions.
        self.began_at = self.ended_at = 0.0
        self.began = self.ended = math.inf
        self.kill_at = self.give_up_at = math.inf
        self.told: set[tuple[int, int]] = set()
        self.signalled: dict[int, descendants.Member] = {}
        self.over = False

    def main(self) -> int:
        """Run it and return the shim's exit status; every signal is blocked already."""
        os.setsid()
        if not self._patiently(self._become_live):
            return NOT_FIRST
        # Before the command runs: an outcome that finds no room would be lost with the shim.
        if not self._patiently(self.publisher.reserve):
            return GAVE_UP
        if self.slots and not self._patiently(lambda: holding.sign(self.slots, self._holder())):
            return GAVE_UP
        self._execute()
        # What could not be stopped holds them still, and is found by the mark that they name.
        if self.slots and not self.left:
            holding.let_go(self.slots)
        self.over = True
        return DONE if self._conclude() else GAVE_UP

    # --- what is heard

    def _hear(self, until: float) -> bool:
        """Sleep until then, or until something is heard; whether a stranger's stop was."""
        heard_before = self.hearing.heard_at
        stop = self.hearing.listen(until)
        # It came at any time since we last listened: our sleep must not make it too late to count.
        if stop is None or heard_before > self.ended + WINDOW_S:
            return False
        # The first one counts, and none after our own timer: that has ended it, and is no doubt.
        if self.interrupted_by is None and not self.timed_out:
            self.interrupted_by = stop
        return True

    def _given_up(self) -> bool:
        """Whether nobody wants to wait any longer: for its start, or for room for its outcome."""
        level = self.hearing.requested()
        if self.over:
            return level == hearing.KILL
        if level:
            self.asked = "user"
        return self.asked is not None or self.interrupted_by is not None

    # --- the right to run

    def _become_live(self) -> bool:
        live = self._named()
        begun = self.publisher.become_live(
            lambda locked, inode: _bytes({**live, "locked": locked, "inode": inode})
        )
        self.identity["locked"] = self.publisher.locked
        return begun

    def _named(self) -> "dict[str, Any]":
        """Which attempt it is, who we are, and how everything that it starts is found."""
        named = {
            **self.identity,
            "mark": self.mark,
            "attempt": self.job["name"],
            "experiment": self.job["experiment"][:_ERROR_CHARACTERS],
            "started_at": system.timestamp(time.time()),
        }
        if self.group is not None:
            named["cgroup"] = self.group.address
        return named

    def _holder(self) -> bytes:
        return _bytes({**self._named(), "dir": os.fsdecode(self.job["dir"])})

    # --- the command

    def _execute(self) -> None:
        kills, clock = system.oom_kills(self.shared.memory_events), system.log_clock()
        self._hear(0.0)
        try:
            # Asked to stop before it began: there is nothing to stop, and nothing is started.
            started = not self._given_up() and self._patiently(self._spawn, waited=_PASSES)
        except (OSError, ValueError) as err:
            self.error = spawning.explain(err, self.job)[:_ERROR_CHARACTERS]
            started = False
        if started:
            self._supervise()
        self.ended_at = time.time()
        if not started:
            return
        self.ended = time.monotonic()
        self._hear(0.0)  # what is pending now may have ended it
        killed = self._status() in (-signal.SIGKILL, 137) and not self._stopping
        self._clear()
        if killed and self.group is not None and self.group.memory_kills():
            self.out_of_memory = True
        elif killed and system.oom_kills(self.shared.memory_events) > kills:
            self.perhaps_memory = True
            self.killed_since = clock

    def _spawn(self) -> bool:
        self.began, self.began_at = time.monotonic(), time.time()
        self.family.command = spawning.spawn(self.job, self.mark, self.dir)
        return True

    def _supervise(self) -> None:
        """Until the command has ended, or cannot be stopped."""
        timeout_s = self.job["timeout_s"]
        timer = math.inf if timeout_s is None else self.began + timeout_s
        while True:
            heard = self._hear(min(timer, self.kill_at, self.give_up_at, self.hearing.look_at))
            level = self.hearing.requested()
            now = time.monotonic()
            # Last: what ended before our timer or our request was heard did not end by it, however
            # long this process has slept.
            if self.family.reap():
                break
            for number in self.hearing.warnings:
                self.family.pass_on(number)
            self.hearing.warnings.clear()
            if level and not self.timed_out:
                self.asked = "user"
            if now >= timer:
                timer = math.inf
                self.timed_out = not self.asked and not self.interrupted_by
            if now >= self.give_up_at:
                break
            # A second request to stop does not shorten the grace period.
            if level == hearing.KILL or now >= self.kill_at:
                self._kill(now)
            elif (heard or level or self.timed_out) and not self._stopping:
                self._stop(now)

    @property
    def _stopping(self) -> bool:
        return self.kill_at < math.inf

    def _stop(self, now: float) -> None:
        grace_s = self.grace_s if self.hearing.grace_s is None else self.hearing.grace_s
        self.kill_at = now + grace_s
        if grace_s:
            self._term()
        else:
            self._kill(now)

    def _term(self) -> None:
        """What has been told already is not told again; what was forked since is."""
        for member in self.family.signal(signal.SIGTERM, self.told):
            self.signalled[member[0]] = member

    def _kill(self, now: float) -> None:
        if self.give_up_at == math.inf:
            self.give_up_at = now + descendants.KILLED_WITHIN_S
        # Again and again: what is killed may have forked before, and its children come to us.
        self.kill_at = now + _LONGEST_PAUSE_S
        for member in self.family.signal(signal.SIGKILL, set()):
            self.told.add((member[0], member[5]))
            self.signalled[member[0]] = member

    def _clear(self) -> None:
        """End what is left: once the outcome is visible, the next attempt may start."""
        pause_s = _SHORTEST_PAUSE_S
        while self.family.anything_left():
            now = time.monotonic()
            if now >= self.give_up_at:
                self.left = self.family.left()
                break
            patience_s = _EXEC_WITHIN_S if self.family.unsettled else _ENDS_WITHIN_S
            if self.hearing.requested() == hearing.KILL or now >= self.kill_at:
                self._kill(now)
            elif self._stopping:
                self._term()
            elif now >= self.ended + patience_s:
                self._stop(now)
            self._hear(min(now + pause_s, self.kill_at))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        self.family.let_go()
        self.signalled.pop(self.family.command, None)
        self.stopped = descendants.named(self.signalled.values())

    # --- the outcome

    def _patiently(self, step: "Callable[[], bool]", waited: "set[int]" = _MENDED) -> bool:
        """Do *step* as often as it takes for the disk to be well; False once told to give up.

        Before the command has begun, errors that are not *waited* for are raised, and a request to
        stop is one to give up. Afterwards, its outcome is worth waiting for until somebody asks to
        kill, or has asked: nobody would be left to end that wait.
        """
        while True:
            try:
                return step()
            except OSError as err:
                if err.errno in _HOPELESS if self.over else err.errno not in waited:
                    raise
            # `.live` stays locked meanwhile: nobody can take the attempt for lost.
            retry_at = time.monotonic() + _RETRY_S
            while time.monotonic() < retry_at:
                if self._given_up():
                    return False
                self._hear(min(retry_at, self.hearing.look_at))

    def _conclude(self) -> bool:
        """Publish the outcome once nothing can make it doubtful any more."""
        self._look_for_proof()
        if not self._patiently(lambda: bool(self.publisher.save(self._content()))):
            return False
        if not self.left and self._doubtful:
            # The outcome is safe, and nothing runs any more: another attempt may have the place.
            with contextlib.suppress(OSError):
                # Eight bytes that no other shim's can come between.
                clean = int(self._status() == 0)
                told = os.getpid().to_bytes(4, "big") + clean.to_bytes(4, "big")
                os.write(self.shared.completing, told)
        while self._doubtful and time.monotonic() < self.ended + WINDOW_S:
            self._hear(self.ended + WINDOW_S)
        self._hear(0.0)
        self._look_for_proof()
        return self._patiently(lambda: self.publisher.publish(self._content()))

    def _look_for_proof(self) -> None:
        """Ask the kernel's log, which may lag behind the death."""
        pids = [self.family.command, *self.family.killed]
        if self.perhaps_memory and system.killed_for_memory(pids, self.killed_since):
            self.out_of_memory, self.perhaps_memory = True, False

    @property
    def _doubtful(self) -> bool:
        """Whether a stranger's signal that comes yet would tell that the end proves nothing."""
        family = self.family
        # Nothing changes what was not started, or is known to have been stopped.
        if self.ended == math.inf or self.asked or self.timed_out or self.interrupted_by:
            return False
        # So short, without a child that could have died of it, and without a fault: it was not
        # signalled. A longer one may have caught the signal, and have come to its end in order.
        spared = (
            family.status == 0
            and self.ended - self.began < WINDOW_S
            and family.childless
            and not family.orphan_died_of_signal
        )
        return not spared

    def _content(self) -> bytes:
        status = self._status()
        outcome = {
            "exit_code": status if status is not None and status >= 0 else None,
            "signal": -status if status is not None and status < 0 else None,
            "error": self.error,
            "out_of_memory": self.out_of_memory,
            "perhaps_memory": self.perhaps_memory,
            "stop_requested": self.asked,
            "interrupted_by": self.interrupted_by,
            "timed_out": self.timed_out,
            "stopped": self.stopped,
            "left": self.left,
            "started_at": system.timestamp(self.began_at or self.ended_at),
            "ended_at": system.timestamp(self.ended_at),
            "host": self.identity.get("host"),
            "identity": self.identity,
        }
        if status is not None:
            outcome["max_rss_bytes"] = self.family.max_rss * system.RSS_UNIT
            outcome["cpu_s"] = round(self.family.cpu_s, 6)
        return _bytes(outcome)

    def _status(self) -> int | None:
        """Exit code, or minus the signal, of the command; None if it never ran, or runs still."""
        status = self.family.status
        return None if status is None else os.waitstatus_to_exitcode(status)


class Shared:
    """What a starter makes once and all its shims inherit.

    Attributes:
        flags: Memory, a byte for each shim: what the starter asks of it.
        completing: Descriptor to which a shim writes its pid when nothing of its attempt runs, and
            whether its command ended with exit code 0.
        adopt: From `descendants.adoption`.
        memory_events: From `system.memory_events`.
    """

    def __init__(self, flags: "bytearray | mmap", completing: int) -> None:
        self.flags = flags
        self.completing = completing
        self.adopt = descendants.adoption()
        self.memory_events = system.memory_events()


def rehearse(facts: "dict[str, Any]", shared: Shared) -> "list[int]":
    """Do in the parent of shims what each of them does, as far as that leaves no trace.

    Whatever Python caches on the way, its shims inherit. Otherwise each would look it up again, and
    write it to memory that the kernel has to copy first.

    Returns:
        The signals that came meanwhile, which nobody else will hear.
    """
    heard: list[int] = []
    parent = _has_children()
    job = {"name": "", "experiment": "", "dir": "/", "grace_s": 0.0, "argv": [b"true"], "env": {}}
    adopt, shared.adopt = shared.adopt, None  # the starter itself adopts nobody
    try:
        for _ in range(_REHEARSALS):
            one = Shim(job, facts, shared, None, "")
            one.family.adopts = True
            # A batch script may have left us children, which are no part of any attempt.
            one.family.empty = parent
            one._hear(0.0)
            heard += [*filter(None, [one.interrupted_by]), *one.hearing.warnings]
            one._given_up()
            one._clear()
            one._content()
            system.oom_kills(shared.memory_events)
            spawning.find_program(b"python", spawning.INHERITED.get(b"PATH", b""), b"")
            os.close(one.dir)
    except OSError:
        pass  # every shim meets it, and says so where somebody hears
    finally:
        shared.adopt = adopt
    return heard


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _bytes(content: "dict[str, Any]") -> bytes:
    return json.dumps(content).encode("ascii")
