"""How a shim starts the command of its attempt: its program, environment, output and group.

Like the shim, the standard library only and little of it.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from holdfast.attempts import environment
else:
    import environment
if TYPE_CHECKING:
    from typing import Any

#: What a command must not inherit: Python ignores SIGPIPE and SIGXFSZ. Made once, because a set of
#: enums costs a tenth of what a whole attempt does.
DEFAULTED = [
    int(number)
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP)
]

#: What every command finds unless somebody says otherwise. What Python prints for hours would stay
#: in a buffer of its own, unseen by `logs`, and be lost with a process that is killed.
_GIVEN = {b"PYTHONUNBUFFERED": b"1"}

#: What a command inherits, read once: `os.environb` converts every value at every look.
INHERITED = dict(os.environb)

for _name in (*environment.OF_ONE, *environment.OF_A_RANK):
    INHERITED.pop(_name.encode(), None)
for _each in [each for each in INHERITED if each.startswith(environment.SLOT.encode())]:
    del INHERITED[_each]

#: What Linux takes for one argument or variable, with its end: 32 pages, whatever their size.
_MOST_BYTES = 32 * os.sysconf("SC_PAGE_SIZE")

# Without waiting: a FIFO would wait for its reader for ever.
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MARK, _RESULT = environment.SESSION.encode(), environment.RESULT.encode()
_STOP_AT = environment.STOP_AT.encode()


def spawn(job: "dict[str, Any]", mark: str, folder: int) -> int:
    """Start the command of *job* and return its pid, which leads a process group of its own.

    Args:
        job: As the starter was sent it.
        mark: What everything that it starts can be known by.
        folder: Descriptor of the directory where its output goes.

    Raises:
        OSError: It cannot be started (now); `explain` says why.
        ValueError: Likewise, and nothing will mend it.
    """
    env = {**_GIVEN, **INHERITED, **job["env"]}
    # Run by a process of another attempt, it belongs to both.
    env[_MARK] = b":".join(filter(None, (env.get(_MARK), mark.encode("ascii"))))
    timeout_s = job["timeout_s"]
    if timeout_s is not None:
        # Time to save what it has, before it is asked to stop and then killed.
        ahead_s = min(max(0.0, job["grace_s"]), timeout_s / 2)
        # Unless the whole experiment ends before.
        stop_at = time.time() + timeout_s - ahead_s
        env[_STOP_AT] = b"%.3f" % min(stop_at, float(env.get(_STOP_AT, stop_at)))
    result = env.get(_RESULT)
    # What is there already is no result of this attempt: it would be accepted as one, or be a FIFO
    # that waits for ever, or a link to what must not be overwritten.
    if result is not None and os.path.lexists(result):
        raise ValueError(f"{os.fsdecode(result)} is there already: move it away")
    opened = []
    try:
        if job["cwd"] is not None:
            os.chdir(job["cwd"])
        if job.get("stands_in"):
            program = job["python"]
        else:
            path = env.get(b"PATH", os.defpath.encode())
            program = find_program(job["argv"][0], path, job["python"])
        # A Python that is called by a name it cannot find on PATH does not know its environment.
        argv = [program if program == job["python"] else job["argv"][0], *job["argv"][1:]]
        opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        for suffix in ("out", "err"):
            name = f"{job['name']}.{suffix}"
            opened.append(os.open(name, _APPEND, 0o666, dir_fd=folder))
            if not stat.S_ISREG(os.fstat(opened[-1]).st_mode):
                raise ValueError(f"{name} is not a regular file")
            # Shared with whatever inherits it: proof that something of this attempt still runs, for
            # those who see the file but not its processes (another container).
            with contextlib.suppress(OSError):
                fcntl.flock(opened[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.posix_spawn(
            program,
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(opened)],
            setpgroup=0,
            setsigmask=(),
            setsigdef=DEFAULTED,
        )
    finally:
        for fd in opened:
            os.close(fd)
        os.chdir("/")  # not to keep a file system busy that somebody wants to unmount


def find_program(word: bytes, path: bytes, python: bytes) -> bytes:
    """The program that a shell would run for *word*; `python` is always to be had."""
    if b"/" in word:
        return word
    refused = False
    for folder in path.split(b":"):
        candidate = os.path.join(folder or b".", word)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            refused = True
    if word == b"python":
        return python
    if refused:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), word)
    raise FileNotFoundError(errno.ENOENT, "not found on PATH", word)


def explain(err: Exception, job: "dict[str, Any]") -> str:
    """Why the command of *job* could not be started, in words of the user's."""
    word = os.fsdecode(job["argv"][0])
    cwd = job["cwd"]
    code = getattr(err, "errno", None)
    if cwd is not None and not os.path.isdir(cwd):
        return f"working directory {os.fsdecode(cwd)} does not exist"
    if code == errno.E2BIG:
        return _too_long({**INHERITED, **job["env"]}, job["argv"])
    if code == errno.ENOENT and os.path.exists(os.path.join(cwd or b"", job["argv"][0])):
        return f"{word}: the interpreter that its first line names does not exist"
    if code == errno.ENOENT:
        return f"{word}: command not found"
    if code == errno.EACCES:
        return f"{word}: not executable"
    if code == errno.ENOEXEC:
        return f"{word}: no program (a script needs a first line like #!/bin/sh)"
    return f"{word}: cannot be started: {err}"


def _too_long(env: "dict[bytes, bytes]", argv: "list[bytes]") -> str:
    """What of it is more than the system takes, and how much that is."""
    sizes = [(len(word) + 1, f"argument {at} of the command") for at, word in enumerate(argv)]
    sizes += [
        (len(name) + len(value) + 2, f"the variable {os.fsdecode(name)}")
        for name, value in env.items()
    ]
    size, largest = max(sizes)
    else_ = "; HOLDFAST_PARAMS_FILE names a file with the parameters, of any size"
    if size > _MOST_BYTES:
        return f"{largest} is too long: {size:,} bytes, the limit is {_MOST_BYTES:,}{else_}"
    total = sum(size for size, _ in sizes)
    limit = os.sysconf("SC_ARG_MAX")
    return (
        f"arguments and environment are too long together: {total:,} bytes, the limit is {limit:,} "
        f"(ulimit -s); most of it, {size:,}, is {largest}{else_}"
    )
