"""What git says of the code in a directory: the revision, and whether tracked files differ.

Owns running `git`, with a timeout. It changes nothing (no locks, no refreshed index), starts
nothing that a repository has set up to be started (hooks, a file system monitor), and never fails:
whatever goes wrong, the revision is only not known.
"""

import contextlib
import os
import re
import selectors
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    import subprocess

__all__ = ["Git", "look"]

#: What a hook, or `git rebase --exec`, hands to a run that it starts: another repository's.
_OF_ANOTHER: Final = frozenset(
    {
        *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"),
        *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE"),
    }
)
_QUIETLY: Final = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",  # of a partial clone, from the network
    "LC_ALL": "C",
}
_REVISION: Final = re.compile(r"[0-9a-f]{40,64}")
#: Bytes of output: a revision needs fewer, and of a dirty tree the first file is enough.
_MOST: Final = 64 << 10
_GIT: Final = ("git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


@attrs.frozen(kw_only=True)
class Git:
    """The state of a working tree.

    Attributes:
        revision: The commit that is checked out, in hex; None before the first.
        dirty: Whether tracked files differ from it; None if git took too long to tell.
    """

    revision: str | None
    dirty: bool | None


def look(
    cwd: str | os.PathLike[str], timeout_s: float = 5.0, env: Mapping[str, str] | None = None
) -> Git | None:
    """What git says of *cwd*; None where there is no repository, no git, or no answer in time.

    Args:
        cwd: Where the commands run; the state of the whole working tree around it counts.
        timeout_s: For everything together.
        env: By default our own environment.
    """
    if not _in_repository(cwd):
        return None
    until = time.monotonic() + timeout_s
    given = {
        k: v for k, v in (os.environ if env is None else env).items() if k not in _OF_ANOTHER
    } | _QUIETLY
    head = _said(("rev-parse", "--verify", "--quiet", "HEAD"), cwd, given, until)
    # 1: there is a repository, and no commit. Anything else: git does not even trust it.
    if head is None or head[0] not in (0, 1):
        return None
    revision = head[1].decode("ascii", "replace").strip() if head[0] == 0 else None
    if revision is not None and not _REVISION.fullmatch(revision):
        return None
    words = ("status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=dirty")
    status = _said(words, cwd, given, until)
    dirty = None if status is None or status[0] != 0 else bool(status[1])
    return None if revision is None and dirty is None else Git(revision=revision, dirty=dirty)


def _in_repository(cwd: str | os.PathLike[str]) -> bool:
    """Whether it is worth to start git, which takes longer than all else of a small run."""
    try:
        folder = os.path.realpath(cwd)
    except (OSError, ValueError):
        return False
    while not os.path.lexists(os.path.join(folder, ".git")):
        folder, below = os.path.dirname(folder), folder
        if folder == below:
            return False
    return True


def _said(
    words: tuple[str, ...], cwd: str | os.PathLike[str], env: Mapping[str, str], until: float
) -> tuple[int, bytes] | None:
    """Exit code and output of git; None if it could not be started or did not end in time.

    Of very much output only the beginning, as if git had ended there.
    """
    import subprocess  # only who runs something pays for it

    if time.monotonic() >= until:
        return None
    try:
        process = subprocess.Popen(
            [*_GIT, *words],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return None
    assert process.stdout is not None
    try:
        with process.stdout as stream:
            output = _read(stream.fileno(), until)
        if output is None or len(output) > _MOST:
            return None if output is None else (0, output)
        return process.wait(max(0.0, until - time.monotonic())), output
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            _end(process)


def _read(fd: int, until: float) -> bytes | None:
    """What comes from *fd* up to its end, or a bit more than `_MOST`; None if that takes longer."""
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while len(output) <= _MOST:
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            part = os.read(fd, _MOST)
            if not part:
                break
            output += part
    return output


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Stop git and all that it started."""
    import subprocess

    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    # A kernel that waits for a dead file server kills nothing.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
