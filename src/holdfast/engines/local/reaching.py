"""How to reach a shim that is no child of our starter: proven to be that shim, then woken.

A file alone aims at nobody: who is signalled is who holds the lock of this `.live` in this folder.
What is asked of it is in files beside the attempt, which `hearing` looks for.
"""

import signal
from typing import Final

from holdfast import liveness
from holdfast.attempts.family import Census, holds_lock, send, send_to_marked
from holdfast.attempts.files import live_state, requested
from holdfast.attempts.looking import Running, Undecided, glance
from holdfast.attempts.records import LiveState
from holdfast.engines.contract import Handle
from holdfast.identity import ProcessIdentity
from holdfast.liveness import Observer

__all__ = ["ask"]

_HIGHEST_PID: Final = 1 << 31


def ask(handle: Handle, *, force: bool) -> str:
    """Have the shim of *handle* look for requests at once.

    Where the disk let nobody make a request, the shim is sent TERM like by a stranger, which it
    passes on and which leaves the end unproven: a command that is signalled behind its back may
    catch that, exit with 0, and count as completed. *force*: the command itself is sent KILL. Not
    before it is proven whose it is: a copy of the folder names the processes of the original.

    Returns:
        Why it cannot be reached now; empty if it can, or has ended.

    Raises:
        StateReadError, OSError: Its files cannot be read at this moment.
    """
    seen = glance(handle.folder, handle.name, shim=handle.identity)
    if not isinstance(seen, Running | Undecided):
        return ""
    live = live_state(handle.folder, handle.name)
    # Before it has linked its `.live`, a shim is known only by what the starter said.
    identity = handle.identity if live.kind == "absent" else live.identity
    if identity is None or identity.pid is None:
        return "its `.live` does not say who runs it"
    pid, here = identity.pid, Observer.here()
    if not 1 < pid < _HIGHEST_PID:
        return f"{pid} is no pid"  # 0 and -1 are whole groups to the kernel, and files are forged
    if identity.boot_id != here.boot_id:
        return f"its shim runs on another host, {identity.host or 'without a name'}"
    if identity.pid_namespace != here.pid_namespace:
        return "its shim runs in another container of this host"
    asked = requested(handle.folder, handle.name, force=force) is not None
    if force and not asked:
        return _doubt(handle, live, identity, here) or _kill_command(live)
    doubt = ""

    def still_it() -> bool:
        nonlocal doubt
        doubt = _doubt(handle, live, identity, here)
        return not doubt

    from holdfast.engines.local.hearing import WAKE

    refused = send(pid, WAKE if asked else signal.SIGTERM, still_it)
    return f"its shim, pid {pid}: {refused}" if refused else doubt


def _doubt(handle: Handle, live: LiveState, identity: ProcessIdentity, here: Observer) -> str:
    """Why the pid, which cannot change its owner now, is not proven to be the shim; empty if so."""
    assert identity.pid is not None
    holds = None
    if live.kind == "held":
        holds = holds_lock(identity.pid, live, handle.folder, here)
        if holds is False:
            return f"pid {identity.pid} does not hold the lock of its `.live`"
    if holds or (live.kind == "held" and identity.start_ticks is None):
        return ""  # without a start time (macOS), a lock that somebody holds must do
    # Before it has its lock, without locks and without `/proc`, its identity decides.
    verdict = liveness.judge(identity, observer=here)
    return "" if verdict.kind == "alive" else str(verdict)


def _kill_command(live: LiveState) -> str:
    """Kill everything that shows the mark of the attempt and is not released."""
    # A copy names the mark of the original, and a forgery anybody's.
    mark = None if live.copied else live.mark
    found = [] if mark is None else Census().marked(mark)
    if not found or mark is None:
        return "its disk takes no request, and its command cannot be found"
    refused = [send_to_marked(each, mark, signal.SIGKILL) for each in found]
    return next(filter(None, refused), "")
