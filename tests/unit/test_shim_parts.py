"""What shims read of the kernel, piece by piece."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from holdfast.engines.local import descendants, system
from holdfast.engines.local.hearing import KILL, NOTHING, STOP, STOPS, WAKE, WARNINGS, Hearing
from holdfast.engines.local.starting import places
from holdfast.liveness.observer import exec_phase
from processes import hear
from waiting import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

STAT = (
    b"4711 (a) b (c) %s 1 2 3 0 -1 4194304 107 %d 0 0 0 0 0 0 20 0 %d 0 %d 0 0 18446744073709551615"
)


@pytest.mark.parametrize(
    ("state", "threads", "shown"),
    [(b"S", 1, "S"), (b"D", 1, "D"), (b"Z", 1, "Z"), (b"Z", 3, "S")],
)
def test_a_stat_line_is_read_from_its_last_parenthesis(
    state: bytes, threads: int, shown: str
) -> None:
    """Names hold spaces and parentheses; a process whose first thread has ended still runs."""
    line = STAT % (state, 0, threads, 9000 + system.OFFSET_TICKS)
    assert descendants.parse(line) == (4711, 1, 2, 3, shown, 9000, "a) b (c", False)


def test_what_has_forked_and_not_yet_executed_is_known() -> None:
    """It may be about to say that it is released."""
    line = (STAT % (b"S", 0, 1, 1)).replace(b"4194304", b"4194368")
    assert descendants.parse(line)[7]


@pytest.mark.parametrize(
    ("memory", "end", "amid"), [(b"4096", b"0", True), (b"4096", b"99", False), (b"0", b"0", False)]
)
def test_what_is_in_the_middle_of_an_exec_is_known(memory: bytes, end: bytes, amid: bool) -> None:
    """It has memory, and its environment, which may release it, is not there yet.

    A shim imports nothing of what the orchestrator knows that by: both say the same.
    """
    fields = [b"S", b"1", b"2", b"3", *[b"0"] * 16, memory, *[b"0"] * 27, end, b"0"]
    line = b"7 (sh) " + b" ".join(fields)
    assert descendants.parse(line)[7] == amid
    assert (exec_phase(line) == "amid") == amid


def test_an_odd_name_is_plain_text_in_an_outcome() -> None:
    """At most a byte or two for each of its fifteen: an outcome fits its reserve."""
    line = (STAT % (b"S", 0, 1, 1)).replace(b"a) b (c", b'\xff\n"\x1b[31m')
    assert descendants.parse(line)[6] == '??"?[31m'


@pytest.mark.parametrize("line", [b"", b"1 sh S", b"x (sh) S 1", b"1 (sh) S 1 2"])
def test_what_is_no_stat_line_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        descendants.parse(line)


@linux
def test_a_zombie_tells_whether_it_waited_for_a_child() -> None:
    """A command without children can have lost none to a sweep."""
    for code, childless in (
        ("pass", True),
        ("import os; os.wait4(os.fork() or os._exit(0), 0)", False),
    ):
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert system.waited_for_none(process.pid) is childless
        process.wait()
    assert system.waited_for_none(process.pid) is False


@linux
def test_whether_a_signal_is_caught_is_seen_from_outside() -> None:
    code = "import signal; signal.signal(10, print); print('up', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        hear(process.stdout)
        assert system.catches(process.pid, signal.SIGUSR1)
        assert not system.catches(process.pid, signal.SIGUSR2)
        assert not system.catches(process.pid, WAKE)
        process.kill()
    assert not system.catches(process.pid, signal.SIGUSR1)


@linux
def test_start_times_are_the_same_in_every_time_namespace() -> None:
    """A container whose boot offset differs would take every process for another."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import system;"
        "print(system.start_ticks(int(sys.argv[2])))"
    )
    folder = os.path.dirname(system.__file__)
    command = [sys.executable, "-I", "-S", "-c", code, folder, str(os.getpid())]
    done = subprocess.run(
        ["unshare", "-T", "--fork", "--boottime", "1000", *command], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("needs the right to make a time namespace")
    assert int(done.stdout) == system.start_ticks("self")


@pytest.mark.skipif(not os.access("/dev/kmsg", os.W_OK), reason="needs the kernel's log")
def test_what_users_write_to_the_kernels_log_proves_nothing() -> None:
    """Only the kernel's own lines count."""
    since = system.log_clock()
    with open("/dev/kmsg", "w") as log:
        log.write(f"<12>Out of memory: Killed process {os.getpid()} (pytest), a test of holdfast\n")
    assert not system.killed_for_memory([os.getpid()], since)


def test_stops_warnings_and_the_waking_signal_are_told_apart() -> None:
    assert not STOPS & WARNINGS
    assert WAKE not in STOPS | WARNINGS


@linux
def test_a_request_is_looked_for_when_woken_and_once_a_second(tmp_path: Path) -> None:
    """By file, or by the byte that the starter sets; the highest that was asked for stays."""
    folder = os.open(tmp_path, os.O_RDONLY)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {WAKE, signal.SIGTERM, signal.SIGUSR2})
    try:
        flags = bytearray(2)
        ears = Hearing(folder, "0.1", flags, 1)
        assert ears.requested() == NOTHING
        ears.look_at = math.inf  # the second is not over, however slow this is
        flags[0] = KILL
        (tmp_path / "0.1.stop").touch()
        assert ears.requested() == NOTHING
        signal.pthread_kill(threading.get_ident(), WAKE)
        assert ears.listen(time.monotonic()) is None
        assert ears.requested() == STOP
        flags[1] = KILL
        assert ears.requested() == KILL
        flags[1] = NOTHING
        assert ears.requested() == KILL
        alone = Hearing(folder, "0.1", None, None)
        assert until(alone.requested) == STOP
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with contextlib.suppress(OSError):
            os.close(folder)


@pytest.mark.parametrize(
    ("content", "grace_s"),
    [
        (b'{"reason": "user", "grace_s": 2.5}', 2.5),
        (b'{"grace_s": 0}', 0.0),
        (b'{"reason": "user"}', None),
        (b'{"grace_s": 2.5', None),
        (b'{"grace_s": -1}', None),
        (b'{"grace_s": NaN}', None),
        (b'{"grace_s": 1e999}', None),
        (b'{"grace_s": true}', None),
        (b'{"grace_s": "9"}', None),
        (b"[2.5]", None),
        (b"[" * 100_000, None),
        (b"", None),
        (b"\xff\x00", None),
    ],
)
def test_a_request_may_give_another_grace_period(
    tmp_path: Path, content: bytes, grace_s: float | None
) -> None:
    """Of whatever is in there, one number counts; that it is there is the request."""
    (tmp_path / "0.1.stop").write_bytes(content)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        ears = Hearing(folder, "0.1", None, None)
        assert ears.requested() == STOP
        assert ears.grace_s == grace_s
    finally:
        os.close(folder)


FAMILY = """
import os, signal, sys, time
sys.path += sys.argv[2:]
import descendants
os.setsid()
adopt = descendants.adoption()
family = descendants.Family(adopts=sys.argv[1] == "adopts" and adopt())
family.command = os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 600 & sh -c 'sleep 600 & kill $$'"
    "; sleep 600"], os.environ, setpgroup=0)
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    names = sorted(member[6] for member in family.living())
    if names == ["sh", "sleep", "sleep", "sleep"]: break
assert family.signal(signal.SIGKILL, set()).__len__() == 4
while family.anything_left() and time.monotonic() < deadline: pass
print(names, family.status, family.left(), family.adopts)
"""


@linux
@pytest.mark.parametrize("adopts", ["adopts", "alone"])
def test_a_family_is_found_with_and_without_the_kernels_help(adopts: str) -> None:
    """Orphans are adopted; where none can be, the session tells whose they are."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", FAMILY, adopts, *places()],
        capture_output=True,
        text=True,
    )
    expected = f"['sh', 'sleep', 'sleep', 'sleep'] 9 [] {adopts == 'adopts'}\n"
    assert done.stdout == expected, done.stderr


REHEARSE = """
import os, sys
from holdfast.engines.local import shim
completing_r, completing_w = os.pipe()
shared = shim.Shared(bytearray(1), completing_w)
adopted = []
shared.adopt = adopt = lambda: adopted.append(1)

def traces():
    return sorted(os.listdir("/proc/self/fd")), os.listdir("."), os.getcwd(), os.getsid(0)

before = traces()
shim.rehearse({"host": "h"}, shared)
assert traces() == before, (before, traces())
assert shared.adopt is adopt and not adopted
os.set_blocking(completing_r, False)
try:
    sys.exit(f"said {os.read(completing_r, 8)}")
except BlockingIOError:
    pass
"""


@linux
def test_a_rehearsal_leaves_no_trace(tmp_path: Path) -> None:
    """The starter does it before its first shim: no file, no child, nothing adopted or said."""
    subprocess.run([sys.executable, "-c", REHEARSE], cwd=tmp_path, check=True)
