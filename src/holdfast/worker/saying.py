"""What a process or rank says of itself, in files that nobody else writes: begun, said, exit.

Owns their forms. `begun` is only said; `said` and `exit` are on the disk before anybody acts on
them, because outcomes follow from them.
"""

import os
import sys
import time

from holdfast.worker import files
from holdfast.worker.whoami import RANKS_ADVICE, restart, start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from holdfast.worker.whoami import Who

__all__ = ["OnDisk", "announce", "is_success", "of_error", "publish", "refuse_wrong", "tell"]

_LONGEST_MESSAGE = 1000


def announce(who: "Who") -> None:
    """Have it known that *who* runs, as far as that can be written."""
    path = who.file("begun")
    if path is None:
        return
    told = {
        "index": who.index,
        "rank": who.rank,
        "world_size": who.world_size,
        "pid": os.getpid(),
        "start_ticks": start_ticks(),
        "host": os.uname().nodename,
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "restart": restart(os.environ),
        "at": _now(),
    }
    try:
        files.make_folder(os.path.dirname(path))
        files.put(path, _encoded(told))
    except OSError:
        return


def publish(who: "Who", suffix: str, told: "Mapping[str, object]") -> None:
    """Have *told* on the disk, with the time.

    Raises:
        DiskError: It is not certain to be there.
    """
    path = who.file(suffix)
    if path is None:
        return
    with OnDisk(path, "saying how it ended"):
        files.make_folder(os.path.dirname(path))
        files.publish(path, _encoded({**told, "at": _now()}))


def refuse_wrong(who: "Who") -> None:
    """Have it known why *who* must not work, where it must not.

    Raises:
        WorkerError: It must not.
    """
    if who.wrong is None:
        return
    from holdfast.errors import DiskError, WorkerError

    error = WorkerError(who.wrong, RANKS_ADVICE)
    told = {"error": {"type": "WorkerError", "message": who.wrong, "rank": who.rank}}
    try:
        publish(who, "said", told)
    except DiskError as err:
        tell(str(err))
    raise error


def is_success(error: "BaseException | None") -> bool:
    """Whether a program that is left with *error* exits with 0."""
    return error is None or (isinstance(error, SystemExit) and error.code in (None, 0))


def of_error(error: BaseException, rank: int) -> "dict[str, object] | None":
    """What is said of a program that *error* ends; None if its exit code says it all."""
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return None
    try:
        message = str(error)
    except Exception:
        message = ""  # it may be anybody's class
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 1]}…"
    return {"error": {"type": type(error).__name__, "message": message, "rank": rank}}


def tell(words: str) -> None:
    """Tell whoever reads stderr, if anybody does."""
    try:
        print(f"holdfast: {words}", file=sys.stderr, flush=True)  # noqa: T201
    except (OSError, ValueError):
        return


class OnDisk:
    """Context in which a refusal of the file system is one of ours, and says what to do.

    Args:
        path: What it is about, and *operation*, what is done with it.
    """

    def __init__(self, path: str, operation: str) -> None:
        self._path = path
        self._operation = operation

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        if isinstance(error, OSError):
            from pathlib import Path

            from holdfast.errors import DiskError

            raise DiskError.of(Path(self._path), self._operation, error) from error


def _encoded(told: "Mapping[str, object]") -> bytes:
    import json

    return json.dumps(told).encode("ascii")


def _now() -> str:
    """The time in UTC, as `datetime.fromisoformat` reads it."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06}+00:00"


def _boot_id() -> "str | None":
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None


def _pid_namespace() -> "str | None":
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
