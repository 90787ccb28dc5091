"""What became of an attempt that nobody watched: ended, running, dead, or not to be told from here.

Owns the order of the looks, in which every gap between two of them is closed.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

from holdfast import liveness, sessions
from holdfast.attempts import (
    AttemptName,
    ExitRecord,
    has_exit,
    live_state,
    names,
    output_held,
    read_exit,
    revoke,
)
from holdfast.identity import ProcessIdentity, Verdict

__all__ = ["Dead", "Exited", "Judgement", "Running", "Undecided", "judge", "survivors"]

_PAUSE_S: Final = 0.01
_LET_GO_WITHIN_S: Final = 1.0
_GONE_WITHIN_S: Final = 2.0


@attrs.frozen
class Exited:
    """The attempt is over; adopt its outcome."""

    record: ExitRecord


@attrs.frozen
class Running:
    """The attempt runs; adopt it, never start a second."""

    identity: ProcessIdentity | None
    evidence: str


@attrs.frozen
class Dead:
    """The attempt left no outcome and cannot come back; nothing of it runs any more."""

    evidence: str


@attrs.frozen
class Undecided:
    """Nothing can be proven from here: do not start it again."""

    evidence: str
    verdict: Verdict | None = None


Judgement = Exited | Running | Dead | Undecided


def judge(
    folder: Path,
    name: AttemptName,
    *,
    grace_s: float,
    shim: ProcessIdentity | None = None,
    before_acting: Callable[[], None] = lambda: None,
    observer: liveness.Observer | None = None,
) -> Judgement:
    """What became of an attempt that is recorded as running and that nobody watched.

    May act: it revokes an attempt that never began, and stops what a dead shim left running
    (TERM, *grace_s* seconds, KILL).

    Args:
        shim: Who was recorded as its shim; tells where somebody removed the attempt's files.
        before_acting: Called before either; what it raises keeps it from being done.

    Raises:
        StateCorruptError: `.exit` is there but no exit record.
        StateWriteError: The attempt could not be revoked, or `.exit` not be read.
    """
    while True:
        record = read_exit(folder, name)
        if record is not None:
            return Exited(record)
        live = live_state(folder, name)
        if live.kind == "absent":
            before_acting()
            if revoke(folder, name):
                return _never_began(shim, "it never began, and was revoked", observer)
            continue  # a shim was first: look again
        if live.kind == "revoked":
            return _never_began(shim, "it was revoked before it began", observer)
        lock = live.kind if live.kind in ("held", "free") else None
        verdict = liveness.judge(live.identity, lock=lock, observer=observer)
        if live.kind == "free" and live.identity is None:
            verdict = attrs.evolve(
                verdict, kind="dead", method="lock", compared="its lock is free, `.live` was torn"
            )
        if verdict.kind == "alive":
            return Running(live.identity, str(verdict))
        # It may have published between our first look and its end.
        record = read_exit(folder, name)
        if record is not None:
            return Exited(record)
        if verdict.kind == "unknown":
            return Undecided(str(verdict), verdict)
        return _bury(folder, name, live.identity, verdict, grace_s, before_acting, observer)


def _never_began(
    shim: ProcessIdentity | None, evidence: str, observer: liveness.Observer | None
) -> Judgement:
    """Dead, unless the shim lives all the same: a late one sees that it was revoked, and ends."""
    deadline = time.monotonic() + _GONE_WITHIN_S
    while shim is not None:
        verdict = liveness.judge(shim, observer=observer)
        if verdict.kind != "alive":
            break
        if time.monotonic() >= deadline:
            return _doubt(verdict, "its files are gone: stop that process, if it is not needed")
        time.sleep(_PAUSE_S)
    return Dead(evidence)


def survivors(
    folder: Path, experiment_id: str
) -> Iterator[tuple[AttemptName, ProcessIdentity | None, Verdict]]:
    """The attempts that are not proven to be over, each with what is known of it.

    Only looks: nothing is stopped or revoked.

    Raises:
        StateWriteError: That cannot be told at this moment.
    """
    for name in names(folder, experiment_id):
        live = live_state(folder, name)
        if live.kind in ("absent", "revoked"):
            continue
        lock = live.kind if live.kind in ("held", "free") else None
        verdict = liveness.judge(live.identity, lock=lock)
        if verdict.kind != "dead" and not has_exit(folder, name):
            yield name, live.identity, verdict


def _bury(
    folder: Path,
    name: AttemptName,
    identity: ProcessIdentity | None,
    verdict: Verdict,
    grace_s: float,
    before_acting: Callable[[], None],
    observer: liveness.Observer | None,
) -> Judgement:
    here = observer or liveness.Observer.here()
    if identity is None or (
        verdict.method == "lock" and identity.pid_namespace != here.pid_namespace
    ):
        # Another container of this machine: its processes cannot be seen from here, nor stopped.
        held = output_held(folder, name)
        if held is None:
            return _doubt(verdict, "whether what it started still runs cannot be told from here")
        if held:
            return _doubt(verdict, "what it started still holds its output")
        return Dead(str(verdict))
    if sessions.leader_lives(identity, observer=here):
        # It never locked this file: the experiment was copied while it ran. What runs belongs to
        # the original, and stopping it as a leftover would fail the original's attempt.
        words = f"{verdict.compared}, yet {identity} runs: is this a copy of a running experiment?"
        doubt = attrs.evolve(verdict, kind="unknown", compared=words)
        return Undecided(str(doubt), doubt)
    before_acting()
    found, left = sessions.stop_session(identity, grace_s, observer=observer)
    if left:
        return _doubt(verdict, f"processes it left cannot be stopped: {_list(left)}")
    unread = sessions.doubtful_members(identity, observer=here)
    if unread:
        words = f"these processes may be what it left, and do not show it: {_list(unread)}"
        return _doubt(verdict, words)
    if _stays_held(folder, name):
        return _doubt(verdict, "a process that cannot be found still holds its output")
    stopped = f"; processes it left were stopped: {_list(found)}" if found else ""
    return Dead(f"{verdict}{stopped}")


def _doubt(verdict: Verdict, but: str) -> Undecided:
    """It is not as clear as *verdict* says."""
    doubt = attrs.evolve(verdict, kind="unknown", compared=f"{verdict.compared}; but {but}")
    return Undecided(str(doubt), doubt)


def _stays_held(folder: Path, name: AttemptName) -> bool:
    """Whether somebody has the attempt's output open, and not only for a moment.

    The threads of a process that was killed let go of its files one after the other.
    """
    deadline = time.monotonic() + _LET_GO_WITHIN_S
    while output_held(folder, name):
        if time.monotonic() >= deadline:
            return True
        time.sleep(_PAUSE_S)
    return False


def _list(pids: Iterable[int]) -> str:
    return ", ".join(map(str, pids))
