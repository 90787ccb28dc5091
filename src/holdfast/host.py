"""What this host, its boot and our pid namespace are called: one answer wherever holdfast runs.

The standard library only, and little of it: it serves what runs on a node, too.
"""

import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["facts", "has_proc"]

_MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")


def facts() -> "dict[str, Any]":
    """`host`, `machine_id`, `boot_id`, `pid_namespace`; None for what nobody can say."""
    namespace = None
    if sys.platform == "darwin":
        machine_id, boot_id = _darwin_ids()
    else:
        machine_id = next(filter(None, map(_text, _MACHINE_ID_FILES)), None)
        boot_id = _text("/proc/sys/kernel/random/boot_id")
        with contextlib.suppress(OSError):
            namespace = os.readlink("/proc/self/ns/pid")
    return {
        "host": _host(),
        "machine_id": machine_id,
        "boot_id": boot_id,
        "pid_namespace": namespace,
    }


def has_proc(pid: int) -> bool:
    """Whether `/proc` tells of processes by the numbers that the calling one, *pid*, knows.

    In a new pid namespace with the old `/proc`, its numbers are other processes.
    """
    if sys.platform == "darwin":
        return False
    try:
        return os.readlink("/proc/self") == str(pid)
    except OSError:
        return False


def _text(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read().decode("ascii").strip() or None
    except (OSError, ValueError):
        return None


def _darwin_ids() -> tuple[str | None, str | None]:
    """Machine id and boot session of a Mac."""
    import ctypes
    import uuid

    libc = ctypes.CDLL(None)
    machine = boot = None
    raw = ctypes.create_string_buffer(16)
    if libc.gethostuuid(raw, (ctypes.c_long * 2)(1, 0)) == 0:
        machine = str(uuid.UUID(bytes=raw.raw))
    text = ctypes.create_string_buffer(64)
    size = ctypes.c_size_t(64)
    if libc.sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0) == 0:
        boot = text.value.decode("ascii")
    return machine, boot


def _host() -> str:
    if hasattr(os, "uname"):
        return os.uname().nodename
    import platform  # a millisecond, where every command has only a few

    return platform.node()
