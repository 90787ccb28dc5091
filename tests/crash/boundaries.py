"""Death and errors at every operation of every workload.

A *boundary* is the n-th time that a workload makes one kind of call. At each, the call fails with
one of the errors or the process dies just before it; whatever then happens must be:

- What had been promised is there, and nothing is half there. If the call raised, and its error
  says which state is stored (`old`, `new`), it is that one.
- The error is one of holdfast's, not a bare `OSError` from somewhere inside.
- Somebody else can go on at once, without force.

Two forms. `inside` puts the fault into the store's own door to the file system (`watching.Fault`):
a few milliseconds each, so every boundary is tried in every run. `outside` lets the kernel refuse:
strace attaches to the running workload, after the interpreter has started, and injects the error or
SIGKILL into the n-th system call (`when=` counts per call). It needs no cooperation of the code at
all, and proves that the first form does not look past a call.
"""

import contextlib
import errno
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import attrs

from holdfast import liveness
from holdfast.doctor import examine
from holdfast.errors import HoldfastError, StateWriteError, UnreadableStateWarning
from waiting import PATIENCE_S

from .bench import Bench, speaker
from .checking import expectations
from .recording import STRACE
from .subject import Expected, Holdfast
from .watching import HALF, INTERRUPT, CallLog, Fault, Hook, Killed, Recorder, WatchedFiles
from .workloads import warm_up, workload

__all__ = [
    "ERRORS", "Reference", "Zygote", "boundaries_of", "inside", "left_over", "outside",
    "problems_after", "reference",
]  # fmt: skip

#: None is death.
ERRORS: tuple[int | None, ...] = (
    None, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR, errno.EROFS
)  # fmt: skip


_WORDS = {INTERRUPT: "interrupted", HALF: "full after half of it"}


@attrs.frozen
class Reference:
    """A workload that nothing disturbed.

    Attributes:
        marks: What it was promised, in order. The workload's clock does not depend on time, so
            that a disturbed run makes the same promises up to its disturbance.
        calls: The operations of `Files` that it made.
    """

    name: str
    marks: tuple[str, ...]
    calls: tuple[str, ...]

    def before_syncs(self) -> list[int]:
        """The operations just before which most is visible and least is durable."""
        return [at for at, name in enumerate(self.calls) if name in ("fsync", "fdatasync")]


def reference(name: str, where: Path) -> Reference:
    """Run the workload *name* undisturbed."""
    root = where / "reference"
    root.mkdir()
    marks: list[str] = []
    log = CallLog()
    with _quiet():
        workload(name)(Bench(root, marks.append, WatchedFiles(log)))
    shutil.rmtree(root)
    return Reference(name, tuple(marks), tuple(call.name for call in log.calls))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableStateWarning)
        yield


def _allowed(ref: Reference, promised: int) -> Expected:
    numbered = list(enumerate(ref.marks))
    return expectations(numbered, promised)


def left_over(root: Path) -> list[str]:
    """What the doctor finds there that belongs to nobody. To be asked before anybody goes on."""
    with _quiet():
        found = examine(root / ".experiment_state", margin_s=0)
    return [f"{each.path}: {each.what}" for each in found if each.kind == "leftover"]


def problems_after(
    ref: Reference, root: Path, promised: Sequence[str], error: BaseException | None, seed: str
) -> list[str]:
    """What is wrong with *root* after a disturbance, and with going on from there."""
    wrong = []
    if tuple(promised) != ref.marks[: len(promised)]:
        wrong.append("it was promised something else than the undisturbed run")
    expected = _allowed(ref, len(promised))
    store = Holdfast()
    found, more = store.look(root, expected)
    wrong += more
    for name, allowed in expected.items():
        if found[name] not in allowed:
            wrong.append(f"{name} is {found[name]}, promised was {allowed}")
    if isinstance(error, StateWriteError) and len(promised) < len(ref.marks):
        # The call under way is about one experiment: the one that the next mark would have named.
        under_way = json.loads(ref.marks[len(promised)])["id"]
        old, new = expected[under_way][0], expected[under_way][-1]
        if error.stored == "old" and old != new and found[under_way] != old:
            wrong.append(f"the error says that the old state is stored: {error}")
        if error.stored == "new" and found[under_way] != new:
            wrong.append(f"the error says that the change is stored: {error}")
    if error is not None and not isinstance(error, HoldfastError | Killed | KeyboardInterrupt):
        wrong.append(f"unclear error {type(error).__name__}: {error}")
    if not wrong:
        recorder = Recorder(root)
        wrong = store.live_on(root, found, lambda _: None, recorder, random.Random(seed))
    return wrong


def inside(
    ref: Reference,
    at: int,
    error: int | None,
    where: Path,
    *,
    sticky: bool = False,
    hooks: Sequence[Hook] = (),
) -> list[str]:
    """Disturb operation *at* of a workload in-process; return what is wrong afterwards."""
    root = where / "inside"
    root.mkdir()
    fault = Fault(at, error, sticky=sticky)
    files = WatchedFiles(*hooks, fault)
    promised: list[str] = []
    bench = Bench(root, promised.append, files, retries=True)
    raised: BaseException | None = None
    try:
        with _quiet():
            workload(ref.name)(bench)
    except (Exception, Killed, KeyboardInterrupt) as err:
        raised = err
    files.die()
    what = "killed" if error is None else _WORDS.get(error) or errno.errorcode[error]
    try:
        # What a full disk kept from being written is not left there to fill it.
        problems = left_over(root) if error == HALF else []
        problems += problems_after(ref, root, promised, raised, f"{ref.name} {at}")
    except Exception as err:  # anything that a store raises here is a finding
        problems = [f"{type(err).__name__}: {err}"]
    shutil.rmtree(root)
    return [f"{ref.name}, {what} at operation {at} {fault.struck}: {each}" for each in problems]


# -- from outside

#: Every system call is struck but these: the interpreter asks for memory as its heap happens to be,
#: a pid cannot be refused, and `writev` writes the laboratory's own marks.
_LEFT_ALONE = {
    *("brk", "exit_group", "getpid", "mmap", "mremap", "munmap", "writev"),
    "rt_sigaction",  # of no file, and nothing fails in it
}


class Zygote:
    """A process with everything imported that forks a workload in no time, stopped at its start."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.boundaries"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        self._stdin.close()
        self._process.wait(timeout=PATIENCE_S)
        self._stdout.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def run(self, name: str, root: Path, marks: Path, strace: Sequence[str]) -> int:
        """Run a workload under strace with arguments *strace*; return its wait status."""
        assert STRACE is not None
        self._stdin.write(json.dumps([name, str(root), str(marks)]) + "\n")
        self._stdin.flush()
        pid = int(self._stdout.readline())  # stopped
        tracer = subprocess.Popen(
            [STRACE, "-qq", "-p", str(pid), *strace], stderr=subprocess.DEVNULL
        )
        while b"TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_bytes():
            if tracer.poll() is not None:
                raise RuntimeError("strace could not attach")
            select.select([], [], [], 0.001)
        os.kill(pid, signal.SIGCONT)
        status = int(self._stdout.readline())
        tracer.wait(timeout=PATIENCE_S)
        return status


def _serve() -> None:
    """The zygote's loop: a line in, a stopped child's pid out, its wait status out."""
    warm_up()
    warnings.simplefilter("ignore", UnreadableStateWarning)
    for line in sys.stdin:
        name, root, marks = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 0
            try:
                say = speaker(marks)
                # Who we are is read before: without its boot id an owner cannot be proven dead, and
                # nobody may go on without force, rightly.
                liveness.me()
                os.kill(os.getpid(), signal.SIGSTOP)
                workload(name)(Bench(Path(root), say))
            except BaseException as err:
                clear = isinstance(err, HoldfastError)
                stored = getattr(err, "stored", "")
                Path(marks + ".error").write_text(json.dumps([clear, stored, repr(err)]))
                code = 1
            os._exit(code)
        os.waitpid(pid, os.WUNTRACED)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


def boundaries_of(zygote: Zygote, name: str, where: Path) -> Mapping[str, int]:
    """How often the workload makes each system call that is struck."""
    root, log = where / "counted", where / "calls"
    root.mkdir()
    zygote.run(name, root, where / "counted.marks", ["-o", str(log)])
    found = Counter(re.findall(r"^(\w+)\(", log.read_text(errors="replace"), re.MULTILINE))
    shutil.rmtree(root)
    return {call: count for call, count in found.items() if call not in _LEFT_ALONE}


def outside(
    zygote: Zygote, ref: Reference, call: str, at: int, error: int | None, where: Path
) -> tuple[bool, list[str]]:
    """Disturb the *at*-th (from 1) system call *call* of a workload by the kernel itself.

    Returns:
        Whether it was struck at all, and what is wrong afterwards.
    """
    root, marks, log = where / "outside", where / "outside.marks", where / "injected"
    root.mkdir()
    what = "signal=KILL" if error is None else f"error={errno.errorcode[error]}"
    status = zygote.run(
        ref.name, root, marks,
        ["-e", f"trace={call}", "-e", f"inject={call}:{what}:when={at}", "-o", str(log)],
    )  # fmt: skip
    text = log.read_text(errors="replace")
    struck = "(INJECTED)" in text or os.WIFSIGNALED(status)
    promised = marks.read_text().splitlines() if marks.exists() else []
    raised: BaseException | None = None
    told = Path(f"{marks}.error")
    if told.exists():
        clear, stored, words = json.loads(told.read_text())
        raised = RuntimeError(words)
        if clear:
            raised = (
                StateWriteError(root, "", words, stored=stored) if stored else HoldfastError(words)
            )
        told.unlink()
    problems = problems_after(ref, root, promised, raised, f"{ref.name} {call} {at}")
    shutil.rmtree(root)
    marks.unlink(missing_ok=True)
    return struck, [f"{ref.name}, {what} at {call} no. {at}: {each}" for each in problems]


if __name__ == "__main__":
    _serve()
