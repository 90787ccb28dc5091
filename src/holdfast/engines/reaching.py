"""How to reach a shim that is no child of our starter: proven to be that shim, then woken.

A file alone aims at nobody: who is signalled is who holds the lock of this `.live` in this folder.
What is asked of it is in files beside the attempt, which `holdfast.engines.hearing` looks for.
"""

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from holdfast import attempts as files
from holdfast import liveness, sessions
from holdfast.engines import Handle
from holdfast.identity import ProcessIdentity

__all__ = ["ask"]

_MAX_BYTES: Final = 64 * 1024


def ask(handle: Handle, *, force: bool) -> str | None:
    """Have the shim of *handle* look for requests at once.

    Where the disk let nobody make a request, the command is signalled itself: TERM, *force*: KILL.

    Returns:
        Why it cannot be reached now; None if it can, or has ended.
    """
    live = files.live_state(handle.folder, handle.name)
    if live.kind in ("revoked", "free") or files.has_exit(handle.folder, handle.name):
        return None
    # Before it has linked its `.live`, a shim is known only by what the starter said.
    identity = handle.identity if live.kind == "absent" else live.identity
    if identity is None:
        return None if live.kind == "absent" else "its .live does not say who runs it"
    why = _elsewhere(identity)
    if why is not None:
        return why
    pid = identity.pid
    if pid is None or not 1 < pid < 1 << 31:
        return (
            f"{pid} is no pid"  # 0 and -1 are whole groups to the kernel, and files can be forged
        )
    with _pinned(pid) as pinned:
        # Proven once it is pinned: its pid may have been another's before.
        why = _doubt(handle, identity, held=live.kind == "held")
        if why is not None:
            return None if _has_ended(handle) else why
        if not _requested(handle, force=force):
            return _signal_command(handle, signal.SIGKILL if force else signal.SIGTERM)
        return _send(pid, pinned, (_wake(), signal.SIGCONT))


def _wake() -> int:
    from holdfast.engines.hearing import WAKE

    return WAKE


def _has_ended(handle: Handle) -> bool:
    if files.has_exit(handle.folder, handle.name):
        return True
    return files.live_state(handle.folder, handle.name).kind == "free"


def _elsewhere(identity: ProcessIdentity) -> str | None:
    me = liveness.me()
    if identity.boot_id != me.boot_id:
        return f"its shim runs on another host, {identity.host or 'without a name'}"
    if identity.pid_namespace != me.pid_namespace:
        return "its shim runs in another container of this host"
    return None


def _doubt(handle: Handle, identity: ProcessIdentity, *, held: bool) -> str | None:
    """Why that pid, which cannot change its owner now, is not proven to be the shim."""
    pid = identity.pid
    assert pid is not None
    if not held or liveness.Observer.here().proc is None:
        # Without locks, or before it has one, its identity decides; without `/proc` (macOS), that
        # somebody holds the lock has to do where the start time cannot be told.
        if held and identity.start_ticks is None:
            return None
        verdict = liveness.judge(identity)
        return None if verdict.kind == "alive" else str(verdict)
    try:
        folder = os.stat(files.attempts_dir(handle.folder))
        live = os.stat(files.attempts_dir(handle.folder) / f"{handle.name}.live")
        opened = _opened(pid)
    except PermissionError:
        return f"pid {pid} belongs to another user"
    except OSError as err:
        return f"pid {pid} cannot be looked at: {err.strerror}"
    # A copy of the folder has the same file under another name (`cp -al`): both must be the shim's.
    in_folder = any(os.path.samestat(each, folder) for each in opened.values())
    locks = any(os.path.samestat(each, live) and _locked(pid, fd) for fd, each in opened.items())
    return None if in_folder and locks else f"pid {pid} does not hold the lock of its .live"


def _opened(pid: int) -> Mapping[str, os.stat_result]:
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[fd] = os.stat(f"/proc/{pid}/fd/{fd}")
    return found


def _locked(pid: int, fd: str) -> bool:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_bytes().splitlines():
            if line.startswith(b"lock:") and b" FLOCK " in line and b" WRITE " in line:
                return True
    return False


def _requested(handle: Handle, *, force: bool) -> bool:
    stem = files.attempts_dir(handle.folder) / str(handle.name)
    return any(os.path.lexists(f"{stem}.{each}") for each in ["kill", *["stop"] * (not force)])


# --- the command itself, where no request could be made


def _signal_command(handle: Handle, number: int) -> str | None:
    """Send *number* to everything that shows the mark of the attempt and is not released."""
    mark = _mark(handle)
    if mark is None:
        return "its disk takes no request, and its .live has no mark to find its command by"
    observer = liveness.Observer.here()
    found, refused = False, None
    for pid in observer.pids():
        if pid == observer.pid or not _marked(pid, mark, observer):
            continue
        with _pinned(pid) as pinned:
            if _marked(pid, mark, observer):
                found = True
                both = (number, signal.SIGCONT) if number == signal.SIGTERM else (number,)
                refused = _send(pid, pinned, both) or refused
    return refused if found else "its disk takes no request, and its command cannot be found"


def _mark(handle: Handle) -> str | None:
    plain: Any = None
    path = files.attempts_dir(handle.folder) / f"{handle.name}.live"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            plain = json.loads(os.read(fd, _MAX_BYTES))
        finally:
            os.close(fd)
    mark = plain.get("mark") if isinstance(plain, dict) else None
    return mark if isinstance(mark, str) and len(mark) == 32 else None


def _marked(pid: int, mark: str, observer: liveness.Observer) -> bool:
    for entry in observer.environment(pid) or ():
        name, _, value = entry.partition("=")
        if name == sessions.SESSION_VARIABLE:
            return mark in value.split(":")
    return False


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A descriptor of the process; None where there is no such thing."""
    opener = getattr(os, "pidfd_open", None)
    fd: int | None = None
    if opener is not None:
        with contextlib.suppress(OSError):  # old kernels, seccomp, no descriptors left
            fd = opener(pid)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _send(pid: int, pinned: int | None, numbers: tuple[int, ...]) -> str | None:
    """Send *numbers* to *pid*; why it cannot be."""
    sender = getattr(signal, "pidfd_send_signal", None)
    try:
        for number in numbers:
            if pinned is not None and sender is not None:
                sender(pinned, number)
            else:
                os.kill(pid, number)
    except PermissionError:
        return f"pid {pid} belongs to another user"
    except ProcessLookupError:
        return None
    return None
