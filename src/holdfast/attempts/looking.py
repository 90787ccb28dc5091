"""What became of an attempt: ended, running, never begun, gone, or unknown.

`look` reads the files of an attempt, its lock and its processes, and touches nothing: the loop,
`show`, a dry run, the doctor and a delete all ask here. Owns the order of the looks, in which every
gap between two of them is closed. `holdfast.attempts.settling` acts on what is found.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from holdfast import liveness
from holdfast.attempts import cgroups
from holdfast.attempts.cgroups import Cgroup
from holdfast.attempts.family import Census, confined, holds_lock
from holdfast.attempts.files import live_state, output_held, output_inodes, read_exit
from holdfast.attempts.names import AttemptName
from holdfast.attempts.records import ExitRecord, LiveState, Process
from holdfast.errors import StateCorruptError
from holdfast.identity import LockState, ProcessIdentity, Verdict
from holdfast.liveness import Observer

__all__ = [
    "Ended",
    "Gone",
    "Look",
    "Running",
    "Unbegun",
    "Undecided",
    "glance",
    "listed",
    "look",
    "survivors",
]

#: To the kernel, 0 and -1 are whole groups of processes, and files can be forged.
_HIGHEST_PID: Final = 1 << 31


@attrs.frozen
class Ended:
    """Its outcome is published, and nothing of it runs any more."""

    record: ExitRecord


@attrs.frozen
class Running:
    """Its shim lives: take it over, never start a second."""

    identity: ProcessIdentity | None
    verdict: Verdict


@attrs.frozen
class Unbegun:
    """It has no files yet, and could begin at any moment until it is revoked."""

    evidence: str = "it never began"


@attrs.frozen
class Gone:
    """It left no outcome and cannot come back.

    Attributes:
        leftovers: What it started and still runs; it must be stopped before anything follows.
        mark: What they carry.
        cgroup: What they are in, if anything is known of that; also if there are none.
    """

    evidence: str
    leftovers: tuple[Process, ...] = ()
    mark: str | None = None
    cgroup: Cgroup | None = None


@attrs.frozen
class Undecided:
    """Nothing can be proven from here: it must not be started again.

    Attributes:
        ended: Its outcome, where only what its shim could not stop is in doubt.
        distant: Whether it is only too far away: on another host, or in another pid namespace. What
            runs it can know better, then.
    """

    verdict: Verdict
    identity: ProcessIdentity | None = None
    ended: ExitRecord | None = None
    distant: bool = False

    @property
    def evidence(self) -> str:
        """Why, for people."""
        return str(self.verdict)


Look = Ended | Running | Unbegun | Gone | Undecided


def look(
    folder: Path,
    name: AttemptName,
    *,
    shim: ProcessIdentity | None = None,
    census: Census | None = None,
    observer: Observer | None = None,
) -> Look:
    """What became of the attempt, as far as it can be seen at this moment.

    Args:
        shim: Who was recorded as its shim; tells where somebody removed the attempt's files.
        census: A snapshot of all processes, to share among attempts that are checked together.

    Raises:
        StateReadError: Its files cannot be read at this moment, which says nothing about it.
    """
    here = observer or Observer.here()
    found, live = _glance(folder, name, shim, here)
    if isinstance(found, Gone) and live is not None and live.kind != "revoked":
        return _family(folder, name, live, census or Census(here), here)
    return found


def glance(folder: Path, name: AttemptName, *, shim: ProcessIdentity | None = None) -> Look:
    """As `look`, but without a search for what a dead shim left: for who only watches the shim.

    Raises:
        StateReadError: As for `look`.
    """
    return _glance(folder, name, shim, Observer.here())[0]


def _glance(
    folder: Path, name: AttemptName, shim: ProcessIdentity | None, here: Observer
) -> tuple[Look, LiveState | None]:
    ended = _ended(folder, name, here)
    if ended is not None:
        return ended, None
    live = live_state(folder, name)
    if live.kind in ("absent", "revoked"):
        # Somebody may have removed its files while it ran. A late shim sees that it was revoked.
        verdict = None if shim is None else liveness.judge(shim, observer=here)
        if verdict is not None and verdict.kind == "alive":
            return _doubt(verdict, f"its files are gone, yet {shim} runs", shim), live
        if live.kind == "absent":
            return Unbegun(), live
        return Gone("it was revoked before it began"), live
    verdict = _of_shim(live, here)
    found = _living(folder, live, verdict, here) if verdict.kind == "alive" else None
    if isinstance(found, Running):
        return found, live
    # It may have published, or died, between two of our looks.
    ended = _ended(folder, name, here)
    if ended is not None:
        return ended, live
    if found is not None:
        if live_state(folder, name).kind != live.kind:
            return _glance(folder, name, shim, here)
        return found, live
    if verdict.kind == "unknown":
        return Undecided(verdict, live.identity, distant=_is_distant(live.identity, here)), live
    return Gone(str(verdict)), live


def _is_distant(who: ProcessIdentity | None, here: Observer) -> bool:
    """Whether nothing of it could be seen from here; also if nobody knows where it ran."""
    return who is None or not here.shares_pids_with(who)


def _of_shim(live: LiveState, here: Observer) -> Verdict:
    lock: LockState | None = live.kind if live.kind in ("held", "free") else None
    verdict = liveness.judge(live.identity, lock=lock, observer=here)
    if live.kind == "free" and live.identity is None:
        torn = "its lock is free, `.live` was torn"
        verdict = attrs.evolve(verdict, kind="dead", method="lock", compared=torn)
    return verdict


def _ended(folder: Path, name: AttemptName, here: Observer) -> Look | None:
    try:
        record = read_exit(folder, name)
    except StateCorruptError as err:
        # A shim links only whole records, as the last thing that it does: who lives did not write
        # this, and runs on. Else it proves that the attempt ended and nothing more.
        if live_state(folder, name).kind == "held":
            return None
        record = ExitRecord(error=str(err).splitlines()[0])
    if record is None:
        return None
    left = _left(record, here)
    if not left:
        return Ended(record)
    words = f"it ended, but processes that it started could not be stopped: {listed(left)}"
    return Undecided(
        Verdict(kind="unknown", method="pid", compared=words, observer=str(here)),
        record.identity,
        ended=record,
        distant=_is_distant(record.identity, here),
    )


def _left(record: ExitRecord, here: Observer) -> tuple[Process, ...]:
    """Of what the shim could not stop, all that is not proven to have ended since."""
    shim = record.identity
    if shim is None:
        return ()

    def is_over(each: Process) -> bool:
        # Of another container, of another host, or without a start time (macOS), nothing is proven.
        who = attrs.evolve(shim, pid=each.pid, start_ticks=each.start_ticks, locked=False)
        return liveness.judge(who, observer=here).kind == "dead"

    return tuple(each for each in record.left if not is_over(each))


def _living(folder: Path, live: LiveState, verdict: Verdict, here: Observer) -> Look:
    identity = live.identity
    if live.kind != "held" or identity is None or identity.pid is None:
        return Running(identity, verdict)
    if not here.shares_pids_with(identity):
        return Running(identity, verdict)
    if not 1 < identity.pid < _HIGHEST_PID:
        return _doubt(verdict, f"but not by {identity}, which can be no shim", identity)
    if liveness.judge(identity, observer=here).kind == "dead":
        return _doubt(verdict, f"but not by {identity}, which is gone", identity)
    if holds_lock(identity.pid, live, folder, here) is False:
        asked = "is this a copy of a running experiment?"
        return _doubt(
            verdict, f"but not by {identity} at work in this directory: {asked}", identity
        )
    return Running(identity, verdict)


def _family(
    folder: Path, name: AttemptName, live: LiveState, census: Census, here: Observer
) -> Look:
    """What a dead shim left, whatever session it made."""
    identity, verdict = live.identity, _of_shim(live, here)
    evidence = str(verdict)
    if identity is not None and identity.boot_id not in (None, here.boot_id):
        return Gone(evidence)  # the machine was restarted since: nothing can be left
    if identity is not None and live.mark is not None:
        if liveness.judge(identity, observer=here).kind == "alive":
            # The kernel frees the locks of a process a moment before it is gone. Else it never
            # locked this file: what runs belongs to the original, of which this is a copy.
            asked = "is this a copy of a running experiment?"
            return _doubt(verdict, f"yet {identity} runs: {asked}", identity)
        cgroup = cgroups.of_mark(live.cgroup, live.mark)
        left, all_seen = survivors(live.mark, cgroup, census, here)
        if left and live.copied:
            # From another pid namespace its shim cannot be seen, or it died: they are not ours.
            words = f"but {listed(left)} belong to the experiment that this is a copy of"
            return _doubt(verdict, words, identity)
        # What a copy names is the original's affair.
        cgroup = None if live.copied else cgroup
        if left or all_seen:
            return Gone(evidence, tuple(left), live.mark, cgroup)
        if cgroup is not None and cgroup.populated():
            return _doubt(verdict, "but something unseen from here is in its cgroup", identity)
        hidden = census.doubtful(identity)
        if hidden:
            words = f"but these processes may be what it left, and do not show it: {listed(hidden)}"
            return _doubt(verdict, words, identity)
    held = output_held(folder, name)
    elsewhere = identity is None or identity.pid_namespace != here.pid_namespace
    if held is None and elsewhere:
        words = "but whether what it started still runs is unknown from here"
        return attrs.evolve(_doubt(verdict, words, identity), distant=True)
    if held:
        inodes = output_inodes(folder, name)
        holders = dict(each for inode in inodes for each in census.holders(inode))
        # A daemon that is meant to be shared may have kept what it was started with.
        if holders and all(holders.values()) and not elsewhere:
            return Gone(evidence)
        who = listed(each for each, released in holders.items() if not released)
        words = f"but {who or 'a process that cannot be found'} still holds its output"
        return _doubt(verdict, words, identity)
    return Gone(evidence)


def survivors(
    mark: str, cgroup: Cgroup | None, census: Census, here: Observer
) -> tuple[list[Process], bool]:
    """What lives of a dead shim's attempt, and whether that is all: nothing could hide."""
    members, all_seen = ([], False) if cgroup is None else _members(cgroup, here)
    known = {each.pid for each in members}
    return members + [each for each in census.marked(mark) if each.pid not in known], all_seen


def _members(cgroup: Cgroup, here: Observer) -> tuple[list[Process], bool]:
    """Who is in the cgroup of a dead shim, and whether that is all: nothing leaves it unseen."""
    if cgroup.populated() is False:
        return [], True
    members, released = confined(cgroup, here)
    if released and not members:
        return [], not cgroup.unseen()
    return members, cgroup.populated() is False  # what was just ending may have ended


def _doubt(verdict: Verdict, but: str, identity: ProcessIdentity | None) -> Undecided:
    """It is not as clear as *verdict* says."""
    words = f"{verdict.compared}; {but}"
    return Undecided(attrs.evolve(verdict, kind="unknown", compared=words), identity)


def listed(processes: Iterable[Process]) -> str:
    """`123 (python), 124 (sh)`."""
    return ", ".join(map(str, processes))
