"""A command line in a directory with an experiment, and a terminal that it may run in."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import holdfast
import warm
from holdfast.store.manager import StateManager
from waiting import PATIENCE_S, until

__all__ = ["FILE", "Shell", "Terminal", "has_open"]

WORKER = """
import json, os, sys, time
index = int(os.environ["HOLDFAST_INDEX"])
print("out", index, flush=True)
with open(f"began.{index}.{os.environ['HOLDFAST_ATTEMPT']}", "w"):
    pass
if os.path.exists("bad") and index == 1:
    print("ValueError: boom \\x1b[31m", file=sys.stderr)
    sys.exit(7)
while os.path.exists("hold"):
    time.sleep(0.01)
with open(os.environ["HOLDFAST_RESULT"], "w") as file:
    json.dump({"square": index * index, "level": json.loads(os.environ["HOLDFAST_PARAMS"])}, file)
"""

FILE = """
name = "squares"
command = ["python", "work.py", "{level}"]
[matrix]
level = [1, 2, 3]
[limits]
jobs = 2
grace = "2s"
"""


#: Makes the terminal on stdin the controlling one, so that Ctrl-C reaches the program.
IN_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Shell:
    """A directory with an experiment file, and holdfast to be called there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states = path / ".experiment_state"
        (path / "work.py").write_text(WORKER)
        (path / "e.toml").write_text(FILE)
        source = str(Path(holdfast.__file__).parents[1])
        self.env = {**os.environ, "PYTHONPATH": source, "COLUMNS": "40"}
        # Whatever lies above is not of this test: the search for experiments ends at the home.
        self.env["HOME"] = str(path)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast", *args],
            cwd=self.path,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(
        self,
        *args: str,
        code: int = 0,
        env: Mapping[str, str] | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> tuple[str, str]:
        """What `holdfast *args*` wrote to stdout and stderr; it must exit with *code*."""
        whole = {**self.env, **(env or {})}
        if warm.can(whole):
            words = ["-m", "holdfast", *args]
            done = warm.run(words, cwd=self.path, env=whole, timeout_s=timeout_s)
            found, out, err = done.returncode, done.stdout, done.stderr
        else:
            process = self.start(*args, env=env)
            out, err = process.communicate(timeout=timeout_s)
            found = process.returncode
        assert found == code, f"exit {found}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return out, err

    def json(self, *args: str, code: int = 0) -> dict[str, object]:
        """The document that `holdfast *args* --json` prints."""
        document = json.loads(self(*args, "--json", code=code)[0])
        assert re.fullmatch(r"holdfast\.\w+/1", document["schema"])
        return document

    def shell(self, command: str) -> "subprocess.CompletedProcess[str]":
        """*command* in bash, with `holdfast` being this one."""
        name = f'holdfast() {{ {shlex.quote(sys.executable)} -m holdfast "$@"; }}; {command}'
        return subprocess.run(
            ["bash", "-c", name],
            cwd=self.path,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def hold(self) -> None:
        """Have every process wait until `let_go`."""
        (self.path / "hold").touch()

    def let_go(self) -> None:
        (self.path / "hold").unlink(missing_ok=True)

    def began(self, count: int) -> None:
        """Wait until *count* attempts have begun."""
        until(lambda: len(list(self.path.glob("began.*"))) >= count)

    def only_id(self) -> str:
        [found] = StateManager(self.states).list_experiments()
        return found


def has_open(pid: int, path: Path) -> bool:
    """Whether the process *pid* has the file *path* open at this moment, as Linux shows it."""
    for each in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # closed, in between
            if os.readlink(each) == str(path):
                return True
    return False


class Terminal:
    """A pseudo-terminal with a command in it."""

    def __init__(
        self,
        sh: Shell,
        *args: str,
        columns: int = 80,
        program: Sequence[str] = (sys.executable, "-m", "holdfast"),
        **env: str,
    ) -> None:
        whole = {**sh.env, "TERM": "xterm-256color", **env}
        for name in ("COLUMNS", "LINES"):
            whole.pop(name, None)
        self.fd, inside = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *program, *args],
            cwd=sh.path,
            env=whole,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            text=True,
        )
        os.close(inside)
        sh.started.append(self.process)
        self.seen = ""

    def read(self, pattern: str, timeout_s: float = PATIENCE_S) -> None:
        """Read on until *pattern* was seen, or the end of the program where it is `$`."""
        deadline = time.monotonic() + timeout_s
        while pattern == "$" or not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            if not select.select([self.fd], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # how Linux says that the other end is closed
                data = b""
            if not data:
                assert pattern == "$", self.seen
                return
            self.seen += data.decode(errors="replace")

    def exit_code(self) -> int:
        self.read("$")
        os.close(self.fd)
        return self.process.wait(PATIENCE_S)
