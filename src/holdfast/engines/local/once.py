"""One short command run to its end, with a time limit after which nothing of it is left.

For what is no attempt: nothing of it is recorded in files, and nobody adopts it.
"""

import contextlib
import fcntl
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Final

import attrs

from holdfast.attempts.environment import OF_ONE, SESSION
from holdfast.attempts.family import Census, send_to_marked
from holdfast.encoding import to_bytes

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["End", "run"]

#: How often is asked whether it is to go on.
_ASKED_EVERY_S: Final = 0.1
_MOST_ROUNDS: Final = 20
_LAST_BYTES: Final = 4096
#: What it printed is cut down when it is more than that: a disk is soon full.
_MOST_PRINTED: Final = 16 << 20


@attrs.frozen(kw_only=True)
class End:
    """How it ended.

    Attributes:
        code: Its exit code, or minus the signal that ended it; None if it could not be started.
        cut: Why it was killed; empty if it was not.
        error: Why it could not be started.
        lasted_s: Seconds.
        words: The last line that it printed, to stderr or stdout.
    """

    code: int | None = None
    cut: str = ""
    error: str = ""
    lasted_s: float = 0.0
    words: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ran and succeeded."""
        return self.code == 0 and not self.cut


def run(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    given: bytes,
    timeout_s: float,
    going_on: Callable[[], bool],
) -> End:
    """Run *argv*, without a shell, and wait for it.

    Args:
        env: Added to our environment.
        given: What it reads on stdin.
        timeout_s: After that it is killed, with all that it has started.
        going_on: Whether to wait on; asked again and again.
    """
    import subprocess

    mark = secrets.token_hex(16)
    marks = ":".join(filter(None, (os.environ.get(SESSION), mark)))
    began = time.monotonic()
    # Files, not pipes: what it leaves in the background may keep them open for ever.
    with tempfile.TemporaryFile() as read, tempfile.TemporaryFile() as printed:
        try:
            read.write(given)
            read.seek(0)
            # So that what it writes after a cut begins where that left off.
            fcntl.fcntl(printed, fcntl.F_SETFL, fcntl.fcntl(printed, fcntl.F_GETFL) | os.O_APPEND)
            child = subprocess.Popen(
                [to_bytes(word) for word in argv],
                cwd=to_bytes(cwd),
                env=_environment({**env, SESSION: marks}),
                stdin=read,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as err:
            return End(error=_told(err, argv[0], cwd))
        cut = _wait(child, printed.fileno(), began + timeout_s, going_on)
        if cut:
            _kill(child, mark)
        return End(
            code=child.returncode,
            cut=cut and (f"{cut} of {timeout_s:g} s" if cut == _TOO_LONG else cut),
            lasted_s=time.monotonic() - began,
            words=_last_line(printed),
        )


def _environment(added: Mapping[str, str]) -> dict[bytes, bytes]:
    # It is part of no attempt, although we may be.
    others = {k: v for k, v in os.environb.items() if os.fsdecode(k) not in OF_ONE}
    return others | {to_bytes(key): to_bytes(value) for key, value in added.items()}


_TOO_LONG: Final = "reached its time limit"


def _wait(child: "Popen[bytes]", printed: int, until: float, going_on: Callable[[], bool]) -> str:
    """Why it is to be killed; empty once it has ended. What it *printed* is kept small."""
    import subprocess

    while True:
        left = until - time.monotonic()
        try:
            child.wait(max(0.0, min(left, _ASKED_EVERY_S)))
        except subprocess.TimeoutExpired:
            _cut_down(printed)
            if not going_on():
                return "was cut short"
            if left <= 0:
                return _TOO_LONG
        else:
            return ""


def _cut_down(printed: int) -> None:
    with contextlib.suppress(OSError):
        size = os.fstat(printed).st_size
        if size > _MOST_PRINTED:
            last = os.pread(printed, _LAST_BYTES, size - _LAST_BYTES)
            os.ftruncate(printed, 0)
            os.write(printed, last)


def _kill(child: "Popen[bytes]", mark: str) -> None:
    """Kill it and all that shows its mark, whatever session that made."""
    with contextlib.suppress(OSError):
        # Not reaped yet: its number is nobody else's.
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for _ in range(_MOST_ROUNDS):
        found = Census().marked(mark)
        if not found:
            return
        for each in found:
            send_to_marked(each, mark, signal.SIGKILL)


def _told(err: OSError | ValueError, program: str, cwd: str) -> str:
    if isinstance(err, FileNotFoundError):
        return f"there is no program {program}" if os.path.isdir(cwd) else f"{cwd} is gone"
    return str(getattr(err, "strerror", None) or err)


def _last_line(printed: IO[bytes]) -> str:
    with contextlib.suppress(OSError):
        end = printed.seek(0, os.SEEK_END)
        printed.seek(max(0, end - _LAST_BYTES))
        found = printed.read().decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(found) if line.strip()), "")
    return ""
