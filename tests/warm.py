"""Processes that need not load what they import: forks of an interpreter that has, and waits.

A fresh interpreter spends a third of a second on imports before it does what a test is about, and
more under coverage. Each process here is one of its own, with its own arguments, directory,
environment and streams, and ends as an interpreter ends. How holdfast starts is asked by the tests
that start it (`Shell.start`, and whatever they signal, kill or measure).
"""

import atexit
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["can", "run"]

#: What an interpreter and its loader read as they start, so that a fork cannot have another one.
_READ_AT_START = ("PYTHON", "COVERAGE", "LC_", "LANG", "LD_", "TZ")


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    """But for the path, which is set in the fork, too."""
    found = {key: value for key, value in env.items() if key.startswith(_READ_AT_START)}
    found.pop("PYTHONPATH", None)
    return found


class _Waiting:
    """The interpreter that waits, of the process that has started it."""

    def __init__(self) -> None:
        self.env = _at_start(os.environ)
        self.socket, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_end:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(its_end.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[its_end.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def hear(self, timeout_s: float | None = None) -> int:
        if not select.select([self.socket], [], [], timeout_s)[0]:
            raise TimeoutError
        said = self.socket.recv(64)
        if not said:
            raise RuntimeError("the interpreter that waits is gone")
        return int(said)

    def end(self) -> None:
        self.socket.close()
        self.process.wait(30)


@functools.cache
def _waiting() -> _Waiting:
    waiting = _Waiting()
    atexit.register(waiting.end)
    return waiting


def can(env: Mapping[str, str]) -> bool:
    """Whether a process with *env* may be a fork: its interpreter would have started the same."""
    return sys.platform == "linux" and _at_start(env) == _waiting().env


def run(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout_s: float = 60.0,
) -> "subprocess.CompletedProcess[str]":
    """`python *arguments*`, which begin with `-m MODULE` or `-c CODE`, with nothing on stdin.

    Raises:
        subprocess.TimeoutExpired: It was killed after *timeout_s* seconds.
    """
    waiting = _waiting()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with tempfile.TemporaryFile("w+") as request:
            json.dump([list(arguments), os.fspath(cwd), dict(env)], request)
            request.flush()
            fds = [request.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(waiting.socket, [b"."], fds)
        pid = waiting.hear(120)
        try:
            status = waiting.hear(timeout_s)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            waiting.hear()
            raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(list(arguments), os.waitstatus_to_exitcode(status), *texts)


def _import_all() -> None:
    import pkgutil
    from importlib import import_module

    import holdfast

    for found in pkgutil.walk_packages(holdfast.__path__, "holdfast."):
        # Programs of their own, in interpreters that know no packages.
        if not found.name.endswith((".__main__", ".starter")):
            import_module(found.name)
    for name in ("console", "live", "text", "table"):
        import_module(f"rich.{name}")


def _serve(ours: socket.socket) -> "tuple[list[str], str, dict[str, str]] | None":
    """Fork for every request; None at the end, and in the fork what it is to be."""
    while True:
        said, fds, _, _ = socket.recv_fds(ours, 1, 3)
        if not said:
            return None
        pid = os.fork()
        if pid == 0:
            ours.close()
            with os.fdopen(fds[0]) as file:
                file.seek(0)
                arguments, cwd, env = json.load(file)
            for target, fd in enumerate(fds[1:], 1):
                os.dup2(fd, target)
                os.close(fd)
            return arguments, cwd, env
        for fd in fds:
            os.close(fd)
        ours.send(str(pid).encode())
        ours.send(str(os.waitpid(pid, 0)[1]).encode())


def _become(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """Go on as `python *arguments*` would."""
    import runpy

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    kind, what, *rest = arguments
    sys.path[:0] = [cwd if kind == "-m" else "", *filter(None, env["PYTHONPATH"].split(os.pathsep))]
    sys.argv[:] = [what if kind == "-m" else "-c", *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _import_all()
        # Else every fork copies all of it, to look through it at its end.
        gc.freeze()
        wanted = _serve(connection)
    if wanted is not None:
        _become(*wanted)
